from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from conftest import require_peer
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_ei import information
from onnx_ei.binning import Binning, bin_values
from onnx_ei.histogram import Keys, joint_counts, pack_keys
from onnx_ei.information import (
    ESTIMATORS,
    Influence,
    PairwiseInformation,
    VectorInformation,
    entropy_of_counts,
    information_of_counts,
    pairwise_information,
    vector_information,
)
from onnx_ei.noise import CHUNK, uniform_chunk

quick = settings(derandomize=True, deadline=None, max_examples=25)


def binned(x: Any, bins: int, range_: tuple[float, float] = (0, 1)) -> tuple[Any, Any]:
    """Return codes and numbers of bins of sample-major values."""
    binning = Binning.uniform(x.shape[1], range_, bins)
    codes = np.empty(x.shape[::-1], binning.code_dtype)
    bin_values(x, binning, codes, np.zeros(x.shape[1], np.int64))
    return codes, binning.n_bins


def noise(n_units: int, chunks: int, seed: int = 0) -> Any:
    return np.concatenate([uniform_chunk(seed, c, n_units, 0, 1) for c in range(chunks)])


def pairwise(x: Any, y: Any, bins: int, estimator: str = "jackknife") -> PairwiseInformation:
    (a, a_bins), (b, b_bins) = binned(x, bins), binned(y, bins)
    return pairwise_information(a, b, a_bins, b_bins, estimator)


def vector(x: Any, y: Any, bins: int, estimator: str = "jackknife") -> VectorInformation:
    kept = np.ones(len(x), bool)
    x_keys, y_keys = Keys.empty(len(x)), Keys.empty(len(x))
    pack_keys(*binned(x, bins), *x_keys, kept)
    pack_keys(*binned(y, bins), *y_keys, kept)
    return vector_information(x_keys, y_keys, kept, estimator)


def some_codes(seed: int = 0, n: int = 900, drop: int = 0) -> tuple[Any, Any, Any, Any]:
    """Return related codes of 3 inputs and 4 outputs, the outputs with ragged bins."""
    rng = np.random.default_rng(seed)
    in_bins, out_bins = np.array([5, 5, 7]), np.array([4, 1, 9, 300])
    x = rng.integers(0, in_bins[:, None] + drop, (3, n))
    y = (x.sum(axis=0) + rng.integers(0, 3, (4, n))) % (out_bins[:, None] + drop)
    return x.astype(np.uint16), y.astype(np.uint16), in_bins, out_bins


