"""Tests on other versions of Python: what is installed there, and the page of results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import check_versions

ROOT = Path(__file__).parents[2]


def test_the_oldest_versions_are_those_of_pyproject():
    assert check_versions.constraints("oldest").splitlines() == ["numpy==2.0.*", "torch==2.11.*"]
    assert check_versions.constraints("newest") == ""
    assert "torch==" in check_versions.constraints("pinned")


def test_a_python_that_there_is_not_is_refused():
    command = [sys.executable, ROOT / "scripts" / "check_versions.py", "3.99"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no python3.99 on the PATH; there are Debian systems for 3.11, 3.13, 3.14" in done.stderr


@pytest.mark.parametrize("command", [["true"], ["sh", "-c", "exit 3"]])
def test_a_command_runs_in_its_folder_with_an_environment_of_its_own(tmp_path, monkeypatch, command):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    environment = check_versions.Environment("3.99", tmp_path)
    environment.inside.mkdir()
    assert environment.run(*command).returncode == (0 if command == ["true"] else 3)
    told = environment.run("sh", "-c", "pwd; echo $PYTHONPATH", capture=True).stdout
    assert told.splitlines() == [str(tmp_path / "python-3.99"), ""]


def test_the_page_shows_what_the_record_holds(tmp_path, monkeypatch):
    results = json.loads(check_versions.RECORD.read_text())
    monkeypatch.setattr(check_versions, "RECORD", tmp_path / "versions.json")
    monkeypatch.setattr(check_versions, "PAGE", tmp_path / "versions.md")
    check_versions.write_page(results)
    assert (tmp_path / "versions.md").read_text() == (ROOT / "tests" / "versions.md").read_text()
