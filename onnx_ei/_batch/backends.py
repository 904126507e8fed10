"""The pools that joblib knows: loky's processes here, or the workers of a Dask or Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any

from onnx_ei._batch.minding import end_idle
from onnx_ei._sampling.parameters import whole
from onnx_ei.devices import processors
from onnx_ei.errors import BackendError, MissingDependencyError, closest

__all__ = ["BACKENDS", "SPLITS", "Cluster", "Workers", "opened", "threads_each"]

BACKENDS = ("loky", "dask", "ray")
"""Processes on this machine, and two kinds of clusters."""
SPLITS = ("layers", "samples")
"""What is spread: whole layers, or the samples of one layer after another."""
_PACKAGES = {"dask": "distributed", "ray": "ray"}
_ANSWER = 10
"""Seconds that a scheduler has to answer."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who does the work.

    Parameters
    ----------
    jobs : int, optional
        Tasks at once: by default one a device, or as many as the cluster takes.
    backend : str
        One of ``BACKENDS``.
    scheduler : str, optional
        The address of a cluster's.
    split : str
        One of ``SPLITS``.

    Raises
    ------
    TypeError, ValueError
        If they make no sense together.
    MissingDependencyError
        If the backend's package is not installed.
    """

    jobs: int | None = None
    backend: str = "loky"
    scheduler: str | None = None
    split: str = "layers"

    def __post_init__(self) -> None:
        """Check everything that can be checked without a cluster."""
        if self.jobs is not None:
            object.__setattr__(self, "jobs", whole("jobs", self.jobs, 1))
        for name, value, known in (
            ("backend", self.backend, BACKENDS),
            ("split", self.split, SPLITS),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: {closest(str(value), known)}")
        if self.scheduler is not None and self.backend == "loky":
            raise ValueError(
                f"scheduler {self.scheduler!r} is for backend 'dask' or 'ray': 'loky' is processes "
                "of this machine and has none"
            )
        if self.split == "samples" and self.backend == "loky" and self.jobs == 1:
            raise ValueError("split 'samples' needs more than one job, or backend 'dask' or 'ray'")
        package = _PACKAGES.get(self.backend)
        if package is not None and find_spec(package) is None:
            raise MissingDependencyError(
                f"backend {self.backend!r} needs {package}, which is not installed: "
                f'pip install "onnx-ei[{self.backend}]"'
            )

    @property
    def remote(self) -> bool:
        """Whether they may be on other machines."""
        return self.backend != "loky"

    @property
    def devices_here(self) -> bool:
        """Whether this machine needs the devices: what is split is put together here."""
        return not self.remote or self.split == "samples"

    @property
    def alone(self) -> bool:
        """Whether there is but one of them, here."""
        return not self.remote and self.jobs in (None, 1)

    def on(self, devices: int) -> Workers:
        """Return the same, with as many jobs here as there are devices where none are named.

        Parameters
        ----------
        devices : int
            How many.

        Raises
        ------
        ValueError
            If there is one job, and nobody to split its samples with.
        """
        return self if self.remote or self.jobs is not None else replace(self, jobs=devices)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Workers that are there.

    Attributes
    ----------
    slots : int
        Tasks that they do at once.
    parallel : mapping
        Arguments of ``joblib.Parallel``.
    tasks_on : mapping of str to int
        Tasks at once on each host, where it is for the worker to take its share of a host.
    """

    slots: int
    parallel: Mapping[str, Any]
    tasks_on: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def opened(workers: Workers) -> Iterator[Cluster]:
    """Reach the workers, and leave them as they were.

    Parameters
    ----------
    workers : Workers
        Who.

    Yields
    ------
    Cluster

    Raises
    ------
    BackendError
        If the scheduler does not answer, or has no workers.
    """
    if workers.alone:
        yield Cluster(slots=1, parallel={})
        return
    how = {"loky": _loky, "dask": _dask, "ray": _ray}[workers.backend]
    with how(workers) as cluster:
        yield cluster


@contextmanager
def _loky(workers: Workers) -> Iterator[Cluster]:
    from joblib.externals.loky import reusable_executor

    before = reusable_executor._executor
    jobs = workers.jobs or 1
    try:
        yield Cluster(slots=jobs, parallel={"backend": "loky", "n_jobs": jobs})
    finally:
        made = reusable_executor._executor
        # joblib would keep them for five minutes; those that the caller had are the caller's
        if made is not None and (before is None or before._flags.shutdown):
            made.shutdown(wait=True, kill_workers=True)


