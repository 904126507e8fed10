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
def _column_codes(column: Array, ends: tuple[float, ...], bins: float, codes: Array) -> None:
    """Bin a unit's values; ``codes`` int32, filled, with ``bins`` for what is out of range.

    ``ends`` are those of the range, and the least and the greatest values that lie on them.
    """
    low, high, least, most = ends
    width = high - low
    last = bins - 1.0
    # Chosen after it is computed, so that nothing branches; what is chosen always fits an int32.
    for i in range(column.size):
        value = np.float64(column[i])
        at: float = ((value - low) * bins) / width
        at = last if at > last else at
        at = 0.0 if at < 0.0 else at
        at = at if value >= least else bins
        at = at if value <= most else bins
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
    x: Array, ends: Array, n_bins: Array, first: int, out: Array, dropped: Array
) -> None:
    """Bin sample-major values into their place among feature-major codes.

    ``x`` float (m, units); ``ends`` float64 (4, units): of ``_column_codes``; ``n_bins`` int64
    (units,); ``out`` unsigned (units, n), filled from sample ``first`` on; ``dropped`` int64
    (units,), added to.
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
            limits = (ends[0, u], ends[1, u], ends[2, u], ends[3, u])
            _column_codes(values, limits, float(n_bins[u]), found)
            line = out[u, first + start : first + stop]
            _store_codes(found, n_bins[u], line, dropped[u : u + 1])
