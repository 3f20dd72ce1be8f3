"""The tables of a comparison as text, for the report and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, Self, get_args

from nasenv.comparison.run import Quantity
from nasenv.comparison.summary import Criterion, Display, IntervalEstimate, Spread, Standing, Success, Summary
from nasenv.errors import InputError, counted

NONE = "-"
"""The text of an empty cell."""


class TextTable(NamedTuple):
    """Holds column heads, and rows of as many cells."""

    heads: list[str]
    rows: list[list[str]]

    def holds_words(self, column: int) -> bool:
        """Return whether a column's cells are words rather than numbers."""
        return any(row[column][:1].isalpha() for row in self.rows)


@dataclass(frozen=True)
class PublishedResults:
    """Holds published results on the same problem, to show beside ours.

    Args:
        source: who, and where.
        reward, val_score, test_score: agent -> (mean, standard deviation) over their runs, scores in the metric's own
            unit: accuracies in [0, 1]. An agent that is in the comparison has its name there.
    """

    source: str
    reward: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    val_score: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    test_score: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Any) -> Self:
        """Return the results in plain values: source, and quantity -> agent -> [mean, standard deviation].

        Raises:
            InputError: values of another form, or numbers that are not finite.
        """
        try:
            numbers = {
                quantity: {str(agent): (float(mean), float(std)) for agent, (mean, std) in by_agent.items()}
                for quantity, by_agent in values.items()
                if quantity != "source"
            }
            if all(math.isfinite(x) for by_agent in numbers.values() for pair in by_agent.values() for x in pair):
                return cls(str(values["source"]), **numbers)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            pass
        form = "`source` and, for reward, val_score or test_score, agent: [mean, standard deviation]"
        raise InputError(f"published: expected {form}, got {values}")


def problem_tables(summary: Summary, published: PublishedResults | None) -> dict[str, TextTable]:
    """Return the tables of a problem that have rows, by kind; ``published`` is what others found on it."""
    tables = {
        "speed": speed_table(summary),
        "best_so_far": best_so_far_table(summary),
        "final": final_table(summary),
        "cost": cost_table(summary),
        "pairs": pairs_table(summary),
        "published": published_table(summary, published) if published else TextTable([], []),
        "faults": faults_table(summary),
    }
    return {kind: table for kind, table in tables.items() if table.rows and len(table.heads) > 1}


def standings_table(summary: Summary) -> TextTable:
    """Return the table of one problem's agents, the best first, that fits 80 columns."""
    first, *others = _quantities(summary)
    known = summary.ranked_by != "area"  # else the evaluations would be bounds
    return _standings(
        summary,
        {
            "agent": lambda s: s.agent,
            "seeds": _seeds,
            "mean rank": lambda s: _number(s.mean_rank, ".2f"),
            "area under the curve": lambda s: NONE if known or s.area is None else f"{s.area.mean:.3f}",
            "evaluations to the best": lambda s: _evaluations(s.success).partition(" [")[0] if known else NONE,
            "met the best": lambda s: NONE if s.success is None else f"{100 * s.success.rate.value:.0f} %",
            **{summary.display(q).label: _mean(summary, q) for q in (first, *others[-1:])},
        },
    )


def speed_table(summary: Summary) -> TextTable:
    """Return a row for each agent, the best on top: how fast it gets to good architectures."""
    return _standings(
        summary,
        {
            "agent": lambda s: s.agent,
            "seeds": _seeds,
            "mean rank": lambda s: _number(s.mean_rank, ".2f"),
            "met the best, % [95 %]": lambda s: NONE if s.success is None else _estimate(s.success.rate, ".0f", 100),
            "evaluations to the best, mean [95 %]": lambda s: _evaluations(s.success),
            "median evaluations to the best": lambda s: _number(s.success.median_evaluations if s.success else None),
            "area under the curve, mean ± std": _mean(summary, "area"),
        },
    )


