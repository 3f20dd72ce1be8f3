"""Parts of a page: tables, lists, pictures and how all of it looks, on the screen, in the dark and on paper."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

from nasenv.comparison.tables import Table

_LARGER = 1.3  # than on paper: pictures on the page


def html_table(table: Table, look: str = "") -> str:
    """Return an HTML table whose first column is the rows' heads; columns of numbers are set flush right."""
    heads, rows = table
    words = [' class="words"' * any(row[k][:1].isalpha() for row in rows) for k in range(len(heads))]
    head = "".join(f'<th scope="col"{c}>{escape(_unbroken(t))}</th>' for t, c in zip(heads, words, strict=True))
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td{c}>{escape(t)}</td>" for t, c in zip(rest, words[1:], strict=True))
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="table {look}" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def html_list(texts: Iterable[str]) -> str:
    """Return an HTML list of the texts."""
    return "<ul>\n" + "\n".join(f"<li>{escape(text)}</li>" for text in texts) + "\n</ul>"


def html_picture(name: str, label: str, svg: str) -> str:
    """Return an SVG document as part of the page: larger, without prolog; its ids begin with the name.

    What is in it, the label says to those who do not see it.
    """
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    points = re.search(r'<svg [^>]*\bwidth="([\d.]+)pt"', drawing)
    width = f"{_LARGER * float(points[1]):.0f}pt" if points else "100%"
    head = f'<figure role="img" aria-label="{escape(label)}" style="width: calc({width} + 2rem)">'
    return f"{head}\n{drawing.strip()}\n</figure>"


def _unbroken(text: str) -> str:
    return text.replace(" %", "\u00a0%").replace("± ", "±\u00a0")


STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --soft: #5c6167; --line: #d5d8dc; --fill: #f4f5f7; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --soft: #a3a9b0; --line: #3b4046; --fill: #23272b; --page: #17191c; }
}
* { box-sizing: border-box; }
body { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 .5rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
h1, h2, h3, li, dd, pre { overflow-wrap: anywhere; }
p, li, dd { max-width: 46rem; }
a { color: inherit; }
.table { overflow: auto; margin: .75rem 0 1.5rem; }
.tall { max-height: 34rem; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .8rem .32rem 0; text-align: right; vertical-align: top; white-space: nowrap; }
th { font-weight: 600; }
tr > :first-child, .words { text-align: left; }
.prose td { white-space: normal; overflow-wrap: anywhere; }
thead th { vertical-align: bottom; white-space: normal; color: var(--soft); font-weight: 500;
  border-bottom: 1px solid var(--soft); position: sticky; top: 0; background: var(--page); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody th { position: sticky; left: 0; background: var(--page); }
figure { max-width: 100%; margin: 1.5rem 0; padding: 1rem; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; }
figure svg { display: block; width: 100%; height: auto; }
pre { padding: .8rem 1rem; background: var(--fill); border-radius: 6px; font-size: .82rem; white-space: pre-wrap; }
dt { font-weight: 600; margin-top: .7rem; }
dd { margin: 0; color: var(--soft); }
@media print {
  :root { --ink: #000; --soft: #333; --line: #bbb; --fill: #fff; --page: #fff; }
  body { max-width: none; padding: 0; font-size: 9pt; }
  .table, .tall { overflow: visible; max-height: none; }
  table { font-size: 6.5pt; }
  th, td { white-space: normal; }
  thead th, tbody th { position: static; }
  figure { break-inside: avoid; border: 0; padding: 0; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
}
"""
