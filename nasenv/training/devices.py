"""Which devices there are to train on, how worker processes share them, and whether their memory ran out."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from pathlib import Path

import torch

from nasenv.errors import InputError, counted

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_NO_MEMORY = re.compile(r"out of memory|ALLOC\w*_FAILED")  # in the words of CUDA; of cuBLAS and cuDNN


def resolve_devices(devices: str) -> tuple[str, ...]:
    """Return the device names that auto, cpu, cuda, or a list such as cuda:0,cuda:2 stands for.

    auto is every GPU of the machine, and cpu where there is none; cuda is every GPU.

    Raises:
        InputError: another text, or a device that is not there.
    """
    there = torch.cuda.device_count()
    if devices == "auto":
        devices = "cuda" if torch.cuda.is_available() else "cpu"
    if devices == "cpu":
        return ("cpu",)
    if not re.fullmatch(r"cuda|cuda:\d+(,cuda:\d+)*", str(devices)):
        raise InputError(f"devices must be auto, cpu, cuda, or a list such as cuda:0,cuda:1, got {devices!r}")
    named = [f"cuda:{i}" for i in range(there)] if devices == "cuda" else list(dict.fromkeys(devices.split(",")))
    if not named or any(_index(name) >= there for name in named):
        raise InputError(
            f"devices {devices}: PyTorch sees {counted(there, 'CUDA device')} here; give --evaluator.devices cpu"
        )
    return tuple(named)


def device_environments(devices: tuple[str, ...]) -> list[dict[str, str]]:
    """Return, for each device, the environment variables that make it the only GPU visible to a process."""
    if devices == ("cpu",):
        return [{}]
    seen = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]  # our cuda:0 is the first of these
    return [{_VISIBLE: seen[_index(name)] if seen else str(_index(name))} for name in devices]


def check_compiler() -> None:
    """Raise InputError if torch.compile would find no C++ compiler, or no headers of Python for it."""
    compiler = os.environ.get("CXX", "g++")
    header = Path(sysconfig.get_path("include"), "Python.h")
    missing = None if shutil.which(compiler) else f"no compiler {compiler}"
    missing = missing or (None if header.exists() else f"no {header}")
    if missing:
        raise InputError(
            f"compile_final needs a C++ compiler and Python's headers, and there is {missing}; install them (Debian: "
            "`apt install g++ python3-dev`), or leave compile_final out"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: PyTorch's own, or on a GPU that of a context, a graph, cuBLAS or cuDNN."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def _index(device: str) -> int:
    return int(device.partition(":")[2])
