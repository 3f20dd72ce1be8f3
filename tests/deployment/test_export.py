"""Saved models: what comes back answers as what was saved, and what does not fit is refused."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from nasenv.data.dataset import Dataset, load_dataset, load_images
from nasenv.deployment.export import load_model, predict, save_model
from nasenv.errors import InputError
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.define_by_run import FunctionSpace
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.task import Table, Task
from tests.fakes import TASK


class Activations(SearchSpace):
    """One decision, and networks that differ by no weight."""

    swapped = False

    def __init__(self, task=TASK, make=nn.Linear):
        super().__init__([Decision("activation", ("relu", "tanh", "values"))], task)
        self.make = make

    def build(self, architecture):
        kinds = (nn.Tanh, nn.ReLU) if self.swapped else (nn.ReLU, nn.Tanh)
        kind = _DependsOnValues if architecture[0] == 2 else kinds[architecture[0]]
        return nn.Sequential(nn.Flatten(), kind(), self.make(64, 10))


class _DependsOnValues(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x  # which of the two cannot be told without the values


@pytest.fixture(scope="module")
def digits():
    return load_dataset()


@pytest.fixture(scope="module")
def trained(digits):
    """A network whose BatchNorm statistics and weights are not those it starts with, in training mode."""
    space = ChainCNN(max_layers=3)
    architecture = space.from_text("conv3x16|max_pool3|sep_conv5x32+skip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = space.build(architecture).to(memory_format=torch.channels_last).train()
        for images in digits.train.inputs[:512].split(64):
            model(images)
    return space, architecture, model


@pytest.fixture(scope="module")
def saved(trained, digits, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_model(directory, *trained, digits)
    return directory


@pytest.fixture
def copied(saved, tmp_path):
    for name in ("architecture.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    return tmp_path


def logits(model, images):
    with torch.inference_mode():
        return model.eval()(images)


def test_saving_leaves_the_model_as_it_was_and_no_unfinished_file(trained, saved):
    assert trained[2].training
    assert sorted(f.name for f in saved.iterdir()) == ["architecture.json", "program.pt2", "weights.safetensors"]


def test_the_model_that_comes_back_answers_alike(trained, saved, digits):
    state = torch.get_rng_state()
    exported = load_model(saved)
    assert torch.equal(torch.get_rng_state(), state)
    assert exported.space.fingerprint() == trained[0].fingerprint()
    assert exported.architecture == trained[1]
    assert (exported.task, exported.encoding) == (digits.task, digits.encoding)
    assert exported.class_names == tuple("0123456789")
    torch.testing.assert_close(logits(exported.model, digits.test.inputs), logits(trained[2], digits.test.inputs))


def test_predictions_take_any_array_of_finite_numbers(saved):
    exported, pixels = load_model(saved), load_images("digits")[0][:5].numpy()
    expected = predict(exported, pixels[:, :, ::-1].copy())
    flipped = pixels[:, :, ::-1]
    flipped.flags.writeable = False
    for given in (flipped, flipped.astype(">f4"), flipped.astype(np.uint8), flipped.tolist()):
        assert np.array_equal(predict(exported, given), expected)
    pixels[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="images of finite numbers"):
        predict(exported, pixels)


@pytest.mark.parametrize("n", [0, 1, 2, 257])
def test_predictions_are_probabilities_of_images_in_the_users_units(trained, saved, digits, n):
    images, *_ = load_images("digits")
    found = predict(load_model(saved), images[:n].numpy())
    expected = logits(trained[2], digits.encoding.inputs(images[:n])).softmax(dim=1).numpy()
    assert found.dtype == np.float32
    assert found.shape == (n, 10)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_program_answers_alike_for_any_number_of_images(trained, saved, digits, n):
    program = torch.export.load(saved / "program.pt2").module()  # our own file: nasenv itself never reads one
    images = digits.test.inputs[:n]
    torch.testing.assert_close(program(images), logits(trained[2], images))


def test_a_regression_on_a_table_answers_in_the_users_units(tmp_path):
    rows = np.random.default_rng(0).normal(5.0, 3.0, (40, 6))
    targets = 1000 + 50 * rows[:, :2]
    parts = [(rows[a:b], targets[a:b]) for a, b in ((0, 20), (20, 30), (30, 40))]
    dataset = Dataset.of_numbers("rows", Table((6,)), parts)
    space = Activations(dataset.task, make=lambda _inputs, _outputs: nn.Linear(6, 2))
    model = space.build((0,))
    save_model(tmp_path, space, (0,), model, dataset)
    exported = load_model(tmp_path, space)
    assert (exported.task, exported.encoding, exported.class_names) == (dataset.task, dataset.encoding, ())
    answers = logits(model, torch.from_numpy((rows - rows[:20].mean(0)) / rows[:20].std(0)).float()).numpy()
    expected = answers * targets[:20].std(0) + targets[:20].mean(0)
    np.testing.assert_allclose(predict(exported, rows), expected, rtol=1e-4)
    with pytest.raises(InputError, match=r"table of \(n, 6\), got \(40, 5\)"):
        predict(exported, rows[:, :5])
    with pytest.raises(InputError, match=r"saved for .*outputs=2"):
        load_model(tmp_path, Activations(Task(Table((6,)), 3, "regression"), make=space.make))


def test_a_network_that_cannot_be_exported_keeps_its_weights_and_says_why(tmp_path, digits, capfd):
    space = Activations()
    with pytest.warns(UserWarning, match="torch.export cannot export this network: [^\n]+$"):
        save_model(tmp_path, space, (2,), space.build((2,)), digits)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "program.pt2").exists()
    assert load_model(tmp_path, space).architecture == (2,)


def test_a_space_made_of_functions_is_asked_for(tmp_path, digits):
    space = Activations(make=lambda inputs, outputs: nn.Linear(inputs, outputs))
    save_model(tmp_path, space, (0,), space.build((0,)), digits)
    for given in (None, Activations):
        with pytest.raises(InputError, match=r"load_model\(directory, space=\.\.\.\)"):
            load_model(tmp_path, given)
    assert load_model(tmp_path, space).architecture == (0,)


def activation(choose, task):
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh}
    return nn.Sequential(nn.Flatten(), kinds[choose("kind", tuple(kinds))](), nn.Linear(64, task.outputs))


def test_the_function_of_a_space_is_asked_for(tmp_path, digits):
    space = FunctionSpace(activation, TASK)
    save_model(tmp_path, space, (1,), space.build((1,)), digits)
    path = f"{__name__}.activation"
    with pytest.raises(InputError, match=f"the model's space, {path}, does not come with nasenv; .* --space {path}"):
        load_model(tmp_path)
    for other in (Activations, nn.ReLU(), len):
        with pytest.raises(InputError, match=f"the model is of the space {path}, not of"):
            load_model(tmp_path, other)
    assert load_model(tmp_path, activation).space.fingerprint() == space.fingerprint()
    assert load_model(tmp_path, space).architecture == (1,)


def test_a_space_that_came_to_build_another_network_is_refused(tmp_path, digits, monkeypatch):
    space = Activations()
    save_model(tmp_path, space, (0,), space.build((0,)), digits)
    monkeypatch.setattr(space, "swapped", True)
    with pytest.raises(InputError, match="answers otherwise"):
        load_model(tmp_path, space)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], 2, "format 3"),
        (["resize"], "shrink", "resize is 'shrink', expected null, crop, pad, stretch"),
        (["dataset", "values"], [0], "damaged"),
        (["space", "class_path"], "os.system", "os.system, does not come with nasenv.*--space os.system"),
        (["space", "class_path"], "no_such_module.Space", "does not come with nasenv"),
        (["space", "class_path"], "Space", "does not come with nasenv"),
        (["space", "init_args", "depth"], 3, "unexpected keyword"),
        (["space", "init_args", "task", "outputs"], 7, "7"),
        (["space", "init_args", "task", "kind"], "ranking", "kind must be"),
        (["space", "init_args", "task", "inputs"], {"kind": "sounds", "shape": [9]}, "cannot make the space.*sounds"),
        (["space", "init_args", "task"], None, "cannot make the space"),
        (["space"], None, "cannot make the space"),
        (["architecture"], [9], "has 13 decisions, got 1"),
        (["architecture"], "conv", "damaged"),
        (["text"], "identity", "the model is identity"),
        (["encoding", "mean"], ["a"], "damaged"),
        (["encoding", "mean"], [float("inf")], "damaged"),
        (["encoding", "std"], [0.0], "positive deviations"),
        (["encoding", "std"], [1.0, 1.0], "as many positive deviations"),
        (["task", "inputs", "shape"], [1, 9, 9], r"saved for .*\(1, 9, 9\)"),
        (["task", "kind"], "regression", "saved for .*regression"),
        (["task", "outputs"], 9, "saved for .*outputs=9"),
        (["encoding", "class_names"], ["a"], "1 output,"),
        (["encoding", "class_names"], [*range(10)], "class names that are texts"),
        (["probe"], [[0.0]], "answers otherwise"),
    ],
)
def test_damaged_descriptions_are_refused_in_one_line(copied, path, value, message):
    description = json.loads((copied / "architecture.json").read_text())
    place = description
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (copied / "architecture.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=message) as caught:
        load_model(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["space", "architecture", "text", "task", "encoding", "probe"])
def test_missing_entries_are_refused(copied, key):
    description = json.loads((copied / "architecture.json").read_text())
    del description[key]
    (copied / "architecture.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"architecture\.json"):
        load_model(copied)


@pytest.mark.parametrize("name", ["architecture.json", "weights.safetensors"])
def test_missing_and_torn_files_are_refused(copied, name):
    content = (copied / name).read_bytes()
    for torn in (content[: len(content) // 2], b"", b"\xff" * 100):
        (copied / name).write_bytes(torn)
        with pytest.raises(InputError, match=name):
            load_model(copied)
    (copied / name).unlink()
    with pytest.raises(InputError, match=name):
        load_model(copied)


def test_weights_of_another_network_are_refused(copied, trained, digits, tmp_path_factory):
    space = trained[0]
    other = tmp_path_factory.mktemp("other")
    save_model(other, space, space.reference(), space.build(space.reference()), digits)
    (copied / "weights.safetensors").write_bytes((other / "weights.safetensors").read_bytes())
    with pytest.raises(InputError, match="does not fit the network in"):
        load_model(copied)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 9, 8), (2, 8, 8), (1, 8, 8)])
def test_images_of_another_shape_are_refused(saved, shape):
    with pytest.raises(InputError, match=r"images of \(n, 1, 8, 8\), got"):
        predict(load_model(saved), torch.zeros(shape))


def test_loading_a_model_and_using_it_does_not_import_the_compiler_of_torch(saved, tmp_path):
    """Its import takes longer than that of the rest of torch."""
    np.savez(tmp_path / "new.npz", x=np.zeros((3, 8, 8)))
    words = ["predict", str(saved.parent), f"npz:{tmp_path / 'new.npz'}"]
    code = f"import sys; from nasenv.commands.cli import main; assert main({words}) == 0"
    code += "; assert 'torch.nn' in sys.modules; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
