"""The pictures of a comparison: curves over the budget, runs that met the optimum, final values, agents in pairs.

One agent has one colour and dash in all of them, from Okabe and Ito's palette, which colour-blind readers can tell
apart (https://jfly.uni-koeln.de/color); random search is grey and dashed. As in `nasenv.plots`, no pyplot.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from nasenv.comparison.curves import Against, Curve, curve
from nasenv.comparison.digest import Digest, digested, final_known
from nasenv.comparison.findings import Metric, Summary
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

_Looks: TypeAlias = Mapping[str, Mapping[str, Any]]  # of a line, by agent
_Groups: TypeAlias = Mapping[str, Sequence[Digest]]  # the sound runs, by agent

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES: tuple[Any, ...] = ("solid", (0, (6, 1.5, 1, 1.5)), (0, (1, 1)), (0, (8, 2)))
_GREY, _INK, _PALE = "#767676", "#222222", "#e4e4e4"
_FONT, _SMALL = 8.5, 7.5  # points
_DPI = 200  # the layout is made for it: text is not equally wide at all
_LABEL_LINE = 10.5  # points from one label at the lines' ends to the next
_NORMAL_975 = 1.959964  # the normal distribution's 97.5 % quantile
_MOST_POINTS = 150  # of a line: a panel is some 170 points wide
_MOST_DOTS = 3000  # of a panel drawn as shapes; more are drawn as pixels
_METRICS: dict[Metric, tuple[str, float]] = {  # words and the factor to their unit
    "reward": ("reward", 1.0),
    "val_accuracy": ("validation accuracy (%)", 100.0),
    "test_accuracy": ("test accuracy (%)", 100.0),
}


@dataclass(frozen=True)
class _Line:
    """Steps of y, (n,), each from its x, (n,), on, in a band from low to high."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def after(self, share: float) -> int:
        """Return the index of the first known point from this share, 0 to 1, of the known way on."""
        known = np.flatnonzero(np.isfinite(self.y))
        start, end = self.x[known[[0, -1]]]
        point = min(end, start + share * (end - start))  # rounding may lead beyond the end
        return int(known[np.searchsorted(self.x[known], point)])


@dataclass(frozen=True)
class _Panel:
    """One pair of axes: a line an agent, with words for the axes and what sets the limits of y."""

    lines: Mapping[str, _Line]
    x_label: str
    y_label: str
    limit: Callable[[Axes, Mapping[str, _Line]], None]


def draw(summary: Summary, runs: Iterable[Run | Digest], random: str | None = None) -> dict[str, Figure]:
    """Return the figures of one problem by kind, in the order of `NOTES`, without those that would be empty.

    Args:
        summary: what ``summarise`` says of the runs.
        runs: the problem's runs, or their digests; the faulty ones are left out, here as there.
        random: the agent that is drawn in grey and dashed: random search, as a rule.
    """
    digests = digested(runs)
    looks = _looks(list(dict.fromkeys(digest.agent for digest in digests)), random)
    groups = {agent: [d for d in digests if d.agent == agent and d.fault is None] for agent in looks}
    groups = {agent: group for agent, group in groups.items() if group}
    if not groups:
        return {}
    title = f"{_one_line(summary.problem, 60)} ({_seeds(groups)})"
    figures = {
        "anytime": _panels(_anytime(groups, summary.metric), looks, title, NOTES["anytime"]),
        "regret": _panels(_regret(groups, summary.optimum), looks, title, NOTES["regret"]),
        "success": _panels(_success(groups, summary.optimum), looks, title, NOTES["success"]),
        "final": _final(groups, summary, looks, title),
        "improvement": _improvement(summary, title),
    }
    return {kind: figure for kind, figure in figures.items() if figure is not None}


