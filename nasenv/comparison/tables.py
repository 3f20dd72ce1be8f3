"""The tables of a comparison: heads and rows of text, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from nasenv.comparison.cells import (
    DIGITS,
    NONE,
    UNITS,
    WORDS,
    amount_text,
    estimate_text,
    evaluations_text,
    iqm_text,
    mean_text,
    median_evaluations_text,
    median_text,
    number_text,
    p_text,
    plus_minus,
    rate_text,
    seeds_text,
    spread_text,
)
from nasenv.comparison.findings import Metric, Spread, Standing, Summary

Table = tuple[list[str], list[list[str]]]
"""Heads, and rows of as many cells."""


@dataclass(frozen=True)
class Published:
    """Numbers that others published on the same problem, to set beside ours.

    Args:
        source: who, and where.
        values: agent -> metric -> (mean, standard deviation) over their runs; accuracies in [0, 1]. An agent that is
            in the comparison has its name there.
    """

    source: str
    values: Mapping[str, Mapping[Metric, tuple[float, float]]]


def standings_table(summary: Summary) -> Table:
    """Return heads and rows of the table that 80 columns have room for: the agents of one problem, the best first."""
    return _standings(summary, _brief(summary))


def quality_table(summary: Summary) -> Table:
    """Return a row for each agent, the best on top: how good its runs' best designs are."""
    return _standings(summary, _quality(summary))


def effort_table(summary: Summary) -> Table:
    """Return a row for each agent, the best on top: what it took to find the best, and what was spent."""
    return _standings(summary, _effort())


@dataclass(frozen=True)
class _Column:
    """A column of the standings."""

    head: str
    text: Callable[[Standing], str]


def _standings(summary: Summary, columns: Iterable[_Column]) -> Table:
    """Return a row for each agent; columns that would be empty are left out."""
    filled = {c.head: [c.text(standing) for standing in summary.standings] for c in columns}
    filled = {head: texts for head, texts in filled.items() if set(texts) != {NONE}}
    return list(filled), [list(row) for row in zip(*filled.values(), strict=True)]


def _brief(summary: Summary) -> Iterator[_Column]:
    ranked, *others = _metrics(summary)
    yield _Column("agent", lambda s: s.agent)
    yield _Column("seeds", seeds_text)
    yield _Column("rank", lambda s: number_text(s.mean_rank, ".2f"))
    for metric in (ranked, *others[-1:]):
        yield _Column(WORDS[metric], partial(mean_text, name=metric))
    yield _Column("met best", lambda s: NONE if s.success is None else f"{100 * s.success.rate.value:.0f} %")
    yield _Column("evaluations", lambda s: evaluations_text(s.success).partition(" [")[0])


def _quality(summary: Summary) -> Iterator[_Column]:
    ranked, *others = _metrics(summary)
    yield _Column("agent", lambda s: s.agent)
    yield _Column("seeds", seeds_text)
    yield _Column("mean rank", lambda s: number_text(s.mean_rank, ".2f"))
    yield _Column(f"{WORDS[ranked]}, mean ± std", lambda s: mean_text(s, ranked))
    yield _Column(f"{WORDS[ranked]}, median", lambda s: median_text(s, ranked))
    yield _Column(f"{WORDS[ranked]}, IQM [95 %]", lambda s: iqm_text(s, ranked))
    for other in others:
        yield _Column(f"{WORDS[other]}, mean ± std", partial(mean_text, name=other))
    yield _Column("regret, mean ± std", lambda s: mean_text(s, "regret"))


def _effort() -> Iterator[_Column]:
    yield _Column("agent", lambda s: s.agent)
    yield _Column("met the best, % [95 %]", lambda s: rate_text(s.success))
    yield _Column("evaluations to the best, mean [95 %]", lambda s: evaluations_text(s.success))
    yield _Column("median evaluations to the best", lambda s: median_evaluations_text(s.success))
    yield _Column("evaluations a run", lambda s: number_text(s.evaluations, ",.0f"))
    yield _Column("proposals a run", lambda s: number_text(s.proposals, ",.0f"))
    yield _Column("charged seconds a run", lambda s: number_text(s.charged_seconds or None, ",.0f"))
    yield _Column("evaluations a second", lambda s: number_text(s.evaluations_per_second, ",.0f"))


def _metrics(summary: Summary) -> list[Metric]:
    """Return the metrics to be shown, the one that agents are ranked by first; a reward that is an accuracy is not."""
    order: list[Metric] = ["reward", "val_accuracy", "test_accuracy"]
    order.sort(key=lambda metric: metric != summary.metric)
    means = [(s.reward and s.reward.mean, s.val_accuracy and s.val_accuracy.mean) for s in summary.standings]
    return [metric for metric in order if metric != "reward" or any(reward != val for reward, val in means)]


def pairs_table(summary: Summary) -> Table:
    """Return a row for each pair of agents, the lowest p-values first."""
    heads = ["better", "worse", "difference of means", "seeds (equal)", "probability of improvement [95 %]", "p"]
    heads += ["p by Holm", "conclusion", "seeds needed"]
    ranked = _metrics(summary)[0]
    return heads, [
        [
            *(pair.better, pair.worse, amount_text(pair.difference, ranked), f"{pair.seeds} ({pair.equal})"),
            *(estimate_text(pair.improvement, ".2f"), p_text(pair.p_value), p_text(pair.p_holm)),
            *("better" if pair.separated else "not told apart", number_text(pair.seeds_needed, ",")),
        ]
        for pair in summary.pairs
    ]


def published_table(summary: Summary, published: Published) -> Table:
    """Return what was published beside ours; where an agent is not in the comparison, there is nothing of ours."""
    ours = {standing.agent: standing for standing in summary.standings}
    rows = []
    for agent, values in published.values.items():
        for metric, (mean, std) in values.items():
            spread: Spread | None = getattr(ours[agent], metric) if agent in ours else None
            difference = NONE if spread is None else f"{UNITS[metric] * (spread.mean - mean):+{DIGITS[metric]}}"
            rows.append([agent, WORDS[metric], plus_minus(mean, std, metric), spread_text(spread, metric), difference])
    return ["agent", "metric", "published, mean ± std", "ours, mean ± std", "ours minus published"], rows


def glance_table(summaries: Sequence[Summary]) -> Table:
    """Return a row for each agent, a column for each problem: mean ± std of what agents are ranked by."""
    agents = dict.fromkeys(standing.agent for summary in summaries for standing in summary.standings)
    heads = ["agent", *(f"{summary.problem}, {WORDS[_metrics(summary)[0]]}" for summary in summaries)]
    cells = [{s.agent: mean_text(s, _metrics(summary)[0]) for s in summary.standings} for summary in summaries]
    return heads, [[agent, *(cell.get(agent, NONE) for cell in cells)] for agent in agents]


def faults_table(summary: Summary) -> Table:
    """Return a row for each run that did not come to its end."""
    rows = [[s.agent, str(seed), reason] for s in summary.standings for seed, reason in s.faults.items()]
    return ["agent", "seed", "what was wrong"], rows
