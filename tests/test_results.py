from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from onnx_ei.results import Measurement

FIELDS: dict[str, Any] = {
    "name": "ei",
    "value": 2.0,
    "stderr": 0.01,
    "n_samples": 1000,
    "estimator": "jackknife",
    "method": "sample",
    "out_of_range": 0.0,
    "coverage": 0.99,
    "converged": None,
    "provider": "CPUExecutionProvider",
    "seconds": 0.1,
    "seed": 0,
    "layer": "fc2",
    "in_layer": "fc1",
    "n_inputs": 3,
    "n_outputs": 2,
    "in_range": (0.0, 1.0),
    "out_range": (-1.0, 1.0),
    "in_bins": 8,
    "out_bins": 4,
    "positions": "one",
    "batched": True,
}
VECTOR: dict[str, Any] = {
    "singletons": 10,
    "n_states": (64, 16, 100),
    "saturation": 0.2,
    "upper_bound": 4.0,
    "notes": ("EI is at most 4.00 bits",),
}
GROUPS: dict[str, Any] = {
    "name": "eis_between_groups",
    "value": [2.0, 9.0],
    "stderr": [0.1, 0.2],
    "coverage": [0.99, 0.1],
    "singletons": [10, 900],
    "n_states": [(64, 16, 100), (500, 400, 950)],
    "saturation": [0.2, 0.9],
    "upper_bound": [4.0, 8.0],
}
JUDGED = {"adequacy", "reliable"}
TESTED = {"pvalues"}


def measurement(**changes: Any) -> Measurement:
    return Measurement(**{**FIELDS, **changes})


