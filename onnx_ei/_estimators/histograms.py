"""A joint histogram's information by any estimator: its bits, and what they answer to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_ei._estimators.poisson import null_moments
from onnx_ei._estimators.tables import (
    CHAO_SHEN,
    CHAO_WANG_JOST,
    COVERAGE,
    PHI,
    TAIL,
    THIN,
    count_row,
    count_table,
    kind,
)
from onnx_ei._kernels.rare import _covered_nats, _unseen_nats
from onnx_ei._kernels.vector import _look_up_counts, _point_states

__all__ = ["Found", "entropy", "information"]

Float = NDArray[np.float64]
Int = NDArray[np.int64]

FALL = 1.0625
"""The bias falls as the uncovered share to this power: 1 to 1.13 fitted best."""
UNTHREADED = 10_000
"""Terms that OpenBLAS adds up on one thread. Of more the last bits depended on how many threads it
has, and these then spin for 20 ms on the core that the next call wants: ei took 18 ms for 14."""
NO_SHARE = 1e-6
"""A share of independence below which its bias is not looked up."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Information of one joint histogram.

    Parameters
    ----------
    bits : float
        The estimate.
    variance : float
        Of the estimate, of first and second order, in bits squared.
    first_order : float
        The variance of the mean of ``point`` alone, in which the noise of the counts is too.
    extrapolation : float
        Error of what was added for states never seen, in bits.
    point : ndarray of float64, shape (states,)
        Pointwise information of each joint state, less the mean: a sample's influence.

    Examples
    --------
    Made by :func:`information`.
    """

    bits: float
    variance: float
    first_order: float
    extrapolation: float
    point: Float

    @property
    def stderr(self) -> float:
        """Standard error in bits."""
        return math.hypot(math.sqrt(self.variance), self.extrapolation)


def information(name: str, joint: Int, ends: tuple[Int, Int], margins: tuple[Int, Int]) -> Found:
    """Estimate the information of a joint histogram in its occupied states.

    Parameters
    ----------
    name : str
        One of ``ESTIMATORS``.
    joint : ndarray of int64, shape (states,)
        Counts above 0.
    ends : tuple of ndarray of int64, each of shape (states,)
        The counts of the marginal states of x and of y that each joint state belongs to.
    margins : tuple of ndarray of int64, shapes (x_states,) and (y_states,)
        Counts above 0 of the marginal states.

    Returns
    -------
    Found

    Raises
    ------
    ValueError
        If the estimator is unknown.
    """
    n = int(joint.sum())
    which, tables = kind(name), _tables(name, n, *margins)
    if n == 0 or 1 in (margins[0].size, margins[1].size):
        return Found(
            bits=0.0, variance=0.0, first_order=0.0, extrapolation=0.0, point=np.zeros(joint.size)
        )
    ratio = tail = 0.0
    if which == COVERAGE:
        tail = _sum(TAIL, tables, joint, margins)
        ratio = _ratio(joint, tables[0], tail)
        tail *= ratio
    point = np.empty(joint.size)
    _point_states(joint, *ends, tables[0], ratio, point)
    point -= _dot(joint, point) / n
    square = _dot(joint, point**2)
    if which == COVERAGE:
        bits, variance, extrapolation = _covered(
            joint, ends, margins, tables, (ratio, tail), square
        )  # fmt: skip
    else:
        variance, extrapolation = square / n**2, 0.0
        outer = _entropy(which, margins[0], tables) + _entropy(which, margins[1], tables)
        bits = outer - _entropy(which, joint, tables)
    return Found(
        bits=bits / n,
        variance=variance,
        first_order=square / n**2,
        extrapolation=extrapolation,
        point=point,
    )


def entropy(name: str, counts: Int) -> float:
    """Estimate the entropy of a histogram, in bits.

    Parameters
    ----------
    name : str
        One of ``ESTIMATORS``.
    counts : ndarray of int64, shape (states,)
        Counts above 0.

    Raises
    ------
    ValueError
        If the estimator is unknown.
    """
    n = int(counts.sum())
    which, tables = kind(name), _tables(name, n, counts)
    if n == 0 or counts.size == 1:
        return 0.0
    bits = _entropy(which, counts, tables)
    if which == COVERAGE:
        table, whole = tables
        lost = float(whole[TAIL] - table[counts, TAIL].sum())
        bits -= _ratio(counts, table, -lost) * lost
    return bits / n


def _tables(name: str, n: int, *counts: Int) -> tuple[Float, Float]:
    """Return an estimator's rows up to the largest of some counts, and that of their sum."""
    largest = max(int(some.max(initial=0)) for some in counts)
    return count_table(name, largest), count_row(name, n)


