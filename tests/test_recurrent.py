"""Recurrent layers at the level of their cell: one step from a given state."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import make, node, noise

from onnx_ei import measure, topology_of
from onnx_ei._graph.recurrent import cell_range
from onnx_ei.errors import UnboundedSpanError, UnsupportedModelError
from onnx_ei.runtime import runner
from onnx_ei.span import Span, span_of

FEATURES, HIDDEN = 3, 2
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
Array = Any


def weights(op: str, directions: int = 1) -> dict[str, Array]:
    rows = GATES[op] * HIDDEN
    return {
        "W": noise(directions, rows, FEATURES, seed=1),
        "R": noise(directions, rows, HIDDEN, seed=2),
        "B": noise(directions, 2 * rows, seed=3),
    }


def sequence(op: str, opset: int = 18, **attributes: Any) -> onnx.ModelProto:
    """x (5 steps, batch, 3) -> op, from zero."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    nodes = [node(op, "x W R B", "y", hidden_size=HIDDEN, **attributes)]
    inputs = {"x": (5, "N", FEATURES)}
    return make(nodes, inputs, ["y"], weights(op, directions), opset=opset, ranks={"y": 4})


def stateful(op: str = "LSTM") -> onnx.ModelProto:
    """The same, from a state that is an input of the model."""
    states = "h0 c0" if op == "LSTM" else "h0"
    nodes = [node(op, f"x W R B _ {states}", "y", hidden_size=HIDDEN)]
    inputs = {"x": (5, "N", FEATURES), "h0": (1, "N", HIDDEN)}
    if op == "LSTM":
        inputs["c0"] = (1, "N", HIDDEN)
    return make(nodes, inputs, ["y"], weights(op), ranks={"y": 4})


def run(span: Span, x: Array) -> Array:
    return runner(span)(np.asarray(x, np.float32))


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def step(op: str, x: Array, h: Array, c: Array, direction: int = 0) -> Array:
    """One step by the equations of the ONNX operators."""
    held = {k: v[direction].astype(np.float64) for k, v in weights(op, direction + 1).items()}
    bias_w, bias_r = np.split(held["B"], 2)
    by_x, by_h = x @ held["W"].T + bias_w, h @ held["R"].T + bias_r
    if op == "RNN":
        return np.tanh(by_x + by_h)
    if op == "LSTM":
        i, o, f, g = np.split(by_x + by_h, 4, axis=-1)
        return sigmoid(o) * np.tanh(sigmoid(f) * c + sigmoid(i) * np.tanh(g))
    (zx, rx, nx), (zh, rh, _) = np.split(by_x, 3, axis=-1), np.split(by_h, 3, axis=-1)
    z, r = sigmoid(zx + zh), sigmoid(rx + rh)
    rows = slice(2 * HIDDEN, None)
    n = np.tanh(nx + (r * h) @ held["R"][rows].T + bias_r[rows])
    return (1 - z) * n + z * h


@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize("opset", [9, 18])
def test_a_step_from_zero(op: str, opset: int) -> None:
    topology = topology_of(sequence(op, opset))
    (key,) = topology
    span = span_of(topology, key)
    assert (span.in_shape, span.out_shape) == ((FEATURES,), (1, 1, HIDDEN))
    assert span.batched
    assert (span.in_range, span.out_range) == ((-10, 10), (-1, 1))
    x, zero = noise(6, FEATURES, seed=9), np.zeros(HIDDEN)
    np.testing.assert_allclose(run(span, x), step(op, x, zero, zero), atol=1e-6)


def test_a_step_is_the_first_of_the_sequence() -> None:
    x = noise(5, 1, FEATURES, seed=4)
    topology = topology_of(sequence("LSTM"), x)
    (key,) = topology
    whole = topology.graph["model"].tensors(["y"])["y"]
    np.testing.assert_allclose(run(span_of(topology, key), x[0]), whole[0, :, 0], rtol=1e-6)


