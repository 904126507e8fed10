"""States of whole vectors: packing them into keys, and counting the keys."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._jit import Array, kernel, prange

_BLOCK = 512
# Multipliers of two published 64-bit finalisers: MurmurHash3's and Stafford's variant 13.
_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_S1 = np.uint64(0xBF58476D1CE4E5B9)
_S2 = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)
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
    for s in range(codes.size):
        kept[s] &= codes[s] < n_bins


@kernel()
def _pack_keys(
    codes: Array, n_bins: Array, layout: Array, hi: Array, lo: Array, kept: Array
) -> None:
    """Pack each sample's codes into a key of two words.

    ``codes`` unsigned (units, n); ``n_bins`` int64 (units,); ``layout`` int64 (2, units): the word
    that a unit lies in and its shift there; ``hi``, ``lo`` uint64 (n,), filled; ``kept`` bool (n,),
    cleared where a unit overflowed. One word goes to ``lo``, a second to ``hi``, more are hashed.
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
def _partition_keys(hi: Array, lo: Array, kept: Array, order: Array, starts: Array) -> None:
    """Sort the kept samples by a hash of their key, into a fixed number of partitions, stably.

    ``hi``, ``lo`` uint64 (n,); ``kept`` bool (n,); filled: ``order`` int64 (kept samples,), the
    samples partition by partition, and ``starts`` int64 (partitions + 1,).
    """
    n_samples = lo.size
    n_partitions = starts.size - 1
    mask = np.uint64(n_partitions - 1)
    part = np.empty(n_samples, np.uint16)
    starts[:] = 0
    for s in range(n_samples):
        part[s] = np.uint16((((hi[s] * _S1) ^ (lo[s] * _M1)) * _M2 >> np.uint64(48)) & mask)
        if kept[s]:
            starts[np.int64(part[s]) + 1] += 1
    for p in range(n_partitions):
        starts[p + 1] += starts[p]
    place = starts[:n_partitions].copy()
    for s in range(n_samples):
        if kept[s]:
            p = part[s]
            order[place[p]] = s
            place[p] += 1


@kernel()
def _number_states(
    hi: Array, lo: Array, order: Array, slots: Array, local: Array, first: Array, counts: Array
) -> None:
    """Give the distinct keys of one partition numbers, in the order in which they appear.

    ``order`` int64 (m,): its samples; ``slots`` int64 (a power of two > m,): scratch, all -1;
    filled: ``local`` int64 (m,) the number of each sample's state, and for each state ``first``
    int64 (m,) a sample that has it and ``counts`` int64 (m,).
    """
    mask = np.uint64(slots.size - 1)
    n_states = 0
    for i in range(order.size):
        h = hi[order[i]]
        k = lo[order[i]]
        slot = (((h * _S2) ^ (k * _S1)) * _STEP >> np.uint64(32)) & mask
        while True:
            state = slots[slot]
            if state < 0:
                slots[slot] = n_states
                first[n_states] = order[i]
                counts[n_states] = 1
                local[i] = n_states
                n_states += 1
                break
            sample = first[state]
            if lo[sample] == k and hi[sample] == h:
                counts[state] += 1
                local[i] = state
                break
            slot = (slot + np.uint64(1)) & mask


@kernel(parallel=True)
def _count_states(
    hi: Array,
    lo: Array,
    order: Array,
    starts: Array,
    local: Array,
    counts: Array,
    n_states: Array,
) -> None:
    """Find the states of every partition, and count them; one task owns one partition.

    ``hi``, ``lo``, ``order`` and ``starts`` as in ``_partition_keys``; filled: ``local`` int64
    (kept samples,), the number of each sample's state in its partition, in the order of ``order``;
    ``counts`` int64 (kept samples,), of which each partition fills the first ``n_states``.
    """
    for p in prange(n_states.size):
        begin, end = starts[p], starts[p + 1]
        n_slots = 16
        while n_slots < 2 * (end - begin):
            n_slots *= 2
        slots = np.full(n_slots, -1, np.int64)
        first = np.empty(end - begin, np.int64)
        _number_states(hi, lo, order[begin:end], slots, local[begin:end], first, counts[begin:end])
        n_states[p] = 0
        if end > begin:
            n_states[p] = local[begin:end].max() + 1


@kernel(parallel=True)
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
    ``offsets`` int64 (partitions + 1,): states before each partition; filled: ``ids`` int64 (n,),
    at the kept samples, and ``counts`` int64 (states,).
    """
    for p in prange(starts.size - 1):
        for i in range(starts[p], starts[p + 1]):
            ids[order[i]] = local[i] + offsets[p]
        for i in range(offsets[p], offsets[p + 1]):
            counts[i] = sparse[starts[p] + i - offsets[p]]
