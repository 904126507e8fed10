from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnx_ei._sampling.convergence import Outcome, extrapolated, run_schedules
from onnx_ei._sampling.growth import least_samples, likely_samples
from onnx_ei._sampling.parameters import Parameters
from onnx_ei._sampling.stopping import (
    Estimate,
    error_left,
    has_converged,
    is_hopeless,
    next_stage,
)
from onnx_ei._sampling.vectors import Vector


def vector(coverage: float, n: int, n_states: int | None = None) -> Vector:
    """A vector of so many samples: of equally likely states, where their number is not given."""
    singletons = round((1 - coverage) * n)
    unseen = -np.log(max(singletons, 1) / n) if coverage else 1e-9
    even = round(n * -np.expm1(-unseen) / unseen)
    information: Any = SimpleNamespace(
        n_kept=n,
        coverage=coverage,
        singletons=singletons,
        n_states=(50, 50, even if n_states is None else n_states),
    )
    return Vector(information=information, in_bits=20.0, out_bits=15.0)


def estimate(
    value: object, stderr: object = 0.0, n: int = 20_000, coverage: object = None
) -> Estimate:
    shape = np.shape(value)
    given = [] if coverage is None else np.atleast_1d(np.asarray(coverage, float)).tolist()
    return Estimate(
        value=np.asarray(value, np.float64),
        stderr=np.broadcast_to(np.asarray(stderr, np.float64), shape),
        n_samples=n,
        out_of_range=0.0,
        vectors=tuple(vector(share, n) for share in given),
    )


class TestErrorLeft:
    def test_is_the_half_width_where_the_value_moved_by_chance(self) -> None:
        before, now = estimate(1.01, n=10_000), estimate(1.0, 0.01)
        assert float(error_left(before, now)) == pytest.approx(0.0196)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_drift_adds_what_remains_of_it(self, sign: int) -> None:
        # a bias of 0.4 at 10,000 that falls as 1/n is 0.2 at 20,000 and 0.1 at 40,000
        for n, moved, remains in ((20_000, 0.2, 0.2), (40_000, 0.3, 0.1)):
            before, now = estimate(1.0 + sign * moved, n=10_000), estimate(1.0, n=n)
            assert float(error_left(before, now)) == pytest.approx(remains)

    def test_chance_alone_adds_little(self) -> None:
        # means of the first n and the first 4 n of the same numbers
        rng = np.random.default_rng(0)
        added = []
        for _ in range(500):
            x = rng.normal(size=400)
            before = estimate(x[:100].mean(), n=100)
            now = estimate(x.mean(), 1 / np.sqrt(400), n=400)
            added.append(float(error_left(before, now)) - 1.96 / np.sqrt(400))
        assert np.mean(np.array(added) > 1e-12) == pytest.approx(0.05, abs=4 * 0.0097)


class TestHasConverged:
    @pytest.mark.parametrize("sign", [1, -1])
    def test_is_two_sided(self, sign: int) -> None:
        assert not has_converged(estimate(10.0 + sign, n=10_000), estimate(10.0), 0.05)
        assert has_converged(estimate(10.0 + 0.4 * sign, n=10_000), estimate(10.0), 0.05)

    def test_wants_half_the_interval_below_the_threshold(self) -> None:
        before = estimate(1.0, n=10_000)
        assert has_converged(before, estimate(1.0, 0.049 / 1.96), 0.05)
        assert not has_converged(before, estimate(1.0, 0.051 / 1.96), 0.05)

    def test_has_a_floor_of_a_hundredth_of_a_bit(self) -> None:
        before = estimate(0.0, n=10_000)
        assert has_converged(before, estimate(0.0, 0.0099 / 1.96), 0.05)
        assert not has_converged(before, estimate(0.0, 0.0101 / 1.96), 0.05)

    def test_wants_every_entry(self) -> None:
        before = estimate([1.0, 0.0], n=10_000)
        assert not has_converged(before, estimate([1.0, 0.5]), 0.05)
        assert has_converged(before, estimate([1.0, 0.0]), 0.05)

    def test_does_not_trust_an_undersampled_value(self) -> None:
        before = estimate(20.0, n=10_000)
        assert not has_converged(before, estimate(20.0, coverage=0.94), 0.05)
        assert has_converged(before, estimate(20.0, coverage=0.95), 0.05)

    def test_the_coverage_of_a_vector_is_no_matter_of_the_pairs_beside_it(self) -> None:
        now = estimate([20.0, 3.0], coverage=0.5)
        assert now.covered.tolist() == [False, True]


