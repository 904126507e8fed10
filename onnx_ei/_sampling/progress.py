"""How a long measure tells how far it is: silence, a bar on stderr, or a function of the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from onnx_ei.errors import MissingDependencyError

__all__ = ["SILENT", "Progress", "ProgressOption", "reporting"]

ProgressOption: TypeAlias = bool | Callable[[int, int], object] | None
"""None or False, True, or a function of (done, total)."""


class Progress:
    """Count of model rows done, out of those planned so far.

    Automatic sampling plans a stage at a time, since a stage decides whether there is another: the
    total is what is certain to be run, and grows from stage to stage.

    Parameters
    ----------
    report : callable
        Called as ``report(done, total)``, always in the thread that asked for the measure.

    Examples
    --------
    >>> progress = Progress(lambda done, total: print(done, total))
    >>> progress.plan(2000)
    >>> progress.advance(1024)
    1024 2000
    """

    def __init__(self, report: Callable[[int, int], object]) -> None:
        """Start at nothing done, nothing planned."""
        self._report = report
        self._done = 0
        self._total = 0

    def plan(self, rows: int) -> None:
        """Add rows to the total."""
        self._total += rows

    def advance(self, rows: int) -> None:
        """Add rows to what is done, and report."""
        self._done += rows
        self._report(self._done, self._total)


def _silence(done: int, total: int) -> None:
    """Report nothing."""


SILENT = Progress(_silence)
"""For tasks that run no rows of the model."""


@contextmanager
def reporting(option: ProgressOption, label: str) -> Iterator[Progress]:
    """Open the progress report that the user asked for.

    Parameters
    ----------
    option : None, bool or callable
        None and False are silent; True shows a bar on stderr; a callable gets (done, total).
    label : str
        What the bar is called.

    Yields
    ------
    Progress

    Raises
    ------
    MissingDependencyError
        Where a bar is asked for and rich is not installed.

    Examples
    --------
    >>> with reporting(None, "ei") as progress:
    ...     progress.advance(1)
    """
    if callable(option):
        yield Progress(option)
        return
    if not option:
        yield Progress(_silence)
        return
    try:
        from rich import progress as bars
        from rich.console import Console
    except ImportError as error:
        raise MissingDependencyError(
            "progress=True draws its bar with rich, which is not installed: pip install rich, "
            "or hand a function of (done, total) to progress"
        ) from error
    with bars.Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield Progress(lambda done, total: bar.update(task, completed=done, total=total))
