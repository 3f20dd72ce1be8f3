"""The end of a search: who wins and why, and what is left in the run directory."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nasenv.agents import Agent, RandomSearch
from nasenv.commands.cli import main
from nasenv.data.dataset import load_dataset, load_images
from nasenv.deployment.export import load_model, predict
from nasenv.errors import InputError
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.objectives import Objective, Score, ScoreWithinCost
from nasenv.results.conclude import conclude
from nasenv.results.result import RESULT, Contender, Result, table
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Trial
from tests.fakes import Formula

SPACE = ChainCNN(max_layers=2)
A, B, C, D = (SPACE.from_text(text) for text in ("conv3x8", "conv3x16", "conv3x32", "conv1x8"))
A_PADDED = SPACE.from_text("conv3x8|identity")
REFERENCE = SPACE.reference()


class Told(Formula):
    """Says what it is told: scores of the search, of each seed of the confirmation, and of each of the test."""

    def __init__(self, search, confirmed=None, tested=None):
        super().__init__(SPACE)
        self.search, self.final = search, {"confirm": confirmed or {}, "test": tested or {}}
        self.asked = []

    def measure(self, trials):
        (purpose,) = {trial.purpose for trial in trials}
        if purpose == "search":
            return super().measure(trials)
        columns = ([trial.architecture for trial in trials], [trial.seed for trial in trials])
        self.asked.append((purpose, *(list(dict.fromkeys(column)) for column in columns)))
        return [measured(self.final[purpose].get(t.architecture, (0.5,) * (t.seed + 1))[t.seed]) for t in trials]

    def figure(self, architecture):
        return measured(self.search[architecture])


def measured(accuracy):
    """An architecture whose accuracy is a has 1,000 a parameters."""
    if accuracy is None:
        return Measurement(None, "timeout: it took long")
    return Measurement(accuracy, metrics={"params": 1000 * accuracy})


class Once(Agent):
    """Proposes the architectures that it is given, in one batch, and stops."""

    def __init__(self, architectures):
        super().__init__()
        self.architectures = architectures

    def run(self, search):
        if self.architectures:
            search.evaluate(self.architectures)


def ended(evaluator, finalists=10, seeds=2, **options):
    budget = Budget(evaluations=100, finalists=finalists, final_seeds=seeds)
    search = Search(SPACE, evaluator, Once(list(evaluator.search)), budget, **options)
    search.run()
    return search


# Who wins


def test_the_best_mean_after_the_final_training_wins_whatever_the_search_thought():
    evaluator = Told({A: 0.9, B: 0.8, C: 0.7}, {A: (0.6, 0.8), B: (0.9, 0.6), C: (0.99, 0.0)})
    result = conclude(ended(evaluator))
    assert result.winner.architecture == B
    assert result.winner.validation_scores == (0.9, 0.6)
    assert result.winner.text == "conv3x16"


def test_test_data_choose_nothing():
    """The confirmation is over before the test begins, and whatever the test says, the winner stays."""
    told = ({A: 0.9, B: 0.8}, {A: (0.7, 0.7), B: (0.6, 0.6)})
    for tested in ({A: (0.1, 0.2), B: (1.0, 1.0)}, {A: (1.0, 1.0), B: (0.1, 0.2)}):
        evaluator = Told(*told, tested)
        result = conclude(ended(evaluator))
        assert result.winner.architecture == A
        assert result.test_score == tested[A][0]
        assert result.winner.test_scores == tested[A]
        assert [call[0] for call in evaluator.asked] == ["confirm", "test"]


def test_only_the_best_so_many_are_finalists_and_each_is_trained_with_each_seed():
    evaluator = Told({A: 0.1, B: 0.4, C: 0.3, D: None})
    conclude(ended(evaluator, finalists=2, seeds=3))
    _, architectures, seeds = evaluator.asked[0]
    assert architectures[:2] == [B, C]
    assert set(architectures) == {B, C, REFERENCE}
    assert seeds == [0, 1, 2]


def test_the_best_reward_is_a_finalist_and_not_the_best_score():
    evaluator = Told({A: 0.9, B: 0.5}, {A: (0.9, 0.9), B: (0.5, 0.5)})
    objective = ScoreWithinCost("params", target=500, exponent=-2.0)  # A has 900 parameters, and is paid 0.28
    result = conclude(ended(evaluator, objective=objective))
    assert result.winner.architecture == B


def test_architectures_that_are_the_same_network_take_one_place():
    evaluator = Told({A_PADDED: 0.9, A: 0.9, B: 0.8, C: 0.7})
    conclude(ended(evaluator, finalists=2))
    assert evaluator.asked[0][1][:2] == [A, B]


def test_a_network_is_trained_as_it_was_in_the_search():
    """The search measures the representative of an architecture; so do its confirmation and test."""
    evaluator = Told({A: 0.9})
    search = Search(SPACE, evaluator, Once([A_PADDED]), Budget(1, final_seeds=1))
    search.run()
    assert conclude(search).winner.architecture == A
    assert evaluator.calls == [[A]]
    assert A in evaluator.asked[0][1]


def test_a_seed_that_fails_is_paid_the_failure_reward():
    evaluator = Told({A: 0.9, B: 0.8}, {A: (0.9, None), B: (0.5, 0.5)})
    result = conclude(ended(evaluator))
    assert result.winner.architecture == B
    assert conclude(ended(evaluator, objective=Score(failure_reward=0.3))).winner.validation_scores == (0.9,)


class Cheapness(Objective):
    """All it pays is below what a failure is paid, where that is said."""

    def value(self, measurement):
        return -measurement.metrics["params"]


def test_an_architecture_that_cannot_be_trained_does_not_win_though_failure_is_paid_better():
    for objective in (Cheapness(failure_reward=0.0), Cheapness()):
        evaluator = Told({A: 0.9, B: 0.8}, {A: (0.9, 0.9), B: (None, None), REFERENCE: (0.95, 0.95)})
        assert conclude(ended(evaluator, objective=objective)).winner.architecture == A


def test_a_seed_that_fails_is_paid_less_than_all_that_did_not_where_nothing_is_the_lowest():
    confirmed = {A: (0.1, None, None), B: (0.5, 0.5, 0.5), REFERENCE: (0.6, 0.6, 0.6)}  # -100, twice -1100; -500; -600
    evaluator = Told({A: 0.9, B: 0.8}, confirmed)
    assert conclude(ended(evaluator, seeds=3, objective=Cheapness())).winner.architecture == B


def test_the_network_that_is_exported_is_the_one_whose_accuracy_is_said():
    result = conclude(ended(Told({A: 0.9}, tested={A: (None, 0.7)})))
    assert (result.test_score, result.winner.test_scores) == (0.7, (0.7,))


# The baselines of the winner


def test_the_baselines_are_the_reference_and_the_best_of_the_first():
    sampled = dict.fromkeys(SPACE.canonical(a) for a in SPACE.sample(80, np.random.default_rng(0)))
    architectures = [a for a in sampled if a not in (A, REFERENCE)][:20]
    rising = {a: 0.1 + k / 100 for k, a in enumerate(architectures)}
    evaluator = Told(rising | {A: 0.95}, {A: (0.9, 0.9)})
    result = conclude(ended(evaluator, finalists=1))
    roles = {c.role: c.architecture for c in (result.winner, *result.others)}
    assert roles == {"winner": A, "hand-made reference": REFERENCE, "best of the first 16": architectures[15]}
    assert set(evaluator.asked[1][1]) == {A, REFERENCE, architectures[15]}
    assert all(len(c.validation_scores) == len(c.test_scores) == 2 for c in result.others)


def test_the_best_of_all_that_were_trained_in_full_wins_the_reference_too():
    """What the search found stays beside it, tested too; no test score decides."""
    told = {A: (0.2, 0.2), B: (0.4, 0.4), REFERENCE: (0.9, 0.9)}
    result = conclude(ended(Told({A: 0.9, B: 0.8}, told, {REFERENCE: (0.1, 0.1), B: (0.9, 0.9)})))
    assert result.winner.architecture == REFERENCE
    assert [(c.role, c.architecture) for c in result.others] == [
        ("best of the search", B),
        ("hand-made reference", REFERENCE),
    ]
    assert (result.test_score, result.others[0].test_scores) == (0.1, (0.9, 0.9))


def test_among_equals_what_the_search_found_wins():
    assert conclude(ended(Told({A: 0.9}, {A: (0.5, 0.5), REFERENCE: (0.5, 0.5)}))).winner.architecture == A


def test_a_winner_that_is_its_own_rival_is_trained_once():
    evaluator = Told({REFERENCE: 0.9})
    result = conclude(ended(evaluator))
    assert [call[1] for call in evaluator.asked] == [[REFERENCE], [REFERENCE]]
    assert [c.role for c in result.others] == ["hand-made reference"]


@pytest.mark.parametrize(("evaluations", "given", "compared"), [(16, 0, False), (17, 0, True), (18, 2, False)])
def test_the_first_evaluations_are_compared_where_there_are_later_ones(evaluations, given, compared):
    """Architectures to start from are no proposals of the agent's."""
    sampled = list(dict.fromkeys(SPACE.canonical(a) for a in SPACE.sample(80, np.random.default_rng(0))))
    told = {a: 0.9 - k / 100 for k, a in enumerate(sampled[:evaluations])}
    result = conclude(ended(Told(told), finalists=1, start=sampled[:given]))
    assert ("best of the first 16" in [c.role for c in result.others]) == compared


def test_all_that_were_trained_in_full_are_in_the_result_with_their_scores_sizes_and_seeds():
    confirmed = {A: (0.2, None), B: (0.4, 0.6), REFERENCE: (0.3, 0.3)}
    result = conclude(ended(Told({A: 0.9, B: 0.8, C: 0.1}, confirmed), finalists=2))
    assert [(c.role, c.architecture, c.validation_scores, c.seeds, c.params) for c in result.finalists] == [
        ("winner", B, (0.4, 0.6), (0, 1), 500),
        ("hand-made reference", REFERENCE, (0.3, 0.3), (0, 1), 500),
        ("finalist", A, (0.2,), (0,), 200),
    ]
    assert [c.test_seeds for c in result.finalists] == [(0, 1), (0, 1), ()]


def test_where_the_reward_is_not_the_score_both_are_kept():
    objective = ScoreWithinCost("params", target=500)
    result = conclude(ended(Told({A: 0.9}, {A: (0.9, 0.8)}, {A: (0.6, 1.0)}), objective=objective))
    (found,) = (c for c in result.finalists if c.architecture == A)
    assert (found.validation_scores, found.validation_rewards) == ((0.9, 0.8), (0.5, 0.5))
    assert conclude(ended(Told({A: 0.9}))).winner.validation_rewards == ()


