"""A pool of Ray actors on all slots of a cluster; lost actors are replaced, and their jobs retried elsewhere."""

from __future__ import annotations

import math
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nasenv.cluster.connection import Cluster, imported_ray
from nasenv.cluster.worker import ActorInfo, Reply, Worker, pack
from nasenv.errors import InputError
from nasenv.provenance import versions
from nasenv.workers.clock import WakingClock

_STOP_SECONDS = 0.1  # between two looks at whether to stop
_LOOK_SECONDS = 1.0  # between two looks at the nodes
_LONGEST_LOOK = 1.0  # seconds between two looks at the clock; more is a suspension
_PATIENCE_SECONDS = 600.0  # for an actor to be ready where there is none
_FAILED_STARTS = 3  # of as many actors as there are slots, one after the other

Job = TypeVar("Job")


@dataclass(eq=False)
class _Actor:
    handle: Any
    about: ActorInfo | None = None  # None while it starts
    is_hung: bool = False


@dataclass(eq=False)
class _Task(Generic[Job]):
    job: Job
    begun: float = 0.0
    spent: float = 0.0  # seconds, of all actors that had it
    losses: int = 0  # of actors that had it
    renewed: bool = False  # whether it has been tried in a fresh process


class ActorPool(Generic[Job]):
    """Runs jobs on actors on all slots of a cluster while nodes come and go; jobs of lost actors are retried.

    Ray would retry a lost job on the same actor alone, when there is a place for that again; and its tasks, which it
    retries anywhere, begin in a new process each where they have a GPU.

    Args:
        cluster: the cluster to run on.
        kind: class of the actors; with a method ``stop``, they can be told to stop.
        parts: arguments of `Worker.open`.
        sent: converts a job to the argument of `Worker.do`.
        retries: how many times a job is tried again that was lost with its actor.
        limit: seconds after which an actor that has a job is taken to hang.
        retries_hung: whether a job is tried again whose actor hung.
        settings: settings that `Worker.open` must return; None accepts those of the first actor.
        at_once: jobs that an actor has at the same time, each in a thread of its own.

    Attributes:
        settings: the settings of all actors.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: type[Worker],
        parts: tuple[Any, ...],
        sent: Callable[[Job], Any],
        retries: int,
        limit: float = math.inf,
        retries_hung: bool = True,
        settings: Mapping[str, str] | None = None,
        at_once: int = 1,
    ) -> None:
        self._cluster, self._sent, self._at_once, self.settings = cluster, sent, at_once, settings
        self.retries, self.limit, self._retries_hung = retries, limit, retries_hung
        ray, share = imported_ray(), cluster.share
        options = {"num_cpus": share.cpus * at_once, "num_gpus": share.gpus * at_once}
        self._stops = hasattr(kind, "stop")  # in a thread of its own
        self._kind = ray.remote(**options, max_concurrency=at_once + self._stops, max_restarts=0)(kind)
        self._packed = ray.put(pack(*parts))
        self._actors: list[_Actor] = []
        self._free: deque[_Actor] = deque()  # once for each job that it can take
        self._calls: dict[Any, tuple[_Actor, _Task[Job] | None]] = {}  # None: it is to begin
        self._again: deque[_Task[Job]] = deque()
        self._failed_starts = 0
        self._clock = WakingClock(_LONGEST_LOOK)
        self._looked = self._usable = self._clock()
        self._nodes = cluster.slots_by_node()
        self._fill()

    @property
    def slots(self) -> int:
        """Return how many jobs the cluster could run at once when it was last asked."""
        return sum(self._nodes.values())

    @property
    def pids(self) -> list[int]:
        """Return the process ids of the actors that are ready."""
        return [actor.about.pid for actor in self._actors if actor.about is not None]

    def wait_for(self, ready: int) -> None:
        """Wait until actors are ready for so many jobs."""
        while len(self._free) < ready:
            self._heard()

    def run(self, jobs: deque[Job], stopped: Callable[[], bool]) -> Iterator[tuple[Job, Reply, float]]:
        """Yield each job with its reply and the seconds that it took, as it is done.

        Args:
            jobs: begun from the left; it may grow meanwhile.
            stopped: tells whether to begin no more; what is being done is waited for.

        Raises:
            InputError: of the work; an actor is not to be used, or none can be had; the cluster is lost.
        """
        try:
            while self._begin(jobs, stopped()):
                for task, reply in self._heard():
                    self._begin(jobs, stopped())  # before the caller takes its time
                    yield task.job, reply, task.spent
        except ConnectionError as error:
            raise InputError(
                f"the connection to the Ray cluster is lost ({' '.join(str(error).split())}); what is done is in the "
                "run directory: the same command goes on"
            ) from error
        finally:  # nobody wants the answers that are left
            for actor in [actor for actor, task in self._calls.values() if task is not None]:
                self._end(actor)
            self._calls = {ref: call for ref, call in self._calls.items() if call[1] is None}
            self._again.clear()

    def stop(self) -> None:
        """Tell the actors to end their jobs early."""
        for actor in [actor for actor, task in self._calls.values() if task is not None]:
            actor.handle.stop.remote()

    def close(self) -> None:
        """Kill all actors."""
        for actor in [*self._actors]:
            self._end(actor)

    def _begin(self, jobs: deque[Job], halted: bool) -> bool:
        """Give jobs to free actors; return whether there is anything to wait for."""
        while not halted and self._free and (self._again or jobs):
            task = self._again.popleft() if self._again else _Task(jobs.popleft())
            actor, task.begun = self._free.popleft(), self._clock()
            self._calls[actor.handle.answer.remote(self._sent(task.job))] = actor, task
        return any(task for _, task in self._calls.values()) or (not halted and bool(self._again or jobs))

    def _heard(self) -> list[tuple[_Task[Job], Reply]]:
        """Return the jobs that have ended with their replies, after a short wait; add actors that became ready."""
        ray = imported_ray()
        self._follow()
        calls, done, heard = [*self._calls], [], []
        if calls:
            done, _ = ray.wait(calls, timeout=_STOP_SECONDS)
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0) if done else (done, calls)
        else:
            time.sleep(_STOP_SECONDS)
        for ref in done:
            actor, task = self._calls.pop(ref)
            try:
                said = ray.get(ref)
            except ray.exceptions.RayError as error:
                said = error
            if task is None:
                self._take_in(actor, said)
            elif (reply := self._reply(actor, task, said)) is None:
                self._again.append(task)
            else:
                heard.append((task, reply))
        return heard

    def _reply(self, actor: _Actor, task: _Task[Job], said: Reply | Exception) -> Reply | None:
        """Return the reply to a job, None if it is to be retried; its actor is freed or killed."""
        task.spent += self._clock() - task.begun
        if isinstance(said, Reply):
            if said.again and self.retries and not task.renewed:
                self._end(actor)  # a device or library may be in a bad state
                task.renewed = True
                return None
            if actor in self._actors:
                self._free.append(actor)
            if said.refusal is not None:
                raise InputError(said.refusal)
            return said
        self._end(actor)
        task.losses += 1
        if task.losses <= self.retries and (self._retries_hung or not actor.is_hung):
            return None
        why = "timeout: the worker hung" if actor.is_hung else reason(said)
        tries = f", tried {task.losses} times" if task.losses > 1 else ""
        return Reply(fault=f"{why} on node {actor.about and actor.about.node}{tries}")

    def _follow(self) -> None:
        """Kill actors that hang or whose node is lost, and start as many as the cluster has room for."""
        now = self._clock()
        for actor, task in self._calls.values():
            if task is not None and now - task.begun > self.limit and not actor.is_hung:
                actor.is_hung = True  # what Ray says of the job is heard next
                self._cluster.kill(actor.handle)
        if self.pids:
            self._usable = now
        elif now - self._usable > _PATIENCE_SECONDS:
            raise InputError(
                f"no node of the Ray cluster had room for an evaluation for {_PATIENCE_SECONDS:.0f} s (`ray status` "
                "tells what has); what is done is in the run directory: the same command goes on"
            )
        if now - self._looked >= _LOOK_SECONDS:
            self._looked, self._nodes = now, self._cluster.slots_by_node()
            for actor in [*self._actors]:
                if actor.about is not None and actor.about.node_id not in self._nodes:
                    self._end(actor)
        self._fill()

    def _fill(self) -> None:
        """Start as many actors as there is room for; those without a place wait in Ray's queue."""
        wanted = self.slots // self._at_once
        waiting = [actor for actor in self._actors if actor.about is None]
        for actor in waiting[: max(0, len(self._actors) - wanted)]:
            self._end(actor)
        while len(self._actors) < wanted:
            actor = _Actor(self._kind.remote(sys.path))
            self._actors.append(actor)
            self._calls[actor.handle.begin.remote(self._packed)] = actor, None

    def _take_in(self, actor: _Actor, said: ActorInfo | Exception) -> None:
        """Add an actor that is ready; raise InputError if it is unusable, or too many failed to start."""
        if actor not in self._actors:
            return
        if isinstance(said, ActorInfo):
            self._check(said)
            actor.about, self._failed_starts = said, 0
            self._free.extend([actor] * self._at_once)
            return
        self._end(actor)
        self._failed_starts += 1
        if "creation task" in str(said) or self._failed_starts > _FAILED_STARTS * max(1, len(self._actors)):
            raise InputError(f"Ray's workers ended before they were ready: {reason(said)}")

    def _check(self, about: ActorInfo) -> None:
        """Raise InputError if an actor cannot do the work, or its measurements would differ from those of others."""
        theirs = about.versions
        differing = [
            f"{p} {theirs[p]} (here {v})" for p, v in versions().items() if _public(theirs.get(p, v)) != _public(v)
        ]
        if differing:
            raise InputError(f"node {about.node} has {', '.join(differing)}; install the same versions on every node")
        if about.settings is None:
            raise InputError(f"the evaluator cannot work on node {about.node}: {about.fault}")
        self.settings = about.settings if self.settings is None else self.settings
        for name, value in self.settings.items():
            if about.settings.get(name) != value:
                raise InputError(
                    f"{name} is {about.settings.get(name)} on node {about.node}, and {value} elsewhere, so its "
                    f"measurements would differ; give --evaluator.inner.{name}, or leave that node out"
                )

    def _end(self, actor: _Actor) -> None:
        """Kill an actor."""
        if actor in self._actors:
            self._actors.remove(actor)
            self._free = deque(other for other in self._free if other is not actor)
            self._cluster.kill(actor.handle)


def _public(version: str) -> str:
    """Return a version without its local part, which tells builds such as those for a GPU apart."""
    return version.partition("+")[0]


def reason(error: BaseException) -> str:
    r"""Return in one line what Ray reports of an actor that has died.

    >>> reason(RuntimeError("The actor died.\nWorker exit detail: Worker exits unexpectedly. Some common causes: ..."))
    'the worker process died (Worker exits unexpectedly)'
    """
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError":
        return "out of memory: Ray ended the worker process, as the machine had too little"
    if "creation task" in text:
        return text.strip().splitlines()[-1]
    found = re.search(r"exit detail: (.*?)\.(?: |$)", text, re.MULTILINE)
    return f"the worker process died ({found[1] if found else text.splitlines()[0]})"
