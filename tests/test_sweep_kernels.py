"""The kernels of one input and every output: their twins, and the pairwise kernel to the bit."""

from __future__ import annotations

from typing import Any

import naive
import numpy as np
import pytest
from test_kernels import PAIRS, assert_same, random_codes, tables_for

from onnx_ei._kernels import binning, sweep
from onnx_ei._kernels._jit import Array
from onnx_ei.estimators import ESTIMATORS
from onnx_ei.information import pairwise_information


def curve(rng: np.random.Generator, n: int, x_bins: int, y_bins: int) -> tuple[Array, Array]:
    """Codes of a number and of three functions of it: what a sweep counts."""
    u = rng.random(n)
    z = np.stack([u**2, np.sin(9 * u), 0.4 * u + 0.3])
    y = np.floor(z * y_bins)
    codes = np.where((y < 0) | (y >= y_bins), y_bins, y)
    return (u * x_bins).astype(np.uint8), codes.astype(np.uint8)


@pytest.mark.parametrize("case", sorted(PAIRS))
@pytest.mark.parametrize("estimator", ["plugin", "jackknife"])
def test_sweep_against_its_twin(case: str, estimator: str) -> None:
    n, x_bins, y_bins, dtype, drop = PAIRS[case]
    rng = np.random.default_rng(0)
    x = random_codes(rng, np.array(x_bins[:1]), n, dtype, drop)[0]
    y = random_codes(rng, np.array(y_bins), n, dtype, drop)
    blocks = np.zeros(max(1, min(n, 64)))
    results = (np.zeros((2, len(y_bins))), np.zeros(len(y_bins), np.int64), blocks)
    tables = tables_for(n, estimator)
    assert_same(sweep._sweep, naive.sweep, x, y, x_bins[0], np.array(y_bins), tables, *results)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [1, 7, 64, 1000, 5000])
@pytest.mark.parametrize("bins", [(2, 3), (8, 8), (64, 64), (200, 5)])
@pytest.mark.parametrize("kind", ["curve", "noise"])
def test_sweep_gives_the_bits_of_the_pairwise_kernel(
    estimator: str, n: int, bins: tuple[int, int], kind: str
) -> None:
    rng = np.random.default_rng(n)
    x, y = curve(rng, n, *bins)
    if kind == "noise":
        y = random_codes(rng, np.full(3, bins[1]), n, np.uint8, 0.1)
    x[rng.random(n) < 0.05] = bins[0]
    y_bins = np.full(3, bins[1])
    found = pairwise_information(x[None], y, np.array([bins[0]]), y_bins, estimator)
    bits, kept, influence = np.empty((2, 3)), np.empty(3, np.int64), np.zeros(min(n, 64))
    sweep._sweep(x, y, bins[0], y_bins, tables_for(n, estimator), bits, kept, influence)
    assert bits[0].tolist() == found.bits[0].tolist()
    assert bits[1].tolist() == found.stderr[0].tolist()
    assert kept.tolist() == found.kept[0].tolist()
    assert influence.tolist() == found.influence.sum(axis=0).tolist()


def counted(x_bins: int = 5, y_bins: int = 7, n: int = 200) -> dict[str, Any]:
    """One pair's codes, and what the parts of the kernel hand on to each other."""
    rng = np.random.default_rng(1)
    x, y = curve(rng, n, x_bins, y_bins)
    x[::17] = x_bins
    rows = x.astype(np.uint32) * np.uint32(y_bins + 1)
    slab, hits = np.zeros((x_bins + 1) * (y_bins + 1), np.uint32), np.zeros(n + 1, np.uint32)
    sweep._count_cells(rows, y[1], slab, hits)
    weights = np.full((x_bins + 1, y_bins + 1), 9.0)
    low, high = np.empty(x_bins, np.int64), np.empty(x_bins, np.int64)
    sweep._bound_cells(x, y[1], hits, np.array([x_bins, y_bins]), low, high, weights)
    return {
        "x": x, "y": y[1], "rows": rows, "slab": slab.reshape(weights.shape), "hits": hits,
        "weights": weights, "low": low, "high": high, "bins": np.array([x_bins, y_bins]),
        "tables": tables_for(n), "n_y": np.empty(y_bins, np.int64), "sums": np.zeros((2, x_bins)),
    }  # fmt: skip


@pytest.mark.parametrize("n", [1, 40, 200])
def test_count_cells(n: int) -> None:
    c = counted(n=n)
    empty, hits = np.zeros(c["slab"].size, np.uint32), np.zeros(n + 1, np.uint32)
    assert_same(sweep._count_cells, naive.count_cells, c["rows"], c["y"], empty, hits)


def test_bound_cells() -> None:
    c = counted()
    ends = (np.zeros_like(c["low"]), np.zeros_like(c["high"]), np.full_like(c["weights"], 9))
    assert_same(sweep._bound_cells, naive.bound_cells, c["x"], c["y"], c["hits"], c["bins"], *ends)
    assert (c["low"] <= c["high"]).any()


def test_measure_cells_and_weigh_hits() -> None:
    c, result = counted(), np.zeros(3)
    given = (c["slab"], c["tables"], c["low"], c["high"], c["n_y"])
    # a twin leaves the second row of sums to itself: compare what the kernels promise
    assert_same(sweep._measure_cells, naive.measure_cells, *given, c["sums"], result)
    sweep._measure_cells(*given, c["sums"], result)
    c["sums"][1, 0] = result[1]
    assert_same(sweep._weigh_hits, naive.weigh_hits, *given, c["sums"], c["weights"])


def test_add_influences() -> None:
    c = counted()
    weights = np.random.default_rng(2).normal(size=c["weights"].size)
    assert_same(
        sweep._add_influences, naive.add_influences, c["rows"], c["y"], weights, 1.3, np.zeros(9)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bin_rounded(dtype: Any) -> None:
    x = np.random.default_rng(0).uniform(-1.5, 1.5, (150, 2)).astype(dtype)
    near = [1.0, 1.0000002, 1.0000006, -1.0, -1.0000002, -1.1, np.nan, np.inf, -np.inf, 1.1]
    x[: len(near)] = np.array(near, dtype)[:, None]
    lower, upper, slack = np.full(2, -1.0), np.full(2, 1.0), np.array([5e-7, 0.0])
    arguments = (x, lower, upper, slack, np.array([4, 300]), np.zeros((2, 150), np.uint16))
    assert_same(binning._bin_rounded, naive.bin_rounded, *arguments)
    binning._bin_rounded(*arguments)
    assert arguments[-1][:, :6].tolist() == [[3, 3, 4, 0, 0, 4], [299, 300, 300, 0, 300, 300]]
