"""Writes the marked sections of BENCHMARKS.md from what was measured: scripts/measured/BENCHMARK/DATE-DEVICE.json.

A section lies between ``<!-- BENCHMARK: cpu, gpu -->`` and ``<!-- end of BENCHMARK -->``; the first mark names the
kinds of device on which it is to be measured. What stands outside of the marks stays. ``--check`` writes nothing, and
exits with 1 where the file is not what would be written.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasenv import InputError

MEASURED = Path(__file__).parents[1] / "measured"
PAGE = Path(__file__).parents[2] / "BENCHMARKS.md"
_SECTION = re.compile(r"<!-- (\w+): ([a-z, ]+) -->\n.*?<!-- end of \1 -->", re.DOTALL)
Record = Mapping[str, Any]


def written(page: str, records: Sequence[Record]) -> str:
    """Return the page with its marked sections as the records have it.

    Raises:
        InputError: a benchmark that was measured has no section.
    """
    names = {match[1] for match in _SECTION.finditer(page)}
    for name in {record["benchmark"] for record in records} - names:
        raise InputError(f"BENCHMARKS.md has no section for {name}; add the marks <!-- {name}: cpu --> and its end")
    return _SECTION.sub(lambda match: _section(match[1], match[2], records), page)


def read(path: Path) -> Record:
    """Return what a benchmark measured.

    Raises:
        InputError: the file is none that a benchmark wrote.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["benchmark"] != path.parent.name:
            raise ValueError("a benchmark of another name")
        _measured(record), _history([record])  # all that a section shows
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is not what a benchmark writes with --keep ({reason})") from None
    return dict(record)


def _found(figures: Any, key: str) -> Iterator[Any]:
    """Yield what lists of this name hold, anywhere in the figures."""
    if isinstance(figures, dict):
        for name, value in figures.items():
            yield from value if name == key else _found(value, key)


def _section(name: str, kinds: str, records: Sequence[Record]) -> str:
    own = sorted(
        (r for r in records if r["benchmark"] == name), key=lambda r: (r["setting"]["date"], str(r["setting"]))
    )
    newest = {record["setting"]["device"]: record for record in own}
    parts = [f"<!-- {name}: {kinds} -->", *(_measured(record) for record in newest.values())]
    for kind in kinds.split(", "):
        if kind not in {record["setting"]["kind"] for record in own}:
            where = {"cpu": "On the processor", "gpu": "On a GPU"}.get(kind, kind)
            parts.append(
                f"{where}: not yet measured; the command is `.venv/bin/python scripts/benchmarks/{name}.py --keep`."
            )
    if own:
        parts.append(_history(own))
    return "\n\n".join([*parts, f"<!-- end of {name} -->"])


def _measured(record: Record) -> str:
    told = record["setting"]
    tables = [f"{t['title']}\n\n{_table(t['heads'], t['rows'])}" for t in _found(record["figures"], "tables")]
    goals = [
        [g["goal"], g["asked"] or "as it says", g["shown"], "yes" if g["met"] else "**no**"]
        for g in _found(record["figures"], "goals")
    ]
    if goals:
        tables.append(_table(["goal", "asked", "measured", "met"], goals))
    head = f"**{told['device']}**, {told['date'][:10]}, commit {told['commit']}."
    return "\n\n".join([f"{head} {told['processor']}; {told['system']}; {told['versions']}.", *tables])


def _history(records: Sequence[Record]) -> str:
    """Return a table of the goals' values, a row a record."""
    values = [{g["goal"]: g["shown"] for g in _found(record["figures"], "goals")} for record in records]
    goals = list(dict.fromkeys(goal for row in values for goal in row))
    settings = [record["setting"] for record in records]
    rows = [
        [told["date"][:10], told["commit"], told["device"], *(row.get(goal, "-") for goal in goals)]
        for told, row in zip(settings, values, strict=True)
    ]
    return "History\n\n" + _table(["date", "commit", "device", *goals], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def main() -> None:
    """Write BENCHMARKS.md, or check it; bad input exits with 2."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where it would change")
    parser.add_argument("--page", type=Path, default=PAGE, help="default: the repository's BENCHMARKS.md")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="default: scripts/measured")
    arguments = parser.parse_args()
    try:
        page = arguments.page.read_text(encoding="utf-8")
        new = written(page, [read(path) for path in sorted(arguments.measured.glob("*/*.json"))])
        if arguments.check:
            parser.exit(int(new != page))
        arguments.page.write_text(new, encoding="utf-8")
    except (InputError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