def _entropy(which: int, counts: Int, tables: tuple[Float, Float]) -> float:
    """Return N times the entropy in bits; ``tables`` as of ``_tables``."""
    table, whole = tables
    n = int(counts.sum())
    out = np.empty(1)
    if which == CHAO_SHEN:
        _covered_nats(counts, float(n), out)
        return float(out[0]) / math.log(2)
    bits = float(whole[PHI] - _looked_up(table, counts, PHI).sum())
    if which == CHAO_WANG_JOST:
        _unseen_nats(counts, float(n), out)
        bits += float(out[0]) / math.log(2)
    return bits


def _ratio(counts: Int, table: Float, lost: float) -> float:
    """Return by how much of ``lost`` the sample is still off.

    ``lost``: what half of the sample says more than the whole. 0 where next to nothing was seen
    twice, and at most 1 where it is below 0: with every state seen once, information rises by a
    bit a doubling, for ever.
    """
    thin = float(_looked_up(table, counts, THIN).sum())
    # What the sample has not covered, over what the second half of it covered.
    open_share = float(np.count_nonzero(counts == 1)) * thin / (thin + 1) ** 2
    ratio = 1 / ((1 + 1 / open_share) ** FALL - 1) if open_share else 0.0
    return ratio if lost > 0 else min(ratio, 1.0)


def _sum(column: int, tables: tuple[Float, Float], joint: Int, margins: tuple[Int, Int]) -> float:
    """Return N times the information by one column of the tables, which are as of ``_tables``."""
    table, whole = tables
    joined, *outer = (float(_looked_up(table, c, column).sum()) for c in (joint, *margins))
    return float(whole[column] + joined - (outer[0] + outer[1]))


def _dot(a: Int | Float, b: Float) -> float:
    """Return the dot product of two vectors, the same bits on any number of threads."""
    parts = (slice(at, at + UNTHREADED) for at in range(0, a.size, UNTHREADED))
    return float(sum(a[part] @ b[part] for part in parts))


def _looked_up(table: Float, counts: Int, column: int) -> Float:
    """Return ``table[counts, column]``, five times as fast where there are many."""
    found = np.empty(counts.size)
    _look_up_counts(counts, table, column, found)
    return found


def _covered(
    joint: Int,
    ends: tuple[Int, Int],
    margins: tuple[Int, Int],
    tables: tuple[Float, Float],
    beyond: tuple[float, float],
    square: float,
) -> tuple[float, float, float]:
    """Return N times the coverage jackknife, its variance, and its extrapolation's error.

    ``tables`` as of ``_tables``; ``beyond``: the ratio, and what it takes off; ``square``: N**2
    times the variance of first order.
    """
    n = float(joint.sum())
    ratio, tail = beyond
    alike = _alike(joint, ends, margins)
    share = alike**4
    moments = null_moments(*margins) if share > NO_SHARE else np.zeros(8)
    both = np.array([1.0, -2 * ratio, ratio**2])
    second, first = float(both @ moments[2:5]), float(both @ moments[5:8])
    bias = float(moments[0] - ratio * moments[1])
    bits = _sum(PHI, tables, joint, margins) - tail - share * bias
    # By chance the noise is below what is expected of it: at least half of the second order.
    variance = max(square + share * (second - first), share * second / 2) / n**2
    once = float(np.count_nonzero(joint == 1))
    return bits, variance, abs(tail) / n * 8 * alike * (1 - alike) * once / n


def _alike(joint: Int, ends: tuple[Int, Int], margins: tuple[Int, Int]) -> float:
    r"""Return how near a joint distribution is to independence: 1 if it is, 0 if far from it.

    :math:`1 - \sum (p_{xy} - p_x p_y)^2 / \sum p_{xy}^2`, each sum without bias: samples are drawn
    without replacement.
    """
    n = float(joint.sum())
    if n < 3:
        return 0.0
    pairs = n * (n - 1)
    squares = [float(np.sum(counts.astype(np.float64) ** 2)) for counts in (joint, *margins)]
    size, in_x, in_y = ((square - n) / pairs for square in squares)
    if size <= 0:
        return 0.0
    c, a, b = (counts.astype(np.float64) for counts in (joint, *ends))
    cross = _dot(c, (a - 1) * (b - 1) - c + 1) / (pairs * (n - 2))
    return min(max((2 * cross - in_x * in_y) / size, 0.0), 1.0)
