"""Modules and compiled code loaded without the garbage collector.

Importing numba, onnx-ir and networkx makes more than half a million objects, all of which stay.
Python's collector sorts through them again and again while there are more and more of them, and
once more when the process ends.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collector_paused", "load_libraries"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """Do without the garbage collector for a while; where it is off, it stays off."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def load_libraries() -> None:
    """Import what measuring a model takes, in a process that does nothing else.

    What is there afterwards is never collected: a process of the user's own would not want that.
    """
    with collector_paused():
        import onnx_ir.passes.common  # noqa: F401

        import onnx_ei.analysis  # noqa: F401
    gc.freeze()