class TestPairwise:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("drop", [0, 1])
    def test_each_pair_is_that_of_its_counts(self, estimator: str, drop: int) -> None:
        x, y, in_bins, out_bins = some_codes(drop=drop)
        found = pairwise_information(x, y, in_bins, out_bins, estimator)
        for a in range(3):
            for b in range(4):
                counts = joint_counts(x[a], y[b], int(in_bins[a]), int(out_bins[b]))
                bits, stderr = information_of_counts(counts, estimator)
                assert found.kept[a, b] == counts.sum()
                assert found.bits[a, b] == pytest.approx(bits, abs=1e-12)
                assert found.stderr[a, b] == pytest.approx(stderr, abs=1e-12)
        assert found.total == pytest.approx(found.bits.sum())
        assert found.n_samples == 900
        assert (found.kept < 900).any() == bool(drop)

    def test_scikit_learn(self) -> None:
        metrics = require_peer("sklearn.metrics")
        x, y, in_bins, out_bins = some_codes()
        found = pairwise_information(x, y, in_bins, out_bins, "plugin")
        for a in range(3):
            for b in range(4):
                nats = metrics.mutual_info_score(x[a], y[b])
                assert found.bits[a, b] == pytest.approx(nats / np.log(2), abs=1e-12)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_identity_and_constant(self, dtype: Any) -> None:
        x = np.tile(np.arange(8, dtype=dtype), 16)[None]
        y = np.concatenate([x, 7 - x, np.zeros_like(x)])
        found = pairwise_information(x, y, np.array([8]), np.array([8, 8, 8]), "plugin")
        np.testing.assert_allclose(found.bits, [[3, 3, 0]], atol=1e-12)
        np.testing.assert_allclose(found.stderr, 0, atol=1e-12)
        assert found.total_stderr == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("n", [0, 1, 5])
    def test_nothing_kept(self, n: int) -> None:
        x, bins = np.full((2, n), 4, np.uint8), np.array([4, 4])
        found = pairwise_information(x, x, bins, bins)
        for zeros in (found.bits, found.stderr, found.kept, found.influence.values):
            assert not zeros.any()
        assert (found.total, found.total_stderr, found.n_samples) == (0.0, 0.0, n)

    def test_one_sample(self) -> None:
        x, bins = np.zeros((1, 1), np.uint8), np.array([4])
        found = pairwise_information(x, x, bins, bins)
        assert (found.total, found.total_stderr, found.kept.tolist()) == (0.0, 0.0, [[1]])

    @quick
    @given(st.integers(0, 2**32), st.integers(1, 80), st.integers(0, 1))
    def test_invariants(self, seed: int, n: int, drop: int) -> None:
        x, y, in_bins, out_bins = some_codes(seed, n, drop)
        found = pairwise_information(x, y, in_bins, out_bins, "plugin")
        for a in range(3):
            for b in range(4):
                good = (x[a] < in_bins[a]) & (y[b] < out_bins[b])
                assert found.kept[a, b] == good.sum()
                entropies = [
                    entropy_of_counts(np.bincount(c[good]), "plugin") for c in (x[a], y[b])
                ]
                assert -1e-12 <= found.bits[a, b] <= min(entropies) + 1e-12

    def test_renaming_bins_changes_nothing(self) -> None:
        x, y, in_bins, out_bins = some_codes(drop=1)
        rng = np.random.default_rng(1)
        names = [np.append(rng.permutation(b), b) for b in out_bins]
        renamed = np.stack([name[row] for name, row in zip(names, y, strict=True)])
        before = pairwise_information(x, y, in_bins, out_bins)
        after = pairwise_information(x, renamed.astype(np.uint16), in_bins, out_bins)
        np.testing.assert_allclose(after.bits, before.bits, atol=1e-12)
        np.testing.assert_allclose(after.stderr, before.stderr, atol=1e-12)
        values = (after.influence.values, before.influence.values)
        np.testing.assert_allclose(*values, atol=12 / 2**20)

    @pytest.mark.parametrize("cut", [1, 2])
    def test_tiles_add_up_bit_for_bit(self, cut: int) -> None:
        x, y, in_bins, out_bins = some_codes(drop=1)
        whole = pairwise_information(x, y, in_bins, out_bins)
        tiles = [
            [
                pairwise_information(x[a], y[b], in_bins[a], out_bins[b])
                for b in (slice(cut), slice(cut, None))
            ]
            for a in (slice(cut), slice(cut, None))
        ]
        for name in ("bits", "stderr", "kept"):
            joined = np.block([[getattr(tile, name) for tile in row] for row in tiles])
            np.testing.assert_array_equal(joined, getattr(whole, name))
        for order in (tiles, tiles[::-1]):
            total = Influence.none(900)
            for tile in (tile for row in order for tile in row):
                total += tile.influence
            assert_equal(total, whole.influence)

    @pytest.mark.parametrize("n_outputs", [1, 3])
    def test_many_inputs_to_few_outputs(self, n_outputs: int) -> None:
        rng = np.random.default_rng(4)
        x = rng.integers(0, 3, (30, 200)).astype(np.uint8)
        y = (x[:n_outputs] + x[5]) % 3
        in_bins, out_bins = np.full(30, 3), np.full(n_outputs, 3)
        found = pairwise_information(x, y, in_bins, out_bins)
        alone = [pairwise_information(x[[a]], y, in_bins[[a]], out_bins) for a in range(30)]
        np.testing.assert_array_equal(found.bits, np.concatenate([one.bits for one in alone]))
        assert_equal(found.influence, sum((a.influence for a in alone), Influence.none(200)))

    def test_influence_by_hand(self) -> None:
        # 4 samples, the last dropped: cells (0,0) twice and (1,1) once; n / kept = 4 / 3.
        x, y = np.array([[0, 0, 1, 2]], np.uint8), np.array([[0, 0, 1, 0]], np.uint8)
        found = pairwise_information(x, y, np.array([2]), np.array([2]), "plugin")
        mean = (2 * np.log2(3 / 2) + np.log2(3)) / 3
        expected = [np.log2(3 / 2) - mean, np.log2(3 / 2) - mean, np.log2(3) - mean, 0]
        assert found.bits[0, 0] == pytest.approx(mean)
        np.testing.assert_allclose(found.influence.values, np.array(expected) * 4 / 3, atol=2**-20)
        assert found.influence.variance == found.influence.first_order
        variance = 4 * np.mean(np.square(expected[:3])) / 3
        assert found.influence.variance == pytest.approx(variance, abs=2**-26)

    def test_layouts(self) -> None:
        x, y, in_bins, out_bins = some_codes()
        expected = pairwise_information(x, y, in_bins, out_bins).bits
        slow = pairwise_information(np.asfortranarray(x), y, in_bins.astype(np.uint8), out_bins)
        np.testing.assert_array_equal(slow.bits, expected)

    def test_bad_arguments(self) -> None:
        x, y, in_bins, out_bins = some_codes()
        with pytest.raises(ValueError, match="unknown estimator 'plug-in': did you mean 'plugin'"):
            pairwise_information(x, y, in_bins, out_bins, "plug-in")
        with pytest.raises(ValueError, match="900 samples of the inputs, but 899 of the outputs"):
            pairwise_information(x, y[:, 1:], in_bins, out_bins)
        with pytest.raises(ValueError, match=r"codes must be \(units, samples\)"):
            pairwise_information(x, y, in_bins[:2], out_bins)
        with pytest.raises(ValueError, match="at least one unit"):
            pairwise_information(x, y[:0], in_bins, out_bins[:0])
        with pytest.raises(ValueError, match="a code of unit 2 is 6, past its 5 bins"):
            pairwise_information(x, y, np.array([5, 5, 5]), out_bins)

    def test_result_is_validated(self) -> None:
        good = {"bits": np.zeros((2, 3)), "stderr": np.zeros((2, 3)), "kept": np.zeros((2, 3), int)}
        with pytest.raises(ValueError, match="matrices of one shape"):
            PairwiseInformation(
                **{**good, "kept": np.zeros((3, 2), int)}, influence=Influence.none(9), n_samples=9
            )


