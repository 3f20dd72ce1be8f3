"""The trials of a search that are measured, cached, or being trained, here or by another search on its cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from nasenv.cache.cache import Cache
from nasenv.cache.keys import ProblemKey
from nasenv.errors import InputError, counted
from nasenv.evaluators.evaluator import Evaluator
from nasenv.objectives import Rewards
from nasenv.records.trials import TrialLog
from nasenv.search.constraints import Constraints, Look
from nasenv.search.timing import Timing
from nasenv.trial import Architecture, Finding, Measurement, Trial

_POLL_SECONDS = 0.2  # between two looks at what other searches on the same cache are training
_CACHE, _LOGGING, _COSTS = "cache", "logging", "costs"


class PendingTrials:
    """Measures trials: from memory, from the cache, or by training, each architecture once.

    Trials are of representatives, see `Evaluator.representative`.

    Args:
        evaluator: measures the trials.
        rewards: pays what was measured, in the order in which it is answered.
        cache: shared with other searches; None for none. What another search is training is waited for.
        log: log to which every training is added the moment it ends; None for none.
        known: measurements that exist already, which cost nothing.
        timing: measures the time of cache and log.
        on_wait: called with a text when another search is waited for, once.
        stopped: no further training is begun once it returns True.
        constraints: decide which architectures are looked at and not evaluated.
        before: trials of an interrupted run of the same search, whose measurements are kept.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        rewards: Rewards,
        cache: Cache | None,
        log: TrialLog | None,
        known: Mapping[Trial, Measurement],
        timing: Timing,
        on_wait: Callable[[str], None],
        stopped: Callable[[], bool],
        constraints: Constraints,
        before: PendingTrials | None = None,
    ) -> None:
        self._constraints = constraints
        self._evaluator, self._rewards, self._cache, self._log = evaluator, rewards, cache, log
        self._timing, self._on_wait, self._stopped = timing, on_wait, stopped
        self._known: dict[Trial, Measurement] = dict(known)
        self._payers: dict[Trial, Architecture | None] = dict.fromkeys(known)  # None: nobody of this search
        for trial, measurement in log.measurements.items() if log is not None else ():
            if trial.purpose == "search":
                self._known[trial] = measurement
                self._payers.pop(trial, None)
        if before is not None:
            self._known |= before._known
            self._payers |= {trial: None for trial, payer in before._payers.items() if payer is None}
        self._problem = ProblemKey(evaluator.space.fingerprint(), evaluator.fingerprint())
        if cache is not None and log is not None:
            with timing.part(_CACHE):
                add_to_cache(log, evaluator, cache)
        self._mine: dict[Trial, None] = {}  # submitted to the evaluator
        self._elsewhere: dict[Trial, None] = {}  # being trained by other searches
        self._has_waited = self._is_ending = False
        self._completed: Iterator[tuple[Trial, Measurement]] = iter(())

    def trial(self, architecture: Architecture, fidelity: float) -> Trial:
        """Return the trial that measures an architecture at a fidelity."""
        return Trial(self._evaluator.representative(architecture), fidelity)

    def learn(self, architecture: Architecture, fidelity: float, finding: Finding) -> Finding:
        """Store the finding of a journal entry and return it; a table's own measurement object is reused."""
        if finding.violation is not None:
            return finding
        trial = self.trial(architecture, fidelity)
        if not self._evaluator.trains:
            (own,) = self._evaluator.measure([trial])
            return finding._replace(measurement=own) if own == finding.measurement else finding
        self._known[trial] = finding.measurement
        self._payers[trial] = architecture
        return finding

    def find_out(self, architectures: Sequence[Architecture], fidelity: float) -> list[Finding]:
        """Return the findings of architectures, trained if necessary; if stopped, those up to the first not done."""
        if self._evaluator.trains:
            missing = self._missing([self.trial(architecture, fidelity) for architecture in architectures])
            while missing and not self._stopped():
                mine = self._claimed(missing)
                self._train(mine)
                missing = self._missing(missing)
                if missing and not mine:
                    self._wait(len(missing))
        return self.charge(architectures, fidelity)

    def charge(self, architectures: Sequence[Architecture], fidelity: float) -> list[Finding]:
        """Return the findings of architectures up to the first that is not measured, and note who paid for each.

        The first architecture whose trial was measured for this search is not ``cached``: it is the one that paid.
        """
        looks, evaluated = {}, architectures
        if self._constraints.texts:
            looks = self.looks(architectures)
            evaluated = [architecture for architecture in architectures if architecture not in looks]
        trials = [self.trial(architecture, fidelity) for architecture in evaluated]
        if self._evaluator.trains:
            trials = list(takewhile(self._known.__contains__, trials))
            measurements = [self._known[trial] for trial in trials]
        else:
            measurements = self._evaluator.measure(trials)
        payers = map(self._payers.setdefault, trials, evaluated)
        cached = [payer is not own for payer, own in zip(payers, evaluated, strict=False)]
        if looks:
            return list(self._with_looks(architectures, looks, zip(measurements, cached, strict=True)))
        return list(map(Finding, measurements, map(self._rewards.pay, measurements), cached))

    def _with_looks(
        self,
        architectures: Iterable[Architecture],
        looks: Mapping[Architecture, Look],
        measured: Iterator[tuple[Measurement, bool]],
    ) -> Iterator[Finding]:
        """Yield the findings of looks, and of the others in turn, up to the first that is not measured."""
        for architecture in architectures:
            if (look := looks.get(architecture)) is not None:
                reward = self._rewards.pay(look.measurement, look.violation)
                yield Finding(look.measurement, reward, violation=look.violation)
            elif (found := next(measured, None)) is not None:
                yield Finding(found[0], self._rewards.pay(found[0]), found[1])
            else:
                return

    def looks(self, architectures: Iterable[Architecture]) -> dict[Architecture, Look]:
        """Return those of some architectures that are looked at and not evaluated, as they break constraints."""
        with self._timing.part(_COSTS):
            found = {architecture: self._constraints.look(architecture) for architecture in architectures}
        return {architecture: look for architecture, look in found.items() if look is not None}

    def is_known(self, trial: Trial) -> bool:
        """Return whether answering a trial costs no training, as far as was looked up."""
        return not self._evaluator.trains or trial in self._known or self._is_look(trial)

    def _is_look(self, trial: Trial) -> bool:
        return self._constraints.look(trial.architecture) is not None

    def begin(self, trials: Iterable[Trial]) -> None:
        """Submit the trials that are neither measured nor being trained; `wait` returns them."""
        if self._evaluator.trains:
            missing = [t for t in dict.fromkeys(trials) if t not in self._mine and t not in self._elsewhere]
            self._submit_claimed(self._missing(missing))

    def wait(self) -> list[Trial]:
        """Wait for trials, and return those that were measured meanwhile; return soon after a stop."""
        ended = self._next() if self._mine else []
        if not self._mine and not ended and self._elsewhere:
            self._wait(len(self._elsewhere))
        elsewhere, self._elsewhere = self._elsewhere, {}
        if elsewhere:
            self._submit_claimed(self._missing(elsewhere))
        return ended + [trial for trial in elsewhere if self.is_known(trial)]

    def finish(self) -> None:
        """Start no more trainings, and wait for those that are running."""
        self._is_ending = True
        for trial, measurement in self._completed:
            self._keep(trial, measurement)

    def close(self) -> None:
        """Discard what is being trained, and release the claims."""
        if hasattr(self._completed, "close"):
            self._completed.close()
        self._release(self._mine)
        self._mine.clear()

    def _missing(self, trials: Iterable[Trial]) -> list[Trial]:
        """Look up trials in the cache, and return those that are still unknown, without looks."""
        missing = [trial for trial in dict.fromkeys(trials) if trial not in self._known]
        if self._constraints.texts:
            missing = [trial for trial in missing if not self._is_look(trial)]
        if missing and self._cache is not None:
            with self._timing.part(_CACHE):
                cached = self._cache.find(self._problem, missing)
            self._known |= cached
            self._payers |= dict.fromkeys(cached)
        return [trial for trial in missing if trial not in self._known]

    def _claimed(self, missing: Sequence[Trial]) -> list[Trial]:
        """Return the trials that this search has claimed for training; others are measured or trained elsewhere."""
        if self._cache is None or not missing:
            return list(missing)
        with self._timing.part(_CACHE):
            mine = self._cache.claim(self._problem, missing)
        return [trial for trial in missing if trial in mine]

    def _submit_claimed(self, missing: Sequence[Trial]) -> None:
        mine = self._claimed(missing)
        for trial in mine:
            self._evaluator.submit(trial)
        self._mine |= dict.fromkeys(mine)
        self._elsewhere |= dict.fromkeys(trial for trial in missing if trial not in self._mine)

    def _train(self, trials: Sequence[Trial]) -> None:
        """Train trials, as many as there is time for before a stop, or before others take them over."""
        self._mine = dict.fromkeys(trials)
        try:
            for trial, measurement in self._evaluator.results(
                trials, lambda: self._stopped() or self._has_lost_claims()
            ):
                self._keep(trial, measurement)
            if self._mine and not self._stopped() and not self._has_lost_claims():
                done = len(trials) - len(self._mine)
                raise self._faulty(f"completed {done} of {counted(len(trials), 'trial')}, expected all")
        finally:
            self._release(self._mine)
            self._mine = {}

    def _next(self) -> list[Trial]:
        """Return the next trial that ends; an empty list if there is none after a stop."""
        ended = next(self._completed, None)
        if ended is None and not self._stopped():  # all that were submitted by then had ended
            if self._has_lost_claims():
                return self._claim_anew()
            self._completed = self._evaluator.completed(
                lambda: self._is_ending or self._stopped() or self._has_lost_claims()
            )
            ended = next(self._completed, None)
        if ended is not None:
            self._keep(*ended)
            return [ended[0]]
        if not self._stopped() and not self._has_lost_claims():
            raise self._faulty(f"ended before all trials were completed: {counted(len(self._mine), 'trial')} left")
        return []

    def _has_lost_claims(self) -> bool:
        return self._cache is not None and self._cache.has_lost(self._problem, self._mine)

    def _claim_anew(self) -> list[Trial]:
        """Claim the trials that were not begun again, and return those that others have measured meanwhile."""
        trials, self._mine = self._mine, {}
        self._release(trials)
        self._submit_claimed(self._missing(trials))
        return [trial for trial in trials if self.is_known(trial)]

    def _keep(self, trial: Trial, measurement: Measurement) -> None:
        """Store the measurement of a trial in log, memory and cache."""
        if trial not in self._mine:
            raise self._faulty(f"completed {trial}, which it was not asked for")
        if not isinstance(measurement, Measurement):
            raise self._faulty(f"completed {trial} not with a Measurement")
        if self._log is not None:  # first, as what a cache alone knows is not paid for
            with self._timing.part(_LOGGING):
                self._log.add(trial, measurement)
        self._known[trial] = measurement
        if self._cache is not None:
            with self._timing.part(_CACHE):
                self._cache.add(self._problem, {trial: measurement})
        del self._mine[trial]

    def _release(self, trials: Iterable[Trial]) -> None:
        """Release claims."""
        if self._cache is not None and trials:
            self._cache.release(self._problem, trials)

    def _wait(self, trials: int) -> None:
        """Wait for other searches on the cache; the first time, say so."""
        if not self._has_waited:
            self._on_wait(
                f"waiting for {counted(trials, 'architecture')} that another search on the same cache is training"
            )
        self._has_waited = True
        time.sleep(_POLL_SECONDS)

    def _faulty(self, reason: str) -> InputError:
        """Return the error for an evaluator that breaks its contract."""
        return InputError(f"evaluator {type(self._evaluator).__name__} {reason}")


def add_to_cache(log: TrialLog, evaluator: Evaluator, cache: Cache) -> None:
    """Add a search's logged trainings to a cache, which they may not have reached before an earlier start ended."""
    trained = {trial: measurement for trial, measurement in log.measurements.items() if trial.purpose == "search"}
    cache.add(ProblemKey(evaluator.space.fingerprint(), evaluator.fingerprint()), trained)
