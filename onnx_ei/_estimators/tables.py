"""Functions of one count, tabulated: of most estimators every quantity is a sum of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnx_ei.errors import closest

__all__ = [
    "CHAO_SHEN",
    "CHAO_WANG_JOST",
    "COVERAGE",
    "ESTIMATORS",
    "TABLE",
    "count_row",
    "count_table",
    "kind",
]

Float = NDArray[np.float64]

PHI, TAIL, THIN, POINT, TAIL_POINT, LOG = range(6)
TABLE, CHAO_SHEN, CHAO_WANG_JOST, COVERAGE = range(4)
_EXACT = 256
"""Counts up to which a half of the sample is averaged over exactly; the next order is 1e-7."""
_THINNEST = 1100
"""Counts n from which n 2**(1 - n) is 0, in float64 too."""


def _plugin(n: Float) -> Float:
    return n * np.log2(n)


def _jackknife(n: Float) -> Float:
    # f(n) - f(n - 1) written so that two large logarithms do not cancel.
    m = np.maximum(n, 2.0)
    step = np.log2(m) - (m - 1) * np.log1p(-1 / m) / np.log(2)
    return np.where(n < 2, 0.0, m * step)


def _miller_madow(n: Float) -> Float:
    return n * np.log2(n) - 0.5 / math.log(2)


def _grassberger(n: Float) -> Float:
    # only where it is asked for: importing it takes as long as the rest of this module
    from scipy.special import digamma

    sign = np.where(n % 2 == 1, -0.5, 0.5)
    g = digamma(n) + sign * (digamma((n + 1) / 2) - digamma(n / 2))
    return np.asarray(n * g / np.log(2))


def _digamma(n: Float) -> Float:
    from scipy.special import digamma

    return np.asarray(n * digamma(n) / np.log(2))


_PHI: dict[str, tuple[Callable[[Float], Float], int]] = {
    "plugin": (_plugin, TABLE),
    "miller-madow": (_miller_madow, TABLE),
    "grassberger": (_grassberger, TABLE),
    "chao-shen": (_plugin, CHAO_SHEN),
    "chao-wang-jost": (_digamma, CHAO_WANG_JOST),
    "jackknife": (_jackknife, TABLE),
    "coverage-jackknife": (_jackknife, COVERAGE),
}
_tables: dict[str, Float] = {}

ESTIMATORS: tuple[str, ...] = tuple(_PHI)
"""Names of the estimators."""


def kind(name: str) -> int:
    """Return what an estimator needs beside its table: nothing, or which correction.

    Parameters
    ----------
    name : str
        One of ``ESTIMATORS``.

    Raises
    ------
    ValueError
        If the name is unknown; the message offers the closest.
    """
    if name not in _PHI:
        raise ValueError(f"unknown estimator {name!r}: {closest(str(name), ESTIMATORS)}")
    return _PHI[name][1]


def count_table(name: str, n: int) -> Float:
    r"""Tabulate what an estimator sums over the counts of a histogram.

    Parameters
    ----------
    name : str
        One of ``ESTIMATORS``.
    n : int
        The largest count, at least 0.

    Returns
    -------
    ndarray of float64, shape (n + 1, 6)
        Read-only, in bits; the longest asked for is kept. Columns: :math:`\phi`; :math:`d`, what
        :math:`\phi` changes by when a half of the samples is left out; :math:`n 2^{1 - n}` from
        2 on; the pointwise term, which is :math:`\log_2 n`, or the step of :math:`\phi`; the step
        of :math:`d`; and :math:`\log_2 n`. Only ``"coverage-jackknife"`` has the second, third and
        fifth.

    Raises
    ------
    ValueError
        If the name is unknown or ``n`` is negative.
    """
    _check(name, n)
    table = _tables.get(name, np.empty((0, 6)))
    if len(table) <= n:
        more = _rows(name, len(table), n)
        table = np.concatenate((table, more)) if len(table) else more
        table.setflags(write=False)
        _tables[name] = table
    return table[: n + 1]


def count_row(name: str, n: int) -> Float:
    """Return row ``n`` of :func:`count_table` without the rows before it.

    Of vectors, every count but the number of samples is small.

    Parameters
    ----------
    name, n
        As for :func:`count_table`.

    Returns
    -------
    ndarray of float64, shape (6,)

    Raises
    ------
    ValueError
        As :func:`count_table`.
    """
    _check(name, n)
    table = _tables.get(name, np.empty((0, 6)))
    row: Float = table[n] if n < len(table) else _rows(name, n, n)[0]
    return row


def _check(name: str, n: int) -> None:
    """Refuse an unknown estimator, and a count below 0."""
    kind(name)
    if n < 0:
        raise ValueError(f"the largest count must be at least 0, got {n}")


def _rows(name: str, first: int, last: int) -> Float:
    """Tabulate the counts from ``first`` to ``last``."""
    before = max(first - 1, 0)  # for the steps
    counts = np.arange(before, last + 1, dtype=np.float64)
    # At 0 the limit is 0, which the formulas cannot say.
    above = np.maximum(counts, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        phi = _PHI[name][0](above)
    phi[counts == 0] = 0.0
    table = np.zeros((counts.size, 6))
    table[:, PHI] = phi
    table[:, LOG] = table[:, POINT] = np.log2(above)
    if kind(name) == COVERAGE:
        table[:, TAIL] = tail = _tail(counts)
        few = counts[counts < _THINNEST]
        table[: few.size, THIN] = np.where(few < 2, 0.0, few * np.exp2(1 - few))
        table[1:, POINT] = np.diff(phi)
        table[1:, TAIL_POINT] = np.diff(tail)
    return table[first - before :]


def _tail(counts: Float) -> Float:
    r"""Return :math:`d(n) = 2 E[\phi(m)] - \phi(n) + n`, m binomial of n and a half.

    The jackknife's :math:`d` tends to :math:`-1 / (4 n \ln 2)`: E[m log m] by Taylor's series.
    """
    exact = _exact_tail()
    few = counts[counts <= _EXACT].astype(np.int64)
    n = counts[few.size :]
    first = -1 / (4 * n * math.log(2))
    at_last = -1 / (4 * _EXACT * math.log(2))
    return np.concatenate((exact[few], first + (exact[-1] - at_last) * (_EXACT / n) ** 2))


@functools.cache
def _exact_tail() -> Float:
    # a column of a table, as it always was: OpenBLAS adds up a vector of its own in another order
    table = np.zeros((_EXACT + 1, 6))
    table[:, PHI] = _jackknife(np.arange(_EXACT + 1, dtype=np.float64))
    phi = table[:, PHI]
    d: Float = np.zeros(phi.size)
    chance: Float = np.ones(1)
    for m in range(1, phi.size):
        chance = np.convolve(chance, [0.5, 0.5])
        d[m] = 2 * (chance @ phi[: m + 1]) - phi[m] + m
    return d