def assert_equal(found: Influence, expected: Influence) -> None:
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)


class TestPvalues:
    @pytest.mark.parametrize(
        ("bins", "n", "width"), [(8, 2000, None), (2, 300, None), (64, 10_000, 3), (64, 3000, 12)]
    )
    def test_uniform_where_independent(self, bins: int, n: int, width: float | None) -> None:
        """Dense tables, where it is the G-test, and tables of which most cells are empty."""
        rng = np.random.default_rng(bins)
        sizes = np.full(20, bins)
        x = rng.integers(0, bins, (20, n)).astype(np.uint8)
        y = rng.integers(0, bins, (20, n)).astype(np.uint8)
        if width is not None:
            y = np.clip(np.rint(rng.normal(31.5, width, (20, n))), 0, 63).astype(np.uint8)
        found = pairwise_information(x, y, sizes, sizes, pvalues=True).pvalues
        assert found is not None
        for level in (0.05, 0.2, 0.5, 0.8):
            # 400 pairs that share their units: twice the binomial error
            error = 2 * np.sqrt(level * (1 - level) / 400)
            assert np.mean(found < level) == pytest.approx(level, abs=3 * error)

    def test_against_shuffles(self) -> None:
        rng = np.random.default_rng(1)
        sizes = (np.array([8]), np.array([6]))
        x = rng.integers(0, 8, (1, 400))
        for shift in (0, 1, 2):
            y = (rng.integers(0, 6, (1, 400)) + shift * (x > 3) * (rng.random(400) < 0.3)) % 6
            codes = x.astype(np.uint8), y.astype(np.uint8)
            found = pairwise_information(*codes, *sizes, pvalues=True).pvalues
            true = information_of_counts(joint_counts(codes[0][0], codes[1][0], 8, 6), "plugin")[0]
            above = 0
            for _ in range(1000):
                counts = joint_counts(codes[0][0], rng.permutation(codes[1][0]), 8, 6)
                above += information_of_counts(counts, "plugin")[0] >= true
            assert found is not None
            assert found[0, 0] == pytest.approx(above / 1000, abs=0.06)

    def test_g_test_of_scipy(self) -> None:
        from scipy.stats import chi2_contingency

        rng = np.random.default_rng(3)
        x = rng.integers(0, 4, (1, 4000)).astype(np.uint8)
        y = ((x + (rng.random(4000) < 0.97) * rng.integers(0, 4, 4000)) % 4).astype(np.uint8)
        bins = np.array([4])
        found = pairwise_information(x, y, bins, bins, pvalues=True).pvalues
        counts = joint_counts(x[0], y[0], 4, 4)
        expected = chi2_contingency(counts, correction=False, lambda_="log-likelihood").pvalue
        assert found is not None
        assert found[0, 0] == pytest.approx(expected, rel=0.1, abs=1e-4)

    def test_relations_and_constants(self) -> None:
        x, bins = np.tile(np.arange(8, dtype=np.uint8), 50)[None], np.array([8])
        y = np.concatenate([x, np.zeros_like(x)])
        found = pairwise_information(x, y, bins, np.array([8, 8]), pvalues=True).pvalues
        assert found is not None
        assert found[0, 0] < 1e-100
        assert found[0, 1] == 1.0
        nothing = pairwise_information(
            np.full_like(x, 8), y, bins, np.array([8, 8]), pvalues=True
        ).pvalues
        assert nothing is not None
        assert nothing.tolist() == [[1.0, 1.0]]

    def test_whatever_the_estimator(self) -> None:
        x, y, in_bins, out_bins = some_codes(drop=1)
        found = [
            pairwise_information(x, y, in_bins, out_bins, name, pvalues=True).pvalues
            for name in ("plugin", "coverage-jackknife")
        ]
        np.testing.assert_array_equal(*found)
        assert pairwise_information(x, y, in_bins, out_bins).pvalues is None


