"""Writes the report of a comparison as one HTML file, without network access or scripts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from nasenv.comparison import tables
from nasenv.comparison.figures import NOTES
from nasenv.comparison.statistics import RESAMPLES
from nasenv.comparison.summary import LEVEL, Summary

_HERE = Path(__file__).parent
_LARGER = 1.3  # than on paper: pictures on the page


@dataclass(frozen=True)
class Description:
    """Holds how a comparison was made.

    Args:
        command: the line that makes it again.
        configuration: all of it, as YAML.
        hardware: the machine, in words.
        versions: versions of the packages, by name.
    """

    command: str
    configuration: str
    hardware: str
    versions: Mapping[str, str] = field(default_factory=dict)


def template(name: str, folder: Path = _HERE) -> Template:
    """Return an HTML template of a folder; it can extend and import those that lie here."""
    return Environment(
        loader=FileSystemLoader([folder, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def write_report(
    path: Path,
    title: str,
    summaries: Sequence[Summary],
    figures: Mapping[str, Mapping[str, str]],
    description: Description,
    published: Mapping[str, tables.PublishedResults] | None = None,
) -> None:
    """Write the report; equal arguments give equal files.

    Args:
        path: the HTML file.
        title: its heading.
        summaries: summaries of the problems, in the order in which they are shown.
        figures: problem -> kind -> SVG text, as `figures.save` returns it; a problem may have none.
        description: how the comparison was made.
        published: problem -> what others published on it.
    """
    text = template("report.html").render(
        title=title,
        summaries=summaries,
        problems=[
            _problem(k, s, figures.get(s.problem, {}), (published or {}).get(s.problem))
            for k, s in enumerate(summaries, start=1)
        ],
        glance=tables.glance_table(summaries),
        software=tables.TextTable(["software", "version"], [list(row) for row in description.versions.items()]),
        description=description,
        resamples=RESAMPLES,
        level=LEVEL,
        metrics=" or ".join(dict.fromkeys(summary.metric.replace("_", " ") for summary in summaries)),
    )
    path.write_text(text, encoding="utf-8")


def _problem(
    number: int, summary: Summary, figures: Mapping[str, str], published: tables.PublishedResults | None
) -> dict[str, Any]:
    """Return what the template shows of a problem; each picture is (description, width, SVG)."""
    name = f"problem-{number}"
    return {
        "id": name,
        "summary": summary,
        "tables": tables.problem_tables(summary, published),
        "pictures": [(NOTES.get(kind, kind), *_picture(f"{name}-{kind}", svg)) for kind, svg in figures.items()],
        "source": published.source if published else None,
    }


def _picture(name: str, svg: str) -> tuple[str, str]:
    """Return the width and the SVG element of a picture; its ids are prefixed with the name."""
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    drawing = re.sub(r'(\bid="|href="#|url\(#)', lambda found: found[0] + name + "-", drawing)
    points = re.search(r'<svg [^>]*\bwidth="([\d.]+)pt"', drawing)
    return f"{_LARGER * float(points[1]):.0f}pt" if points else "100%", drawing.strip()
