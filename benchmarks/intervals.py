"""How often the 95 % intervals hold the truth: between 92 % and 98 % of 500 seeded repeats.

    python benchmarks/intervals.py [--repeats 500]

By the default estimator: pairs from independent to nearly a function, sums over layers, vectors,
groups of units, and phi, whose two terms share their samples. Exits with 1 where a share is
outside, for cases whose coverage of the joint states is above 0.95.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import numpy as np
from figures import RESULTS
from known import BINS, Layer, keyed, pairs, random_layer, vectors
from known import information as true_information

from onnx_ei.estimators import information_of_counts
from onnx_ei.information import pairwise_information, vector_information

Z = 1.959964
Draw = Callable[[int], tuple[float, float, float]]
"""From a seed to an estimate, its standard error, and the coverage of its states."""


def of_pair(p: np.ndarray, n: int) -> Draw:
    """Return what draws counts of a joint distribution."""

    def draw(seed: int) -> tuple[float, float, float]:
        rng = np.random.default_rng([n, seed])
        counts = rng.multinomial(n, p.ravel()).reshape(p.shape)
        return *information_of_counts(counts), 1 - np.count_nonzero(counts == 1) / n

    return draw


def of_sum(layer: Layer, n: int) -> Draw:
    """Return what draws the EI_parts of a layer."""
    in_bins, out_bins = (np.full(k, layer.bins) for k in reversed(layer.weights.shape))

    def draw(seed: int) -> tuple[float, float, float]:
        x, y = layer.codes(np.random.default_rng([n, seed]), n)
        found = pairwise_information(x, y, in_bins, out_bins)
        # of a pair that is like the others: counting them all again takes longer than they did
        cells = np.bincount(x[0].astype(int) * layer.bins + y[0])
        return found.total, found.total_stderr, 1 - np.count_nonzero(cells == 1) / n

    return draw


def of_vectors(layer: Layer, n: int, *, phi: bool = False) -> Draw:
    """Return what draws the EI of a layer, or its phi."""
    in_bins, out_bins = (np.full(k, layer.bins) for k in reversed(layer.weights.shape))

    def draw(seed: int) -> tuple[float, float, float]:
        x, y = layer.codes(np.random.default_rng([n, seed]), n)
        kept = np.ones(n, bool)
        keys = [keyed(end, bins, kept) for end, bins in ((x, in_bins), (y, out_bins))]
        found = vector_information(*keys, kept)
        if not phi:
            return found.bits, found.stderr, found.coverage
        parts = pairwise_information(x, y, in_bins, out_bins)
        stderr = (found.influence - parts.influence).stderr
        return found.bits - parts.total, stderr, found.coverage

    return draw


def cases() -> list[tuple[str, int, float, Draw]]:
    """Return every case: what, samples, truth, draw."""
    listed = [
        (f"pair: {name}", n, true_information(p), of_pair(p, n))
        for n in (10_000, 100_000)
        for name, p in pairs().items()
    ]
    layers = [
        random_layer("10 -> 10, 64 bins", 10, 10, BINS, 1.0),
        random_layer("30 -> 4, 16 bins", 30, 4, 16, 0.5),
        random_layer("4 -> 3, 8 bins", 4, 3, 8, 2.0),
    ]
    for layer in layers:
        truth = float(layer.parts().sum())
        listed += [(f"EI_parts {layer.name}", n, truth, of_sum(layer, n)) for n in (10_000, 50_000)]
    for layer in vectors():
        truth, parts = layer.ei()[0], float(layer.parts().sum())
        for n in (3_000, 10_000, 30_000, 100_000, 300_000):
            listed.append((f"EI {layer.name}", n, truth, of_vectors(layer, n)))
        listed.append(
            (f"phi {layer.name}", 100_000, truth - parts, of_vectors(layer, 100_000, phi=True))
        )
    return listed


def main() -> None:
    """Count how often each interval holds the truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=500)
    repeats = parser.parse_args().repeats
    print("| what | N | truth | coverage | bias | scatter | mean error | intervals that hold it |")
    print("|---|---|---|---|---|---|---|---|")
    rows, outside = [], 0
    for what, n, truth, draw in cases():
        found = np.array([draw(seed) for seed in range(repeats if n < 300_000 else repeats // 2)])
        held = float(np.mean(np.abs(found[:, 0] - truth) <= Z * found[:, 1]))
        coverage = float(found[:, 2].mean())
        # a share of 500 repeats has a standard error of 1 %
        fine = 0.92 <= held <= 0.98 or coverage <= 0.95
        outside += not fine
        bias, scatter = found[:, 0].mean() - truth, found[:, 0].std(ddof=1)
        mark = "" if fine else " outside"
        if coverage <= 0.95:
            mark = " (undersampled)"
        print(
            f"| {what} | {n:,} | {truth:.4f} | {coverage:.3f} | {bias:+.5f} | {scatter:.5f} | "
            f"{found[:, 1].mean():.5f} | {held:.1%}{mark} |",
            flush=True,
        )
        rows.append({"what": what, "n": n, "truth": truth, "coverage": coverage, "held": held})
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "intervals.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{outside} outside 92 % to 98 %")
    sys.exit(1 if outside else 0)


if __name__ == "__main__":
    main()
