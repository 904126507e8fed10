"""Codes to counts: joint histograms of pairs, and states of whole vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_ei._kernels.pairwise import _count_pair
from onnx_ei._kernels.vector import (
    _count_many_states,
    _count_states,
    _gather_states,
    _pack_keys,
    _partition_keys,
)

__all__ = ["MANY_SAMPLES", "Keys", "joint_counts", "pack_keys", "state_ids"]

MANY_SAMPLES = 1 << 20
"""Samples from which states are counted by numba's threads, and not where they are asked for."""
_PARTITIONS = 256


def joint_counts(
    x_codes: NDArray[Any], y_codes: NDArray[Any], x_bins: int, y_bins: int
) -> NDArray[np.int64]:
    """Count how often each pair of codes occurs.

    Parameters
    ----------
    x_codes, y_codes : ndarray of unsigned int, shape (n_samples,)
        Codes of the two units; ``x_bins`` (``y_bins``) itself marks a dropped sample.
    x_bins, y_bins : int
        Numbers of bins, at least 1.

    Returns
    -------
    ndarray of int64, shape (x_bins, y_bins)
        Counts. A sample that either unit dropped is in none of them.

    Raises
    ------
    ValueError
        If the codes differ in length, or one exceeds its number of bins.

    Examples
    --------
    >>> x = np.array([0, 1, 1, 2], np.uint8)
    >>> y = np.array([0, 0, 1, 1], np.uint8)
    >>> joint_counts(x, y, 2, 2).tolist()
    [[1, 0], [1, 1]]
    """
    if x_codes.ndim != 1 or x_codes.shape != y_codes.shape:
        raise ValueError(
            f"codes must be two vectors of one length, got {x_codes.shape} and {y_codes.shape}"
        )
    check_codes(x_codes[None], np.array([x_bins]))
    check_codes(y_codes[None], np.array([y_bins]))
    stride = y_bins + 1
    slab = np.zeros((x_bins + 1) * stride, np.uint32)
    rows = x_codes.astype(np.uint64) * np.uint64(stride)
    _count_pair(np.ascontiguousarray(y_codes), rows, slab)
    return slab.reshape(x_bins + 1, stride)[:x_bins, :y_bins].astype(np.int64)


class Keys(NamedTuple):
    """State keys of vectors: two words a sample, equal where the vectors are.

    Attributes
    ----------
    hi, lo : ndarray of uint64, shape (n_samples,)
        As ``pack_keys`` fills them; ``hi`` is of shape (0,) where one word is enough.
    """

    hi: NDArray[np.uint64]
    lo: NDArray[np.uint64]

    @classmethod
    def empty(cls, n_samples: int) -> Keys:
        """Return room for the keys of ``n_samples`` samples, not yet filled."""
        return cls(np.empty(n_samples, np.uint64), np.empty(n_samples, np.uint64))

    @staticmethod
    def words(n_bins: NDArray[np.int64]) -> int:
        """Return how many of the two words vectors of units of these bins need."""
        return min(int(_layout(n_bins)[0, -1]) + 1, 2)


def pack_keys(
    codes: NDArray[Any],
    n_bins: NDArray[np.int64],
    out_hi: NDArray[np.uint64],
    out_lo: NDArray[np.uint64],
    kept: NDArray[np.bool_],
) -> None:
    """Pack each sample's vector of codes into one key.

    Parameters
    ----------
    codes : ndarray of unsigned int, shape (n_units, n_samples)
        Codes, feature-major; ``n_bins[unit]`` marks a dropped value.
    n_bins : ndarray of int64, shape (n_units,)
        Number of bins of each unit.
    out_hi, out_lo : ndarray of uint64, shape (n_samples,)
        Filled with the two words of the keys. Those of dropped samples mean nothing. ``out_hi``
        may have shape (0,) where one word is enough.
    kept : ndarray of bool, shape (n_samples,)
        Cleared where any unit of the sample was dropped; left alone elsewhere.

    Raises
    ------
    ValueError
        If the shapes do not fit together.

    Notes
    -----
    A unit takes ``ceil(log2(n_bins))`` bits, and never lies across two words. Vectors that fit
    one word have exact keys with ``out_hi = 0``; two words (about 128 bits), exact keys in both.
    Longer ones get a 128-bit hash of all their words: two different vectors among ``n`` share a
    key with odds of about ``n**2 / 2**129``, 1.5e-27 for a million samples.

    A key depends on its own sample and on ``n_bins`` only. Runs on the calling thread without the
    interpreter's lock.

    Examples
    --------
    >>> codes = np.array([[1, 0, 3], [2, 2, 4]], np.uint8)
    >>> keys, kept = Keys.empty(3), np.ones(3, bool)
    >>> pack_keys(codes, np.array([4, 4]), *keys, kept)
    >>> keys.lo[:2].tolist(), kept.tolist()
    ([9, 8], [True, True, False])
    """
    n_units, n_samples = codes.shape
    if n_units == 0 or n_bins.shape != (n_units,):
        raise ValueError(f"n_bins must be ({n_units},), for at least one unit, got {n_bins.shape}")
    layout = _layout(n_bins)
    narrow = out_hi.shape == (0,) and layout[0, -1] == 0
    if not (narrow or out_hi.shape == (n_samples,)) or not (
        out_lo.shape == kept.shape == (n_samples,)
    ):
        raise ValueError(
            f"out_hi, out_lo and kept must be ({n_samples},), "
            f"got {out_hi.shape}, {out_lo.shape} and {kept.shape}"
        )
    # A hash overflows on purpose; only NumPy's own scalars, with the JIT off, would say so.
    with np.errstate(over="ignore"):
        _pack_keys(codes, n_bins, layout, out_hi, out_lo, kept)


