"""Imports go one way: a file imports only from its left in ORDER, and of its own folder only the base files."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    *("errors", "files", "clock", "times", "configuration", "provenance"),
    *("spaces", "tables", "benchmarks", "sources", "datasets", "plots", "fitting"),
    *(
        "evaluators",
        "proposals",
        "history",
        "budget",
        "batch",
        "in_flight",
        "designs",
        "ending",
        "cache",
    ),
    *(
        "objectives",
        "records",
        "known",
        "measuring",
        "trainings",
        "asynchronous",
        "answering",
        "setup",
        "search",
    ),
    *("env", "vector", "agents"),
    *("export", "result", "finals", "comparison", "commands", "scripts"),
]
BASES = {  # what the other files of a folder may import of it
    "spaces": {"space", "layers", "features"},
    "sources": {"source"},
    "benchmarks": {"benchmark"},
    "fitting": {"recipe", "setting", "batches", "optimizer", "repeating"},
    "evaluators": {
        *("evaluator", "cost", "trainer", "concurrency", "devices"),
        *("workers", "serving", "worker", "team", "dispatch", "landscape"),
        *("streamed", "ray_cluster", "ray_actor", "ray_fleet", "ray_dispatch"),
    },
    "cache": {"database", "postgresql", "leases"},
    "records": {"journal", "trials", "events", "record", "run_directory"},
    "agents": {
        *("agent", "novelty", "sb3_env", "sb3_policy", "sb3_guidance", "sb3"),
    },
    "comparison": {
        *(
            "run",
            "problem",
            "runner",
            "on_ray",
            "findings",
            "digest",
            "statistics",
            "curves",
            "pairs",
            "verdicts",
            "summary",
        ),
        *("lines", "drawing", "panels", "boxes", "matrix", "figures", "cells", "tables", "page", "words"),
    },
    "commands": {"parser", "arguments", "progress", "compared", "stopping", "spent", "terminal", "train"},
    "scripts": set(),
}
ONLY_IN = {
    "stable_baselines3": {
        *(f"agents/{name}.py" for name in ("stable_baselines", "sb3", "sb3_env", "sb3_policy", "sb3_start")),
        *("agents/sb3_episodes.py", "agents/sb3_guidance.py", "agents/sb3_networks.py"),
        "scripts/benchmarks/bench_ppo.py",  # which holds it against ours
    },
    "sb3_contrib": {"agents/sb3.py", "agents/sb3_policy.py", "agents/sb3_guidance.py"},
    "optuna": {"agents/tpe.py"},
    "matplotlib": {
        "nasenv/plots.py",
        *(f"nasenv/comparison/{name}.py" for name in ("figures", "drawing", "panels", "boxes", "matrix")),
    },
    "tensorboard": {"nasenv/records/record.py", "scripts/soak/kills.py"},
    "ray": {"nasenv/evaluators/ray_cluster.py", "scripts/benchmarks/bench_ray.py"},
    "psycopg": {
        *(f"nasenv/cache/{name}.py" for name in ("pipeline", "postgresql", "server_url")),
        "scripts/benchmarks/postgresql_server.py",
    },
    "sqlalchemy": {f"nasenv/cache/{name}.py" for name in ("cache", "database", "leases", "postgresql")},
    "nats_bench": {"nasenv/benchmarks/nas_bench_201.py"},
    "nas_bench_graph": {"nasenv/benchmarks/nas_bench_graph.py"},
}


def library() -> list[Path]:
    """Return every Python file that is shipped, relative to the root; nasenv/agents is a link to agents."""
    files = [
        path.relative_to(ROOT) for folder in ("nasenv", "agents", "scripts") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    return sorted(path for path in files if path.parts[:2] != ("nasenv", "agents"))


def room(path: Path) -> tuple[str, str]:
    """Return a file's place in ORDER, and its own name where that place is a folder.

    >>> room(Path("nasenv/budget.py")), room(Path("nasenv/spaces/space.py")), room(Path("agents/agent.py"))
    (('budget', ''), ('spaces', 'space'), ('agents', 'agent'))
    """
    parts = path.with_suffix("").parts
    inside = parts[1:] if parts[0] == "nasenv" else parts
    return inside[0], ".".join(inside[1:])


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import, those inside functions too.

    >>> list(imported("import a.b\\nfrom c.d import e\\nfrom . import f"))
    [(1, 'a.b'), (2, 'c.d'), (3, '.')]
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def fault(path: Path, module: str) -> str | None:
    """Return what is wrong with a file's importing a module, None where nothing is."""
    top, *rest = module.split(".")
    if not top:
        return "imports are absolute"
    if top in ONLY_IN and str(path) not in ONLY_IN[top]:
        return f"{top} is imported in {' and '.join(sorted(ONLY_IN[top]))} alone"
    if top != "nasenv":
        return None
    if not rest:
        return None if path.parts[0] == "scripts" else "library files import from where a thing lives"
    mine, own = room(path)
    theirs, base = rest[0], ".".join(rest[1:])
    if theirs not in ORDER:
        return f"nasenv.{theirs} has no place in ORDER"
    if mine == theirs and mine in BASES:
        return (
            None if base in BASES[mine] or own in ("cli", "__init__") else f"siblings import only {sorted(BASES[mine])}"
        )
    return None if ORDER.index(theirs) < ORDER.index(mine) else f"{mine} is not to the right of {theirs}"


@pytest.mark.parametrize("path", library(), ids=str)
def test_imports_go_one_way(path: Path):
    if path == Path("nasenv/__init__.py"):
        return
    assert room(path)[0] in ORDER, f"{path} has no place in ORDER"
    found = [(line, module, fault(path, module)) for line, module in imported((ROOT / path).read_text())]
    assert [f"{path}:{line} {module}: {wrong}" for line, module, wrong in found if wrong] == []


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("nasenv/budget.py", "nasenv.search.search"),
        ("nasenv/budget.py", "nasenv.search.budget"),
        ("nasenv/budget.py", "nasenv"),
        ("nasenv/budget.py", "nasenv.brand_new"),
        ("nasenv/budget.py", "matplotlib.figure"),
        ("nasenv/spaces/chain_cnn.py", "nasenv.spaces.nas_bench_201"),
        ("nasenv/spaces/space.py", "nasenv.data.dataset"),
        ("agents/random_search.py", "stable_baselines3"),
        ("agents/random_search.py", ".agent"),
    ],
)
def test_a_wrong_import_is_seen(path: str, module: str):
    assert fault(Path(path), module)


def test_folders_are_shallow_and_say_what_they_hold():
    for path in library():
        assert len(path.parts) <= 3, f"{path} lies more than two folders deep"
        assert not {"utils", "util", "common", "helpers", "misc"} & set(path.with_suffix("").parts), path


def test_importing_nasenv_does_nothing(tmp_path: Path):
    heavy = "stable_baselines3", "sb3_contrib", "tensorboard", "matplotlib", "jsonargparse"
    code = f"import sys, nasenv; sys.exit(', '.join(m for m in {heavy!r} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []
