"""What runs in a Ray actor: it says who it is, gets ready, and does one job after the other."""

from __future__ import annotations

import io
import os
import pickle
import socket
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray

from nasenv.cluster.connection import imported_ray
from nasenv.data.split import Split
from nasenv.errors import InputError
from nasenv.provenance import versions
from nasenv.workers.serving import describe_error

Packed: TypeAlias = tuple[bytes, dict[int, tuple[NDArray[np.float32], NDArray[Any]]]]
"""Objects as they lie in Ray's object store: pickled, but for the inputs and targets of splits of data, by number.

All workers of a node read these where they lie, and cannot write to them; left to Ray, that would hold for all arrays.
"""


class Reply(NamedTuple):
    """What comes of a job: a value, or why there is none: its fault, or a refusal, which ends everything.

    ``again`` says that a fresh process might do better.
    """

    value: Any = None
    fault: str | None = None
    refusal: str | None = None
    again: bool = False


class ActorInfo(NamedTuple):
    """An actor that has begun, as it says of itself; with a ``fault`` it cannot do jobs."""

    node: str  # host name and address
    node_id: str  # Ray's name of it
    pid: int
    versions: Mapping[str, str]
    settings: Mapping[str, str] | None = None
    fault: str | None = None


class Worker(ABC):
    """Does jobs, one after the other; a subclass is made an actor by ``ray.remote``.

    Args:
        paths: folders in which the driver finds modules; those that there are here are looked through last.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path and Path(path).is_dir()]

    @abstractmethod
    def open(self, *parts: Any) -> Mapping[str, str]:
        """Get ready with what the driver put; return the settings that were left to the machine, as they are here."""

    @abstractmethod
    def do(self, job: Any) -> Reply:
        """Do a job; an `InputError` ends everything, other exceptions are the job's fault."""

    def begin(self, packed: Packed) -> ActorInfo:
        """Get ready, and say who this is."""
        ray = imported_ray()
        torch.set_num_threads(1)
        node = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
        me = node, str(ray.get_runtime_context().get_node_id()), os.getpid(), versions()
        try:
            return ActorInfo(*me, self.open(*unpack(packed)))
        except BaseException as error:  # of a user's module
            return ActorInfo(*me, fault=describe_error(error))

    def answer(self, job: Any) -> Reply:
        """Do a job; whatever is raised is told."""
        torch.set_num_threads(1)  # each thread has a number of its own
        try:
            return self.do(job)
        except InputError as error:
            return Reply(refusal=str(error))
        except BaseException as error:  # of a user's class
            return Reply(fault=describe_error(error))


def pack(*parts: Any) -> Packed:
    """Return objects to be sent to workers; raise InputError where they cannot be."""
    packer = _Packer(file := io.BytesIO())
    try:
        packer.dump(parts)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError) as error:
        said = describe_error(error)
        raise InputError(f"the space, evaluator or agent cannot be sent to Ray's workers ({said})") from error
    return file.getvalue(), {k: (s.inputs.cpu().numpy(), s.targets.cpu().numpy()) for k, s in packer.splits.items()}


def unpack(packed: Packed) -> tuple[Any, ...]:
    """Return what was packed; whatever its classes raise is raised. Its data are not to be written to."""
    unpacker = _Unpacker(io.BytesIO(packed[0]))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that they cannot be written to
        unpacker.splits = {k: Split(*map(torch.from_numpy, arrays)) for k, arrays in packed[1].items()}
    parts: tuple[Any, ...] = unpacker.load()
    return parts


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.splits: dict[int, Split] = {}

    def persistent_id(self, thing: Any) -> int | None:
        if not isinstance(thing, Split):
            return None
        self.splits[id(thing)] = thing
        return id(thing)


class _Unpacker(pickle.Unpickler):
    splits: dict[int, Split]

    def persistent_load(self, number: int) -> Split:
        return self.splits[number]
