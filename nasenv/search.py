"""The seam between agents and the world: `Search.evaluate` keeps cache, budget, reward and record for all of them."""

from __future__ import annotations

import operator
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import yaml

from nasenv.cache import Cache
from nasenv.configuration import without_derived
from nasenv.errors import AgentError, BudgetExhausted, InputError
from nasenv.evaluators.evaluator import Evaluator, Measurement
from nasenv.history import History, Outcome
from nasenv.journal import Journal, read_measurement
from nasenv.objectives import Accuracy, Objective
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


@dataclass(frozen=True)
class Budget:
    """When a search is over, and what is spent on its end.

    Args:
        evaluations: distinct designs that may be evaluated; None is no limit.
        charged_seconds: training time that may be charged: what each distinct design's training took, also where a
            cache or a table made it free. The search ends with the evaluation that reaches it; None is no limit.
        charge_repeats: whether a design proposed again is charged again, as an evaluation and in seconds, as the
            protocols of most tabular benchmarks do; else repeats are free.
        repeats_per_evaluation: proposals of designs seen before are free, but after so many for each evaluation of
            the budget the agent is taken to have collapsed onto a few designs, and the search ends.
        finalists: number of best designs that are trained again, for longer, to choose the winner.
        final_seeds: number of times that each of them is.
    """

    evaluations: int | None = 200
    charged_seconds: float | None = None
    charge_repeats: bool = False
    repeats_per_evaluation: int = 50
    finalists: int = 10
    final_seeds: int = 3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None or name != "evaluations":
                object.__setattr__(self, name, _integer(f"budget.{name}", value, least=1))


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

    Raises:
        InputError: a run directory of another configuration, in use, damaged, or not writable.
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
    ) -> None:
        if evaluator.space is not space and evaluator.space.fingerprint() != space.fingerprint():
            raise InputError("the evaluator was made for another space than the search's; make it with this one")
        self.space, self.agent, self.seed = space, agent, _integer("seed", seed, least=0)
        self.budget = budget or Budget()
        self.objective = objective or Accuracy()
        self.history = History()
        self.ended: str | None = None  # why the search is over; None while it is not
        self.run_dir = Path(run_dir) if run_dir is not None else None
        self.listeners = list(listeners)
        self._evaluator, self._cache = evaluator, cache
        self._known: dict[Architecture, Measurement] = {}  # by representative
        self._problem = (space.fingerprint(), evaluator.fingerprint(), _FIDELITY)
        self._space_size = space.size
        self._fault: Exception | None = None
        self._started: float | None = None
        self._journal: Journal | None = None
        self._record: Record | None = None
        self._replay: deque[Mapping[str, Any]] = deque()
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
        self._replay.extend(self._journal.entries)
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
        return {
            "space": self.space.config(),
            "evaluator": self._evaluator.config(),
            **agent,
            "objective": self.objective.config(),
            "budget": asdict(self.budget),
            "seed": self.seed,
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
        return None if self.budget.evaluations is None else self.budget.evaluations - len(self.history)

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
            self.agent.run(self)
        except BudgetExhausted:
            pass
        except AgentError as error:
            raise AgentError(f"agent {name}: {error}; after {len(self.history)} evaluations") from error
        except Exception as error:
            if self._fault is not None:  # the agent may have wrapped it
                raise self._fault from None
            if isinstance(error, InputError):
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {' '.join(str(error).split())} ({where.filename}, line {where.lineno})"
            raise AgentError(f"agent {name} raised {reason} after {len(self.history)} evaluations") from error
        if self.ended is None:
            self.ended = f"agent {name} stopped by itself"

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Outcome]:
        """Measure, reward and record designs, and return the outcomes in their order.

        A design that this search has seen before costs nothing and is a repeat. Where the budget does not reach for
        all, those before the first that does not fit are still measured and recorded.

        Args:
            architectures: n valid designs of the space.

        Raises:
            BudgetExhausted: the search is over.
            AgentError: something that is not a design of the space was proposed.
        """
        designs = self._checked(architectures)
        try:
            self._end_if_over()
            measured = self._measure(self._affordable(designs))
            outcomes = self._take(designs, measured)
            if len(outcomes) < len(designs):
                self._end_if_over()
            return outcomes
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

    def _checked(self, architectures: Sequence[Architecture]) -> list[Architecture]:
        if not isinstance(architectures, Sequence) or not len(architectures):
            raise AgentError(f"proposed {architectures!r:.80}, expected one or more designs of the space")
        known = self.history.find
        try:
            return [a if type(a) is tuple and known(a) else self.space.check(a) for a in architectures]
        except InputError as error:
            raise AgentError(f"proposed a design that is not one of the space: {error}") from error
        except (TypeError, ValueError) as error:
            raise AgentError(f"proposed something that is not a design: {error}") from error

    def _affordable(self, designs: Sequence[Architecture]) -> list[Architecture]:
        """Return the distinct designs not seen before, in order, as far as the budget reaches."""
        fresh = dict.fromkeys(d for d in designs if self.history.find(d) is None)
        return list(fresh)[: self.remaining]

    def _end_if_over(self) -> None:
        budget, history = self.budget, self.history
        if self.ended is None:
            if self.remaining is not None and self.remaining <= 0:
                self.ended = f"the budget of {budget.evaluations} evaluations is used up"
            elif len(history) == self._space_size:
                self.ended = f"all {self._space_size} designs of the space are evaluated"
            elif history.repeats >= budget.repeats_per_evaluation * (budget.evaluations or max(1, len(history))):
                self.ended = (
                    f"the agent proposes what it proposed before: {history.repeats} repeats beside "
                    f"{len(history)} distinct evaluations; its policy has collapsed"
                )
        if self.ended is not None:
            raise BudgetExhausted(self.ended)

    def _measure(self, designs: Sequence[Architecture]) -> dict[Architecture, tuple[Measurement, bool, bool]]:
        """Return (measurement, cached, replayed) of each design: from the journal, what is known, or the evaluator."""
        if self._started is None:
            self._started = time.monotonic()
        found: dict[Architecture, tuple[Measurement, bool, bool]] = {}
        for design in designs[: len(self._replay)]:
            entry = self._replayed_entry(design)
            measurement = self._replayed_measurement(entry)
            found[design] = (measurement, bool(entry["cached"]), True)
            self._known[self._evaluator.representative(design)] = measurement
        representatives = {d: self._evaluator.representative(d) for d in designs if d not in found}
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
        for design, representative in representatives.items():
            found[design] = (self._known[representative], representative not in paid, False)
            paid.discard(representative)  # an equivalent design in the same batch is free
        return found

    def _replayed_entry(self, design: Architecture) -> Mapping[str, Any]:
        entry = self._replay.popleft()
        if tuple(entry["architecture"]) != design:
            raise InputError(
                f"{self.run_dir}: the agent does not repeat what the journal holds: evaluation {entry['evaluation']} "
                f"was {entry['text']}, now it is {self.space.to_text(design)}; other library versions may be the "
                "cause; give another run_dir (measurements are in the cache)"
            )
        return entry

    def _replayed_measurement(self, entry: Mapping[str, Any]) -> Measurement:
        measurement = read_measurement(entry)
        reward = self.objective.reward(measurement)
        if reward != entry["reward"]:
            raise InputError(
                f"{self.run_dir}: the objective has changed since the journal was written: evaluation "
                f"{entry['evaluation']} was paid {entry['reward']}, now it would be {reward}; give another run_dir"
            )
        return measurement

    def _take(
        self, designs: Sequence[Architecture], measured: Mapping[Architecture, tuple[Measurement, bool, bool]]
    ) -> list[Outcome]:
        """Return the outcomes of the designs, up to the first that was not measured, journaled and recorded."""
        outcomes: list[Outcome] = []
        paid = False
        for design in designs:
            seen = self.history.find(design)
            proposal = self.history.proposals + 1
            if seen is not None:
                outcome = replace(seen, proposal=proposal, repeat=True)
            elif design in measured:
                measurement, cached, replayed = measured[design]
                reward = self.objective.reward(measurement)
                outcome = Outcome(design, measurement, reward, len(self.history) + 1, proposal, cached=cached)
                if self._journal is not None and not replayed:
                    self._journal.add(outcome, self.space.to_text(design), self.seconds)
                    paid |= not cached
            else:
                break
            self.history.add(outcome)
            outcomes.append(outcome)
            self._tell(outcome)
        if paid and self._journal is not None:
            self._journal.sync()
        return outcomes

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


def _integer(name: str, value: Any, least: int) -> int:
    """Return the number as an int, numpy's too; raise InputError where it is none, or below the least."""
    try:
        number: int = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be an integer of {least} or more, got {value!r}") from None
    if number < least:
        raise InputError(f"{name} must be {least} or more, got {number}")
    return number
