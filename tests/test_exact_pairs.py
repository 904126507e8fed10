"""EI_parts of affine layers, exactly: against tables, quadrature, counts, and its own bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from exact_cases import clip, curve, gelu, identity, random_layer, relu, sigmoid, silu, truth
from hypothesis import given, settings
from hypothesis import strategies as st
from quadrature import bits, fraction_joint, quadrature_joint

from onnx_ei._exact.pairs import exact_pairs, exact_totals
from onnx_ei._exact.pieces import Pieces


def total(weights, pieces, in_bins: int, bias: float = 0.0, in_range=(0.0, 1.0)) -> float:
    column = np.array(weights, float)[:, None]
    found = exact_totals(column, np.array([bias]), in_range, in_bins, [pieces])
    assert found.bound[0] <= 1e-6 * column.size
    return float(found.bits[0])


def one(layer, tolerance: float = 1e-6) -> tuple[float, float, float]:
    """The bits, bound and share in range of a layer's pair."""
    weights, bias, in_range, in_bins, pieces, a = layer
    found = exact_pairs(
        weights[:, None], np.array([bias]), in_range, in_bins, [pieces], tolerance=tolerance
    )
    return found.bits[a, 0], found.bound[a, 0], found.kept[a, 0]


class TestTables:
    @pytest.mark.parametrize(("w", "expected"), [(0.75, 2.12581), (3.0, 1.56128)])
    def test_a_line_on_the_unit_interval(self, w: float, expected: float) -> None:
        assert total([w], identity(8, 0.0, 1.0), 8) == pytest.approx(expected, abs=5e-6)

    @pytest.mark.parametrize("n_bins", [8, 12, 256])
    @pytest.mark.parametrize("k", [1, 2, 4])
    def test_a_slope_that_divides_the_bins(self, k: int, n_bins: int) -> None:
        for slope in (1 / k, k):
            found = total([slope], identity(n_bins, 0.0, 1.0), n_bins)
            assert found == pytest.approx(math.log2(n_bins / k), abs=1e-6)

    @pytest.mark.parametrize(("n_bins", "expected"), [(2, 0.37744), (4, 0.81128), (8, 1.09236)])
    def test_the_mean_of_two(self, n_bins: int, expected: float) -> None:
        found = total([0.5, 0.5], identity(n_bins, 0.0, 1.0), n_bins)
        assert found == pytest.approx(expected, abs=5e-6)

    def test_sigmoids_of_two(self) -> None:
        assert total([2.0, -3.0], sigmoid(8), 8) == pytest.approx(1.13561, abs=5e-6)
        assert total([3.0, 3.0], sigmoid(8), 8) == pytest.approx(0.549866, abs=5e-6)

    @pytest.mark.parametrize(
        ("n_bins", "peak", "expected"), [(32, 2.988, 3.49340), (128, 2.664, 5.41655)]
    )
    def test_the_peak_of_one_sigmoid(self, n_bins: int, peak: float, expected: float) -> None:
        found = [total([w], sigmoid(n_bins), n_bins) for w in (peak - 0.05, peak, peak + 0.05)]
        assert found[1] == pytest.approx(expected, abs=5e-6)
        assert found[1] == max(found)

    @pytest.mark.parametrize("n_bins", [2, 7, 64, 256])
    def test_an_identity(self, n_bins: int) -> None:
        assert total([1.0], identity(n_bins, 0.0, 1.0), n_bins) == pytest.approx(math.log2(n_bins))


PIECES = {
    "sigmoid": sigmoid(8),
    "identity": identity(7, -1.0, 2.0),
    "relu": relu(8, 3.0),
    "clip": clip(6, 0.0, 1.0),
    "gelu": curve(gelu, 8, -0.2, 2.0),
    "silu": curve(silu, 9, -0.3, 2.0),
    "one bin": Pieces(edges=[], codes=[0], n_bins=1),
    "never": Pieces(edges=[0.3], codes=[-1, -1], n_bins=3),
    "islands": Pieces(edges=[-1.0, -0.5, 0.0, 0.1, 2.0], codes=[1, -1, 0, 1, 0, -1], n_bins=2),
}


