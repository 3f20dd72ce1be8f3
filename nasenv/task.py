"""A task describes what the data require of a network: kind and shape of inputs, number of outputs, loss, metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nasenv.errors import InputError, counted

Kind: TypeAlias = Literal["classification", "regression"]

COLOURS = {1: "grey", 3: "colour", 4: "RGBA"}
"""Maps the number of a picture's channels to the word for it."""


@dataclass(frozen=True)
class Inputs:
    """Describes a network's input: (n, *shape) float32; statistics for normalisation run along the first axis of shape.

    Args:
        shape: shape of one input, positive integers.

    Raises:
        InputError: another number of sizes, or one that is not positive.
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = tuple(self.shape) if isinstance(self.shape, Sequence) else ()
        if len(sizes) != len(self.axes()) or not all(isinstance(s, int | np.integer) and s >= 1 for s in sizes):
            raise InputError(f"the shape of {self.name()} is ({', '.join(self.axes())}), got {self.shape!r}")
        object.__setattr__(self, "shape", tuple(int(size) for size in sizes))

    @classmethod
    def name(cls) -> str:
        """Return the name of the kind of input, such as ``images``."""
        return cls.__name__.lower()

    @classmethod
    def axes(cls) -> tuple[str, ...]:
        """Return the names of the axes of the shape."""
        raise NotImplementedError

    def described(self, n: int) -> str:
        """Return n such inputs in words, as they are shown to people."""
        raise NotImplementedError


@dataclass(frozen=True)
class Images(Inputs):
    """Describes images as inputs: the shape is (channels, height, width).

    >>> Images((1, 28, 28)).shape
    (1, 28, 28)
    """

    @classmethod
    def axes(cls) -> tuple[str, ...]:
        """Return the names of the axes of the shape."""
        return ("channels", "height", "width")

    def described(self, n: int) -> str:
        """Return n such images in words.

        >>> Images((1, 6, 100)).described(80)
        '80 grey pictures of 6x100'
        """
        channels, height, width = self.shape
        colour = COLOURS.get(channels, f"{channels}-channel")
        return f"{counted(n, f'{colour} picture')} of {height}x{width}"


@dataclass(frozen=True)
class Table(Inputs):
    """Describes rows of numbers as inputs: the shape is (columns,)."""

    @classmethod
    def axes(cls) -> tuple[str, ...]:
        """Return the names of the axes of the shape."""
        return ("columns",)

    def described(self, n: int) -> str:
        """Return n such rows in words."""
        return f"{counted(n, 'row')} of {counted(self.shape[0], 'number')}"


_INPUTS = {kind.name(): kind for kind in (Images, Table)}


class Metric(NamedTuple):
    """Defines how a network is scored; higher is better.

    Args:
        of: function of outputs (n, k) and targets, both in the user's units, that returns the score.
        kind: kind of the tasks that it is for.
        lowest: its lowest value; None where it has none.
        highest: its highest value.
        is_share: whether it is shown in per cent.
    """

    of: Callable[[Tensor, Tensor], float]
    kind: Kind
    lowest: float | None
    highest: float
    is_share: bool


def _accuracy(outputs: Tensor, classes: Tensor) -> float:
    return int((outputs.argmax(1) == classes).sum()) / len(classes)


def _r2(outputs: Tensor, targets: Tensor) -> float:
    """Return the coefficient of determination, averaged over targets; it is 0 for a constant target."""
    residual = ((outputs - targets).double() ** 2).sum(0)
    total = ((targets - targets.mean(0)).double() ** 2).sum(0)
    return float(torch.where(total > 0, 1 - residual / total.clamp(min=1e-300), torch.zeros_like(total)).mean())


def _negative_rmse(outputs: Tensor, targets: Tensor) -> float:
    return -math.sqrt(float(((outputs - targets).double() ** 2).mean()))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy, "classification", 0.0, 1.0, True),
    "r2": Metric(_r2, "regression", None, 1.0, False),
    "neg_rmse": Metric(_negative_rmse, "regression", None, 0.0, False),
}
"""Maps the names of metrics to those that score a trained network."""


def is_share(metric: str) -> bool:
    """Return whether a metric is in [0, 1] and shown in per cent, as any accuracy is.

    >>> is_share("accuracy"), is_share("balanced_accuracy"), is_share("r2")
    (True, True, False)
    """
    return METRICS[metric].is_share if metric in METRICS else metric.endswith("accuracy")


def shown_score(score: float, metric: str) -> str:
    """Return a score as it is shown to people: a share in per cent, else to four digits."""
    return f"{100 * score:.2f} %" if is_share(metric) else f"{score:.4g}"


@dataclass(frozen=True)
class Task:
    """Describes what the data require of a network.

    Args:
        inputs: `Images` or `Table` with their shape; None where nothing is built, as on a published table of
            architectures that nasenv does not train.
        outputs: number of classes, two or more, or of targets of a regression, one or more.
        kind: classification or regression.
        metric: accuracy, r2 or neg_rmse; where nothing is trained it may have any name. Higher is better.

    Raises:
        InputError: a number of outputs or a kind that there is not.

    >>> task = Task(Images((1, 8, 8)), outputs=10)
    >>> task.kind, task.metric, task.shown(0.985)
    ('classification', 'accuracy', '98.50 %')
    """

    inputs: Inputs | None
    outputs: int
    kind: Kind = "classification"
    metric: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("classification", "regression"):
            raise InputError(f"a task's kind must be classification or regression, got {self.kind!r}")
        least = 2 if self.kind == "classification" else 1
        if not isinstance(self.outputs, int | np.integer) or self.outputs < least:
            what = "classes" if self.kind == "classification" else "targets"
            raise InputError(f"a {self.kind} needs {least} or more {what}, an integer, got {self.outputs!r}")
        object.__setattr__(self, "outputs", int(self.outputs))
        if not self.metric:
            object.__setattr__(self, "metric", "accuracy" if self.kind == "classification" else "r2")

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one input; raise InputError if the task has no inputs."""
        if self.inputs is None:
            raise InputError("this task has no inputs: its architectures are not built")
        return self.inputs.shape

    @property
    def lowest_score(self) -> float | None:
        """Return the metric's lowest value; None if it has none or the metric is unknown here."""
        return METRICS[self.metric].lowest if self.metric in METRICS else None

    def shown(self, score: float) -> str:
        """Return a score as it is shown to people, see `shown_score`."""
        return shown_score(score, self.metric)

    def check_inputs(self, kind: type[Inputs], reader: str) -> Self:
        """Return the task; raise InputError if its inputs are not of the kind that ``reader`` accepts."""
        if not isinstance(self.inputs, kind):
            came = self.inputs.name() if self.inputs is not None else "nothing"
            raise InputError(f"{reader} reads {kind.name()}, and the task's inputs are {came}; give another space")
        return self

    def check_trainable(self) -> None:
        """Raise InputError if nasenv cannot train and score networks for this task."""
        known = [name for name, metric in METRICS.items() if metric.kind == self.kind]
        if self.metric not in known:
            raise InputError(f"metric {self.metric!r}: a {self.kind} is scored by {', '.join(known)}")

    def loss(self, label_smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss function (outputs, targets) -> scalar: mean cross-entropy, or mean squared error."""
        if self.kind == "classification":
            return partial(F.cross_entropy, label_smoothing=label_smoothing)
        return F.mse_loss

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the metric of outputs (n, outputs) and targets, both in the user's units."""
        return METRICS[self.metric].of(outputs, targets)

    def to_json(self) -> dict[str, Any]:
        """Return the task as JSON values."""
        inputs = None if self.inputs is None else {"kind": self.inputs.name(), "shape": list(self.inputs.shape)}
        return {"inputs": inputs, "outputs": self.outputs, "kind": self.kind, "metric": self.metric}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the task that ``to_json`` wrote; raise ValueError, TypeError or KeyError for other values."""
        inputs = values["inputs"]
        made = None if inputs is None else _INPUTS[inputs["kind"]](tuple(inputs["shape"]))
        return cls(made, values["outputs"], values["kind"], values["metric"])


CIFAR10 = Task(Images((3, 32, 32)), outputs=10)
"""The task of NAS-Bench-201, NAS-Bench-Macro and many other benchmarks."""


@dataclass(frozen=True)
class Encoding:
    """Converts a user's inputs into a network's, and its outputs back, by statistics of the training split.

    Args:
        mean: mean of the inputs, one number for each entry of their first axis (channel, column), in the user's units.
        std: standard deviation of the inputs likewise; 1 if an entry is constant.
        class_names: names of the classes, in order; empty for a regression.
        target_mean: mean of a regression's targets, one number each, in the user's units.
        target_std: standard deviation of the targets likewise; 1 if a target is constant.

    Raises:
        InputError: numbers that are not finite, a deviation that is not positive, names that are no texts.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for means, stds in ((self.mean, self.std), (self.target_mean, self.target_std)):
            if len(means) != len(stds) or not all(
                math.isfinite(m) and 0 < s < math.inf for m, s in zip(means, stds, strict=True)
            ):
                raise InputError(f"expected finite means and as many positive deviations, got {means} and {stds}")
        if not all(isinstance(name, str) for name in self.class_names):
            raise InputError(f"expected class names that are texts, got {self.class_names}")

    def check_fits(self, task: Task) -> None:
        """Raise InputError if the encoding belongs to a task of another shape."""
        outputs = len(self.class_names) if task.kind == "classification" else len(self.target_mean)
        if (len(self.mean), outputs) != (task.shape[0], task.outputs):
            raise InputError(
                f"the encoding is of {counted(len(self.mean), 'input channel')} and {counted(outputs, 'output')}, the "
                f"task has {task.shape[0]} and {task.outputs}"
            )

    def inputs(self, raw: Tensor) -> Tensor:
        """Return inputs (n, *shape) in the user's units as networks read them: normalised, contiguous float32."""
        return _standardised(raw.float(), self.mean, self.std).contiguous()

    def targets(self, raw: Tensor) -> Tensor:
        """Return regression targets (n, targets) in the user's units normalised as networks are trained on them."""
        return _standardised(raw.float(), self.target_mean, self.target_std)

    def outputs(self, outputs: Tensor) -> Tensor:
        """Return a network's outputs in the user's units: values of a regression; logits stay as they are."""
        if not self.target_mean:
            return outputs
        mean, std = (
            torch.tensor(v, dtype=torch.float32, device=outputs.device) for v in (self.target_mean, self.target_std)
        )
        return outputs.float() * std + mean

    def predictions(self, outputs: Tensor) -> NDArray[np.float32]:
        """Return predictions from outputs: class probabilities (n, classes), or values (n, targets)."""
        found = self.outputs(outputs).float()
        predicted: NDArray[np.float32] = (found if self.target_mean else found.softmax(dim=1)).numpy()
        return predicted

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as JSON values."""
        return {name: list(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the encoding that ``to_json`` wrote; raise ValueError, TypeError or KeyError for other values."""
        return cls(**{name: tuple(values[name]) for name in cls.__dataclass_fields__})


def statistics_of(values: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation along the second axis of (n, k, ...); 1 instead of a deviation of 0."""
    others = (0, *range(2, values.ndim))
    std, mean = torch.std_mean(values.double(), dim=others, correction=0)
    return tuple(mean.tolist()), tuple(s if s > 0 else 1.0 for s in std.tolist())


def _standardised(values: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return values (n, k, ...), minus the mean and divided by the deviation of each entry of the second axis."""
    shape = (1, -1, *[1] * (values.ndim - 2))
    shift, scale = (torch.tensor(v, dtype=torch.float32, device=values.device).view(shape) for v in (mean, std))
    return (values - shift) / scale
