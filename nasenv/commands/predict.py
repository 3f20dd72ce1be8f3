"""``nasenv predict``: classify images with the network that a search left."""

from __future__ import annotations

import contextlib
import csv
import sys

import numpy as np
from rich.console import Console

from nasenv.datasets import load_images
from nasenv.errors import InputError, printable
from nasenv.export import load_model
from nasenv.export import predict as probabilities
from nasenv.files import user_path
from nasenv.spaces.space import SearchSpace


def predict(run_dir: str, images: str, output: str | None = None, space: type[SearchSpace] | None = None) -> None:
    """Classify images with the network of a finished run.

    Args:
        run_dir: the run's folder.
        images: npz:FILE with x, and perhaps y to be compared with; or folder:DIR, hub:NAME.
        output: CSV file for class and probability of each image; printed where not given.
        space: class of the model's space where it is yours and not one of nasenv's: no file can choose code to run.
    """
    folder = user_path(run_dir)
    if not (folder / "model").is_dir():
        raise InputError(f"{folder} holds no model; expected the folder of a run that has ended")
    model = load_model(folder / "model", space)
    raw, labels = load_images(images)
    likely = probabilities(model, raw)
    best = likely.argmax(axis=1)
    names = np.array(model.class_names)
    shown = names if output else [printable(name) for name in model.class_names]
    rows = [(i, shown[b], f"{likely[i, b]:.4f}") for i, b in enumerate(best)]
    try:
        with open(output, "w", newline="", encoding="utf-8") if output else contextlib.nullcontext(sys.stdout) as file:
            csv.writer(file, lineterminator="\n").writerows([("image", "class", "probability"), *rows])
    except BrokenPipeError:  # whoever read the lines had enough of them
        sys.stderr.close()
        return
    except OSError as error:
        raise InputError(f"output {output} cannot be written: {error.strerror}") from error
    if labels is not None:
        share = float(np.mean(names[best] == np.asarray(labels).astype(str)))
        Console(stderr=True).print(f"accuracy on the {len(best)} images that have a label: {share:.4f}")
