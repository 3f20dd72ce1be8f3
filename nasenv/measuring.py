"""What designs are worth: known already, in the cache, or to be trained; and all of it kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from nasenv.cache import Cache
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator, Measurement, Trial
from nasenv.history import Finding
from nasenv.objectives import Objective
from nasenv.spaces.space import Architecture
from nasenv.trials import TrialLog

_FIDELITY = 1.0
_POLL_SECONDS = 0.2  # between two looks at what other searches on the same cache are training


class Measuring:
    """Finds out what designs are worth, each network once.

    Args:
        evaluator: trains what nobody knows.
        objective: measurement -> reward.
        cache: shared with other searches; None for none. What one of them is training is waited for.
        log: where every training is kept the moment it ends; None keeps none.
        known: measurements that cost nothing any more, by representative.
        say: told, in words, what is waited for.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        objective: Objective,
        cache: Cache | None,
        log: TrialLog | None,
        known: Mapping[Architecture, Measurement],
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._say = say
        self._evaluator, self._objective, self._cache, self._log = evaluator, objective, cache, log
        self._known: dict[Architecture, Measurement] = dict(known)
        self._unpaid: set[Architecture] = set()  # trained for this search, and not yet charged to an evaluation
        for trial, answer in log.answers.items() if log is not None else ():
            if trial.kind == "search" and isinstance(answer, Measurement):
                self._known[trial.architecture] = answer
                self._unpaid.add(trial.architecture)
        self._problem = (evaluator.space.fingerprint(), evaluator.fingerprint(), _FIDELITY)

    def learn(self, found: Mapping[Architecture, Finding]) -> dict[Architecture, Finding]:
        """Take in what a journal says of designs, and return it; what a table says too is kept once."""
        if not self._evaluator.trains:
            said = self._evaluator.evaluate(list(found), _FIDELITY)
            found = {
                design: finding._replace(measurement=own) if own == finding.measurement else finding
                for (design, finding), own in zip(found.items(), said, strict=True)
            }
        for design, finding in found.items():
            representative = self._evaluator.representative(design)
            self._known[representative] = finding.measurement
            if not finding.cached:
                self._unpaid.discard(representative)
        return dict(found)

    def measure(self, designs: Sequence[Architecture], stopped: Callable[[], bool]) -> dict[Architecture, Finding]:
        """Return what designs are worth: of all, or, where it is stopped, of those that were done by then.

        The first design of a network that was trained for this search is not ``cached``: it is the one that paid.
        """
        representatives = {design: self._evaluator.representative(design) for design in designs}
        self._find_out(list(dict.fromkeys(representatives.values())), stopped)
        found = {}
        for design, representative in representatives.items():
            if representative in self._known:
                measurement = self._known[representative]
                free = representative not in self._unpaid
                found[design] = Finding(measurement, self._objective.reward(measurement), free)
                self._unpaid.discard(representative)
        return found

    def _find_out(self, wanted: Iterable[Architecture], stopped: Callable[[], bool]) -> None:
        missing = [r for r in wanted if r not in self._known]
        if missing and not self._evaluator.trains:
            measured = dict(zip(missing, self._evaluator.evaluate(missing, _FIDELITY), strict=True))
            self._known |= measured
            self._unpaid |= measured.keys()
            return
        if self._cache is not None and missing:
            self._known |= self._cache.find(*self._problem, missing)
            missing = [r for r in missing if r not in self._known]
        if missing and not stopped():
            self._train_once(missing, stopped)

    def _train_once(self, missing: Sequence[Architecture], stopped: Callable[[], bool]) -> None:
        """Have designs trained by this search, or wait for another on the same cache that is training them."""
        if self._cache is None:
            self._train(missing, stopped)
            return
        said = False
        while missing and not stopped():
            mine = self._cache.claim(*self._problem, missing)
            self._train([r for r in missing if r in mine], stopped)
            self._known |= self._cache.find(*self._problem, [r for r in missing if r not in self._known])
            missing = [r for r in missing if r not in self._known]
            if missing and not mine:
                if not said:
                    self._say(f"waiting for {len(missing)} designs that another search on the same cache is training")
                    said = True
                time.sleep(_POLL_SECONDS)

    def _train(self, designs: Sequence[Architecture], stopped: Callable[[], bool]) -> None:
        """Have designs trained, as many as there is time for before a stop."""
        left = dict.fromkeys(designs)
        try:
            for trial, answer in self._evaluator.stream([Trial(d, fidelity=_FIDELITY) for d in designs], stopped):
                if trial.architecture not in left or not isinstance(answer, Measurement):
                    raise self._faulty(f"answered {trial}, which it was not asked for, or not with a Measurement")
                if self._log is not None:  # first, as what a cache alone knows is not paid for
                    self._log.add(trial, answer)
                self._keep({trial.architecture: answer})
                del left[trial.architecture]
            if left and not stopped():
                raise self._faulty(f"answered {len(designs) - len(left)} of {len(designs)} trials, expected all")
        finally:
            if self._cache is not None and left:
                self._cache.release(*self._problem, list(left))

    def _faulty(self, reason: str) -> InputError:
        return InputError(f"evaluator {type(self._evaluator).__name__}: its stream {reason}")

    def _keep(self, measured: Mapping[Architecture, Measurement]) -> None:
        self._known |= measured
        self._unpaid |= measured.keys()
        if self._cache is not None:
            self._cache.add(*self._problem, measured)
