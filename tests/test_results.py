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


def measurement(**changes: Any) -> Measurement:
    return Measurement(**{**FIELDS, **changes})


class TestMeasurement:
    def test_has_the_fields_of_the_contract(self) -> None:
        assert {f.name for f in dataclasses.fields(Measurement)} == set(FIELDS)

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
            ({"seconds": -1.0}, "seconds must not be negative"),
            ({"in_range": (1.0, 0.0)}, "in_range must be"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            measurement(**changes)


class TestToDict:
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