def save(figures: Mapping[str, Figure], folder: Path, problem: str) -> dict[str, str]:
    """Write each figure as ``<problem>-<kind>.png`` and ``.svg``, and return the SVG texts by kind.

    Equal figures give equal bytes. What cannot stand in a file's name is percent-encoded.
    """
    texts = {kind: to_svg(figure) for kind, figure in figures.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for kind, figure in figures.items():
        name = f"{quote(problem, safe=' ')}-{kind}"
        (folder / f"{name}.svg").write_text(texts[kind], encoding="utf-8")
        (folder / f"{name}.png").write_bytes(to_png(figure, dpi=_DPI))
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


# What the panels hold


def _anytime(groups: _Groups, metric: Metric) -> list[list[_Panel]]:
    """Return a row of panels for each way to count the budget, a panel for each metric."""
    return [
        [
            _Panel(_lines(groups, shown, against), x_label, _METRICS[shown][0], _focus)
            for shown in _shown(groups, metric)
        ]
        for against, x_label in _budgets(groups)
    ]


def _regret(groups: _Groups, optimum: float | None) -> list[list[_Panel]]:
    if optimum is None:
        return []
    row = []
    for against, x_label in _budgets(groups):
        lines = {agent: _below(line, optimum) for agent, line in _lines(groups, "reward", against).items()}
        if any((line.y > 0).any() for line in lines.values()):  # else there is nothing that a log axis could show
            row.append(_Panel(lines, x_label, "regret (reward)", _log))
    return [row]


def _below(line: _Line, optimum: float) -> _Line:
    """Return how far the line lies below the optimum, exactly nought where only rounding tells them apart."""
    gaps = (optimum - part for part in (line.y, line.high, line.low))
    return _Line(line.x, *(np.where(gap < 1e-12 * max(1.0, abs(optimum)), 0.0, gap) for gap in gaps))


def _success(groups: _Groups, optimum: float | None) -> list[list[_Panel]]:
    if optimum is None:
        return []
    lines = {agent: _met(group, optimum) for agent, group in groups.items()}
    return [[_Panel(lines, "distinct evaluations", "runs that met the best reward (%)", _shares)]]


def _met(group: Sequence[Digest], optimum: float) -> _Line:
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
    return _Line(x, *(100 * np.concatenate([[0.0], part, part[-1:]]) for part in parts))


def _lines(groups: _Groups, metric: Metric, against: Against) -> dict[str, _Line]:
    """Return the interquartile mean of each agent whose incumbents are known over most of its budget."""
    lines = {agent: _line(curve(group, metric, against), _METRICS[metric][1]) for agent, group in groups.items()}
    return {agent: line for agent, line in lines.items() if np.isfinite(line.y).mean() > 0.5}


def _line(values: Curve, factor: float) -> _Line:
    keep = np.unique(np.linspace(0, len(values.grid) - 1, _MOST_POINTS).round().astype(int))
    return _Line(values.grid[keep], *(factor * part[keep] for part in (values.iqm, values.low, values.high)))


def _budgets(groups: _Groups) -> list[tuple[Against, str]]:
    seconds = any(digest.charged_seconds > 0 for group in groups.values() for digest in group)
    budgets: list[tuple[Against, str]] = [("evaluations", "distinct evaluations"), ("seconds", "charged seconds")]
    return budgets[: 1 + seconds]


def _shown(groups: _Groups, metric: Metric) -> list[Metric]:
    """Return the metrics to be drawn: both accuracies, and before them the reward where agents are ranked by it.

    A reward that is the validation accuracy has no panel of its own.
    """
    digests = [digest for group in groups.values() for digest in group]
    same = all(
        np.array_equal(d.reward, d.values("val_accuracy", final_known(digests)), equal_nan=True) for d in digests
    )
    shown: list[Metric] = ["val_accuracy", "test_accuracy"]
    return shown if same or metric != "reward" else ["reward", *shown]


def _finals(groups: _Groups, metric: Metric) -> dict[str, NDArray[np.float64]]:
    """Return the metric of the runs' last incumbents by agent, (n,), those that are known."""
    final = final_known([digest for group in groups.values() for digest in group], slice(-1, None))
    values = {agent: np.array([d.values(metric, final)[-1] for d in group]) for agent, group in groups.items()}
    return {agent: _METRICS[metric][1] * row[np.isfinite(row)] for agent, row in values.items()}


# How they are drawn


def _panels(rows: Sequence[Sequence[_Panel]], looks: _Looks, title: str, note: str) -> Figure | None:
    """Return a figure of rows of panels, the agents' names at the ends of their lines; None without any panel."""
    rows = [kept for row in rows if (kept := [panel for panel in row if panel.lines])]
    if not rows:
        return None
    columns = max(len(row) for row in rows)
    height = max(2.3, _LABEL_LINE * len(looks) / 72)
    figure = _figure((1.2 + 3.3 * columns, 0.7 + (height + 0.45) * len(rows)), title, note)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            axes = figure.add_subplot(len(rows), columns, i * columns + j + 1)
            _dress(axes, panel.x_label, panel.y_label)
            for agent, line in panel.lines.items():
                colour = looks[agent]["color"]
                axes.fill_between(line.x, line.low, line.high, step="post", color=colour, alpha=0.13, lw=0)
                axes.plot(line.x, line.y, drawstyle="steps-post", **looks[agent])
            axes.set_xlim(0, max(line.x[-1] for line in panel.lines.values()))
            panel.limit(axes, panel.lines)
            _name_ends(axes, panel.lines, looks, height * 72)
    return _settled(figure)


def _name_ends(axes: Axes, lines: Mapping[str, _Line], looks: _Looks, points: float) -> None:
    """Write each agent's name to the right of the axes, level with its line's end as far as room allows."""
    agents = list(lines)
    last = {agent: lines[agent].y[lines[agent].after(1.0)] for agent in agents}
    bottom, top = axes.get_ylim()
    ends = axes.transAxes.inverted().transform(
        axes.transData.transform([(0, np.clip(last[agent], bottom, top)) for agent in agents])
    )[:, 1]
    order = np.lexsort((np.array([np.nanmean(line.y) for line in lines.values()]), ends))  # of equals, the quick on top
    gap = _LABEL_LINE / points
    steps = gap * np.arange(len(agents))
    spread = isotonic_regression(ends[order] - steps).x
    places = np.clip(spread, 0, max(0, 1 - steps[-1])) + steps
    for k, place in zip(order, places, strict=True):
        look = looks[agents[k]]
        away = " ↓" if last[agents[k]] < bottom else ""
        if not away:
            end = lines[agents[k]].x[lines[agents[k]].after(1.0)]
            axes.plot(end, last[agents[k]], "o", ms=2.5, color=look["color"], clip_on=False)
        axes.plot([1.0, 1.06], [ends[k], place], transform=axes.transAxes, clip_on=False, color=look["color"], lw=0.6)
        axes.plot([1.06, 1.15], [place] * 2, transform=axes.transAxes, clip_on=False, **look)
        name = _one_line(agents[k], 24) + away
        axes.text(1.17, place, name, transform=axes.transAxes, va="center", size=_SMALL, color=_INK, parse_math=False)


def _focus(axes: Axes, lines: Mapping[str, _Line]) -> None:
    """Show the lines after a tenth of the budget, without agents that end below where the median agent begins."""
    begin = np.median([line.y[line.after(0.0)] for line in lines.values()])
    shown = [line for line in lines.values() if line.y[line.after(1.0)] >= begin] or list(lines.values())
    low = min(min(float(line.low[line.after(1.0)]), float(line.y[line.after(0.1)])) for line in shown)
    _set_limits(axes.set_ylim, low, max(float(np.nanmax(line.high)) for line in shown))


def _set_limits(setter: Callable[[float, float], Any], low: float, high: float) -> None:
    """Set limits with a margin, and about a single value where there is no more."""
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    setter(low - margin, high + margin)


def _log(axes: Axes, lines: Mapping[str, _Line]) -> None:
    """Make y logarithmic, from half the smallest regret above nought to above the largest."""
    positive = np.concatenate([line.y[line.y > 0] for line in lines.values()])
    axes.set_ylim(positive.min() / 2, 1.5 * positive.max())
    axes.set_yscale("log", nonpositive="clip")


def _shares(axes: Axes, lines: Mapping[str, _Line]) -> None:
    axes.set_ylim(-2, 102)


def _final(groups: _Groups, summary: Summary, looks: _Looks, title: str) -> Figure | None:
    """Return rows of agents, the best on top, with a panel for each metric."""
    standings = [standing for standing in summary.standings if standing.agent in groups]
    values = {metric: _finals(groups, metric) for metric in _shown(groups, summary.metric)}
    values = {metric: rows for metric, rows in values.items() if any(map(len, rows.values()))}
    if not values:
        return None
    figure = _figure((1.2 + 2.9 * len(values), 1.0 + 0.27 * max(2, len(standings))), title, NOTES["final"])
    for column, (metric, rows) in enumerate(values.items()):
        axes = figure.add_subplot(1, len(values), column + 1)
        words, factor = _METRICS[metric]
        _dress(axes, words, "")
        axes.grid(visible=False, axis="y")
        low = min(_whisker(row) for row in rows.values() if len(row))
        _set_limits(axes.set_xlim, low, max(float(row.max()) for row in rows.values() if len(row)))
        names = []
        for y, standing in enumerate(standings):
            row, spread = rows[standing.agent], getattr(standing, metric)
            _draw_values(axes, y, row, looks[standing.agent]["color"], pixels=sum(map(len, rows.values())) > _MOST_DOTS)
            if spread is not None:
                _draw_interval(axes, y, *(factor * v for v in (spread.iqm.value, spread.iqm.low, spread.iqm.high)))
            hidden = int((row < low).sum())
            names.append(_one_line(standing.agent, 24) * (not column) + f" ({hidden} below)" * (hidden > 0))
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
    return _settled(figure)


def _draw_values(axes: Axes, y: float, values: NDArray[np.float64], colour: str, pixels: bool) -> None:
    """Draw a run as a dot, scattered about the height y, over a box of the quartiles and the median."""
    if not len(values):
        return
    heights = y + np.random.default_rng(0).uniform(-0.24, 0.24, len(values))
    quarter, half, three = np.quantile(values, [0.25, 0.5, 0.75])
    axes.add_patch(Rectangle((quarter, y - 0.32), three - quarter, 0.64, fc=colour, ec=colour, alpha=0.25, lw=0.8))
    axes.plot([half, half], [y - 0.32, y + 0.32], color=colour, lw=1.6, solid_capstyle="butt")
    alpha = float(np.clip(20 / len(values), 0.15, 0.7))
    axes.scatter(values, heights, s=5, color=colour, alpha=alpha, lw=0, rasterized=pixels)


def _draw_interval(axes: Axes, y: float, value: float, low: float, high: float) -> None:
    axes.plot([low, high], [y, y], color=_INK, lw=1.4, zorder=4)
    axes.plot([value], [y], marker="D", ms=4, mfc=_INK, mec="white", mew=0.6, zorder=5)


def _whisker(values: NDArray[np.float64]) -> float:
    """Return the lowest value that is shown: none further below the box than six times its width."""
    quarter, three = np.quantile(values, [0.25, 0.75])
    return float(values[values >= quarter - 6 * (three - quarter)].min())


def _improvement(summary: Summary, title: str) -> Figure | None:
    """Return a matrix: rows better or worse than columns, blue where the row's agent is likely to end higher."""
    agents = [s.agent for s in summary.standings if any(s.agent in (p.better, p.worse) for p in summary.pairs)]
    if not agents:
        return None
    n, side = len(agents), 0.42
    values, separated = np.full((n, n), np.nan), np.zeros((n, n), dtype=bool)
    for pair in summary.pairs:
        i, j = agents.index(pair.better), agents.index(pair.worse)
        values[i, j], values[j, i] = pair.improvement.value, 1 - pair.improvement.value
        separated[i, j] = separated[j, i] = pair.separated
    figure = _figure((max(4.2, 1.4 + side * n), 1.7 + side * n), title, NOTES["improvement"])
    axes = figure.add_subplot(aspect="equal", xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    for i, j in np.argwhere(np.isfinite(values)):
        cell = colormaps["RdBu"](0.15 + 0.7 * values[i, j])  # blue and red, the darkest left out
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fc=cell, ec="white", lw=0.8))
        dark, strong = np.dot(cell[:3], (0.3, 0.59, 0.11)) < 0.5, bool(separated[i, j])
        style: dict[str, Any] = {"color": "white" if dark else _INK, "weight": "bold" if strong else "normal"}
        axes.text(j, i, f"{values[i, j]:.2f}" + "*" * strong, ha="center", va="center", size=_SMALL, **style)
    names = [_one_line(agent, 24) for agent in agents]
    axes.set_xticks(range(n), names, rotation=40, ha="left", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(n), names, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=_SMALL, colors=_INK)
    axes.spines[:].set_visible(False)
    return _settled(figure)


