"""A space's part: what is the whole space's, what is narrower, and how it comes from a run and without it."""

import json
import pickle
import shutil
from itertools import product

import numpy as np
import pytest
import yaml

from nasenv.agents.random_search import RandomSearch
from nasenv.cache.cache import Cache
from nasenv.commands.cli import main
from nasenv.configuration import without_derived
from nasenv.data.dataset import load_dataset
from nasenv.deployment import export
from nasenv.errors import AgentError, InputError
from nasenv.evaluators.synthetic import SyntheticEvaluator
from nasenv.inspection.narrowed import Narrowed
from nasenv.inspection.run_evaluations import RunEvaluations
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.spaces.synthetic import SyntheticSpace
from nasenv.task import CIFAR10, Images, Task
from tests.fakes import TASK, Hashed, OneByOne

CONV = ["nor_conv_1x1", "nor_conv_3x3"]


def never_built(task, **choices):
    raise AssertionError


def constrained():
    """Return a space in which x0 = 3 leaves only x1 = 0, and x2 may not be below x1."""
    return ChoiceSpace(
        {"x0": (0, 1, 2, 3), "x1": (0, 1, 2), "x2": (0, 1, 2), "x3": (False, True)},
        build=never_built,
        constraints=[lambda x0, x1: x0 < 3 or x1 == 0, lambda x1, x2: x1 <= x2],
        task=TASK,
    )


PARTS = {
    "ChainCNN": lambda: Narrowed(
        of=ChainCNN(max_layers=3, widths=(8,), task=TASK),
        keep={"depth": [2, 3], "layer2.operation": ["max_pool", "conv"], "layer2.kernel": [1]},
    ),
    "ChoiceSpace": lambda: Narrowed(of=constrained(), keep={"x1": [1, 2], "x2": [0, 1], "x3": [True]}),
    "SyntheticSpace": lambda: Narrowed(of=SyntheticSpace(layers=2, widths=(4, 8)), keep={"layer1.width": [8]}),
    "twice": lambda: Narrowed(
        of=Narrowed(of=constrained(), keep={"x1": [0, 1], "x0": [1, 2, 3]}), keep={"x0": [1, 3], "x1": [1]}
    ),
}


@pytest.fixture(params=PARTS)
def part(request):
    return PARTS[request.param]()


def allowed(part, row, t):
    """Return what may be chosen at decision t after the earlier choices of a row, by the words of the docstring."""
    whole = part.of
    prefix = np.array(row[:t], dtype=np.int64).reshape(1, -1)
    valid = (
        allowed(whole, row, t) if isinstance(whole, Narrowed) else set(np.flatnonzero(whole.mask(prefix)[0]).tolist())
    )
    decision = whole.decisions[t]
    kept = {decision.choices.index(c) for c in part.keep.get(decision.name, decision.choices)}
    return valid & kept or valid


def test_its_architectures_are_those_of_the_whole_space_that_are_kept(part):
    expected = [
        row
        for row in map(tuple, part.whole.all_architectures().tolist())
        if all(row[t] in allowed(part, row, t) for t in range(len(row)))
    ]
    assert 1 < len(expected) < part.of.size
    assert [tuple(row) for row in part.all_architectures().tolist()] == expected
    assert part.size == len(expected)


def test_decisions_texts_features_canonical_forms_and_fingerprint_are_the_whole_spaces(part):
    whole = part.whole
    outside = whole.sample(30, np.random.default_rng(0))
    assert part.fingerprint() == whole.fingerprint()
    assert (part.decisions, part.task, part.reference()) == (whole.decisions, whole.task, whole.reference())
    for architecture in outside:
        assert part.canonical(architecture) == whole.canonical(architecture)
        assert part.to_text(architecture) == whole.to_text(architecture)
        assert part.from_text(whole.to_text(architecture)) == architecture
        assert part.diagram(architecture) == whole.diagram(architecture)
        assert part._meaningful(architecture) == whole._meaningful(architecture)
    np.testing.assert_array_equal(part.features(outside), whole.features(outside))


def test_sampling_mutation_neighbours_and_redirection_stay_inside(part):
    inside = set(map(tuple, part.all_architectures().tolist()))
    rng = np.random.default_rng(1)
    drawn = part.sample(200, rng)
    assert set(drawn) <= inside
    for architecture in drawn[:10]:
        assert part.mutate(architecture, rng) in inside
        assert set(part.neighbours(architecture)) <= inside - {architecture}
    rows = rng.integers(-3, 9, size=(50, part.num_decisions))
    assert set(part.complete(rows)) <= inside
    assert part.check_all(drawn) == drawn


