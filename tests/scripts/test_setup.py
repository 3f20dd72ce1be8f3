"""The set-up of a clone, where Python is not what is tested."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "env", "dirname", "cat", "sha256sum", "cut", "flock", "rm", "mv", "mkdir", "cp")
PRETENDED = """#!/usr/bin/env bash
case "$*" in
*version_info\\ \\<*) exit 0 ;;
*%d*) echo 3.99 ;;
"-m venv"*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "scripts").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    for name in ("scripts/setup", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def set_up(clone: Path) -> tuple[int, list[str]]:
    """Return the exit code and the lines that are said."""
    environment = {"PATH": str(clone / "bin")}
    done = subprocess.run([clone / "scripts/setup"], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.splitlines()


def test_no_python_is_said_in_one_line(clone):
    code, (line,) = set_up(clone)
    assert code == 1
    assert "no Python 3.11 or newer found (tried python3.11, python3.12, python3, python); install one" in line
    assert not (clone / ".venv").exists()


def test_a_newer_python_is_taken_and_said_to_be_untested(clone):
    (clone / "bin" / "python3").write_text(PRETENDED)
    (clone / "bin" / "python3").chmod(0o755)
    code, (_, note) = set_up(clone)
    assert code == 0
    assert note == "note: nasenv is tested with Python 3.11 and 3.12; this is 3.99"
    assert (clone / ".venv" / ".nasenv-stamp").exists()
    assert set_up(clone) == (0, []), "once"
