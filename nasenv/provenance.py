"""Provenance: the versions, hardware and git commits with which a run was made."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__version__ = "0.1.0"  # the package's metadata are made from here
_PACKAGES = (
    *("torch", "numpy", "scipy", "scikit-learn", "gymnasium", "stable-baselines3", "sb3-contrib", "optuna"),
    *("safetensors", "tensorboard", "jsonargparse"),
)
_GIT_SECONDS = 10.0


@functools.cache
def provenance() -> dict[str, str]:
    """Return what can change the results of a configuration: versions, hardware and commits, by name.

    ``nasenv commit`` is that of nasenv's own source where it lies in a git repository, ``commit`` that of the current
    folder's; both end in -dirty where files differ from it.
    """
    known = {**versions(), **_hardware()}
    here, own = _commit(Path.cwd()), _commit(Path(__file__).resolve().parent)
    return known | {k: v for k, v in (("commit", here), ("nasenv commit", own)) if v is not None}


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the differences between two provenances as texts.

    >>> differences({"torch": "2.12.0", "numpy": "2.0"}, {"torch": "2.13.0", "numpy": "2.0", "optuna": "4.2"})
    ['torch 2.12.0, now 2.13.0', 'optuna none, now 4.2']
    """
    names = dict.fromkeys([*then, *now])
    return [f"{n} {then.get(n, 'none')}, now {now.get(n, 'none')}" for n in names if then.get(n) != now.get(n)]


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that affect results, by name."""
    known = {"python": platform.python_version(), "nasenv": __version__}
    for package in _PACKAGES:
        try:
            known[package] = version(package)
        except PackageNotFoundError:  # an extra that is not installed
            continue
    return known


def _hardware() -> dict[str, str]:
    import torch  # takes a second

    hardware = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "cores": str(len(os.sched_getaffinity(0))),
    }
    if torch.cuda.is_available():
        hardware |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return hardware


def processor() -> str:
    """Return the name of the processor, or the machine type if the system does not report it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.SubprocessError):  # no git, or no repository
        return None
    return told.stdout.strip()
