"""Values to codes."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._jit import Array, kernel

# Samples of a unit at a time: enough for vector instructions, few enough that the rows they come
# from stay in the L1 cache until the next unit reads them. Of 32 to 256 the fastest.
_BLOCK = 128


@kernel()
def _take_column(flat: Array, first: int, step: int, column: Array) -> None:
    """Copy ``flat[first + i * step]`` to ``column[i]``.

    Vectors of a column are what the next loops want; a strided loop of divisions took 1.6 times
    as long at 64 units, and 2.9 times at 256.
    """
    at = np.uint64(first)
    for i in range(column.size):
        column[i] = flat[at]
        at += np.uint64(step)


@kernel()
def _widen_ends(column: Array, low: float, high: float, slack: float) -> None:
    """Put what is no further than ``slack`` past an end on that end."""
    for i in range(column.size):
        value: float = np.float64(column[i])
        above = value > high and value - high <= slack
        below = value < low and low - value <= slack
        value = high if above else value
        column[i] = low if below else value


@kernel()
def _column_codes(column: Array, low: float, high: float, bins: float, codes: Array) -> None:
    """Bin a unit's values; ``codes`` int32, filled, with ``bins`` for what is out of range."""
    width = high - low
    last = bins - 1.0
    # Chosen after it is computed, so that nothing branches; what is chosen always fits an int32.
    for i in range(column.size):
        value = np.float64(column[i])
        at: float = ((value - low) * bins) / width
        at = last if at > last else at
        at = at if value >= low else bins
        at = at if value <= high else bins
        codes[i] = np.int32(at)


@kernel()
def _store_codes(codes: Array, n_bins: int, line: Array, dropped: Array) -> None:
    """Narrow ``codes`` into ``line``; add how many are ``n_bins`` to ``dropped``, shape (1,)."""
    missing = 0
    for i in range(codes.size):
        missing += codes[i] == n_bins
        line[i] = codes[i]
    dropped[0] += missing


@kernel()
def _bin_values(
    x: Array, lower: Array, upper: Array, n_bins: Array, out: Array, dropped: Array
) -> None:
    """Bin sample-major values into feature-major codes.

    ``x`` float (n, units); ``lower``, ``upper`` float64 (units,); ``n_bins`` int64 (units,);
    ``out`` unsigned (units, n), filled; ``dropped`` int64 (units,), added to.
    """
    n_samples, n_units = x.shape
    flat = x.ravel()
    column = np.empty(_BLOCK, x.dtype)
    codes = np.empty(_BLOCK, np.int32)
    for start in range(0, n_samples, _BLOCK):
        stop = min(start + _BLOCK, n_samples)
        values, found = column[: stop - start], codes[: stop - start]
        for u in range(n_units):
            _take_column(flat, start * n_units + u, n_units, values)
            _column_codes(values, lower[u], upper[u], float(n_bins[u]), found)
            _store_codes(found, n_bins[u], out[u, start:stop], dropped[u : u + 1])


@kernel()
def _bin_rounded(
    x: Array, lower: Array, upper: Array, slack: Array, n_bins: Array, out: Array
) -> None:
    """Bin sample-major values into feature-major codes, ends widened by what rounding can do.

    As ``_bin_values``, and ``slack`` float64 (units,): what is no further past an end lies on it.
    """
    n_samples, n_units = x.shape
    flat = x.ravel()
    column = np.empty(_BLOCK, np.float64)
    codes = np.empty(_BLOCK, np.int32)
    dropped = np.zeros(1, np.int64)
    for start in range(0, n_samples, _BLOCK):
        stop = min(start + _BLOCK, n_samples)
        values, found = column[: stop - start], codes[: stop - start]
        for u in range(n_units):
            _take_column(flat, start * n_units + u, n_units, values)
            _widen_ends(values, lower[u], upper[u], slack[u])
            _column_codes(values, lower[u], upper[u], float(n_bins[u]), found)
            _store_codes(found, n_bins[u], out[u, start:stop], dropped)
