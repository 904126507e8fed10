"""Independent truths for the exact engine: quadrature, exact fractions, extended precision.

None shares a line or a formula with the engine. Each gives the joint probabilities of the bin of
one input and the code of the output, and `bits` turns them into information.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from onnx_ei._exact.pieces import Pieces

Joint = Callable[..., np.ndarray]


def bits(joint: np.ndarray) -> float:
    """Mutual information of joint probabilities that need not sum to 1; 0 where they are all 0."""
    p = np.asarray(joint, np.longdouble)
    if p.sum() <= 0:
        return 0.0
    p = p / p.sum()
    outer = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    held = p > 0
    return float((p[held] * np.log2(p[held] / outer[held])).sum())


def _spread(cumulative: np.ndarray, pieces: Pieces) -> np.ndarray:
    """P(bin, z < edge) of each edge, with the bins' own probabilities last -> P(bin, code)."""
    below = np.concatenate((np.zeros_like(cumulative[:1]), cumulative))
    shares = below[1:] - below[:-1]
    joint = np.zeros((pieces.n_bins, cumulative.shape[1]), cumulative.dtype)
    for code, share in zip(pieces.codes, shares, strict=True):
        if code >= 0:
            joint[code] += np.maximum(share, 0)
    return joint


def _knots(terms: np.ndarray) -> np.ndarray:
    signs = itertools.product((1.0, -1.0), repeat=len(terms))
    return np.unique([float(np.dot(sign, terms)) for sign in signs])


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)


