"""Joint histograms of pairs of units, and their bits."""

from __future__ import annotations

import math

import numpy as np

from onnx_ei._kernels._jit import Array, kernel, prange
from onnx_ei._kernels.rare import _covered_nats, _unseen_nats

_ONE = np.uint32(1)
_SEEN_ONCE = np.uint64(1)
# Influence is kept in multiples of 2**-20 bit, and variances of 2**-26, so that no order of adding
# changes a sum.
_GRAIN = 1048576.0
_FINE = 67108864.0
_CHAO_SHEN, _CHAO_WANG_JOST, _COVERAGE = 1, 2, 3
# The null table: rows an octave, and its first row's binary logarithm.
_STEPS, _FINEST = 16.0, -40.0
# The bias falls as the uncovered share to this power: 1 to 1.13 fitted best, by
# benchmarks/estimators.py.
_FALL = 1.0625
# Cells of a table of two samples' cells that the L1 cache holds: 32 KiB.
SQUARE = 8192
# A share of independence below which its 10**-6 of a bias is not worth a table's 4096 lookups.
_NO_SHARE = 1e-6


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
def _sum_margins(n_x: Array, n_y: Array, tables: Array, sums: Array, totals: Array) -> None:
    """Add up the sums of a histogram with those of its margins.

    ``tables``, ``n_x``, ``n_y`` and ``sums`` as ``_sum_cells`` left them; ``totals`` float64 (11,),
    of which the first eight are filled: N; N times the information by the table's first column,
    and by its second; the sum of the third; cells seen once; sums of squares of cells, of x, of y.
    """
    totals[:] = 0.0
    for x in range(n_x.size):
        count = n_x[x]
        totals[0] += count
        totals[1] += sums[0, x] - tables[count, 0]
        totals[2] += sums[1, x] - tables[count, 1]
        totals[3] += sums[2, x]
        totals[4] += sums[3, x]
        totals[5] += sums[4, x]
        totals[6] += np.float64(count) * count
    for y in range(n_y.size):
        count = n_y[y]
        totals[1] -= tables[count, 0]
        totals[2] -= tables[count, 1]
        totals[7] += np.float64(count) * count
    kept = np.int64(totals[0])
    totals[1] += tables[kept, 0]
    totals[2] += tables[kept, 1]


@kernel()
def _weigh_cells(
    slab: Array, tables: Array, ratio: float, n_x: Array, n_y: Array, weights: Array, sums: Array
) -> None:
    """Find each cell's pointwise information less the mean: the influence of a sample in it.

    ``slab`` uint32 (rows, stride), not empty; ``tables``, ``n_x``, ``n_y`` as in ``_sum_cells``;
    the pointwise information is p(n_xy) - p(n_x) - p(n_y), p the table's fourth column less
    ``ratio`` times its fifth; ``weights`` float64 like ``slab``, filled, 0 in the cells of dropped
    samples, anything in empty ones; ``sums`` float64 (5, >= x_bins), the first three filled for
    each x: offsets; n_xy weight**2; n_xy ((n_x - 1) (n_y - 1) - n_xy + 1), the ways of drawing a
    sample, another of its x and a third of its y.
    """
    x_bins = n_x.size
    offset, square, triples = sums[0], sums[1], sums[2]
    for x in range(x_bins):
        offset[x] = ratio * tables[n_x[x], 4] - tables[n_x[x], 3]
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
            triples[x] += seen * ((n_x[x] - 1.0) * others - seen + 1.0)
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
def _look_up(
    places: Array, weight: float, null: Array, rows: Array, shares: Array, moments: Array
) -> None:
    """Add a multiple of rows of the null table, each linear to the next.

    ``places`` float64 (m,): binary logarithms of the means; ``null`` float64 (rows, 16): eight
    moments, and their steps to the next row; ``rows`` int64 and ``shares`` float64, both (>= m,),
    scratch; ``moments`` float64 (8,), added to in the order of the places.
    """
    highest = null.shape[0] + 1 - 1.001
    for i in range(places.size):
        at = min(max((places[i] - _FINEST) * _STEPS, 0.0), highest)
        rows[i] = np.int64(at)
        shares[i] = at - rows[i]
    # Eight sums in registers, and rows found beforehand: one loop over the moments of each place,
    # through memory, took three times as long, and with differences for steps 1.6 times.
    m0, m1, m2, m3 = moments[0], moments[1], moments[2], moments[3]
    m4, m5, m6, m7 = moments[4], moments[5], moments[6], moments[7]
    for i in range(places.size):
        row, share = rows[i], shares[i]
        m0 += weight * (null[row, 0] + share * null[row, 8])
        m1 += weight * (null[row, 1] + share * null[row, 9])
        m2 += weight * (null[row, 2] + share * null[row, 10])
        m3 += weight * (null[row, 3] + share * null[row, 11])
        m4 += weight * (null[row, 4] + share * null[row, 12])
        m5 += weight * (null[row, 5] + share * null[row, 13])
        m6 += weight * (null[row, 6] + share * null[row, 14])
        m7 += weight * (null[row, 7] + share * null[row, 15])
    moments[0], moments[1], moments[2], moments[3] = m0, m1, m2, m3
    moments[4], moments[5], moments[6], moments[7] = m4, m5, m6, m7


