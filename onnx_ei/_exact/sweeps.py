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

_FEW_PAIRS = 1 << 14
"""Pairs that are measured in the time that threads take to start, and to wait for each other."""


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
    exact mass, so the bound is rounding alone: how far the crossings can be off, and what that
    can do to an information (docs/exact.md).

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
    lines = _Lines(in_range, in_bins)

    def fill(b: int) -> None:
        table, places = lines.of_unit(weights[:, b], bias[b], pieces[b])
        found[:, :, b] = table[places].T

    over_outputs(fill, weights.shape[1], _threads(weights, workers))
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
    lines = _Lines(in_range, in_bins)

    def fill(b: int) -> None:
        found[:, b] = summed(*lines.of_unit(weights[:, b], bias[b], pieces[b]))

    over_outputs(fill, weights.shape[1], _threads(weights, workers))
    return ExactTotals(bits=found[0], bound=found[1], kept=found[2])


class _Lines:
    """What the lines of a layer have in common; each kind of pieces is looked at once."""

    def __init__(self, in_range: tuple[float, float], in_bins: int) -> None:
        self._span = np.array(in_range, np.float64)
        self._in_bins = in_bins
        self._cuts: dict[int, tuple[FloatArray, NDArray[np.int64]]] = {}

    def of_unit(
        self, weights: FloatArray, bias: float, pieces: Pieces
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Measure the distinct weights of one output unit: results, and each input's row."""
        distinct, places = np.unique(weights, return_inverse=True)
        table = np.zeros((distinct.size, 3))
        still = distinct == 0.0
        if still.any():
            table[still, 2] = constant_share(pieces, bias)
        edges, codes = self._merged(pieces)
        moving = distinct[~still]
        if moving.size and codes.max() >= 0:
            rise = edges - bias
            distances = np.stack((rise, EPSILON * np.abs(rise)))
            results = np.empty((moving.size, 4))
            _sweeps(moving, distances, codes, self._span, self._in_bins, results)
            table[~still] = np.minimum(results[:, :3], (np.inf, np.inf, 1.0))
        return table, places.astype(np.int64)

    def _merged(self, pieces: Pieces) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return the edges, and the codes between them counted from 0 without gaps."""
        found = self._cuts.get(id(pieces))
        if found is None:
            edges, codes = merged(pieces)
            used, dense = np.unique(codes, return_inverse=True)
            found = edges, dense.astype(np.int64) - int(used[0] == OUT_OF_RANGE)
            self._cuts[id(pieces)] = found
        return found


def _threads(weights: FloatArray, workers: int | None) -> int | None:
    """Return how many threads to use: for little work the calling one is the fastest."""
    return 1 if weights.size < _FEW_PAIRS else workers
