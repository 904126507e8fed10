"""The distribution of a sum of uniforms in closed form, and the pairs that need it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_ei._exact.units import EPSILON, Unit
from onnx_ei._kernels.exact import _information
from onnx_ei._kernels.exact_corners import _corner_table, _cumulative, _moments
from onnx_ei._kernels.exact_series import _characteristic

__all__ = ["Chain", "chain_of", "measure_corners", "measure_slices"]

_MAX_SPLIT = 24
"""Terms split off at most; by then what is left has long been negligible or smooth."""

_LEAF_LENGTHS = (24, 48, 96, 192, 384)
_LEAF_ERROR = 1e-13
_NEGLIGIBLE = 1e-16
# Half-widths of a sub-Gaussian sum in standard deviations: 2 exp(-8.2**2 / 2) = 5e-15.
_LEAF_SPREAD = 8.2
# Keeps the logarithm of an empty cell finite.
_TINY = 1e-250


@dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """The distribution of a sum of independent uniforms on [-term, term].

    Parameters
    ----------
    terms : ndarray of float64, shape (s,)
        The largest, which are split off one at a time.
    reaches : ndarray of float64, shape (s + 1,)
        How far the sum reaches without the first 0, 1, ..., s of them.
    polynomials : ndarray of float64, shape (s + 1, s // 2 + 1)
        Row q: E[(y - R_q)**q] / q! from the highest power of y down by twos.
    waves, hump : ndarray of float64
        The rest as a Fourier series and a polynomial; empty where the rest is taken as 0.
    error : float
        Of a probability, from what is left out of the series or taken as 0.
    wrapped : float
        The probability that the rest lies outside of its period.
    """

    terms: NDArray[np.float64]
    reaches: NDArray[np.float64]
    polynomials: NDArray[np.float64]
    waves: NDArray[np.float64]
    hump: NDArray[np.float64]
    error: float
    wrapped: float

    def below(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Find the probabilities that the sum is below each point.

        Parameters
        ----------
        points : ndarray of float64, shape (m,)

        Returns
        -------
        probabilities : ndarray of float64, shape (m,)
        error : float
            None of them is further from the truth, for the points and terms as they are.
        """
        values = np.empty((2, points.size))
        _cumulative(
            points, self.terms, self.reaches, self.polynomials, self.waves, self.hump, values
        )
        magnitude = 1.0 + float(values[1].max(initial=0.0))
        rounding = 64.0 * EPSILON * (self.terms.size + 2)
        return values[0], self.error + (rounding + 8.0 * self.wrapped) * magnitude


def chain_of(terms: NDArray[np.float64]) -> Chain:
    """Choose how many terms to split off, and set up the rest.

    Parameters
    ----------
    terms : ndarray of float64, shape (n,)
        Half-widths, positive, descending; at least one.

    Returns
    -------
    Chain

    Examples
    --------
    The sum of two dice without faces:

    >>> chain_of(np.array([1.0, 1.0])).below(np.array([-1.0, 0.0, 1.0]))[0]
    array([0.125, 0.5  , 0.875])
    """
    variances = np.append(np.cumsum(terms[::-1] ** 2)[::-1] / 3.0, 0.0)
    best = (math.inf, 0, 0, math.inf)
    for split in range(min(terms.size, _MAX_SPLIT) + 1):
        corners = 2.0 ** min(split, 12)
        if best[0] <= corners:
            break
        error = _point_error(terms, split, float(variances[split]))
        last = split == min(terms.size, _MAX_SPLIT)
        if error <= _NEGLIGIBLE or (last and not math.isfinite(best[0])):
            best = (corners, split, 0, error)
            break
        for length in _LEAF_LENGTHS:
            cost = corners * (1.0 + length / 8.0)
            if cost >= best[0]:
                break
            error = _leaf_error(terms, split, length, float(variances[split]))
            if error <= _LEAF_ERROR:
                best = (cost, split, length, error)
                break
    _, split, length, error = best
    return _assembled(terms, split, length, error, float(variances[split]))


def _point_error(terms: NDArray[np.float64], split: int, variance: float) -> float:
    """Bound the error of a probability from taking all but the first terms as 0."""
    if split == terms.size:
        return 0.0
    if split == 0:
        return math.inf
    # The distribution of the rest is Lipschitz, and from two terms on its density is too.
    error = math.sqrt(variance) / (2.0 * terms[0])
    if split > 1:
        error = min(error, variance / (8.0 * terms[0] * terms[1]))
    return float(error)


def _half_period(rest: NDArray[np.float64], variance: float) -> float:
    """Return how far a sum reaches, or all but a negligible share of it."""
    return min(float(rest.sum()), _LEAF_SPREAD * math.sqrt(variance))


def _leaf_error(terms: NDArray[np.float64], split: int, length: int, variance: float) -> float:
    """Bound the error of a probability from cutting the series of the rest."""
    half = _half_period(terms[split:], variance)
    x = terms[split:] * (math.pi * (length + 1) / half)
    power = float(np.minimum(1.0, x * x / 3.0).sum()) + min(split, 1)
    if power <= 0.0:
        return math.inf
    far = math.log(math.sqrt(3.0 / math.e)) - np.log(x)
    log_envelope = float(np.where(x > math.sqrt(3.0), far, -x * x / 6.0).sum())
    log_shares = float(np.log(half / terms[:split]).sum())
    order = min(split, 1) + 1
    log_error = log_envelope + log_shares - order * math.log(math.pi * (length + 1))
    return 2.0 * math.exp(min(log_error, 0.0)) * (1.0 + (length + 1) / power)


def _assembled(
    terms: NDArray[np.float64], split: int, length: int, error: float, variance: float
) -> Chain:
    """Work out the coefficients of a chain."""
    moments = np.zeros((split + 1, split // 2 + 2))
    moments[split, 0] = 1.0
    half, wrapped = 0.0, 0.0
    rest = np.ascontiguousarray(terms[split:])
    if length:
        _moments(rest, moments[split])
        half = _half_period(rest, variance)
        if half < rest.sum():
            wrapped = 2.0 * math.exp(-(half**2) / (2.0 * variance))
    own = np.empty(moments.shape[1])
    for q in range(split - 1, -1, -1):
        _moments(terms[q : q + 1], own)
        moments[q] = np.convolve(moments[q + 1], own)[: own.size]
    polynomials = np.zeros((split + 1, split // 2 + 1))
    for q in range(split + 1):
        polynomials[q, : q // 2 + 1] = _polynomial(moments[q], q)
    waves, hump = np.empty(0), np.empty(1)
    if length:
        waves, hump = _leaf_coefficients(rest, split, length, half, moments[split])
    reaches = np.append(np.cumsum(terms[:split][::-1])[::-1], 0.0) + half
    return Chain(
        terms=np.ascontiguousarray(terms[:split]),
        reaches=reaches,
        polynomials=polynomials,
        waves=waves,
        hump=hump,
        error=error,
        wrapped=wrapped,
    )


def _polynomial(moments: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Return the coefficients of E[(y - R)**order] / order!, from the highest power down."""
    return np.array([moments[i] / math.factorial(order - 2 * i) for i in range(order // 2 + 1)])


def _leaf_coefficients(
    rest: NDArray[np.float64], order: int, length: int, half: float, moments: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Integrate the Fourier series of a density ``order`` + 1 times.

    Each integration leaves a constant; those of odd order follow from the integral being 0 at the
    lower end of the period, those of even order from symmetry.
    """
    step = math.pi / half
    values, envelopes = np.empty(length), np.empty(length)
    _characteristic(rest, np.ones(rest.size, np.int64), step, values, envelopes)
    omega = step * np.arange(1, length + 1)
    flips = np.where(np.arange(1, length + 1) % 2, -1.0, 1.0)
    constants = {-1: 0.5 / half}
    for r in range(1, order + 1, 2):
        powers = half ** np.arange(r, -1.0, -2.0)
        wave = (-1) ** ((r + 1) // 2) * float((values / omega ** (r + 1)) @ flips) / half
        lower = sum(constants[r - t] * half**t / math.factorial(t) for t in range(2, r + 2, 2))
        constants[r] = 0.5 * float(_polynomial(moments, r) @ powers) - wave - lower
    hump = [constants[order - t] / math.factorial(t) for t in range(order + 1, -1, -2)]
    waves = (-1) ** ((order + 1) // 2) * values / omega ** (order + 1) / half
    return waves, np.array([*hump, step])


def measure_corners(unit: Unit, places: NDArray[np.int64], n_bins: int) -> NDArray[np.float64]:
    """Measure pairs of an output unit in closed form.

    Parameters
    ----------
    unit : Unit
        With at least one interval.
    places : ndarray of int64, shape (n,)
        Of the pairs' terms in ``unit.terms``.
    n_bins : int
        Of each input.

    Returns
    -------
    ndarray of float64, shape (n, 4)
        Bits, the bound of their error, the share in range, and the bound of its error.
    """
    edges = np.unique(np.concatenate((unit.starts, unit.stops)))
    owners = np.full((2, edges.size), -1, np.int64)
    owners[0, np.searchsorted(edges, unit.stops)] = unit.codes
    owners[1, np.searchsorted(edges, unit.starts)] = unit.codes
    ends = 2.0 * np.bincount(unit.codes, minlength=unit.n_codes)
    results = np.empty((places.size, 4))
    table = np.empty((unit.n_codes, n_bins))
    for result, place in zip(results, places, strict=True):
        others, shifts = _conditioned(unit, int(place), n_bins)
        values, error = chain_of(others).below((edges[:, None] - shifts).ravel())
        _corner_table(edges, owners, values.reshape(edges.size, n_bins), table)
        _finish(unit, others, table, np.asarray(ends * error), result)
    return results


def measure_slices(unit: Unit, places: NDArray[np.int64], n_bins: int) -> NDArray[np.float64]:
    """Measure pairs whose output is almost always out of range.

    A difference of two probabilities is accurate to a share of 1, not to a share of itself. So an
    interval narrower than the largest other term becomes one more uniform, and the density of the
    whole, which is a difference over that term, is taken at its middle.

    Parameters
    ----------
    unit, places, n_bins
        As in ``measure_corners``, which takes an n_codes-th of the time.

    Returns
    -------
    ndarray of float64, shape (n, 4)
        As ``measure_corners``.
    """
    results = np.empty((places.size, 4))
    table = np.empty((unit.n_codes, n_bins))
    for result, place in zip(results, places, strict=True):
        others, shifts = _conditioned(unit, int(place), n_bins)
        largest = others[0]
        table[:] = 0.0
        errors = np.zeros(unit.n_codes)
        for start, stop, code in zip(unit.starts, unit.stops, unit.codes, strict=True):
            half = 0.5 * (stop - start)
            narrow = half < largest
            rest = _descending(others[1:], half) if narrow else others
            low, high = start - shifts, stop - shifts
            if narrow:
                low, high = low + (half - largest), low + (half + largest)
            values, error = chain_of(rest).below(np.concatenate((low, high)))
            scale = half / largest if narrow else 1.0
            table[code] += scale * (values[n_bins:] - values[:n_bins])
            errors[code] += 2.0 * scale * error
        _finish(unit, others, table, errors, result)
    return results


def _conditioned(
    unit: Unit, place: int, n_bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the terms of the sum within an input bin, and the shift of each bin.

    The mean over an input bin is one more uniform: no division by a weight, however small.
    """
    term = unit.terms[place]
    counts = unit.counts.copy()
    counts[place] -= 1
    middles = np.arange(1 - n_bins, n_bins, 2) / n_bins
    return _descending(np.repeat(unit.terms, counts), term / n_bins), term * middles


def _descending(terms: NDArray[np.float64], another: float) -> NDArray[np.float64]:
    return np.sort(np.append(terms, another))[::-1]


def _finish(
    unit: Unit,
    others: NDArray[np.float64],
    table: NDArray[np.float64],
    errors: NDArray[np.float64],
    result: NDArray[np.float64],
) -> None:
    """Add what the rounding of the edges can do, and turn a table into bits."""
    density = min(0.5 / others[0], 1.0 / math.sqrt(2.0 * float(others @ others)))
    slips = unit.slips + 4.0 * EPSILON * unit.reach * np.bincount(unit.codes)
    _information(table, np.minimum(1.0, errors + density * slips + _TINY), result)
