"""Joint histograms of one input, driven alone, and every output; and their bits.

A sweep's outputs follow from one number: of the cells of a pair's histogram a few in each row are
hit, and a thousand samples are fewer than the cells. So only cells that were hit are visited.
"""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._folds import largest_of
from onnx_ei._kernels._jit import Array, kernel
from onnx_ei._kernels.judging import COVERAGE, _conclude, _extrapolate, _sum_margins

_ONE, _ZERO = np.uint32(1), np.uint32(0)
# As in the pairwise kernel: multiples of 2**-20 bit, of 2**-26 for variances, so that no order of
# adding changes a sum.
_GRAIN = 1048576.0
_FINE = 67108864.0
# Samples of an output that are looked at before it is said to move.
_BLOCK = 128


@kernel()
def _find_cells(rows: Array, y: Array, cells: Array) -> None:
    """Find each sample's cell, in a loop that is vectorised.

    ``rows`` uint32 (n,), the input's codes times the row stride; ``y`` unsigned (n,); ``cells``
    uint32 (n,), filled.
    """
    for s in range(cells.size):
        cells[s] = rows[s] + y[s]


@kernel()
def _count_cells(cells: Array, slab: Array, hits: Array) -> None:
    """Count one pair, and note a sample of every cell that is hit.

    ``cells`` as ``_find_cells`` left it; ``slab`` uint32, flat, all 0; ``hits`` uint32 (n + 1,):
    filled with the first sample of each cell, and their number in the last place. Without a branch:
    a first hit is as good as random. 0.8 ns a sample, of which noting takes 0.3.
    """
    number = np.uint64(0)
    for s in range(cells.size):
        cell = np.uint64(cells[s])
        hits[number] = s
        count = slab[cell]
        slab[cell] = count + _ONE
        number += np.uint64(count == _ZERO)
    hits[cells.size] = number


@kernel()
def _sum_hits(
    x: Array, y: Array, hits: Array, slab: Array, tables: Array, n_x: Array, n_y: Array, sums: Array
) -> None:
    """Sum a joint histogram over its rows and columns, as ``_sum_cells`` does.

    ``x`` and ``y`` unsigned (n,) codes; ``hits`` as ``_count_cells`` left it; ``slab`` uint32
    (> x_bins, > y_bins); ``tables`` float64 (n + 1, 6), an estimator's; filled: ``n_x`` int64
    (x_bins,) and ``n_y`` int64 (y_bins,), the margins, and ``sums`` float64 (5, >= x_bins) for
    each x: of the table's first three columns, of cells seen once, of squares.
    """
    n_x[:] = 0
    n_y[:] = 0
    sums[:] = 0.0
    for k in range(hits[x.size]):
        a, b = np.int64(x[hits[k]]), np.int64(y[hits[k]])
        if a < n_x.size and b < n_y.size:
            count = np.int64(slab[a, b])
            n_x[a] += count
            n_y[b] += count
            sums[0, a] += tables[count, 0]
            sums[1, a] += tables[count, 1]
            sums[2, a] += tables[count, 2]
            sums[3, a] += count == 1
            sums[4, a] += count * count


@kernel()
def _weigh_hits(
    ends: tuple[Array, Array],
    hits: Array,
    slab: Array,
    tables: Array,
    n_x: Array,
    n_y: Array,
    totals: Array,
    weights: Array,
) -> None:
    """Find the influence of a sample in each cell: its pointwise information less the mean.

    ``ends``: ``x`` and ``y``, and ``hits`` to ``n_y``, as ``_sum_hits`` left them; ``totals``
    float64 (11,) as ``_extrapolate`` left it, of which the last two are filled, as in
    ``_conclude``; ``weights`` float64 like ``slab``, filled in the cells that were hit: 0 where a
    sample was dropped.
    """
    x, y = ends
    ratio = totals[8]
    mean = 0.0
    triples = 0.0
    for k in range(hits[x.size]):
        a, b = np.int64(x[hits[k]]), np.int64(y[hits[k]])
        weights[a, b] = 0.0
        if a < n_x.size and b < n_y.size:
            count = np.int64(slab[a, b])
            point = tables[count, 3] - tables[n_x[a], 3] - tables[n_y[b], 3]
            tail = tables[count, 4] - tables[n_x[a], 4] - tables[n_y[b], 4]
            weights[a, b] = point - ratio * tail
            mean += count * weights[a, b]
            triples += count * ((n_x[a] - 1.0) * (n_y[b] - 1.0) - count + 1.0)
    mean /= totals[0]
    square = 0.0
    for k in range(hits[x.size]):
        a, b = np.int64(x[hits[k]]), np.int64(y[hits[k]])
        if a < n_x.size and b < n_y.size:
            weights[a, b] -= mean
            square += slab[a, b] * weights[a, b] * weights[a, b]
    totals[9] = square
    totals[10] = triples


