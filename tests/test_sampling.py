from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
import pytest
from fake_spans import identity, layer, measured, plain, sigmoid
from numpy.typing import NDArray

from onnx_ei import sampling
from onnx_ei._sampling import source
from onnx_ei._sampling.progress import Progress, reporting
from onnx_ei._sampling.tasks import run_tasks
from onnx_ei.errors import (
    MissingDependencyError,
    NotConvergedWarning,
    OutOfRangeWarning,
    UndersampledWarning,
)
from onnx_ei.information import PairwiseInformation
from onnx_ei.noise import CHUNK
from onnx_ei.results import Measurement

N = 40_000


def null_error(n_bins: int, n: int, pairs: int = 1) -> float:
    """Standard deviation of the estimate for independent pairs.

    2 N ln 2 I is chi-squared with (B - 1)^2 degrees of freedom, whose linearised error is 0.
    """
    return float(np.sqrt(2 * pairs * (n_bins - 1) ** 2) / (2 * n * np.log(2)))


def entropy_error(n_states: int, n: int) -> float:
    """Standard deviation of the entropy of uniform states: chi-squared, like ``null_error``."""
    return float(np.sqrt(2 * (n_states - 1)) / (2 * n * np.log(2)))


def close(found: Measurement, truth: float, beside: float = 0.0) -> bool:
    """Whether the truth is within 4 standard errors; ``beside`` is what linearising leaves out."""
    error = np.hypot(float(np.asarray(found.stderr)), beside)
    return bool(abs(float(np.asarray(found.value)) - truth) <= 4 * error)


def edge_truth(
    forward: Callable[[float], float], inverse: Callable[[float], float], bins: int, top: float
) -> float:
    """Exact information of one increasing edge on (0, 1): cut the input where either code changes.

    Each piece is a joint cell with exact mass; ``top`` is the upper end of the output range, the
    lower is 0.
    """
    edges = np.linspace(0, 1, bins + 1)
    images = [inverse(e) for e in np.linspace(0, top, bins + 1)[1:-1]]
    cuts = np.unique([*edges, *(e for e in images if 0 < e < 1)])
    middles = (cuts[1:] + cuts[:-1]) / 2
    joint = np.zeros((bins, bins))
    for mass, middle in zip(np.diff(cuts), middles, strict=True):
        y = int(forward(middle) * bins / top)
        joint[int(middle * bins), min(y, bins - 1)] += mass
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log2(joint[seen] / outer[seen])))


