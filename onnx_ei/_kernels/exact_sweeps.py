"""One input uniform at a time: the joint table of a straight line, of which few cells are hit."""

from __future__ import annotations

import math

import numpy as np

from onnx_ei._kernels._folds import largest_of
from onnx_ei._kernels._jit import Array, kernel
from onnx_ei._kernels.exact import _logs

_EPSILON = float(np.finfo(np.float64).eps)
_LN2 = math.log(2.0)


@kernel()
def _line_cells(cuts: Array, codes: Array, table: Array, hits: Array) -> None:
    """Share out the input bins among the codes of the pieces that cover them.

    ``cuts`` float64 (m,), ascending, within [0, bins]: where one piece ends and the next begins,
    in bins from the lower end of the range; ``codes`` int64 (m + 1,): of each piece, -1 for out
    of range; ``table`` float64 (codes, bins), all 0, added to: the share of each bin that has each
    code; ``hits`` int64 (bins + m + 2,): filled with the flat places of the cells above 0, and
    their number in the last place.
    """
    n_bins = table.shape[1]
    flat = table.ravel()
    number = 0
    start = 0.0
    for p in range(codes.size):
        stop = cuts[p] if p < cuts.size else float(n_bins)
        if codes[p] >= 0 and stop > start:
            for i in range(int(start), min(int(stop) + 1, n_bins)):
                share = min(stop, i + 1.0) - max(start, float(i))
                if share > 0.0:
                    cell = codes[p] * n_bins + i
                    if flat[cell] == 0.0:
                        hits[number] = cell
                        number += 1
                    flat[cell] += share
        start = stop
    hits[hits.size - 1] = number


@kernel()
def _bound_cells(missing: float, kept: float, n_rows: int, n_columns: int, bound: Array) -> None:
    """Bound by how much a joint distribution's information differs from that of a near one.

    ``missing``: the sum of the differences of all cells; ``kept``: the mass of the one known, less
    than 1 where samples drop out; ``bound`` float64 (1,), filled, in nats. Either distribution is
    the cells over their mass, so that they differ by at most d = missing / kept in variation. Each
    of the three entropies then differs by at most d log(states - 1) + h(d): Zhang, "Estimating
    mutual information via Kolmogorov distance", IEEE Trans. Inform. Theory 53(9), 2007.
    """
    ceiling = math.log(min(n_rows, n_columns))
    bound[0] = ceiling
    if kept > 2.0 * missing and missing > 0.0:
        d = missing / kept
        states = math.log(max(n_rows - 1, 1)) + math.log(max(n_columns - 1, 1))
        states += math.log(max(n_rows * n_columns - 1, 1))
        near = d * states - 3.0 * (d * math.log(d) + (1.0 - d) * math.log1p(-d))
        bound[0] = min(near, ceiling)
    elif missing == 0.0:
        bound[0] = 0.0


@kernel(fused=True)
def _cells_information(table: Array, hits: Array, missing: float, result: Array) -> None:
    """Measure a table of which few cells are above 0, and bound the error of it.

    ``table`` and ``hits`` as ``_line_cells`` left them; ``missing``: what all cells together can
    be off by, in shares of a bin; ``result`` float64 (4,), filled as by ``_information``.
    """
    n_rows, n_columns = table.shape
    number = hits[hits.size - 1]
    flat = table.ravel()
    in_row, in_column = np.zeros(n_rows), np.zeros(n_columns)
    ratios, logs = np.empty(number), np.empty(number)
    mantissas, exponents = np.empty(number, np.uint64), np.empty(number, np.uint64)
    total = 0.0
    for k in range(number):
        cell = flat[hits[k]]
        in_row[hits[k] // n_columns] += cell
        in_column[hits[k] % n_columns] += cell
        total += cell
    for k in range(number):
        outer = in_row[hits[k] // n_columns] * in_column[hits[k] % n_columns]
        ratios[k] = flat[hits[k]] / outer * total
    _logs(ratios, mantissas, exponents, logs)
    nats = 0.0
    for k in range(number):
        nats += flat[hits[k]] * logs[k]
    if total > 0.0:
        nats /= total
    if min(n_rows, n_columns) == 1:
        nats = 0.0
    bound = np.empty(1)
    _bound_cells(missing, total / n_columns, n_rows, n_columns, bound)
    ceiling = math.log(min(n_rows, n_columns))
    result[0] = max(nats / _LN2, 0.0)
    result[1] = min(bound[0] + 1e-14 * (1.0 + nats), max(nats, ceiling - nats)) / _LN2
    if total == 0.0 and missing == 0.0:
        result[1] = 0.0  # nothing is in range, for certain
    result[2] = total / n_columns
    result[3] = missing


@kernel()
def _sweeps(
    weights: Array, distances: Array, codes: Array, span: Array, n_bins: int, results: Array
) -> None:
    """Measure one output unit with every input, the other inputs at 0.

    ``weights`` float64 (inputs,), none 0; ``distances`` float64 (2, m): how far above the bias
    each edge of the unit's pieces lies, and how far off that can be; ``codes`` int64 (m + 1,),
    counted from 0 without gaps, -1 for out of range; ``span`` float64 (2,): the input range;
    ``results`` float64 (inputs, 4), filled as by ``_information``. A line hits no more cells than
    there are bins and edges together: of 64 x 64 an eighth of what a whole table costs.
    """
    n_edges = distances.shape[1]
    low = span[0]
    cuts, turned = np.empty(n_edges), np.empty(codes.size, np.int64)
    table = np.zeros((largest_of(codes) + 1, n_bins))
    flat = table.ravel()
    hits = np.empty(n_bins + n_edges + 2, np.int64)
    for a in range(weights.size):
        weight = weights[a]
        width = (span[1] - low) * weight / n_bins
        missing = 0.0
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
                    # Of this code, as much as that in all bins together: in one, or in two.
                    if codes[source + side] >= 0:
                        missing += off
        for p in range(codes.size):
            turned[p] = codes[p if weight > 0.0 else codes.size - 1 - p]
        _line_cells(cuts, turned, table, hits)
        _cells_information(table, hits, missing / n_bins, results[a])
        for k in range(hits[hits.size - 1]):
            flat[hits[k]] = 0.0
