"""Values to codes: equal-width bins over a closed range, one rule for every measure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_ei._kernels.binning import _bin_values

__all__ = ["MAX_BINS", "Binning", "bin_values"]

MAX_BINS = 65535
"""The most bins a unit can have: with the overflow state, its codes fill 16 bits."""
_ROUNDING = 4
"""Float32 steps past the end of a range that count as rounding; deep_ei allows 1e-6, 8 of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Binning:
    """Equal-width bins over a closed range, for each of several units.

    Parameters
    ----------
    lower, upper : array_like of float, shape (n_units,)
        Ends of each unit's range; both belong to it. Finite, ``lower < upper``.
    n_bins : array_like of int, shape (n_units,)
        Number of bins of each unit, from 1 to ``MAX_BINS``.

    Attributes
    ----------
    lower, upper : ndarray of float64, shape (n_units,)
        Read-only.
    n_bins : ndarray of int64, shape (n_units,)
        Read-only.

    Raises
    ------
    ValueError
        If an array is not one-dimensional, the lengths differ, there are no units, a range is
        not finite or is empty, or a number of bins is not an integer from 1 to ``MAX_BINS``.

    Examples
    --------
    >>> Binning(lower=[0.0, -1.0], upper=[1.0, 1.0], n_bins=[8, 4]).n_units
    2
    """

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    n_bins: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Validate, and keep private read-only copies."""
        lower = _vector("lower", self.lower, np.float64)
        upper = _vector("upper", self.upper, np.float64)
        n_bins = _vector("n_bins", _whole(self.n_bins), np.int64)
        if not lower.size == upper.size == n_bins.size > 0:
            raise ValueError(
                "lower, upper and n_bins must have one entry for each of at least one unit, "
                f"got {lower.size}, {upper.size} and {n_bins.size}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            good = np.isfinite(upper - lower) & (lower < upper)
        if not good.all():
            u = int(np.argmin(good))
            raise ValueError(
                "a range must be finite, of finite width, with lower < upper, "
                f"got ({lower[u]}, {upper[u]}) for unit {u}"
            )
        good = (n_bins >= 1) & (n_bins <= MAX_BINS)
        if not good.all():
            u = int(np.argmin(good))
            raise ValueError(f"bins must be from 1 to {MAX_BINS}, got {n_bins[u]} for unit {u}")
        for name, array in (("lower", lower), ("upper", upper), ("n_bins", n_bins)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def uniform(cls, n_units: int, range: tuple[float, float], bins: int) -> Binning:
        """Give every unit the same range and number of bins.

        Parameters
        ----------
        n_units : int
            Number of units, at least 1.
        range : tuple of float
            ``(lower, upper)``.
        bins : int
            Number of bins.

        Returns
        -------
        Binning

        Raises
        ------
        ValueError
            As for the class, and if ``range`` is not a pair.

        Examples
        --------
        >>> Binning.uniform(3, (0, 1), 8).n_bins.tolist()
        [8, 8, 8]
        """
        try:
            lower, upper = range
        except (TypeError, ValueError):
            raise ValueError(f"a range must be a pair (lower, upper), got {range!r}") from None
        return cls(
            lower=np.repeat(np.asarray(lower, dtype=np.float64), n_units),
            upper=np.repeat(np.asarray(upper, dtype=np.float64), n_units),
            n_bins=np.repeat(_whole(bins), n_units),
        )

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.n_bins.size)

    @cached_property
    def ends(self) -> NDArray[np.float64]:
        """Lower and upper ends, and the least and the greatest values that lie in a bin: the same.

        Of shape (4, n_units), as the kernel takes them.
        """
        return np.stack([self.lower, self.upper, self.lower, self.upper])

    @cached_property
    def rounded_ends(self) -> NDArray[np.float64]:
        """As :attr:`ends`, but what only rounding in float32 put past an end lies in its bin.

        Examples
        --------
        >>> ends = Binning.uniform(1, (-1, 1), 2).rounded_ends[:, 0]
        >>> bool(ends[2] < ends[0] < ends[1] < ends[3])
        True
        """
        lower, upper = self.lower, self.upper
        ends = np.maximum(np.abs(lower), np.abs(upper)).astype(np.float32)
        slack = _ROUNDING * np.spacing(ends).astype(np.float64)
        least, most = lower - slack, upper + slack
        # rounding the sum may have gone a step too far
        least = np.where(lower - least > slack, np.nextafter(least, np.inf), least)
        most = np.where(most - upper > slack, np.nextafter(most, -np.inf), most)
        return np.stack([lower, upper, least, most])

    @property
    def code_dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """Smallest dtype that holds every code and the overflow state after the last bin."""
        return np.dtype(np.uint8) if self.n_bins.max() <= 255 else np.dtype(np.uint16)


def bin_values(
    x: NDArray[Any],
    binning: Binning,
    out: NDArray[Any],
    dropped: NDArray[np.int64],
) -> None:
    r"""Bin values into codes.

    Parameters
    ----------
    x : ndarray of float, shape (n_samples, n_units)
        Values, sample-major.
    binning : Binning
        The ranges and numbers of bins.
    out : ndarray of unsigned int, shape (n_units, n_samples)
        Filled with the codes, feature-major: 0 to ``n_bins - 1``, and ``n_bins`` for a sample
        that is dropped. The dtype is ``binning.code_dtype`` or a wider one.
    dropped : ndarray of int64, shape (n_units,)
        The number of dropped samples of each unit is added to it.

    Raises
    ------
    ValueError
        If the shapes or dtypes do not fit together.

    Notes
    -----
    A value :math:`x` with :math:`l \le x \le u` falls in bin
    :math:`\min(\lfloor (x - l) B / (u - l) \rfloor, B - 1)`, in float64: the upper end belongs to
    the last bin. Values outside the range, infinities and NaN are dropped, and counted.

    Runs on the calling thread without the interpreter's lock.

    Examples
    --------
    >>> codes = np.empty((1, 5), np.uint8)
    >>> dropped = np.zeros(1, np.int64)
    >>> x = np.array([[0.0], [0.24], [0.25], [1.0], [1.1]])
    >>> bin_values(x, Binning.uniform(1, (0, 1), 4), codes, dropped)
    >>> codes.tolist(), dropped.tolist()
    ([[0, 0, 1, 3, 4]], [1])
    """
    if x.ndim != 2 or x.shape[1] != binning.n_units or out.shape != (x.shape[1], x.shape[0]):
        raise ValueError(
            f"for {binning.n_units} units, x must be (n, units) and out (units, n), "
            f"got {x.shape} and {out.shape}"
        )
    if dropped.shape != (binning.n_units,) or dropped.dtype != np.int64:
        raise ValueError(
            f"dropped must be int64 of shape ({binning.n_units},), "
            f"got {dropped.dtype} of {dropped.shape}"
        )
    if out.dtype.kind != "u" or out.dtype.itemsize < binning.code_dtype.itemsize:
        raise ValueError(f"out must be {binning.code_dtype} or a wider unsigned, got {out.dtype}")
    # One compiled version for each of float32 and float64: the others are cast.
    dtype = np.float32 if x.dtype in (np.float32, np.float16) else np.float64
    values = np.ascontiguousarray(x, dtype=dtype)
    _bin_values(values, binning.ends, binning.n_bins, 0, out, dropped)


def _whole(bins: Any) -> NDArray[np.int64]:
    """Return numbers of bins as int64, refusing what is not an integer."""
    array = np.asarray(bins)
    if array.dtype.kind not in "iu":
        raise ValueError(f"bins must be integers, got {bins!r}")
    # Clipping first: a huge unsigned number must not wrap into the allowed range.
    clipped: NDArray[np.int64] = np.minimum(array, np.iinfo(np.int32).max).astype(np.int64)
    return clipped


def _vector(name: str, values: Any, dtype: type[np.generic]) -> NDArray[Any]:
    """Return a one-dimensional copy, or say which argument is not one."""
    array = np.array(values, dtype=dtype)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    return array