class TestQuadrature:
    @pytest.mark.parametrize("in_range", [(0.0, 1.0), (-0.3, 2.7), (-1.0, 1.0)])
    @pytest.mark.parametrize("fan_in", [1, 2, 3, 4])
    @pytest.mark.parametrize("name", PIECES)
    def test_every_kind_of_pieces(self, name: str, fan_in: int, in_range) -> None:
        weights = np.array([1.2, -0.9, 0.5, 2.1])[:fan_in]
        for a in range(fan_in):
            layer = weights, -0.1, in_range, 5, PIECES[name], a
            joint = quadrature_joint(*layer)
            found = one(layer)
            assert found[0] == pytest.approx(bits(joint), abs=1e-6)
            assert found[1] <= 1e-6
            assert found[2] == pytest.approx(float(joint.sum()), abs=1e-6)

    @pytest.mark.parametrize("in_bins", [2, 3, 64, 255, 256])
    @pytest.mark.parametrize("out_bins", [2, 64, 256])
    def test_any_number_of_bins(self, in_bins: int, out_bins: int) -> None:
        layer = np.array([1.7, -0.6]), 0.3, (-0.3, 2.7), in_bins, sigmoid(out_bins), 1
        found = one(layer)
        assert abs(found[0] - bits(quadrature_joint(*layer))) <= found[1] <= 1e-6

    @pytest.mark.parametrize("a", [0, 1, 2])
    def test_three_inputs_at_64_bins(self, a: int) -> None:
        layer = np.array([1.7, -0.6, 3.0]), -1.0, (0.0, 1.0), 64, sigmoid(64), a
        found = one(layer)
        assert abs(found[0] - bits(quadrature_joint(*layer))) <= found[1] <= 1e-6


@settings(derandomize=True, deadline=None, max_examples=120)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-4, 1e-6, 1e-8]))
def test_the_bound_holds(seed: int, tolerance: float) -> None:
    layer = random_layer(np.random.default_rng(seed))
    value, bound, kept = one(layer, tolerance)
    expected, share = truth(layer)
    # The truth is rounded too, to an extended double or to a fraction of one.
    assert abs(value - expected) <= bound + 1e-14
    assert bound <= tolerance or share < 1e-3
    assert kept == pytest.approx(share, abs=tolerance + 1e-14)


class TestSpecialWeights:
    @pytest.mark.parametrize("fan_in", [1, 2, 30])
    def test_zeros_say_nothing(self, fan_in: int) -> None:
        found = exact_pairs(np.zeros((fan_in, 1)), np.zeros(1), (0.0, 1.0), 8, [sigmoid(8)])
        assert not found.bits.any()
        assert not found.bound.any()
        assert (found.kept == 1).all()

    @pytest.mark.parametrize(
        ("bias", "kept"), [(-1.001, 0), (-1.0, 1), (0.0, 1), (1.0, 1), (1.001, 0)]
    )
    def test_a_constant_on_an_edge_is_in_range(self, bias: float, kept: float) -> None:
        pieces = identity(8, -1.0, 1.0)
        found = exact_pairs(np.zeros((3, 1)), np.array([bias]), (0.0, 1.0), 8, [pieces])
        assert found.kept.tolist() == [[kept]] * 3
        assert not found.bits.any()
        assert not found.bound.any()

    def test_a_zero_among_others(self) -> None:
        pieces = identity(8, -1.0, 1.0)
        with_zero = exact_pairs(np.array([[1.0], [0.0], [0.7]]), np.zeros(1), (0, 1), 8, [pieces])
        without = exact_pairs(np.array([[1.0], [0.7]]), np.zeros(1), (0, 1), 8, [pieces])
        np.testing.assert_array_equal(with_zero.bits[[0, 2]], without.bits)
        assert with_zero.bits[1, 0] == with_zero.bound[1, 0] == 0.0
        assert with_zero.kept[1, 0] == with_zero.kept[0, 0]

    @pytest.mark.parametrize("tiny", [1e-6, 1e-12, 1e-30, 1e-300])
    def test_tiny_beside_one(self, tiny: float) -> None:
        weights = np.array([1.0, tiny, tiny])
        large, small = (one((weights, 0.0, (-1.0, 1.0), 8, sigmoid(8), a)) for a in (0, 1))
        alone = total([1.0], sigmoid(8), 8, in_range=(-1.0, 1.0))
        assert large[0] == pytest.approx(alone, abs=1e-4 if tiny == 1e-6 else 1e-6)
        assert 0.0 <= small[0] <= (1e-5 if tiny == 1e-6 else 1e-9)
        assert max(large[1], small[1]) <= 1e-6

    @pytest.mark.parametrize("bias", [0.0, 0.3, 1e3])
    def test_a_tiny_weight_alone_is_as_strong_as_any(self, bias: float) -> None:
        pieces = Pieces(edges=[bias], codes=[0, 1], n_bins=2)
        layer = np.array([2.0**-40]), bias, (-1.0, 1.0), 2, pieces, 0
        assert one(layer)[0] == pytest.approx(1.0, abs=1e-6)

    def test_duplicates_are_measured_once_and_alike(self) -> None:
        weights = np.tile([0.5, -0.5, 0.25], 40)[:, None]
        found = exact_pairs(weights, np.zeros(1), (-1.0, 1.0), 8, [sigmoid(8)])
        assert np.unique(found.bits).size == 2
        assert (found.bits[::3] == found.bits[1::3]).all()

    def test_huge_weights(self) -> None:
        weights, pieces = np.array([1e8, -1e8, 2e8]), identity(8, -10.0, 10.0)
        for a in (0, 2):
            layer = weights, 0.1, (-0.3, 2.7), 8, pieces, a
            joint = fraction_joint(*layer)
            value, bound, kept = one(layer)
            assert abs(value - bits(joint)) <= bound < 1e-3
            assert kept == pytest.approx(float(joint.sum()), rel=1e-6)
            assert kept < 1e-6

    def test_a_huge_bias_that_the_edges_share(self) -> None:
        near = 1e8 + np.array([-0.5, 0.0, 0.5])
        shifted = Pieces(edges=near, codes=np.arange(4), n_bins=4)
        centred = Pieces(edges=near - 1e8, codes=np.arange(4), n_bins=4)
        weights = np.linspace(-1, 1, 12)
        for a in (0, 5):
            far, home = (
                one((weights, b, (-1.0, 1.0), 4, p, a)) for b, p in ((1e8, shifted), (0.0, centred))
            )
            assert far == home

    def test_a_huge_bias_alone_is_out_of_range(self) -> None:
        found = one((np.array([1.0, 2.0]), 1e8, (0.0, 1.0), 8, identity(8, -1, 1), 0))
        assert found == (0.0, 0.0, 0.0)

    def test_what_double_precision_cannot_reach_has_an_honest_bound(self) -> None:
        # The four bins that the sum can reach are 16 standard deviations out: two bits at most.
        found = exact_pairs(np.ones((300, 1)), np.zeros(1), (0, 1), 8, [identity(8, -1.0, 1.0)])
        assert found.bound.max() == pytest.approx(2.0)
        assert found.kept.max() < 1e-9


