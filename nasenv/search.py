"""The seam between agents and the world: `Search.evaluate` keeps cache, budget, reward and record for all of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import yaml
from numpy.typing import NDArray

from nasenv.budget import Budget, integer
from nasenv.cache import Cache
from nasenv.configuration import without_derived
from nasenv.errors import AgentError, BudgetExhausted, InputError
from nasenv.evaluators.evaluator import Evaluator, Measurement
from nasenv.history import Answers, Finding, History, Outcome
from nasenv.journal import Journal
from nasenv.objectives import Accuracy, Objective
from nasenv.replay import Replay
from nasenv.spaces.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from nasenv.record import Record

_FIDELITY = 1.0
_PICTURES = 4  # pictures of the choice shares in the course of a search

Listener = Callable[["Search", Outcome], None]


class Runs(Protocol):
    """What a search asks of an agent."""

    def run(self, search: Search) -> None:
        """Propose designs to ``search.evaluate`` until it raises `BudgetExhausted`."""

    def config(self) -> dict[str, Any]:
        """Return how the agent was made."""


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
    ) -> None:
        if evaluator.space is not space and evaluator.space.fingerprint() != space.fingerprint():
            raise InputError("the evaluator was made for another space than the search's; make it with this one")
        self.space, self.agent, self.seed = space, agent, integer("seed", seed, least=0)
        self.budget = budget or Budget()
        self.objective = objective or Accuracy()
        self.history = History()
        self.ended: str | None = None  # why the search is over; None while it is not
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.listeners = list(listeners)
        self.start = space.check_all(start)
        self._evaluator, self._cache = evaluator, cache
        self._known: dict[Architecture, Measurement] = {}  # by representative
        self._problem = (space.fingerprint(), evaluator.fingerprint(), _FIDELITY)
        self._space_size = space.size
        self._fault: Exception | None = None
        self._started: float | None = None
        self._journal: Journal | None = None
        self._record: Record | None = None
        self._replay = Replay((), space, self.objective, None)
        if self.run_dir is not None:
            self._open(self.run_dir)

    def _open(self, run_dir: Path) -> None:
        from nasenv.record import Record  # TensorBoard and matplotlib take a second to import

        config = self.config()
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"run_dir {run_dir} cannot be made: {error.strerror}") from error
        self._journal = Journal(run_dir / "journal.jsonl", self.identity())
        self._replay = Replay(self._journal.entries, self.space, self.objective, run_dir)
        text = yaml.safe_dump(without_derived(config), sort_keys=False)
        try:
            (run_dir / "config.yaml").write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"run_dir {run_dir} cannot be written: {error.strerror}") from error
        self._record = Record(run_dir)
        self._record.start_hparams(config)
        self._record.text("config", f"```yaml\n{text}```")

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
        """Return what a journal belongs to: the configuration and the fingerprints of what it led to, data included."""
        space, evaluator, _ = self._problem
        return {**self.config(), "fingerprint": {"space": space, "evaluator": evaluator}}

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
        return len(self._replay)

    def prepare(self) -> None:
        """Start the evaluator's workers now, so that the first evaluation does not wait for them."""
        self._evaluator.start()

    def run(self) -> None:
        """Let the agent search until the budget is used up.

        Raises:
            AgentError: the agent raised, or broke its contract; the journal holds every evaluation made.
        """
        if self.agent is None:
            raise InputError("this search has no agent to run; give it one, or call evaluate")
        name = type(self.agent).__name__
        try:
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
        if self.ended is None:
            self.ended = f"agent {name} stopped by itself"

    def evaluate(self, architectures: Sequence[Architecture] | NDArray[np.integer[Any]]) -> Answers:
        """Measure, reward and record designs, and return the outcomes in their order.

        A design that this search has seen before is a repeat, free unless the budget says otherwise. Where the budget
        does not reach for all, those before the first that does not fit are still measured and recorded.

        Args:
            architectures: n valid designs of the space: a sequence of tuples, or an integer array (n, T).

        Raises:
            BudgetExhausted: the search is over.
            AgentError: something that is not a design of the space was proposed.
        """
        designs, new = self._checked(architectures)
        try:
            self._end_if_over()
            if self._started is None:
                self._started = time.monotonic()
            payable = self._within_evaluations(designs, new)
            if len(payable) < len(designs):
                new = self.history.unknown(payable)
            replayed = self._replayed(new)
            measured: dict[Architecture, Finding] = {}
            within = self._within_seconds(payable, new, replayed)
            if within is None:
                measured = self._measured(new[len(replayed) :])
                within = self._within_seconds(payable, new, {**replayed, **measured})
            answers = self._take(within or payable, replayed, measured)
            if len(answers) < len(designs):
                self._end_if_over()
            return answers
        except BudgetExhausted:
            raise
        except Exception as error:  # ours, not the agent's, though it passes through the agent
            self._fault = error
            raise

    def log(self, scalars: Mapping[str, float]) -> None:
        """Write an agent's own scalars to TensorBoard, at the current evaluation."""
        if self._record is not None:
            self._record.scalars(scalars, len(self.history))

    @property
    def record(self) -> Record | None:
        """The search's TensorBoard; None without a run directory."""
        return self._record

    def close(self) -> None:
        """Let go of the run directory and of the evaluator's workers."""
        self._evaluator.close()
        for part in (self._journal, self._record):
            if part is not None:
                part.close()

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

    def _end_if_over(self) -> None:
        if self.ended is None:
            self.ended = self.budget.spent(self.history)
        if self.ended is None and len(self.history) == self._space_size:
            self.ended = f"all {self._space_size} designs of the space are evaluated"
        if self.ended is not None:
            raise BudgetExhausted(self.ended)

    def _within_evaluations(self, designs: list[Architecture], new: Sequence[Architecture]) -> list[Architecture]:
        """Return the designs before the first for which the budget has no evaluation left."""
        left = self.remaining
        if left is None:
            return designs
        if self.budget.charge_repeats:
            return designs[:left]
        beyond = new[left:]
        return designs[: designs.index(beyond[0])] if beyond else designs

    def _within_seconds(
        self, designs: list[Architecture], new: Sequence[Architecture], found: Mapping[Architecture, Finding]
    ) -> list[Architecture] | None:
        """Return the designs up to and with the one that uses the charged seconds up; None where none of them does."""
        limit, charged = self.budget.charged_seconds, self.history.charged_seconds
        if limit is None:
            return None
        uncharged = set(new)
        for number, design in enumerate(designs, 1):
            if design in uncharged:
                if design not in found:
                    return None
                charged += found[design].measurement.train_seconds
                uncharged.discard(design)
            elif self.budget.charge_repeats:
                seen = found[design] if design in found else self.history.find(design)
                charged += seen.measurement.train_seconds if seen else 0.0
            if charged >= limit:
                return designs[:number]
        return None

    def _replayed(self, designs: Sequence[Architecture]) -> dict[Architecture, Finding]:
        """Return what the journal still has to say, of the first of the designs."""
        found = {design: self._replay.answer(design) for design in designs[: len(self._replay)]}
        self._known |= {self._evaluator.representative(d): f.measurement for d, f in found.items()}
        return found

    def _measured(self, designs: Sequence[Architecture]) -> dict[Architecture, Finding]:
        """Return what is known of the designs, or what the evaluator says."""
        representatives = {design: self._evaluator.representative(design) for design in designs}
        wanted = [r for r in dict.fromkeys(representatives.values()) if r not in self._known]
        if self._cache is not None:
            self._known |= self._cache.find(*self._problem, wanted)
        missing = [r for r in wanted if r not in self._known]
        if missing:
            fresh = dict(zip(missing, self._evaluator.evaluate(missing, _FIDELITY), strict=True))
            if self._cache is not None:
                self._cache.add(*self._problem, fresh)
            self._known |= fresh
        paid = set(missing)
        found = {}
        for design, representative in representatives.items():
            measurement = self._known[representative]
            found[design] = Finding(measurement, self.objective.reward(measurement), representative not in paid)
            paid.discard(representative)  # an equivalent design in the same batch is free
        return found

    def _take(
        self,
        designs: Sequence[Architecture],
        replayed: Mapping[Architecture, Finding],
        measured: Mapping[Architecture, Finding],
    ) -> Answers:
        """Return the answers to the designs, journaled and recorded."""

        def hear(outcome: Outcome) -> None:
            if self._journal is not None and not outcome.repeat and outcome.architecture not in replayed:
                self._journal.add(outcome, self.space.to_text(outcome.architecture), self.seconds)
            self._tell(outcome)

        heard = hear if self._journal is not None or self.listeners else None
        answers = self.history.take(designs, {**replayed, **measured}, self.budget.charge_repeats, heard)
        if self._journal is not None and self._evaluator.trains and not all(f.cached for f in measured.values()):
            self._journal.sync()
        return answers

    def _tell(self, outcome: Outcome) -> None:
        if self._record is not None and not outcome.repeat:
            self._record.evaluation(self.history, outcome)
            every = self.budget.evaluations and max(1, self.budget.evaluations // _PICTURES)
            if every and outcome.evaluation % every == 0:
                self._record.choice_shares(self.space, self.history)
        for listener in self.listeners:
            listener(self, outcome)

    @property
    def seconds(self) -> float:
        """Wall time since the first proposal, in seconds."""
        return 0.0 if self._started is None else time.monotonic() - self._started
