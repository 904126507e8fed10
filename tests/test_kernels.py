"""Every kernel against its slow twin in ``naive.py``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import naive
import numba
import numpy as np
import pytest

from onnx_ei import _kernels
from onnx_ei._kernels import _lanes, binning, judging, noise, pairwise, rare, units, vector
from onnx_ei._kernels._jit import Array
from onnx_ei.estimators import ESTIMATORS, estimator_rule
from onnx_ei.histogram import _layout

Kernel = Callable[..., None]


def kernels() -> dict[str, Kernel]:
    """Return every compiled function of the kernel modules, by name."""
    found: dict[str, Kernel] = {}
    for info in pkgutil.iter_modules(_kernels.__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"onnx_ei._kernels.{info.name}")
            for name, value in vars(module).items():
                python = getattr(value, "py_func", value)
                if inspect.isfunction(python) and python.__module__ == module.__name__:
                    found[name] = python
    return found


KERNELS = kernels()


def run_both(kernel: Kernel, twin: Kernel, *arguments: Any) -> list[tuple[Array, Array]]:
    """Run a kernel and its twin on copies of the same arguments; return the arrays in pairs."""
    copies = [[a.copy() if isinstance(a, np.ndarray) else a for a in arguments] for _ in "12"]
    with np.errstate(over="ignore"):
        kernel(*copies[0])
    twin(*copies[1])
    return [(k, t) for k, t in zip(*copies, strict=True) if isinstance(k, np.ndarray)]


def assert_same(kernel: Kernel, twin: Kernel, *arguments: Any) -> None:
    for got, expected in run_both(kernel, twin, *arguments):
        if got.dtype.kind == "f":
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)
        else:
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_every_kernel_has_a_twin_with_the_same_arguments(name: str) -> None:
    assert name.startswith("_")
    parameters = inspect.signature(KERNELS[name]).parameters
    assert list(parameters) == list(inspect.signature(getattr(naive, name[1:])).parameters)
    assert len(parameters) <= 8
    assert KERNELS[name].__doc__


@pytest.mark.jit
def test_kernels_are_compiled_and_release_the_lock() -> None:
    for function in (binning._bin_values, pairwise._pairwise, vector._pack_keys):
        assert isinstance(function, numba.core.dispatcher.Dispatcher)
        assert function.targetoptions["nogil"]


class TestNoise:
    @pytest.mark.parametrize("n", [0, 1, 2, 1023, 1024, 2500])
    def test_words_and_scaling(self, n: int) -> None:
        state = np.array([3, 2**63 + 5, 2**64 - 1, 7, 0, 0], np.uint64)
        words = np.zeros(n, np.uint64)
        assert_same(noise._draw_words, naive.draw_words, state, words)
        naive.draw_words(state, words)
        ends = np.float32(-0.1), np.float32(2.3)
        halves, out = words.view(np.uint32), np.zeros(2 * n, np.float32)
        for got, expected in run_both(noise._scale_halves, naive.scale_halves, halves, *ends, out):
            np.testing.assert_array_equal(got, expected)

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
    def test_seeds_are_those_of_numpy(self, n: int) -> None:
        words = np.random.default_rng(n).integers(0, 2**32, n, np.uint64)
        words[-1] = 5
        state = np.zeros(6, np.uint64)
        assert_same(noise._seed_state, naive.seed_state, words, state)
        states = np.zeros((3, 6), np.uint64)
        assert_same(noise._seed_chunks, naive.seed_chunks, words, n - 1, states)
        step, pool = np.full(1, 2**32 - 9, np.uint64), words[:1].repeat(4)
        for rest in (False, True):
            assert_same(noise._mix_word, naive.mix_word, pool, 2, words[0], step, rest)

    @pytest.mark.parametrize("half", [0, 1])
    @pytest.mark.parametrize("n", [0, 1, 2, 3, 1024, 1025, 3001])
    def test_half_a_word_is_kept(self, n: int, half: int) -> None:
        states = np.array([[5, 6, 7, 8, half, 2**31], [1, 2, 3, 4, 1 - half, 9]], np.uint64)
        ends = np.float32(-1.0), np.float32(0.7)
        for kernel, twin, some in (
            (noise._draw_chunks, naive.draw_chunks, (states, *ends, np.zeros((2, n), np.float32))),
            (noise._draw_uniform, naive.draw_uniform, (states[0], *ends, np.zeros(n, np.float32))),
        ):
            for got, expected in run_both(kernel, twin, *some):
                np.testing.assert_array_equal(got, expected)


class TestBinning:
    @pytest.mark.parametrize("n", [0, 1, 40])
    def test_parts(self, n: int) -> None:
        rng = np.random.default_rng(n)
        flat, column = rng.uniform(-1.2, 1.2, 5 * n + 3), np.zeros(n)
        assert_same(binning._take_column, naive.take_column, flat, 2, 5, column)
        naive.take_column(flat, 2, 5, column)
        column[:4] = [1.0 + 1e-9, -1.0 - 1e-9, np.nan, np.inf][:n]
        codes, line, dropped = np.zeros(n, np.int32), np.zeros(n, np.uint8), np.full(1, 3)
        for slack in (0.0, 1e-8):
            ends = -1.0, 1.0, -1.0 - slack, 1.0 + slack
            assert_same(binning._column_codes, naive.column_codes, column, ends, 9.0, codes)
            naive.column_codes(column, ends, 9.0, codes)
        assert_same(binning._store_codes, naive.store_codes, codes, 9, line, dropped)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("n", [0, 1, 63, 64, 200])
    def test_values(self, n: int, dtype: Any) -> None:
        rng = np.random.default_rng(n)
        x = rng.uniform(-1.5, 1.5, (n, 3)).astype(dtype)
        special = [np.nan, np.inf, -np.inf, -1.0, 1.0, 0.0, 0.5, np.nextafter(-1.0, -2.0)]
        x.ravel()[: len(special)] = special[: x.size]
        lower, upper = np.array([-1.0, 0.0, -1.5]), np.array([1.0, 1.0, 1.5])
        n_bins = np.array([8, 1, 300])
        ends = np.stack([lower, upper, lower, upper])
        out, dropped = np.full((3, n + 10), 7, np.uint16), np.ones(3, np.int64)
        given = (x, ends, n_bins, 10, out, dropped)
        assert_same(binning._bin_values, naive.bin_values, *given)
        binning._bin_values(*given)
        assert (out[:, :10] == 7).all()

    def test_strided_out(self) -> None:
        x = np.random.default_rng(0).uniform(0, 1, (100, 2))
        whole = np.zeros((2, 300), np.uint8)
        ends, bins = np.repeat([[0.0], [1.0], [0.0], [1.0]], 2, axis=1), np.array([5, 6])
        binning._bin_values(x, ends, bins, 0, whole[:, 100:200], np.zeros(2, np.int64))
        expected = np.zeros((2, 100), np.uint8)
        naive.bin_values(x, ends, bins, 0, expected, np.zeros(2, np.int64))
        np.testing.assert_array_equal(whole[:, 100:200], expected)
        assert not whole[:, :100].any()
        assert not whole[:, 200:].any()


def random_codes(
    rng: np.random.Generator, bins: Array, n: int, dtype: Any, drop: float = 0.0
) -> Array:
    codes = rng.integers(0, bins[:, None], (bins.size, n))
    codes[rng.random(codes.shape) < drop] = -1
    return np.where(codes < 0, bins[:, None], codes).astype(dtype)


# Number of samples, bins of the inputs, bins of the outputs, dtype, share dropped.
PAIRS = {
    "random": (500, [8, 8, 8], [8, 8], np.uint8, 0.0),
    "by twos": (1201, [3, 2, 3], [2, 3], np.uint8, 0.1),
    "dropped": (500, [8, 8, 8], [8, 8], np.uint8, 0.2),
    "all dropped": (50, [4, 4], [4], np.uint8, 1.0),
    "one bin": (300, [1, 5], [1, 5], np.uint8, 0.1),
    "255 bins": (400, [255], [255], np.uint8, 0.1),
    "256 bins": (400, [256, 2], [256], np.uint16, 0.1),
    "1000 bins": (300, [1000], [3], np.uint16, 0.1),
    "ragged": (333, [3, 9, 1, 4], [2, 17, 1, 6, 5], np.uint8, 0.1),
    "one sample": (1, [4, 4], [4, 1], np.uint8, 0.0),
    "few samples": (7, [4, 4], [4], np.uint8, 0.0),
    "63 samples": (63, [4, 4], [4], np.uint8, 0.1),
    "65 samples": (65, [4, 4], [4], np.uint8, 0.1),
    "many inputs": (100, [3] * 20, [3] * 7, np.uint8, 0.05),
}


class TestPairwise:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("case", PAIRS)
    def test_all_pairs(self, case: str, estimator: str) -> None:
        n, in_bins, out_bins, dtype, drop = PAIRS[case]
        rng = np.random.default_rng(1)
        ins, outs = np.array(in_bins), np.array(out_bins)
        x = random_codes(rng, ins, n, dtype, drop)
        y = random_codes(rng, outs, n, dtype, drop)
        y[0] = np.where(y[0] < outs[0], np.minimum(x[0], outs[0] - 1), y[0])  # one true relation
        self.check(x, y, ins, outs, estimator)

    def test_against_independence(self) -> None:
        n, in_bins, out_bins, dtype, drop = PAIRS["ragged"]
        rng = np.random.default_rng(7)
        ins, outs = np.array(in_bins), np.array(out_bins)
        x, y = (random_codes(rng, bins, n, dtype, drop) for bins in (ins, outs))
        self.check(x, y, ins, outs, "coverage-jackknife", rows=4)

    @pytest.mark.parametrize("tasks", [1, 2, 3, 4, 6, 10])
    def test_tasks(self, tasks: int) -> None:
        rng = np.random.default_rng(3)
        ins, outs = np.array([3, 5, 2, 7, 4]), np.array([4, 6])
        x, y = (random_codes(rng, bins, 150, np.uint8, 0.1) for bins in (ins, outs))
        self.check(x, y, ins, outs, "coverage-jackknife", tasks)

    def test_constant_outputs(self) -> None:
        rng = np.random.default_rng(2)
        bins = np.array([6, 6])
        x = random_codes(rng, bins, 200, np.uint8)
        self.check(x, np.full((2, 200), 5, np.uint8), bins, bins, "plugin")

    @staticmethod
    def check(
        x: Array, y: Array, ins: Array, outs: Array, estimator: str, tasks: int = 1, rows: int = 2
    ) -> None:
        n, shape = x.shape[1], (ins.size, outs.size)
        head = (x, y, (ins, outs), estimator_rule(estimator, n))
        bits, kept = np.full((rows, *shape), np.nan), np.full(shape, -1)
        influence, spread = np.zeros((tasks, min(n, 64))), np.zeros((tasks, 3))
        pairs = run_both(pairwise._pairwise, naive.pairwise, *head, bits, kept, influence, spread)
        for (got, expected), tolerance in zip(pairs[2:], [1e-7, 0], strict=False):
            np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
        # A weight within a rounding error of half a grain may go to either side, once a pair.
        for (got, expected), grain in zip(pairs[4:], (2**-20, 2**-26), strict=True):
            got, expected = got.sum(axis=0), expected.sum(axis=0)
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=ins.size * outs.size * grain)

    @pytest.fixture
    def slab(self) -> Array:
        counts = np.random.default_rng(3).integers(0, 4, (6, 9)).astype(np.uint32)
        counts[2, :] = 0
        counts[:, 1] = 0
        return counts

    def test_count_pair(self) -> None:
        rng = np.random.default_rng(4)
        x = rng.integers(0, 5, 100).astype(np.uint8)
        rows = (rng.integers(0, 5, 100) * 5).astype(np.uint32)
        slab = np.zeros(25, np.uint32)
        assert_same(pairwise._count_pair, naive.count_pair, x, rows, slab)
        two = (x, x[::-1].copy(), rows, slab, slab + np.uint32(1))
        assert_same(pairwise._count_two_pairs, naive.count_two_pairs, *two)

    @pytest.mark.parametrize("n", [0, 1, 2, 301])
    def test_count_twos(self, n: int) -> None:
        rng = np.random.default_rng(n)
        x = rng.integers(0, 4, n).astype(np.uint8)
        rows = (rng.integers(0, 3, n) * 4).astype(np.uint32)
        step, joined = 14, [np.zeros(n // 2, np.uint16), np.zeros(n // 2, np.uint32)]
        for codes, twos in zip((x, rows), joined, strict=True):
            assert_same(pairwise._join_codes, naive.join_codes, codes, step, twos)
            naive.join_codes(codes, step, twos)
        square, slab = np.ones(step * step, np.uint32), np.full(12, 5, np.uint32)
        assert_same(pairwise._count_twos, naive.count_twos, *joined, step, square, slab)
        single = np.full(12, 5, np.uint32)
        naive.count_twos(*joined, step, square, slab)
        naive.count_pair(x[: n // 2 * 2], rows[: n // 2 * 2], single)
        np.testing.assert_array_equal(slab, single)

    @pytest.mark.parametrize("estimator", ["plugin", "coverage-jackknife"])
    def test_parts(self, slab: Array, estimator: str) -> None:
        tables, null, _ = estimator_rule(estimator, int(slab.sum()))
        n_x, n_y, sums = np.zeros(7, np.int64), np.zeros(5, np.int64), np.zeros((5, 9))
        assert_same(pairwise._sum_cells, naive.sum_cells, slab, tables, n_x, n_y, sums)
        naive.sum_cells(slab, tables, n_x, n_y, sums)
        totals, margins = np.zeros(11), (n_x, n_y, tables)
        assert_same(judging._sum_margins, naive.sum_margins, *margins, sums, totals)
        naive.sum_margins(*margins, sums, totals)
        for tail in (totals[2], -1.0):
            totals[2] = tail
            assert_same(judging._extrapolate, naive.extrapolate, totals)
        weights = np.full(slab.shape, np.nan)
        head = (slab, tables, 0.3)
        arguments = (*head, n_x, n_y, weights, sums)
        assert_same(pairwise._weigh_cells, naive.weigh_cells, *arguments)
        if null.size:
            for place in (-50.0, -3.3, 0.0, 7.97, 40.0):
                scratch = np.zeros(2, np.int32), np.zeros(2)
                looked_up = (np.array([place, 1.0]), np.array([-2.0, 1.5]), null)
                assert_same(judging._look_up, naive.look_up, *looked_up, *scratch, np.ones(8))
            moments = np.zeros(8)
            assert_same(judging._sum_null, naive.sum_null, *margins, null, moments)
            naive.sum_null(*margins, null, moments)
            totals[8:] = 0.3, 100.0, 5000.0
            assert_same(judging._judge, naive.judge, totals, moments, np.zeros(5))
            few = np.array([2.0, 0.0, 0.0, 0.0, 0.0, 4.0, 2.0, 4.0, 0.0, 0.0, 0.0])
            assert_same(judging._judge, naive.judge, few, moments, np.zeros(5))
            for tested in (False, True):
                rule = estimator_rule(estimator, int(slab.sum()))
                arguments = (slab, rule, n_x, n_y, totals, tested, np.zeros(8))
                assert_same(judging._conclude, naive.conclude, *arguments)
        for which in (1, 2):
            pairs = run_both(judging._add_rare, naive.add_rare, slab, n_x, n_y, which, totals)
            np.testing.assert_allclose(*pairs[-1], rtol=1e-7)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("case", ["random", "empty", "one row", "one sample", "all once"])
    def test_measure_pair(self, slab: Array, case: str, estimator: str) -> None:
        if case == "all once":
            slab = np.minimum(slab, 1)
        elif case != "random":
            slab[:] = 0
            slab[1, : {"empty": 0, "one row": 9, "one sample": 1}[case]] = 1
        rule = estimator_rule(estimator, int(slab.sum()))
        n_x, n_y = np.zeros(8, np.int64), np.zeros(5, np.int64)
        for tested in (False, True):
            scratch = (np.zeros(slab.shape), np.zeros((5, 9)), tested, np.full(8, np.nan))
            arguments = (slab, rule, n_x, n_y, *scratch)
            pairs = run_both(pairwise._measure_pair, naive.measure_pair, *arguments)
            np.testing.assert_allclose(*pairs[-1], rtol=1e-7, atol=1e-9)
            np.testing.assert_array_equal(*pairs[1])

    @pytest.mark.parametrize("n", [3, 64, 257])
    def test_add_influence(self, n: int) -> None:
        rng = np.random.default_rng(n)
        x = rng.integers(0, 5, n).astype(np.uint8)
        rows = (rng.integers(0, 5, n) * 5).astype(np.uint32)
        influence = rng.integers(-9, 9, min(n, 64)).astype(float)
        arguments = (x, rows, rng.normal(size=25), 1.25, influence)
        got, expected = run_both(pairwise._add_influence, naive.add_influence, *arguments)[3]
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(got * 2**20, np.rint(got * 2**20))


class TestRare:
    @pytest.mark.parametrize("x", [1e-6, 0.01, 0.5, 0.999, 1.0, 1.5, 10.0, 300.0, 1e5])
    def test_scaled_e1(self, x: float) -> None:
        got, expected = run_both(rare._scaled_e1, naive.scaled_e1, x, np.zeros(1))[0]
        np.testing.assert_allclose(got, expected, rtol=3e-8)

    @pytest.mark.parametrize("a", [1.0, 30.0, 1e5])
    @pytest.mark.parametrize("z", [0.01, 0.5, 0.99, 1 - 1e-5])
    def test_geometric_over(self, a: float, z: float) -> None:
        got, expected = run_both(rare._geometric_over, naive.geometric_over, a, z, np.zeros(1))[0]
        np.testing.assert_allclose(got, expected, rtol=1e-7)

    @pytest.mark.parametrize(
        "cells", [[1], [1, 1], [5], [1, 1, 2], [1, 3, 9], [2, 2, 4], [1] * 40 + [2] * 9 + [80]]
    )
    def test_entropies(self, cells: list[int]) -> None:
        counts = np.array([0, *cells])
        arguments = (counts, float(counts.sum()), np.zeros(1))
        for name in ("unseen_nats", "covered_nats"):
            pairs = run_both(getattr(rare, f"_{name}"), getattr(naive, name), *arguments)
            np.testing.assert_allclose(*pairs[1], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 5, 300])
def test_lines_are_added_to_the_bit(n: int) -> None:
    """The vector instructions, the loop that stands for them without the compiler, and the twin."""
    rng = np.random.default_rng(n)
    lines, sums = rng.normal(size=(9, 16)), rng.normal(size=8)
    rows = rng.integers(0, 9, n).astype(np.int32)
    shares, weights = rng.random(n + 2), rng.normal(size=n + 2)
    expected, plain, compiled = sums.copy(), sums.copy(), sums.copy()
    naive.add_lines(rows, shares, weights, lines, expected)
    _lanes.add_lines(rows, shares, weights, lines, plain)
    _call_add_lines(rows, shares, weights, lines, compiled)
    np.testing.assert_array_equal(plain, expected)
    np.testing.assert_array_equal(compiled, expected)


@numba.njit
def _call_add_lines(rows: Array, shares: Array, weights: Array, lines: Array, sums: Array) -> None:
    _lanes.add_lines(rows, shares, weights, lines, sums)


def test_count_codes() -> None:
    rng = np.random.default_rng(8)
    bins = np.array([3, 1, 7])
    codes = random_codes(rng, bins, 200, np.uint8, 0.1)
    kept = (codes < bins[:, None]).all(axis=0)
    starts = np.cumsum(bins) - bins
    counts = rng.integers(0, 5, 11)
    assert_same(units._count_codes, naive.count_codes, codes, kept, starts, counts)


def random_words(rng: np.random.Generator, n: int) -> Array:
    return rng.integers(0, 2**64, n, dtype=np.uint64)


# Bins of each unit: an exact word, exactly 64 bits, two words, exactly 128 bits, hashed.
VECTORS = {
    "one unit": [5],
    "units of one bin": [1, 1, 1],
    "one word": [8, 5, 1, 300],
    "64 bits": [256] * 8,
    "64 bits and one bin": [256] * 8 + [1],
    "two words": [8] * 30,
    "128 bits": [2**16 - 1] * 8,
    "hashed": [64] * 40,
    "hashed, ragged": [3, 500, 1, 17] * 20,
}


class TestVector:
    @pytest.mark.parametrize("n", [1, 511, 513])
    @pytest.mark.parametrize("case", VECTORS)
    def test_pack_keys(self, case: str, n: int) -> None:
        bins = np.array(VECTORS[case])
        rng = np.random.default_rng(5)
        codes = random_codes(rng, bins, n, np.uint16, 0.01)
        hi, lo = random_words(rng, n), random_words(rng, n)
        kept = rng.random(n) < 0.9
        arguments = (codes, bins, _layout(bins), hi, lo, kept)
        assert_same(vector._pack_keys, naive.pack_keys, *arguments)

    def test_append_codes(self) -> None:
        rng = np.random.default_rng(6)
        codes = rng.integers(0, 5, 100).astype(np.uint8)
        words, kept = rng.integers(0, 8, 100).astype(np.uint64), rng.random(100) < 0.5
        assert_same(vector._append_codes, naive.append_codes, codes, 4, 3, words, kept)

    def test_absorb(self) -> None:
        rng = np.random.default_rng(7)
        arguments = [random_words(rng, 50) for _ in range(3)]
        assert_same(vector._absorb, naive.absorb, *arguments)

    @pytest.mark.parametrize("n_states", [1, 3, 100, 2**40])
    @pytest.mark.parametrize("n", [0, 1, 400])
    def test_counting(self, n: int, n_states: int) -> None:
        rng = np.random.default_rng(8)
        lo = rng.integers(0, n_states, n).astype(np.uint64)
        hi = rng.integers(0, 2, n).astype(np.uint64)
        kept = rng.random(n) < 0.8
        m = int(kept.sum())
        for words in (1, 2):
            order, starts = np.zeros(m, np.int32), np.zeros(17, np.int64)
            keys = np.zeros((words, m), np.uint64)
            samples = (hi, lo, kept, order, starts, keys)
            assert_same(vector._partition_keys, naive.partition_keys, *samples)
            naive.partition_keys(*samples)
            local, counts = np.zeros(m, np.int32), np.zeros(m, np.int64)
            found = np.zeros(16, np.int64)
            arguments = (keys, starts, local, counts, found)
            one = (keys[:, :3], local[:3], counts[:3], found[:1])
            assert_same(vector._count_partition, naive.count_partition, *one)
            for kernel in (vector._count_states, vector._count_many_states):
                assert_same(kernel, naive.count_states, *arguments)
            naive.count_states(*arguments)
            offsets = np.concatenate(([0], np.cumsum(found)))
            ids, dense = np.full(n, -1, np.int32), np.zeros(offsets[-1], np.int64)
            states = (order, starts, local, counts, offsets, ids, dense)
            assert_same(vector._gather_states, naive.gather_states, *states)

    def test_joint_states(self) -> None:
        rng = np.random.default_rng(10)
        x, y, joint = rng.integers(-1, 5, (3, 60)).astype(np.int32)
        assert_same(vector._pair_keys, naive.pair_keys, x, y, np.zeros(60, np.uint64))
        x, y = np.abs(x), np.abs(y)
        counts = rng.integers(1, 9, (2, 5))
        ends = np.zeros(5, np.int64), np.zeros(5, np.int64)
        arguments = joint, (x, y), tuple(counts), *ends
        # Any sample of a state says the same of it, in what is counted: here the last one does.
        assert_same(vector._find_ends, naive.find_ends, *arguments)
        tables = rng.random((9, 6))
        cells = rng.integers(1, 9, (3, 20))
        assert_same(vector._point_states, naive.point_states, *cells, tables, 0.3, np.zeros(20))
        assert_same(vector._look_up_counts, naive.look_up_counts, cells[0], tables, 2, np.zeros(20))

    @pytest.mark.parametrize("n", [1, 8, 30])
    def test_number_states_when_slots_collide(self, n: int) -> None:
        rng = np.random.default_rng(9)
        lo = rng.integers(0, 20, n).astype(np.uint64)
        keys = np.stack((lo, lo // np.uint64(7)))
        for words in (1, 2):
            local, first = np.zeros((2, n), np.int32)
            slots, counts = np.full(32, -1, np.int32), np.zeros(n, np.int64)
            arguments = keys[:words], slots, local, first, counts
            pairs = run_both(vector._number_states, naive.number_states, *arguments)
            for got, expected in pairs[2:]:
                np.testing.assert_array_equal(got, expected)
