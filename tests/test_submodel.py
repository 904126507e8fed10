"""Sub-models: what belongs to them, the batch freed or refused, constants rewritten, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import brute
import numpy as np
import onnx
import pytest
from brute import build, random
from graphs import node
from onnx import TensorProto, helper

from onnx_ei._graph.cut import nodes_between
from onnx_ei.errors import UnboundedSpanError, UnsupportedModelError
from onnx_ei.runtime import runner
from onnx_ei.span import span_of
from onnx_ei.topology import layer_of, topology_of

Array = Any


def conv1d(x: Array, w: Array, *, stride: int = 1, pad: int = 0) -> Array:
    """A slow convolution of (channels, length) with (out, in, kernel)."""
    x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad)))
    places = range(0, x.shape[1] - w.shape[2] + 1, stride)
    return np.stack([(x[None, :, p : p + w.shape[2]] * w).sum((1, 2)) for p in places], axis=1)


# --- hand-worked -----------------------------------------------------------------------------


def test_residual_block_by_hand() -> None:
    """y = relu(w2 * tanh(w1 * x) + x): 3 + 3 - 1 = 5 inputs reach one output, the skip is one."""
    nodes = [
        node("Conv", "x w1", "a", pads=[1, 1]),
        node("Tanh", "a", "t"),
        node("Conv", "t w2", "c", pads=[1, 1]),
        node("Add", "c x", "s"),
        node("Relu", "s", "r"),
        node("Conv", "r w3", "y"),
    ]
    w1, w2, w3 = (random(2, 2, k, seed=k) / 2 for k in (3, 3, 1))
    proto = build(nodes, {"w1": w1, "w2": random(2, 2, 3, seed=9), "w3": w3}, {"x": (1, 2, 11)})
    w2 = random(2, 2, 3, seed=9)
    topology = topology_of(proto)
    assert sorted(topology.edges) == [("w1", "w2"), ("w2", "w3")]
    span = span_of(topology, "w3", in_layer="w1")
    # y is 11 long, its middle 5: c[5] reads t[4..7), which reads x[3..8); the skip reads x[5]
    assert span.in_window == (None, None, (3, 8))
    assert span.out_window == (None, None, (5, 6))
    assert (span.in_shape, span.out_shape) == ((2, 5), (2, 1))
    x = random(2, 5, seed=4)
    c = conv1d(np.tanh(conv1d(x, w1)), w2)  # of length 5 - 2 - 2 = 1
    want = w3[:, :, 0] @ np.maximum(c[:, 0] + x[:, 2], 0)
    np.testing.assert_allclose(runner(span)(x.reshape(1, -1))[0], want, rtol=1e-5)


def test_conv_batch_norm_relu_by_hand() -> None:
    """relu(g (w x + b - m) / sqrt(v + eps) + beta) with whole numbers."""
    nodes = [
        node("Conv", "x w b", "c", strides=[2], pads=[1, 1]),
        node("BatchNormalization", "c g beta m v", "n", epsilon=0.0),
        node("Relu", "n", "y"),
    ]
    weights = {
        "w": np.array([[[1, 2, 3]], [[-1, 0, 1]]], np.float32),
        "b": np.array([1, -1], np.float32),
        "g": np.array([2, 3], np.float32),
        "beta": np.array([-4, 5], np.float32),
        "m": np.array([3, -2], np.float32),
        "v": np.array([4, 9], np.float32),
    }
    span = span_of(topology_of(build(nodes, weights, {"x": ("N", 1, 9)})), "w")
    # 9 + 2 - 3 = 8, over 2, and 1: 5 outputs; the middle, 2, starts at 2 * 2 - 1 = 3
    assert (span.in_window[2], span.out_window[2]) == ((3, 6), (2, 3))
    assert span.out_range == (0, 10)
    x = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [2, -1, 3]], np.float32)
    # w x + b: (2, -2), (3, -1), (4, 0), (7, -1), (1 + 2 - 2 + 9, -1 - 2 + 3) = (10, 0)
    # first: 2 (u - 3) / 2 - 4 = u - 7; second: 3 (u + 2) / 3 + 5 = u + 7; then max(., 0)
    want = [[0, 5], [0, 6], [0, 7], [0, 6], [3, 7]]
    np.testing.assert_allclose(runner(span)(x), want, atol=1e-5)


def test_conv_pool_chain_by_hand() -> None:
    """conv 3, pool 2/2, conv 3, pool 2/2: receptive fields 3, 4, 8, 10 and strides 1, 2, 2, 4."""
    nodes = [
        node("Conv", "x w1", "c1"),
        node("MaxPool", "c1", "p1", kernel_shape=[2], strides=[2]),
        node("Conv", "p1 w2", "c2"),
        node("AveragePool", "c2", "p2", kernel_shape=[2], strides=[2]),
    ]
    w1, w2 = random(2, 1, 3), random(3, 2, 3)
    topology = topology_of(build(nodes, {"w1": w1, "w2": w2}, {"x": ("N", 1, 30)}))
    # lengths: 28, 14, 12, 6; middles: 14, 7, 6, 3
    expected = {"w1": (14, 17), "p1": (14, 18), "w2": (12, 20), "p2": (12, 22)}
    for layer, window in expected.items():
        span = span_of(topology, layer, in_layer="w1")
        assert span.in_window == (None, None, window)
    x = random(1, 10, seed=3)
    c1 = conv1d(x, w1)
    c2 = conv1d(c1.reshape(2, 4, 2).max(2), w2)
    np.testing.assert_allclose(runner(span)(x)[0], c2.mean(1), rtol=1e-5)


# --- what belongs to it ----------------------------------------------------------------------


def side_input() -> onnx.ModelProto:
    """Two layers whose hidden units are multiplied by a gate from another input."""
    nodes = [
        node("Gemm", "x w1", "h"),
        node("Mul", "h gate", "g"),
        node("Gemm", "g w2", "y"),
    ]
    weights = {"w1": random(3, 4), "w2": random(4, 2)}
    return build(nodes, weights, {"x": ("N", 3), "gate": ("N", 4)})


def test_nodes_between_names_what_else_is_needed() -> None:
    topology = topology_of(side_input())
    first, last = layer_of(topology, "w1"), layer_of(topology, "w2")
    nodes, sides = nodes_between(first.entering, last.leaving)
    assert [n.op_type for n in nodes] == ["Gemm", "Mul", "Gemm"]
    assert [v.name for v in sides] == ["gate"]


def test_a_side_tensor_by_the_name_of_the_input() -> None:
    """The sub-model calls its own input x; a skip from the model's input x is another tensor."""
    nodes = [
        node("Gemm", "x w1", "h"),
        node("Gemm", "h w2", "g"),
        node("Add", "g x", "s"),
        node("Gemm", "s w3", "y"),
    ]
    weights = {"w1": random(3, 4), "w2": random(4, 3), "w3": random(3, 2)}
    topology = topology_of(build(nodes, weights, {"x": ("N", 3)}))
    skip = random(1, 3, seed=5)
    span = span_of(topology, "w3", in_layer="w2", background={"x": skip})
    h = random(2, 4, seed=6)
    want = (h @ weights["w2"] + skip) @ weights["w3"]
    np.testing.assert_allclose(runner(span)(h), want, rtol=1e-4, atol=1e-5)


