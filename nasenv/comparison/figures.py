"""The figures of a comparison: curves over the budget, success rates, final values, pairs of agents."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from nasenv.comparison.curves import Against, curve
from nasenv.comparison.drawing import (
    DPI,
    INK,
    SMALL,
    Line,
    Looks,
    Panel,
    dress,
    fix_layout,
    focus,
    log,
    looks_of,
    new_figure,
    one_line,
    panels,
    set_limits,
    shares,
)
from nasenv.comparison.ranking import AgentRuns
from nasenv.comparison.run import Quantity, Run, Trajectory, final_known, trajectories
from nasenv.comparison.statistics import survival, wilson
from nasenv.comparison.summary import Criterion, Summary
from nasenv.errors import counted
from nasenv.plots import to_png

NOTES = {
    "anytime": "The best architecture so far, by reward: interquartile mean over the seeds and its 95 % bootstrap band",
    "regret": "Best reward of the space minus the best so far: interquartile mean over the seeds and its 95 % band; "
    "a line that leaves at the bottom has met the best",
    "success": "Runs that have met the best reward of the space: one minus the Kaplan-Meier estimate and its 95 % band",
    "final": "Each run's best architecture by reward; box: quartiles and median; diamond: interquartile mean, 95 % "
    "interval",
    "improvement": "Probability that a run of the row's agent is better than one of the column's, ties counting half; "
    "bold with a star: separated (p < 0.05 by Holm)",
}
"""The captions of the figures by kind, in the order of the report."""

_MOST_POINTS = 150  # of a line: a panel is some 170 points wide
_MOST_DOTS = 3000  # of a panel drawn as shapes; more are drawn as pixels


def draw(summary: Summary, runs: Iterable[Run], random: str | None = None) -> dict[str, Figure]:
    """Return the figures of one problem by kind, in the order of `NOTES`, without empty ones.

    Args:
        summary: summary of the runs, by ``summarise``.
        runs: the problem's runs, or their trajectories; the faulty ones are left out, here as there.
        random: the agent that is drawn in grey and dashed: random search, as a rule.
    """
    everything = trajectories(runs)
    looks = looks_of(list(dict.fromkeys(run.agent for run in everything)), random)
    sound = {agent: [run for run in everything if run.agent == agent and run.fault is None] for agent in looks}
    sound = {agent: group for agent, group in sound.items() if group}
    if not sound:
        return {}
    counts = sorted({len({run.seed for run in group}) for group in sound.values()})
    seeds = f"{counts[0]} to " * (len(counts) > 1) + f"{counted(counts[-1], 'seed')}"
    title = f"{one_line(summary.problem, 60)} ({seeds})"
    rows = _curve_rows(sound, summary)
    figures = {kind: panels(row, looks, title, NOTES[kind]) for kind, row in rows.items()}
    figures["final"] = _final_figure(sound, summary, looks, title)
    figures["improvement"] = _improvement_figure(summary, title)
    return {kind: figure for kind, figure in figures.items() if figure is not None}


def _curve_rows(sound: AgentRuns, summary: Summary) -> dict[str, list[list[Panel]]]:
    """Return the rows of panels of each kind of figure with lines; each row counts the budget in its own way."""

    @cache  # two figures show some of them
    def lines(quantity: Quantity, against: Against) -> dict[str, Line]:
        """Return the interquartile mean of each agent whose incumbents are known over most of its budget."""
        found = {agent: curve(group, quantity, against, _MOST_POINTS) for agent, group in sound.items()}
        factor = summary.display(quantity).factor
        return {
            agent: Line(c.grid, *(factor * part for part in (c.iqm, c.low, c.high)))
            for agent, c in found.items()
            if np.isfinite(c.iqm).mean() > 0.5
        }

    budgets: dict[Against, str] = {"evaluations": "distinct evaluations"}
    if any(run.charged_seconds > 0 for group in sound.values() for run in group):
        budgets["seconds"] = "charged seconds"
    shown = {quantity: summary.display(quantity).label for quantity in _shown(sound, summary.ranked_by)}
    rows = {"anytime": [[Panel(lines(q, a), x, y, focus) for q, y in shown.items()] for a, x in budgets.items()]}
    if (optimum := summary.optimum) is not None:
        best, label = summary.display("reward").factor * optimum, summary.display("regret").label
        regrets = [(_below(lines("reward", against), best), words) for against, words in budgets.items()]
        rows["regret"] = [
            [
                Panel(regret, words, label, log)
                for regret, words in regrets
                if any((line.y > 0).any() for line in regret.values())  # else a log axis could show nothing
            ]
        ]
        met = {agent: _met(group, optimum) for agent, group in sound.items()}
        rows["success"] = [[Panel(met, "distinct evaluations", "runs that met the best reward (%)", shares)]]
    return rows


def _shown(sound: AgentRuns, ranked_by: Criterion) -> list[Quantity]:
    """Return the quantities to draw: both scores, and first the reward unless it is one or a score ranks the agents."""
    runs = [run for group in sound.values() for run in group]
    final = final_known(runs)
    same = all(np.array_equal(run.reward, run.values("val_score", final), equal_nan=True) for run in runs)
    scores: list[Quantity] = ["val_score", "test_score"]
    return scores if same or ranked_by in scores else ["reward", *scores]


def _below(lines: Mapping[str, Line], optimum: float) -> dict[str, Line]:
    """Return the distance of the lines below the optimum; rounding errors count as 0."""
    least = 1e-12 * max(1.0, abs(optimum))
    gaps = {agent: [optimum - part for part in (line.y, line.high, line.low)] for agent, line in lines.items()}
    return {a: Line(lines[a].x, *(np.where(gap < least, 0.0, gap) for gap in parts)) for a, parts in gaps.items()}


def _met(group: Sequence[Trajectory], optimum: float) -> Line:
    """Return the percentage of runs that reached the optimum, by evaluations: one minus the Kaplan-Meier estimate.

    https://doi.org/10.1080/01621459.1958.10501452. The band is Wilson's, of as many runs as were not censored before,
    so that at the end it is the interval of the success rate; there is none before the first run has met it.
    """
    first = np.array([run.evaluation_of_optimum(optimum) or 0 for run in group])
    times = np.where(first, first, [run.evaluations for run in group])
    distinct, surviving = survival(times.astype(float), first > 0, np.ones((1, len(group)), dtype=np.int16))
    share = 1 - surviving[0]
    n = len(group) - ((first == 0)[:, None] & (times[:, None] < distinct)).sum(axis=0)
    x = np.concatenate([[0], distinct, [max(run.evaluations for run in group)]])
    parts = (np.where(share > 0, part, 0.0) for part in (share, *wilson(share, n)))
    return Line(x, *(100 * np.concatenate([[0.0], part, part[-1:]]) for part in parts))


def _final_figure(sound: AgentRuns, summary: Summary, looks: Looks, title: str) -> Figure | None:
    """Return the figure of final values: a row for each agent, the best on top, and a panel for each quantity."""
    standings = [standing for standing in summary.standings if standing.agent in sound]
    values = {quantity: _ends(sound, quantity, summary) for quantity in _shown(sound, summary.ranked_by)}
    values = {quantity: rows for quantity, rows in values.items() if any(map(len, rows.values()))}
    if not values:
        return None
    figure = new_figure((1.2 + 2.9 * len(values), 1.0 + 0.27 * max(2, len(standings))), title, NOTES["final"])
    for column, (quantity, rows) in enumerate(values.items()):
        axes = figure.add_subplot(1, len(values), column + 1)
        shown = summary.display(quantity)
        dress(axes, shown.label, "")
        axes.grid(visible=False, axis="y")
        low = min(_whisker(row) for row in rows.values() if len(row))
        set_limits(axes.set_xlim, low, max(float(row.max()) for row in rows.values() if len(row)))
        pixels = sum(map(len, rows.values())) > _MOST_DOTS
        names = []
        for y, standing in enumerate(standings):
            row, spread = rows[standing.agent], getattr(standing, quantity)
            _draw_values(axes, y, row, looks[standing.agent]["color"], pixels)
            if spread is not None:
                value, *ends = (shown.factor * v for v in (spread.iqm.value, spread.iqm.low, spread.iqm.high))
                axes.plot(ends, [y, y], color=INK, lw=1.4, zorder=4)
                axes.plot([value], [y], marker="D", ms=4, mfc=INK, mec="white", mew=0.6, zorder=5)
            hidden = int((row < low).sum())
            names.append(one_line(standing.agent, 24) * (not column) + f" ({hidden} below)" * (hidden > 0))
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
    return fix_layout(figure)


def _ends(sound: AgentRuns, quantity: Quantity, summary: Summary) -> dict[str, NDArray[np.float64]]:
    """Return the final incumbents' known values by agent, (n,), in the unit that is shown."""
    final = final_known((run for group in sound.values() for run in group), slice(-1, None))
    values = {agent: np.array([run.values(quantity, final)[-1] for run in group]) for agent, group in sound.items()}
    return {agent: summary.display(quantity).factor * row[np.isfinite(row)] for agent, row in values.items()}


