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
    x: Array, ends: Array, n_bins: Array, first: int, out: Array, dropped: Array
) -> None:
    codes = np.empty(len(x), np.int32)
    for u, limits in enumerate(ends.T.tolist()):
        column_codes(x[:, u], tuple(limits), float(n_bins[u]), codes)
        out[u, first : first + len(x)] = codes
        dropped[u] += codes.tolist().count(n_bins[u])


def take_column(flat: Array, first: int, step: int, column: Array) -> None:
    column[:] = [flat[first + i * step] for i in range(column.size)]


def column_codes(column: Array, ends: tuple[float, ...], bins: float, codes: Array) -> None:
    low, high, least, most = ends
    for i, value in enumerate(column.astype(np.float64).tolist()):
        codes[i] = int(bins)
        if least <= value <= most:
            code = math.floor((min(max(value, low), high) - low) * bins / (high - low))
            codes[i] = min(code, int(bins) - 1)


def store_codes(codes: Array, n_bins: int, line: Array, dropped: Array) -> None:
    line[:] = codes
    dropped[0] += codes.tolist().count(n_bins)


def draw_words(state: Array, words: Array) -> None:
    bits = np.random.SFC64(0)
    known = bits.state
    bits.state = known | {"state": {"state": state[:4].copy()}}
    words[:] = bits.random_raw(words.size)
    state[:4] = bits.state["state"]["state"]


def mix_word(pool: Array, at: int, word: int, step: Array, rest: bool) -> None:
    """NumPy's SeedSequence in Python, of its documentation's formulas."""
    before, after = int(step[0]), int(step[0]) * 0x931E8875 % 2**32
    word = (int(word) ^ before) * after % 2**32
    word ^= word >> 16
    if rest:
        word = (0xCA01F9DD * int(pool[at]) - 0x4973F715 * word) % 2**32
        word ^= word >> 16
    pool[at], step[0] = word, after


def seed_state(words: Array, state: Array) -> None:
    bits = np.random.SFC64(np.random.SeedSequence(words.astype(np.uint32)))
    state[:] = [*bits.state["state"]["state"].tolist(), 0, 0]


def seed_chunks(words: Array, at: int, states: Array) -> None:
    for i, state in enumerate(states):
        of_chunk = words.copy()
        of_chunk[at] += np.uint64(i)
        seed_state(of_chunk, state)


def scale_halves(halves: Array, low: float, high: float, out: Array) -> None:
    share = (halves[: out.size] >> 8).astype(np.float32) * np.float32(2.0**-24)
    out[:] = np.clip(share * np.float32(high - low) + np.float32(low), low, high)


def draw_uniform(state: Array, low: float, high: float, out: Array) -> None:
    """Draw as NumPy does, which keeps half a word too."""
    bits = np.random.SFC64(0)
    bits.state = bits.state | {
        "state": {"state": state[:4].copy()}, "has_uint32": int(state[4]), "uinteger": int(state[5])
    }  # fmt: skip
    share = np.random.Generator(bits).random(out.size, dtype=np.float32)
    out[:] = np.clip(share * np.float32(high - low) + np.float32(low), low, high)
    state[:4] = bits.state["state"]["state"]
    state[4] = bits.state["has_uint32"]
    if state[4]:
        state[5] = bits.state["uinteger"]


def draw_chunks(states: Array, low: float, high: float, out: Array) -> None:
    for state, row in zip(states, out, strict=True):
        draw_uniform(state, low, high, row)


def count_pair(x: Array, rows: Array, slab: Array) -> None:
    for cell, count in Counter((rows.astype(int) + x.astype(int)).tolist()).items():
        slab[cell] += count


def count_two_pairs(x: Array, other: Array, rows: Array, slab: Array, other_slab: Array) -> None:
    count_pair(x, rows, slab)
    count_pair(other, rows, other_slab)


def join_codes(codes: Array, step: int, twos: Array) -> None:
    codes = codes.tolist()
    twos[:] = [a * step + b for a, b in zip(codes[::2], codes[1::2], strict=False)]


