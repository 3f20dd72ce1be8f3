"""nasenv in the cells of a Jupyter notebook: the quick start, an interrupt, measurements, an environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import MODULES

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs cells in a new kernel in an empty folder, and returns what they printed."""
    kernel = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    place = tmp_path / "jupyter/kernels/of-the-tests/kernel.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({**kernel, "display_name": "of the tests"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    (folder := tmp_path / "notebook").mkdir()

    def run(*cells):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        options = {"kernel_name": "of-the-tests", "timeout": 240, "resources": {"metadata": {"path": str(folder)}}}
        nbclient.NotebookClient(book, **options).execute()
        return ["".join(o["text"] for o in cell.outputs if o.get("name") == "stdout") for cell in book.cells]

    run.folder = folder
    return run


def test_quick_start(run):
    (printed,) = run(MODULES["quick_start.py"])
    assert 0.8 < float(printed.split()[1]) <= 1.0
    assert (run.folder / "runs/quick/result.json").exists()


@pytest.mark.parametrize("concurrency", [0, 2])
def test_measurements(run, concurrency):
    imports = "import json; from tests.evaluators.test_surroundings import measured"
    code = f"{imports}; print(json.dumps(measured({concurrency})))"
    alone = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(run(code)[0]) == json.loads(alone.stdout)


INTERRUPTED = """
import os, signal, nasenv
from nasenv.agents import RandomSearch
space = nasenv.ChainCNN(max_layers=2, widths=(8,))
def make():
    evaluator = nasenv.TrainingEvaluator(space, epochs=1, final_epochs=1, concurrency=2)
    budget = nasenv.Budget(8, finalists=1, final_seeds=1)
    return nasenv.Search(space, evaluator, RandomSearch(batch_size=2), budget, run_dir="run")
def interrupt(search, outcome):
    if outcome.evaluation == 3:
        search.callbacks.clear()
        os.kill(os.getpid(), signal.SIGINT)
search = make()
search.callbacks.append(interrupt)
"""


def test_interrupt_and_go_on(run):
    *_, again, went_on, concluded = run(
        INTERRUPTED,
        "try:\n    search.run()\nexcept KeyboardInterrupt:\n    print('interrupted')",
        "try:\n    make()\nexcept nasenv.InputError as error:\n    print(error)",
        "search.run(); print(len(search.history)); search.close()",
        "print(nasenv.conclude(search).test_score)",
    )
    assert "is in use by a search that this program made before; call its close(), then make it again" in again
    assert went_on == "8\n"
    assert 0 < float(concluded) <= 1
    assert len((run.folder / "run/journal.jsonl").read_text().splitlines()) == 1 + 8


def test_environment(run):
    """Nothing has imported nasenv in the notebook."""
    (printed,) = run(
        "import gymnasium\n"
        "env = gymnasium.make('nasenv:nasenv/ChainCNN-v0', max_layers=1, widths=(8,), render_mode='rgb_array_list')\n"
        "env.reset(); done = False\n"
        "while not done:\n    _, reward, done, *_ = env.step(0)\n"
        "print(reward > 0, len(env.render()) > 1)"
    )
    assert printed == "True True\n"