# Searches that come to nothing


@pytest.mark.parametrize(
    ("evaluator", "said"),
    [
        (Told({}), "no architecture could be evaluated: agent Once stopped by itself"),
        (Told({A: None, B: None}), "no architecture could be evaluated; the first failed with: timeout: it took long"),
        (Told({A: 0.9, B: 0.8}, {A: (None,) * 2, B: (None,) * 2}), "every final training failed, .* timeout: it took"),
        (Told({A: 0.9}, tested={A: (None, None)}), "the winner's final training failed: timeout: it took"),
    ],
)
def test_nothing_to_conclude_is_one_line(evaluator, said):
    with pytest.raises(InputError, match=said) as caught:
        conclude(ended(evaluator))
    assert "\n" not in str(caught.value)


# What is written


def contender(role, values, **options):
    seeds = tuple(range(len(values)))
    return Contender(role, A, "conv3x8", values, values, 90, 700, seeds, seeds, **options)


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    others, finalists = (contender("other", ()),), (contender("finalist", (0.3,), validation_rewards=(0.2,)),)
    result = Result(contender("winner", (0.1, 1 / 3)), others, finalists, 0.1, "accuracy", "budget", 3, 4, 5.5)
    result.write(tmp_path / RESULT)
    assert Result.read(tmp_path / RESULT) == result
    assert [path.name for path in tmp_path.iterdir()] == [RESULT]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"winner": {}, "others": []}', '{"winner": 3, "others": []}'])
