"""Models worked by hand: layers, activations, shapes, edges and keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
import pytest
from conftest import require_peer
from graphs import conv_bn_relu, make, mlp, node, noise, residual, scalar
from onnx import TensorProto, helper

from onnx_ei.errors import ModelError, UnknownLayerError
from onnx_ei.loading import Model
from onnx_ei.topology import layer_of, model_of, topology_of

Nodes = list[onnx.NodeProto]
FLOAT = TensorProto.FLOAT


def ends(topology: nx.DiGraph[Any], key: str) -> tuple[Any, ...]:
    """Return (activation, shape) of the input and of the output."""
    data = topology.nodes[key]
    return tuple((data[end]["activation"], data[end]["shape"]) for end in ("input", "output"))


def dense(nodes: Nodes, weights: dict[str, Any], n: int = 4, **options: Any) -> nx.DiGraph[Any]:
    """Build the topology of nodes from x (N, n); the last one's output ends it."""
    return topology_of(make(nodes, {"x": ("N", n)}, [nodes[-1].output[0]], weights, **options))


# --- the simplest ----------------------------------------------------------------------------


def test_a_sequential_network() -> None:
    topology = topology_of(mlp("Sigmoid"))
    assert list(topology) == ["fc1", "fc2"]
    assert list(topology.edges) == [("fc1", "fc2")]
    assert topology.nodes["fc1"] == {
        "input": {"activation": None, "shape": (1, 4), "range": (-10, 10), "tensor": "x"},
        "output": {"activation": "Sigmoid", "shape": (1, 5), "range": (0, 1), "tensor": "a"},
        "op_type": "Gemm", "kind": "dense", "name": "h", "reason": None,
    }  # fmt: skip
    assert topology.nodes["fc2"]["input"] == {
        "activation": "Sigmoid", "shape": (1, 5), "range": (0, 1), "tensor": "a",
    }  # fmt: skip
    assert topology.nodes["fc2"]["output"] == {
        "activation": None, "shape": (1, 3), "range": (-10, 10), "tensor": "y",
    }  # fmt: skip
    assert topology.graph["notes"] == []


def test_a_model_without_layers() -> None:
    topology = topology_of(make([node("Relu", "x", "y")], {"x": ("N", 4)}, ["y"]))
    assert not topology
    assert topology.graph["layers"] == {}


def test_layers_know_their_tensors() -> None:
    topology = topology_of(conv_bn_relu())
    layer = layer_of(topology, "conv")
    assert (layer.key, layer.node.op_type, layer.op.kind) == ("conv", "Conv", "conv")
    names = [v.name for v in (layer.entering, layer.raw, layer.leaving)]
    assert names == ["x", "b", "y"]
    assert layer.before is None
    assert layer.after is not None
    assert layer.after.name == "Relu"


def test_open_dimensions_are_none_until_an_example_settles_them() -> None:
    model = make(
        [node("MatMul", "x w", "h"), node("Relu", "h", "y")],
        {"x": ("N", "T", 4)}, {"y": ("N", "T", 3)}, {"w": noise(4, 3)},
    )  # fmt: skip
    assert ends(topology_of(model), "w") == ((None, (1, None, 4)), ("Relu", (1, None, 3)))
    settled = topology_of(model, noise(2, 7, 4))
    assert ends(settled, "w") == ((None, (1, 7, 4)), ("Relu", (1, 7, 3)))
    with pytest.raises(ModelError, match=r"has shape \(\?, \?, 4\), the example given has"):
        topology_of(model, input=noise(7, 4))


# --- bias and batch-norm ---------------------------------------------------------------------


def test_convolution_with_batch_norm() -> None:
    assert ends(topology_of(conv_bn_relu()), "conv") == (
        (None, (1, 3, 8, 8)),
        ("Relu", (1, 4, 8, 8)),
    )


CHANNELS = (1, 4, 1, 1)


