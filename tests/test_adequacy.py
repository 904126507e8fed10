"""Whether a value can be trusted: intervals, coverage, what bounds it, and what is said of it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from fake_spans import identity, layer, measured, plain, sigmoid
from numpy.typing import NDArray

from onnx_ei._sampling.vectors import UnitCounts
from onnx_ei.errors import NotConvergedWarning, OutOfRangeWarning, UndersampledWarning
from onnx_ei.results import Measurement

# FACTS: a sigmoid of 2 a - 3 b on (0, 1), and the mean of a and b, at 8 bins
EDGE = layer([[2.0], [-3.0]], sigmoid)
EDGE_TRUTH = {"ei": 2.19801, "ei_parts": 1.13561, "sensitivity": 3.13021, "phi": 1.06240}
MEAN = layer([[0.5], [0.5]])
MEAN_TRUTH = {"ei": 2.24900, "ei_parts": 1.09236}


def hashed(x: NDArray[Any]) -> NDArray[Any]:
    """Outputs that are independent of the inputs' codes."""
    return np.modf(1e4 * x)[0]


def number(value: object) -> float:
    return float(np.asarray(value))


def undersampled(*arguments: Any, **named: Any) -> tuple[Measurement, str]:
    """Measure, and return the one UndersampledWarning as well."""
    with pytest.warns(UndersampledWarning) as caught:
        found = measured(*arguments, **named)
    (said,) = caught
    return found, str(said.message)


class TestThreshold:
    """The truth lies within threshold x value, as often as 95 % intervals promise."""

    @pytest.mark.parametrize("name", ["ei", "ei_parts", "sensitivity", "phi"])
    @pytest.mark.parametrize("threshold", [0.05, 0.008])
    def test_is_met_over_seeds(self, name: str, threshold: float) -> None:
        truth, met = EDGE_TRUTH[name], []
        for seed in range(40):
            found = measured(
                name, EDGE, (2, 1), in_bins=8, out_bins=8, threshold=threshold, seed=seed
            )
            allowed = max(threshold * number(found.value), 0.01)
            assert found.converged is True
            assert 1.96 * number(found.stderr) <= allowed
            met.append(abs(number(found.value) - truth) <= allowed)
        assert np.mean(met) >= 0.92

    @pytest.mark.parametrize("name", ["ei", "ei_parts"])
    def test_is_met_for_the_mean_of_two(self, name: str) -> None:
        truth, met = MEAN_TRUTH[name], []
        for seed in range(40):
            found = measured(name, MEAN, (2, 1), in_bins=8, out_bins=8, threshold=0.005, seed=seed)
            allowed = max(0.005 * number(found.value), 0.01)
            met.append(abs(number(found.value) - truth) <= allowed)
        assert np.mean(met) >= 0.92

    def test_is_met_where_the_states_are_many(self) -> None:
        # 32,768 equally likely states: 98,000 samples cover 0.95 of them, and the truth is 15
        for seed in range(5):
            found = measured(
                "ei", identity, (5, 5), in_bins=8, out_bins=8, threshold=0.05, seed=seed
            )
            assert found.converged is True
            assert found.adequacy == "adequate"
            assert found.n_samples == 160_000
            assert abs(number(found.value) - 15.0) <= 0.05 * 15.0

    def test_every_entry_of_a_matrix_meets_it(self) -> None:
        function = layer([[0.5, 1.0], [0.5, 0.0]])
        truth = np.array([[MEAN_TRUTH["ei_parts"] / 2, 3.0], [MEAN_TRUTH["ei_parts"] / 2, 0.0]])
        met = []
        for seed in range(40):
            found = measured(
                "ei_parts_matrix", function, (2, 2), in_bins=8, out_bins=8, threshold=0.02,
                seed=seed,
            )  # fmt: skip
            allowed = np.maximum(0.02 * np.asarray(found.value), 0.01)
            assert np.all(1.96 * np.asarray(found.stderr) <= allowed)
            met.append(np.abs(np.asarray(found.value) - truth) <= allowed)
        assert np.mean(met, axis=0).min() >= 0.92

    def test_a_smaller_one_takes_more_samples(self) -> None:
        taken = [
            measured("ei_parts", EDGE, (2, 1), in_bins=8, out_bins=8, threshold=t).n_samples
            for t in (0.05, 0.02, 0.01)
        ]
        assert taken == sorted(taken)
        assert taken[0] == 20_000 < taken[-1]

    def test_the_floor_ends_what_is_zero(self) -> None:
        # independent units: 0 bits, of which no share is a tolerance
        found = measured("ei_parts", hashed, (1, 1), in_bins=8, out_bins=8)
        assert found.converged is True
        assert number(found.value) < 0.01

    def test_the_drift_of_a_bias_is_no_convergence(self) -> None:
        # The plug-in of 100 independent pairs is 100 x 49 / (2 n ln 2) bits too high: 0.011 at
        # 320,000 samples, of which its standard error shows nothing.
        arguments: dict[str, Any] = {"in_bins": 8, "out_bins": 8, "estimator": "plugin"}
        with pytest.warns(NotConvergedWarning, match="the value still moves with the number of"):
            found = measured("ei_parts", hashed, (10, 10), max_samples=320_000, **arguments)
        assert 1.96 * number(found.stderr) < 0.01 < number(found.value)
        found = measured("ei_parts", hashed, (10, 10), **arguments)
        assert (found.converged, found.n_samples) == (True, 640_000)
        assert number(found.value) < 0.01

    def test_the_number_of_samples_depends_on_nothing_but_the_parameters(self) -> None:
        arguments: dict[str, Any] = {"in_bins": 8, "out_bins": 8, "threshold": 0.01}
        first = plain(measured("phi", EDGE, (2, 1), **arguments))
        assert plain(measured("phi", EDGE, (2, 1), memory_limit=300_000, **arguments)) == first


