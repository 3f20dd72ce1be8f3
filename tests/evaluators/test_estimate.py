"""Evaluators that estimate: cheap in a search, and the inner one for all that comes after."""

import pytest

from nasenv.agents import RandomSearch
from nasenv.configuration import digest
from nasenv.errors import InputError
from nasenv.evaluators.estimate import EstimateEvaluator
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.results.conclude import conclude
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Trial
from tests.fakes import Hashed

SPACE = ChainCNN(max_layers=2, widths=(8,))
A, B = SPACE.from_text("conv3x8"), SPACE.from_text("conv5x8|max_pool3")


class BySize(EstimateEvaluator):
    """The more parameters the better, in a unit of its own."""

    def __init__(self, space, inner):
        super().__init__(space, inner)
        self.estimated = []

    def fingerprint(self):
        return digest(["by size", self.inner.fingerprint()])

    def estimate(self, architectures):
        self.estimated.append(list(architectures))
        return [Measurement(1000.0 + sum(architecture)) for architecture in architectures]


class Asked(Hashed):
    """Notes the trials that it is asked for."""

    def __init__(self, space=SPACE):
        super().__init__(space)
        self.trials, self.kept, self.closed = [], {}, 0

    def costs(self, architecture):
        return {"params": float(sum(architecture))}

    def submit(self, trial, *, start=None, keep=None):
        super().submit(trial, start=start)
        self.kept[trial] = keep

    def measure(self, trials):
        self.trials += trials
        return super().measure(trials)

    def close(self):
        self.closed += 1


def test_a_search_is_answered_by_estimates_and_everything_else_by_the_inner_evaluator():
    inner = Asked()
    evaluator = BySize(SPACE, inner)
    searched = [Trial(A), Trial(B)]
    others = [Trial(A, purpose="check"), Trial(A, purpose="confirm", seed=1), Trial(B, purpose="test")]
    trials = [others[0], searched[0], *others[1:], searched[1]]
    expected = {t: Measurement(1000.0 + sum(t.architecture)) for t in searched}
    expected |= {t: inner.figure(t.architecture) for t in others}
    assert evaluator.measure(trials) == [expected[t] for t in trials]
    assert inner.trials == others
    assert dict(evaluator.results(trials)) == expected
    assert evaluator.estimated == [[A, B], [A, B]], "those of a batch are estimated together"
    assert evaluator.measure(others) == [expected[t] for t in others]
    assert len(evaluator.estimated) == 2, "it is not asked for nothing"


def test_costs_weights_and_workers_are_those_of_the_inner_evaluator(tmp_path):
    inner = Asked()
    evaluator = BySize(SPACE, inner)
    assert evaluator.costs(A) == inner.costs(A)
    evaluator.submit(Trial(A, purpose="test"), keep=tmp_path / "weights")
    assert [trial for trial, _ in evaluator.completed()] == [Trial(A, purpose="test")]
    assert inner.kept == {Trial(A, purpose="test"): tmp_path / "weights"}
    with pytest.raises(InputError, match="trains no network"):
        evaluator.submit(Trial(A), start=tmp_path / "weights")
    evaluator.close()
    assert inner.closed == 1


def test_an_inner_evaluator_of_another_space_is_refused():
    with pytest.raises(InputError, match="made for another space"):
        BySize(SPACE, Asked(ChainCNN(max_layers=1)))
    BySize(SPACE, Asked(ChainCNN(max_layers=2, widths=(8,))))  # an equal one will do


def test_a_search_on_estimates_is_concluded_by_trainings(tmp_path):
    inner = TrainingEvaluator(SPACE, "digits", epochs=1, final_epochs=1, concurrency=0, devices="cpu")
    budget = Budget(6, finalists=2, final_seeds=1)
    with Search(SPACE, BySize(SPACE, inner), RandomSearch(batch_size=3), budget, run_dir=tmp_path) as search:
        search.run()
        result = conclude(search)
    assert all(o.measurement.score > 1000 for o in search.history)
    best = {SPACE.canonical(o.architecture) for o in search.history.top(2)}
    assert best <= {contender.architecture for contender in result.finalists}
    trial = Trial(result.winner.architecture, purpose="test")
    assert result.test_score == inner.measure([trial])[0].score
    assert (tmp_path / "model" / "weights.safetensors").exists()
