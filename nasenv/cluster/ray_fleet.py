"""The actors that a search has on a Ray cluster: one for each slot, replaced where they are lost."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from nasenv.cluster.ray_actor import About, Packed, Reply, Slot
from nasenv.cluster.ray_cluster import Cluster, Share, imported_ray
from nasenv.errors import InputError
from nasenv.trial import Trial
from nasenv.workers.clock import WakingClock

_LOOK_SECONDS = 1.0  # between two looks at the nodes
_PATIENCE_SECONDS = 600.0  # for an actor to be ready where there is none
_LONGEST_LOOK = 5.0  # seconds between two looks at the clock; more is a suspension
_FAILED_STARTS = 3  # of as many actors as there are slots, one after the other


@dataclass(eq=False)
class Member:
    """An actor.

    Attributes:
        handle: Ray's.
        about: what it says of itself; None while it starts.
        calls: trials that it has.
    """

    handle: Any
    about: About | None = None
    calls: set[Call] = field(default_factory=set)

    @property
    def node(self) -> str:
        """Name of its machine."""
        return "a node" if self.about is None else f"node {self.about.node}"


@dataclass(eq=False)
class Call:
    """A trial that an actor was given."""

    member: Member
    trial: Trial


class Fleet:
    """Actors on all slots of a cluster, followed as nodes come and go; trials go to those that are ready.

    Args:
        cluster: where they live.
        share: what each trial at work has of a node.
        packed: the evaluator that each of them holds.
        welcome: told of every actor that begins; raises `InputError` where it is not to be used.
        at_once: trials that an actor has at the same time, each in a thread of its own.
    """

    def __init__(
        self, cluster: Cluster, share: Share, packed: Packed, welcome: Callable[[About], None], at_once: int = 1
    ) -> None:
        ray = imported_ray()
        self._cluster, self._welcome, self._at_once, self._gpu = cluster, welcome, at_once, share.gpus > 0
        self._kind = ray.remote(
            num_cpus=share.cpus * at_once,
            num_gpus=share.gpus * at_once,
            max_concurrency=at_once,
            max_restarts=0,
            max_task_retries=0,
        )(Slot)
        self._packed = ray.put(packed)
        self._members: set[Member] = set()
        self._free: deque[Member] = deque()  # once for each trial that it can take
        self._said: SimpleQueue[tuple[Member, Call | None, Future[Any]]] = SimpleQueue()
        self._lost: list[tuple[Call, Reply]] = []
        self._failed_starts = 0
        self._clock = WakingClock(_LONGEST_LOOK)
        self._looked = self._usable = self._clock()
        self._nodes = cluster.slots_by_node()
        self._fill()

    @property
    def slots(self) -> int:
        """How many trials the cluster has room for at once, as of the last look."""
        return sum(self._nodes.values())

    @property
    def pids(self) -> list[int]:
        """Processes of the actors that are ready."""
        return [member.about.pid for member in self._members if member.about is not None]

    @property
    def room(self) -> int:
        """For how many trials actors are ready."""
        return len(self._free)

    def give(self, trial: Trial) -> Call:
        """Have a trial answered by an actor that is ready."""
        member = self._free.popleft()
        call = Call(member, trial)
        member.calls.add(call)
        self._listen(member, call, member.handle.answer.remote(trial))
        return call

    def heard(self, seconds: float) -> list[tuple[Call, Reply]]:
        """Return what comes of trials, waiting for the first at most so long; actors that begin are taken in.

        Raises:
            InputError: an actor is not to be used, or none can be had; the head of the cluster is lost.
        """
        self._look()
        replies, self._lost = self._lost, []
        timeout = 0.0 if replies else seconds
        while True:
            try:
                member, call, future = self._said.get(timeout=timeout) if timeout else self._said.get_nowait()
            except Empty:
                return replies
            timeout = 0.0
            if call is None:
                self._begun(member, future)
            elif call in member.calls:
                replies.append((call, self._reply(member, call, future)))

    def drop(self, member: Member) -> None:
        """End an actor, whatever it does; another takes its place."""
        if member in self._members:
            self._forget(member)
            self._cluster.kill(member.handle)
            self._fill()

    def close(self) -> None:
        """End all actors."""
        for member in self._members:
            self._cluster.kill(member.handle)
        self._members.clear()
        self._free.clear()

    def _look(self) -> None:
        """Follow the cluster, once in a while."""
        now = self._clock()
        if any(member.about is not None for member in self._members):
            self._usable = now
        elif now - self._usable > _PATIENCE_SECONDS:
            raise InputError(
                f"no node of the Ray cluster had room for an evaluation for {_PATIENCE_SECONDS:.0f} s (`ray status` "
                "tells what has); what is done is in the run directory: the same command goes on"
            )
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        self._nodes = self._cluster.slots_by_node()
        for member in [m for m in self._members if m.about is not None and m.about.node_id not in self._nodes]:
            self._lost += [(call, Reply("lost", reason=f"{member.node} was lost")) for call in member.calls]
            self._forget(member)
        self._fill()

    def _fill(self) -> None:
        """Have as many actors as there is room for; those of them that have no place yet wait for it in Ray's queue."""
        wanted = self.slots // self._at_once
        for member in [m for m in self._members if m.about is None][: max(0, len(self._members) - wanted)]:
            self._forget(member)
            self._cluster.kill(member.handle)
        while len(self._members) < wanted:
            member = Member(self._kind.remote())
            self._members.add(member)
            self._listen(member, None, member.handle.begin.remote(self._packed, sys.path, self._gpu))

    def _listen(self, member: Member, call: Call | None, answer: Any) -> None:
        answer.future().add_done_callback(lambda future: self._said.put((member, call, future)))

    def _begun(self, member: Member, future: Future[Any]) -> None:
        """Take in an actor that says that it is ready, or replace one that has ended before."""
        if member not in self._members:
            return
        error = future.exception()
        if error is None:
            about: About = future.result()
            self._welcome(about)
            member.about, self._failed_starts = about, 0
            self._free.extend([member] * self._at_once)
            return
        self._failed_starts += 1
        if "creation task" in str(error) or self._failed_starts > _FAILED_STARTS * max(1, len(self._members)):
            raise InputError(f"Ray's workers ended before they were ready: {reason(error)}")
        self.drop(member)

    def _reply(self, member: Member, call: Call, future: Future[Any]) -> Reply:
        """Return what came of a trial; its actor is free again, or lost."""
        member.calls.remove(call)
        error = future.exception()
        if error is not None:
            self.drop(member)
            return Reply("lost", reason=f"{reason(error)} on {member.node}")
        if member in self._members:
            self._free.append(member)
        reply: Reply = future.result()
        return reply

    def _forget(self, member: Member) -> None:
        self._members.discard(member)
        self._free = deque(other for other in self._free if other is not member)


def reason(error: BaseException) -> str:
    r"""Return in one line what Ray says, in many, of an actor that has died.

    >>> reason(RuntimeError("The actor died.\nWorker exit detail: Worker exits unexpectedly. Some common causes: ..."))
    'the worker process died (Worker exits unexpectedly)'
    """
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError":
        return "out of memory: Ray ended the worker process, as the machine had too little"
    if "creation task" in text:
        return text.strip().splitlines()[-1]
    found = re.search(r"exit detail: (.*?)\.(?: |$)", text, re.MULTILINE)
    return f"the worker process died ({found[1]})" if found else f"the worker process died ({text.splitlines()[0]})"
