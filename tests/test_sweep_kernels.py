"""The kernels of one input and every output: their twins, and the pairwise kernel."""

from __future__ import annotations

from typing import Any

import naive
import numpy as np
import pytest
from test_kernels import PAIRS, assert_same, random_codes, run_both

from onnx_ei._kernels import judging, sweep
from onnx_ei._kernels._jit import Array
from onnx_ei.estimators import ESTIMATORS, estimator_rule
from onnx_ei.information import pairwise_information


def curve(rng: np.random.Generator, n: int, x_bins: int, y_bins: int) -> tuple[Array, Array]:
    """Codes of a number and of three functions of it: what a sweep counts."""
    u = rng.random(n)
    z = np.stack([u**2, np.sin(9 * u), 0.4 * u + 0.3])
    y = np.floor(z * y_bins)
    codes = np.where((y < 0) | (y >= y_bins), y_bins, y)
    return (u * x_bins).astype(np.uint8), codes.astype(np.uint8)


@pytest.mark.parametrize("case", sorted(PAIRS))
@pytest.mark.parametrize("estimator", ["plugin", "chao-shen", "coverage-jackknife"])
def test_sweep_against_its_twin(case: str, estimator: str) -> None:
    n, x_bins, y_bins, dtype, drop = PAIRS[case]
    rng = np.random.default_rng(0)
    x = random_codes(rng, np.array(x_bins[:1]), n, dtype, drop)[0]
    y = random_codes(rng, np.array(y_bins), n, dtype, drop)
    bins, rule = (x_bins[0], np.array(y_bins)), estimator_rule(estimator, n)
    results = (np.zeros((2, len(y))), np.zeros(len(y), np.int64), np.zeros(n), np.zeros(3))
    pairs = run_both(sweep._sweep, naive.sweep, x, y, bins, rule, *results)
    for (got, expected), tolerance in zip(pairs[2:], [1e-7, 0, 2**-19, 2**-24], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=tolerance)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [1, 7, 64, 1000, 5000])
@pytest.mark.parametrize("bins", [(2, 3), (8, 8), (64, 64), (200, 5)])
@pytest.mark.parametrize("kind", ["curve", "noise"])
def test_sweep_is_the_pairwise_kernel_in_another_order(
    estimator: str, n: int, bins: tuple[int, int], kind: str
) -> None:
    rng = np.random.default_rng(n)
    x, y = curve(rng, n, *bins)
    if kind == "noise":
        y = random_codes(rng, np.full(3, bins[1]), n, np.uint8, 0.1)
    x[rng.random(n) < 0.05] = bins[0]
    y_bins = np.full(3, bins[1])
    found = pairwise_information(x[None], y, np.array([bins[0]]), y_bins, estimator)
    bits, kept = np.empty((2, 3)), np.empty(3, np.int64)
    influence, spread = np.zeros(min(n, 2048)), np.zeros(3)
    rule = estimator_rule(estimator, n)
    sweep._sweep(x, y, (bins[0], y_bins), rule, bits, kept, influence, spread)
    np.testing.assert_allclose(bits[0], found.bits[0], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(bits[1], found.stderr[0], rtol=1e-9, atol=1e-11)
    assert kept.tolist() == found.kept[0].tolist()
    # a weight within a rounding error of half a grain may go to either side
    np.testing.assert_allclose(influence, found.influence.values, rtol=0, atol=3 * 2**-20)
    assert spread[0] == pytest.approx(found.influence.variance, abs=3 * 2**-26)


def counted(x_bins: int = 5, y_bins: int = 7, n: int = 200) -> dict[str, Any]:
    """One pair's codes, and what the parts of the kernel hand on to each other."""
    rng = np.random.default_rng(1)
    x, y = curve(rng, n, x_bins, y_bins)
    x[::17] = x_bins
    rows = x.astype(np.uint32) * np.uint32(y_bins + 1)
    slab, hits = np.zeros((x_bins + 1) * (y_bins + 1), np.uint32), np.zeros(n + 1, np.uint32)
    cells = np.empty(n, np.uint32)
    sweep._find_cells(rows, y[1], cells)
    sweep._count_cells(cells, slab, hits)
    weights = np.full((x_bins + 1, y_bins + 1), 9.0)
    return {
        "x": x, "y": y[1], "rows": rows, "cells": cells, "hits": hits,
        "slab": slab.reshape(weights.shape), "weights": weights,
        "tables": estimator_rule("coverage-jackknife", n)[0],
        "n_x": np.empty(x_bins, np.int64), "n_y": np.empty(y_bins, np.int64),
        "sums": np.zeros((5, x_bins)),
    }  # fmt: skip


@pytest.mark.parametrize("n", [1, 40, 200])
def test_count_cells(n: int) -> None:
    c = counted(n=n)
    empty, hits = np.zeros(c["slab"].size, np.uint32), np.zeros(n + 1, np.uint32)
    assert_same(sweep._find_cells, naive.find_cells, c["rows"], c["y"], np.zeros(n, np.uint32))
    assert_same(sweep._count_cells, naive.count_cells, c["cells"], empty, hits)


def test_sum_and_weigh_hits() -> None:
    c, totals = counted(), np.zeros(11)
    margins = (c["n_x"], c["n_y"])
    given = (c["x"], c["y"], c["hits"], c["slab"], c["tables"], *margins, c["sums"])
    assert_same(sweep._sum_hits, naive.sum_hits, *given)
    sweep._sum_hits(*given)
    judging._sum_margins(*margins, c["tables"], c["sums"], totals)
    totals[8] = 0.4
    ends = (c["x"], c["y"])
    arguments = (ends, c["hits"], c["slab"], c["tables"], *margins, totals, c["weights"])
    assert_same(sweep._weigh_hits, naive.weigh_hits, *arguments)
    sweep._weigh_hits(*arguments)
    assert (c["weights"] == 0).any()


def test_add_influences() -> None:
    c = counted()
    weights = np.random.default_rng(2).normal(size=c["weights"].size)
    given = (c["cells"], c["hits"], weights, 1.3, np.zeros(9))
    assert_same(sweep._add_influences, naive.add_influences, *given)


@pytest.mark.parametrize("at", [None, 0, 1, 150, 299])
def test_in_one_bin(at: int | None) -> None:
    y = np.full(300, 3, np.uint8)
    if at is not None:
        y[at] = 4
    found = np.zeros(1, np.bool_)
    assert_same(sweep._in_one_bin, naive.in_one_bin, y, 128, found)
    sweep._in_one_bin(y, 128, found)
    assert found[0] == (at is None)


@pytest.mark.parametrize("code", [2, 3])
def test_an_output_in_one_bin_tells_nothing(code: int) -> None:
    x, y = np.arange(8, dtype=np.uint8) % 5, np.full((1, 8), code, np.uint8)
    results = (np.ones((2, 1)), np.ones(1, np.int64), np.zeros(8), np.zeros(3))
    sweep._sweep(x, y, (4, np.array([3])), estimator_rule("coverage-jackknife", 8), *results)
    assert not results[0].any()
    assert results[1].tolist() == [7 if code < 3 else 0]
