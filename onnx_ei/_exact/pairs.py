"""EI_parts of an affine span, from distributions instead of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_ei._exact.closed_form import measure_corners, measure_slices
from onnx_ei._exact.pieces import OUT_OF_RANGE, Pieces
from onnx_ei._exact.series import series_of
from onnx_ei._exact.units import Unit, unit_of
from onnx_ei.devices import processors

__all__ = ["ExactPairs", "ExactTotals", "exact_pairs", "exact_totals"]

FloatArray = NDArray[np.float64]

_CLOSED_FORM_ERROR = 4e-13
"""Of each code, in closed form: a pair whose series is as good gains nothing from it."""

_MAX_SLICED = 16
"""Fan-in up to which slices are tried: more inputs and codes would take seconds a unit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactPairs:
    """Mutual information of every pair of an input and an output unit.

    Parameters
    ----------
    bits : ndarray of float64, shape (n_in, n_out)
        I(bin of x_a; code of y_b) in bits, given that y_b is in range; 0 where it never is.
    bound : ndarray of float64, shape (n_in, n_out)
        No entry of ``bits`` is further from the truth, in bits.
    kept : ndarray of float64, shape (n_in, n_out)
        The probability that y_b is in range.
    """

    bits: FloatArray
    bound: FloatArray
    kept: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactTotals:
    """What ``ExactPairs`` holds, summed over the inputs of each output unit.

    Parameters
    ----------
    bits, bound : ndarray of float64, shape (n_out,)
        Sums over inputs, in bits.
    kept : ndarray of float64, shape (n_out,)
        Means over inputs.
    """

    bits: FloatArray
    bound: FloatArray
    kept: FloatArray


def exact_pairs(
    weights: FloatArray,
    bias: FloatArray,
    in_range: tuple[float, float],
    in_bins: int,
    pieces: Sequence[Pieces],
    *,
    tolerance: float = 1e-6,
    workers: int | None = None,
) -> ExactPairs:
    """Measure every pair of an affine layer with all inputs uniform at once.

    I(bin(x_a); code_b(z_b)) for z_b = bias_b + sum_a weights_ab x_a, with the x_a independent and
    uniform on ``in_range``: the terms of EI_parts (Marrow, Michaud and Hoel, Entropy 2020, 22(12),
    1429). How, and why the bound holds: docs/exact.md.

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
    tolerance : float
        The error to aim at, in bits a pair. Where double precision cannot reach it, the bound is
        larger and true.
    workers : int, optional
        Threads; by default as many as there are processors. The result does not depend on it.

    Returns
    -------
    ExactPairs

    Raises
    ------
    ValueError
        Shapes that do not fit, numbers that are not finite, an empty range, no bin, a tolerance
        that is not positive.

    Examples
    --------
    The mean of two inputs on (0, 1), in two bins:

    >>> halves = Pieces(edges=[0.5], codes=[0, 1], n_bins=2)
    >>> exact_pairs(np.full((2, 1), 0.5), np.zeros(1), (0.0, 1.0), 2, [halves]).bits.round(5)
    array([[0.18872],
           [0.18872]])
    """
    weights, bias = checked(weights, bias, in_range, in_bins, pieces)
    check_tolerance(tolerance)
    found = np.empty((3, *weights.shape))

    def fill(b: int) -> None:
        results = measure_unit(weights[:, b], bias[b], in_range, in_bins, pieces[b], tolerance)
        table, places = results
        found[:, :, b] = table[places].T

    over_outputs(fill, weights.shape[1], workers)
    return ExactPairs(bits=found[0], bound=found[1], kept=found[2])


def exact_totals(
    weights: FloatArray,
    bias: FloatArray,
    in_range: tuple[float, float],
    in_bins: int,
    pieces: Sequence[Pieces],
    *,
    tolerance: float = 1e-6,
    workers: int | None = None,
) -> ExactTotals:
    """Sum ``exact_pairs`` over the inputs of each output, without holding a matrix.

    Parameters
    ----------
    weights, bias, in_range, in_bins, pieces, tolerance, workers
        As in ``exact_pairs``.

    Returns
    -------
    ExactTotals
        EI_parts is the sum of ``bits``. Beyond the weights, memory grows with n_in + n_out.

    Raises
    ------
    ValueError
        As ``exact_pairs``.

    Examples
    --------
    >>> halves = Pieces(edges=[0.5], codes=[0, 1], n_bins=2)
    >>> exact_totals(np.full((2, 1), 0.5), np.zeros(1), (0.0, 1.0), 2, [halves]).bits.round(5)
    array([0.37744])
    """
    weights, bias = checked(weights, bias, in_range, in_bins, pieces)
    check_tolerance(tolerance)
    found = np.empty((3, weights.shape[1]))

    def fill(b: int) -> None:
        results = measure_unit(weights[:, b], bias[b], in_range, in_bins, pieces[b], tolerance)
        found[:, b] = summed(*results)

    over_outputs(fill, weights.shape[1], workers)
    return ExactTotals(bits=found[0], bound=found[1], kept=found[2])


def summed(table: FloatArray, places: NDArray[np.int64]) -> FloatArray:
    """Sum bits and bounds over inputs, and take the mean of the shares in range.

    Parameters
    ----------
    table : ndarray of float64, shape (n + 1, 3)
    places : ndarray of int64, shape (n_in,)
        Each input's row of ``table``.

    Returns
    -------
    ndarray of float64, shape (3,)
    """
    sums = np.array([math.fsum(column) for column in table[places].T.tolist()])
    sums[2] /= max(places.size, 1)
    return sums


