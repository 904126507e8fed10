"""The one place that touches numba's decorators, so that everything around it can be typed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from numba import njit, prange
from numpy.typing import NDArray

from onnx_ei._kernels._cache import KernelCache

__all__ = ["Array", "kernel", "prange"]

Array = NDArray[Any]
"""An array whose dtype the kernel's docstring states."""

_F = TypeVar("_F", bound=Callable[..., Any])


def kernel(
    *, parallel: bool = False, fused: bool = False, reordered: bool = False
) -> Callable[[_F], _F]:
    """Compile a function with the options that all kernels share.

    Parameters
    ----------
    parallel : bool
        Let ``prange`` spread its tasks over numba's threads.
    fused : bool
        Let a product and a sum be one rounded operation.
    reordered : bool
        ``fused``, and let sums be taken in another order, so that they are vectorised. Only for
        sums of numbers of one sign: it also pulls constants out of brackets that cancel.

    Returns
    -------
    callable
        A decorator that keeps the function's type.
    """
    # NumPy's error model: the check for a zero divisor would keep loops from being vectorised.
    options: dict[str, Any] = {"nogil": True, "parallel": parallel, "error_model": "numpy"}
    if fused:
        options["fastmath"] = {"contract"}
    if reordered:
        options["fastmath"] = {"contract", "reassoc", "nsz", "nnan"}

    def decorate(function: _F) -> _F:
        compiled: Any = njit(**options)(function)
        # With NUMBA_DISABLE_JIT=1 this is the function itself. A read-only install without a
        # writable home has nowhere to keep compiled code.
        if compiled is not function:
            with suppress(RuntimeError):
                compiled._cache = KernelCache(function)
        return cast(_F, compiled)

    return decorate
