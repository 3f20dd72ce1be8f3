"""Finds out what a run has learned about its space: which decisions and choices matter, and which part to search."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nasenv.comparison.drawing import GREY, INK, SMALL, dress, fix_layout, new_figure, one_line
from nasenv.comparison.tables import TextTable
from nasenv.errors import counted
from nasenv.files import write_whole
from nasenv.inspection.importance import ChoiceWorth, DecisionImportance, Estimate, Importance, importance
from nasenv.inspection.narrowing import narrowed
from nasenv.inspection.page import write_page
from nasenv.inspection.run_evaluations import RunEvaluations
from nasenv.inspection.score_model import ScoreModel
from nasenv.task import is_share

REPORT = "importance.json"
_LITTLE = 0.5  # rank correlation of the left out, below which the evaluations do not tell enough
_RARE = 3  # evaluations of a choice, below which what is said of it rests on others
_HARDLY = 0.01  # share of the variance
_MOST_LISTED, _MOST_BARS, _MOST_PAIRS, _MOST_PANELS, _COLUMNS = 8, 24, 8, 24, 4


@dataclass(frozen=True)
class RunReport:
    """Holds what a run has learned about its space.

    Args:
        evaluations: what it has evaluated.
        importance: which decisions and choices matter.
        keep: choices to keep of the decisions that lose some.
        evidence: how ``keep`` came about.
    """

    evaluations: RunEvaluations
    importance: Importance
    keep: Mapping[str, Sequence[Hashable]]
    evidence: Mapping[str, Any]

    @property
    def factor(self) -> float:
        """Return what rewards are multiplied by where they are shown: 100 for shares, which are shown in points."""
        return 100.0 if is_share(self.evaluations.metric) else 1.0

    def is_kept(self, decision: str, choice: str) -> bool:
        """Return whether a choice, as text, is kept."""
        return decision not in self.keep or choice in map(str, self.keep[decision])


def inspect_evaluations(evaluations: RunEvaluations, share: float = 0.1, seed: int = 0) -> RunReport:
    """Return what the evaluations of a run tell about its space.

    Args:
        evaluations: of the run.
        share: of the space, the largest part that is to be kept.
        seed: seeds what is drawn to find out.

    Raises:
        InputError: fewer than 10 evaluations; a share outside (0, 1].
    """
    model = ScoreModel(evaluations, seed)
    keep, evidence = narrowed(model, share)
    return RunReport(evaluations, importance(model), keep, evidence)


def advice(report: RunReport, run: str) -> list[str]:
    """Return sentences: what to do next, and what rests on too few evaluations.

    Args:
        report: what was found out.
        run: folder of the run, as a command names it.
    """
    return [*_on_evidence(report), *_on_decisions(report.importance), *_on_part(report, run)]


def _on_evidence(report: RunReport) -> Iterator[str]:
    found = report.importance
    if found.rank_correlation < _LITTLE:
        yield (
            f"{counted(found.evaluations, 'evaluation')} tell little about the others (predicted from the rest, they "
            f"have a rank correlation of {found.rank_correlation:.2f} with what was measured): do not narrow the space "
            "yet, search on, or train with less noise"
        )
    rare = [
        f"{decision.name}={choice.choice}"
        for decision in found.decisions
        for choice in decision.choices
        if choice.evaluations < _RARE and len(decision.choices) > 1
    ]
    if rare:
        yield f"what is said of {_listed(rare)} rests on fewer than {_RARE} evaluations each, and on similar choices"


def _on_decisions(found: Importance) -> Iterator[str]:
    ranked = sorted(found.decisions, key=lambda decision: -decision.share.value)
    first = ranked[0]
    yield f"{first.name} matters most: {_percent(first.share)} of the variance of the scores"
    if small := [d.name for d in found.decisions if d.share.high < _HARDLY]:
        yield f"{', '.join(small)}: under {_HARDLY:.0%} of the variance by themselves"
    dominated = [f"{d.name}={c.choice}" for d in found.decisions for c in d.choices if c.is_dominated]
    if dominated:
        yield f"dominated, the best network has them with a probability under 5 %: {_listed(dominated)}"


def _on_part(report: RunReport, run: str) -> Iterator[str]:
    evidence = report.evidence
    size = report.evaluations.space.size
    of = f" of {size:,}" if size is not None else ""
    yield (
        f"a narrower space, {evidence['share']:.1%} of the architectures{of}, holds the best with a probability of "
        f"{evidence['probability_of_the_best']:.0%} by this model: nasenv train --space Narrowed --space.run {run}"
    )


def tables(report: RunReport) -> dict[str, TextTable]:
    """Return the tables of a report by title."""
    unit = "points" if report.factor == 100.0 else report.evaluations.metric
    ranked = sorted(report.importance.decisions, key=lambda decision: -decision.share.value)
    decisions = [[decision.name, _percent(decision.share)] for decision in ranked]
    pairs = [[" x ".join(names), _percent(share)] for names, share in report.importance.pairs.items()][:_MOST_PAIRS]
    choices = [
        [decision.name if not i else "", *_row(report, decision.name, choice)]
        for decision in ranked
        for i, choice in enumerate(decision.choices)
    ]
    heads = ["decision", "choice", "evaluations", f"worth ({unit})", "in the best", "kept"]
    found = {"Decisions": TextTable(["decision", "share of the variance (95 % interval)"], decisions)}
    if pairs:
        found["Pairs"] = TextTable(["decisions", "share beyond each by itself (95 % interval)"], pairs)
    return found | {"Choices": TextTable(heads, choices)}


def _row(report: RunReport, decision: str, choice: ChoiceWorth) -> list[str]:
    worth = "not drawn"
    if choice.worth is not None:
        value, low, high = (report.factor * part for part in (choice.worth.value, choice.worth.low, choice.worth.high))
        worth = f"{value:+.3g} ({low:+.3g} to {high:+.3g})"
    kept = "yes" if report.is_kept(decision, choice.choice) else "no"
    return [choice.choice, str(choice.evaluations), worth, f"{choice.in_best:.0%}", kept]


def write(folder: Path, report: RunReport, sentences: Sequence[str]) -> None:
    """Write figures, page and JSON into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"evidence": dict(report.evidence), "keep": report.keep, "importance": report.importance.to_json()}
    write_whole(folder / REPORT, json.dumps(values, indent=1, default=str, allow_nan=False) + "\n")
    kept = yaml.safe_dump(json.loads(json.dumps({"keep": report.keep, "evidence": report.evidence}, default=str)))
    title = f"{report.evaluations.run}: what it tells about {type(report.evaluations.space).__name__}"
    write_page(folder, title, sentences, tables(report), draw(report), "What is kept", kept)


