"""The base class of Ray actors: a worker reports about itself, and does one job after the other."""

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
"""Objects in Ray's object store: pickled, except for the inputs and targets of data splits, which are arrays by number.

The workers of a node share these arrays, which are read-only; if Ray pickled the objects, all their arrays would be.
"""


class Reply(NamedTuple):
    """Holds the reply to a job: a value, or a fault, or a refusal (an InputError), which ends everything.

    ``again`` says that a fresh process might do better.
    """

    value: Any = None
    fault: str | None = None
    refusal: str | None = None
    again: bool = False


class ActorInfo(NamedTuple):
    """Holds what an actor reports about itself when it has started; with a ``fault`` it cannot do jobs."""

    node: str  # host name and address
    node_id: str  # Ray's name of it
    pid: int
    versions: Mapping[str, str]
    settings: Mapping[str, str] | None = None
    fault: str | None = None


class Worker(ABC):
    """Does jobs one after the other; ``ray.remote`` makes a subclass an actor.

    Args:
        paths: folders in which the driver finds modules; those that there are here are looked through last.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path and Path(path).is_dir()]

    @abstractmethod
    def open(self, *parts: Any) -> Mapping[str, str]:
        """Prepare with the objects that the driver put; return the settings that were left to the machine."""

    @abstractmethod
    def do(self, job: Any) -> Reply:
        """Do a job; an `InputError` ends everything, any other exception is returned as the job's fault."""

    def begin(self, packed: Packed) -> ActorInfo:
        """Prepare, and return information about this actor."""
        ray = imported_ray()
        torch.set_num_threads(1)
        node = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
        me = node, str(ray.get_runtime_context().get_node_id()), os.getpid(), versions()
        try:
            return ActorInfo(*me, self.open(*unpack(packed)))
        except BaseException as error:  # of a user's module
            return ActorInfo(*me, fault=describe_error(error))

    def answer(self, job: Any) -> Reply:
        """Do a job; an exception is returned in the reply."""
        torch.set_num_threads(1)  # each thread has a number of its own
        try:
            return self.do(job)
        except InputError as error:
            return Reply(refusal=str(error))
        except BaseException as error:  # of a user's class
            return Reply(fault=describe_error(error))


def pack(*parts: Any) -> Packed:
    """Return objects pickled to be sent to workers; raise InputError if they cannot be pickled."""
    packer = _Packer(file := io.BytesIO())
    try:
        packer.dump(parts)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError) as error:
        said = describe_error(error)
        raise InputError(f"the space, evaluator or agent cannot be sent to Ray's workers ({said})") from error
    return file.getvalue(), {k: (s.inputs.cpu().numpy(), s.targets.cpu().numpy()) for k, s in packer.splits.items()}


def unpack(packed: Packed) -> tuple[Any, ...]:
    """Return the objects that were packed; their data are read-only. Errors of their classes are raised."""
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
