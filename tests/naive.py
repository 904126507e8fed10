"""Slow, obvious twins of the kernels: the same names without the underscore, the same arguments.

Plain Python on plain numbers, and no trick of the kernels: no strides, no partial sums, no blocks.
"""

from __future__ import annotations

import math
from collections import Counter

from onnx_ei._kernels._jit import Array

WORD = 2**64
M1, M2 = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53
S1, S2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
STEP = 0x9E3779B97F4A7C15


def bin_values(
    x: Array, lower: Array, upper: Array, n_bins: Array, out: Array, dropped: Array
) -> None:
    for s, sample in enumerate(x.tolist()):
        for u, value in enumerate(sample):
            low, high, bins = float(lower[u]), float(upper[u]), int(n_bins[u])
            if math.isnan(value) or value < low or value > high:
                out[u, s] = bins
                dropped[u] += 1
            else:
                out[u, s] = min(math.floor((value - low) * bins / (high - low)), bins - 1)


def count_pair(x: Array, rows: Array, slab: Array) -> None:
    for cell, count in Counter((rows.astype(int) + x.astype(int)).tolist()).items():
        slab[cell] += count


def sum_cells(
    slab: Array, x_bins: int, y_bins: int, tables: Array, n_x: Array, n_y: Array, sums: Array
) -> None:
    cells = slab[:y_bins, :x_bins].astype(int)
    n_x[:x_bins] = cells.sum(axis=0)
    n_y[:] = cells.sum(axis=1)
    for x in range(x_bins):
        sums[0, x] = math.fsum(tables[n, 0] for n in cells[:, x])
        sums[1, x] = math.fsum(n * math.log2(n) for n in cells[:, x] if n)


def estimate(
    x_bins: int, y_bins: int, tables: Array, n_x: Array, n_y: Array, sums: Array, result: Array
) -> None:
    x, y = n_x[:x_bins].tolist(), n_y[:y_bins].tolist()
    kept = sum(x)
    result[:] = 0
    if kept:
        outer = math.fsum(tables[n, 0] for n in x + y)
        result[0] = (tables[kept, 0] + math.fsum(sums[0, :x_bins]) - outer) / kept
        outer = math.fsum(n * math.log2(n) for n in x + y if n)
        result[1] = (kept * math.log2(kept) + math.fsum(sums[1, :x_bins]) - outer) / kept
        result[2] = kept


def weigh_cells(
    slab: Array, tables: Array, n_x: Array, n_y: Array, plugin: float, weights: Array, sums: Array
) -> None:
    total = int(n_x.sum())
    weights[:] = 0
    for x, in_x in enumerate(n_x.tolist()):
        square = []
        for y, in_y in enumerate(n_y.tolist()):
            count = int(slab[y, x])
            if count:
                weights[y, x] = math.log2(count * total / (in_x * in_y)) - plugin
                square.append(count * weights[y, x] ** 2)
        sums[1, x] = math.fsum(square)