def draw(report: RunReport) -> dict[str, Figure]:
    """Return the figures of a report by name."""
    return {"importance": _importance(report.importance), "choices": _scores_by_choice(report)}


def _importance(found: Importance) -> Figure:
    """Return the shares of the variance of the decisions and pairs that explain most, with their intervals."""
    bars = {decision.name: decision.share for decision in found.decisions}
    bars |= {" x ".join(names): share for names, share in list(found.pairs.items())[:_MOST_PAIRS]}
    ranked = sorted(bars.items(), key=lambda item: item[1].value)[-_MOST_BARS:]
    note = "Share of the variance of the scores over networks drawn at random; lines: 95 % intervals"
    figure = new_figure((5.4, 1.2 + 0.2 * len(ranked)), "Importance of decisions and pairs", note)
    axes = figure.add_subplot()
    values = 100 * np.array([[share.value, share.low, share.high] for _, share in ranked])
    places = np.arange(len(ranked))
    errors = np.abs(values[:, 1:] - values[:, :1]).T
    dress(axes, "share of the variance (%)", "")
    axes.barh(places, values[:, 0], xerr=errors, color="#56B4E9", error_kw={"lw": 0.8, "ecolor": INK})
    axes.set_yticks(places, labels=[one_line(name, 40) for name, _ in ranked])
    axes.set_xlim(left=0)
    return fix_layout(figure)


def _scores_by_choice(report: RunReport) -> Figure:
    """Return what was measured by choice, a panel for each of the decisions that matter most."""
    ranked = sorted(report.importance.decisions, key=lambda decision: -decision.share.value)[:_MOST_PANELS]
    columns = min(_COLUMNS, len(ranked))
    lines = math.ceil(len(ranked) / columns)
    note = "Dots: evaluated networks; lines: what the model expects of a choice, with its 95 % interval; grey: left out"
    figure = new_figure((2.3 * columns + 0.5, 1.9 * lines + 0.8), "Scores by choice", note)
    for number, decision in enumerate(ranked, 1):
        _panel(figure.add_subplot(lines, columns, number), report, decision)
    return fix_layout(figure)


def _panel(axes: Axes, report: RunReport, decision: DecisionImportance) -> None:
    evaluations, factor = report.evaluations, report.factor
    space = evaluations.space
    t = [d.name for d in space.decisions].index(decision.name)
    rows = np.array(evaluations.architectures, dtype=np.int64)
    taken = space.masks(rows)[:, t].sum(axis=1) > 1
    done = taken & ~evaluations.failed
    middle = float(np.mean(factor * evaluations.rewards[~evaluations.failed]))
    dress(axes, "", f"{evaluations.metric.replace('_', ' ')}{' (%)' if factor == 100.0 else ''}")
    texts = [str(choice) for choice in space.decisions[t].choices]
    for c, choice in enumerate(decision.choices):
        color = "#0072B2" if report.is_kept(decision.name, choice.choice) else GREY
        rewards = factor * evaluations.rewards[done & (rows[:, t] == texts.index(choice.choice))]
        places = c + 0.3 * (np.arange(len(rewards)) * 0.618034 % 1.0 - 0.5)
        axes.plot(places, rewards, ".", ms=3, color=color, alpha=0.6)
        if choice.worth is not None:
            low, high = (middle + factor * part for part in (choice.worth.low, choice.worth.high))
            axes.errorbar(c, (low + high) / 2, (high - low) / 2, color=INK, lw=1.2, capsize=4)
    axes.set_title(one_line(decision.name, 30), size=SMALL, color=INK)
    names = [one_line(choice.choice, 14) for choice in decision.choices]
    axes.set_xticks(range(len(names)), labels=names, rotation=30, ha="right", size=SMALL - 1.5)
    axes.set_xlim(-0.5, len(names) - 0.5)


def _percent(share: Estimate) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return f"{', '.join(names[:_MOST_LISTED])}{f' and {more} more' if more > 0 else ''}"
