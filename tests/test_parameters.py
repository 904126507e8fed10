from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from onnx_ei import measures
from onnx_ei._sampling.parameters import (
    _SHARED_DOC,
    DEFAULT_MAX_SAMPLES,
    OPTION_DEFAULTS,
    SWEEP_SAMPLES,
    Options,
    Parameters,
    Unasked,
)

NAMES = (
    "ei",
    "ei_parts",
    "ei_parts_matrix",
    "sensitivity",
    "sensitivity_matrix",
    "vector_and_pairwise_ei",
    "eis_between_groups",
    "degeneracy",
    "phi",
    "measure",
    "measure_many",
)


class TestParameters:
    def test_keeps_plain_numbers(self) -> None:
        numbers: dict[str, Any] = {"samples": np.int64(7), "in_range": [0, np.float32(2)]}
        found = Parameters(threshold=1, **numbers)
        assert (found.samples, found.in_range, found.threshold) == (7, (0.0, 2.0), 1.0)
        assert type(found.samples) is int
        assert found.memory == 1 << 30
        assert Parameters(memory_limit=5).memory == 5

    @pytest.mark.parametrize(
        ("name", "value", "error", "message"),
        [
            ("samples", 0, ValueError, "samples must be at least 1, got 0"),
            ("samples", 1.5, TypeError, "samples must be a whole number, got 1.5"),
            ("samples", True, TypeError, "samples must be a whole number, got True"),
            ("batch_size", 0, ValueError, "batch_size must be at least 1"),
            ("seed", -1, ValueError, "seed must be at least 0"),
            ("max_samples", 0, ValueError, "max_samples must be at least 1"),
            ("memory_limit", 0, ValueError, "memory_limit must be at least 1"),
            ("threshold", 0, ValueError, "threshold must be above 0 and finite, got 0"),
            ("threshold", float("nan"), ValueError, "threshold must be above 0"),
            ("threshold", "x", TypeError, "threshold must be a number"),
            ("tolerance", -1e-6, ValueError, "tolerance must be above 0 and finite, got -1e-06"),
            ("tolerance", None, TypeError, "tolerance must be a number, got None"),
            ("in_bins", 0, ValueError, "in_bins must be from 1 to 65535, got 0"),
            ("in_bins", 70000, ValueError, "in_bins must be from 1 to 65535"),
            ("in_bins", "dynamic", TypeError, "in_bins must be a whole number"),
            ("out_bins", -3, ValueError, "out_bins must be from 1 to 65535, got -3"),
            ("out_bins", "many", ValueError, "out_bins must be a whole number or 'dynamic'"),
            ("in_range", "dynamic", ValueError, "only out_range can be 'dynamic'"),
            ("in_range", (1, 1), ValueError, "in_range must be finite with lower < upper"),
            ("in_range", (2, 1), ValueError, r"got \(2.0, 1.0\)"),
            ("in_range", (0, float("inf")), ValueError, "in_range must be finite"),
            ("in_range", 3, ValueError, r"in_range must be a pair \(lower, upper\), got 3"),
            ("out_range", (0, 1, 2), ValueError, "out_range must be a pair"),
            ("out_range", "wide", ValueError, "or 'dynamic', got 'wide'"),
            ("estimator", "jacknife", ValueError, "did you mean 'jackknife'"),
            ("method", "exakt", ValueError, "unknown method 'exakt': did you mean 'exact'"),
            ("progress", "yes", TypeError, "progress must be None, a bool or a function"),
        ],
    )
    def test_refuses(self, name: str, value: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            Parameters(**{name: value})


class TestUnasked:
    def test_a_default_is_a_number_like_any_other_but_can_be_told(self) -> None:
        assert SWEEP_SAMPLES == 500
        assert repr(SWEEP_SAMPLES) == "500"
        assert isinstance(SWEEP_SAMPLES, Unasked)
        assert type(Parameters(samples=SWEEP_SAMPLES).samples) is int
        for name in ("sensitivity", "sensitivity_matrix"):
            shown = inspect.signature(getattr(measures, name)).parameters["samples"]
            assert str(shown) == "samples: 'int | None' = 500"


class TestWithOptions:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_measure_shows_the_options_keyword_only(self, name: str) -> None:
        shown = inspect.signature(getattr(measures, name)).parameters
        for option, default in OPTION_DEFAULTS.items():
            assert shown[option].kind is inspect.Parameter.KEYWORD_ONLY
            assert shown[option].default == default
        assert "options" not in shown

    @pytest.mark.parametrize("name", NAMES)
    def test_every_argument_is_documented(self, name: str) -> None:
        function = getattr(measures, name)
        doc = inspect.getdoc(function) or ""
        assert not [part for part in _SHARED_DOC if f"{{{part}}}" in doc]
        for argument in inspect.signature(function).parameters:
            assert f"\n{argument} :" in doc

    def test_the_three_lists_of_options_agree(self) -> None:
        assert set(Options.__annotations__) == set(OPTION_DEFAULTS)
        assert OPTION_DEFAULTS["max_samples"] == DEFAULT_MAX_SAMPLES

    def test_an_unknown_option_is_refused(self) -> None:
        with pytest.raises(TypeError, match="sed"):
            measures.ei("fc", None, sed=1)  # type: ignore[call-arg]
