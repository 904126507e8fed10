"""Pairs, layers and vectors whose information is known without sampling, or all but known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from exact_cases import sigmoid

from onnx_ei._exact.pairs import exact_pairs
from onnx_ei.histogram import Keys, pack_keys

Array = NDArray[np.float64]
BINS = 64
LONG_RUN = 40_000_000
"""Samples that stand for the truth of a vector: coverage above 0.9999 in every case here."""


def information(p: Array) -> float:
    """Return the information of a joint distribution, in bits."""
    outer = p.sum(axis=1, keepdims=True) * p.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nansum(p * np.log2(p / outer)))


def shifted(shift: float, width: float) -> Array:
    """Return 64 x 64 bins: a uniform input that moves a bell of the output by ``shift`` bins."""
    x = (np.arange(BINS) + 0.5) / BINS
    away = np.arange(BINS) - 31.5 - shift * (x[:, None] - 0.5)
    p = np.exp(-0.5 * (away / width) ** 2)
    p /= p.sum(axis=1, keepdims=True)
    return np.asarray(p / p.sum())


def pairs() -> dict[str, Array]:
    """Return joint distributions of 64 x 64 bins, by name."""
    parabola = np.zeros((BINS, BINS))
    fine = (np.arange(BINS * 1000) + 0.5) / (BINS * 1000)
    np.add.at(parabola, ((fine * BINS).astype(int), (fine**2 * BINS).astype(int)), 1.0)
    return {
        "independent, both uniform": np.full((BINS, BINS), BINS**-2.0),
        "independent, wide bell": shifted(0, 12),
        "independent, narrow bell": shifted(0, 3),
        "weak, wide bell": shifted(5, 12),
        "weak, narrow bell": shifted(1, 3),
        "middling, wide bell": shifted(30, 12),
        "middling, narrow bell": shifted(5, 3),
        "strong, narrow bell": shifted(30, 3),
        "nearly a function": shifted(60, 0.5),
        "y = x^2": parabola / parabola.sum(),
    }


@dataclass(frozen=True)
class Layer:
    """A sigmoid layer on inputs in (0, 1), its outputs' bins on (0, 1)."""

    name: str
    weights: Array
    bins: int

    @property
    def n_inputs(self) -> int:
        return self.weights.shape[1]

    def codes(self, rng: np.random.Generator, n: int) -> tuple[NDArray[np.uint8], ...]:
        """Draw n samples: codes of the inputs and of the outputs, (units, n)."""
        x = rng.random((self.n_inputs, n))
        y = 1 / (1 + np.exp(-self.weights @ x))
        ends = (np.minimum((v * self.bins).astype(np.uint8), self.bins - 1) for v in (x, y))
        return tuple(np.ascontiguousarray(end) for end in ends)

    def parts(self) -> Array:
        """Return the exact information of every pair, (inputs, outputs)."""
        found = exact_pairs(
            self.weights.T,
            np.zeros(len(self.weights)),
            (0.0, 1.0),
            self.bins,
            [sigmoid(self.bins)] * len(self.weights),
            tolerance=1e-9,
        )
        return np.asarray(found.bits)

    def states(self, rng: np.random.Generator, n: int) -> Iterator[tuple[NDArray[np.int64], ...]]:
        """Draw n samples, a million at a time: numbers of the states of either vector."""
        for start in range(0, n, 10**6):
            ends = self.codes(rng, min(10**6, n - start))
            yield tuple(self._number(end) for end in ends)

    def _number(self, codes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Number the states of a vector by its codes."""
        return np.asarray(self.bins ** np.arange(len(codes)) @ codes.astype(np.int64))

    def ei(self, seed: int = 12345) -> tuple[float, float, float]:
        """Return the vectors' information by a long run of the jackknife, its error, coverage."""
        rng = np.random.default_rng(seed)
        n_y = self.bins ** len(self.weights)
        joint, counts = np.empty(0, np.int64), np.empty(0, np.int64)
        for x, y in self.states(rng, LONG_RUN):
            new, of_new = np.unique(x * n_y + y, return_counts=True)
            merged, at = np.unique(np.concatenate((joint, new)), return_inverse=True)
            total = np.bincount(at, weights=np.concatenate((counts, of_new)))
            joint, counts = merged, total.astype(np.int64)
        x, y = np.divmod(joint, n_y)
        ends = [np.unique(end, return_inverse=True)[1] for end in (x, y)]
        margins = [np.bincount(end, weights=counts) for end in ends]
        n = float(counts.sum())

        def phi(c: Array) -> Array:
            fewer = np.maximum(c - 1, 1)
            return np.where(c > 1, c * (c * np.log2(c) - (c - 1) * np.log2(fewer)), 0.0)

        outer = sum(phi(m).sum() for m in margins)
        bits = (phi(np.array([n]))[0] + phi(counts.astype(float)).sum() - outer) / n
        point = np.log2(counts * n / (margins[0][ends[0]] * margins[1][ends[1]]))
        error = np.sqrt(counts @ (point - counts @ point / n) ** 2) / n
        return float(bits), float(error), 1 - float(np.count_nonzero(counts == 1)) / n


def keyed(codes: NDArray[np.uint8], bins: NDArray[np.int64], kept: NDArray[np.bool_]) -> Keys:
    """Return the state keys of a vector's codes, (units, n)."""
    keys = Keys.empty(codes.shape[1])
    pack_keys(codes, bins, *keys, kept)
    return keys


def random_layer(name: str, n_inputs: int, n_outputs: int, bins: int, scale: float) -> Layer:
    """Return a layer of normal weights."""
    rng = np.random.default_rng(5)
    return Layer(name, rng.normal(0, scale, (n_outputs, n_inputs)), bins)


def vectors() -> list[Layer]:
    """Return layers whose vectors a long run covers."""
    return [
        random_layer("2 -> 2, 16 bins", 2, 2, 16, 2.0),
        random_layer("3 -> 3, 8 bins", 3, 3, 8, 1.0),
        random_layer("4 -> 3, 4 bins", 4, 3, 4, 1.5),
        random_layer("5 -> 5, 4 bins", 5, 5, 4, 1.0),
        random_layer("5 -> 5, 8 bins", 5, 5, 8, 0.4),
    ]
