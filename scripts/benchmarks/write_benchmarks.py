"""Writes the pages on what was measured from its records, scripts/measured/BENCHMARK/DATE-DEVICE.json.

- ``scripts/measured/BENCHMARK/README.md`` has all of a benchmark: below its mark, how it is measured (the docstring
  of its script), the newest record of each device, and the history. What is above the mark is written by hand and
  stays; a new page begins with the docstring's first sentence.
- ``BENCHMARKS.md`` has the headlines: a table below each mark ``<!-- BENCHMARK: WHAT -->``. The rest of it is written
  by hand and stays. WHAT is one of

| what | the table below the mark |
|---|---|
| goals | the goals of the newest record, each with its spread and n |
| table TITLE | the newest one whose title holds this text |
| column HEAD of TITLE | this column of all those tables side by side, a row for each name in their first columns |
| goals, once measured | the goals with a link to the page; where there is no record, that nothing is measured |

``--add FILE`` first copies records that ``--json`` wrote, as on another machine, to where ``--keep`` would have.
``--check`` writes nothing, and exits with 1 where a page is not what would be written.
"""

import argparse
import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasenv import InputError
from scripts.benchmarks.bench import kept_at, spread

SCRIPTS = Path(__file__).parents[1]
MEASURED = SCRIPTS / "measured"
PAGE = Path(__file__).parents[2] / "BENCHMARKS.md"
MARK = "<!-- From here on this page is written by scripts/benchmarks/write_benchmarks.py. -->"
_ONCE_MEASURED = "goals, once measured"
_HEADLINE = re.compile(r"<!-- (\w+): (.+) -->\n(?:\|.*\n)*")
Record = Mapping[str, Any]
Table = Mapping[str, Any]


def pages(folder: Path, headlines: Path) -> dict[Path, str]:
    """Return each page that is to be written, with its text.

    Raises:
        InputError: a record is damaged, or a mark asks for what no record has.
    """
    kept = [read(path, path.parent.name) for path in sorted(folder.glob("*/*.json"))]
    records = sorted(kept, key=lambda record: record["setting"]["date"])
    texts = {headlines: with_headlines(headlines.read_text(encoding="utf-8"), records)}
    for name in dict.fromkeys(record["benchmark"] for record in records):
        path = folder / name / "README.md"
        by_hand = path.read_text(encoding="utf-8").partition(MARK)[0] if path.exists() else ""
        texts[path] = detail(name, by_hand, [record for record in records if record["benchmark"] == name])
    return texts


def read(path: Path, name: str | None) -> Record:
    """Return what a benchmark measured.

    Args:
        path: of the record.
        name: of the benchmark; None for any.

    Raises:
        InputError: the file is none that a benchmark wrote.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if name not in (None, record["benchmark"]):
            raise ValueError("a benchmark of another name")
        _newest(record), _history([record]), _goals(record)  # all that pages show
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is not what a benchmark writes with --keep ({reason})") from None
    return dict(record)


def detail(name: str, by_hand: str, records: Sequence[Record]) -> str:
    """Return the page of a benchmark: what was written by hand, then all that its records say, oldest record first.

    Raises:
        InputError: no script has the benchmark's name.
    """
    script = next(SCRIPTS.glob(f"*/{name}.py"), None)
    if script is None:
        raise InputError(f"there are records of {name}, but no script of this name in a folder of {SCRIPTS}")
    docstring = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or name).replace("``", "`")
    command = f".venv/bin/python scripts/{script.relative_to(SCRIPTS)} --keep"
    newest = {record["setting"]["device"]: record for record in records}
    parts = [
        by_hand.strip() or f"# {docstring.splitlines()[0].rstrip('.')}",
        MARK,
        "## How it is measured",
        docstring,
        f"`{command}` writes such a record beside this page.",
        "## The newest record of each device",
        *(_newest(record) for record in reversed(newest.values())),
        f"## History\n\n{_history(records)}",
    ]
    return _readable("\n\n".join(parts) + "\n")


def with_headlines(page: str, records: Sequence[Record]) -> str:
    """Return the page of headlines with its marked tables as the records, oldest first, have it.

    Raises:
        InputError: a mark asks for what no record has.
    """
    return _HEADLINE.sub(lambda mark: f"<!-- {mark[1]}: {mark[2]} -->\n{_headline(mark[1], mark[2], records)}\n", page)


def _headline(name: str, what: str, records: Sequence[Record]) -> str:
    """Return the table that a mark asks for."""
    own = [record for record in records if record["benchmark"] == name]
    kind, _, named = what.partition(" ")
    column, _, text = named.rpartition(" of ") if kind == "column" else ("", "", named)
    titled = _titled(text, own)
    if what == _ONCE_MEASURED:
        return _readable(_linked_goals(name, own))
    if what == "goals" and own:
        return _readable(_goals(own[-1]))
    if kind == "column" and titled:
        return _readable(_side_by_side(column, titled))
    if kind == "table" and titled:
        title, table = list(titled.items())[-1]
        first, *heads = table["heads"]
        return _readable(_table([f"{first}; {title}", *heads], table["rows"]))
    raise InputError(f"BENCHMARKS.md: no record of {name} has what <!-- {name}: {what} --> asks for")


def _linked_goals(name: str, own: Sequence[Record]) -> str:
    """Return the goals of the newest record below a link to its page, or a line that nothing is measured."""
    if not own:
        return f"| {name}: nothing is measured yet |\n| --- |"
    return _goals(own[-1]).replace("| goal (", f"| [{name}](scripts/measured/{name}/README.md) (", 1)


def _titled(text: str, records: Sequence[Record]) -> dict[str, Table]:
    """Return the newest tables whose titles hold a text, by title and place."""
    newest = {
        table["title"]: (f"{table['title']} ({_place(record)})", table)
        for record in records
        for table in _found(record["figures"], "tables")
        if text in table["title"]
    }
    return dict(newest.values())


def _side_by_side(column: str, tables: Mapping[str, Table]) -> str:
    """Return one table of a column of several; their first columns say which rows belong together."""
    columns = [{row[0]: row[table["heads"].index(column)] for row in table["rows"]} for table in tables.values()]
    names = dict.fromkeys(name for values in columns for name in values)
    rows = [[name, *(values.get(name, "-") for values in columns)] for name in names]
    first = next(iter(tables.values()))["heads"][0]
    return _table([f"{first}; {column}", *tables], rows)


def _goals(record: Record) -> str:
    """Return a table of what a record says of its goals."""
    goals = list(_found(record["figures"], "goals"))
    rows = [
        [_asked(goal), goal["shown"], _spread(goal, record["figures"]), "yes" if goal["met"] else "**no**"]
        for goal in goals
    ]
    return _table([f"goal ({_place(record)})", "measured", "min to max, or ± standard deviation", "met"], rows)


def _asked(goal: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (goal["goal"], goal["asked"])))


def _spread(goal: Mapping[str, Any], figures: Any) -> str:
    """Return how far the rounds of a goal's value lie apart: of the figures, those whose median or mean it is.

    A whole number may be many figures' by chance; it has no spread here.
    """
    value = float(goal["value"])
    form = ".2%" if goal["shown"].endswith("%") else ".3g"
    for rounds in _rounds(figures) if not value.is_integer() else ():
        if rounds.get("median") == value:
            return f"{rounds['min']:{form}} to {rounds['max']:{form}}, n = {rounds['n']}"
        if rounds.get("mean") == value:
            return f"± {rounds['std']:{form}}, n = {rounds['n']}"
    return "-"


def _rounds(figures: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every spread in the figures, lists of numbers included."""
    if isinstance(figures, dict):
        if "n" in figures:
            yield figures
        for value in figures.values():
            yield from _rounds(value)
    elif isinstance(figures, list):
        if figures and all(isinstance(value, int | float) for value in figures):
            yield spread(figures)
        for value in figures:
            yield from _rounds(value)