def test_both_directions_take_the_same_step() -> None:
    topology = topology_of(sequence("GRU", direction="bidirectional"))
    (key,) = topology
    span = span_of(topology, key)
    assert span.out_shape == (1, 2, HIDDEN)
    x, zero = noise(4, FEATURES, seed=9), np.zeros(HIDDEN)
    found = run(span, x).reshape(4, 2, HIDDEN)
    for direction in range(2):
        held = {k: v[direction : direction + 1] for k, v in weights("GRU", 2).items()}
        alone = make(
            [node("GRU", "x W R B", "y", hidden_size=HIDDEN)],
            {"x": (1, "N", FEATURES)}, ["y"], held, ranks={"y": 4},
        )  # fmt: skip
        single = topology_of(alone)
        expected = run(span_of(single, *single), x)
        np.testing.assert_allclose(found[:, direction], expected, rtol=1e-6)
    assert step("GRU", x, zero, zero).shape == (4, HIDDEN)


def test_the_batch_first_layout() -> None:
    nodes = [node("LSTM", "x W R B", "y", hidden_size=HIDDEN, layout=1)]
    model = make(nodes, {"x": ("N", 5, FEATURES)}, ["y"], weights("LSTM"), ranks={"y": 4})
    topology = topology_of(model, np.zeros((1, 5, FEATURES), np.float32))
    (key,) = topology
    x, zero = noise(6, FEATURES, seed=9), np.zeros(HIDDEN)
    np.testing.assert_allclose(
        run(span_of(topology, key), x), step("LSTM", x, zero, zero), atol=1e-6
    )


def test_a_state_from_outside_has_to_be_given() -> None:
    topology = topology_of(stateful())
    (key,) = topology
    with pytest.raises(UnboundedSpanError, match="also needs 'c0', 'h0'"):
        span_of(topology, key)
    x, zero = noise(6, FEATURES, seed=9), np.zeros(HIDDEN)
    found = run(span_of(topology, key, background="zeros"), x)
    np.testing.assert_allclose(found, step("LSTM", x, zero, zero), atol=1e-6)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_a_given_state_is_every_samples(op: str) -> None:
    h, c = noise(HIDDEN, seed=5), noise(HIDDEN, seed=6)
    states = {"h0": h.reshape(1, 1, HIDDEN), "c0": c.reshape(1, 1, HIDDEN)}
    given = {k: v for k, v in states.items() if k == "h0" or op == "LSTM"}
    x = noise(6, FEATURES, seed=9)
    topology = topology_of(stateful(op), {"x": noise(5, 1, FEATURES), **given})
    (key,) = topology
    for background in (given, "reference"):
        span = span_of(topology, key, background=background)
        assert span.batched
        np.testing.assert_allclose(run(span, x), step(op, x, h, c), atol=1e-6)


def test_a_state_of_the_wrong_rank() -> None:
    topology = topology_of(stateful("GRU"))
    (key,) = topology
    with pytest.raises(ValueError, match=r"state 'h0' must be \(directions, 1, hidden\)"):
        span_of(topology, key, background={"h0": np.ones(HIDDEN)})


def test_the_model_is_left_as_it_was() -> None:
    topology = topology_of(sequence("LSTM"))
    (key,) = topology
    model = topology.graph["model"].ir
    before = [len(v.uses()) for v in model.graph.initializers.values()]
    span_of(topology, key)
    assert [len(v.uses()) for v in model.graph.initializers.values()] == before


