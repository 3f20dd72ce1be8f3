"""Writes the tables of a comparison as CSV files, and as LaTeX for the booktabs package."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from nasenv.comparison.tables import NONE, TextTable

_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", "≥": r"$\geq$"},
        **{"[": "{[}", "]": "{]}"},  # after a line's end a bracket would be its height
    }
)


def write_tables(folder: Path, problem: str, tables: Mapping[str, TextTable]) -> None:
    """Write each table of a problem as ``<problem>-<kind>.csv`` and ``.tex``; equal tables give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, table in tables.items():
        path = folder / f"{quote(problem, safe=' ')}-{kind}"
        with Path(f"{path}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([table.heads, *table.rows])
        Path(f"{path}.tex").write_text(to_latex(table), encoding="utf-8")


def to_latex(table: TextTable) -> str:
    r"""Return the table as a tabular with the lines of booktabs; all characters stand for themselves.

    >>> print(to_latex(TextTable(["agent", "met (%)"], [["my_ppo", "50"]])), end="")
    % \usepackage{booktabs}
    \begin{tabular}{lr}
    \toprule
    agent & met (\%) \\
    \midrule
    my\_ppo & 50 \\
    \bottomrule
    \end{tabular}
    """
    columns = "".join("l" if not i or table.holds_words(i) else "r" for i in range(len(table.heads)))
    head, *rows = [" & ".join(map(_escaped, row)) + r" \\" for row in (table.heads, *table.rows)]
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    lines = [r"% \usepackage{booktabs}", begin, r"\toprule", head, r"\midrule", *rows, r"\bottomrule", end]
    return "\n".join(lines) + "\n"


def _escaped(cell: str) -> str:
    return "--" if cell == NONE else " ".join(cell.split()).translate(_LATEX)
