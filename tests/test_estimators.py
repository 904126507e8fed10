from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import require_peer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_ei import information
from onnx_ei.estimators import (
    DEFAULT_ESTIMATOR,
    ESTIMATORS,
    entropy_of_counts,
    estimator_rule,
    estimator_table,
    information_of_counts,
)

quick = settings(derandomize=True, deadline=None, max_examples=40)

COUNTS = {
    "random": np.random.default_rng(0).integers(0, 30, (6, 9)),
    "sparse": np.random.default_rng(1).poisson(0.3, (20, 30)),
    "skewed": np.random.default_rng(2).geometric(1e-4, (4, 3)),
    "large": np.random.default_rng(3).integers(0, 50, (64, 64)),
    "deterministic": np.diag(np.arange(1, 9)),
    "independent": np.outer([1, 2, 3], [4, 5, 6]),
    "one row": np.array([[3, 0, 5]]),
    "one sample": np.array([[0, 1], [0, 0]]),
}


def leave_one_out(counts: Any, quantity: Any) -> float:
    """Jackknife a plug-in quantity by leaving out one sample at a time."""
    total = int(counts.sum())
    if total == 1:
        return float(quantity(counts))
    left = 0.0
    for cell in zip(*np.nonzero(counts), strict=True):
        fewer = counts.copy()
        fewer[cell] -= 1
        left += counts[cell] * quantity(fewer)
    return float(total * quantity(counts) - (total - 1) / total * left)


def plugin_information(counts: Any) -> float:
    """Return sum p log2(p / (p_x p_y)), cell by cell."""
    p = counts / counts.sum()
    x, y = np.nonzero(p)
    return float(np.sum(p[x, y] * np.log2(p[x, y] / (p.sum(1)[x] * p.sum(0)[y]))))


def plugin_entropy(counts: Any) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-np.sum(p * np.log2(p)))


