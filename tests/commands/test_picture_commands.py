"""Commands on pictures: what was loaded is printed first, and new pictures become what those in training became."""

import csv
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nasenv
from nasenv.commands.cli import main
from nasenv.data.dataset import Data, load_images
from nasenv.data.pictures import Preprocessing
from nasenv.deployment.export import load_model, predict, save_model
from nasenv.errors import InputError
from nasenv.spaces.chain_cnn import ChainCNN
from tests.data.picture_files import TORN, encoded, lay

pytestmark = pytest.mark.usefixtures("without_pictures")
TINY = ["--budget.evaluations", "2", "--budget.finalists", "1", "--budget.final_seeds", "1", "--cache", "none"]
TINY += ["--evaluator.epochs", "1", "--evaluator.final_epochs", "1", "--evaluator.concurrency", "0"]
TINY += ["--agent", "RandomSearch"]


def photos(folder: Path, mode="RGB", n=6, size=(9, 12)) -> Path:
    """Write pictures of two classes, of several sizes."""
    for number, name in enumerate(("cat", "dog")):
        for i in range(n):
            content = encoded(mode=mode, size=(size[0] + i, size[1]), seed=10 * number + i)
            lay(folder, {f"{name}/{i}.png": content})
    return folder


def saved(run: Path, data: nasenv.Dataset) -> Path:
    """Write the model of a run, with the weights that it begins with."""
    space = ChainCNN(max_layers=1, task=data.task)
    torch.manual_seed(0)
    save_model(run / "model", space, space.reference(), space.build(space.reference()), data)
    return run


