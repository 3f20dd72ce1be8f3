"""Runs a search from the wheel, then all tests, on other versions of Python, PyTorch and NumPy.

    python scripts/check_versions.py 3.13 3.14        # the newest releases that pip finds
    python scripts/check_versions.py 3.11 --oldest    # the oldest that pyproject.toml allows
    python scripts/check_versions.py 3.12 --pinned    # those of constraints.txt

A Python that a Debian release has as its own runs in a system of that release, which debootstrap makes in a folder:
this needs root. Any other is taken from the PATH. The last result of each is kept in ``tests/versions.json`` and shown
by ``tests/versions.md``. An environment takes some 7 GB, most of it PyTorch's CUDA libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORD, PAGE = ROOT / "tests" / "versions.json", ROOT / "tests" / "versions.md"
SUITES = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}
MIRROR = "http://deb.debian.org/debian"
PACKAGES = ("python3-venv", "python3-dev", "g++", "git", "procps", "postgresql")
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
SHOWN = ("torch", "numpy", "gymnasium", "stable_baselines3")
SEARCH = ("train", "--budget.evaluations", "16", "--run_dir", "runs/versions")
AS_ROOT = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'


class Environment:
    """A folder with a clone and a virtual environment, perhaps in a Debian system of its own."""

    def __init__(self, version: str, folder: Path) -> None:
        self.root = folder / f"debian-{SUITES[version]}" if version in SUITES else None
        self.inside = Path("/test") if self.root else folder / f"python-{version}"
        self.outside = self.root / "test" if self.root else self.inside
        self.python = "python3" if self.root else f"python{version}"
        self.bin = self.inside / "venv" / "bin"

    def make(self) -> None:
        """Make the system unless it is there, and a new clone and virtual environment in it."""
        if self.root and not (self.root / "usr" / "bin" / "dpkg").exists():
            suite = self.root.name.removeprefix("debian-")
            known = Path("/usr/share/debootstrap/scripts")
            script = [known / "sid"] if not (known / suite).exists() else []  # newer than this debootstrap
            options = ["--variant=minbase", "--include=ca-certificates", suite, self.root, MIRROR, *script]
            subprocess.run(["debootstrap", *map(str, options)], check=True)
        if self.root:
            for file in (Path("etc/resolv.conf"), CERTIFICATES):
                shutil.copy(Path("/") / file, self.root / file)
            self.outside.mkdir(exist_ok=True)
            self.run("apt-get", "update", "--quiet").check_returncode()
            self.run("apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES).check_returncode()
        shutil.rmtree(self.outside, ignore_errors=True)
        self.outside.mkdir(parents=True)
        subprocess.run(["git", "clone", "--quiet", ROOT, self.outside / "nasenv"], check=True)
        self.run(self.python, "-m", "venv", self.inside / "venv").check_returncode()

    def run(self, *command: Any, cwd: str = "", capture: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command in a folder of the environment, and return how it ended."""
        kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        environment = kept | {"PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"}
        environment |= {
            "DEBIAN_FRONTEND": "noninteractive",
            "HOME": str(self.inside),
            "OMP_NUM_THREADS": "1",
            "PIP_CERT": f"/{CERTIFICATES}",
        }
        if not self.root:
            environment["PATH"] += f":{os.environ['PATH']}"
        line = ["env", f"--chdir={self.inside / cwd}", *map(str, command)]
        if self.root:
            line = ["unshare", "--mount", "--propagation", "private", "sh", "-c", AS_ROOT, str(self.root), *line]
        return subprocess.run(
            line, env=environment, check=False, text=True, stdout=subprocess.PIPE if capture else None
        )


def constraints(kind: str) -> str:
    """Return pip's constraints: the oldest PyTorch and NumPy of pyproject.toml, those of constraints.txt, or none."""
    if kind == "pinned":
        return (ROOT / "constraints.txt").read_text()
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest = [match for package in needed if (match := re.match(r"(torch|numpy)>=([\d.]+)", package))]
    return "".join(f"{match[1]}=={match[2]}.*\n" for match in oldest) if kind == "oldest" else ""


