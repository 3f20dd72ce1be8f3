"""``nasenv train``: search for an architecture, then train, test and export the best one."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from nasenv.agents.agent import Agent
from nasenv.cache.cache import Cache
from nasenv.commands.terminal import (
    FinalProgress,
    ReplayTime,
    SearchProgress,
    Terminal,
    shown_outcome,
    spent_text,
    stopping,
    table_of,
    waiting,
)
from nasenv.configuration import digest
from nasenv.data.dataset import Data
from nasenv.errors import InputError, SearchStopped, counted
from nasenv.evaluators.evaluator import Evaluator
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.files import read_whole, user_path, write_whole
from nasenv.objectives import Objective
from nasenv.records.journal import Journal
from nasenv.records.run_directory import JOURNAL, TRIALS
from nasenv.records.trials import TrialLog
from nasenv.results.conclude import clear, conclude, final_trainings, most_trainings
from nasenv.results.result import RESULT, Result, table
from nasenv.results.verdict import verdict
from nasenv.search.budget import Budget
from nasenv.search.pending import add_to_cache
from nasenv.search.search import Resume, Search
from nasenv.spaces.space import SearchSpace
from nasenv.task import shown_score
from nasenv.trial import Architecture

_PARTIAL_RESULT = "partial_result.json"  # of a search that was stopped
_LONGEST_START = 1 << 26  # bytes
_LONGEST_DATA = 40  # characters of the data set's name in the name of a run
_SMALL_SHARE = 0.01  # per cent of a space that a budget covers, below which it is not said how small
_SMALL = 0.001  # share of a search's time, below which a part is not printed


def train(
    space: SearchSpace,
    evaluator: Evaluator,
    agent: Agent,
    objective: Objective,
    budget: Budget,
    data: Data = Data(),  # noqa: B008, it is frozen
    seed: int = 0,
    run_dir: str | None = None,
    cache: str = "runs/cache.db",
    start_from: list[str] | str | None = None,
    constraints: list[str] | str | None = None,
    resume: Resume = "replay",
) -> None:
    """Search for an architecture, then train, test and export the best one.

    Args:
        space: the search space.
        evaluator: the evaluator, which measures architectures.
        agent: the agent, which proposes architectures.
        objective: measurement -> reward.
        budget: limits of the search.
        data: data of the evaluator: digits, mnist5k, npz:FILE, folder:DIR, hub:NAME.
        seed: seed of the agent.
        run_dir: folder of the run; by default under runs, named after the configuration.
        cache: file of measurements shared by searches, or postgresql://user@host:port/database for searches on several
            machines; none for no cache.
        start_from: architectures to evaluate before the agent's first proposal: a file with one on each line, as runs
            print them, or a list in a --config file.
        constraints: limits on what a network costs, as '[params<=1e5, flops<=2e7]'; one that breaks any is not trained.
        resume: use of the journal of an earlier, interrupted start. replay: the agent runs again from its seed, is
            answered from the journal, and continues. continue: the agent starts afresh, and known measurements cost
            nothing. conclude: the search ends where the journal ends; the best architectures are trained and tested.
    """
    console = Terminal()
    with contextlib.ExitStack() as stack:
        store = None if cache == "none" else stack.enter_context(Cache(cache))
        start = starting_architectures(space, start_from)
        parts = (space, evaluator, agent, budget, objective)
        plan = Search(*parts, None, seed, start=start, constraints=constraints)
        folder = user_path(run_dir) if run_dir is not None else Path("runs") / run_name(plan.identity())
        if evaluator.dataset is not None:
            console.say(evaluator.dataset.summary())
        if (folder / RESULT).exists():
            if not (folder / JOURNAL).exists():
                raise InputError(f"{folder} holds a {RESULT} but no {JOURNAL}; give another run_dir")
            Journal(folder / JOURNAL, plan.identity()).close()  # refuses the result of another configuration
            if store is not None and (folder / TRIALS).exists():
                with contextlib.closing(TrialLog(folder / TRIALS, plan.identity())) as trials:
                    add_to_cache(trials, evaluator, store)
            console.say(f"{folder} is finished; this is its result. Give another --seed or --run_dir for another run.")
            result = Result.read(folder / RESULT)
            clear(folder)  # the process may have been killed after it wrote the result
            with contextlib.suppress(OSError):
                (folder / _PARTIAL_RESULT).unlink(missing_ok=True)
        else:
            search = Search(*parts, store, seed, folder, (), start, resume, constraints=constraints)
            result = run_and_conclude(stack.enter_context(search), console)
    _print_result(result, folder, console)
    _print_hints(space, data, folder, console)


def run_name(config: Mapping[str, Any]) -> str:
    """Return the name of a run, made from its configuration, so that the same command finds the run again."""
    data = str(config.get("data", {}).get("source", config["evaluator"]["class_path"].rpartition(".")[2]))
    parts = [
        config["space"]["class_path"].rpartition(".")[2],
        data.rstrip("/")[-_LONGEST_DATA:],  # the end of a path says most; a file's name has at most 255 bytes
        config["agent"]["class_path"].rpartition(".")[2],
        f"s{config['seed']}",
        digest(config)[:6],
    ]
    return re.sub(r"[^a-z0-9_.-]+", "-", "-".join(parts).lower())


def starting_architectures(space: SearchSpace, start_from: Sequence[str] | str | None) -> list[Architecture]:
    """Return the architectures of a list, or of a file with one on each line, without empty lines and comments (#).

    Raises:
        InputError: the file does not exist; a line is not an architecture of the space; there is no architecture.
    """
    if start_from is None:
        return []
    lines, where = start_from, "start_from"
    if isinstance(start_from, str):
        try:
            lines, where = (
                read_whole(user_path(start_from), _LONGEST_START).decode("utf-8-sig").splitlines(),
                start_from,
            )
        except UnicodeDecodeError as error:
            raise InputError(f"start_from {start_from} cannot be read: {error}") from error
    architectures = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                architectures.append(space.from_text(line.strip()))
            except InputError as error:
                raise InputError(f"{where}, line {number}: {error}") from error
    if not architectures:
        raise InputError(f"{where}: expected one or more architectures, one on each line, got none")
    return architectures


def coverage(space: SearchSpace, budget: Budget, constrained: bool = False) -> str:
    """Return a text on the share of the space that the budget covers, and on what random search would find.

    What it would find under constraints is not known before a search, nor how much of the space they leave.
    """
    size, n = space.size, budget.evaluations
    known = counted(size, "architecture") if size is not None else f"more than {space.most_listed:,} architectures"
    text = f"{type(space).__name__}: {known} of {counted(space.num_decisions, 'decision')}"
    if n is None:
        limit = f"is {counted(budget.charged_seconds, 'charged second')}" if budget.charged_seconds else "has no limit"
        return f"{text}; the budget {limit}"
    if size is not None and n >= size:
        return f"{text}; the budget of {n:,} covers them all, so every agent without repeats finds the best"
    share = 100 * n / (size or space.most_listed)
    covered = f"{share:.2g} %" if size is not None and share >= _SMALL_SHARE else f"less than {max(share, 0.01):.2g} %"
    text = f"{text}; the budget of {n:,} covers {covered} of them."
    if constrained:
        return text
    parts = {f"one of the best {100 * s:g} %": s for s in (0.01, 0.001) if size is None or s * size >= 1}
    chances = [
        f"{what} with a probability of {100 * _chance(part, n, size):.0f} %"
        for what, part in (parts or {"the best one": 0.0}).items()
    ]
    random = f"Random search would find {', '.join(chances)}: the agent has to beat that."
    return f"{text}\n{random}"


def _limits_text(search: Search) -> str:
    """Return a text on what the constraints of a search mean for its budget."""
    most, evaluations = search.budget.looks_per_evaluation, search.budget.evaluations
    looks = "any number of looks" if most is None else f"up to {counted(most, 'look')} for each evaluation"
    if most is not None and evaluations is not None:
        looks = f"up to {counted(most * evaluations, 'look')} beside the evaluations"
    return f"What breaks {', '.join(search.constraints.texts)} is not trained: {looks}."


def _chance(share: float, n: int, size: int | None) -> float:
    """Return the chance that n different random architectures hold one of the best share, one at least."""
    if size is None:
        return 1 - (1 - share) ** n
    best = max(1, int(share * size))
    return 1 - math.prod(max(0, size - best - i) / (size - i) for i in range(n))


def run_and_conclude(search: Search, console: Terminal) -> Result:
    """Run a search, print its progress, and return its result; raise SearchStopped if it is stopped."""
    console.explain(coverage(search.space, search.budget, bool(search.constraints.texts)))
    if search.constraints.texts:
        console.explain(_limits_text(search))
    if search.trials is not None:  # it trains
        finals, tests = (f"{n:,}" for n in most_trainings(search.space, search.budget))
        console.explain(f"After the search there are up to {finals} final trainings and {tests} test trainings.")
    search.on_wait = console.say
    for notice in search.files.notices if search.files is not None else ():
        console.say(f"note: {notice}")
    try:
        with stopping(search.stop):
            result = _run(search, console)
    except SearchStopped as error:
        reason = search.stopped or str(error)
        _write_partial_result(search, reason, console)
        raise SearchStopped(reason) from None
    _partial_result_path(search).unlink(missing_ok=True)
    return result


def _run(search: Search, console: Terminal) -> Result:
    resumed = bool(search.replayed)
    if resumed:
        console.say(f"resuming from the journal of {search.run_dir}: {counted(search.replayed, 'evaluation')}")
    with contextlib.ExitStack() as stack:
        if search.trials is not None:  # it trains
            stack.enter_context(waiting(console, "setting up workers"))
        search.prepare()
    if resumed:
        search.callbacks.append(ReplayTime(console, search.replayed))
    if not console.is_terminal:
        console.say(f"searching with {type(search.agent).__name__}")
    with SearchProgress(console, search.budget) as progress:
        search.callbacks.append(progress)
        search.run()
    if search.stopped is not None:
        raise SearchStopped(search.stopped)
    cached = f"; {counted(search.history.cached, 'score')} known from the cache" if search.history.cached else ""
    console.say(f"{search.ended} ({search.seconds:.0f} s{cached})")
    _show_times(search, console, resumed)
    if not search.evaluator.trains:
        return conclude(search)
    with FinalProgress(console, search) as progress:
        console.explain(_what_follows(search, progress))
        return conclude(search, progress)


def _what_follows(search: Search, progress: FinalProgress) -> str:
    """Return a text on the trainings after a search, with the time that those in the search let expect."""
    evaluator, budget = search.evaluator, search.budget
    trials, tests = final_trainings(search)
    finalists, seeds = min(budget.finalists, search.history.evaluations), counted(budget.final_seeds, "seed")
    best = "the best architecture" if finalists == 1 else f"the best {finalists:,} architectures"
    time = ""
    if isinstance(evaluator, TrainingEvaluator):
        longer = evaluator.final_recipe.epochs / evaluator.recipe.epochs * (1 + tests / len(trials))
        slower = sum(evaluator.worker_seconds.values()) / (search.history.train_seconds or math.inf)  # than processors
        seconds = sum(progress.expected(trials).values()) * longer * max(1.0, slower) / evaluator.slots
        time = f", about {timedelta(seconds=math.ceil(seconds))} in all"
    return (
        f"training {best}, and what they are compared with, for longer, with {seeds} each: "
        f"{counted(len(trials), 'final training')}, then up to {counted(tests, 'test training')}{time}"
    )


def _show_times(search: Search, console: Terminal, resumed: bool) -> None:
    """Print the parts of this start's time, the largest first, and why trainings on a GPU used no CUDA graph."""
    evaluator, spent = search.evaluator, search.where_time_went()
    whole = sum(spent.values()) or 1.0
    workers = f", up to {counted(evaluator.slots, 'training')} at a time" if evaluator.worker_seconds else ""
    shown = Table(Column("part"), Column("seconds", justify="right"), Column("share", justify="right"))
    for part, seconds in spent.items():
        if seconds >= _SMALL * whole:
            shown.add_row(part, f"{seconds:.1f}", f"{100 * seconds / whole:.1f} %")
    since = "time since it was resumed" if resumed else "time of the search"
    console.say(f"{since} by part{workers}, {whole:.0f} s in all:")
    console.print(shown)
    for reason, trainings in evaluator.eager.items():
        console.say(f"not captured as a CUDA graph: {counted(trainings, 'training')}: {reason}")


def _write_partial_result(search: Search, reason: str, console: Terminal) -> None:
    """Write and print the best architectures of a search that was stopped."""
    best = [
        {"architecture": search.space.to_text(o.architecture), "reward": o.reward, **o.measurement.to_json()}
        for o in search.history.top(search.budget.finalists)
    ]
    made = {"evaluations": search.history.evaluations, "spent": search.history.spent}
    result = {"stopped": reason, **made, "best": best}
    path = _partial_result_path(search)
    write_whole(path, json.dumps(result, indent=1) + "\n")
    trainings = f", {counted(len(search.trials.measurements), 'training')} saved" if search.trials is not None else ""
    if search.replayed:  # the cost of those that are not replayed yet is unknown here
        done = counted(len(search.history) + search.replayed, "evaluation")
    else:
        done = spent_text(search.history, search.budget.evaluations)
    console.say(f"{done} in the journal{trainings}; the best architectures are in {path}")
    if best:
        shown = shown_outcome(search, search.history.top(1)[0])
        console.say(f"best architecture: {best[0]['architecture']}, {shown}")
    console.say("the same command resumes the search; --resume conclude trains and tests the best architectures now")


def _partial_result_path(search: Search) -> Path:
    return Path(search.run_dir or ".") / _PARTIAL_RESULT


def _print_result(result: Result, folder: Path, console: Terminal) -> None:
    seeds = max(len(contender.validation_scores) for contender in (result.winner, *result.others))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    console.print(table_of(*table(result), title=f"final trainings: {spread}"))
    console.say(f"winner: {result.winner.text}")
    for sentence in verdict(result):
        console.explain(sentence)
    network = "the saved network" if (folder / "model").exists() else "the winner"
    tested = len(result.winner.test_scores)
    which = f" (the first of {tested} seeds)" if tested > 1 else ""
    console.say(f"test {result.metric} of {network}{which}: {shown_score(result.test_score, result.metric)}")
    known = ("model", "architecture.png", RESULT, JOURNAL)
    left = [f"{name}/" if (folder / name).is_dir() else name for name in known if (folder / name).exists()]
    console.say(f"files in {folder}: {', '.join(left)}")


def _print_hints(space: SearchSpace, data: Data, folder: Path, console: Terminal) -> None:
    """Print commands that use what a run left; they run as they stand there."""
    if (folder / "model").exists():  # evaluators that do not train save none
        own = [] if space.whole.own_code is None else ["--space", space.whole.own_code]
        skip = ["--skip_unreadable", "true"] if data.skip_unreadable else []
        command = _command_line("nasenv", "predict", folder, data.source, *own, *skip)
        console.say(f"use the network:      {command}")
        console.say(f"for other pictures:   a picture's file, folder:DIR or npz:FILE in place of {data.source}")
    console.say(f"look at the search:   {_command_line('tensorboard', '--logdir', folder.parent)}")


def _command_line(name: str, *arguments: str | Path) -> str:
    """Return the command line of a program of this environment, by path if the shell does not find its name."""
    beside = Path(sys.executable).with_name(name)
    program = name if shutil.which(name) or not beside.exists() else os.path.relpath(beside)
    return shlex.join([program, *map(str, arguments)])
