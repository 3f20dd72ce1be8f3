"""Evaluators whose trials are answered one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nasenv.evaluators.evaluator import Evaluator, Measurement, TestResult, Trial
from nasenv.spaces.space import Architecture


class Streamed(Evaluator):
    """An evaluator whose ``stream`` does the work: what is asked for together is a stream of its own."""

    def evaluate(self, architectures: Sequence[Architecture], fidelity: float = 1.0) -> list[Measurement]:
        """Return the measurement of each architecture, in order."""
        trials = [Trial(a, "search", fidelity=fidelity) for a in architectures]
        answers: dict[Trial, Any] = dict(self.stream(list(dict.fromkeys(trials))))
        return [answers[trial] for trial in trials]

    def confirm(self, architectures: Sequence[Architecture], seeds: Sequence[int]) -> list[list[Measurement]]:
        """Return, for each architecture and seed, the validation accuracy after the final training."""
        answers: dict[Trial, Any] = dict(self.stream([Trial(a, "confirm", s) for a in architectures for s in seeds]))
        return [[answers[Trial(a, "confirm", s)] for s in seeds] for a in architectures]

    def test(self, architectures: Sequence[Architecture], seeds: Sequence[int]) -> list[list[TestResult]]:
        """Return, for each architecture and seed, the final training on training + validation data and its test."""
        answers: dict[Trial, Any] = dict(self.stream([Trial(a, "test", s) for a in architectures for s in seeds]))
        return [[answers[Trial(a, "test", s)] for s in seeds] for a in architectures]
