"""What an evaluator may return: any kind of number, which is journaled as Python's own; nothing else."""

import json
import math

import numpy as np
import pytest
import torch

from nasenv.trial import Measurement, Trial

HALVES = [0.5, np.float16(0.5), np.float32(0.5), np.float64(0.5), np.array(0.5), np.longdouble(0.5), torch.tensor(0.5)]


@pytest.mark.parametrize("half", HALVES, ids=lambda half: str(getattr(half, "dtype", "float")))
def test_numbers_of_any_kind_are_written_as_pythons_own(half):
    answer = Measurement(half, train_seconds=half, metrics={"loss": half}, curve=[half, half])
    assert answer == Measurement(0.5, train_seconds=0.5, metrics={"loss": 0.5}, curve=(0.5, 0.5))
    assert Measurement.from_json(json.loads(json.dumps(answer.to_json()))) == answer
    assert type(answer.metrics["loss"]) is float


@pytest.mark.parametrize("seven", [7, np.int64(7), np.uint8(7), torch.tensor(7)])
def test_whole_numbers_stay_whole_so_that_journals_stay_as_they_were(seven):
    written = json.dumps(Measurement(1, None, seven, metrics={"params": seven}).to_json())
    assert '"score": 1, ' in written
    assert '"train_seconds": 7, ' in written
    assert '"metrics": {"params": 7}' in written


@pytest.mark.parametrize("curve", [np.ones(3, dtype=np.float32), torch.ones(3), [1.0] * 3])
def test_a_curve_may_be_an_array(curve):
    assert Measurement(0.5, curve=curve).curve == (1.0, 1.0, 1.0)


def test_metrics_that_are_plain_are_not_copied():
    metrics = {"params": 7, "loss": 0.5}
    assert Measurement(0.5, metrics=metrics).metrics is metrics


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({0: True}, "score must be a number, got True"),
        ({0: np.True_}, "score must be a number, got "),
        ({0: "0.5"}, "score must be a number, got '0.5'"),
        ({0: np.ones(1)}, r"score must be a number, got array\(\[1.\]\)"),
        ({0: np.float32("nan")}, "score must be finite, got nan"),
        ({0: -math.inf}, "score must be finite, got -inf"),
        ({0: None}, "has either a score or an error, got None and None"),
        ({1: "diverged"}, "has either a score or an error, got 0.5 and 'diverged'"),
        ({0: None, 1: 5}, "error must be a text, got 5"),
        ({2: "1"}, "train_seconds must be a number, got '1'"),
        ({2: None}, "train_seconds must be a number, got None"),
        ({2: -1}, "train_seconds must be finite and not negative, got -1"),
        ({2: 10**400}, "train_seconds must be a number that a float can hold"),
        ({"metrics": {"params": "x"}}, r"metrics\['params'\] must be a number, got 'x'"),
        ({"metrics": {"params": None}}, r"metrics\['params'\] must be a number, got None"),
        ({"metrics": {1: 2.0}}, "metrics must be numbers by name, got {1: 2.0}"),
        ({"metrics": [1.0]}, r"metrics must be numbers by name, got \[1.0\]"),
        ({"curve": "abc"}, "curve must be a number, got 'a'"),
        ({"curve": 1.0}, "curve must be numbers, got 1.0"),
    ],
)
def test_what_is_no_answer_is_refused_with_its_name(wrong, said):
    positional = [wrong.get(i, usual) for i, usual in enumerate((0.5, None, 0.0))]
    named = {name: value for name, value in wrong.items() if isinstance(name, str)}
    with pytest.raises((TypeError, ValueError), match=said):
        Measurement(*positional, **named)


@pytest.mark.parametrize("fidelity", [0, -0.5, 1.001, math.nan])
def test_a_fidelity_is_a_share(fidelity):
    with pytest.raises(ValueError, match=r"fidelity must be in \(0, 1\], got"):
        Trial((0,), fidelity)
