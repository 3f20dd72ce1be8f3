"""Jobs that go wrong in worker processes in every way, and workers, parents and signals that end early."""

import contextlib
import errno
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from nasenv.errors import InputError
from nasenv.workers import worker
from nasenv.workers.pool import WorkerPool
from scripts.soak.jobs import FAULTS, failed, is_as_expected, work
from tests.fakes import hearing

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 0.5  # of a job
HEALTHY = [("square", i) for i in range(6)]


@pytest.fixture(scope="module")
def pool():
    with contextlib.closing(WorkerPool(work, 2, LIMIT_SECONDS, is_error, grace_seconds=0.0)) as pool:
        yield pool


def is_error(answer):
    return isinstance(answer, tuple) and answer[0] == "error"


def answers(pool, jobs, **stopped):
    return dict(pool.stream(jobs, failed, **stopped))


# One job


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_costs_its_own_job_after_a_second_try(pool, kind, capfd):
    found = answers(pool, [*HEALTHY[:3], (kind, 0), *HEALTHY[3:]])
    assert len(found) == 7
    assert [job for job, answer in found.items() if not is_as_expected(job, answer)] == [], found
    assert capfd.readouterr().err == ""


def test_the_second_try_is_in_a_worker_that_has_done_nothing_yet(pool, tmp_path):
    jobs = [*HEALTHY, ("mends", str(tmp_path / "a")), ("mends", str(tmp_path / "b"))]
    assert list(answers(pool, jobs).values())[-2:] == [1, 1]


def test_an_answer_that_is_an_error_is_asked_for_again_in_another_process(pool):
    answers(pool, HEALTHY)
    before = pool.pids
    state, process = answers(pool, [("errs", 0)])["errs", 0]
    assert (state, process in before, process in pool.pids) == ("error", False, True)


def test_what_the_work_refuses_is_raised_and_the_pool_goes_on(pool):
    with pytest.raises(InputError, match="not with these data"):
        answers(pool, [("sleep", 0.4), ("refuses", 0)])
    assert answers(pool, HEALTHY) == {job: job[1] ** 2 for job in HEALTHY}


def test_a_worker_that_is_killed_while_it_has_no_job_costs_none(pool):
    answers(pool, HEALTHY)
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    assert answers(pool, HEALTHY) == {job: job[1] ** 2 for job in HEALTHY}


# Stopping


def test_a_stop_lets_those_in_flight_finish_and_begins_no_more(pool):
    began = time.monotonic()
    jobs = [("sleep", 0.3 + i / 100) for i in range(8)]
    found = answers(pool, jobs, stopped=lambda: time.monotonic() - began > 0.4)
    assert list(found) == jobs[: len(found)]
    assert 2 <= len(found) <= 4


def test_a_stop_tries_nothing_again(pool, tmp_path):
    stop = threading.Event()
    jobs = [("exits 3", 0), ("sleep", 0.3)]
    found = {}
    for job, answer in pool.stream(jobs, failed, stop.is_set):
        found[job] = answer
    assert set(found) == set(jobs)
    stop.set()
    assert answers(pool, jobs, stopped=stop.is_set) == {}


def test_signals_to_the_whole_group_end_no_worker(pool):
    answers(pool, HEALTHY)
    stream = pool.stream([("sleep", 0.4), ("sleep", 0.41)], failed)
    threading.Timer(0.1, signal_all, [pool.pids]).start()
    assert dict(stream) == {("sleep", 0.4): 0.4, ("sleep", 0.41): 0.41}


def signal_all(pids):
    """Send what a terminal or SLURM sends, to workers and the server that they are forked from."""
    for pid in {*pids, *map(parent_of, pids)} - {os.getpid()}:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)


def test_an_abandoned_stream_leaves_workers_for_the_next(pool):
    stream = pool.stream([("square", 2), ("sleep", 0.45), ("sleep", 0.46)], failed)
    assert next(stream) == (("square", 2), 4)
    assert answers(pool, HEALTHY) == {job: job[1] ** 2 for job in HEALTHY}  # while the first is not over
    stream.close()
    assert len(pool.pids) <= 2


def test_closing_ends_busy_workers_at_once():
    pool = WorkerPool(work, 2, None)
    stream = pool.stream([("square", 1), ("sleep", 60), ("hangs in C", 0)], failed)
    next(stream)
    time.sleep(0.1)
    began, pids = time.monotonic(), pool.pids
    pool.close()
    assert time.monotonic() - began < 0.5
    assert len(pids) == 2
    assert not any(map(is_running, pids))


def test_work_that_cannot_be_pickled_is_refused_with_what_to_give_instead():
    with pytest.raises(
        InputError, match=r"space, data, evaluator or agent cannot be sent.* concurrency=0 .* workers=0"
    ):
        WorkerPool(lambda job: job, 1, None)