@pytest.mark.parametrize(
    "after",
    [
        [node("Mul", "c a", "m"), node("Add", "m b", "r")],
        [node("Sub", "c a", "s"), node("Mul", "b s", "m"), node("Add", "b m", "r")],
        [node("Sub", "c a", "s"), node("Div", "s b", "m"), node("Add", "m b", "r")],
        [node("Add", "c a", "r")],
    ],
    ids=["Mul, Add", "Sub, Mul, Add", "Sub, Div, Add", "bias"],
)
def test_decomposed_batch_norm(after: Nodes) -> None:
    nodes = [node("Conv", "x conv.weight", "c"), *after, node("Relu", "r", "y")]
    weights = {"conv.weight": noise(4, 3, 3, 3), "a": noise(*CHANNELS), "b": noise(*CHANNELS)}
    used = {i for n in nodes for i in n.input}
    model = make(
        nodes, {"x": ("N", 3, 8, 8)}, ["y"], {k: w for k, w in weights.items() if k in used},
        ranks={"y": 4},
    )  # fmt: skip
    topology = topology_of(model)
    assert list(topology) == ["conv"]
    assert ends(topology, "conv") == ((None, (1, 3, 8, 8)), ("Relu", (1, 4, 6, 6)))
    assert layer_of(topology, "conv").raw.name == "r"


def test_a_bias_that_no_activation_follows_belongs_to_the_layer() -> None:
    nodes = [
        node("MatMul", "x w", "h"), node("Reshape", "h target", "r"), node("Add", "r bias", "b"),
        node("Reshape", "b target", "y"),
    ]  # fmt: skip
    topology = dense(nodes, {"w": noise(4, 5), "bias": noise(5), "target": np.array([-1, 5])})
    layer = layer_of(topology, "w")
    assert (layer.raw.name, layer.leaving.name, layer.after) == ("b", "b", None)
    assert topology.nodes["w"]["output"]["tensor"] == "b"


@pytest.mark.parametrize("shape", [(5,), (1, 5), (1,), ()])
def test_bias_of_a_dense_layer(shape: tuple[int, ...]) -> None:
    nodes = [node("MatMul", "x w", "h"), node("Add", "bias h", "b"), node("Tanh", "b", "y")]
    topology = dense(nodes, {"w": noise(4, 5), "bias": np.asarray(noise(*shape))})
    assert ends(topology, "w") == ((None, (1, 4)), ("Tanh", (1, 5)))


def test_bias_of_a_convolution_in_channels_last_order() -> None:
    nodes = [
        node("Conv", "x k", "c"), node("Transpose", "c", "t", perm=[0, 2, 3, 1]),
        node("Add", "t bias", "b"), node("Relu", "b", "y"),
    ]  # fmt: skip
    model = make(
        nodes, {"x": ("N", 3, 8, 8)}, ["y"], {"k": noise(4, 3, 3, 3), "bias": noise(1, 1, 1, 4)},
        ranks={"y": 4},
    )  # fmt: skip
    topology = topology_of(model)
    assert ends(topology, "k") == ((None, (1, 3, 8, 8)), ("Relu", (1, 4, 6, 6)))
    assert layer_of(topology, "k").raw.name == "b"


def test_a_positional_table_is_no_bias() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Add", "h table", "a"), node("Relu", "a", "y")]
    model = make(
        nodes, {"x": ("N", 7, 4)}, ["y"], {"w": noise(4, 5), "table": noise(7, 5)}, ranks={"y": 3}
    )
    topology = topology_of(model)
    assert ends(topology, "w") == ((None, (1, 7, 4)), (None, (1, 7, 5)))
    assert layer_of(topology, "w").leaving.name == "h"


# --- branches --------------------------------------------------------------------------------


def test_a_residual_block_is_a_dag() -> None:
    topology = topology_of(residual())
    pool = "p"
    assert list(topology) == ["stem", "conv1", "conv2", pool, "fc"]
    # stem reaches the pool over the skip, past conv1 and conv2
    assert set(topology.edges) == {
        ("stem", "conv1"), ("conv1", "conv2"), ("conv2", pool), ("stem", pool), (pool, "fc"),
    }  # fmt: skip
    assert nx.is_directed_acyclic_graph(topology)
    assert nx.descendants(topology, "stem") == {"conv1", "conv2", pool, "fc"}
    assert nx.descendants(topology, "conv2") == {pool, "fc"}
    assert nx.ancestors(topology, "conv1") == {"stem"}
    maps = (1, 4, 6, 6)
    assert ends(topology, "stem") == ((None, (1, 3, 6, 6)), ("Relu", maps))
    assert ends(topology, "conv1") == (("Relu", maps), ("Relu", maps))
    assert ends(topology, "conv2") == (("Relu", maps), (None, maps))
    assert ends(topology, pool) == (("Relu", maps), (None, (1, 4, 1, 1)))
    assert ends(topology, "fc") == ((None, (1, 4)), (None, (1, 2)))
    assert topology.nodes[pool]["kind"] == "pool"


