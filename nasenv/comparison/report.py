"""The report of a comparison: one HTML file that needs no network and no script, and reads well on paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from nasenv.comparison.figures import NOTES
from nasenv.comparison.findings import Summary
from nasenv.comparison.page import STYLE, html_list, html_picture, html_table
from nasenv.comparison.tables import (
    Published,
    effort_table,
    faults_table,
    glance_table,
    pairs_table,
    published_table,
    quality_table,
    standings_table,
)
from nasenv.comparison.words import DEFINITIONS

__all__ = ["Description", "Published", "standings_table", "write_report"]


@dataclass(frozen=True)
class Description:
    """How a comparison was made.

    Args:
        command: the line that makes it again.
        configuration: all of it, as YAML.
        hardware: the machine, in words.
        versions: of what the figures depend on, by name.
    """

    command: str
    configuration: str
    hardware: str
    versions: Mapping[str, str] = field(default_factory=dict)


def write_report(
    path: Path,
    title: str,
    summaries: Sequence[Summary],
    figures: Mapping[str, Mapping[str, str]],
    description: Description,
    published: Mapping[str, Published] | None = None,
) -> None:
    """Write the report; equal arguments give equal bytes.

    Args:
        path: the HTML file.
        title: its heading.
        summaries: of the problems, in the order in which they are shown.
        figures: problem -> kind -> SVG text, as `figures.save` returns it; a problem may have none.
        description: how the comparison was made.
        published: problem -> what others published on it.
    """
    published = published or {}
    parts = [f"<h1>{escape(title)}</h1>", *_overview(summaries)]
    for number, summary in enumerate(summaries, start=1):
        parts += _problem(number, summary, figures.get(summary.problem, {}), published.get(summary.problem))
    parts += [*_making(description), *_definitions()]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
    page = f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}<title>{escape(title)}</title>\n<style>{STYLE}</style>\n'
    path.write_text(page + "</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n", encoding="utf-8")


def _problem(number: int, summary: Summary, figures: Mapping[str, str], published: Published | None) -> Iterator[str]:
    yield f'<section id="problem-{number}">\n<h2>{escape(summary.problem)}</h2>'
    yield "<h3>What may be concluded</h3>"
    yield html_list(summary.verdicts)
    yield "<h3>Agents</h3>"
    best = "" if summary.optimum is None else f" The best reward of the space is {summary.optimum:.6g}."
    yield f'<p>The best on top.{best} <a href="#words">What the columns mean</a> stands at the end.</p>'
    yield html_table(quality_table(summary))
    yield html_table(effort_table(summary))
    yield from (html_picture(f"problem-{number}-{kind}", NOTES.get(kind, kind), svg) for kind, svg in figures.items())
    if summary.pairs:
        yield "<h3>Agents in pairs</h3>"
        yield html_table(pairs_table(summary), "tall")
    if published is not None:
        yield f"<h3>Beside published numbers</h3>\n<p>Published: {escape(published.source)}.</p>"
        yield html_table(published_table(summary, published))
    if any(standing.faults for standing in summary.standings):
        yield "<h3>Faults</h3>\n<p>These runs did not come to their end and count nowhere above.</p>"
        yield html_table(faults_table(summary), "tall prose")
    yield "</section>"


def _overview(summaries: Sequence[Summary]) -> Iterator[str]:
    if len(summaries) < 2:
        return
    links = (f'<a href="#problem-{n}">{escape(s.problem)}</a>' for n, s in enumerate(summaries, start=1))
    yield f"<nav>{' · '.join(links)}</nav>"
    yield "<h2>All problems</h2>"
    yield html_table(glance_table(summaries))


def _making(description: Description) -> Iterator[str]:
    yield "<h2>How it was made</h2>"
    yield f"<p>To make it again:</p>\n<pre>{escape(description.command)}</pre>"
    yield f"<p>Machine: {escape(description.hardware)}. The pictures are in the folder figures too, as PNG and SVG.</p>"
    if description.versions:
        yield html_table((["software", "version"], [[name, version] for name, version in description.versions.items()]))
    yield f"<p>Configuration:</p>\n<pre>{escape(description.configuration)}</pre>"


def _definitions() -> Iterator[str]:
    yield '<h2 id="words">What the words mean</h2>\n<dl>'
    yield from (f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in DEFINITIONS.items())
    yield "</dl>"