@pytest.mark.parametrize(("fan_in", "n_samples"), [(10, 10**6), (100, 10**6), (784, 2 * 10**5)])
def test_against_counts(fan_in: int, n_samples: int) -> None:
    rng = np.random.default_rng(fan_in)
    weights = rng.normal(size=fan_in) / math.sqrt(fan_in) * 4
    pieces, n_bins, a = sigmoid(8), 8, int(np.abs(weights).argmax())
    value = one((weights, -0.2, (-1.0, 1.0), n_bins, pieces, a))[0]
    counts = np.zeros(n_bins * n_bins)
    for _ in range(n_samples // 10**4):
        x = rng.uniform(-1, 1, (10**4, fan_in))
        codes = np.searchsorted(pieces.edges, x @ weights - 0.2)
        rows = np.minimum((x[:, a] + 1) * 4, 7).astype(int)
        counts += np.bincount(rows * n_bins + codes, minlength=counts.size)
    p = counts.reshape(n_bins, n_bins) / counts.sum()
    ratio = np.log2(np.where(p > 0, p, 1) / np.outer(p.sum(1), p.sum(0)))
    deviation = math.sqrt(((p * ratio**2).sum() - (p * ratio).sum() ** 2) / n_samples)
    excess = (np.count_nonzero(p) - 2 * n_bins + 1) / (2 * n_samples * math.log(2))
    assert (p * ratio).sum() - excess == pytest.approx(value, abs=4 * deviation + 0.1 * excess)


class TestWholeLayers:
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(40, 9)), rng.normal(size=9)
    pieces = (sigmoid(8), relu(5, 4.0), curve(gelu, 6, -0.2, 3.0)) * 3

    def arguments(self):
        return self.weights, self.bias, (-0.3, 2.7), 8, self.pieces

    def test_threads_change_nothing(self) -> None:
        one, many = (exact_pairs(*self.arguments(), workers=n) for n in (1, 4))
        for name in ("bits", "bound", "kept"):
            np.testing.assert_array_equal(getattr(one, name), getattr(many, name))

    def test_totals_are_sums(self) -> None:
        pairs, totals = exact_pairs(*self.arguments()), exact_totals(*self.arguments(), workers=3)
        np.testing.assert_allclose(totals.bits, pairs.bits.sum(axis=0), rtol=1e-14)
        np.testing.assert_allclose(totals.bound, pairs.bound.sum(axis=0), rtol=1e-14)
        np.testing.assert_allclose(totals.kept, pairs.kept.mean(axis=0), rtol=1e-14)

    def test_the_order_of_inputs_and_outputs_does_not_matter(self) -> None:
        weights, bias, in_range, n_bins, pieces = self.arguments()
        whole = exact_pairs(*self.arguments())
        rows, columns = np.random.default_rng(1).permutation(40), np.arange(9)[::-1]
        part = exact_pairs(
            weights[rows][:, columns], bias[columns], in_range, n_bins, [pieces[b] for b in columns]
        )
        np.testing.assert_array_equal(part.bits, whole.bits[rows][:, columns])

    def test_signs_do_not_matter_where_the_range_is_symmetric(self) -> None:
        weights, bias, _, n_bins, pieces = self.arguments()
        signs = np.where(np.arange(40) % 3, 1.0, -1.0)[:, None]
        whole, turned = (
            exact_pairs(w, bias, (-1.0, 1.0), n_bins, pieces) for w in (weights, weights * signs)
        )
        np.testing.assert_array_equal(whole.bits, turned.bits)

    def test_no_output(self) -> None:
        found = exact_pairs(np.zeros((3, 0)), np.zeros(0), (0.0, 1.0), 8, [])
        assert found.bits.shape == (3, 0)


