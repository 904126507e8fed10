"""Tasks over processes: one that works beside this one, or many by joblib."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeAlias

from onnx_ei._batch.supervising import Limits, Supervisor
from onnx_ei.errors import BackendError

__all__ = ["Pool", "Task", "threads_each"]

Task: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function that another process can import, and its arguments."""

_MINE: dict[Limits, Supervisor] = {}
"""The process that this worker of a pool looks after."""


class Pool:
    """Processes that do tasks, as many at once as there are jobs.

    Parameters
    ----------
    limits : Limits
        What each task may take.
    jobs : int
        How many at once.
    """

    def __init__(self, limits: Limits, jobs: int) -> None:
        self.limits = replace(limits, threads=threads_each(jobs))
        self.jobs = jobs
        self._own = Supervisor(self.limits)

    def outcomes(self, tasks: Sequence[Task]) -> Iterator[tuple[int, tuple[str, Any]]]:
        """Do tasks, and yield what became of each as it is done.

        Parameters
        ----------
        tasks : sequence of Task
            What to do.

        Yields
        ------
        index : int
            Which task.
        outcome : (str, object)
            As :meth:`Supervisor.ask` returns it.

        Raises
        ------
        BackendError
            If a process of joblib's, which only looks on, was killed.
        """
        if self.jobs > 1 and len(tasks) > 1:
            yield from _spread(tasks, self.limits, self.jobs)
            return
        for index, (function, arguments) in enumerate(tasks):
            yield index, self._own.ask(function, *arguments)

    def __enter__(self) -> Pool:
        """Return the pool itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process beside this one; joblib's stay ready for a while."""
        self._own.close()


def _spread(
    tasks: Sequence[Task], limits: Limits, jobs: int
) -> Iterator[tuple[int, tuple[str, Any]]]:
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    parallel = Parallel(
        n_jobs=jobs,
        backend="loky",
        return_as="generator_unordered",
        batch_size=1,  # a row is written when it is done, not when its neighbours are
        pre_dispatch=2 * jobs,
        max_nbytes=None,
    )
    found = parallel(delayed(_asked)(index, task, limits) for index, task in enumerate(tasks))
    try:
        yield from found
    except TerminatedWorkerError as error:
        raise BackendError(
            "a process of the pool was killed, for lack of memory most likely; resume with fewer "
            "jobs (--jobs)"
        ) from error
    finally:
        found.close()


def _asked(index: int, task: Task, limits: Limits) -> tuple[int, tuple[str, Any]]:
    """Do a task in the process that this worker looks after."""
    if limits not in _MINE:
        with suppress(ValueError):  # not the main thread
            # Ctrl-C reaches the whole group; what it ends is for the first process to decide
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        _MINE[limits] = Supervisor(limits)
    function, arguments = task
    return index, _MINE[limits].ask(function, *arguments)


def threads_each(jobs: int) -> int:
    """Return the threads that each of several processes may compute with.

    Parameters
    ----------
    jobs : int
        How many there are.
    """
    return max(1, (os.cpu_count() or 1) // jobs)
