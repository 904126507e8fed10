"""Interventions: seeded chunks of independent uniform noise.

Noise is drawn in chunks of a fixed number of samples, each from its own seed, so that a result
depends on the seed and the number of samples and never on how the work was cut up.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_ei._kernels.noise import _draw_chunks, _seed_chunks

__all__ = ["CHUNK", "uniform_chunk", "uniform_chunks", "uniform_rows"]

CHUNK = 1024
"""Samples in a chunk. Fixed for ever: it is part of the definition of a result."""


def uniform_chunk(
    seed: int,
    chunk: int,
    n_units: int,
    lower: float,
    upper: float,
    *,
    stream: int = 0,
) -> NDArray[np.float32]:
    r"""Draw one chunk of independent noise, uniform on a closed range.

    Parameters
    ----------
    seed : int
        The user's seed, at least 0.
    chunk : int
        Index of the chunk, at least 0. Sample ``s`` of a run lies in chunk ``s // CHUNK``.
    n_units : int
        Number of units (columns), at least 1.
    lower, upper : float
        Ends of the range, finite, ``lower < upper``.
    stream : int
        Which of the independent streams of the seed: 0 drives all units at once, 1 drives one
        unit at a time (column ``a`` is for unit ``a``).

    Returns
    -------
    ndarray of float32, shape (CHUNK, n_units)
        Sample-major and C-contiguous, in the units of the range. Always the whole chunk: who
        needs fewer samples cuts the last one.

    Raises
    ------
    TypeError
        If ``seed``, ``chunk``, ``n_units`` or ``stream`` is not an integer.
    ValueError
        If one of them is too small, or the range is not finite, is empty, or is so narrow that
        float32 cannot tell its ends apart.

    Notes
    -----
    The values are :math:`l + (u - l)\,k / 2^{24}` for uniform integers
    :math:`0 \le k < 2^{24}`, computed in float32 and clipped to the outermost float32 values
    inside the range, so that no rounding leaves it. The bits come from SFC64, seeded by NumPy with
    ``SeedSequence((seed, chunk, stream))``: k is the upper 24 bits of each half of its words, as
    in NumPy's ``Generator.random(dtype=float32)``.

    A column's noise depends on ``n_units`` too: a chunk is one draw of the whole matrix.

    Examples
    --------
    >>> x = uniform_chunk(0, 3, 2, -1.0, 1.0)
    >>> x.shape, str(x.dtype)
    ((1024, 2), 'float32')
    >>> bool((abs(x) <= 1).all())
    True
    """
    chunk = _integer("chunk", chunk, 0)
    return uniform_chunks(seed, range(chunk, chunk + 1), n_units, lower, upper, stream=stream)


def uniform_rows(
    seed: int,
    chunk: int,
    n_units: int,
    lower: float,
    upper: float,
    *,
    stream: int = 0,
    rows: int,
) -> Iterator[NDArray[np.float32]]:
    """Draw one chunk as ``uniform_chunk`` does, some samples at a time.

    Parameters
    ----------
    seed, chunk, n_units, lower, upper, stream
        As in :func:`uniform_chunk`.
    rows : int
        Samples to draw at a time, at least 1.

    Returns
    -------
    iterator of ndarray of float32, shape (rows, n_units)
        One after the other they are the chunk: the last has what is left of it.

    Raises
    ------
    TypeError, ValueError
        As in :func:`uniform_chunk`.

    Examples
    --------
    >>> parts = list(uniform_rows(0, 3, 2, -1.0, 1.0, rows=1000))
    >>> [part.shape for part in parts]
    [(1000, 2), (24, 2)]
    >>> bool((np.concatenate(parts) == uniform_chunk(0, 3, 2, -1.0, 1.0)).all())
    True
    """
    plan = _plan(seed, n_units, lower, upper, stream)
    return _drawn(_integer("chunk", chunk, 0), _integer("rows", rows, 1), plan)


def uniform_chunks(
    seed: int,
    chunks: range,
    n_units: int,
    lower: float,
    upper: float,
    *,
    stream: int = 0,
) -> NDArray[np.float32]:
    """Draw several chunks as ``uniform_chunk`` does, one after the other in one array.

    Parameters
    ----------
    seed, n_units, lower, upper, stream
        As in :func:`uniform_chunk`.
    chunks : range
        Their indices, at least 0.

    Returns
    -------
    ndarray of float32, shape (CHUNK * len(chunks), n_units)

    Raises
    ------
    TypeError, ValueError
        As in :func:`uniform_chunk`.

    Examples
    --------
    >>> both = uniform_chunks(0, range(3, 5), 2, -1.0, 1.0)
    >>> bool((both[CHUNK:] == uniform_chunk(0, 4, 2, -1.0, 1.0)).all())
    True
    """
    plan = _plan(seed, n_units, lower, upper, stream)
    noise = np.empty((len(chunks), CHUNK * plan.n_units), np.float32)
    plan.draw(plan.states(chunks), noise)
    return noise.reshape(-1, plan.n_units)


class _Plan(NamedTuple):
    """What all chunks of a run have in common, checked."""

    seed: int
    stream: int
    n_units: int
    low: np.float32
    high: np.float32

    def states(self, chunks: range) -> NDArray[np.uint64]:
        """Return the SFC64 of each chunk before its first word, as the kernel wants it."""
        if len(chunks) > 1 and chunks[0] >> 32 != chunks[-1] >> 32:
            return np.concatenate([self.states(range(chunk, chunk + 1)) for chunk in chunks])
        states = np.empty((len(chunks), 6), np.uint64)
        if len(chunks):
            seed = _words(self.seed)
            words = np.array([*seed, *_words(chunks[0]), *_words(self.stream)], np.uint64)
            with np.errstate(over="ignore"):
                _seed_chunks(words, len(seed), states)
        return states

    def draw(self, states: NDArray[np.uint64], out: NDArray[np.float32]) -> None:
        """Fill a row for each state with what comes next."""
        # Words overflow on purpose; only NumPy's own scalars, with the JIT off, would say so.
        with np.errstate(over="ignore"):
            _draw_chunks(states, self.low, self.high, out)


def _words(number: int) -> list[int]:
    """Return an integer in words of 32 bits, the lowest first: SeedSequence's reading of it."""
    return [number >> at & 0xFFFFFFFF for at in range(0, max(number.bit_length(), 1), 32)]