class TestUnconverged:
    def test_says_how_many_samples_the_interval_takes(self) -> None:
        message = (
            r"ei of layer 'fake': not converged to threshold=0\.0001 after max_samples=20000 "
            r"samples: the 95 % interval is ± 0\.0\d+ bits, ± 0\.01 is asked for, which takes "
            r"about \d+,000 samples; raise either, or give samples"
        )
        with pytest.warns(NotConvergedWarning, match=message):
            found = measured(
                "ei", EDGE, (2, 1), in_bins=8, out_bins=8, threshold=1e-4, max_samples=20_000
            )
        assert found.converged is False

    def test_says_how_many_samples_the_states_take(self) -> None:
        with (
            pytest.warns(UndersampledWarning, match=r"98,000|99,000|100,000|97,000"),
            pytest.warns(
                NotConvergedWarning,
                match=r"max_samples=80000 samples: [\d,]+ samples or more are needed to cover",
            ),
        ):
            found = measured("ei", identity, (5, 5), in_bins=8, out_bins=8, max_samples=80_000)
        assert (found.converged, found.n_samples) == (False, 80_000)

    def test_stops_early_and_says_so(self) -> None:
        message = (
            r"stopped after 10000 samples, since max_samples=50000 cannot reach threshold=0\.05: "
            r"[\d,]+ samples or more are needed to cover the joint states; raise max_samples, "
            "use fewer bins, or smaller groups of units"
        )
        with (
            pytest.warns(UndersampledWarning),
            pytest.warns(NotConvergedWarning, match=message),
        ):
            found = measured("ei", identity, (5, 5), in_bins=8, out_bins=8, max_samples=50_000)
        assert (found.converged, found.n_samples) == (False, 10_000)

    def test_one_stage_cannot_tell(self) -> None:
        with pytest.warns(NotConvergedWarning, match="the value still moves"):
            measured("ei_parts", EDGE, (2, 1), in_bins=8, out_bins=8, max_samples=10_000)


class TestIntervals:
    @pytest.mark.parametrize("name", ["ei", "ei_parts", "sensitivity", "phi"])
    def test_hold_the_truth_as_often_as_they_say(self, name: str) -> None:
        held = {0.95: 0, 0.5: 0}
        for seed in range(100):
            found = measured(name, EDGE, (2, 1), samples=5000, in_bins=8, out_bins=8, seed=seed)
            for confidence in held:
                lower, upper = map(number, found.interval(confidence))
                held[confidence] += lower <= EDGE_TRUTH[name] <= upper
        for confidence, times in held.items():
            error = np.sqrt(confidence * (1 - confidence) / 100)
            assert times / 100 == pytest.approx(confidence, abs=4 * error)


