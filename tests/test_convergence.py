from __future__ import annotations

import numpy as np
import pytest

from onnx_ei._sampling.convergence import Estimate, extrapolated, has_converged, run_schedules
from onnx_ei._sampling.parameters import Parameters


def estimate(value: object, stderr: object = 0.0, coverage: float | None = None) -> Estimate:
    return Estimate(
        value=np.asarray(value, np.float64),
        stderr=np.asarray(stderr, np.float64),
        out_of_range=0.0,
        coverage=None if coverage is None else np.asarray(coverage),
    )


class TestHasConverged:
    @pytest.mark.parametrize("sign", [1, -1])
    def test_is_two_sided(self, sign: int) -> None:
        assert not has_converged(estimate(10.0 + sign), estimate(10.0), 0.05)
        assert has_converged(estimate(10.0 + 0.4 * sign), estimate(10.0), 0.05)

    def test_wants_a_small_standard_error_too(self) -> None:
        assert not has_converged(estimate(1.0), estimate(1.0, 0.06), 0.05)

    def test_has_a_floor_of_a_hundredth_of_a_bit(self) -> None:
        assert has_converged(estimate(0.0), estimate(0.009), 0.05)
        assert not has_converged(estimate(0.0), estimate(0.011), 0.05)

    def test_wants_every_entry(self) -> None:
        assert not has_converged(estimate([1.0, 0.0]), estimate([1.0, 0.5]), 0.05)

    def test_does_not_trust_an_undersampled_value(self) -> None:
        assert not has_converged(estimate(20.0), estimate(20.0, coverage=0.94), 0.05)
        assert has_converged(estimate(20.0), estimate(20.0, coverage=0.95), 0.05)


class TestRunSchedules:
    def stages(self, parameters: Parameters, values: list[float]) -> tuple[list[int], bool | None]:
        seen: list[int] = []

        def estimates_at(n: int, names: list[str]) -> dict[str, Estimate]:
            seen.append(n)
            return {names[0]: estimate(values[min(len(seen), len(values)) - 1])}

        outcome = run_schedules(estimates_at, ["a"], parameters)["a"]
        assert outcome.n_samples == seen[-1]
        return seen, outcome.converged

    def test_fixed_samples_are_one_stage(self) -> None:
        assert self.stages(Parameters(samples=123), [1.0]) == ([123], None)

    def test_doubles_until_still(self) -> None:
        found = self.stages(Parameters(), [1.0, 2.0, 2.05])
        assert found == ([10_000, 20_000, 40_000], True)

    def test_a_rising_estimate_does_not_stop_it(self) -> None:
        # deep_ei's signed rule would stop at the second stage
        assert self.stages(Parameters(max_samples=50_000), [1.0, 2.0, 3.0, 4.0]) == (
            [10_000, 20_000, 40_000, 50_000],
            False,
        )

    def test_a_cap_below_the_first_stage(self) -> None:
        assert self.stages(Parameters(max_samples=500), [1.0]) == ([500], False)

    def test_measures_run_abreast_and_end_apart(self) -> None:
        asked: list[tuple[int, list[str]]] = []

        def estimates_at(n: int, names: list[str]) -> dict[str, Estimate]:
            asked.append((n, names))
            return {name: estimate(1.0 if name == "still" else n / 1000) for name in names}

        found = run_schedules(estimates_at, ["still", "rising"], Parameters(max_samples=40_000))
        assert asked == [
            (10_000, ["still", "rising"]),
            (20_000, ["still", "rising"]),
            (40_000, ["rising"]),
        ]
        assert (found["still"].converged, found["rising"].converged) == (True, False)
        assert (found["still"].n_samples, found["rising"].n_samples) == (20_000, 40_000)

    def test_extrapolate_goes_before_samples(self) -> None:
        seen, converged = self.stages(Parameters(extrapolate=True, samples=5), [1.0])
        assert seen == list(range(100_000, 2_000_001, 100_000))
        assert converged is None


class TestExtrapolated:
    sizes = np.arange(5, 21) * 100_000

    @pytest.mark.parametrize("e", [0.6, 1.0, 1.7])
    @pytest.mark.parametrize("a", [-0.5, 2.0])
    def test_finds_the_limit(self, a: float, e: float) -> None:
        points = [estimate(3.0 + a * (n / 1e6) ** -e) for n in self.sizes]
        assert float(extrapolated(self.sizes, points).value) == pytest.approx(3.0, abs=1e-5)

    def test_a_flat_line_stays(self) -> None:
        points = [estimate(3.0) for _ in self.sizes]
        assert float(extrapolated(self.sizes, points).value) == pytest.approx(3.0, abs=1e-9)

    def test_its_error_is_that_of_the_fit(self) -> None:
        # Runs of a mean of unit noise with a bias: the spread of the fitted limits is the error
        # stated, to 4 times the 1 / sqrt(2 * 300) with which 300 runs tell a spread.
        rng = np.random.default_rng(1)
        limits, stated = [], []
        for _ in range(300):
            noise = np.cumsum(rng.normal(size=20))[4:] * np.sqrt(100_000) / self.sizes
            values = 1.0 + noise + 3e5 / self.sizes
            points = [estimate(v, n**-0.5) for v, n in zip(values, self.sizes, strict=True)]
            found = extrapolated(self.sizes, points)
            limits.append(float(found.value))
            stated.append(float(found.stderr))
        assert np.std(limits) == pytest.approx(np.mean(stated), rel=4 / np.sqrt(600))

    def test_its_error_stays_bounded_where_there_is_no_bias(self) -> None:
        rng = np.random.default_rng(2)
        scores = []
        for _ in range(300):
            values = 1.0 + np.cumsum(rng.normal(size=20))[4:] * np.sqrt(100_000) / self.sizes
            points = [estimate(v, n**-0.5) for v, n in zip(values, self.sizes, strict=True)]
            found = extrapolated(self.sizes, points)
            scores.append((float(found.value) - 1.0) / float(found.stderr))
        assert np.abs(scores).max() < 4
