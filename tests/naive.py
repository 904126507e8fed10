"""Slow, obvious twins of the kernels: the same names without the underscore, the same arguments.

Plain Python on plain numbers, and no trick of the kernels: no strides, no partial sums, no blocks.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections import Counter

import numpy as np

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


def count_codes(codes: Array, kept: Array, starts: Array, counts: Array) -> None:
    for unit, start in zip(codes, starts, strict=True):
        for code, number in Counter(unit[kept].tolist()).items():
            counts[start + code] += number


def margins(table: Array, floors: Array, in_row: Array, in_column: Array, least: Array) -> None:
    for j, floor in enumerate(floors.tolist()):
        table[j] = [max(cell, floor) for cell in table[j].tolist()]
        in_row[j], least[j] = math.fsum(table[j]), min(table[j])
    in_column[:] = [math.fsum(column) for column in table.T.tolist()]


def logs(ratios: Array, mantissas: Array, exponents: Array, logs: Array) -> None:
    root = math.sqrt(0.5)
    for i, ratio in enumerate(ratios.tolist()):
        fraction, power = math.frexp(ratio)
        fraction, power = (fraction * 2, power - 1) if fraction < root else (fraction, power)
        mantissas[i] = struct.unpack("<Q", struct.pack("<d", fraction))[0]
        exponents[i] = struct.unpack("<Q", struct.pack("<d", 2.0**52 + 1024.0 + power))[0]
        logs[i] = math.log(ratio)


def information(table: Array, floors: Array, result: Array) -> None:
    for j, floor in enumerate(floors.tolist()):
        table[j] = [max(cell, floor) for cell in table[j].tolist()]
    total = math.fsum(table.ravel().tolist())
    rows, columns = table.shape
    joint = [[cell / total for cell in line] for line in table.tolist()]
    in_row = [math.fsum(line) for line in joint]
    in_column = [math.fsum(line) for line in zip(*joint, strict=True)]
    ratios = [
        [cell / p / q for cell, q in zip(line, in_column, strict=True)]
        for line, p in zip(joint, in_row, strict=True)
    ]
    nats = math.fsum(
        cell * math.log(x)
        for line, row in zip(joint, ratios, strict=True)
        for cell, x in zip(line, row, strict=True)
    )
    nats = 0.0 if min(rows, columns) == 1 else nats
    result[0] = max(nats, 0.0) / math.log(2)
    result[2] = kept = total / columns
    result[3] = missing = math.fsum(floors.tolist())
    error = ceiling = math.log(min(rows, columns))
    if kept > 2 * missing:
        first = missing * nats + math.fsum(
            floor * abs(math.log(x)) / columns
            for floor, row in zip(floors.tolist(), ratios, strict=True)
            for x in row
        )
        square = kept * math.fsum(
            floor**2 / min(line) for floor, line in zip(floors, table.tolist(), strict=True)
        )
        square += missing**2
        error = first / (kept - missing) + 2 * square / (kept - missing) ** 2
    error += 1e-14 * (1 + nats)
    result[1] = min(error, max(nats, ceiling - nats)) / math.log(2)


def characteristic(
    terms: Array, counts: Array, step: float, values: Array, envelopes: Array
) -> None:
    for k in range(values.size):
        angles = [t * step * (k + 1) for t, n in zip(terms, counts, strict=True) for _ in range(n)]
        values[k] = math.prod(math.sin(x) / x for x in angles)
        envelopes[k] = math.prod(
            math.exp(-x * x / 6) if x <= math.sqrt(3) else math.sqrt(3 / math.e) / x for x in angles
        )


def harmonics(
    angle: float, n_bins: int, n_used: int, factors: Array, cosines: Array, sines: Array
) -> None:
    middles = [2 * i + 1 - n_bins for i in range(n_bins // 2, n_bins)]
    if n_bins % 2:
        middles = [*middles[1:], 0]
    for k in range(n_used):
        for i, middle in enumerate(middles):
            cosines[k, i] = factors[k] * math.cos(k * angle * middle)
            sines[k, i] = factors[k] * math.sin(k * angle * middle)


def add_products(left: Array, right: Array, n_used: int, sums: Array) -> None:
    sums[:] = left[:, :n_used] @ right[:n_used]


def series_table(
    even: Array, odd: Array, cosines: Array, sines: Array, n_used: int, table: Array
) -> None:
    half = cosines.shape[1]
    cosine_sums = even[:, :n_used] @ cosines[:n_used]
    sine_sums = odd[:, :n_used] @ sines[:n_used]
    table[:, :half] = cosine_sums + sine_sums
    table[:, half:] = (cosine_sums - sine_sums)[:, : table.shape[1] - half]


def series_pairs(
    marks: Array,
    factors: Array,
    even: Array,
    odd: Array,
    slack: Array,
    n_bins: int,
    results: Array,
) -> None:
    for a, (angle, used, tail, omega, wrapped, density) in enumerate(marks.tolist()):
        k = np.arange(int(used))
        angles = np.outer(k, (2 * np.arange(n_bins) + 1 - n_bins) * angle)
        factor = factors[a, : k.size, None]
        table = even[:, : k.size] @ (factor * np.cos(angles))
        table += odd[:, : k.size] @ (factor * np.sin(angles))
        reach = np.minimum(slack[0], slack[1] / omega)
        floors = tail * reach + wrapped + density * slack[2] + slack[3]
        information(table[: slack.shape[1]].copy(), np.minimum(floors, 1.0), results[a])


def moments(terms: Array, moments: Array) -> None:
    series = [1.0] + [0.0] * (moments.size - 1)
    for term in terms.tolist():
        factor = [term ** (2 * r) / math.factorial(2 * r + 1) for r in range(len(series))]
        series = [
            math.fsum(series[i] * factor[r - i] for i in range(r + 1)) for r in range(len(series))
        ]
    moments[:] = series


def leaf(y: float, order: int, polynomial: Array, waves: Array, hump: Array, out: Array) -> None:
    *coefficients, step = hump.tolist()
    same = [c * y ** (order - 2 * i) for i, c in enumerate(polynomial.tolist())]
    other = [c * y ** (order + 1 - 2 * i) for i, c in enumerate(coefficients)]
    wave = math.cos if order % 2 else math.sin
    ripples = [c * wave((k + 1) * step * y) for k, c in enumerate(waves.tolist())]
    out[0] = 0.5 * math.fsum(same) + math.fsum(other) + math.fsum(ripples)
    out[1] = 0.5 * abs(math.fsum(same)) + abs(math.fsum(other))
    out[1] += math.fsum(abs(c) for c in waves.tolist())


def cumulative(
    points: Array,
    terms: Array,
    reaches: Array,
    polynomials: Array,
    waves: Array,
    hump: Array,
    values: Array,
) -> None:
    def integral(q: int, y: float) -> tuple[float, float]:
        if y <= -reaches[q]:
            return 0.0, 0.0
        if y >= reaches[q]:
            value = math.fsum(polynomials[q, i] * y ** (q - 2 * i) for i in range(q // 2 + 1))
            return value, abs(value)
        if q == terms.size:
            out = np.empty(2)
            leaf(y, q, polynomials[q, : q // 2 + 1], waves, hump, out)
            return float(out[0]), float(out[1])
        upper, lower = integral(q + 1, y + terms[q]), integral(q + 1, y - terms[q])
        return (upper[0] - lower[0]) / (2 * terms[q]), (upper[1] + lower[1]) / (2 * terms[q])

    for p, point in enumerate(points.tolist()):
        value, values[1, p] = integral(0, -abs(point))
        value = min(max(value, 0.0), 0.5)
        values[0, p] = 1 - value if point > 0 else value


def corner_table(edges: Array, owners: Array, values: Array, table: Array) -> None:
    table[:] = 0.0
    for ends, begins, value in zip(owners[0], owners[1], values, strict=True):
        if ends >= 0:
            table[ends] += value
        if begins >= 0:
            table[begins] -= value


def line_table(cuts: Array, codes: Array, table: Array) -> None:
    table[:] = 0.0
    n_bins = table.shape[1]
    borders = sorted({*cuts.tolist(), *map(float, range(n_bins + 1))})
    for low, high in itertools.pairwise(borders):
        middle = 0.5 * (low + high)
        code = codes[sum(cut <= middle for cut in cuts.tolist())]
        if code >= 0:
            table[code, math.floor(middle)] += high - low


def sweeps(
    weights: Array, distances: Array, codes: Array, span: Array, n_bins: int, results: Array
) -> None:
    epsilon = 2.0**-52
    for a, weight in enumerate(weights.tolist()):
        low, width = float(span[0]), float(span[1] - span[0]) * weight / n_bins
        floors, crossings = [1e-250] * (int(codes.max()) + 1), []
        for e, (rise, slip) in enumerate(distances.T.tolist()):
            place = (rise - weight * low) / width
            crossings.append(min(max(place, 0.0), float(n_bins)))
            off = (slip + epsilon * (abs(rise) + 2 * abs(weight * low))) / abs(width)
            off += 4 * epsilon * n_bins
            for code in codes[e : e + 2].tolist():
                if code >= 0 and -off < place < n_bins + off:
                    floors[code] = min(floors[code] + off, 1.0)
        order = 1 if weight > 0 else -1
        table = np.empty((len(floors), n_bins))
        line_table(np.array(crossings[::order]), codes[::order], table)
        information(table, np.array(floors), results[a])


def bin_rounded(
    x: Array, lower: Array, upper: Array, slack: Array, n_bins: Array, out: Array
) -> None:
    moved = x.astype(np.float64)
    for u, (low, high) in enumerate(zip(lower, upper, strict=True)):
        column = moved[:, u]
        column[(column > high) & (column - high <= slack[u])] = high
        column[(column < low) & (low - column <= slack[u])] = low
    bin_values(moved, lower, upper, n_bins, out, np.zeros(n_bins.size, np.int64))


def count_cells(rows: Array, y: Array, slab: Array, hits: Array) -> None:
    cells = (rows.astype(int) + y.astype(int)).tolist()
    first = {cell: s for s, cell in reversed(list(enumerate(cells)))}
    for cell, count in Counter(cells).items():
        slab[cell] = count
    hits[: len(first)] = sorted(first.values())
    if first[cells[-1]] != len(cells) - 1:
        hits[len(first)] = len(cells) - 1  # noted, and not counted
    hits[len(cells)] = len(first)


def bound_cells(
    x: Array, y: Array, hits: Array, n_bins: Array, low: Array, high: Array, weights: Array
) -> None:
    pairs = [(int(x[s]), int(y[s])) for s in hits[: int(hits[-1])].tolist()]
    for pair in pairs:
        if pair[0] == n_bins[0] or pair[1] == n_bins[1]:
            weights[pair] = 0
    for a in range(low.size):
        row = [b for c, b in pairs if c == a and b < n_bins[1]]
        low[a], high[a] = min(row, default=n_bins[1]), max(row, default=-1)


def measure_cells(
    slab: Array, tables: Array, low: Array, high: Array, n_y: Array, sums: Array, result: Array
) -> None:
    # the pairwise kernel's twins look at every cell
    x_bins, n_x, both = low.size, np.zeros(low.size, int), np.zeros((2, low.size))
    cells = np.ascontiguousarray(slab.T)
    sum_cells(cells, x_bins, n_y.size, tables, n_x, n_y, both)
    sums[0] = n_x
    estimate(x_bins, n_y.size, tables, n_x, n_y, both, result)


def weigh_hits(
    slab: Array, tables: Array, low: Array, high: Array, n_y: Array, sums: Array, weights: Array
) -> None:
    n_x, both = sums[0].astype(int), np.zeros((2, low.size))
    found = np.zeros((n_y.size, low.size))
    cells = np.ascontiguousarray(slab.T)
    weigh_cells(cells, tables, n_x, n_y, float(sums[1, 0]), found, both)
    hit = slab[: low.size, : n_y.size] > 0
    weights[: low.size, : n_y.size][hit] = found.T[hit]
    sums[1] = both[1]


def add_influences(rows: Array, y: Array, weights: Array, scale: float, influence: Array) -> None:
    add_influence(y, rows, weights, scale, influence)


def sweep(
    x: Array,
    y: Array,
    x_bins: int,
    y_bins: Array,
    tables: Array,
    bits: Array,
    kept: Array,
    influence: Array,
) -> None:
    found, counts = np.zeros((2, 1, y_bins.size)), np.zeros((1, y_bins.size), int)
    rows = np.zeros((y_bins.size, influence.size))
    pairwise(x[None], y, np.array([x_bins]), y_bins, tables, found, counts, rows)
    bits[:], kept[:] = found[:, 0], counts[0]
    influence += rows.sum(axis=0)
