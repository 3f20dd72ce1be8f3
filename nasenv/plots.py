"""Functions draw an architecture as boxes and arrows, and the choices of a search over time.

None touches matplotlib's global state (pyplot, settings), so figures can be drawn in any program and thread.
"""

from __future__ import annotations

import io
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from nasenv.errors import InputError, counted

try:
    import matplotlib as _  # noqa: F401
except ValueError as error:  # an environment variable, or a file of settings, is wrong
    raise InputError(f"matplotlib cannot be imported: {error}; mend or unset MPLBACKEND") from error

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure as Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from nasenv.spaces.space import Diagram, SearchSpace
from nasenv.trial import Architecture

_FILLS = ("#cfe2f7", "#fbdcc0", "#d3ecd3", "#e6dbf3", "#fbd3da", "#f7efbd", "#cdeeec", "#e4d9cf")
_STROKES = ("#2f6db0", "#c2661c", "#3a8a3d", "#7a55ad", "#bf3b55", "#968211", "#24857f", "#775a41")
_GREY_FILL, _GREY_STROKE, _INK = "#efefef", "#777777", "#222222"
_FONT_POINTS, _LINE_POINTS = 10.0, 13.0
_MAX_COLUMNS = 8


def draw_diagram(diagram: Diagram, title: str = "", inches: tuple[float, float] | None = None) -> Figure:
    """Return a figure of an architecture: boxes in the order of the data, arrows, and curves for edges that skip boxes.

    A chain runs from top to bottom, and boxes whose text begins with the same word have the same colour. If all edges
    between neighbours have labels, as in a cell, the data run from left to right, and the edges are coloured.

    Args:
        diagram: nodes and edges of a complete or partial architecture.
        title: title above the drawing.
        inches: (width, height) of the figure; the drawing is centred in it, and shrunk if it is too large; by default
            the figure fits the drawing.

    Raises:
        InputError: the diagram has no nodes, or an edge does not join two different nodes.
    """
    layout = _Layout(diagram)
    (left, right), (bottom, top) = layout.bounds()
    title = _shorten(title, 120)
    if title:
        half = _text_width(title, 1.2 * _FONT_POINTS, weight="bold") / 2
        middle = (left + right) / 2
        left, right, top = min(left, middle - half), max(right, middle + half), top + 26
    width, height = right - left + 24, top - bottom + 24
    size = inches or (width / 72, height / 72)
    scale = min(1.0, 72 * size[0] / width, 72 * size[1] / height)
    figure, axes = _empty_figure(size)
    centre = np.array([(left + right) / 2, (bottom + top) / 2])
    half_view = 36 * np.array(size) / scale
    axes.set_xlim(centre[0] - half_view[0], centre[0] + half_view[0])
    axes.set_ylim(centre[1] - half_view[1], centre[1] + half_view[1])
    layout.draw(axes, scale)
    if title:
        _write(axes, (centre[0], top - 8), title, 1.2 * scale, weight="bold")
    return figure


