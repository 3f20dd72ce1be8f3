"""What runs in a Ray actor: it says who it is, gets ready, and does one job after the other."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nasenv.cluster.connection import imported_ray
from nasenv.data.split import Split
from nasenv.errors import InputError
from nasenv.provenance import versions
from nasenv.workers.serving import described


class Reply(NamedTuple):
    """What comes of a job: a value, or why there is none: its fault, or a refusal, which ends everything.

    ``again`` says that a fresh process might do better.
    """

    value: Any = None
    fault: str | None = None
    refusal: str | None = None
    again: bool = False


class About(NamedTuple):
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

    def begin(self, put: Sequence[Any]) -> About:
        """Get ready, and say who this is; what the driver `put` comes as its reference in a list."""
        ray = imported_ray()
        torch.set_num_threads(1)
        node = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
        me = node, str(ray.get_runtime_context().get_node_id()), os.getpid(), versions()
        try:
            return About(*me, self.open(*ray.get(put[0])))
        except BaseException as error:  # of a user's module
            return About(*me, fault=described(error))

    def answer(self, job: Any) -> Reply:
        """Do a job; whatever is raised is told."""
        torch.set_num_threads(1)  # each thread has a number of its own
        try:
            return self.do(job)
        except InputError as error:
            return Reply(refusal=str(error))
        except BaseException as error:  # of a user's class
            return Reply(fault=described(error))


def put(*parts: Any) -> Any:
    """Return the reference of parts in Ray's object store, where all actors of a node read their data without a copy.

    Raises:
        InputError: they cannot be pickled.
    """
    ray = imported_ray()
    ray.util.register_serializer(Split, serializer=_arrays, deserializer=_split)
    try:
        return ray.put(parts)
    except Exception as error:  # what cannot be pickled raises whatever it likes
        raise InputError(
            f"the space, evaluator or agent cannot be sent to Ray's workers ({described(error)})"
        ) from error


def _arrays(split: Split) -> tuple[NDArray[np.float32], NDArray[Any]]:
    return split.inputs.cpu().numpy(), split.targets.cpu().numpy()


def _split(arrays: tuple[NDArray[np.float32], NDArray[Any]]) -> Split:
    """Return a split on memory that all processes of a machine share; it is not to be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Split(*map(torch.from_numpy, arrays))