def test_an_activation_ends_the_step() -> None:
    nodes = [
        node("LSTM", "x W R B", "h", hidden_size=HIDDEN),
        node("Squeeze", "h axes", "s"),
        node("Relu", "s", "y"),
    ]
    held = {**weights("LSTM"), "axes": np.array([1])}
    topology = topology_of(make(nodes, {"x": (5, "N", FEATURES)}, ["y"], held, ranks={"y": 3}))
    (key,) = topology
    x, zero = noise(6, FEATURES, seed=9), np.zeros(HIDDEN)
    plain = step("LSTM", x, zero, zero)
    span = span_of(topology, key)
    assert span.out_range == (0, 10)
    np.testing.assert_allclose(run(span, x), np.maximum(plain, 0), atol=1e-6)
    over = span_of(topology, key, activation="tanh")
    np.testing.assert_allclose(run(over, x), np.tanh(plain), atol=1e-6)


def test_an_activation_with_parameters_is_refused() -> None:
    nodes = [
        node("LSTM", "x W R B", "h", hidden_size=HIDDEN),
        node("LeakyRelu", "h", "y", alpha=0.3),
    ]
    topology = topology_of(
        make(nodes, {"x": (5, "N", FEATURES)}, ["y"], weights("LSTM"), ranks={"y": 4})
    )
    (key,) = topology
    with pytest.raises(UnsupportedModelError, match=r"LeakyRelu, .* has parameters of its own"):
        span_of(topology, key)
    x, zero = noise(6, FEATURES, seed=9), np.zeros(HIDDEN)
    given = span_of(topology, key, activation=lambda h: np.where(h < 0, 0.3 * h, h))
    plain = step("LSTM", x, zero, zero)
    np.testing.assert_allclose(run(given, x), np.where(plain < 0, 0.3 * plain, plain), atol=1e-6)


def test_spans_of_several_layers_cannot_end_in_a_cell() -> None:
    nodes = [node("MatMul", "x fc", "h"), node("LSTM", "h W R B", "y", hidden_size=HIDDEN)]
    held = {**weights("LSTM"), "fc": noise(FEATURES, FEATURES)}
    topology = topology_of(make(nodes, {"x": (5, "N", FEATURES)}, ["y"], held, ranks={"y": 4}))
    first, last = topology
    with pytest.raises(UnsupportedModelError, match="is measured alone, one step of its cell"):
        span_of(topology, last, in_layer=first)


def test_open_features() -> None:
    nodes = [node("LSTM", "x W R B", "y", hidden_size=HIDDEN)]
    held = {name: weight for name, weight in weights("LSTM").items() if name != "W"}
    inputs = {"x": (5, "N", FEATURES), "W": (1, 8, "F")}
    model = make(nodes, inputs, ["y"], held, ranks={"y": 4})
    # weights that the input decides make no layer
    assert len(topology_of(model)) == 0


@pytest.mark.parametrize(
    ("names", "limits"),
    [
        (None, (-1, 1)),
        (["Sigmoid", "Tanh", "Relu"], (0, 10)),
        (["Sigmoid", "Sigmoid", "Sigmoid"], (0, 1)),
        (["Affine"], (-1, 1)),
    ],
)
def test_the_range_is_that_of_the_last_activation(names: list[str] | None, limits: Any) -> None:
    attributes = {} if names is None else {"activations": names}
    assert cell_range(ir.node("LSTM", [], attributes=attributes)) == limits


def test_a_cell_is_measured_like_any_layer() -> None:
    topology = topology_of(sequence("RNN"))
    (key,) = topology
    options = {"in_range": (-1, 1), "in_bins": 8, "out_bins": 8, "samples": 20_000}
    found = measure("ei_parts", key, topology, **options)
    # the same cell written out as a dense layer with Tanh
    held = weights("RNN")
    dense = make(
        [node("Gemm", "x w b", "h", transB=1), node("Tanh", "h", "y")],
        {"x": ("N", FEATURES)}, ["y"],
        {"w": held["W"][0], "b": held["B"][0, :HIDDEN] + held["B"][0, HIDDEN:]},
    )  # fmt: skip
    expected = measure("ei_parts", "w", topology_of(dense), **options)
    assert abs(found.value - expected.value) <= 0.1 * expected.stderr