def average(x: Any) -> Any:
    return x.mean(axis=1, keepdims=True)


def sigmoid_of(x: Any, *weights: float) -> Any:
    return 1 / (1 + np.exp(-x @ np.array(weights)[:, None]))


class TestTruths:
    """Networks whose answers are known in closed form or by exact summation."""

    @pytest.mark.parametrize(("bins", "bits"), [(2, 0.37744), (4, 0.81128), (8, 1.09236)])
    def test_average_of_two(self, bins: int, bits: float) -> None:
        x = noise(2, 10)
        found = pairwise(x, average(x), bins)
        assert abs(found.total - bits) < 4 * found.total_stderr

    @pytest.mark.parametrize(
        ("weight", "bits"), [(0.5, 2.0), (0.75, 2.12581), (1.0, 3.0), (2.0, 2.0), (3.0, 1.56128)]
    )
    def test_one_weight_with_drops(self, weight: float, bits: float) -> None:
        x = noise(1, 10)
        found = pairwise(x, x * np.float32(weight), 8)
        assert found.total == pytest.approx(bits, abs=4 * found.total_stderr + 2e-3)
        assert found.kept[0, 0] / len(x) == pytest.approx(min(1, 1 / weight), abs=0.03)

    @pytest.mark.parametrize(("weights", "bits"), [((2.0, -3.0), 1.13561), ((3.0, 3.0), 0.54984)])
    def test_sigmoid(self, weights: tuple[float, float], bits: float) -> None:
        x = noise(2, 10)
        found = pairwise(x, sigmoid_of(x, *weights), 8)
        assert abs(found.total - bits) < 4 * found.total_stderr

    @pytest.mark.parametrize(
        ("weights", "bits"), [((2.0, -3.0), 2.19801), ((3.0, 3.0), 0.82976), ((0.5, 0.5), None)]
    )
    def test_sigmoid_as_a_vector(self, weights: tuple[float, float], bits: float | None) -> None:
        x = noise(2, 20)
        found = vector(x, sigmoid_of(x, *weights), 8)
        assert found.coverage > 0.99
        if bits is not None:
            assert abs(found.bits - bits) < 4 * found.stderr

    def test_copies(self) -> None:
        x = noise(1, 4)
        copies = np.repeat(x, 3, axis=1)
        assert vector(x, copies, 8).bits == pytest.approx(3, abs=0.01)
        assert pairwise(x, copies, 8).total == pytest.approx(9, abs=0.03)


