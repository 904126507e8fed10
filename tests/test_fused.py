"""Operators that onnxruntime's optimizer fused are the layers and activations that they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import make, node, noise
from inner import everything
from onnx import helper

from onnx_ei import topology_of
from onnx_ei.analysis import describe
from onnx_ei.runtime import runner
from onnx_ei.span import span_of
from onnx_ei.topology import model_of

MS = "com.microsoft"
W = noise(6, 5)
KERNEL = noise(4, 3, 3, 3)


def ms(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    made = node(op, inputs, outputs, **attributes)
    made.domain = MS
    return made


def conv(**attributes: Any) -> onnx.NodeProto:
    return ms("FusedConv", "x k b4", "y", kernel_shape=[3, 3], **attributes)


def gemm(**attributes: Any) -> onnx.NodeProto:
    return ms("FusedGemm", "x w b5", "y", **attributes)


WEIGHTS = {"w": W, "k": KERNEL, "b4": noise(4), "b5": noise(5), "v": noise(4, 3, 1, 1)}
MAP, ROW = (1, 3, 6, 6), (1, 6)
# nodes, shape of x; operator, activation, range and units of the last layer
FUSED: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...], tuple[Any, ...]]] = {
    "Conv, Relu": (
        [conv(activation="Relu", pads=[1, 1, 1, 1])], MAP, ("FusedConv", "Relu", (0, 10), 27, 4),
    ),
    "Conv, LeakyRelu": (
        [conv(activation="LeakyRelu", activation_params=[0.2])], MAP,
        ("FusedConv", "LeakyRelu", (-10, 10), 27, 4),
    ),
    "Conv, Clip": (
        [conv(activation="Clip", activation_params=[0.0, 6.0])], MAP,
        ("FusedConv", "Relu6", (0, 6), 27, 4),
    ),
    "Conv, HardSigmoid": (
        [conv(activation="HardSigmoid", activation_params=[0.3, 0.4])], MAP,
        ("FusedConv", "HardSigmoid", (0, 1), 27, 4),
    ),
    "Conv alone": ([conv()], MAP, ("FusedConv", None, (-10, 10), 27, 4)),
    "Gemm, Relu": ([gemm(activation="Relu")], ROW, ("FusedGemm", "Relu", (0, 10), 6, 5)),
    "Gemm, Elu": (
        [gemm(activation="Elu", activation_alpha=0.5)], ROW,
        ("FusedGemm", "Elu", (-0.5, 10), 6, 5),
    ),
    "MatMul, scaled": (
        [ms("FusedMatMul", "x w", "y", alpha=0.5)], ROW, ("FusedMatMul", None, (-10, 10), 6, 5),
    ),
    "bias and GELU": (
        [node("MatMul", "x w", "h"), ms("BiasGelu", "h b5", "y")], (1, 3, 6),
        ("MatMul", "Gelu", (-0.171, 10), 6, 5),
    ),
    "bias and fast GELU": (
        [node("MatMul", "x w", "h"), ms("FastGelu", "h b5", "y")], (1, 3, 6),
        ("MatMul", "Gelu", (-0.171, 10), 6, 5),
    ),
}  # fmt: skip


def model(nodes: list[onnx.NodeProto], shape: tuple[int, ...], rank: int = 0) -> onnx.ModelProto:
    used = {name for n in nodes for name in n.input}
    weights = {k: v for k, v in WEIGHTS.items() if k in used}
    ranks = {"y": rank or len(shape)}
    return make(nodes, {"x": shape}, ["y"], weights, ranks=ranks, domains={MS: 1})


@pytest.mark.parametrize("case", FUSED)
def test_fused_layers(case: str) -> None:
    nodes, shape, expected = FUSED[case]
    proto, x = model(nodes, shape), noise(*shape, seed=9)
    topology = topology_of(proto, x)
    (row,) = describe(topology).rows
    limits = topology.nodes[row.layer]["output"]["range"]
    found = (row.op_type, row.out_activation, limits, row.n_inputs, row.n_outputs)
    assert found == (*expected[:2], pytest.approx(expected[2]), *expected[3:])
    want = everything(proto, {"x": x})["y"]
    np.testing.assert_allclose(model_of(topology).tensors(["y"])["y"], want, atol=1e-6)
    whole = span_of(topology, row.layer, positions="all")
    np.testing.assert_allclose(runner(whole)(x.reshape(1, -1)), want.reshape(1, -1), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "numbers", "function"),
    [
        ("LeakyRelu", [0.2], lambda h: np.where(h > 0, h, 0.2 * h)),
        ("Clip", [-0.5, 0.5], lambda h: np.clip(h, -0.5, 0.5)),
        ("Tanh", [], np.tanh),
    ],
)
def test_the_activation_of_a_fused_layer_gives_way_to_another(
    name: str, numbers: list[float], function: Any
) -> None:
    given = {"activation_params": numbers} if numbers else {}
    topology = topology_of(model([conv(activation=name, **given)], MAP))
    x = noise(3, 27)
    bare = runner(span_of(topology, "k", activation="identity"))(x)
    own = runner(span_of(topology, "k"))(x)
    np.testing.assert_allclose(own, function(bare), atol=1e-6)
    assert np.abs(own - bare).max() > 0.1


def test_clip_before_opset_11() -> None:
    proto = model([conv(activation="Clip", activation_params=[0.0, 6.0])], MAP)
    proto.opset_import[0].version = 10
    (data,) = topology_of(proto).nodes.values()
    assert data["output"]["activation"] == "Relu6"


def test_a_fused_skip_connection_ends_the_layer() -> None:
    nodes = [
        node("Conv", "x v", "z"),
        ms("FusedConv", "x k b4 z", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1], activation="Relu"),
    ]
    proto, x = model(nodes, MAP), noise(*MAP, seed=9)
    topology = topology_of(proto, x)
    assert set(topology.edges) == set()
    data = topology.nodes["k"]
    assert (data["op_type"], data["output"]["activation"]) == ("FusedConv", None)
    got = model_of(topology).tensors(["y"])["y"]
    np.testing.assert_allclose(got, everything(proto, {"x": x})["y"], atol=1e-5)


def test_fused_operators_in_the_middle_of_a_network() -> None:
    nodes = [
        node("Conv", "x v", "z"), node("Relu", "z", "r"), node("Flatten", "r", "f"),
        node("MatMul", "f big", "h"), ms("BiasGelu", "h b5", "g"), node("MatMul", "g out", "y"),
    ]  # fmt: skip
    weights = {"v": WEIGHTS["v"], "big": noise(144, 5), "b5": noise(5), "out": noise(5, 2)}
    proto = make(nodes, {"x": MAP}, ["y"], weights, domains={MS: 1})
    topology = topology_of(proto)
    assert list(topology.edges) == [("v", "big"), ("big", "out")]
    assert topology.nodes["big"]["output"] == topology.nodes["out"]["input"] | {"shape": (1, 5)}
    assert topology.nodes["out"]["input"]["activation"] == "Gelu"


def test_a_fused_operator_that_is_a_model_s_output_twice() -> None:
    proto = model([gemm(activation="Relu")], ROW)
    proto.graph.node.append(node("Neg", "y", "n"))
    proto.graph.output.append(helper.make_tensor_value_info("n", 1, [None, None]))
    topology = topology_of(proto, noise(*ROW))
    values = model_of(topology).tensors(["n"])
    np.testing.assert_allclose(values["n"], -np.maximum(noise(*ROW) @ W + noise(5), 0), atol=1e-5)


# --- attention -------------------------------------------------------------------------------


def test_an_attention_with_weights_is_a_layer_of_one_token_out_of_all() -> None:
    weights = {"w": noise(8, 24), "b": noise(24)}
    made = ms("Attention", "x w b", "y", num_heads=2)
    proto = make([made], {"x": ("N", 3, 8)}, ["y"], weights, ranks={"y": 3}, domains={MS: 1})
    topology = topology_of(proto, noise(1, 3, 8))
    assert topology.nodes["w"]["kind"] == "attention"
    one, whole = span_of(topology, "w"), span_of(topology, "w", positions="all")
    assert (one.in_shape, one.n_outputs, one.batched) == ((3, 8), 8, True)
    assert (whole.in_shape, whole.out_shape) == ((3, 8), (3, 8))
    x = noise(4, 3, 8, seed=5)
    q, k, v = (part.reshape(4, 3, 2, 4).transpose(0, 2, 1, 3)
               for part in np.split(x @ weights["w"] + weights["b"], 3, axis=-1))  # fmt: skip
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / 2)
    want = (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(4, 3, 8)
    np.testing.assert_allclose(runner(whole)(x.reshape(4, -1)), want.reshape(4, -1), atol=1e-4)
    (place,) = [w for w in one.out_window if w is not None]
    np.testing.assert_allclose(runner(one)(x.reshape(4, -1)), want[:, place[0]], atol=1e-4)


@pytest.mark.parametrize("op", ["MultiHeadAttention", "Attention"])
def test_an_attention_without_weights_is_glue_that_spans_go_through(op: str) -> None:
    if op == "Attention":
        core = node(op, "hq hk hv", "a", q_num_heads=2, kv_num_heads=2)
    else:
        core = ms(op, "hq hk hv", "a", num_heads=2)
    nodes = [*(node("MatMul", f"x {n}", f"h{n}") for n in "qkv"), core, node("MatMul", "a o", "y")]
    weights = {n: noise(8, 8, seed=i) for i, n in enumerate("qkvo")}
    proto = make(
        nodes, {"x": (1, 3, 8)}, ["y"], weights, ranks={"y": 3}, opset=23, ir_version=10,
        domains={MS: 1},
    )  # fmt: skip
    x = noise(1, 3, 8, seed=5)
    topology = topology_of(proto, x)
    assert list(topology) == list("qkvo")
    assert set(topology.edges) == {("q", "o"), ("k", "o"), ("v", "o")}
    span = span_of(topology, "o", in_layer="q", positions="all")
    want = everything(proto, {"x": x})["y"]
    np.testing.assert_allclose(runner(span)(x.reshape(1, -1)), want.reshape(1, -1), atol=1e-4)


def test_a_skip_with_a_layer_norm_is_glue() -> None:
    nodes = [
        node("MatMul", "x w", "h"), ms("SkipLayerNormalization", "h x g b", "n"),
        node("MatMul", "n v", "y"),
    ]  # fmt: skip
    weights = {"w": noise(6, 6), "v": W, "g": noise(6), "b": noise(6, seed=1)}
    proto = make(nodes, {"x": (1, 3, 6)}, ["y"], weights, ranks={"y": 3}, domains={MS: 1})
    topology = topology_of(proto, noise(1, 3, 6))
    assert list(topology.edges) == [("w", "v")]
    assert topology.nodes["w"]["output"]["tensor"] == "h"
