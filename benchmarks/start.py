"""How long a fresh process takes to begin."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from figures import Figure

IRIS = Path(__file__).resolve().parent.parent / "examples" / "iris" / "iris.onnx"
SCRIPT = "from onnx_ei.cli import main; main()"


LIBRARIES = "import numba, onnx_ir, onnxruntime"


def figures(short: bool) -> Iterator[Figure]:
    """Yield seconds beside goals; a short run ratios to a process that imports libraries alone."""
    repeats = 3 if short else 7
    run = ["-c", SCRIPT, "run", str(IRIS)]
    options = ["--bins", "8", "--input-range", "0,1"]
    libraries, _ = _seconds(["-c", LIBRARIES], repeats)
    for what, goal, floor, arguments in (
        ("onnx-ei --help", 0.5, 0.6, ["-c", SCRIPT, "--help"]),
        ("import onnx_ei", 1.0, 0.2, ["-c", "import onnx_ei"]),
        ("onnx-ei run examples/iris/iris.onnx, not the first", 3.0, 2.0, run),
        ("  the same with --bins 8 --input-range 0,1", None, None, [*run, *options]),
    ):
        seconds, busy = _seconds(arguments, repeats)
        yield Figure(
            what=f"{what}, beside its libraries" if short else what,
            value=seconds / libraries if short else seconds, unit="x" if short else "s",
            goal=goal, floor=floor, at_most=True,
            detail={"seconds": seconds, "processor_seconds": busy, "libraries": libraries},
        )  # fmt: skip


def _seconds(arguments: Sequence[str], repeats: int) -> tuple[float, float]:
    """Return the median times of a new process, after one that fills every cache.

    By the clock, and of the processor: on a busy machine the second is what remains comparable.
    """
    times = []
    for _ in range(repeats + 1):
        before, started = _busy(), time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append((time.perf_counter() - started, _busy() - before))
    return statistics.median(t[0] for t in times[1:]), statistics.median(t[1] for t in times[1:])


def _busy() -> float:
    """Return the processor time of all child processes that have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system
