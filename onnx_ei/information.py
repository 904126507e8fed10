"""Codes and keys to bits: mutual information of pairs and of vectors, with its errors.

The arithmetic from counts to bits is in ``onnx_ei.estimators``, whose names this module offers too.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_ei._estimators.histograms import information
from onnx_ei._kernels.pairwise import _pairwise
from onnx_ei._kernels.vector import _find_ends, _pair_keys
from onnx_ei.estimators import (
    DEFAULT_ESTIMATOR,
    ESTIMATORS,
    entropy_of_counts,
    estimator_rule,
    estimator_table,
    information_of_counts,
)
from onnx_ei.histogram import MANY_SAMPLES, check_codes, state_ids

__all__ = [
    "DEFAULT_ESTIMATOR",
    "ESTIMATORS",
    "Influence",
    "PairwiseInformation",
    "VectorInformation",
    "entropy_of_counts",
    "estimator_table",
    "information_of_counts",
    "pairwise_information",
    "vector_information",
]

Float = NDArray[np.float64]

FEW_SAMPLES = 1 << 15
"""Samples from which a thread that numbers states is worth starting: that takes 0.15 ms."""
INFLUENCES = 2048
"""Samples whose influence is kept: their variance is known to 3 %, for 2 % of 10**5 samples."""
_TASKS = 256
_GRAIN = 2.0**20


@dataclass(frozen=True, kw_only=True, eq=False)
class Influence:
    r"""What a sum of informations owes to single samples: the source of its standard error.

    Attributes
    ----------
    values : ndarray of float64, shape (m,)
        For each of the first ``m`` samples the sum of its pointwise informations less their
        means, each times ``n_samples / kept``; in bits. Multiples of 2**-20 for each term, so
        that no order of adding changes a sum.
    variance, first_order : float
        ``n_samples`` times the variance of each term, summed: the whole, and that which the
        pointwise informations show; in bits squared.
    extrapolation : float
        Errors of what was added for states never seen, summed: they share their sign.
    n_samples : int
        Samples drawn, kept or not.
    """

    values: Float
    variance: float
    first_order: float
    extrapolation: float
    n_samples: int

    @classmethod
    def none(cls, n_samples: int) -> Influence:
        """Return that of a sum of nothing."""
        values = np.zeros(min(n_samples, INFLUENCES))
        return cls(
            values=values, variance=0.0, first_order=0.0, extrapolation=0.0, n_samples=n_samples
        )

    @classmethod
    def of(cls, values: Float, spread: Float, n_samples: int) -> Influence:
        """Return that which a kernel added up: the values, and the three that follow them."""
        variance, first_order, extrapolation = spread.tolist()
        return cls(
            values=values,
            variance=variance,
            first_order=first_order,
            extrapolation=extrapolation,
            n_samples=n_samples,
        )

    def __add__(self, other: Influence) -> Influence:
        """Return that of both sums together, of the same samples."""
        return Influence(
            values=self.values + other.values,
            variance=self.variance + other.variance,
            first_order=self.first_order + other.first_order,
            extrapolation=self.extrapolation + other.extrapolation,
            n_samples=self.n_samples,
        )

    def __sub__(self, other: Influence) -> Influence:
        """Return that of the difference, of the same samples."""
        values = self._factor * self.values - other._factor * other.values
        spread = self.variance + other.variance
        return Influence(
            values=values,
            variance=spread,
            first_order=spread,
            extrapolation=self.extrapolation + other.extrapolation,
            n_samples=self.n_samples,
        )

    @property
    def _factor(self) -> float:
        """The noise of the counts swells pointwise informations: what takes it out again."""
        return math.sqrt(self.variance / self.first_order) if self.first_order else 1.0

    @property
    def stderr(self) -> float:
        r"""Standard error of the sum, in bits; 0 for fewer than two samples.

        The infinitesimal jackknife, which is delete-one to first order in 1/N:
        :math:`\sqrt{\mathrm{Var}[v] / N}`, v the ``values``, scaled by ``variance /
        first_order``. Terms share samples, so their own variances must not be added. To it comes
        ``extrapolation``.
        """
        return self.error_of(float(self.values.var(ddof=1)) if self.values.size > 1 else 0.0)

    def error_of(self, scatter: float) -> float:
        """Return ``stderr`` where the variance of ``values`` is known."""
        if self.values.size < 2:
            return 0.0
        spread = scatter * self._factor**2
        if not self.first_order:
            spread = self.variance
        return math.hypot(math.sqrt(spread / self.n_samples), self.extrapolation)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairwiseInformation:
    """Mutual information of every pair of an input and an output unit.

    Attributes
    ----------
    bits : ndarray of float64, shape (n_inputs, n_outputs)
        Estimates, not clipped; 0 where nothing was kept.
    stderr : ndarray of float64, shape (n_inputs, n_outputs)
        Standard error of each alone, in bits; 0 where nothing was kept.
    kept : ndarray of int64, shape (n_inputs, n_outputs)
        Samples that neither unit dropped.
    influence : Influence
        Of the sum over all pairs.
    n_samples : int
        Samples drawn, kept or not.
    pvalues : ndarray of float64, shape (n_inputs, n_outputs), or None
        Where they were asked for: how likely independent ends are to show as much or more.
    summed : (float, float) or None
        The sum of ``bits``, and the mean of ``kept``, where the matrices are not held: then their
        shape is (0, 0).
    """

    bits: Float
    stderr: Float
    kept: NDArray[np.int64]
    influence: Influence
    n_samples: int
    pvalues: Float | None = None
    summed: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that do not belong together."""
        shape = self.bits.shape
        if len(shape) != 2 or not shape == self.stderr.shape == self.kept.shape:
            raise ValueError(
                "bits, stderr and kept must be matrices of one shape, "
                f"got {shape}, {self.stderr.shape} and {self.kept.shape}"
            )

    @property
    def total(self) -> float:
        """Sum over all pairs, in bits, not clipped."""
        return float(self.bits.sum()) if self.summed is None else self.summed[0]

    @property
    def mean_kept(self) -> float:
        """Samples that were kept of a pair, on average."""
        return float(np.mean(self.kept)) if self.summed is None else self.summed[1]

    @property
    def total_stderr(self) -> float:
        """Standard error of ``total``, in bits."""
        return self.influence.stderr