@kernel()
def _sum_null(n_x: Array, n_y: Array, tables: Array, null: Array, moments: Array) -> None:
    """Sum the null table over the cells of independent ends with these margins, less the margins.

    ``n_x``, ``n_y`` int64; ``tables`` as in ``_sum_cells``, whose sixth column has logarithms;
    ``null`` as in ``_look_up``; ``moments`` float64 (8,), filled. The margins have noise of their
    own, which the information subtracts: of 8 x 8 bins, 49 cells are free, not 64.
    """
    moments[:] = 0.0
    kept = np.int64(0)
    for x in range(n_x.size):
        kept += n_x[x]
    rows = np.empty(max(n_y.size, 1), np.int64)
    shares = np.empty(rows.size)
    one = np.empty(1)
    one[0] = tables[kept, 5]
    whole = one[0]
    _look_up(one, 1.0, null, rows, shares, moments)
    places = np.empty(n_y.size)
    used = 0
    for y in range(n_y.size):
        if n_y[y] > 0:
            places[used] = tables[n_y[y], 5]
            used += 1
    places = places[:used]
    _look_up(places, -1.0, null, rows, shares, moments)
    cells = np.empty(used)
    for x in range(n_x.size):
        if n_x[x] > 0:
            one[0] = tables[n_x[x], 5]
            _look_up(one, -1.0, null, rows, shares, moments)
            for y in range(used):
                cells[y] = one[0] - whole + places[y]
            _look_up(cells, 1.0, null, rows, shares, moments)


@kernel()
def _add_rare(slab: Array, n_x: Array, n_y: Array, which: int, totals: Array) -> None:
    """Turn the sums into Chao and Shen's estimate, or Chao, Wang and Jost's.

    ``slab``, ``n_x`` and ``n_y`` as in ``_sum_cells``; ``which`` of the two; ``totals`` as
    ``_sum_margins`` left them: the second is set, or added to.
    """
    out = np.empty(1)
    bits = 0.0
    cells = np.ascontiguousarray(slab[: n_y.size, : n_x.size]).ravel()
    for end in range(3):
        counts = n_x if end == 0 else n_y
        if which == _CHAO_SHEN:
            if end == 2:
                _covered_nats(cells, totals[0], out)
            else:
                _covered_nats(counts, totals[0], out)
        elif end == 2:
            _unseen_nats(cells, totals[0], out)
        else:
            _unseen_nats(counts, totals[0], out)
        bits += out[0] if end < 2 else -out[0]
    bits /= math.log(2.0)
    totals[1] = bits if which == _CHAO_SHEN else totals[1] + bits


@kernel()
def _extrapolate(totals: Array) -> None:
    """Find by how much of what half of the sample says more the whole is still off.

    ``totals`` as ``_sum_margins`` left them; the ninth is filled. 0 where next to nothing was
    seen twice, and at most 1 where the information still rises: with every state seen once it
    rises by a bit a doubling, for ever.
    """
    thin = totals[3]
    # What the sample has not covered, over what the second half of it covered.
    open_share = totals[4] * thin / ((thin + 1.0) * (thin + 1.0))
    totals[8] = 0.0
    if open_share > 0.0:
        totals[8] = 1.0 / ((1.0 + 1.0 / open_share) ** _FALL - 1.0)
    if totals[2] < 0.0:
        totals[8] = min(totals[8], 1.0)


