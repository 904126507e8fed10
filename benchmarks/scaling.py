"""How the time of a measure grows: with samples, with pairs, with threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from figures import Figure, best_of, pairs_of
from peer import Layer

from onnx_ei.information import pairwise_information


def figures(short: bool) -> Iterator[Figure]:
    """Yield the exponents of growth, and the gain of a second thread."""
    repeats = 3 if short else 5
    layer = Layer(64, 64)
    samples = [50_000, 100_000, 200_000, 400_000]
    times = [
        best_of(
            lambda n=n: layer.call("ei_parts_matrix", samples=n, in_bins=8, out_bins=8), repeats
        )
        for n in samples
    ]
    yield _exponent("samples", samples, times)
    sides = [32, 64, 128, 256]
    layers = {side: Layer(side, side) for side in sides}
    times = [
        best_of(lambda at=layers[side]: at.call("ei_parts_matrix", samples=50_000), repeats)
        for side in sides
    ]
    yield _exponent("pairs", [side * side for side in sides], times)
    threads = 2
    while threads <= numba.config.NUMBA_NUM_THREADS:
        yield _threads(threads, repeats)
        threads *= 2


def _exponent(of: str, sizes: list[int], times: list[float]) -> Figure:
    """Fit time = c size^e; linear is e = 1, and less where a constant part still shows."""
    exponent = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
    return Figure(
        what=f"time grows like {of} to the power of", value=exponent, unit="", goal=1.1, floor=1.25,
        at_most=True, detail={of: sizes, "seconds": times},
    )  # fmt: skip


def _threads(threads: int, repeats: int) -> Figure:
    """Time counting on so many threads beside one; the goal is for two."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 64, (64, 100_000)).astype(np.uint8) for _ in range(2))
    bins = np.full(64, 64)

    def on(number: int) -> Any:
        numba.set_num_threads(number)
        try:
            return pairwise_information(x, y, bins, bins)
        finally:
            numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)

    # many rounds: where processors share a core, one thread alone is as fast as its neighbour lets
    # it be, and the ratio wanders between 1.3 and 2
    pair = pairs_of(lambda: on(threads), lambda: on(1), 6 * repeats)
    held = {"goal": 1.7, "floor": 1.3} if threads == 2 else {}
    return Figure(
        what=f"pairwise counting, {threads} threads beside 1",
        value=pair.ratio, unit="x", detail={"one": pair.theirs, "many": pair.ours}, **held,
    )  # fmt: skip
