"""Figures of speed, growth, start-up and memory, in one run, with what each must reach.

    python benchmarks/bench.py [--short] [--only speed,start] [--out FILE.json]

Prints a table (what, goal, reached, verdict) and writes it as JSON, to benchmarks/results. Exits
with 1 where a figure misses its goal. With --short, which leaves out what takes minutes, every
figure is a ratio, and is held to a floor below its goal: it fails on a regression, not on a slow
machine. On a busy one ratios wander too: the goals are for a quiet one.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from figures import RESULTS, Figure, show, write

PARTS = ("speed", "scaling", "start", "peak_memory", "whole_model")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--short", action="store_true", help="minutes instead of an hour")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--out", type=Path, help="results/bench.json, short: bench-short.json")
    chosen = parser.parse_args()
    out = chosen.out or RESULTS / ("bench-short.json" if chosen.short else "bench.json")
    found: list[Figure] = []
    for part in chosen.only.split(","):
        for figure in importlib.import_module(part).figures(chosen.short):
            print(f"{figure.what}: {figure.value:.4g} {figure.unit}", file=sys.stderr, flush=True)
            found.append(figure)
    fine = show(found, short=chosen.short)
    write(found, out, short=chosen.short)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