class TestTables:
    def test_names(self) -> None:
        assert ESTIMATORS == (
            "plugin",
            "miller-madow",
            "grassberger",
            "chao-shen",
            "chao-wang-jost",
            "jackknife",
            "coverage-jackknife",
        )
        assert DEFAULT_ESTIMATOR == "coverage-jackknife"
        assert information.ESTIMATORS is ESTIMATORS

    @pytest.mark.parametrize("name", ESTIMATORS)
    def test_lengths_and_cache(self, name: str) -> None:
        short = estimator_table(name, 5).copy()
        long = estimator_table(name, 3000)
        assert (short.size, long.size) == (6, 3001)
        np.testing.assert_array_equal(estimator_table(name, 5), long[:6])
        np.testing.assert_array_equal(short, long[:6])
        assert not long.flags.writeable
        assert estimator_table(name, 0).tolist() == [0.0]
        # of one sample the corrections of single counts say nothing true: -1/2 and -(gamma + ln 2)
        single = {
            "miller-madow": -0.5,
            "grassberger": -(np.euler_gamma + np.log(2)),
            "chao-wang-jost": -np.euler_gamma,
        }
        once = single.get(name, 0.0)
        assert long[0] == 0.0
        assert long[1] == pytest.approx(once / np.log(2), abs=1e-15)
        assert np.isfinite(long).all()

    @pytest.mark.parametrize("name", ESTIMATORS)
    def test_rows_are_the_same_in_any_order(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from onnx_ei._estimators import tables

        monkeypatch.setattr(tables, "_tables", {})
        whole = tables.count_table(name, 1500).copy()
        tables._tables.clear()
        sizes = (0, 1, 2, 3, 255, 256, 257, 1099, 1100, 1101, 1500)
        alone = [tables.count_row(name, n) for n in sizes]
        assert not tables._tables  # a row keeps no table
        np.testing.assert_array_equal(alone, whole[list(sizes)])
        for n in sizes:
            np.testing.assert_array_equal(tables.count_table(name, n), whole[: n + 1])
            np.testing.assert_array_equal(tables.count_row(name, n), whole[n])

    def test_a_count_of_samples_is_no_row_less_than_nothing(self) -> None:
        from onnx_ei._estimators.tables import count_row

        with pytest.raises(ValueError, match="at least 0, got -1"):
            count_row("plugin", -1)

    def test_many_samples_of_many_states_make_no_long_table(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from onnx_ei._estimators import tables

        monkeypatch.setattr(tables, "_tables", {})
        codes = np.arange(100_000) % 5000
        information.entropy_of_counts(np.bincount(codes))
        assert {name: len(table) for name, table in tables._tables.items()} == {
            DEFAULT_ESTIMATOR: 21
        }

    def test_grassberger_recurrence(self) -> None:
        """G(n) of (27) in the paper by its recurrence: G(2n) = G(2n+1) = -gamma - ln 2 + sums."""
        table = estimator_table("grassberger", 61) * np.log(2)
        g = -np.euler_gamma - np.log(2)
        assert table[1] == pytest.approx(g, rel=1e-14)
        for n in range(1, 31):
            # G(2) = 2 - gamma - ln 2, and each two more add 2 / (2 n + 1)
            g += 2 / (2 * n - 1)
            assert table[2 * n] == pytest.approx(2 * n * g, rel=1e-13)
            assert table[2 * n + 1] == pytest.approx((2 * n + 1) * g, rel=1e-13)

    def test_miller_madow_subtracts_half_a_nat_a_state(self) -> None:
        counts = COUNTS["random"]
        states = [np.count_nonzero(c) for c in (counts, counts.sum(1), counts.sum(0))]
        # of I = H(X) + H(Y) - H(XY), each with (K - 1) / 2N nats
        correction = (states[1] + states[2] - states[0] - 1) / (2 * counts.sum() * np.log(2))
        bits, _ = information_of_counts(counts, "miller-madow")
        assert bits == pytest.approx(plugin_information(counts) + correction, abs=1e-12)

    def test_jackknife_does_not_cancel(self) -> None:
        from fractions import Fraction
        from math import log2

        n = 10**6
        # log2(n / (n - 1)) by its series, in exact fractions.
        d = Fraction(1, n)
        log = float(sum(d**k / k for k in range(1, 6))) / np.log(2)
        assert estimator_table("jackknife", n)[n] == pytest.approx(
            n * (log2(n) + (n - 1) * log), rel=1e-15
        )

    def test_unknown_names(self) -> None:
        with pytest.raises(ValueError, match="unknown estimator 'jacknife': did you mean 'jackk"):
            estimator_table("jacknife", 3)
        with pytest.raises(ValueError, match="unknown estimator 'x': known: 'plugin', 'mill"):
            information_of_counts(np.ones((2, 2), int), "x")
        with pytest.raises(ValueError, match="unknown estimator 'log2'"):
            entropy_of_counts(np.ones(3, int), "log2")

    def test_negative_lengths(self) -> None:
        for table in (estimator_table, estimator_rule):
            with pytest.raises(ValueError, match="must be at least 0, got -1"):
                table("plugin", -1)


@pytest.mark.parametrize("case", COUNTS)
class TestAgainstOracles:
    def test_definition(self, case: str) -> None:
        counts = COUNTS[case]
        bits, _ = information_of_counts(counts, "plugin")
        assert bits == pytest.approx(plugin_information(counts), abs=1e-12)
        entropy = entropy_of_counts(counts.ravel(), "plugin")
        assert entropy == pytest.approx(plugin_entropy(counts), abs=1e-12)

    def test_scikit_learn(self, case: str) -> None:
        metrics = require_peer("sklearn.metrics")
        nats = metrics.mutual_info_score(None, None, contingency=COUNTS[case])
        bits, _ = information_of_counts(COUNTS[case], "plugin")
        assert bits == pytest.approx(nats / np.log(2), abs=1e-12)

    def test_dit(self, case: str) -> None:
        dit = require_peer("dit")
        counts = COUNTS[case]
        x, y = np.nonzero(counts)
        p = counts[x, y] / counts.sum()
        joint = dit.Distribution(list(zip(x.tolist(), y.tolist(), strict=True)), p.tolist())
        bits, _ = information_of_counts(counts, "plugin")
        assert bits == pytest.approx(dit.shannon.mutual_information(joint, [0], [1]), abs=1e-12)
        entropy = entropy_of_counts(counts.sum(axis=1), "plugin")
        assert entropy == pytest.approx(dit.shannon.entropy(joint, [0]), abs=1e-12)

    def test_jackknife_is_leave_one_out(self, case: str) -> None:
        counts = COUNTS[case]
        scale = max(1.0, 1e-4 * counts.sum())  # brute force subtracts numbers of order N
        bits, _ = information_of_counts(counts, "jackknife")
        expected = leave_one_out(counts, plugin_information)
        assert bits == pytest.approx(expected, abs=1e-9 * scale)
        entropy = entropy_of_counts(counts.ravel(), "jackknife")
        expected = leave_one_out(counts.ravel(), plugin_entropy)
        assert entropy == pytest.approx(expected, abs=1e-9 * scale)

    def test_stderr(self, case: str) -> None:
        counts = COUNTS[case]
        x, y = np.nonzero(counts)
        total, repeats = counts.sum(), counts[x, y]
        i = np.log2(repeats * total / (counts.sum(1)[x] * counts.sum(0)[y]))
        expected = np.std(np.repeat(i, repeats)) / np.sqrt(total)
        for name in ESTIMATORS[:-1]:
            stderr = information_of_counts(counts, name)[1]
            assert stderr == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("name", ["chao-shen", "chao-wang-jost"])
    def test_papers(self, case: str, name: str) -> None:
        counts = COUNTS[case]
        paper = chao_shen if name == "chao-shen" else chao_wang_jost
        scale = max(1.0, 1e-4 * counts.sum())
        entropy = paper(counts.ravel())
        assert entropy_of_counts(counts.ravel(), name) == pytest.approx(entropy, abs=1e-7 * scale)
        bits, _ = information_of_counts(counts, name)
        expected = paper(counts.sum(0)) + paper(counts.sum(1)) - entropy
        if 1 in counts.shape or counts.sum() == 1:
            expected = 0.0
        assert bits == pytest.approx(expected, abs=1e-7 * scale)


def chao_shen(counts: Any) -> float:
    """Chao and Shen (2003), equation 9, in bits."""
    counts, n = counts[counts > 0], counts.sum()
    once = np.count_nonzero(counts == 1)
    p = (1 - min(once, n - 1) / n) * counts / n
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = p * np.log2(p) / (1 - (1 - p) ** n)
    return -float(np.sum(np.where(p == 1, 0, terms)))


def chao_wang_jost(counts: Any) -> float:
    """Chao, Wang and Jost (2013), equation 7b as printed, in fractions where it cancels."""
    from fractions import Fraction

    from scipy.special import digamma

    counts, n = counts[counts > 0], int(counts.sum())
    once, twice = (int(np.count_nonzero(counts == k)) for k in (1, 2))
    nats = float(np.sum(counts / n * (digamma(n) - digamma(counts))))
    if once and not (once == 1 and twice == 0):
        seen = Fraction(2 * twice if twice else 2)
        a = float(seen / ((n - 1) * (once if twice else once - 1) + seen))
        # -ln A - sum_{r < n} (1 - A)^r / r is the sum of the terms from n on.
        r = np.arange(n, n + int(60 / a) + 1, dtype=float)
        nats += once / n * float(np.sum(np.exp((r - n + 1) * np.log1p(-a)) / r))
    return nats / np.log(2)


class TestInvariants:
    counts = hnp.arrays(
        np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 9)
    )

    @quick
    @given(counts)
    def test_bounds(self, counts: Any) -> None:
        bits, stderr = information_of_counts(counts, "plugin")
        h_x, h_y = (entropy_of_counts(counts.sum(axis=a), "plugin") for a in (1, 0))
        assert -1e-12 <= bits <= min(h_x, h_y) + 1e-12
        assert stderr >= 0
        h = entropy_of_counts(counts.ravel(), "plugin")
        assert bits == pytest.approx(h_x + h_y - h, abs=1e-12)

    @quick
    @given(counts, st.sampled_from(ESTIMATORS), st.randoms(use_true_random=False))
    def test_names_of_bins_do_not_matter(self, counts: Any, name: str, random: Any) -> None:
        rows, columns = (list(range(n)) for n in counts.shape)
        random.shuffle(rows)
        random.shuffle(columns)
        expected = pytest.approx(information_of_counts(counts, name), abs=1e-12)
        assert information_of_counts(counts[rows][:, columns], name) == expected
        assert information_of_counts(counts.T, name) == expected
        padded = np.pad(counts, ((0, 2), (1, 0)))
        assert information_of_counts(padded, name) == expected


class TestEdges:
    @pytest.mark.parametrize("name", ESTIMATORS)
    def test_nothing(self, name: str) -> None:
        for shape in ((3, 4), (0, 0)):
            assert information_of_counts(np.zeros(shape, int), name) == (0.0, 0.0)
        assert entropy_of_counts(np.zeros(3, int), name) == 0.0
        assert entropy_of_counts(np.zeros(0, int), name) == 0.0

    @pytest.mark.parametrize(
        "counts", [np.ones((2, 2)), np.array([[1, -1]]), np.ones(3, int), np.ones((2, 2), bool)]
    )
    def test_bad_counts(self, counts: Any) -> None:
        with pytest.raises(ValueError, match="non-negative integers with 2 axes, got"):
            information_of_counts(counts)
        with pytest.raises(ValueError, match="non-negative integers with 1 axes, got"):
            entropy_of_counts(counts.astype(float))

    def test_small_dtypes_do_not_overflow(self) -> None:
        counts = np.full((4, 4), 200, np.uint8)
        assert information_of_counts(counts, "plugin")[0] == pytest.approx(0, abs=1e-12)
        assert information_of_counts(counts) == information_of_counts(counts.astype(np.int64))

    def test_jackknife_removes_the_first_order_of_bias(self) -> None:
        rng = np.random.default_rng(5)
        found: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
        for _ in range(200):
            counts = rng.multinomial(2000, np.full(64, 1 / 64)).reshape(8, 8)
            for name in ESTIMATORS:
                found[name].append(information_of_counts(counts, name)[0])
        expected = 7 * 7 / (2 * 2000 * np.log(2))
        assert np.mean(found["plugin"]) == pytest.approx(expected, rel=0.1)
        assert abs(np.mean(found["jackknife"])) < 0.1 * expected


class TestCoverageJackknife:
    """The default: each of its parts by brute force, and what it is for."""

    @pytest.mark.parametrize("n", [1, 2, 5, 40, 255, 256, 257, 300, 900])
    def test_half_of_the_sample_by_its_definition(self, n: int) -> None:
        from scipy.stats import binom

        from onnx_ei._estimators.tables import TAIL, count_table

        phi = estimator_table("jackknife", n)
        expected = 2 * binom.pmf(np.arange(n + 1), n, 0.5) @ phi - phi[n] + n
        # to 1e-7 past 256, where the table goes by its series
        found = count_table("coverage-jackknife", n)[n, TAIL]
        assert found == pytest.approx(expected, abs=1e-7 if n > 256 else 1e-10)

    def test_d_is_what_half_of_the_sample_says_more(self) -> None:
        rng = np.random.default_rng(0)
        counts = rng.poisson(2.0, (12, 15))
        n = counts.sum()
        from onnx_ei._estimators.histograms import _sum, _tables
        from onnx_ei._estimators.tables import TAIL

        margins = (counts.sum(1), counts.sum(0))
        tables = _tables("coverage-jackknife", int(n), *margins)
        d = _sum(TAIL, tables, counts[counts > 0], margins) / n
        whole = information_of_counts(counts, "jackknife")[0]
        halves = []
        for _ in range(4000):
            half = rng.binomial(counts, 0.5)
            # of a half whose size is fixed: N J_N is what the sums over counts are linear in
            bits, size = information_of_counts(half, "jackknife")[0], half.sum()
            halves.append(2 * bits * size / n)
        error = np.std(halves) / np.sqrt(len(halves))
        # the sums know no J_0 log N of the half's own size: it moves them by 1 / N
        assert abs(np.mean(halves) - whole - d) < 4 * error + 2 / n

    @pytest.mark.parametrize("mean", [1e-4, 0.03, 0.7, 2.4, 30.0, 200.0])
    def test_null_table_by_its_definition(self, mean: float) -> None:
        from scipy.stats import poisson

        from onnx_ei._estimators.poisson import FINEST, STEPS, null_table

        row = round((np.log2(mean) - FINEST) * STEPS)
        mean = 2.0 ** (row / STEPS + FINEST)
        n = np.arange(700)
        p = poisson.pmf(n, mean)
        tables = estimator_rule("coverage-jackknife", 699)[0]
        phi, d = tables[:, 0], tables[:, 1]
        expected = [p @ phi - mean * np.log2(mean) - mean / np.log(2), p @ d]
        left, steps = [], []
        for f in (phi, d):
            slope = p @ ((n - mean) * f) / mean
            left.append(f - p @ f - slope * (n - mean))
            steps.append(np.diff(f, prepend=0.0) - slope)
        for of in (left, steps):
            weight = p if of is left else p * n
            expected += [weight @ (of[i] * of[j]) for i, j in ((0, 0), (0, 1), (1, 1))]
        np.testing.assert_allclose(null_table()[row], expected, rtol=1e-8, atol=1e-9)

    def test_null_moments_are_of_cells_less_margins(self) -> None:
        from onnx_ei._estimators.poisson import FINEST, STEPS, null_moments, null_table

        def row(log: int) -> Any:
            return null_table()[(log - FINEST) * STEPS]

        # two states of 8 samples by four of 4: 8 cells of 2 of 16
        found = null_moments(np.full(2, 8), np.full(4, 4))
        expected = 8 * row(1) - 2 * row(3) - 4 * row(2) + row(4)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        # of cells with many samples each, (K_x - 1)(K_y - 1) / (2 ln(2)^2) is left
        many = null_moments(np.full(8, 2**20), np.full(8, 2**20))
        assert many[2] == pytest.approx(49 / (2 * np.log(2) ** 2), rel=0.02)
        assert many[5] == pytest.approx(49 / np.log(2) ** 2, rel=0.02)

    @pytest.mark.parametrize("drawn", range(4))
    def test_share_of_independence_by_drawing_without_replacement(self, drawn: int) -> None:
        from itertools import permutations

        from onnx_ei._estimators.histograms import _alike

        counts = np.random.default_rng(drawn).integers(0, 3, (2, 3))
        samples = [cell for cell, c in np.ndenumerate(counts) for _ in range(c)]

        def share(matches: Any, k: int) -> float:
            found = [matches(*chosen) for chosen in permutations(samples, k)]
            return float(np.mean(found))

        same = share(lambda a, b: a == b, 2)
        cross = share(lambda a, b, c: a[0] == b[0] and a[1] == c[1], 3)
        rows, columns = share(lambda a, b: a[0] == b[0], 2), share(lambda a, b: a[1] == b[1], 2)
        expected = 1 - (same - 2 * cross + rows * columns) / same if same else 0.0
        x, y = np.nonzero(counts)
        margins = (counts.sum(1), counts.sum(0))
        ends = (margins[0][x], margins[1][y])
        found = _alike(counts[x, y], ends, margins)
        assert found == pytest.approx(min(max(expected, 0), 1), abs=1e-12)

    def test_the_estimate_is_put_together_from_its_parts(self) -> None:
        from onnx_ei._estimators.histograms import _alike, _sum, _tables
        from onnx_ei._estimators.poisson import null_moments
        from onnx_ei._estimators.tables import TAIL

        counts = COUNTS["sparse"]
        n, x, y = counts.sum(), *np.nonzero(counts)
        margins = (counts.sum(1)[counts.sum(1) > 0], counts.sum(0)[counts.sum(0) > 0])
        ends = (counts.sum(1)[x], counts.sum(0)[y])
        seen = [np.count_nonzero(counts == k) for k in range(20)]
        t = sum(k * 2.0 ** (1 - k) * seen[k] for k in range(2, 20))
        d = _sum(TAIL, _tables("coverage-jackknife", n, *margins), counts[x, y], margins) / n
        r = 1 / ((1 + (t + 1) ** 2 / (t * seen[1])) ** (17 / 16) - 1)
        b = null_moments(*margins)[:2] @ [1, -(r if d > 0 else min(r, 1))] / n
        w = _alike(counts[x, y], ends, margins) ** 4
        expected = information_of_counts(counts, "jackknife")[0] - r * d - w * b
        assert d > 0
        assert information_of_counts(counts)[0] == pytest.approx(expected, abs=1e-12)

    def test_independent_pairs_have_no_bits(self) -> None:
        """Below 0.001 bit a pair at 10,000 samples and 64 bins: the plug-in has 0.27."""
        x = np.arange(64) - 31.5
        bell = np.exp(-((x / 3) ** 2) / 2)
        p = np.outer(np.full(64, 1 / 64), bell / bell.sum()).ravel()
        rng = np.random.default_rng(0)
        draws = [rng.multinomial(10_000, p / p.sum()).reshape(64, 64) for _ in range(150)]
        found = np.array([information_of_counts(counts) for counts in draws])
        assert abs(found[:, 0].mean()) < 0.001
        assert found[:, 1].mean() == pytest.approx(found[:, 0].std(ddof=1), rel=0.15)
        held = np.mean(np.abs(found[:, 0]) < 1.96 * found[:, 1])
        assert 0.9 <= held <= 0.99
        plugin = np.mean([information_of_counts(counts, "plugin")[0] for counts in draws])
        assert plugin > 0.08

    def test_nothing_is_made_of_a_sample_that_says_nothing(self) -> None:
        """Every state seen once: no estimator can tell, and none may run away."""
        bits, stderr = information_of_counts(np.eye(500, dtype=int))
        assert 0 < bits < np.log2(500) + 3
        assert np.isfinite(stderr)
        few = np.eye(500, dtype=int)
        few[0, 0] = 2
        assert 0 < information_of_counts(few)[0] < np.log2(500) + 3


def test_no_bit_depends_on_the_threads_of_blas() -> None:
    # It comes with scikit-learn. Threads that are more than the processors split sums too.
    from threadpoolctl import threadpool_limits

    from onnx_ei._estimators.histograms import information as of_states
    from onnx_ei._estimators.poisson import null_moments

    rng = np.random.default_rng(5)
    joint, ends = rng.integers(1, 9, 50_001), rng.integers(9, 90, (2, 50_001))
    x, y = rng.integers(1, 10**5, (2, 3000))  # within the table of all samples
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, user_api="blas"):
            states = of_states(DEFAULT_ESTIMATOR, joint, (ends[0], ends[1]), (x, y))
            found.append((states.bits, states.stderr, *null_moments(x[:5], y).tolist()))
    assert found[0] == found[1] == found[2]