def test_shared_memory_that_cannot_be_had_is_refused_and_none_is_left():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(InputError, match=r"see that /dev/shm is writable and has room, or give concurrency=0"):
            WorkerPool(partial(torch.add, torch.zeros(100_000)), 1, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(Path("/dev/shm").glob(f"torch_{os.getpid()}_*")) == []


def test_faults_leave_nothing_behind(pool):
    answers(pool, HEALTHY)
    gc.collect()
    before = held()
    answers(pool, [(kind, i) for i in range(4) for kind in ("killed", "exits 0", "raises", "unreadable")])
    answers(pool, HEALTHY)
    pids = pool.pids
    gc.collect()
    after = held()
    assert after == before
    assert [pid for pid in processes() if parent_of(pid) == parent_of(min(pids))] == sorted(pids)  # no zombies either


def held():
    """Return the numbers of open handles, threads, children and named pieces of shared memory of this process."""
    own = [name for name in os.listdir("/dev/shm") if f"_{os.getpid()}_" in name]
    children = [pid for pid in processes() if parent_of(pid) == os.getpid()]
    return len(os.listdir("/proc/self/fd")), len(threading.enumerate()), len(children), len(own)


def processes():
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def status(pid, field):
    """Return a field behind the name in /proc/PID/stat; None where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[field]
    except (FileNotFoundError, ProcessLookupError):
        return None


def parent_of(pid):
    return int(status(pid, 1) or 0)


def is_running(pid):
    return status(pid, 0) not in (None, "Z", "X")


# The parent

SCRIPT = """
import sys, time
from scripts.soak.jobs import failed, work
from nasenv.workers import worker
from nasenv.workers.pool import WorkerPool
worker._IMPORTED = ["torch"]  # nothing is trained
if __name__ == "__main__":
    print("begun", flush=True)
    try:
        pool = WorkerPool(work, 2, None)
        stream = pool.stream([("square", 2), ("sleep", 60), ("hangs in C", 0)], failed)
        next(stream)
        time.sleep(0.2)
        print("busy", flush=True)
        if sys.argv[1] == "wait":
            next(stream)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.fixture
def script(tmp_path):
    """A function that starts the script in a session of its own and waits until it says a word."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = []

    def start(word, then="wait"):
        command = [sys.executable, str(path), then]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, start_new_session=True, preexec_fn=hearing, **pipes
        )
        started.append(process)
        assert any(line.strip() == word for line in process.stdout), process.stderr.read()
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def in_session(process):
    return [pid for pid in processes() if status(pid, 3) == str(process.pid) and is_running(pid)]


def gone(process, within_seconds):
    deadline = time.monotonic() + within_seconds
    while in_session(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not in_session(process)


def test_no_worker_outlives_a_parent_that_is_killed(script):
    process = script("busy")
    assert len(in_session(process)) >= 4  # itself, the server, two workers, one of them deaf
    process.kill()
    process.wait()
    assert gone(process, within_seconds=10)


def test_no_worker_outlives_a_parent_that_is_killed_while_they_start(script):
    process = script("begun")
    time.sleep(1)
    process.kill()
    assert gone(process, within_seconds=20)  # the server notices when it has imported PyTorch
    assert process.communicate()[1] == ""


def test_an_interrupt_while_workers_start_is_the_parents_alone(script):
    process = script("begun")
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30) == ("interrupted\n", "")
    assert gone(process, within_seconds=20)


def test_a_program_that_forgets_its_workers_ends(script):
    process = script("busy", then="end")
    assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 0
    assert gone(process, within_seconds=10)


# Surroundings in which processes cannot be started, or hardly

MEASURES = """
import nasenv
if __name__ == "__main__":
    data = nasenv.load_dataset("digits")
    space = nasenv.ChainCNN(task=data.task, max_layers=1, widths=(8,))
    with nasenv.TrainingEvaluator(space, data, epochs=1, concurrency=1) as evaluator:
        print(evaluator.measure([nasenv.Trial(space.reference())])[0].error)
"""


def measures(folder, script="measures.py", **options):
    """Return the last lines of a program that trains in a worker, and is a file or comes from standard input."""
    (folder / "measures.py").write_text(MEASURES)
    given = {"input": MEASURES if script == "-" else None, "env": {**os.environ, **options.pop("env", {})}}
    line = [sys.executable, script]
    done = subprocess.run(
        line, cwd=folder, capture_output=True, text=True, check=False, timeout=120, **given, **options
    )
    return (done.stdout.splitlines() or [""])[-1], (done.stderr.splitlines() or [""])[-1]


def test_a_script_from_standard_input_has_workers(tmp_path):
    assert measures(tmp_path, "-") == ("None", "")


def test_a_long_tmpdir_is_named(tmp_path):
    (folder := tmp_path / ("x" * 100)).mkdir()
    _, said = measures(tmp_path, env={"TMPDIR": str(folder)})
    assert "InputError: worker processes have their sockets in " in said
    assert f"{folder}, whose name is too long for that; set TMPDIR to a shorter one, such as /tmp, or give conc" in said


@pytest.mark.parametrize("files", [12, 18])
def test_too_few_files_are_named(tmp_path, files):
    limits = (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    _, said = measures(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits))
    assert f"InputError: no worker process can be started: {files} files can be open at once here, which are" in said
    assert "raise the limit (`ulimit -n 1024`)" in said


def test_shared_memory_that_is_read_only_is_named(monkeypatch):
    def read_only(*_, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", read_only)
    said = "unable to open shared memory object </torch_1_2_3> in read-write mode: Read-only file system (30)"
    assert "see that /dev/shm is writable and has room" in str(worker._reason(RuntimeError(said)))
