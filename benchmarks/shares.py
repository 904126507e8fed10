"""Where the time of three typical jobs goes: shares of processor time, by what it is spent on.

    python benchmarks/shares.py [MODEL.onnx]

The jobs are those of costs.py. Every step is timed by the processor's time of its own thread, which
other programs do not change; counting over all threads by that of the process. What none of the
steps took is Python between them.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from costs import MEASURED, SAMPLES, jobs

import onnx_ei
from onnx_ei import exact, sampling
from onnx_ei._sampling import stores, sweeping
from onnx_ei._sampling.source import Source

#: Where a step is called from, its name there, what it is, and the clock that sees all of it.
STEPS = (
    (Source, "noise", "noise", time.thread_time),
    (Source, "run", "model", time.thread_time),
    (sampling, "binned", "binning", time.thread_time),
    (sampling, "binned_outputs", "binning", time.thread_time),
    (stores, "pack_keys", "keys", time.thread_time),
    (sampling, "pairwise_information", "counting", time.process_time),
    (stores, "vector_information", "counting", time.process_time),
    (sweeping, "binned", "binning", time.thread_time),
    (sweeping, "_bin_values", "binning", time.thread_time),
    (sweeping, "_sweep", "counting", time.thread_time),
    (exact, "exact_of", "finding the weights", time.process_time),
)


@contextmanager
def stopwatch(spent: dict[str, float]) -> Iterator[None]:
    """Time every step while the context lasts."""
    lock, before = threading.Lock(), []

    def timed(function: Callable[..., Any], what: str, clock: Callable[[], float]) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            started = clock()
            try:
                return function(*arguments, **options)
            finally:
                with lock:
                    spent[what] = spent.get(what, 0.0) + clock() - started

        return call

    for owner, name, what, clock in STEPS:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, timed(getattr(owner, name), what, clock))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def main() -> None:
    shown = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    for name, topology, layers in jobs(shown[0] if shown else None):
        for measure in MEASURED:
            for method in ("sample",) if measure == "ei" else ("sample", "exact"):
                samples = SAMPLES if measure != "sensitivity" else SAMPLES // 10
                options = {"samples": samples} if method == "sample" else {}
                print(f"{name:<22} {measure:<12} {method:<7}", end=" ")
                print(shares(topology, layers, measure, method=method, **options))


def shares(topology: Any, layers: list[Any], measure: str, **options: Any) -> str:
    """Measure layers twice, the second time with the stopwatch."""
    spent: dict[str, float] = {}
    total = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in layers:
            try:
                onnx_ei.measure(measure, layer, topology, **options)
            except onnx_ei.OnnxEiError:
                continue  # no exact form
            with stopwatch(spent):
                started = time.process_time()
                onnx_ei.measure(measure, layer, topology, **options)
                total += time.process_time() - started
    if options["method"] == "exact":
        spent["computing"] = total - sum(spent.values())
    spent["Python"] = max(total - sum(spent.values()), 0.0)
    return ", ".join(f"{what} {s / total:.0%}" for what, s in spent.items() if s > 0.005 * total)


if __name__ == "__main__":
    main()
