"""The end of a search says where its time went."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from nasenv.search.search import Search

_SMALL = 0.001  # of the whole, below which a part is no line of its own


def show_spent(search: Search, console: Console) -> None:
    """Print the parts of a search's time, the largest first, and why trainings on a GPU were no CUDA graphs."""
    evaluator, spent = search.evaluator, search.where_time_went()
    whole = sum(spent.values()) or 1.0
    workers = f", {evaluator.slots} trainings at once" if evaluator.worked else ""
    shown = Table("", "seconds", "share", title=f"where the time of the search went{workers}")
    for column in shown.columns[1:]:
        column.justify = "right"
    for part, seconds in spent.items():
        if seconds >= _SMALL * whole:
            shown.add_row(part, f"{seconds:.1f}", f"{seconds / whole:.1%}")
    console.print(shown)
    for reason, trainings in evaluator.eager.items():
        console.print(f"{trainings} trainings were not captured as a CUDA graph: {reason}", soft_wrap=True)
