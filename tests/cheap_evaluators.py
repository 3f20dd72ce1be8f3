"""Evaluators that train nothing: what a design is worth is a formula."""

from abc import abstractmethod

from nasenv.configuration import digest
from nasenv.evaluators.evaluator import Evaluator, TestResult
from nasenv.trial import Measurement


class Formula(Evaluator):
    """Measures by ``measure`` and remembers the designs of each call of ``evaluate``."""

    def __init__(self, space):
        super().__init__(space)
        self.calls = []

    def fingerprint(self):
        return digest(type(self).__name__)

    @abstractmethod
    def measure(self, architecture): ...

    def evaluate(self, architectures, fidelity=1.0):
        self.calls.append(list(architectures))
        return [self.measure(a) for a in architectures]

    def confirm(self, architectures, seeds):
        return [[self.measure(a) for _ in seeds] for a in architectures]

    def test(self, architectures, seeds):
        return [[TestResult(m.score, m.error) for m in row] for row in self.confirm(architectures, seeds)]


class Hashed(Formula):
    """Each design has a figure of its own, in [0, 1]; one in ten fails."""

    def measure(self, architecture):
        value = int(digest(architecture), 16) / 16**16
        if value < 0.1:
            return Measurement(None, error="diverged")
        return Measurement(value, metrics={"params": 100.0 + sum(architecture)})


class HiddenDesign(Formula):
    """A design is worth the share of its decisions that agree with a hidden one."""

    def __init__(self, space, hidden):
        super().__init__(space)
        self.hidden = space.check(hidden)

    def measure(self, architecture):
        agree = sum(a == h for a, h in zip(architecture, self.hidden, strict=True))
        return Measurement(agree / len(self.hidden))
