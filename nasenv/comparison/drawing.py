"""What all pictures of a comparison share: looks of the agents, type, a title, a note, axes.

One agent has one colour and dash in all of them, from Okabe and Ito's palette, which colour-blind readers can tell
apart (https://jfly.uni-koeln.de/color); random search is grey and dashed. As in `nasenv.plots`, no pyplot.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

Looks: TypeAlias = Mapping[str, Mapping[str, Any]]
"""How each agent's line is drawn."""

INK, GREY = "#222222", "#767676"
SMALL = 7.5  # points
DPI = 200
"""The layout is made for it: text is not equally wide at all."""

_FONT = 8.5  # points
_PALE = "#e4e4e4"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES: tuple[Any, ...] = ("solid", (0, (6, 1.5, 1, 1.5)), (0, (1, 1)), (0, (8, 2)))


def looks_of(agents: Sequence[str], random: str | None) -> dict[str, dict[str, Any]]:
    """Return how each agent's line is drawn; agents keep their looks over the problems of one comparison."""
    others = [agent for agent in agents if agent != random]
    looks = {
        agent: {"color": _COLOURS[k % len(_COLOURS)], "ls": _DASHES[k // len(_COLOURS) % len(_DASHES)], "lw": 1.5}
        for k, agent in enumerate(others)
    }
    return {agent: looks.get(agent, {"color": GREY, "ls": (0, (4, 2)), "lw": 1.5}) for agent in agents}


def new_figure(inches: tuple[float, float], title: str, note: str) -> Figure:
    """Return an empty figure, (width, height) large, with its title above and a note on what it shows below."""
    figure = Figure(figsize=inches, dpi=DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", size=1.15 * _FONT, weight="bold", color=INK, parse_math=False)
    per_line = int(inches[0] * 72 / (0.58 * SMALL))
    figure.supxlabel(
        "\n".join(textwrap.wrap(note, per_line, break_on_hyphens=False)), x=0.01, ha="left", size=SMALL, color=GREY
    )
    return figure


def dress(axes: Axes, x_label: str, y_label: str) -> None:
    """Label axes, and make frame, ticks and grid thin."""
    axes.set_xlabel(x_label, size=_FONT, color=INK)
    axes.set_ylabel(y_label, size=_FONT, color=INK)
    axes.tick_params(labelsize=SMALL, colors=INK, length=2.5, width=0.6)
    axes.grid(color=_PALE, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=GREY, lw=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def set_limits(setter: Callable[[float, float], Any], low: float, high: float) -> None:
    """Set limits with a margin, and about a single value where there is no more."""
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    setter(low - margin, high + margin)


def settled(figure: Figure) -> Figure:
    """Return the figure with its layout computed once and for all, so that saving it changes nothing."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    for _ in range(2):  # axes of equal aspect come to rest at the second
        layout.execute(figure)
    return figure


def one_line(text: str, length: int) -> str:
    """Return the text without line breaks, cut to so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
