"""Pictures of folders: their pixels, sizes and colours, those to predict, and what is said while they are read."""

import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasenv.data.dataset import Data, load_images
from nasenv.data.folder import list_folder, split_of
from nasenv.data.pictures import Preprocessing
from nasenv.errors import InputError
from nasenv.task import Images, Task
from tests.data.picture_files import PNG, SPLITS, TWO, encoded, lay, squares, tiff


@pytest.fixture
def place(tmp_path: Path) -> Path:
    lay(tmp_path / "linked", {"./": 6})
    return tmp_path / "photos"


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("I;16", 1), ("RGB", 3), ("P", 3), ("LA", 1)])
def test_a_folder_of_pictures_has_its_channels_and_classes(place: Path, mode: str, channels: int):
    data = Data(f"folder:{squares(place, mode=mode)}").load()
    assert data.task == Task(Images((channels, 8, 6)), outputs=2)
    assert data.encoding.class_names == ("cat", "dog")


@pytest.mark.parametrize(("mode", "plain"), [("RGBA", "RGB"), ("LA", "L")])
@pytest.mark.parametrize("size", [None, 6])
def test_an_alpha_that_is_opaque_in_all_pictures_is_dropped(tmp_path: Path, mode: str, plain: str, size: int | None):
    found, expected = (
        Data(f"folder:{squares(tmp_path / kind, mode=kind)}", size=size, resize="pad").load() for kind in (mode, plain)
    )
    assert found.fingerprint == expected.fingerprint
    assert "read as" not in found.summary()


def test_one_pixel_that_is_not_opaque_makes_all_pictures_rgba(tmp_path: Path):
    squares(tmp_path, mode="RGBA")
    picture = Image.open(tmp_path / "cat/0.png")
    picture.putpixel((1, 1), (0, 0, 0, 254))
    picture.save(tmp_path / "cat/0.png")
    data = Data(f"folder:{tmp_path}").load()
    assert data.task.shape == (4, 8, 6)
    assert "read as RGBA: 11 colour pictures" in data.summary()


def test_the_pixels_of_a_folder_are_those_of_its_files(place: Path):
    squares(place, splits=("Train", "Test"))
    images, labels, files, _ = load_images(f"folder:{place}")
    expected = [np.asarray(Image.open(place / "Test" / name / f"{i}.png")) for name in ("cat", "dog") for i in range(6)]
    assert np.array_equal(images[:, 0].numpy(), np.stack(expected))
    assert labels == ("cat",) * 6 + ("dog",) * 6
    assert files[:2] == ("Test/cat/0.png", "Test/cat/1.png")
    assert len(Data(f"folder:{place}").load().test) == 12


def test_bytes_of_16_bits_have_their_values_in_any_order(place: Path):
    lay(place, {"big.tif": tiff(">"), "little.tif": tiff("<")})
    big, little = load_images(f"folder:{place}").images
    assert big.equal(little)
    assert big.flatten().tolist() == [900 * i for i in range(64)]


def test_colours_of_16_bits_are_read_as_8_and_that_is_said(place: Path):
    rows = b"".join(b"\0" + bytes([200, i] * 24) for i in range(8))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    lay(place, {"deep.png": b"\x89PNG\r\n\x1a\n" + b"".join(parts)})
    images, *_, summary = load_images(f"folder:{place}")
    assert set(images.flatten().tolist()) == {200.0}
    assert "read with 8 bits a colour: 1 picture of 16" in summary


def test_a_crop_is_the_centre_and_a_pad_has_borders_and_a_stretch_has_all(place: Path):
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, 5:11] = np.arange(1, 7) * 40
    (place / "cat").mkdir(parents=True)
    Image.fromarray(pixels).save(place / "cat" / "0.png")

    def read(resize, size=(8, 8)):
        return load_images(f"folder:{place}", Preprocessing(size, resize)).images[0, 0].numpy()

    assert np.array_equal(read("crop"), pixels[:, 4:12])
    assert np.array_equal(read("pad", (16, 16)), np.pad(pixels, ((4, 4), (0, 0))))
    weights = np.array([1, 3, 3, 1]) / 8
    around = np.pad(pixels, ((0, 0), (1, 2))).astype(float)  # each new pixel is a mean, weighted by a triangle
    doubled = sum(weight * around[:, i : i + 16 : 2] for i, weight in enumerate(weights))
    assert np.abs(read("stretch")[:, 1:-1] - doubled[:, 1:-1]).max() <= 1


def test_a_large_jpeg_is_nearly_what_it_is_when_all_of_it_is_decoded(place: Path):
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((900, 600))
    (place / "cat").mkdir(parents=True)
    for ending in ("jpg", "png"):
        smooth.save(place / "cat" / f"x.{ending}", quality=95)
    first, second = load_images(f"folder:{place}", Preprocessing((32, 32))).images
    assert (first - second).abs().max() < 6


def test_size_and_resize_change_the_data_and_are_kept_with_them(place: Path):
    squares(place, sizes=((8, 16), (10, 12)))
    made = [Data(f"folder:{place}", size=8, resize=how).load() for how in ("crop", "pad", "stretch")]
    assert len({data.fingerprint for data in made}) == 3
    assert [(data.source.size, data.source.resize) for data in made] == [
        ("8x8", how) for how in ("crop", "pad", "stretch")
    ]
    assert made[2] is Data(f"folder:{place}", size="8x8", resize="stretch").load()


def test_a_folder_that_changed_is_read_again(place: Path):
    folder = lay(place, {"dog/": 6, "cat": "-> ../linked"})
    first = Data(f"folder:{folder}").load()
    assert Data(f"folder:{folder}").load() is first
    (place.parent / "linked" / "0.png").write_bytes(encoded(seed=77))  # behind a link
    assert Data(f"folder:{folder}").load().fingerprint != first.fingerprint


