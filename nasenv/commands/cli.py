"""The command ``nasenv`` runs its subcommands, typed functions that are imported when they are called."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from nasenv.commands.ctrl_c import INTERRUPTED, exit_at_ctrl_c
from nasenv.errors import InputError, SearchStopped, printable
from nasenv.provenance import __version__

COMMANDS = {  # name of the command, its module and its function: what it does
    "train": "search for an architecture, and train and test the best one",
    "compare": "compare agents over many seeds: statistics, figures and a report",
    "inspect": "find out what a search space is, before a search; what a run tells about it, after one",
    "build_table": "train every architecture of a space, and write a table for searches and comparisons",
    "import_benchmark": "convert a published benchmark to a table for searches and comparisons",
    "reproduce": "run a finished search again, and compare the results",
    "predict": "apply the network of a finished run to new data",
}
_HELP = """\
usage: nasenv COMMAND [options]   (nasenv COMMAND --help: its options)

Neural architecture search by reinforcement learning.

{}

  --help     print this
  --version  print the version"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``nasenv COMMAND [options]`` and return its exit code.

    The exit code is 0; 1 if a search was not reproduced; 2 for bad input; 3 if the command was stopped before its end;
    130 if Ctrl-C came while there was no search to stop.
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
    sys.path.insert(0, os.getcwd())  # as `python -m` does, to find the user's own classes
    os.environ.pop("MPLBACKEND", None)  # no command opens a window, and matplotlib ends where there is no such backend
    try:
        with _exiting_at_ctrl_c(prog):
            from nasenv.commands.arguments import call, import_parts

            module = import_module(f"nasenv.commands.{name}")
            command = getattr(module, name)
            if name == "inspect":
                command, argv = module.command_for(argv)
            import_parts()
        code = call(command, prog, argv)
    except InputError as error:
        return _refuse(prog, str(error))
    except SearchStopped as stopped:
        print(f"{prog}: {stopped}; everything done is saved, the same command resumes", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; all measurements are saved, the same command resumes", file=sys.stderr)
        return INTERRUPTED
    except (Exception, SystemExit) as error:  # a user's class that exits would end the program without a message
        where = _line_of_user_code(error)
        if where is None:
            raise
        reason = f"{type(error).__name__}: {error} ({where}); fix it, then the same command resumes"
        return _refuse(prog, reason)
    return int(code or 0)


@contextmanager
def _exiting_at_ctrl_c(prog: str) -> Iterator[None]:
    """Let Ctrl-C end the program at once within the context, see `exit_at_ctrl_c`; raise KeyboardInterrupt after it."""
    changed = exit_at_ctrl_c(prog)
    try:
        yield
    finally:
        if changed:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _line_of_user_code(error: BaseException) -> str | None:
    """Return file and line of the innermost frame in the user's own code; None if there is none.

    Code without a file, and files of nasenv, of Python and of installed packages are not the user's own.
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
