"""Disks that are full, folders that may no longer be written to: one line that says so, and nothing is lost."""

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from nasenv.agents import RandomSearch
from nasenv.data.dataset import load_dataset
from nasenv.deployment.export import save_model
from nasenv.errors import AgentError, InputError
from nasenv.results.conclude import conclude
from nasenv.search.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from tests.fakes import Hashed

pytestmark = pytest.mark.usefixtures("without_pictures")
SPACE = ChainCNN(max_layers=2)


class OneByOne(Hashed):
    """Counts what it trains, and calls back after each."""

    def __init__(self, space, then=lambda made: None):
        super().__init__(space)
        self.made, self._then = 0, then

    def config(self):
        return {"class_path": "OneByOne", "init_args": {}}

    def completed(self, stopped=lambda: False):
        try:
            while self._submitted:
                trial = self._submitted.popleft()
                self.made += 1
                yield trial, self.figure(trial.architecture)
                self._then(self.made)
        finally:
            self._submitted.clear()


def outcome(folder, then=lambda made: None):
    """Run a search to its end, and return its result and how many trainings that took."""
    evaluator = OneByOne(SPACE, then)
    budget = Budget(evaluations=60, finalists=3, final_seeds=2)
    with Search(SPACE, evaluator, RandomSearch(batch_size=8), budget, run_dir=folder) as search:
        search.run()
        return conclude(search), evaluator.made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return what comes of a search that nothing happens to."""
    return outcome(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def disk(tmp_path):
    """Return a disk of 4 MiB, and what makes it as large as it is told."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield path, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", path], check=True)
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(path):
    """Leave less than a page of the disk free."""
    with contextlib.suppress(OSError), open(path / "filling", "ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("after", [1, 20, 62])
def test_a_full_disk_ends_the_search_and_with_more_room_it_goes_on(after, undisturbed, disk):
    path, resize = disk
    made = []

    def then(count):
        made.append(count)
        if count == after:
            fill(path)

    with pytest.raises(InputError, match=r"cannot be written: (No space left on device|the disk is full)") as refusal:
        outcome(path / "run", then)
    assert "\n" not in str(refusal.value)
    assert not isinstance(refusal.value, AgentError)
    resize("40m")
    result, again = outcome(path / "run")
    assert result == undisturbed[0]
    assert len(made) + again <= undisturbed[1] + 1, "the one that could not be written is all that was lost"


def test_a_run_cannot_begin_on_a_full_disk(disk):
    path, resize = disk
    fill(path)
    with pytest.raises(InputError, match=r"cannot be (made|written): No space left|the disk is full"):
        outcome(path / "run")
    resize("40m")
    outcome(path / "run")


def test_a_program_that_cannot_be_written_is_one_line(tmp_path):
    network, data = SPACE.build(SPACE.reference()), load_dataset("digits")
    save_model(tmp_path / "whole", SPACE, SPACE.reference(), network, data)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[-1] - 1, limits[1]))
    try:
        with pytest.raises(InputError, match=r"program\.pt2 cannot be written: File too large"):
            save_model(tmp_path / "cut", SPACE, SPACE.reference(), network, data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"architecture.json", "weights.safetensors"}


READ_ONLY = """
import os, sys
from pathlib import Path
from tests.records.test_storage_faults import outcome
from nasenv.errors import InputError

folder = Path(sys.argv[1])
try:
    outcome(folder, lambda made: made == 20 and os.chmod(folder, 0o555))
except InputError as error:
    print(error)
os.chmod(folder, 0o755)
print(outcome(folder)[0].winner.text)
"""


def test_a_folder_that_is_made_read_only(undisturbed, tmp_path):
    command = [sys.executable, "-c", READ_ONLY, str(tmp_path / "run")]
    if os.getuid() == 0:  # to whom modes mean nothing, but without these rights they do
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", "--inh-caps", rights, "--bounding-set", rights, *command]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    refusal, winner = done.stdout.splitlines()
    assert refusal.startswith(str(tmp_path / "run"))
    assert refusal.endswith("cannot be written: Permission denied")
    assert winner == undisturbed[0].winner.text


@pytest.mark.parametrize("name", ["journal.jsonl", "trials.jsonl"])
@pytest.mark.parametrize(
    "tail", [bytes(4096), b'{"evaluation":61,', b"\xff\xfe", b"\n" * 3], ids=["zeros", "half", "noise", "empty"]
)
def test_what_a_power_cut_leaves_at_the_end_of_a_file(name, tail, undisturbed, tmp_path):
    with pytest.raises(ZeroDivisionError):
        outcome(tmp_path, lambda made: 1 // (30 - made))
    with open(tmp_path / name, "ab") as file:
        file.write(tail)
    if tail.endswith(b"\n"):
        with pytest.raises(InputError, match="is damaged; keep the"):
            outcome(tmp_path)
    else:
        assert outcome(tmp_path)[0] == undisturbed[0]
