"""The interface between agents and evaluators: `Search.evaluate` applies cache, budget and rewards, and records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from nasenv.cache.cache import Cache
from nasenv.configuration import integer
from nasenv.errors import AgentError, BudgetExhausted, InputError, counted
from nasenv.evaluators.evaluator import Evaluator
from nasenv.objectives import Objective, Rewards, Score
from nasenv.records.replay import CompletionOrder, Replay
from nasenv.search.asynchronous import InFlight, NextAnswer
from nasenv.search.budget import Budget
from nasenv.search.constraints import Constraint, Constraints, parse_constraints
from nasenv.search.history import Answers, History
from nasenv.search.identity import SearchParts
from nasenv.search.index import Architectures, Proposals
from nasenv.search.layer import AgentLike, SearchLike, on_layers
from nasenv.search.pending import PendingTrials
from nasenv.search.recorder import Recorder
from nasenv.search.status import SearchStatus
from nasenv.search.timing import EVALUATION, Timing, where_it_went
from nasenv.spaces.space import SearchSpace
from nasenv.trial import Architecture, Finding, Outcome

if TYPE_CHECKING:  # TensorBoard and matplotlib take a second to import
    from nasenv.records.run_directory import RunDirectory
    from nasenv.records.tensorboard import TensorBoardWriter
    from nasenv.records.trials import TrialLog

Resume: TypeAlias = Literal["replay", "continue", "conclude"]
Callback: TypeAlias = Callable[["Search", Outcome], None]
_Found: TypeAlias = tuple[Sequence[Finding], int]  # and how many of the findings were replayed


class Search:
    """Runs one agent on one problem: space, evaluator, objective and budget.

    An agent sees what `nasenv.search.layer.SearchLike` lists. With a run directory, every evaluation is in its journal
    before the agent sees the reward, and a search made again there answers from the journal until that is used up.
    Without an agent, and with a budget that sets no limit, it is never over.

    Args:
        space: the search space.
        evaluator: measures architectures; made for this space.
        agent: the agent that ``run`` runs; None if something else calls ``evaluate``.
        budget: limits of the search.
        objective: measurement -> reward; the score by default.
        cache: measurements shared with other searches; None for this search's own alone.
        seed: seeds the agent; 0 or more.
        run_dir: folder for configuration, journal and TensorBoard; None writes nothing.
        callbacks: called as ``callback(search, outcome)`` on every answer, repeats too.
        start: architectures that ``run`` evaluates before the agent proposes its first; they are in ``history``.
        resume: how the journal of an earlier start is used. replay: the agent runs again from its seed, is
            answered from the journal, and goes on. continue: it starts afresh, and what was measured costs nothing;
            the journal is set aside. conclude: it is answered from the journal, at whose end the search is over.
        completion_order: order of answers for an asynchronous search, while its agent proposes the same again.
        layers: layers between the agent and this search, see `nasenv.search.layer.on_layers`.
        constraints: limits on the evaluator's costs, such as ["params<=1e5", "flops<=2e7"]. An architecture that breaks
            one is looked at and not evaluated: it costs nothing, and is paid less than any that keeps them.

    Attributes:
        files: the run directory; None without one.
        timing: wall time of this start by part: controller, bookkeeping, evaluation, cache, logging.
        on_wait: called with a text when it waits for other searches on its cache; None is silence.

    Raises:
        InputError: a start that is none of the space; constraints that are unreadable, unknown to the evaluator, or
            kept by no architecture that was found; a run directory of another configuration or version, in use,
            damaged, or not writable.
    """

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator,
        agent: AgentLike | None = None,
        budget: Budget | None = None,
        objective: Objective | None = None,
        cache: Cache | None = None,
        seed: int = 0,
        run_dir: str | Path | None = None,
        callbacks: Iterable[Callback] = (),
        start: Sequence[Architecture] = (),
        resume: Resume = "replay",
        completion_order: CompletionOrder | None = None,
        layers: Sequence[Callable[[SearchLike], SearchLike]] = (),
        constraints: Sequence[str | Constraint] | str | None = None,
    ) -> None:
        if evaluator.space is not space and evaluator.space.fingerprint() != space.fingerprint():
            raise InputError("the evaluator was made for another space than the search's; make it with this one")
        self.space, self.agent, self.seed = space, agent, (seed := integer("seed", seed, least=0))
        self.budget, self.objective, self.timing = budget or Budget(), objective or Score(), Timing()
        self._recording, self._evaluation, self._logging = map(self.timing.part, ("bookkeeping", EVALUATION, "logging"))
        self.on_wait: Callable[[str], None] | None = None
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.files: RunDirectory | None = None
        self.callbacks, self.layers, self.start = list(callbacks), tuple(layers), space.check_all(start)
        self.constraints = Constraints(parse_constraints(constraints), evaluator)
        self.constraints.check(space, self.start)
        parts = (space, evaluator, agent, self.objective, self.budget, seed, self.start, self.layers)
        self._parts = SearchParts(*parts, self.constraints.texts)
        self._evaluator, self._cache, self._order = evaluator, cache, completion_order or CompletionOrder()
        self._is_concluding, self._has_run = resume == "conclude", False
        self._is_endless = agent is None and not self.budget.is_limited
        self._size = None if self._is_endless else space.size  # counted once: a space may take its time over it
        self._begin_anew(resume == "continue")

    def _begin_anew(self, afresh: bool = False) -> None:
        """Have nothing evaluated; what was measured, or is in the run directory, is known."""
        self.history = History(self.space.num_choices)
        self._status = SearchStatus(self.budget, self.history, self._size, self.agent, self._is_endless)
        self._since: float | None = None  # when it began to do more than repeat, on the monotonic clock
        self._replay: Replay | None = None
        rewards = Rewards(self.objective, self.space.task.lowest_score)
        if self.run_dir is not None:
            from nasenv.records.run_directory import RunDirectory  # TensorBoard and matplotlib take a second to import

            parts = (self.run_dir, self.config(), self.identity(), self._order.slots or self._evaluator.slots)
            more = (self._evaluator.trains, afresh, lambda: self.seconds, self.space.task.metric)
            self.files = RunDirectory(*parts, *more)
            self.constraints.learn(self.files.journal.entries())
            self._replay = Replay(self.files.journal, self.space, rewards.pay, self.constraints.violation)
        self._recorder = Recorder(self, self.files, self._evaluator.trains)
        known = {} if self.files is None else self.files.set_aside
        self._trials: PendingTrials = PendingTrials(
            *(self._evaluator, rewards, self._cache, self.trials, known, self.timing),
            on_wait=lambda text: self.on_wait(text) if self.on_wait is not None else None,
            stopped=self.is_stopped,
            constraints=self.constraints,
            before=self._trials if self._has_run else None,
        )

    def config(self) -> dict[str, Any]:
        """Return the configuration as JSON values; ``nasenv train --config`` reads it after `without_derived`."""
        return self._parts.config()

    def identity(self) -> dict[str, Any]:
        """Return what a journal must match: the configuration without what changes no result, and fingerprints."""
        return self._parts.identity()

    def evaluate(self, architectures: Architectures, fidelity: float = 1.0, *, by: str = "agent") -> Answers:
        """Evaluate architectures, record them, and return the outcomes in their order.

        One that this search has seen before at this fidelity is a repeat, free unless the budget says otherwise. Where
        the budget does not reach for all, those before the first that does not fit are still measured and recorded.

        Args:
            architectures: n valid ones of the space: a sequence of tuples, or an integer array (n, T).
            fidelity: share in (0, 1] of the search's full training; rounded to what the evaluator can do.
            by: who asks: the agent, or a layer by its name.

        Raises:
            BudgetExhausted: the search is over.
            SearchStopped: it was stopped, and is not over.
            AgentError: something that is not an architecture of the space was proposed, or another thread is served.
        """
        with self._status.serving(), self._recording:
            proposals = self._propose(architectures, fidelity)
            self._begin()
            looks = self._trials.looks(proposals.new) if self.constraints.texts else ()
            payable = self.budget.payable(proposals, self.history, looks)
            return self._record(proposals, payable, self._find_out(payable, by), by)

    def stream(self, ask: Callable[[], Architectures]) -> Iterator[Answers]:
        """Yield the answers to architectures one by one, in the order in which their trials end.

        Another is asked for while fewer trials are in flight than the evaluator has slots, and the budget reaches for
        it. Numbers of slots and order of the answers are journaled, so a search that is started again has the same
        proposals in flight. Where it ends, trainings in flight are waited for and kept, but not answered.

        Args:
            ask: returns one architecture; none where the agent waits for an answer first.

        Raises:
            BudgetExhausted: the search is over.
            SearchStopped: it was stopped, and is not over.
            AgentError: something else than one architecture was proposed, or none while nothing is in flight.
        """
        in_flight = InFlight(self.slots, lambda architecture: self._trials.trial(architecture, 1.0))
        is_payable = partial(self.budget.pays_for_another, history=self.history, size=self._size)
        parts = (in_flight, self.history, self._trials, self._replay, self._order)
        answer = NextAnswer(*parts, lambda: self._evaluator.slots, self.is_stopped)
        if self._evaluator.trains and self.slots > 1:
            self._evaluator.start()
        try:
            while True:
                with self._status.noting_faults():
                    self._begin()
                in_flight.fill(ask, lambda found: self._propose(found, 1.0), is_payable)
                if not in_flight:
                    self._end_short_of_budget()
                with self._evaluation, self._status.noting_faults():
                    found = answer.find()
                    if found is None:
                        continue  # it was stopped
                    in_flight.remove(found.architecture)
                    in_flight.slots = found.slots or in_flight.slots
                    proposals = self._propose([found.architecture], 1.0)
                    replayed = len(found.findings) if found.replayed else 0
                    answers = self._record(proposals, proposals, (found.findings, replayed), "agent", found.slots)
                yield answers
        except BudgetExhausted:
            with self._status.noting_faults():
                self._trials.finish()
            raise
        finally:
            self._trials.close()

    def representative(self, architecture: Architecture) -> Architecture:
        """Return the architecture that is measured for this one; those with the same have the same score."""
        return self._evaluator.representative(architecture)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Write an agent's scalars to TensorBoard, at the current evaluation."""
        if self.record is not None:
            self.record.scalars(scalars, len(self.history))

    @cached_property
    def slots(self) -> int:
        """Return how many trials an asynchronous search has in flight at first, by its journal or the evaluator."""
        return (self.files and self.files.journal.slots) or self._order.slots or self._evaluator.slots

    @property
    def remaining(self) -> float | None:
        """Return the full trainings left in the budget; None if there is no limit."""
        return self.budget.remaining(self.history)

    @property
    def is_logged(self) -> bool:
        """Return whether `log` writes to TensorBoard."""
        return self.files is not None

    @property
    def ended(self) -> str | None:
        """Return why the search is over; None while it is not."""
        return self._status.ended

    @ended.setter
    def ended(self, why: str) -> None:
        self._status.ended = why

    def run(self) -> None:
        """Run the agent until the budget is used up or the search is stopped, as ``stopped`` says then.

        After an interruption (Ctrl-C in a notebook, `stop`, a fault) it goes on, as the same search made again does.

        Raises:
            AgentError: the agent raised, or broke its contract; the journal holds every evaluation made.
        """
        if self.agent is None:
            raise InputError("this search has no agent to run; give it one, or call evaluate")
        if self._has_run and self.ended is None:
            self.close()
            self._begin_anew()
        self._has_run = True
        if self.files is not None:
            import nasenv.plots  # noqa: F401, matplotlib is imported while workers start, not in the time of logging
        self._since = self._since or (None if self.replayed else time.monotonic())
        with self._status.running():
            if self._is_concluding:
                for architecture, fidelity, by in self._replay.proposals() if self._replay is not None else ():
                    self.evaluate([architecture], fidelity, by=by)
                self.ended = self.ended or f"concluded as asked for, after {counted(len(self.history), 'evaluation')}"
                self._status.check()
            if self.start:
                self.evaluate(self.start, by="start")
            with self.timing.part("controller"):
                self.agent.run(on_layers(self, self.layers))
        if self.stopped is None and self._replay is not None:
            self._replay.check_used_up(len(self.history))
        if self.ended is None and self.stopped is None:
            self.ended = f"agent {type(self.agent).__name__} stopped by itself"
        if self.files is not None:
            self.files.write_timing(self.where_time_went(), self._evaluator.slots)

    def stop(self, reason: str) -> None:
        """Stop the search early, for a reason: running trainings are kept, then ``evaluate`` raises.

        It may be called from a signal handler or another thread. The same search, started again, goes on.
        """
        self._status.stop(reason)

    def is_stopped(self) -> bool:
        """Return whether the search was asked to stop early."""
        return self._status.is_stopped()

    @property
    def stopped(self) -> str | None:
        """Return why it was stopped before its end; None if it was not."""
        return self._status.stopped

    @property
    def evaluator(self) -> Evaluator:
        """Return the evaluator once the search is over; before, agents could reach test data."""
        if self.ended is None:
            raise AgentError("the evaluator is not to be used before the search is over; call evaluate")
        return self._evaluator

    @property
    def replayed(self) -> int:
        """Return how many evaluations are still to be answered from the journal of an interrupted run."""
        return 0 if self._replay is None else len(self._replay)

    @property
    def record(self) -> TensorBoardWriter | None:
        """Return the search's TensorBoard writer; None without a run directory."""
        return None if self.files is None else self.files.record

    @property
    def trials(self) -> TrialLog | None:
        """Return the log of all trainings; None without a run directory, or if the evaluator does not train."""
        return None if self.files is None else self.files.trials

    @property
    def seconds(self) -> float:
        """Return the wall time in seconds since `run` or the first proposal, replays apart, over all starts."""
        earlier = 0.0 if self._replay is None else self._replay.seconds
        return earlier if self._since is None else earlier + time.monotonic() - self._since

    def prepare(self) -> None:
        """Start the evaluator's workers now, so that the first evaluation does not wait."""
        self._evaluator.start()

    def where_time_went(self) -> dict[str, float]:
        """Return this start's seconds by part, replays too, the largest first; workers' are divided by their number."""
        return where_it_went(self.timing.seconds, self._evaluator.worker_seconds, self._evaluator.slots)

    def close(self) -> None:
        """Close the run directory and the evaluator."""
        self._status.close()
        self._evaluator.close()
        if self.files is not None:
            self.files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _propose(self, architectures: Architectures, fidelity: float) -> Proposals:
        """Return architectures as proposals; raise AgentError if there are none, or one is not in the space."""
        return self.history.propose(architectures, self.space.check_all, fidelity, self._evaluator.fidelity)

    def _begin(self) -> None:
        """Start the clocks if they are not running; raise if the search is over, or its files are closed."""
        self._status.check()
        if self.files is not None and self.files.is_closed:
            raise InputError("this search is closed; make it again with the same run_dir, and it goes on")
        self._since = self._since or (None if self.replayed else time.monotonic())
        if self.budget.wall_seconds is not None:
            self._status.watch_the_clock(self.budget.wall_seconds)

    def _find_out(self, proposals: Proposals, by: str) -> _Found:
        """Return findings of the first new proposals, as far as seconds and stops allow, and how many were replayed."""
        new, fidelity = proposals.new, proposals.fidelity
        findings: list[Finding] = []
        if self._replay is not None and new:
            for architecture in new[: self.replayed]:
                answer = self._replay.answer(architecture, fidelity, by)
                findings.append(self._trials.learn(architecture, fidelity, answer))
        replayed = len(findings)
        if len(new) > replayed and self.budget.within_seconds(proposals, findings, self.history) is None:
            with self._evaluation:
                findings += self._trials.find_out(new[replayed:], fidelity)
        return findings, replayed

    def _record(
        self, proposals: Proposals, payable: Proposals, found: _Found, by: str, slots: int | None = None
    ) -> Answers:
        """Record findings in history, journal and TensorBoard; return the answers, or raise if the search is over.

        Of the findings, so many were replayed. Proposals behind the one that uses the charged seconds up are left out.
        """
        findings, replayed = found
        known = payable if len(findings) == len(payable.new) else payable.before_new(len(findings))
        is_limited = self.budget.charged_seconds is not None
        taken = (is_limited and self.budget.within_seconds(known, findings, self.history)) or known
        if self.callbacks or (self.files is not None and findings):
            with self._logging:
                answers = self._recorder.take(taken, findings, replayed, by, slots)
        else:
            answers = self.history.take(taken, findings, self.budget.charge_repeats)
        if taken is not proposals:
            self._end_short_of_budget()
        return answers

    def _end_short_of_budget(self) -> None:
        """Raise that the search is over or stopped, or else that the budget left cannot pay the next proposal."""
        self._status.check()
        self.ended = self.budget.used_up()
        self._status.check()
