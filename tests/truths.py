"""Pairwise information of small affine layers: float64 formulas and integrals, nothing of ours.

An activation's level sets come from a dense grid of its formula, bisected in float64. The inputs
(there are two at most) are integrated in closed form: of two, what is below a cut is a ramp in the
second one, and its integral is piecewise quadratic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
Formula = Callable[[Array], Array]


def sigmoid(z: Array) -> Array:
    return np.asarray(special.expit(z))


def softplus(z: Array) -> Array:
    return np.logaddexp(0, z)


FORMULAS: dict[str, Formula] = {
    "Identity": lambda z: z,
    "Sigmoid": sigmoid,
    "Tanh": np.tanh,
    "Relu": lambda z: np.maximum(z, 0),
    "LeakyRelu": lambda z: np.where(z < 0, 0.01 * z, z),
    "Clip": lambda z: np.clip(z, -1, 1),
    "Elu": lambda z: np.where(z < 0, np.expm1(z), z),
    "Softplus": softplus,
    "Gelu": lambda z: z * special.ndtr(z),
    "Silu": lambda z: z * sigmoid(z),
    "HardSwish": lambda z: z * np.clip(z / 6 + 0.5, 0, 1),
    "Mish": lambda z: z * np.tanh(softplus(z)),
    "Sin": np.sin,
    "HardSigmoid": lambda z: np.clip(0.2 * z + 0.5, 0, 1),
}


def code(y: Array, limits: tuple[float, float], bins: int) -> NDArray[np.int64]:
    low, high = limits
    # what a formula in float64 puts past an end it saturates at is rounding
    y = np.where(np.abs(y - np.clip(y, low, high)) < 1e-12, np.clip(y, low, high), y)
    codes = np.minimum(np.floor((y - low) * bins / (high - low)), bins - 1)
    return np.where((y >= low) & (y <= high), codes, -1).astype(np.int64)


def level_sets(
    formula: Formula, reach: tuple[float, float], limits: tuple[float, float], bins: int
) -> tuple[Array, NDArray[np.int64]]:
    """Cuts of the pre-activation, and the bin between each two of them."""
    z = np.linspace(*reach, 400_001)
    codes = code(formula(z), limits, bins)
    at = np.flatnonzero(codes[1:] != codes[:-1])
    a, b, before = z[at], z[at + 1], codes[at]
    for _ in range(60):
        middle = (a + b) / 2
        same = code(formula(middle), limits, bins) == before
        a, b = np.where(same, middle, a), np.where(same, b, middle)
    return b, np.concatenate([codes[:1], codes[at + 1]])


def ramp(u: Array) -> Array:
    """Integral of clip(u, 0, 1) from -infinity."""
    return np.asarray(np.where(u > 1, u - 0.5, np.clip(u, 0, 1) ** 2 / 2))


def joint(
    weight: float, rest: Any, edges: Array, codes: Any, in_range: Any, in_bins: int, bins: int
) -> Array:
    """Joint probabilities of a bin of x and a code of ``weight * x + r``, r uniform on ``rest``."""
    cells = np.linspace(*in_range, in_bins + 1)
    table = np.zeros((in_bins, bins))
    for i in range(in_bins):
        ends = np.sort(weight * cells[i : i + 2])
        # share of the bin below each cut
        width = max(ends[1] - ends[0], 1e-300)
        u = [(edges - r - ends[0]) / width for r in rest]
        below = np.clip(u[0], 0, 1)
        if rest[0] < rest[1]:
            below = (ramp(u[0]) - ramp(u[1])) * width / (rest[1] - rest[0])
            below = np.maximum.accumulate(np.clip(below, 0, 1))  # but for rounding, it is that
        mass = np.diff(np.concatenate([[0.0], below, [1.0]])) / in_bins
        for c, m in zip(codes, mass, strict=True):
            if c >= 0:
                table[i, c] += m
    return table


def bits_of(table: Array) -> float:
    """Mutual information of a joint distribution, given that the output is in range."""
    if not table.sum() > 0:
        return 0.0
    p = table / table.sum()
    product = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    some = p > 1e-15
    return float((p[some] * np.log2(p[some] / product[some])).sum())


def pairs(
    weights: Any,
    bias: Any,
    activation: str,
    *,
    in_range: tuple[float, float],
    out_range: tuple[float, float],
    bins: int,
    sweep: bool = False,
) -> tuple[Array, Array]:
    """Bits and share in range of each pair of an affine layer of one or two inputs."""
    w, b = np.asarray(weights, np.float64), np.asarray(bias, np.float64)
    low, high = in_range
    bits, kept = np.zeros(w.shape), np.zeros(w.shape)
    for a, o in np.ndindex(*w.shape):
        others = np.delete(w[:, o], a)
        alone = sweep or not others.size
        rest = sorted(b[o] + (0.0 if alone else others[0]) * np.array([low, high]))
        far = np.abs(b[o]) + np.abs(w[:, o]).sum() * max(abs(low), abs(high)) + 1e-3
        edges, codes = level_sets(FORMULAS[activation], (-far, far), out_range, bins)
        table = joint(w[a, o], rest, edges, codes, in_range, bins, bins)
        bits[a, o], kept[a, o] = bits_of(table), table.sum()
    return bits, kept
