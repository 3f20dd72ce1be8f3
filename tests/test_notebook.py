"""nasenv in the cells of a Jupyter notebook: the quick start, an interrupt, measurements, an environment."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.evaluators.test_surroundings import measured
from tests.test_readme import MODULES

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parent.parent


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
MEASURED = "import json; from tests.evaluators.test_surroundings import measured; print(json.dumps(measured({})))"
CELLS = {
    "environment": (  # the first, as nothing has imported nasenv yet
        "import gymnasium\n"
        "env = gymnasium.make('nasenv:nasenv/ChainCNN-v0', max_layers=1, widths=(8,), render_mode='rgb_array_list')\n"
        "env.reset(); done = False\n"
        "while not done:\n    _, reward, done, *_ = env.step(0)\n"
        "print(reward > 0, len(env.render()) > 1)"
    ),
    "quick start": MODULES["quick_start.py"].replace("evaluations=16", "evaluations=4"),
    "measured in the kernel": MEASURED.format(0),
    "measured by workers": MEASURED.format(2),
    "made": INTERRUPTED,
    "interrupted": "try:\n    search.run()\nexcept KeyboardInterrupt:\n    print('interrupted')",
    "made again": "try:\n    make()\nexcept nasenv.InputError as error:\n    print(error)",
    "went on": "search.run(); print(len(search.history)); search.close()",
    "concluded": "print(nasenv.conclude(search).test_score)",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def outputs(folder, tmp_path_factory):
    """Run the cells in a new kernel in an empty folder, and return what each of them gave out."""
    kernel = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    place = tmp_path_factory.mktemp("jupyter") / "kernels/of-the-tests/kernel.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({**kernel, "display_name": "of the tests"}))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS.values()])
    options = {"kernel_name": "of-the-tests", "timeout": 240, "resources": {"metadata": {"path": str(folder)}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(place.parents[2]))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        nbclient.NotebookClient(book, **options, allow_errors=True).execute()
    return {name: cell.outputs for name, cell in zip(CELLS, book.cells, strict=True)}


@pytest.fixture
def printed(outputs):
    """Return a function that returns what a cell printed, and fails if it raised."""

    def printed(name):
        assert [o.traceback for o in outputs[name] if o.output_type == "error"] == []
        return "".join(o["text"] for o in outputs[name] if o.get("name") == "stdout")

    return printed


def test_environment(printed):
    """Nothing has imported nasenv in the notebook."""
    assert printed("environment") == "True True\n"


def test_quick_start(printed, folder):
    assert "evaluations=4" in CELLS["quick start"], "shorter than on its page"
    assert 0.8 < float(printed("quick start").split()[1]) <= 1.0
    assert (folder / "runs/quick/result.json").exists()


def test_measurements(printed):
    """They are those of any other program, which come out the same wherever they are made (test_surroundings.py)."""
    elsewhere = json.loads(json.dumps(measured()))
    for where in ("in the kernel", "by workers"):
        assert json.loads(printed(f"measured {where}")) == elsewhere


def test_interrupt_and_go_on(printed, folder):
    assert printed("interrupted") == "interrupted\n"
    said = "is in use by a search that this program made before; call its close(), then make it again"
    assert said in printed("made again")
    assert printed("went on") == "8\n"
    assert 0 < float(printed("concluded")) <= 1
    assert len((folder / "run/journal.jsonl").read_text().splitlines()) == 1 + 8
