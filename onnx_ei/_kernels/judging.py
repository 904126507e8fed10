"""Sums over a joint histogram to bits, and to what they may be off by."""

from __future__ import annotations

import math

import numpy as np

from onnx_ei._kernels._jit import Array, kernel
from onnx_ei._kernels._lanes import add_lines
from onnx_ei._kernels.rare import _covered_nats, _unseen_nats

COVERAGE = 3
_CHAO_SHEN, _CHAO_WANG_JOST = 1, 2
# The null table: rows an octave, and its first row's binary logarithm.
_STEPS, _FINEST = 16.0, -40.0
# Places of it that are looked up at a time.
_PLACES = 256
# The bias falls as the uncovered share to this power: 1 to 1.13 fitted best, by
# benchmarks/estimators.py.
_FALL = 1.0625
# A share of independence below which its 10**-6 of a bias is not worth a table's 4096 lookups.
_NO_SHARE = 1e-6


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
def _look_up(
    places: Array, weights: Array, null: Array, rows: Array, shares: Array, moments: Array
) -> None:
    """Add multiples of rows of the null table, each linear to the next.

    ``places`` float64 (m,): binary logarithms of the means; ``weights`` float64 (>= m,), by what
    they are multiplied; ``null`` float64 (rows, 16): eight moments, and their steps to the next
    row; ``rows`` int32 and ``shares`` float64, both (>= m,), scratch; ``moments`` float64 (8,),
    added to in the order of the places.
    """
    highest = null.shape[0] + 1 - 1.001
    # In int32, to and from which there are vector instructions: by int64 it took three times as
    # long.
    for i in range(places.size):
        at = min(max((places[i] - _FINEST) * _STEPS, 0.0), highest)
        row = np.int32(at)
        rows[i] = row
        shares[i] = at - np.float64(row)
    add_lines(rows[: places.size], shares, weights, null, moments)


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
    whole = tables[kept, 5]
    # A line: the whole, or an x, and then every y. Several at a time, as long as they are short:
    # of two or three y's, a call for each took four times as long.
    places = np.empty(max(_PLACES, n_y.size + 1))
    weights = np.empty(places.size)
    rows = np.empty(places.size, np.int32)
    shares = np.empty(places.size)
    used = 1
    for y in range(n_y.size):
        if n_y[y] > 0:
            places[used] = tables[n_y[y], 5]
            used += 1
    margin = places[:used].copy()
    places[0] = whole
    weights[:used] = -1.0
    weights[0] = 1.0
    _look_up(places[:used], weights, null, rows, shares, moments)
    weights[:] = 1.0
    done = 0
    for x in range(n_x.size):
        if n_x[x] > 0:
            place = tables[n_x[x], 5]
            places[done] = place
            weights[done] = -1.0
            # a line of its own: of one array, what is read might be what was just written
            line = places[done : done + used]
            for y in range(1, used):
                line[y] = place - whole + margin[y]
            done += used
        if done + used > places.size or x == n_x.size - 1:
            _look_up(places[:done], weights, null, rows, shares, moments)
            done = 0


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
    if which == COVERAGE:
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
