"""The environments are in Gymnasium's registry, whichever is imported first; nothing else is imported for that."""

import importlib.util
import json
import subprocess
import sys

import gymnasium
import pytest

from nasenv.envs.registration import register_environments

IDS = ["nasenv/ChainCNN-v0", "nasenv/NASBench201-v0", "nasenv/NASBenchMacro-v0"]


@pytest.mark.parametrize(
    "imports",
    [
        "import nasenv, gymnasium",
        "import gymnasium, nasenv",
        "import gymnasium; gymnasium.make('nasenv:nasenv/ChainCNN-v0')",
        "import nasenv; import importlib.util; importlib.util.find_spec('gymnasium'); import gymnasium",
        "import nasenv.envs.env; import gymnasium",
    ],
)
def test_every_order_of_imports(imports: str):
    """Python looks for modules as it did before, once Gymnasium is there."""
    says = "print(*(i for i in gymnasium.registry if i.startswith('nasenv/')), *map(type, sys.meta_path), sep='\\n')"
    line = [sys.executable, "-W", "error", "-c", f"import sys; {imports}; {says}"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert (said[:3], done.stderr) == (IDS, "")
    assert not any("nasenv" in finder for finder in said[3:])


def test_a_package_of_another_name_is_not_looked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "gymnasium")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    register_environments()
    waiting = sys.meta_path[0]
    assert waiting.find_spec("numpy", None) is None
    assert importlib.util.find_spec("gymnasium").origin == gymnasium.__file__


@pytest.mark.parametrize("name", IDS)
def test_a_specification_can_be_written_and_read(name: str):
    text = gymnasium.spec(name).to_json()
    assert json.loads(text)["kwargs"]["space"].startswith("nasenv.spaces.")
    assert gymnasium.envs.registration.EnvSpec.from_json(text) == gymnasium.spec(name)
