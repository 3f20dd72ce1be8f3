"""The seam between agents and the world: `Search.evaluate` keeps cache, budget, reward and record for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from nasenv.cache.cache import Cache
from nasenv.errors import AgentError, BudgetExhausted, InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.objectives import Accuracy, Objective
from nasenv.records.replay import Course, Replay
from nasenv.search.answering import Answering
from nasenv.search.asynchronous import Answerable, fill
from nasenv.search.batch import before_unknown, within_evaluations, within_seconds
from nasenv.search.budget import Budget, integer
from nasenv.search.designs import Designs, checked
from nasenv.search.ending import Ending
from nasenv.search.history import Answers, Finding, History, Outcome
from nasenv.search.in_flight import InFlight
from nasenv.search.known import Known
from nasenv.search.measuring import Measuring
from nasenv.search.setup import Configured, Setup
from nasenv.search.times import EVALUATION, Times, where_it_went
from nasenv.search.trainings import Trainings
from nasenv.spaces.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from nasenv.records.run_directory import RunDirectory
    from nasenv.records.tensorboard import TensorBoardWriter
    from nasenv.records.trials import TrialLog

Resume = Literal["replay", "continue", "conclude"]
Listener = Callable[["Search", Outcome], None]


class Runs(Configured, Protocol):
    """What a search asks of an agent."""

    def run(self, search: Search) -> None:
        """Propose designs to ``search.evaluate`` until it raises `BudgetExhausted`."""


class Search:
    """One run of one agent on one problem.

    An agent sees ``space``, ``budget``, ``seed``, ``history``, ``representative`` and calls ``evaluate``; neither the
    evaluator nor test data are within its reach. With a run directory, every evaluation is in its journal before the
    agent sees the reward, and a search made again on the same directory answers from the journal until that is used up.

    Without an agent, and with a budget that sets no limit, a search is never over: repeats are answered for ever, also
    of a space whose designs are all evaluated. Any other is over by its budget, where it is only asked for repeats, and
    once all designs are evaluated.

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
        course: how an asynchronous search is to go: on so many slots, answered in this order as far as its agent
            proposes the same again.

    Attributes:
        times: wall time of this start by part: controller, bookkeeping, evaluation, cache, logging.
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
        course: Course | None = None,
    ) -> None:
        if evaluator.space is not space and evaluator.space.fingerprint() != space.fingerprint():
            raise InputError("the evaluator was made for another space than the search's; make it with this one")
        self.space, self.agent, self.seed = space, agent, integer("seed", seed, least=0)
        self.budget = budget or Budget()
        self.objective = objective or Accuracy()
        self.history = History(space.num_choices)
        self.say: Callable[[str], None] | None = None
        self.times = Times()
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.listeners = list(listeners)
        self.start = space.check_all(start)
        self._setup = Setup(space, evaluator, agent, self.objective, self.budget, self.seed, self.start)
        self._evaluator, self._course = evaluator, course or Course()
        endless = agent is None and not self.budget.is_limited
        self._designs = None if endless else space.size  # counted once: a space may take its time over it
        self._ending = Ending(self.budget, self.history, self._designs, type(agent).__name__, endless)
        self._since: float | None = None  # when it began to do more than repeat, on the monotonic clock
        self._replay: Replay | None = None
        self._files = self._open(self.run_dir, resume) if self.run_dir is not None else None
        if self._files is not None:
            self._replay = Replay(self._files.journal, space, self.objective)
        self._concluding = resume == "conclude"
        trials, aside = (self._files.trials, self._files.set_aside) if self._files is not None else (None, {})
        self._known = Known(evaluator, self.objective, cache, trials, aside, self.times)
        self._measuring = Measuring(evaluator, self._known, self._said)
        self._answering = Answering(
            space, self.history, self.budget, self._files, evaluator.trains, self._seconds, self.times
        )

    def _open(self, run_dir: Path, resume: Resume) -> RunDirectory:
        from nasenv.records.run_directory import RunDirectory  # TensorBoard and matplotlib take a second to import

        afresh = resume == "continue"
        slots = self._course.slots or self._evaluator.slots
        parts = (run_dir, self.config(), self.identity(), slots, self._evaluator.trains, afresh)
        return RunDirectory(*parts, clock=self._seconds)

    def config(self) -> dict[str, Any]:
        """Return the configuration in plain values; `without_derived`, it is what ``nasenv train --config`` reads."""
        return self._setup.config()

    def identity(self) -> dict[str, Any]:
        """Return what a journal belongs to: the configuration, without what changes no outcome, and fingerprints."""
        return self._setup.identity()

    @cached_property
    def slots(self) -> int:
        """How many networks an asynchronous search begins with in flight at once.

        As many as its journal says, so that it goes on as it began whatever the workers are now; else as many as the
        evaluator works on.
        """
        told = None if self._files is None else self._files.journal.slots
        return told or self._course.slots or self._evaluator.slots

    @property
    def ended(self) -> str | None:
        """Why the search is over; None while it is not."""
        return self._ending.ended

    @ended.setter
    def ended(self, why: str) -> None:
        self._ending.ended = why

    @property
    def stopped(self) -> str | None:
        """Why it was stopped before its end; None where it was not."""
        return self._ending.stopped

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator, once the search is over: test data are out of an agent's reach."""
        if self.ended is None:
            raise AgentError("the evaluator is not to be used before the search is over; call evaluate")
        return self._evaluator

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the design that is measured for this one: two with the same are one network, and worth the same."""
        return self._evaluator.representative(architecture)

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
        self._ending.stop(reason)

    def is_stopped(self) -> bool:
        """Return whether the search was asked to end early."""
        return self._ending.is_stopped()

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
        with self._ending.running():
            if self._concluding:
                self._conclude_journal()
            if self.start:
                self.evaluate(self.start)
            with self.times.part("controller"):
                self.agent.run(self)
        if self.stopped is None and self._replay is not None:
            self._replay.check_used_up(len(self.history))
        if self.ended is None and self.stopped is None:
            self.ended = f"agent {type(self.agent).__name__} stopped by itself"
        if self._files is not None:
            self._files.leave_times(self.where_time_went(), self._evaluator.slots)

    def _conclude_journal(self) -> None:
        """Take in what the journal holds, whatever the agent would do now, and end the search."""
        for design in self._replay.designs() if self._replay is not None else ():
            self.evaluate([design])
        self.ended = self.ended or f"concluded as asked for, after {len(self.history)} evaluations"
        raise BudgetExhausted(self.ended)

    def evaluate(self, architectures: Designs) -> Answers:
        """Measure, reward and record designs, and return the outcomes in their order.

        A design that this search has seen before is a repeat, free unless the budget says otherwise. Where the budget
        does not reach for all, those before the first that does not fit are still measured and recorded.

        Args:
            architectures: n valid designs of the space: a sequence of tuples, or an integer array (n, T).

        Raises:
            BudgetExhausted: the search is over.
            SearchStopped: it was stopped, and is not over.
            AgentError: something that is not a design of the space was proposed, or another thread is being answered.
        """
        with self._ending.in_one_thread(), self.times.part("bookkeeping"):
            return self._evaluate(architectures)

    def _evaluate(self, architectures: Designs) -> Answers:
        designs, new = checked(self.space, self.history, architectures)
        with self._ending.answering():
            self._begin()
            payable = within_evaluations(designs, new, self.budget, self.history)
            if len(payable) < len(designs):
                new = self.history.unknown(payable)
            found = self._replayed(new)
            replayed = len(found)
            within = within_seconds(payable, new, found, self.budget, self.history)
            if within is None and len(new) > replayed:
                with self.times.part(EVALUATION):
                    found += self._measuring.measure(new[replayed:], self.is_stopped)
                payable = before_unknown(payable, new, found)
                within = within_seconds(payable, new, found, self.budget, self.history)
            taken = payable if within is None else within
            answers = self._answering.take(taken, found, replayed, self._listener)
            if len(answers) < len(designs):
                self._ending.check()
            return answers

    def stream(self, ask: Callable[[], Designs]) -> Iterator[Answers]:
        """Yield the answers to designs, one by one, in the order in which their evaluations end.

        Another design is asked for whenever there is room for one: while fewer networks are in flight than there are
        slots, and the budget reaches for it. Slots are as many as the evaluator works on at once, looked up at every
        evaluation that is answered. So what is proposed when follows from the numbers of slots and the order of the
        answers, which are journaled, and a search that is started again has the same designs in flight.

        Where the search ends, trainings in flight are waited for and kept, but not answered.

        Args:
            ask: returns one design; none where the agent waits for an answer first.

        Raises:
            BudgetExhausted: the search is over.
            SearchStopped: it was stopped, and is not over.
            AgentError: something else than one design of the space was proposed, or none while nothing is in flight.
        """
        flight = InFlight(self.slots, self._evaluator.representative)
        trainings = Trainings(self._evaluator, self._known, self._said, self.is_stopped)
        following = (flight, self.history, self._known, trainings, self._replay, self._course)
        answerable = Answerable(*following, lambda: self._evaluator.slots, self.is_stopped)
        try:
            while True:
                with self._ending.answering():
                    self._begin()
                fill(flight, ask, self.space, self._designs, self.budget, self.history)
                with self.times.part(EVALUATION), self._ending.answering():
                    found = answerable.next()
                    if found is None:
                        continue  # it was stopped
                    flight.land(found.design)
                    flight.slots = found.slots or flight.slots
                    findings = [] if found.finding is None else [found.finding]
                    replayed = 0 if found.new else len(findings)
                    answers = self._answering.take([found.design], findings, replayed, self._listener, found.slots)
                yield answers
        except BudgetExhausted:
            with self._ending.answering():
                trainings.land()
            raise
        finally:
            trainings.close()

    def _said(self, text: str) -> None:
        if self.say is not None:
            self.say(text)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Write an agent's own scalars to TensorBoard, at the current evaluation."""
        if self.record is not None:
            self.record.scalars(scalars, len(self.history))

    @property
    def record(self) -> TensorBoardWriter | None:
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
        self._ending.close()
        self._evaluator.close()
        if self._files is not None:
            self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Start the clocks, where they do not run yet; raise where the search is over."""
        self._ending.check()
        if self._since is None and not self.replayed:
            self._since = time.monotonic()
        self._ending.watch_the_clock()

    def _replayed(self, designs: Sequence[Architecture]) -> list[Finding]:
        """Return what the journal still has to say, of the first of the designs."""
        if self._replay is None or not self.replayed:
            return []
        said = {design: self._replay.answer(design) for design in designs[: self.replayed]}
        return list(self._known.learn(said).values())

    def where_time_went(self) -> dict[str, float]:
        """Return the seconds of this start by part, the largest first; what workers did counts by their number."""
        return where_it_went(self.times.seconds, self._evaluator.worked, self._evaluator.slots)

    @property
    def _listener(self) -> Callable[[Outcome], None] | None:
        return self._tell if self.listeners else None

    def _tell(self, outcome: Outcome) -> None:
        for listener in self.listeners:
            listener(self, outcome)

    @property
    def seconds(self) -> float:
        """Wall time that the search has taken, in all its starts, since its first proposal."""
        return self._seconds()

    def _seconds(self) -> float:
        earlier = 0.0 if self._replay is None else self._replay.seconds
        return earlier if self._since is None else earlier + time.monotonic() - self._since
