"""Tasks over processes: one that works beside this one, or many by joblib."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from onnx_ei._batch.backends import Cluster, Workers, opened, threads_each
from onnx_ei._batch.elsewhere import Task, packed
from onnx_ei._batch.minding import Setting, asked
from onnx_ei._batch.supervising import Limits, Outcomes, Supervisor
from onnx_ei.errors import BackendError

__all__ = ["Pool"]


class Pool:
    """Processes that do tasks.

    Parameters
    ----------
    limits : Limits
        What each task may take.
    workers : Workers
        Who does them.

    Attributes
    ----------
    slots : int
        Tasks that are done at once.

    Raises
    ------
    BackendError
        When it is entered, if a cluster cannot be reached.
    """

    def __init__(self, limits: Limits, workers: Workers) -> None:
        here = threads_each(1 if workers.remote else workers.jobs or 1)
        self.limits = replace(limits, threads=here, folder=os.getcwd())
        self.workers = workers
        self.slots = 1
        self._own = Supervisor(self.limits)
        self._cluster = Cluster(slots=1, parallel={})
        self._open = ExitStack()

    def outcomes(self, tasks: Sequence[Task]) -> Outcomes:
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
            If a process of joblib's, which only looks on, was killed, or the cluster is gone.
        """
        if self.workers.alone or (len(tasks) == 1 and not self.workers.remote):
            for index, (function, arguments) in enumerate(tasks):
                yield index, self._own.ask(function, *arguments)
        elif tasks:
            yield from self._spread(tasks)

    def outcomes_of_parts(self, tasks: Sequence[Task]) -> Outcomes:
        """Do tasks one after the other, here, the parts that each of them hands on by the workers.

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
            As :meth:`outcomes`.
        """
        for index, (function, arguments) in enumerate(tasks):
            yield index, self._own.ask(function, *arguments, pool=self._spread)

    def __enter__(self) -> Pool:
        """Reach the workers."""
        self._cluster = self._open.enter_context(opened(self.workers))
        self.slots = self._cluster.slots
        return self

    def __exit__(self, *error: object) -> None:
        """End the process beside this one, and leave the workers."""
        self._own.close()
        self._open.close()

    def _spread(self, tasks: Sequence[Task]) -> Outcomes:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        workers = self.workers
        setting = Setting(
            limits=self.limits,
            kind=workers.backend,
            owner=None if workers.remote else os.getpid(),
            tasks_on=self._cluster.tasks_on,
        )
        parallel = Parallel(
            **self._cluster.parallel,
            return_as="generator_unordered",
            batch_size=1,  # a row is written when it is done, not when its neighbours are
            # a cluster has its own idea of how many; what is under way is what it has been given
            pre_dispatch=self.slots if workers.remote and workers.jobs else 2 * self.slots,
        )
        found: Any = None
        try:
            with _deaf():
                found = parallel(
                    delayed(asked)(index, setting, *packed(task))
                    for index, task in enumerate(tasks)
                )
            # "yield from" would close it without what is done for that below
            for outcome in found:  # noqa: UP028
                yield outcome
        except TerminatedWorkerError as error:
            raise BackendError(
                "a process of the pool was killed, for lack of memory most likely; resume with "
                "fewer jobs (--jobs)"
            ) from error
        finally:
            if found is not None:
                with warnings.catch_warnings():
                    # of tasks given up, where one of them failed: they were to be
                    warnings.simplefilter("ignore", UserWarning)
                    found.close()


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that Ctrl-C and SIGTERM do not reach, though they are sent to all of them.

    What it ends is for the first process to decide, and here it waits until they are started. A
    signal that is blocked stays blocked in the processes that are started meanwhile, from their
    first moment on. Ignoring it here as well would lose it: a thread that does not block it, as
    onnxruntime has them, would be given it and drop it.
    """
    from multiprocessing import resource_tracker

    from joblib.externals.loky.backend.resource_tracker import ensure_running

    # Both beforehand: they start deaf by themselves, and then let SIGINT through again.
    resource_tracker.ensure_running()
    ensure_running()
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