class TestStandardErrors:
    """The errors against the scatter over seeded repeats, within a quarter."""

    def test_of_a_sum_of_pairs_that_share_samples(self) -> None:
        weights = np.array([[2.0, 1.5, -1.0], [-3.0, 1.5, 0.5]])
        totals, errors, naive = [], [], []
        for seed in range(100):
            x = noise(2, 1, seed)
            found = pairwise(x, 1 / (1 + np.exp(-x @ weights)), 4)
            totals.append(found.total)
            errors.append(found.total_stderr)
            naive.append(np.sqrt(np.sum(found.stderr**2)))
        scatter = np.std(totals, ddof=1)
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(scatter, rel=0.25)
        # Adding the pairs' variances is wrong by more: the pairs are correlated.
        assert abs(np.mean(naive) / scatter - 1) > 0.25

    def test_with_dropped_samples(self) -> None:
        totals, errors = [], []
        for seed in range(100):
            x = noise(2, 1, seed)
            found = pairwise(x, (x @ np.array([[1.0, 0.7], [0.5, 0.9]])), 4)
            totals.append(found.total)
            errors.append(found.total_stderr)
        scatter = np.std(totals, ddof=1)
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(scatter, rel=0.25)

    def test_of_one_pair_and_of_vectors(self) -> None:
        found = []
        for seed in range(100):
            x = noise(2, 1, seed)
            y = sigmoid_of(x, 2.0, -3.0)
            pair, whole = pairwise(x[:, :1], y, 4), vector(x, y, 4)
            shared = whole.influence.stderr
            found.append((pair.total, pair.stderr[0, 0], whole.bits, whole.stderr, shared))
        pairs, pair_errors, wholes, whole_errors, shared_errors = np.array(found).T
        assert np.mean(pair_errors) == pytest.approx(np.std(pairs, ddof=1), rel=0.25)
        assert np.mean(whole_errors) == pytest.approx(np.std(wholes, ddof=1), rel=0.25)
        assert np.mean(shared_errors) == pytest.approx(np.std(wholes, ddof=1), rel=0.25)

    def test_of_a_difference_that_shares_samples(self) -> None:
        found = []
        for seed in range(100):
            x = noise(2, 1, seed)
            y = sigmoid_of(x, 2.0, -3.0)
            whole, parts = vector(x, y, 4), pairwise(x, y, 4)
            found.append(
                (
                    whole.bits - parts.total,
                    (whole.influence - parts.influence).stderr,
                    np.hypot(whole.stderr, parts.total_stderr),
                )
            )
        values, errors, apart = np.array(found).T
        scatter = np.std(values, ddof=1)
        assert np.mean(errors) == pytest.approx(scatter, rel=0.25)
        assert abs(np.mean(apart) / scatter - 1) > 0.25

    def test_of_weak_pairs_and_their_sum(self) -> None:
        """The variance of second order is all there is: first order says 1.4 times as much."""
        rng = np.random.default_rng(2)
        bins = np.full(3, 8)
        found = []
        for _ in range(200):
            x, y = rng.integers(0, 8, (2, 3, 2000)).astype(np.uint8)
            info = pairwise_information(x, y, bins, bins)
            jackknife = pairwise_information(x, y, bins, bins, "jackknife")
            found.append((info.bits[0, 0], info.stderr[0, 0], jackknife.stderr[0, 0],
                          info.total, info.total_stderr))  # fmt: skip
        pair, error, first_order, total, total_error = np.array(found).T
        assert np.mean(error) == pytest.approx(np.std(pair, ddof=1), rel=0.15)
        assert np.mean(first_order) > 1.25 * np.std(pair, ddof=1)
        assert np.mean(total_error) == pytest.approx(np.std(total, ddof=1), rel=0.15)
        # independent in truth: (8 - 1)^2 / (2 N^2 ln(2)^2)
        assert np.std(pair) == pytest.approx(7 / (2000 * np.log(2) * np.sqrt(2)), rel=0.15)

    def test_of_nothing(self) -> None:
        assert Influence.none(0).stderr == Influence.none(1).stderr == Influence.none(9).stderr == 0