class TestErrors:
    good = np.ones((2, 1)), np.zeros(1), (0.0, 1.0), 8, [sigmoid(8)]

    @pytest.mark.parametrize(
        ("place", "value", "match"),
        [
            (0, np.ones(2), r"weights of shape \(2,\) need one bias and one Pieces an output"),
            (1, np.zeros(2), r"got bias of shape \(2,\) and 1 pieces; weights are \(n_in, n_out\)"),
            (4, [], r"bias of shape \(1,\) and 0 pieces"),
            (0, np.array([[1.0], [np.nan]]), "weights and bias must be finite, got inf or NaN"),
            (1, np.array([np.inf]), "must be finite, got inf or NaN; check the layer's parameters"),
            (2, (1.0, 1.0), r"in_range must be finite with low < high, got \(1.0, 1.0\)"),
            (2, (0.0, math.inf), "in_range must be finite with low < high"),
            (3, 0, "in_bins must be at least 1, got 0"),
        ],
    )
    def test_arguments(self, place: int, value, match: str) -> None:
        arguments = list(self.good)
        arguments[place] = value
        for function in (exact_pairs, exact_totals):
            with pytest.raises(ValueError, match=match):
                function(*arguments)

    @pytest.mark.parametrize("tolerance", [0.0, -1.0, math.inf, math.nan])
    def test_tolerance(self, tolerance: float) -> None:
        with pytest.raises(ValueError, match="tolerance must be a positive number of bits a pair"):
            exact_pairs(*self.good, tolerance=tolerance)


class TestPieces:
    @pytest.mark.parametrize("edges", [[1.0, 1.0], [2.0, 1.0], [math.nan], [math.inf]])
    def test_edges(self, edges: list[float]) -> None:
        with pytest.raises(ValueError, match="edges must be finite and strictly ascending"):
            Pieces(edges=edges, codes=np.zeros(len(edges) + 1), n_bins=1)

    def test_codes(self) -> None:
        with pytest.raises(
            ValueError, match=r"2 edges make 3 intervals, got codes of shape \(2,\)"
        ):
            Pieces(edges=[0.0, 1.0], codes=[0, 1], n_bins=2)

    @pytest.mark.parametrize("codes", [[0, 2], [-2, 0]])
    def test_bins(self, codes: list[int]) -> None:
        with pytest.raises(ValueError, match=r"codes must lie in \[-1, 2\) for n_bins=2, got"):
            Pieces(edges=[0.0], codes=codes, n_bins=2)

    def test_no_edge(self) -> None:
        assert Pieces(edges=[], codes=[0], n_bins=1).edges.shape == (0,)

    def test_frozen(self) -> None:
        with pytest.raises(ValueError, match="read-only"):
            sigmoid(4).edges[0] = 0.0