class TestWhatIsCounted:
    def test_all_states_seen(self) -> None:
        found = measured("ei", identity, (2, 2), samples=20_000, in_bins=4, out_bins=4)
        assert (found.adequacy, found.reliable, found.notes) == ("adequate", True, ())
        assert (found.singletons, found.n_states) == (0, (16, 16, 16))
        assert found.saturation == pytest.approx(4 / np.log2(20_000), abs=0.01)
        assert found.upper_bound == pytest.approx(4.0)

    def test_every_sample_a_state_of_its_own(self) -> None:
        found, said = undersampled("ei", identity, (8, 8), samples=1000, estimator="plugin")
        assert (found.coverage, found.adequacy, found.reliable) == (0.0, "unreliable", False)
        assert (found.singletons, found.n_states) == (1000, (1000, 1000, 1000))
        # the value says log2 of the samples, and nothing of the layer
        assert found.saturation == pytest.approx(1.0)
        assert "the value is unreliable, 1000 samples cover only 0.00" in said

    def test_between_the_two(self) -> None:
        found, said = undersampled("ei", identity, (4, 4), samples=5000, in_bins=7, out_bins=7)
        assert (found.adequacy, found.reliable) == ("undersampled", True)
        assert "the value is biased, 5000 samples cover only 0.8" in said

    def test_pairs_have_none(self) -> None:
        found = measured("ei_parts", identity, (2, 2), samples=1000, in_bins=4, out_bins=4)
        assert found.adequacy is found.reliable is found.singletons is found.saturation is None
        assert found.n_states is found.upper_bound is None
        assert found.notes == ()

    def test_nothing_kept(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in ("ei", "ei_parts", "sensitivity"):
                found = measured(name, lambda x: x + 7, (1, 1), samples=100)
                assert (found.value, found.reliable) == (0.0, False)
        message = "100 samples cover only 0.00 .* samples that are in range, of which there were"
        with (
            pytest.warns(UndersampledWarning, match=message),
            pytest.warns(OutOfRangeWarning, match=r"100\.0% of the samples"),
        ):
            measured("ei", lambda x: x + 7, (1, 1), samples=100)

    def test_one_sample_shows_no_constant(self) -> None:
        found, _ = undersampled("ei", identity, (1, 1), samples=1)
        assert (found.coverage, found.reliable) == (0.0, False)
        constant = measured("ei", layer(np.zeros((1, 1))), (1, 1), samples=10)
        assert (constant.coverage, constant.reliable, constant.value) == (1.0, True, 0.0)

    def test_each_group(self) -> None:
        groups = [((0,), (0,)), ((0, 1, 2, 3), (0, 1, 2, 3)), ((0, 1), (0, 0, 1))]
        found, said = undersampled(
            "eis_between_groups", identity, (4, 4), groups=groups, samples=2000, in_bins=8,
            out_bins=8,
        )  # fmt: skip
        assert found.adequacy == ["adequate", "unreliable", "adequate"]
        assert found.reliable == [True, False, True]
        assert isinstance(found.n_states, list)
        assert [states[0] for states in found.n_states] == [8, found.n_states[1][2], 64]
        # a unit named twice has its entropy once
        assert found.upper_bound == pytest.approx([3.0, 12.0, 6.0])
        assert "EI is at most 12.00 bits in groups[1]; " in said
        assert "fewer bins or smaller groups of units need fewer samples" in said

    def test_many_groups(self) -> None:
        groups = [((0, 1, 2, 3), (0, 1, 2, 3))] * 5
        _, said = undersampled(
            "eis_between_groups", identity, (4, 4), groups=groups, samples=500, in_bins=8,
            out_bins=8,
        )  # fmt: skip
        assert "12.00 bits in groups[2] (and 2 more groups); " in said


WEIGHTS = np.random.default_rng(0).normal(size=(4, 3))


class TestUpperBound:
    @pytest.mark.parametrize("bins", [4, 16, 64])
    @pytest.mark.parametrize("samples", [50, 1000, 20_000])
    def test_is_the_entropy_of_the_units_and_no_less(self, bins: int, samples: int) -> None:
        # Uniform on all bins and on half of them; and 3 x cut at 1, two thirds of it in the last.
        function = layer(np.diag([1.0, 0.5, 3.0]), lambda z: np.minimum(z, 1.0))
        last = np.array([1 / (3 * bins)] * (bins - 1) + [2 / 3 + 1 / (3 * bins)])
        entropy = 2 * np.log2(bins) - 1 - last @ np.log2(last)
        arguments: dict[str, Any] = {"samples": samples, "in_bins": bins, "out_bins": bins}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndersampledWarning)
            bounds = [
                number(measured("ei", function, (3, 3), seed=seed, **arguments).upper_bound)
                for seed in range(1 if samples == 20_000 else 40)
            ]
        # moved by three standard errors: below the truth in one of a thousand
        assert np.sum(np.array(bounds) < entropy) <= 1
        assert max(bounds) <= 3 * np.log2(bins)
        if samples == 20_000:
            assert bounds[0] == pytest.approx(entropy, rel=0.015)

    def test_is_the_lesser_entropy(self) -> None:
        wide = measured("ei", layer(np.ones((1, 3))), (1, 3), samples=1000, in_bins=4, out_bins=4)
        narrow = measured(
            "ei", layer(np.ones((3, 1)) / 3), (3, 1), samples=1000, in_bins=4, out_bins=4
        )
        assert wide.upper_bound == pytest.approx(2.0)
        assert number(narrow.upper_bound) < 2.0

    def test_holds_at_any_memory_limit_and_stage(self) -> None:
        function = layer(WEIGHTS, sigmoid)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first, *others = (
                measured("ei", function, (4, 3), in_bins=8, out_bins=8, **how)
                for how in (
                    {"samples": 20_000},
                    {"samples": 20_000, "memory_limit": 1},
                    {"max_samples": 20_000},
                )
            )
        assert [found.upper_bound for found in others] == [first.upper_bound] * 2

    def test_of_phi_and_degeneracy(self) -> None:
        function = layer(WEIGHTS, sigmoid)
        arguments: dict[str, Any] = {"samples": 2000, "in_bins": 8, "out_bins": 8}
        ei, _ = undersampled("ei", function, (4, 3), **arguments)
        parts = measured("ei_parts", function, (4, 3), **arguments)
        sensitivity = measured("sensitivity", function, (4, 3), **arguments)
        phi, said = undersampled("phi", function, (4, 3), **arguments)
        bound = number(ei.upper_bound) - number(parts.value)
        errors = 3.01 * (number(phi.stderr) + number(ei.stderr))
        assert bound < number(phi.upper_bound) < bound + errors
        assert f"phi is at most {number(phi.upper_bound):.2f} bits" in said
        degeneracy, said = undersampled("degeneracy", function, (4, 3), **arguments)
        assert degeneracy.upper_bound is None
        least = float(said.split("degeneracy is at least ")[1].split(" bits")[0])
        lowest = number(sensitivity.value) - number(ei.upper_bound)
        errors = 3.01 * (number(degeneracy.stderr) + number(ei.stderr))
        assert lowest - errors - 0.005 < least < lowest  # in two decimals
        both, _ = undersampled("vector_and_pairwise_ei", function, (4, 3), **arguments)
        assert both.upper_bound == ei.upper_bound
        assert both.adequacy == "unreliable"

    def test_a_value_above_it_is_said_to_be(self) -> None:
        arguments: dict[str, Any] = {"samples": 5000, "in_bins": 7, "out_bins": 7}
        found, said = undersampled("ei", identity, (4, 4), estimator="jackknife", **arguments)
        assert number(found.value) > number(found.upper_bound)
        assert "by the entropy of the input units, less than the value; " in said