def add_influence(x: Array, rows: Array, weights: Array, scale: float, influence: Array) -> None:
    cells = (rows.astype(int) + x.astype(int)).tolist()
    n, blocks = len(cells), influence.size
    for g in range(blocks):
        block = [weights[cell] for s, cell in enumerate(cells) if s * blocks // n == g]
        influence[g] += math.floor(math.fsum(block) * scale * 2**20 + 0.5) / 2**20


def size(group: int, groups: int, n: int) -> int:
    return (group + 1) * n // groups - group * n // groups


def pairwise(
    in_codes: Array,
    out_codes: Array,
    in_bins: Array,
    out_bins: Array,
    tables: Array,
    bits: Array,
    kept: Array,
    influence: Array,
) -> None:
    n, blocks = in_codes.shape[1], influence.shape[1]
    groups = influence.shape[0] // out_bins.size
    row = [g for g in range(groups) for _ in range(size(g, groups, in_bins.size))]
    phi = tables[:, 0]
    for a, x in enumerate(in_codes.tolist()):
        for b, y in enumerate(out_codes.tolist()):
            good = [s for s in range(n) if x[s] < in_bins[a] and y[s] < out_bins[b]]
            n_x, n_y = Counter(x[s] for s in good), Counter(y[s] for s in good)
            n_xy = Counter((x[s], y[s]) for s in good)
            total = kept[a, b] = len(good)
            bits[:, a, b] = 0
            if not good:
                continue
            joint = math.fsum(phi[c] for c in n_xy.values())
            outer = math.fsum(phi[c] for m in (n_x, n_y) for c in m.values())
            bits[0, a, b] = (phi[total] + joint - outer) / total
            i = {s: math.log2(n_xy[x[s], y[s]] * total / (n_x[x[s]] * n_y[y[s]])) for s in good}
            mean = math.fsum(i.values()) / total
            bits[1, a, b] = math.sqrt(math.fsum((v - mean) ** 2 for v in i.values())) / total
            for g in range(blocks):
                block = [v - mean for s, v in i.items() if s * blocks // n == g]
                rounded = math.floor(math.fsum(block) * n / total * 2**20 + 0.5) / 2**20
                influence[b * groups + row[a], g] += rounded


def mix(hi: int, lo: int, word: int) -> tuple[int, int]:
    a = lo ^ word
    a = (a ^ (a >> 33)) * M1 % WORD
    a = (a ^ (a >> 33)) * M2 % WORD
    b = (hi + STEP) % WORD ^ word
    b = (b ^ (b >> 30)) * S1 % WORD
    b = (b ^ (b >> 27)) * S2 % WORD
    return b ^ (b >> 31), a ^ (a >> 33)


def absorb(hi: Array, lo: Array, words: Array) -> None:
    for s, word in enumerate(words.tolist()):
        hi[s], lo[s] = mix(int(hi[s]), int(lo[s]), word)


def append_codes(codes: Array, n_bins: int, shift: int, words: Array, kept: Array) -> None:
    for s, code in enumerate(codes.tolist()):
        words[s] = int(words[s]) | (code << int(shift)) % WORD
        kept[s] = bool(kept[s]) and code < n_bins


def pack_keys(
    codes: Array, n_bins: Array, layout: Array, hi: Array, lo: Array, kept: Array
) -> None:
    for s, sample in enumerate(codes.T.tolist()):
        words = [0] * (int(layout[0, -1]) + 1)
        for code, bins, (word, shift) in zip(sample, n_bins, layout.T.tolist(), strict=True):
            words[word] |= (code << shift) % WORD
            kept[s] = bool(kept[s]) and code < bins
        high = low = 0
        if len(words) <= 2:
            low, high = (*words, 0)[:2]
        else:
            for packed in words:
                high, low = mix(high, low, packed)
        hi[s], lo[s] = high, low


def partition_keys(hi: Array, lo: Array, kept: Array, order: Array, starts: Array) -> None:
    members: list[list[int]] = [[] for _ in starts[1:]]
    for s, (high, low) in enumerate(zip(hi.tolist(), lo.tolist(), strict=True)):
        if kept[s]:
            mixed = ((high * S1 % WORD) ^ (low * M1 % WORD)) * M2 % WORD
            members[(mixed >> 48) % len(members)].append(s)
    starts[0] = 0
    for p, samples in enumerate(members):
        starts[p + 1] = starts[p] + len(samples)
        order[starts[p] : starts[p + 1]] = samples


def number_states(
    hi: Array, lo: Array, order: Array, slots: Array, local: Array, first: Array, counts: Array
) -> None:
    states: dict[tuple[int, int], int] = {}
    for i, s in enumerate(order.tolist()):
        key = (int(hi[s]), int(lo[s]))
        if key not in states:
            states[key] = len(states)
            first[states[key]] = s
            counts[states[key]] = 0
        local[i] = states[key]
        counts[states[key]] += 1


def count_states(
    hi: Array,
    lo: Array,
    order: Array,
    starts: Array,
    local: Array,
    counts: Array,
    n_states: Array,
) -> None:
    for p in range(n_states.size):
        states: dict[tuple[int, int], int] = {}
        for i in range(starts[p], starts[p + 1]):
            key = (int(hi[order[i]]), int(lo[order[i]]))
            local[i] = states.setdefault(key, len(states))
        n_states[p] = len(states)
        for state, count in Counter(local[starts[p] : starts[p + 1]].tolist()).items():
            counts[starts[p] + state] = count


def gather_states(
    order: Array,
    starts: Array,
    local: Array,
    sparse: Array,
    offsets: Array,
    ids: Array,
    counts: Array,
) -> None:
    for p in range(starts.size - 1):
        for i in range(starts[p], starts[p + 1]):
            ids[order[i]] = offsets[p] + local[i]
            counts[ids[order[i]]] = sparse[starts[p] + local[i]]


def pointwise_moments(ids: Array, logs: Array, shift: float, moments: Array) -> None:
    n, blocks = ids.shape[1], moments.shape[1]
    values: list[list[float]] = [[] for _ in range(blocks)]
    for s, (x, y, xy) in enumerate(ids.T.tolist()):
        if xy >= 0:
            values[s * blocks // n].append(logs[2, xy] - logs[0, x] - logs[1, y] - shift)
    for g, block in enumerate(values):
        moments[0, g] = math.fsum(block)
        moments[1, g] = math.fsum(v * v for v in block)
