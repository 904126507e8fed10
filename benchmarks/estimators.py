"""Every estimator against the truth: bias and root mean square error.

    python benchmarks/estimators.py [--repeats 200]

Pairs of 64 x 64 bins, drawn from their distribution; a layer's EI_parts, whose truth is the exact
engine's; vectors, whose truth is a long run. The default estimator was chosen by this table.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from figures import RESULTS
from known import BINS, keyed, pairs, random_layer, vectors
from known import information as true_information

from onnx_ei.estimators import ESTIMATORS, information_of_counts
from onnx_ei.information import pairwise_information, vector_information


def of_pairs(repeats: int) -> list[dict]:
    """Draw counts of each joint distribution."""
    rows = []
    for n in (1_000, 10_000, 100_000):
        for name, p in pairs().items():
            rng = np.random.default_rng(n)
            found, covered = {e: [] for e in ESTIMATORS}, []
            for _ in range(repeats):
                counts = rng.multinomial(n, p.ravel()).reshape(BINS, BINS)
                covered.append(1 - np.count_nonzero(counts == 1) / n)
                for e in ESTIMATORS:
                    found[e].append(information_of_counts(counts, e)[0])
            rows.append(row(name, n, true_information(p), float(np.mean(covered)), found))
    return rows


def of_layer(repeats: int) -> list[dict]:
    """Sum the pairs of a layer, all inputs random at once."""
    layer = random_layer("10 -> 10 sigmoid, 64 bins", 10, 10, BINS, 1.0)
    truth = float(layer.parts().sum())
    bins = np.full(10, BINS)
    rows = []
    for n in (10_000, 100_000):
        found = {e: [] for e in ESTIMATORS}
        for seed in range(max(2, repeats // 10)):
            x, y = layer.codes(np.random.default_rng([n, seed]), n)
            for e in ESTIMATORS:
                found[e].append(pairwise_information(x, y, bins, bins, e).total)
        rows.append(row(f"{layer.name}: EI_parts", n, truth, float("nan"), found))
    return rows


def of_vectors(repeats: int) -> list[dict]:
    """Count the states of a layer's vectors."""
    rows = []
    for layer in vectors():
        truth, _, _ = layer.ei()
        in_bins, out_bins = (np.full(k, layer.bins) for k in reversed(layer.weights.shape))
        for n in (1_000, 10_000, 100_000, 1_000_000):
            found, covered = {e: [] for e in ESTIMATORS}, []
            for seed in range(max(2, repeats // (10 if n < 10**6 else 40))):
                x, y = layer.codes(np.random.default_rng([n, seed]), n)
                kept = np.ones(n, bool)
                keys = [keyed(end, bins, kept) for end, bins in ((x, in_bins), (y, out_bins))]
                for e in ESTIMATORS:
                    info = vector_information(*keys, kept, e)
                    found[e].append(info.bits)
                covered.append(info.coverage)
            rows.append(row(f"EI {layer.name}", n, truth, float(np.mean(covered)), found))
    return rows


def row(what: str, n: int, truth: float, coverage: float, found: dict[str, list[float]]) -> dict:
    """Print a line of the table, and return it."""
    bias = {e: float(np.mean(v)) - truth for e, v in found.items()}
    rmse = {e: float(np.sqrt(np.mean((np.array(v) - truth) ** 2))) for e, v in found.items()}
    shown = " | ".join(f"{bias[e]:+.5f} ({rmse[e]:.5f})" for e in ESTIMATORS)
    print(f"| {what} | {n:,} | {truth:.4f} | {coverage:.3f} | {shown} |", flush=True)
    return {
        "what": what, "n": n, "truth": truth, "coverage": coverage, "bias": bias, "rmse": rmse
    }  # fmt: skip


def main() -> None:
    """Run the three parts, and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    names = " | ".join(ESTIMATORS)
    print(f"bias (root mean square error), bits\n| what | N | truth | coverage | {names} |")
    print("|---" * (4 + len(ESTIMATORS)) + "|")
    rows = of_pairs(repeats) + of_layer(repeats) + of_vectors(repeats)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "estimators.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
