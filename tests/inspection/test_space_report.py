"""What is found out about a space before a search, and what is said of it."""

import json
import math

import numpy as np
import pytest

from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Evaluator
from nasenv.evaluators.table import TableEvaluator
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.inspection.advice import advice, draws_for_best, summary
from nasenv.inspection.counting import Count
from nasenv.inspection.page import read_report, write, write_report
from nasenv.inspection.space_report import SpaceReport, TrainedSample, _fit, inspect_space
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement

FEW, MANY = Count(30, 30, 30), Count(1e6, 1e6, 1e6)


def report(**changes):
    kept = {"space": "Space", "task": "a task", "evaluations": 200, "slots": 2, "architectures": MANY, "networks": MANY}
    return SpaceReport(**kept | {"costs": {"flops": [1e6, 2e6, 3e6]}} | changes)


class Broken(Evaluator):
    """Knows the costs of some architectures, and fails to measure the others."""

    trains = True

    def fingerprint(self):
        return "broken"

    def costs(self, architecture):
        if architecture[0] == 0:
            raise RuntimeError("no room for a layer")
        return {"params": float(sum(architecture)), "flops": 10.0 * sum(architecture)}

    def measure(self, trials):
        return [
            Measurement(None, "out of memory")
            if trial.architecture[0] == 0
            else Measurement(0.5 + 0.01 * sum(trial.architecture), None, 1.0, self.costs(trial.architecture))
            for trial in trials
        ]


def test_a_table_is_looked_up():
    space = ChainCNN(max_layers=3, widths=[16])
    found = inspect_space(space, TableEvaluator(space), trained=12)
    assert found.architectures == Count(3_644, 3_644, 3_644)
    assert found.networks.value == 3_174
    assert len(found.costs["params"]) == 500
    assert found.timed == []
    assert found.trained is not None
    assert len(found.trained.scores) == 12


def test_networks_are_trained_with_two_seeds():
    space = ChainCNN(max_layers=2, widths=[8])
    evaluator = TrainingEvaluator(space, epochs=1, devices="cpu", concurrency=0)
    found = inspect_space(ChainCNN(max_layers=2, widths=[8]), evaluator, trained=4)
    assert found.trained is not None
    assert found.trained.scores != found.trained.again
    assert found.trained.at_chance == pytest.approx(0.1014 + 2 * math.sqrt(0.1014 * 0.8986 / 355), abs=1e-3)
    assert len(found.timed) == 8
    assert all(seconds > 0 for _, seconds in found.timed)
    again = inspect_space(ChainCNN(max_layers=2, widths=[8]), evaluator, trained=4)
    assert (again.costs, again.trained) == (found.costs, found.trained)


def test_what_fails_is_counted_and_said():
    space = ChainCNN(max_layers=3, widths=[16])
    found = inspect_space(space, Broken(space), trained=30)
    assert set(found.broken) == {"RuntimeError: no room for a layer"}
    assert found.broken["RuntimeError: no room for a layer"] + len(found.costs["params"]) == 500
    sentences = " ".join(advice(found))
    assert "networks cannot be built: RuntimeError: no room for a layer" in sentences
    assert "of the trainings fail" in sentences
    assert "with: out of memory" in sentences


def test_no_more_than_the_seconds_are_spent():
    space = ChainCNN(max_layers=3, widths=[16])
    found = inspect_space(space, Broken(space), seconds=1e-9)
    assert (found.costs, found.timed, found.seconds_per_flop) == ({}, [], None)
    assert found.search_seconds is None
    with pytest.raises(InputError, match="seconds must be a positive number, got 0"):
        inspect_space(space, Broken(space), seconds=0)


def test_the_share_that_a_search_sees():
    assert report(evaluations=100, networks=Count(1000, 1000, 1000)).budget_share == 0.1
    assert (
        report(evaluations=100, networks=Count(500, 500, math.inf), architectures=Count(1e4, 9e3, 2e4)).budget_share
        == 0.01
    )
    assert report(evaluations=100, networks=FEW).budget_share == 1.0


def test_seconds_follow_from_the_flops():
    assert _fit([(0.0, 1.0), (10.0, 3.0), (20.0, 5.0)]) == pytest.approx((1.0, 0.2))
    assert _fit([(0.0, 3.0), (10.0, 2.0), (20.0, 1.0)]) == (2.0, 0.0)  # no network takes less for being larger
    assert _fit([(0.0, 0.0), (10.0, 1.0), (20.0, 4.0)]) == pytest.approx((0.0, 0.18))
    assert _fit([(5.0, 1.0), (5.0, 2.0), (5.0, 3.0)]) is None
    assert _fit([(1.0, 1.0), (math.nan, 2.0), (5.0, 3.0)]) is None
    found = report(timed=[(0.0, 1.0)], seconds_per_flop=(1.0, 1e-6))
    assert found.training_seconds == 3.0
    assert found.search_seconds == 300.0


