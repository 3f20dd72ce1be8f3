"""The seam between agents and the world: `Search.evaluate` keeps cache, budget, reward and record for all of them."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from nasenv.batch import before_unknown, within_evaluations, within_seconds
from nasenv.budget import Budget, integer
from nasenv.cache import Cache
from nasenv.errors import AgentError, BudgetExhausted, InputError, SearchStopped
from nasenv.evaluators.evaluator import Evaluator
from nasenv.history import Answers, Finding, History, Outcome
from nasenv.measuring import Measuring
from nasenv.objectives import Accuracy, Objective
from nasenv.replay import Replay
from nasenv.spaces.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from nasenv.record import Record
    from nasenv.run_directory import RunDirectory
    from nasenv.trials import TrialLog

_REFUSALS = 1000  # after which an agent is taken not to hear
_PICTURES = 4  # pictures of the choice shares in the course of a search

Resume = Literal["replay", "continue", "conclude"]
Listener = Callable[["Search", Outcome], None]


class Runs(Protocol):
    """What a search asks of an agent."""

    def run(self, search: Search) -> None:
        """Propose designs to ``search.evaluate`` until it raises `BudgetExhausted`."""

    def config(self) -> dict[str, Any]:
        """Return how the agent was made."""

    def identity(self) -> dict[str, Any]:
        """Return what of this changes its proposals."""


class Search:
    """One run of one agent on one problem.

    An agent sees ``space``, ``budget``, ``seed``, ``history`` and calls ``evaluate``; neither the evaluator nor test
    data are within its reach. With a run directory, every evaluation is in its journal before the agent sees the
    reward, and a search made again on the same directory answers from the journal until that is used up.

    Args:
        space: what is searched.
        evaluator: what measures a design; made for this space.
        agent: what ``run`` runs; None where something else calls ``evaluate``.
        budget: when it is over.
        objective: measurement -> reward; validation accuracy by default.
        cache: measurements shared with other searches; None for this search's own alone.
        seed: seeds the agent; 0 or more.
        run_dir: folder for configuration, journal and TensorBoard; None writes nothing.
        listeners: called as ``listener(search, outcome)`` on every answer, repeats too.
        start: designs that ``run`` evaluates before the agent proposes its first; the agent finds them in ``history``.
        resume: what is done with the journal of an earlier start. replay: the agent runs again from its seed, is
            answered from the journal, and goes on. continue: it starts afresh, and what was measured costs nothing;
            the journal is set aside. conclude: it is answered from the journal, at whose end the search is over.

    Attributes:
        ended: why the search is over; None while it is not.
        stopped: why it was stopped before; None where it was not.
        notices: what a user is to know of the run directory, a line each.
        say: told in words what the search waits for, other searches on its cache; None is silence.

    Raises:
        InputError: a start that is no design of the space; a run directory of another configuration, in use, damaged,
            or not writable.
    """

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator,
        agent: Runs | None = None,
        budget: Budget | None = None,
        objective: Objective | None = None,
        cache: Cache | None = None,
        seed: int = 0,
        run_dir: str | Path | None = None,
        listeners: Iterable[Listener] = (),
        start: Sequence[Architecture] = (),
        resume: Resume = "replay",
    ) -> None:
        if evaluator.space is not space and evaluator.space.fingerprint() != space.fingerprint():
            raise InputError("the evaluator was made for another space than the search's; make it with this one")
        self.space, self.agent, self.seed = space, agent, integer("seed", seed, least=0)
        self.budget = budget or Budget()
        self.objective = objective or Accuracy()
        self.history = History()
        self.ended: str | None = None
        self.stopped: str | None = None
        self.say: Callable[[str], None] | None = None
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.listeners = list(listeners)
        self.start = space.check_all(start)
        self._evaluator = evaluator
        self._space_size = space.size
        self._fault: BaseException | None = None
        self._refusals = 0
        self._since: float | None = None  # when it began to do more than repeat, on the monotonic clock
        self._deadline: threading.Timer | None = None
        self._replay: Replay | None = None
        self._files = self._open(self.run_dir, resume) if self.run_dir is not None else None
        if self._files is not None:
            self._replay = Replay(self._files.journal, space, self.objective)
        self._concluding = resume == "conclude"
        trials, aside = (self._files.trials, self._files.set_aside) if self._files is not None else (None, {})
        self._measuring = Measuring(evaluator, self.objective, cache, trials, aside, self._said)

    def _open(self, run_dir: Path, resume: Resume) -> RunDirectory:
        from nasenv.run_directory import RunDirectory  # TensorBoard and matplotlib take a second to import

        parts = (run_dir, self.config(), self.identity(), self._evaluator.trains, resume == "continue")
        return RunDirectory(*parts, clock=lambda: self.seconds)

    def config(self) -> dict[str, Any]:
        """Return the configuration in plain values; `without_derived`, it is what ``nasenv train --config`` reads."""
        agent = {"agent": self.agent.config()} if self.agent is not None else {}
        start = {"start_from": [self.space.to_text(design) for design in self.start]} if self.start else {}
        return {
            "space": self.space.config(),
            "evaluator": self._evaluator.config(),
            **agent,
            "objective": self.objective.config(),
            "budget": asdict(self.budget),
            "seed": self.seed,
            **start,
        }

    def identity(self) -> dict[str, Any]:
        """Return what a journal belongs to: the configuration, without what changes no outcome, and fingerprints."""
        dataset = self._evaluator.dataset
        data = {"data": dataset.fingerprint} if dataset is not None else {}
        agent = {"agent": self.agent.identity()} if self.agent is not None else {}
        return {
            **self.config(),
            "space": self.space.identity(),
            "evaluator": self._evaluator.identity(),
            **agent,
            "budget": self.budget.identity(),
            "fingerprint": {"space": self.space.fingerprint(), "evaluator": self._evaluator.fingerprint(), **data},
        }

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator, once the search is over: test data are out of an agent's reach."""
        if self.ended is None:
            raise AgentError("the evaluator is not to be used before the search is over; call evaluate")
        return self._evaluator

    @property
    def remaining(self) -> int | None:
        """Number of evaluations left in the budget; None where there is no limit."""
        return self.budget.remaining(self.history)

    @property
    def replayed(self) -> int:
        """Number of evaluations still to be answered from the journal of an earlier, interrupted run."""
        return 0 if self._replay is None else len(self._replay)

    @property
    def notices(self) -> list[str]:
        """What a user is to know of the run directory, a line each."""
        return [] if self._files is None else self._files.notices

    def stop(self, reason: str) -> None:
        """Ask the search to end early: trainings in flight are waited for and kept, then ``evaluate`` raises.

        It may be called from a signal handler or another thread. The same search, started again, goes on.

        Args:
            reason: why, for ``stopped``.
        """
        self.stopped = self.stopped or reason

    def is_stopped(self) -> bool:
        """Return whether the search was asked to end early."""
        return self.stopped is not None

    def prepare(self) -> None:
        """Start the evaluator's workers now, so that the first evaluation does not wait for them."""
        self._evaluator.start()

    def run(self) -> None:
        """Let the agent search until the budget is used up.

        It returns too where it is stopped before: ``stopped`` tells.

        Raises:
            AgentError: the agent raised, or broke its contract; the journal holds every evaluation made.
        """
        if self.agent is None:
            raise InputError("this search has no agent to run; give it one, or call evaluate")
        name = type(self.agent).__name__
        try:
            if self._concluding:
                self._conclude_journal()
            if self.start:
                self.evaluate(self.start)
            self.agent.run(self)
        except BudgetExhausted:
            pass
        except (Exception, SystemExit) as error:  # an agent that exits would end the program in silence
            if self._fault is not None:  # the agent may have wrapped it
                raise self._fault from None
            if isinstance(error, InputError):
                raise AgentError(f"agent {name}: {error}; after {len(self.history)} evaluations") from error
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {' '.join(str(error).split())} ({where.filename}, line {where.lineno})"
            raise AgentError(f"agent {name} raised {reason} after {len(self.history)} evaluations") from error
        if self._fault is not None:  # the agent has swallowed it
            raise self._fault
        if self.stopped is None and self._replay is not None:
            self._replay.check_used_up(len(self.history))
        if self.ended is None and self.stopped is None:
            self.ended = f"agent {name} stopped by itself"

    def _conclude_journal(self) -> None:
        """Take in what the journal holds, whatever the agent would do now, and end the search."""
        for design in self._replay.designs() if self._replay is not None else ():
            self.evaluate([design])
        self.ended = self.ended or f"concluded as asked for, after {len(self.history)} evaluations"
        raise BudgetExhausted(self.ended)

    def evaluate(self, architectures: Sequence[Architecture] | NDArray[np.integer[Any]]) -> Answers:
        """Measure, reward and record designs, and return the outcomes in their order.

        A design that this search has seen before is a repeat, free unless the budget says otherwise. Where the budget
        does not reach for all, those before the first that does not fit are still measured and recorded.

        Args:
            architectures: n valid designs of the space: a sequence of tuples, or an integer array (n, T).

        Raises:
            BudgetExhausted: the search is over.
            SearchStopped: it was stopped, and is not over.
            AgentError: something that is not a design of the space was proposed.
        """
        designs, new = self._checked(architectures)
        try:
            self._end_if_over()
            self._begin()
            payable = within_evaluations(designs, new, self.budget, self.history)
            if len(payable) < len(designs):
                new = self.history.unknown(payable)
            found = self._replayed(new)
            replayed = len(found)
            within = within_seconds(payable, new, found, self.budget, self.history)
            if within is None and len(new) > replayed:
                found |= self._measuring.measure(new[replayed:], self.is_stopped)
                payable = before_unknown(payable, new, found)
                within = within_seconds(payable, new, found, self.budget, self.history)
            answers = self._take(payable if within is None else within, found, set(new[replayed:]))
            if len(answers) < len(designs):
                self._end_if_over()
            return answers
        except BudgetExhausted:
            raise
        except (Exception, SystemExit) as error:  # ours, not the agent's, though it passes through the agent
            if self._fault is not None:
                raise
            self._fault = error
            raise

    def _said(self, text: str) -> None:
        if self.say is not None:
            self.say(text)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Write an agent's own scalars to TensorBoard, at the current evaluation."""
        if self.record is not None:
            self.record.scalars(scalars, len(self.history))

    @property
    def record(self) -> Record | None:
        """The search's TensorBoard; None without a run directory."""
        return None if self._files is None else self._files.record

    def restore(self) -> None:
        """Write again what somebody deleted of the run directory in the course of the search."""
        if self._files is not None:
            self._files.restore()

    @property
    def trials(self) -> TrialLog | None:
        """Every training made so far; None without a run directory, or where measurements cost none."""
        return None if self._files is None else self._files.trials

    def close(self) -> None:
        """Let go of the run directory and of the evaluator's workers."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._evaluator.close()
        if self._files is not None:
            self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(
        self, architectures: Sequence[Architecture] | NDArray[np.integer[Any]]
    ) -> tuple[list[Architecture], list[Architecture]]:
        """Return the designs as tuples of ints, and those of them that are new to the search, checked, each once."""
        if not isinstance(architectures, Sequence | np.ndarray) or not len(architectures):
            raise AgentError(f"proposed {architectures!r:.80}, expected one or more designs of the space")
        designs = architectures.tolist() if isinstance(architectures, np.ndarray) else architectures
        try:
            given = list(map(tuple, designs))
            new = self.history.unknown(given)
            if not new:
                return given, new
            checked = dict(zip(new, self.space.check_all(new), strict=True))
            return [checked.get(design, design) for design in given], list(checked.values())
        except InputError as error:
            raise AgentError(f"proposed a design that is not one of the space: {error}") from error
        except (TypeError, ValueError) as error:
            raise AgentError(f"proposed something that is not a design: {error}") from error

    def _begin(self) -> None:
        """Start the clocks, where they do not run yet."""
        if self._since is None and not self.replayed:
            self._since = time.monotonic()
        if self._deadline is None and self.budget.wall_seconds is not None:
            said = f"the budget of {self.budget.wall_seconds:g} wall seconds is used up"
            seconds = min(self.budget.wall_seconds, threading.TIMEOUT_MAX)
            self._deadline = threading.Timer(seconds, self.stop, [said])
            self._deadline.daemon = True
            self._deadline.start()

    def _end_if_over(self) -> None:
        if self.stopped is not None:
            raise self._refused(SearchStopped(self.stopped))
        if self.ended is None:
            self.ended = self.budget.spent(self.history)
        if self.ended is None and len(self.history) == self._space_size:
            self.ended = f"all {self._space_size} designs of the space are evaluated"
        if self.ended is not None:
            raise self._refused(BudgetExhausted(self.ended))

    def _refused(self, error: BudgetExhausted) -> BaseException:
        """Return the error, or, where the agent goes on and on after it, one that it is not likely to catch."""
        self._refusals += 1
        if self._refusals <= _REFUSALS:
            return error
        self._fault = AgentError(
            f"agent {type(self.agent).__name__} goes on proposing after the search is over: {error}"
        )
        return SystemExit(str(self._fault))

    def _replayed(self, designs: Sequence[Architecture]) -> dict[Architecture, Finding]:
        """Return what the journal still has to say, of the first of the designs."""
        if self._replay is None or not self.replayed:
            return {}
        return self._measuring.learn({design: self._replay.answer(design) for design in designs[: self.replayed]})

    def _take(
        self, designs: Sequence[Architecture], found: Mapping[Architecture, Finding], new: Collection[Architecture]
    ) -> Answers:
        """Return the answers to the designs, recorded, and those of the new ones journaled."""
        files, spent = self._files, self.history.train_seconds

        def hear(outcome: Outcome) -> None:
            if files is not None and not outcome.repeat and outcome.architecture in new:
                files.journal.add(outcome, self.space.to_text(outcome.architecture), self.seconds)
            self._tell(outcome)

        heard = hear if files is not None or self.listeners else None
        answers = self.history.take(designs, found, self.budget.charge_repeats, heard)
        if files is not None and self._evaluator.trains and new and self.history.train_seconds > spent:
            files.journal.sync()
        return answers

    def _tell(self, outcome: Outcome) -> None:
        if self.record is not None and not outcome.repeat:
            self.record.evaluation(self.history, outcome)
            every = self.budget.evaluations and max(1, self.budget.evaluations // _PICTURES)
            if every and outcome.evaluation % every == 0:
                self.record.choice_shares(self.space, self.history)
        for listener in self.listeners:
            listener(self, outcome)

    @property
    def seconds(self) -> float:
        """Wall time that the search has taken, in all its starts, since its first proposal."""
        earlier = 0.0 if self._replay is None else self._replay.seconds
        return earlier if self._since is None else earlier + time.monotonic() - self._since
