"""Weights found again by their values; JAX itself is not needed."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_ei import topology_of
from onnx_ei.exporters._jax_names import name_layers

RNG = np.random.default_rng(0)
A, B = (RNG.normal(size=shape).astype(np.float32) for shape in ((4, 5), (5, 4)))
BIAS = RNG.normal(size=5).astype(np.float32)


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], f"node_{kind}_{output}", **attributes)


def two_layers(first=A, second=B):
    """Gemm, Tanh, and a MatMul whose kernel is moved first."""
    nodes = [
        node("Gemm", ["x", "const_0", "const_1"], "h"),
        node("Tanh", ["h"], "t"),
        node("Transpose", ["const_2"], "k", perm=[1, 0]),
        node("MatMul", ["t", "k"], "y"),
    ]
    constants = {"const_0": first, "const_1": BIAS, "const_2": second.T.copy()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def named(weights, **arrays):
    program = two_layers(**arrays)
    name_layers(program, weights)
    return list(topology_of(program)), {t.name for t in program.graph.initializer}


def test_kernels_and_biases_are_known_by_their_values_in_any_order_of_axes():
    weights = {"block.first.kernel": A, "block.first.bias": BIAS, "second.kernel": B}
    keys, tensors = named(weights)
    assert keys == ["block.first", "second"]
    assert tensors == set(weights)


def test_without_weights_layers_are_numbered():
    keys, tensors = named({})
    assert keys == ["layer0", "layer1"]
    assert tensors == {"const_0", "const_1", "const_2"}


def test_equal_weights_stay_nameless():
    keys, _ = named({"a.kernel": A, "b.kernel": A.T.copy(), "second.kernel": B})
    assert keys == ["layer0", "second"]
    square = np.eye(4, dtype=np.float32)
    program = two_layers(first=A, second=B)
    name_layers(program, {"one.kernel": square, "two.kernel": square})
    assert list(topology_of(program)) == ["layer0", "layer1"]


def test_equal_sums_are_no_equal_values():
    keys, _ = named({"a.kernel": A[::-1].copy(), "second.kernel": B})
    assert keys == ["layer0", "second"]


def test_pools_are_numbered():
    graph = helper.make_graph(
        [node("MaxPool", ["x"], "h", kernel_shape=[2]), node("MaxPool", ["h"], "y",
                                                            kernel_shape=[2])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, 6])],
    )  # fmt: skip
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    name_layers(program, {})
    assert list(topology_of(program)) == ["maxpool0", "maxpool1"]