def sample(scores, again=None, at_chance=0.15, **errors):
    return TrainedSample(scores, again or scores, errors, at_chance)


def test_the_best_of_n_is_the_mean_of_the_maximum():
    scores = np.random.default_rng(0).random(20).tolist()
    mean, low, high = sample(scores).best_of(5)
    drawn = np.random.default_rng(1).choice(scores, (200_000, 5)).max(axis=1)
    assert mean == pytest.approx(drawn.mean(), abs=0.002)
    assert low < mean < high
    assert sample(scores).best_of(1)[0] == pytest.approx(np.mean(scores))
    assert sample([None, 0.5, 0.7]).best_of(1)[0] == pytest.approx(1.7 / 3)  # a failure counts as the lowest


def test_two_seeds_that_rank_alike_and_not():
    rising = [0.1, 0.2, 0.3, 0.4]
    assert sample(rising).rank_correlation == 1.0
    assert sample(rising, rising[::-1]).rank_correlation == pytest.approx(-1.0)
    assert sample(rising, [0.5] * 4).rank_correlation is None
    assert sample(rising, [0.1, None, 0.3, None]).rank_correlation is None
    assert sample([0.0, 0.2, 0.4], [0.1, 0.1, 0.5]).seed_noise == pytest.approx(math.sqrt(0.01 / 2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluations": 100}, "100 evaluations are 0.0001 of the different networks"),
        ({"networks": FEW, "architectures": FEW}, "200 evaluations are enough for all 30 networks"),
        ({"timed": [(1.0, 1e4)]}, "takes about 278 hours here"),
        (
            {"costs": {"flops": [1.0] * 18 + [1e6] * 2}, "seconds_per_flop": (1.0, 1e-3), "timed": [(1.0, 1.0)]},
            "1000 times",
        ),
        ({"trained": sample([0.1] * 6 + [0.9] * 4)}, "60% of the trained networks are at chance"),
        (
            {"trained": sample([0.5, 0.9, 0.7], [0.7, 0.5, 0.9])},
            "two seeds hardly rank networks alike (Spearman -0.50)",
        ),
        (
            {"trained": sample([0.8 + i / 1e3 for i in range(20)], [0.9] * 20)},
            "seed noise (6.41 points) is as large as",
        ),
    ],
)
def test_what_speaks_against_a_search_is_said(changes, words):
    found = report(**{"networks": Count(1e4, 1e4, 1e4), **changes} if "evaluations" not in changes else changes)
    assert words in " ".join(advice(found))


def test_a_good_space_gets_no_advice():
    scores = np.linspace(0.5, 0.9, 40).tolist()
    assert advice(report(networks=Count(1e4, 1e4, 1e4), trained=sample(scores), timed=[(1e6, 1.0)])) == []
    assert draws_for_best(0.05) == 59


def test_a_report_is_read_as_it_was_written(tmp_path):
    found = report(
        networks=Count(500, 500, math.inf),
        timed=[(math.nan, 1.0)],
        broken={"why": 2},
        trained=sample([0.5, None, 0.7], error=1),
    )
    write_report(tmp_path / "new", found, {"seed": 0})
    json.loads((tmp_path / "new/space.json").read_text(), parse_constant=pytest.fail)
    again = read_report(tmp_path / "new")
    assert again.to_json() == found.to_json()
    assert summary(again) == summary(found)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"report": {}}', '{"report": 3}', '{"report": {"space": [}'])
def test_another_file_is_refused_in_one_line(text, tmp_path):
    (tmp_path / "space.json").write_text(text)
    with pytest.raises(InputError, match=r"space.json is not a report of nasenv inspect: "):
        read_report(tmp_path)


def test_no_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"space.json"):
        read_report(tmp_path)


def test_the_page_holds_all_and_needs_no_network(tmp_path):
    scores = np.linspace(0.1, 0.9, 20).tolist()
    found = report(trained=sample(scores), timed=[(1e6, 1.0), (2e6, 2.0), (3e6, 2.5)], seconds_per_flop=(0.5, 1e-6))
    write(tmp_path, "A <space>", {"Space": found}, ["Beware & mend."], "seed: 0")
    page = (tmp_path / "inspection.html").read_text()
    assert "A &lt;space&gt;" in page
    assert "Beware &amp; mend." in page
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page
    assert {path.name for path in tmp_path.iterdir()} == {"inspection.html", "scores.png", "costs.png", "seconds.png"}
    for row in summary(found).items():
        for cell in row:
            assert cell.replace("<", "&lt;") in page
