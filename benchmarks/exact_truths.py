"""The exact engine against independent truths: 1,000 random layers, and counts of 1e8 samples.

    python benchmarks/exact_truths.py [--layers 1000] [--samples 100000000]

Exits with 1 where a bound does not hold, or a count is more than five standard errors away.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from exact_cases import random_layer, sigmoid, truth

from onnx_ei._exact.pairs import exact_pairs

CHUNK = 10**6
BINS = 64


@numba.njit(cache=True, nogil=True, error_model="numpy")
def mix(words: np.ndarray, first: int) -> None:
    """Fill with splitmix64's outputs for the counters from ``first`` on."""
    for i in range(words.size):
        x = (np.uint64(first) + np.uint64(i)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        words[i] = x ^ (x >> np.uint64(31))


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def dot(draws: np.ndarray, weights: np.ndarray) -> float:
    total = np.float32(0.0)
    wide = 0.0
    for start in range(0, weights.size, 64):
        # Sums of 64 in single precision, of those in double: 1e-7 of the spread.
        total = np.float32(0.0)
        for c in range(start, min(start + 64, weights.size)):
            total += np.float32(draws[c]) * weights[c]
        wide += total
    return wide


@numba.njit(cache=True, nogil=True, error_model="numpy")
def count(
    first: int, n: int, weights: np.ndarray, offset: float, edges: np.ndarray, watched: np.ndarray
) -> np.ndarray:
    """Count the bins of two inputs with the codes of the output, four 16-bit inputs a word.

    A uniform of 65,536 values differs from a continuous one by 1e-10 of its variance.
    """
    tables = np.zeros((watched.size, 64, edges.size + 1), np.int64)
    n_words = (weights.size + 3) // 4
    words = np.empty(n_words, np.uint64)
    draws = words.view(np.uint16)
    for s in range(first, first + n):
        mix(words, s * n_words)
        z = dot(draws, weights) + offset
        low, high = 0, edges.size
        while low < high:
            middle = (low + high) // 2
            if edges[middle] <= z:
                low = middle + 1
            else:
                high = middle
        for k in range(watched.size):
            tables[k, draws[watched[k]] >> 10, low] += 1
    return tables


def estimate(table: np.ndarray) -> tuple[float, float]:
    """Bits by Miller and Madow's correction, and their standard error."""
    n = table.sum()
    p = table / n
    outer = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    held = table > 0
    ratio = np.log2(p[held] / outer[held])
    plain = float((p[held] * ratio).sum())
    spread = float((p[held] * ratio**2).sum()) - plain**2
    cells = np.count_nonzero(held)
    extra = cells - np.count_nonzero(p.sum(axis=1)) - np.count_nonzero(p.sum(axis=0)) + 1
    return plain - extra / (2 * n * math.log(2)), math.sqrt(spread / n)


def against_counts(fan_in: int, n_samples: int) -> bool:
    rng = np.random.default_rng(fan_in)
    weights = rng.normal(size=fan_in) * 6.0 / math.sqrt(fan_in)
    order = np.argsort(np.abs(weights))
    watched = order[[-1, fan_in // 2]]
    # x = (draw + 1/2) / 65536, in single precision: the engine gets the same rounded weights.
    scaled = (weights / 65536.0).astype(np.float32)
    weights = scaled.astype(np.float64) * 65536.0
    bias = -0.5 * float(weights.sum()) + 0.3
    offset = bias + 0.5 * float(scaled.astype(np.float64).sum())
    edges = sigmoid(BINS).edges
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(
            lambda first: count(
                first, min(CHUNK, n_samples - first), scaled, offset, edges, watched
            ),
            range(0, n_samples, CHUNK),
        )
        tables = sum(parts)
    seconds = time.perf_counter() - start
    fine = True
    for n_bins in (64, 8):
        exact = exact_pairs(
            weights[:, None], np.array([bias]), (0.0, 1.0), n_bins, [sigmoid(n_bins)]
        )
        for a, table in zip(watched, tables, strict=True):
            folded = table.reshape(n_bins, BINS // n_bins, n_bins, BINS // n_bins).sum(axis=(1, 3))
            value, error = estimate(folded)
            found, bound = exact.bits[a, 0], exact.bound[a, 0]
            away = abs(value - found) / error
            fine &= away < 5.0
            print(
                f"| {fan_in} | {n_bins} | {weights[a]:.3f} | {found:.8f} | {bound:.0e} "
                f"| {value:.8f} | {error:.1e} | {away:.1f} | {seconds:.0f} |",
                flush=True,
            )
    return fine


def against_truths(n_layers: int) -> bool:
    broken, ratios, errors, reached = 0, [], [], 0
    tolerances = (1e-4, 1e-6, 1e-8)
    for seed in range(n_layers):
        layer = random_layer(np.random.default_rng([7, seed]))
        weights, bias, in_range, in_bins, pieces, a = layer
        tolerance = tolerances[seed % 3]
        found = exact_pairs(
            weights[:, None], np.array([bias]), in_range, in_bins, [pieces], tolerance=tolerance
        )
        expected, _ = truth(layer)
        error, bound = abs(found.bits[a, 0] - expected), found.bound[a, 0]
        # The truth is rounded too.
        if error > bound + 1e-14:
            broken += 1
            print(f"seed {seed}: error {error:.2e}, bound {bound:.2e}")
        reached += bound <= tolerance
        errors.append(error / tolerance)
        ratios.append(error / max(bound, 1e-14))
    print(
        f"{n_layers} random layers: {broken} bounds broken; {reached} within the tolerance; "
        f"largest error {max(errors):.2f} of the tolerance, {max(ratios):.2f} of the bound; "
        f"median error {np.median(ratios):.1e} of the bound"
    )
    return not broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--layers", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=10**8)
    chosen = parser.parse_args()
    fine = against_truths(chosen.layers)
    print("| fan-in | bins | weight | exact | bound | counted | standard error | away | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for fan_in in (10, 100, 784):
        fine &= against_counts(fan_in, chosen.samples)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