def state_ids(
    hi: NDArray[np.uint64], lo: NDArray[np.uint64], kept: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Give every distinct key a number, and count the samples of each.

    Parameters
    ----------
    hi, lo : ndarray of uint64, shape (n_samples,)
        Keys, as ``pack_keys`` makes them; ``hi`` may have shape (0,), and is 0 then.
    kept : ndarray of bool, shape (n_samples,)
        The samples to count.

    Returns
    -------
    ids : ndarray of int32, shape (n_samples,)
        The state of each sample, from 0; -1 where it is not kept.
    counts : ndarray of int64, shape (n_states,)
        Samples in each state, at least 1; they sum to the number kept.

    Raises
    ------
    ValueError
        If the lengths differ.

    Notes
    -----
    Keys are split by a hash into a fixed number of partitions, each counted in a hash table of its
    own; so the numbering depends on the samples alone, not on the number of threads. Runs on the
    calling thread without the interpreter's lock; for ``MANY_SAMPLES`` and more on numba's threads:
    then call it from one thread at a time.

    Examples
    --------
    >>> lo = np.array([7, 5, 7, 9], np.uint64)
    >>> kept = np.array([True, True, True, False])
    >>> ids, counts = state_ids(np.zeros(4, np.uint64), lo, kept)
    >>> bool(ids[0] == ids[2] != ids[1]), int(ids[3]), sorted(counts.tolist())
    (True, -1, [1, 2])
    """
    if hi.shape not in (lo.shape, (0,)) or lo.shape != kept.shape or lo.ndim != 1:
        raise ValueError(
            "hi, lo and kept must be vectors of one length, "
            f"got {hi.shape}, {lo.shape} and {kept.shape}"
        )
    n_kept = int(np.count_nonzero(kept))
    order, local = np.empty((2, n_kept), np.int32)
    # Vectors that fit one word leave the other 0.
    keys = np.empty((2 if hi.any() else 1, n_kept), np.uint64)
    sparse = np.empty(n_kept, np.int64)
    starts = np.empty(_PARTITIONS + 1, np.int64)
    n_states = np.empty(_PARTITIONS, np.int64)
    with np.errstate(over="ignore"):
        _partition_keys(hi, lo, kept, order, starts, keys)
        count = _count_many_states if n_kept >= MANY_SAMPLES else _count_states
        count(keys, starts, local, sparse, n_states)
    offsets = np.concatenate(([0], np.cumsum(n_states)))
    ids = np.full(lo.size, -1, np.int32)
    counts = np.empty(offsets[-1], np.int64)
    _gather_states(order, starts, local, sparse, offsets, ids, counts)
    return ids, counts


def check_codes(codes: NDArray[Any], n_bins: NDArray[np.int64]) -> None:
    """Refuse codes past their unit's overflow state: a kernel would write outside its slab.

    Parameters
    ----------
    codes : ndarray of unsigned int, shape (n_units, n_samples)
        Codes to check.
    n_bins : ndarray of int, shape (n_units,)
        Numbers of bins.

    Raises
    ------
    ValueError
        If the codes are not unsigned, a number of bins is below 1, or a code exceeds its own.

    Examples
    --------
    >>> check_codes(np.array([[0, 2]], np.uint8), np.array([2]))
    """
    if codes.dtype.kind != "u":
        raise ValueError(f"codes must be unsigned integers, got {codes.dtype}")
    if (n_bins < 1).any():
        raise ValueError(f"bins must be at least 1, got {int(n_bins.min())}")
    if codes.size:
        worst = codes.max(axis=1) > n_bins
        if worst.any():
            u = int(np.argmax(worst))
            raise ValueError(
                f"a code of unit {u} is {int(codes[u].max())}, past its {int(n_bins[u])} bins"
            )


def _layout(n_bins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place each unit's bits: the word that it lies in, and its shift there."""
    layout = np.zeros((2, n_bins.size), np.int64)
    word = used = 0
    for u, bins in enumerate(n_bins.tolist()):
        width = (bins - 1).bit_length()
        if used + width > 64:
            word, used = word + 1, 0
        # A unit of one bin after a full word must not be shifted by 64: that is undefined.
        layout[:, u] = word, used if width else 0
        used += width
    return layout