def test_an_inner_tensor_by_the_name_of_the_input() -> None:
    nodes = [
        node("Gemm", "in w1", "x"),
        node("Tanh", "x", "t"),
        node("Add", "t x", "s"),
        node("Gemm", "s w2", "y"),
    ]
    weights = {"w1": random(3, 4), "w2": random(4, 2)}
    brute.check(build(nodes, weights, {"in": (1, 3)}))


def conditional(*, captures: bool) -> onnx.ModelProto:
    """An If between two layers; its branches get the hidden units by capture or not at all."""
    inner = node("Tanh", "h" if captures else "side", "t")
    other = node("Identity", "h" if captures else "side", "i")
    out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("t", "i")]
    branches = {
        "then_branch": helper.make_graph([inner], "then", [], out[:1]),
        "else_branch": helper.make_graph([other], "else", [], out[1:]),
    }
    nodes = [
        node("Gemm", "x w1", "h"),
        node("ReduceMax", "x" if captures else "side", "top", keepdims=0),
        node("Greater", "top zero", "cond"),
        node("If", "cond", "c", **branches),
        node("Add", "c h" if not captures else "c c", "s"),
        node("Gemm", "s w2", "y"),
    ]
    weights = {"w1": random(3, 4), "w2": random(4, 2), "zero": np.float32(0)}
    inputs = {"x": (1, 3)} if captures else {"x": (1, 3), "side": (1, 4)}
    return build(nodes, weights, inputs)