def test_parallel_branches() -> None:
    nodes = [
        node("MatMul", "x a", "ha"), node("Relu", "ha", "ra"),
        node("MatMul", "x b", "hb"), node("Tanh", "hb", "tb"),
        node("Concat", "ra tb", "cat", axis=1), node("MatMul", "cat c", "y"),
    ]  # fmt: skip
    topology = dense(nodes, {"a": noise(4, 2), "b": noise(4, 3), "c": noise(5, 2)})
    assert set(topology.edges) == {("a", "c"), ("b", "c")}
    assert ends(topology, "a") == ((None, (1, 4)), ("Relu", (1, 2)))
    assert ends(topology, "b") == ((None, (1, 4)), ("Tanh", (1, 3)))
    assert ends(topology, "c") == ((None, (1, 5)), (None, (1, 2)))


def test_a_skip_from_the_pre_activation_ends_the_layer_there() -> None:
    nodes = [
        node("MatMul", "x a", "h"), node("Relu", "h", "r"), node("MatMul", "r b", "g"),
        node("Add", "g h", "y"),
    ]  # fmt: skip
    topology = dense(nodes, {"a": noise(4, 5), "b": noise(5, 5)})
    assert ends(topology, "a") == ((None, (1, 4)), (None, (1, 5)))
    assert ends(topology, "b") == (("Relu", (1, 5)), (None, (1, 5)))


def test_shapes_carry_no_edge() -> None:
    nodes = [
        node("MatMul", "x a", "h"), node("Shape", "h", "s"), node("ConstantOfShape", "s", "zeros"),
        node("Add", "x zeros", "r"), node("MatMul", "r b", "y"),
    ]  # fmt: skip
    # the open dimension keeps the shape from being folded away
    inputs, weights = {"x": ("N", "T", 4)}, {"a": noise(4, 4), "b": noise(4, 2)}
    topology = topology_of(make(nodes, inputs, {"y": ("N", "T", 2)}, weights))
    assert "Shape" in [n.op_type for n in model_of(topology).ir.graph]
    assert not list(topology.edges)


# --- glue ------------------------------------------------------------------------------------

GLUE = {
    "Reshape": [node("Reshape", "{} target", "{}")],
    "Transpose": [node("Transpose", "{}", "{}", perm=[0, 1])],
    "Flatten": [node("Flatten", "{}", "{}")],
    "Identity": [node("Identity", "{}", "{}")],
    "Cast": [node("Cast", "{}", "d{}", to=TensorProto.DOUBLE), node("Cast", "d{}", "{}", to=FLOAT)],
    "Dropout": [node("Dropout", "{}", "{}")],
    "Unsqueeze": [node("Unsqueeze", "{} last", "u{}"), node("Squeeze", "u{} last", "{}")],
}


def glued(name: str, source: str, target: str) -> Nodes:
    """Write the glue from one tensor to another."""
    made = []
    for i, template in enumerate(GLUE[name]):
        one = onnx.NodeProto()
        one.CopyFrom(template)
        last = i == len(GLUE[name]) - 1
        one.input[0] = source if i == 0 else template.input[0].format(target)
        one.output[0] = target if last else template.output[0].format(target)
        one.name = one.output[0]
        made.append(one)
    return made