class TestVector:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("bins", [3, 40])
    def test_against_counts_of_the_vectors(self, bins: int, estimator: str) -> None:
        rng = np.random.default_rng(1)
        x = rng.integers(0, bins, (12, 400))
        x = x[:, rng.integers(0, 30, 400)]
        y = np.where(rng.random((20, 400)) < 0.01, 0, x[:1] % np.arange(1, 21)[:, None])
        kept, keys, ids = rng.random(400) < 0.9, [], []
        for codes in (x, y):
            keys.append(Keys.empty(400))
            pack_keys(codes.astype(np.uint8), np.full(len(codes), bins), *keys[-1], kept)
            ids.append(np.unique(codes, axis=1, return_inverse=True)[1].ravel())
        counts = np.zeros((ids[0].max() + 1, ids[1].max() + 1), int)
        np.add.at(counts, (ids[0][kept], ids[1][kept]), 1)
        found = vector_information(keys[0], keys[1], kept, estimator)
        bits, stderr = information_of_counts(counts, estimator)
        assert found.bits == pytest.approx(bits, abs=1e-12)
        assert found.stderr == pytest.approx(stderr, abs=1e-12)
        assert found.n_kept == kept.sum()
        assert found.singletons == (counts == 1).sum()
        assert found.coverage == pytest.approx(1 - found.singletons / found.n_kept)
        states = ((counts.sum(1) > 0).sum(), (counts.sum(0) > 0).sum(), (counts > 0).sum())
        assert found.n_states == states

    def test_one_unit_each_is_a_pair(self) -> None:
        x = noise(2, 1)
        y = np.where(x < 0.9, x, np.nan)
        whole, pair = vector(x[:, :1], y[:, 1:], 6), pairwise(x[:, :1], y[:, 1:], 6)
        assert whole.bits == pytest.approx(pair.total, abs=1e-12)
        assert whole.n_kept == pair.kept[0, 0]
        np.testing.assert_allclose(whole.influence.values, pair.influence.values, atol=2**-19)
        assert whole.stderr == pytest.approx(pair.stderr[0, 0], abs=1e-12)

    def test_a_sample_counts_only_if_every_unit_kept_it(self) -> None:
        x = np.array([[0.1, 0.1], [0.9, 2.0], [0.9, 0.9], [np.nan, 0.1]])
        found = vector(x, x, 2)
        assert (found.n_kept, found.n_states) == (2, (2, 2, 2))

    def test_undersampling_shows_in_the_coverage(self) -> None:
        x = noise(8, 1)
        found = vector(x, x, 64, "plugin")
        assert found.bits == pytest.approx(np.log2(CHUNK))
        assert (found.coverage, found.singletons) == (0.0, CHUNK)

    @pytest.mark.parametrize("n", [0, 1, 70])
    def test_nothing_kept(self, n: int) -> None:
        words = np.zeros(n, np.uint64)
        found = vector_information((words, words), (words, words), np.zeros(n, bool))
        assert (found.bits, found.stderr, found.n_kept, found.coverage) == (0.0, 0.0, 0, 0.0)
        assert found.n_states == (0, 0, 0)
        assert not found.influence.values.any()

    @pytest.mark.parametrize("n", [500, 2000])
    def test_a_second_thread_changes_nothing(self, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(information, "FEW_SAMPLES", 1000)
        rng = np.random.default_rng(n)
        x, y = ((np.zeros(n, np.uint64), rng.integers(0, m, n, np.uint64)) for m in (300, 40))
        kept = rng.random(n) < 0.9
        alone, both = (vector_information(x, y, kept, threads=threads) for threads in (1, 2))
        assert (alone.bits, alone.stderr, alone.n_states) == (both.bits, both.stderr, both.n_states)
        np.testing.assert_array_equal(alone.influence.values, both.influence.values)

    def test_bad_arguments(self) -> None:
        words, kept = np.zeros(3, np.uint64), np.ones(3, bool)
        with pytest.raises(ValueError, match="unknown estimator"):
            vector_information((words, words), (words, words), kept, "none")
        with pytest.raises(ValueError, match="vectors of one length"):
            vector_information((words, words), (words[1:], words[1:]), kept)


@pytest.mark.jit
@pytest.mark.skipif(numba.get_num_threads() < 2, reason="there is one thread only")
def test_results_do_not_depend_on_threads() -> None:
    x = noise(5, 20)
    y = 1 / (1 + np.exp(-x @ np.random.default_rng(0).normal(size=(5, 7))))
    before, found = numba.get_num_threads(), []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            found.append((pairwise(x, y, 16), vector(x[:, :2], y, 4)))
    finally:
        numba.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert_equal(one.influence, two.influence)
        for name in vars(one).keys() - {"influence"}:
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.jit
def test_memory_does_not_grow_with_pairs_times_cells() -> None:
    import tracemalloc

    codes = np.random.default_rng(0).integers(0, 64, (128, 500)).astype(np.uint8)
    bins = np.full(128, 64)
    pairwise_information(codes[:2], codes[:2], bins[:2], bins[:2])
    tracemalloc.start()
    try:
        pairwise_information(codes, codes, bins, bins)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The pairs' histograms together would take 268 MB.
    assert peak < 5e6