def cost_table(summary: Summary) -> TextTable:
    """Return a row for each agent, the best on top: what its runs cost."""
    return _standings(
        summary,
        {
            "agent": lambda s: s.agent,
            "evaluations a run": lambda s: _number(s.evaluations),
            "proposals a run": lambda s: _number(s.proposals),
            "charged seconds a run": lambda s: _number(s.charged_seconds or None),
            "evaluations a second": lambda s: _number(s.evaluations_per_second),
        },
    )


def best_so_far_table(summary: Summary) -> TextTable:
    """Return a row for each agent, the best on top: its best reward so far, mean ± std, after some evaluations."""
    points = dict.fromkeys(point for standing in summary.standings for point in standing.best_so_far)

    def after(point: int) -> Callable[[Standing], str]:
        return lambda s: _plus_minus(s.best_so_far.get(point), summary.display("reward"))

    label = summary.display("reward").label
    columns = {f"best {label} after {counted(point, 'evaluation')}": after(point) for point in points}
    return _standings(summary, {"agent": lambda s: s.agent, **columns})


def final_table(summary: Summary) -> TextTable:
    """Return a row for each agent, the best on top: how good its best architectures are at the end."""
    first, *others = _quantities(summary)
    shown, regret = summary.display(first), summary.display("regret")

    def of_spread(text: Callable[[Spread], str]) -> Callable[[Standing], str]:
        return lambda s: NONE if getattr(s, first) is None else text(getattr(s, first))

    return _standings(
        summary,
        {
            "agent": lambda s: s.agent,
            f"{shown.label}, mean ± std": _mean(summary, first),
            f"{shown.label}, median": of_spread(lambda x: f"{shown.factor * x.median:{shown.digits}}"),
            f"{shown.label}, IQM [95 %]": of_spread(lambda x: _estimate(x.iqm, shown.digits, shown.factor)),
            **{f"{summary.display(q).label}, mean ± std": _mean(summary, q) for q in others},
            f"{regret.label}, mean ± std": lambda s: _plus_minus(s.regret, regret),
        },
    )


def pairs_table(summary: Summary) -> TextTable:
    """Return a row for each pair of agents, the lowest p-values first."""
    heads = ["better", "worse", "mean difference", "in", "seeds (equal)", "probability of improvement [95 %]", "p"]
    heads += ["p by Holm", "conclusion", "seeds needed"]
    rows = [
        [
            *(pair.better, pair.worse, f"{shown.factor * pair.difference:{shown.digits}}", shown.label),
            *(f"{pair.seeds} ({pair.equal})", _estimate(pair.improvement, ".2f")),
            *("< 0.0001" if p < 0.0001 else f"{p:.4f}" for p in (pair.p_value, pair.p_holm)),
            *("better" if pair.separated else "not told apart", _number(pair.seeds_needed)),
        ]
        for pair, shown in ((pair, summary.display(pair.by)) for pair in summary.pairs)
    ]
    return TextTable(heads, rows)


def published_table(summary: Summary, published: PublishedResults) -> TextTable:
    """Return the published results beside ours; an agent that is not in the comparison has no value of ours."""
    theirs: dict[Quantity, Mapping[str, tuple[float, float]]] = {q: getattr(published, q) for q in get_args(Quantity)}
    ours = {standing.agent: standing for standing in summary.standings}
    rows = []
    for agent in dict.fromkeys(chain(*theirs.values())):
        for quantity in [q for q in theirs if agent in theirs[q]]:
            shown, (mean, std) = summary.display(quantity), theirs[quantity][agent]
            spread: Spread | None = getattr(ours[agent], quantity) if agent in ours else None
            difference = NONE if spread is None else f"{shown.factor * (spread.mean - mean):+{shown.digits}}"
            rows.append([agent, shown.label, _written(mean, std, shown), _plus_minus(spread, shown), difference])
    return TextTable(["agent", "metric", "published, mean ± std", "ours, mean ± std", "ours minus published"], rows)


