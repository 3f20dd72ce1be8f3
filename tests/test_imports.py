"""Imports go one way: a file imports from rooms to its left in ORDER, and of its own room without a cycle.

A package whose names are imported when they are first used (`nasenv.lazy`) has them in a table, whose modules count.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import nasenv
import nasenv.agents

ROOT = Path(__file__).parent.parent
ORDER = [
    *("lazy", "errors", "files", "configuration", "provenance"),
    *("trial", "task", "objectives", "spaces", "plots", "surrogates"),
    *("data", "training", "workers", "tables", "evaluators", "cluster"),
    *("cache", "records", "search", "envs", "deployment", "results", "benchmarks"),
    *("agents", "comparison", "inspection", "commands", "__main__", "scripts"),
]
ONLY_IN = {  # heavy or optional packages, and the rooms or files that import them
    "stable_baselines3": {"agents", "scripts"},
    "sb3_contrib": {"agents", "scripts"},
    "optuna": {"agents/tpe.py"},
    "gymnasium": {"nasenv/__init__.py", "nasenv/envs", "agents", "scripts"},
    "jsonargparse": {"nasenv/commands"},
    "rich": {"nasenv/commands", "scripts"},
    "matplotlib": {"nasenv/plots.py", "nasenv/comparison", "nasenv/inspection", "scripts"},
    "jinja2": {"nasenv/comparison/report.py"},
    "tensorboard": {"nasenv/records/tensorboard.py", "scripts"},
    "sqlalchemy": {"nasenv/cache"},
    "psycopg": {"nasenv/cache", "scripts"},
    "ray": {"nasenv/cluster", "scripts"},
    "datasets": {"nasenv/data", "scripts"},
    "PIL": {"nasenv/data", "scripts"},
    "nats_bench": {"nasenv/benchmarks"},
    "nas_bench_graph": {"nasenv/benchmarks"},
}


def library() -> list[Path]:
    """Return every Python file that is shipped, relative to the root; nasenv/agents is a link to agents."""
    files = [p.relative_to(ROOT) for folder in ("nasenv", "agents", "scripts") for p in ROOT.glob(f"{folder}/**/*.py")]
    return sorted(path for path in files if path.parts[:2] != ("nasenv", "agents"))


def room(path: Path) -> str:
    """Return a file's place in ORDER.

    >>> room(Path("nasenv/task.py")), room(Path("nasenv/spaces/space.py")), room(Path("agents/agent.py"))
    ('task', 'spaces', 'agents')
    """
    parts = path.with_suffix("").parts
    return parts[1] if parts[0] == "nasenv" else parts[0]


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import, those inside functions too; names of a module as if they were modules.

    >>> list(imported("import a.b\\nfrom c.d import e\\nfrom . import f"))
    [(1, 'a.b'), (2, 'c.d.e'), (3, '..f')]
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{n.name}") for n in node.names)


def fault(path: Path, module: str) -> str | None:
    """Return what is wrong with a file's importing a module, None where nothing is."""
    top, *rest = module.split(".")
    if not top:
        return "imports are absolute"
    if top in ONLY_IN and not any(path.is_relative_to(place) for place in ONLY_IN[top]):
        return f"{top} is imported in {' and '.join(sorted(ONLY_IN[top]))} alone"
    if top != "nasenv":
        return None
    if path.parts[0] == "scripts":
        return None
    mine, theirs = room(path), rest[0] if rest else ""
    if theirs not in ORDER:
        return f"library files import from where a thing lives; nasenv.{theirs} has no place in ORDER"
    return None if ORDER.index(theirs) <= ORDER.index(mine) else f"{mine} is not to the right of {theirs}"


@pytest.mark.parametrize("path", library(), ids=str)
def test_imports_go_one_way(path: Path):
    if path == Path("nasenv/__init__.py"):
        return
    assert room(path) in ORDER, f"{path} has no place in ORDER"
    found = [(line, module, fault(path, module)) for line, module in imported((ROOT / path).read_text())]
    assert [f"{path}:{line} {module}: {wrong}" for line, module, wrong in found if wrong] == []


