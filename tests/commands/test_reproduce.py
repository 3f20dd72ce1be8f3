"""``nasenv reproduce``: a run is reproduced, or the differences are printed."""

import json
import shutil

import pytest

from nasenv.commands.cli import main

pytestmark = pytest.mark.usefixtures("without_pictures")
TABLE = [
    *("--evaluator", "TableEvaluator", "--evaluator.table", "chain_cnn_digits", "--space.widths", "[16]"),
    *("--space.max_layers", "3", "--budget.evaluations", "30", "--cache", "none"),
]
TRAINING = [
    *(
        "--space.max_layers",
        "1",
        "--evaluator.epochs",
        "1",
        "--evaluator.final_epochs",
        "1",
        "--evaluator.concurrency",
        "0",
    ),
    *("--budget.evaluations", "4", "--budget.finalists", "2", "--budget.final_seeds", "2", "--agent", "RandomSearch"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a finished run on a table."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", *TABLE, "--run_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """Return a copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def change(path, number, **values):
    lines = path.read_text().splitlines(keepends=True)
    lines[number] = json.dumps({**json.loads(lines[number]), **values}) + "\n"
    path.write_text("".join(lines))


def test_the_same_again(run, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main(["reproduce", str(run)]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("reproduced: 30 evaluations, the winner ")
    assert said.endswith(f"the new run is in {run}-again")
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_trainings_too_whatever_the_cache_and_the_workers(tmp_path, capsys):
    cache = str(tmp_path / "cache.db")
    for number in ("1", "2"):  # the second takes everything from the cache
        assert main(["train", *TRAINING, "--run_dir", str(tmp_path / number), "--cache", cache]) == 0
    config = (tmp_path / "2" / "config.yaml").read_text()
    assert "concurrency: 0" in config
    (tmp_path / "2" / "config.yaml").write_text(config.replace("concurrency: 0", "concurrency: 2"))
    assert main(["reproduce", str(tmp_path / "2"), "--output", str(tmp_path / "3")]) == 0
    assert "reproduced: 4 evaluations" in capsys.readouterr().out
    assert (tmp_path / "3" / "trials.jsonl").read_text().count("\n") > 4, "everything was trained"


@pytest.mark.parametrize(
    ("number", "values", "said"),
    [
        (7, {"score": 0.5}, r"- 1 of 30 evaluations, the first of them 7: score was 50 %, now "),
        (3, {"text": "conv3x8"}, r"- 1 of 30 evaluations, the first of them 3: text was conv3x8, now "),
    ],
)
def test_an_evaluation_that_is_not_the_same(number, values, said, run, capsys):
    change(run / "journal.jsonl", number, **values)
    assert main(["reproduce", str(run)]) == 1
    shown = capsys.readouterr().out
    assert "not reproduced; the new run is in" in shown
    assert said in shown


def test_another_number_of_evaluations_and_another_winner(run, capsys):
    text = (run / "journal.jsonl").read_text()
    (run / "journal.jsonl").write_text("".join(text.splitlines(keepends=True)[:-1]))
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "winner": {**result["winner"], "text": "conv1x8"}}))
    assert main(["reproduce", str(run)]) == 1
    shown = capsys.readouterr().out
    assert "- the number of evaluations: it was 29, now 30" in shown
    assert "- the winner: it was conv1x8, now " in shown


def test_versions_hardware_and_data_that_differ_are_named(run, capsys):
    header = json.loads((run / "journal.jsonl").read_text().splitlines()[0])
    made_with = {**header["made_with"], "torch": "2.9.0", "processor": "an abacus"}
    fingerprint = {**header["config"]["fingerprint"], "evaluator": "of other data"}
    change(run / "journal.jsonl", 0, made_with=made_with, config={**header["config"], "fingerprint": fingerprint})
    assert main(["reproduce", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "torch 2.9.0, now 2." in shown
    assert "processor an abacus, now " in shown
    assert "fingerprint of the evaluator of other data, now " in shown


def test_every_run_says_where_it_comes_from(finished):
    header = json.loads((finished / "journal.jsonl").read_text().splitlines()[0])
    assert {"python", "nasenv", "torch", "numpy", "stable-baselines3", "processor", "cores", "system"} <= set(
        header["made_with"]
    )
    assert {"space", "evaluator"} <= set(header["config"]["fingerprint"])


@pytest.fixture
def early(run):
    """Return the folder of a run that was concluded after 12 of its 30 evaluations."""
    (run / "result.json").unlink()
    journal = run / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:13]))
    assert main(["train", *TABLE, "--run_dir", str(run), "--resume", "conclude"]) == 0
    return run


def test_a_run_that_was_concluded_is_concluded_again(early, capsys):
    assert main(["reproduce", str(early)]) == 0
    result = json.loads((early / "result.json").read_text())
    assert result["evaluations"] == 12
    assert json.loads((early.with_name("run-again") / "result.json").read_text()) == result
    score = f"{100 * result['test_score']:.2f} %"
    said = f"12 evaluations, the winner {result['winner']['text']} and its test accuracy {score}"
    assert said in capsys.readouterr().out


def test_the_winner_of_a_run_that_was_concluded_is_compared(early, capsys):
    result = json.loads((early / "result.json").read_text())
    (early / "result.json").write_text(json.dumps({**result, "test_score": 0.5}))
    assert main(["reproduce", str(early)]) == 1
    assert "- the winner's scores: on test data it was 50 %, now " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["result.json", "journal.jsonl", "config.yaml"])
def test_what_is_no_finished_run(name, run, capsys):
    (run / name).unlink()
    assert main(["reproduce", str(run)]) == 2 if name != "config.yaml" else exits(run) == 2
    assert name in capsys.readouterr().err


def exits(run):
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", str(run)])
    return stop.value.code


def test_a_second_reproduction_is_not_the_first_one_read_again(run, capsys):
    assert main(["reproduce", str(run)]) == 0
    assert main(["reproduce", str(run)]) == 2
    assert "holds a finished run; delete it to train everything anew" in capsys.readouterr().err
    assert main(["reproduce", str(run), "--output", str(run)]) == 2


def test_from_inside_the_folder_and_without_its_wall_budget(run, monkeypatch):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("wall_seconds: null", "wall_seconds: 1.0e-05"))
    monkeypatch.chdir(run)
    assert main(["reproduce", "."]) == 0
