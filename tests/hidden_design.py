"""A cheap evaluator: a design is worth the share of its decisions that agree with a hidden one."""

from nasenv.configuration import digest
from nasenv.evaluators.evaluator import Evaluator, Measurement, TestResult


class HiddenDesign(Evaluator):
    def __init__(self, space, hidden):
        super().__init__(space)
        self.hidden = space.check(hidden)
        self.batches = []  # the number of designs of each evaluation

    def fingerprint(self):
        return digest(["hidden design", self.hidden])

    def evaluate(self, architectures, fidelity=1.0):
        self.batches.append(len(architectures))
        return [Measurement(self.share(a), fidelity=fidelity) for a in architectures]

    def confirm(self, architectures, seeds):
        return [self.evaluate([a] * len(seeds)) for a in architectures]

    def test(self, architectures, seeds):
        return [[TestResult(self.share(a)) for _ in seeds] for a in architectures]

    def share(self, architecture):
        return sum(a == h for a, h in zip(architecture, self.hidden, strict=True)) / len(self.hidden)
