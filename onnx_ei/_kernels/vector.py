"""States of whole vectors: packing them into keys, and counting the keys."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._folds import largest_of
from onnx_ei._kernels._jit import Array, kernel, prange

_BLOCK = 512
# Multipliers of two published 64-bit finalisers: MurmurHash3's and Stafford's variant 13.
_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_S1 = np.uint64(0xBF58476D1CE4E5B9)
_S2 = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_NOTHING = np.uint64(0)
_R27, _R30, _R31, _R33 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(33)


@kernel()
def _absorb(hi: Array, lo: Array, words: Array) -> None:
    """Mix one 64-bit word a sample into a running 128-bit hash; all uint64 (n,)."""
    for s in range(words.size):
        a = lo[s] ^ words[s]
        a ^= a >> _R33
        a *= _M1
        a ^= a >> _R33
        a *= _M2
        lo[s] = a ^ (a >> _R33)
        b = (hi[s] + _STEP) ^ words[s]
        b ^= b >> _R30
        b *= _S1
        b ^= b >> _R27
        b *= _S2
        hi[s] = b ^ (b >> _R31)


@kernel()
def _append_codes(codes: Array, n_bins: int, shift: int, words: Array, kept: Array) -> None:
    """Put one unit's codes into their place in the words; arguments as in ``_pack_keys``."""
    place = np.uint64(shift)
    for s in range(codes.size):
        words[s] |= np.uint64(codes[s]) << place
    # In 16 bits, of which a vector holds most: next to an int64, the codes would be widened to one.
    least = np.uint16(n_bins)
    for s in range(codes.size):
        kept[s] &= np.uint16(codes[s]) < least


@kernel()
def _pack_keys(
    codes: Array, n_bins: Array, layout: Array, hi: Array, lo: Array, kept: Array
) -> None:
    """Pack each sample's codes into a key of two words.

    ``codes`` unsigned (units, n); ``n_bins`` int64 (units,); ``layout`` int64 (2, units): the word
    that a unit lies in and its shift there; ``hi``, ``lo`` uint64 (n,), filled; ``kept`` bool (n,),
    cleared where a unit overflowed. One word goes to ``lo``, a second to ``hi``, more are hashed;
    ``hi`` may be empty where one word is enough.
    """
    n_units, n_samples = codes.shape
    n_words = layout[0, n_units - 1] + 1
    buffer = np.empty(_BLOCK, np.uint64)
    hi[:] = 0
    lo[:] = 0
    # The words of one block stay in the L1 cache while every unit is added to them.
    for start in range(0, n_samples, _BLOCK):
        stop = min(start + _BLOCK, n_samples)
        words = buffer[: stop - start]
        u = 0
        for w in range(n_words):
            words[:] = 0
            while u < n_units and layout[0, u] == w:
                line = codes[u, start:stop]
                _append_codes(line, n_bins[u], layout[1, u], words, kept[start:stop])
                u += 1
            if n_words > 2:
                _absorb(hi[start:stop], lo[start:stop], words)
            elif w == 0:
                lo[start:stop] = words
            else:
                hi[start:stop] = words


@kernel()
def _partition_keys(
    hi: Array, lo: Array, kept: Array, order: Array, starts: Array, keys: Array
) -> None:
    """Sort the kept samples by a hash of their key, into a fixed number of partitions, stably.

    ``hi``, ``lo`` uint64 (n,); ``kept`` bool (n,); filled: ``order`` int32 (kept samples,), the
    samples partition by partition; ``starts`` int64 (partitions + 1,); and ``keys`` uint64
    (words, kept samples), the keys in that order: ``lo``, and ``hi`` if there is room for it, else
    ``hi`` is taken as 0.
    """
    n_samples = lo.size
    n_partitions = starts.size - 1
    mask = np.uint64(n_partitions - 1)
    wide = keys.shape[0] == 2
    part = np.empty(n_samples, np.uint16)
    for s in range(n_samples):
        mixed = lo[s] * _M1
        if wide:
            mixed ^= hi[s] * _S1
        part[s] = np.uint16((mixed * _M2 >> np.uint64(48)) & mask)
    starts[:] = 0
    for s in range(n_samples):
        starts[np.int64(part[s]) + 1] += np.int64(kept[s])
    for p in range(n_partitions):
        starts[p + 1] += starts[p]
    place = starts[:n_partitions].copy()
    for s in range(n_samples):
        if kept[s]:
            p = part[s]
            at = place[p]
            order[at] = s
            keys[0, at] = lo[s]
            if wide:
                keys[1, at] = hi[s]
            place[p] += 1


@kernel()
def _number_states(keys: Array, slots: Array, local: Array, first: Array, counts: Array) -> None:
    """Give the distinct keys of one partition numbers, in the order in which they appear.

    ``keys`` uint64 (words, m), all that is read of it stays in the cache; ``slots`` int32 (a power
    of two > m,): scratch, all -1; filled: ``local`` int32 (m,) the number of each sample's state,
    and for each state ``first`` int32 (m,) a sample that has it and ``counts`` int64 (m,).
    """
    mask = np.uint64(slots.size - 1)
    wide = keys.shape[0] == 2
    n_states = 0
    for i in range(local.size):
        low = keys[0, i]
        high = keys[1, i] if wide else _NOTHING
        slot = (((high * _S2) ^ (low * _S1)) * _STEP >> np.uint64(32)) & mask
        while True:
            state = slots[slot]
            if state < 0:
                slots[slot] = n_states
                first[n_states] = i
                counts[n_states] = 1
                local[i] = n_states
                n_states += 1
                break
            sample = first[state]
            if keys[0, sample] == low and (not wide or keys[1, sample] == high):
                counts[state] += 1
                local[i] = state
                break
            slot = (slot + np.uint64(1)) & mask


