"""How much of a batch of proposals a search can pay for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nasenv.search.budget import Budget
from nasenv.search.history import Finding, History
from nasenv.trial import Architecture


def within_evaluations(
    designs: Sequence[Architecture], new: Sequence[Architecture], budget: Budget, history: History
) -> Sequence[Architecture]:
    """Return the designs before the first for which there is no evaluation left.

    Args:
        designs: the proposals.
        new: those that the search has not seen, each once, in their order.
        budget: in evaluations; where it charges repeats, in proposals.
        history: what was spent.
    """
    left = budget.remaining(history)
    if left is not None and budget.charge_repeats:
        return designs[:left]
    if left is None or left >= len(new):
        return designs
    return designs[: designs.index(new[left])]


def within_seconds(
    designs: Sequence[Architecture],
    new: Sequence[Architecture],
    found: Sequence[Finding],
    budget: Budget,
    history: History,
) -> Sequence[Architecture] | None:
    """Return the designs up to and with the one that uses the charged seconds up.

    None where none of them does, as far as what was found of the first of the new ones goes. For the other arguments
    see `within_evaluations`.
    """
    limit, charged = budget.charged_seconds, history.charged_seconds
    if limit is None:
        return None
    uncharged, of = set(new), dict(zip(new, found, strict=False))
    for number, design in enumerate(designs, 1):
        if design in uncharged:
            if design not in of:
                return None
            charged += of[design].measurement.train_seconds
            uncharged.discard(design)
        elif budget.charge_repeats:
            seen = of[design] if design in of else history.find(design)
            charged += seen.measurement.train_seconds if seen else 0.0
        if charged >= limit:
            return designs[:number]
    return None


def before_unknown(
    designs: Sequence[Architecture], new: Sequence[Architecture], found: Sequence[Finding]
) -> Sequence[Architecture]:
    """Return the designs before the first new one of which nothing could be found out."""
    return designs if len(found) == len(new) else designs[: designs.index(new[len(found)])]


def is_another_payable(
    in_flight: Collection[Architecture], budget: Budget, history: History, designs: int | None
) -> bool:
    """Return whether there is an evaluation left beside those for the proposals in flight, and a design to be new.

    Args:
        in_flight: the proposals that are not answered.
        budget: in evaluations; where it charges repeats, in proposals.
        history: what was spent.
        designs: number of designs of the space; None where it is not known.
    """
    left, most = budget.remaining(history), len(in_flight)
    if (left is None or most < left) and (designs is None or len(history) + most < designs):
        return True  # though all of them were new
    new = len(history.unknown(in_flight))
    paid = len(in_flight) if budget.charge_repeats else new
    return (left is None or paid < left) and (designs is None or len(history) + new < designs)
