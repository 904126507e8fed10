"""What is mended in tf2onnx's files, on graphs of its making; Keras itself is not needed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.special import erfc

from onnx_ei import topology_of
from onnx_ei.exporters._keras_graph import (
    Scopes,
    mend_erfc,
    mend_means,
    name_layers,
    unknown_operators,
)


def model(nodes, shape, opset=15, **constants):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * (len(shape) + 1))],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(kind, inputs, output, name=None, **attributes):
    return helper.make_node(kind, inputs, [output], name or output, **attributes)


def run(program, x):
    session = ort.InferenceSession(program.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def variable(path, shape):
    values = np.random.default_rng(len(path)).normal(size=shape)
    return SimpleNamespace(path=path, shape=shape, numpy=lambda: values)


def net(*paths, name="net", below=()):
    """As much of a Keras model as is looked at."""
    return SimpleNamespace(
        name=name,
        variables=[variable(path, shape) for path, shape in paths],
        layers=[SimpleNamespace(name=n, layers=[]) for n in below],
    )


X = np.linspace(-4, 4, 12, dtype=np.float32).reshape(3, 4)


def test_erfc_becomes_erf():
    program = model([node("Erfc", ["x"], "y")], (4,))
    assert unknown_operators(program) == ["Erfc (y)"]
    mend_erfc(program)
    assert unknown_operators(program) == []
    np.testing.assert_allclose(run(program, X), erfc(X), atol=1e-6)


def test_exact_gelu_becomes_the_form_that_everybody_writes():
    nodes = [
        node("MatMul", ["x", "kernel"], "h"),
        node("Mul", ["half", "h"], "hh"),
        node("Neg", ["h"], "neg"),
        node("Mul", ["neg", "root"], "scaled"),
        node("Erfc", ["scaled"], "c"),
        node("Mul", ["hh", "c"], "y"),
    ]
    program = model(nodes, (4,), kernel=np.eye(4), half=0.5, root=np.sqrt(0.5))
    mend_erfc(program)
    onnx.checker.check_model(program)
    np.testing.assert_allclose(run(program, X), X * erfc(-X / np.sqrt(2)) / 2, atol=1e-6)
    assert "Neg" not in {n.op_type for n in program.graph.node}
    (data,) = (data for _, data in topology_of(program).nodes(data=True))
    assert data["output"]["activation"] == "Gelu"


def test_transposes_leave_the_activation():
    """Between two convolutions, as tf2onnx writes it: it cannot move a transpose past Erfc."""
    nodes = [
        node("MatMul", ["x", "kernel"], "h"),
        node("Mul", ["half", "h"], "hh"),
        node("Neg", ["h"], "neg"),
        node("Mul", ["neg", "root"], "scaled"),
        node("Transpose", ["scaled"], "last", perm=[0, 2, 1]),
        node("Erfc", ["last"], "c"),
        node("Transpose", ["hh"], "hlast", perm=[0, 2, 1]),
        node("Mul", ["hlast", "c"], "y"),
    ]
    program = model(nodes, (2, 4), kernel=np.eye(4), half=0.5, root=np.sqrt(0.5))
    mend_erfc(program)
    x = X.reshape(3, 1, 4).repeat(2, 1)
    expected = (x * erfc(-x / np.sqrt(2)) / 2).transpose(0, 2, 1)
    np.testing.assert_allclose(run(program, x), expected, atol=1e-6)
    assert program.graph.node[-1].op_type == "Transpose"
    (data,) = (data for _, data in topology_of(program).nodes(data=True))
    assert data["output"]["activation"] == "Gelu"


def test_a_recurrent_layer_is_known_by_the_values_of_its_gates():
    scopes = Scopes(net(("lstm/lstm_cell/kernel", (3, 8)), ("dense/kernel", (3, 8))))
    gates = variable("lstm/lstm_cell/kernel", (3, 8)).numpy()
    assert scopes.layer_of_values(gates.T[::-1]) == "lstm"
    assert scopes.layer_of_values(gates + 1) is None


def test_a_graph_without_erfc_is_left_alone():
    program = model([node("Neg", ["x"], "unread"), node("Erf", ["x"], "y")], (4,))
    before = program.SerializeToString()
    mend_erfc(program)
    assert program.SerializeToString() == before


def test_means_of_a_norm_are_no_pooling():
    nodes = [
        node("GlobalAveragePool", ["x"], "m", "net_1/norm_1/moments/mean"),
        node("Sub", ["x", "m"], "y"),
    ]
    program = model(nodes, (5, 4))
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    expected = run(program, x)
    assert len(topology_of(program)) == 1
    mend_means(program)
    assert len(topology_of(program)) == 0
    np.testing.assert_allclose(run(program, x), expected, atol=1e-6)


def test_a_pooling_layer_stays_one():
    program = model([node("GlobalAveragePool", ["x"], "y", "net_1/pool_1/Mean")], (5, 4))
    mend_means(program)
    assert program.graph.node[0].op_type == "GlobalAveragePool"


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("net_1/dense_1/MatMul", "dense"),
        ("net_1/dense_1_1/MatMul", "dense_1"),
        ("net_1/dense_1_2/MatMul", "dense_1"),
        ("net_1/block_1/query_1/Einsum", "block.query"),
        ("net_1/pool_1/MaxPool2d", "pool"),
        ("net_1/other/MatMul", None),
        ("MatMul__12", None),
    ],
)
def test_scopes(name, layer):
    model = net(
        ("dense/kernel", (4, 5)), ("dense_1/kernel", (5, 6)), ("block/query/kernel", (6, 2, 3)),
        below=["dense", "dense_1", "block", "pool"],
    )  # fmt: skip
    assert Scopes(model).layer_of(name) == layer


def test_a_size_tells_two_readings_of_a_scope_apart():
    scopes = Scopes(net(("dense/kernel", (4, 5)), ("dense_1/kernel", (5, 6))))
    assert scopes.layer_of("net/dense_1/MatMul", 20) == "dense"
    assert scopes.layer_of("net/dense_1/MatMul", 30) == "dense_1"


def test_operators_and_kernels_are_called_by_their_layer():
    nodes = [
        node("MatMul", ["x", "net_1/a_1/Cast/ReadVariableOp:0"], "h", "net_1/a_1/MatMul"),
        node("Relu", ["h"], "r", "net_1/a_1/Relu"),
        node("MatMul", ["r", "net_1/b_1/Cast/ReadVariableOp:0"], "y", "net_1/b_1/MatMul"),
    ]
    kernels = {f"net_1/{name}_1/Cast/ReadVariableOp:0": np.ones((4, 4)) for name in "ab"}
    program = model(nodes, (4,), **kernels)
    name_layers(program, Scopes(net(("a/kernel", (4, 4)), ("b/kernel", (4, 4)))))
    assert [n.name for n in program.graph.node] == ["/a/MatMul", "/a/Relu", "/b/MatMul"]
    assert {t.name for t in program.graph.initializer} == {"a.kernel", "b.kernel"}
    assert list(topology_of(program)) == ["a", "b"]


def test_operators_that_are_not_onnx_are_found_in_branches_too():
    inner = helper.make_graph(
        [node("TopKV2", ["x"], "z")],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    branch = node("If", ["yes"], "y", then_branch=inner, else_branch=inner)
    assert unknown_operators(model([branch], (4,), yes=1)) == ["TopKV2 (z)"] * 2
