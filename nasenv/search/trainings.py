"""The trainings of an asynchronous search: begun one by one, and ended in any order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence

from nasenv.evaluators.evaluator import Answer, Evaluator
from nasenv.search.known import FIDELITY, Known, faulty
from nasenv.search.measuring import POLL_SECONDS, waiting_for
from nasenv.trial import Architecture, Trial


class Trainings:
    """One stream of an evaluator, fed while it runs; what it answers is known at once.

    What another search on the same cache is training is looked for when a training of one's own ends, and, where there
    is none, again and again.

    Args:
        evaluator: trains; as many at once as it has slots.
        known: what is known, and keeps what is found out.
        say: told, in words, what is waited for.
        stopped: no further training is begun when it says so.
    """

    def __init__(
        self, evaluator: Evaluator, known: Known, say: Callable[[str], None], stopped: Callable[[], bool]
    ) -> None:
        self._evaluator, self._known, self._say, self._stopped = evaluator, known, say, stopped
        self._queue: deque[Trial] = deque()
        self._mine: dict[Architecture, None] = {}  # queued or being trained
        self._elsewhere: dict[Architecture, None] = {}  # being trained by other searches
        self._said = False
        self._stream = self._answers()

    def begin(self, representatives: Iterable[Architecture]) -> None:
        """Have trained what is neither known nor begun."""
        missing = [r for r in dict.fromkeys(representatives) if r not in self._mine and r not in self._elsewhere]
        self._claim(self._known.find(missing))

    def wait(self) -> list[Architecture]:
        """Return what has become known, as soon as something may have; soon after a stop."""
        heard: list[Architecture] = []
        if self._mine:
            heard = self._hear()
        elif self._elsewhere:
            if not self._said:
                self._say(waiting_for(len(self._elsewhere)))
            self._said = True
            time.sleep(POLL_SECONDS)
        elsewhere, self._elsewhere = self._elsewhere, {}
        if elsewhere:
            self._claim(self._known.find(elsewhere))
        return heard + [network for network in elsewhere if self._known.has(network)]

    def land(self) -> None:
        """Begin no more; return when those that are being trained are done, and known."""
        self._queue.clear()
        for trial, answer in self._stream:
            self._keep(trial, answer)

    def close(self) -> None:
        """Give up what is being trained."""
        self._stream.close()
        self._known.release(list(self._mine))

    def _claim(self, missing: Sequence[Architecture]) -> None:
        mine = self._known.claim(missing)
        self._mine |= dict.fromkeys(mine)
        self._queue.extend(Trial(r, fidelity=FIDELITY) for r in mine)
        self._elsewhere |= dict.fromkeys(r for r in missing if r not in self._mine)

    def _answers(self) -> Generator[tuple[Trial, Answer], None, None]:
        if self._evaluator.slots > 1:
            yield from self._evaluator.stream(self._queue, self._stopped)
            return
        while self._queue:
            yield from self._evaluator.stream([self._queue.popleft()], self._stopped)

    def _hear(self) -> list[Architecture]:
        """Return the design of the next answer; none where there are no more after a stop."""
        answered = next(self._stream, None)
        if answered is not None:
            self._keep(*answered)
            return [answered[0].architecture]
        if not self._stopped():
            raise faulty(self._evaluator, f"ended before {len(self._mine)} trials were answered")
        return []

    def _keep(self, trial: Trial, answer: Answer) -> None:
        if trial.architecture not in self._mine:
            raise faulty(self._evaluator, f"answered {trial}, which it was not asked for")
        self._known.keep(trial, answer)
        del self._mine[trial.architecture]