def test_control_flow_inside_a_span() -> None:
    topology = topology_of(conditional(captures=True))
    span_of(topology, "w1")
    span_of(topology, "w2")
    with pytest.raises(UnsupportedModelError, match=r"control flow inside the span: node .*\(If\)"):
        span_of(topology, "w2", in_layer="w1")


def test_control_flow_that_only_captures_the_source() -> None:
    """The condition comes from outside; what the branches read is easily overlooked."""
    proto = conditional(captures=True)
    del proto.graph.node[1]
    proto.graph.node[1].input[0] = "outer"
    outer = helper.make_tensor_value_info("outer", TensorProto.FLOAT, [])
    proto.graph.input.append(outer)
    with pytest.raises(UnsupportedModelError, match="control flow inside the span"):
        span_of(topology_of(proto), "w2", in_layer="w1")


def test_control_flow_beside_a_span_is_a_side_tensor() -> None:
    topology = topology_of(conditional(captures=False), {"x": random(1, 3), "side": random(1, 4)})
    with pytest.raises(UnboundedSpanError, match="also needs 'c'"):
        span_of(topology, "w2", in_layer="w1")
    span = span_of(topology, "w2", in_layer="w1", background="zeros")
    x = random(2, 3, seed=1)
    np.testing.assert_allclose(runner(span)(x), x @ random(3, 4) @ random(4, 2), rtol=1e-4)


def test_weights_behind_operators_are_fixed() -> None:
    """A dequantised, transposed weight belongs to the span, with all that computes it."""
    nodes = [
        node("DequantizeLinear", "q scale", "d"),
        node("Transpose", "d", "w", perm=[1, 0]),
        node("MatMul", "x w", "y"),
    ]
    q = np.random.default_rng(0).integers(-50, 50, (40, 300)).astype(np.int8)
    weights = {"q": q, "scale": np.float32(0.1)}
    _, span = brute.check(build(nodes, weights, {"x": (1, 300)}))
    assert span.n_outputs == 40


# --- the batch -------------------------------------------------------------------------------


def constant_reshape(target: list[int], after: str = "Gemm") -> onnx.ModelProto:
    """Convolution, a Reshape to constants, a dense layer."""
    nodes = [node("Conv", "x w", "c"), node("Tanh", "c", "t"), node("Reshape", "t to", "r")]
    rows = {"Gemm": 24, "MatMul": target[-1] if target[-1] > 0 else 6}[after]
    nodes.append(node(after, "r w2", "y"))
    weights = {"w": random(4, 2, 3), "to": np.array(target), "w2": random(rows, 3)}
    return build(nodes, weights, {"x": (1, 2, 8)})


def no_shape_reshape() -> onnx.ModelProto:
    """Before opset 5 the target is an attribute."""
    nodes = [
        node("Conv", "x w", "c"),
        node("Reshape", "c", "r", shape=[1, 24]),
        node("MatMul", "r w2", "y"),
    ]
    weights = {"w": random(4, 2, 3), "w2": random(24, 3)}
    return build(nodes, weights, {"x": (1, 2, 8)}, opset=4)


def zero_copying_reshape() -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x w", "m"),
        node("Reshape", "m to", "r", allowzero=0),
        node("MatMul", "r w2", "y"),
    ]
    weights = {"w": random(4, 6), "to": np.array([0, -1, 3]), "w2": random(3, 2)}
    return build(nodes, weights, {"x": (1, 5, 4)})


def dynamic_quantisation(op: str) -> onnx.ModelProto:
    """The scale of an inner tensor is that of the whole batch: samples are coupled."""
    q = np.random.default_rng(1).integers(0, 255, (6, 3)).astype(np.uint8)
    weights = {"w1": random(4, 6), "q": q, "qs": np.float32(0.02), "qz": np.uint8(120)}
    nodes = [node("MatMul", "x w1", "h"), node("Tanh", "h", "t")]
    if op == "DynamicQuantizeMatMul":
        nodes.append(node(op, "t q qs qz", "y", domain="com.microsoft"))
        return build(nodes, weights, {"x": (1, 4)}, domains={"com.microsoft": 1})
    nodes += [
        node("DynamicQuantizeLinear", "t", "tq ts tz"),
        node("MatMulInteger", "tq q tz qz", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "ts qs", "both"),
        node("Mul", "f both", "scaled"),
        node("MatMul", "scaled w3", "y"),
    ]
    return build(nodes, weights | {"w3": random(3, 2)}, {"x": (1, 4)})