class TestMeasurement:
    def test_has_the_fields_of_the_contract(self) -> None:
        fields = {f.name for f in dataclasses.fields(Measurement)}
        assert fields == {*FIELDS, *VECTOR, *JUDGED, *TESTED}

    def test_is_frozen_and_keyword_only(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            measurement().value = 3.0  # type: ignore[misc]
        with pytest.raises(TypeError, match="positional"):
            Measurement("ei")  # type: ignore[call-arg]

    def test_freezes_arrays(self) -> None:
        found = measurement(value=np.ones((3, 2)), stderr=np.zeros((3, 2)))
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(found.value)[0, 0] = 2.0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n_samples": 0}, "n_samples must be at least 1, got 0"),
            ({"n_inputs": 0}, "n_inputs must be at least 1"),
            ({"n_outputs": -1}, "n_outputs must be at least 1"),
            ({"in_bins": 0}, "in_bins must be at least 1"),
            ({"value": [1.0, 2.0]}, r"one shape, got \(2,\) and \(\)"),
            ({"stderr": -0.1}, "stderr must not be negative"),
            ({"out_of_range": 1.1}, "shares in"),
            ({"coverage": -0.1}, "shares in"),
            ({"coverage": [0.5, 2.0]}, "shares in"),
            ({"method": "exact", "n_samples": -1}, "n_samples must be at least 0, got -1"),
            ({"seconds": -1.0}, "seconds must not be negative"),
            ({"singletons": -1}, "singletons must not be negative, got -1"),
            ({"saturation": float("inf")}, "saturation must be finite, got inf"),
            ({"saturation": float("nan")}, "saturation must not be negative, got nan"),
            ({"upper_bound": float("inf")}, "upper_bound must be finite, got inf"),
            ({"n_states": (1, 2)}, r"n_states must be given for each coverage, got \(1, 2\)"),
            (
                {"singletons": [1, 2]},
                r"singletons must be given for each .*, got \[1, 2\] for 0.99",
            ),
            ({"coverage": None, "singletons": 1}, "singletons must be given for each coverage"),
            ({"coverage": [0.5, 0.5], "saturation": 0.1}, "saturation must be given for each"),
            ({"notes": "one"}, "notes must be a tuple of str, got 'one'"),
            ({"notes": (1,)}, r"notes must be a tuple of str, got \(1,\)"),
            ({"in_range": (1.0, 0.0)}, "in_range must be"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            measurement(**changes)


class TestJudged:
    @pytest.mark.parametrize(
        ("coverage", "adequacy", "reliable"),
        [
            (1.0, "adequate", True),
            (0.95, "adequate", True),
            (0.949, "undersampled", True),
            (0.5, "undersampled", True),
            (0.499, "unreliable", False),
            (0.0, "unreliable", False),
            (None, None, None),
        ],
    )
    def test_by_its_coverage(self, coverage: Any, adequacy: Any, reliable: Any) -> None:
        found = measurement(coverage=coverage)
        assert (found.adequacy, found.reliable) == (adequacy, reliable)

    def test_each_group(self) -> None:
        found = measurement(**GROUPS)
        assert found.adequacy == ["adequate", "unreliable"]
        assert found.reliable == [True, False]

    def test_a_value_of_no_samples_is_not_reliable(self) -> None:
        for coverage in (None, 1.0):
            assert measurement(out_of_range=1.0, coverage=coverage).reliable is False

    def test_exact_values_have_no_samples_and_are_reliable(self) -> None:
        found = measurement(method="exact", n_samples=0, coverage=None)
        assert (found.adequacy, found.reliable) == (None, True)

    def test_is_no_argument_and_follows_a_change(self) -> None:
        with pytest.raises(TypeError, match="reliable"):
            measurement(reliable=True)
        assert dataclasses.replace(measurement(), coverage=0.1).reliable is False


class TestInterval:
    def test_is_the_normal_quantile_times_the_error(self) -> None:
        assert measurement().interval() == pytest.approx((2 - 0.0195996, 2 + 0.0195996))
        assert measurement().interval(0.6827) == pytest.approx((1.99, 2.01), abs=1e-5)

    def test_has_the_kind_of_the_value(self) -> None:
        matrix = measurement(value=np.ones((3, 2)), stderr=np.full((3, 2), 0.1))
        lower, upper = matrix.interval()
        assert isinstance(lower, np.ndarray)
        assert isinstance(upper, np.ndarray)
        np.testing.assert_allclose(upper - lower, 2 * 0.195996, rtol=1e-5)
        pair = measurement(value=(1.0, 2.0), stderr=(0.0, 0.0)).interval()
        assert pair == ((1.0, 2.0), (1.0, 2.0))
        assert measurement(**GROUPS).interval()[0] == pytest.approx(
            [2 - 0.196, 9 - 0.392], abs=1e-4
        )
        assert isinstance(measurement().interval()[0], float)

    def test_no_end_is_below_zero_but_of_what_may_be(self) -> None:
        ends = measurement(value=0.01, stderr=0.1).interval()
        assert ends == pytest.approx((0.0, 0.206), abs=1e-4)
        for name in ("phi", "degeneracy"):
            lower, _ = measurement(name=name, value=0.01, stderr=0.1).interval()
            assert lower == pytest.approx(-0.186, abs=1e-4)

    def test_of_exact_values_is_the_bound(self) -> None:
        found = measurement(method="exact", n_samples=0, coverage=None, stderr=0.5)
        assert found.interval(0.5) == found.interval(0.99) == (1.5, 2.5)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, 95, -0.1, float("nan")])
    def test_refuses(self, confidence: float) -> None:
        with pytest.raises(ValueError, match=r"confidence must be between 0 and 1, got .*try 0.95"):
            measurement().interval(confidence)


class TestToDict:
    def test_says_what_judges_the_value(self) -> None:
        for fields in (VECTOR, GROUPS):
            found = measurement(**fields).to_dict()
            assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert measurement(**VECTOR).to_dict()["n_states"] == [64, 16, 100]
        assert found["adequacy"] == ["adequate", "unreliable"]

    def test_round_trips_through_json(self) -> None:
        found = measurement().to_dict()
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found["in_range"] == [0.0, 1.0]
        assert found["converged"] is None
        assert found["batched"] is True

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (np.array([[1.0, 2.0]]), [[1.0, 2.0]]),
            ((1.0, 2.0), [1.0, 2.0]),
            ([np.float64(1.0)], [1.0]),
            (np.float64(1.5), 1.5),
        ],
    )
    def test_makes_every_shape_plain(self, value: Any, expected: Any) -> None:
        found = measurement(value=value, stderr=np.zeros(np.shape(value))).to_dict()
        assert found["value"] == expected
        json.dumps(found)

    def test_keys_that_are_objects_become_text_and_infinities_none(self) -> None:
        found = measurement(layer=("a", 1), value=float("inf")).to_dict()
        assert found["layer"] == ["a", 1]
        assert found["value"] is None
        assert measurement(layer=frozenset()).to_dict()["layer"] == "frozenset()"
