"""numba's threads: it heeds a process's affinity by itself, but not the quota of a container."""

from __future__ import annotations

import os
from typing import Any

import numba

from onnx_ei.devices import processors

__all__ = ["heed_quota"]


def heed_quota() -> None:
    """Use no more threads than there are processors, unless ``NUMBA_NUM_THREADS`` says otherwise.

    With ``docker run --cpus 2`` on a machine of 64, 64 threads would wait for each other.
    """
    settings: Any = numba.config  # get_num_threads would start the threads
    allowed = processors()
    if allowed < settings.NUMBA_NUM_THREADS and "NUMBA_NUM_THREADS" not in os.environ:
        numba.set_num_threads(allowed)
