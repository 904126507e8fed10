"""What a benchmark says: figures with their goals, as a table and as JSON."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REACHED, MISSED = "reached", "NOT REACHED"
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table.

    ``goal`` is the least that ``value`` must reach, or with ``at_most`` the most that it may be;
    None where it is shown only. ``floor`` is what the short run holds it to: far enough from the
    goal that a busy machine does not trip over it, near enough that a regression does.
    """

    what: str
    value: float
    unit: str
    goal: float | None = None
    floor: float | None = None
    at_most: bool = False
    detail: dict[str, Any] = field(default_factory=dict)

    def verdict(self, short: bool) -> str:
        """Say whether the goal is reached, in a short run the floor; "" where there is none."""
        bound = self.floor if short else self.goal
        if bound is None:
            return ""
        fine = self.value <= bound if self.at_most else self.value >= bound
        return REACHED if fine else MISSED


def best_of(function: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call, in seconds, after one call that warms up."""
    function()
    return statistics.median(timed(function)[0] for _ in range(repeats))


def pairs_of(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> tuple[float, float]:
    """Return the median times of two calls, in seconds, timed in turn after one call each.

    In turn, so that what else the machine does falls on both.
    """
    ours()
    theirs()
    times = [(timed(ours)[0], timed(theirs)[0]) for _ in range(repeats)]
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def show(figures: Sequence[Figure], *, short: bool) -> bool:
    """Print the table; say whether every figure reaches its goal, in a short run its floor."""
    width = max(len(f.what) for f in figures)
    print(f"{'what':<{width}}  {'floor' if short else 'goal':>12}  {'reached':>12}  verdict")
    for f in figures:
        bound = f.floor if short else f.goal
        wanted = "" if bound is None else f"{'<=' if f.at_most else '>='} {bound:g} {f.unit}"
        print(f"{f.what:<{width}}  {wanted:>12}  {f.value:>8.4g} {f.unit:<3}  {f.verdict(short)}")
    return all(f.verdict(short) != MISSED for f in figures)


def write(figures: Sequence[Figure], path: Path, *, short: bool = False, **more: Any) -> None:
    """Write the figures as JSON, with their verdicts and what they were measured on."""
    import numba
    import numpy
    import onnxruntime

    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "threads": numba.get_num_threads(),
        },
        "versions": {m.__name__: m.__version__ for m in (numpy, numba, onnxruntime)},
        "short": short,
        "figures": [asdict(f) | {"verdict": f.verdict(short)} for f in figures],
    }
    path.write_text(json.dumps(found | more, indent=1) + "\n", encoding="utf-8")
