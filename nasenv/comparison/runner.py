"""Does one run of a comparison: the search, its final scores, and its files."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray

from nasenv.agents.agent import Agent
from nasenv.cache.cache import Cache
from nasenv.comparison.problem import Problem
from nasenv.comparison.run import Run
from nasenv.configuration import digest
from nasenv.errors import AgentError, SearchStopped
from nasenv.records.run_directory import TRIALS
from nasenv.records.trials import TrialLog, measure_trials
from nasenv.search.pending import add_to_cache
from nasenv.search.search import Search
from nasenv.trial import Architecture, Purpose, Trial

if TYPE_CHECKING:
    from nasenv.records.tensorboard import TensorBoardWriter

_POINTS = 50  # of a curve in TensorBoard; writing some 100 takes as long as a search on a table
_HISTOGRAMS = 10  # of the scores
_DONE = "run.json"
_POLL_SECONDS = 0.2
_KINDS: tuple[Literal["confirm", "test"], ...] = ("confirm", "test")


@dataclass(frozen=True)
class RunKey:
    """Identifies a run by problem, agent and seed."""

    problem: str
    agent: str
    seed: int


class Runner:
    """Does the runs of a comparison, one at a time; every worker process has a copy.

    Args:
        problems: the problems by name.
        agents: the agents by name; each run uses a copy.
        folder: parent of the runs' folders: ``<problem>/<agent>/seed-<seed>``.
        cache: file or URL of measurements for the problems that train; None for no cache.
    """

    def __init__(
        self, problems: Mapping[str, Problem], agents: Mapping[str, Agent], folder: Path, cache: str | None = None
    ) -> None:
        self._stopped = torch.zeros((), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]  # by workers too
        self._problems, self._agents, self._folder, self._cache = problems, agents, folder, cache
        self._identities = {
            (p, a): digest([problem.identity(), agent.identity(), agent.source_digest()])
            for p, problem in problems.items()
            for a, agent in agents.items()
        }

    def path(self, key: RunKey) -> Path:
        """Return the path of the file that marks a run as done."""
        names = [quote(name, safe=" ") for name in (key.problem, key.agent)]
        return self._folder.joinpath(*names, f"seed-{key.seed}", _DONE)

    def identity(self, key: RunKey) -> str:
        """Return a hash of everything that the run follows from, except its seed."""
        return self._identities[key.problem, key.agent]

    def __call__(self, key: RunKey) -> Run | None:
        """Do a run, write its files, and return it; None if it was stopped and can be resumed.

        A search that trains stops when its training in flight is done; one on a table goes to its end, in seconds.
        """
        problem, path = self._problems[key.problem], self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        trains = problem.evaluator.trains
        opened = closing(Cache(self._cache, waits=True)) if trains and self._cache is not None else nullcontext(None)
        with opened as cache:
            search = self._search(key, cache, path.parent if trains else None)
            with search, self._watched(search, key):
                try:
                    run = self._searched(search, key)
                except SearchStopped:
                    return None
                self._record(run, search, path.parent)
        run.write(path, self.identity(key))
        return run

    def _search(self, key: RunKey, cache: Cache | None = None, run_dir: Path | None = None) -> Search:
        problem, agent = self._problems[key.problem], copy.deepcopy(self._agents[key.agent])
        parts = (problem.space, problem.evaluator, agent, problem.budget, problem.objective)
        return Search(*parts, cache=cache, seed=key.seed, run_dir=run_dir, constraints=problem.constraints)

    def cache_finished(self, done: Iterable[RunKey]) -> None:
        """Add the trainings of finished runs to the cache, whose server may have been away when they ended.

        Raises:
            InputError: the cache cannot be used, or its server does not answer.
        """
        if self._cache is None or not any(problem.evaluator.trains for problem in self._problems.values()):
            return
        with closing(Cache(self._cache)) as cache:
            for key in filter(self.trains, done):
                trained = self.path(key).with_name(TRIALS)
                if trained.exists():
                    with closing(TrialLog(trained, self._search(key).identity())) as log:
                        add_to_cache(log, self._problems[key.problem].evaluator, cache)

    def in_process(self) -> Self:
        """Return a copy for a process on another machine, which does one run at a time on the CPU.

        Raises:
            InputError: a problem would not be measured there as it is here.
        """
        other = copy.copy(self)
        other._problems = {name: problem.in_process(name) for name, problem in self._problems.items()}
        if self._cache is not None and "://" not in self._cache:
            other._cache = str(Path(self._cache).absolute())
        return other

    def in_folder(self, folder: Path) -> Self:
        """Return a copy that writes its runs into another folder."""
        other = copy.copy(self)
        other._folder = folder
        return other

    def trains(self, key: RunKey) -> bool:
        """Return whether a run trains networks; otherwise it takes seconds."""
        return self._problems[key.problem].evaluator.trains

    def stop(self) -> None:
        """Ask the current runs to stop early, in worker processes too."""
        self._stopped.fill_(True)

    def is_stopped(self) -> bool:
        """Return whether `stop` was called."""
        return bool(self._stopped)

    def _watched(self, search: Search, key: RunKey) -> AbstractContextManager[None]:
        """Return the context that stops a training search when `stop` is called in any process."""
        if not self.trains(key):
            return nullcontext()
        return call_when(self.is_stopped, lambda: search.stop("the comparison is stopped"), _POLL_SECONDS)

    def _record(self, run: Run, search: Search, directory: Path) -> None:
        """Write the run's TensorBoard; a search that trains has already written all but the end."""
        from nasenv.records.tensorboard import MEAN_OF, TensorBoardWriter  # TensorBoard takes a second to import

        metric = self._problems[run.problem].metric
        curves = _curves(run, metric, MEAN_OF)
        if search.record is not None:
            _write_finals(run, curves, search.record)
            return
        with closing(TensorBoardWriter(directory, live=False, metric=metric)) as record:
            record.layout()
            record.start_hparams(search.config())
            n = len(run.reward)
            for i in np.unique(np.linspace(0, n - 1, min(n, _POINTS)).round().astype(int)) if n else ():
                record.scalars(_known({tag: curve[i] for tag, curve in curves.items()}), int(i) + 1)
            for window in np.array_split(np.arange(n), min(n, _HISTOGRAMS)) if n else ():
                scores = run.val_score[window]
                if not np.isnan(scores).all():
                    record.score_histogram(scores[~np.isnan(scores)].tolist(), int(window[-1]) + 1)
            _write_finals(run, curves, record)

    def _searched(self, search: Search, key: RunKey) -> Run:
        started, fault = time.perf_counter(), None
        try:
            with _seeded(key.seed):
                search.run()
        except AgentError as error:
            fault = search.ended = str(error)
        if search.stopped is not None:
            raise SearchStopped(search.stopped)
        wall_seconds, history = time.perf_counter() - started, search.history
        final_val, test = _final_scores(search)
        made = np.flatnonzero(~history.are_looks(np.arange(len(history))))  # the evaluations among what was answered
        return Run(
            *(key.problem, key.agent, key.seed, str(search.ended), fault, wall_seconds),
            proposals=history.proposals,
            charged_seconds=history.charged_seconds,
            architectures=tuple(search.space.to_text(history.architectures[i]) for i in made.tolist()),
            proposal=history.proposal_numbers[made],
            seconds=history.seconds[made],
            reward=history.answers.rewards[made],
            val_score=history.answers.scores[made],
            final_val_score=final_val[made],
            test_score=test[made],
            early=fault is None and not search.budget.reached(history) and len(history) != search.space.size,
        )

    def give_up(self, key: RunKey, reason: str, wall_seconds: float) -> Run:
        """Write and return a run that failed with this reason and has no evaluations."""
        nothing = np.zeros(0)
        run = Run(
            *(key.problem, key.agent, key.seed, reason, reason, wall_seconds, 0, 0.0, ()),
            *(np.zeros(0, dtype=np.int64), nothing, nothing, nothing, nothing, nothing),
        )
        self.path(key).parent.mkdir(parents=True, exist_ok=True)
        run.write(self.path(key), self.identity(key))
        return run


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch, and restore their states at the end.

    Worker processes are forked from one: what an agent drew from these would be the same in every run.
    """
    word = int(np.random.SeedSequence(seed).generate_state(1)[0])
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002, an agent's may be of the old kind
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(gpus):
        random.seed(word)
        np.random.seed(word)  # noqa: NPY002
        torch.manual_seed(word)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002


@contextmanager
def call_when(asked: Callable[[], bool], act: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call ``act`` in a thread once ``asked`` returns True, polled every so many seconds."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(seconds):
            if asked():
                act()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _final_scores(search: Search) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return validation and test scores, (n,) each, after final training; nan if unknown.

    Of a table they are known for all architectures; where they cost trainings, the incumbent alone is trained again.
    """
    evaluator, history = search.evaluator, search.history
    final_val, test = np.full(len(history), np.nan), np.full(len(history), np.nan)
    indices, seeds = range(len(history)), range(1)
    if evaluator.trains:
        last = history.best.evaluation if history.best else 0
        indices, seeds = range(max(0, last - 1), last), range(search.budget.final_seeds)
    architectures = [evaluator.representative(history.architectures[i]) for i in indices]
    if architectures:
        final_val[indices], test[indices] = _trained_again(search, architectures, seeds)
    return final_val, test


