"""Sensitivity of an affine span: one input uniform at a time, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_ei._exact.pairs import (
    ExactPairs,
    ExactTotals,
    checked,
    constant_share,
    over_outputs,
    summed,
)
from onnx_ei._exact.pieces import OUT_OF_RANGE, Pieces
from onnx_ei._exact.units import EPSILON, merged
from onnx_ei._kernels.exact_sweeps import _sweeps

__all__ = ["exact_sweep_totals", "exact_sweeps"]

FloatArray = NDArray[np.float64]

_NOTHING = 1e-200


def exact_sweeps(
    weights: FloatArray,
    bias: FloatArray,
    in_range: tuple[float, float],
    in_bins: int,
    pieces: Sequence[Pieces],
    *,
    workers: int | None = None,
) -> ExactPairs:
    """Measure every pair of an affine layer with one input uniform at a time, the others 0.

    I(bin(x); code_b(bias_b + weights_ab x)) for x uniform on ``in_range``: the terms of
    sensitivity (Marrow, Michaud and Hoel, Entropy 2020, 22(12), 1429). The input range is
    cut at the edges of its bins and where the line crosses the output's edges; each piece has an
    exact mass, so the bound is rounding alone.

    Parameters
    ----------
    weights : ndarray of float64, shape (n_in, n_out)
    bias : ndarray of float64, shape (n_out,)
    in_range : (float, float)
        On which every input is uniform.
    in_bins : int
        Bins of equal width of every input.
    pieces : sequence of Pieces
        The codes of each output unit; the same object may be repeated.
    workers : int, optional
        Threads; by default as many as there are processors. The result does not depend on it.

    Returns
    -------
    ExactPairs

    Raises
    ------
    ValueError
        As ``exact_pairs``.

    Examples
    --------
    A line of slope 1/2 reaches half of the bins:

    >>> quarters = Pieces(edges=[0.25, 0.5, 0.75], codes=[0, 1, 2, 3], n_bins=4)
    >>> exact_sweeps(np.full((1, 1), 0.5), np.zeros(1), (0.0, 1.0), 4, [quarters]).bits.round(5)
    array([[1.]])
    """
    weights, bias = checked(weights, bias, in_range, in_bins, pieces)
    found = np.empty((3, *weights.shape))

    def fill(b: int) -> None:
        table, places = _swept_unit(weights[:, b], bias[b], in_range, in_bins, pieces[b])
        found[:, :, b] = table[places].T

    over_outputs(fill, weights.shape[1], workers)
    return ExactPairs(bits=found[0], bound=found[1], kept=found[2])


def exact_sweep_totals(
    weights: FloatArray,
    bias: FloatArray,
    in_range: tuple[float, float],
    in_bins: int,
    pieces: Sequence[Pieces],
    *,
    workers: int | None = None,
) -> ExactTotals:
    """Sum ``exact_sweeps`` over the inputs of each output, without holding a matrix.

    Parameters
    ----------
    weights, bias, in_range, in_bins, pieces, workers
        As in ``exact_sweeps``.

    Returns
    -------
    ExactTotals
        Sensitivity is the sum of ``bits``.

    Raises
    ------
    ValueError
        As ``exact_pairs``.

    Examples
    --------
    >>> halves = Pieces(edges=[0.25], codes=[0, 1], n_bins=2)
    >>> weights = np.array([[0.5], [0.5], [0.0]])
    >>> exact_sweep_totals(weights, np.zeros(1), (0.0, 1.0), 2, [halves]).bits.round(5)
    array([2.])
    """
    weights, bias = checked(weights, bias, in_range, in_bins, pieces)
    found = np.empty((3, weights.shape[1]))

    def fill(b: int) -> None:
        found[:, b] = summed(*_swept_unit(weights[:, b], bias[b], in_range, in_bins, pieces[b]))

    over_outputs(fill, weights.shape[1], workers)
    return ExactTotals(bits=found[0], bound=found[1], kept=found[2])


def _swept_unit(
    weights: FloatArray, bias: float, in_range: tuple[float, float], in_bins: int, pieces: Pieces
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Measure the distinct weights of one output unit: their results, and each input's row."""
    distinct, places = np.unique(weights, return_inverse=True)
    table = np.zeros((distinct.size, 3))
    still = distinct == 0.0
    table[still, 2] = constant_share(pieces, bias)
    edges, codes = merged(pieces)
    used, dense = np.unique(codes, return_inverse=True)
    dense = dense.astype(np.int64) - int(used[0] == OUT_OF_RANGE)
    moving = np.ascontiguousarray(distinct[~still])
    if moving.size and dense.max() >= 0:
        rise = edges - bias
        distances = np.stack((rise, EPSILON * np.abs(rise)))
        results = np.empty((moving.size, 4))
        _sweeps(moving, distances, dense, np.array(in_range, np.float64), in_bins, results)
        np.clip(results[:, 2], 0.0, 1.0, out=results[:, 2])
        # Floors are no mass: where no piece and no edge is near, nothing is in range, for certain.
        results[results[:, 2] < _NOTHING, :3] = 0.0
        table[~still] = results[:, :3]
    return table, places.astype(np.int64)
