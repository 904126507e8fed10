"""Figures of speed, growth and start-up, in one run, with what it must reach.

    python benchmarks/bench.py [--short] [--only speed,start] [--out FILE.json]

Prints a table and writes it as JSON (benchmarks/results/bench.json). Exits with 1 where a figure
misses its goal; with --short, which leaves out what takes minutes, where it misses its floor. On a
busy machine ratios wander too: the goals are for a quiet one.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from figures import RESULTS, Figure, show, write

PARTS = ("speed", "scaling", "start")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--short", action="store_true", help="minutes instead of an hour")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench.json")
    chosen = parser.parse_args()
    found: list[Figure] = []
    for part in chosen.only.split(","):
        for figure in importlib.import_module(part).figures(chosen.short):
            print(f"{figure.what}: {figure.value:.4g} {figure.unit}", file=sys.stderr, flush=True)
            found.append(figure)
    fine = show(found, short=chosen.short)
    write(found, chosen.out, short=chosen.short)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
