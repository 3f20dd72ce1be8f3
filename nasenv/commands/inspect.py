"""``nasenv inspect``: find out what a search space is, before a search."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path

import yaml
from rich.box import SIMPLE_HEAD

from nasenv.commands.terminal import Bar, Terminal, table_of
from nasenv.configuration import digest, without_derived
from nasenv.data.dataset import Data
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.files import user_path
from nasenv.inspection.advice import advice
from nasenv.inspection.run_evaluations import RunEvaluations
from nasenv.inspection.space_report import SpaceReport, inspect_space
from nasenv.records.run_directory import JOURNAL
from nasenv.spaces.space import SearchSpace

_LINES = 5  # number of lines of progress of each part that are printed if there is no terminal


def inspect(
    space: SearchSpace,
    evaluator: Evaluator,
    data: Data = Data(),  # noqa: B008, it is frozen
    evaluations: int = 200,
    train: int = 0,
    seconds: float = 60.0,
    seed: int = 0,
    output: str | None = None,
) -> None:
    """Find out what a search space is: size, costs, seconds of a training, and the distribution of scores.

    Size and different networks are counted, or estimated with an interval; params and FLOPs are those of 500
    architectures drawn at random; the seconds are predicted from 8 trainings. Warnings say what to do. ``nasenv inspect
    FOLDER FOLDER`` compares what was found out about two spaces, and ``nasenv inspect RUN`` finds out what a run tells
    about its space.

    Args:
        space: the search space.
        evaluator: the evaluator, which knows the costs and trains.
        data: data of the evaluator: digits, mnist5k, npz:FILE, folder:DIR, hub:NAME.
        evaluations: full trainings that a search of the space is to have.
        train: number of architectures, drawn at random, that are trained with two seeds each, however long that takes.
        seconds: limit of everything else; what is not done by then is left out.
        seed: seeds what is drawn.
        output: folder for the figures, the page and all numbers as JSON; by default under runs, named after the space.
    """
    from nasenv.inspection.page import write, write_report  # matplotlib takes half a second to import

    console = Terminal()
    if evaluator.dataset is not None:
        console.say(evaluator.dataset.summary())
    config = without_derived({"space": space.config(), "evaluator": evaluator.config(), "data": data.source})
    config |= {"evaluations": evaluations, "train": train, "seconds": seconds, "seed": seed}
    folder = user_path(output) if output is not None else Path("runs") / f"inspect-{digest(config)[:6]}"
    with evaluator, _Progress(console) as progress:
        report = inspect_space(space, evaluator, evaluations, train, seconds, seed, progress.say)
    sentences = advice(report)
    write_report(folder, report, json.loads(json.dumps(config, default=str)))
    text = yaml.safe_dump(config, sort_keys=False)
    write(folder, f"{report.space}: the space", {report.space: report}, sentences, text)
    _show(console, {report.space: report}, sentences)
    console.say(f"page: {folder / 'inspection.html'}; numbers: {folder / 'space.json'}")


def compare_spaces(folders: tuple[str, ...] = (), output: str | None = None) -> None:
    """Compare what was found out about search spaces, by their distributions of scores and costs.

    Args:
        folders: folders that ``nasenv inspect --output FOLDER`` has written, two or more; of one, its figures.
        output: folder for the figures and the page; by default they are not written.
    """
    from nasenv.inspection.page import read_report, write

    console = Terminal()
    paths = [user_path(folder) for folder in folders]
    reports = {str(path): read_report(path) for path in paths}
    if len({report.metric for report in reports.values()}) > 1:
        metrics = ", ".join(report.metric for report in reports.values())
        raise InputError(f"spaces scored by one metric can be compared, these are scored by {metrics}")
    sentences = [f"{name}: {sentence}" for name, report in reports.items() for sentence in advice(report)]
    _show(console, reports, sentences)
    if output is not None:
        write(user_path(output), "Search spaces compared", reports, sentences, "\n".join(folders))
        console.say(f"page: {user_path(output) / 'inspection.html'}")


def inspect_run(run: str, share: float = 0.1, seed: int = 0, output: str | None = None) -> None:
    """Find out what a run tells about its space: which decisions and choices matter, and which part to search next.

    Args:
        run: folder of a run, which may still be going on.
        share: of the space, the largest part that is to be kept.
        seed: seeds what is drawn to find out.
        output: folder for the figures, the page and all numbers as JSON; by default inspection, in the run's folder.
    """
    from nasenv.inspection.run_report import advice, inspect_evaluations, tables, write

    console = Terminal()
    report = inspect_evaluations(RunEvaluations.read(run), share, seed)
    sentences = advice(report, run)
    folder = user_path(output) if output is not None else user_path(run) / "inspection"
    write(folder, report, sentences)
    for title, (heads, rows) in tables(report).items():
        console.print(table_of(heads, rows, title, box=SIMPLE_HEAD))
    for sentence in sentences:
        console.explain(f"- {sentence}")
    console.say(f"page: {folder / 'inspection.html'}; numbers: {folder / 'importance.json'}")


def command_for(argv: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """Return the function for a command line of ``nasenv inspect``, and its words for it.

    It begins with the folder of a run, with folders of spaces that were inspected, or with options.
    """
    if not argv or argv[0].startswith("-"):
        return inspect, list(argv)
    if (user_path(argv[0]) / JOURNAL).exists():
        return inspect_run, list(argv)
    return compare_spaces, with_folders(argv)


def with_folders(argv: Sequence[str]) -> list[str]:
    """Return the words of a command line for `compare_spaces`: the folders in front become an option.

    >>> with_folders(["a", "b", "--output", "c"])
    ['--folders', '["a", "b"]', '--output', 'c']
    """
    folders = [*takewhile(lambda word: not word.startswith("-"), argv)]
    return ["--folders", json.dumps(folders), *argv[len(folders) :]]


class _Progress(ExitStack):
    """Draws a bar for each part of an inspection."""

    def __init__(self, console: Terminal) -> None:
        super().__init__()
        self._console, self._part = console, ""
        self._bar: Bar | None = None

    def say(self, part: str, done: int, of: int) -> None:
        """Show how much of a part is done."""
        if part != self._part:
            self.close()
            self._part, self._bar = part, self.enter_context(Bar(self._console, part, of, _LINES))
            self._bar.begin()
        if self._bar is not None:
            self._bar.show(done, "", f"{part}: {done:,} of {of:,}")


def _show(console: Terminal, reports: dict[str, SpaceReport], sentences: list[str]) -> None:
    from nasenv.inspection.page import table_rows

    console.print(table_of(["", *reports], table_rows(reports), "what was found", box=SIMPLE_HEAD))
    for sentence in sentences:
        console.explain(f"- {sentence}")
