"""What independent ends would show: averages over cells whose counts are Poisson's."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from onnx_ei._estimators.tables import PHI, POINT, TAIL, TAIL_POINT, count_table

__all__ = ["FINEST", "STEPS", "null_lines", "null_moments", "null_table"]

Float = NDArray[np.float64]

STEPS = 16
"""Rows of the table an octave: linear in between, it is off by 2e-4 of the curvature."""
FINEST = -40
"""The least mean, 2**-40: past 10**12 samples."""
UNTHREADED = 1151
"""Rows of 8 columns that OpenBLAS adds up on one thread."""
COARSEST = 8
"""The largest mean, 256: past it what a cell adds falls as 1/256 times its share."""


@functools.cache
def null_table() -> Float:
    r"""Tabulate the coverage jackknife's moments in a cell of known mean count.

    Returns
    -------
    ndarray of float64, shape (rows, 8)
        Read-only. Row ``i`` has the mean :math:`\lambda = 2^{i / 16 - 40}`. Columns: the bias of
        :math:`\phi`, :math:`E \phi - \lambda \log_2 \lambda - \lambda / \ln 2`, and of :math:`d`,
        :math:`E d`; then the variances and the covariance of :math:`\phi` and :math:`d` of second
        order (what is left of them when their best linear function of the count is taken off):
        of :math:`\phi`, of both, of :math:`d`; and, in the same order, what the noise of the
        count alone adds to the variance of pointwise terms.
    """
    rows = STEPS * (COARSEST - FINEST) + 1
    mean = np.exp2(np.arange(rows) / STEPS + FINEST)
    n = np.arange(2.0 ** (COARSEST + 1))
    factorial = np.concatenate(([0.0], np.cumsum(np.log(n[1:]))))
    p = np.exp(n * np.log(mean)[:, None] - mean[:, None] - factorial)
    columns = count_table("coverage-jackknife", n.size - 1)
    phi, d = columns[:, PHI], columns[:, TAIL]
    table = np.empty((rows, 8))
    table[:, 0] = p @ phi - mean * np.log2(mean) - mean / math.log(2)
    table[:, 1] = p @ d
    left, noise = [], []
    for values, steps in ((phi, columns[:, POINT]), (d, columns[:, TAIL_POINT])):
        centre = p @ values
        away = n - mean[:, None]
        slope = (p * away) @ values / mean
        left.append(values - centre[:, None] - slope[:, None] * away)
        noise.append(steps - slope[:, None])
    for column, (i, j) in enumerate(((0, 0), (0, 1), (1, 1)), 2):
        table[:, column] = (p * left[i] * left[j]).sum(axis=1)
        table[:, column + 3] = (p * noise[i] * noise[j]) @ n
    table.setflags(write=False)
    return table


@functools.cache
def null_lines() -> Float:
    """Return the table as lines between its rows, as the kernels want them.

    Returns
    -------
    ndarray of float64, shape (rows - 1, 16)
        Read-only: a row of the table, and the step from it to the next.
    """
    table = null_table()
    lines = np.concatenate((table[:-1], np.diff(table, axis=0)), axis=1)
    lines.setflags(write=False)
    return lines


def null_moments(n_x: NDArray[np.int64], n_y: NDArray[np.int64]) -> Float:
    r"""Sum the table over the cells that independent ends would have, less their margins.

    Parameters
    ----------
    n_x, n_y : ndarray of int64, shape (x_states,) and (y_states,)
        Margins, each above 0, of one sum N.

    Returns
    -------
    ndarray of float64, shape (8,)
        The sum over the cells, whose means are :math:`n_x n_y / N`, less those over the margins,
        and more the row of N: as information is of :math:`\phi`. The margins have noise of their
        own: of 8 x 8 bins 49 cells are free, not 64.
    """
    # By distinct counts: a million states have a few hundred.
    x, of_x = np.unique(n_x, return_counts=True)
    y, of_y = np.unique(n_y, return_counts=True)
    in_x, in_y, whole = np.log2(x), np.log2(y), math.log2(n_x.sum())
    sums: Float = _rows(np.array([whole]))[0]
    sums = sums - _weighed(of_x, _rows(in_x)) - _weighed(of_y, _rows(in_y))
    for place, cells in zip((in_x - whole).tolist(), of_x.tolist(), strict=True):
        sums = sums + cells * _weighed(of_y, _rows(in_y + place))
    return sums


def _weighed(weights: NDArray[np.int64], rows: Float) -> Float:
    """Return the weighted sum of rows, the same bits on any number of OpenBLAS's threads."""
    parts = (slice(at, at + UNTHREADED) for at in range(0, len(rows), UNTHREADED))
    return np.asarray(sum(weights[part] @ rows[part] for part in parts))


def _rows(place: Float) -> Float:
    """Look up binary logarithms of means, linear between rows; shape (means, 8)."""
    table = null_table()
    at = np.clip((place - FINEST) * STEPS, 0, len(table) - 1.001)
    row = at.astype(np.int64)
    low, high = table[row], table[row + 1]
    return np.asarray(low + (at - row)[:, None] * (high - low))
