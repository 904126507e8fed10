"""The Fourier series of an output unit: length, period, and bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from exact_cases import identity, relu, sigmoid
from quadrature import bits, extended_joint, fraction_joint

from onnx_ei._exact.series import series_of
from onnx_ei._exact.units import Unit, unit_of


def unit_for(weights, pieces, bias: float = 0.1) -> Unit:
    return unit_of(np.asarray(weights, float), bias, (0.0, 1.0), pieces)


def test_many_inputs_need_few_frequencies_on_a_period_shorter_than_the_support() -> None:
    weights = np.random.default_rng(0).uniform(-1, 1, 784) / 28
    unit = unit_for(weights, sigmoid(64))
    series = series_of(unit, 64, 1e-6)
    assert series is not None
    assert series.values.size <= 20
    assert math.pi / series.step < 0.3 * unit.reach


@pytest.mark.parametrize("fan_in", [10, 40, 300])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_the_length_follows_the_tolerance(fan_in: int, tolerance: float) -> None:
    weights = np.random.default_rng(fan_in).normal(size=fan_in)
    unit = unit_for(weights, sigmoid(16))
    series, longer = series_of(unit, 16, tolerance), series_of(unit, 16, 1e-3 * tolerance)
    assert series is not None
    assert longer is not None
    assert series.values.size < longer.values.size
    assert series.measure(unit.terms)[:, 1].max() <= tolerance


@pytest.mark.parametrize("fan_in", [1, 2, 3])
def test_few_inputs_have_no_short_series(fan_in: int) -> None:
    weights = np.array([1.0, -0.7, 0.4])[:fan_in]
    assert series_of(unit_for(weights, sigmoid(8)), 8, 1e-6) is None


def test_a_slow_pair_beside_quick_ones_is_left_out() -> None:
    # Without the first input, what is left is tiny: its own series is 10,000 times slower.
    unit = unit_for([1.0, 1.0, 1.0, 1.0, *[1e-6] * 20], sigmoid(8))
    single = unit_for([1.0, *[2e-4] * 20, 1e-5], sigmoid(8))
    series = series_of(unit, 8, 1e-5)
    assert series is not None
    found = series.measure(unit.terms)
    assert np.isfinite(found[1, 1])
    assert series_of(single, 8, 1e-6) is None


@pytest.mark.parametrize(("fan_in", "n_bins"), [(7, 8), (12, 5), (30, 8), (100, 3)])
@pytest.mark.parametrize("pieces", [sigmoid(6), identity(5, -1.0, 1.5), relu(4, 1.0)])
def test_bounds_hold_against_four_times_the_frequencies(fan_in, n_bins, pieces) -> None:
    weights = np.random.default_rng(fan_in).normal(size=fan_in)
    unit = unit_for(weights, pieces)
    for tolerance in (1e-2, 1e-5, 1e-9):
        series = series_of(unit, n_bins, tolerance)
        assert series is not None
        longer = 4 * series.values.size * math.ceil(unit.reach * series.step / math.pi)
        for a in (0, int(np.abs(weights).argmax())):
            found = series.measure(unit.terms[unit.places[a]][None])[0]
            joint = extended_joint(weights, 0.1, (0.0, 1.0), n_bins, pieces, a, max(longer, 400))
            assert abs(found[0] - bits(joint)) <= found[1]
            assert abs(found[2] - float(joint.sum())) <= found[3]


def test_next_to_the_zeros_of_a_factor() -> None:
    # Five equal terms: at every fifth frequency each factor is sin(pi) / pi.
    weights = np.ones(5)
    unit = unit_for(weights, sigmoid(4))
    series = series_of(unit, 4, 1e-6)
    assert series is not None
    assert np.abs(np.sin(unit.terms[0] * series.step * 5)) < 1e-15
    found = series.measure(unit.terms)[0]
    joint = fraction_joint(weights, 0.1, (0.0, 1.0), 4, sigmoid(4), 0)
    assert abs(found[0] - bits(joint)) <= found[1] <= 1e-6


def test_terms_are_measured_in_blocks() -> None:
    weights = np.random.default_rng(0).normal(size=600)
    unit = unit_for(weights, sigmoid(4))
    series = series_of(unit, 4, 1e-6)
    assert series is not None
    whole = series.measure(unit.terms)
    parts = [series.measure(unit.terms[i : i + 1])[0] for i in (0, 255, 256, 511, 599)]
    np.testing.assert_array_equal(whole[[0, 255, 256, 511, 599]], parts)
