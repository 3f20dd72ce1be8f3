"""A comparison runs agents on problems from several seeds, and keeps the runs that are done."""

from __future__ import annotations

import csv
import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote

from nasenv.agents.agent import Agent
from nasenv.comparison.problem import Problem
from nasenv.comparison.run import Run, Trajectory
from nasenv.comparison.runner import RunKey, Runner
from nasenv.errors import InputError, SearchStopped, counted
from nasenv.workers.pool import WorkerPool

_LONGEST_NAME = 200  # as written in a file's name, of 255 bytes, where an umlaut takes six
_COLUMNS = (
    *("problem", "agent", "seed", "evaluation", "proposal", "seconds", "architecture"),
    *("reward", "val_score", "final_val_score", "test_score"),
)


class Comparison:
    """Runs every agent on every problem, once for each seed.

    A run leaves its own folder below ``folder/runs``, and a comparison made again on the same folder does only what is
    not there yet: after it was killed, or with more seeds, agents or problems.

    Args:
        problems: the problems by name.
        agents: the agents by name.
        seeds: seeds of the searches.
        folder: folder for all files.
        cache: file or URL of measurements for the problems that train; None for no cache.

    Raises:
        InputError: nothing to compare, a folder that cannot be written, or one that holds runs of the same names and
            another configuration.
    """

    def __init__(
        self,
        problems: Mapping[str, Problem],
        agents: Mapping[str, Agent],
        seeds: range,
        folder: Path,
        cache: str | None = None,
    ) -> None:
        if not (problems and agents and len(seeds)):
            raise InputError("a comparison needs one or more problems, agents and seeds")
        for name in (*problems, *agents):
            _check_name(name)
        self.problems, self.agents, self.seeds, self.folder = problems, agents, seeds, folder
        self._stopped: str | None = None
        self._cache = cache
        self._runner = Runner(problems, agents, folder / "runs", cache)
        self.keys = [RunKey(p, a, s) for s in seeds for p in problems for a in agents]
        self.pending = [key for key in self.keys if not self._is_done(key)]

    def _is_done(self, key: RunKey) -> bool:
        path = self._runner.path(key)
        return path.exists() and Run.matches(path, self._runner.identity(key))

    def run(self, done: Callable[[Run], None], workers: int, timeout_seconds: float | None) -> None:
        """Do the runs that are missing; call it while the folder is ``held``.

        Args:
            done: called with each run once it is written.
            workers: processes that search side by side; 0 searches in this process, where no search can be timed out.
            timeout_seconds: wall time after which a search is taken to have stalled, and its agent is named; None is no
                limit.

        Raises:
            InputError: an evaluator that fails; an agent that does is named in the run.
            SearchStopped: it was stopped before all were done.
        """
        self._fill_cache()
        if workers == 0 or not self.pending:
            begun = takewhile(lambda _: not self._runner.is_stopped(), self.pending)
            self._collect(((key, self._runner(key)) for key in begun), done)
            return
        pool: WorkerPool[RunKey, Run | None] = WorkerPool(
            self._runner, min(workers, len(self.pending)), timeout_seconds
        )
        try:
            self._collect(pool.stream(self.pending, self._runner.give_up, self._runner.is_stopped), done)
        finally:
            pool.close()

    def run_on_ray(self, done: Callable[[Run], None], address: str | None, timeout_seconds: float | None) -> None:
        """Do the runs that are missing on a Ray cluster, each on one core of a node; see ``run``.

        Args:
            done: called with each run once it is written here.
            address: address of the cluster, as with `nasenv.RayEvaluator`; None starts Ray on this machine.
            timeout_seconds: wall time after which a search is taken to have stalled; None is no limit.

        Raises:
            InputError: an evaluator that fails; no such cluster, or it is lost; a cache that its nodes cannot see.
            SearchStopped: it was stopped before all were done.
        """
        trains = any(problem.evaluator.trains for problem in self.problems.values())
        if address is not None and trains and self._cache is not None and "://" not in self._cache:
            raise InputError(
                f"the machines of a cluster cannot share the file {self._cache} as a cache; give the URL of a "
                "PostgreSQL database with --cache, or none"
            )
        self._fill_cache()
        if self.pending:
            from nasenv.comparison.ray import RayRuns  # Ray is an extra

            with closing(RayRuns(self._runner, address, timeout_seconds)) as runs:
                self._collect(runs.stream(self.pending), done)

    def _fill_cache(self) -> None:
        pending = set(self.pending)
        self._runner.cache_finished(key for key in self.keys if key not in pending)

    def _collect(self, answers: Iterator[tuple[RunKey, Run | None]], done: Callable[[Run], None]) -> None:
        """Report each finished run to ``done``; raise SearchStopped if the comparison was stopped."""
        runs = 0
        for _, run in answers:
            if run is not None:
                runs += 1
                done(run)
        if self._stopped is not None and runs < len(self.pending):
            known = len(self.keys) - len(self.pending) + runs
            raise SearchStopped(f"{self._stopped}; {known} of {counted(len(self.keys), 'run')} done")

    def stop(self, reason: str) -> None:
        """Stop ``run`` early: running trainings end and are kept; searches on tables run to their end.

        It may be called from a signal handler or another thread. The same comparison, started again, goes on.
        """
        self._stopped = self._stopped or reason
        self._runner.stop()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against other comparisons until the end of the context or a crash.

        Raises:
            InputError: another one has it, or it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / "lock", "w", encoding="utf-8")  # noqa: SIM115, closed below
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                said = f"{self.folder} is in use by another comparison; wait for it or give another folder"
                raise InputError(said) from None
            yield

    def runs(self, problem: str) -> Iterator[Run]:
        """Yield the runs of a problem, read one at a time."""
        for key in self.keys:
            if key.problem == problem:
                yield Run.read(self._runner.path(key))

    def write_results(self, path: Path) -> dict[str, list[Trajectory]]:
        """Write a CSV row for each evaluation of each run, and return the trajectories by problem."""
        trajectories: dict[str, list[Trajectory]] = {problem: [] for problem in self.problems}
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for problem in self.problems:
                for run in self.runs(problem):
                    writer.writerows(_rows(run))
                    trajectories[problem].append(Trajectory.of(run))
        return trajectories


def _rows(run: Run) -> Iterator[list[object]]:
    columns = [run.proposal.tolist(), run.seconds.tolist(), run.architectures]
    for values in (run.reward, run.val_score, run.final_val_score, run.test_score):
        columns.append([None if v != v else v for v in values.tolist()])
    for evaluation, row in enumerate(zip(*columns, strict=True), 1):
        yield [run.problem, run.agent, run.seed, evaluation, *row]


def _check_name(name: str) -> None:
    """Raise InputError if the name of a problem or agent cannot be a file's name."""
    if not isinstance(name, str) or not name.isprintable() or not name.strip(". "):
        raise InputError(f"a problem or agent has a name of letters and digits, got {name!r}")
    if len(quote(name)) > _LONGEST_NAME:
        raise InputError(f"the name of a problem or agent is too long to be a file's: {name:.40}...")
