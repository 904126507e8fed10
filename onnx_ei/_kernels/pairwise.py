"""Joint histograms of pairs of units, and their bits."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._jit import Array, kernel, prange

_ONE = np.uint32(1)
_1, _2, _3, _4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
# Influence is kept in multiples of 2**-20 bit, so that no order of adding changes a sum.
_GRAIN = 1048576.0


@kernel()
def _count_pair(x: Array, rows: Array, slab: Array) -> None:
    """Count one pair: ``slab[rows[s] + x[s]] += 1``.

    ``x`` unsigned (n,) codes; ``rows`` unsigned (n,) codes of the other unit times the row stride;
    ``slab`` uint32, flat. A function of its own: the same loop written inside ``prange`` ran 2 to
    4 times slower, and multiplying the codes here 15 to 20 % slower.
    """
    for s in range(x.size):
        slab[np.uint64(rows[s]) + np.uint64(x[s])] += _ONE


@kernel()
def _sum_cells(
    slab: Array, x_bins: int, y_bins: int, tables: Array, n_x: Array, n_y: Array, sums: Array
) -> None:
    """Sum a joint histogram over its rows and columns.

    ``slab`` uint32 (> y_bins, > x_bins); ``tables`` float64 (n + 1, 2): phi and log2 of counts;
    filled: ``n_x`` and ``n_y`` int64, the marginal counts, and ``sums`` float64 (2, > x_bins): of
    phi(n_xy) and of n_xy log2(n_xy) for each x.
    """
    n_x[:x_bins] = 0
    sums[:, :x_bins] = 0.0
    for y in range(y_bins):
        line = slab[y]
        total = np.int64(0)
        # One sum for each x: a single running sum waits for its last addition at every cell.
        for x in range(x_bins):
            count = np.int64(line[x])
            total += count
            n_x[x] += count
            sums[0, x] += tables[count, 0]
            sums[1, x] += count * tables[count, 1]
        n_y[y] = total


@kernel()
def _estimate(
    x_bins: int, y_bins: int, tables: Array, n_x: Array, n_y: Array, sums: Array, result: Array
) -> None:
    """Turn the sums over a histogram into bits.

    ``tables``, ``n_x``, ``n_y`` and ``sums`` as ``_sum_cells`` left them; ``result`` float64 (3,),
    filled: the estimate, the plug-in estimate, and the samples kept.
    """
    kept = np.int64(0)
    bits = 0.0
    plugin = 0.0
    for x in range(x_bins):
        kept += n_x[x]
        bits += sums[0, x] - tables[n_x[x], 0]
        plugin += sums[1, x] - n_x[x] * tables[n_x[x], 1]
    for y in range(y_bins):
        bits -= tables[n_y[y], 0]
        plugin -= n_y[y] * tables[n_y[y], 1]
    result[:] = 0.0
    if kept > 0:
        result[0] = (bits + tables[kept, 0]) / kept
        result[1] = plugin / kept + tables[kept, 1]
        result[2] = kept


@kernel()
def _weigh_cells(
    slab: Array, tables: Array, n_x: Array, n_y: Array, plugin: float, weights: Array, sums: Array
) -> None:
    """Find each cell's pointwise information less the mean: the influence of a sample in it.

    ``slab`` uint32 (rows, stride); ``tables`` as in ``_sum_cells``; ``n_x`` int64 (x_bins,) and
    ``n_y`` int64 (y_bins,): marginal counts; ``plugin``: the mean, in bits; ``weights`` float64
    like ``slab``, filled: log2(n_xy N / (n_x n_y)) - ``plugin``, 0 in the cells of dropped samples,
    anything in empty ones; ``sums`` float64 (2, >= x_bins), filled: offsets, and the sum of
    n_xy weight**2, for each x.
    """
    offset, square = sums[0], sums[1]
    log_total = tables[n_x.sum(), 1]
    for x in range(n_x.size):
        offset[x] = log_total - tables[n_x[x], 1] - plugin
        square[x] = 0.0
    for y in range(n_y.size):
        line, weight = slab[y], weights[y]
        log_row = tables[n_y[y], 1]
        weight[n_x.size :] = 0.0
        for x in range(n_x.size):
            count = np.int64(line[x])
            deviation = tables[count, 1] + offset[x] - log_row
            weight[x] = deviation
            square[x] += count * deviation * deviation
    weights[n_y.size :] = 0.0


@kernel()
def _add_influence(x: Array, rows: Array, weights: Array, scale: float, influence: Array) -> None:
    """Add one pair's influence, summed over each contiguous block of samples.

    ``x`` and ``rows`` as in ``_count_pair``; ``weights`` float64, flat; ``scale``: a factor of
    every weight; ``influence`` float64 (blocks,), added to in multiples of 2**-20. Four sums over
    neighbours took half the time of one.
    """
    n_samples, n_blocks = x.size, influence.size
    for g in range(n_blocks):
        start = (g * n_samples + n_blocks - 1) // n_blocks
        stop = ((g + 1) * n_samples + n_blocks - 1) // n_blocks
        p, r = x[start:stop], rows[start:stop]
        a = b = c = d = 0.0
        for k in range(p.size // 4):
            s = _4 * np.uint64(k)
            a += weights[np.uint64(r[s]) + np.uint64(p[s])]
            b += weights[np.uint64(r[s + _1]) + np.uint64(p[s + _1])]
            c += weights[np.uint64(r[s + _2]) + np.uint64(p[s + _2])]
            d += weights[np.uint64(r[s + _3]) + np.uint64(p[s + _3])]
        for k in range(p.size - p.size % 4, p.size):
            a += weights[np.uint64(r[k]) + np.uint64(p[k])]
        influence[g] += np.floor((a + b + c + d) * scale * _GRAIN + 0.5) / _GRAIN


@kernel(parallel=True)
def _pairwise(
    in_codes: Array,
    out_codes: Array,
    in_bins: Array,
    out_bins: Array,
    tables: Array,
    bits: Array,
    kept: Array,
    influence: Array,
) -> None:
    """Measure every pair of an input and an output unit.

    ``in_codes`` and ``out_codes`` unsigned (units, n); ``in_bins`` and ``out_bins`` int64;
    ``tables`` as in ``_sum_cells``; filled: ``bits`` float64 (2, inputs, outputs), the estimate
    and its standard error, and ``kept`` int64 (inputs, outputs); ``influence`` float64
    (outputs times groups, blocks), added to: a row for each output unit and group of inputs. One
    task owns one such row and one slab; groups keep the threads busy where outputs are few.
    """
    stride = in_bins.max() + 1
    n_groups = influence.shape[0] // out_bins.size
    for task in prange(influence.shape[0]):
        b = task // n_groups
        group = task % n_groups
        rows = out_codes[b].astype(np.uint32) * np.uint32(stride)
        n_y = np.empty(out_bins[b], np.int64)
        n_x = np.empty(stride, np.int64)
        sums = np.empty((2, stride), np.float64)
        result = np.empty(3, np.float64)
        slab = np.empty((n_y.size + 1, stride), np.uint32)
        weights = np.empty(slab.shape, np.float64)
        begin = group * in_bins.size // n_groups
        end = (group + 1) * in_bins.size // n_groups
        for a in range(begin, end):
            x_bins = in_bins[a]
            slab[:] = 0
            _count_pair(in_codes[a], rows, slab.ravel())
            _sum_cells(slab, x_bins, n_y.size, tables, n_x, n_y, sums)
            _estimate(x_bins, n_y.size, tables, n_x, n_y, sums, result)
            bits[0, a, b] = result[0]
            bits[1, a, b] = 0.0
            kept[a, b] = np.int64(result[2])
            if result[2] > 0.0:
                _weigh_cells(slab, tables, n_x[:x_bins], n_y, result[1], weights, sums)
                bits[1, a, b] = np.sqrt(sums[1, :x_bins].sum()) / result[2]
                scale = rows.size / result[2]
                _add_influence(in_codes[a], rows, weights.ravel(), scale, influence[task])