@kernel()
def _judge(totals: Array, moments: Array, result: Array) -> None:
    """Turn a histogram's sums into bits and variances: the coverage jackknife's.

    ``totals`` as in ``_conclude``; ``moments`` as ``_sum_null`` left them, or zeros to be told the
    share of independence alone; ``result`` float64 (> 4,), of which the first are filled: bits,
    their variance, the variance of first order, the error of the extrapolation, and that share.
    """
    n, ratio, square, triples = totals[0], totals[8], totals[9], totals[10]
    tail = ratio * totals[2]
    alike = 0.0
    if n >= 3.0:
        pairs = n * (n - 1.0)
        size = (totals[5] - n) / pairs
        if size > 0.0:
            independent = (totals[6] - n) / pairs * (totals[7] - n) / pairs
            alike = (2.0 * triples / (pairs * (n - 2.0)) - independent) / size
            alike = min(max(alike, 0.0), 1.0)
    share = alike * alike * alike * alike
    bias = moments[0] - ratio * moments[1]
    second = moments[2] - 2.0 * ratio * moments[3] + ratio * ratio * moments[4]
    first = moments[5] - 2.0 * ratio * moments[6] + ratio * ratio * moments[7]
    result[0] = (totals[1] - tail - share * bias) / n
    # By chance the noise is below what is expected of it: at least half of the second order.
    result[1] = max(square + share * (second - first), share * second / 2.0) / (n * n)
    result[2] = square / (n * n)
    result[3] = abs(tail) / n * 8.0 * alike * (1.0 - alike) * totals[4] / n
    result[4] = share


@kernel()
def _conclude(
    slab: Array,
    rule: tuple[Array, Array, int],
    n_x: Array,
    n_y: Array,
    totals: Array,
    tested: bool,
    result: Array,
) -> None:
    """Turn a histogram's sums into bits by any estimator.

    ``slab``, ``n_x`` and ``n_y`` as in ``_sum_cells``, neither end constant; ``rule``: an
    estimator's tables, null table and kind; ``totals`` float64 (11,): as ``_sum_margins`` and
    ``_extrapolate`` left them, and the sums over x of the squares and of the triples of
    ``_weigh_cells``; ``result`` float64 (8,), filled as by ``_judge``, then the samples kept, and
    where ``tested``, by the coverage jackknife, how many standard deviations the estimate is above
    independence, and how many cells are free then.
    """
    tables, null, which = rule
    n = totals[0]
    if which == _COVERAGE:
        moments = np.zeros(8)
        _judge(totals, moments, result)
        if tested or result[4] > _NO_SHARE:
            _sum_null(n_x, n_y, tables, null, moments)
            _judge(totals, moments, result)
        if tested:
            ratio = totals[8]
            above = totals[1] - ratio * totals[2] - moments[0] + ratio * moments[1]
            spread = moments[2] - 2.0 * ratio * moments[3] + ratio * ratio * moments[4]
            result[6] = above / math.sqrt(spread)
            result[7] = 2.0 * math.log(2.0) ** 2 * moments[2]
    else:
        if which in (_CHAO_SHEN, _CHAO_WANG_JOST):
            _add_rare(slab, n_x, n_y, which, totals)
        result[0] = totals[1] / n
        result[1] = totals[9] / (n * n)
        result[2] = result[1]
    result[5] = n


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
        if rule[2] == _COVERAGE:
            _extrapolate(totals)
        _weigh_cells(slab, rule[0], totals[8], n_x, n_y, weights, sums)
        totals[9] = sums[1, : n_x.size].sum()
        totals[10] = sums[2, : n_x.size].sum()
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
    stride = in_bins.max() + 1
    n_tasks = influence.shape[0]
    n_groups = max(1, -(-n_tasks // out_bins.size))
    n_samples = in_codes.shape[1]
    tested = bits.shape[0] > 2
    step = stride * (out_bins.max() + 1)
    # The fold costs as much as counting step**2 samples.
    by_twos = step * step <= min(SQUARE, n_samples // 4)
    twos = np.empty((in_bins.size if by_twos else 0, n_samples // 2), np.uint16)
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
            slab = np.empty((n_y.size + 1, stride), np.uint32)
            weights = np.empty(slab.shape)
            begin = group * in_bins.size // n_groups
            end = (group + 1) * in_bins.size // n_groups
            _join_codes(rows, step, row_twos)
            for a in range(begin, end):
                slab[:] = 0
                done = 0
                if by_twos:
                    _count_twos(twos[a], row_twos, step, square, slab.ravel())
                    done = 2 * row_twos.size
                _count_pair(in_codes[a, done:], rows[done:], slab.ravel())
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
