"""The report of a comparison: one HTML file that needs no network and no script, and reads well on paper."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Literal

from nasenv.comparison.figures import NOTES
from nasenv.comparison.findings import LEVEL, Estimate, Metric, Spread, Standing, Success, Summary
from nasenv.comparison.statistics import RESAMPLES


@dataclass(frozen=True)
class Description:
    """How a comparison was made.

    Args:
        command: the line that makes it again.
        configuration: all of it, as YAML.
        hardware: the machine, in words.
        versions: of what the figures depend on, by name.
    """

    command: str
    configuration: str
    hardware: str
    versions: Mapping[str, str] = field(default_factory=dict)


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


_Table = tuple[list[str], list[list[str]]]  # heads, rows

_NONE = "-"
_LARGER = 1.3  # than on paper: pictures on the page
_WORDS: dict[Metric, str] = {"reward": "reward", "val_accuracy": "validation %", "test_accuracy": "test %"}
_UNITS = {"reward": 1.0, "val_accuracy": 100.0, "test_accuracy": 100.0, "regret": 1.0}
_DIGITS = {"reward": ".4f", "val_accuracy": ".2f", "test_accuracy": ".2f", "regret": ".4f"}


def write_report(
    path: Path,
    title: str,
    summaries: Sequence[Summary],
    figures: Mapping[str, Mapping[str, str]],
    description: Description,
    published: Mapping[str, Published] | None = None,
) -> None:
    """Write the report; equal arguments give equal bytes.

    Args:
        path: the HTML file.
        title: its heading.
        summaries: of the problems, in the order in which they are shown.
        figures: problem -> kind -> SVG text, as `figures.save` returns it; a problem may have none.
        description: how the comparison was made.
        published: problem -> what others published on it.
    """
    published = published or {}
    parts = [f"<h1>{escape(title)}</h1>", *_overview(summaries)]
    for number, summary in enumerate(summaries, start=1):
        parts += _problem(number, summary, figures.get(summary.problem, {}), published.get(summary.problem))
    parts += [*_making(description), *_definitions()]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
    page = f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
    path.write_text(page + "</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n", encoding="utf-8")


def standings_table(summary: Summary) -> _Table:
    """Return heads and rows of the table that 80 columns have room for: the agents of one problem, the best first."""
    return _standings(summary, _brief(summary))


# Tables of plain text


@dataclass(frozen=True)
class _Column:
    """A column of the standings."""

    head: str
    text: Callable[[Standing], str]


def _standings(summary: Summary, columns: Iterable[_Column]) -> _Table:
    """Return a row for each agent; columns that would be empty are left out."""
    filled = {c.head: [c.text(standing) for standing in summary.standings] for c in columns}
    filled = {head: texts for head, texts in filled.items() if set(texts) != {_NONE}}
    return list(filled), [list(row) for row in zip(*filled.values(), strict=True)]


def _brief(summary: Summary) -> Iterator[_Column]:
    ranked, *others = _metrics(summary)
    yield _Column("agent", lambda s: s.agent)
    yield _Column("seeds", _seeds)
    yield _Column("rank", lambda s: _number(s.mean_rank, ".2f"))
    for metric in (ranked, *others[-1:]):
        yield _Column(_WORDS[metric], partial(_mean, name=metric))
    yield _Column("met best", lambda s: _NONE if s.success is None else f"{100 * s.success.rate.value:.0f} %")
    yield _Column("evaluations", lambda s: _evaluations(s.success).partition(" [")[0])


def _quality(summary: Summary) -> Iterator[_Column]:
    ranked, *others = _metrics(summary)
    yield _Column("agent", lambda s: s.agent)
    yield _Column("seeds", _seeds)
    yield _Column("mean rank", lambda s: _number(s.mean_rank, ".2f"))
    yield _Column(f"{_WORDS[ranked]}, mean ± std", lambda s: _mean(s, ranked))
    yield _Column(f"{_WORDS[ranked]}, median", lambda s: _median(s, ranked))
    yield _Column(f"{_WORDS[ranked]}, IQM [95 %]", lambda s: _interquartile(s, ranked))
    for other in others:
        yield _Column(f"{_WORDS[other]}, mean ± std", partial(_mean, name=other))
    yield _Column("regret, mean ± std", lambda s: _mean(s, "regret"))


def _effort() -> Iterator[_Column]:
    yield _Column("met the best, % [95 %]", lambda s: _rate(s.success))
    yield _Column("evaluations to the best, mean [95 %]", lambda s: _evaluations(s.success))
    yield _Column("median evaluations to the best", lambda s: _median_evaluations(s.success))
    yield _Column("evaluations a run", lambda s: _number(s.evaluations, ",.0f"))
    yield _Column("proposals a run", lambda s: _number(s.proposals, ",.0f"))
    yield _Column("charged seconds a run", lambda s: _number(s.charged_seconds or None, ",.0f"))
    yield _Column("evaluations a second", lambda s: _number(s.evaluations_per_second, ",.0f"))


def _metrics(summary: Summary) -> list[Metric]:
    """Return the metrics to be shown, the one that agents are ranked by first; a reward that is an accuracy is not."""
    order: list[Metric] = ["reward", "val_accuracy", "test_accuracy"]
    order.sort(key=lambda metric: metric != summary.metric)
    means = [(s.reward and s.reward.mean, s.val_accuracy and s.val_accuracy.mean) for s in summary.standings]
    return [metric for metric in order if metric != "reward" or any(reward != val for reward, val in means)]


def _pairs(summary: Summary) -> _Table:
    heads = ["better", "worse", "difference of means", "seeds (equal)", "probability of improvement [95 %]", "p"]
    heads += ["p by Holm", "conclusion", "seeds needed"]
    ranked = _metrics(summary)[0]
    return heads, [
        [
            *(pair.better, pair.worse, _amount(pair.difference, ranked), f"{pair.seeds} ({pair.equal})"),
            *(_estimate(pair.improvement, ".2f"), _p(pair.p_value), _p(pair.p_holm)),
            *("better" if pair.separated else "not told apart", _number(pair.seeds_needed, ",")),
        ]
        for pair in summary.pairs
    ]


def _beside(summary: Summary, published: Published) -> _Table:
    """Return what was published beside ours; where an agent is not in the comparison, there is nothing of ours."""
    ours = {standing.agent: standing for standing in summary.standings}
    rows = []
    for agent, values in published.values.items():
        for metric, (mean, std) in values.items():
            spread: Spread | None = getattr(ours[agent], metric) if agent in ours else None
            difference = _NONE if spread is None else f"{_UNITS[metric] * (spread.mean - mean):+{_DIGITS[metric]}}"
            rows.append([agent, _WORDS[metric], _plus_minus(mean, std, metric), _spread(spread, metric), difference])
    return ["agent", "metric", "published, mean ± std", "ours, mean ± std", "ours minus published"], rows


def _at_a_glance(summaries: Sequence[Summary]) -> _Table:
    """Return a row for each agent, a column for each problem: mean ± std of what agents are ranked by."""
    agents = dict.fromkeys(standing.agent for summary in summaries for standing in summary.standings)
    heads = ["agent", *(f"{summary.problem}, {_WORDS[_metrics(summary)[0]]}" for summary in summaries)]
    cells = [{s.agent: _mean(s, _metrics(summary)[0]) for s in summary.standings} for summary in summaries]
    return heads, [[agent, *(cell.get(agent, _NONE) for cell in cells)] for agent in agents]


def _faults(summary: Summary) -> _Table:
    rows = [[s.agent, str(seed), reason] for s in summary.standings for seed, reason in s.faults.items()]
    return ["agent", "seed", "what was wrong"], rows


# Figures as text


def _seeds(standing: Standing) -> str:
    faults = f" of {standing.seeds + len(standing.faults)}" if standing.faults else ""
    return f"{standing.seeds}{faults}"


def _mean(standing: Standing, name: Metric | Literal["regret"]) -> str:
    return _spread(getattr(standing, name), name)


def _spread(spread: Spread | None, name: Metric | Literal["regret"]) -> str:
    return _NONE if spread is None else _plus_minus(spread.mean, spread.std, name)


def _plus_minus(mean: float, std: float, name: Metric | Literal["regret"]) -> str:
    factor, digits = _UNITS[name], _DIGITS[name]
    deviation = f" ± {factor * std:{digits}}" if math.isfinite(std) else ""  # a single run has none
    return f"{factor * mean:{digits}}{deviation}"


def _median(standing: Standing, metric: Metric) -> str:
    spread: Spread | None = getattr(standing, metric)
    return _NONE if spread is None else f"{_UNITS[metric] * spread.median:{_DIGITS[metric]}}"


def _interquartile(standing: Standing, metric: Metric) -> str:
    spread: Spread | None = getattr(standing, metric)
    return _NONE if spread is None else _estimate(spread.iqm, _DIGITS[metric], _UNITS[metric])


def _estimate(estimate: Estimate, digits: str, factor: float = 1.0) -> str:
    value, low, high = (f"{factor * v:{digits}}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _rate(success: Success | None) -> str:
    return _NONE if success is None else _estimate(success.rate, ".0f", 100)


def _evaluations(success: Success | None) -> str:
    """Return the mean number of evaluations to the best, marked as a lower bound where runs did not meet it."""
    if success is None or success.rate.value == 0.0:
        return _NONE if success is None else f"> {success.limit:,}"
    return "≥ " * (success.rate.value < 1.0) + _estimate(success.mean_evaluations, ",.0f")


def _median_evaluations(success: Success | None) -> str:
    return _NONE if success is None else _number(success.median_evaluations, ",.0f")


def _amount(difference: float, metric: Metric) -> str:
    return f"{_UNITS[metric] * difference:{_DIGITS[metric]}}"


def _number(value: float | None, digits: str) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{value:{digits}}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


# HTML


def _problem(number: int, summary: Summary, figures: Mapping[str, str], published: Published | None) -> Iterator[str]:
    yield f'<section id="problem-{number}">\n<h2>{escape(summary.problem)}</h2>'
    yield "<h3>What may be concluded</h3>"
    yield _list(summary.verdicts)
    yield "<h3>Agents</h3>"
    best = "" if summary.optimum is None else f" The best reward of the space is {summary.optimum:.6g}."
    yield f'<p>The best on top.{best} <a href="#words">What the columns mean</a> stands at the end.</p>'
    yield _table(_standings(summary, _quality(summary)))
    yield _table(_standings(summary, (_Column("agent", lambda s: s.agent), *_effort())))
    yield from (_picture(f"problem-{number}-{kind}", kind, svg) for kind, svg in figures.items())
    if summary.pairs:
        yield "<h3>Agents in pairs</h3>"
        yield _table(_pairs(summary), "tall")
    if published is not None:
        yield f"<h3>Beside published numbers</h3>\n<p>Published: {escape(published.source)}.</p>"
        yield _table(_beside(summary, published))
    if any(standing.faults for standing in summary.standings):
        yield "<h3>Faults</h3>\n<p>These runs did not come to their end and count nowhere above.</p>"
        yield _table(_faults(summary), "tall prose")
    yield "</section>"


def _overview(summaries: Sequence[Summary]) -> Iterator[str]:
    if len(summaries) < 2:
        return
    links = (f'<a href="#problem-{n}">{escape(s.problem)}</a>' for n, s in enumerate(summaries, start=1))
    yield f"<nav>{' · '.join(links)}</nav>"
    yield "<h2>All problems</h2>"
    yield _table(_at_a_glance(summaries))


def _making(description: Description) -> Iterator[str]:
    yield "<h2>How it was made</h2>"
    yield f"<p>To make it again:</p>\n<pre>{escape(description.command)}</pre>"
    yield f"<p>Machine: {escape(description.hardware)}. The pictures are in the folder figures too, as PNG and SVG.</p>"
    if description.versions:
        yield _table((["software", "version"], [[name, version] for name, version in description.versions.items()]))
    yield f"<p>Configuration:</p>\n<pre>{escape(description.configuration)}</pre>"


def _definitions() -> Iterator[str]:
    yield '<h2 id="words">What the words mean</h2>\n<dl>'
    yield from (f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in _DEFINITIONS.items())
    yield "</dl>"


def _table(table: _Table, look: str = "") -> str:
    """Return an HTML table whose first column is the rows' heads; columns of numbers are set flush right."""
    heads, rows = table
    words = [' class="words"' * any(row[k][:1].isalpha() for row in rows) for k in range(len(heads))]
    head = "".join(f'<th scope="col"{c}>{escape(_unbroken(t))}</th>' for t, c in zip(heads, words, strict=True))
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td{c}>{escape(t)}</td>" for t, c in zip(rest, words[1:], strict=True))
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="table {look}" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _unbroken(text: str) -> str:
    return text.replace(" %", "\u00a0%").replace("± ", "±\u00a0")