@kernel()
def _count_partition(keys: Array, local: Array, counts: Array, n_states: Array) -> None:
    """Find the states of one partition, and count them: its part of ``_count_states``."""
    n_slots = 16
    while n_slots < 2 * local.size:
        n_slots *= 2
    slots = np.full(n_slots, -1, np.int32)
    first = np.empty(local.size, np.int32)
    _number_states(keys, slots, local, first, counts)
    n_states[0] = 0
    if local.size > 0:
        n_states[0] = largest_of(local) + 1


@kernel()
def _count_states(keys: Array, starts: Array, local: Array, counts: Array, n_states: Array) -> None:
    """Find the states of every partition, and count them.

    ``keys`` and ``starts`` as in ``_partition_keys``; filled: ``local`` int32 (kept samples,), the
    number of each sample's state in its partition, in the order of ``keys``; ``counts`` int64
    (kept samples,), of which each partition fills the first ``n_states``.
    """
    for p in range(n_states.size):
        at = slice(starts[p], starts[p + 1])
        _count_partition(keys[:, at], local[at], counts[at], n_states[p : p + 1])


@kernel(parallel=True)
def _count_many_states(
    keys: Array, starts: Array, local: Array, counts: Array, n_states: Array
) -> None:
    """Do as ``_count_states``, on numba's threads: one task owns one partition.

    Not for few samples: to wake a thread and wait for it took up to 2 ms, the time of 10**6 keys.
    """
    for p in prange(n_states.size):
        begin, end = starts[p], starts[p + 1]
        _count_partition(
            keys[:, begin:end], local[begin:end], counts[begin:end], n_states[p : p + 1]
        )


@kernel()
def _gather_states(
    order: Array,
    starts: Array,
    local: Array,
    sparse: Array,
    offsets: Array,
    ids: Array,
    counts: Array,
) -> None:
    """Make one numbering of the states of all partitions.

    ``order``, ``starts``, ``local`` and ``sparse`` (its ``counts``) as ``_count_states`` left them;
    ``offsets`` int64 (partitions + 1,): states before each partition; filled: ``ids`` int32 (n,),
    at the kept samples, and ``counts`` int64 (states,).
    """
    for p in range(starts.size - 1):
        for i in range(starts[p], starts[p + 1]):
            ids[order[i]] = local[i] + offsets[p]
        for i in range(offsets[p], offsets[p + 1]):
            counts[i] = sparse[starts[p] + i - offsets[p]]


@kernel()
def _pair_keys(x: Array, y: Array, keys: Array) -> None:
    """Put the states of both ends into one key; ``x``, ``y`` int32 (n,), ``keys`` uint64 (n,).

    The key of a sample that was not kept, whose states are -1, means nothing.
    """
    for s in range(keys.size):
        keys[s] = np.uint64(np.uint32(x[s])) << np.uint64(32) | np.uint64(np.uint32(y[s]))


@kernel()
def _find_ends(
    joint: Array, ids: tuple[Array, Array], counts: tuple[Array, Array], in_x: Array, in_y: Array
) -> None:
    """Find the counts of the states of both ends that each joint state belongs to.

    ``joint`` int32 (n,): states, below 0 where the sample was not kept; ``ids`` int32 (n,) and
    ``counts`` int64, those of either end; ``in_x``, ``in_y`` int64 (joint states,), filled.
    """
    x, y = ids
    x_counts, y_counts = counts
    for s in range(joint.size):
        state = joint[s]
        if state >= 0:
            in_x[state] = x_counts[x[s]]
            in_y[state] = y_counts[y[s]]


@kernel()
def _point_states(
    counts: Array, in_x: Array, in_y: Array, tables: Array, ratio: float, point: Array
) -> None:
    """Find the pointwise information of each joint state.

    ``counts``, ``in_x``, ``in_y`` int64 (states,): how often it was seen, and its two ends;
    ``tables`` float64 (n + 1, 6), an estimator's; ``point`` float64 (states,), filled:
    p(counts) - p(in_x) - p(in_y), p the fourth column less ``ratio`` times the fifth.
    """
    for i in range(point.size):
        own = tables[counts[i], 3] - ratio * tables[counts[i], 4]
        x = tables[in_x[i], 3] - ratio * tables[in_x[i], 4]
        y = tables[in_y[i], 3] - ratio * tables[in_y[i], 4]
        point[i] = own - x - y


@kernel()
def _look_up_counts(counts: Array, tables: Array, column: int, out: Array) -> None:
    """Look up counts in one column of a table: ``counts`` int64 (m,), ``out`` float64 (m,)."""
    for i in range(out.size):
        out[i] = tables[counts[i], column]
