"""The environments are in Gymnasium's registry."""

import json
import subprocess
import sys

import gymnasium
import pytest

import nasenv  # noqa: F401, registers them

IDS = ["nasenv/ChainCNN-v0", "nasenv/NASBench201-v0", "nasenv/NASBenchMacro-v0"]


@pytest.mark.parametrize("imports", ["import nasenv", "gymnasium.make('nasenv:nasenv/ChainCNN-v0')"])
def test_environments_are_in_the_registry(imports: str):
    says = "print(*(i for i in gymnasium.registry if i.startswith('nasenv/')), sep='\\n')"
    line = [sys.executable, "-W", "error", "-c", f"import gymnasium; {imports}; {says}"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert (done.stdout.splitlines(), done.stderr) == (IDS, "")


@pytest.mark.parametrize("name", IDS)
def test_a_specification_can_be_written_and_read(name: str):
    text = gymnasium.spec(name).to_json()
    assert json.loads(text)["kwargs"]["space"].startswith("nasenv.spaces.")
    assert gymnasium.envs.registration.EnvSpec.from_json(text) == gymnasium.spec(name)
