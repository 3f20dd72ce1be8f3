"""Folders of pictures as users have them: which classes and splits come out, what is left out, what is refused."""

import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from nasenv.data.dataset import Data
from nasenv.errors import InputError
from tests.data.picture_files import PNG, SPLITS, TORN, TWO, encoded, lay, tiff


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat/1.png", encoded())
    return buffer.getvalue()


ROTATED = Image.Exif()
ROTATED[0x0112] = 6
ALL, KEPT = "cat 4+1+1, dog 4+1+1", "cat 8+2+4, dog 8+2+4"


def renamed(train: str, test: str) -> dict:
    return {name.replace("train/", f"{train}/").replace("test/", f"{test}/"): n for name, n in SPLITS.items()}


READ = {  # name -> (folder, options, words of the summary)
    "classes": (TWO, {}, [ALL, "12 grey pictures of 8x8, values", "8 for training, 2 for validation, 2 for test"]),
    "splits": (SPLITS, {}, [KEPT, "28 grey pictures"]),
    "three splits": (SPLITS | {"val/cat/": 2, "val/dog/": 3}, {}, ["cat 10+2+4, dog 10+3+4"]),
    "empty __MACOSX beside splits": (SPLITS | {"__MACOSX/": 0}, {}, [KEPT, "left out: __MACOSX/"]),
    "full __MACOSX beside classes": (TWO | {"__MACOSX/cat/._1.png": b"x"}, {}, [ALL, "left out: __MACOSX/"]),
    "annotations beside splits": (
        SPLITS | {"annotations/a.xml": b"<a/>", "annotations/b.xml": b"<b/>"},
        {},
        [KEPT, "left out: 2 .xml files, annotations/ (no pictures)"],
    ),
    "an empty folder beside splits": (SPLITS | {"new/": 0}, {}, [KEPT, "left out: new/ (no pictures)"]),
    "Train Test": (renamed("Train", "Test"), {}, [KEPT]),
    "TRAIN TEST": (renamed("TRAIN", "TEST"), {}, [KEPT]),
    "training_set test_set": (renamed("training_set", "test_set"), {}, [KEPT]),
    "trainset testset": (renamed("trainset", "testset"), {}, [KEPT]),
    "train-set test-set": (renamed("train-set", "test-set"), {}, [KEPT]),
    "Training Testing": (renamed("Training", "Testing"), {}, [KEPT]),
    "Training data, Evaluation data": (renamed("Training data", "Evaluation data"), {}, [KEPT]),
    "train_images eval_images": (renamed("train_images", "eval_images"), {}, [KEPT]),
    "train valid": (renamed("train", "valid"), {}, ["cat 8+4+2, dog 8+4+2"]),
    "train dev": (renamed("train", "dev"), {}, ["cat 8+4+2, dog 8+4+2"]),
    "Train Validation_set": (renamed("Train", "Validation_set"), {}, ["cat 8+4+2, dog 8+4+2"]),
    "folders in classes": (
        {"cat/day/": 3, "cat/night/": 3, "dog/day/": 3, "dog/night/deep/": 3},
        {},
        [ALL],
    ),
    "folders in classes in splits": (renamed("train", "test") | {"train/cat/day/": 5}, {}, ["cat 12+3+4, dog 8+2+4"]),
    "metadata.csv with a column": (
        TWO
        | {"metadata.csv": b"file_name,label\ncat/0.png,dog\n", "cat/metadata.csv": b"file_name,mood\n0.png,good\n"},
        {},
        [ALL, "left out: 2 .csv files"],
    ),
    "metadata.jsonl": (
        TWO | {"metadata.jsonl": b'{"file_name": "cat/0.png", "label": 3}\n'},
        {},
        [ALL, "1 .jsonl file"],
    ),
    "__background__": ({"__background__/": 6, "dog/": 6}, {}, ["__background__ 4+1+1, dog 4+1+1"]),
    "_underscore": ({"_a/": 6, "b/": 6}, {}, ["_a 4+1+1, b 4+1+1"]),
    "a class that is a link": (
        {"dog/": 6, "store/.keep/": 0, "cat": "-> ../linked"},
        {},
        [ALL, "store/ (no pictures)"],
    ),
    "files that are links": (
        {"dog/": 6, **{f"cat/{i}.png": f"-> ../../linked/{i}.png" for i in range(6)}},
        {},
        [ALL],
    ),
    "a link in a circle": (TWO | {"cat/again": "-> .."}, {}, [ALL, "left out: cat/again, a link to a folder above it"]),
    "a broken link": (TWO | {"old": "-> nowhere"}, {}, [ALL, "left out: 1 broken link"]),
    "a link to itself": (
        TWO | {"loop": "-> loop", ".loop": "-> .loop"},
        {},
        [ALL, "1 broken link, 1 hidden broken link"],
    ),
    "AVIF": ({f"{c}/{i}.avif": encoded("AVIF") for c in ("cat", "dog") for i in range(6)}, {}, [ALL]),
    "no ending": ({f"{c}/{i}": PNG for c in ("cat", "dog") for i in range(6)}, {}, [ALL]),
    "wrong ending": ({f"{c}/{i}.txt": PNG for c in ("cat", "dog") for i in range(6)}, {}, [ALL]),
    "jfif, JPG, WebP, BMP, GIF": (
        {
            **{f"cat/{i}.{end}": encoded("JPEG") for i, end in enumerate(("jfif", "JPG", "JPEG", "jpe"))},
            **{"cat/5.GIF": encoded("GIF"), "cat/6.bmp": encoded("BMP")},
            "dog/": 6,
        },
        {},
        [ALL],
    ),
    "a JPEG called heic": (TWO | {"cat/9.heic": encoded("JPEG")}, {}, ["cat 5+1+1, dog 4+1+1"]),
    "a class that the test folder lacks": (
        {k: v for k, v in SPLITS.items() if k != "test/dog/"},
        {},
        ["cat 8+2+4, dog 8+2+0", "test has no samples of dog"],
    ),
    "an empty class folder in test": (
        SPLITS | {"test/dog/": 0},
        {},
        ["dog 8+2+0", "test/dog/ (no pictures)", "test has no samples of dog"],
    ),
    "an empty class folder": (TWO | {"bird/": 0}, {}, [ALL, "2 classes", "left out: bird/ (no pictures)"]),
    "a class folder of texts": (
        TWO | {"bird/a.txt": b"a", "bird/b.txt": b"b"},
        {},
        [ALL, "bird/ (no pictures)", "2 .txt"],
    ),
    "a zip beside": (TWO | {"all.zip": zipped()}, {}, [ALL, "left out: 1 .zip file"]),
    "licence, readme, json": (
        TWO | {"LICENSE": b"MIT", "README.md": b"#", "labels.json": b"{}"},
        {},
        [ALL, "1 .json file", "1 .md file", "1 unreadable file"],
    ),
    "system files": (
        TWO | {".DS_Store": b"x", "cat/Thumbs.db": b"x", "dog/._1.png": b"x", "desktop.ini": b"x", ".git/HEAD": b"x"},
        {},
        [ALL, "4 hidden files", "1 hidden folder"],
    ),
    "notebook checkpoints": (TWO | {"cat/.ipynb_checkpoints/0.png": PNG}, {}, [ALL, "left out: 1 hidden folder"]),
    "thumbnails of a NAS": (TWO | {"cat/@eaDir/0.png/x.jpg": PNG}, {}, [ALL, "left out: @eaDir/"]),
    "a FIFO": (TWO | {"cat/pipe": None}, {}, [ALL, "left out: 1 special file"]),
    "marks in names": ({"a [x] *?/": 6, "ü ß/": 6}, {}, ["a [x] *? 4+1+1, ü ß 4+1+1"]),
    "test in files' names": ({f"{c}/eye test {i}.png": PNG for c in ("cat", "dog") for i in range(6)}, {}, [ALL]),
    "words of splits in classes' names": (
        {"test tube/": 6, "test bench/": 6, "station/": 6},
        {},
        ["station 4+1+1, test bench 4+1+1, test tube 4+1+1"],
    ),
    "train alone": ({"train/cat/": 6, "train/dog/": 6}, {}, [ALL]),
    "test alone": ({"test/cat/": 6, "test/dog/": 6}, {}, [ALL, "test/, the only split, is divided in three"]),
    "an empty test folder": ({"train/cat/": 6, "train/dog/": 6, "test/": 0}, {}, [ALL, "test/ (no pictures)"]),
    "an empty val beside valid": (renamed("train", "valid") | {"val/": 0}, {}, ["cat 8+4+2", "val/ (no pictures)"]),
    "grey and colour": (
        {"cat/": 6, **{f"dog/{i}.png": encoded(mode="RGB") for i in range(6)}},
        {},
        [ALL, "12 colour pictures", "read as colour: 6 grey pictures"],
    ),
    "grey test pictures": (
        {f"train/{c}/{i}.png": encoded(mode="RGB") for c in ("cat", "dog") for i in range(10)}
        | {"test/cat/": 4, "test/dog/": 4},
        {},
        [KEPT, "28 colour pictures of 8x8", "read as colour: 8 grey pictures"],
    ),
    "colour test pictures": (
        SPLITS | {"test/cat/0.png": encoded(mode="RGB")},
        {},
        ["cat 8+2+4", "colour pictures of 8x8", "read as colour: 27 grey pictures"],
    ),
    "one with alpha": (
        TWO | {"cat/x.png": encoded(mode="RGBA", alpha=9), "dog/x.png": encoded(mode="RGB")},
        {},
        ["14 RGBA pictures of 8x8", "read as RGBA: 12 grey pictures and 1 colour picture"],
    ),
    "16 bits, two orders of bytes": (
        {f"{c}/{i}.tif": tiff("<>"[i % 2]) for c in ("cat", "dog") for i in range(6)},
        {},
        [ALL, "12 grey pictures of 8x8, values 0 to 56,700"],
    ),
    "one size": (
        {f"{c}/{i}.png": encoded(size=(8 + i, 20)) for c in ("cat", "dog") for i in range(6)},
        {"size": "8x10"},
        [ALL, "12 grey pictures of 8x10", "resized (crop): 12 pictures of 8x20 to 13x20"],
    ),
    "a size that they have": (TWO, {"size": 8, "resize": "pad"}, [ALL, "12 grey pictures of 8x8"]),
    "rotated by EXIF": (
        {f"{c}/{i}.jpg": encoded("JPEG", size=(6, 9), exif=ROTATED) for c in ("cat", "dog") for i in range(6)},
        {},
        [ALL, "12 grey pictures of 9x6"],
    ),
    "unreadable, skipped": (
        TWO | {"cat/a.png": PNG[:-40], "dog/b.png": b"", "dog/c.heic": b"x"},
        {"skip_unreadable": True},
        [
            ALL,
            "skipped: 3 of 15 pictures cannot be read: cat/a.png (",
            "dog/b.png (it is no picture of a known format)",
        ],
    ),
    "all of a class unreadable, skipped": (
        TWO | {"bird/a.png": b"x"},
        {"skip_unreadable": True},
        [ALL, "skipped: 1 of 13", "has no samples of bird"],
    ),
}