class TestTruths:
    """FACTS with closed forms, each reached by sampling alone."""

    @pytest.mark.parametrize(("n", "bins"), [(1, 4), (1, 64), (3, 4), (2, 16)])
    @pytest.mark.parametrize("name", ["ei", "ei_parts", "sensitivity"])
    def test_identity(self, name: str, n: int, bins: int) -> None:
        found = measured(name, layer(np.eye(n)), (n, n), samples=N, in_bins=bins, out_bins=bins)
        # A unit's entropy, and the pairs of different units, scatter without a linear error;
        # for the sensitivity those pairs have a constant output, and are 0.
        states = bins**n if name == "ei" else bins
        units = 1 if name == "ei" else n
        beside = np.sqrt(units) * entropy_error(states, N)
        if name == "ei_parts":
            beside = np.hypot(beside, null_error(bins, N, n * (n - 1)))
        assert close(found, n * np.log2(bins), float(beside))

    @pytest.mark.parametrize("name", ["ei", "ei_parts", "sensitivity", "phi", "degeneracy"])
    def test_zero_weights(self, name: str) -> None:
        found = measured(name, layer(np.zeros((3, 2)), sigmoid), (3, 2), samples=5000)
        assert (found.value, found.stderr) == (0.0, 0.0)

    @pytest.mark.parametrize("k", [2, 5])
    def test_one_output_copied(self, k: int) -> None:
        copied = layer(np.ones((1, k)))
        arguments: dict[str, Any] = {"samples": N, "in_bins": 8, "out_bins": 8}
        truth = {"ei": 3.0, "ei_parts": 3.0 * k, "sensitivity": 3.0 * k, "phi": 3.0 * (1 - k)}
        for name, bits in truth.items():
            found = measured(name, copied, (1, k), **arguments)
            assert close(found, bits, k * entropy_error(8, N)), name

    @pytest.mark.parametrize(
        ("weight", "truth"),
        [(0.5, 2.0), (0.25, 1.0), (0.125, 0.0), (0.75, 2.12581)],
    )
    @pytest.mark.parametrize("name", ["ei", "ei_parts", "sensitivity"])
    def test_one_weight(self, name: str, weight: float, truth: float) -> None:
        found = measured(name, layer([[weight]]), (1, 1), samples=N, in_bins=8, out_bins=8)
        assert close(found, truth, entropy_error(8, N))

    @pytest.mark.parametrize("name", ["ei", "ei_parts", "sensitivity"])
    def test_one_weight_with_samples_out_of_range(self, name: str) -> None:
        with pytest.warns(OutOfRangeWarning, match=r"6\d\.\d% of the samples"):
            found = measured(name, layer([[3.0]]), (1, 1), samples=N, in_bins=8, out_bins=8)
        assert close(found, 1.56128)
        assert found.out_of_range == pytest.approx(2 / 3, abs=4 * np.sqrt(2 / 9 / N))

    @pytest.mark.parametrize(
        ("bins", "ei", "parts", "sensitivity"),
        [(2, 0.5, 0.37744, 0.0), (4, 1.31128, 0.81128, 2.0), (8, 2.24900, 1.09236, 4.0)],
    )
    def test_mean_of_two(self, bins: int, ei: float, parts: float, sensitivity: float) -> None:
        truth = {
            "ei": ei,
            "ei_parts": parts,
            "sensitivity": sensitivity,
            "phi": ei - parts,
            "degeneracy": sensitivity - ei,
        }
        for name, bits in truth.items():
            found = measured(
                name, layer([[0.5], [0.5]]), (2, 1), samples=N, in_bins=bins, out_bins=bins
            )
            assert close(found, bits, 2 * entropy_error(bins, N)), name

    @pytest.mark.parametrize(
        ("weights", "ei", "parts", "sensitivity"),
        [((2, -3), 2.19801, 1.13561, 3.13021), ((3, 3), 0.82976, 0.54984, 3.37915)],
    )
    def test_two_inputs_through_a_sigmoid(
        self, weights: tuple[int, int], ei: float, parts: float, sensitivity: float
    ) -> None:
        function = layer(np.reshape(weights, (2, 1)), sigmoid)
        truth = {"ei": ei, "ei_parts": parts, "sensitivity": sensitivity, "phi": ei - parts}
        for name, bits in truth.items():
            found = measured(name, function, (2, 1), samples=N, in_bins=8, out_bins=8)
            assert close(found, bits), name
        for against, bits in (("ei", ei), ("ei_parts", parts)):
            found = measured(
                "degeneracy", function, (2, 1), against=against, samples=N, in_bins=8, out_bins=8
            )
            assert close(found, sensitivity - bits), against

    @pytest.mark.parametrize(
        ("weight", "bins", "truth"), [(2.988, 32, 3.49340), (2.664, 128, 5.41655)]
    )
    @pytest.mark.parametrize("name", ["ei", "ei_parts", "sensitivity"])
    def test_peak_of_a_sigmoid_edge(
        self, name: str, weight: float, bins: int, truth: float
    ) -> None:
        found = measured(
            name, layer([[weight]], sigmoid), (1, 1), samples=N, in_bins=bins, out_bins=bins
        )
        # The jackknife leaves the next order of the bias, about (cells / N)^2: 128 bins have at
        # most 255 joint cells on a monotone edge.
        assert close(found, truth, 0.5 * (2 * bins / N) ** 2)

    @pytest.mark.parametrize("bins", [4, 7, 16])
    @pytest.mark.parametrize(
        ("forward", "inverse", "top"),
        [
            (lambda x: float(np.tanh(2 * x)), lambda y: float(np.arctanh(y) / 2), 1.0),
            (lambda x: 1 / (1 + np.exp(-4 * x)), lambda y: np.log(y / (1 - y)) / 4, 1.0),
            (lambda x: max(0.0, 7 * x), lambda y: y / 7, 10.0),
        ],
        ids=["tanh", "sigmoid", "relu"],
    )
    def test_one_monotone_edge(
        self,
        bins: int,
        forward: Callable[[float], float],
        inverse: Callable[[float], float],
        top: float,
    ) -> None:
        function = np.vectorize(forward)
        for name in ("ei", "ei_parts", "sensitivity"):
            found = measured(
                name, function, (1, 1), out_range=(0, top), samples=N, in_bins=bins, out_bins=bins
            )
            truth = edge_truth(forward, inverse, bins, top)
            assert close(found, truth, entropy_error(bins, N)), name

    @pytest.mark.parametrize(
        ("n", "bias"), [(1_000_000, 0.025), (100_000, 0.37)], ids=["covered", "undersampled"]
    )
    def test_a_vector_within_the_bias_of_its_coverage(self, n: int, bias: float) -> None:
        # 32,768 joint states. The jackknife's bias is .025 at coverage .96 and .37 at .63.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndersampledWarning)
            found = measured("ei", layer(np.eye(5)), (5, 5), samples=n, in_bins=8, out_bins=8)
        assert isinstance(found.coverage, float)
        assert found.coverage >= (0.96 if n == 1_000_000 else 0.63)
        assert abs(float(np.asarray(found.value)) - 15.0) <= bias

    def test_matrices_and_tuples(self) -> None:
        w = np.array([[0.5, 1.0], [0.5, 0.0]])
        arguments: dict[str, Any] = {"samples": N, "in_bins": 8, "out_bins": 8}
        parts = measured("ei_parts_matrix", layer(w), (2, 2), **arguments)
        np.testing.assert_allclose(
            parts.value,
            [[1.09236 / 2, 3.0], [1.09236 / 2, 0.0]],
            atol=4 * float(np.max(np.asarray(parts.stderr))),
        )
        alone = measured("sensitivity_matrix", layer(w), (2, 2), **arguments)
        np.testing.assert_allclose(
            alone.value, [[2.0, 3.0], [2.0, 0.0]], atol=4 * entropy_error(8, N) + 4e-3
        )
        both = measured("vector_and_pairwise_ei", layer(w), (2, 2), **arguments)
        assert isinstance(both.value, tuple)
        assert both.value[0] == measured("ei", layer(w), (2, 2), **arguments).value
        assert both.value[1] == measured("ei_parts", layer(w), (2, 2), **arguments).value

    def test_groups(self) -> None:
        w = np.array([[0.5, 1.0], [0.5, 0.0]])
        groups = [((0, 1), (0,)), ([1], [1]), ((np.int64(0),), (1, 0))]
        found = measured(
            "eis_between_groups", layer(w), (2, 2), groups=groups, samples=N, in_bins=8, out_bins=8
        )
        assert isinstance(found.value, list)
        assert isinstance(found.coverage, list)
        # the last: y1 is a itself, so I(a; y0, y1) = log2 B whatever y0 adds
        for value, truth in zip(found.value, [2.24900, 0.0, 3.0], strict=True):
            assert value == pytest.approx(truth, abs=0.03)