def _draw_values(axes: Axes, y: float, values: NDArray[np.float64], colour: str, pixels: bool) -> None:
    """Draw a dot for each run, scattered around the height y, over a box of quartiles and median."""
    if not len(values):
        return
    heights = y + np.random.default_rng(0).uniform(-0.24, 0.24, len(values))
    quarter, half, three = np.quantile(values, [0.25, 0.5, 0.75])
    axes.add_patch(Rectangle((quarter, y - 0.32), three - quarter, 0.64, fc=colour, ec=colour, alpha=0.25, lw=0.8))
    axes.plot([half, half], [y - 0.32, y + 0.32], color=colour, lw=1.6, solid_capstyle="butt")
    alpha = float(np.clip(20 / len(values), 0.15, 0.7))
    axes.scatter(values, heights, s=5, color=colour, alpha=alpha, lw=0, rasterized=pixels)


def _whisker(values: NDArray[np.float64]) -> float:
    """Return the lowest value shown: at most six box widths below the box."""
    quarter, three = np.quantile(values, [0.25, 0.75])
    return float(values[values >= quarter - 6 * (three - quarter)].min())


def _improvement_figure(summary: Summary, title: str) -> Figure | None:
    """Return the matrix of probabilities of improvement between agents."""
    agents = [s.agent for s in summary.standings if any(s.agent in (p.better, p.worse) for p in summary.pairs)]
    if not agents:
        return None
    n, side = len(agents), 0.42
    values, separated = np.full((n, n), np.nan), np.zeros((n, n), dtype=bool)
    for pair in summary.pairs:
        i, j = agents.index(pair.better), agents.index(pair.worse)
        values[i, j], values[j, i] = pair.improvement.value, 1 - pair.improvement.value
        separated[i, j] = separated[j, i] = pair.separated
    figure = new_figure((max(4.2, 1.4 + side * n), 1.7 + side * n), title, NOTES["improvement"])
    axes = figure.add_subplot(aspect="equal", xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    for i, j in np.argwhere(np.isfinite(values)):
        cell = colormaps["RdBu"](0.15 + 0.7 * values[i, j])  # blue and red, the darkest left out
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fc=cell, ec="white", lw=0.8))
        dark, strong = np.dot(cell[:3], (0.3, 0.59, 0.11)) < 0.5, bool(separated[i, j])
        style: dict[str, Any] = {"color": "white" if dark else INK, "weight": "bold" if strong else "normal"}
        axes.text(j, i, f"{values[i, j]:.2f}" + "*" * strong, ha="center", va="center", size=SMALL, **style)
    names = [one_line(agent, 24) for agent in agents]
    axes.set_xticks(range(n), names, rotation=40, ha="left", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(n), names, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=SMALL, colors=INK)
    axes.spines[:].set_visible(False)
    return fix_layout(figure)


