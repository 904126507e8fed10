"""The exact engine's kernels against their slow twins in ``naive.py``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import naive
import numpy as np
import pytest

from onnx_ei._exact.closed_form import chain_of
from onnx_ei._kernels import exact, exact_corners, exact_series, exact_sweeps


def assert_same(kernel: Callable[..., None], twin: Callable[..., None], *arguments: Any) -> None:
    copies = [[a.copy() if isinstance(a, np.ndarray) else a for a in arguments] for _ in "12"]
    with np.errstate(over="ignore"):
        kernel(*copies[0])
    twin(*copies[1])
    for got, expected in zip(*copies, strict=True):
        if isinstance(got, np.ndarray) and got.dtype.kind == "f":
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)
        elif isinstance(got, np.ndarray):
            np.testing.assert_array_equal(got, expected)


def random_table(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    table = rng.gamma(0.3, size=(rows, columns))
    return table / table.sum(axis=0) * rng.uniform(0.5, 1.0)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (4, 1), (2, 2), (7, 16), (64, 64)])
class TestInformation:
    def test_margins(self, rows: int, columns: int) -> None:
        table = random_table(np.random.default_rng(rows), rows, columns)
        floors = np.geomspace(1e-12, 1e-3, rows)
        sums = np.empty(rows), np.empty(columns), np.empty(rows)
        assert_same(exact._margins, naive.margins, table, floors, *sums)

    def test_information(self, rows: int, columns: int) -> None:
        table = random_table(np.random.default_rng(columns), rows, columns)
        floors = np.geomspace(1e-12, 1e-3, rows)
        assert_same(exact._information, naive.information, table, floors, np.empty(4))

    def test_what_is_not_known_is_bounded_by_what_there_can_be(
        self, rows: int, columns: int
    ) -> None:
        result = np.empty(4)
        exact._information(np.zeros((rows, columns)), np.full(rows, 0.1), result)
        assert result[1] <= math.log2(min(rows, columns)) + 1e-12


def test_logs() -> None:
    rng = np.random.default_rng(0)
    ratios = np.concatenate(
        (rng.lognormal(0, 40, 99), 1 + rng.normal(size=99) * 1e-9, [1.0, 1e-250])
    )
    scratch = np.empty(ratios.size, np.uint64)
    logs = np.empty(ratios.size)
    assert_same(exact._logs, naive.logs, ratios, scratch, scratch.copy(), logs)
    exact._logs(ratios, scratch, scratch.copy(), logs)
    expected = np.log(ratios.astype(np.longdouble))
    np.testing.assert_allclose(logs, expected.astype(float), rtol=4e-16, atol=0)


def test_an_almost_independent_pair_is_not_drowned_by_rounding() -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.dirichlet(np.ones(16)), np.full(16, 1 / 16)
    tilt = rng.normal(size=(16, 16)) * 1e-6
    table = rows[:, None] * (1 + tilt - (rows @ tilt) - tilt.mean(axis=1, keepdims=True))
    wide = table.astype(np.longdouble) / 16
    wide /= wide.sum()
    outer = wide.sum(axis=0) * wide.sum(axis=1, keepdims=True)
    truth = float((wide * np.log2(wide / outer)).sum())
    assert 1e-13 < truth < 1e-11
    result = np.empty(4)
    exact._information(table, np.full(16, 1e-250), result)
    assert columns.sum() == pytest.approx(1)
    assert result[0] == pytest.approx(truth, rel=1e-6)


class TestSeries:
    @pytest.mark.parametrize("counts", [[1, 1, 1], [3, 1, 7]])
    def test_characteristic(self, counts: list[int]) -> None:
        terms = np.array([0.9, 0.31, 1e-9])
        filled = np.empty(40), np.empty(40)
        arguments = terms, np.array(counts), 0.17, *filled
        assert_same(exact_series._characteristic, naive.characteristic, *arguments)
        exact_series._characteristic(*arguments)
        assert (np.abs(filled[0]) <= filled[1] * (1 + 1e-12)).all()
        assert (np.diff(filled[1]) < 0).all()

    @pytest.mark.parametrize("n_bins", [1, 2, 3, 8, 13, 64, 256])
    def test_harmonics(self, n_bins: int) -> None:
        factors = np.random.default_rng(n_bins).normal(size=12)
        half = n_bins - n_bins // 2
        filled = np.zeros((12, half)), np.zeros((12, half))
        arguments = 0.013, n_bins, 9, factors, *filled
        assert_same(exact_series._harmonics, naive.harmonics, *arguments)

    @pytest.mark.parametrize(("rows", "n_bins"), [(2, 1), (2, 2), (4, 7), (16, 32)])
    def test_table(self, rows: int, n_bins: int) -> None:
        rng = np.random.default_rng(rows)
        even, odd = rng.normal(size=(2, rows, 16))
        cosines, sines = rng.normal(size=(2, 16, n_bins - n_bins // 2))
        sums = np.empty((2, cosines.shape[1]))
        assert_same(exact_series._add_products, naive.add_products, even[:2], cosines, 12, sums)
        table = np.empty((rows, n_bins))
        arguments = even, odd, cosines, sines, 12, table
        assert_same(exact_series._series_table, naive.series_table, *arguments)

    @pytest.mark.parametrize(("codes", "n_bins"), [(1, 1), (3, 5), (8, 8)])
    def test_pairs(self, codes: int, n_bins: int) -> None:
        rng = np.random.default_rng(codes)
        even, odd = 0.01 * rng.normal(size=(2, codes + codes % 2, 8))
        even[:, 0] = 1.0 / codes
        slack = np.abs(rng.normal(size=(4, codes))) * np.array([[1], [1], [1e-15], [1e-15]])
        marks = np.array([[0.01, 8, 1e-9, 3.0, 1e-12, 0.4], [0.2, 4, np.inf, 3.0, 0, 0.4]])
        factors = np.ones((2, 8))
        results = np.empty((2, 4))
        arguments = marks, factors, even, odd, slack, n_bins, results
        assert_same(exact_series._series_pairs, naive.series_pairs, *arguments)


CHAINS = {
    "one": [0.7],
    "three": [1.0, 0.6, 0.2],
    "equal": [1.0] * 9,
    "one and many": [1.0] + [1e-2] * 9,
    "three and many": [1.0, 0.7, 0.5] + [1e-4] * 7,
    "decades": [10.0**-k for k in range(6)],
}


@pytest.mark.parametrize("name", CHAINS)
def test_cumulative(name: str) -> None:
    terms = np.array(CHAINS[name])
    chain = chain_of(terms)
    rng = np.random.default_rng(0)
    near = 10.0 ** rng.uniform(-8, 0, 20) * rng.choice([-1, 1], 20)
    points = np.concatenate(
        (rng.uniform(-1.1, 1.1, 20) * terms.sum(), near, terms[0] + near, [0.0])
    )
    parts = chain.terms, chain.reaches, chain.polynomials, chain.waves, chain.hump
    values = np.empty((2, points.size))
    assert_same(exact_corners._cumulative, naive.cumulative, points, *parts, values)


@pytest.mark.parametrize("order", range(5))
def test_leaf(order: int) -> None:
    rng = np.random.default_rng(order)
    polynomial, hump = rng.normal(size=order // 2 + 1), rng.normal(size=(order + 1) // 2 + 2)
    arguments = 0.37, order, polynomial, rng.normal(size=9), hump, np.empty(2)
    assert_same(exact_corners._leaf, naive.leaf, *arguments)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_moments(n: int) -> None:
    terms = np.random.default_rng(n).uniform(0, 2, n)
    assert_same(exact_corners._moments, naive.moments, terms, np.empty(6))


def test_corner_table() -> None:
    rng = np.random.default_rng(0)
    owners = np.array([[-1, 0, 1, 0, -1], [0, 1, 0, -1, 1]])
    arguments = np.arange(5.0), owners, rng.uniform(size=(5, 4)), np.empty((2, 4))
    assert_same(exact_corners._corner_table, naive.corner_table, *arguments)


class TestSweeps:
    @pytest.mark.parametrize("n_bins", [1, 4, 10])
    @pytest.mark.parametrize("n_cuts", [0, 1, 2, 9])
    def test_line(self, n_cuts: int, n_bins: int) -> None:
        rng = np.random.default_rng(n_cuts)
        cuts = np.sort(rng.uniform(0, n_bins, n_cuts))
        cuts[:1] = 0.0
        cuts[1:2] = 1.0
        codes = rng.integers(-1, 3, n_cuts + 1)
        table, hits = np.zeros((3, n_bins)), np.full(n_bins + n_cuts + 2, -7)
        arguments = np.sort(cuts), codes, table, hits
        assert_same(exact_sweeps._line_cells, naive.line_cells, *arguments)
        naive.line_cells(*arguments)
        for missing in (0.0, 1e-9, 1.0):
            cells = table, hits, missing, np.empty(4)
            assert_same(exact_sweeps._cells_information, naive.cells_information, *cells)

    @pytest.mark.parametrize("kept", [0.0, 1e-12, 0.3, 1.0])
    @pytest.mark.parametrize("missing", [0.0, 1e-13, 1e-3, 0.2])
    def test_bound_of_cells(self, missing: float, kept: float) -> None:
        for rows, columns in ((1, 1), (1, 7), (2, 2), (64, 8)):
            arguments = missing, kept, rows, columns, np.empty(1)
            assert_same(exact_sweeps._bound_cells, naive.bound_cells, *arguments)

    def test_the_bound_of_cells_holds(self) -> None:
        rng = np.random.default_rng(3)
        near, bound = np.empty(2), np.empty(1)
        for _ in range(300):
            shape = tuple(rng.integers(2, 6, 2))
            one = rng.dirichlet(np.full(shape[0] * shape[1], 0.3)).reshape(shape)
            other = np.abs(one + rng.normal(0, 10.0 ** rng.uniform(-6, -1), shape))
            for i, table in enumerate((one, other)):
                p = table / table.sum()
                outer = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
                near[i] = np.sum(p * np.log(np.where(p > 0, p / outer, 1.0)))
            exact_sweeps._bound_cells(np.abs(one - other).sum(), one.sum(), *shape, bound)
            assert abs(near[1] - near[0]) <= bound[0]

    @pytest.mark.parametrize("n_bins", [1, 5, 8])
    def test_sweeps(self, n_bins: int) -> None:
        weights = np.array([0.75, -2.0, 1e-9, 1e9, -0.1])
        distances = np.array([[-0.5, 0.0, 0.3, 1.0], [1e-16] * 4])
        codes, span = np.array([0, 1, -1, 0, 2]), np.array([-0.3, 2.7])
        arguments = weights, distances, codes, span, n_bins, np.empty((5, 4))
        assert_same(exact_sweeps._sweeps, naive.sweeps, *arguments)
