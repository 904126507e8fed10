"""The sum and the largest of a vector, for kernels.

Code that calls numba's own, ``values.sum()`` and ``values.max()``, imports numba's array functions
wherever it is loaded, and with them SciPy's linear algebra: a tenth of a second in every process.
"""

from __future__ import annotations

from typing import Any

from onnx_ei._kernels._jit import Array, kernel

__all__ = ["largest_of", "total_of"]


@kernel()
def total_of(values: Array) -> float:
    """Return the sum of ``values``, float64 (n,), taken in order."""
    result = 0.0
    for i in range(values.size):
        result += values[i]
    return result


@kernel()
def largest_of(values: Array) -> Any:
    """Return the largest of ``values``, integers (n >= 1,)."""
    result = values[0]
    for i in range(1, values.size):
        result = max(result, values[i])
    return result