def _cdf(y: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """P(sum of terms * U(-1, 1) <= y), by Gauss-Legendre between the kinks of what is left."""
    if len(terms) == 0:
        return (y > 0).astype(float)
    if len(terms) == 1:
        return np.clip(0.5 * (y / terms[0] + 1.0), 0.0, 1.0)
    return _averaged(y, terms[0], terms[1:], np.array([-1.0]), np.array([1.0]))[..., 0]


def _averaged(
    y: np.ndarray, term: float, rest: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The mean over u in (low, high) of P(term * u + rest <= y): (...,) -> (..., bins)."""
    cuts = (y[..., None] - _knots(rest)) / term
    cuts = np.clip(cuts[..., None, :], low[:, None], high[:, None])
    ends = np.broadcast_to(np.stack((low, high), -1), (*cuts.shape[:-1], 2))
    cuts = np.sort(np.concatenate((cuts, ends), axis=-1), axis=-1)
    half = 0.5 * np.diff(cuts)
    u = 0.5 * (cuts[..., 1:] + cuts[..., :-1])[..., None] + half[..., None] * _NODES
    inner = _cdf(y[..., None, None, None] - term * u, rest)
    return (inner @ _WEIGHTS * half).sum(axis=-1) / (high - low)


def quadrature_joint(
    weights: np.ndarray, bias: float, in_range: tuple, in_bins: int, pieces: Pieces, a: int
) -> np.ndarray:
    """By iterated Gauss-Legendre quadrature; exact for polynomials, which the pieces are."""
    low, high = in_range
    half = 0.5 * (high - low) * np.abs(np.asarray(weights, float))
    centre = bias + 0.5 * (low + high) * float(np.sum(weights))
    rest = np.delete(half, a)
    rest = rest[rest > 0]
    cuts = np.linspace(-1.0, 1.0, in_bins + 1)
    y = pieces.edges - centre
    if half[a] == 0.0:
        cumulative = np.repeat(_cdf(y, rest)[:, None], in_bins, axis=1)
    elif len(rest) == 0:
        x = (y / half[a])[:, None]
        cumulative = np.clip((x - cuts[:-1]) / np.diff(cuts), 0.0, 1.0)
    else:
        cumulative = _averaged(y, half[a], rest, cuts[:-1], cuts[1:])
    everything = np.ones((1, in_bins))
    return _spread(np.concatenate((cumulative, everything)), pieces) / in_bins


def fraction_below(terms: list[Fraction], y: Fraction) -> Fraction:
    """P(sum of terms * U(-1, 1) <= y), without rounding: the inclusion-exclusion of the cube."""
    n = len(terms)
    total = Fraction(0)
    for signs in itertools.product((1, -1), repeat=n):
        corner = y + sum(s * t for s, t in zip(signs, terms, strict=True))
        if corner > 0:
            total += math.prod(signs) * corner**n
    return total / (math.factorial(n) * math.prod(2 * t for t in terms))


def fraction_joint(
    weights: np.ndarray, bias: float, in_range: tuple, in_bins: int, pieces: Pieces, a: int
) -> np.ndarray:
    """In exact fractions: 2**fan-in terms a cell, so for a few inputs and bins."""
    low, high = Fraction(in_range[0]), Fraction(in_range[1])
    exact = [Fraction(float(w)) for w in weights]
    half = [abs(w) * (high - low) / 2 for w in exact]
    centre = Fraction(float(bias)) + sum(exact) * (low + high) / 2
    rest = [h for c, h in enumerate(half) if c != a and h]
    cumulative = np.ones((len(pieces.edges) + 1, in_bins), np.longdouble)
    for j, edge in enumerate(pieces.edges):
        for i in range(in_bins):
            middle = Fraction(2 * i + 1 - in_bins, in_bins)
            box = [half[a] / in_bins] if half[a] else []
            y = Fraction(float(edge)) - centre - half[a] * middle
            share = fraction_below(rest + box, y) if rest or box else Fraction(y > 0)
            cumulative[j, i] = np.longdouble(share.numerator) / np.longdouble(share.denominator)
    return _spread(cumulative, pieces) / in_bins


def extended_joint(
    weights: np.ndarray,
    bias: float,
    in_range: tuple,
    in_bins: int,
    pieces: Pieces,
    a: int,
    n_frequencies: int,
) -> np.ndarray:
    """As a Fourier series over the whole support, in extended precision, without a shortcut."""
    wide = np.longdouble
    low, high = wide(in_range[0]), wide(in_range[1])
    exact = np.asarray(weights).astype(wide)
    half = np.abs(exact) * (high - low) / 2
    centre = wide(bias) + exact.sum() * (low + high) / 2
    period = 2 * half.sum()
    omega = 2 * wide(np.pi) * np.arange(1, n_frequencies + 1) / period
    # longdouble's own pi: np.pi is a double.
    omega *= np.arctan(wide(1)) * 4 / wide(np.pi)
    x = np.delete(half, a)[:, None] * omega
    phi = np.prod(np.where(x == 0, 1, np.sin(x) / np.where(x == 0, 1, x)), axis=0)
    cuts = np.clip(pieces.edges.astype(wide) - centre, -period / 2, period / 2)
    cuts = np.concatenate(([-period / 2], cuts, [period / 2]))
    x_cuts = half[a] * (2 * np.arange(in_bins + 1).astype(wide) / in_bins - 1)
    joint = np.zeros((pieces.n_bins, in_bins), wide)
    for code, start, stop in zip(pieces.codes, cuts[:-1], cuts[1:], strict=True):
        if code < 0:
            continue
        for i in range(in_bins):
            # The integral of cos(omega (z - x)) over a rectangle of z and x.
            corners = [
                sign * np.cos(omega * (z - u))
                for z, u, sign in (
                    (stop, x_cuts[i + 1], -1),
                    (stop, x_cuts[i], 1),
                    (start, x_cuts[i + 1], 1),
                    (start, x_cuts[i], -1),
                )
            ]
            area = (stop - start) * (x_cuts[i + 1] - x_cuts[i])
            sums = area + 2 * (phi * -sum(corners) / omega**2).sum()
            joint[code, i] += sums / period / (2 * half[a])
    return np.maximum(joint, 0)
