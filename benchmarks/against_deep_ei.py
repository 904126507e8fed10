"""EI_parts of one layer, by deep_ei, by sampling and exactly: how wrong, and how long.

    python benchmarks/against_deep_ei.py [--repeats 5] [--out FILE.json]

A 10 -> 10 sigmoid layer at 64 bins. The truth is the exact engine's value, whose error is below the
bound that it returns with it. deep_ei runs at the batch size at which it is fastest, sampling at
its default estimator; each as often as ``--repeats`` says, with another seed every time, and the
mean of the absolute errors is shown. A run that cannot tell them apart exits with 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from figures import RESULTS, Figure, best_of, timed, write
from peer import Layer

UNITS, BINS = 10, 64
SAMPLES = (10_000, 100_000, 1_000_000)


def measured(layer: Layer, **options: Any) -> Any:
    """Measure EI_parts with everything that is known of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return layer.ours.measure(
            "ei_parts", "fc", layer.topology,
            in_range=(0, 1), in_bins=BINS, out_bins=BINS, **options,
        )  # fmt: skip


def exactly(layer: Layer) -> tuple[Any, float]:
    """Return the exact measurement, and the median time of one."""
    return measured(layer, method="exact"), best_of(lambda: measured(layer, method="exact"), 7)


def sampled(layer: Layer, n: int, truth: float, repeats: int) -> dict[str, Any]:
    """Return errors and times of sampling."""
    found = [timed(lambda s=s: measured(layer, method="sample", samples=n, seed=s))
             for s in range(repeats)]  # fmt: skip
    return _summary("onnx_ei, sampled", n, truth, [float(m.value) for _, m in found], [
        t for t, _ in found
    ]) | {
        "estimator": found[0][1].estimator,
        "stderr": statistics.fmean(float(m.stderr) for _, m in found),
    }  # fmt: skip


def peer(layer: Layer, n: int, truth: float, repeats: int) -> dict[str, Any]:
    """Return errors and times of deep_ei."""
    import torch

    options = {"samples": n, "in_bins": BINS, "out_bins": BINS}
    size = layer.best_batch("ei_parts", **options)
    found = []
    for seed in range(repeats):
        torch.manual_seed(seed)
        found.append(timed(lambda: layer.peer("ei_parts", batch_size=size, **options)))
    values, times = [float(v) for _, v in found], [t for t, _ in found]
    return _summary("deep_ei", n, truth, values, times) | {
        "estimator": "plugin", "batch_size": size,
    }  # fmt: skip


def _summary(
    by: str, n: int, truth: float, values: list[float], times: list[float]
) -> dict[str, Any]:
    errors = np.array(values) - truth
    return {
        "by": by, "samples": n, "bits": statistics.fmean(values),
        "error": float(np.abs(errors).mean()), "values": values,
        "seconds": statistics.median(times),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--repeats", type=int, default=5, help="seeds for each number of samples")
    parser.add_argument("--out", type=Path, default=RESULTS / "against_deep_ei.json")
    chosen = parser.parse_args()

    layer = Layer(UNITS, UNITS)
    exact, seconds = exactly(layer)
    truth, bound = float(exact.value), float(exact.stderr)
    measured(layer, method="sample", samples=1000)  # compiled before it is timed
    rows: list[dict[str, Any]] = []
    for n in SAMPLES:
        rows.append(peer(layer, n, truth, chosen.repeats))
        rows.append(sampled(layer, n, truth, chosen.repeats))
        print(f"{n} samples done", file=sys.stderr, flush=True)
    rows.append({"by": "onnx_ei, exact", "samples": 0, "bits": truth, "error": bound,
                 "estimator": exact.estimator, "seconds": seconds})  # fmt: skip
    table(rows, chosen.repeats)
    figures = [
        Figure(
            what=f"|error| of EI_parts, {row['by']}, {row['samples']} samples",
            value=row["error"], unit="bit", at_most=True, detail=row,
        )
        for row in rows
    ]  # fmt: skip
    write(figures, chosen.out, truth=truth, bound=bound, repeats=chosen.repeats)
    errors = [row["error"] for row in rows]
    return 0 if all(b < a for a, b in zip(errors[:-1:2], errors[1::2], strict=True)) else 1


def table(rows: list[dict[str, Any]], repeats: int) -> None:
    """Print the rows as a Markdown table."""
    print(f"EI_parts, {UNITS} -> {UNITS} sigmoid, {BINS} bins; means of {repeats} seeds, in bits\n")
    print("| by | samples | estimator | found | mean abs. error | standard error | time |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for row in rows:
        exact = row["samples"] == 0
        error = f"< {row['error']:.1e}" if exact else f"{row['error']:.4f}"
        stderr = f"{row['stderr']:.4f}" if "stderr" in row else "a bound" if exact else "none"
        estimator = "none" if exact else row["estimator"]
        print(f"| {row['by']} | {row['samples'] or 'none'} | {estimator} | {row['bits']:.4f} "
              f"| {error} | {stderr} | {1000 * row['seconds']:.1f} ms |")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
