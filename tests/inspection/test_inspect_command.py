"""The command that inspects spaces."""

import json

import pytest

from nasenv.commands.cli import main

TABLE = ["--space.max_layers", "3", "--space.widths", "[16]", "--evaluator", "TableEvaluator"]


@pytest.fixture
def inspected(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", *TABLE, "--train", "10", "--output", "one"]) == 0
    return capsys.readouterr().out


def test_it_says_what_the_space_is_and_writes_it_down(inspected, tmp_path):
    for words in ("architectures", "3,644", "different networks", "3,174", "best of 10 drawn at random"):
        assert words in inspected
    assert "page: one/inspection.html; numbers: one/space.json" in inspected
    written = json.loads((tmp_path / "one/space.json").read_text())
    assert written["config"]["space"]["init_args"]["max_layers"] == 3
    assert written["report"]["networks"]["value"] == 3_174


def test_folders_are_compared(inspected, capsys):
    assert main(["inspect", *TABLE, "--seed", "1", "--output", "two"]) == 0
    capsys.readouterr()
    assert main(["inspect", "one", "two", "--output", "both"]) == 0
    said = capsys.readouterr().out
    assert "one" in said
    assert "two" in said
    assert "page: both/inspection.html" in said


def test_its_folder_follows_from_the_configuration(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in ("0", "1", "0"):
        assert main(["inspect", *TABLE, "--seed", seed]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere"], "nowhere/space.json"),
        ([*TABLE, "--train", "-1"], "trained must be an integer of 0 or more, got -1"),
        ([*TABLE, "--seconds", "0"], "seconds must be a positive number, got 0"),
        ([*TABLE, "--trian", "3"], "unknown option --trian"),
    ],
)
def test_wrong_input_is_one_line(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["inspect", *argv])
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
