"""Joint tables of a pair as Fourier series, and their bits."""

from __future__ import annotations

import math

import numpy as np

from onnx_ei._kernels._jit import Array, kernel
from onnx_ei._kernels.exact import _information

_ROOT_3 = math.sqrt(3.0)
# exp(-x**2 / 6) where its slope on logarithmic axes reaches that of 1 / x: they meet smoothly.
_LOG_JOIN = math.log(_ROOT_3) - 0.5


@kernel()
def _characteristic(
    terms: Array, counts: Array, step: float, values: Array, envelopes: Array
) -> None:
    """Evaluate the characteristic function of a sum of uniforms, and an envelope of it.

    ``terms`` float64 (n,), positive: half-widths; ``counts`` int64 (n,): how often each occurs;
    ``values`` float64 (K,), filled: the product of sin(x) / x with x = (k + 1) ``step`` term;
    ``envelopes`` float64 (K,), filled: a product of bounds of the factors that only fall,
    exp(-x**2 / 6) up to sqrt(3) and 1.0505 / x from there.
    """
    for k in range(values.size):
        omega = (k + 1) * step
        value, log_bound = 1.0, 0.0
        for c in range(terms.size):
            x = terms[c] * omega
            value *= (np.sin(x) / x) ** counts[c] if x > 0.0 else 1.0
            log_bound += counts[c] * (_LOG_JOIN - np.log(x) if x > _ROOT_3 else -x * x / 6.0)
        values[k] = value
        envelopes[k] = np.exp(log_bound)


@kernel()
def _harmonics(
    angle: float, n_bins: int, n_used: int, factors: Array, cosines: Array, sines: Array
) -> None:
    """Tabulate the factor of each frequency at the mid-points of one half of the input bins.

    Bin i of ``n_bins`` has its middle at (2 i + 1 - ``n_bins``) ``angle``; ``factors`` float64
    (>= n_used,). Filled: ``cosines`` and ``sines`` float64 (>= n_used, half), factor times cos
    and sin of k times the middles of the upper half, an odd number's own middle last.
    """
    n_pairs = n_bins // 2
    for k in range(n_used):
        factor = factors[k]
        cosine, sine = cosines[k], sines[k]
        if n_bins % 2 == 1:
            cosine[n_pairs] = factor
            sine[n_pairs] = 0.0
        if n_pairs > 0:
            c1, s1 = np.cos(k * angle), np.sin(k * angle)
            turn, lift = c1 * c1 - s1 * s1, 2.0 * s1 * c1
            cosine[0] = factor * (turn if n_bins % 2 == 1 else c1)
            sine[0] = factor * (lift if n_bins % 2 == 1 else s1)
            # Doubling what is there needs no sine and no cosine, and is vectorised.
            done = 1
            while done < n_pairs:
                for i in range(min(done, n_pairs - done)):
                    cosine[done + i] = cosine[i] * turn - sine[i] * lift
                    sine[done + i] = sine[i] * turn + cosine[i] * lift
                turn, lift = turn * turn - lift * lift, 2.0 * turn * lift
                done *= 2


@kernel(fused=True)
def _add_products(left: Array, right: Array, n_used: int, sums: Array) -> None:
    """Add two rows of a matrix product.

    ``left`` float64 (2, >= n_used), ``right`` float64 (>= n_used, m); ``sums`` float64 (2, m),
    filled with ``left[:, :n_used] @ right[:n_used]``. ``n_used`` is a multiple of 4: two rows
    and four products for each read of a sum took a third of the time of the plain loop.
    """
    upper, lower = sums[0], sums[1]
    upper[:] = 0.0
    lower[:] = 0.0
    for k in range(0, n_used, 4):
        a0, a1, a2, a3 = left[0, k], left[0, k + 1], left[0, k + 2], left[0, k + 3]
        b0, b1, b2, b3 = left[1, k], left[1, k + 1], left[1, k + 2], left[1, k + 3]
        c0, c1, c2, c3 = right[k], right[k + 1], right[k + 2], right[k + 3]
        for i in range(upper.size):
            upper[i] += a0 * c0[i] + a1 * c1[i] + a2 * c2[i] + a3 * c3[i]
            lower[i] += b0 * c0[i] + b1 * c1[i] + b2 * c2[i] + b3 * c3[i]


@kernel()
def _series_table(
    even: Array, odd: Array, cosines: Array, sines: Array, n_used: int, table: Array
) -> None:
    """Sum the series of every cell of a pair.

    ``even`` and ``odd`` float64 (rows, >= n_used), an even number of rows: the coefficients of
    cos and sin of each output code; ``cosines`` and ``sines`` as from ``_harmonics``; ``table``
    float64 (rows, bins), filled: the upper half of the input bins, then the lower one mirrored.
    Mirrored bins share the products, which differ in a sign: half the work.
    """
    half = cosines.shape[1]
    rest = table.shape[1] - half
    cosine_sums, sine_sums = np.empty((2, half)), np.empty((2, half))
    for j in range(0, table.shape[0], 2):
        _add_products(even[j : j + 2], cosines, n_used, cosine_sums)
        _add_products(odd[j : j + 2], sines, n_used, sine_sums)
        for row in range(2):
            line, c, s = table[j + row], cosine_sums[row], sine_sums[row]
            for i in range(half):
                line[i] = c[i] + s[i]
            for i in range(rest):
                line[half + i] = c[i] - s[i]


@kernel()
def _series_pairs(
    marks: Array,
    factors: Array,
    even: Array,
    odd: Array,
    slack: Array,
    n_bins: int,
    results: Array,
) -> None:
    """Measure one output unit with every input of a block.

    ``marks`` float64 (inputs, 6): the angle of ``_harmonics``, how many frequencies to use, the
    tail beyond them, the first frequency of that tail, the wrapped share, the density's bound;
    ``factors`` float64 (inputs, K); ``even`` and ``odd`` as in ``_series_table``; ``slack``
    float64 (4, codes): of each code the width, the number of ends, how far the ends can be off
    together, and the rounding error; ``results`` float64 (inputs, 4), filled by ``_information``.
    """
    n_codes = slack.shape[1]
    half = n_bins - n_bins // 2
    cosines = np.empty((factors.shape[1], half))
    sines = np.empty((factors.shape[1], half))
    table = np.empty((even.shape[0], n_bins))
    floors = np.empty(n_codes)
    for a in range(marks.shape[0]):
        n_used = int(marks[a, 1])
        tail, omega, wrapped, density = marks[a, 2], marks[a, 3], marks[a, 4], marks[a, 5]
        _harmonics(marks[a, 0], n_bins, n_used, factors[a], cosines, sines)
        _series_table(even, odd, cosines, sines, n_used, table)
        for j in range(n_codes):
            reach = min(slack[0, j], slack[1, j] / omega)
            error = tail * reach + wrapped + density * slack[2, j] + slack[3, j]
            floors[j] = min(error, 1.0)
        _information(table[:n_codes], floors, results[a])
