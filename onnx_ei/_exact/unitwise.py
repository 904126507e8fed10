"""The functions that units apply: which units share one, and each run on numbers of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_POINTS", "Ints", "Singles", "Units", "floats", "ordered", "single", "spread"]

Singles: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int64]

PROBES = (256, 8192)
"""Least and most points at which units are compared: those that agree on all share one function.
As many as keep the comparison to a million values."""
MAX_POINTS = 1 << 20
"""Points in all: many different functions get fewer each, and one that oscillates is given up."""


class Units:
    """Units grouped by what their functions do, and a way to run each on numbers of its own.

    Parameters
    ----------
    function : callable or None
        As for :func:`pieces_of`.
    low, high : ndarray of float32, shape (n_units,)
        Where each pre-activation can lie.

    Attributes
    ----------
    owner : ndarray of int64, shape (n_units,)
        Each unit's function, from 0.
    n_functions : int
        How many different ones there are.
    low, high : ndarray of float32, shape (n_functions,)
        Hulls of their units' intervals.

    Examples
    --------
    >>> slopes = np.float32([1, 2, 1])
    >>> Units(lambda z: z * slopes, np.zeros(3, np.float32), np.ones(3, np.float32)).owner.tolist()
    [0, 1, 0]
    """

    def __init__(
        self, function: Callable[[Singles], Singles] | None, low: Singles, high: Singles
    ) -> None:
        self._function = function
        self._n_units = low.size
        self.owner = self._grouped(float(low.min()), float(high.max()))
        self.n_functions = int(self.owner.max()) + 1
        self.low = np.full(self.n_functions, np.inf, np.float32)
        self.high = np.full(self.n_functions, -np.inf, np.float32)
        np.minimum.at(self.low, self.owner, low)
        np.maximum.at(self.high, self.owner, high)
        self._members = [np.flatnonzero(self.owner == k) for k in range(self.n_functions)]

    def _grouped(self, low: float, high: float) -> Ints:
        """Compare units at numbers of all magnitudes, a block of them at a time."""
        owner = np.zeros(self._n_units, np.int64)
        if self._function is None or self._n_units == 1:
            return owner
        n = int(np.clip((1 << 20) // self._n_units, *PROBES))
        values = spread(np.float32(low), np.float32(high), n)
        block = max(1, MAX_POINTS // self._n_units)
        for first in range(0, values.size, block):
            z = np.repeat(values[first : first + block, None], self._n_units, axis=1)
            seen = np.ascontiguousarray(self._function(z).T)
            keys = np.concatenate([owner.astype(np.int32)[:, None], seen.view(np.int32)], axis=1)
            whole = np.ascontiguousarray(keys).view(np.dtype((np.void, 4 * keys.shape[1])))
            owner = np.unique(whole.ravel(), return_inverse=True)[1].astype(np.int64)
        # in order of appearance, which sorting bytes is not
        _, first_of, owner = np.unique(owner, return_index=True, return_inverse=True)
        return np.asarray(np.argsort(np.argsort(first_of))[owner], np.int64)

    def run(self, owner: Ints, z: Singles) -> Singles:
        """Run functions on numbers.

        Parameters
        ----------
        owner : ndarray of int64, shape (n,)
            Which function, ascending.
        z : ndarray of float32, shape (n,)
            On which number.

        Returns
        -------
        ndarray of float32, shape (n,)
        """
        if self._function is None:
            return z
        # every unit of a function takes a share of its numbers: one unit alone would run as many
        # rows as there are numbers, all the other units idle
        starts = np.searchsorted(owner, np.arange(self.n_functions))
        rank = np.arange(owner.size) - starts[owner]
        rows, columns = np.empty_like(rank), np.empty_like(rank)
        for k in np.unique(owner):
            mine = slice(starts[k], np.searchsorted(owner, k, side="right"))
            members = self._members[k]
            rows[mine], column = np.divmod(rank[mine], members.size)
            columns[mine] = members[column]
        fed = np.repeat(self.low[self.owner][None], int(rows.max(initial=0)) + 1, axis=0)
        fed[rows, columns] = z
        return np.asarray(self._function(fed)[rows, columns], np.float32)


def single(values: NDArray[np.float64]) -> Singles:
    """Return float32 numbers, the largest there are where a value is larger."""
    most = float(np.finfo(np.float32).max)
    return np.asarray(np.clip(values, -most, most), np.float32)


def ordered(z: Singles) -> Ints:
    """Return float32 numbers as integers of the same order, neighbours one apart."""
    bits = z.view(np.int32).astype(np.int64)
    return np.asarray(np.where(bits < 0, -(1 << 31) - bits, bits), np.int64)


def floats(numbers: Ints) -> Singles:
    """Undo :func:`ordered`."""
    bits = np.where(numbers < 0, -(1 << 31) - numbers, numbers)
    return bits.astype(np.int32).view(np.float32)


def spread(low: np.float32, high: np.float32, n: int) -> Singles:
    """Return numbers evenly spaced, and evenly spaced among the float32 numbers."""
    even = np.linspace(float(low), float(high), n // 2)
    ends = ordered(np.array([low, high], np.float32))
    # rounded in integers: float64 holds them all
    numbers = np.linspace(float(ends[0]), float(ends[1]), n // 2).round().astype(np.int64)
    both = np.concatenate([even.astype(np.float32), floats(numbers)])
    return np.unique(np.clip(both, low, high))
