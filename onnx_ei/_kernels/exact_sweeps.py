"""One input uniform at a time: the joint table of a straight line."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._jit import Array, kernel
from onnx_ei._kernels.exact import _information

_EPSILON = float(np.finfo(np.float64).eps)
# Keeps the logarithm of an empty cell finite.
_TINY = 1e-250


@kernel()
def _line_table(cuts: Array, codes: Array, table: Array) -> None:
    """Share out the input bins among the codes of the pieces that cover them.

    ``cuts`` float64 (m,), ascending, within [0, bins]: where one piece ends and the next begins,
    in bins from the lower end of the range; ``codes`` int64 (m + 1,): of each piece, -1 for out
    of range; ``table`` float64 (codes, bins), filled: the share of each bin that has each code.
    """
    table[:] = 0.0
    n_bins = table.shape[1]
    start = 0.0
    for p in range(codes.size):
        stop = cuts[p] if p < cuts.size else float(n_bins)
        if codes[p] >= 0:
            line = table[codes[p]]
            for i in range(int(start), min(int(stop) + 1, n_bins)):
                line[i] += max(min(stop, i + 1.0) - max(start, float(i)), 0.0)
        start = stop


@kernel()
def _sweeps(
    weights: Array, distances: Array, codes: Array, span: Array, n_bins: int, results: Array
) -> None:
    """Measure one output unit with every input, the other inputs at 0.

    ``weights`` float64 (inputs,), none 0; ``distances`` float64 (2, m): how far above the bias
    each edge of the unit's pieces lies, and how far off that can be; ``codes`` int64 (m + 1,),
    counted from 0 without gaps, -1 for out of range; ``span`` float64 (2,): the input range;
    ``results`` float64 (inputs, 4), filled as by ``_information``.
    """
    n_edges = distances.shape[1]
    n_codes = codes.max() + 1
    low = span[0]
    cuts, turned = np.empty(n_edges), np.empty(codes.size, np.int64)
    table, floors = np.empty((n_codes, n_bins)), np.empty(n_codes)
    for a in range(weights.size):
        weight = weights[a]
        width = (span[1] - low) * weight / n_bins
        floors[:] = _TINY
        for e in range(n_edges):
            # A falling line meets the edges in the opposite order.
            source = e if weight > 0.0 else n_edges - 1 - e
            rise = distances[0, source]
            place = (rise - weight * low) / width
            cuts[e] = min(max(place, 0.0), float(n_bins))
            size = abs(rise) + 2.0 * abs(weight * low)
            off = (distances[1, source] + _EPSILON * size) / abs(width)
            off += 4.0 * _EPSILON * n_bins
            if -off < place < n_bins + off:
                for side in range(2):
                    code = codes[source + side]
                    if code >= 0:
                        floors[code] = min(floors[code] + off, 1.0)
        for p in range(codes.size):
            turned[p] = codes[p if weight > 0.0 else codes.size - 1 - p]
        _line_table(cuts, turned, table)
        _information(table, floors, results[a])
