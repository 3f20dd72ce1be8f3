"""Standard output that is not read, cannot be written or lacks characters: the command does its work all the same."""

import os
import subprocess
import sys

import pytest

TRAIN = [
    *(sys.executable, "-c", "import sys; from nasenv.commands.cli import main; sys.exit(main())", "train"),
    *("--evaluator", "TableEvaluator", "--evaluator.table", "chain_cnn_digits", "--space.widths", "[16]"),
    *("--space.max_layers", "3", "--agent", "RandomSearch", "--budget.evaluations", "30", "--cache", "none"),
]


def full():
    return open("/dev/full", "w")


def unread():
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w")


@pytest.mark.parametrize("stdout", [full, unread])
def test_a_search_goes_on_where_its_output_cannot_be_written(stdout, tmp_path):
    with stdout() as taken:
        done = subprocess.run([*TRAIN, "--run_dir", "run"], cwd=tmp_path, stdout=taken, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "run" / "result.json").exists()


def test_characters_that_the_encoding_lacks_are_replaced(tmp_path):
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*TRAIN, "--run_dir", "run"], cwd=tmp_path, capture_output=True, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"mean ? standard deviation" in done.stdout
