"""Output pieces and random layers for the tests and the benchmarks of the exact engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from quadrature import bits, extended_joint, fraction_joint
from scipy.optimize import brentq
from scipy.special import erf, expit, logit

from onnx_ei._exact.pieces import Pieces


def sigmoid(n_bins: int) -> Pieces:
    """Bins of a sigmoid on (0, 1): each holds something."""
    codes = np.arange(n_bins)
    return Pieces(edges=logit(np.arange(1, n_bins) / n_bins), codes=codes, n_bins=n_bins)


def identity(n_bins: int, low: float, high: float) -> Pieces:
    """Bins of an identity, out of range on either side."""
    codes = np.r_[-1, np.arange(n_bins), -1]
    return Pieces(edges=np.linspace(low, high, n_bins + 1), codes=codes, n_bins=n_bins)


def relu(n_bins: int, high: float) -> Pieces:
    """Bins of a ReLU on (0, high): an atom in the first, out of range above."""
    edges = high * np.arange(1, n_bins + 1) / n_bins
    return Pieces(edges=edges, codes=np.r_[np.arange(n_bins), -1], n_bins=n_bins)


def clip(n_bins: int, low: float, high: float) -> Pieces:
    """Bins of a Clip: flat below and above, with an edge in the flat part that changes nothing."""
    edges = low + (high - low) * np.arange(1, n_bins) / n_bins
    codes = np.r_[0, np.arange(n_bins)]
    return Pieces(edges=np.r_[edges[0] - 1.0, edges], codes=codes, n_bins=n_bins)


def curve(function: Callable[[float], float], n_bins: int, low: float, high: float) -> Pieces:
    """Bins of any smooth function, by searching a fine grid for where it crosses their edges."""
    grid = np.linspace(-12.0, 12.0, 4001)
    values = np.array([function(x) for x in grid])
    crossings = set()
    for level in np.linspace(low, high, n_bins + 1):
        for i in np.flatnonzero(np.diff(np.sign(values - level))):
            crossings.add(brentq(lambda x, at=level: function(x) - at, grid[i], grid[i + 1]))
    edges = np.array(sorted(crossings))
    inside = np.r_[-12.0, 0.5 * (edges[1:] + edges[:-1]), 12.0] if edges.size else [0.0]
    places = [(function(x) - low) / (high - low) * n_bins for x in inside]
    codes = [int(p) if 0 <= p < n_bins else -1 for p in places]
    return Pieces(edges=edges, codes=codes, n_bins=n_bins)


def gelu(x: float) -> float:
    return 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))


def silu(x: float) -> float:
    return x * expit(x)


class Layer(NamedTuple):
    """One output unit, and the input to measure it with."""

    weights: np.ndarray
    bias: float
    in_range: tuple[float, float]
    in_bins: int
    pieces: Pieces
    a: int


def random_layer(rng: np.random.Generator) -> Layer:
    """Few and many inputs, of one scale and of many, with and without zeros and duplicates."""
    fan_in = int(rng.choice([1, 2, 3, 4, 5, 6, 8, 12, 20, 50, 200]))
    kind = rng.integers(6)
    if kind in (1, 2):
        # Truths of many scales take 2**fan-in fractions a cell.
        fan_in = min(fan_in, 5)
    weights = (
        lambda: rng.normal(size=fan_in),
        lambda: rng.uniform(-1, 1, fan_in) * 10.0 ** rng.uniform(-5, 1, fan_in),
        lambda: 10.0 ** -np.arange(fan_in) * rng.choice([1.0, -1.0], fan_in),
        lambda: rng.choice([1.0, -1.0, 0.5, 0.0], fan_in),
        lambda: np.r_[1.0, rng.normal(size=fan_in - 1) * 0.05],
        lambda: np.full(fan_in, 0.3),
    )[kind]() * 10.0 ** rng.uniform(-1, 1)
    low = rng.uniform(-2, 1)
    in_range = (low, low + 10.0 ** rng.uniform(-0.5, 0.5))
    in_bins, n_bins = (int(n) for n in rng.integers(2, 9, 2))
    bias = float(rng.normal())
    spread = np.sqrt((weights**2).sum() / 12) * (in_range[1] - in_range[0]) + 1e-9
    n_edges = int(rng.choice([1, n_bins, 2 * n_bins]))
    edges = np.sort(rng.normal(size=n_edges)) * spread + bias + weights.sum() * sum(in_range) / 2
    codes = rng.integers(-1, n_bins, n_edges + 1)
    pieces = Pieces(edges=edges, codes=codes, n_bins=n_bins)
    return Layer(weights, bias, in_range, in_bins, pieces, int(rng.integers(fan_in)))


def truth(layer: Layer, n_frequencies: int = 1500) -> tuple[float, float]:
    """The bits of a layer's pair and its share in range, from the source that fits its fan-in."""
    fan_in = np.count_nonzero(layer.weights)
    # Not by quadrature, which rounds in doubles: a weight of 1e-4 beside a bias of 1 costs 1e-12.
    if fan_in <= 6:
        joint = fraction_joint(*layer)
    elif layer.weights[layer.a] == 0.0:
        other = layer._replace(a=int(np.abs(layer.weights).argmax()))
        return 0.0, truth(other, n_frequencies)[1]
    else:
        joint = extended_joint(*layer, n_frequencies)
    return bits(joint), float(joint.sum())