@pytest.mark.parametrize("home", ["unset", "read-only", "missing"])
def test_no_home_is_needed_and_none_is_made(place: Path, home: str):
    lay(place, TWO)
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("HOME", "CACHE_HOME"))}
    if home != "unset":
        (place.parent / "home").mkdir(mode=0o500)
        environment["HOME"] = str(place.parent / ("home" if home == "read-only" else "nowhere"))
    code = "import sys; from nasenv.data.dataset import Data; sys.modules['datasets'] = None; Data(sys.argv[1]).load()"
    here = place.parent / "here"
    here.mkdir()
    line = [sys.executable, "-c", code, f"folder:{place}"]
    done = subprocess.run(line, cwd=here, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [*here.iterdir()] == []
    assert not (place.parent / "nowhere").exists()


@pytest.mark.parametrize(
    ("content", "names", "labels"),
    [
        ({"./": 2}, ["0.png", "1.png"], None),
        ({"a/b/": 1, "a/": 1}, ["a/0.png", "a/b/0.png"], ("a", "a")),
        ({"cat/": 1, "x.png": PNG}, ["cat/0.png", "x.png"], None),
        ({"cat/": 1}, ["cat/0.png"], ("cat",)),
        ({"train/": 2, "test/": 1}, ["test/0.png"], None),
        ({"train/cat/a.png": b"x", "train/b.png": encoded(size=(9, 9)), "test/": 1}, ["test/0.png"], None),
        ({"train/cat/": 2, "test/": 1}, ["test/0.png"], None),
        (SPLITS | {"test/dog/": 0}, [f"test/cat/{i}.png" for i in range(4)], ("cat",) * 4),
        ({"test/": 2}, ["test/0.png", "test/1.png"], None),
    ],
)
def test_pictures_to_predict_may_lie_anywhere(place: Path, content: dict, names: list, labels: tuple | None):
    loaded = load_images(f"folder:{lay(place, content)}")
    assert list(loaded.files) == names
    assert loaded.labels == labels


def test_one_picture_is_a_source_to_predict(place: Path):
    path = lay(place, {"a.dat": PNG}) / "a.dat"
    for source in (str(path), f"folder:{path}"):
        images, labels, files, summary = load_images(source)
        assert images.shape == (1, 1, 8, 8)
        assert labels is None
        assert files == (str(path),)
        assert summary.startswith(f"{source}: 1 grey picture of 8x8, values ")
    with pytest.raises(InputError, match="is not a folder"):
        Data(f"folder:{path}").load()
    with pytest.raises(InputError, match=f"did you mean folder:{place}"):
        Data(str(place)).load()


def test_what_takes_long_is_said_with_the_time_left(place: Path, capsys, monkeypatch):
    monkeypatch.setattr("nasenv.data.pictures._SILENT_SECONDS", -1.0)
    Data(f"folder:{lay(place, TWO)}").load()
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r".*photos: files listed: 1 of 12 done, about \d+ s left", said[0])
    assert any("photos: pictures read: 1 of 12 done, about" in line for line in said)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_taken(place: Path, monkeypatch):
    lay(place, TWO)
    monkeypatch.setattr("nasenv.data.pictures.spare_memory", lambda: 16_000)
    with pytest.raises(InputError, match=r"12 pictures of 8x8 pixels need 0 MB.*add --data.size 64, or give fewer"):
        Data(f"folder:{place}").load()


def test_large_pictures_are_loaded_with_a_hint(place: Path):
    squares(place, sizes=((100, 120),))
    assert "pictures of this size train slowly; --data.size 64 would make" in Data(f"folder:{place}").load().summary()
    assert "slowly" not in Data(f"folder:{place}", size=100).load().summary()


def test_names_cannot_paint_the_terminal(place: Path):
    lay(place, {"a\x1b[2J/": 6, "b/": 6, "\u202e.txt": b"x", "c\x1b.png": b"x"} | {"b/x.\x1b": b"x"})
    with pytest.raises(InputError) as caught:
        Data(f"folder:{place}").load()
    assert "\x1b" not in str(caught.value)
    (place / "c\x1b.png").unlink()
    summary = Data(f"folder:{place}").load().summary()
    assert "a\\x1b[2J 4+1+1" in summary
    assert "\x1b" not in summary


def test_a_class_whose_name_is_no_text_is_refused(place: Path):
    lay(place, {os.fsdecode(b"caf\xe9/"): 6, "café/": 6})
    with pytest.raises(InputError, match=r"the name of the folder caf\\udce9 is not UTF-8; rename it"):
        Data(f"folder:{place}").load()


def test_a_folder_that_may_not_be_read_is_refused(place: Path, monkeypatch):
    lay(place, TWO)
    monkeypatch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match=r"cannot list .*: Permission denied"):
        list_folder(place)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[
            (name, "train")
            for name in ("train", "TRAIN", "Training", "train_set", "training-set", "trainset", "train data")
        ],
        *[
            (name, "validation")
            for name in ("val", "valid", "VALIDATION", "dev", "val_set", "validation.split", "devset")
        ],
        *[(name, "test") for name in ("test", "Testing", "eval", "evaluation", "test_images", "testset", " test ")],
        *[
            (name, None)
            for name in ("station", "trains", "tester", "value", "device", "set", "test tube", "train1", "")
        ],
    ],
)
def test_splits_are_known_in_their_usual_spellings(name: str, split: str | None):
    assert split_of(name) == split