@pytest.mark.parametrize("name", GLUE)
def test_activations_are_found_through_glue(name: str) -> None:
    nodes = [
        node("MatMul", "x a", "h"), *glued(name, "h", "g"), node("Sigmoid", "g", "s"),
        *glued(name, "s", "t"), node("MatMul", "t b", "y"),
    ]  # fmt: skip
    weights = {
        "a": noise(4, 5), "b": noise(5, 2), "target": np.array([-1, 5]), "last": np.array([2]),
    }  # fmt: skip
    used = {i for n in nodes for i in n.input}
    topology = dense(nodes, {k: w for k, w in weights.items() if k in used})
    assert ends(topology, "a") == ((None, (1, 4)), ("Sigmoid", (1, 5)))
    assert ends(topology, "b") == (("Sigmoid", (1, 5)), (None, (1, 2)))
    assert list(topology.edges) == [("a", "b")]


def test_pools_end_in_activations_too() -> None:
    nodes = [
        node("Conv", "x k", "c"), node("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Relu", "p", "y"),
    ]  # fmt: skip
    topology = topology_of(
        make(nodes, {"x": ("N", 3, 8, 8)}, ["y"], {"k": noise(4, 3, 3, 3)}, ranks={"y": 4})
    )
    assert ends(topology, "k") == ((None, (1, 3, 8, 8)), (None, (1, 4, 6, 6)))
    assert ends(topology, "p") == ((None, (1, 4, 6, 6)), ("Relu", (1, 4, 3, 3)))


def test_a_decomposed_activation_before_and_after() -> None:
    nodes = [
        node("MatMul", "x a", "h"), node("Sigmoid", "h", "s"), node("Mul", "h s", "m"),
        node("MatMul", "m b", "y"),
    ]  # fmt: skip
    topology = dense(nodes, {"a": noise(4, 5), "b": noise(5, 2)})
    assert ends(topology, "a")[1] == ("Silu", (1, 5))
    assert ends(topology, "b")[0] == ("Silu", (1, 5))
    assert topology.nodes["a"]["output"]["range"] == (-0.279, 10)


# --- products --------------------------------------------------------------------------------


def test_a_weight_at_the_left() -> None:
    nodes = [node("MatMul", "w x", "h"), node("Relu", "h", "y")]
    model = make(nodes, {"x": ("N", 4, 3)}, ["y"], {"w": noise(5, 4)}, ranks={"y": 3})
    topology = topology_of(model)
    assert ends(topology, "w") == ((None, (1, 4, 3)), ("Relu", (1, 5, 3)))
    assert layer_of(topology, "w").op.data == 1


def test_a_product_of_activations_is_glue() -> None:
    nodes = [
        node("MatMul", "x q", "hq"), node("MatMul", "x k", "hk"),
        node("Transpose", "hk", "t", perm=[0, 2, 1]), node("MatMul", "hq t", "scores"),
        node("MatMul", "scores v", "y"),
    ]  # fmt: skip
    weights = {"q": noise(4, 2), "k": noise(4, 2), "v": noise(7, 3)}
    topology = topology_of(make(nodes, {"x": ("N", 7, 4)}, ["y"], weights, ranks={"y": 3}))
    assert set(topology.edges) == {("q", "v"), ("k", "v")}


QUANTISED = {"q": np.ones((3, 4), np.int8), "s": scalar(0.1), "z": np.zeros((), np.int8)}


@pytest.mark.parametrize("size", [3, 300])  # folded, and too large to be folded
@pytest.mark.parametrize(
    ("behind", "name"),
    [
        ([node("Transpose", "w", "v")], "w"),
        ([node("Identity", "w", "i"), node("Transpose", "i", "v")], "w"),
        ([node("Cast", "h", "c", to=FLOAT), node("Transpose", "c", "v")], "h"),
        ([node("DequantizeLinear", "q s z", "d"), node("Transpose", "d", "v")], "q"),
        ([node("Transpose", "w", "t"), node("Mul", "s t", "v")], "w"),
        ([node("Reshape", "w shape", "r"), node("Transpose", "r", "v")], "w"),
    ],
    ids=["Transpose", "Identity", "Cast", "DequantizeLinear", "Mul", "Reshape"],
)
def test_weights_behind_other_operators(behind: Nodes, name: str, size: int) -> None:
    weights = {
        "w": noise(size, size + 1), "h": noise(size, size + 1).astype(np.float16),
        "q": np.ones((size, size + 1), np.int8), "s": scalar(0.1), "z": np.zeros((), np.int8),
        "shape": np.array([size, size + 1]),
    }  # fmt: skip
    nodes = [*behind, node("MatMul", "x v", "m"), node("Relu", "m", "y")]
    used = {i for n in nodes for i in n.input}
    topology = dense(nodes, {k: w for k, w in weights.items() if k in used}, n=size + 1)
    assert list(topology) == [name]
    assert ends(topology, name) == ((None, (1, size + 1)), ("Relu", (1, size)))