def test_one_outside_is_refused_in_a_line(part):
    inside = set(map(tuple, part.all_architectures().tolist()))
    outside = next(row for row in map(tuple, part.whole.all_architectures().tolist()) if row not in inside)
    with pytest.raises(InputError, match=r"is not valid for decision '.*' of Narrowed"):
        part.check(outside)


def test_where_narrowing_leaves_nothing_the_whole_spaces_mask_stands():
    part = PARTS["ChoiceSpace"]()
    assert part.mask(np.array([[0], [3]])).tolist() == [[False, True, True, False], [True, False, False, False]]
    assert part.mask(np.array([[0, 2]])).tolist() == [[False, False, True, False]]  # x2 >= 2, and 2 is not kept


def test_a_worker_gets_it_whole(part):
    twin = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(twin.all_architectures(), part.all_architectures())
    assert twin.config() == part.config()


def test_its_networks_are_the_whole_spaces():
    whole = NASBench201(4, 1, TASK)
    part = Narrowed(of=whole, keep={"0>1": CONV})
    architecture = part.sample(1, np.random.default_rng(0))[0]
    assert str(part.build(architecture)) == str(whole.build(architecture))


def test_a_large_product_has_its_exact_size_and_one_with_constraints_none():
    assert Narrowed(of=SyntheticSpace(), keep={"layer1.width": [8]}).size == 20**14 * 5
    assert Narrowed(of=ChainCNN(task=TASK), keep={"layer1.kernel": [3]}).size is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give run, the folder of a run; or of, a space, and what to keep of it"),
        ({"keep": {"0>1": CONV}}, "give run"),
        ({"of": NASBench201()}, "give run"),
        ({"run": "here", "keep": {}}, "give run"),
        ({"of": NASBench201(), "keep": {"0>4": CONV}}, "NASBench201 has no decision '0>4'; the nearest: "),
        ({"of": NASBench201(), "keep": {"0>1": []}}, "expected a list of one or more choices for 0>1, got []"),
        ({"of": NASBench201(), "keep": {"0>1": "none"}}, "expected a list of one or more choices"),
        ({"of": NASBench201(), "keep": {"0>1": ["conv"]}}, "0>1 has the choices none, skip_connect"),
        ({"of": NASBench201(), "keep": ["0>1"]}, "keep must be names of decisions with the choices to keep"),
        ({"of": NASBench201(), "keep": {}, "task": TASK}, "its task is"),
        ({"run": "nowhere"}, "nowhere holds no journal.jsonl; expected the folder of a run"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words):
    with pytest.raises(InputError) as error:
        Narrowed(**arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


class Tuples(SearchSpace):
    def __init__(self, task=None):
        super().__init__([Decision("size", ((1, 2), (3, 4), None)), Decision("on", (True, False))], task or CIFAR10)

    def build(self, architecture):
        raise AssertionError


def test_choices_are_found_again_as_json_has_them():
    part = Narrowed(of=Tuples(), keep={"size": [[3, 4], None], "on": [True]})
    assert part.keep == {"size": [(3, 4), None], "on": [True]}
    again = Narrowed(of=Tuples(), keep=json.loads(json.dumps(part.config()))["init_args"]["keep"])
    assert again.config() == part.config()


def test_its_configuration_leaves_out_the_task_which_follows_from_the_data():
    part = Narrowed(of=NASBench201(4, 1, TASK), keep={"0>1": CONV})
    twice = Narrowed(of=Narrowed(of=part, keep={"0>2": CONV}), keep={"0>3": CONV})
    assert '"task"' in json.dumps(twice.config())
    assert "task" not in json.dumps(without_derived({"space": twice.config()}))


def test_yes_and_no_are_found_where_yaml_reads_them_as_true_and_false():
    part = Narrowed(of=ChainCNN(max_layers=3, task=TASK), keep={"layer2.skip": [True], "layer3.skip": [False]})
    assert part.keep == {"layer2.skip": ["yes"], "layer3.skip": ["no"]}
    with pytest.raises(InputError, match="depth has the choices 1, 2, 3, got True"):
        Narrowed(of=ChainCNN(max_layers=3, task=TASK), keep={"depth": [True]})


# In a search


def test_the_cache_answers_for_what_the_whole_space_measured(tmp_path):
    whole = Tuples()
    part = Narrowed(of=whole, keep={"size": [[1, 2], None]})
    with Cache(tmp_path / "cache.db") as cache:
        first, second = OneByOne(whole), OneByOne(part)
        with Search(whole, first, RandomSearch(), Budget(evaluations=6), cache=cache) as search:
            search.run()
        with Search(part, second, RandomSearch(), Budget(evaluations=6), cache=cache) as narrow:
            narrow.run()
        assert {outcome.cached for outcome in search.history} == {False}
        assert {outcome.cached for outcome in narrow.history} == {True}
    assert len(narrow.history) == 4
    assert "all" in narrow.ended  # architectures of the space are evaluated


def test_an_agent_that_leaves_the_part_broke_its_contract():
    part = Narrowed(of=Tuples(), keep={"on": [True]})
    with Search(part, Hashed(part), budget=Budget(evaluations=3)) as search, pytest.raises(AgentError):
        search.evaluate([(0, 1)])


def test_a_run_of_the_whole_space_is_another_than_one_of_the_part(tmp_path):
    whole = Tuples()
    parts = [whole, Narrowed(of=whole, keep={"on": [True]}), Narrowed(of=whole, keep={"on": [False]})]
    identities = [Search(space, Hashed(space), budget=Budget(evaluations=3)).identity() for space in parts]
    assert len({json.dumps(identity, sort_keys=True) for identity in identities}) == 3
    assert len({identity["fingerprint"]["space"] for identity in identities}) == 1
    with Search(whole, Hashed(whole), RandomSearch(), Budget(evaluations=3), run_dir=tmp_path) as search:
        search.run()
    with pytest.raises(InputError, match="belongs to another configuration"):
        Search(parts[1], Hashed(parts[1]), RandomSearch(), Budget(evaluations=3), run_dir=tmp_path)


def test_evidence_is_no_part_of_the_identity():
    plain, told = (Narrowed(of=Tuples(), keep={"on": [True]}, evidence=e) for e in (None, {"rule": "by hand"}))
    assert plain.identity() == told.identity()
    assert plain.config() != told.config()


def test_evaluators_are_made_for_the_whole_space():
    whole = SyntheticSpace(layers=2, widths=(4, 8))
    part = Narrowed(of=whole, keep={"layer1.width": [4]})
    assert SyntheticEvaluator(part).space is whole  # which asks for a space without constraints
    assert SyntheticEvaluator(part).best == SyntheticEvaluator(whole).best


# From a run, and without it

CHAIN = ["--space", "ChainCNN", "--space.max_layers", "3", "--space.widths", "[16]", "--evaluator", "TableEvaluator"]
LOOK_UP = ["--evaluator", "TableEvaluator", "--agent", "RandomSearch", "--budget.evaluations", "20", "--cache", "none"]


def test_a_run_narrows_its_space_and_is_not_needed_afterwards(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *CHAIN, "--agent", "RandomSearch", "--budget.evaluations", "60", "--run_dir", "first"]) == 0
    narrow = ["train", "--space", "Narrowed", *LOOK_UP, "--run_dir", "narrow"]
    assert main([*narrow, "--space.run", "first", "--space.share", "0.2"]) == 0
    written = yaml.safe_load((tmp_path / "narrow/config.yaml").read_text())["space"]["init_args"]
    assert written["of"] == {
        "class_path": "nasenv.spaces.chain_cnn.ChainCNN",
        "init_args": yaml.safe_load((tmp_path / "first/config.yaml").read_text())["space"]["init_args"],
    }
    assert written["keep"]
    evidence = written["evidence"]
    assert (evidence["run"], evidence["evaluations"], evidence["share_asked_for"]) == ("first", 60, 0.2)
    assert evidence["rule"].startswith("functions are drawn from a Gaussian process")
    assert 0 < evidence["share"] <= 0.2
    shutil.rmtree(tmp_path / "first")
    capsys.readouterr()
    assert main(["train", "--config", "narrow/config.yaml", "--run_dir", "narrow", "--cache", "none"]) == 0
    assert "narrow is finished; this is its result" in capsys.readouterr().out
    _, space = RunEvaluations.read("narrow"), RunEvaluations.read("narrow").space
    assert isinstance(space, Narrowed)
    assert Narrowed(run="narrow", share=0.5).of.config() == space.config()