def choice_shares(space: SearchSpace, architectures: Sequence[Architecture]) -> Figure:
    """Return a figure of the share of each choice of each decision over the evaluations.

    Each decision that ever had several valid choices has a panel; decisions of one kind (`layer1.kernel`,
    `layer2.kernel`) share a row, its colours and its legend. In each window of evaluations the coloured height is the
    share of architectures in which the decision mattered; for the others (a layer beyond the chosen depth, for example)
    the panel stays white.

    Raises:
        InputError: no architectures.
    """
    if not architectures:
        raise InputError("choice_shares needs one or more architectures, got none")
    rows = np.array(architectures, dtype=np.int64)  # (n, T)
    mattered = np.column_stack([space.mask(rows[:, :t]).sum(axis=1) > 1 for t in range(space.num_decisions)])  # (n, T)
    panels = _panel_rows(space, np.flatnonzero(mattered.any(axis=0)).tolist())
    columns = max((len(band) for band in panels), default=1)
    size = np.array([max(84.0, 420.0 / columns), 68.0])  # size of a panel in points, y downwards, as below
    pitch, origin = size + np.array([10.0, 30.0]), np.array([44.0, 44.0])
    width, height = origin + pitch * (columns, max(1, len(panels))) + np.array([100.0, 4.0])
    figure, axes = _empty_figure((width / 72, height / 72))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    heading = "Share of each choice over the evaluations (white: the decision did not matter)"
    _write(axes, (origin[0], 14), heading, 0.95, ha="left", weight="bold")
    edges = _windows(len(rows))
    for row, band in enumerate(panels):
        choices = space.decisions[band[0]].choices
        colours = _choice_colours(choices)
        for column, t in enumerate(band):
            corner = origin + pitch * (column, row)
            shares = _shares(rows[:, t], mattered[:, t], edges, len(choices))
            outlines = corner + size * _outlines(shares, edges)
            axes.add_collection(PolyCollection(list(outlines), facecolors=colours, antialiased=False), autolim=False)
            axes.add_patch(Rectangle(corner, *size, fill=False, ec=_GREY_STROKE, lw=0.5))
            _write(axes, corner + size * (0.5, -0.09), _shorten(space.decisions[t].name, 20), 0.75)
            if row + 1 == len(panels) or column >= len(panels[row + 1]):
                _write(axes, corner + size * (0, 1.1), "1", 0.7, ha="left")
                _write(axes, corner + size * (1, 1.1), str(len(rows)), 0.7, ha="right")
        for text, depth in (("100 %", 0.0), ("0", size[1])):
            _write(axes, origin + pitch * (0, row) - (4, -depth), text, 0.7, ha="right")
        _choice_legend(axes, corner + size * (1, 0.5), choices, colours)
    return figure