@contextmanager
def _dask(workers: Workers) -> Iterator[Cluster]:
    from distributed import Client, get_client
    from distributed.comm import get_address_host

    if workers.scheduler is None:
        try:
            client = get_client()
        except ValueError:
            raise ValueError(
                "backend 'dask' needs the address of a scheduler (--scheduler tcp://HOST:8786), "
                "or an open dask.distributed.Client"
            ) from None
    else:
        try:
            client = Client(workers.scheduler, timeout=_ANSWER, set_as_default=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise BackendError(_silent("dask", workers.scheduler, error)) from error
    try:
        client.wait_for_workers(1, timeout=_ANSWER)
        _check_versions(client)
        threads = client.nthreads()
        tasks_on: dict[str, int] = {}
        for address, count in threads.items():
            host = get_address_host(address)
            tasks_on[host] = tasks_on.get(host, 0) + count
        slots = sum(threads.values())
        yield Cluster(
            slots=slots if workers.jobs is None else min(slots, workers.jobs),
            parallel={"backend": _dask_backend(client)},
            tasks_on=tasks_on,
        )
        client.run(end_idle, 0.0)
    except TimeoutError as error:
        raise BackendError(
            f"the Dask scheduler at {client.scheduler.address} has no workers: start some with "
            f"'dask worker {client.scheduler.address}'"
        ) from error
    finally:
        if workers.scheduler is not None:
            client.close()


def _check_versions(client: Any) -> None:
    """Refuse workers that have no onnx_ei, or another: Dask would let one after another die."""
    import onnx_ei

    # a function that every Python has
    there = client.run(resolve_name, "onnx_ei:__version__", on_error="return")
    for worker, version in there.items():
        if version != onnx_ei.__version__:
            raise BackendError(
                f"the Dask worker {worker} has not onnx_ei {onnx_ei.__version__} ({version!r}): "
                "install the same everywhere"
            )


def _dask_backend(client: Any) -> Any:
    """Return joblib's backend for Dask, made to say what it is silent about."""
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):  # type: ignore[misc]
        def effective_n_jobs(self, n_jobs: int) -> int:
            # at 1 joblib would do the tasks itself, here
            return max(2, int(super().effective_n_jobs(n_jobs)))

        def submit(self, func: Any, callback: Any = None) -> Any:
            # Where a task's worker dies, or cannot read it, joblib would wait for ever.
            future = super().submit(func, callback)
            future.add_done_callback(
                lambda done: None if done.exception() is None else callback(done.exception())
            )
            return future

        def abort_everything(self, ensure_ready: bool = True) -> None:
            # joblib leaves what runs to run
            self.client.cancel(list(self._results))
            super().abort_everything(ensure_ready)

        def retrieve_result_callback(self, out: Any) -> Any:
            if isinstance(out, BaseException):
                raise BackendError(f"Dask gave a task up: {type(out).__name__}: {out}") from out
            return super().retrieve_result_callback(out)

    return Backend(client=client)


@contextmanager
def _ray(workers: Workers) -> Iterator[Cluster]:
    import ray

    began = not ray.is_initialized()
    if began:
        _check_answers(workers.scheduler)
        # of a cluster that is begun here: nobody asked for reports
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            with _own_sigterm():
                ray.init(address=workers.scheduler, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            raise BackendError(_silent("ray", str(workers.scheduler), error)) from error
    try:
        nodes = [int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]]
        total = sum(nodes)
        if total == 0:
            raise BackendError("the Ray cluster has no processors: start a node with 'ray start'")
        jobs = total if workers.jobs is None else min(workers.jobs, total)
        backend = _ray_backend(nodes, jobs)
        try:
            yield Cluster(slots=jobs, parallel={"backend": backend, "n_jobs": max(2, jobs)})
        except ray.exceptions.RayError as error:
            raise BackendError(f"Ray gave a task up: {type(error).__name__}: {error}") from error
        finally:
            backend.end()
    finally:
        if began:
            ray.shutdown()


def _ray_backend(nodes: list[int], jobs: int) -> Any:
    """Return Ray's backend for joblib, each of its workers with as many processors as there are."""
    from ray.util.joblib.ray_backend import RayBackend

    at_least = max(2, jobs)  # at 1 joblib would do the tasks itself, here
    # as many processors each as let all of them be there at once, none over two nodes
    sizes = range(max(nodes), 0, -1)
    each = next((n for n in sizes if sum(node // n for node in nodes) >= at_least), 0.5)

    class Backend(RayBackend):  # type: ignore[misc]
        supports_return_generator = True  # its pool calls back, which is all that this takes

        def effective_n_jobs(self, n_jobs: int) -> int:
            return at_least

        def configure(self, n_jobs: int = 1, parallel: Any = None, **given: Any) -> int:
            # another pool takes five seconds to start; this one serves the next call too
            if self._pool is None:
                return int(super().configure(n_jobs, parallel, **given))
            self.parallel = parallel
            return at_least

        def terminate(self) -> None:
            """Keep the pool."""

        def abort_everything(self, ensure_ready: bool = True) -> None:
            self.end()

        def end(self) -> None:
            """End the pool."""
            super().terminate()

    return Backend(ray_remote_args={"num_cpus": each})


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what SIGTERM does here: Ray puts its own in that place, which ends the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_answers(scheduler: str | None) -> None:
    """Refuse an address where nothing listens: Ray would try for minutes."""
    host, _, port = (scheduler or "").rpartition("//")[2].rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto", or none
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except OSError as error:
        raise BackendError(_silent("ray", str(scheduler), error)) from error


def _silent(backend: str, scheduler: str, error: Exception) -> str:
    said = str(error).strip().split("\n", maxsplit=1)[0][:300] or type(error).__name__
    return (
        f"the scheduler {scheduler!r} of backend {backend!r} does not answer: {said}; "
        "check the address, and that it can be reached from here"
    )


def threads_each(jobs: int) -> int:
    """Return the threads that each of several processes of this machine may compute with.

    Parameters
    ----------
    jobs : int
        How many there are.
    """
    return max(1, processors() // jobs)
