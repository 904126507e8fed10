"""Reshape, dense layer, Reshape becomes one MatMul; whatever only looks like it stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_ei.exporters._dense import merge_positions

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 6)).astype(np.float32)
BIAS = RNG.normal(size=6).astype(np.float32)


def model(nodes, rank=3, shape=("batch", 5, 4), **constants):
    constants = {"flat": np.array([-1, 4]), "kernel": KERNEL, "bias": BIAS} | constants
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], f"/d/{kind}_{output}", **attributes)


def restore(tail="n"):
    """What puts the axes back: the shape of x, its last dimension replaced."""
    return [
        node("Shape", ["x"], "s"),
        node("Slice", ["s", "zero", "minus", "zero"], "lead"),
        node("Concat", ["lead", tail], "shape", axis=0),
        node("Reshape", ["p", "shape"], "y"),
    ]


EDGES = {"zero": np.array([0]), "minus": np.array([-1]), "n": np.array([6])}


def run(program, x):
    session = ort.InferenceSession(program.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def ops(program):
    return [n.op_type for n in program.graph.node]


@pytest.mark.parametrize("gemm", [True, False])
def test_one_matmul_takes_all_axes(gemm):
    dense = (
        node("Gemm", ["r", "kernel", "bias"], "p") if gemm else node("MatMul", ["r", "kernel"], "p")
    )
    program = model([node("Reshape", ["x", "flat"], "r"), dense, *restore()], **EDGES)
    x = RNG.normal(size=(3, 5, 4)).astype(np.float32)
    expected = run(program, x)
    merge_positions(program)
    assert all(n.op_type in n.name and n.name.startswith("/d/") for n in program.graph.node)
    assert ops(program) == (["MatMul", "Add"] if gemm else ["MatMul"])
    assert {t.name for t in program.graph.initializer} == {"kernel"} | ({"bias"} if gemm else set())
    np.testing.assert_allclose(run(program, x), expected, rtol=1e-6)


def unchanged(program):
    before = program.SerializeToString()
    merge_positions(program)
    return program.SerializeToString() == before


def test_what_only_looks_like_it_stays():
    flat = node("Reshape", ["x", "flat"], "r")
    dense = node("MatMul", ["r", "kernel"], "p")
    # positions and units change places afterwards
    other = node("Reshape", ["p", "swapped"], "y")
    assert unchanged(model([flat, dense, other], swapped=np.array([-1, 6, 5])))
    # a transposed kernel, another factor
    gemm = node("Gemm", ["r", "kernel", "bias"], "p", transB=1)
    assert unchanged(model([flat, gemm, *restore()], kernel=KERNEL.T.copy(), **EDGES))
    gemm = node("Gemm", ["r", "kernel", "bias"], "p", alpha=2.0)
    assert unchanged(model([flat, gemm, *restore()], **EDGES))
    # another reader of the flat product
    twice = [flat, dense, node("ReduceSum", ["p"], "q"), *restore()[:-1]]
    twice += [node("Reshape", ["p", "shape"], "z"), node("Add", ["z", "q"], "y")]
    assert unchanged(model(twice, **EDGES))


def test_two_axes_are_left_alone():
    flat, dense = node("Reshape", ["x", "flat"], "r"), node("MatMul", ["r", "kernel"], "p")
    assert unchanged(model([flat, dense, *restore()], 2, shape=("batch", 4), **EDGES))