def to_png(figure: Figure, dpi: int = 100) -> bytes:
    """Return the figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def to_rgb(figure: Figure, dpi: int = 100) -> NDArray[np.uint8]:
    """Return the figure as pixels, (height, width, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


class _Layout:
    """Computes the positions of a diagram's boxes and arrows in points, `along` the data's way and `across` it."""

    def __init__(self, diagram: Diagram) -> None:
        count = len(diagram.nodes)
        if not count:
            raise InputError("a diagram needs one or more nodes, got none")
        for start, end, label in diagram.edges:
            if start == end or not (0 <= start < count and 0 <= end < count):
                raise InputError(
                    f"edge {(start, end, label)} of a diagram does not join two of its {counted(count, 'node')}"
                )
        self.nodes = [[_shorten(line) for line in text.split("\n")] for text in diagram.nodes]
        self.edges = [(start, end, _shorten(label)) for start, end, label in diagram.edges]
        self.sideways = not any(abs(end - start) == 1 and not label for start, end, label in self.edges)
        self.lanes = _lanes([(start, end) for start, end, _ in self.edges])
        width = max(_text_width(line, _FONT_POINTS) for lines in self.nodes for line in lines) + 24
        heights = [len(lines) * _LINE_POINTS + 10 for lines in self.nodes]
        self.sizes = [(width, max(heights) if self.sideways else h) for h in heights]  # (width, height) of each box
        self.label_width = max((_text_width(label, _FONT_POINTS) for *_, label in self.edges), default=0.0)
        lengths = [size[0] if self.sideways else size[1] for size in self.sizes]
        gap = self.label_width + 50 if self.sideways else 20.0
        starts = np.cumsum([0.0, *(length + gap for length in lengths[:-1])])
        self.half_along = np.array(lengths) / 2
        self.along = starts + self.half_along
        self.half_across = (max(heights) if self.sideways else width) / 2
        self.lane_gap = 34.0 if self.sideways else max(26.0, self.label_width + 6)

    def bounds(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return (left, right), (bottom, top) of the drawing without the title."""
        margin = _LINE_POINTS / 2 if self.sideways else self.label_width / 2
        reach = [self.half_across, -self.half_across]
        reach += [np.copysign(self._apex(lane) + margin, self._across(lane)) for lane in self.lanes if lane is not None]
        corners = [(0.0, min(reach)), (self.along[-1] + self.half_along[-1], max(reach))]
        xs, ys = zip(*(self._xy(*corner) for corner in corners), strict=True)
        return (min(xs), max(xs)), (min(ys), max(ys))

    def draw(self, axes: Axes, scale: float) -> None:
        """Draw everything; one unit of the axes is `scale` points."""
        labels = [label if self.sideways else "" for *_, label in self.edges]
        edge_colours = _colours(labels, _STROKES, _GREY_STROKE)
        for (start, end, label), lane, colour in zip(self.edges, self.lanes, edge_colours, strict=True):
            path = self._path(start, end, lane)
            style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 10 * scale, "lw": 1.3 * scale}
            axes.add_patch(FancyArrowPatch(path=path, color=colour, shrinkA=0, shrinkB=0, **style))
            if label:
                points = np.asarray(path.vertices)
                middle = points.mean(axis=0) if lane is None else np.array([1, 3, 3, 1]) / 8 @ points
                box = {"facecolor": "white", "edgecolor": "none", "pad": 2 * scale}
                _write(axes, middle, label, scale, color=colour, bbox=box)
        words = ["" if self.sideways else lines[0].split(" ")[0] for lines in self.nodes]
        words = ["" if word in ("input", "output") else word for word in words]
        fills, strokes = _colours(words, _FILLS, _GREY_FILL), _colours(words, _STROKES, _GREY_STROKE)
        for lines, along, (width, height), fill, stroke in zip(
            self.nodes, self.along, self.sizes, fills, strokes, strict=True
        ):
            x, y = self._xy(along, 0.0)
            corner = (x - width / 2, y - height / 2)
            shape = "round,pad=0,rounding_size=5"
            axes.add_patch(FancyBboxPatch(corner, width, height, shape, fc=fill, ec=stroke, lw=1.1 * scale))
            _write(axes, (x, y), "\n".join(lines), scale)

    def _path(self, start: int, end: int, lane: int | None) -> Path:
        way = 1 if end > start else -1
        if lane is None:
            points = [(self.along[start] + way * self.half_along[start], 0.0)]
            points.append((self.along[end] - way * self.half_along[end], 0.0))
            return Path([self._xy(*point) for point in points])
        out, far = np.copysign(self.half_across, self._across(lane)), self._across(lane)
        leave = self.along[start] + way * self.half_along[start] / 3
        arrive = self.along[end] - way * self.half_along[end] / 3
        points = [(leave, out), (leave, far), (arrive, far), (arrive, out)]
        return Path([self._xy(*point) for point in points], [Path.MOVETO, *[Path.CURVE4] * 3])

    def _across(self, lane: int) -> float:
        """Return the distance of a curve's control points from the middle; lanes alternate between the sides."""
        distance = self.half_across + (lane // 2 + 1) * self.lane_gap * 4 / 3
        return distance if lane % 2 == 0 else -distance

    def _apex(self, lane: int) -> float:
        """Return the largest distance of a curve from the middle: three quarters of the way to its control points."""
        return 0.75 * abs(self._across(lane)) + 0.25 * self.half_across

    def _xy(self, along: float, across: float) -> tuple[float, float]:
        return (along, across) if self.sideways else (across, -along)


def _lanes(edges: Sequence[tuple[int, int]]) -> list[int | None]:
    """Return a lane for each edge such that no two in one lane overlap; None for a straight edge to the next box."""
    lanes: list[int | None] = [None] * len(edges)
    straight: set[tuple[int, int]] = set()
    taken: list[list[tuple[int, int]]] = []
    for k in sorted(range(len(edges)), key=lambda k: (abs(edges[k][1] - edges[k][0]), edges[k])):
        low, high = sorted(edges[k])
        if high - low == 1 and (low, high) not in straight:
            straight.add((low, high))
            continue
        free = (i for i, spans in enumerate(taken) if all(high <= a or b <= low for a, b in spans))
        lane = next(free, len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low, high))
        lanes[k] = lane
    return lanes


def _colours(keys: Sequence[str], palette: Sequence[str], neutral: str) -> list[str]:
    """Return a colour for each key: neutral for empty keys; one for all others if there are too few colours."""
    order = [key for key in dict.fromkeys(keys) if key]
    if len(order) > len(palette):
        return [neutral if not key else palette[0] for key in keys]
    return [palette[order.index(key)] if key else neutral for key in keys]


def _write(axes: Axes, xy: Sequence[float] | NDArray[np.float64], text: str, scale: float, **style: Any) -> None:
    spacing = _LINE_POINTS / _FONT_POINTS / 1.16  # matplotlib's line of spacing 1 is 1.16 times the font's size
    plain: dict[str, Any] = {"ha": "center", "va": "center", "color": _INK, "linespacing": spacing}
    axes.text(xy[0], xy[1], text, size=_FONT_POINTS * scale, parse_math=False, **(plain | style))


def _text_width(text: str, points: float, weight: str = "normal") -> float:
    font = FontProperties(size=points, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def _shorten(text: str, length: int = 48) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _empty_figure(inches: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=inches)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    return figure, axes


def _windows(n: int) -> NDArray[np.float64]:
    """Return the edges, (w + 1,), of windows over n evaluations: about 1.4 times the root of n windows, at most 50."""
    count = min(50, max(1, round(1.4 * np.sqrt(n))))
    return np.round(np.linspace(0, n, count + 1))


def _shares(
    choices: NDArray[np.int64], mattered: NDArray[np.bool_], edges: NDArray[np.float64], num_choices: int
) -> NDArray[np.float64]:
    """Return the share of each choice, (C, w), among all architectures in each window."""
    counts = [np.histogram(np.flatnonzero(mattered & (choices == c)), edges)[0] for c in range(num_choices)]
    return np.array(counts) / np.diff(edges)


def _panel_rows(space: SearchSpace, decisions: Sequence[int]) -> list[list[int]]:
    """Return the decisions of each row of panels: those with the same choices and last word of the name."""
    kinds: dict[tuple[tuple[Hashable, ...], str], list[int]] = {}
    for t in decisions:
        _, dot, word = space.decisions[t].name.rpartition(".")
        kinds.setdefault((space.decisions[t].choices, word if dot else ""), []).append(t)
    return [group[i : i + _MAX_COLUMNS] for group in kinds.values() for i in range(0, len(group), _MAX_COLUMNS)]


def _outlines(shares: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the outlines, (C, 4 * w, 2), of the shares, (C, w), stacked from below in a square of side 1, y downwards.

    Each outline follows its upper side in steps, and returns along its lower side.
    """
    top = shares.cumsum(axis=0).repeat(2, axis=1)
    bottom = top - shares.repeat(2, axis=1)
    along = (edges / edges[-1]).repeat(2)[1:-1]
    there = np.stack(np.broadcast_arrays(along, 1 - top), axis=-1)
    back = np.stack(np.broadcast_arrays(along, 1 - bottom), axis=-1)
    return np.concatenate([there, back[:, ::-1]], axis=1)


def _choice_colours(choices: Sequence[Hashable]) -> NDArray[np.float64]:
    """Return a colour for each choice, (C, 4): ordered shades for numbers and long lists, distinct ones for names."""
    if len(choices) > 10 or all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices):
        return np.asarray(colormaps["viridis"](np.linspace(0.08, 0.95, len(choices))))
    return np.asarray(colormaps["tab10"](range(len(choices))))


def _choice_legend(
    axes: Axes, middle: NDArray[np.float64], choices: Sequence[Hashable], colours: NDArray[np.float64]
) -> None:
    """Draw a legend of at most seven choices to the right of a panel, in the order of the stack."""
    shown = np.unique(np.linspace(0, len(choices) - 1, min(len(choices), 7)).round().astype(int))[::-1]
    for k, depth in zip(shown, 10.5 * (np.arange(len(shown)) - (len(shown) - 1) / 2), strict=True):
        x, y = middle[0] + 6, middle[1] + depth
        axes.add_patch(Rectangle((x, y - 3.5), 7, 7, fc=colours[k], ec="none"))
        _write(axes, (x + 11, y), _shorten(str(choices[k]), 20), 0.7, ha="left")
