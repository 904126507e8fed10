"""Codes and keys to bits: mutual information of pairs and of vectors, with its errors.

The arithmetic from counts to bits is in ``onnx_ei.estimators``, whose names this module offers too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_ei._kernels.pairwise import _pairwise
from onnx_ei._kernels.vector import _pointwise_moments
from onnx_ei.estimators import (
    DEFAULT_ESTIMATOR,
    ESTIMATORS,
    entropy_of_counts,
    estimator_table,
    information_of_counts,
    log2_table,
)
from onnx_ei.histogram import check_codes, state_ids

__all__ = [
    "DEFAULT_ESTIMATOR",
    "ESTIMATORS",
    "PairwiseInformation",
    "VectorInformation",
    "entropy_of_counts",
    "estimator_table",
    "information_of_counts",
    "pairwise_information",
    "vector_information",
]

Float = NDArray[np.float64]

_MAX_BLOCKS = 64


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
    influence : ndarray of float64, shape (n_outputs, n_blocks)
        Sum, over the inputs and over the samples of one block, of the sample's pointwise
        information less the pair's, times ``n_samples / kept``; in bits. Multiples of 2**-20 for
        each input, so that sums over tiles of inputs are exact in any order.
    n_samples : int
        Samples drawn, kept or not.
    """

    bits: Float
    stderr: Float
    kept: NDArray[np.int64]
    influence: Float
    n_samples: int

    def __post_init__(self) -> None:
        """Refuse shapes that do not belong together."""
        shape = self.bits.shape
        if len(shape) != 2 or not shape == self.stderr.shape == self.kept.shape:
            raise ValueError(
                "bits, stderr and kept must be matrices of one shape, "
                f"got {shape}, {self.stderr.shape} and {self.kept.shape}"
            )
        if self.influence.ndim != 2 or self.influence.shape[0] != shape[1]:
            raise ValueError(f"influence must be ({shape[1]}, blocks), got {self.influence.shape}")

    @property
    def total(self) -> float:
        """Sum over all pairs, in bits, not clipped."""
        return float(self.bits.sum())

    @property
    def total_stderr(self) -> float:
        r"""Standard error of ``total``, in bits.

        The delete-one-block jackknife, linearised: with :math:`D_g` the influence of block
        :math:`g` of :math:`G`, :math:`\frac{G}{(G - 1) n^2} \sum_g (D_g - \bar D)^2` is the
        variance. Pairs share samples, so their own variances must not be added. 0 for one block.
        """
        return block_stderr(self.influence.sum(axis=0), self.n_samples)


