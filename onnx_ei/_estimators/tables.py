"""Functions of one count, tabulated: of most estimators every quantity is a sum of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnx_ei.errors import closest

__all__ = ["CHAO_SHEN", "CHAO_WANG_JOST", "COVERAGE", "ESTIMATORS", "TABLE", "count_table", "kind"]

Float = NDArray[np.float64]

PHI, TAIL, THIN, POINT, TAIL_POINT, LOG = range(6)
TABLE, CHAO_SHEN, CHAO_WANG_JOST, COVERAGE = range(4)
_EXACT = 256
"""Counts up to which a half of the sample is averaged over exactly; the next order is 1e-7."""


def _plugin(n: Float) -> Float:
    return n * np.log2(n)


def _jackknife(n: Float) -> Float:
    # f(n) - f(n - 1) written so that two large logarithms do not cancel.
    m = n[2:]
    step = np.log2(m) - (m - 1) * np.log1p(-1 / m) / np.log(2)
    return np.concatenate(([0.0, 0.0], m * step))[: n.size]


def _miller_madow(n: Float) -> Float:
    return n * np.log2(n) - 0.5 / math.log(2)


def _grassberger(n: Float) -> Float:
    # only where it is asked for: importing it takes as long as the rest of this module
    from scipy.special import digamma

    sign = np.where(np.arange(n.size) % 2 == 1, -0.5, 0.5)
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
    which = kind(name)
    if n < 0:
        raise ValueError(f"the largest count must be at least 0, got {n}")
    table = _tables.get(name)
    if table is None or len(table) <= n:
        counts = np.arange(n + 1, dtype=np.float64)
        # At 0 the limit is 0, which the formulas cannot say.
        counts[0] = 1.0
        table = np.zeros((n + 1, 6))
        with np.errstate(divide="ignore", invalid="ignore"):
            table[:, PHI] = _PHI[name][0](counts)
        table[:, LOG] = np.log2(counts)
        table[0] = 0.0
        table[:, POINT] = table[:, LOG]
        if which == COVERAGE:
            table[:, TAIL] = _tail(table[:, PHI])
            table[2:, THIN] = counts[2:] * np.exp2(1 - counts[2:])
            table[1:, POINT] = np.diff(table[:, PHI])
            table[1:, TAIL_POINT] = np.diff(table[:, TAIL])
        table.setflags(write=False)
        _tables[name] = table
    return table[: n + 1]


def _tail(phi: Float) -> Float:
    r"""Return :math:`d(n) = 2 E[\phi(m)] - \phi(n) + n`, m binomial of n and a half.

    The jackknife's :math:`d` tends to :math:`-1 / (4 n \ln 2)`: E[m log m] by Taylor's series.
    """
    d: Float = np.zeros(phi.size)
    chance: Float = np.ones(1)
    for m in range(1, min(phi.size, _EXACT + 1)):
        chance = np.convolve(chance, [0.5, 0.5])
        d[m] = 2 * (chance @ phi[: m + 1]) - phi[m] + m
    if phi.size > _EXACT + 1:
        n = np.arange(_EXACT, phi.size, dtype=np.float64)
        first = -1 / (4 * n * math.log(2))
        d[_EXACT + 1 :] = (first + (d[_EXACT] - first[0]) * (_EXACT / n) ** 2)[1:]
    return d
