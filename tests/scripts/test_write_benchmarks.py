"""BENCHMARKS.md is what the script writes from what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"
PAGE = "Prose.\n\n<!-- bench_x: cpu, gpu -->\nold\n<!-- end of bench_x -->\n\nMore.\n"


def record(date: str, kind: str = "cpu", ratio: str = "3.1") -> dict:
    setting = dict.fromkeys(("commit", "device", "processor", "system", "versions"), kind)
    table = {"title": "Speed", "heads": ["work", "ratio"], "rows": [["digits", ratio]]}
    goal = {"goal": "times", "asked": "at least 2", "value": 1.0, "shown": ratio, "met": True}
    figures = {"deep": {"tables": [table]}, "goals": [goal]}
    return {"benchmark": "bench_x", "setting": {**setting, "date": date, "kind": kind}, "figures": figures}


def write(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPTS / "write_benchmarks.py", "--page", folder / "B.md", "--measured", folder]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "B.md").write_text(PAGE)
    (tmp_path / "bench_x").mkdir()
    for date, ratio in (("2026-11-24T10:00", "3.1"), ("2026-11-25T10:00", "4.2")):
        (tmp_path / "bench_x" / f"{date[:10]}-cpu.json").write_text(json.dumps(record(date, ratio=ratio)))
    return tmp_path


def test_the_page_is_what_the_script_writes():
    done = subprocess.run(
        [sys.executable, SCRIPTS / "write_benchmarks.py", "--check"], capture_output=True, check=False
    )
    assert done.returncode == 0, "run scripts/benchmarks/write_benchmarks.py"


def test_the_newest_of_a_device_and_the_history_are_written_and_prose_stays(folder):
    assert write(folder, "--check").returncode == 1
    assert write(folder).returncode == 0
    page = (folder / "B.md").read_text()
    assert page.startswith("Prose.\n\n")
    assert page.endswith("\n\nMore.\n")
    assert "old" not in page
    assert "| digits | 4.2 |" in page
    assert "| digits | 3.1 |" not in page
    assert "| 2026-11-24 | cpu | cpu | 3.1 |\n| 2026-11-25 | cpu | cpu | 4.2 |" in page
    assert "On a GPU: not yet measured; the command is `.venv/bin/python scripts/benchmarks/bench_x.py --keep`." in page
    assert write(folder, "--check").returncode == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"benchmark": "bench_x"}'])
def test_a_damaged_file_is_refused_in_one_line(folder, text):
    (folder / "bench_x" / "bad.json").write_text(text)
    done = write(folder)
    assert done.returncode == 2
    assert "bench_x/bad.json" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (folder / "B.md").read_text() == PAGE


def test_what_has_no_section_is_named(folder):
    (folder / "B.md").write_text("Prose.")
    assert "no section for bench_x" in write(folder).stderr
