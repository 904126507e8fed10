"""What commands print: tables, JSON, progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from onnx_ei.cli_errors import say

if TYPE_CHECKING:
    from rich.progress import Progress

    from onnx_ei.analyzed import Analysis
    from onnx_ei.rows import Row

__all__ = ["PREDICTED_SAMPLES", "layer_bar", "line_of_row", "print_json", "print_table", "show"]

PREDICTED_SAMPLES = 100_000
"""What an estimate is for: sampling by threshold mostly ends between 10,000 and 640,000."""


def print_json(content: object) -> None:
    """Print JSON on standard output."""
    from json import dumps

    typer.echo(dumps(content, indent=1, allow_nan=False))


def show(table: Any, found: Analysis) -> None:
    """Print a table, and the notes of what it shows."""
    print_table(table)
    for note in found.notes:
        say(f"note: {note}")


def print_table(table: Any) -> None:
    """Print a table on standard output."""
    from rich.console import Console

    # a pipe has no width: rows stay whole for grep and less -S
    console = Console() if sys.stdout.isatty() else Console(width=240)
    console.print(table)


@contextmanager
def layer_bar(total: int | None) -> Iterator[tuple[Progress, Any]]:
    """Show a bar of layers on standard error, where that is a terminal."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        yield bar, bar.add_task("layers", total=total)


def line_of_row(row: Row) -> str:
    """Return what a log says of a row: its values with their errors, or why it has none."""
    name = f"{row.model} {row.name}".rstrip()
    if row.status != "measured":
        return f"{name}: {row.status}: {row.reason}"
    taken = row.measurements.items()
    return f"{name}: " + ", ".join(f"{n} {m.value:.4f} ± {m.stderr:.4f}" for n, m in taken)
