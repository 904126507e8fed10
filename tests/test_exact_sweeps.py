"""Sensitivity of affine layers, exactly: against tables, fractions and its own bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from exact_cases import clip, curve, gelu, identity, relu, sigmoid
from hypothesis import given, settings
from hypothesis import strategies as st
from quadrature import bits, fraction_joint

from onnx_ei._exact.pairs import exact_pairs
from onnx_ei._exact.pieces import Pieces
from onnx_ei._exact.sweeps import exact_sweep_totals, exact_sweeps


def sweep(weights, pieces, in_bins: int, bias: float = 0.0, in_range=(0.0, 1.0)):
    column = np.array(weights, float)[:, None]
    return exact_sweeps(column, np.array([bias]), in_range, in_bins, [pieces])


def total(weights, pieces, in_bins: int) -> float:
    column = np.array(weights, float)[:, None]
    return exact_sweep_totals(column, np.zeros(1), (0.0, 1.0), in_bins, [pieces]).bits[0]


class TestTables:
    @pytest.mark.parametrize(("w", "expected"), [(0.75, 2.12581), (3.0, 1.56128)])
    def test_a_line(self, w: float, expected: float) -> None:
        assert total([w], identity(8, 0.0, 1.0), 8) == pytest.approx(expected, abs=5e-6)

    @pytest.mark.parametrize(("n_bins", "expected"), [(2, 0.0), (4, 2.0), (8, 4.0)])
    def test_the_mean_of_two(self, n_bins: int, expected: float) -> None:
        found = total([0.5, 0.5], identity(n_bins, 0.0, 1.0), n_bins)
        assert found == pytest.approx(expected, abs=1e-9)

    def test_sigmoids_of_two(self) -> None:
        assert total([2.0, -3.0], sigmoid(8), 8) == pytest.approx(3.13021, abs=5e-6)
        assert total([3.0, 3.0], sigmoid(8), 8) == pytest.approx(3.37915, abs=5e-6)

    @pytest.mark.parametrize("n_bins", [2, 3, 8, 100, 256])
    def test_the_identity(self, n_bins: int) -> None:
        for sign, pieces in ((1, identity(n_bins, 0, 1)), (-1, identity(n_bins, -1, 0))):
            found = sweep([sign], pieces, n_bins)
            assert abs(found.bits[0, 0] - math.log2(n_bins)) <= found.bound[0, 0] < 1e-8


@pytest.mark.parametrize(
    "pieces",
    [
        sigmoid(8),
        identity(7, -1.0, 2.0),
        relu(6, 2.0),
        clip(5, 0.0, 1.0),
        curve(gelu, 8, -0.2, 2.0),
        Pieces(edges=[-1.0, -0.5, 0.0, 0.1, 2.0], codes=[1, -1, 0, 1, 0, -1], n_bins=2),
        Pieces(edges=[], codes=[0], n_bins=1),
        Pieces(edges=[0.2], codes=[-1, -1], n_bins=1),
    ],
)
@pytest.mark.parametrize("in_range", [(0.0, 1.0), (-0.3, 2.7), (-4.0, -1.0)])
def test_against_fractions(pieces: Pieces, in_range: tuple[float, float]) -> None:
    weights = [1.3, -0.7, 20.0, 1e-3, 1.0]
    found = sweep(weights, pieces, 6, 0.1, in_range)
    for a, w in enumerate(weights):
        joint = fraction_joint(np.array([w]), 0.1, in_range, 6, pieces, 0)
        assert abs(found.bits[a, 0] - bits(joint)) <= found.bound[a, 0] + 1e-15
        assert found.bound[a, 0] < 1e-9
        assert found.kept[a, 0] == pytest.approx(float(joint.sum()), abs=1e-12)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-12, 8),
    st.sampled_from([0.0, 1.0, -0.3, 1e6]),
    st.integers(1, 9),
)
def test_the_bound_holds(seed: int, exponent: float, bias: float, in_bins: int) -> None:
    rng = np.random.default_rng(seed)
    low = float(rng.choice([0.0, -1.0, rng.normal()]))
    in_range = (low, low + 10.0 ** rng.uniform(-2, 1))
    weight = float(rng.choice([-1.0, 1.0])) * 10.0**exponent
    ends = bias + weight * np.array(in_range)
    edges = np.unique(rng.uniform(ends.min() - abs(weight) / 9, ends.max(), 6))
    codes = rng.integers(-1, 4, edges.size + 1)
    pieces = Pieces(edges=edges, codes=codes, n_bins=4)
    found = sweep([weight], pieces, in_bins, bias, in_range)
    joint = fraction_joint(np.array([weight]), bias, in_range, in_bins, pieces, 0)
    assert abs(found.bits[0, 0] - bits(joint)) <= found.bound[0, 0] + 1e-15


def test_one_input_is_the_same_as_a_pair() -> None:
    weights = np.array([[2.5]])
    arguments = weights, np.array([0.3]), (-0.3, 2.7), 16, [sigmoid(16)]
    pair, line = exact_pairs(*arguments), exact_sweeps(*arguments)
    np.testing.assert_allclose(line.bits, pair.bits, atol=1e-9)


def test_weight_zero_says_nothing() -> None:
    found = sweep([0.0, -0.0, 1.0], identity(4, -1.0, 1.0), 4, bias=1.0, in_range=(-1.0, 1.0))
    assert found.bits[:2].tolist() == found.bound[:2].tolist() == [[0.0], [0.0]]
    assert found.kept[:, 0].tolist() == [1.0, 1.0, pytest.approx(0.5)]
    assert sweep([0.0], identity(4, -1.0, 1.0), 4, bias=1.1).kept.tolist() == [[0.0]]


def test_out_of_range_altogether() -> None:
    found = sweep([1.0, -3.0], identity(4, -1.0, 1.0), 4, bias=1e8)
    assert not found.bits.any()
    assert not found.bound.any()
    assert not found.kept.any()


def test_a_bias_too_large_to_resolve_has_an_honest_bound() -> None:
    # The edge is where it is to 1e-16 of the bias, which here is a tenth of the swing.
    weight = 1e-7
    pieces = Pieces(edges=[np.nextafter(1e8, 2e8)], codes=[0, 1], n_bins=2)
    found = sweep([weight], pieces, 4, bias=1e8, in_range=(-1.0, 1.0))
    joint = fraction_joint(np.array([weight]), 1e8, (-1.0, 1.0), 4, pieces, 0)
    assert abs(found.bits[0, 0] - bits(joint)) <= found.bound[0, 0] + 1e-15


def test_threads_change_nothing_and_totals_are_sums() -> None:
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(30, 8)), rng.normal(size=8)
    arguments = weights, bias, (-0.3, 2.7), 8, [sigmoid(8), relu(5, 4.0)] * 4
    one, many = (exact_sweeps(*arguments, workers=n) for n in (1, 4))
    np.testing.assert_array_equal(one.bits, many.bits)
    totals = exact_sweep_totals(*arguments)
    np.testing.assert_allclose(totals.bits, one.bits.sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(totals.bound, one.bound.sum(axis=0), rtol=1e-14)
    np.testing.assert_allclose(totals.kept, one.kept.mean(axis=0), rtol=1e-14)


@pytest.mark.parametrize("function", [exact_sweeps, exact_sweep_totals])
def test_errors(function) -> None:
    with pytest.raises(ValueError, match="in_bins must be at least 1, got 0"):
        function(np.ones((1, 1)), np.zeros(1), (0.0, 1.0), 0, [sigmoid(2)])
