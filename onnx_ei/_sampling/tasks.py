"""Work shared out to threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from onnx_ei._sampling.progress import Progress

__all__ = ["run_tasks"]

AHEAD = 4
"""Tasks for each thread that are made, and wait."""


def run_tasks(tasks: Iterable[Callable[[], int]], workers: int, progress: Progress) -> None:
    """Run tasks in this thread and some others, and report their rows in this one.

    This thread takes the last task that still waits, the others the first.

    Parameters
    ----------
    tasks : iterable of callable
        Each returns the rows it ran; they are made as they are needed.
    workers : int
        Threads, this one among them.
    progress : Progress
        Told of each task.

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
    with ThreadPoolExecutor(workers - 1) as pool:
        ahead: deque[tuple[Callable[[], int], Future[int]]] = deque()

        def finish_one() -> int:
            # The first may be done already; where all have begun, there is but to wait for it.
            if ahead[0][1].done() or not ahead[-1][1].cancel():
                return ahead.popleft()[1].result()
            task, _ = ahead.pop()
            try:
                return task()
            except Exception:
                # Of several errors that of the first task, however many threads there are.
                for _, earlier in ahead:
                    earlier.result()
                raise

        try:
            for task in tasks:
                ahead.append((task, pool.submit(task)))
                if len(ahead) > AHEAD * workers:
                    progress.advance(finish_one())
            while ahead:
                progress.advance(finish_one())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
