import json
import math

import pytest

from nasenv.errors import InputError
from nasenv.records.journal import Journal
from nasenv.records.trials import TrialLog
from nasenv.trial import Measurement, Outcome

CONFIG = {"seed": 0, "space": {"class_path": "Mine", "init_args": {"widths": [8, 16]}}}


def outcome(evaluation):
    if evaluation % 3 == 0:
        measurement = Measurement(None, error="out of memory: ünï\u2028code", train_seconds=0.1)
    else:
        measurement = Measurement(1 / evaluation, None, 0.25, {"params": 12.0}, (0.1 + 0.2, 1e-300))
    return Outcome((evaluation, 0), measurement, 0.1 * evaluation, evaluation, evaluation + 1, cached=evaluation == 2)


@pytest.fixture
def path(tmp_path):
    """A journal of five evaluations."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, CONFIG)
    for evaluation in range(1, 6):
        journal.add(outcome(evaluation), f"depth={evaluation}", 0.5)
    journal.close()
    return path


def reopened(path, config=CONFIG):
    journal = Journal(path, config)
    journal.close()
    return list(journal.entries())


def test_what_is_written_is_read_back_exactly(path):
    entries = reopened(path)
    assert [Measurement.from_json(e) for e in entries] == [outcome(k).measurement for k in range(1, 6)]
    assert [e["reward"] for e in entries] == [outcome(k).reward for k in range(1, 6)]
    assert [e["cached"] for e in entries] == [False, True, False, False, False]
    assert len(path.read_text(encoding="utf-8").split("\n")) == 7


def test_each_line_is_there_at_once(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", CONFIG)
    journal.add(outcome(1), "depth=1", 0.0)
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 2
    journal.close()


def test_a_torn_last_line_is_cut_wherever_it_is_torn(path):
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in sorted({0, *range(1, len(whole), 13), *(end + d for end in ends[:-1] for d in (-1, 0, 1))}):
        path.write_bytes(whole[:length])
        lines = sum(end <= length for end in ends)
        assert len(reopened(path)) == max(0, lines - 1)
        assert path.read_bytes().endswith(b"\n")


def test_after_a_torn_line_it_goes_on(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    journal = Journal(path, CONFIG)
    journal.add(outcome(5), "depth=5", 0.5)
    journal.close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", [1, 2, 4, 6])
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: "",
        lambda text: "null",
        lambda text: "[]",
        lambda text: "\0" * len(text),
        lambda text: "\udcff" + text,
    ],
    ids=["cut", "empty", "null", "list", "zeros", "bytes"],
)
def test_a_damaged_line_is_named(path, line, damage):
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    lines[line - 1] = damage(lines[line - 1])
    path.write_text("\n".join([*lines, ""]), encoding="utf-8", errors="surrogateescape")
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"line {line} is damaged|is no file of a search") as refusal:
        reopened(path)
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation": 7},
        {"score": None},
        {"score": math.inf},
        {"score": "0.5"},
        {"fidelity": 0},
        {"fidelity": 1.5},
        {"fidelity": "1"},
        {"purpose": "confirm"},
        {"seed": None},
        {"by": None},
        {"cost": -0.5},
        {"cost": math.nan},
        {"curve": None},
        {"curve": 3},
        {"architecture": None},
        {"architecture": "12"},
        {"reward": None},
        {"train_seconds": -1},
    ],
    ids=str,
)
def test_an_entry_that_says_nonsense_is_damaged(path, change):
    lines = path.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **change})
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(InputError, match="line 3 is damaged"):
        reopened(path)


def test_a_line_that_is_missing_is_noticed(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))
    with pytest.raises(InputError, match="line 3 is damaged"):
        reopened(path)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({**CONFIG, "seed": 1}, "seed is 0 there, 1 here"),
        (
            {"seed": 0, "space": {"class_path": "Mine", "init_args": {"widths": [8]}}},
            r"widths is \[8, 16\] there, \[8\]",
        ),
        ({"seed": 0}, "space.class_path is Mine there, None here and 1 more"),
    ],
)
def test_another_configuration_is_refused(path, config, named):
    with pytest.raises(InputError, match=named):
        reopened(path, config)
    assert len(reopened(path)) == 5  # let go of, and unharmed


def test_tuples_are_the_lists_they_are_written_as(path):
    reopened(path, {"seed": 0, "space": {"class_path": "Mine", "init_args": {"widths": (8, 16)}}})


def test_one_at_a_time(path):
    journal = Journal(path, CONFIG)
    with pytest.raises(InputError, match="in use by a search that this program made"):
        Journal(path, CONFIG)
    journal.close()
    assert len(reopened(path)) == 5


@pytest.mark.parametrize("text", ["hello\n", "{}\n", '{"journal":3,"config":{}}\n', '{"journal":2}\n'])
def test_a_file_that_is_no_journal(tmp_path, text):
    path = tmp_path / "journal.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=r"is no file of a search in format 2|line 1 is damaged"):
        reopened(path)
    assert path.read_text() == text


def test_a_folder_in_its_place(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path, CONFIG)


def test_a_file_of_an_earlier_version_is_refused_in_one_line_that_says_so(tmp_path):
    path = tmp_path / "journal.jsonl"
    text = '{"journal":1,"config":{"seed":0}}\n{"evaluation":1,"architecture":[0],"val_accuracy":0.5}\n'
    path.write_text(text)
    for use in (lambda: Journal(path, CONFIG), lambda: Journal.read(path), lambda: TrialLog(path, CONFIG)):
        with pytest.raises(InputError, match=r"of an earlier version of nasenv, .*; give another run_dir") as refusal:
            use()
        assert "\n" not in str(refusal.value)
    assert path.read_text() == text