def pairwise_information(
    in_codes: NDArray[Any],
    out_codes: NDArray[Any],
    in_bins: NDArray[np.int64],
    out_bins: NDArray[np.int64],
    estimator: str = DEFAULT_ESTIMATOR,
    *,
    pvalues: bool = False,
) -> PairwiseInformation:
    """Estimate the mutual information of every pair of an input and an output unit.

    Parameters
    ----------
    in_codes : ndarray of unsigned int, shape (n_inputs, n_samples)
        Codes of the inputs; ``in_bins[unit]`` marks a dropped sample.
    out_codes : ndarray of unsigned int, shape (n_outputs, n_samples)
        Codes of the outputs.
    in_bins, out_bins : ndarray of int64, shape (n_inputs,) and (n_outputs,)
        Numbers of bins.
    estimator : str
        One of ``ESTIMATORS``.
    pvalues : bool
        Test every pair against independence too.

    Returns
    -------
    PairwiseInformation
        Estimates, errors and numbers of samples kept, a pair each. A sample that either unit of
        a pair dropped is left out of that pair; a constant output has 0 bits.

    Raises
    ------
    ValueError
        If shapes do not fit together, a code exceeds its number of bins, or the estimator is
        unknown.

    Notes
    -----
    A pair's histogram lives in cache while its samples are counted, becomes bits, and is gone:
    memory grows with the codes and the result only. The result does not depend on the number of
    threads. Uses numba's threads: call it from one thread at a time.

    The test is the G-test (2 N ln 2 times the plug-in information is chi-squared with
    :math:`(K_x - 1)(K_y - 1)` degrees of freedom), made good for cells that are seen seldom or
    never: the statistic is the coverage jackknife's before the null's share is taken off, its mean
    and variance under independence are those of Poisson counts with these margins, and the degrees
    of freedom are the cells that are free in that variance.

    Examples
    --------
    >>> x = np.array([[0, 0, 1, 1]], np.uint8)
    >>> y = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], np.uint8)
    >>> found = pairwise_information(x, y, np.array([2]), np.array([2, 1]), "plugin")
    >>> found.bits.tolist()
    [[1.0, 0.0]]
    """
    in_codes, in_bins = _unit_codes(in_codes, in_bins)
    out_codes, out_bins = _unit_codes(out_codes, out_bins)
    n = in_codes.shape[1]
    if out_codes.shape[1] != n:
        raise ValueError(f"{n} samples of the inputs, but {out_codes.shape[1]} of the outputs")
    shape = (in_bins.size, out_bins.size)
    tested = pvalues and estimator == DEFAULT_ESTIMATOR
    bits = np.empty((4 if tested else 2, *shape))
    kept = np.empty(shape, np.int64)
    tasks = _tasks(*shape)
    influence = np.zeros((tasks, min(n, INFLUENCES)))
    spread = np.zeros((tasks, 3))
    rule = estimator_rule(estimator, n)
    _pairwise(in_codes, out_codes, (in_bins, out_bins), rule, bits, kept, influence, spread)
    chance = _chance(bits[2], bits[3]) if tested else None
    if pvalues and not tested:
        chance = pairwise_information(in_codes, out_codes, in_bins, out_bins, pvalues=True).pvalues
    return PairwiseInformation(
        bits=bits[0],
        stderr=bits[1],
        kept=kept,
        influence=Influence.of(influence.sum(axis=0), spread.sum(axis=0), n),
        n_samples=n,
        pvalues=chance,
    )


