"""Pictures of parquet files and of the Hugging Face Hub: what is read, and what a user is told about bad rows."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasenv.data.dataset import Data, load_dataset, load_images
from nasenv.errors import InputError


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def png(seed: int, size=(8, 8), mode="L") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def rows(n=12, **columns) -> dict:
    return {"image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(n)], **columns}


def parquet(datasets, path: Path, columns: dict, **features) -> str:
    kinds = {"image": datasets.Image(), **features} if features else None
    path.parent.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(columns, features=datasets.Features(kinds) if kinds else None).to_parquet(path)
    return f"hub:{path}"


def test_a_parquet_file_is_read_like_the_folder_that_it_came_from(tmp_path, datasets):
    for i in range(12):
        path = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i, mode="RGB"))
    datasets.disable_progress_bars()
    whole = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "photos"))["train"]
    (tmp_path / "hub").mkdir()
    whole.to_parquet(tmp_path / "hub" / "train.parquet")
    expected = load_dataset(f"folder:{tmp_path / 'photos'}")
    for place in (tmp_path / "hub" / "train.parquet", tmp_path / "hub"):
        found = load_dataset(f"hub:{place}")
        assert found.fingerprint == expected.fingerprint
        assert found.encoding.class_names == ("cat", "dog")


def test_a_label_column_can_be_named(tmp_path, datasets):
    columns = rows(fine=[0, 1] * 6, coarse=[f"group {i % 3}" for i in range(12)], id=list(range(12)))
    kinds = {"fine": datasets.Value("int64"), "coarse": datasets.Value("string"), "id": datasets.Value("int64")}
    source = parquet(datasets, tmp_path / "two.parquet", columns, **kinds)
    with pytest.raises(InputError, match=r"\(image, fine, coarse, id\); name it as in hub:NAME#COLUMN"):
        load_dataset(source)
    assert load_dataset(f"{source}#coarse").encoding.class_names == ("group 0", "group 1", "group 2")
    with pytest.raises(InputError, match="no column 'medium'; there are image, fine"):
        load_dataset(f"{source}#medium")


@pytest.mark.parametrize("null", [None, {"bytes": None, "path": None}, {"bytes": None, "path": "nowhere.png"}])
def test_a_null_picture_is_refused_or_skipped(tmp_path, datasets, null):
    import pyarrow.parquet

    columns = rows(14, label=[0, 1] * 7)
    columns["image"][3] = columns["image"][6] = null
    source = f"hub:{tmp_path / 'null.parquet'}"
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "null.parquet")
    with pytest.raises(InputError, match=r"2 of 14 pictures cannot be read: .*skip_unreadable true") as caught:
        load_dataset(source)
    assert str(caught.value).count("\n") == 0
    data = Data(source, skip_unreadable=True).load()
    assert "2 classes: 0 4+1+1, 1 4+1+1" in data.summary()
    assert "skipped: 2 of 14" in data.summary()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.0] * 6, "got numbers such as 0.5; for a regression see Dataset.of_numbers"),
        ([0.0, float("nan")] * 6, r"6 of 12 labels of .* missing \(nan\), the first is that of sample 1;"),
        ([0, None] * 6, r"6 of 12 labels of .* missing \(None\), the first is that of sample 1;"),
        (["a", None] * 6, r"6 of 12 labels of .* missing \(None\), the first is that of sample 1;"),
        ([[0, 1]] * 12, r"y\.argmax\(axis=1\)|must be integers or strings"),
    ],
)
def test_labels_that_are_no_classes_are_named_so(tmp_path, datasets, labels, message):
    source = parquet(datasets, tmp_path / "labels.parquet", rows(label=labels))
    path = source.removeprefix("hub:")
    pictured = datasets.Dataset.from_parquet(path, keep_in_memory=True).cast_column("image", datasets.Image())
    pictured.to_parquet(path)
    with pytest.raises(InputError, match=message):
        load_dataset(source)
    images, found, _, summary = load_images(source)
    assert len(images) == 12
    assert found is None
    assert "labels are not used: " in summary


def test_whole_floats_are_classes(tmp_path, datasets):
    source = parquet(datasets, tmp_path / "f.parquet", rows(label=[3.0, 4.0] * 6), label=datasets.Value("float64"))
    assert load_dataset(source).encoding.class_names == ("3", "4")


def test_labels_without_a_name_are_counted(tmp_path, datasets):
    kind = datasets.ClassLabel(names=["cat", "dog"])
    source = parquet(datasets, tmp_path / "c.parquet", rows(label=[0, 1, -1] * 4), label=kind)
    with pytest.raises(InputError, match=r"4 of 12 labels of .* in column 'label' have no name, .* sample 2: -1"):
        load_dataset(source)


def test_a_class_in_the_test_split_alone_is_called_by_its_name(tmp_path, datasets):
    kind = datasets.ClassLabel(names=["cat", "dog", "bird"])
    for split, labels in (("train", [0, 1] * 6), ("test", [0, 2] * 6)):
        parquet(datasets, tmp_path / "hub" / f"{split}.parquet", rows(label=labels), label=kind)
    with pytest.raises(InputError, match="6 labels that no training sample has, 'bird' first; those have cat, dog"):
        load_dataset(f"hub:{tmp_path / 'hub'}")


def test_classes_that_a_split_lacks_and_splits_that_are_not_read_are_said(tmp_path, datasets):
    kind = datasets.ClassLabel(names=["cat", "dog", "bird"])
    for split, labels in (("train", [0, 1] * 6), ("test", [0] * 12)):
        parquet(datasets, tmp_path / "hub" / f"{split}.parquet", rows(label=labels), label=kind)
    summary = load_dataset(f"hub:{tmp_path / 'hub'}").summary()
    assert "(train) has no samples of bird; " in summary
    assert "(test) has no samples of dog" in summary


def test_two_splits_of_one_kind_are_refused_and_others_left_out(datasets, monkeypatch):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    whole = datasets.Dataset.from_dict(rows(label=[0, 1] * 6), features=features)
    monkeypatch.setattr("nasenv.data.hub._load", lambda *_, **__: {"train": whole, "valid": whole, "val": whole})
    with pytest.raises(InputError, match="has valid and val for the validation split"):
        load_dataset("hub:org/one")
    monkeypatch.setattr("nasenv.data.hub._load", lambda *_, **__: {"train": whole, "extra": whole})
    data = load_dataset("hub:org/two")
    assert "left out: the splits extra" in data.summary()
    assert len(data.train) == 8
    monkeypatch.setattr("nasenv.data.hub._load", lambda *_, **__: {"a": whole, "b": whole})
    with pytest.raises(InputError, match="has no training split; it has a, b"):
        load_dataset("hub:org/three")


def test_pictures_of_rows_get_one_size_and_colour(tmp_path, datasets):
    columns = rows(label=[0, 1] * 6)
    columns["image"][5]["bytes"] = png(5, size=(12, 16), mode="RGB")
    source = parquet(datasets, tmp_path / "s.parquet", columns, label=datasets.Value("int64"))
    with pytest.raises(InputError, match=r"have 2 sizes, 8x8 to 12x16 .*add --data.size 8"):
        load_dataset(source)
    data = Data(source, size="8x6").load()
    assert data.task.shape == (3, 8, 6)
    assert "resized (crop): 12 pictures of 8x8 to 12x16; read as colour: 11 grey pictures" in data.summary()


def test_pictures_without_files_are_numbered(tmp_path, datasets):
    columns = rows(5)
    columns["image"] = [{"bytes": picture["bytes"], "path": None} for picture in columns["image"]]
    columns["image"][1] = None
    source = parquet(datasets, tmp_path / "n.parquet", columns, image=datasets.Image())
    how = Data(skip_unreadable=True).preprocessing
    assert load_images(source, how).files == ("0", "2", "3", "4")


def test_a_parquet_folder_of_test_data_alone_is_divided_in_three(tmp_path, datasets):
    kind = datasets.ClassLabel(names=["cat", "dog"])
    parquet(datasets, tmp_path / "hub" / "test-00000-of-00001.parquet", rows(label=[0, 1] * 6), label=kind)
    data = load_dataset(f"hub:{tmp_path / 'hub'}")
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 2)


@pytest.mark.parametrize("home", ["~", "/proc/nowhere"])  # "~" is what comes where there is none
def test_a_folder_of_parquet_files_needs_no_home(tmp_path, datasets, home):
    parquet(datasets, tmp_path / "hub" / "train.parquet", rows(label=[0, 1] * 6), label=datasets.Value("int64"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    code = """import sys; from nasenv.data.dataset import Data, InputError
print(Data("hub:hub").load().summary())
try: Data("hub:org/name").load()
except InputError as error: print(error)"""
    line = [sys.executable, "-c", code]
    environment |= {"HOME": home, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "2 classes: 0 4+1+1, 1 4+1+1" in done.stdout
    assert ("no home directory" if home == "~" else "cannot load org/name: ") in done.stdout.splitlines()[-1]
    assert not (tmp_path / "~").exists()


def test_the_code_of_a_data_set_is_never_run(tmp_path, datasets):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match="cannot load"):
        load_dataset(f"hub:{folder}")