class TestNextStage:
    def test_doubles_at_least(self) -> None:
        assert next_stage(estimate(1.0, 0.0, 10_000), Parameters()) == 20_000

    def test_leaps_to_what_the_standard_error_asks_for(self) -> None:
        for ratio, n in ((1.9, 20_000), (2.1, 40_000), (3.9, 40_000), (4.1, 80_000)):
            stderr = 0.05 * np.sqrt(ratio) / 1.96
            assert next_stage(estimate(1.0, stderr, 10_000), Parameters()) == n

    def test_leaps_three_doublings_at_most(self) -> None:
        assert next_stage(estimate(1.0, 9.0, 10_000), Parameters()) == 80_000

    def test_ends_at_the_most_allowed(self) -> None:
        parameters = Parameters(max_samples=30_000)
        assert next_stage(estimate(1.0, 9.0, 10_000), parameters) == 30_000

    def test_leaps_to_the_least_need_of_the_states(self) -> None:
        # 0.5 at 10,000: 43,000 at least
        now = estimate(5.0, 0.0, 10_000, coverage=0.5)
        assert next_stage(now, Parameters()) == 80_000

    def test_a_lost_group_does_not_drive_the_others(self) -> None:
        now = estimate([13.0, 2.0], [0.0, 0.06], 10_000, coverage=[0.0, 0.99])
        assert next_stage(now, Parameters()) == 20_000


class TestRunSchedules:
    def stages(
        self, parameters: Parameters, values: list[float], stderr: float = 0.0
    ) -> tuple[list[int], bool | None]:
        seen: list[int] = []

        def estimates_at(n: int, names: list[str]) -> dict[str, Estimate]:
            seen.append(n)
            return {names[0]: estimate(values[min(len(seen), len(values)) - 1], stderr, n)}

        outcome = run_schedules(estimates_at, ["a"], parameters)["a"]
        assert outcome.estimate.n_samples == seen[-1]
        return seen, outcome.converged

    def test_fixed_samples_are_one_stage(self) -> None:
        assert self.stages(Parameters(samples=123), [1.0]) == ([123], None)

    def test_one_stage_is_never_enough(self) -> None:
        assert self.stages(Parameters(), [0.0]) == ([10_000, 20_000], True)

    def test_doubles_until_still(self) -> None:
        found = self.stages(Parameters(), [1.0, 2.0, 2.05])
        assert found == ([10_000, 20_000, 40_000], True)

    def test_a_rising_estimate_does_not_stop_it(self) -> None:
        # deep_ei's signed rule would stop at the second stage
        assert self.stages(Parameters(max_samples=50_000), [1.0, 2.0, 3.0, 4.0]) == (
            [10_000, 20_000, 40_000, 50_000],
            False,
        )

    def test_a_standard_error_that_falls_as_it_should_takes_three_stages(self) -> None:
        asked = []

        def estimates_at(n: int, names: list[str]) -> dict[str, Estimate]:
            asked.append(n)
            return {names[0]: estimate(1.0, 0.05 * np.sqrt(150_000 / n) / 1.96, n)}

        found = run_schedules(estimates_at, ["a"], Parameters())["a"]
        assert asked == [10_000, 80_000, 160_000]
        assert found.converged

    def test_a_cap_below_the_first_stage(self) -> None:
        assert self.stages(Parameters(max_samples=500), [1.0]) == ([500], False)

    def test_measures_run_abreast_and_end_apart(self) -> None:
        asked: list[tuple[int, list[str]]] = []

        def estimates_at(n: int, names: list[str]) -> dict[str, Estimate]:
            asked.append((n, names))
            return {name: estimate(1.0 if name == "still" else n / 1000, n=n) for name in names}

        found = run_schedules(estimates_at, ["still", "rising"], Parameters(max_samples=40_000))
        assert asked == [
            (10_000, ["still", "rising"]),
            (20_000, ["still", "rising"]),
            (40_000, ["rising"]),
        ]
        assert (found["still"].converged, found["rising"].converged) == (True, False)
        taken = [found[name].estimate.n_samples for name in ("still", "rising")]
        assert taken == [20_000, 40_000]

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


STATES = 40_000


def seen_in(n: int, probabilities: Any, seed: int) -> tuple[int, int]:
    """States seen once, and at all, by n samples."""
    drawn = np.searchsorted(np.cumsum(probabilities), np.random.default_rng(seed).random(n))
    counts = np.bincount(drawn)
    return int(np.sum(counts == 1)), int(np.sum(counts > 0))


def needed(probabilities: Any) -> float:
    """Samples at which the expected coverage is 0.95, by bisection of its closed form."""
    low, high = 1.0, 1e9
    while high / low > 1.001:
        n = np.sqrt(low * high)
        unseen = np.sum(probabilities * np.exp(-n * probabilities))
        low, high = (low, n) if unseen < 0.05 else (n, high)
    return float(high)


def of_weights(weights: Any) -> Any:
    return weights / weights.sum()


LAWS = {
    "even": of_weights(np.ones(STATES)),
    "log-normal 1": of_weights(np.exp(np.random.default_rng(1).normal(size=STATES))),
    "log-normal 2": of_weights(np.exp(2 * np.random.default_rng(2).normal(size=STATES))),
    "Zipf": of_weights(1 / np.arange(1, STATES + 1)),
    "gamma": of_weights(np.random.default_rng(3).gamma(0.5, size=STATES)),
}