REFUSED = {  # name -> (folder, options, words of the refusal)
    "empty": ({"x/": 0}, {}, "holds no pictures, it is empty"),
    "zip alone": ({"all.zip": zipped()}, {}, "holds no pictures, it holds 1 .zip file"),
    "hidden alone": ({".cat/": 3}, {}, "holds no pictures, it holds 1 hidden folder"),
    "one class": ({"cat/": 6}, {}, "one class alone, .*cat, and a classifier needs two or more sub-folders"),
    "one folder around the classes": (
        {"all/cat/": 6, "all/dog/": 6},
        {},
        "the classes are the folders in it, give folder:.*/all",
    ),
    "no class folders": (
        {"./": 6, "labels.csv": b"a"},
        {},
        "6 pictures of 6 lie in no class folder, 0.png first.*tables of labels",
    ),
    "a picture beside the classes": (TWO | {"a.png": PNG}, {}, "1 picture of 13 lies in no class folder, a.png first"),
    "a picture beside the classes of a split": (
        SPLITS | {"train/a.png": PNG},
        {},
        "no class folder, train/a.png first",
    ),
    "pictures beside splits": (
        SPLITS | {"extra/": 3},
        {},
        "test/, train/ are called like splits, and beside lie pictures in extra/; ",
    ),
    "a picture beside splits": (SPLITS | {"a.png": PNG}, {}, "beside lie pictures in a.png"),
    "a class called test": (
        TWO | {"test/": 6},
        {},
        "test/ is called like a split, and beside lie pictures in cat/, dog/",
    ),
    "classes called test and train": (
        {"test/": 6, "train/": 6},
        {},
        "called like splits without folders of classes.*train/CLASS",
    ),
    "test without classes": (
        {"train/cat/": 6, "train/dog/": 6, "test/": 6},
        {},
        "test/ is called like a split without folders of classes in it; move it away, or give folder:.*/train",
    ),
    "valid and val": (renamed("train", "valid") | {"val/cat/": 2}, {}, "has val and valid for the validation split"),
    "train and Train": (renamed("train", "Train"), {}, "has Train and train for the train split"),
    "no training split": (renamed("val", "test"), {}, "has no training split; it has test, val"),
    "splits in classes": (
        {"cat/train/": 5, "cat/test/": 2, "dog/train/": 5, "dog/test/": 2},
        {},
        "cat/test is called like a split, and lies in the folder of a class; expected SPLIT/CLASS",
    ),
    "seg_train and seg_test": (
        renamed("seg_train", "seg_test"),
        {},
        "seg_test/, seg_train/ seem to be splits; rename them",
    ),
    "a class in test alone": (
        SPLITS | {"test/bird/": 3},
        {},
        "test has 3 labels that no training sample has, 'bird' first; those have cat, dog",
    ),
    "classes that differ in case": (SPLITS | {"test/Cat/": 3}, {}, "'Cat' first; those have cat, dog"),
    "a torn picture": (
        TWO | {"cat/7.jpg": TORN},
        {},
        r"1 of 13 pictures cannot be read: cat/7.jpg \(.*truncated.*add --data.skip_unreadable true",
    ),
    "a broken link to a picture": (TWO | {"cat/9.png": "-> nowhere.png"}, {}, r"cat/9.png \(there is no such file\)"),
    "HEIC": (
        {"cat/1.heic": b"\0\0\0\x18ftypheic", "cat/2.HEIC": b"", "dog/": 6},
        {},
        r"2 of 8 pictures cannot be read: cat/1.heic \(Pillow does not read .heic; convert it.*skip_unreadable",
    ),
    "a camera's raw file": (TWO | {"cat/a.nef": tiff("<")}, {}, "of .nef, Pillow reads a thumbnail; convert it"),
    "nothing readable": (
        {"cat/a.png": b"", "dog/b.png": b""},
        {"skip_unreadable": True},
        "2 of 2 pictures cannot be read",
    ),
    "nothing whole": (
        {"cat/a.jpg": TORN, "dog/b.jpg": TORN},
        {"skip_unreadable": True},
        "2 of 2 pictures cannot be read",
    ),
    "sizes": (
        TWO | {"dog/x.png": encoded(size=(9, 40))},
        {},
        r"the pictures have 2 sizes, 8x8 to 9x40 \(height x width\), and must have one; add --data.size 8 ",
    ),
    "sizes, and torn ones": (
        TWO | {"dog/x.png": encoded(size=(200, 300)), "dog/y.jpg": TORN, "dog/z.png": b"x"},
        {},
        "have 3 sizes, .*add --data.size 8.*2 of 15 pictures cannot be read.*add --data.skip_unreadable true",
    ),
    "large sizes": (
        {f"{c}/{i}.jpg": encoded("JPEG", size=(300 + i, 400)) for c in ("cat", "dog") for i in range(3)},
        {},
        "add --data.size 64 ",
    ),
    "tiny": (
        {f"{c}/{i}.png": encoded(size=(3, 9)) for c in ("a", "b") for i in range(4)},
        {},
        "are of 3x9; add --data.size 8",
    ),
    "8 and 16 bits": (
        TWO | {"cat/x.tif": tiff("<")},
        {},
        r"mixes pictures of 8 bits \(cat/0.png\) and of more \(cat/x.tif\)",
    ),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    lay(tmp_path / "linked", {"./": 6})
    return tmp_path / "photos"


@pytest.mark.parametrize("case", READ)
def test_what_a_folder_holds_is_read_and_said(place: Path, case: str):
    content, options, words = READ[case]
    summary = Data(f"folder:{lay(place, content)}", **options).load().summary()
    assert [word for word in words if word not in summary.replace(f"{place}/", "")] == [], summary
    assert len(summary.splitlines()) <= 3
    if not any(word.startswith(("left out", "resized", "read as", "skipped")) for word in words) and len(words) == 1:
        assert "left out" not in summary


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_understood_in_two_ways_or_not_is_refused_in_a_line(place: Path, case: str):
    content, options, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        Data(f"folder:{lay(place, content)}", **options).load()
    assert "\n" not in str(caught.value)