def _found(figures: Any, key: str) -> Iterator[Any]:
    """Yield what lists of this name hold, anywhere in the figures."""
    if isinstance(figures, dict):
        for name, value in figures.items():
            yield from value if name == key else _found(value, key)


def _newest(record: Record) -> str:
    """Return a record's setting, tables and goals."""
    told = record["setting"]
    setting = [f"{told['date'][:10]}, commit {told['commit']}", told["processor"], told["system"], told["versions"]]
    tables = [f"{t['title']}\n\n{_table(t['heads'], t['rows'])}" for t in _found(record["figures"], "tables")]
    goals = [
        [_asked(goal), goal["shown"], "yes" if goal["met"] else "**no**"] for goal in _found(record["figures"], "goals")
    ]
    if goals:
        tables.append(_table(["goal", "measured", "met"], goals))
    return "\n\n".join([f"### {told['device']}", f"{'; '.join(setting)}.", *tables])


def _history(records: Sequence[Record]) -> str:
    """Return a table of the goals' values, a row a record."""
    values = [{g["goal"]: g["shown"] for g in _found(record["figures"], "goals")} for record in records]
    goals = list(dict.fromkeys(goal for row in values for goal in row))
    settings = [record["setting"] for record in records]
    rows = [
        [told["date"][:10], told["commit"], told["device"], *(row.get(goal, "-") for goal in goals)]
        for told, row in zip(settings, values, strict=True)
    ]
    return _table(["date", "commit", "device", *goals], rows)


def _place(record: Record) -> str:
    return f"{record['setting']['device']}, {record['setting']['date'][:10]}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def _readable(text: str) -> str:
    """Return a text whose large numbers have no exponents.

    >>> _readable("1.55e+03 ms, p 5e-29")
    '1,550 ms, p 5e-29'
    """
    return re.sub(r"\d(?:\.\d+)?e\+\d+", lambda number: f"{float(number[0]):,.0f}", text)


def _add(path: Path, folder: Path) -> None:
    """Copy a benchmark's record to where it is kept."""
    record = read(path, None)
    kept = kept_at(record, folder)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> None:
    """Write the pages, or check them, as the command line says; bad input exits with 2."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page would change")
    parser.add_argument("--add", nargs="+", type=Path, default=[], metavar="FILE", help="records to be kept first")
    parser.add_argument("--page", type=Path, default=PAGE, help="of the headlines; default: BENCHMARKS.md")
    parser.add_argument("--measured", type=Path, default=MEASURED, help="default: scripts/measured")
    arguments = parser.parse_args(words)
    try:
        for path in arguments.add:
            _add(path, arguments.measured)
        texts = pages(arguments.measured, arguments.page)
        changed = [path for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
        if arguments.check:
            parser.exit(int(bool(changed)), "".join(f"{path} is not what would be written\n" for path in changed))
        for path in changed:
            path.write_text(texts[path], encoding="utf-8")
    except (InputError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
