"""The check of a batch against single runs: what it has to see, and what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from brute import build, random
from graphs import node

from onnx_ei._graph import probing
from onnx_ei._graph.probing import Probe, probe
from onnx_ei.sessions import Session
from onnx_ei.span import span_of
from onnx_ei.topology import topology_of


def probed(
    nodes: list[Any],
    weights: dict[str, Any],
    units: tuple[int, ...],
    in_range: tuple[float, float] = (-1, 1),
) -> Probe:
    """Check a model as it stands, nothing of it rewritten."""
    proto = build(nodes, weights, {"x": ("batch", *units)})
    # of an inner tensor without a type nothing can be said
    model = onnx_ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    return probe(Session(model), model, in_range)


def test_a_batch_that_gives_what_single_runs_give() -> None:
    found = probed([node("MatMul", "x w", "y")], {"w": random(5, 3)}, (5,))
    assert found == (True, (3,), "")


def test_a_reshape_that_runs_and_mixes_in_silence() -> None:
    """``Reshape [1, 4, -1]`` of four samples: the shape at the end is right, the values are not."""
    nodes = [
        node("Reshape", "x mixing", "r"),
        node("Softmax", "r", "s", axis=-1),
        node("Reshape", "s back", "y"),
    ]
    weights = {"mixing": np.array([1, 4, -1]), "back": np.array([-1, 4, 6])}
    found = probed(nodes, weights, (4, 6))
    assert (found.batched, found.out_shape) == (False, (4, 6))
    assert found.note.startswith("a batch of 4 differs from single runs by 0.")
    assert found.note.endswith(" of the largest output, first at node 'r' (Reshape)")


def test_the_same_reshape_in_a_span_is_mended() -> None:
    nodes = [
        node("MatMul", "x w", "m"),
        node("Reshape", "m mixing", "r"),
        node("Softmax", "r", "s", axis=-1),
        node("Reshape", "s back", "b"),
        node("MatMul", "b v", "y"),
    ]
    weights = {
        "w": random(6, 6), "mixing": np.array([1, 4, -1]), "back": np.array([-1, 4, 6]),
        "v": random(6, 2),
    }  # fmt: skip
    topology = topology_of(build(nodes, weights, {"x": (1, 4, 6)}))
    span = span_of(topology, "v", in_layer="w")
    assert (span.batched, span.batch_note) == (True, "")


def test_what_does_not_run_in_a_batch() -> None:
    nodes = [node("Reshape", "x one", "r"), node("MatMul", "r w", "y")]
    found = probed(nodes, {"one": np.array([1, 24]), "w": random(24, 3)}, (4, 6))
    assert not found.batched
    assert found.note.startswith("does not run in a batch: onnxruntime failed: ")


def test_a_shape_that_does_not_grow_with_the_batch() -> None:
    nodes = [node("ReduceMax", "x axes", "m"), node("Identity", "m", "y")]
    found = probed(nodes, {"axes": np.array([0])}, (5,))
    assert found.note == ("does not run in a batch: 4 samples make an output of shape (1, 5)")
    nodes = [node("Transpose", "x", "y", perm=[1, 0])]
    found = probed(nodes, {}, (5,))
    assert found.note == "does not run in a batch: its output has no axis that counts them"
    assert found.out_shape == (5, 1)


SATURATED = [
    node("Mul", "x huge", "h"),
    node("Clip", "h low high", "c"),
    node("DynamicQuantizeLinear", "c", "q s z"),
    node("DequantizeLinear", "q s z", "y"),
]
LIMITS = {"huge": np.float32(3), "low": np.float32(-5), "high": np.float32(5)}


def test_a_scale_of_the_whole_batch_cannot_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample of wide noise reaches the same largest value; a smaller one does not."""
    found = probed(SATURATED, LIMITS, (200,), (-10, 10))
    assert not found.batched
    assert "first at node 'q' (DynamicQuantizeLinear)" in found.note
    monkeypatch.setattr(probing, "_REACHES", (1.0, 1.0, 1.0, 1.0))
    assert probed(SATURATED, LIMITS, (200,), (-10, 10)).batched


@pytest.mark.parametrize("in_range", [(0.0, 1.0), (-10.0, 10.0), (2.0, 3.0), (-3.0, -2.0)])
def test_noise_stays_in_the_range(in_range: tuple[float, float]) -> None:
    """A logarithm is defined only there."""
    model = onnx_ir.from_proto(build([node("Log", "x", "y")], {}, {"x": ("batch", 50)}))
    noise = probing._noise(model, in_range)
    assert noise.shape == (4, 50)
    assert noise.dtype == np.float32
    assert noise.min() >= in_range[0]
    assert noise.max() <= in_range[1]
    reach = noise.max(axis=1) - noise.min(axis=1)
    assert reach[1] == pytest.approx(reach[0] / 10, rel=0.2)
    assert reach[2] == pytest.approx(reach[0] / 100, rel=0.2)
    assert not np.array_equal(noise[0], noise[3])


def test_infinities_and_nan_do_not_hide_it() -> None:
    nodes = [
        node("Sub", "x top", "d"),
        node("Div", "x zero", "i"),
        node("ReduceMax", "x axes", "m"),
        node("Mul", "x m", "p"),
        node("Concat", "i p", "y", axis=1),
    ]
    weights = {"top": np.float32(1), "zero": np.float32(0), "axes": np.array([0, 1])}
    found = probed(nodes, weights, (5,))
    assert not found.batched
    assert "first at node 'm' (ReduceMax)" in found.note


def test_without_types_no_node_is_named() -> None:
    proto = build(
        [node("ReduceMax", "x axes", "m"), node("Mul", "x m", "y")],
        {"axes": np.array([0, 1])},
        {"x": ("batch", 5)},
    )
    model = onnx_ir.from_proto(proto)
    found = probe(Session(model), model, (-1, 1))
    assert found.note.endswith(" of the largest output")
