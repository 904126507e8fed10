"""Devices: how they are named, what they are, and how many processors there are beside them."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "PROVIDERS",
    "Device",
    "device_name",
    "driver_version",
    "gpu_names",
    "parse_device",
    "parse_devices",
    "processors",
]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""The execution provider of each kind of device."""


class Device(NamedTuple):
    """A device, and what decides the values there.

    Attributes
    ----------
    kind : str
        ``"cpu"`` or ``"cuda"``.
    number : int
        Which of several, as CUDA counts those that it sees.
    tf32 : bool
        Whether a GPU may round the factors of products to 10 bits.
    """

    kind: str
    number: int
    tf32: bool = False

    def __str__(self) -> str:
        """Return its name, as :func:`parse_device` takes it."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.number}"


def parse_device(device: object, tf32: bool = False) -> Device:
    """Turn ``'cpu'``, ``'cuda'``, ``'cuda:1'`` or a ``torch.device`` into a device.

    Parameters
    ----------
    device : str, torch.device or Device
        The device.
    tf32 : bool
        Whether TF32 is asked for.

    Raises
    ------
    TypeError
        If ``tf32`` is no bool.
    ValueError
        If it is none of these, or TF32 is asked for on a CPU.

    Examples
    --------
    >>> parse_device("cuda:1")
    Device(kind='cuda', number=1, tf32=False)
    """
    if not isinstance(tf32, bool):
        raise TypeError(f"tf32 must be True or False, got {tf32!r}")
    if isinstance(device, Device):
        found = device
    else:
        match = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", str(device))
        if match is None:
            many = isinstance(device, list | tuple) or "," in str(device)
            more = "; several are for batch (onnx-ei run -o) and analyze of several models"
            raise ValueError(
                f"device must be 'cpu', 'cuda', 'cuda:N' or a torch.device, got {device!r}"
                f"{more if many else ''}"
            )
        found = Device(match[1], int(match[2] or 0) if match[1] == "cuda" else 0)
    if tf32 and found.kind == "cpu":
        raise ValueError(f"tf32=True is for CUDA devices, and device is {str(device)!r}")
    return found._replace(tf32=tf32 or found.tf32)


def parse_devices(device: object, tf32: bool = False) -> tuple[Device, ...]:
    """Turn a device, or several of one kind, into a tuple of them.

    Parameters
    ----------
    device : str, torch.device, or an iterable of them
        Several in one string are separated by commas.
    tf32 : bool
        Whether TF32 is asked for.

    Raises
    ------
    TypeError, ValueError
        As :func:`parse_device`; if there are none, one is named twice, or they are of two kinds.

    Examples
    --------
    >>> [str(device) for device in parse_devices("cuda:0,cuda:2")]
    ['cuda:0', 'cuda:2']
    """
    many = isinstance(device, Iterable) and not isinstance(device, str | Device)
    listed: Iterable[Any] = device if many else [device]  # type: ignore[assignment]
    if isinstance(device, str):
        listed = [name.strip() for name in device.split(",")]
    found = tuple(parse_device(one, tf32) for one in listed)
    if not found:
        raise ValueError("device names no device; leave it out for 'cpu'")
    for place, one in enumerate(found):
        if one in found[:place]:
            raise ValueError(f"device names {str(one)!r} twice; jobs says how many share one")
    if len({one.kind for one in found}) > 1:
        raise ValueError(f"devices must be of one kind, got {', '.join(map(str, found))}")
    return found


@cache
def device_name(device: object) -> str:
    """Return the name of what a device is: the processor's, or the GPU's.

    Parameters
    ----------
    device : str or torch.device
        As for a measure.
    """
    found = parse_device(device)
    if found.kind == "cuda":
        names = gpu_names()
        return names[found.number] if found.number < len(names) else str(found)
    try:
        name = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        name = None
    return name[1].strip() if name else platform.processor() or platform.machine()


def gpu_names() -> list[str]:
    """Return the names of the GPUs that CUDA sees, in its order; empty where there is no driver.

    The driver itself is asked: it knows ``CUDA_VISIBLE_DEVICES``, and nothing is allocated on a
    GPU.
    """
    driver = _driver()
    number = ctypes.c_int()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(number)):
        return []
    names = []
    for index in range(number.value):
        handle, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        failed = driver.cuDeviceGet(ctypes.byref(handle), index) or driver.cuDeviceGetName(
            name, len(name), handle
        )
        names.append(f"cuda:{index}" if failed else name.value.decode(errors="replace"))
    return names


def driver_version() -> str | None:
    """Return the newest CUDA that the driver runs, such as ``"13.0"``; None without a driver."""
    driver, number = _driver(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(number)):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


@cache
def _driver() -> Any:
    """Return NVIDIA's driver library, or None where it is not there or sees no GPU."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    return None if library.cuInit(0) else library


def processors() -> int:
    """Return how many processors this process may use.

    Affinity (SLURM's ``--cpus-per-task``, ``taskset``) and the quotas of control groups (``docker
    run --cpus``, a limit of Kubernetes) count, unlike for :func:`os.cpu_count`.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # neither on macOS nor on Windows
        allowed = os.cpu_count() or 1
    quota = _quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def _quota(own: Path, root: Path) -> float | None:
    """Return the processors that the control groups of a process leave it, or None for no limit.

    Parameters
    ----------
    own : Path
        The groups that it is in.
    root : Path
        Where they are mounted.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    limits = []
    for _, controllers, name in (line for line in lines if len(line) == 3):
        first = controllers.split(",")
        if controllers and "cpu" not in first:
            continue
        mounts = [root] if not controllers else [root / controllers, root / "cpu"]
        group = Path(name.lstrip("/"))
        for mount in mounts:
            # every group above limits it too; a container sees its own as the root
            for inner in (group, *group.parents):
                limits += _limit(mount / inner)
    return min(limits, default=None)


def _limit(group: Path) -> list[float]:
    """Return the quota of one control group: version 2 has one file, version 1 has two."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return [] if quota == "max" else [int(quota) / int(period)]
    with suppress(OSError, ValueError):
        quota = (group / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:
            return [int(quota) / int((group / "cpu.cfs_period_us").read_text())]
    return []