def _list(texts: Iterable[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(text)}</li>" for text in texts) + "\n</ul>"


def _picture(name: str, kind: str, svg: str) -> str:
    """Return an SVG document as part of the page: larger, without prolog, with ids that no other picture has."""
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    points = re.search(r'<svg [^>]*\bwidth="([\d.]+)pt"', drawing)
    width = f"{_LARGER * float(points[1]):.0f}pt" if points else "100%"
    head = f'<figure role="img" aria-label="{escape(NOTES.get(kind, kind))}" style="width: calc({width} + 2rem)">'
    return f"{head}\n{drawing.strip()}\n</figure>"


_DEFINITIONS = {
    "seeds": "Runs of an agent that came to their end; each starts from a seed of its own, the same for all agents.",
    "best design, incumbent": "The design with the highest reward so far in a run, the earliest among equals. Its test "
    "accuracy is looked up afterwards and no agent sees it.",
    "mean ± std": "Mean and standard deviation (n - 1) over the seeds.",
    "IQM [95 %]": "Interquartile mean: the mean of the middle half of the seeds, with a percentile bootstrap interval "
    f"of {RESAMPLES:,} resamples. Agarwal et al. 2021, https://arxiv.org/abs/2108.13264",
    "regret": "The best reward of the space minus the reward of the best design of a run: simple regret.",
    "met the best": "Share of the runs that met the best reward of the space, with Wilson's interval. "
    "Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953",
    "evaluations to the best": "Distinct evaluations until then. Runs that did not meet it are censored at their end, "
    "never dropped: the mean is the area under the Kaplan-Meier curve, a lower bound (≥) where there are such runs; "
    "the median is the curve's. Kaplan and Meier 1958, https://doi.org/10.1080/01621459.1958.10501452",
    "mean rank": "Of the agents on each seed that all of them have, averaged; 1 is best, ties share.",
    "evaluations, proposals": "Distinct designs evaluated and designs proposed, repeats too, a run.",
    "charged seconds": "Training time that a run was charged with, looked up where the benchmark is a table.",
    "evaluations a second": "Distinct evaluations by wall time on the machine named above.",
    "probability of improvement": "That a run of one agent ends above a run of the other, over all pairs of runs, "
    "ties counting half; bootstrap interval. Agarwal et al. 2021, https://arxiv.org/abs/2108.13264",
    "p": "Two-sided signed-rank test of the differences on the same seeds. Wilcoxon 1945, "
    "https://doi.org/10.2307/3001968",
    "p by Holm": "The same, corrected for all pairs of the problem; two agents are told apart where it is below "
    f"{LEVEL:g} and their means agree. Holm 1979, https://www.jstor.org/stable/4615733",
    "seeds needed": "With about so many the test would tell the two apart, with a power of 80 %, if the difference "
    "seen is the true one. Noether 1987, https://doi.org/10.1080/01621459.1987.10478478",
}

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --soft: #5c6167; --line: #d5d8dc; --fill: #f4f5f7; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --soft: #a3a9b0; --line: #3b4046; --fill: #23272b; --page: #17191c; }
}
* { box-sizing: border-box; }
body { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 .5rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
h1, h2, h3, li, dd, pre { overflow-wrap: anywhere; }
p, li, dd { max-width: 46rem; }
a { color: inherit; }
.table { overflow: auto; margin: .75rem 0 1.5rem; }
.tall { max-height: 34rem; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .8rem .32rem 0; text-align: right; vertical-align: top; white-space: nowrap; }
th { font-weight: 600; }
tr > :first-child, .words { text-align: left; }
.prose td { white-space: normal; overflow-wrap: anywhere; }
thead th { vertical-align: bottom; white-space: normal; color: var(--soft); font-weight: 500;
  border-bottom: 1px solid var(--soft); position: sticky; top: 0; background: var(--page); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody th { position: sticky; left: 0; background: var(--page); }
figure { max-width: 100%; margin: 1.5rem 0; padding: 1rem; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; }
figure svg { display: block; width: 100%; height: auto; }
pre { padding: .8rem 1rem; background: var(--fill); border-radius: 6px; font-size: .82rem; white-space: pre-wrap; }
dt { font-weight: 600; margin-top: .7rem; }
dd { margin: 0; color: var(--soft); }
@media print {
  :root { --ink: #000; --soft: #333; --line: #bbb; --fill: #fff; --page: #fff; }
  body { max-width: none; padding: 0; font-size: 9pt; }
  .table, .tall { overflow: visible; max-height: none; }
  table { font-size: 6.5pt; }
  th, td { white-space: normal; }
  thead th, tbody th { position: static; }
  figure { break-inside: avoid; border: 0; padding: 0; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
}
"""