def _chance(above: Float, free: Float) -> Float:
    """Return the p-value of a statistic by how many standard deviations it is above its mean."""
    from scipy.special import chdtrc

    # A constant end has no free cell, and is independent for sure.
    cells = np.where(free > 0, free, 1.0)
    chance = chdtrc(cells, np.maximum(cells + above * np.sqrt(2 * cells), 0.0))
    return np.where(free > 0, chance, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorInformation:
    """Mutual information of two vectors, each taken whole.

    Attributes
    ----------
    bits : float
        The estimate, not clipped; 0 where nothing was kept.
    stderr : float
        Its standard error in bits: the scatter between runs, and what the extrapolation to
        states never seen may be off by; not the rest of the bias that ``coverage`` warns of. 0
        where nothing was kept.
    n_kept : int
        Samples that no unit dropped.
    coverage : float
        1 - singletons / n_kept: an estimate of the probability of the joint states already seen
        (Good, Biometrika 40, 1953). 0 where nothing was kept.
    singletons : int
        Joint states seen once.
    n_states : tuple of int
        Distinct states of the input, of the output and of the joint.
    influence : Influence
        Of this one pair.
    """

    bits: float
    stderr: float
    n_kept: int
    coverage: float
    singletons: int
    n_states: tuple[int, int, int]
    influence: Influence


def vector_information(
    in_keys: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    out_keys: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    kept: NDArray[np.bool_],
    estimator: str = DEFAULT_ESTIMATOR,
    *,
    threads: int = 1,
) -> VectorInformation:
    """Estimate the mutual information of two vectors from their state keys.

    Parameters
    ----------
    in_keys, out_keys : Keys or tuple of ndarray of uint64, each of shape (n_samples,)
        ``(hi, lo)``, as ``pack_keys`` makes them; ``hi`` may have shape (0,), and is 0 then.
    kept : ndarray of bool, shape (n_samples,)
        Samples that no unit of either vector dropped.
    estimator : str
        One of ``ESTIMATORS``.
    threads : int
        With two or more, both ends are numbered at once, where there is enough to number.

    Returns
    -------
    VectorInformation

    Raises
    ------
    ValueError
        If the lengths differ, or the estimator is unknown.

    Notes
    -----
    Below a coverage of about 0.95 estimates are biased, most of them upwards: with every joint
    state seen once, no estimator can tell log2(n) from the truth. The result does not depend on
    the number of threads. Which those are is said at ``state_ids``.

    Examples
    --------
    >>> lo = np.repeat(np.arange(4, dtype=np.uint64), 8)
    >>> keys = (np.zeros_like(lo), lo)
    >>> found = vector_information(keys, keys, np.ones(32, bool), "plugin")
    >>> found.bits, found.n_states, found.coverage
    (2.0, (4, 4, 4), 1.0)
    """
    n = kept.size
    if threads > 1 and FEW_SAMPLES <= n < MANY_SAMPLES:
        with ThreadPoolExecutor(1) as thread:
            other = thread.submit(state_ids, *out_keys, kept)
            x, in_counts = state_ids(*in_keys, kept)
            y, out_counts = other.result()
    else:
        x, in_counts = state_ids(*in_keys, kept)
        y, out_counts = state_ids(*out_keys, kept)
    pair = np.empty(n, np.uint64)
    _pair_keys(x, y, pair)
    joint, counts = state_ids(pair[:0], pair, kept)
    n_kept = int(counts.sum())
    singletons = int(np.count_nonzero(counts == 1))
    margins = (in_counts, out_counts)
    at = (np.empty_like(counts), np.empty_like(counts))
    _find_ends(joint, (x, y), margins, *at)
    found = information(estimator, counts, at, margins)
    first = joint[:INFLUENCES]
    scale = n / n_kept if n_kept else 0.0
    values = np.where(first < 0, 0.0, found.point[first] if n_kept else 0.0)
    return VectorInformation(
        bits=found.bits,
        stderr=found.stderr,
        n_kept=n_kept,
        coverage=1 - singletons / n_kept if n_kept else 0.0,
        singletons=singletons,
        n_states=(in_counts.size, out_counts.size, counts.size),
        influence=Influence(
            values=np.rint(values * scale * _GRAIN) / _GRAIN,
            variance=found.variance * n,
            first_order=found.first_order * n,
            extrapolation=found.extrapolation,
            n_samples=n,
        ),
    )


def _tasks(n_inputs: int, n_outputs: int) -> int:
    """Return into how many tasks to cut the pairs of a layer.

    By the numbers of units alone, so that neither results nor memory depend on the machine: about
    64 tasks or more, and at least 4 inputs of an output in each to pay for its preparation.
    """
    return min(_TASKS, n_outputs * max(1, min(n_inputs // 4, -(-64 // n_outputs))))


def _unit_codes(
    codes: NDArray[Any], n_bins: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Check codes against their bins, and lay both out as the kernel wants them."""
    n_bins = np.ascontiguousarray(n_bins, dtype=np.int64)
    if codes.ndim != 2 or n_bins.shape != codes.shape[:1] or not n_bins.size:
        raise ValueError(
            "codes must be (units, samples) and bins (units,), for at least one unit, "
            f"got {codes.shape} and {n_bins.shape}"
        )
    check_codes(codes, n_bins)
    return np.ascontiguousarray(codes), n_bins
