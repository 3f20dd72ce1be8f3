"""Writes what was found out about spaces into a folder: JSON, PNG files, and one HTML page without network access."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nasenv.comparison.report import template
from nasenv.comparison.tables import TextTable
from nasenv.errors import InputError
from nasenv.files import parse_json, read_whole, write_whole
from nasenv.inspection.advice import summary
from nasenv.inspection.figures import draw
from nasenv.inspection.space_report import SpaceReport
from nasenv.plots import Figure, to_png

REPORT, PAGE = "space.json", "inspection.html"
_DPI = 150
_MOST_BYTES = 50_000_000


def table_rows(reports: Mapping[str, SpaceReport]) -> list[list[str]]:
    """Return the rows of a table of reports, a column each, with the name of each row first."""
    columns = [summary(report) for report in reports.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(column.get(name, "") for column in columns)] for name in names]


def write(
    folder: Path, title: str, reports: Mapping[str, SpaceReport], sentences: Sequence[str], configuration: str
) -> None:
    """Write figures and page into a folder.

    Args:
        folder: the folder; it is made where it is not there.
        title: heading of the page.
        reports: name -> report; several are compared.
        sentences: advice, shown first.
        configuration: how the reports were made, as text.
    """
    table = TextTable(["", *reports], table_rows(reports))
    write_page(folder, title, sentences, {"What was found": table}, draw(reports), "Configuration", configuration)


def write_page(
    folder: Path,
    title: str,
    sentences: Sequence[str],
    tables: Mapping[str, TextTable],
    figures: Mapping[str, Figure],
    last: str,
    configuration: str,
) -> None:
    """Write figures into a folder, and a page.

    Args:
        folder: the folder; it is made where it is not there.
        title: heading of the page.
        sentences: advice, shown first.
        tables: heading -> table.
        figures: name -> figure.
        last: heading of the configuration, which is shown last.
        configuration: the configuration, as text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {name: to_png(figure, _DPI) for name, figure in figures.items()}
    for name, picture in pictures.items():
        write_whole(folder / f"{name}.png", picture)
    shown = {name: base64.b64encode(picture).decode() for name, picture in pictures.items()}
    page = template("page.html", Path(__file__).parent).render(
        title=title, advice=sentences, tables=tables, pictures=shown, last=last, configuration=configuration
    )
    write_whole(folder / PAGE, page)


def write_report(folder: Path, report: SpaceReport, config: Mapping[str, object]) -> None:
    """Write a report and its configuration as JSON, for `read_report`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / REPORT, json.dumps({"config": config, "report": report.to_json()}, indent=1) + "\n")


def read_report(folder: Path) -> SpaceReport:
    """Return the report in a folder; raise InputError where there is none."""
    path = folder / REPORT
    try:
        return SpaceReport.from_json(parse_json(read_whole(path, _MOST_BYTES))["report"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a report of nasenv inspect: {type(error).__name__}: {error}") from error