def save(figures: Mapping[str, Figure], folder: Path, problem: str) -> dict[str, str]:
    """Write each figure as ``<problem>-<kind>.png``, ``.pdf`` and ``.svg``, and return the SVG texts by kind.

    Equal figures give equal bytes. What cannot stand in a file's name is percent-encoded.
    """
    texts = {kind: _to_svg(figure) for kind, figure in figures.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for kind, figure in figures.items():
        name = f"{quote(problem, safe=' ')}-{kind}"
        (folder / f"{name}.svg").write_text(texts[kind], encoding="utf-8")
        (folder / f"{name}.png").write_bytes(to_png(figure, dpi=DPI))
        (folder / f"{name}.pdf").write_bytes(_to_pdf(figure))
    return texts


def _to_pdf(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PDF file with TrueType fonts, which publishers ask for."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return buffer.getvalue()


def _to_svg(figure: Figure) -> str:
    """Return the figure as an SVG document with text drawn as paths, so that it looks the same everywhere.

    Points on paths are cut to a hundredth of a point, which halves the file.
    """
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.hashsalt": "nasenv", "svg.fonttype": "path"}):  # savefig has no argument for them
        figure.savefig(buffer, format="svg", metadata=nothing)
    return re.sub(r'(?<= d=")[^"]+', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), buffer.getvalue())
