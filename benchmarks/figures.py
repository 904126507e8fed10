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
STEADY = 0.1
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


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two calls timed in turn: median times of one call in seconds, and the median ratio."""

    ours: float
    theirs: float
    ratio: float


def pairs_of(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> Pair:
    """Time two calls in turn, after one call each, so that what else the machine does hits both.

    The speed of a shared machine may change within a second. So each round times ours before and
    after theirs, and the ratio is the median of the rounds' ratios.
    """
    ours()
    theirs()
    rounds = []
    for _ in range(repeats):
        before, other, after = steady(ours), steady(theirs), steady(ours)
        rounds.append(((before + after) / 2, other))
    return Pair(
        ours=statistics.median(mine for mine, _ in rounds),
        theirs=statistics.median(other for _, other in rounds),
        ratio=statistics.median(other / mine for mine, other in rounds),
    )


def steady(function: Callable[[], Any]) -> float:
    """Return the mean time of a call, in seconds, over calls that fill ``STEADY`` together.

    A call of milliseconds that is timed once, after another program's second of work, shows how
    long caches take to fill and a sleeping core to wake, which are nobody's kernel.
    """
    calls, seconds = 0, 0.0
    while seconds < STEADY:
        seconds += timed(function)[0]
        calls += 1
    return seconds / calls


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    # Frozen, what PyTorch made at import is not searched again: that takes 0.4 s, and the caches.
    gc.collect()
    gc.freeze()
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
