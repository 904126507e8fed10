"""Sums over counts of what was seen rarely or not at all."""

from __future__ import annotations

import math

from onnx_ei._kernels._jit import Array, kernel

_EULER = 0.5772156649015329
_FIRST = 32


@kernel()
def _scaled_e1(x: float, out: Array) -> None:
    """Evaluate exp(x) E1(x), E1 the exponential integral.

    ``x`` above 0; ``out`` float64 (1,), filled to a relative error of 3e-8. Below 1 the power
    series, above it Hastings' rational function (Abramowitz and Stegun, 5.1.11 and 5.1.56).
    """
    if x < 1.0:
        term = x
        total = x
        for k in range(2, 14):
            term *= -x / k
            total += term / k
        out[0] = math.exp(x) * (total - _EULER - math.log(x))
    else:
        above = (((x + 8.5733287401) * x + 18.0590169730) * x + 8.6347608925) * x
        below = (((x + 9.5733223454) * x + 25.6329561486) * x + 21.0996530827) * x
        out[0] = (above + 0.2677737343) / (below + 3.9584969228) / x


@kernel()
def _geometric_over(a: float, z: float, out: Array) -> None:
    """Sum z**k / (a + k) over k = 0, 1, 2 ...

    ``a`` above 0; ``z`` in (0, 1); ``out`` float64 (1,), filled. 32 terms, and the rest by Euler
    and Maclaurin's formula, whose integral is an exponential integral.
    """
    rate = -math.log(z)
    total = 0.0
    power = 1.0
    for k in range(_FIRST):
        total += power / (a + k)
        power *= z
    start = a + _FIRST
    _scaled_e1(rate * start, out)
    first = power / start
    slope = rate + 1.0 / start
    bend = slope * slope * slope + 3.0 * slope / start**2 + 2.0 / start**3
    out[0] = total + power * out[0] + first * (0.5 + slope / 12.0 - bend / 720.0)


@kernel()
def _unseen_nats(cells: Array, n: float, out: Array) -> None:
    """Find what Chao, Wang and Jost add to a sum of digammas: their second sum, times n.

    ``cells`` int (m,) counts, of ``n`` in all; ``out`` float64 (1,), filled, in nats: with f1 and
    f2 the states seen once and twice, f1 times the sum over k of (1 - A)**(k + 1) / (n + k).
    """
    once = 0.0
    twice = 0.0
    for i in range(cells.size):
        once += cells[i] == 1
        twice += cells[i] == 2
    out[0] = 0.0
    share = 1.0
    if twice > 0.0:
        share = 2.0 * twice / ((n - 1.0) * once + 2.0 * twice)
    elif once > 0.0:
        share = 2.0 / ((n - 1.0) * (once - 1.0) + 2.0)
    if once > 0.0 and share < 1.0:
        _geometric_over(n, 1.0 - share, out)
        out[0] *= once * (1.0 - share)


@kernel()
def _covered_nats(cells: Array, n: float, out: Array) -> None:
    """Find Chao and Shen's entropy, times n.

    ``cells`` int (m,) counts, of ``n`` in all; ``out`` float64 (1,), filled, in nats: the sum of
    -C p log(C p) / (1 - (1 - C p)**n) with the coverage C = 1 - f1 / n, times n. Where every
    state was seen once, f1 is taken as n - 1, lest C be 0.
    """
    once = 0.0
    for i in range(cells.size):
        once += cells[i] == 1
    if once == n:
        once = n - 1.0
    covered = 1.0 - once / n
    total = 0.0
    for i in range(cells.size):
        if cells[i] > 0:
            p = covered * cells[i] / n
            if p < 1.0:
                total -= p * math.log(p) / -math.expm1(n * math.log1p(-p))
    out[0] = n * total
