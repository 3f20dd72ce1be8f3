"""The command ``nasenv``: each subcommand is one typed function, imported when it is asked for."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType

from nasenv.errors import InputError, SearchStopped, printable
from nasenv.version import __version__

COMMANDS = {  # name, which is the module's and the function's too: what it does
    "train": "search for an architecture, and train and test the best one",
    "compare": "compare agents over many seeds: statistics, figures and a report",
    "build_table": "train every architecture of a space, for comparisons that cost nothing",
    "import_benchmark": "turn a published benchmark into a table for searches and comparisons",
    "reproduce": "run a finished search again, and say whether it comes out the same",
    "predict": "apply the network that a search found to new data",
}
_INTERRUPTED = 130  # what shells say of a program that Ctrl-C ended
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
        print(f"nasenv {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        known = f"nearest: {near[0]}" if near else f"there are: {', '.join(COMMANDS)}"
        return _refuse("nasenv", f"unknown command {name}; {known}")
    return _run(name, rest)


def _run(name: str, argv: Sequence[str]) -> int:
    prog = f"nasenv {name}"
    sys.path.insert(0, os.getcwd())  # as `python -m` does: the user's own classes are found
    try:
        with _ending_at_ctrl_c(prog):
            from nasenv.commands.arguments import call, import_parts

            command = getattr(import_module(f"nasenv.commands.{name}"), name)
            import_parts()
        code = call(command, prog, argv)
    except InputError as error:
        return _refuse(prog, str(error))
    except SearchStopped as stopped:
        print(f"{prog}: {stopped}; what is done is kept, the same command goes on", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; what was measured is kept, the same command goes on", file=sys.stderr)
        return _INTERRUPTED
    except (Exception, SystemExit) as error:  # a user's class that exits would end the program in silence
        where = _in_the_users_code(error)
        if where is None:
            raise
        reason = f"{type(error).__name__}: {error} ({where}); when that is mended, the same command goes on"
        return _refuse(prog, reason)
    return int(code or 0)


@contextmanager
def _ending_at_ctrl_c(prog: str) -> Iterator[None]:
    """Have Ctrl-C end the program at once, in one line, while modules are imported.

    An exception would come up anywhere in PyTorch, which may turn it into another, or go on without a part of itself.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(sys.stderr.fileno(), f"{prog}: interrupted before it began\n".encode())
        os._exit(_INTERRUPTED)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as under nohup, or another's
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _in_the_users_code(error: BaseException) -> str | None:
    """Return the last line of a user's module that led to it; None for none.

    It is neither in nasenv, nor in Python, nor installed; code without a file is nobody's.
    """
    import sysconfig
    import traceback

    here, python = Path.cwd(), map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))
    others = [Path(__file__).parent.parent, *map(Path, filter(None, python))]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        installed = {"site-packages", "dist-packages"}.intersection(path.parts)
        if path.is_absolute() and not installed and not any(path.is_relative_to(other) for other in others):
            return f"{path.relative_to(here) if path.is_relative_to(here) else path}, line {frame.lineno}"
    return None


def _refuse(prog: str, reason: str) -> int:
    print(f"{prog}: error: {printable(' '.join(reason.split()))}", file=sys.stderr)
    return 2
