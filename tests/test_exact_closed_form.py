"""The distribution of a sum of uniforms against exact fractions, and pairs against quadrature."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from exact_cases import identity, relu, sigmoid
from hypothesis import given, settings
from hypothesis import strategies as st
from quadrature import bits, fraction_below, fraction_joint, quadrature_joint

from onnx_ei._exact.closed_form import chain_of, measure_corners, measure_slices
from onnx_ei._exact.units import unit_of


def check(terms: np.ndarray, points: np.ndarray) -> float:
    """Compare a chain with fractions; return the claimed error."""
    values, error = chain_of(terms).below(points)
    exact = [Fraction(float(t)) for t in terms]
    truths = [float(fraction_below(exact, Fraction(float(p)))) for p in points]
    assert np.abs(values - truths).max() <= error
    return error


def points_of(rng: np.random.Generator, terms: np.ndarray) -> np.ndarray:
    """Everywhere, around a corner at every scale, and at corners."""
    corner = terms[0] - terms[1:].sum()
    near = corner + 10.0 ** rng.uniform(-9, 0, 10) * rng.choice([-1.0, 1.0], 10)
    everywhere = rng.uniform(-1.1, 1.1, 10) * terms.sum()
    return np.r_[everywhere, near, rng.uniform(-1, 1, 5) * terms[-1], corner, 0.0, terms.sum()]


@pytest.mark.parametrize(
    "terms",
    [
        [0.3],
        [1.0, 1.0],
        [1.0, 1e-12],
        [1.0, 1.0, 1e-12, 1e-13],
        [1.0, 0.5, 0.3],
        [1.0] * 8,
        [1.0] * 10,
        [2.0**-k for k in range(9)],
        [3.0**-k for k in range(9)],
        [10.0**-k for k in range(9)],
        [1.0] + [1e-2] * 8,
        [1.0, 0.9] + [1e-3] * 7,
        [1.0, 0.7, 0.5] + [1e-4] * 6,
        [1.0] + [1e-9] * 8,
    ],
)
def test_any_mixture_of_scales_reaches_a_picobit(terms: list[float]) -> None:
    points = points_of(np.random.default_rng(len(terms)), np.array(terms))
    assert check(np.array(terms), points) < 1e-12


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-8, 0), min_size=1, max_size=7),
    st.integers(0, 2**32 - 1),
)
def test_random_scales(exponents: list[float], seed: int) -> None:
    terms = np.sort(10.0 ** np.array(exponents))[::-1]
    assert check(terms, points_of(np.random.default_rng(seed), terms)) < 1e-12


def test_many_terms_are_a_short_series() -> None:
    chain = chain_of(np.full(784, 0.1))
    assert chain.terms.size == 0
    assert chain.waves.size <= 48
    # Half of it lies below 0, and a normal distribution is near: 784 terms' kurtosis is -1.2 / 784.
    deviation = 0.1 * np.sqrt(784 / 3)
    values, _ = chain.below(np.array([0.0, deviation]))
    assert values[0] == pytest.approx(0.5, abs=1e-14)
    normal, third = 0.8413447460685429, 0.24197072451914337
    edgeworth = normal - third * (-1.2 / 784) / 24 * (1.0 - 3.0)
    assert values[1] == pytest.approx(edgeworth, abs=1e-6)


@pytest.mark.parametrize("fan_in", [1, 2, 3, 4])
@pytest.mark.parametrize("pieces", [sigmoid(8), identity(7, -1.0, 2.0), relu(5, 3.0)])
def test_pairs_against_quadrature(fan_in: int, pieces) -> None:
    weights = np.array([2.0, -3.0, 0.7, 1.1])[:fan_in]
    unit = unit_of(weights, 0.2, (-0.3, 2.7), pieces)
    results = measure_corners(unit, np.arange(unit.terms.size), 6)
    for a in range(fan_in):
        joint = quadrature_joint(weights, 0.2, (-0.3, 2.7), 6, pieces, a)
        found = results[unit.places[a]]
        assert found[0] == pytest.approx(bits(joint), abs=found[1])
        assert found[1] < 1e-9
        assert found[2] == pytest.approx(float(joint.sum()), abs=found[3])


def test_slices_where_almost_all_is_out_of_range() -> None:
    weights, pieces = np.array([1e6, -1e6, 2e6]), identity(4, -10.0, 10.0)
    unit = unit_of(weights, 3.0, (0.0, 1.0), pieces)
    corners, slices = (m(unit, np.array([0]), 4)[0] for m in (measure_corners, measure_slices))
    joint = fraction_joint(weights, 3.0, (0.0, 1.0), 4, pieces, 2)
    assert float(joint.sum()) == pytest.approx(5e-6, rel=0.01)
    assert slices[1] < 0.05 * corners[1]
    for found in (corners, slices):
        assert abs(found[0] - bits(joint)) <= found[1]
        assert abs(found[2] - float(joint.sum())) <= found[3]


def test_slices_take_wide_intervals_as_they_are() -> None:
    pieces, weights = sigmoid(4), np.array([1.0, 0.8])
    unit = unit_of(weights, -0.9, (0.0, 1.0), pieces)
    joint = quadrature_joint(weights, -0.9, (0.0, 1.0), 5, pieces, 0)
    found = measure_slices(unit, np.array([0]), 5)[0]
    assert found[0] == pytest.approx(bits(joint), abs=found[1])
    assert found[1] < 1e-9