def glance_table(summaries: Sequence[Summary]) -> TextTable:
    """Return a row for each agent and a column for each problem: the mean of what ranks the agents."""
    agents = dict.fromkeys(standing.agent for summary in summaries for standing in summary.standings)
    ranked = [(summary, _shown_criterion(summary)) for summary in summaries]
    heads = ["agent", *(f"{summary.problem}, {summary.display(criterion).label}" for summary, criterion in ranked)]
    cells = [{s.agent: _mean(summary, criterion)(s) for s in summary.standings} for summary, criterion in ranked]
    return TextTable(heads, [[agent, *(cell.get(agent, NONE) for cell in cells)] for agent in agents])


def _shown_criterion(summary: Summary) -> Criterion:
    """Return what ranks the agents, which is shown as the score where the reward is one."""
    return summary.ranked_by if summary.ranked_by in ("evaluations_to_best", "area") else _quantities(summary)[0]


def faults_table(summary: Summary) -> TextTable:
    """Return a row for each run that failed."""
    rows = [[s.agent, str(seed), reason] for s in summary.standings for seed, reason in s.faults.items()]
    return TextTable(["agent", "seed", "what was wrong"], rows)


def _standings(summary: Summary, columns: Mapping[str, Callable[[Standing], str]]) -> TextTable:
    """Return a row for each agent; columns that would be empty are left out."""
    filled = {head: [text(standing) for standing in summary.standings] for head, text in columns.items()}
    filled = {head: texts for head, texts in filled.items() if set(texts) != {NONE}}
    return TextTable(list(filled), [list(row) for row in zip(*filled.values(), strict=True)])


def _quantities(summary: Summary) -> list[Quantity]:
    """Return the quantities shown, the ranking one first; the reward is left out if it is the score."""
    order = sorted(get_args(Quantity), key=lambda quantity: quantity != summary.ranked_by)
    means = [(s.reward and s.reward.mean, s.val_score and s.val_score.mean) for s in summary.standings]
    return [quantity for quantity in order if quantity != "reward" or any(reward != val for reward, val in means)]


def _seeds(standing: Standing) -> str:
    """Return the number of runs that count, with the total if some do not."""
    return f"{standing.seeds} of {standing.seeds + len(standing.faults)}" if standing.faults else f"{standing.seeds}"


def _mean(summary: Summary, quantity: Criterion) -> Callable[[Standing], str]:
    """Return the function that writes mean ± standard deviation of an agent's runs."""
    if quantity == "evaluations_to_best":
        return lambda standing: _evaluations(standing.success)
    return lambda standing: _plus_minus(getattr(standing, quantity), summary.display(quantity))


def _plus_minus(spread: Spread | None, shown: Display) -> str:
    return NONE if spread is None else _written(spread.mean, spread.std, shown)


def _written(mean: float, std: float, shown: Display) -> str:
    """Return mean ± standard deviation as text in their unit; a deviation that is not finite is left out."""
    deviation = f" ± {shown.factor * std:{shown.digits}}" if math.isfinite(std) else ""
    return f"{shown.factor * mean:{shown.digits}}{deviation}"


def _estimate(estimate: IntervalEstimate, digits: str, factor: float = 1.0) -> str:
    value, low, high = (f"{factor * v:{digits}}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _evaluations(success: Success | None) -> str:
    """Return the mean number of evaluations to the optimum, marked as a lower bound if runs did not reach it."""
    if success is None or success.rate.value == 0.0:
        return NONE if success is None else f"> {success.limit:,}"
    return "≥ " * (success.rate.value < 1.0) + _estimate(success.mean_evaluations, ",.0f")


def _number(value: float | None, digits: str = ",.0f") -> str:
    return NONE if value is None or not math.isfinite(value) else f"{value:{digits}}"
