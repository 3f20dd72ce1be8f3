"""``nasenv predict``: apply the network that a search left to images: their classes, or values of a regression."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from nasenv.data.dataset import load_images
from nasenv.deployment.export import load_model
from nasenv.deployment.export import predict as predictions
from nasenv.errors import InputError, counted, printable
from nasenv.files import user_path
from nasenv.spaces.space import SearchSpace
from nasenv.task import shown_score

_TOLD = 5  # names of classes in a message


def predict(run_dir: str, images: str, output: str | None = None, space: type[SearchSpace] | None = None) -> None:
    """Predict the class of each image, or its values in a regression, with the network of a finished run.

    An image is called by its file, or by its number, from 0, where it has none. Where the source has training and test
    images, it is applied to the latter.

    Args:
        run_dir: the run's folder.
        images: npz:FILE with x, and perhaps y to be compared with; or folder:DIR, hub:NAME.
        output: CSV file for what is predicted: class and probability, or values; printed where not given.
        space: class of the model's space where it is yours and not one of nasenv's: no file can choose code to run.
    """
    folder = user_path(run_dir)
    if not (folder / "model").is_dir():
        raise InputError(f"{folder} holds no model; expected the folder of a run that has ended")
    model = load_model(folder / "model", space)
    raw, labels, files = load_images(images)
    predicted = predictions(model, _in_colour(raw, model.task.shape[0]))
    named = files or range(len(predicted))
    best, names = predicted.argmax(axis=1), np.array(model.class_names)
    if model.task.kind == "regression":
        heads = ("image", *(f"value_{i}" for i in range(1, model.task.outputs + 1)))
        found: Iterable[Sequence[Any]] = [(name, *row) for name, row in zip(named, predicted.tolist(), strict=True)]
    else:
        heads = ("image", "class", "probability")
        found = zip(named, names[best], (f"{p:.4f}" for p in predicted.max(axis=1)), strict=True)
    rows = found if output else ([printable(str(cell)) for cell in row] for row in found)
    try:
        with contextlib.nullcontext(sys.stdout) if output is None else _to_write(output) as file:
            csv.writer(file, lineterminator="\n").writerows([heads, *rows])
    except BrokenPipeError:  # whoever read the lines had enough of them
        sys.stderr.close()
        return
    except OSError as error:
        raise InputError(f"output {output} cannot be written: {error.strerror}") from error
    if labels is not None and model.task.kind == "classification":
        Console(stderr=True, markup=False, highlight=False).print(_accuracy(names, best, labels), soft_wrap=True)


def _to_write(output: str) -> TextIO:
    return user_path(output).open("w", newline="", encoding="utf-8")


def _in_colour(images: Tensor, channels: int) -> Tensor:
    """Return grey images, (n, 1, h, w), with three equal channels where the model takes colour, as in training."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 and channels == 3 else images


def _accuracy(names: NDArray[Any], best: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Return in words how many images are of the class that their label names."""
    unknown = sorted({*labels} - {*names.tolist()})
    if len(unknown) == len({*labels}):
        return f"no accuracy: the labels ({_some(unknown)}) are no classes of the model ({_some(names)})"
    share = float(np.mean(names[best] == np.asarray(labels)))
    lacking = f"; no classes of the model, so counted as wrong: {_some(unknown)}" if unknown else ""
    return f"accuracy on {counted(len(best), 'image')} with a label: {shown_score(share, 'accuracy')}{lacking}"


def _some(names: Iterable[str]) -> str:
    some = [printable(name) for name in names]
    return ", ".join(some[:_TOLD]) + (" ..." if len(some) > _TOLD else "")
