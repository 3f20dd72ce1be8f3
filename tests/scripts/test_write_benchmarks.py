"""BENCHMARKS.md and the pages beside the records are what the script writes from them, and lead to what exists."""

import json
import re
from pathlib import Path

import pytest

from scripts.benchmarks.write_benchmarks import main

ROOT = Path(__file__).parents[2]
DETAIL = sorted((ROOT / "scripts" / "measured").glob("*/README.md"))
HEADLINES = """Prose.
<!-- bench_env: goals -->
| old |

More.
<!-- bench_env: table Speed -->
<!-- bench_env: column ratio of found in -->
| old |
"""


def record(date: str, device: str = "a CPU", ratio: float = 3.25, more: tuple[dict, ...] = ()) -> dict:
    setting = dict.fromkeys(("commit", "kind", "processor", "system", "versions"), "cpu")
    table = {"title": "Speed", "heads": ["work", "ratio"], "rows": [["digits", f"{ratio}"], ["long", "1.55e+03"]]}
    rounds = {"n": 7, "median": ratio, "min": 2.0, "max": 1550.5}
    goals = [
        {"goal": "times", "asked": "at least 2", "value": ratio, "shown": f"{ratio}", "met": True},
        {"goal": "lost", "asked": "", "value": 7, "shown": "7", "met": False},
        {"goal": "share", "asked": "", "value": 0.075, "shown": "7.5%", "met": True},
        {"goal": "points", "asked": "", "value": 0.5, "shown": "+0.50", "met": True},
    ]
    deep = {"ratio": rounds, "lost": {**rounds, "median": 7.0}, "points": {"n": 3, "mean": 0.5, "std": 0.25}}
    figures = {"deep": deep, "shares": [0.07, 0.075, 0.1], "tables": [table, *more], "goals": goals}
    return {"benchmark": "bench_env", "setting": {**setting, "device": device, "date": date}, "figures": figures}


def best(where: str, rows: list[list[str]]) -> dict:
    return {"title": f"{where}: found in 50", "heads": ["agent", "runs", "ratio"], "rows": rows}


def exit_code(*options: str | Path) -> int:
    try:
        main([str(option) for option in options])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def write(folder: Path, *options: str) -> int:
    return exit_code("--page", folder / "B.md", "--measured", folder, *options)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "B.md").write_text(HEADLINES)
    (tmp_path / "bench_env").mkdir()
    tables = best("digits", [["PPO", "20", "0.9"], ["DQN", "20", "0.8"]]), best("mnist", [["PPO", "20", "0.7"]])
    for kept in (record("2026-11-25T10:00", ratio=4.25), record("2026-11-24T10:00", more=tables)):
        (tmp_path / "bench_env" / f"{kept['setting']['date'][:10]}-cpu.json").write_text(json.dumps(kept))
    return tmp_path


def test_the_pages_are_what_the_script_writes(capsys):
    assert exit_code("--check") == 0, f"run scripts/benchmarks/write_benchmarks.py: {capsys.readouterr().err}"


def test_headlines_are_short_and_lead_to_all_detail():
    page = (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
    assert page.count("\n") <= 150
    assert {str(path.relative_to(ROOT)) for path in DETAIL} == set(re.findall(r"scripts/measured/\w+/README.md", page))


@pytest.mark.parametrize("path", [ROOT / "BENCHMARKS.md", *DETAIL], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_what_exists(path):
    page = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)(.+?)\)", page):
        file, _, anchor = target.partition("#")
        assert (path.parent / file).exists(), target
        heads = re.findall(r"^#+ (.+)$", (path.parent / file).read_text("utf-8"), re.MULTILINE) if anchor else ()
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads}, target
    for file in re.findall(r"`((?:nasenv|agents|scripts|tests)/[\w./]*)`", page):
        assert (ROOT / file).exists(), file


