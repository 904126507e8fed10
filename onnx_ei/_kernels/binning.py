"""Values to codes."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._jit import Array, kernel


@kernel()
def _bin_values(
    x: Array, lower: Array, upper: Array, n_bins: Array, out: Array, dropped: Array
) -> None:
    """Bin sample-major values into feature-major codes.

    ``x`` float (n, units); ``lower``, ``upper`` float64 (units,); ``n_bins`` int64 (units,);
    ``out`` unsigned (units, n), filled; ``dropped`` int64 (units,), added to.
    """
    n_samples, n_units = x.shape
    # 64 samples of every unit stay in the L2 cache while the block is transposed.
    block = 64
    for start in range(0, n_samples, block):
        stop = min(start + block, n_samples)
        for u in range(n_units):
            low = lower[u]
            high = upper[u]
            width = high - low
            bins = float(n_bins[u])
            last = n_bins[u] - 1
            missing = 0
            for s in range(start, stop):
                value = np.float64(x[s, u])
                if value >= low and value <= high:
                    out[u, s] = min(int(((value - low) * bins) / width), last)
                else:
                    out[u, s] = n_bins[u]
                    missing += 1
            dropped[u] += missing


@kernel()
def _bin_rounded(
    x: Array, lower: Array, upper: Array, slack: Array, n_bins: Array, out: Array
) -> None:
    """Bin sample-major values into feature-major codes, ends widened by what rounding can do.

    As ``_bin_values``, and ``slack`` float64 (units,): what is no further past an end lies on it.
    """
    n_samples, n_units = x.shape
    # As in _bin_values: a block stays in the cache while it is transposed.
    block = 64
    for start in range(0, n_samples, block):
        stop = min(start + block, n_samples)
        for u in range(n_units):
            low = lower[u]
            high = upper[u]
            width = high - low
            bins = float(n_bins[u])
            last = n_bins[u] - 1
            for s in range(start, stop):
                value = np.float64(x[s, u])
                if value > high and value - high <= slack[u]:
                    value = high
                if value < low and low - value <= slack[u]:
                    value = low
                if value >= low and value <= high:
                    out[u, s] = min(int(((value - low) * bins) / width), last)
                else:
                    out[u, s] = n_bins[u]