def test_a_damaged_result_is_one_line(tmp_path, text):
    (tmp_path / RESULT).write_text(text)
    with pytest.raises(InputError, match=r"is damaged .* delete it"):
        Result.read(tmp_path / RESULT)


def test_the_table_has_means_and_sample_deviations_in_percent():
    others = (contender("failed one", ()), contender("best of the first 16", (0.5,)))
    heads, rows = table(Result(contender("winner", (0.90, 0.94)), others, (), 0.9, "accuracy", "", 1, 0, 0.0))
    assert heads == ["network", "validation accuracy (%)", "test accuracy (%)", "parameters"]
    spread = f"92.00 ± {100 * math.sqrt(2 * 0.02**2):.2f}"
    assert rows == [
        ["winner", spread, spread, "90"],
        ["failed one", "failed", "failed", "90"],
        ["best of the first 16 evaluations", "50.00", "50.00", "90"],  # of one seed there is no deviation
    ]


def test_rewards_have_columns_where_they_are_not_the_scores():
    winner = contender("winner", (0.5,), validation_rewards=(0.25,), test_rewards=(0.125,))
    heads, rows = table(Result(winner, (), (), 0.5, "accuracy", "", 1, 0, 0.0))
    assert heads == ["network", "validation reward", "test reward", "test accuracy (%)", "parameters"]
    assert rows == [["winner", "0.2500", "0.1250", "50.00", "90"]]


# A real one


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search that has been brought to its end on digits: its folder and its result."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    evaluator = TrainingEvaluator(SPACE, "digits", epochs=1, final_epochs=2, concurrency=0, devices="cpu")
    budget = Budget(evaluations=3, finalists=2, final_seeds=2)
    with Search(SPACE, evaluator, RandomSearch(batch_size=3), budget, seed=1, run_dir=folder) as search:
        search.run()
        return folder, conclude(search)