def measure_unit(
    weights: FloatArray,
    bias: float,
    in_range: tuple[float, float],
    in_bins: int,
    pieces: Pieces,
    tolerance: float,
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Measure the pairs of one output unit.

    Parameters
    ----------
    weights : ndarray of float64, shape (n_in,)
    bias, in_range, in_bins, pieces, tolerance
        As in ``exact_pairs``, of the unit.

    Returns
    -------
    table : ndarray of float64, shape (n + 1, 3)
        Bits, bound and share in range of each distinct absolute weight, and of weight 0.
    places : ndarray of int64, shape (n_in,)
        Each input's row of ``table``.
    """
    unit = unit_of(weights, bias, in_range, pieces)
    table = np.zeros((unit.terms.size + 1, 3))
    if not unit.terms.size:
        table[0, 2] = constant_share(pieces, bias)
    elif unit.n_codes:
        table[:-1] = _measured(unit, in_bins, tolerance)
        np.clip(table[:, 2], 0.0, 1.0, out=table[:, 2])
        # An input of weight 0 says nothing, whatever the share in range.
        table[-1, 2] = table[0, 2]
    return table, unit.places


def _measured(unit: Unit, in_bins: int, tolerance: float) -> FloatArray:
    """Measure every term: by a short series, a longer one, or in closed form, as it takes."""
    results = np.zeros((unit.terms.size, 4))
    results[:, (1, 3)] = math.inf
    for tighter in (1.0, 1e-4):
        left = _unsettled(results, tolerance)
        series = series_of(unit, in_bins, tighter * tolerance) if left.size else None
        if series is not None:
            _improve(results, left, series.measure(unit.terms[left]))
    left = _unsettled(results, tolerance)
    left = left[results[left, 3] > _CLOSED_FORM_ERROR * unit.n_codes]
    if left.size:
        _improve(results, left, measure_corners(unit, left, in_bins))
    left = _unsettled(results, tolerance)
    if left.size and unit.counts.sum() <= _MAX_SLICED:
        _improve(results, left, measure_slices(unit, left, in_bins))
    return results[:, :3]


def _improve(results: FloatArray, rows: NDArray[np.intp], found: FloatArray) -> None:
    """Replace what is less certain."""
    better = (found[:, 1] < results[rows, 1]) | (found[:, 3] < results[rows, 3])
    results[rows[better]] = found[better]


def _unsettled(results: FloatArray, tolerance: float) -> NDArray[np.intp]:
    """Return the rows whose bits or share in range may be off by more than the tolerance."""
    return np.flatnonzero((results[:, 1] > tolerance) | (results[:, 3] > tolerance))


def constant_share(pieces: Pieces, value: float) -> float:
    """Return 1 where a constant pre-activation is in range, else 0.

    On an edge it is in range if either side is, as a bin holds its ends.

    Parameters
    ----------
    pieces : Pieces
    value : float

    Returns
    -------
    float
    """
    sides = {int(np.searchsorted(pieces.edges, value, side)) for side in ("left", "right")}
    return float(any(pieces.codes[side] != OUT_OF_RANGE for side in sides))


def over_outputs(task: Callable[[int], None], n_outputs: int, workers: int | None) -> None:
    """Run a task for every output unit, each of which writes a place of its own.

    Parameters
    ----------
    task : callable
    n_outputs : int
    workers : int, optional
        Threads; the kernels release the interpreter's lock.
    """
    n_workers = min(workers or processors(), n_outputs)
    if n_workers <= 1:
        done: Iterable[None] = map(task, range(n_outputs))
        list(done)
        return
    with ThreadPoolExecutor(n_workers) as pool:
        list(pool.map(task, range(n_outputs)))


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that is not a positive number.

    Parameters
    ----------
    tolerance : float

    Raises
    ------
    ValueError
    """
    if not (math.isfinite(tolerance) and tolerance > 0.0):
        raise ValueError(
            f"tolerance must be a positive number of bits a pair, got {tolerance}; the default "
            "is 1e-6"
        )


def checked(
    weights: FloatArray,
    bias: FloatArray,
    in_range: tuple[float, float],
    in_bins: int,
    pieces: Sequence[Pieces],
) -> tuple[FloatArray, FloatArray]:
    """Check and convert what all of the engine takes.

    Parameters
    ----------
    weights, bias, in_range, in_bins, pieces
        As in ``exact_pairs``.

    Returns
    -------
    weights, bias : ndarray of float64

    Raises
    ------
    ValueError
        As ``exact_pairs``.
    """
    weights, bias = np.asarray(weights, np.float64), np.asarray(bias, np.float64)
    if weights.ndim != 2 or bias.shape != weights.shape[1:] or len(pieces) != bias.size:
        raise ValueError(
            f"weights of shape {weights.shape} need one bias and one Pieces an output: got "
            f"bias of shape {bias.shape} and {len(pieces)} pieces; weights are (n_in, n_out)"
        )
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise ValueError(
            "weights and bias must be finite, got inf or NaN; check the layer's parameters"
        )
    low, high = in_range
    if not (math.isfinite(high - low) and low < high):
        raise ValueError(f"in_range must be finite with low < high, got {in_range}")
    if in_bins < 1:
        raise ValueError(f"in_bins must be at least 1, got {in_bins}")
    return weights, bias