@kernel()
def _add_influences(
    cells: Array, hits: Array, weights: Array, scale: float, influence: Array
) -> None:
    """Add one pair's influence on each of the first samples.

    ``cells`` and ``hits`` as in ``_count_cells``; ``weights`` float64, flat: those of the cells
    that were hit are scaled by ``scale`` and rounded to multiples of 2**-20 here, and not once for
    every sample; ``influence`` float64 (m <= n,), added to.
    """
    for k in range(hits[cells.size]):
        cell = np.uint64(cells[hits[k]])
        weights[cell] = np.floor(weights[cell] * scale * _GRAIN + 0.5) / _GRAIN
    for s in range(influence.size):
        influence[s] += weights[np.uint64(cells[s])]


@kernel()
def _in_one_bin(y: Array, least: int, found: Array) -> None:
    """Say whether an output stays in one bin: ``found`` bool (1,), filled; ``y`` unsigned (n,).

    ``least``: samples to compare at a time, so that an output that moves is left early.
    """
    first = y[0]
    found[0] = True
    for start in range(0, y.size, least):
        others = 0
        for s in range(start, min(start + least, y.size)):
            others += y[s] != first
        if others > 0:
            found[0] = False
            break


@kernel()
def _sweep(
    x: Array,
    y: Array,
    bins: tuple[int, Array],
    rule: tuple[Array, Array, int],
    bits: Array,
    kept: Array,
    influence: Array,
    spread: Array,
) -> None:
    """Measure one input and every output.

    ``x`` unsigned (n,) and ``y`` unsigned (outputs, n), codes; ``bins``: the input's, and int64
    (outputs,); ``rule`` as in ``_conclude``; filled: ``bits`` float64 (2, outputs), the estimate
    and its standard error, and ``kept`` int64 (outputs,); ``influence`` float64 (m <= n,) and
    ``spread`` float64 (3,), added to, as in ``_pairwise``. Runs on the calling thread: sweeps are
    independent, and go to a pool of threads.
    """
    x_bins, y_bins = bins
    n_samples = x.size
    stride = largest_of(y_bins) + 1
    rows = x.astype(np.uint32) * np.uint32(stride)
    cells = np.empty(n_samples, np.uint32)
    slab = np.zeros((x_bins + 1, stride), np.uint32)
    weights = np.empty(slab.shape, np.float64)
    hits = np.empty(n_samples + 1, np.uint32)
    n_x = np.empty(x_bins, np.int64)
    counts = np.empty(stride, np.int64)
    sums = np.empty((5, x_bins), np.float64)
    totals = np.empty(11)
    result = np.empty(8)
    still = np.empty(1, np.bool_)
    x_kept = np.int64(0)
    for s in range(n_samples):
        x_kept += x[s] < x_bins
    for b in range(y_bins.size):
        # One input alone moves many outputs by less than a bin, which then tell nothing of it.
        _in_one_bin(y[b], _BLOCK, still)
        if still[0]:
            bits[0, b] = 0.0
            bits[1, b] = 0.0
            kept[b] = x_kept if y[b, 0] < y_bins[b] else 0
            continue
        n_y = counts[: y_bins[b]]
        _find_cells(rows, y[b], cells)
        _count_cells(cells, slab.ravel(), hits)
        _sum_hits(x, y[b], hits, slab, rule[0], n_x, n_y, sums)
        totals[:] = 0.0
        _sum_margins(n_x, n_y, rule[0], sums, totals)
        result[:] = 0.0
        n = totals[0]
        result[5] = n
        if totals[6] != n * n and totals[7] != n * n:
            if rule[2] == COVERAGE:
                _extrapolate(totals)
            _weigh_hits((x, y[b]), hits, slab, rule[0], n_x, n_y, totals, weights)
            # This slab has a row for each x: the other way round than in the pairwise kernel.
            _conclude(slab, rule, n_y, n_x, totals, False, result)
            _add_influences(cells, hits, weights.ravel(), n_samples / n, influence)
        bits[0, b] = result[0]
        bits[1, b] = np.sqrt(result[1] + result[3] * result[3])
        kept[b] = np.int64(n)
        for k in range(3):
            added = result[k + 1] * (n_samples if k < 2 else 1)
            spread[k] += np.floor(added * _FINE + 0.5) / _FINE
        flat = slab.ravel()
        for k in range(hits[n_samples]):
            flat[np.uint64(cells[hits[k]])] = _ZERO