def test_by_hand_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = ["--space.of", "ChainCNN", "--space.of.max_layers", "3", "--space.of.widths", "[16]"]
    keep = ["--space.keep", "{depth: [2], layer1.operation: [conv, identity]}"]
    assert main(["train", "--space", "Narrowed", *whole, *keep, *LOOK_UP, "--run_dir", "hand"]) == 0
    entries = [json.loads(line) for line in (tmp_path / "hand/journal.jsonl").read_text().splitlines()][1:]
    decisions = [decision.name for decision in ChainCNN(max_layers=3).decisions]
    assert {entry["architecture"][decisions.index("depth")] for entry in entries} == {1}
    assert {entry["architecture"][decisions.index("layer1.operation")] for entry in entries} == {0, 4}


def test_a_saved_network_is_of_the_whole_space(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_save_program", lambda *_: None)  # takes seconds
    part = Narrowed(of=NASBench201(2, 1, TASK), keep={"0>1": CONV})
    outside = (0, 0, 0, 3, 0, 0)
    export.save_model(tmp_path, part, outside, part.build(outside), load_dataset("digits"))
    assert isinstance(export.load_model(tmp_path).space, NASBench201)


# What is read of a run


def a_run(folder, space=None, evaluations=12):
    space = space or SyntheticSpace(layers=2, widths=(4, 8))
    evaluator = Hashed(space)
    with Search(space, evaluator, RandomSearch(), Budget(evaluations=evaluations), run_dir=folder) as search:
        search.run()
    return search


def test_the_evaluations_of_a_run(tmp_path):
    history = a_run(tmp_path / "run").history
    read = RunEvaluations.read(tmp_path / "run")
    assert read.architectures == [outcome.architecture for outcome in history]
    assert read.rewards.tolist() == [outcome.reward for outcome in history]
    assert read.failed.tolist() == [outcome.measurement.error is not None for outcome in history]
    assert (read.run, read.metric) == ("run", "accuracy")


def test_only_the_highest_fidelity_counts(tmp_path):
    path = tmp_path / "run" / "journal.jsonl"
    rewards = [outcome.reward for outcome in a_run(tmp_path / "run").history]
    header, *entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries[::2]:
        entry["fidelity"] = 0.5
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *entries)))
    assert RunEvaluations.read(tmp_path / "run").rewards.tolist() == rewards[1::2]