def all_squeezed() -> onnx.ModelProto:
    """Squeeze without axes takes the batch away; the dense layer sees a matrix without it."""
    nodes = [
        node("Conv", "x w", "c"),
        node("Squeeze", "c", "s"),
        node("MatMul", "s w2", "y"),
    ]
    weights = {"w": random(4, 2, 3), "w2": random(6, 3)}
    return build(nodes, weights, {"x": (1, 2, 8)})


def token_joined() -> onnx.ModelProto:
    """A class token, written for one sample, before the others."""
    nodes = [
        node("MatMul", "x w", "m"),
        node("Concat", "token m", "c", axis=1),
        node("Flatten", "c", "f"),
        node("Gemm", "f w2", "y"),
    ]
    weights = {"w": random(4, 6), "token": random(1, 1, 6), "w2": random(24, 3)}
    return build(nodes, weights, {"x": (1, 3, 4)})


def time_first() -> onnx.ModelProto:
    """Time comes before the batch: running over it couples what a batch would put there."""
    nodes = [
        node("MatMul", "x w", "m"),
        node("Transpose", "m", "t", perm=[1, 0, 2]),
        node("CumSum", "t axis", "s"),
        node("Transpose", "s", "b", perm=[1, 0, 2]),
        node("MatMul", "b w2", "y"),
    ]
    weights = {"w": random(4, 6), "axis": np.array(0), "w2": random(6, 3)}
    return build(nodes, weights, {"x": (1, 3, 4)})


def whole_batch_statistics() -> onnx.ModelProto:
    """The mean over everything, the samples of a batch too."""
    nodes = [
        node("Gemm", "x w", "h"),
        node("ReduceMean", "h", "m"),
        node("Sub", "h m", "d"),
        node("Gemm", "d w2", "y"),
    ]
    return build(nodes, {"w": random(4, 6), "w2": random(6, 3)}, {"x": (1, 4)})


BATCHES: dict[str, tuple[Callable[[], onnx.ModelProto], bool]] = {
    "Reshape [1, K]": (lambda: constant_reshape([1, 24]), True),
    "Reshape [1, -1]": (lambda: constant_reshape([1, -1]), True),
    # a batch of 4 makes (1, 4, 24) of it in silence, were the target kept
    "Reshape [1, C, -1]": (lambda: constant_reshape([1, 4, -1], "MatMul"), True),
    "Reshape [-1, 4, 6]": (lambda: constant_reshape([-1, 4, 6], "MatMul"), True),
    # channels merged with the batch: 4 rows a sample, each a token
    "Reshape [-1, 6]": (lambda: constant_reshape([-1, 6], "MatMul"), True),
    "Reshape by attribute": (no_shape_reshape, True),
    "Reshape [0, -1, 3]": (zero_copying_reshape, True),
    "DynamicQuantizeMatMul": (lambda: dynamic_quantisation("DynamicQuantizeMatMul"), False),
    "DynamicQuantizeLinear": (lambda: dynamic_quantisation("DynamicQuantizeLinear"), False),
    "Squeeze": (all_squeezed, True),
    "Concat with a constant": (token_joined, True),
    "time first": (time_first, True),
    "statistics of the batch": (whole_batch_statistics, False),
}


@pytest.mark.parametrize("positions", ["one", "all"])
@pytest.mark.parametrize("name", BATCHES)
def test_batch_gives_what_single_runs_give(name: str, positions: str) -> None:
    """``brute.check`` compares a batch of five with single runs of the whole model."""
    make, batched = BATCHES[name]
    brute.check(make(), batched=batched, positions=positions, corners=False)


def test_reshape_with_an_open_batch_is_freed() -> None:
    proto = constant_reshape([1, 24])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    span = span_of(topology_of(proto), "w2", in_layer="w")
    assert span.batched
    reshape = next(n for n in span.model.graph if n.op_type == "Reshape")
    assert reshape.inputs[1].const_value.numpy().tolist() == [-1, 24]


