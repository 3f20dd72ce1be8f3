"""Worker processes that cannot start."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nasenv.errors import InputError
from nasenv.workers.pool import WorkerPool

MANY_BYTES = bytes(1_000_000)  # more than a pipe holds


class Deadly:
    """Ends the process that is sent it."""

    def __reduce__(self):
        return os._exit, (9,)


def work(deadly, data, job):
    return job


def too_late(signum, frame):
    raise TimeoutError("the parent still waits for a worker that is dead")


def test_workers_that_die_while_they_start_are_no_reason_to_wait_for_ever():
    previous = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(60)
    try:
        with pytest.raises(InputError, match="the worker processes ended before they were ready"):
            WorkerPool(functools.partial(work, Deadly(), MANY_BYTES), 1, None)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


SCRIPT = """
from nasenv.workers import worker
from nasenv.workers.pool import WorkerPool
worker._IMPORTED = ["torch"]  # nothing is trained
class Doubled:
    def __call__(self, job):
        return 2 * job
{guard}
    pool = WorkerPool(Doubled(), 1, None)
    print(*pool.stream([1, 2], print))
"""


@pytest.mark.parametrize(("guard", "printed"), [("if __name__ == '__main__':", "(1, 2) (2, 4)\n"), ("if True:", "")])
def test_a_scripts_own_classes_reach_workers_and_a_script_without_its_guard_is_told(guard, printed, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(guard=guard))
    process = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert process.stdout == printed
    assert process.stderr.count("Traceback") == (not printed)
    assert ("start the work under `if __name__ == '__main__':`" in process.stderr) == (not printed)


def test_a_file_that_hides_a_module_is_named(tmp_path):
    (tmp_path / "random.py").write_text("raise RuntimeError('mine')")
    script = Path(__file__).parents[2] / "scripts/train_controller.py"
    command = [sys.executable, str(script), "--evaluator.concurrency", "1", "--cache", "none", "--run_dir", "run"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 2
    assert "may hide a module of the same name (random.py, torch.py): rename it" in process.stderr.splitlines()[-1]
