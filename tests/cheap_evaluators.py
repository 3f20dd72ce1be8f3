"""Evaluators that train nothing: what a design is worth is a formula."""

from abc import abstractmethod

from nasenv.configuration import digest
from nasenv.evaluators.evaluator import Evaluator
from nasenv.trial import Measurement


class Formula(Evaluator):
    """Measures by ``figure`` and remembers the architectures of each call of ``measure``."""

    def __init__(self, space):
        super().__init__(space)
        self.calls = []

    def fingerprint(self):
        return digest(type(self).__name__)

    @abstractmethod
    def figure(self, architecture): ...

    def measure(self, trials):
        self.calls.append([trial.architecture for trial in trials])
        return [self.figure(trial.architecture) for trial in trials]


class Hashed(Formula):
    """Each design has a figure of its own, in [0, 1]; one in ten fails."""

    def figure(self, architecture):
        value = int(digest(architecture), 16) / 16**16
        if value < 0.1:
            return Measurement(None, error="diverged")
        return Measurement(value, metrics={"params": 100.0 + sum(architecture)})


class HiddenDesign(Formula):
    """A design is worth the share of its decisions that agree with a hidden one."""

    def __init__(self, space, hidden):
        super().__init__(space)
        self.hidden = space.check(hidden)

    def figure(self, architecture):
        agree = sum(a == h for a, h in zip(architecture, self.hidden, strict=True))
        return Measurement(agree / len(self.hidden))