def test_a_fixed_batch_is_still_one_sample() -> None:
    """A file written for four samples, with a skip: the span has one, and so has its background."""
    nodes = [
        node("Gemm", "x w1", "h"),
        node("Gemm", "h w2", "g"),
        node("Add", "g x", "s"),
        node("Gemm", "s w3", "y"),
    ]
    weights = {"w1": random(3, 4), "w2": random(4, 3), "w3": random(3, 2)}
    x = random(4, 3, seed=2)
    topology = topology_of(build(nodes, weights, {"x": (4, 3)}), x)
    for positions in ("one", "all"):
        span = span_of(topology, "w1", positions=positions)
        assert (span.in_shape, span.out_shape, span.batched) == ((3,), (4,), True)
        span = span_of(topology, "w3", in_layer="w2", background="reference", positions=positions)
        assert (span.in_shape, span.out_shape, span.batched) == ((4,), (2,), True)
        h = random(2, 4, seed=6)
        want = (h @ weights["w2"] + x[:1]) @ weights["w3"]
        np.testing.assert_allclose(runner(span)(h), want, rtol=1e-4, atol=1e-5)


def test_weights_on_the_left_of_a_matrix() -> None:
    """No axis counts samples: the first one is the units'."""
    nodes = [
        node("Squeeze", "x axes", "s"),
        node("MatMul", "w1 s", "m"),
        node("Tanh", "m", "t"),
        node("MatMul", "w2 t", "y"),
    ]
    weights = {"axes": np.array([0]), "w1": random(5, 4), "w2": random(3, 5)}
    topology = topology_of(build(nodes, weights, {"x": (1, 4, 7)}))
    span = span_of(topology, "w2", in_layer="w1")
    assert (span.in_window, span.out_window) == ((None, (3, 4)), (None, (3, 4)))
    assert not span.batched
    x = random(2, 4, seed=3)
    want = (weights["w2"] @ np.tanh(weights["w1"] @ x.T)).T
    np.testing.assert_allclose(runner(span)(x), want, rtol=1e-4, atol=1e-5)
    whole = span_of(topology, "w2", in_layer="w1", positions="all")
    assert (whole.in_shape, whole.n_outputs) == ((4, 7), 21)
    x = random(4, 7, seed=3)
    want = weights["w2"] @ np.tanh(weights["w1"] @ x)
    np.testing.assert_allclose(
        runner(whole)(x.reshape(1, -1)), want.reshape(1, -1), rtol=1e-4, atol=1e-5
    )


def test_merged_tokens_alone() -> None:
    """A layer on (tokens, units): one token by default, the whole matrix with ``all``."""
    nodes = [
        node("Reshape", "x to2", "flat"),
        node("Gemm", "flat w b", "g"),
        node("Relu", "g", "r"),
        node("Reshape", "r to3", "y"),
    ]
    weights = {
        "to2": np.array([-1, 4]),
        "w": random(4, 5),
        "b": random(5),
        "to3": np.array([1, 7, 5]),
    }
    topology = topology_of(build(nodes, weights, {"x": (1, 7, 4)}))
    span = span_of(topology, "w")
    assert (span.in_window, span.in_shape, span.batched) == (((3, 4), None), (4,), True)
    x = random(7, 4, seed=3)
    want = np.maximum(x @ weights["w"] + weights["b"], 0)
    np.testing.assert_allclose(runner(span)(x), want, rtol=1e-4, atol=1e-5)
    whole = span_of(topology, "w", positions="all")
    assert (whole.in_shape, whole.n_outputs) == ((7, 4), 35)
    np.testing.assert_allclose(
        runner(whole)(x.reshape(1, -1))[0], want.reshape(-1), rtol=1e-4, atol=1e-5
    )


def test_widest_bounds_what_a_run_holds() -> None:
    """16 inputs, 8192 units on the way, 4 outputs: 2**22 floats hold 512 samples of 8192."""
    nodes = [node("Gemm", "x w1", "h"), node("Tanh", "h", "t"), node("Gemm", "t w2", "y")]
    weights = {"w1": random(16, 8192), "w2": random(8192, 4)}
    span = span_of(topology_of(build(nodes, weights, {"x": ("N", 16)})), "w2", in_layer="w1")
    assert span.widest == 8192
    assert runner(span).rows == 512