def pairwise_information(
    in_codes: NDArray[Any],
    out_codes: NDArray[Any],
    in_bins: NDArray[np.int64],
    out_bins: NDArray[np.int64],
    estimator: str = DEFAULT_ESTIMATOR,
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
    tables = np.stack([estimator_table(estimator, n), log2_table(n)], axis=1)
    shape = (in_bins.size, out_bins.size)
    bits = np.empty((2, *shape))
    kept = np.empty(shape, np.int64)
    groups = _groups(*shape)
    influence = np.zeros((out_bins.size * groups, max(1, min(n, _MAX_BLOCKS))))
    _pairwise(in_codes, out_codes, in_bins, out_bins, tables, bits, kept, influence)
    return PairwiseInformation(
        bits=bits[0],
        stderr=bits[1],
        kept=kept,
        influence=influence.reshape(out_bins.size, groups, -1).sum(axis=1),
        n_samples=n,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorInformation:
    """Mutual information of two vectors, each taken whole.

    Attributes
    ----------
    bits : float
        The estimate, not clipped; 0 where nothing was kept.
    stderr : float
        Its standard error in bits, by the variance of the pointwise information: the scatter
        between runs, not the bias that ``coverage`` warns of. 0 where nothing was kept.
    n_kept : int
        Samples that no unit dropped.
    coverage : float
        1 - singletons / n_kept: an estimate of the probability of the joint states already seen
        (Good, Biometrika 40, 1953). 0 where nothing was kept.
    singletons : int
        Joint states seen once.
    n_states : tuple of int
        Distinct states of the input, of the output and of the joint.
    influence : ndarray of float64, shape (n_blocks,)
        As in ``PairwiseInformation``, for this one pair.
    """

    bits: float
    stderr: float
    n_kept: int
    coverage: float
    singletons: int
    n_states: tuple[int, int, int]
    influence: Float


def vector_information(
    in_keys: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    out_keys: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    kept: NDArray[np.bool_],
    estimator: str = DEFAULT_ESTIMATOR,
) -> VectorInformation:
    """Estimate the mutual information of two vectors from their state keys.

    Parameters
    ----------
    in_keys, out_keys : Keys or tuple of ndarray of uint64, each of shape (n_samples,)
        ``(hi, lo)``, as ``pack_keys`` makes them.
    kept : ndarray of bool, shape (n_samples,)
        Samples that no unit of either vector dropped.
    estimator : str
        One of ``ESTIMATORS``.

    Returns
    -------
    VectorInformation

    Raises
    ------
    ValueError
        If the lengths differ, or the estimator is unknown.

    Notes
    -----
    Below a coverage of about 0.95 the estimate is biased upwards, and no estimator of this table
    repairs it: with every joint state seen once it is log2(n) whatever the truth. The result does
    not depend on the number of threads. Uses numba's threads: call it from one thread at a time.

    Examples
    --------
    >>> lo = np.repeat(np.arange(4, dtype=np.uint64), 8)
    >>> keys = (np.zeros_like(lo), lo)
    >>> found = vector_information(keys, keys, np.ones(32, bool), "plugin")
    >>> found.bits, found.n_states, found.coverage
    (2.0, (4, 4, 4), 1.0)
    """
    n_kept = int(np.count_nonzero(kept))
    phi, log2 = estimator_table(estimator, n_kept), log2_table(n_kept)
    ids = np.empty((3, kept.size), np.int64)
    ids[0], in_counts = state_ids(*in_keys, kept)
    ids[1], out_counts = state_ids(*out_keys, kept)
    pair = ids[0].astype(np.uint64) << np.uint64(32) | ids[1].astype(np.uint64)
    ids[2], counts = state_ids(np.zeros_like(pair), pair, kept)
    singletons = int(np.count_nonzero(counts == 1))
    found = (in_counts, out_counts, counts)
    bits = stderr = 0.0
    moments = np.zeros((2, max(1, min(kept.size, _MAX_BLOCKS))))
    if n_kept:
        outer = phi[in_counts].sum() + phi[out_counts].sum()
        bits = float((phi[n_kept] + phi[counts].sum() - outer) / n_kept)
        plugin = log2[counts] @ counts - log2[in_counts] @ in_counts - log2[out_counts] @ out_counts
        logs = np.zeros((3, counts.size))
        for row, of in zip(logs, found, strict=True):
            row[: of.size] = log2[of]
        _pointwise_moments(ids, logs, float(plugin / n_kept), moments)
        stderr = float(np.sqrt(moments[1].sum()) / n_kept)
    return VectorInformation(
        bits=bits,
        stderr=stderr,
        n_kept=n_kept,
        coverage=1 - singletons / n_kept if n_kept else 0.0,
        singletons=singletons,
        n_states=(in_counts.size, out_counts.size, counts.size),
        influence=moments[0] * (kept.size / n_kept if n_kept else 0.0),
    )


def block_stderr(influence: Float, n_samples: int) -> float:
    """Return the standard error of a mean from its influence, summed over blocks of samples.

    Parameters
    ----------
    influence : ndarray of float64, shape (n_blocks,)
        Sums over equal contiguous blocks.
    n_samples : int
        Samples in all blocks.

    Returns
    -------
    float
        In the unit of ``influence``; 0 for fewer than two blocks.

    Examples
    --------
    >>> block_stderr(np.array([3.0, -3.0]), 6)
    1.0
    """
    blocks = influence.size
    if blocks < 2:
        return 0.0
    spread = np.sum((influence - influence.mean()) ** 2)
    return float(np.sqrt(blocks / (blocks - 1) * spread) / n_samples)


def _groups(n_inputs: int, n_outputs: int) -> int:
    """Return into how many tasks to cut the inputs of one output.

    By the numbers of units alone, so that neither results nor memory depend on the machine: about
    64 tasks in all, and at least 4 inputs in each to pay for its preparation.
    """
    return max(1, min(n_inputs // 4, -(-64 // n_outputs)))


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
