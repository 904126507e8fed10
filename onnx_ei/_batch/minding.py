"""What a worker of a pool does: it looks after processes that measure, one for each of its tasks.

A worker of loky has one task at a time, one of Dask as many as it has threads. It may be a daemonic
process, which multiprocessing lets start no other: these are started by ``subprocess``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from onnx_ei._batch.elsewhere import called
from onnx_ei._batch.supervising import Limits, Supervisor
from onnx_ei.devices import processors

__all__ = ["Setting", "asked", "end_idle"]

_LOOK = 0.5
"""Seconds between two looks at whether the first process is still there."""
_IDLE = 30.0
"""Seconds after which a process that has nothing to do is ended: a cluster's workers stay."""
_LOCK = threading.Lock()
_WATCHING: set[int] = set()
"""Processes that this one does not outlive."""


@dataclass
class _Ready:
    """A process that waits for a task, and since when."""

    supervisor: Supervisor
    since: float


_READY: dict[Limits, list[_Ready]] = {}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a worker of a pool does its tasks.

    Attributes
    ----------
    limits : Limits
        What a process that measures may take.
    kind : str
        ``"loky"``, ``"dask"`` or ``"ray"``.
    owner : int or None
        The process that started the worker, where the worker is not to outlive it.
    tasks_on : mapping of str to int
        How many tasks each host has at once, where that is not known before.
    """

    limits: Limits
    kind: str = "loky"
    owner: int | None = None
    tasks_on: Mapping[str, int] = field(default_factory=dict)


def asked(index: int, setting: Setting, *task: Any) -> tuple[int, tuple[str, Any]]:
    """Do a task in a process that this worker looks after.

    Parameters
    ----------
    index : int
        Which task; it comes back with the outcome.
    setting : Setting
        How.
    *task
        From :func:`onnx_ei._batch.elsewhere.packed`.
    """
    _watch(setting.owner)
    limits, wanted = setting.limits, None
    if setting.kind == "dask":
        limits = replace(limits, threads=_dask_threads(setting))
        wanted = _dask_wants()
    elif setting.kind == "ray":
        limits = replace(limits, threads=_ray_threads())
    supervisor = _taken(limits)
    try:
        return index, supervisor.ask(called, *task, wanted=wanted)
    except BaseException:
        supervisor.close()
        raise
    finally:
        _give_back(limits, supervisor)


def _taken(limits: Limits) -> Supervisor:
    """Take the process that was last at work, which may hold the model already; or a new one."""
    with _LOCK:
        ready = _READY.get(limits)
        return ready.pop().supervisor if ready else Supervisor(limits)


def _give_back(limits: Limits, supervisor: Supervisor) -> None:
    with _LOCK:
        _READY.setdefault(limits, []).append(_Ready(supervisor, time.monotonic()))
    timer = threading.Timer(_IDLE + 1, end_idle)
    timer.daemon = True
    timer.start()


def end_idle(seconds: float = _IDLE) -> None:
    """End the processes that have had nothing to do for some time.

    Parameters
    ----------
    seconds : float
        How long.
    """
    now = time.monotonic()
    with _LOCK:
        for ready in _READY.values():
            for one in [one for one in ready if now - one.since >= seconds]:
                ready.remove(one)
                one.supervisor.close()


def _watch(owner: int | None) -> None:
    if owner is not None and owner not in _WATCHING:
        _WATCHING.add(owner)
        threading.Thread(target=_outlive_not, args=(owner,), daemon=True).start()


def _outlive_not(owner: int) -> None:
    """End this worker when the process that started it is gone: loky's would wait for minutes."""
    while os.getppid() == owner:
        time.sleep(_LOOK)
    os._exit(1)


def _dask_threads(setting: Setting) -> int:
    """Return this task's share of the host's processors."""
    from distributed import get_worker
    from distributed.comm import get_address_host

    most = max(setting.tasks_on.values(), default=1)  # a host that joined later
    tasks = setting.tasks_on.get(get_address_host(get_worker().address), most)
    return max(1, processors() // tasks)


def _dask_wants() -> Callable[[], bool]:
    """Return what tells whether the scheduler still wants this task: no client, no task.

    Dask cannot end a task that runs; the process that does it can be ended.
    """
    from distributed import get_worker

    worker = get_worker()
    key, tasks = worker.get_current_task(), worker.state.tasks
    return lambda: key in tasks and tasks[key].state != "cancelled"


def _ray_threads() -> int:
    """Return the processors that Ray gave to this worker."""
    import ray

    given = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(given.get("CPU", 1)))