def result_of(version: str, kind: str, folder: Path, options: list[str]) -> dict[str, Any]:
    """Install nasenv's wheel for a version, search with it in an empty folder, run the tests; return what came out."""
    environment = Environment(version, folder)
    environment.make()
    (environment.outside / "constraints.txt").write_text(constraints(kind))
    pip = (environment.bin / "python", "-m", "pip", "--disable-pip-version-check")
    environment.run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", "wheel", "./nasenv").check_returncode()
    wheel = next((environment.outside / "wheel").glob("nasenv-*.whl")).name
    environment.run(*pip, "install", "--constraint", "constraints.txt", f"./wheel/{wheel}").check_returncode()
    (environment.outside / "empty").mkdir()
    search = environment.run(environment.bin / "nasenv", *SEARCH, cwd="empty", capture=True)
    print(search.stdout, flush=True)
    environment.run(*pip, "install", "--constraint", "constraints.txt", f"./wheel/{wheel}[dev]").check_returncode()
    begun = time.monotonic()
    tests = environment.run(
        *(environment.bin / "python", "-m", "pytest", "-q", "-n", str(len(os.sched_getaffinity(0)) + 1)),
        *("--dist", "loadfile", *options), cwd="nasenv", capture=True,
    )  # fmt: skip
    print(tests.stdout, flush=True)
    frozen = environment.run(*pip, "freeze", capture=True).stdout.replace("-", "_").splitlines()
    packages = dict(line.split("==") for line in frozen if "==" in line)
    told = environment.run(environment.python, "--version", capture=True).stdout.split()[-1]
    return {
        "python": told,
        "kind": kind,
        "packages": {name: packages[name] for name in SHOWN},
        "search": "ends well" if search.returncode == 0 else f"exit code {search.returncode}",
        "tests": tests.stdout.strip().splitlines()[-1].strip("= "),
        "options": options,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, text=True, capture_output=True
        ).stdout.strip(),
    }


def write_page(results: dict[str, dict[str, Any]]) -> None:
    """Write the last result of each version, as JSON and as a page."""
    RECORD.write_text(json.dumps(results, indent=1) + "\n")
    heads = ("Python", "versions", *SHOWN, "search from the wheel", "tests", "date, commit")
    rows = [
        (r["python"], r["kind"], *r["packages"].values(), r["search"], " ".join([r["tests"], *r["options"]]),
         f"{r['date']}, {r['commit']}")
        for _, r in sorted(results.items())
    ]  # fmt: skip
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
    title = (
        "# Other versions\n\nWhat `python scripts/check_versions.py VERSION ...` last found; it writes this page.\n\n"
    )
    PAGE.write_text(title + "\n".join(lines) + "\n")


def main() -> None:
    """Test each version that the command line names; end with 1 if a search or a test of one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="of Python, such as 3.13")
    kinds = parser.add_mutually_exclusive_group()
    for kind in ("oldest", "pinned"):
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, default="newest")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/nasenv-versions"), help="of the environments")
    parser.add_argument("--pytest", default="", metavar="OPTIONS", help="options of pytest, in one text")
    arguments = parser.parse_args()
    for version in arguments.versions:
        if version in SUITES and (os.geteuid() != 0 or not shutil.which("debootstrap")):
            parser.error(f"Python {version} needs root and debootstrap, for Debian {SUITES[version]}")
        if version not in SUITES and not shutil.which(f"python{version}"):
            parser.error(f"no python{version} on the PATH; there are Debian systems for {', '.join(SUITES)}")
    results = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    begun = []
    for version in arguments.versions:
        name = f"{version} {arguments.kind}"
        results[name] = result_of(version, arguments.kind, arguments.folder, arguments.pytest.split())
        write_page(results)
        begun.append(results[name])
    sys.exit(any(r["search"] != "ends well" or re.search(r"\d+ (failed|error)", r["tests"]) for r in begun))


if __name__ == "__main__":
    main()
