"""The mutual information of a table of probabilities, and how far it can be off."""

from __future__ import annotations

import math

import numpy as np

from onnx_ei._kernels._folds import total_of
from onnx_ei._kernels._jit import Array, kernel

_LN2 = math.log(2.0)
# log(m) for m in [sqrt(1/2), sqrt(2)) as in fdlibm's e_log.c: its error is below 1 ulp.
_L1, _L2, _L3, _L4 = 0.6666666666666735, 0.3999999999940942, 0.2857142874366239, 0.22222198432149784
_L5, _L6, _L7 = 0.1818357216161805, 0.15313837699209373, 0.14798198605116586
# The bits of sqrt(1/2), what takes them to those of 2.0, and what makes an exponent a double.
_ROOT = np.uint64(0x3FE6A09E667F3BCD)
_LIFT, _52 = np.uint64((1024 << 52) - 0x3FE6A09E667F3BCD), np.uint64(52)
_MANTISSA = np.uint64((1 << 52) - 1)
_AS_DOUBLE = np.uint64(0x4330000000000000)
_DOUBLE_ZERO = 2.0**52 + 1024.0


@kernel(reordered=True)
def _margins(table: Array, floors: Array, in_row: Array, in_column: Array, least: Array) -> None:
    """Raise a table to its floors and sum its rows and columns.

    ``table`` float64 (rows, columns), raised in place to ``floors`` float64 (rows,); filled:
    ``in_row`` and ``least`` float64 (rows,), each row's sum and smallest cell, and ``in_column``
    float64 (columns,).
    """
    in_column[:] = 0.0
    for j in range(table.shape[0]):
        line = table[j]
        floor, total, smallest = floors[j], 0.0, np.inf
        for i in range(line.size):
            cell = max(line[i], floor)
            line[i] = cell
            total += cell
            smallest = min(smallest, cell)
            in_column[i] += cell
        in_row[j] = total
        least[j] = smallest


@kernel(fused=True)
def _logs(ratios: Array, mantissas: Array, exponents: Array, logs: Array) -> None:
    """Take natural logarithms: a loop that is vectorised, where a call to log is not.

    ``ratios`` float64 (n,), positive and normal; ``logs`` float64 (n,), filled; ``mantissas`` and
    ``exponents`` uint64 (n,): scratch. 0.5 ns a number where math.log takes 4 (2.6 GHz, AVX-512).
    """
    words = ratios.view(np.uint64)
    for i in range(ratios.size):
        word = words[i] + _LIFT
        mantissas[i] = (word & _MANTISSA) + _ROOT
        exponents[i] = (word >> _52) | _AS_DOUBLE
    fraction = mantissas.view(np.float64)
    power = exponents.view(np.float64)
    for i in range(ratios.size):
        f = fraction[i] - 1.0
        s = f / (2.0 + f)
        z = s * s
        tail = z * (_L1 + z * (_L2 + z * (_L3 + z * (_L4 + z * (_L5 + z * (_L6 + z * _L7))))))
        half = 0.5 * f * f
        logs[i] = (power[i] - _DOUBLE_ZERO) * _LN2 + (f - (half - s * (half + tail)))


@kernel(fused=True)
def _information(table: Array, floors: Array, result: Array) -> None:
    """Measure a table of conditional probabilities, and bound the error of it.

    ``table`` float64 (rows, columns): the probability of each output code (row) given each of the
    equally likely input bins (column); columns sum to 1 or, where output is out of range, less;
    raised to ``floors`` in place. ``floors`` float64 (rows,), positive: no cell of the row is
    further from the truth. ``result`` float64 (4,), filled: bits, the bound of their error, the
    share in range, and the bound of its error.

    With x = p_ij / (p_i p_j) it sums p_i p_j (x log x - x + 1): the last two terms sum to nothing,
    but with them each summand is of second order in x - 1, so the rounding of a pair that is
    almost independent is as small as its information.
    """
    n_rows, n_columns = table.shape
    in_row, least = np.empty(n_rows), np.empty(n_rows)
    in_column, scales = np.empty(n_columns), np.empty(n_columns)
    ratios, logs = np.empty(n_columns), np.empty(n_columns)
    mantissas, exponents = np.empty(n_columns, np.uint64), np.empty(n_columns, np.uint64)
    # One sum a column: a single running sum waits for its last addition at every cell.
    sums, slopes = np.zeros(n_columns), np.zeros(n_columns)
    _margins(table, floors, in_row, in_column, least)
    total = total_of(in_row)
    for i in range(n_columns):
        scales[i] = total / in_column[i]
    curvature = 0.0
    for j in range(n_rows):
        line, weight, floor = table[j], in_row[j], floors[j]
        for i in range(n_columns):
            ratios[i] = line[i] * scales[i] / weight
        _logs(ratios, mantissas, exponents, logs)
        for i in range(n_columns):
            sums[i] += weight * (ratios[i] * logs[i] - (ratios[i] - 1.0))
            slopes[i] += floor * abs(logs[i])
        curvature += floor * floor / least[j]
    nats = 0.0
    for i in range(n_columns):
        nats += sums[i] * in_column[i]
    # Not by the square, which underflows where next to nothing is in range.
    nats = nats / total / total
    kept = total / n_columns
    if min(n_rows, n_columns) == 1:
        nats = 0.0
    result[0] = max(nats / _LN2, 0.0)
    result[2] = kept
    # With D the divergence of the truth from this table and r its log-ratios, the difference in
    # information is sum(error * r), give or take D <= chi-square (docs/exact.md).
    missing = total_of(floors)
    result[3] = missing
    ceiling = math.log(min(n_rows, n_columns))
    error = ceiling
    if kept > 2.0 * missing:
        true = kept - missing
        first = total_of(slopes) / n_columns + missing * nats
        second = kept * curvature + missing * missing
        error = first / true + 2.0 * second / (true * true)
    error += 1e-14 * (1.0 + nats)
    result[1] = min(error, max(nats, ceiling - nats)) / _LN2
