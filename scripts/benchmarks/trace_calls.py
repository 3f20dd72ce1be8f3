"""Traces one evaluation through the code: counts calls, files, and jumps between files.

Three evaluations are followed, each by ``Search.evaluate([architecture])`` without and with a run directory, after the
search has evaluated another architecture: a look-up in the shipped table that is new to the search, a repeat of it, and
a training of one epoch on digits in this process.

What is counted: a call is each time that Python code of nasenv/ or agents/ is entered, be it a function, a property, a
lambda, a comprehension, or a generator, and this each time that it is resumed; the file changes with a call, and again
with the return from it, whose nearest caller within nasenv/ and agents/ lies in another file, whatever of other
packages is between the two. "Plain calls" are those without comprehensions, generator expressions and resumptions. Code
that `dataclass` generates lies in no file and is not counted. So counted, commit c812e0f's look-up makes 137 calls in
15 files and 114 changes without a run directory, and its repeat 69 calls in 10 files and 66 changes with one. A look-up
makes one call less where its reward is no new best, and one less where a repeat came before it.

It follows the nasenv that is imported, so that trees can be compared: ``PYTHONPATH=TREE python trace_calls.py``.
"""

import argparse
import gc
import inspect
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import nasenv

ROOT = Path(nasenv.__file__).resolve().parent.parent
FOLDERS = ("nasenv", "agents")
WARM_UP, NEW = "conv3x16", "conv3x16|max_pool3|sep_conv5x16+skip"  # architectures


def make_space() -> Any:
    """Return the space of the shipped table."""
    return nasenv.ChainCNN(max_layers=3, widths=[16])


def make_table_evaluator(space: Any) -> Any:
    """Return the evaluator that looks up in the shipped table."""
    return nasenv.TableEvaluator(space)


def make_training_evaluator(space: Any) -> Any:
    """Return the evaluator that trains one epoch on digits in this process."""
    return nasenv.TrainingEvaluator(space, "digits", epochs=1, devices="cpu", concurrency=0)


def make_search(space: Any, evaluator: Any, run_dir: Path | None) -> Any:
    """Return a search without an agent, of the default budget and objective."""
    return nasenv.Search(space, evaluator, run_dir=run_dir)


def architecture_of(space: Any, text: str) -> Any:
    """Return an architecture, as ``Search.evaluate`` takes it."""
    return space.from_text(text)


def evaluate(search: Any, architecture: Any) -> object:
    """Evaluate an architecture: this is traced."""
    return search.evaluate([architecture])


@dataclass(frozen=True)
class Call:
    """Holds one call of a function of nasenv.

    Args:
        file: relative to the tree.
        function: qualified name.
        depth: how many calls of nasenv's it lies in.
        plain: whether it is none of comprehension, generator expression and resumption.
        note: "resumed" or empty.
    """

    file: str
    function: str
    depth: int
    plain: bool
    note: str


@dataclass(frozen=True)
class Trace:
    """Holds the calls in order, and counts the jumps between files."""

    calls: Sequence[Call]
    changes: int

    def row(self) -> list[int]:
        """Return the numbers of calls, plain calls, distinct functions, files, and jumps between files."""
        plain = [(c.file, c.function) for c in self.calls if c.plain]
        return [len(self.calls), len(plain), len(set(plain)), len({c.file for c in self.calls}), self.changes]


@cache
def file_of(code: CodeType) -> str | None:
    """Return the file of a code object, relative to the tree; None if it is not nasenv's."""
    path = Path(code.co_filename).resolve()  # nasenv/agents may be a link
    inside = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in FOLDERS
    return str(path.relative_to(ROOT)) if inside else None


def follow(act: Callable[[], object]) -> Trace:
    """Call a function, and return the calls of nasenv's code in this thread."""
    calls: list[Call] = []
    begun: set[FrameType] = set()  # generators
    changes = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal changes
        code = frame.f_code
        file = file_of(code) if event in ("call", "return") else None
        if file is None:
            return
        callers = _callers(frame)
        changes += bool(callers) and callers[0] != file
        if event == "call":
            resumed = frame in begun
            if code.co_flags & inspect.CO_GENERATOR:
                begun.add(frame)
            plain = not resumed and (not code.co_name.startswith("<") or code.co_name == "<lambda>")
            calls.append(Call(file, code.co_qualname, len(callers), plain, "resumed" if resumed else ""))

    gc.collect()
    gc.disable()  # what it finalizes belongs to no evaluation
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return Trace(calls, changes)


def _callers(frame: FrameType) -> list[str]:
    """Return the files of nasenv's frames that a frame was called from, the nearest first."""
    found = []
    above = frame.f_back
    while above is not None:
        file = file_of(above.f_code)
        if file is not None:
            found.append(file)
        above = above.f_back
    return found


def cases(run_dir: Path | None) -> dict[str, Trace]:
    """Return what each evaluation called, by its name; run directories are made in the folder, where one is given."""
    space = make_space()
    # imports, and what is made once, do not count
    warm_up, new = architecture_of(space, WARM_UP), architecture_of(space, NEW)
    traces = {}
    with make_search(space, make_table_evaluator(space), run_dir and run_dir / "table") as search:
        evaluate(search, warm_up)
        traces["look-up"] = follow(lambda: evaluate(search, new))
        traces["repeat"] = follow(lambda: evaluate(search, new))
    with make_search(space, make_training_evaluator(space), run_dir and run_dir / "training") as search:
        evaluate(search, warm_up)
        traces["training"] = follow(lambda: evaluate(search, new))
    return traces


def main() -> None:
    """Print the table, and with ``--verbose`` every call before it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--verbose", action="store_true", help="print every call, indented by its depth, and its file")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for run_dir, said in ((None, "no"), (Path(folder), "yes")):
            for name, trace in cases(run_dir).items():
                rows.append([name, said, *map(str, trace.row())])
                if arguments.verbose:
                    _print_calls(f"{name}, {'with' if run_dir else 'without'} run directory", trace)
    heads = ["evaluation", "run directory", "calls", "plain calls", "functions", "files", "changes of file"]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    print(f"nasenv of {ROOT}\n")
    for line in (heads, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def _print_calls(title: str, trace: Trace) -> None:
    print(f"{title}\n")
    width = max(len(c.file) for c in trace.calls)
    for c in trace.calls:
        print(f"{c.file:{width}}  {'  ' * c.depth}{c.function} {c.note}".rstrip())
    print()


if __name__ == "__main__":
    main()
