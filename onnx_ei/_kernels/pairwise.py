"""Joint histograms of pairs of units, and their bits."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._folds import largest_of, total_of
from onnx_ei._kernels._jit import Array, kernel, prange
from onnx_ei._kernels.judging import COVERAGE, _conclude, _extrapolate, _sum_margins

_ONE = np.uint32(1)
_SEEN_ONCE = np.uint64(1)
# Influence is kept in multiples of 2**-20 bit, and variances of 2**-26, so that no order of adding
# changes a sum.
_GRAIN = 1048576.0
_FINE = 67108864.0
# Cells of a table of two samples' cells that the L1 cache holds: 32 KiB.
SQUARE = 8192


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
def _count_two_pairs(x: Array, other: Array, rows: Array, slab: Array, other_slab: Array) -> None:
    """Count two pairs that share a unit, at 0.91 of the time: increments that need not wait.

    As ``_count_pair``, of ``x`` into ``slab`` and of ``other`` into ``other_slab``. Of four at
    once the gain was the same.
    """
    for s in range(rows.size):
        row = np.uint64(rows[s])
        slab[row + np.uint64(x[s])] += _ONE
        other_slab[row + np.uint64(other[s])] += _ONE


@kernel()
def _join_codes(codes: Array, step: int, twos: Array) -> None:
    """Join every two codes that follow each other: ``codes[2 i] * step + codes[2 i + 1]``.

    ``codes`` unsigned (n,); ``twos`` unsigned (n // 2,), filled.
    """
    for i in range(twos.size):
        twos[i] = codes[2 * i] * np.uint32(step) + codes[2 * i + 1]


@kernel()
def _count_twos(x: Array, rows: Array, step: int, square: Array, slab: Array) -> None:
    """Count one pair of units, two samples an increment: half the increments, and a fold.

    ``x`` and ``rows`` unsigned (m,): of each two samples, what ``_count_pair`` takes, joined by
    ``_join_codes`` with ``step``, at least ``slab.size``; ``square`` uint32 (step**2,), scratch;
    ``slab`` uint32, flat, added to. At 8 bins and 10**5 samples 1.7 times as fast, as long as the
    L1 cache holds ``square``.
    """
    square[:] = 0
    _count_pair(x, rows, square)
    for first in range(slab.size):
        line = square[first * step : first * step + slab.size]
        total = np.uint32(0)
        for second in range(slab.size):
            total += line[second]
            slab[second] += line[second]
        slab[first] += total


@kernel()
def _sum_cells(slab: Array, tables: Array, n_x: Array, n_y: Array, sums: Array) -> None:
    """Sum a joint histogram over its rows and columns.

    ``slab`` uint32 (> y_bins, > x_bins); ``tables`` float64 (n + 1, 6), an estimator's; filled:
    ``n_x`` int64 (x_bins,) and ``n_y`` int64 (y_bins,), the margins, and ``sums`` float64
    (5, >= x_bins) for each x: of the table's first three columns, of cells seen once, of squares.
    """
    # Columns outside, so that a column's sums stay in registers: row by row they went to memory and
    # back for every cell, which took 1.9 times as long.
    n_y[:] = 0
    for x in range(n_x.size):
        first = 0.0
        second = 0.0
        third = 0.0
        total = np.int64(0)
        once = np.int64(0)
        squares = np.int64(0)
        for y in range(n_y.size):
            count = np.uint64(slab[y, x])
            first += tables[count, 0]
            second += tables[count, 1]
            third += tables[count, 2]
            total += np.int64(count)
            n_y[y] += np.int64(count)
            once += count == _SEEN_ONCE
            squares += np.int64(count * count)
        sums[0, x] = first
        sums[1, x] = second
        sums[2, x] = third
        sums[3, x] = once
        sums[4, x] = squares
        n_x[x] = total


@kernel()
def _weigh_cells(
    slab: Array, tables: Array, ratio: float, n_x: Array, n_y: Array, weights: Array, sums: Array
) -> None:
    """Find each cell's pointwise information less the mean: the influence of a sample in it.

    ``slab`` uint32 (rows, stride), not empty; ``tables``, ``n_x``, ``n_y`` as in ``_sum_cells``;
    the pointwise information is p(n_xy) - p(n_x) - p(n_y), p the table's fourth column less
    ``ratio`` times its fifth; ``weights`` float64 like ``slab``, filled, 0 in the cells of dropped
    samples, anything in empty ones; ``sums`` float64 (5, >= x_bins), the first four filled for
    each x: offsets; n_xy weight**2; n_xy ((n_x - 1) (n_y - 1) - n_xy + 1), the ways of drawing a
    sample, another of its x and a third of its y; n_x - 1.
    """
    x_bins = n_x.size
    offset, square, triples, fewer = sums[0], sums[1], sums[2], sums[3]
    for x in range(x_bins):
        offset[x] = ratio * tables[n_x[x], 4] - tables[n_x[x], 3]
        # Here, since there is no vector instruction from int64 to float64.
        fewer[x] = n_x[x] - 1.0
        square[x] = 0.0
        triples[x] = 0.0
    total = 0.0
    for y in range(n_y.size):
        line, weight = slab[y], weights[y]
        level = ratio * tables[n_y[y], 4] - tables[n_y[y], 3]
        others = n_y[y] - 1.0
        # Two loops: the lookups of the first would keep the second from being vectorised.
        for x in range(x_bins):
            count = np.uint64(line[x])
            weight[x] = tables[count, 3] - ratio * tables[count, 4] + offset[x] + level
        for x in range(x_bins):
            # By way of int32, from which there is a vector instruction to float64.
            seen = np.float64(np.int32(line[x]))
            square[x] += seen * weight[x]
            triples[x] += seen * (fewer[x] * others - seen + 1.0)
        weight[x_bins:] = 0.0
    weights[n_y.size :] = 0.0
    kept = 0.0
    for x in range(x_bins):
        total += square[x]
        kept += n_x[x]
        square[x] = 0.0
    mean = total / kept
    for y in range(n_y.size):
        line, weight = slab[y], weights[y]
        for x in range(x_bins):
            weight[x] -= mean
            square[x] += np.float64(np.int32(line[x])) * weight[x] * weight[x]


@kernel()
def _measure_pair(
    slab: Array,
    rule: tuple[Array, Array, int],
    n_x: Array,
    n_y: Array,
    weights: Array,
    sums: Array,
    tested: bool,
    result: Array,
) -> None:
    """Turn a joint histogram into bits, variances, and the influence of a sample in each cell.

    ``slab``, ``n_x``, ``n_y`` and ``weights`` as in ``_weigh_cells``; ``rule``, ``tested`` and
    ``result`` as in ``_conclude``; ``sums`` float64 (5, >= x_bins), scratch. Where none are kept,
    or one end is constant, there are no bits, no errors and no influence.
    """
    totals = np.zeros(11)
    _sum_cells(slab, rule[0], n_x, n_y, sums)
    _sum_margins(n_x, n_y, rule[0], sums, totals)
    result[:] = 0.0
    n = totals[0]
    if totals[6] == n * n or totals[7] == n * n:
        weights[:] = 0.0
        result[5] = n
    else:
        if rule[2] == COVERAGE:
            _extrapolate(totals)
        _weigh_cells(slab, rule[0], totals[8], n_x, n_y, weights, sums)
        totals[9] = total_of(sums[1, : n_x.size])
        totals[10] = total_of(sums[2, : n_x.size])
        _conclude(slab, rule, n_x, n_y, totals, tested, result)


@kernel()
def _add_influence(x: Array, rows: Array, weights: Array, scale: float, influence: Array) -> None:
    """Add one pair's influence on each of the first samples.

    ``x`` and ``rows`` as in ``_count_pair``; ``weights`` float64, flat, scaled by ``scale`` and
    rounded to multiples of 2**-20 here; ``influence`` float64 (m,), added to.
    """
    for i in range(weights.size):
        weights[i] = np.floor(weights[i] * scale * _GRAIN + 0.5) / _GRAIN
    for s in range(influence.size):
        influence[s] += weights[np.uint64(rows[s]) + np.uint64(x[s])]


@kernel(parallel=True)
def _pairwise(
    in_codes: Array,
    out_codes: Array,
    bins: tuple[Array, Array],
    rule: tuple[Array, Array, int],
    bits: Array,
    kept: Array,
    influence: Array,
    spread: Array,
) -> None:
    """Measure every pair of an input and an output unit.

    ``in_codes`` and ``out_codes`` unsigned (units, n); ``bins`` int64, of the inputs and of the
    outputs; ``rule`` as in ``_measure_pair``; filled: ``bits`` float64 (2, inputs, outputs), the
    estimate and its standard error (with two rows more, what ``tested`` adds), and ``kept`` int64
    (inputs, outputs); ``influence`` float64 (tasks, m <= n) and ``spread`` float64 (tasks, 3),
    added to: of the first samples, and the variances n result[1] and n result[2] and the error of
    ``_measure_pair``. One task owns a row of both, some of the pairs of each of its outputs, and a
    slab.
    """
    in_bins, out_bins = bins
    stride = largest_of(in_bins) + 1
    n_tasks = influence.shape[0]
    n_groups = max(1, -(-n_tasks // out_bins.size))
    n_samples = in_codes.shape[1]
    tested = bits.shape[0] > 2
    step = stride * (largest_of(out_bins) + 1)
    # The fold costs as much as counting step**2 samples.
    by_twos = step * step <= min(SQUARE, n_samples // 4)
    twos = np.empty((in_bins.size if by_twos else 0, n_samples // 2), np.uint16)
    if by_twos:
        for a in prange(twos.shape[0]):
            _join_codes(in_codes[a], step, twos[a])
    for task in prange(n_tasks):
        result = np.empty(8)
        row_twos = np.empty(twos.shape[1] if by_twos else 0, np.uint32)
        square = np.empty(step * step if by_twos else 0, np.uint32)
        sums = np.empty((5, stride))
        n_x = np.empty(stride, np.int64)
        for item in range(task, out_bins.size * n_groups, n_tasks):
            b = item // n_groups
            group = item % n_groups
            rows = out_codes[b].astype(np.uint32) * np.uint32(stride)
            n_y = np.empty(out_bins[b], np.int64)
            slabs = np.empty((2, n_y.size + 1, stride), np.uint32)
            weights = np.empty(slabs.shape[1:])
            begin = group * in_bins.size // n_groups
            end = (group + 1) * in_bins.size // n_groups
            _join_codes(rows, step, row_twos)
            done = 2 * row_twos.size
            for a in range(begin, end):
                slab = slabs[(a - begin) % 2]
                if (a - begin) % 2 == 0:
                    slabs[:] = 0
                    x, left = in_codes[a, done:], rows[done:]
                    if a + 1 < end:
                        other = in_codes[a + 1, done:]
                        _count_two_pairs(x, other, left, slab.ravel(), slabs[1].ravel())
                    else:
                        _count_pair(x, left, slab.ravel())
                if by_twos:
                    _count_twos(twos[a], row_twos, step, square, slab.ravel())
                _measure_pair(slab, rule, n_x[: in_bins[a]], n_y, weights, sums, tested, result)
                bits[0, a, b] = result[0]
                bits[1, a, b] = np.sqrt(result[1] + result[3] * result[3])
                if tested:
                    bits[2, a, b] = result[6]
                    bits[3, a, b] = result[7]
                kept[a, b] = np.int64(result[5])
                if result[5] > 0.0:
                    scale = n_samples / result[5]
                    _add_influence(in_codes[a], rows, weights.ravel(), scale, influence[task])
                for k in range(3):
                    added = result[k + 1] * (n_samples if k < 2 else 1)
                    spread[task, k] += np.floor(added * _FINE + 0.5) / _FINE