def refusal(capsys, words: list[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        raise SystemExit(main(words))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def test_train_is_told_what_to_add_until_it_runs_and_says_what_it_loaded(here, capsys):
    photos(here / "new")  # rich would make a symbol of :new:
    lay(here / "new", {"cat/x.jpg": TORN, "dog/y.png": b"", "notes.txt": b"", "dog/z.png": encoded(size=(30, 20))})
    words = ["train", "--data", "folder:new", "--run_dir", "run", *TINY]
    line = refusal(capsys, words)
    assert "2 of 15 pictures cannot be read: cat/x.jpg (" in line
    added = re.findall(r"add (--data\.\w+ \w+)", line)
    assert added == ["--data.size 8", "--data.skip_unreadable true"]
    assert main([*words, *shlex.split(" ".join(added))]) == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first == "folder:new: 13 colour pictures of 8x8, values " + first.partition("values ")[2]
    assert second == "9 for training, 2 for validation, 2 for test; 2 classes: cat 4+1+1, dog 5+1+1"
    for words in (
        "left out: 1 .txt file; ",
        "skipped: 2 of 15",
        "resized (crop): 13 pictures",
        "read as colour: 1 grey",
    ):
        assert words in third
    header = json.loads((here / "run/journal.jsonl").read_text().splitlines()[0])
    assert header["config"]["data"]["size"] == "8x8"
    assert load_model(here / "run/model").resize == "crop"


def test_compare_and_build_table_say_what_they_load(here, capsys, monkeypatch):
    monkeypatch.setattr("nasenv.comparison.figures.draw", lambda *_: {})
    two = ["--evaluator", "TrainingEvaluator", "--evaluator.epochs", "1", "--evaluator.concurrency", "0"]
    space = ["--space", "ChainCNN", "--space.max_layers", "1"]
    agents = ["--agents.random", "RandomSearch", "--agents.evolution", "RegularizedEvolution"]
    many = ["--seeds", "1", "--workers", "0", "--budget.evaluations", "1", "--cache", "none"]
    assert main(["compare", *space, *two, *agents, *many]) == 0
    loaded = "digits: 1,797 grey pictures of 8x8, values 0 to 16"
    assert capsys.readouterr().out.startswith(loaded)
    table = ["--seeds", "1", "--limit", "2", "--output", "t.csv"]
    main(["build_table", "--space", "ChainCNN", "--space.max_layers", "1", *two[2:], *table])
    assert capsys.readouterr().out.startswith(loaded)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_new_pictures_become_what_those_in_training_became(here, capsys, resize):
    photos(here / "photos")
    saved(here / "run", Data("folder:photos", size="8x10", resize=resize).load())
    photos(here / "new", mode="L", size=(20, 16))
    model = load_model(here / "run/model")
    expected = load_images("folder:new", Preprocessing((8, 10), resize, 3))
    assert expected.images.shape == (12, 3, 8, 10)
    found = predict(model, expected.images)
    assert np.array_equal(predict(model, "folder:new"), found)
    assert main(["predict", "run", "folder:new"]) == 0
    said = capsys.readouterr()
    best = [model.class_names[i] for i in found.argmax(axis=1)]
    assert table(said.out)[1:] == [
        [name, label, f"{share:.4f}"]
        for name, label, share in zip(expected.files, best, found.max(axis=1).tolist(), strict=True)
    ]
    lines = said.err.splitlines()
    assert lines[0].startswith("folder:new: 12 colour pictures of 8x10, values ")
    assert lines[1] == f"resized ({resize}): 12 pictures of 20x16 to 25x16; read as colour: 12 grey pictures"
    assert lines[2] == "the network was trained on colour pictures of 8x10, values " + lines[2].partition("values ")[2]


def test_colour_pictures_are_grey_to_a_network_of_grey_ones(here, capsys):
    photos(here / "grey", mode="L", size=(8, 8))
    saved(here / "run", Data("folder:grey", size=8).load())
    photos(here / "new", size=(8, 8))
    Image.open(here / "new/cat/0.png").convert("L").save(here / "one.png")
    assert main(["predict", "run", "folder:new"]) == 0
    said = capsys.readouterr()
    assert "read as grey: 12 colour pictures" in said.err
    assert main(["predict", "run", "one.png"]) == 0
    assert table(capsys.readouterr().out)[1] == ["one.png", *table(said.out)[1][1:]]


def test_pictures_of_another_size_need_a_word_where_training_resized_none(here, capsys):
    lay(here / "photos", {"cat/": 6, "dog/": 6})
    saved(here / "run", Data("folder:photos").load())
    photos(here / "new", mode="L")
    line = refusal(capsys, ["predict", "run", "folder:new"])
    assert "the model takes pictures of 8x8, these are of 9x12 to 14x12; add --resize crop" in line
    assert main(["predict", "run", "folder:new", "--resize", "crop"]) == 0
    assert "resized (crop): 12 pictures" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"these are of 9x12 to 14x12"):
        predict(load_model(here / "run/model"), "folder:new")


def test_unreadable_pictures_are_refused_or_left_out_of_predictions(here, capsys):
    lay(here / "photos", {"cat/": 6, "dog/": 6})
    saved(here / "run", Data("folder:photos").load())
    lay(here / "new", {"./": 3, "b.png": b"x", "c.heic": b"y"})
    line = refusal(capsys, ["predict", "run", "folder:new"])
    assert "2 of 5 pictures cannot be read: b.png (it is no picture of a known format), c.heic (Pillow does not" in line
    assert line.endswith("to leave them out, add --skip_unreadable true")
    assert main(["predict", "run", "folder:new", "--skip_unreadable", "true"]) == 0
    said = capsys.readouterr()
    assert [row[0] for row in table(said.out)] == ["image", "0.png", "1.png", "2.png"]
    assert "skipped: 2 of 5" in said.err


def test_names_that_are_no_texts_are_written_as_they_are(here, capsys):
    lay(here / "photos", {"cat/": 6, "dog/": 6})
    saved(here / "run", Data("folder:photos").load())
    name = b"caf\xe9.png"
    lay(here / "new", {os.fsdecode(name): encoded()})
    assert main(["predict", "run", "folder:new", "--output", "o.csv"]) == 0
    assert (here / "o.csv").read_bytes().splitlines()[1].startswith(name)
    assert main(["predict", "run", "folder:new"]) == 0
    assert r"caf\udce9.png," in capsys.readouterr().out


def test_grey_arrays_are_colours_to_a_network_of_colours(here, capsys):
    photos(here / "photos", size=(8, 8), n=3)
    saved(here / "run", Data("folder:photos", size=8).load())
    model, grey = load_model(here / "run/model"), np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    np.savez("grey.npz", x=grey)
    found = predict(model, grey[:, None])
    assert np.array_equal(found, predict(model, np.stack([grey] * 3, axis=1)))
    assert np.array_equal(found, predict(model, "npz:grey.npz"))
    assert main(["predict", "run", "npz:grey.npz"]) == 0
    np.savez("large.npz", x=np.zeros((4, 9, 9)))
    assert "holds 4 grey pictures of 9x9, and arrays are not resized to 8x8" in (
        refusal(capsys, ["predict", "run", "npz:large.npz"])
    )


def test_the_range_that_the_network_was_trained_on_is_said(here, capsys):
    saved(here / "run", Data("digits").load())
    assert load_model(here / "run/model").values == (0.0, 16.0)
    lay(here / "new", {"./": 3})
    assert main(["predict", "run", "folder:new"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"folder:new: 3 grey pictures of 8x8, values \d+ to 2\d\d", first)
    assert second == "the network was trained on grey pictures of 8x8, values 0 to 16"


@pytest.mark.parametrize(
    ("option", "words"), [("size", "size must be 4 to 4,096"), ("resize", "expected one of 'crop'")]
)
def test_options_that_are_none_are_refused_in_a_line(here, capsys, option, words):
    assert words in refusal(capsys, ["train", "--data", "folder:photos", f"--data.{option}", "3"])


def test_options_of_a_file_are_those_of_the_command_line(here):
    photos(here / "photos")
    Path("c.yaml").write_text("data: {source: folder:photos, size: 8x6, resize: pad}\n")
    assert main(["train", "--config", "c.yaml", "--run_dir", "run", *TINY]) == 0
    assert load_model(here / "run/model").task.shape == (3, 8, 6)
    assert load_model(here / "run/model").resize == "pad"


def test_a_file_that_is_missing_or_unreadable_is_named_once(here, capsys):
    lay(here / "photos", {"cat/": 6, "dog/": 6})
    saved(here / "run", Data("folder:photos").load())
    lay(here / "new", {"bad.jpg": b"x"})
    for name, said in {
        "new/zzz.jpg": "new/zzz.jpg: no such file",
        "zzz.jpg": "zzz.jpg: no such file",
        "zzz/new": "zzz/new: no such file or folder",
        "new/bad.jpg": "new/bad.jpg cannot be read: it is no picture of a known format",
    }.items():
        assert refusal(capsys, ["predict", "run", name]) == f"nasenv predict: error: {said}"
    assert "no such file" in refusal(capsys, ["train", "--data", "new/zzz", "--run_dir", "other"])
    assert "did you mean" in refusal(capsys, ["predict", "run", "foldr:photos/x"])


def test_the_training_data_are_told_from_others_and_the_output_is_named(here, capsys):
    photos(here / "photos", size=(8, 8))
    words = "these include what the network was trained on; its test accuracy is in run/result.json"
    saved(here / "run", Data("folder:photos", size=8).load())
    photos(here / "new", size=(8, 8))
    assert main(["predict", "run", "folder:photos", "--output", "o.csv"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert words in said
    assert "12 predictions written to o.csv" in said
    assert main(["predict", "run", "folder:new"]) == 0
    said = capsys.readouterr().err
    assert words not in said
    assert "written" not in said


def test_test_pictures_of_the_training_data_are_no_training_data(here, capsys):
    lay(here / "photos", {f"{split}/{name}/": 6 for split in ("train", "test") for name in ("cat", "dog")})
    saved(here / "run", Data("folder:photos").load())
    assert main(["predict", "run", "folder:photos"]) == 0
    assert "trained on;" not in capsys.readouterr().err


def test_transparency_and_channels_that_training_did_not_have_are_said(here, capsys):
    photos(here / "photos", size=(8, 8))
    saved(here / "run", Data("folder:photos", size=8).load())
    lay(here, {"opaque.png": encoded(mode="RGBA"), "clear.png": encoded(mode="RGBA", alpha=9)})
    for name, said in {"opaque.png": False, "clear.png": True}.items():
        assert main(["predict", "run", name]) == 0
        words = "read as colour: 1 RGBA picture, whose transparency is dropped"
        assert (words in capsys.readouterr().err) == said
    x = np.full((12, 4, 8, 8), 255, dtype=np.uint8)
    x[:, :3] = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8))
    np.savez("old.npz", x=x, y=[0, 1] * 6)
    saved(here / "four", Data("npz:old.npz").load())
    words = "channel 4 was always 255 in training, and is not here: the predictions may be wrong"
    for name, said in {"opaque.png": False, "clear.png": True}.items():
        assert main(["predict", "four", name]) == 0
        assert (words in capsys.readouterr().err) == said
