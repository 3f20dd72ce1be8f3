"""A space with too many architectures to list; a formula scores them, and no network is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from nasenv.configuration import integer, is_integer
from nasenv.errors import InputError, counted
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from nasenv.task import Task
from nasenv.trial import Architecture


class SyntheticSpace(SearchSpace):
    """Search space of chains of layers, an operation and a width each; `SyntheticEvaluator` scores them.

    ============  ===========================  ================================================
    step          decision                     choices
    ============  ===========================  ================================================
    0, 2, 4, ...  ``layer1.operation``, ...    those of ``operations``
    1, 3, 5, ...  ``layer1.width``, ...        those of ``widths``, from the narrowest
    ============  ===========================  ================================================

    Every choice is always valid, and no two architectures are equivalent. By default there are 30 decisions and
    20^15 = 3.3 x 10^19 architectures, which is what agents are tried on that must do without a list of all
    architectures. The names are those of a network, but there is none: ``build`` raises InputError.

    The text form is ``conv3x3:16|max_pool:64|...``, a part a layer.

    Args:
        layers: number of layers, half the number of decisions.
        operations: their names.
        widths: whole numbers, ascending.
        task: its outputs are the classes among which the worst architecture guesses, see `SyntheticEvaluator`; by
            default 10, without inputs, since nothing is built.

    Raises:
        InputError: no layers; operations that are not distinct words without ``|`` and ``:``; widths that are not
            positive whole numbers in ascending order.

    Example:
        >>> space = SyntheticSpace(layers=2)
        >>> space.size, space.to_text((1, 0, 3, 2))
        (400, 'conv3x3:8|max_pool:32')
    """

    def __init__(
        self,
        layers: int = 15,
        operations: Sequence[str] = ("conv1x1", "conv3x3", "conv5x5", "max_pool", "identity"),
        widths: Sequence[int] = (8, 16, 32, 64),
        task: Task | None = None,
    ) -> None:
        names = tuple(operations)
        if isinstance(operations, str) or not all(map(_is_name, names)) or len(set(names)) < max(1, len(names)):
            raise InputError(f"operations must be distinct words without | and :, got {operations!r}")
        sizes = tuple(widths)
        if not all(map(is_integer, sizes)) or not sizes or list(sizes) != sorted(set(sizes)):
            raise InputError(f"widths must be positive integers in ascending order, got {widths!r}")
        self.layers, self.operations, self.widths = integer("layers", layers), names, tuple(map(int, sizes))
        numbers = range(1, self.layers + 1)
        pairs = [(Decision(f"layer{i}.operation", names), Decision(f"layer{i}.width", sizes)) for i in numbers]
        super().__init__([decision for pair in pairs for decision in pair], task or Task(None, outputs=10))

    def build(self, architecture: Architecture) -> NoReturn:
        """Raise InputError, since the space has no networks."""
        raise InputError(
            "SyntheticSpace has no networks to train: its architectures are scored by a formula; give --evaluator "
            "SyntheticEvaluator"
        )

    def diagram(self, prefix: Sequence[int]) -> Diagram:
        """Return the layers decided so far, in order."""
        taken = [str(d.choices[c]) for d, c in zip(self.decisions, prefix, strict=False)]
        nodes = ["input", *(":".join(taken[i : i + 2]) for i in range(0, len(taken), 2))]
        nodes += ["output"] * (len(prefix) == self.num_decisions)
        return Diagram(tuple(nodes), tuple((i, i + 1, "") for i in range(len(nodes) - 1)))

    def to_text(self, architecture: Architecture) -> str:
        """Return operation and width of each layer, such as ``conv3x3:16|max_pool:64``."""
        pairs = zip(architecture[::2], architecture[1::2], strict=True)
        return "|".join(f"{self.operations[operation]}:{self.widths[width]}" for operation, width in pairs)

    def from_text(self, text: str) -> Architecture:
        """Return the architecture that ``to_text`` wrote; raise InputError for any other text."""
        parts = [part for layer in text.strip().split("|") for part in layer.partition(":")[::2]]
        known = [{str(choice): i for i, choice in enumerate(d.choices)} for d in self.decisions]
        if len(parts) != len(known) or not all(part in names for part, names in zip(parts, known, strict=True)):
            raise InputError(
                f"{text!r}: expected {counted(self.layers, 'layer')} such as {self.operations[0]}:{self.widths[0]}, "
                f"joined by |; operations {', '.join(self.operations)}; widths {', '.join(map(str, self.widths))}"
            )
        return tuple(names[part] for part, names in zip(parts, known, strict=True))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value.strip()) and not {"|", ":"} & set(value)
