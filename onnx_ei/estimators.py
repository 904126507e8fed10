"""Estimators: from counts to bits.

Of most of them every quantity is a sum of a function phi of one count,

    H = (phi(N) - sum phi(n)) / N
    I = (phi(N) + sum phi(n_xy) - sum phi(n_x) - sum phi(n_y)) / N

over the N samples that were kept. ``docs/estimators.md`` tells the others, how far each is off, and
how the default was chosen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_ei._estimators import histograms
from onnx_ei._estimators.poisson import null_lines
from onnx_ei._estimators.tables import COVERAGE, ESTIMATORS, PHI, count_table, kind

__all__ = [
    "DEFAULT_ESTIMATOR",
    "ESTIMATORS",
    "Rule",
    "entropy_of_counts",
    "estimator_rule",
    "estimator_table",
    "information_of_counts",
]

Float = NDArray[np.float64]
Rule = tuple[Float, Float, int]
"""What the kernels know of an estimator: its tables, the null's lines, and its kind."""

DEFAULT_ESTIMATOR = "coverage-jackknife"
"""The estimator used unless another is named."""

_NO_NULL = np.empty((0, 16))
# Read-only like the table itself: to numba it is another type otherwise, and compiled twice.
_NO_NULL.setflags(write=False)


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
    With :math:`f(n) = n \log_2 n`:

    - ``"plugin"`` is :math:`f(n)`. Its information is biased by about
      :math:`+(K_x - 1)(K_y - 1) / (2 N \ln 2)` bits [2]_.
    - ``"miller-madow"`` is :math:`f(n) - 1 / (2 \ln 2)` from 1 on: half a nat less for each state
      that was seen [3]_.
    - ``"grassberger"`` is :math:`n G(n) / \ln 2` with :math:`G(n) = \psi(n) + \frac{(-1)^n}{2}
      [\psi(\frac{n + 1}{2}) - \psi(\frac{n}{2})]` [4]_.
    - ``"jackknife"`` is :math:`n (f(n) - f(n - 1))`: substituting the leave-one-out entropies in
      :math:`N H - \frac{N - 1}{N} \sum_s H_{-s}` [1]_ leaves one term for each count. It removes
      the first order of the bias, and leaves that of states never seen.
    - ``"chao-wang-jost"`` is :math:`n \psi(n) / \ln 2`, to which every entropy adds what its
      singletons and doubletons say of states never seen ([5]_, equation 7b).
    - ``"chao-shen"`` is no sum of a function of counts ([6]_, equation 9): the table is the
      plug-in's.
    - ``"coverage-jackknife"`` starts from the jackknife's, and extrapolates it to full coverage;
      see :func:`information_of_counts`.

    References
    ----------
    .. [1] Zahl, "Jackknifing an index of diversity", Ecology 58(4), 1977.
    .. [2] Paninski, "Estimation of entropy and mutual information", Neural Computation 15(6),
       2003, section 4.
    .. [3] Miller, "Note on the bias of information estimates", Information Theory in Psychology,
       1955.
    .. [4] Grassberger, "Entropy estimates from insufficient samplings", arXiv:physics/0307138,
       2003.
    .. [5] Chao, Wang and Jost, "Entropy and the species accumulation curve", Methods in Ecology
       and Evolution 4(11), 2013.
    .. [6] Chao and Shen, "Nonparametric estimation of Shannon's index of diversity when there are
       unseen species in sample", Environmental and Ecological Statistics 10, 2003.

    Examples
    --------
    >>> estimator_table("plugin", 4).tolist()
    [0.0, 0.0, 2.0, 4.754887502163468, 8.0]
    """
    return count_table(name, n)[:, PHI]


def estimator_rule(name: str, n: int) -> Rule:
    """Return what the kernels need of an estimator.

    Parameters
    ----------
    name : str
        One of ``ESTIMATORS``.
    n : int
        The number of samples, at least 0.

    Returns
    -------
    tuple of (ndarray of float64, ndarray of float64, int)
        The tables of counts up to ``n``, shape (n + 1, 6), the null's lines, shape (rows, 16) (no
        rows where the estimator has no use for it), and the kind.

    Raises
    ------
    ValueError
        If the name is unknown or ``n`` is negative.

    Examples
    --------
    >>> tables, null, kind = estimator_rule("plugin", 4)
    >>> tables.shape, null.shape
    ((5, 6), (0, 16))
    """
    tables, which = count_table(name, n), kind(name)
    return tables, null_lines() if which == COVERAGE else _NO_NULL, which


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
        The estimate, not clipped: a correction can leave it below 0. No counts, or one state at
        either end: 0.
    stderr : float
        In bits: :math:`\sqrt{\mathrm{Var}[i(x; y)] / N}`, where
        :math:`i(x; y) = \log_2 (n_{xy} N / (n_x n_y))`; ``"coverage-jackknife"`` has its own.

    Raises
    ------
    ValueError
        If ``counts`` is not a matrix of non-negative integers, or the estimator is unknown.

    Notes
    -----
    ``"coverage-jackknife"`` is

    .. math:: \hat I = J - r D - w B

    - :math:`J`: the jackknife.
    - :math:`D = E[J_{N/2}] - J`: what half of the sample would say more, in closed form from the
      counts (each sample kept with probability 1/2). Coverage :math:`C = 1 - f_1 / N` [1]_ is known
      of both, and it is the scale to extrapolate on [2]_: the bias falls as
      :math:`(1 - C)^{17/16}`, and so :math:`r = 1 / ((1 + 1 / q)^{17/16} - 1)`, with
      :math:`q = f_1 t / (t + 1)^2`, :math:`t = \sum_{n \ge 2} n 2^{1-n} f_n`, for what the sample
      has not covered over what its second half covered; :math:`f_n` states were seen n times.
      Where D < 0, information still rises, and r is at most 1.
    - :math:`B`: the bias of the two terms before it if the ends were independent, from the margins
      and Poisson counts; :math:`w = (1 - \sum (p_{xy} - p_x p_y)^2 / \sum p_{xy}^2)^4`, without
      bias: 1 for independent ends. The fourth power was chosen by
      experiment, as was 17/16.

    Its standard error is that of the mean of the leave-one-out influences, less the share
    :math:`w` of what the noise of the counts adds to it, and more the variance of second order,
    which is all that there is for independent ends: :math:`(K_x - 1)(K_y - 1) / (2 N^2 \ln^2 2)`.
    To it comes :math:`8 r |D| u (1 - u) f_1 / N` with :math:`u = w^{1/4}`, for an extrapolation
    between the two cases that are understood.

    References
    ----------
    .. [1] Good, "The population frequencies of species and the estimation of population
       parameters", Biometrika 40, 1953.
    .. [2] Chao and Jost, "Coverage-based rarefaction and extrapolation: standardizing samples by
       completeness rather than size", Ecology 93(12), 2012.

    Examples
    --------
    >>> information_of_counts(np.array([[4, 0], [0, 4]]), "plugin")
    (1.0, 0.0)
    """
    counts = _counts(counts, 2)
    n_x, n_y = counts.sum(axis=1), counts.sum(axis=0)
    x, y = np.nonzero(counts)
    found = histograms.information(
        estimator, counts[x, y], (n_x[x], n_y[y]), (n_x[n_x > 0], n_y[n_y > 0])
    )
    return found.bits, found.stderr


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
        In bits; 0 for no counts, or one state. A table's is
        :math:`(\phi(N) - \sum \phi(n)) / N`; ``"coverage-jackknife"`` extrapolates the jackknife's
        to full coverage, as :func:`information_of_counts` does.

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
    return histograms.entropy(estimator, counts[counts > 0])


def _counts(counts: NDArray[Any], ndim: int) -> NDArray[np.int64]:
    """Return counts as int64, or say what is wrong with them."""
    array = np.asarray(counts)
    if array.ndim != ndim or array.dtype.kind not in "iu" or (array.size and array.min() < 0):
        raise ValueError(
            f"counts must be non-negative integers with {ndim} axes, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)
