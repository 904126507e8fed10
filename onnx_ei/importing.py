"""Modules and compiled code loaded without the garbage collector, and some of them later or never.

Importing numba, onnx-ir and networkx makes more than a hundred thousand objects, all of which stay.
Python's collector sorts through them again and again while there are more and more of them, and
once more when the process ends.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

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


_LATER = ("sympy", "onnx_ir._symbolic_shapes")
"""What onnx-ir imports for arithmetic with open dimensions, which few models need: half a second.
The second makes use of the first when it is imported."""


class _Lazily:
    """Finds modules that load when something in them is first asked for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target) if name in _LATER else None
        if found is not None and found.loader is not None:
            found.loader = LazyLoader(found.loader)
        return found


def load_libraries() -> None:
    """Import what measuring a model takes, in a process that does nothing else.

    What is there afterwards is never collected, and some modules are still to be loaded: a process
    of the user's own would not want that.
    """
    lazily = _Lazily()
    sys.meta_path.insert(0, lazily)
    try:
        with collector_paused():
            for name in ("onnx_ir.passes.common", "onnx_ei.analysis"):
                import_module(name)
    finally:
        sys.meta_path.remove(lazily)
    gc.freeze()