# --- what cannot be measured -----------------------------------------------------------------


def test_integers_of_no_known_scale_have_a_reason() -> None:
    nodes = [
        node("Cast", "x", "q", to=TensorProto.UINT8), node("MatMulInteger", "q w", "i"),
        node("Cast", "i", "y", to=FLOAT),
    ]  # fmt: skip
    topology = dense(nodes, {"w": np.ones((4, 3), np.int8)})
    assert "input 'q' is a quantised integer tensor of no known" in topology.nodes["w"]["reason"]


def test_integers_that_nothing_makes_real_have_a_reason() -> None:
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"), node("MatMulInteger", "q w z", "i"),
        node("Mod", "i two", "m"), node("Cast", "m", "y", to=FLOAT),
    ]  # fmt: skip
    topology = dense(nodes, {"w": np.ones((4, 3), np.int8), "two": np.array([2], np.int32)})
    assert topology.nodes["w"]["reason"] == (
        "its output is of type INT32, and nothing makes real numbers of it"
    )


def test_integer_layers_have_a_reason() -> None:
    nodes = [
        node("Cast", "x", "i", to=TensorProto.INT32), node("MatMul", "i w", "m"),
        node("Cast", "m", "y", to=FLOAT),
    ]  # fmt: skip
    topology = dense(nodes, {"w": np.ones((4, 3), np.int32)})
    assert topology.nodes["w"]["reason"] == "its input is of type INT32, not of real numbers"


@pytest.mark.parametrize("outputs", ["y", "_ y"])
def test_recurrent_layers(outputs: str) -> None:
    made = node("LSTM", "x lstm.W lstm.R", outputs, hidden_size=2)
    made.output[:] = ["" if name == "_" else name for name in made.output]
    weights = {"lstm.W": noise(1, 8, 3), "lstm.R": noise(1, 8, 2)}
    rank = {"y": 4 if outputs == "y" else 3}
    topology = topology_of(make([made], {"x": (5, "N", 3)}, ["y"], weights, ranks=rank))
    data = topology.nodes["lstm.W"]
    assert (data["kind"], data["reason"]) == ("recurrent", None)
    assert data["output"]["tensor"] == "y"
    assert data["output"]["shape"] == ((5, 1, 1, 2) if outputs == "y" else (1, 1, 2))


def test_trees_have_a_reason() -> None:
    tree = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", name="forest", n_targets=1,
        nodes_treeids=[0], nodes_nodeids=[0], nodes_featureids=[0], nodes_modes=["LEAF"],
        nodes_values=[0.0], nodes_truenodeids=[0], nodes_falsenodeids=[0], nodes_hitrates=[1.0],
        target_treeids=[0], target_nodeids=[0], target_ids=[0], target_weights=[1.0],
    )  # fmt: skip
    topology = dense([tree], {}, domains={"ai.onnx.ml": 3})
    assert "opaque predictor (TreeEnsembleRegressor)" in topology.nodes["forest"]["reason"]


def test_control_flow_is_noted() -> None:
    def branch(name: str, nodes: Nodes) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, (None, 3))
        return helper.make_graph(nodes, name, [], [out])

    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0), node("Cast", "sum", "c", to=TensorProto.BOOL),
        node(
            "If", "c", "y", name="choice",
            then_branch=branch("then", [node("MatMul", "x w", "t")]),
            else_branch=branch("else", [node("MatMul", "x v", "m"), node("Relu", "m", "e")]),
        ),
    ]  # fmt: skip
    topology = dense(nodes, {"w": noise(4, 3), "v": noise(4, 3)})
    assert not topology
    (note,) = topology.graph["notes"]
    assert "If node 'choice' holds 2 operators that would be layers" in note


