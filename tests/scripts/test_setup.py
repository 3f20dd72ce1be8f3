"""The set-up of a clone, where Python is not what is needed."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "env", "dirname", "cat", "sha256sum", "cut", "flock", "rm", "mv")


def test_no_python_3_11_is_said_in_one_line(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "scripts").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    for name in ("scripts/setup", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(
        [tmp_path / "scripts/setup"], env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "no Python 3.11 found (tried python3.11, python3, python); install it and run this again" in line
    assert not (tmp_path / ".venv").exists()
