"""``nasenv predict``: predict classes or values of images with the network of a finished run."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from nasenv.data.dataset import load_images
from nasenv.data.pictures import Resize
from nasenv.data.summary import range_text
from nasenv.deployment.export import LoadedModel, load_model
from nasenv.deployment.export import predict as predictions
from nasenv.errors import InputError, counted, printable
from nasenv.files import user_path
from nasenv.results.result import RESULT
from nasenv.spaces.space import SearchSpace
from nasenv.task import shown_score

_MAX_NAMES = 5  # of classes in a message


def predict(
    run_dir: str,
    images: str,
    output: str | None = None,
    space: type[SearchSpace] | Callable[..., Any] | None = None,
    resize: Resize | None = None,
    skip_unreadable: bool = False,
) -> None:
    """Predict the class of each image, or its values in a regression, with the network of a finished run.

    An image is named by its file, or by its number, from 0, if it has none. If the source has training and test images,
    the test images are predicted. Pictures get the size and the colours of those that the network was trained on.

    Args:
        run_dir: folder of a finished run.
        images: a picture's file, folder:DIR, npz:FILE with x, and optionally y, the labels; or another source of data.
        output: CSV file for the predictions: class and probability, or values; by default they are printed.
        space: class or function of the model's space, if it is your own and not one of nasenv's: no file can choose
            code to run.
        resize: crop, pad or stretch, for pictures of another size, as of the data; by default as in training.
        skip_unreadable: whether pictures that cannot be read are left out; by default they are refused.
    """
    folder = user_path(run_dir)
    if not (folder / "model").is_dir():
        raise InputError(f"{folder} holds no model; expected the folder of a finished run")
    model = load_model(folder / "model", space)
    how = replace(model.preprocessing, resize=resize or model.resize, skip_unreadable=skip_unreadable)
    raw, labels, files, summary = load_images(images, how)
    predicted = predictions(model, raw)
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    console.print("\n".join((summary, _trained_on(model), *_changed(model, raw))), soft_wrap=True)
    if images == model.source and len(raw) > model.test_samples:
        result = f"; its test {model.task.metric} is in {folder / RESULT}"
        console.print(f"these include what the network was trained on{result}", soft_wrap=True)
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
        with contextlib.nullcontext(sys.stdout) if output is None else _open_csv(output) as file:
            csv.writer(file, lineterminator="\n").writerows([heads, *rows])
    except BrokenPipeError:  # the reader has closed the pipe
        sys.stderr.close()
        return
    except OSError as error:
        raise InputError(f"output {output} cannot be written: {error.strerror}") from error
    if output:
        console.print(f"{counted(len(predicted), 'prediction')} written to {output}", soft_wrap=True)
    if labels is not None and model.task.kind == "classification":
        console.print(_accuracy(names, best, labels), soft_wrap=True)


def _open_csv(output: str) -> TextIO:
    return user_path(output).open("w", newline="", encoding="utf-8", errors="surrogateescape")


def _trained_on(model: LoadedModel) -> str:
    """Return in words what the network was trained on, which new inputs should be like."""
    inputs = model.task.inputs.described(2).removeprefix("2 ") if model.task.inputs else "inputs"
    values = f", values {range_text(model.values)}" if model.values else ""
    return f"the network was trained on {inputs}{values}"


def _changed(model: LoadedModel, raw: Tensor) -> Iterator[str]:
    """Yield in words which channels are constant in training, and not what they were there in new images."""
    for number, (values, mean, std) in enumerate(
        zip(raw.transpose(0, 1), model.encoding.mean, model.encoding.std, strict=False), start=1
    ):
        if std == 1.0 and (values != mean).any():  # as the encoding has it of a constant
            was = range_text((mean, mean)).partition(" to ")[0]
            yield f"channel {number} was always {was} in training, and is not here: the predictions may be wrong"


def _accuracy(names: NDArray[Any], best: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Return a text on the share of images whose predicted class is their label."""
    unknown = sorted({*labels} - {*names.tolist()})
    if len(unknown) == len({*labels}):
        return f"no accuracy: the labels ({_first_names(unknown)}) are no classes of the model ({_first_names(names)})"
    share = float(np.mean(names[best] == np.asarray(labels)))
    lacking = f"; no classes of the model, so counted as wrong: {_first_names(unknown)}" if unknown else ""
    return f"accuracy on {counted(len(best), 'image')} with a label: {shown_score(share, 'accuracy')}{lacking}"


def _first_names(names: Iterable[str]) -> str:
    some = [printable(name) for name in names]
    return ", ".join(some[:_MAX_NAMES]) + (" ..." if len(some) > _MAX_NAMES else "")
