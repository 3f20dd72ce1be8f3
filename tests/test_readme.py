"""Every README: its Python runs, its commands are understood, and what it names is there."""

import ast
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nasenv
from nasenv.commands.cli import COMMANDS, main
from tests.fakes import SHORT_EPISODES
from tests.test_imports import ORDER

ROOT = Path(__file__).parent.parent
MOST_LINES = {"README.md": 180, "BENCHMARKS.md": 150}
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("nasenv", "agents", "scripts", "tests", "runs", ".")
    for path in sorted((ROOT / folder).glob("README.md" if folder in (".", "runs") else "**/README.md"))
}
TEXT = "".join(page for name, page in PAGES.items() if not name.startswith(("scripts/", "tests/")))  # of users' pages
README, MAP, ENVS = PAGES["README.md"], PAGES["nasenv/README.md"], PAGES["nasenv/envs/README.md"]


def blocks(page: str, language: str) -> list[str]:
    """Return a page's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def files(page: str, language: str) -> dict[str, str]:
    """Return a page's blocks of code by the file that each is, which its first line names."""
    return {code.splitlines()[0].removeprefix("# "): code for code in blocks(page, language)}


MODULES, YAMLS = files(TEXT, "python"), files(TEXT, "yaml")
COMMAND_LINES = sorted({line for code in blocks(TEXT, "bash") for line in code.splitlines()})
TRAINING = [line for line in COMMAND_LINES if re.match(r"nasenv train|scripts/train", line)]
COMPARING = [line for line in COMMAND_LINES if line.startswith("nasenv compare")]
INSPECTING = [line for line in COMMAND_LINES if line.startswith("nasenv inspect --")]
OWN = [line for line in TRAINING if any(name.removesuffix(".py") + "." in line for name in MODULES)]
TINY = [
    "--budget.evaluations",
    "2",
    "--budget.finalists",
    "1",
    "--budget.final_seeds",
    "1",
    "--evaluator.epochs",
    "1",
    "--evaluator.final_epochs",
    "1",
    "--evaluator.concurrency",
    "0",
    "--cache",
    "none",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: the files of all pages, and later the quick start's run, the data, my.yaml."""
    path = tmp_path_factory.mktemp("reader")
    for name, code in {**MODULES, **YAMLS}.items():
        assert re.fullmatch(r"\w+\.(py|yaml)", name), f"a block of code begins with its file's name, not {name!r}"
        (path / name).write_text(code, encoding="utf-8")
    return path


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture(scope="module")
def quick_start(folder: Path) -> str:
    """What the quick start prints, run as its reader runs it: its workers import the script again."""
    line = [sys.executable, "quick_start.py"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def arguments(line: str) -> list[str]:
    """Return what `nasenv` is given by a line of shell.

    >>> arguments("scripts/train --seed 3  # again"), arguments("nasenv train --print_config > my.yaml")
    (['train', '--seed', '3'], ['train', '--print_config'])
    """
    words = shlex.split(line.replace("scripts/train", "nasenv train"), comments=True)
    return words[1 : words.index(">")] if ">" in words else words[1:]


def exit_code(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as end:
        return int(end.code or 0)


def test_quick_start(quick_start: str, folder: Path):
    text, accuracy = quick_start.split()
    assert nasenv.ChainCNN().from_text(text)
    assert 0.8 < float(accuracy) <= 1.0
    assert (folder / "runs/quick/result.json").exists()


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"quick_start.py"}))
@pytest.mark.usefixtures("in_folder", "quick_start")
def test_python_runs(name: str):
    runpy.run_path(name, run_name="__main__")


@pytest.mark.parametrize("line", OWN + [line for line in TRAINING if "npz:" in line])
@pytest.mark.usefixtures("in_folder")
def test_search_with_the_readers_own_parts(line: str, tmp_path: Path):
    runpy.run_path("make_data.py")
    small = [] if "--data" in line else ["--data", "npz:mine.npz"]  # fewer than the digits
    small += [] if "--space" in line else ["--space.max_layers", "2"]
    assert exit_code([*arguments(line), *small, *TINY, "--run_dir", str(tmp_path)]) == 0
    assert (tmp_path / "model/weights.safetensors").exists()


@pytest.mark.parametrize("line", [line for line in COMPARING if "TrainingEvaluator" not in line])
@pytest.mark.usefixtures("in_folder")
def test_comparison(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if line != COMPARING[0]:  # drawing is most of the time, and the same for all
        monkeypatch.setattr("nasenv.comparison.figures.draw", lambda *_: {})
    few = ["--seeds", "2", "--budget.evaluations", "20", "--workers", "0", "--run_dir", str(tmp_path)]
    assert exit_code([*arguments(line), *few]) == 0
    assert (tmp_path / "report.html").exists()


def test_the_readers_agent_keeps_the_contract(folder: Path):
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_agent.py"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("line", TRAINING + INSPECTING + [line for line in COMPARING if "TrainingEvaluator" in line])
@pytest.mark.usefixtures("in_folder")
def test_options_are_known(line: str, capsys: pytest.CaptureFixture[str]):
    words = arguments(line)
    if "runs/chains" in words and not Path("runs/chains").exists():
        runpy.run_path("narrowed_chains.py")
    if "--config" in words:
        assert exit_code(["train", "--print_config"]) == 0
        Path(words[words.index("--config") + 1]).write_text(capsys.readouterr().out, encoding="utf-8")
    shows = [word for word in words if word == "--help" or word.endswith(".help") or word == "--print_config"]
    assert exit_code(words if shows else [*words, "--print_config"]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if line.startswith("nasenv predict")])
