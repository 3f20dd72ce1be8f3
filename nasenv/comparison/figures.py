"""The pictures of a comparison: curves over the budget, runs that met the optimum, final values, agents in pairs."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nasenv.comparison.boxes import final_figure
from nasenv.comparison.curves import Against
from nasenv.comparison.digest import Digest, digested
from nasenv.comparison.drawing import DPI, looks_of, one_line
from nasenv.comparison.findings import Metric, Summary
from nasenv.comparison.lines import METRICS, Groups, Line, budgets, incumbent_lines, shown_metrics
from nasenv.comparison.matrix import improvement_figure
from nasenv.comparison.panels import Panel, focus, log, panels, shares
from nasenv.comparison.run import Run
from nasenv.plots import to_png

NOTES = {
    "anytime": "The best design so far, by reward: interquartile mean over the seeds and its 95 % bootstrap band",
    "regret": "Best reward of the space minus the best so far: interquartile mean over the seeds and its 95 % band; "
    "a line that leaves at the bottom has met the best",
    "success": "Runs that have met the best reward of the space: one minus the Kaplan-Meier estimate and its 95 % band",
    "final": "Each run's best design by reward; box: quartiles and median; diamond: interquartile mean, 95 % interval",
    "improvement": "Probability that a run of the row's agent ends above one of the column's, ties counting half; "
    "bold with a star: separated (p < 0.05 by Holm)",
}
"""What each kind of picture shows; its keys are the kinds, in the order in which they are read."""

_Lines: TypeAlias = Callable[[Metric, Against], Mapping[str, Line]]
_NORMAL_975 = 1.959964  # the normal distribution's 97.5 % quantile


def draw(summary: Summary, runs: Iterable[Run | Digest], random: str | None = None) -> dict[str, Figure]:
    """Return the figures of one problem by kind, in the order of `NOTES`, without those that would be empty.

    Args:
        summary: what ``summarise`` says of the runs.
        runs: the problem's runs, or their digests; the faulty ones are left out, here as there.
        random: the agent that is drawn in grey and dashed: random search, as a rule.
    """
    digests = digested(runs)
    looks = looks_of(list(dict.fromkeys(digest.agent for digest in digests)), random)
    groups = {agent: [d for d in digests if d.agent == agent and d.fault is None] for agent in looks}
    groups = {agent: group for agent, group in groups.items() if group}
    if not groups:
        return {}
    title = f"{one_line(summary.problem, 60)} ({_seeds(groups)})"
    lines = cache(lambda metric, against: incumbent_lines(groups, metric, against))  # two figures show some of them
    figures = {
        "anytime": panels(_anytime(groups, summary.metric, lines), looks, title, NOTES["anytime"]),
        "regret": panels(_regret(groups, summary.optimum, lines), looks, title, NOTES["regret"]),
        "success": panels(_success(groups, summary.optimum), looks, title, NOTES["success"]),
        "final": final_figure(groups, summary, looks, title, NOTES["final"]),
        "improvement": improvement_figure(summary, title, NOTES["improvement"]),
    }
    return {kind: figure for kind, figure in figures.items() if figure is not None}


def _anytime(groups: Groups, metric: Metric, lines_of: _Lines) -> list[list[Panel]]:
    """Return a row of panels for each way to count the budget, a panel for each metric."""
    return [
        [Panel(lines_of(shown, against), x_label, METRICS[shown][0], focus) for shown in shown_metrics(groups, metric)]
        for against, x_label in budgets(groups)
    ]


def _regret(groups: Groups, optimum: float | None, lines_of: _Lines) -> list[list[Panel]]:
    if optimum is None:
        return []
    row = []
    for against, x_label in budgets(groups):
        lines = {agent: _below(line, optimum) for agent, line in lines_of("reward", against).items()}
        if any((line.y > 0).any() for line in lines.values()):  # else there is nothing that a log axis could show
            row.append(Panel(lines, x_label, "regret (reward)", log))
    return [row]


def _below(line: Line, optimum: float) -> Line:
    """Return how far the line lies below the optimum, exactly nought where only rounding tells them apart."""
    gaps = (optimum - part for part in (line.y, line.high, line.low))
    return Line(line.x, *(np.where(gap < 1e-12 * max(1.0, abs(optimum)), 0.0, gap) for gap in gaps))


def _success(groups: Groups, optimum: float | None) -> list[list[Panel]]:
    if optimum is None:
        return []
    lines = {agent: _met(group, optimum) for agent, group in groups.items()}
    return [[Panel(lines, "distinct evaluations", "runs that met the best reward (%)", shares)]]


def _met(group: Sequence[Digest], optimum: float) -> Line:
    """Return the share of runs, in percent, that met the optimum, by evaluations: one minus the Kaplan-Meier estimate.

    https://doi.org/10.1080/01621459.1958.10501452. The band is Wilson's, of as many runs as were not censored before,
    so that at the end it is the interval of the success rate; there is none before the first run has met it.
    """
    first = np.array([digest.met(optimum) or 0 for digest in group])
    times = np.where(first, first, [digest.evaluations for digest in group])
    distinct = np.unique(times)
    at_risk = (times[:, None] >= distinct).sum(axis=0)
    share = 1 - np.cumprod(1 - (first[:, None] == distinct).sum(axis=0) / at_risk)
    n = len(group) - ((first == 0)[:, None] & (times[:, None] < distinct)).sum(axis=0)
    scale = 1 + _NORMAL_975**2 / n
    centre = (share + _NORMAL_975**2 / (2 * n)) / scale
    half = _NORMAL_975 * np.sqrt(share * (1 - share) / n + (_NORMAL_975 / (2 * n)) ** 2) / scale
    x = np.concatenate([[0], distinct, [max(digest.evaluations for digest in group)]])
    parts = (np.where(share > 0, np.clip(part, 0, 1), 0.0) for part in (share, centre - half, centre + half))
    return Line(x, *(100 * np.concatenate([[0.0], part, part[-1:]]) for part in parts))


def _seeds(groups: Groups) -> str:
    counts = sorted({len({run.seed for run in group}) for group in groups.values()})
    least, most = counts[0], counts[-1]
    return f"{least} to {most} seeds" if least < most else f"{most} seed{'s' * (most != 1)}"


def save(figures: Mapping[str, Figure], folder: Path, problem: str) -> dict[str, str]:
    """Write each figure as ``<problem>-<kind>.png`` and ``.svg``, and return the SVG texts by kind.

    Equal figures give equal bytes. What cannot stand in a file's name is percent-encoded.
    """
    texts = {kind: to_svg(figure) for kind, figure in figures.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for kind, figure in figures.items():
        name = f"{quote(problem, safe=' ')}-{kind}"
        (folder / f"{name}.svg").write_text(texts[kind], encoding="utf-8")
        (folder / f"{name}.png").write_bytes(to_png(figure, dpi=DPI))
    return texts


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG document; text is drawn as shapes, to look the same everywhere.

    Points on paths are cut to a hundredth of a point, which halves the file.
    """
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.hashsalt": "nasenv", "svg.fonttype": "path"}):  # savefig has no argument for them
        figure.savefig(buffer, format="svg", metadata=nothing)
    return re.sub(r'(?<= d=")[^"]+', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), buffer.getvalue())