def count_twos(x: Array, rows: Array, step: int, square: Array, slab: Array) -> None:
    cells = (rows.astype(int) + x.astype(int)).tolist()
    square[:] = np.bincount(cells, minlength=square.size)
    for cell in cells:
        slab[cell // step] += 1
        slab[cell % step] += 1


def sum_cells(slab: Array, tables: Array, n_x: Array, n_y: Array, sums: Array) -> None:
    cells = slab[: n_y.size, : n_x.size].astype(int)
    n_x[:] = cells.sum(axis=0)
    n_y[:] = cells.sum(axis=1)
    for x, column in enumerate(cells.T.tolist()):
        sums[:3, x] = [math.fsum(tables[n, k] for n in column) for k in range(3)]
        sums[3, x] = column.count(1)
        sums[4, x] = sum(n * n for n in column)


def sum_margins(n_x: Array, n_y: Array, tables: Array, sums: Array, totals: Array) -> None:
    x, y = n_x.tolist(), n_y.tolist()
    each = [math.fsum(row[: len(x)]) for row in sums.tolist()]
    totals[0] = sum(x)
    for k in range(2):
        outer = math.fsum(tables[n, k] for n in x + y)
        totals[k + 1] = tables[sum(x), k] + each[k] - outer
    totals[3:8] = [*each[2:], sum(n * n for n in x), sum(n * n for n in y)]


def weigh_cells(
    slab: Array, tables: Array, ratio: float, n_x: Array, n_y: Array, weights: Array, sums: Array
) -> None:
    def point(n: int) -> float:
        return float(tables[n, 3] - ratio * tables[n, 4])

    cells = slab[: n_y.size, : n_x.size].astype(int).tolist()
    x, y = n_x.tolist(), n_y.tolist()
    weights[:] = 0
    for b, row in enumerate(cells):
        weights[b, : len(x)] = [point(n) - point(x[a]) - point(y[b]) for a, n in enumerate(row)]
    mean = math.fsum(n * weights[b, a] for b, row in enumerate(cells) for a, n in enumerate(row))
    weights[: len(y), : len(x)] -= mean / sum(x)
    for a in range(len(x)):
        column = [row[a] for row in cells]
        sums[0, a] = -point(x[a])
        sums[1, a] = math.fsum(n * weights[b, a] ** 2 for b, n in enumerate(column))
        # Draw a sample of the cell, another of its x, and a third of its y that is neither.
        sums[2, a] = sum(
            n * ((n - 1) * (y[b] - 2) + (x[a] - n) * (y[b] - 1)) for b, n in enumerate(column) if n
        )
        sums[3, a] = x[a] - 1


def look_up(
    places: Array, weights: Array, null: Array, rows: Array, shares: Array, moments: Array
) -> None:
    for i, (place, weight) in enumerate(zip(places.tolist(), weights.tolist(), strict=True)):
        at = min(max((place + 40) * 16, 0), len(null) - 0.001)
        rows[i], shares[i] = math.floor(at), at - math.floor(at)
        moments += weight * (null[rows[i], :8] + shares[i] * null[rows[i], 8:])


def add_lines(rows: Array, shares: Array, weights: Array, lines: Array, sums: Array) -> None:
    for row, share, weight in zip(rows, shares, weights, strict=False):
        sums += weight * (lines[row, :8] + share * lines[row, 8:])


def sum_null(n_x: Array, n_y: Array, tables: Array, null: Array, moments: Array) -> None:
    x, y = ([n for n in counts.tolist() if n] for counts in (n_x, n_y))
    moments[:] = 0
    cells = [(a * b / sum(x), 1) for a, b in itertools.product(x, y)]
    for mean, sign in [*cells, *((n, -1) for n in x + y), (sum(x), 1)]:
        one, of = np.array([math.log2(mean)]), np.array([sign])
        look_up(one, of, null, np.empty(1, int), np.empty(1), moments)


def unseen_nats(cells: Array, n: float, out: Array) -> None:
    once, twice = (int(np.count_nonzero(cells == k)) for k in (1, 2))
    out[0] = 0
    if once == 0 or (twice == 0 and once == 1):
        return
    seen = twice * 2 if twice else 2
    share = seen / ((n - 1) * (once if twice else once - 1) + seen)
    # As printed, (1 - A)**(1 - n) (-ln A - sum of (1 - A)**r / r), is one large number of another.
    powers = (once * (1 - share) ** (k + 1) / (n + k) for k in itertools.count())
    out[0] = math.fsum(itertools.takewhile(lambda term: term > 1e-14, powers))


def covered_nats(cells: Array, n: float, out: Array) -> None:
    counts = [c for c in cells.tolist() if c]
    covered = 1 - (counts.count(1) - (counts.count(1) == n)) / n
    shares = [covered * c / n for c in counts]
    out[0] = n * math.fsum(-p * math.log(p) / (1 - (1 - p) ** n) for p in shares if p < 1)


def scaled_e1(x: float, out: Array) -> None:
    from scipy.special import exp1

    out[0] = math.exp(x) * exp1(x) if x < 500 else 1 / x - 1 / x**2 + 2 / x**3


def geometric_over(a: float, z: float, out: Array) -> None:
    terms = (z**k / (a + k) for k in itertools.count())
    out[0] = math.fsum(itertools.takewhile(lambda term: term > 1e-16, terms))


def add_rare(slab: Array, n_x: Array, n_y: Array, which: int, totals: Array) -> None:
    cells = slab[: n_y.size, : n_x.size].ravel().astype(int)
    of_each = []
    for counts in (n_x, n_y, cells):
        out = np.empty(1)
        (covered_nats if which == 1 else unseen_nats)(counts, float(totals[0]), out)
        of_each.append(out[0])
    bits = (of_each[0] + of_each[1] - of_each[2]) / math.log(2)
    totals[1] = bits + (0 if which == 1 else totals[1])


def extrapolate(totals: Array) -> None:
    _, _, tail, thin, once, *_ = totals.tolist()
    totals[8] = 0
    if once and thin:
        halved = 1 + (thin + 1) ** 2 / (once * thin)
        totals[8] = 1 / (halved**1.0625 - 1)
    if tail < 0:
        totals[8] = min(1, totals[8])


def judge(totals: Array, moments: Array, result: Array) -> None:
    n, bits, tail, _, once, in_xy, in_x, in_y, ratio, square, triples = totals.tolist()
    b, d, bb, bd, dd, ss, sd, s2 = moments.tolist()
    alike = 0.0
    if n >= 3 and in_xy > n:
        same, same_x, same_y = ((squares - n) / (n * (n - 1)) for squares in (in_xy, in_x, in_y))
        cross = triples / (n * (n - 1) * (n - 2))
        alike = min(max(1 - (same - 2 * cross + same_x * same_y) / same, 0), 1)
    second = bb - 2 * ratio * bd + ratio**2 * dd
    noise = ss - 2 * ratio * sd + ratio**2 * s2
    result[0] = (bits - ratio * tail - alike**4 * (b - ratio * d)) / n
    result[1] = max(square + alike**4 * (second - noise), alike**4 * second / 2) / n**2
    result[2] = square / n**2
    result[3] = 2 * (once / n) * 4 * alike * (1 - alike) * abs(ratio * tail / n)
    result[4] = alike**4


def conclude(
    slab: Array,
    rule: tuple[Array, Array, int],
    n_x: Array,
    n_y: Array,
    totals: Array,
    tested: bool,
    result: Array,
) -> None:
    tables, null, which = rule
    moments, n, r = np.zeros(8), totals[0], float(totals[8])
    if which == 3:
        sum_null(n_x, n_y, tables, null, moments)
        judge(totals, moments, result)
        if tested:
            above = totals[1] - r * totals[2] - (moments[0] - r * moments[1])
            result[6] = above / math.sqrt(moments[2] - 2 * r * moments[3] + r * r * moments[4])
            result[7] = moments[2] * 2 * math.log(2) ** 2
        elif result[4] <= 1e-6:
            judge(totals, np.zeros(8), result)
    else:
        if which:
            add_rare(slab, n_x, n_y, which, totals)
        result[:3] = [totals[1] / n, totals[9] / n**2, totals[9] / n**2]
    result[5] = n


def measure_pair(
    slab: Array,
    rule: tuple[Array, Array, int],
    n_x: Array,
    n_y: Array,
    weights: Array,
    sums: Array,
    tested: bool,
    result: Array,
) -> None:
    totals = np.zeros(11)
    sum_cells(slab, rule[0], n_x, n_y, sums)
    sum_margins(n_x, n_y, rule[0], sums, totals)
    result[:] = 0
    result[5] = n = totals[0]
    if n in (n_x.max(), n_y.max()):
        weights[:] = 0
        return
    if rule[2] == 3:
        extrapolate(totals)
    weigh_cells(slab, rule[0], float(totals[8]), n_x, n_y, weights, sums)
    totals[9:] = [math.fsum(sums[k, : n_x.size].tolist()) for k in (1, 2)]
    conclude(slab, rule, n_x, n_y, totals, tested, result)


def add_influence(x: Array, rows: Array, weights: Array, scale: float, influence: Array) -> None:
    weights[:] = [math.floor(w * scale * 2**20 + 0.5) / 2**20 for w in weights.tolist()]
    cells = (rows.astype(int) + x.astype(int)).tolist()
    for s in range(influence.size):
        influence[s] += weights[cells[s]]


def pairwise(
    in_codes: Array,
    out_codes: Array,
    bins: tuple[Array, Array],
    rule: tuple[Array, Array, int],
    bits: Array,
    kept: Array,
    influence: Array,
    spread: Array,
) -> None:
    n = in_codes.shape[1]
    for (a, x), (b, y) in itertools.product(
        enumerate(in_codes.tolist()), enumerate(out_codes.tolist())
    ):
        x_bins, y_bins = int(bins[0][a]), int(bins[1][b])
        good = [s for s in range(n) if x[s] < x_bins and y[s] < y_bins]
        slab = np.zeros((y_bins + 1, x_bins + 1), np.uint32)
        for s in good:
            slab[y[s], x[s]] += 1
        weights, result = np.zeros(slab.shape), np.empty(8)
        margins = np.zeros(x_bins, int), np.zeros(y_bins, int)
        tested = len(bits) > 2
        measure_pair(slab, rule, *margins, weights, np.empty((5, x_bins)), tested, result)
        kept[a, b] = len(good)
        bits[:, a, b] = [result[0], math.hypot(math.sqrt(result[1]), result[3]), *result[6:]][
            : len(bits)
        ]
        # Which task a pair belongs to is the kernel's own affair: the first has them all here.
        for s in good:
            if s < influence.shape[1]:
                whole = weights[y[s], x[s]] * n / len(good) * 2**20
                influence[0, s] += math.floor(whole + 0.5) / 2**20
        for k, added in enumerate((result[1] * n, result[2] * n, result[3])):
            spread[0, k] += math.floor(added * 2**26 + 0.5) / 2**26


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


def partition_keys(
    hi: Array, lo: Array, kept: Array, order: Array, starts: Array, keys: Array
) -> None:
    members: list[list[int]] = [[] for _ in starts[1:]]
    words = list(zip(lo.tolist(), hi.tolist(), strict=True))
    for s, (low, high) in enumerate(words):
        if kept[s]:
            mixed = ((high * len(keys) // 2 * S1 % WORD) ^ (low * M1 % WORD)) * M2 % WORD
            members[(mixed >> 48) % len(members)].append(s)
    starts[0] = 0
    for p, samples in enumerate(members):
        starts[p + 1] = starts[p] + len(samples)
        order[starts[p] : starts[p + 1]] = samples
    for i, s in enumerate(order.tolist()):
        keys[:, i] = words[s][: len(keys)]


def number_states(keys: Array, slots: Array, local: Array, first: Array, counts: Array) -> None:
    states: dict[tuple[int, ...], int] = {}
    for i, key in enumerate(map(tuple, keys.T.tolist())):
        if key not in states:
            states[key] = len(states)
            first[states[key]] = i
            counts[states[key]] = 0
        local[i] = states[key]
        counts[states[key]] += 1


def count_partition(keys: Array, local: Array, counts: Array, n_states: Array) -> None:
    number_states(keys, np.empty(0), local, np.empty(local.size, int), counts)
    n_states[0] = len(set(local.tolist()))


def count_states(keys: Array, starts: Array, local: Array, counts: Array, n_states: Array) -> None:
    for p in range(n_states.size):
        at = slice(starts[p], starts[p + 1])
        count_partition(keys[:, at], local[at], counts[at], n_states[p : p + 1])


count_many_states = count_states


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


def pair_keys(x: Array, y: Array, keys: Array) -> None:
    keys[:] = [a % 2**32 * 2**32 + b % 2**32 for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def find_ends(
    joint: Array, ids: tuple[Array, Array], counts: tuple[Array, Array], in_x: Array, in_y: Array
) -> None:
    for s, state in enumerate(joint.tolist()):
        if state >= 0:
            in_x[state], in_y[state] = (c[i[s]] for i, c in zip(ids, counts, strict=True))


def point_states(
    counts: Array, in_x: Array, in_y: Array, tables: Array, ratio: float, point: Array
) -> None:
    def of(n: int) -> float:
        return float(tables[n, 3] - ratio * tables[n, 4])

    for i, (n, x, y) in enumerate(zip(counts, in_x, in_y, strict=True)):
        point[i] = of(n) - of(x) - of(y)


def look_up_counts(counts: Array, tables: Array, column: int, out: Array) -> None:
    out[:] = [tables[n, column] for n in counts.tolist()]


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


def line_cells(cuts: Array, codes: Array, table: Array, hits: Array) -> None:
    n_bins = table.shape[1]
    borders = sorted({*cuts.tolist(), *map(float, range(n_bins + 1))})
    found: list[int] = []
    for low, high in itertools.pairwise(borders):
        middle = 0.5 * (low + high)
        code = int(codes[sum(cut <= middle for cut in cuts.tolist())])
        if code >= 0:
            table[code, math.floor(middle)] += high - low
            found.append(code * n_bins + math.floor(middle))
    found = list(dict.fromkeys(found))
    hits[: len(found)] = found
    hits[-1] = len(found)


def bound_cells(missing: float, kept: float, n_rows: int, n_columns: int, bound: Array) -> None:
    ceiling = math.log(min(n_rows, n_columns))
    bound[0] = ceiling
    if missing == 0:
        bound[0] = 0
    elif kept > 2 * missing:
        d = missing / kept
        entropies = (
            d * math.log(max(states - 1, 1)) - d * math.log(d) - (1 - d) * math.log(1 - d)
            for states in (n_rows, n_columns, n_rows * n_columns)
        )
        bound[0] = min(sum(entropies), ceiling)


def cells_information(table: Array, hits: Array, missing: float, result: Array) -> None:
    cells, bound = table.tolist(), np.empty(1)
    total = math.fsum(map(math.fsum, cells))
    rows, columns = (
        [math.fsum(row) for row in cells],
        [math.fsum(c) for c in zip(*cells, strict=True)],
    )
    nats = 0.0
    if min(table.shape) > 1:
        nats = math.fsum(
            p / total * math.log(p * total / (rows[j] * columns[i]))
            for j, row in enumerate(cells)
            for i, p in enumerate(row)
            if p
        )
    bound_cells(missing, total / table.shape[1], *table.shape, bound)
    most = max(nats, math.log(min(table.shape)) - nats)
    result[0] = nats / math.log(2)
    result[1] = min(bound[0] + 1e-14 * (1 + nats), most) / math.log(2)
    if total == missing == 0:
        result[1] = 0
    result[2:] = total / table.shape[1], missing


def sweeps(
    weights: Array, distances: Array, codes: Array, span: Array, n_bins: int, results: Array
) -> None:
    epsilon = 2.0**-52
    for a, weight in enumerate(weights.tolist()):
        low, width = float(span[0]), float(span[1] - span[0]) * weight / n_bins
        crossings, missing = [], 0.0
        for e, (rise, slip) in enumerate(distances.T.tolist()):
            place = (rise - weight * low) / width
            crossings.append(min(max(place, 0.0), float(n_bins)))
            off = (slip + epsilon * (abs(rise) + 2 * abs(weight * low))) / abs(width)
            off += 4 * epsilon * n_bins
            if -off < place < n_bins + off:
                missing += off * sum(code >= 0 for code in codes[e : e + 2].tolist())
        order = 1 if weight > 0 else -1
        table = np.zeros((int(codes.max()) + 1, n_bins))
        hits = np.empty(n_bins + len(crossings) + 2, np.int64)
        line_cells(np.array(crossings[::order]), codes[::order], table, hits)
        cells_information(table, hits, missing / n_bins, results[a])


def in_one_bin(y: Array, least: int, found: Array) -> None:
    found[0] = len(set(y.tolist())) == 1


def find_cells(rows: Array, y: Array, cells: Array) -> None:
    cells[:] = [int(row) + int(code) for row, code in zip(rows, y, strict=True)]


def count_cells(cells: Array, slab: Array, hits: Array) -> None:
    first = {cell: s for s, cell in reversed(list(enumerate(cells.tolist())))}
    for cell, count in Counter(cells.tolist()).items():
        slab[cell] = count
    hits[: len(first)] = sorted(first.values())
    if first[int(cells[-1])] != len(cells) - 1:
        hits[len(first)] = len(cells) - 1  # noted, and not counted
    hits[len(cells)] = len(first)


def sum_hits(
    x: Array, y: Array, hits: Array, slab: Array, tables: Array, n_x: Array, n_y: Array, sums: Array
) -> None:
    # the pairwise kernel's twins look at every cell
    sums[:] = 0
    sum_cells(np.ascontiguousarray(slab.T), tables, n_x, n_y, sums)


def weigh_hits(
    ends: tuple[Array, Array],
    hits: Array,
    slab: Array,
    tables: Array,
    n_x: Array,
    n_y: Array,
    totals: Array,
    weights: Array,
) -> None:
    found, sums = np.zeros(slab.T.shape), np.zeros((5, n_x.size))
    cells = np.ascontiguousarray(slab.T)
    weigh_cells(cells, tables, float(totals[8]), n_x, n_y, found, sums)
    totals[9:] = sums[1].sum(), sums[2].sum()
    for s in hits[: int(hits[-1])].tolist():
        pair = int(ends[0][s]), int(ends[1][s])
        weights[pair] = found[pair[::-1]]


def add_influences(
    cells: Array, hits: Array, weights: Array, scale: float, influence: Array
) -> None:
    for cell in {int(cells[s]) for s in hits[: int(hits[-1])]}:
        weights[cell] = math.floor(float(weights[cell]) * scale * 2**20 + 0.5) / 2**20
    influence += weights[cells[: influence.size]]


def sweep(
    x: Array,
    y: Array,
    bins: tuple[int, Array],
    rule: tuple[Array, Array, int],
    bits: Array,
    kept: Array,
    influence: Array,
    spread: Array,
) -> None:
    found, counts = np.zeros((2, 1, len(y))), np.zeros((1, len(y)), int)
    both = (np.array([bins[0]]), bins[1])
    pairwise(x[None], y, both, rule, found, counts, influence[None], spread[None])
    bits[:], kept[:] = found[:, 0], counts[0]
