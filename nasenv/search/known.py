"""What a search knows of designs, and how it is kept: in memory, in its log of trainings, in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat, takewhile

from nasenv.cache.cache import Cache
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Answer, Evaluator
from nasenv.objectives import Objective
from nasenv.records.trials import TrialLog
from nasenv.search.history import Finding
from nasenv.search.times import Times
from nasenv.trial import Architecture, Measurement, Trial

FIDELITY = 1.0
_CACHE = "cache"


class Known:
    """The measurements that a search has, by representative, and who has paid for them.

    Args:
        evaluator: says what nobody knows; here it is asked only where that costs no training.
        objective: measurement -> reward.
        cache: shared with other searches; None for none.
        log: where every training is kept the moment it ends; None keeps none.
        known: measurements that cost nothing any more, by representative.
        times: told what the cache and the log take.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        objective: Objective,
        cache: Cache | None,
        log: TrialLog | None,
        known: Mapping[Architecture, Measurement],
        times: Times,
    ) -> None:
        self._evaluator, self._objective, self._cache, self._log = evaluator, objective, cache, log
        self._times = times
        self._known: dict[Architecture, Measurement] = dict(known)
        self._payers: dict[Architecture, Architecture | None] = dict.fromkeys(known)  # by representative; None: nobody
        for trial, answer in log.answers.items() if log is not None else ():
            if trial.kind == "search" and isinstance(answer, Measurement):
                self._known[trial.architecture] = answer
                self._payers.pop(trial.architecture, None)
        self._problem = (evaluator.space.fingerprint(), evaluator.fingerprint(), FIDELITY)
        if cache is not None and log is not None:
            with times.part(_CACHE):
                bring(log, evaluator, cache)

    def learn(self, found: Mapping[Architecture, Finding]) -> dict[Architecture, Finding]:
        """Take in what a journal says of designs, and return it; what a table says too is kept once."""
        if not self._evaluator.trains:
            said = self._evaluator.evaluate(list(found), FIDELITY)
            found = {
                design: finding._replace(measurement=own) if own == finding.measurement else finding
                for (design, finding), own in zip(found.items(), said, strict=True)
            }
        for design, finding in found.items():
            representative = self._evaluator.representative(design)
            self._known[representative] = finding.measurement
            self._payers[representative] = design
        return dict(found)

    def has(self, representative: Architecture) -> bool:
        """Return whether the measurement of a network costs no training, as far as was looked for."""
        return not self._evaluator.trains or representative in self._known

    def find(self, wanted: Iterable[Architecture]) -> list[Architecture]:
        """Learn of representatives what costs no training, and return those that are still unknown."""
        if not self._evaluator.trains:
            return []
        missing = [r for r in dict.fromkeys(wanted) if r not in self._known]
        if missing and self._cache is not None:
            with self._times.part(_CACHE):
                cached = self._cache.find(*self._problem, missing)
            self._known |= cached
            self._payers |= dict.fromkeys(cached)
        return [r for r in missing if r not in self._known]

    def claim(self, missing: Sequence[Architecture]) -> list[Architecture]:
        """Return the representatives that are this search's to train: the others have been, or are being, elsewhere."""
        if self._cache is None or not missing:
            return list(missing)
        with self._times.part(_CACHE):
            mine = self._cache.claim(*self._problem, missing)
        return [r for r in missing if r in mine]

    def release(self, representatives: Sequence[Architecture]) -> None:
        """Give up claims."""
        if self._cache is not None and representatives:
            self._cache.release(*self._problem, representatives)

    def keep(self, trial: Trial, answer: Answer) -> None:
        """Keep a training that has ended; raise InputError where the answer is not a search's."""
        if not isinstance(answer, Measurement):
            raise faulty(self._evaluator, f"answered {trial} not with a Measurement")
        if self._log is not None:  # first, as what a cache alone knows is not paid for
            with self._times.part("logging"):
                self._log.add(trial, answer)
        self._known[trial.architecture] = answer
        if self._cache is not None:
            with self._times.part(_CACHE):
                self._cache.add(*self._problem, {trial.architecture: answer})

    def charge(self, designs: Sequence[Architecture]) -> list[Finding]:
        """Return what designs are worth, up to the first of which it is not known, and let them pay for their networks.

        The first design of a network that was measured for this search is not ``cached``: it is the one that paid.
        """
        networks = [self._evaluator.representative(design) for design in designs]
        if self._evaluator.trains:
            networks = list(takewhile(self._known.__contains__, networks))
            measurements = [self._known[network] for network in networks]
        else:
            measurements = self._evaluator.evaluate(networks, FIDELITY)
        payers = map(self._payers.setdefault, networks, designs)
        cached = [payer is not design for payer, design in zip(payers, designs, strict=False)]
        columns = zip(measurements, map(self._objective.reward, measurements), cached, strict=True)
        return list(map(tuple.__new__, repeat(Finding), columns))  # Finding's own __new__ is Python


def bring(log: TrialLog, evaluator: Evaluator, cache: Cache) -> None:
    """Add to a cache what a search has trained: some may not have reached its server before an earlier start ended."""
    trained = {t.architecture: a for t, a in log.answers.items() if t.kind == "search" and isinstance(a, Measurement)}
    cache.add(evaluator.space.fingerprint(), evaluator.fingerprint(), FIDELITY, trained)


def faulty(evaluator: Evaluator, reason: str) -> InputError:
    """Return the error of an evaluator whose stream breaks its contract."""
    return InputError(f"evaluator {type(evaluator).__name__}: its stream {reason}")
