"""The exact engine on real spans: against truths, quadrature and sampling; and where it refuses."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import onnx
import pytest
import truths
from conftest import require_peer
from graphs import make, mlp, node, noise
from onnx import TensorProto

from onnx_ei import (
    degeneracy,
    ei_parts,
    ei_parts_matrix,
    measure,
    sensitivity,
    sensitivity_matrix,
    topology_of,
)
from onnx_ei._exact.pairs import ExactTotals, exact_totals
from onnx_ei.activations import ACTIVATIONS
from onnx_ei.errors import (
    NotConvergedWarning,
    OutOfRangeWarning,
    UndersampledWarning,
    UnsupportedModelError,
)
from onnx_ei.measuring import measure_many
from onnx_ei.results import Measurement
from onnx_ei.span import span_of

UNIT: dict[str, Any] = {"in_range": (0, 1), "out_range": (0, 1), "in_bins": 8, "out_bins": 8}


def dense(weights: Any, bias: Any = None, activation: str | None = None) -> nx.DiGraph[Any]:
    """One layer "fc" of weights (n_in, n_out)."""
    w = np.asarray(weights, np.float32)
    b = np.zeros(w.shape[1], np.float32) if bias is None else np.asarray(bias, np.float32)
    nodes = [node("Gemm", "x fc b", "y" if activation is None else "z")]
    nodes += [] if activation is None else [node(activation, "z", "y")]
    return topology_of(make(nodes, {"x": ("N", len(w))}, ["y"], {"fc": w, "b": b}, opset=20))


def exactly(name: str, topology: nx.DiGraph[Any], layer: Any = "fc", **options: Any) -> Measurement:
    return measure(name, layer, topology, method="exact", **options)


def agrees(
    topology: nx.DiGraph[Any], layer: Any, name: str = "ei_parts", n: int = 200_000, **options: Any
) -> Measurement:
    """Hold an exact value against samples: within 4 standard errors, and what corrects a bias."""
    options = {"in_bins": 8, "out_bins": 8} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfRangeWarning)
        found = exactly(name, topology, layer, **options)
        # the jackknife: its bias is below 1e-6 bit a pair at 8 bins and this many samples
        other = measure(
            name, layer, topology, method="sample", samples=n, estimator="jackknife", **options
        )
    value, error = np.asarray(other.value), np.asarray(other.stderr)
    assert (np.abs(value - found.value) < 4 * error + 1e-6 * found.n_inputs).all(), (found, other)
    assert abs(other.out_of_range - found.out_of_range) < 0.005
    assert np.max(found.value) > 20 * np.max(error)
    return found


# --- truths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [2, 8, 64, 256])
@pytest.mark.parametrize("name", ["ei_parts", "sensitivity"])
def test_identity_and_copies(name: str, bins: int) -> None:
    options = UNIT | {"in_bins": bins, "out_bins": bins}
    value = exactly(name, dense(np.eye(3)), **options).value
    assert value == pytest.approx(3 * np.log2(bins), abs=1e-6)
    copied = exactly(name, dense([[1, 1, 1, 1], [0, 0, 0, 0]]), **options).value
    assert copied == pytest.approx(4 * np.log2(bins), abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "activation", "bins", "parts", "swept"),
    [
        ([[0.5], [0.5]], None, 2, 0.37744, 0),
        ([[0.5], [0.5]], None, 4, 0.81128, 2),
        ([[0.5], [0.5]], None, 8, 1.09236, 4),
        ([[2], [-3]], "Sigmoid", 8, 1.13561, 3.13021),
        ([[3], [3]], "Sigmoid", 8, 0.54987, 3.37915),
        ([[0.75]], None, 8, 2.12581, 2.12581),
        ([[3]], None, 8, 1.56128, 1.56128),
        ([[1 / 4]], None, 8, 1, 1),
        ([[2]], None, 8, 2, 2),
        ([[4]], None, 64, 4, 4),
        ([[2.988]], "Sigmoid", 32, 3.49340, 3.49340),
        ([[2.664]], "Sigmoid", 128, 5.41655, 5.41655),
    ],
)
def test_hand_worked_values(
    weights: Any, activation: str | None, bins: int, parts: float, swept: float
) -> None:
    topology = dense(weights, activation=activation)
    options = UNIT | {"in_bins": bins, "out_bins": bins}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfRangeWarning)
        assert exactly("ei_parts", topology, **options).value == pytest.approx(parts, abs=6e-6)
        assert exactly("sensitivity", topology, **options).value == pytest.approx(swept, abs=6e-6)


# onnxruntime's Sigmoid is off by 1e-7, which is 3e-4 of it where SiLU falls below its last edge
CLOSE = {"Silu": 3e-5}
CASES = [
    (1, 2, (0, 1), None), (1, 8, (-2, 3), (-0.8, 0.7)), (1, 64, (0, 1), None),
    (1, 256, (-2, 3), (-0.8, 0.7)), (2, 2, (-2, 3), (-0.8, 0.7)), (2, 8, (0, 1), None),
    (2, 64, (-2, 3), (-0.8, 0.7)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("activation", truths.FORMULAS)
@pytest.mark.filterwarnings("ignore::onnx_ei.errors.OutOfRangeWarning")
def test_quadrature(activation: str, case: tuple[int, int, Any, Any]) -> None:
    n_inputs, bins, in_range, limits = case
    rng = np.random.default_rng(3)
    weights = (3 * rng.normal(size=(n_inputs, 2))).astype(np.float32)
    bias = np.array([0.3, -1.2], np.float32)
    topology, limits = dense(weights, bias), limits or ACTIVATIONS[activation].range
    for name in ("ei_parts_matrix", "sensitivity_matrix"):
        bits, kept = truths.pairs(
            weights, bias, activation, in_range=in_range, out_range=limits, bins=bins,
            sweep=name == "sensitivity_matrix",
        )  # fmt: skip
        found = exactly(
            name, topology, activation=activation, in_range=in_range, out_range=limits,
            in_bins=bins, out_bins=bins,
        )  # fmt: skip
        np.testing.assert_allclose(found.value, bits, rtol=0, atol=CLOSE.get(activation, 1e-5))
        assert found.out_of_range == pytest.approx(1 - kept.mean(), abs=1e-6)
        assert np.max(found.stderr) <= 1e-6


@pytest.mark.parametrize(
    "activation", ["Sigmoid", "Tanh", "Identity", "Relu", "Clip", "Gelu", "HardSwish"]
)
def test_wide_layers_against_samples(activation: str) -> None:
    n_inputs = {"Tanh": 100, "Gelu": 40}.get(activation, 10)
    weights = 3 * noise(n_inputs, 4, seed=5) / np.sqrt(n_inputs)
    topology = dense(weights, noise(4, seed=6))
    options: dict[str, Any] = {"activation": activation, "in_range": (-1, 2)}
    agrees(topology, "fc", **options)
    agrees(topology, "fc", "sensitivity", n=50_000, **options)


def test_one_strong_input_among_many_weak_ones() -> None:
    weights = np.full((30, 2), 1e-3)
    weights[7] = [2, -1]
    agrees(dense(weights, [0.1, 0.9]), "fc", "ei_parts_matrix", **UNIT)


def test_zero_weights_and_constant_units() -> None:
    topology = dense(np.zeros((50, 6)), [-0.5, 0, 0.3, 0.6, 1, 1.5])
    for name in ("ei_parts", "sensitivity"):
        with pytest.warns(OutOfRangeWarning, match=r"33\.3% of the outputs are outside out_range"):
            found = exactly(name, topology, **UNIT)
        assert (found.value, found.stderr) == (0.0, 0.0)
        assert found.out_of_range == pytest.approx(1 / 3)
    half = dense([[1, 0], [0, 0]], [0, 0.5])
    assert np.asarray(exactly("ei_parts_matrix", half, **UNIT).value).round(6).tolist() == [
        [3, 0],
        [0, 0],
    ]


def test_all_out_of_range_is_zero_and_said() -> None:
    with pytest.warns(OutOfRangeWarning, match=r"100\.0% of the outputs"):
        found = exactly("ei_parts", dense([[1.0]], [5.0]), **UNIT)
    assert (found.value, found.out_of_range, found.reliable) == (0.0, 1.0, False)


# --- spans -------------------------------------------------------------------------------------


def conv_model() -> onnx.ModelProto:
    """Conv, batch-norm as a node, Sigmoid; average pool; a residual of affine layers; Relu."""
    nodes = [
        node("Conv", "x k kb", "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c scale shift mean var", "n"),
        node("Sigmoid", "n", "s"),
        node("AveragePool", "s", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("MatMul", "f first", "h"),
        node("MatMul", "h second", "g"),
        node("Add", "g h", "r"),
        node("MatMul", "r third", "q"),
        node("Relu", "q", "y"),
    ]
    weights = {
        "k": noise(3, 2, 3, 3), "kb": noise(3), "scale": noise(3, seed=1) + 2,
        "shift": noise(3, seed=2), "mean": noise(3, seed=3), "var": noise(3, seed=4) ** 2 + 0.5,
        "first": noise(12, 5), "second": noise(5, 5), "third": noise(5, 3),
    }  # fmt: skip
    return make(nodes, {"x": ("N", 2, 4, 4)}, ["y"], weights)


def test_convolutions_pools_and_chains_are_affine_without_a_special_case() -> None:
    topology = topology_of(conv_model())
    conv, pool, first, second, third = list(topology)
    found = agrees(topology, conv, in_range=(0, 1))
    assert (found.n_inputs, found.n_outputs) == (18, 3)
    assert agrees(topology, pool, out_range=(0, 1)).n_outputs == 3
    assert agrees(topology, first).n_inputs == 12
    agrees(topology, third, in_layer=first, out_range=(0, 30), in_range=(0, 1))
    agrees(topology, second, in_layer=first, in_range=(0, 1))
    whole = agrees(topology, conv, positions="all", in_range=(0, 1))
    assert (whole.n_inputs, whole.n_outputs) == (32, 48)


def test_a_slope_of_each_unit() -> None:
    nodes = [node("Gemm", "x fc b", "z"), node("PRelu", "z slope", "y")]
    slope = np.array([0.1, 0.9, 0.1], np.float32)
    weights = {"fc": noise(4, 3), "b": noise(3), "slope": slope}
    topology = topology_of(make(nodes, {"x": ("N", 4)}, ["y"], weights))
    found = agrees(topology, "fc", "ei_parts_matrix", in_range=(-4, 4))
    for unit, alpha in enumerate(slope):
        leaky = dense(weights["fc"][:, [unit]], weights["b"][[unit]])
        alone = exactly(
            "ei_parts_matrix", leaky, in_range=(-4, 4), in_bins=8, out_bins=8,
            activation=lambda z, a=alpha: np.where(z < 0, a * z, z),
        )  # fmt: skip
        np.testing.assert_allclose(found.value[:, [unit]], alone.value, atol=1e-6)


def test_a_function_of_the_users_and_a_discontinuous_one() -> None:
    topology = dense(noise(5, 3), noise(3))
    options: dict[str, Any] = {"in_range": (-1, 1), "out_range": (-1, 1)}
    agrees(topology, "fc", activation=lambda z: np.sin(2 * z), **options)
    agrees(topology, "fc", activation=np.sign, **options)


def test_double_models() -> None:
    weights = noise(5, 3).astype(np.float64) / 3
    nodes = [node("MatMul", "x fc", "z"), node("Tanh", "z", "y")]
    model = make(nodes, {"x": ("N", 5)}, ["y"], {"fc": weights}, dtype=TensorProto.DOUBLE)
    found = exactly("ei_parts", topology_of(model), in_range=(-1, 1))
    single = exactly("ei_parts", dense(weights, activation="Tanh"), in_range=(-1, 1))
    assert found.value == pytest.approx(single.value, abs=1e-5)


def test_a_torch_module_whose_weights_change() -> None:
    torch = require_peer("torch")
    torch.manual_seed(0)
    fc = torch.nn.Linear(4, 3)
    net = torch.nn.Sequential(fc, torch.nn.PReLU(3), torch.nn.Linear(3, 2))
    topology = topology_of(net, torch.zeros(1, 4))
    before = agrees(topology, fc, in_range=(-3, 3))
    assert exactly("ei_parts", topology, fc, in_range=(-3, 3), in_bins=8, out_bins=8).value == (
        before.value
    )
    with torch.no_grad():
        fc.weight *= 3
    after = agrees(topology, fc, in_range=(-3, 3))
    assert after.value != before.value
    with torch.no_grad():
        net[1].weight[:] = torch.tensor([-1.0, 0.0, 1.0])
    changed = agrees(topology, fc, in_range=(-3, 3))
    assert changed.value != after.value
    assert agrees(topology, fc, in_range=(-3, 3), activation=torch.nn.GELU()).value > 0
    assert agrees(topology, fc, in_range=(-3, 3), activation=lambda z: torch.sin(z)).value > 0
    with torch.no_grad():
        fc.weight.zero_()
    for name in ("ei_parts", "sensitivity"):
        assert exactly(name, topology, fc, in_range=(-3, 3)).value == 0


# --- what a measurement says -------------------------------------------------------------------


def test_a_measurement_says_what_it_is() -> None:
    found = exactly("ei_parts", dense(noise(4, 3), activation="Sigmoid"), **UNIT, seed=7)
    said = (found.method, found.estimator, found.n_samples, found.converged, found.coverage)
    assert said == ("exact", "exact", 0, True, None)
    assert (found.provider, found.seed, found.out_range) == ("CPUExecutionProvider", 7, (0, 1))
    assert 0 < found.stderr <= 12e-6
    lower, upper = found.interval()
    assert upper - lower == pytest.approx(2 * found.stderr)


def test_shapes_and_sums() -> None:
    topology = dense(noise(4, 3), activation="Sigmoid")
    for total, matrix in ((ei_parts, ei_parts_matrix), (sensitivity, sensitivity_matrix)):
        pairs = matrix("fc", topology, **UNIT)
        assert pairs.shape == (4, 3)
        assert total("fc", topology, **UNIT) == pytest.approx(pairs.sum(), abs=1e-12)
    difference = exactly("degeneracy", topology, against="ei_parts", **UNIT)
    parts, swept = (exactly(name, topology, **UNIT) for name in ("ei_parts", "sensitivity"))
    assert difference.value == swept.value - parts.value
    assert difference.stderr == swept.stderr + parts.stderr
    assert degeneracy("fc", topology, against="ei_parts", **UNIT) == difference.value


def test_the_tolerance_is_a_bound_of_each_pair() -> None:
    topology = dense(noise(9, 5), activation="Tanh")
    fine = exactly("ei_parts_matrix", topology, tolerance=1e-9, in_range=(-1, 1))
    for tolerance in (1e-2, 1e-4, 1e-6):
        found = exactly("ei_parts_matrix", topology, tolerance=tolerance, in_range=(-1, 1))
        assert np.max(found.stderr) <= tolerance
        assert (np.abs(found.value - fine.value) <= found.stderr + fine.stderr).all()
    with pytest.warns(NotConvergedWarning, match=r"bounded by .* more than tolerance=1e-18 a pair"):
        found = exactly("ei_parts", topology, tolerance=1e-18, in_range=(-1, 1))
    assert found.converged is False


def test_tiles_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = dense(noise(6, 70), noise(70), activation="Sigmoid")
    names = ("ei_parts", "ei_parts_matrix", "sensitivity", "sensitivity_matrix")
    whole = measure_many(names, "fc", topology, method="exact", **UNIT)
    monkeypatch.setattr("onnx_ei._exact.terms.TASK_PAIRS", 1)
    steps: list[tuple[int, int]] = []
    tiled = measure_many(
        names, "fc", topology, method="exact", memory_limit=500,
        progress=lambda *step: steps.append(step), **UNIT,
    )  # fmt: skip
    monkeypatch.setattr("numba.get_num_threads", lambda: 1)
    alone = measure_many(names, "fc", topology, method="exact", **UNIT)
    for name in names:
        for other in (tiled, alone):
            np.testing.assert_array_equal(whole[name].value, other[name].value)
            np.testing.assert_array_equal(whole[name].stderr, other[name].stderr)
    assert steps[-1] == (4 * 420, 4 * 420)
    assert len(steps) > 20


def test_what_was_found_is_kept_with_the_span_but_for_large_maps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topology = dense(noise(6, 5), activation="Sigmoid")
    exactly("ei_parts", topology, **UNIT)
    kept = {key[0] for key in span_of(topology, "fc").runners if isinstance(key, tuple)}
    assert {"affine", "pieces", "activation"} <= kept
    monkeypatch.setattr("onnx_ei._exact.affine.AffineMap._read", None)
    exactly("sensitivity", topology, **UNIT)
    monkeypatch.undo()
    monkeypatch.setattr("onnx_ei._exact.terms.KEPT_BYTES", 10)
    large = dense(noise(6, 5), activation="Sigmoid")
    exactly("ei_parts", large, **UNIT)
    assert "affine" not in {key[0] for key in span_of(large, "fc").runners}


# --- method="auto" -----------------------------------------------------------------------------


def test_auto_takes_each_measure_by_itself() -> None:
    topology = dense(2 * noise(3, 2), activation="Sigmoid")
    options = UNIT | {"in_bins": 4, "out_bins": 4}
    names = (
        "ei", "ei_parts", "ei_parts_matrix", "sensitivity", "sensitivity_matrix", "phi",
        "degeneracy", "vector_and_pairwise_ei", "eis_between_groups",
    )  # fmt: skip
    groups = [((0, 1), (0,))]
    found = measure_many(names, "fc", topology, groups=groups, **options)
    assert list(found) == list(names)
    assert {name: result.method for name, result in found.items()} == {
        "ei": "sample", "ei_parts": "exact", "ei_parts_matrix": "exact", "sensitivity": "exact",
        "sensitivity_matrix": "exact", "phi": "sample+exact", "degeneracy": "sample+exact",
        "vector_and_pairwise_ei": "sample+exact", "eis_between_groups": "sample",
    }  # fmt: skip
    assert all((found[n].n_samples > 0) is ("sample" in found[n].method) for n in names)
    for name in ("ei_parts", "phi", "degeneracy", "vector_and_pairwise_ei"):
        alone = measure(name, "fc", topology, **options)
        assert (alone.value, alone.stderr) == (found[name].value, found[name].stderr)
        sampled = measure(name, "fc", topology, method="sample", samples=200_000, **options)
        off = np.abs(np.subtract(alone.value, sampled.value))
        assert (off < 4 * np.hypot(alone.stderr, sampled.stderr)).all()


def test_mixed_measures_are_the_terms_put_together() -> None:
    topology = dense(2 * noise(3, 2), activation="Sigmoid")
    options = UNIT | {"in_bins": 4, "out_bins": 4, "max_samples": 20_000, "threshold": 1e-9}
    with pytest.warns(NotConvergedWarning):
        found = measure_many(
            ("ei", "ei_parts", "sensitivity", "phi", "degeneracy", "vector_and_pairwise_ei"),
            "fc", topology, **options,
        )  # fmt: skip
    ei, parts, swept = (found[n] for n in ("ei", "ei_parts", "sensitivity"))
    assert found["phi"].value == ei.value - parts.value
    assert found["phi"].stderr == ei.stderr + parts.stderr
    assert found["degeneracy"].value == swept.value - ei.value
    assert found["degeneracy"].stderr == ei.stderr + swept.stderr
    assert found["vector_and_pairwise_ei"].value == (ei.value, parts.value)
    assert found["vector_and_pairwise_ei"].stderr == (ei.stderr, parts.stderr)
    assert found["phi"].estimator == ei.estimator
    assert found["phi"].coverage == ei.coverage


@pytest.mark.parametrize(
    "options",
    [{"samples": 1000}, {"method": "sample"}, {"out_bins": "dynamic"}, {"out_range": "dynamic"}],
)
def test_auto_samples_where_it_is_told_to(options: dict[str, Any]) -> None:
    topology = dense(2 * noise(3, 2), activation="Sigmoid")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndersampledWarning)
        found = measure_many(("ei_parts", "phi"), "fc", topology, **(UNIT | options))
    assert {result.method for result in found.values()} == {"sample"}


def test_sensitivitys_500_samples_are_a_default_until_they_are_asked_for() -> None:
    topology = dense(2 * noise(3, 2), activation="Sigmoid")
    exact = exactly("sensitivity", topology, **UNIT).value
    assert sensitivity("fc", topology, **UNIT) == exact
    assert sensitivity("fc", topology, samples=None, **UNIT) == exact
    asked = sensitivity("fc", topology, samples=500, **UNIT)
    assert asked == measure("sensitivity", "fc", topology, samples=500, **UNIT).value != exact
    sampled = sensitivity("fc", topology, method="sample", **UNIT)
    assert sampled == asked
    matrix = sensitivity_matrix("fc", topology, method="sample", **UNIT)
    assert matrix.sum() == pytest.approx(asked, abs=1e-3)
    # where there is no exact form, deep_ei's 500
    topology = topology_of(mlp("Tanh"))
    default = sensitivity("fc2", topology, in_layer="fc1", in_bins=8, out_bins=8)
    given = sensitivity("fc2", topology, in_layer="fc1", in_bins=8, out_bins=8, samples=500)
    assert default == given


def test_auto_samples_a_span_that_is_not_affine(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = topology_of(mlp("Tanh"))
    # nobody is told why: it is not looked for
    monkeypatch.setattr("onnx_ei._exact.terms.departure", None)
    found = measure_many(
        ("ei_parts", "degeneracy"), "fc2", topology, in_layer="fc1", in_bins=4, out_bins=4
    )
    assert {result.method for result in found.values()} == {"sample"}


def test_auto_samples_what_a_bound_is_too_wide_for(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = dense(2 * noise(3, 2), activation="Sigmoid")
    names = ("ei_parts", "sensitivity", "phi", "degeneracy")
    options = UNIT | {"in_bins": 4, "out_bins": 4}

    def vague(*arguments: Any, **named: Any) -> ExactTotals:
        return replace(exact_totals(*arguments, **named), bound=np.full(2, 0.1))

    monkeypatch.setattr("onnx_ei._exact.terms.exact_totals", vague)
    found = measure_many(names, "fc", topology, **options)
    assert [found[n].method for n in names] == ["sample", "exact", "sample", "sample+exact"]
    with pytest.warns(NotConvergedWarning, match="bounded by 0.2 bits, more than tolerance=1e-06"):
        asked = exactly("ei_parts", topology, **options)
    assert (asked.method, asked.converged) == ("exact", False)


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ei", {}, r"method='exact' has no form of 'ei': it is for 'ei_parts', .*method='auto'"),
        ("phi", {}, "no form of 'phi'"),
        ("degeneracy", {}, "no form of 'degeneracy'.*with against='ei_parts'"),
        ("vector_and_pairwise_ei", {}, "no form of 'vector_and_pairwise_ei'"),
        ("eis_between_groups", {"groups": [((0,), (0,))]}, "no form of 'eis_between_groups'"),
        ("ei_parts", {"out_range": "dynamic"}, r"no out_range='dynamic'.*give \(lower, upper\)"),
        ("ei_parts", {"out_bins": "dynamic"}, "no out_bins='dynamic'.*or use method='sample'"),
        ("ei_parts", {"extrapolate": True}, "needs no extrapolation"),
        ("ei_parts", {"tolerance": 0}, "tolerance must be above 0"),
    ],
)
def test_what_has_no_exact_form(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exactly(name, dense(np.eye(2)), **options)


def test_names_the_operator_where_a_span_stops_being_affine() -> None:
    topology = topology_of(mlp("Tanh"))
    message = (
        r"the span from 'fc1' to 'fc2' is not affine up to an elementwise activation: the result "
        r"of Tanh 'a' departs from an affine map by (1|0\.\d+) of its largest; use method='sample'"
    )
    for _ in range(2):  # the second time from what is kept
        with pytest.raises(UnsupportedModelError, match=message):
            exactly("ei_parts", topology, "fc2", in_layer="fc1")


def test_a_pool_of_maxima() -> None:
    nodes = [
        node("Conv", "x k", "c"),
        node("MaxPool", "c", "y", kernel_shape=[2, 2]),
    ]
    model = make(nodes, {"x": ("N", 1, 4, 4)}, ["y"], {"k": noise(2, 1, 1, 1)}, ranks={"y": 4})
    topology = topology_of(model)
    with pytest.raises(UnsupportedModelError, match="result of MaxPool 'y' departs"):
        exactly("ei_parts", topology, list(topology)[1])


def test_half_precision_is_rounding_not_an_affine_map() -> None:
    weights = {"fc": noise(5, 3).astype(np.float16)}
    model = make([node("MatMul", "x fc", "y")], {"x": ("N", 5)}, ["y"], weights,
                 dtype=TensorProto.FLOAT16)  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"'y'.* \(it is rounded to FLOAT16\)"):
        exactly("ei_parts", topology_of(model))
    assert measure("ei_parts", "fc", topology_of(model), out_range=(-90, 90)).method == "sample"


def test_a_recurrent_cell() -> None:
    weights = {"W": noise(1, 3, 4), "R": noise(1, 3, 3)}
    model = make([node("RNN", "x W R", "y", hidden_size=3)], {"x": (5, "N", 4)}, ["y"], weights,
                 ranks={"y": 4})  # fmt: skip
    topology = topology_of(model)
    with pytest.raises(UnsupportedModelError, match="result of RNN 'y' departs"):
        exactly("ei_parts", topology, next(iter(topology)))


def test_an_activation_that_mixes_units() -> None:
    def softmax(z: Any) -> Any:
        return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)

    message = r"activation is not elementwise, \d+% of its outputs change with the pre-activations"
    with pytest.raises(UnsupportedModelError, match=message):
        exactly("ei_parts", dense(noise(4, 3)), activation=softmax)


def test_an_activation_that_is_another_each_time() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UnsupportedModelError, match="are not the activation of their own pre-act"):
        exactly("ei_parts", dense(noise(4, 3)), activation=lambda z: z + rng.random(z.shape))


def test_an_activation_that_oscillates() -> None:
    with pytest.raises(UnsupportedModelError, match=r"layer 'fc': the activation (changes|cross)"):
        exactly("ei_parts", dense([[1e5]]), activation="sin", in_range=(-1, 1))