@pytest.mark.usefixtures("in_folder", "quick_start")
def test_predict(line: str):
    runpy.run_path("use_model.py")
    assert exit_code(arguments(line)) == 0


def test_other_commands_name_what_exists():
    """Those that are too long or too far-reaching to run: what they begin with is there."""
    for line in COMMAND_LINES:
        program, *rest = shlex.split(line, comments=True)
        if program == "nasenv":
            assert rest[0] in COMMANDS, line
        elif program == "python":
            assert rest[0] in MODULES, line
        elif program.startswith("scripts/"):
            assert (ROOT / program).stat().st_mode & 0o100, line
        else:
            assert program in ("pip", "tensorboard", "source", ".venv/bin/ruff", ".venv/bin/python"), line


def test_installation_names_what_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (line,) = [line for line in COMMAND_LINES if line.startswith("pip install")]
    assert {extra for listed in re.findall(r"\[(.+?)\]", line) for extra in listed.split(",")} <= extras.keys()
    for file in re.findall(r"/path/to/nasenv/(\S+)", line):
        assert (ROOT / file).exists()


@pytest.mark.parametrize("kind", ["space", "evaluator", "agent", "objective"])
def test_options_in_the_text_exist(kind: str, capsys: pytest.CaptureFixture[str]):
    classes = sorted(set(re.findall(rf"--{kind}(?:\.help)? (\w+)(?![\w.])", TEXT)))
    for name in {"space": ["ChainCNN"], "evaluator": ["TrainingEvaluator"], "agent": ["PPO"]}.get(kind, []) + classes:
        assert exit_code(["train", f"--{kind}.help", name]) == 0
    assert exit_code(["train", "--help"]) == 0
    known = capsys.readouterr().out
    own = "".join(MODULES.values())
    for option in set(re.findall(rf"--{kind}\.(\w+)", TEXT)) - {"help"}:
        assert f"--{kind}.{option} " in known or f" {option}: " in own, f"--{kind}.{option}"


def test_general_options_in_the_text_exist(capsys: pytest.CaptureFixture[str]):
    for command in COMMANDS:
        assert exit_code([command, "--help"]) == 0
    known = set(re.findall(r"--([\w.]+)", capsys.readouterr().out)) | {"logdir", "write"}
    text = re.sub(r"^(pip|ray|\.venv/bin/\S+) .*$|`(python|docker) [^`]*`", "", TEXT, flags=re.MULTILINE)
    named = {o for o in re.findall(r"--([\w.]+)", text) if not re.match(r"(space|evaluator|agents?|objective)\.", o)}
    assert named - known == set()


def anchors(page: str) -> set[str]:
    """Return what a link to one of a page's headings ends with."""
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}


@pytest.mark.parametrize("name", PAGES)
def test_files_and_links_exist(name: str):
    page, here = PAGES[name], (ROOT / name).parent
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)(.+?)\)", prose):
        path, _, anchor = target.partition("#")
        assert (here / path).exists(), target
        assert not anchor or anchor in anchors((here / (path or "README.md")).read_text(encoding="utf-8")), target
    for path in re.findall(r"`((?:nasenv|agents|scripts|tests|\.ci)/[\w./]*)`", page):
        assert (ROOT / path).exists(), path


def test_the_map_names_every_room_in_order_and_every_file():
    rooms = re.findall(r"^- \*\*`([\w./]+?)(?:/|\.py)`\*\*(.*?)(?=^- \*\*|^$)", MAP, flags=re.MULTILINE | re.DOTALL)
    assert [room for room, _ in rooms] == [room for room in ORDER if room != "scripts"]
    for room, text in rooms:
        folder = ROOT / "nasenv" / room
        there = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
        assert set(re.findall(r"`(\w+\.py)`", text)) == there, room


def test_what_the_map_names_elsewhere_exists():
    rest = MAP[MAP.index("## Contracts") :]
    for path in re.findall(r"`(\w+(?:/\w+)*\.py|\w+/)`", rest):
        assert any((ROOT / start / path).exists() for start in (".", "nasenv")), path
    for line in (line for code in blocks(MAP, "bash") for line in code.splitlines()):
        for word in (word for word in line.split() if "/" in word and not word.startswith(".venv")):
            assert (ROOT / word).exists(), line


def test_public_names_exist():
    for name in re.findall(r"nasenv\.([A-Za-z]\w*)\(", TEXT):
        assert name in nasenv.__all__


@pytest.mark.parametrize("name", MOST_LINES)
def test_pages_are_short(name: str):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= MOST_LINES[name]


def test_pictures_are_small():
    pictures = list((ROOT / "scripts/pictures").glob("*.png"))
    assert pictures
    assert all(picture.stat().st_size < 150_000 for picture in pictures)


def test_transformer_space_is_that_of_the_tests():
    code = MODULES["transformer_space.py"].removeprefix("# transformer_space.py\n")
    assert code == (ROOT / "tests/transformer_space.py").read_text(encoding="utf-8")


def test_settings_for_short_episodes_are_those_of_the_tests():
    rows = re.findall(r"^\| ([\w, ]+) \| `(\w+=.+)` \|$", ENVS, flags=re.MULTILINE)
    said = {name: _settings(text) for names, text in rows for name in names.split(", ")}
    assert said == SHORT_EPISODES
    (example,) = re.findall(r"^SHORT = dict\((.+)\)$", ENVS, flags=re.MULTILINE)
    assert _settings(example) == SHORT_EPISODES["PPO"]


def _settings(text: str) -> dict[str, object]:
    """Return the keyword arguments of a call.

    >>> _settings("gamma=1.0, n_steps=200")
    {'gamma': 1.0, 'n_steps': 200}
    """
    call = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
