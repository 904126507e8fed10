"""How long a fresh process takes to begin, in seconds, and beside a bare Python."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from figures import Figure

IRIS = Path(__file__).resolve().parent.parent / "examples" / "iris" / "iris.onnx"
SCRIPT = "from onnx_ei.cli import main; main()"


def figures(short: bool) -> Iterator[Figure]:
    """Yield the start-up figures."""
    repeats = 3 if short else 7
    bare = _seconds(["-c", "pass"], repeats)
    run = ["-c", SCRIPT, "run", str(IRIS)]
    options = ["--bins", "8", "--input-range", "0,1"]
    for what, goal, arguments in (
        ("onnx-ei --help", 0.5, ["-c", SCRIPT, "--help"]),
        ("import onnx_ei", 1.0, ["-c", "import onnx_ei"]),
        ("onnx-ei run examples/iris/iris.onnx, not the first", 3.0, run),
        ("  the same with --bins 8 --input-range 0,1", None, [*run, *options]),
    ):
        seconds = _seconds(arguments, repeats)
        yield Figure(
            what=what, value=seconds, unit="s", goal=goal, floor=goal and 4 * goal, at_most=True,
            detail={"bare_python_seconds": bare, "ratio": seconds / bare},
        )  # fmt: skip


def _seconds(arguments: Sequence[str], repeats: int) -> float:
    """Return the median time of a new process, after one that fills every cache."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