class TestGrowth:
    @pytest.mark.parametrize("n", [2_000, 20_000, 100_000])
    def test_equally_likely_states(self, n: int) -> None:
        singletons, n_states = seen_in(n, LAWS["even"], n)
        truth = STATES * np.log(20)
        # the number of states seen once has a standard deviation below sqrt(n)
        within = 4 / (n**0.5 * (1 - singletons / n))
        assert abs(least_samples(n, singletons) / truth - 1) < within
        assert abs(likely_samples(n, singletons, n_states) / truth - 1) < 2 * within

    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize("n", [10_000, 40_000])
    def test_the_truth_lies_above_the_least_and_near_the_likely(self, law: str, n: int) -> None:
        truth = needed(LAWS[law])
        for seed in range(10):
            singletons, n_states = seen_in(n, LAWS[law], seed)
            least = least_samples(n, singletons)
            likely = likely_samples(n, singletons, n_states)
            # of even states both are the truth, give or take the scatter of the singletons
            assert least < 1.05 * truth
            assert least <= likely
            assert 0.37 < likely / truth < 4

    def test_the_likely_is_nearer_than_the_least_where_states_differ(self) -> None:
        for law in ("log-normal 2", "Zipf", "gamma"):
            singletons, n_states = seen_in(20_000, LAWS[law], 0)
            truth = needed(LAWS[law])
            off = [
                abs(np.log(found / truth))
                for found in (
                    least_samples(20_000, singletons),
                    likely_samples(20_000, singletons, n_states),
                )
            ]
            assert off[1] < 0.6 * off[0], law  # half, by the geometric mean, and its scatter

    def test_where_no_state_was_seen_twice(self) -> None:
        # 95 % of draws of 300 from K states have a pair alike where K is below 300^2 / 6
        states = 300**2 // 6
        rng = np.random.default_rng(0)
        alike = [np.unique(rng.integers(0, states, 300)).size < 300 for _ in range(2000)]
        assert np.mean(alike) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 2000))
        assert least_samples(300, 300) == pytest.approx(states * np.log(20))
        assert likely_samples(300, 300, 300) == least_samples(300, 300)

    def test_the_ends(self) -> None:
        assert least_samples(0, 0) == likely_samples(0, 0, 0) == np.inf
        assert least_samples(100, 0) == likely_samples(100, 0, 5) == 100

    def test_samples_out_of_range_are_drawn_too(self) -> None:
        assert vector(0.5, 1000).needed(4000)[0] == pytest.approx(4 * least_samples(1000, 500))


class TestHopeless:
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
        now = estimate(1.0, 0.001, n, coverage=coverage)
        assert is_hopeless(None, now, Parameters()) is verdict

    def test_the_growth_tells_what_the_least_does_not(self) -> None:
        # Zipf's law on 400,000 states needs 2.4 million samples
        law = of_weights(1 / np.arange(1, 400_001))
        n = 80_000
        singletons, n_states = seen_in(n, law, 0)
        now = Estimate(
            value=np.array(9.0), stderr=np.array(0.01), n_samples=n, out_of_range=0.0,
            vectors=(vector(1 - singletons / n, n, n_states),),
        )  # fmt: skip
        assert least_samples(n, singletons) < 250_000 < 2e6 < needed(law)
        assert is_hopeless(None, now, Parameters(max_samples=500_000))
        assert not is_hopeless(None, now, Parameters(max_samples=2_000_000))

    def test_pairs_are_never_hopeless(self) -> None:
        assert not is_hopeless(None, estimate(1.0), Parameters())

    def test_one_lost_group_waits_for_the_others(self) -> None:
        first = estimate([12.0, 1.0], 0.001, 10_000, coverage=[0.0, 0.99])
        moving = estimate([13.0, 2.0], 0.001, 20_000, coverage=[0.0, 0.99])
        still = estimate([14.0, 2.0], 0.001, 40_000, coverage=[0.0, 0.99])
        assert not is_hopeless(None, moving, Parameters())
        assert not is_hopeless(first, moving, Parameters())
        assert is_hopeless(moving, still, Parameters())

    def test_a_lost_vector_waits_for_the_pairs_beside_it(self) -> None:
        first = estimate([12.0, 1.0], 0.001, 10_000, coverage=0.0)
        moving = estimate([13.0, 2.0], 0.001, 20_000, coverage=0.0)
        still = estimate([14.0, 2.0], 0.001, 40_000, coverage=0.0)
        assert not is_hopeless(first, moving, Parameters())
        assert is_hopeless(moving, still, Parameters())

    def test_sampling_gives_up_at_once(self) -> None:
        asked: list[int] = []

        def estimates_at(n: int, names: list[str]) -> dict[str, Estimate]:
            asked.append(n)
            return {"ei": estimate(np.log2(n), 0.001, n, coverage=0.0)}

        found = run_schedules(estimates_at, ["ei"], Parameters())["ei"]
        assert asked == [10_000]
        assert isinstance(found, Outcome)
        assert (found.estimate.n_samples, found.converged) == (10_000, False)
