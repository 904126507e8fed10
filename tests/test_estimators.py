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
    estimator_table,
    information_of_counts,
    log2_table,
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
        assert ESTIMATORS == ("plugin", "miller-madow", "grassberger", "jackknife")
        assert DEFAULT_ESTIMATOR == "jackknife"
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
        once = {"miller-madow": -0.5, "grassberger": -(np.euler_gamma + np.log(2))}.get(name, 0.0)
        assert long[0] == 0.0
        assert long[1] == pytest.approx(once / np.log(2), abs=1e-15)
        assert np.isfinite(long).all()

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
            estimator_table("log2", 3)

    def test_negative_lengths(self) -> None:
        for table in (lambda n: estimator_table("plugin", n), log2_table):
            with pytest.raises(ValueError, match="must be at least 0, got -1"):
                table(-1)


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
        for name in ESTIMATORS:
            stderr = information_of_counts(counts, name)[1]
            assert stderr == pytest.approx(expected, abs=1e-12)


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
