"""The set-up of a clone, where Python is not what is tested."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "env", "dirname", "readlink", "cat", "sha256sum", "cut", "flock", "rm", "mv", "mkdir", "cp")
PRETENDED = """#!/usr/bin/env bash
case "$*" in
*version_info\\ \\<*) exit 0 ;;
*%d*) echo 3.99 ;;
*train_controller.py*) echo "$PWD: $*" ;;
"-m venv"*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "scripts").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    for name in ("scripts/setup", "scripts/train", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def clone_with_python(clone):
    (clone / "bin" / "python3").write_text(PRETENDED)
    (clone / "bin" / "python3").chmod(0o755)
    return clone


def train(script: Path, clone: Path, folder: Path, **environment: str) -> tuple[str, str]:
    """Return what scripts/train says in a folder: to its output, and of the set-up."""
    environment = {"PATH": str(clone / "bin"), **environment}
    line = [str(script), "--seed", "3"]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr


def set_up(clone: Path) -> tuple[int, list[str]]:
    """Return the exit code and the lines that are said."""
    environment = {"PATH": str(clone / "bin")}
    done = subprocess.run([clone / "scripts/setup"], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.splitlines()


def test_no_python_is_said_in_one_line(clone):
    code, (line,) = set_up(clone)
    assert code == 1
    assert "no Python 3.11 or newer found (tried python3.11 to python3.14, python3, python); install one" in line
    assert not (clone / ".venv").exists()


def test_a_newer_python_is_taken_and_said_to_be_untested(clone_with_python):
    code, (_, note) = set_up(clone_with_python)
    assert code == 0
    assert note == "note: nasenv is tested with Python 3.11 to 3.14; this is 3.99"
    assert (clone_with_python / ".venv" / ".nasenv-stamp").exists()
    assert set_up(clone_with_python) == (0, []), "once"


def test_a_clone_is_found_from_everywhere_and_set_up_once(clone_with_python, tmp_path_factory):
    clone, elsewhere = clone_with_python, tmp_path_factory.mktemp("else where")
    (elsewhere / "link").symlink_to(clone / "scripts" / "train")
    (elsewhere / "clone").symlink_to(clone)
    (elsewhere / "scripts").mkdir()  # what CDPATH would find
    said = f": {clone}/scripts/train_controller.py --seed 3\n"
    assert train(clone / "scripts/train", clone, elsewhere)[0] == f"{elsewhere}{said}"
    stamp = (clone / ".venv/.nasenv-stamp").stat().st_mtime_ns
    ways = [(Path("scripts/train"), clone), (elsewhere / "link", clone), (Path("clone/scripts/train"), elsewhere)]
    for script, folder in ways:
        assert train(script, clone, folder, CDPATH=f".:{elsewhere}") == (f"{folder}{said}", ""), script
    assert (clone / ".venv/.nasenv-stamp").stat().st_mtime_ns == stamp
