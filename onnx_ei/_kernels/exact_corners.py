"""The distribution of a sum of a few uniforms, in closed form."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._jit import Array, kernel


@kernel()
def _moments(terms: Array, moments: Array) -> None:
    """Find the even moments of a sum of uniforms on [-term, term].

    ``terms`` float64 (n,); ``moments`` float64 (m,), filled: the expected (2 r)-th power over
    (2 r)!. A product of power series without a negative number: nothing cancels.
    """
    moments[:] = 0.0
    moments[0] = 1.0
    factor = np.empty(moments.size)
    for c in range(terms.size):
        square = terms[c] * terms[c]
        factor[0] = 1.0
        for r in range(1, factor.size):
            factor[r] = factor[r - 1] * square / (2 * r * (2 * r + 1))
        for r in range(moments.size - 1, 0, -1):
            for i in range(1, r + 1):
                moments[r] += moments[r - i] * factor[i]


@kernel()
def _leaf(y: float, order: int, polynomial: Array, waves: Array, hump: Array, out: Array) -> None:
    """Evaluate E[(y - R)_+ ** order] / order! of a sum R of small terms, within its half period.

    ``polynomial``: E[(y - R) ** order] / order!, from the highest power down by twos; half of it
    is the part of one parity. ``waves``: its Fourier coefficients, of sin for even orders and cos
    for odd ones, and ``hump``: a polynomial of order + 1; both of the other parity. ``hump[-1]``
    is the first frequency. ``out`` float64 (2,), filled: the value, and the sum of magnitudes.
    """
    odd = order % 2 == 1
    square = y * y
    same, other = 0.0, 0.0
    for i in range(polynomial.size):
        same = same * square + polynomial[i]
    for i in range(hump.size - 1):
        other = other * square + hump[i]
    if odd:
        same *= y
    else:
        other *= y
    c1, s1 = np.cos(y * hump[-1]), np.sin(y * hump[-1])
    c, s = 1.0, 0.0
    wave, magnitude = 0.0, 0.0
    for k in range(waves.size):
        c, s = c * c1 - s * s1, s * c1 + c * s1
        wave += waves[k] * (c if odd else s)
        magnitude += abs(waves[k])
    out[0] = 0.5 * same + other + wave
    out[1] = 0.5 * abs(same) + abs(other) + magnitude


@kernel()
def _cumulative(
    points: Array,
    terms: Array,
    reaches: Array,
    polynomials: Array,
    waves: Array,
    hump: Array,
    values: Array,
) -> None:
    """Find the probability that a sum of uniforms is below each point.

    ``points`` float64 (m,); ``terms`` float64 (s,), descending: the terms that are split off, one
    at a time; ``reaches`` float64 (s + 1,): how far the sum reaches without the first 0, 1, ... of
    them; ``polynomials`` float64 (s + 1, s // 2 + 1): row q as ``polynomial`` in ``_leaf``, of the
    sum without the first q; ``waves`` and ``hump`` as in ``_leaf``, of what is left at the end;
    ``values`` float64 (2, m), filled: the probabilities, and the sums of magnitudes that made them.

    With P_q(y) = E[(y - R_q)_+ ** q] / q! and R_q = term u + R_(q+1), u uniform on [-1, 1],
    P_q(y) = (P_(q+1)(y + term) - P_(q+1)(y - term)) / (2 term). Beyond the reach of R_q it is 0 or
    a polynomial, so a term is split off only where y is next to a corner of the terms before it:
    numbers stay on the scale of the corner, and no power of a large number is taken from another.
    """
    last = terms.size
    levels = np.empty(2 * last + 2, np.int64)
    places, shares = np.empty(levels.size), np.empty(levels.size)
    out = np.empty(2)
    for p in range(points.size):
        # The tail that is summed is the smaller one: what is left of 1 is as accurate as 1.
        levels[0], places[0], shares[0] = 0, -abs(points[p]), 1.0
        held = 1
        total, magnitude = 0.0, 0.0
        while held > 0:
            held -= 1
            q, y, share = levels[held], places[held], shares[held]
            if y <= -reaches[q]:
                continue
            if y >= reaches[q]:
                value = 0.0
                for i in range(q // 2 + 1):
                    value = value * y * y + polynomials[q, i]
                value *= share * (y if q % 2 == 1 else 1.0)
                total += value
                magnitude += abs(value)
            elif q == last:
                _leaf(y, q, polynomials[q, : q // 2 + 1], waves, hump, out)
                total += share * out[0]
                magnitude += abs(share) * out[1]
            else:
                term = terms[q]
                for side in range(2):
                    levels[held] = q + 1
                    places[held] = y + term if side == 0 else y - term
                    shares[held] = (0.5 if side == 0 else -0.5) * share / term
                    held += 1
        total = min(max(total, 0.0), 0.5)
        values[0, p] = 1.0 - total if points[p] > 0.0 else total
        values[1, p] = magnitude


@kernel()
def _corner_table(edges: Array, owners: Array, values: Array, table: Array) -> None:
    """Turn cumulative probabilities into those of codes.

    ``edges`` float64 (m,): where intervals begin or end; ``owners`` int64 (2, m): the code that
    ends and the code that begins there, -1 for none; ``values`` float64 (m, bins); ``table``
    float64 (codes, bins), filled.
    """
    table[:] = 0.0
    for e in range(edges.size):
        for side in range(2):
            code = owners[side, e]
            if code >= 0:
                sign = 1.0 if side == 0 else -1.0
                for i in range(table.shape[1]):
                    table[code, i] += sign * values[e, i]
