"""Estimators: functions phi of one count, of which every quantity is a sum.

    H = (phi(N) - sum phi(n)) / N
    I = (phi(N) + sum phi(n_xy) - sum phi(n_x) - sum phi(n_y)) / N

over the N samples that were kept. Another estimator is one more line of a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_ei.errors import closest

__all__ = [
    "DEFAULT_ESTIMATOR",
    "ESTIMATORS",
    "entropy_of_counts",
    "estimator_table",
    "information_of_counts",
    "log2_table",
]

Float = NDArray[np.float64]


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


_PHI: dict[str, Callable[[Float], Float]] = {
    "plugin": _plugin,
    "miller-madow": _miller_madow,
    "grassberger": _grassberger,
    "jackknife": _jackknife,
}
_LOG2 = "log2"
_tables: dict[str, Float] = {}

ESTIMATORS: tuple[str, ...] = tuple(_PHI)
"""Names of the estimators."""

DEFAULT_ESTIMATOR = "jackknife"
"""The estimator used unless another is named."""


def estimator_table(name: str, n: int) -> Float:
    r"""Tabulate an estimator's function of a count.

    Parameters
    ----------
    name : str
        One of ``ESTIMATORS``.
    n : int
        The largest count, at least 0.

    Returns
    -------
    ndarray of float64, shape (n + 1,)
        :math:`\phi(0), \dots, \phi(n)` in bits, read-only. The longest asked for is kept.

    Raises
    ------
    ValueError
        If the name is unknown (the message offers the closest) or ``n`` is negative.

    Notes
    -----
    With :math:`f(n) = n \log_2 n`, ``"plugin"`` is :math:`f(n)`; ``"miller-madow"`` is
    :math:`f(n) - 1 / (2 \ln 2)`, from 1 on: half a nat less for each state that was seen [3]_;
    ``"grassberger"`` is :math:`n G(n) / \ln 2` with :math:`G(n) = \psi(n) + \frac{(-1)^n}{2}
    [\psi(\frac{n + 1}{2}) - \psi(\frac{n}{2})]` [4]_; and ``"jackknife"`` is
    :math:`n (f(n) - f(n - 1))`: substituting the leave-one-out entropies in
    :math:`N H - \frac{N - 1}{N} \sum_s H_{-s}` [1]_ leaves one term for each count. Plug-in
    information is biased by about :math:`+(K_x - 1)(K_y - 1) / (2 N \ln 2)` bits [2]_; the
    jackknife removes that order, and leaves the bias of states never seen.

    References
    ----------
    .. [1] Zahl, "Jackknifing an index of diversity", Ecology 58(4), 1977.
    .. [2] Paninski, "Estimation of entropy and mutual information", Neural Computation 15(6),
       2003, section 4.
    .. [3] Miller, "Note on the bias of information estimates", Information Theory in Psychology,
       1955.
    .. [4] Grassberger, "Entropy estimates from insufficient samplings", arXiv:physics/0307138,
       2003.

    Examples
    --------
    >>> estimator_table("plugin", 4).tolist()
    [0.0, 0.0, 2.0, 4.754887502163468, 8.0]
    """
    if name not in _PHI:
        raise ValueError(f"unknown estimator {name!r}: {closest(str(name), ESTIMATORS)}")
    return _table(name, n)


def information_of_counts(
    counts: NDArray[Any], estimator: str = DEFAULT_ESTIMATOR
) -> tuple[float, float]:
    r"""Estimate mutual information from a joint histogram.

    Parameters
    ----------
    counts : ndarray of int, shape (x_bins, y_bins)
        Joint counts.
    estimator : str
        One of ``ESTIMATORS``.

    Returns
    -------
    bits : float
        The estimate, not clipped: a correction can leave it below 0. No counts: 0.
    stderr : float
        :math:`\sqrt{\mathrm{Var}[i(x; y)] / N}` in bits, where
        :math:`i(x; y) = \log_2 (n_{xy} N / (n_x n_y))`. No counts: 0.

    Raises
    ------
    ValueError
        If ``counts`` is not a matrix of non-negative integers, or the estimator is unknown.

    Examples
    --------
    >>> information_of_counts(np.array([[4, 0], [0, 4]]), "plugin")
    (1.0, 0.0)
    """
    counts = _counts(counts, 2)
    total = int(counts.sum())
    phi, log2 = estimator_table(estimator, total), log2_table(total)
    if total == 0:
        return 0.0, 0.0
    n_x, n_y = counts.sum(axis=1), counts.sum(axis=0)
    bits = (phi[total] + phi[counts].sum() - phi[n_x].sum() - phi[n_y].sum()) / total
    x, y = np.nonzero(counts)
    n_xy = counts[x, y]
    pointwise = log2[n_xy] + log2[total] - log2[n_x[x]] - log2[n_y[y]]
    deviation = pointwise - n_xy @ pointwise / total
    return float(bits), float(np.sqrt(n_xy @ deviation**2) / total)


def entropy_of_counts(counts: NDArray[Any], estimator: str = DEFAULT_ESTIMATOR) -> float:
    r"""Estimate entropy from a histogram.

    Parameters
    ----------
    counts : ndarray of int, shape (n_states,)
        Counts.
    estimator : str
        One of ``ESTIMATORS``.

    Returns
    -------
    float
        :math:`(\phi(N) - \sum \phi(n)) / N` in bits; 0 for no counts.

    Raises
    ------
    ValueError
        If ``counts`` is not a vector of non-negative integers, or the estimator is unknown.

    Examples
    --------
    >>> entropy_of_counts(np.array([4, 4]), "plugin")
    1.0
    """
    counts = _counts(counts, 1)
    total = int(counts.sum())
    phi = estimator_table(estimator, total)
    return float((phi[total] - phi[counts].sum()) / total) if total else 0.0


def log2_table(n: int) -> Float:
    """Tabulate the logarithms of counts.

    Parameters
    ----------
    n : int
        The largest count, at least 0.

    Returns
    -------
    ndarray of float64, shape (n + 1,)
        ``log2`` of 0 to ``n``, read-only; 0 for a count of 0.

    Raises
    ------
    ValueError
        If ``n`` is negative.

    Examples
    --------
    >>> log2_table(4).tolist()
    [0.0, 0.0, 1.0, 1.584962500721156, 2.0]
    """
    return _table(_LOG2, n)


def _table(name: str, n: int) -> Float:
    """Return the first ``n + 1`` entries of a table, kept for the next call."""
    if n < 0:
        raise ValueError(f"the largest count must be at least 0, got {n}")
    table = _tables.get(name)
    if table is None or table.size <= n:
        counts = np.arange(n + 1, dtype=np.float64)
        # At 0 the limit is 0, which the formulas cannot say.
        counts[0] = 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            table = np.log2(counts) if name == _LOG2 else _PHI[name](counts)
        table[0] = 0.0
        table.setflags(write=False)
        _tables[name] = table
    return table[: n + 1]


def _counts(counts: NDArray[Any], ndim: int) -> NDArray[np.int64]:
    """Return counts as int64, or say what is wrong with them."""
    array = np.asarray(counts)
    if array.ndim != ndim or array.dtype.kind not in "iu" or (array.size and array.min() < 0):
        raise ValueError(
            f"counts must be non-negative integers with {ndim} axes, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)
