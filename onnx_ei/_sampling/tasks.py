"""Work shared out to threads: all of it, or only what can be drawn ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from onnx_ei._sampling.progress import Progress

__all__ = ["run_ahead", "run_tasks"]

_T = TypeVar("_T")
DRAWN_AHEAD = 2
"""Blocks that wait, drawn, for the model."""


def run_tasks(tasks: Iterable[Callable[[], int]], workers: int, progress: Progress) -> None:
    """Run tasks in a pool of threads, a few ahead; report their rows in this thread.

    Parameters
    ----------
    tasks : iterable of callable
        Each returns the rows it ran.
    workers : int
        Threads; one runs everything here.
    progress : Progress
        Told of each task, in order.

    Examples
    --------
    >>> run_tasks([lambda: 3, lambda: 4], 1, Progress(lambda done, total: print(done)))
    3
    7
    """
    if workers == 1:
        for task in tasks:
            progress.advance(task())
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Any] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(task))
                if len(pending) > 4 * workers:
                    progress.advance(pending.popleft().result())
            while pending:
                progress.advance(pending.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def run_ahead(
    blocks: Iterable[tuple[range, int]],
    draw: Callable[[range, int], _T],
    task: Callable[[range, int, _T], int],
    progress: Progress,
) -> None:
    """Run tasks in this thread, while another one draws what the next ones are to take.

    Parameters
    ----------
    blocks : iterable of (range, int)
        Chunks, and their number of rows.
    draw : callable
        From a block to what its task takes.
    task : callable
        From a block and that to the rows it ran.
    progress : Progress
        Told of each task, in order.

    Examples
    --------
    >>> run_ahead(
    ...     [(range(1), 5)], lambda chunks, rows: "noise", lambda chunks, rows, drawn: rows,
    ...     Progress(lambda done, total: print(done)),
    ... )
    5
    """
    with ThreadPoolExecutor(1) as thread:
        pending: deque[Any] = deque()
        try:
            for chunks, rows in blocks:
                pending.append((chunks, rows, thread.submit(draw, chunks, rows)))
                if len(pending) > DRAWN_AHEAD:
                    progress.advance(_finish(task, *pending.popleft()))
            while pending:
                progress.advance(_finish(task, *pending.popleft()))
        finally:
            thread.shutdown(wait=True, cancel_futures=True)


def _finish(task: Callable[[range, int, _T], int], chunks: range, rows: int, drawn: Any) -> int:
    """Run a task, once what it takes is drawn."""
    return task(chunks, rows, drawn.result())
