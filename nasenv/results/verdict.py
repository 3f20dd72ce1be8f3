"""`verdict` says in words what the final trainings show of the best architecture of a search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, variance

from nasenv.errors import counted
from nasenv.results.result import EARLY, REFERENCE, SEARCHED, Contender, Result
from nasenv.task import is_share, shown_score

_COVERAGE = 0.95


def difference(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Return (difference, low, high): that of the means of x and y, and Welch's 95 % interval of it.

    Seeds are not paired, since two networks share none of their random numbers. https://doi.org/10.1093/biomet/34.1-2.28

    Args:
        x: two or more values, one for each seed.
        y: two or more values likewise.

    >>> [round(bound, 3) for bound in difference([0.97, 0.98, 0.99], [0.94, 0.95, 0.96])]
    [0.03, 0.007, 0.053]
    """
    from scipy.special import stdtrit  # which takes a quarter of a second to import

    found = fmean(x) - fmean(y)
    errors = [variance(values) / len(values) for values in (x, y)]
    if not any(errors):
        return found, found, found
    freedom = sum(errors) ** 2 / sum(e * e / (len(v) - 1) for e, v in zip(errors, (x, y), strict=True))
    half = float(stdtrit(freedom, (1 + _COVERAGE) / 2)) * math.sqrt(sum(errors))
    return found, found - half, found + half


def verdict(result: Result) -> Iterator[str]:
    """Yield sentences: what is saved, what the best of the search is better than, and a smaller one that is as good.

    Before them stands, after a search under constraints, which networks break them.
    """
    yield from _over_the_limit(result)
    best = next((c for c in result.others if c.role == SEARCHED), result.winner)
    name = "the winner" if best is result.winner else f"the {SEARCHED}"
    if best is not result.winner:
        yield (
            f"The winner is the {REFERENCE}, not an architecture of the search: its validation {_measure(result)} is "
            "the best of all networks that were trained in full."
        )
    yield from _comparisons(result, best, name)
    yield from _smaller(result)


def _comparisons(result: Result, best: Contender, name: str) -> Iterator[str]:
    """Yield what the best of a search, called ``name``, is better than, equal to or worse than."""
    others = []
    for rival in (c for c in result.others if c.role != SEARCHED):
        if rival.architecture == best.architecture:
            gained = ", so the later ones gained nothing" if rival.role.startswith(EARLY) else ""
            yield f"{_capital(name)} is itself the {rival.name}{gained}."
        elif not _tested(rival):
            yield f"The {rival.name} could not be trained, so nothing is compared with it."
        else:
            others.append(rival)
    if not others or not _tested(best):
        return
    if min(len(_tested(c)) for c in (best, *others)) < 2:
        shown = ", ".join(f"the {c.name} {_shown(result, c)}" for c in others)
        yield (
            f"One seed cannot tell which network is better: {name} has a test {_measure(result)} of "
            f"{_shown(result, best)}, {shown}. Give --budget.final_seeds 3 or more."
        )
    else:
        clauses: dict[str, list[str]] = {}
        for rival in others:
            relation, by_how_much = _compared(result, best, rival)
            clauses.setdefault(relation, []).append(by_how_much)
        found = " and ".join(f"{relation} {' and '.join(rivals)}" for relation, rivals in clauses.items())
        yield f"By test {_measure(result)}, {name} is {found}."


def _compared(result: Result, best: Contender, other: Contender) -> tuple[str, str]:
    """Return that the best of a search is better than another network, worse or equal; and its name and by how much."""
    found, low, high = difference(_tested(best), _tested(other))
    n = min(len(_tested(best)), len(_tested(other)))
    relation = "better than" if low > 0 else "worse than" if high < 0 else f"equal, as far as {n} seeds can tell, to"
    factor, digits, unit = (1, 4, "") if not _in_points(result) else (100, 2, " points")
    shown = [f"{factor * value:+.{digits}f}" for value in (found, low, high)]
    interval = f", 95 % interval {shown[1]} to {shown[2]}" if low < high else ", the same with every seed"
    sampled = ", which stands for random sampling" if other.role.startswith(EARLY) else ""
    return relation, f"the {other.name}{sampled} ({shown[0]}{unit}{interval})"


def _over_the_limit(result: Result) -> Iterator[str]:
    """Yield how many architectures broke the constraints of a search, and which of the networks do."""
    if result.constraints:
        yield (
            f"Under {', '.join(result.constraints)}, {counted(result.looks, 'architecture')} that the search proposed "
            f"broke a constraint and {'was' if result.looks == 1 else 'were'} not trained, "
            f"beside {counted(result.evaluations, 'evaluation')}."
        )
    for contender in result.others:
        if contender.infeasible:
            yield f"The {contender.name} is over the limit ({contender.infeasible}), so it cannot win."


def _smaller(result: Result) -> Iterator[str]:
    """Yield the smallest finalist whose mean on validation data is within one standard error of the winner's, if any.

    The rule of one standard error: Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning, 7.10.
    """
    winner, values = result.winner, _validated(result.winner)
    error = math.sqrt(variance(values) / len(values)) if len(values) > 1 else 0.0
    as_good = [
        c
        for c in result.finalists
        if c.params and winner.params and c.params < winner.params and not c.infeasible
        if len(_validated(c)) == len(values) and fmean(_validated(c)) >= fmean(values) - error
    ]
    if as_good and winner.params:
        small = min(as_good, key=lambda c: c.params or 0)
        role = f" (the {REFERENCE})" if small.role == REFERENCE else ""
        yield (
            f"A smaller network is as good on validation data, within one standard error: {small.text}{role}, "
            f"{counted(small.params or 0, 'parameter')} against {winner.params:,}."
        )


def _validated(contender: Contender) -> tuple[float, ...]:
    return contender.validation_rewards or contender.validation_scores


def _tested(contender: Contender) -> tuple[float, ...]:
    return contender.test_rewards or contender.test_scores


def _measure(result: Result) -> str:
    return "reward" if result.winner.validation_rewards else result.metric.replace("_", " ")


def _in_points(result: Result) -> bool:
    return not result.winner.validation_rewards and is_share(result.metric)


def _shown(result: Result, contender: Contender) -> str:
    mean = fmean(_tested(contender))
    return f"{mean:.4f}" if result.winner.validation_rewards else shown_score(mean, result.metric)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
