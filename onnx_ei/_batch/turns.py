"""Several devices: each process of a run has one, as few processes to a device as can be."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx_ei.devices import Device

__all__ = ["check_devices", "device_in_turn", "tidy_after"]

_PLACES: dict[str, tuple[Any, int]] = {}
"""This process's place in a run, and the lock that keeps it, by the run."""


def device_in_turn(devices: Sequence[Device], run: str) -> Device:
    """Return the device of this process.

    The processes of a run on one machine have places, from 0 on, and the devices are dealt to
    them in turn. A place is a locked file: where a process dies, the system unlocks it, and the
    process that comes after takes the place, and the device.

    Parameters
    ----------
    devices : sequence of Device
        All of them.
    run : str
        A name of the run that no other has.

    Examples
    --------
    >>> device_in_turn([Device("cpu", 0)], "any")
    Device(kind='cpu', number=0, tf32=False)
    """
    if len(devices) == 1:
        return devices[0]
    if run not in _PLACES:
        for lock, _ in _PLACES.values():  # a process that stayed from an earlier run
            lock.release()
        _PLACES.clear()
        _PLACES[run] = _first_free(Path(tempfile.gettempdir(), f"onnx-ei-{run}"))
    return devices[_PLACES[run][1] % len(devices)]


def _first_free(folder: Path) -> tuple[Any, int]:
    from filelock import FileLock, Timeout

    folder.mkdir(exist_ok=True)
    place = 0
    while True:
        lock = FileLock(folder / f"{place}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            place += 1
        else:
            return lock, place


def tidy_after(run: str) -> None:
    """Remove what the places of a run leave on this machine, when this process ends."""
    folder = Path(tempfile.gettempdir(), f"onnx-ei-{run}")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def check_devices(devices: Sequence[Device]) -> None:
    """Refuse devices that cannot be had, before any work is done.

    GPUs are tried in a process of their own: this one would keep memory of each.

    Parameters
    ----------
    devices : sequence of Device
        All of them.

    Raises
    ------
    BackendError
        If one cannot be had, or onnxruntime is missing, or installed twice.
    """
    from onnx_ei._batch.supervising import Limits, Supervisor
    from onnx_ei.errors import BackendError
    from onnx_ei.sessions import check_device

    if devices[0].kind == "cpu":
        check_device(devices[0])
        return
    beside = Supervisor(Limits(threads=1))
    try:
        for device in devices:
            outcome, answer = beside.ask(check_device, device)
            if outcome != "done":
                raise BackendError(str(answer))
    finally:
        beside.close()