def _trained_again(search: Search, architectures: list[Architecture], seeds: range) -> tuple[list[float], list[float]]:
    """Return the mean final validation and test scores of the architectures over the seeds, nan if unknown."""
    purposes: tuple[Purpose, ...] = ("confirm", "test")
    trials = [Trial(a, 1.0, purpose, seed) for purpose in purposes for a in architectures for seed in seeds]
    if search.evaluator.trains:
        found = measure_trials(search.evaluator, trials, search.trials, search.is_stopped)
    else:  # a table is asked in one go, which is most of what a run on it costs
        found = dict(zip(trials, search.evaluator.measure(trials), strict=True))
    confirmed, tested = (
        _means([[found[Trial(a, 1.0, purpose, seed)].score for seed in seeds] for a in architectures])
        for purpose in purposes
    )
    return confirmed, tested


def _means(rows: Iterable[Iterable[float | None]]) -> list[float]:
    known = [[value for value in row if value is not None] for row in rows]
    return [sum(values) / len(values) if values else np.nan for values in known]


def _curves(run: Run, metric: str, mean_of: int) -> dict[str, NDArray[np.float64]]:
    """Return the curves that TensorBoard shows, (n,) each, by tag; nan if unknown."""
    best = run.incumbents
    return {
        f"evaluation/best_val_{metric}": np.fmax.accumulate(run.val_score),
        f"evaluation/mean_val_{metric}": _moving_mean(run.val_score, mean_of),
        f"evaluation/val_{metric}": run.val_score,
        "search/reward": run.reward,
        "search/charged_seconds": run.seconds,
        "incumbent/reward": run.reward[best],
        f"incumbent/final_val_{metric}": run.final_val_score[best],
        f"incumbent/test_{metric}": run.test_score[best],
    }


def _moving_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the mean of the last known values up to each, (n,), of ``window`` at most; nan before the first."""
    known = np.flatnonzero(~np.isnan(values))
    sums = np.concatenate([[0.0], values[known].cumsum()])
    end = np.searchsorted(known, np.arange(len(values)), side="right")
    start = np.maximum(0, end - window)
    return np.where(end > 0, (sums[end] - sums[start]) / np.maximum(1, end - start), np.nan)


def _write_finals(run: Run, curves: Mapping[str, NDArray[np.float64]], record: TensorBoardWriter) -> None:
    """Write the final metrics for the HPARAMS tab, unless the run failed."""
    if len(run.reward) and run.error is None:
        ends = {tag.partition("/")[2]: curve[-1] for tag, curve in curves.items() if tag.startswith("incumbent/")}
        record.finish_hparams(_known({f"winner/{name}": end for name, end in ends.items()}))


def _known(values: Mapping[str, np.float64]) -> dict[str, float]:
    return {tag: float(value) for tag, value in values.items() if value == value}
