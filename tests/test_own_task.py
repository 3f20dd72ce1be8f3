"""A task of one's own, rows of ten numbers and a regression, goes all the way without a changed line in nasenv."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import nasenv
from nasenv import agents
from nasenv.comparison.comparison import Comparison
from nasenv.comparison.problem import Problem
from nasenv.task import Encoding, Task

COLUMNS = 10


def build(task, depth, width):
    sizes = [task.shape[0], *[width] * depth]
    layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], task.outputs))


class Perceptrons(nasenv.ChoiceSpace):
    def __init__(self, task):
        super().__init__({"depth": (1, 2), "width": (4, 16, 64)}, build, task=task)


def samples(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(3.0, 2.0, size=(n, COLUMNS))
    return x, 100.0 * x[:, 0] - 40.0 * x[:, 1] + 1000.0 + rng.normal(0, 5.0, size=n)


@pytest.fixture(scope="module")
def data():
    return nasenv.Dataset.of_numbers(
        "rows", nasenv.Table((COLUMNS,)), [samples(600, 0), samples(150, 1), samples(150, 2)]
    )


def made(data, run_dir=None, evaluations=5, **more):
    space = Perceptrons(data.task)
    evaluator = nasenv.TrainingEvaluator(space, data, epochs=8, batch_size=32, final_epochs=12, concurrency=0)
    budget = nasenv.Budget(evaluations, finalists=2, final_seeds=1)
    return nasenv.Search(space, evaluator, agents.RandomSearch(batch_size=2), budget, seed=1, run_dir=run_dir, **more)


def told(search):
    return [(o.architecture, o.reward) for o in search.history]


def test_the_task_says_what_is_asked_for(data):
    assert data.task == Task(nasenv.Table((COLUMNS,)), 1, "regression", "r2")
    assert Task.from_json(json.loads(json.dumps(data.task.to_json()))) == data.task
    assert Encoding.from_json(json.loads(json.dumps(data.encoding.to_json()))) == data.encoding
    assert data.train.inputs.mean(0).abs().max() < 1e-5
    assert data.train.targets.std(correction=0) == pytest.approx(1.0)


def test_it_is_searched_concluded_exported_and_predicted(data, tmp_path):
    with made(data, tmp_path / "run") as search:
        search.run()
        result = nasenv.conclude(search)
    assert result.metric == "r2"
    assert result.test_score > 0.9
    model = nasenv.load_model(tmp_path / "run" / "model", space=Perceptrons)
    x, y = samples(200, 5)
    predicted = nasenv.predict(model, x)
    assert predicted.shape == (200, 1)
    assert 1 - ((predicted[:, 0] - y) ** 2).sum() / ((y - y.mean()) ** 2).sum() > 0.9  # in the user's units
    with pytest.raises(nasenv.InputError, match=r"the model takes table of \(n, 10\), got \(3, 4\)"):
        nasenv.predict(model, np.zeros((3, 4)))
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    tags = events.Tags()["scalars"]
    assert {"evaluation/val_r2", "evaluation/best_val_r2", "winner/test_r2"} <= set(tags)
    assert not [tag for tag in tags if "accuracy" in tag]
    best = [event.value for event in events.Scalars("evaluation/best_val_r2")]
    assert best == sorted(best)


def test_it_is_resumed(data, tmp_path):
    with made(data) as search:
        search.run()
        whole = told(search)
    with made(data, tmp_path, callbacks=[lambda s, o: s.stop("enough") if len(s.history) == 2 else None]) as search:
        search.run()
    with made(data, tmp_path) as search:
        assert search.replayed
        search.run()
        assert told(search) == whole


def test_it_is_compared(data, tmp_path):
    space = Perceptrons(data.task)
    evaluator = nasenv.TrainingEvaluator(space, data, epochs=4, batch_size=32, final_epochs=4, concurrency=0)
    problem = Problem(space, evaluator, budget=nasenv.Budget(3, final_seeds=1))
    names = {
        "random": agents.RandomSearch(),
        "evolution": agents.RegularizedEvolution(population_size=2, sample_size=2),
    }
    comparison = Comparison({"rows": problem}, names, range(2), tmp_path, None)
    with comparison.held():
        comparison.run(lambda _: None, 0, None)
        runs = comparison.write_results(tmp_path / "results.csv")
    assert problem.metric == "r2"
    assert len(runs["rows"]) == 4
    assert all(run.error is None for run in runs["rows"])


def test_a_failed_trial_is_paid_less_than_any_other(data):
    class Sometimes(nasenv.TrainingEvaluator):
        def completed(self, stopped=lambda: False):
            for trial, measurement in super().completed(stopped):
                fails = trial.architecture == (0, 1)
                yield trial, nasenv.Measurement(None, "diverged") if fails else measurement

    space = Perceptrons(data.task)
    with nasenv.Search(space, Sometimes(space, data, epochs=1, concurrency=0)) as search:
        search.evaluate([(0, 0), (1, 2)])
        (failed,) = search.evaluate([(0, 1)])
        rewards = [o.reward for o in search.history if o.measurement.error is None]
        assert failed.reward == pytest.approx(min(rewards) - (max(rewards) - min(rewards)))
        assert search.history.best.measurement.error is None


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("r2", 1 - (0.25 + 0.25) / 2.0), ("neg_rmse", -math.sqrt(0.5 / 3))],
)
def test_metrics_by_a_second_derivation(metric, expected):
    outputs, targets = torch.tensor([[0.5], [2.0], [2.5]]), torch.tensor([[1.0], [2.0], [3.0]])
    assert Task(nasenv.Table((1,)), 1, "regression", metric).score(outputs, targets) == pytest.approx(expected)


def test_a_metric_that_nothing_can_be_scored_by_is_refused(data):
    task = Task(nasenv.Table((COLUMNS,)), 1, "regression", "accuracy")
    space = Perceptrons(task)
    with pytest.raises(nasenv.InputError, match="a regression is scored by r2, neg_rmse"):
        nasenv.TrainingEvaluator(space, nasenv.Dataset(**{**vars(data), "task": task}))
