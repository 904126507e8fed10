from __future__ import annotations

import inspect
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numba
import numpy as np
import onnx
import pytest
from fake_spans import plain
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnx_ei
from onnx_ei import measures
from onnx_ei.errors import (
    NotConvergedWarning,
    OutOfRangeWarning,
    UndersampledWarning,
    UnknownLayerError,
)
from onnx_ei.topology import topology_of

N = 20_000
BINS: dict[str, Any] = {"in_range": (0, 1), "in_bins": 8, "out_bins": 8}


def chain(*layers: tuple[Any, str | None]) -> onnx.ModelProto:
    """A chain of MatMuls with weights (n_in, n_out), named fc0, fc1 ..., and activations."""
    nodes, weights, tensor = [], [], "x"
    for index, (w, activation) in enumerate(layers):
        w = np.asarray(w, np.float32)
        weights.append(numpy_helper.from_array(w, f"fc{index}"))
        nodes.append(helper.make_node("MatMul", [tensor, f"fc{index}"], [f"z{index}"]))
        tensor = f"z{index}"
        if activation is not None:
            nodes.append(helper.make_node(activation, [tensor], [f"y{index}"]))
            tensor = f"y{index}"
    n_in, n_out = weights[0].dims[0], weights[-1].dims[1]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", n_in])],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["batch", n_out])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def two() -> nx.DiGraph[Any]:
    """sigmoid(2a - 3b): EI 2.19801, EI_parts 1.13561, S 3.13021 at 8 bins."""
    return topology_of(chain(([[2], [-3]], "Sigmoid")))


@pytest.fixture(scope="module")
def deep() -> nx.DiGraph[Any]:
    rng = np.random.default_rng(5)
    return topology_of(
        chain((rng.normal(size=(6, 5)), "Tanh"), (rng.normal(size=(5, 4)) / 2, "Sigmoid"))
    )


class TestValues:
    @pytest.mark.parametrize(
        ("name", "truth"),
        [
            ("ei", 2.19801),
            ("ei_parts", 1.13561),
            ("sensitivity", 3.13021),
            ("phi", 2.19801 - 1.13561),
            ("degeneracy", 3.13021 - 2.19801),
        ],
    )
    def test_a_scalar_and_its_measurement(
        self, two: nx.DiGraph[Any], name: str, truth: float
    ) -> None:
        found = measures.measure(name, "fc0", two, samples=N, **BINS)
        assert isinstance(found.value, float)
        assert isinstance(found.stderr, float)
        assert abs(found.value - truth) <= 4 * found.stderr
        value = getattr(measures, name)("fc0", two, samples=N, **BINS)
        assert type(value) is float
        assert value == found.value
        assert found.provider == "CPUExecutionProvider"
        assert (found.layer, found.in_layer, found.name) == ("fc0", "fc0", name)
        assert (found.in_range, found.out_range) == ((0.0, 1.0), (0.0, 1.0))
        assert found.batched
        json.dumps(found.to_dict(), allow_nan=False)

    def test_degeneracy_against_the_parts(self, two: nx.DiGraph[Any]) -> None:
        found = measures.measure("degeneracy", "fc0", two, samples=N, against="ei_parts", **BINS)
        assert abs(float(np.asarray(found.value)) - (3.13021 - 1.13561)) <= 4 * float(
            np.asarray(found.stderr)
        )
        value = measures.degeneracy("fc0", two, samples=N, against="ei_parts", **BINS)
        assert value == found.value

    @pytest.mark.parametrize("name", ["ei_parts_matrix", "sensitivity_matrix"])
    def test_matrices(self, deep: nx.DiGraph[Any], name: str) -> None:
        matrix = getattr(measures, name)("fc0", deep, samples=N, **BINS)
        assert matrix.shape == (6, 5)
        assert matrix.dtype == np.float64
        matrix[0, 0] = 1.0  # the caller's own
        total = getattr(measures, name.removesuffix("_matrix"))("fc0", deep, samples=N, **BINS)
        again = getattr(measures, name)("fc0", deep, samples=N, **BINS)
        # only entries below 0 are clipped, and there are few
        assert again.sum() == pytest.approx(total, abs=0.01)
        found = measures.measure(name, "fc0", deep, samples=N, **BINS)
        assert np.shape(found.value) == np.shape(found.stderr) == (6, 5)

    def test_pairs_and_groups(self, two: nx.DiGraph[Any]) -> None:
        both = measures.vector_and_pairwise_ei("fc0", two, samples=N, **BINS)
        assert isinstance(both, tuple)
        assert both == (
            measures.ei("fc0", two, samples=N, **BINS),
            measures.ei_parts("fc0", two, samples=N, **BINS),
        )
        groups = [((0, 1), (0,)), ((1,), (0,))]
        found = measures.eis_between_groups("fc0", two, groups, samples=N, **BINS)
        assert isinstance(found, list)
        assert found[0] == both[0]
        matrix = measures.ei_parts_matrix("fc0", two, samples=N, **BINS)
        assert found[1] == pytest.approx(matrix[1, 0], abs=1e-12)

    def test_defaults_come_from_the_activations(self, deep: nx.DiGraph[Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndersampledWarning)
            found = measures.measure("ei", "fc1", deep, samples=100)
            whole = measures.measure("ei", "fc1", deep, samples=100, in_layer="fc0")
        assert (found.in_range, found.out_range) == ((-1.0, 1.0), (0.0, 1.0))
        assert (found.in_bins, found.out_bins, found.n_inputs, found.n_outputs) == (64, 64, 5, 4)
        assert (whole.in_range, whole.n_inputs, whole.in_layer) == ((-10.0, 10.0), 6, "fc0")

    def test_activation_replaces_the_last_one(self, two: nx.DiGraph[Any]) -> None:
        # a - 1.5 b and b: without the sigmoid, out_range (-3, 2) holds it all
        plain_ = measures.ei_parts(
            "fc0", two, samples=N, activation="identity", out_range=(-3, 2), **BINS
        )
        assert plain_ != measures.ei_parts("fc0", two, samples=N, **BINS)

    def test_automatic_sampling(self, two: nx.DiGraph[Any]) -> None:
        for name in ("ei", "ei_parts", "sensitivity", "ei_parts_matrix", "vector_and_pairwise_ei"):
            found = measures.measure(name, "fc0", two, method="sample", **BINS)
            assert found.converged is True
            assert found.n_samples >= 20_000
        sampled = measures.sensitivity("fc0", two, samples=None, method="sample", **BINS)
        assert sampled == pytest.approx(3.13, abs=0.2)
        with pytest.warns(NotConvergedWarning, match="max_samples=10000"):
            measures.ei("fc0", two, max_samples=10_000, **BINS)

    def test_sensitivity_takes_500_samples_as_in_deep_ei(self, two: nx.DiGraph[Any]) -> None:
        value = measures.sensitivity("fc0", two, method="sample", **BINS)
        assert value == measures.measure("sensitivity", "fc0", two, samples=500, **BINS).value


class TestPvalues:
    def test_of_a_matrix(self, two: nx.DiGraph[Any]) -> None:
        bits = measures.ei_parts_matrix("fc0", two, samples=N, **BINS)
        found, chance = measures.ei_parts_matrix("fc0", two, samples=N, return_pvalues=True, **BINS)
        np.testing.assert_array_equal(found, bits)
        assert chance.shape == bits.shape
        assert ((chance >= 0) & (chance <= 1)).all()
        assert (chance[bits > 0.1] < 1e-6).all()
        measured = measures.measure("ei_parts_matrix", "fc0", two, samples=N, pvalues=True, **BINS)
        np.testing.assert_array_equal(measured.pvalues, chance)

    def test_are_sampled_where_bits_could_be_exact(self, two: nx.DiGraph[Any]) -> None:
        found = measures.measure("ei_parts_matrix", "fc0", two, pvalues=True, **BINS)
        assert found.method == "sample"
        assert found.pvalues is not None

    def test_tiles_give_the_same(self, two: nx.DiGraph[Any]) -> None:
        found = [
            measures.measure(
                "ei_parts_matrix", "fc0", two, samples=N, pvalues=True, memory_limit=limit, **BINS
            ).pvalues
            for limit in (None, 3 * N)
        ]
        np.testing.assert_array_equal(*found)

    def test_refusals(self, two: nx.DiGraph[Any]) -> None:
        with pytest.raises(ValueError, match="is for 'ei_parts_matrix' only, not for 'ei'"):
            measures.measure("ei", "fc0", two, pvalues=True, **BINS)
        with pytest.raises(ValueError, match="is for method 'sample' only: exact bits need no"):
            measures.ei_parts_matrix("fc0", two, return_pvalues=True, method="exact", **BINS)


class TestMeasureMany:
    names = ("ei", "ei_parts", "sensitivity", "degeneracy", "phi", "ei_parts_matrix")

    @pytest.mark.parametrize("samples", [5000, None])
    def test_is_each_measure_alone(self, two: nx.DiGraph[Any], samples: int | None) -> None:
        found = measures.measure_many(self.names, "fc0", two, samples=samples, **BINS)
        assert tuple(found) == self.names
        for name, measurement in found.items():
            alone = measures.measure(name, "fc0", two, samples=samples, **BINS)
            assert plain(measurement) == plain(alone)

    def test_with_groups_and_against(self, two: nx.DiGraph[Any]) -> None:
        groups = [((0,), (0,))]
        found = measures.measure_many(
            ["degeneracy", "eis_between_groups", "ei"],
            "fc0",
            two,
            samples=5000,
            groups=groups,
            against="ei_parts",
            **BINS,
        )
        assert found["degeneracy"].value == measures.degeneracy(
            "fc0", two, samples=5000, against="ei_parts", **BINS
        )
        assert found["eis_between_groups"].value == measures.eis_between_groups(
            "fc0", two, groups, samples=5000, **BINS
        )
        assert found["ei"].value == measures.ei("fc0", two, samples=5000, **BINS)

    def test_runs_the_model_once_for_all(self, two: nx.DiGraph[Any]) -> None:
        told: list[tuple[int, int]] = []
        measures.measure_many(
            ["ei", "ei_parts", "phi", "sensitivity"],
            "fc0",
            two,
            samples=3000,
            progress=lambda done, total: told.append((done, total)),
            **BINS,
        )
        assert told[-1] == (9000, 9000)

    def test_no_names(self, two: nx.DiGraph[Any]) -> None:
        with pytest.raises(ValueError, match="no measures named; known: 'ei'"):
            measures.measure_many([], "fc0", two)


class TestDeterminism:
    @pytest.mark.parametrize("name", ["ei", "ei_parts_matrix", "sensitivity", "phi"])
    def test_the_same_bits(self, deep: nx.DiGraph[Any], name: str) -> None:
        def found(**changes: Any) -> dict[str, object]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UndersampledWarning)
                return plain(measures.measure(name, "fc0", deep, **{"samples": 3000, **changes}))

        first = found()
        for batch_size in (1, 7, 20, 1000):
            assert found(batch_size=batch_size) == first
        assert found(memory_limit=9000) == first
        threads = numba.get_num_threads()
        try:
            numba.set_num_threads(1)
            assert found() == first
        finally:
            numba.set_num_threads(threads)


class TestRefusals:
    @pytest.mark.parametrize("name", ["ei_parts", "sensitivity"])
    def test_a_histogram_larger_than_the_memory(self, two: nx.DiGraph[Any], name: str) -> None:
        options = {"samples": 100, "in_bins": 60_000, "out_bins": 60_000}
        with pytest.raises(ValueError, match="60000 x 60000 bins takes 43201440012 bytes"):
            measures.measure(name, "fc0", two, **options)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"layer": "fc9"}, UnknownLayerError, "fc0"),
            ({"in_range": "dynamic"}, ValueError, "only out_range can be 'dynamic'"),
            ({"in_range": (1, 0)}, ValueError, "in_range must be finite with lower < upper"),
            ({"samples": 0}, ValueError, "samples must be at least 1"),
            ({"out_bins": 0}, ValueError, "out_bins must be from 1"),
            ({"positions": "some"}, ValueError, "positions"),
            ({"device": "tpu"}, ValueError, "device must be"),
            ({"estimator": "plug-in"}, ValueError, "did you mean 'plugin'"),
            ({"method": "exact", "out_range": "dynamic"}, ValueError, "method='exact' has no"),
        ],
    )
    @pytest.mark.parametrize("name", ["ei", "sensitivity_matrix"])
    def test_a_wrong_argument(
        self,
        two: nx.DiGraph[Any],
        name: str,
        arguments: dict[str, Any],
        error: type[Exception],
        message: str,
    ) -> None:
        with pytest.raises(error, match=message):
            getattr(measures, name)(**{"layer": "fc0", "topology": two, **arguments})

    def test_a_wrong_measure(self, two: nx.DiGraph[Any]) -> None:
        with pytest.raises(ValueError, match=r"unknown measure 'EI': .*'ei'"):
            measures.measure("EI", "fc0", two)

    def test_a_group_out_of_range(self, two: nx.DiGraph[Any]) -> None:
        with pytest.raises(ValueError, match=r"groups\[0\]: input unit 2 is out of range"):
            measures.eis_between_groups("fc0", two, [((2,), (0,))], samples=10)

    def test_warnings_point_at_the_caller(self, two: nx.DiGraph[Any]) -> None:
        calls: list[Callable[[], object]] = [
            lambda: measures.ei_parts("fc0", two, samples=999, out_range=(0.9, 1), in_range=(0, 1)),
            lambda: measures.measure("ei_parts", "fc0", two, samples=999, out_range=(0.9, 1)),
            lambda: measures.mutual_information([2.0], [2.0]),
        ]
        for call in calls:
            with pytest.warns(OutOfRangeWarning) as caught:
                call()
            assert len(caught) == 1
            assert caught[0].filename == __file__