def test_a_page_has_the_newest_record_of_a_device_and_the_history(folder):
    assert write(folder, "--check") == 1
    assert not (folder / "bench_env" / "README.md").exists()
    assert write(folder) == 0
    page = (folder / "bench_env" / "README.md").read_text()
    assert page.startswith("# Measures decisions a second of the vector environment on a table")
    assert "`.venv/bin/python scripts/benchmarks/bench_env.py --keep`" in page
    assert "| digits | 4.25 |\n| long | 1,550 |" in page
    assert "| digits | 3.25 |" not in page
    assert "| 2026-11-24 | cpu | a CPU | 3.25 | 7 | 7.5% | +0.50 |\n| 2026-11-25 | cpu | a CPU | 4.25 |" in page
    assert write(folder, "--check") == 0


def test_what_is_written_by_hand_stays(folder):
    (folder / "bench_env" / "README.md").write_text("# My title\n\nMy text.\n")
    (folder / "notes").mkdir()
    (folder / "notes" / "README.md").write_text("No records.")
    for _ in range(2):
        assert write(folder) == 0
        page = (folder / "bench_env" / "README.md").read_text()
        assert page.startswith("# My title\n\nMy text.\n\n<!--")
        assert page.count("## History") == 1
    assert (folder / "notes" / "README.md").read_text() == "No records."


def test_headlines_of_records(folder):
    assert write(folder) == 0
    page = (folder / "B.md").read_text()
    assert page.startswith("Prose.\n<!-- bench_env: goals -->\n| goal (a CPU, 2026-11-25) | measured |")
    assert "| times, at least 2 | 4.25 | 2 to 1,550, n = 7 | yes |\n| lost | 7 | - | **no** |" in page
    assert "| share | 7.5% | 7.00% to 10.00%, n = 3 | yes |\n| points | +0.50 | ± 0.25, n = 3 | yes |" in page
    assert "\n\nMore.\n<!-- bench_env: table Speed -->\n| work; Speed (a CPU, 2026-11-25) | ratio |" in page
    assert page.endswith("| PPO | 0.9 | 0.7 |\n| DQN | 0.8 | - |\n")
    assert "old" not in page


def test_goals_of_what_may_not_be_measured_yet(folder):
    (folder / "B.md").write_text("<!-- gpu_decide: goals, once measured -->\n\nMore.\n")
    assert write(folder) == 0
    page = "<!-- gpu_decide: goals, once measured -->\n| gpu_decide: nothing is measured yet |\n| --- |\n\nMore.\n"
    assert (folder / "B.md").read_text() == page
    (folder / "elsewhere.json").write_text(
        json.dumps(record("2026-12-01T10:00", "A GPU") | {"benchmark": "gpu_decide"})
    )
    assert write(folder, "--add", folder / "elsewhere.json") == 0
    head, rule, first = (folder / "B.md").read_text().splitlines()[1:4]
    assert head.startswith("| [gpu_decide](scripts/measured/gpu_decide/README.md) (A GPU, 2026-12-01) | measured |")
    assert (rule, first) == ("| --- | --- | --- | --- |", "| times, at least 2 | 3.25 | 2 to 1,550, n = 7 | yes |")
    assert (folder / "gpu_decide" / "2026-12-01-a-gpu.json").exists()
    assert "scripts/benchmarks/gpu_decide.py --keep" in (folder / "gpu_decide" / "README.md").read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"benchmark": "bench_env"}'])
def test_a_damaged_file_is_refused_in_one_line(folder, text, capsys):
    (folder / "bench_env" / "bad.json").write_text(text)
    assert write(folder) == 2
    said = capsys.readouterr().err
    assert "bench_env/bad.json" in said
    assert said.count("\n") == 1
    assert (folder / "B.md").read_text() == HEADLINES


@pytest.mark.parametrize("mark", ["bench_ray: goals", "bench_env: table Weight", "bench_env: column a of Weight"])
def test_a_mark_that_no_record_answers_is_named(folder, mark, capsys):
    (folder / "B.md").write_text(f"<!-- {mark} -->\n")
    assert write(folder) == 2
    assert f"<!-- {mark} -->" in capsys.readouterr().err


def test_records_of_no_script_are_refused(folder, capsys):
    (folder / "bench_env").rename(folder / "bench_gone")
    for path in (folder / "bench_gone").iterdir():
        path.write_text(path.read_text().replace("bench_env", "bench_gone"))
    (folder / "B.md").write_text("Prose.")
    assert write(folder) == 2
    assert "no script" in capsys.readouterr().err