def _plan(seed: int, n_units: int, lower: float, upper: float, stream: int) -> _Plan:
    return _Plan(
        _integer("seed", seed, 0),
        _integer("stream", stream, 0),
        _integer("n_units", n_units, 1),
        *_inward_float32(lower, upper),
    )


def _drawn(chunk: int, rows: int, plan: _Plan) -> Iterator[NDArray[np.float32]]:
    states = plan.states(range(chunk, chunk + 1))
    for first in range(0, CHUNK, rows):
        noise = np.empty((1, min(rows, CHUNK - first) * plan.n_units), np.float32)
        plan.draw(states, noise)
        yield noise.reshape(-1, plan.n_units)


def _integer(name: str, value: int, minimum: int) -> int:
    """Return ``value`` as a Python int, or say what is wrong with it."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def _inward_float32(lower: float, upper: float) -> tuple[np.float32, np.float32]:
    """Return the outermost float32 values inside a range."""
    if not (np.isfinite(lower) and np.isfinite(upper) and lower < upper):
        raise ValueError(f"the range must be finite with lower < upper, got ({lower}, {upper})")
    with np.errstate(over="ignore"):
        low, high = np.float32(lower), np.float32(upper)
        representable = bool(np.isfinite(low) and np.isfinite(high) and np.isfinite(high - low))
    # NumPy would compare a float32 with a Python float in float32, where they are equal.
    if float(low) < lower:
        low = np.nextafter(low, np.float32(np.inf))
    if float(high) > upper:
        high = np.nextafter(high, np.float32(-np.inf))
    if not (representable and low < high):
        raise ValueError(
            f"the range ({lower}, {upper}) cannot be drawn in float32: "
            "its ends must differ, and its width be finite, after rounding"
        )
    return low, high
