from __future__ import annotations

import numpy as np
import pytest

from onnx_ei._sampling.convergence import (
    Estimate,
    extrapolated,
    has_converged,
    is_hopeless,
    run_schedules,
    samples_to_cover,
)
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


class TestHopeless:
    def covered(self, coverage: object, value: object = 1.0, stderr: float = 0.001) -> Estimate:
        shape = np.shape(coverage)
        return Estimate(
            value=np.broadcast_to(np.asarray(value, float), shape),
            stderr=np.full(shape, stderr),
            out_of_range=0.0,
            coverage=np.asarray(coverage, float),
        )

    @pytest.mark.parametrize("n", [2_000, 20_000, 100_000])
    def test_the_estimate_of_equally_likely_states(self, n: int) -> None:
        # 40,000 states: 95 % coverage needs 40,000 ln 20 samples
        rng = np.random.default_rng(n)
        seen = np.bincount(rng.integers(0, 40_000, n))
        coverage = 1 - np.sum(seen == 1) / n
        truth = 40_000 * np.log(20)
        needed = float(samples_to_cover(np.array(coverage), n))
        # the number of states seen once has a standard deviation below sqrt(n)
        assert abs(needed / truth - 1) < 4 / (n**0.5 * coverage)

    def test_states_that_are_not_equally_likely_take_longer(self) -> None:
        rng = np.random.default_rng(0)
        weights = 1 / np.arange(1, 20_001)
        seen = np.bincount(rng.choice(20_000, 50_000, p=weights / weights.sum()))
        needed = float(samples_to_cover(np.array(1 - np.sum(seen == 1) / 50_000), 50_000))
        more = np.bincount(rng.choice(20_000, int(needed), p=weights / weights.sum()))
        assert 1 - np.sum(more == 1) / int(needed) < 0.96

    @pytest.mark.parametrize(
        ("coverage", "n", "verdict"),
        [
            (0.0, 10_000, True),
            (0.01, 10_000, True),  # about 3 million
            (0.05, 10_000, False),  # about 600,000
            (0.03, 10_000, False),  # about 980,000: near the limit sampling goes on
            (0.5, 10_000, False),
            (0.5, 500_000, True),
        ],
    )
    def test_the_limit(self, coverage: float, n: int, verdict: bool) -> None:
        assert is_hopeless(None, self.covered(coverage), n, Parameters()) is verdict

    def test_pairs_are_never_hopeless(self) -> None:
        assert not is_hopeless(None, estimate(1.0), 10_000, Parameters())

    def test_one_lost_group_waits_for_the_others(self) -> None:
        moving, still = (
            self.covered([0.0, 0.99], [13.0, 2.0]),
            self.covered([0.0, 0.99], [14.0, 2.0]),
        )
        assert not is_hopeless(None, moving, 10_000, Parameters())
        assert not is_hopeless(self.covered([0.0, 0.99], [12.0, 1.0]), moving, 20_000, Parameters())
        assert is_hopeless(moving, still, 40_000, Parameters())

    def test_sampling_gives_up_at_once(self) -> None:
        asked: list[int] = []

        def estimates_at(n: int, names: list[str]) -> dict[str, Estimate]:
            asked.append(n)
            return {"ei": self.covered(0.0, np.log2(n))}

        found = run_schedules(estimates_at, ["ei"], Parameters())["ei"]
        assert asked == [10_000]
        assert (found.n_samples, found.converged) == (10_000, False)
