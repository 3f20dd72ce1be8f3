"""The figures of a space report: distributions of scores and costs, and the seconds of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nasenv.comparison.drawing import GREY, INK, SMALL, dress, fix_layout, looks_of, new_figure
from nasenv.inspection.space_report import SpaceReport
from nasenv.task import is_share

_WIDTH, _HEIGHT = 4.2, 3.0  # inches of a panel


def draw(reports: Mapping[str, SpaceReport]) -> dict[str, Figure]:
    """Return the figures of one or more spaces by name, without empty ones.

    Args:
        reports: name of a line -> report; all of one metric.
    """
    trained = {name: report for name, report in reports.items() if report.trained is not None}
    metrics = list(dict.fromkeys(metric for report in reports.values() for metric in report.costs))
    figures = {"scores": _scores(trained)} if trained else {}
    if metrics:
        figures["costs"] = _costs(reports, metrics)
    if any(len(report.timed) > 1 for report in reports.values()):
        figures["seconds"] = _seconds(reports)
    return figures


def _scores(reports: Mapping[str, SpaceReport]) -> Figure:
    """Return the distribution functions of scores, after Radosavovic et al. 2019 (https://arxiv.org/abs/1905.13214)."""
    note = "Share of networks drawn at random whose score is at most x; the better space has the lower line"
    figure = new_figure((_WIDTH + 1.2, _HEIGHT + 0.7), "Distribution of scores", note)
    axes = figure.add_subplot()
    metric = next(iter(reports.values())).metric
    factor, unit = (100.0, " (%)") if is_share(metric) else (1.0, "")
    lines = {name: report.trained for name, report in reports.items()}
    scores = {
        name: factor * np.array([score for score in sample.scores if score is not None])
        for name, sample in lines.items()
        if sample is not None
    }
    _distributions(axes, scores)
    for sample in lines.values():
        if sample is not None and sample.at_chance is not None:
            axes.axvline(factor * sample.at_chance, color=GREY, lw=0.8, ls=(0, (1, 2)))
            break
    dress(axes, f"{metric.replace('_', ' ')}{unit}; dotted: chance", "networks (%)")
    return fix_layout(figure)


def _costs(reports: Mapping[str, SpaceReport], metrics: Sequence[str]) -> Figure:
    """Return the empirical distribution functions of the costs, a panel a metric, on a logarithmic axis."""
    note = "Share of networks drawn at random whose cost is at most x"
    figure = new_figure((_WIDTH * len(metrics), _HEIGHT + 0.7), "Distribution of costs", note)
    for number, metric in enumerate(metrics, 1):
        axes = figure.add_subplot(1, len(metrics), number)
        values = {name: np.array(report.costs[metric]) for name, report in reports.items() if metric in report.costs}
        _distributions(axes, values)
        dress(axes, metric, "networks (%)")
        if min(value.min() for value in values.values()) > 0:
            axes.set_xscale("log")
    return fix_layout(figure)


def _seconds(reports: Mapping[str, SpaceReport]) -> Figure:
    """Return the seconds of the timed trainings over their FLOPs, with the line that fits them."""
    note = "Trainings of networks drawn at random, and the least squares line by which the others are predicted"
    figure = new_figure((_WIDTH + 1.2, _HEIGHT + 0.7), "Seconds of a training", note)
    axes = figure.add_subplot()
    for (name, look), report in zip(looks_of(list(reports), None).items(), reports.values(), strict=True):
        points = np.array(report.timed).reshape(-1, 2)
        axes.plot(points[:, 0], points[:, 1], "o", ms=4, color=look["color"], label=name)
        if report.seconds_per_flop is not None:
            fixed, each = report.seconds_per_flop
            ends = np.array([0.0, float(np.nanmax(points[:, 0]))])
            axes.plot(ends, fixed + each * ends, **look)
    dress(axes, "FLOPs of a forward pass", "seconds")
    axes.set_ylim(bottom=0)
    _legend(axes, len(reports))
    return fix_layout(figure)


def _distributions(axes: Axes, values: Mapping[str, NDArray[np.float64]]) -> None:
    """Draw the empirical distribution function of each line's values, in per cent."""
    for (name, look), found in zip(looks_of(list(values), None).items(), values.values(), strict=True):
        ascending = np.sort(found)
        axes.ecdf(ascending, label=name, **look)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], labels=["0", "25", "50", "75", "100"])
    axes.set_ylim(0, 1.02)
    _legend(axes, len(values))


def _legend(axes: Axes, lines: int) -> None:
    if lines > 1:
        axes.legend(fontsize=SMALL, frameon=False, labelcolor=INK)
