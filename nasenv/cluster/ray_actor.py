"""What runs in a Ray actor: it says who it is, unpacks the evaluator, and answers one trial after the other."""

from __future__ import annotations

import io
import os
import pickle
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray

from nasenv.cluster.ray_cluster import imported_ray
from nasenv.data.dataset import Split
from nasenv.errors import InputError
from nasenv.evaluators.evaluator import Answer, Evaluator
from nasenv.provenance import versions
from nasenv.trial import Trial
from nasenv.workers.serving import described

Arrays: TypeAlias = list[tuple[NDArray[np.float32], NDArray[np.int64]]]
"""Images, (n, c, h, w), and labels, (n,), of splits."""


class Packed(NamedTuple):
    """An evaluator as it goes into Ray's object store: once, and read there by all actors of a node without a copy.

    Attributes:
        pickled: the evaluator without its data.
        arrays: of the splits of its data.
    """

    pickled: bytes
    arrays: Arrays


@dataclass(frozen=True)
class About:
    """An actor that has begun, as it says of itself.

    Args:
        node: host name and address of its machine.
        node_id: Ray's name of that.
        pid: process there.
        versions: of Python and packages, by name.
        settled: what the evaluator left to the machine, as it comes out there; None where there is a problem.
        problem: why it cannot answer trials, one line; None where it can.
    """

    node: str
    node_id: str
    pid: int
    versions: Mapping[str, str]
    settled: Mapping[str, str] | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Reply:
    """What comes of a trial in an actor.

    Args:
        kind: answer; failed, the evaluator raised; refusal, it raised `InputError`; lost, with the actor.
        answer: the answer; None where there is none.
        reason: why there is none, one line.
        mendable: whether the answer is an error and a fresh process might give a better one.
        worked: wall seconds by part that it took.
        eager: how many trainings were not replayed as a CUDA graph, by the reason.
    """

    kind: Literal["answer", "failed", "refusal", "lost"]
    answer: Answer | None = None
    reason: str = ""
    mendable: bool = False
    worked: Mapping[str, float] = field(default_factory=dict)
    eager: Mapping[str, int] = field(default_factory=dict)


class Slot:
    """Holds an evaluator and answers trials, in one thread; made an actor by ``ray.remote``."""

    def begin(self, packed: Packed, paths: Sequence[str], gpu: bool) -> About:
        """Get ready, and say who this is.

        Args:
            packed: the evaluator.
            paths: folders in which the driver finds modules; those that there are here are looked through last.
            gpu: whether trials have a GPU, or a share of one.
        """
        torch.set_num_threads(1)
        known = set(sys.path)
        sys.path += [path for path in paths if path not in known and Path(path).is_dir()]
        node, node_id = here()
        try:
            evaluator: Evaluator = unpack(packed)
            settled = evaluator.settled(gpu)
            self._evaluator = evaluator.single(settled)
            self._evaluator.start()
        except BaseException as error:  # of a user's module
            return About(node, node_id, os.getpid(), versions(), problem=described(error))
        return About(node, node_id, os.getpid(), versions(), settled)

    def answer(self, trial: Trial) -> Reply:
        """Answer a trial; whatever the evaluator raises is told."""
        evaluator = self._evaluator
        worked, eager = dict(evaluator.worked), dict(evaluator.eager)
        try:
            (_, answer) = next(iter(evaluator.stream([trial])))
        except InputError as error:
            return Reply("refusal", reason=str(error))
        except BaseException as error:
            return Reply("failed", reason=described(error))
        return Reply(
            "answer",
            answer,
            mendable=evaluator.mendable(answer),
            worked={part: seconds - worked.get(part, 0.0) for part, seconds in evaluator.worked.items()},
            eager={why: count - eager.get(why, 0) for why, count in evaluator.eager.items()},
        )


def here() -> tuple[str, str]:
    """Return the name and address of this machine, and Ray's name of it."""
    ray = imported_ray()
    context = ray.get_runtime_context()
    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})", str(context.get_node_id())


def pack(work: Any) -> Packed:
    """Return an evaluator, or what holds some, to be sent; raise InputError where it cannot be."""
    arrays: Arrays = []
    file = io.BytesIO()
    try:
        _Packer(file, arrays).dump(work)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"the space, evaluator or agent cannot be sent to Ray's workers ({described(error)})"
        ) from error
    return Packed(file.getvalue(), arrays)


def unpack(packed: Packed) -> Any:
    """Return what was packed; whatever its classes raise is raised. Its data are not to be written to."""
    return _Unpacker(io.BytesIO(packed.pickled), packed.arrays).load()


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """Leaves the splits of data out, and keeps their arrays aside."""

    def __init__(self, file: io.BytesIO, arrays: Arrays) -> None:
        super().__init__(file)
        self._arrays, self._kept = arrays, dict[int, int]()  # index by the id of a split

    def persistent_id(self, thing: Any) -> int | None:
        if not isinstance(thing, Split):
            return None
        if id(thing) not in self._kept:
            self._kept[id(thing)] = len(self._arrays)
            self._arrays.append((thing.images.cpu().numpy(), thing.labels.cpu().numpy()))
        return self._kept[id(thing)]


class _Unpacker(pickle.Unpickler):
    """Puts the splits of data back, on the memory that all processes of a machine share."""

    def __init__(self, file: io.BytesIO, arrays: Arrays) -> None:
        super().__init__(file)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self._splits = [Split(*map(torch.from_numpy, pair)) for pair in arrays]

    def persistent_load(self, index: int) -> Split:
        return self._splits[index]