def changed(path, change):
    header, *entries = path.read_text().splitlines()
    values = json.loads(header)
    change(values["config"])
    path.write_text("\n".join([json.dumps(values), *entries]) + "\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config["fingerprint"].update(space="another"), "is not this one: its code, its arguments"),
        (lambda config: config["space"].update(class_path="nowhere.Space"), "No module named 'nowhere'; in Python"),
        (lambda config: config["space"].update(class_path="pathlib.Path.mkdir"), "cannot be made again"),
        (lambda config: config["space"].update(class_path="os.mkdir", init_args={"path": "made"}), "not a class of"),
        (lambda config: config["space"]["init_args"].update(layers="many"), "layers"),
        (lambda config: config.pop("space"), "does not say which space was searched"),
    ],
)
def test_a_run_of_another_space_is_refused_in_a_line(change, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "run")
    changed(tmp_path / "run" / "journal.jsonl", change)
    with pytest.raises(InputError) as error:
        Narrowed(run="run")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


def test_a_task_other_than_the_runs_is_refused(tmp_path):
    a_run(tmp_path / "run", NASBench201(2, 1, TASK), 20)
    with pytest.raises(InputError, match="its arguments or its data are others now"):
        Narrowed(run=str(tmp_path / "run"), task=Task(Images((3, 8, 8)), outputs=4))
    assert Narrowed(run=str(tmp_path / "run"), task=TASK).task == TASK


def test_a_space_that_cannot_be_made_again_can_be_given(tmp_path):
    space = constrained()
    a_run(tmp_path / "run", space, 20)
    with pytest.raises(InputError, match="cannot be made again"):
        Narrowed(run=str(tmp_path / "run"))
    part = Narrowed(run=str(tmp_path / "run"), of=space, share=0.4)
    assert part.of is space
    assert part.size <= 0.4 * space.size


def test_too_few_evaluations_are_refused(tmp_path):
    a_run(tmp_path / "run", evaluations=5)
    with pytest.raises(InputError, match="evaluated without failure, 10 or more are needed"):
        Narrowed(run=str(tmp_path / "run"))


def test_every_part_of_a_small_product_has_the_size_of_its_enumeration():
    whole = Tuples()
    for sizes, flags in product(([[1, 2]], [[1, 2], None], [[1, 2], [3, 4], None]), ([True], [True, False])):
        part = Narrowed(of=whole, keep={"size": sizes, "on": flags})
        assert part.size == len(part.all_architectures()) == len(sizes) * len(flags)
