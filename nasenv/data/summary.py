"""What was loaded is said in words: source, kind, number, values; classes in each split; what was left out."""

from __future__ import annotations

from collections.abc import Sequence

from nasenv.data.source import listed
from nasenv.errors import printable

_CLASSES = 4  # that are named


def loaded_text(source: str, described: str, values: tuple[float, float], notes: Sequence[str]) -> str:
    """Return a line on inputs, and one on what was left out, skipped, resized or converted if anything was.

    >>> print(loaded_text("folder:new", "2 grey pictures of 8x8", (0.0, 255.0), ["left out: 1 .txt file"]))
    folder:new: 2 grey pictures of 8x8, values 0 to 255
    left out: 1 .txt file
    """
    lines = [f"{source}: {described}, values {range_text(values)}", "; ".join(notes)]
    return "\n".join(printable(line) for line in lines if line)


def range_text(values: tuple[float, float]) -> str:
    """Return a range in words.

    >>> range_text((-0.123456, 65535.0))
    '-0.123 to 65,535'
    """
    return " to ".join(f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}" for value in values)


def classes_text(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return a line on how many samples of each class the splits for training, validation and test hold.

    >>> classes_text(["cat", "dog"], [[6, 12], [2, 4], [2, 4]])
    '18 for training, 6 for validation, 6 for test; 2 classes: cat 6+2+2, dog 12+4+4'
    """
    each = [f"{name} {'+'.join(map(str, of_class))}" for name, *of_class in zip(names, *counts, strict=True)]
    sizes = split_text([sum(of_split) for of_split in counts])
    span = f" of {min(counts[0]):,} to {max(counts[0]):,} for training" if len(names) > _CLASSES else ""
    return f"{sizes}; {len(names):,} classes{span}: {printable(listed(each, _CLASSES))}"


def split_text(sizes: Sequence[int]) -> str:
    """Return how many samples the three splits hold."""
    return ", ".join(f"{n:,} for {split}" for n, split in zip(sizes, ("training", "validation", "test"), strict=True))
