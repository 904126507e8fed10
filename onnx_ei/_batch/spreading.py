"""Tasks over processes: one that works beside this one, or many by joblib."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

from onnx_ei._batch.supervising import Limits, Supervisor
from onnx_ei.devices import processors
from onnx_ei.errors import BackendError

__all__ = ["Pool", "Task", "threads_each"]

Task: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function that another process can import, and its arguments."""

_LOOK = 0.5
"""Seconds between two looks at whether the first process is still there."""
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
    from multiprocessing import resource_tracker

    from joblib import Parallel, delayed
    from joblib.externals.loky.backend.resource_tracker import ensure_running
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    parallel = Parallel(
        n_jobs=jobs,
        backend="loky",
        return_as="generator_unordered",
        batch_size=1,  # a row is written when it is done, not when its neighbours are
        pre_dispatch=2 * jobs,
        max_nbytes=None,
    )
    # Both beforehand: they start deaf by themselves, and then let SIGINT through again.
    resource_tracker.ensure_running()
    ensure_running()
    found: Any = None
    try:
        with _deaf():
            found = parallel(
                delayed(_asked)(index, task, limits, os.getpid())
                for index, task in enumerate(tasks)
            )
        yield from found
    except TerminatedWorkerError as error:
        raise BackendError(
            "a process of the pool was killed, for lack of memory most likely; resume with fewer "
            "jobs (--jobs)"
        ) from error
    finally:
        if found is not None:
            found.close()


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that Ctrl-C and SIGTERM do not reach, though they are sent to all of them.

    What it ends is for the first process to decide, and here it waits until they are started. A
    signal that is blocked stays blocked in the processes that are started meanwhile, from their
    first moment on. Ignoring it here as well would lose it: a thread that does not block it, as
    onnxruntime has them, would be given it and drop it.
    """
    masks = hasattr(signal, "pthread_sigmask")
    main = threading.current_thread() is threading.main_thread()  # no signals come to others
    if not main or not masks or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    # SIGTERM too: SLURM sends it to every process of a job at once
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if heard:
        raise KeyboardInterrupt


def _asked(index: int, task: Task, limits: Limits, owner: int) -> tuple[int, tuple[str, Any]]:
    """Do a task in the process that this worker looks after."""
    if limits not in _MINE:
        if not _MINE:
            threading.Thread(target=_outlive_not, args=(owner,), daemon=True).start()
        _MINE[limits] = Supervisor(limits)
    function, arguments = task
    return index, _MINE[limits].ask(function, *arguments)


def _outlive_not(owner: int) -> None:
    """End this worker when the process that started it is gone: loky's would wait for minutes."""
    while os.getppid() == owner:
        time.sleep(_LOOK)
    os._exit(1)


def threads_each(jobs: int) -> int:
    """Return the threads that each of several processes may compute with.

    Parameters
    ----------
    jobs : int
        How many there are.
    """
    return max(1, processors() // jobs)
