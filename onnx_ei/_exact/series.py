"""Fourier series of an output unit: the pairs whose series are short enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_ei._exact.units import EPSILON, Unit
from onnx_ei._kernels.exact_series import _characteristic, _series_pairs

__all__ = ["MAX_FREQUENCIES", "Series", "series_of"]

MAX_FREQUENCIES = 1024
"""Where a series gets as slow as the closed form: 0.5 ms a pair at 64 bins."""

_LENGTHS = np.concatenate(
    [
        np.arange(start, stop, step)
        for start, stop, step in ((12, 64, 4), (64, 256, 8), (256, 512, 32), (512, 1025, 64))
    ]
)
# Inputs whose factors are held at once: memory stays linear in fan-in, whatever the series' length.
_BLOCK = 256
# Keeps the logarithm of an empty cell finite.
_TINY = 1e-250


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """The Fourier series of an output unit, ready to measure its pairs.

    Parameters
    ----------
    unit : Unit
    n_bins : int
        Of each input.
    tolerance : float
        The error to aim at, in bits a pair.
    step : float
        The first frequency: pi over half the period.
    values : ndarray of float64, shape (K,)
        The characteristic function of the sum at 0, ``step``, ..., (K - 1) ``step``.
    even, odd : ndarray of float64, shape (n_codes or one more, K)
        The coefficients of cos and sin of each code; an even number of rows.
    slack : ndarray of float64, shape (4, n_codes)
        Each code's width, ends, slips and rounding error.
    share : float
        About the probability in range, for setting the aim.
    beyond : tuple of float
        The envelope of the characteristic function at the first frequency left out, that
        frequency, and the envelope's steepness there.
    """

    unit: Unit
    n_bins: int
    tolerance: float
    step: float
    values: NDArray[np.float64]
    even: NDArray[np.float64]
    odd: NDArray[np.float64]
    slack: NDArray[np.float64]
    share: float
    beyond: tuple[float, float, float]

    def measure(self, terms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Measure the pairs of some of the unit's terms.

        Parameters
        ----------
        terms : ndarray of float64, shape (n,)
            From ``unit.terms``.

        Returns
        -------
        ndarray of float64, shape (n, 4)
            Bits, the bound of their error, the share in range, and the bound of its error; the
            bounds infinite where the series is too slow to be worth summing.
        """
        results = np.tile([0.0, math.inf, 0.0, math.inf], (terms.size, 1))
        for start in range(0, terms.size, _BLOCK):
            block = start + np.arange(min(_BLOCK, terms.size - start))
            ready, marks, factors = self._block(terms[block])
            found = np.empty((marks.shape[0], 4))
            _series_pairs(marks, factors, self.even, self.odd, self.slack, self.n_bins, found)
            results[block[ready]] = found
        return results

    def _block(
        self, terms: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
        """Work out the factors of some terms, and what is left of their series.

        Returns which terms' series reach their aim and, of these, ``marks`` and ``factors`` as
        in ``_series_pairs``.
        """
        omega = self.step * np.arange(self.values.size)
        own = _sinc(terms[:, None] * omega)
        # The same rounded factor is in the product, so even next to its zeros it divides out.
        factors = self.values / np.where(np.abs(own) < 1e-30, 1e-30, own)
        factors *= _sinc(terms[:, None] * omega / self.n_bins)
        tails = _tails(factors, self._beyond(terms)) * (self.step / math.pi)
        enough = tails <= self._aim(terms)[:, None]
        ready = enough[:, -1]
        groups = np.argmax(enough[ready], axis=1)
        marks = np.empty((groups.size, 6))
        marks[:, 0] = terms[ready] * (self.step / self.n_bins)
        marks[:, 1] = 4 * (1 + groups)
        marks[:, 2] = tails[ready, groups]
        marks[:, 3] = marks[:, 1] * self.step
        marks[:, 4] = self._wrapped(terms[ready])
        marks[:, 5] = self._density(terms[ready])
        return ready, marks, factors[ready]

    def _others(self, terms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance of the sum without each term, rounded up."""
        return np.maximum(self.unit.variance * (1.0 + 8.0 * EPSILON) - terms**2 / 3.0, 1e-300)

    def _beyond(self, terms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bound the sum of a pair's factors beyond the last frequency.

        The envelope falls at least as fast as frequency to its steepness at the first frequency
        left out, without the term's own share of both.
        """
        envelope, omega, steepness = self.beyond
        x = terms * omega
        power = steepness - np.minimum(1.0, x * x / 3.0) - 1.0
        rest = envelope / _envelope(x)
        with np.errstate(divide="ignore"):
            sums = rest * (1.0 + self.values.size / np.maximum(power, 0.0))
        return np.where(power > 0.0, sums, np.inf)

    def _aim(self, terms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Guess how small a tail must be for a pair's bound to be within the tolerance."""
        strength = np.clip(8.0 * terms / np.sqrt(self._others(terms)), 0.5, 8.0)
        ends = self.slack[1] / (self.step * self.values.size)
        reach = float(np.minimum(self.slack[0], ends).sum()) + _TINY
        return self.tolerance * self.share / (16.0 * reach * strength)

    def _wrapped(self, terms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bound the conditional probability that the sum lies outside of the period."""
        half = math.pi / self.step
        if half >= self.unit.reach:
            return np.zeros(terms.size)
        joint = self.n_bins * 2.0 * math.exp(-(half**2) / (2.0 * self.unit.variance))
        room = np.maximum(half - terms, 0.0)
        given = 2.0 * np.exp(-(room**2) / (2.0 * self._others(terms)))
        return np.minimum(1.0, np.minimum(joint, given))

    def _density(self, terms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bound the density of the sum within an input bin of each term (Ball's cube slicing)."""
        boxes = self._others(terms) + (terms / self.n_bins) ** 2 / 3.0
        # The box keeps what the difference of variances has lost below 1e-9 of the whole.
        return 1.000001 / np.sqrt(6.0 * boxes)


def series_of(unit: Unit, n_bins: int, tolerance: float) -> Series | None:
    """Set up the series of an output unit.

    Parameters
    ----------
    unit : Unit
        With at least one term and one interval.
    n_bins : int
        Of each input.
    tolerance : float
        The error to aim at, in bits a pair.

    Returns
    -------
    Series or None
        None where even the longest series is too short for every pair: too few terms matter.
    """
    # only where it is needed: importing it takes as long as importing the rest of the engine
    from scipy.special import ndtr

    deviation = math.sqrt(unit.variance)
    shares = ndtr(unit.stops / deviation) - ndtr(unit.starts / deviation)
    share = min(1.0, max(1e-6, float(shares.sum())))
    # Uniforms are strictly sub-Gaussian: P(|sum| > t) <= 2 exp(-t**2 / (2 variance)).
    spread = 0.1 + math.sqrt(2.0 * math.log(128.0 * unit.n_codes / (tolerance * share)))
    half = min(unit.reach, spread * deviation)
    step = math.pi / half
    aim = tolerance * share / (256.0 * half)
    length = _length(unit, step, aim)
    if length is None:
        return None
    values, envelopes = np.empty(length), np.empty(length)
    _characteristic(unit.terms, unit.counts, step, values, envelopes)
    omega = np.asarray(step * np.arange(1, length + 1), np.float64)
    even, odd, slack = _coefficients(unit, half, length)
    slack[3] = slack[0] * (_rounding(unit, n_bins, omega, envelopes) / half) + _TINY
    return Series(
        unit=unit,
        n_bins=n_bins,
        tolerance=tolerance,
        step=step,
        values=np.append(1.0, values[:-1]),
        even=even,
        odd=odd,
        slack=slack,
        share=share,
        beyond=(float(envelopes[-1]), float(omega[-1]), _steepness(unit, float(omega[-1]))),
    )


def _length(unit: Unit, step: float, aim: float) -> int | None:
    """Find the fewest frequencies that bring every pair within the aim.

    The largest term's series is the slowest, as it is that of the other terms; where it takes too
    many, so many as there may be if they bring the smallest term's within the aim.
    """

    def reached(length: int, place: int) -> bool:
        x = unit.terms * (step * length)
        power = _steepness(unit, step * length) - min(1.0, float(x[place]) ** 2 / 3.0) - 1.0
        if power <= 0.0:
            return False
        log_rest = float(unit.counts @ np.log(_envelope(x))) - math.log(_envelope(x[place]))
        tail = math.exp(log_rest) * (1.0 + length / power)
        return tail * step / math.pi <= aim

    if not reached(MAX_FREQUENCIES, 0):
        return MAX_FREQUENCIES if reached(MAX_FREQUENCIES, -1) else None
    below, above = -1, _LENGTHS.size - 1
    while above - below > 1:
        middle = (above + below) // 2
        if reached(int(_LENGTHS[middle]), 0):
            above = middle
        else:
            below = middle
    return int(_LENGTHS[above])


def _coefficients(
    unit: Unit, half: float, length: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Integrate cos and sin of every frequency over every code."""
    starts, stops = np.maximum(unit.starts, -half), np.minimum(unit.stops, half)
    widths = np.maximum(stops - starts, 0.0)
    middles = 0.5 * (starts + stops)
    omega = (math.pi / half) * np.arange(length)
    sizes = (widths / half)[:, None] * _sinc(0.5 * widths[:, None] * omega)
    sizes[:, 0] *= 0.5
    angles = middles[:, None] * omega
    even, odd = np.zeros((2, unit.n_codes + unit.n_codes % 2, length))
    np.add.at(even, unit.codes, sizes * np.cos(angles))
    np.add.at(odd, unit.codes, sizes * np.sin(angles))
    slack = np.zeros((4, unit.n_codes))
    slack[0] = np.bincount(unit.codes, widths, unit.n_codes)
    slack[1] = 2.0 * np.bincount(unit.codes, minlength=unit.n_codes)
    slack[2] = unit.slips
    return even, odd, slack


def _rounding(
    unit: Unit, n_bins: int, omega: NDArray[np.float64], envelopes: NDArray[np.float64]
) -> float:
    """Bound the rounding of a cell, in multiples of its width over half the period.

    Each of the products that are summed is off by some units of the last place of its envelope:
    of the factors, of the angles (growing with the frequency), of the doubling of the bins'
    angles, and of the sum itself.
    """
    order = np.arange(1, omega.size + 1)
    places = 64.0 + 40.0 * order + 2.0 * omega.size + 2.0 * n_bins + unit.counts.sum()
    rest = envelopes / _envelope(unit.terms[0] * omega)
    return EPSILON * (64.0 + float(rest @ places))


def _sinc(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sin(x) / x."""
    return np.divide(np.sin(x), x, out=np.ones_like(x), where=x != 0.0)


def _envelope(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a falling bound of sin(x) / x whose steepness rises: what `_characteristic` uses."""
    join = math.sqrt(3.0 / math.e)
    far = join / np.maximum(x, 1.0)
    return np.where(x > math.sqrt(3.0), far, np.exp(-x * x / 6.0))


def _steepness(unit: Unit, omega: float) -> float:
    """Return minus the slope of the envelope of the sum on logarithmic axes."""
    return float(unit.counts @ np.minimum(1.0, (unit.terms * omega) ** 2 / 3.0))


def _tails(factors: NDArray[np.float64], beyond: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum what is left out of a series after 4, 8, ... frequencies: (n, K) -> (n, K / 4)."""
    groups = np.abs(factors).reshape(factors.shape[0], -1, 4).sum(axis=2)
    groups = np.append(groups[:, 1:], beyond[:, None], axis=1)
    return np.cumsum(groups[:, ::-1], axis=1)[:, ::-1]