class TestUnitCounts:
    def test_is_the_sum_of_entropies_that_the_errors_raise(self) -> None:
        rng = np.random.default_rng(0)
        n, shares = 10_000, ([0.5, 0.5], [0.7, 0.1, 0.1, 0.1], [1.0, 0.0, 0.0])
        truth = sum(-p * np.log2(p) for of in shares for p in of if p)
        n_bins = np.array([len(of) for of in shares])
        bounds = []
        for _ in range(200):
            counts = UnitCounts(n_bins)
            for _ in range(4):
                codes = np.stack([rng.choice(len(of), n // 4, p=of) for of in shares])
                counts.add(codes.astype(np.uint8), np.ones(n // 4, bool))
            bounds.append(counts.entropy_bound())
        assert np.mean(np.array(bounds) >= truth) > 0.97
        assert np.mean(bounds) == pytest.approx(truth, abs=0.04)

    def test_leaves_out_what_was_dropped(self) -> None:
        counts, kept = UnitCounts(np.array([2])), np.arange(20_000) % 2 == 0
        counts.add(np.where(kept, 0, 2)[None].astype(np.uint8), kept)
        assert counts.entropy_bound() < 0.001

    def test_bins_without_end_are_not_counted(self) -> None:
        counts = UnitCounts(np.full(100, 1 << 16))
        counts.add(np.zeros((100, 5), np.uint16), np.ones(5, bool))
        assert counts.entropy_bound() == 1600.0
