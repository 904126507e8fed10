"""What goes wrong in a process that measures: functions that a batch's tests send there."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from onnx_ei import topology_of


def hang(*_: Any) -> None:
    """Take too long."""
    time.sleep(3600)


def eat(*_: Any) -> None:
    """Hold 100 MB more every few milliseconds, up to 3 GB."""
    held = []
    for _ in range(30):
        held.append(np.ones(100_000_000, np.uint8))
        time.sleep(0.05)
    time.sleep(3600)


def die(*_: Any) -> None:
    """End as a crash of native code does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def be_killed(*_: Any) -> None:
    """End as the kernel ends what holds too much."""
    os.kill(os.getpid(), signal.SIGKILL)


def leave(*_: Any) -> None:
    """End without an answer."""
    os._exit(7)


def stumble(*_: Any) -> None:
    """Fail as a bug would."""
    raise ZeroDivisionError("1 / 0")


def run_out(*_: Any) -> None:
    """Fail for lack of memory."""
    raise MemoryError("64 GiB")


def threads() -> tuple[str | None, int]:
    """Say how many threads compute here."""
    import numba

    return os.environ.get("OMP_NUM_THREADS"), int(numba.get_num_threads())


def say_much() -> int:
    """Write to standard output, as some libraries do."""
    os.write(1, b"noise")
    sys.stdout.write("more noise")
    sys.stdout.flush()
    return os.getpid()


def opened(path: str) -> Any:
    """Open a model, and do what its name says first."""
    for name, action in (("hang", hang), ("die", die), ("eat", eat)):
        if Path(path).name.startswith(name):
            action()
    return topology_of(path)


def hanging_activation(values: Any) -> Any:
    """Replace an activation of four units, and hang at any other."""
    if values.shape[-1] != 4:
        hang()
    return values


def end_tasks_badly(dask_worker: Any) -> None:
    """Let a worker of Dask, and those that come after it, not survive a task."""
    from onnx_ei._batch import minding

    minding._taken = be_killed  # type: ignore[assignment]
