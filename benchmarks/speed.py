"""Speed beside deep_ei 0.7.0 at its best batch size, and beside the bare counting loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numba
import numpy as np
from figures import Figure, pairs_of, timed
from peer import BATCH_SIZES, Layer

from onnx_ei.information import pairwise_information

REPEATS = 5
# deep_ei's best of BATCH_SIZES on most layers, taken untried in a short run.
USUAL = (10_000,)


def figures(short: bool) -> Iterator[Figure]:
    """Yield every speed figure; a short run times once, and leaves out what takes minutes."""
    sizes, repeats = (USUAL, 1) if short else (BATCH_SIZES, REPEATS)
    yield from counting(64, 40, sizes, repeats)
    yield from counting(8, 60, sizes, repeats)
    yield from vectors(sizes, repeats)
    yield from sensitivity(sizes, repeats)
    if not short:
        yield time_to_truth()


def _ratio(
    what: str,
    goal: float,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    repeats: int,
    **detail: Any,
) -> Figure:
    pair = pairs_of(ours, theirs, repeats)
    return Figure(
        what=what, value=pair.ratio, unit="x", goal=goal, floor=goal / 2,
        detail={"seconds": pair.ours, "deep_ei_seconds": pair.theirs} | detail,
    )  # fmt: skip


def counting(bins: int, goal: float, sizes: Sequence[int], repeats: int) -> Iterator[Figure]:
    """ei_parts_matrix end to end, and its counting beside the roofline."""
    layer, n = Layer(64, 64), 100_000
    options: dict[str, Any] = {"samples": n, "in_bins": bins, "out_bins": bins}
    size = layer.best_batch("ei_parts_matrix", sizes, **options)
    yield _ratio(
        f"ei_parts_matrix, 64 -> 64, {bins} bins, 1e5 samples", goal,
        lambda: layer.call("ei_parts_matrix", **options),
        lambda: layer.peer("ei_parts_matrix", batch_size=size, **options),
        repeats=repeats, batch_size=size,
    )  # fmt: skip
    yield from counted(bins, n, 4 * repeats + 1)


def counted(bins: int, n: int, repeats: int) -> Iterator[Figure]:
    """Counting alone, by what three times as many samples more take, and with its bits."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, bins, (64, 4 * n)).astype(np.uint8) for _ in range(2))
    n_bins = np.full(64, bins)
    slab = np.zeros((64, (bins + 1) * (bins + 1)), np.uint32)
    codes = [(np.ascontiguousarray(x[:, :m]), np.ascontiguousarray(y[:, :m])) for m in (n, 4 * n)]
    rows = [y_some.astype(np.uint32) * np.uint32(bins + 1) for _, y_some in codes]
    calls: list[Callable[[], Any]] = [
        *(partial(pairwise_information, *some, n_bins, n_bins) for some in codes),
        *(partial(roofline, some[0], wide, slab) for some, wide in zip(codes, rows, strict=True)),
    ]
    for call in calls:
        call()
    rounds = np.array([[timed(call)[0] for call in calls] for _ in range(repeats)])
    few, many, bare_few, bare_many = rounds.T
    more = many - few
    yield Figure(
        what=f"  counting, share of the roofline, {bins} bins: what 3e5 samples more take",
        value=float(np.median((bare_many - bare_few) / more)), unit="", goal=0.8, floor=0.4,
        detail={"nanoseconds": 1e9 * float(np.median(more)) / (64 * 64 * 3 * n)},
    )  # fmt: skip
    yield Figure(
        what=f"  counting and bits with their errors, share of it, {bins} bins",
        value=float(np.median(bare_few / few)), unit="", floor=0.4,
        detail={"nanoseconds": 1e9 * float(np.median(few)) / (64 * 64 * n)},
    )  # fmt: skip


@numba.njit(nogil=True)
def _bare(x: Any, rows: Any, slab: Any) -> None:
    for s in range(x.size):
        slab[np.uint64(rows[s]) + np.uint64(x[s])] += np.uint32(1)


@numba.njit(parallel=True)
def roofline(x: Any, rows: Any, slab: Any) -> None:
    """Count the joint histogram of every pair, and do nothing with it."""
    for b in numba.prange(rows.shape[0]):
        for a in range(x.shape[0]):
            _bare(x[a], rows[b], slab[b])


def vectors(sizes: Sequence[int], repeats: int) -> Iterator[Figure]:
    """EI of whole vectors, and of 16 groups of units."""
    layer = Layer(20, 10)
    options: dict[str, Any] = {"samples": 100_000, "in_bins": 16, "out_bins": 16}
    size = layer.best_batch("ei", sizes, **options)
    yield _ratio(
        "ei, 20 -> 10, 16 bins, 1e5 samples", 60,
        lambda: layer.call("ei", **options),
        lambda: layer.peer("ei", batch_size=size, **options),
        repeats=repeats, batch_size=size,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    groups = [
        (tuple(map(int, rng.choice(20, 5, False))), tuple(map(int, rng.choice(10, 3, False))))
        for _ in range(16)
    ]
    yield _ratio(
        "eis_between_groups, 16 groups of 5 -> 3, the same layer", 60,
        lambda: layer.call("eis_between_groups", groups=groups, **options),
        lambda: layer.peer("eis_between_groups", groups, batch_size=size, **options),
        repeats=repeats, batch_size=size,
    )  # fmt: skip


def sensitivity(sizes: Sequence[int], repeats: int) -> Iterator[Figure]:
    """sensitivity_matrix, by sampling and exactly."""
    layer = Layer(64, 64)
    bins: dict[str, Any] = {"in_bins": 64, "out_bins": 64}
    sizes = (1000,) if sizes == USUAL else (100, 1000)
    size = layer.best_batch("sensitivity_matrix", sizes, samples=1000, **bins)

    def theirs() -> Any:
        return layer.peer("sensitivity_matrix", samples=1000, batch_size=size, **bins)

    yield _ratio(
        "sensitivity_matrix, 64 -> 64, 64 bins, 1000 samples", 50,
        lambda: layer.call("sensitivity_matrix", samples=1000, **bins),
        theirs, repeats, batch_size=size,
    )  # fmt: skip
    yield _ratio(
        "  the same, exact", 100,
        lambda: layer.call("sensitivity_matrix", method="exact", **bins),
        theirs, repeats, batch_size=size,
    )  # fmt: skip


def time_to_truth() -> Figure:
    """EI_parts of a 10 -> 10 layer to 1 % of the truth: by bias and scatter together, both."""
    layer = Layer(10, 10)
    truth = layer.call("ei_parts", method="exact")

    def ours(n: int, seed: int = 0) -> Any:
        return layer.call("ei_parts", samples=n, seed=seed, method="sample")

    def theirs(n: int) -> Any:
        return layer.peer("ei_parts", samples=n, batch_size=size)

    few = 1024
    while math.hypot(*(ours(few, s) / truth - 1 for s in range(1, 41))) > 0.01 * 40**0.5:
        few *= 2
    # Its error is bias, the same at every seed.
    many, found = 10_000, 0.0
    while abs(found - truth) > 0.01 * truth:
        many *= 2
        size = layer.best_batch("ei_parts", samples=many)
        found = theirs(many)
    return _ratio(
        "time to 1 % of EI_parts, 10 -> 10 sigmoid, 64 bins", 300,
        lambda: ours(few), lambda: theirs(many), REPEATS,
        samples=few, deep_ei_samples=many, bits=truth,
    )  # fmt: skip