class TestErrorBars:
    @pytest.mark.parametrize(
        ("name", "truth"),
        [
            ("ei", 2.19801),
            ("ei_parts", 1.13561),
            ("sensitivity", 3.13021),
            ("phi", 1.06240),
            ("degeneracy", 0.93220),
        ],
    )
    def test_fit_the_scatter_between_seeds(self, name: str, truth: float) -> None:
        function = layer([[2.0], [-3.0]], sigmoid)
        found = [
            measured(name, function, (2, 1), samples=10_000, in_bins=8, out_bins=8, seed=seed)
            for seed in range(40)
        ]
        scores = [(float(np.asarray(m.value)) - truth) / float(np.asarray(m.stderr)) for m in found]
        # Of 40 runs: the mean within 4 / sqrt(40), the spread within 4 / sqrt(80) of 1.
        assert abs(np.mean(scores)) < 4 / np.sqrt(40)
        assert np.std(scores) == pytest.approx(1.0, abs=4 / np.sqrt(80))

    def test_phi_profits_from_shared_samples(self) -> None:
        function = layer([[2.0], [-3.0]], sigmoid)
        arguments: dict[str, Any] = {"samples": 10_000, "in_bins": 8, "out_bins": 8}
        phi = measured("phi", function, (2, 1), **arguments)
        both = measured("vector_and_pairwise_ei", function, (2, 1), **arguments)
        assert isinstance(both.value, tuple)
        assert phi.value == pytest.approx(both.value[0] - both.value[1], abs=1e-12)
        assert float(np.asarray(phi.stderr)) != pytest.approx(np.hypot(*np.asarray(both.stderr)))

    @pytest.mark.parametrize("estimator", ["plugin", "jackknife"])
    def test_extrapolation(self, estimator: str) -> None:
        found = measured(
            "ei_parts",
            layer([[2.0], [-3.0]], sigmoid),
            (2, 1),
            extrapolate=True,
            estimator=estimator,
            in_bins=8,
            out_bins=8,
        )
        assert found.n_samples == 2_000_000
        assert close(found, 1.13561)


WEIGHTS = np.random.default_rng(3).normal(size=(40, 30)) / 4
NAMES = ["ei_parts", "ei_parts_matrix", "phi", "sensitivity", "sensitivity_matrix", "degeneracy"]


