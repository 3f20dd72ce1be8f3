"""What a batch of designs is worth: known already, or to be trained, each network once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from nasenv.evaluators.evaluator import Evaluator
from nasenv.search.history import Finding
from nasenv.search.known import FIDELITY, Known, faulty
from nasenv.trial import Architecture, Trial

POLL_SECONDS = 0.2  # between two looks at what other searches on the same cache are training


class Measuring:
    """Finds out what batches of designs are worth.

    Args:
        evaluator: trains what nobody knows.
        known: what is known, and keeps what is found out. What another search is training is waited for.
        say: told, in words, what is waited for.
    """

    def __init__(self, evaluator: Evaluator, known: Known, say: Callable[[str], None]) -> None:
        self._evaluator, self._known, self._say = evaluator, known, say

    def measure(self, designs: Sequence[Architecture], stopped: Callable[[], bool]) -> list[Finding]:
        """Return what designs are worth: of all, or, where it is stopped, up to the first that was not done by then."""
        self._train_once(self._known.find(map(self._evaluator.representative, designs)), stopped)
        return self._known.charge(designs)

    def _train_once(self, missing: Sequence[Architecture], stopped: Callable[[], bool]) -> None:
        """Have designs trained by this search, or wait for another on the same cache that is training them."""
        said = False
        while missing and not stopped():
            mine = self._known.claim(missing)
            self._train(mine, stopped)
            missing = self._known.find(missing)
            if missing and not mine:
                if not said:
                    self._say(waiting_for(len(missing)))
                    said = True
                time.sleep(POLL_SECONDS)

    def _train(self, designs: Sequence[Architecture], stopped: Callable[[], bool]) -> None:
        """Have designs trained, as many as there is time for before a stop."""
        left = dict.fromkeys(designs)
        try:
            for trial, answer in self._evaluator.stream([Trial(d, fidelity=FIDELITY) for d in designs], stopped):
                if trial.architecture not in left:
                    raise faulty(self._evaluator, f"answered {trial}, which it was not asked for")
                self._known.keep(trial, answer)
                del left[trial.architecture]
            if left and not stopped():
                done = len(designs) - len(left)
                raise faulty(self._evaluator, f"answered {done} of {len(designs)} trials, expected all")
        finally:
            self._known.release(list(left))


def waiting_for(designs: int) -> str:
    """Return, in words, what a search waits for."""
    return f"waiting for {designs} designs that another search on the same cache is training"
