"""What a benchmark says: figures with their goals, as a table and as JSON."""

from __future__ import annotations

import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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

    def reaches(self, bound: float | None) -> bool:
        if bound is None:
            return True
        return self.value <= bound if self.at_most else self.value >= bound


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
    print(f"{'what':<{width}}  {'measured':>12}  {'must reach':>12}")
    fine = True
    for f in figures:
        bound = f.floor if short else f.goal
        sign = "<=" if f.at_most else ">="
        wanted = "" if bound is None else f"{sign} {bound:g} {f.unit}"
        reached = f.reaches(bound)
        fine &= reached
        mark = "" if reached else "  NOT REACHED"
        print(f"{f.what:<{width}}  {f.value:>9.4g} {f.unit:<3} {wanted:>13}{mark}")
    return fine


def write(figures: Sequence[Figure], path: Path, **more: Any) -> None:
    """Write the figures as JSON, with what they were measured on."""
    import numba
    import numpy
    import onnxruntime

    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": numba.get_num_threads(),
        },
        "versions": {m.__name__: m.__version__ for m in (numpy, numba, onnxruntime)},
        "figures": [asdict(f) for f in figures],
    }
    path.write_text(json.dumps(found | more, indent=1) + "\n", encoding="utf-8")