class TestDeterminism:
    def reference(self, name: str, **arguments: Any) -> dict[str, object]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndersampledWarning)
            found = measured(
                name,
                layer(WEIGHTS, sigmoid),
                (40, 30),
                **{"samples": 2500, "in_bins": 8, **arguments},
            )
        return plain(found)

    @pytest.mark.parametrize("name", NAMES)
    def test_batch_size_changes_nothing(self, name: str) -> None:
        first = self.reference(name, batch_size=1)
        for batch_size in (7, 20, 1000):
            assert self.reference(name, batch_size=batch_size) == first

    @pytest.mark.parametrize("name", NAMES)
    def test_threads_change_nothing(self, name: str) -> None:
        before = numba.get_num_threads()
        if before < 2:
            pytest.skip("numba has one thread here")
        try:
            numba.set_num_threads(2)
            first = self.reference(name)
            numba.set_num_threads(1)
            assert self.reference(name) == first
        finally:
            numba.set_num_threads(before)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("memory_limit", [50_000, 130_000])
    @pytest.mark.parametrize("out_range", [(0.0, 1.0), "dynamic"])
    def test_the_memory_limit_changes_nothing(
        self, name: str, memory_limit: int, out_range: Any
    ) -> None:
        first = self.reference(name, out_range=out_range)
        assert self.reference(name, out_range=out_range, memory_limit=memory_limit) == first

    @pytest.mark.parametrize("name", NAMES)
    def test_a_limit_below_one_unit_works_one_pair_at_a_time(self, name: str) -> None:
        function = layer(WEIGHTS[:5, :4], sigmoid)
        arguments: dict[str, Any] = {"samples": 1500, "in_bins": 2, "out_bins": 2}
        first = measured(name, function, (5, 4), **arguments)
        assert plain(measured(name, function, (5, 4), memory_limit=1, **arguments)) == plain(first)

    @pytest.mark.parametrize("name", NAMES)
    def test_how_chunks_are_shared_out_changes_nothing(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = self.reference(name, samples=20_000)
        # Here alone, or in the pool too; in blocks of one chunk or more.
        for alone, block in ((1e9, 0.0), (0.0, 1e9), (0.0, 0.0)):
            for floats in (1, 1 << 16, 1 << 30):
                monkeypatch.setattr(source, "ALONE_SECONDS", alone)
                monkeypatch.setattr(source, "BLOCK_SECONDS", block)
                monkeypatch.setattr(source, "BLOCK_FLOATS", floats)
                assert self.reference(name, samples=20_000) == first

    @pytest.mark.parametrize("name", ["ei", "phi", "eis_between_groups"])
    def test_vectors_past_the_limit_are_refused_before_anything_runs(self, name: str) -> None:
        def never(x: Any) -> Any:
            raise AssertionError("the model ran")

        groups = {"groups": [((0,), (1,))]} if name == "eis_between_groups" else {}
        message = (
            r"states of vectors of 600000 samples may take 96600000 bytes, allowed are 67108864: "
            r"take at most 416825 samples \(samples, max_samples\), or raise memory_limit"
        )
        with pytest.raises(ValueError, match=message):
            measured(name, never, (2, 2), samples=600_000, memory_limit=1, **groups)

    def test_groups_are_held_as_far_as_counting_leaves_memory(self) -> None:
        """Whether all, some or one of them at a time: the values are the same."""
        groups = [((i,), (i % 2, 2)) for i in range(6)]
        arguments: dict[str, Any] = {"samples": 3000, "in_bins": 4, "out_bins": 4, "groups": groups}
        function = layer(WEIGHTS[:6, :3], sigmoid)
        limits = (None, 3000 * (160 + 3 * 33), 1)
        found = [
            plain(measured("eis_between_groups", function, (6, 3), memory_limit=limit, **arguments))
            for limit in limits
        ]
        assert found[0] == found[1] == found[2]

    @pytest.mark.parametrize("name", ["ei_parts", "phi"])
    def test_the_sum_of_a_large_layer_holds_no_matrix(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held = self.reference(name)
        monkeypatch.setattr(sampling, "LARGE", 100)
        shapes = []
        freeze = sampling.PairwiseResult.freeze

        def frozen(result: sampling.PairwiseResult) -> PairwiseInformation:
            found = freeze(result)
            shapes.append(found.bits.shape)
            return found

        monkeypatch.setattr(sampling.PairwiseResult, "freeze", frozen)
        summed = self.reference(name)
        assert set(shapes) == {(0, 0)}
        assert summed["value"] == pytest.approx(held["value"], abs=1e-6)
        # a bound of phi is of its value
        other = {"value": None, "upper_bound": None}
        assert {**summed, **other} == {**held, **other}
        for memory_limit in (50_000, 130_000):
            assert self.reference(name, memory_limit=memory_limit) == summed
        matrix = self.reference("ei_parts_matrix")
        assert shapes[-1] == (40, 30)
        assert np.sum(matrix["value"]) > 0

    def test_groups_in_batches(self) -> None:
        groups = [((i, i + 1), (i,)) for i in range(20)]
        first = self.reference("eis_between_groups", groups=groups)
        # 33 bytes a sample and group: three groups at once
        limited = self.reference("eis_between_groups", groups=groups, memory_limit=3 * 33 * 2500)
        assert limited == first

    @pytest.mark.parametrize("name", ["ei", "ei_parts", "sensitivity", "phi"])
    @pytest.mark.parametrize("memory_limit", [None, 100_000])
    def test_growing_gives_what_one_go_gives(self, name: str, memory_limit: int | None) -> None:
        function = layer([[2.0, 0.1], [-3.0, 0.2]], sigmoid)
        grown = measured(
            name, function, (2, 2), threshold=0.01, in_bins=8, memory_limit=memory_limit
        )
        assert grown.n_samples > 10_000
        at_once = measured(name, function, (2, 2), samples=grown.n_samples, in_bins=8)
        assert {**plain(grown), "converged": None} == plain(at_once)

    def test_seeds_differ(self) -> None:
        assert self.reference("ei_parts")["value"] != self.reference("ei_parts", seed=1)["value"]

    def test_the_model_sees_each_sample_at_one_place(self) -> None:
        # Rows come chunk by chunk from the chunk's first, also where a stage cut it.
        seen: dict[tuple[float, ...], set[int]] = {}

        def function(x: NDArray[Any]) -> NDArray[Any]:
            for place, row in enumerate(x):
                seen.setdefault(tuple(row), set()).add(place % CHUNK)
            return x

        measured("ei_parts", function, (1, 1), in_bins=4, out_bins=4, threshold=0.001)
        assert len(seen) > 10_000
        # float32 noise repeats itself now and then: all but a handful of values have one place
        assert sum(len(places) > 1 for places in seen.values()) < 0.01 * len(seen)


class TestDynamic:
    def test_each_output_takes_its_own_range(self) -> None:
        # 64 bins over the outputs' own ranges: the scale of a weight no longer matters
        found = measured(
            "ei_parts_matrix",
            layer([[0.001, 50.0]]),
            (1, 2),
            out_range="dynamic",
            samples=N,
            in_bins=8,
            out_bins=8,
        )
        # The range seen falls short of (0, 1) by about 1 / N at either end
        np.testing.assert_allclose(found.value, [[3.0, 3.0]], atol=2 * 8 * 16 / N)
        assert found.out_range == "dynamic"
        assert found.out_of_range == 0.0

    def test_a_constant_output_has_one_bin(self) -> None:
        for out_bins in (64, "dynamic"):
            found = measured(
                "ei_parts_matrix",
                lambda x: np.stack([x[:, 0], np.full(len(x), 1e6)], axis=1),
                (1, 2),
                out_range="dynamic",
                out_bins=out_bins,
                samples=2000,
            )
            assert np.asarray(found.value)[0, 1] == 0.0
            assert found.out_of_range == 0.0

    def test_dynamic_bins_are_as_wide_as_an_input_bin(self) -> None:
        # y = 2x on (0, 2): 2 * 4 + 1 bins of width 1/4 hold all, and tell 8 states apart
        found = measured(
            "ei", layer([[2.0]]), (1, 1), out_range=(0, 2), out_bins="dynamic", samples=N, in_bins=4
        )
        assert close(found, 2.0, entropy_error(4, N))
        assert found.out_bins == "dynamic"

    def test_sensitivity_takes_one_range_over_the_bin_edges(self) -> None:
        # |2x - 1| has its least value inside the range, where deep_ei's two ends do not look
        found = measured(
            "sensitivity",
            lambda x: np.abs(2 * x - 1),
            (1, 1),
            out_range="dynamic",
            samples=N,
            in_bins=8,
            out_bins=4,
        )
        assert found.out_of_range == 0.0
        assert close(found, 2.0, entropy_error(4, N))

    def test_sensitivity_with_dynamic_bins(self) -> None:
        found = measured(
            "sensitivity",
            layer([[0.5, 1.0]]),
            (1, 2),
            out_range="dynamic",
            out_bins="dynamic",
            samples=N,
            in_bins=8,
        )
        # range (0, 1), 8 bins of 1/8: log2(8 / 2) + log2(8)
        assert close(found, 5.0, 2 * entropy_error(8, N))

    def test_a_constant_sweep_is_zero(self) -> None:
        found = measured(
            "sensitivity", layer(np.zeros((2, 2))), (2, 2), out_range="dynamic", samples=100
        )
        assert found.value == 0.0

    def test_too_many_dynamic_bins(self) -> None:
        with pytest.raises(
            ValueError, match=r"asks for 64000\d* bins of width .* for output unit 0"
        ):
            measured(
                "ei_parts",
                layer([[1e6]]),
                (1, 1),
                out_range=(0, 1e6),
                out_bins="dynamic",
                samples=9,
            )

    def test_not_a_number_is_dropped_and_does_not_stretch_the_range(self) -> None:
        def function(x: NDArray[Any]) -> NDArray[Any]:
            return np.where(x < 0.25, np.nan, np.where(x > 0.75, np.inf, x))

        with pytest.warns(OutOfRangeWarning, match="or were NaN"):
            found = measured(
                "ei_parts", function, (1, 1), out_range="dynamic", samples=N, in_bins=8, out_bins=4
            )
        assert found.out_of_range == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(N))
        # (1/4, 3/4) in 4 bins of 1/8, each an input bin's own
        assert close(found, 2.0, entropy_error(4, N) + 4 * 16 / N)

    @pytest.mark.parametrize("name", ["ei", "ei_parts", "sensitivity"])
    def test_nothing_finite_at_all(self, name: str) -> None:
        def function(x: NDArray[Any]) -> NDArray[Any]:
            return np.full_like(x, np.nan)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = measured(name, function, (1, 1), out_range="dynamic", samples=100)
        assert "100.0% of the samples" in str(caught[0].message)
        assert (found.value, found.stderr, found.out_of_range) == (0.0, 0.0, 1.0)
        assert {w.category for w in caught} <= {OutOfRangeWarning, UndersampledWarning}


class TestRounding:
    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("limits", [(-1.0, 1.0), (-0.1, 0.1)])
    def test_a_step_past_the_end_is_the_end(self, sign: int, limits: tuple[float, float]) -> None:
        # onnxruntime's Tanh returns 1.0000002 where it saturates
        def function(x: NDArray[Any]) -> NDArray[Any]:
            return np.where(x < 0.5, 0.0, sign * (limits[1] * (1 + 2.4e-7)))

        found = measured("ei_parts", function, (1, 1), out_range=limits, samples=N, out_bins=8)
        assert found.out_of_range == 0.0
        assert close(found, 1.0, entropy_error(2, N))

    def test_what_is_further_out_is_dropped(self) -> None:
        with pytest.warns(OutOfRangeWarning):
            measured("ei_parts", lambda x: x + 1.000002, (1, 1), samples=100)


class TestWarnings:
    def test_out_of_range_says_how_much_where_and_what_to_do(self) -> None:
        message = (
            r"ei_parts of layer 'fake': 49\.1% .* out_range \(0\.0, 1\.0\) .* "
            r"give a wider out_range, or out_range='dynamic'"
        )
        with pytest.warns(OutOfRangeWarning, match=message) as caught:
            measured("ei_parts", layer([[2.0]]), (1, 1), samples=5000)
        assert len(caught) == 1

    def test_one_percent_is_let_pass(self) -> None:
        found = measured("ei_parts", layer([[1.008]]), (1, 1), samples=5000)
        assert 0 < found.out_of_range < 0.01

    @pytest.mark.parametrize(
        ("samples", "word"), [(300, "unreliable, 300 samples"), (10_000, "biased, 10000")]
    )
    def test_undersampled(self, samples: int, word: str) -> None:
        with pytest.warns(UndersampledWarning, match=word) as caught:
            found = measured("ei", layer(np.eye(4)), (4, 4), samples=samples, in_bins=9, out_bins=9)
        assert len(caught) == 1
        assert isinstance(found.coverage, float)
        assert (found.coverage < 0.5) == (samples == 300)

    def test_the_least_covered_group_is_named_by_its_coverage(self) -> None:
        groups = [((0,), (0,)), ((0, 1, 2, 3), (0, 1, 2, 3))]
        with pytest.warns(UndersampledWarning, match="eis_between_groups"):
            measured(
                "eis_between_groups",
                layer(np.eye(4)),
                (4, 4),
                groups=groups,
                samples=300,
                in_bins=8,
            )

    def test_not_converged(self) -> None:
        message = r"not converged to threshold=1e-05 after max_samples=20000 samples"
        with pytest.warns(NotConvergedWarning, match=message) as caught:
            found = measured(
                "ei_parts",
                layer([[2.0], [-3.0]], sigmoid),
                (2, 1),
                threshold=1e-5,
                max_samples=20_000,
                in_bins=512,
                out_bins=512,
            )
        assert len(caught) == 1
        assert (found.converged, found.n_samples) == (False, 20_000)


class TestSample:
    def test_converges_by_itself(self) -> None:
        found = measured("ei_parts", layer([[2.0], [-3.0]], sigmoid), (2, 1), in_bins=8, out_bins=8)
        assert found.converged is True
        assert float(np.asarray(found.stderr)) <= 0.05 * float(np.asarray(found.value))
        assert close(found, 1.13561)

    def test_is_never_negative_but_may_be(self) -> None:
        # Jackknife estimates of independent units scatter about 0: the sum is clipped.
        def hashed(x: NDArray[Any]) -> NDArray[Any]:
            return np.modf(1e4 * x[:, :1])[0]

        for name, signed in (("ei_parts", False), ("phi", True)):
            values = [
                float(
                    np.asarray(
                        measured(name, hashed, (1, 1), samples=2000, seed=s, in_bins=8).value
                    )
                )
                for s in range(12)
            ]
            assert (min(values) < 0.0) == signed
            assert (min(values) == 0.0) != signed

    def test_a_matrix_is_clipped_entry_by_entry(self) -> None:
        found = measured("ei_parts_matrix", layer(np.eye(4)), (4, 4), samples=2000, in_bins=8)
        assert np.asarray(found.value).min() == 0.0
        total = measured("ei_parts", layer(np.eye(4)), (4, 4), samples=2000, in_bins=8)
        assert float(np.asarray(total.value)) < np.asarray(found.value).sum()

    def test_describes_itself(self) -> None:
        found = measured("ei", identity, (2, 2), samples=1000, in_bins=4, out_bins=2, seed=9)
        assert (found.name, found.provider, found.method) == ("ei", "numpy", "sample")
        assert (found.n_inputs, found.n_outputs, found.in_bins, found.out_bins) == (2, 2, 4, 2)
        assert (found.seed, found.estimator, found.converged) == (9, "coverage-jackknife", None)
        assert found.seconds > 0

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (
                {"name": "ei_prats"},
                ValueError,
                "unknown measure 'ei_prats': did you mean 'ei_parts'",
            ),
            ({"groups": [((0,), (0,))]}, TypeError, "groups are for 'eis_between_groups' only"),
            ({"name": "eis_between_groups"}, TypeError, "needs groups"),
            ({"against": "ei_parts"}, TypeError, "against is for 'degeneracy' only"),
            ({"name": "degeneracy", "against": "phi"}, ValueError, "unknown against 'phi'"),
            ({"extrapolate": True}, ValueError, "extrapolate=True is for 'ei_parts' only"),
        ],
    )
    def test_refuses(self, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            measured(**{"name": "ei", "function": identity, "shape": (1, 1), **arguments})

    @pytest.mark.parametrize(
        ("groups", "error", "message"),
        [
            ([], ValueError, "at least one group"),
            (3, TypeError, r"groups must be \[\(\(inputs"),
            ([((0,), 0)], TypeError, r"groups must be \[\(\(inputs"),
            ([((0,), (0,), (0,))], TypeError, r"groups\[0\] must be"),
            ([((0,), (0,)), ((), (0,))], ValueError, r"groups\[1\] has no input units"),
            ([((0,), ())], ValueError, r"groups\[0\] has no output units"),
            (
                [((0, 2), (0,))],
                ValueError,
                r"input unit 2 .* the span has 2 \(0 to 1\)",
            ),
            ([((0,), (-1,))], ValueError, "output unit -1 is out of range"),
            ([((0.5,), (0,))], TypeError, "an input unit must be a whole number, got 0.5"),
        ],
    )
    def test_refuses_groups(self, groups: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            measured("eis_between_groups", identity, (2, 2), groups=groups, samples=10)

    def test_a_span_that_returns_another_shape(self) -> None:
        with pytest.raises(ValueError, match=r"returned \(10, 2\) for 10 samples of 3 outputs"):
            measured("ei", identity, (2, 3), samples=10)

    def test_one_sample(self) -> None:
        for name in ("ei_parts", "sensitivity"):
            found = measured(name, identity, (2, 2), samples=1)
            assert (found.value, found.stderr) == (0.0, 0.0)

    def test_a_wide_span_uses_fewer_threads(self) -> None:
        # one chunk of noise and outputs takes more than the limit: no two at once
        alive, most, lock = 0, 0, threading.Lock()

        def function(x: NDArray[Any]) -> NDArray[Any]:
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)
            y = layer(np.ones((50, 1)) / 50)(x)
            with lock:
                alive -= 1
            return y

        measured("ei_parts", function, (50, 1), samples=20_000, memory_limit=1000)
        assert most == 1


class TestProgress:
    def test_a_callable_is_told_of_every_row(self) -> None:
        told: list[tuple[int, int]] = []

        def tell(done: int, total: int) -> None:
            assert threading.current_thread() is threading.main_thread()
            told.append((done, total))

        measured(
            "degeneracy",
            layer(np.eye(2)),
            (2, 2),
            samples=3000,
            out_bins=2,
            progress=tell,
            in_bins=2,
        )
        assert told[-1] == (9000, 9000)
        assert [done for done, _ in told] == sorted(done for done, _ in told)

    # 2^20 states are not for 20,000 samples
    @pytest.mark.filterwarnings("ignore::onnx_ei.errors.UndersampledWarning")
    @pytest.mark.parametrize("name", ["ei_parts", "ei", "sensitivity", "phi", "degeneracy"])
    @pytest.mark.parametrize("memory_limit", [None, 200_000])
    @pytest.mark.parametrize("out_range", [(0.0, 1.0), "dynamic"])
    def test_stages_are_planned_whole(
        self, name: str, memory_limit: int | None, out_range: Any
    ) -> None:
        told: list[tuple[int, int]] = []
        found = measured(
            name,
            layer(np.eye(20, 6), sigmoid),
            (20, 6),
            in_bins=2,
            out_bins=2,
            out_range=out_range,
            max_samples=20_000,
            memory_limit=memory_limit,
            progress=lambda done, total: told.append((done, total)),
            **({} if name in ("ei_parts", "sensitivity") else {"samples": 20_000}),
        )
        done, total = np.array(told).T
        assert found.n_samples == 20_000
        assert np.all(np.diff(done) > 0)
        assert np.all(np.diff(total) >= 0)
        assert np.all(done <= total)
        assert done[-1] == total[-1]
        # two stages, each with two samplers, the range first: not one for each tile of units
        assert len(set(total)) <= 5

    def test_a_bar_goes_to_stderr(self, capsys: pytest.CaptureFixture[str]) -> None:
        measured("ei", identity, (1, 1), samples=3000, in_bins=4, progress=True)
        assert capsys.readouterr().out == ""

    def test_no_bar_without_rich(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "rich", None)
        with (
            pytest.raises(MissingDependencyError, match="pip install rich"),
            reporting(True, "ei"),
        ):
            pass


class TestRunTasks:
    @pytest.mark.parametrize("workers", [1, 2, 3])
    def test_every_task_runs_once(self, workers: int) -> None:
        ran: list[int] = []
        reported: list[int] = []

        def run(index: int) -> int:
            ran.append(index)
            return index

        progress = Progress(lambda done, total: reported.append(done))
        run_tasks((partial(run, i) for i in range(100)), workers, progress)
        assert sorted(ran) == list(range(100))
        assert reported[-1] == sum(range(100))

    def test_this_thread_works_too(self) -> None:
        """Another one stops until half of the tasks are done: this one does not wait for it."""
        done = threading.Event()
        here: list[int] = []

        def run(index: int) -> int:
            if threading.current_thread() is not threading.main_thread():
                assert done.wait(60)
            else:
                here.append(index)
                if len(here) == 5:
                    done.set()
            return 1

        run_tasks((partial(run, i) for i in range(10)), 2, Progress(lambda done, total: None))
        assert len(here) >= 5

    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_the_first_error_is_the_one_that_is_raised(self, workers: int) -> None:
        def fail(index: int) -> int:
            time.sleep(0.002 * (index == 3))  # those after it fail before it does
            if index >= 3:
                raise RuntimeError(f"task {index}")
            return 1

        for _ in range(20):
            tasks = (partial(fail, i) for i in range(30))
            with pytest.raises(RuntimeError, match="task 3"):
                run_tasks(tasks, workers, Progress(lambda done, total: None))

    @pytest.mark.parametrize("workers", [1, 3])
    def test_an_error_stops_the_rest(self, workers: int) -> None:
        ran: list[int] = []

        def fail(index: int) -> int:
            time.sleep(0.001)  # as work does, which leaves the interpreter's lock to the others
            ran.append(index)
            if index == 5:
                raise RuntimeError("five")
            return 1

        tasks = ((lambda i=i: fail(i)) for i in range(1000))
        with pytest.raises(RuntimeError, match="five"):
            run_tasks(tasks, workers, Progress(lambda done, total: None))
        assert len(ran) < 100