# --- keys ------------------------------------------------------------------------------------


def two(weights: tuple[str, str] = ("a", "b"), **names: str) -> onnx.ModelProto:
    """x -> MatMul -> MatMul, with the weights and the node names given."""
    first, second = weights
    nodes = [
        helper.make_node("MatMul", ["x", first], ["h"], name=names.get("first", "")),
        helper.make_node("MatMul", ["h", second], ["y"], name=names.get("second", "")),
    ]
    return make(nodes, {"x": ("N", 4)}, ["y"], {w: noise(4, 4) for w in weights})


@pytest.mark.parametrize(
    ("weights", "keys"),
    [
        (("block.fc1.weight", "block.fc2.weight"), ["block.fc1", "block.fc2"]),
        (("dense.kernel", "1.weight"), ["dense", "1"]),
        (("fc.weight_quantized", "fc2.weight_orig"), ["fc", "fc2"]),
        (("W", "b0"), ["W", "b0"]),
        (("coefficient", "coefficient1"), ["coefficient", "coefficient1"]),
        (("dense/kernel:0", "dense_1/kernel:0"), ["dense", "dense_1"]),
        (
            ("m/dense/MatMul/ReadVariableOp:0", "m/dense_1/MatMul/ReadVariableOp/resource:0"),
            ["m/dense", "m/dense_1"],
        ),
        (
            ("m/c/convolution/ExpandDims_1:0", "m/d/Conv2D/ReadVariableOp:0"),
            ["m/c", "m/d"],
        ),
        (("a/BiasAdd;a/BiasAdd;b/Conv2D;b/Conv2D", "b/MatMul"), ["a", "b"]),
        # two names that become one
        (("dense/kernel:0", "dense/kernel"), ["dense", "dense#2"]),
        (("dense/kernel:0", "dense#2"), ["dense", "dense#2"]),
        (("/MatMul", "kernel"), ["/MatMul", "kernel"]),
    ],
)
def test_keys_by_weight(weights: tuple[str, str], keys: list[str]) -> None:
    assert list(topology_of(two(weights))) == keys


@pytest.mark.parametrize(
    ("weights", "names", "keys"),
    [
        # counted names say nothing
        (("onnx::MatMul_12", "onnx::MatMul_13"), ("/fc1/MatMul", "/enc/fc2/MatMul"),
         ["fc1", "enc.fc2"]),
        (("val_3", "12"), ("/fc1/MatMul", "last"), ["fc1", "last"]),
        (("const_fold_opt__7", "const_fold_opt__8"), ("m/dense/MatMul", "MatMul__9"),
         ["m/dense", "y"]),
        # nor do nameless nodes
        (("val_0", "val_1"), ("", ""), ["h", "y"]),
        # the weight's name before the node's
        (("fc1.weight", "val_1"), ("/other/MatMul", "/MatMul"), ["fc1", "/MatMul"]),
    ],
)  # fmt: skip
def test_keys_by_node(weights: tuple[str, str], names: tuple[str, str], keys: list[str]) -> None:
    model = two(weights, first=names[0], second=names[1])
    assert list(topology_of(model)) == keys


def test_keys_by_torch_scope() -> None:
    model = two(("val_0", "val_1"), first="node_linear", second="node_linear_1")
    for place, scope in enumerate(("layer1.0.fc", "head")):
        entry = model.graph.node[place].metadata_props.add()
        entry.key = "pkg.torch.onnx.name_scopes"
        entry.value = str(["", scope.split(".")[0], scope, "linear"])
    assert list(topology_of(model)) == ["layer1.0.fc", "head"]


def test_the_weight_names_a_layer_before_its_scope() -> None:
    # folding puts the batch-norm's scope on the convolution
    model = two(("conv1.weight", "b"))
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(["", "bn1", "batch_norm"])
    assert list(topology_of(model)) == ["conv1", "b"]