def test_everything_is_in_the_run_directory(run):
    folder, result = run
    names = {path.name for path in folder.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert names - events == {
        "config.yaml",
        "journal.jsonl",
        "trials.jsonl",
        "timing.json",
        "result.json",
        "model",
        "architecture.png",
    }
    assert {"architecture.json", "weights.safetensors"} <= {path.name for path in (folder / "model").iterdir()}
    assert (folder / "architecture.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / RESULT).read_text())["test_score"] == result.test_score
    assert Result.read(folder / RESULT) == result


def test_the_exported_network_has_the_test_accuracy_that_is_said(run):
    folder, result = run
    exported, data = load_model(folder / "model"), load_dataset("digits")
    assert exported.architecture == result.winner.architecture
    with torch.inference_mode():
        found = (exported.model(data.test.inputs).argmax(1) == data.test.targets).float().mean()
    assert found == pytest.approx(result.test_score, abs=1.5 / len(data.test))


def test_what_is_said_of_the_winner_can_be_had_again(run):
    _, result = run
    evaluator = TrainingEvaluator(SPACE, "digits", epochs=1, final_epochs=2, concurrency=0, devices="cpu")
    tested = evaluator.measure([Trial(result.winner.architecture, purpose="test", seed=seed) for seed in (0, 1)])
    assert tuple(t.score for t in tested) == result.winner.test_scores


def test_nasenv_predict_equals_the_model(run, tmp_path, capsys):
    folder, _ = run
    images, labels, *_ = load_images("digits")
    np.savez(tmp_path / "some.npz", x=images[:50, 0].numpy(), y=np.array(labels[:50]).astype(int))
    assert main(["predict", str(folder), f"npz:{tmp_path / 'some.npz'}", "--output", str(tmp_path / "said.csv")]) == 0
    said = [line.split(",")[1] for line in (tmp_path / "said.csv").read_text().splitlines()[1:]]
    exported = load_model(folder / "model")
    with torch.inference_mode():
        classes = exported.model(load_dataset("digits").encoding.inputs(images[:50])).argmax(1).tolist()
    assert said == [exported.class_names[c] for c in classes]
    right = np.mean(np.array(said) == np.array(labels[:50]))
    said = re.search(r"accuracy on 50 images with a label: ([\d.]+) %", capsys.readouterr().err)
    assert float(said[1]) == pytest.approx(100 * right, abs=0.01)


def test_nasenv_predict_tells_labels_that_are_no_classes_of_the_model(run, tmp_path, capsys):
    folder, _ = run
    images = load_images("digits")[0][:4, 0].numpy()
    np.savez(tmp_path / "all.npz", x=images, y=np.array(["cat"] * 4))
    assert main(["predict", str(folder), f"npz:{tmp_path / 'all.npz'}"]) == 0
    said = capsys.readouterr().err
    assert "no accuracy: the labels (cat) are no classes of the model (0, 1, 2, 3, 4 ...)" in said
    np.savez(tmp_path / "one.npz", x=images, y=np.array(["0", "1", "2", "cat"]))
    assert main(["predict", str(folder), f"npz:{tmp_path / 'one.npz'}"]) == 0
    assert "no classes of the model, so counted as wrong: cat" in capsys.readouterr().err


def test_nasenv_predict_calls_pictures_by_their_files(run, tmp_path, capsys):
    folder, _ = run
    for digit in ("1", "7"):
        (tmp_path / "new" / digit).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "new" / digit / "my test.png")
    assert main(["predict", str(folder), f"folder:{tmp_path / 'new'}"]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        *("image", "1/my test.png", "7/my test.png")
    ]


def test_nasenv_predict_reads_a_single_picture(run, tmp_path, monkeypatch, capsys):
    folder, _ = run
    monkeypatch.chdir(tmp_path)
    image = load_images("digits")[0][7]
    Image.fromarray(image[0].numpy().astype(np.uint8)).save("my photo.png")
    assert main(["predict", str(folder), "my photo.png"]) == 0
    probabilities = predict(load_model(folder / "model"), image[None])[0]
    said = capsys.readouterr().out.splitlines()
    assert said == ["image,class,probability", f"my photo.png,{probabilities.argmax()},{probabilities.max():.4f}"]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("notes.txt", "notes.txt"),
        ("new", "did you mean folder:new?"),
        ("some.npz", "did you mean npz:some.npz?"),
        ("gone.png", "gone.png: no such file"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_line(images, said, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "some.npz").write_bytes(b"")
    assert main(["predict", str(run[0]), images]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_page_shows_the_end(run):
    folder, result = run
    page = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "images": 0}).Reload()
    assert {"incumbent/architecture", "search/choice_shares", "winner/architecture"} <= set(page.Tags()["images"])
    (text,) = page.Tensors("result")
    assert b"| winner |" in text.tensor_proto.string_val[0]
    assert page.Scalars("winner/test_accuracy")[0].value == pytest.approx(result.test_score)
    for seed in range(2):
        assert [e.step for e in page.Scalars(f"winner/train_loss_seed_{seed}")] == [1, 2]
    assert page.Graph().node


def test_without_a_run_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conclude(ended(Told({A: 0.9})))
    assert list(tmp_path.iterdir()) == []
