"""The command ``nasenv``: each subcommand is one typed function, imported when it is asked for."""

from __future__ import annotations

import difflib
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

COMMANDS = {  # name, which is the module's and the function's too: what it does
    "train": "search for an architecture, and train and test the best one",
    "compare": "compare agents over many seeds: statistics, figures and a report",
    "build_table": "train every design of a space, for comparisons that cost nothing",
    "import_benchmark": "turn a published benchmark into a table for searches and comparisons",
    "reproduce": "run a finished search again, and say whether it comes out the same",
    "predict": "classify new data with the network that a search found",
}
_HELP = """\
usage: nasenv COMMAND [options]   (nasenv COMMAND --help: its options)

Neural architecture search by reinforcement learning.

{}

  --help     print this
  --version  print the version"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``nasenv COMMAND [options]`` and return its exit code.

    0; 1 where something did not come out the same; 2 for bad input; 3 where it was stopped before its end; 130 for
    Ctrl-C before there was anything to stop.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(_HELP.format("\n".join(f"  {name:{max(map(len, COMMANDS))}}  {what}" for name, what in COMMANDS.items())))
        return 0
    if name == "--version":
        print(f"nasenv {version('nasenv')}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        known = f"nearest: {near[0]}" if near else f"there are: {', '.join(COMMANDS)}"
        return _refuse("nasenv", f"unknown command {name}; {known}")
    return _run(name, rest)


def _run(name: str, argv: Sequence[str]) -> int:
    from nasenv.errors import InputError, SearchStopped

    sys.path.insert(0, os.getcwd())  # as `python -m` does: the user's own classes are found
    try:
        from nasenv.commands.arguments import call  # takes seconds, which --help need not wait for

        code = call(getattr(import_module(f"nasenv.commands.{name}"), name), f"nasenv {name}", argv)
    except InputError as error:
        return _refuse(f"nasenv {name}", str(error))
    except SearchStopped as stopped:
        print(f"nasenv {name}: {stopped}; what is done is kept, the same command goes on", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"nasenv {name}: interrupted; what was measured is kept, the same command goes on", file=sys.stderr)
        return 130
    except (Exception, SystemExit) as error:  # a user's class that exits would end the program in silence
        where = _in_the_users_code(error)
        if where is None:
            raise
        reason = f"{type(error).__name__}: {error} ({where}); when that is mended, the same command goes on"
        return _refuse(f"nasenv {name}", reason)
    return int(code or 0)


def _in_the_users_code(error: BaseException) -> str | None:
    """Return the last line of a user's module that led to it; None for none.

    It is neither in nasenv, nor in Python, nor installed; code without a file is nobody's.
    """
    here, python = Path.cwd(), map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))
    others = [Path(__file__).parent.parent, *map(Path, filter(None, python))]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        installed = {"site-packages", "dist-packages"}.intersection(path.parts)
        if path.is_absolute() and not installed and not any(path.is_relative_to(other) for other in others):
            return f"{path.relative_to(here) if path.is_relative_to(here) else path}, line {frame.lineno}"
    return None


def _refuse(prog: str, reason: str) -> int:
    from nasenv.errors import printable

    print(f"{prog}: error: {printable(' '.join(reason.split()))}", file=sys.stderr)
    return 2
