"""Quantiles of a stream that is not kept: counts in buckets of floats that differ by 0.1 %.

The buckets are those of DDSketch (Masson, Rim, Lee, "DDSketch: A Fast and Fully-Mergeable Quantile
Sketch with Relative-Error Guarantees", PVLDB 12(12), 2019), laid out along the bits of a float32:
a float's leading bits are its bucket. No range has to be known in advance, an outlier costs
nothing, and counts merge exactly: in any order, cut into any batches, a stream gives one sketch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sketch"]

_DROPPED_BITS = 13
"""Of the 23 bits of a float32's fraction: a bucket is 2**-10 of its values wide."""

_LARGEST = float(np.finfo(np.float32).max)


class Sketch:
    """Extremes and quantiles of the values seen so far.

    Attributes
    ----------
    count : int
        Values seen.
    low, high : float
        The least and the greatest, exact; infinite in the wrong direction before the first.

    Notes
    -----
    A quantile is within one bucket, 2**-10 of its size, of the sample quantile; extremes are exact.
    Memory is a key and a count for each bucket that is not empty: some tens of thousands for the
    values of a network's layer.

    Examples
    --------
    >>> sketch = Sketch()
    >>> for part in np.split(np.arange(1000.0), 10):
    ...     sketch.add(part)
    >>> sketch.low, sketch.high, round(sketch.quantile(0.5))
    (0.0, 999.0, 500)
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.count = 0
        self.low, self.high = math.inf, -math.inf
        self._keys: NDArray[np.int64] = np.zeros(0, np.int64)
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Count values.

        Parameters
        ----------
        values : ndarray of real numbers, any shape
            All finite.

        Raises
        ------
        ValueError
            If one is NaN or infinite; nothing is counted then.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("values must be finite, got NaN or infinity; drop them first")
        keys = _buckets(values)
        least = int(keys.min())
        counts = np.bincount(keys - least)
        taken = np.flatnonzero(counts)
        self._merge(taken + least, counts[taken])
        self.count += int(values.size)
        self.low, self.high = min(self.low, low), max(self.high, high)

    def merge(self, other: Sketch) -> None:
        """Count what another sketch has counted.

        Parameters
        ----------
        other : Sketch
            Left as it is.
        """
        self._merge(other._keys, other._counts)
        self.count += other.count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def _merge(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add counts by key; both arrays of keys are sorted and hold no key twice."""
        places = np.searchsorted(self._keys, keys)
        known = np.zeros(keys.size, bool)
        inside = places < self._keys.size
        known[inside] = self._keys[places[inside]] == keys[inside]
        self._counts[places[known]] += counts[known]
        self._keys = np.insert(self._keys, places[~known], keys[~known])
        self._counts = np.insert(self._counts, places[~known], counts[~known])

    def quantile(self, q: float) -> float:
        """Return a quantile, interpolated between neighbours as in ``numpy.quantile``.

        Parameters
        ----------
        q : float
            From 0 to 1.

        Raises
        ------
        ValueError
            If nothing was counted, or ``q`` is out of bounds.
        """
        if not self.count:
            raise ValueError("no values were counted: there are no quantiles")
        if not 0 <= q <= 1:
            raise ValueError(f"q must be from 0 to 1, got {q}")
        place = q * (self.count - 1)
        below = math.floor(place)
        left, right = self._ranked(below), self._ranked(math.ceil(place))
        return left + (right - left) * (place - below)

    def _ranked(self, rank: int) -> float:
        """Return the value of a rank, taking a bucket's values to lie evenly in it."""
        if rank in (0, self.count - 1):
            return self.high if rank else self.low
        ends = np.cumsum(self._counts)
        index = int(np.searchsorted(ends, rank, side="right"))
        key, count = int(self._keys[index]), int(self._counts[index])
        if key == 0:
            return min(max(0.0, self.low), self.high)  # below 2e-41: the zeros of a ReLU
        inside = (rank - int(ends[index]) + count + 0.5) / count
        left, right = _edge(key), _edge(key + 1)
        return min(max(left + (right - left) * inside, self.low), self.high)


def _buckets(values: NDArray[Any]) -> NDArray[np.int64]:
    """Give each value its bucket: a number that rises with it."""
    clipped = np.clip(values, -_LARGEST, _LARGEST) if values.dtype.itemsize > 4 else values
    bits = np.ascontiguousarray(clipped, np.float32).reshape(-1).view(np.int32)
    # a float's bits are sign and magnitude; those of -0.0 become those of 0.0
    ordered = np.where(bits < 0, np.int32(-(2**31)) - bits, bits)
    return (ordered >> _DROPPED_BITS).astype(np.int64)


def _edge(key: int) -> float:
    """Return the lower edge of a bucket."""
    ordered = key << _DROPPED_BITS
    value = float(np.int32(abs(ordered)).view(np.float32))
    return math.copysign(min(value, _LARGEST), ordered)