def test_tied_weights_make_unique_keys() -> None:
    nodes = [node("MatMul", "x tied.weight", "h"), node("MatMul", "h tied.weight", "y")]
    assert list(dense(nodes, {"tied.weight": noise(4, 4)})) == ["h", "y"]
    # a split projection: three layers of one weight
    nodes = [
        node("Split", "qkv.weight", "q k v", axis=1, num_outputs=3),
        *(node("MatMul", f"x {n}", f"h{n}", name=f"/attn/MatMul_{n}") for n in "qkv"),
        node("Sum", "hq hk hv", "y"),
    ]
    topology = dense(nodes, {"qkv.weight": noise(4, 12)})
    assert list(topology) == ["attn", "attn#2", "attn#3"]


def test_a_numbered_name_of_the_file_is_not_given_twice() -> None:
    nodes = [
        node("MatMul", "x a", "h", name="/fc/MatMul"),
        node("MatMul", "h a", "g", name="/fc/MatMul_1"),
        node("MatMul", "g fc#2", "y"),
    ]
    assert list(dense(nodes, {"a": noise(4, 4), "fc#2": noise(4, 4)})) == ["fc", "fc#3", "fc#2"]


def test_keys_are_stable(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for model in (residual(), two(("val_0", "val_1")), mlp()):
        onnx.save(model, path)
        first, second = topology_of(path), topology_of(str(path))
        assert list(first) == list(second) == list(topology_of(model))
        assert dict(first.nodes(data=True)) == dict(second.nodes(data=True))
        assert list(first.edges) == list(second.edges)


def test_keys_of_a_torch_export(tmp_path: Path) -> None:
    torch: Any = require_peer("torch")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(36, 5), torch.nn.GELU(), torch.nn.Linear(5, 2),
    ).eval()  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: None)
        torch.onnx.export(
            net, (torch.zeros(2, 3, 8, 8),), tmp_path / "m.onnx", dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False,
        )  # fmt: skip
    topology = topology_of(tmp_path / "m.onnx")
    assert list(topology) == ["0", "3", "5", "7"]
    assert list(topology.edges) == [("0", "3"), ("3", "5"), ("5", "7")]
    assert ends(topology, "0") == ((None, (1, 3, 8, 8)), ("Relu", (1, 4, 6, 6)))
    assert ends(topology, "3") == (("Relu", (1, 4, 6, 6)), (None, (1, 4, 3, 3)))
    assert ends(topology, "5") == ((None, (1, 36)), ("Gelu", (1, 5)))
    assert ends(topology, "7") == (("Gelu", (1, 5)), (None, (1, 2)))


# --- wrong use -------------------------------------------------------------------------------


def test_a_torch_module_needs_an_example_input() -> None:
    torch: Any = require_peer("torch")
    with pytest.raises(TypeError, match=r"topology_of\(Linear\(...\)\) needs input="):
        topology_of(torch.nn.Linear(2, 2))


def test_layer_of_offers_the_closest_key() -> None:
    topology = topology_of(residual())
    with pytest.raises(UnknownLayerError, match=r"^no layer 'conv3' in the topology; did you mean"):
        layer_of(topology, "conv3")
    with pytest.raises(
        KeyError, match=r"no layer 3 in the topology: it did not run .* known: 'stem'"
    ):
        layer_of(topology, 3)


def test_model_of() -> None:
    assert isinstance(model_of(topology_of(mlp())), Model)
    for other in (nx.DiGraph(), None, "fc1", {"model": 1}):
        with pytest.raises(TypeError, match=r"must be what topology_of returns, got \w+"):
            model_of(other)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be what topology_of returns"):
            layer_of(other, "fc1")  # type: ignore[arg-type]


def test_the_scale_of_an_attention_is_not_the_layers() -> None:
    weights = {"fc.weight": noise(4, 4), "heads": np.array([0, 3, 2, 2]), "scale": noise(1)}
    nodes = [
        node("MatMul", "x fc.weight", "h"),
        node("Reshape", "h heads", "r"),
        node("Transpose", "r", "t", perm=[0, 2, 3, 1]),
        node("Mul", "t scale", "k"),
        node("Relu", "k", "y"),
    ]
    topology = topology_of(make(nodes, {"x": ("N", 3, 4)}, ["y"], weights, ranks={"y": 4}))
    assert topology.nodes["fc"]["output"]["activation"] is None
    assert topology.nodes["fc"]["output"]["tensor"] == "h"