# What all figures share


def _figure(inches: tuple[float, float], title: str, note: str) -> Figure:
    figure = Figure(figsize=inches, dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", size=1.15 * _FONT, weight="bold", color=_INK, parse_math=False)
    per_line = int(inches[0] * 72 / (0.58 * _SMALL))
    figure.supxlabel(
        "\n".join(textwrap.wrap(note, per_line, break_on_hyphens=False)), x=0.01, ha="left", size=_SMALL, color=_GREY
    )
    return figure


def _dress(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, size=_FONT, color=_INK)
    axes.set_ylabel(y_label, size=_FONT, color=_INK)
    axes.tick_params(labelsize=_SMALL, colors=_INK, length=2.5, width=0.6)
    axes.grid(color=_PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=_GREY, lw=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def _settled(figure: Figure) -> Figure:
    """Return the figure with its layout computed once and for all, so that saving it changes nothing."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    for _ in range(2):  # axes of equal aspect come to rest at the second
        layout.execute(figure)
    return figure


def _looks(agents: Sequence[str], random: str | None) -> dict[str, dict[str, Any]]:
    """Return how each agent's line is drawn; agents keep their looks over the problems of one comparison."""
    others = [agent for agent in agents if agent != random]
    looks = {
        agent: {"color": _COLOURS[k % len(_COLOURS)], "ls": _DASHES[k // len(_COLOURS) % len(_DASHES)], "lw": 1.5}
        for k, agent in enumerate(others)
    }
    return {agent: looks.get(agent, {"color": _GREY, "ls": (0, (4, 2)), "lw": 1.5}) for agent in agents}


def _seeds(groups: _Groups) -> str:
    counts = sorted({len({run.seed for run in group}) for group in groups.values()})
    least, most = counts[0], counts[-1]
    return f"{least} to {most} seeds" if least < most else f"{most} seed{'s' * (most != 1)}"


def _one_line(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