class TestMutualInformation:
    def test_of_the_same_and_of_independent_series(self) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.random((2, 100_000))
        assert measures.mutual_information(x, x, bins=8) == pytest.approx(3.0, abs=1e-3)
        # chi-squared: (B - 1)^2 / (2 N ln 2) for the plug-in, nothing but scatter left after
        bias = 31**2 / (2 * x.size * np.log(2))
        assert measures.mutual_information(x, y, estimator="plugin") == pytest.approx(bias, rel=0.2)
        assert measures.mutual_information(x, y) == pytest.approx(0.0, abs=0.2 * bias)

    def test_is_scikit_learns(self) -> None:
        metrics = pytest.importorskip("sklearn.metrics")
        rng = np.random.default_rng(1)
        x = rng.random(2000)
        y = (x + rng.random(2000)) / 2
        counts = np.histogram2d(x, y, bins=(8, 5), range=((0, 1), (0, 1)))[0]
        expected = metrics.mutual_info_score(None, None, contingency=counts) / np.log(2)
        found = measures.mutual_information(x, y, bins=(8, 5), estimator="plugin")
        assert found == pytest.approx(expected, abs=1e-12)

    def test_ranges_are_closed_and_out_of_range_is_dropped(self) -> None:
        x = [0.0, 0.0, 1.0, 1.0, 5.0, float("nan")]
        with pytest.warns(OutOfRangeWarning, match=r"33\.3%"):
            found = measures.mutual_information(x, x, bins=2, estimator="plugin")
        assert found == 1.0

    def test_nothing_at_all(self) -> None:
        assert measures.mutual_information([], []) == 0.0

    def test_takes_what_can_be_detached(self) -> None:
        class Tensor:
            def detach(self) -> Tensor:
                return self

            def cpu(self) -> NDArray[np.float64]:
                return np.linspace(0, 1, 999)

        found = measures.mutual_information(Tensor(), Tensor(), bins=2)  # type: ignore[arg-type]
        assert found == pytest.approx(1.0, abs=1e-3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"y": [0.1, 0.2]}, "one length, got 1 and 2"),
            ({"x": [[0.1]]}, r"x must be one-dimensional, got shape \(1, 1\)"),
            ({"bins": 0}, "bins must be from 1"),
            ({"range": ((0, 1), (1, 0))}, "lower < upper"),
            ({"estimator": "best"}, "unknown estimator 'best'"),
        ],
    )
    def test_refuses(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            measures.mutual_information(**{"x": [0.1], "y": [0.2], **arguments})


class TestSignatures:
    """deep_ei's names, order and defaults; where deep_ei is installed its own are compared too."""

    common = (
        "batch_size=20, in_layer=None, in_range=None, in_bins=64, out_range=None, out_bins=64, "
        "activation=None, device='cpu'"
    )

    @pytest.mark.parametrize(
        ("name", "own"),
        [
            ("ei", "threshold=0.05, samples=None, "),
            ("ei_parts", "threshold=0.05, samples=None, extrapolate=False, "),
            ("ei_parts_matrix", "samples=None, "),
            ("sensitivity", "samples=500, "),
            ("sensitivity_matrix", "samples=500, "),
            ("vector_and_pairwise_ei", "samples=None, "),
            ("eis_between_groups", "groups, samples=None, "),
        ],
    )
    def test_order_and_defaults(self, name: str, own: str) -> None:
        parameters = inspect.signature(getattr(measures, name)).parameters.values()
        shown = ", ".join(
            p.name if p.default is p.empty else f"{p.name}={p.default!r}"
            for p in parameters
            if p.kind is p.POSITIONAL_OR_KEYWORD
        )
        assert shown == f"layer, topology, {own}{self.common}"


# VmHWM, not getrusage: ru_maxrss of a child begins at the size of the process that started it
MEMORY_SCRIPT = """
import re, sys
import numpy as np
from onnx_ei.measures import ei_parts_matrix
from onnx_ei.topology import topology_of
matrix = ei_parts_matrix("fc0", topology_of(sys.argv[1]), samples=10_000)
assert matrix.shape == (1024, 1024) and matrix.min() >= 0
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]))
"""


@pytest.mark.slow
@pytest.mark.jit
def test_a_thousand_by_a_thousand_stays_below_a_gigabyte(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc")
    path = tmp_path / "wide.onnx"
    weights = np.random.default_rng(0).normal(size=(1024, 1024)) / 32
    onnx.save(chain((weights, "Sigmoid")), path)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 10**9


def test_the_measures_are_public() -> None:
    assert set(measures.__all__) - {"measure_many"} <= set(dir(onnx_ei))