def test_no_file_imports_itself_by_a_detour():
    files = {path for path in library() if path.parts[0] != "scripts" and path != Path("nasenv/__init__.py")}
    graph = {path: set(_imported_files(path, files)) for path in files}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(map(str, reversed(error.args[1]))))


def _imported_files(path: Path, files: set[Path]) -> Iterator[Path]:
    """Yield the files of the library that a file imports."""
    for _, module in imported((ROOT / path).read_text()):
        parts = module.split(".")
        for length in (len(parts), len(parts) - 1) if parts[0] == "nasenv" else ():
            at = Path(*parts[:length]).with_suffix(".py")
            found = Path(*at.parts[1:]) if at.parts[:2] == ("nasenv", "agents") else at
            if found in files and found != path:
                yield found


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("nasenv/search/budget.py", "nasenv.envs.env.Episodes"),
        ("nasenv/search/budget.py", "nasenv.Search"),
        ("nasenv/search/budget.py", "nasenv.brand_new.thing"),
        ("nasenv/search/budget.py", "matplotlib.figure"),
        ("nasenv/spaces/space.py", "nasenv.data.dataset.Dataset"),
        ("nasenv/records/journal.py", "nasenv.search.history.History"),
        ("agents/random_search.py", "sqlalchemy.Table"),
        ("agents/random_search.py", ".agent"),
    ],
)
def test_a_wrong_import_is_seen(path: str, module: str):
    assert fault(Path(path), module)


def test_folders_are_shallow_and_say_what_they_hold():
    for path in library():
        assert len(path.parts) <= 3, f"{path} lies more than two folders deep"
        assert not {"utils", "util", "common", "helpers", "misc"} & set(path.with_suffix("").parts), path


@pytest.mark.parametrize("package", [nasenv, nasenv.agents], ids=lambda package: package.__name__)
def test_lazy_names_are_there_and_typed_as_they_are_found(package: ModuleType):
    tree = ast.parse(Path(str(package.__file__)).read_text())
    (typed,) = [node.body for node in tree.body if isinstance(node, ast.If) and node.orelse]  # TYPE_CHECKING
    found = {n.asname: node.module for node in typed if isinstance(node, ast.ImportFrom) for n in node.names}
    assert found == package._MODULES
    for name, module in package._MODULES.items():
        assert getattr(package, name) is getattr(import_module(module), name)
    assert dir(package) == sorted(package.__all__)
    with pytest.raises(AttributeError, match=rf"module '{package.__name__}' has no attribute 'Serch'"):
        _ = package.Serch


HEAVY = {"torch", "stable_baselines3", "sklearn", "scipy", "matplotlib", "jsonargparse", "rich", "sqlalchemy"}


@pytest.mark.parametrize(
    "code",
    ["import nasenv", "import nasenv.agents", "from nasenv.commands.cli import main; main(['--help'])"],
)
def test_importing_does_nothing_and_takes_no_time(code: str, tmp_path: Path):
    """Gymnasium and NumPy are imported, to register the environments; nothing that takes longer."""
    check = f"import sys; {code}; print(*sorted({HEAVY!r} & {{*sys.modules}}), file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", check]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "\n"
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_is_refused_before_what_takes_a_second_is_imported(tmp_path: Path):
    late = {"scipy.stats", "sklearn", "matplotlib", "sqlalchemy", "optuna", "ray", "datasets"}
    code = (
        "import contextlib, sys; from nasenv.commands.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['train', '--wrong'])\n"
        f"print(*sorted({late!r} & {{*sys.modules}}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "unknown option --wrong" in done.stderr
    assert done.stdout == "\n"


def test_nasenv_works_where_it_is_not_installed(tmp_path: Path):
    """A tree that is not installed has no metadata; the version stands in the code."""
    (tmp_path / "nasenv").symlink_to(ROOT / "nasenv")
    code = "import importlib.metadata as m; m.version = None; import nasenv; print(nasenv.__version__, nasenv.__file__)"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [nasenv.__version__, str(tmp_path / "nasenv/__init__.py")]
