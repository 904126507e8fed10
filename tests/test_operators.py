"""What is a layer and what is glue; what adds a bias and what does not."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from brute import part
from graphs import make, noise
from graphs import node as proto_node
from onnx import numpy_helper

from onnx_ei import topology_of
from onnx_ei._graph.operators import KEEPING, LayerOp, is_affine, layer_op
from onnx_ei.runtime import runner
from onnx_ei.span import span_of
from onnx_ei.topology import model_of


def varies(value: ir.Value | None) -> bool:
    """Values named in capitals depend on the model's input."""
    return value is not None and str(value.name).isupper()


def node(op: str, *inputs: str | None, domain: str = "", n_outputs: int = 1) -> ir.Node:
    values = [None if n is None else ir.Value(name=n) for n in inputs]
    return ir.Node(domain, op, values, num_outputs=n_outputs)


MS = "com.microsoft"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (node("Gemm", "X", "w", "b"), LayerOp(kind="dense", data=0, weight=1)),
        (node("Gemm", "w", "X"), LayerOp(kind="dense", data=1, weight=0)),
        (node("MatMul", "X", "w"), LayerOp(kind="dense", data=0, weight=1)),
        (node("MatMul", "w", "X"), LayerOp(kind="dense", data=1, weight=0)),
        (node("FusedMatMul", "X", "w", domain=MS), LayerOp(kind="dense", weight=1)),
        (node("MatMulNBits", "X", "w", "s", domain=MS), LayerOp(kind="dense", weight=1)),
        (node("DynamicQuantizeMatMul", "X", "w", domain=MS), LayerOp(kind="dense", weight=1)),
        (node("Conv", "X", "w", "b"), LayerOp(kind="conv", weight=1)),
        (node("ConvTranspose", "X", "w"), LayerOp(kind="conv", weight=1)),
        *(
            (node(op, "X", "w", "r"), LayerOp(kind="recurrent", weight=1))
            for op in ("LSTM", "GRU", "RNN")
        ),
        *(
            (node(op, "X"), LayerOp(kind="pool"))
            for op in ("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool",
                       "GlobalLpPool")
        ),
    ],
)  # fmt: skip
def test_layers(made: ir.Node, expected: LayerOp) -> None:
    assert layer_op(made, varies) == expected
    assert expected.reason is None


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (node("QLinearConv", "X", "s", "z", "w"), LayerOp(kind="conv", weight=3)),
        (node("QLinearMatMul", "X", "s", "z", "w"), LayerOp(kind="dense", weight=3)),
        (node("QLinearMatMul", "w", "s", "z", "X"), LayerOp(kind="dense", data=3, weight=0)),
        (node("ConvInteger", "X", "w"), LayerOp(kind="conv", weight=1)),
        (node("MatMulInteger", "X", "w"), LayerOp(kind="dense", weight=1)),
        (node("MatMulInteger", "w", "X"), LayerOp(kind="dense", data=1, weight=0)),
        (node("MatMulIntegerToFloat", "X", "w", domain=MS), LayerOp(kind="dense", weight=1)),
        (node("QGemm", "X", "s", "z", "w", domain=MS), LayerOp(kind="dense", weight=3)),
        (node("QLinearAveragePool", "X", domain=MS), LayerOp(kind="pool")),
        (node("QLinearGlobalAveragePool", "X", domain=MS), LayerOp(kind="pool")),
        (
            node("DynamicQuantizeLSTM", "X", "w", "r", domain=MS),
            LayerOp(kind="recurrent", weight=1),
        ),
        *(
            (node(op, "X", "w", domain=MS),
             LayerOp(kind="attention", weight=1, roles=("batch", "position", "unit")))
            for op in ("Attention", "QAttention")
        ),
    ],
)  # fmt: skip
def test_quantised_and_fused_layers(made: ir.Node, expected: LayerOp) -> None:
    assert layer_op(made, varies) == expected


@pytest.mark.parametrize(
    ("made", "kind", "data", "weight", "reason"),
    [
        (node("TreeEnsembleClassifier", "X", domain="ai.onnx.ml"), "predictor", 0, None,
         r"opaque predictor \(TreeEnsembleClassifier\)"),
        (node("SVMRegressor", "X", domain="ai.onnx.ml"), "predictor", 0, None, "opaque"),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_measured_say_why(
    made: ir.Node, kind: str, data: int, weight: int | None, reason: str
) -> None:
    found = layer_op(made, varies)
    assert found is not None
    assert (found.kind, found.data, found.weight) == (kind, data, weight)
    assert found.reason is not None
    assert re.search(reason, found.reason)


@pytest.mark.parametrize(
    "made",
    [
        node("MatMul", "Q", "K"),  # attention: two activations
        node("MatMul", "a", "b"),  # two weights: folded, or computed once
        node("Gemm", "X", "Y", "b"),
        node("Conv", "X", "W"),  # a filter that the input makes
        node("Conv", "x", "w"),
        node("MaxPool", "w"),
        node("QLinearConv", "X", "s", "z", "W"),
        node("MatMulInteger", "x", "w"),
        node("Attention", "Q", "K", "V"),  # ONNX's own: no weights
        node("Attention", "X", "W", domain=MS),
        node("MultiHeadAttention", "Q", "K", "V", domain=MS),
        node("GroupQueryAttention", "Q", "K", "V", domain=MS),
        node("QLinearMatMul", "Q", "s", "z", "K"),
        node("QLinearAdd", "X", "s", "z", "b", domain=MS),
        node("DynamicQuantizeLSTM", "X", "W", "r", domain=MS),
        node("Relu", "X"),
        node("Add", "X", "w"),
        node("Softmax", "X"),
        node("LayerNormalization", "X", "w"),
        node("ReduceMean", "X"),
        node("TreeEnsembleClassifier", "X"),  # of another domain
    ],
)
def test_glue(made: ir.Node) -> None:
    assert layer_op(made, varies) is None


# --- Einsum ------------------------------------------------------------------------------------

# equation, shapes of x and of the weight; kept positions: the units of one
EINSUMS = {
    "heads of tokens": ("bsd,dhk->bshk", (1, 5, 6), (6, 2, 3), (6, 6)),
    "a weight of its own for each row": ("bhwc,hkc->bhwk", (1, 3, 4, 5), (3, 6, 5), (15, 18)),
    "no arrow": ("bij,jk", (1, 4, 5), (5, 3), (5, 3)),
    "an ellipsis": ("...d,df->...f", (1, 4, 5), (5, 3), (5, 3)),
    "two axes at once": ("bshd,hde->bse", (1, 5, 2, 3), (2, 3, 6), (6, 6)),
    "features": ("bi,io->bo", (1, 5), (5, 3), (5, 3)),
}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("case", EINSUMS)
def test_einsums(case: str, left: bool) -> None:
    equation, entering, weight, units = EINSUMS[case]
    operands, arrow, result = equation.partition("->")
    if left:
        equation = ",".join(reversed(operands.split(","))) + arrow + result
    w, x = noise(*weight), noise(*entering, seed=1)
    want = np.tanh(np.einsum(f"{operands}{arrow}{result}", x, w))
    nodes = [
        proto_node("Einsum", "w x" if left else "x w", "h", equation=equation),
        proto_node("Tanh", "h", "y"),
    ]
    topology = topology_of(make(nodes, {"x": entering}, ["y"], {"w": w}, ranks={"y": want.ndim}), x)
    (data,) = topology.nodes.values()
    assert (data["op_type"], data["kind"], data["output"]["activation"]) == (
        "Einsum", "dense", "Tanh",
    )  # fmt: skip
    assert list(topology) == ["w"]
    span, whole = (span_of(topology, "w", positions=p) for p in ("one", "all"))
    assert (span.n_inputs, span.n_outputs, span.batched) == (*units, True)
    got = runner(whole)(x.reshape(1, -1))
    np.testing.assert_allclose(got, want.reshape(1, -1), rtol=1e-4, atol=1e-5)
    got = runner(span)(x[part(span.in_window)].reshape(1, -1))
    np.testing.assert_allclose(got, want[part(span.out_window)].reshape(1, -1), atol=1e-5)


@pytest.mark.parametrize(
    ("equation", "weight"),
    [
        ("bd,d->bd", (5,)),  # one factor for each unit: nothing is summed
        ("bd,e->bde", (3,)),
        ("bd,bd->bd", (1, 5)),
    ],
)
def test_einsums_that_sum_nothing_are_glue(equation: str, weight: tuple[int, ...]) -> None:
    nodes = [proto_node("Einsum", "x w", "y", equation=equation)]
    rank = len(equation.split(">")[1])
    proto = make(nodes, {"x": (1, 5)}, ["y"], {"w": noise(*weight)}, ranks={"y": rank})
    assert not topology_of(proto)


def test_einsums_of_two_activations_are_glue() -> None:
    nodes = [proto_node("Einsum", "x x", "y", equation="bsd,btd->bst")]
    assert not topology_of(make(nodes, {"x": (1, 4, 5)}, ["y"], ranks={"y": 3}))


@pytest.mark.parametrize("equation", ["ii,ij->ij", "", "bd->b"])
def test_equations_that_are_not_understood_are_glue(equation: str) -> None:
    made = node("Einsum", "X", "w")
    if equation:
        made.attributes["equation"] = ir.AttrString("equation", equation)
    assert layer_op(made, varies) is None


# --- reductions --------------------------------------------------------------------------------

CONV = [proto_node("Conv", "x k", "c"), proto_node("Relu", "c", "r")]
TOKENS = [proto_node("MatMul", "x w", "c"), proto_node("Relu", "c", "r")]
IMAGE, SEQUENCE = (1, 3, 6, 6), (1, 5, 6)


def reduced(
    first: Any, op: str, axes: list[int], shape: tuple[int, ...], *more: Any, keep: int = 0
) -> Any:
    """Put a reduction behind a first layer; what follows reads ``m``."""
    nodes = [*first, proto_node(op, f"{first[-1].output[0]} axes", "m", keepdims=keep), *more]
    used = {name for n in nodes for name in n.input}
    weights = {
        "k": noise(4, 3, 3, 3), "w": noise(6, 4), "axes": np.array(axes), "v": noise(4, 2),
        "u": noise(4, 4, 1, 1), "eps": np.float32(1e-5), "t": noise(10, 6), "W": noise(1, 8, 6),
        "R": noise(1, 8, 2), "one": np.array([1]), "flat": np.array([1, 4]),
    }  # fmt: skip
    inputs = {"x": shape}
    return make(
        nodes, inputs, [nodes[-1].output[0]],
        {k: v for k, v in weights.items() if k in used},
        ranks={nodes[-1].output[0]: OUT_RANKS.get((len(shape), len(axes), keep), 2)},
    )  # fmt: skip


OUT_RANKS = {(4, 2, 1): 4, (4, 1, 0): 3, (3, 1, 1): 3, (4, 1, 1): 4}
OPS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2")


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("first", "axes", "shape", "units"),
    [
        (CONV, [2, 3], IMAGE, (64, 4)),
        (CONV, [-1, -2], IMAGE, (64, 4)),
        (CONV, [2], IMAGE, (16, 4)),  # one position of the other axis
        (TOKENS, [1], SEQUENCE, (20, 4)),
        (TOKENS, [-2], SEQUENCE, (20, 4)),
        (
            [*CONV, proto_node("Transpose", "r", "l", perm=[0, 2, 3, 1])], [1, 2], IMAGE, (64, 4),
        ),
    ],
)  # fmt: skip
def test_reductions_over_positions_are_pools(
    first: Any, axes: list[int], shape: Any, units: Any, op: str, keep: int
) -> None:
    x = noise(*shape, seed=3)
    topology = topology_of(reduced(first, op, axes, shape, keep=keep), x)
    (key,) = [k for k in topology if topology.nodes[k]["kind"] == "pool"]
    assert topology.nodes[key]["op_type"] == op
    assert topology.nodes[key]["input"]["activation"] == "Relu"
    span = span_of(topology, key)
    assert (span.n_inputs, span.n_outputs, span.batched) == (*units, True)
    first_key = next(iter(topology))
    assert list(topology.edges) == [(first_key, key)]
    values = model_of(topology).tensors([topology.nodes[key]["input"]["tensor"], "m"])
    data, want = values.values()
    got = runner(span)(data[part(span.in_window)].reshape(1, -1))
    np.testing.assert_allclose(got, want[part(span.out_window)].reshape(1, -1), rtol=1e-5)


NORM = [
    proto_node("Sub", "c m", "d"), proto_node("Mul", "d d", "dd"),
    proto_node("ReduceMean", "dd axes", "va"), proto_node("Add", "va eps", "ve"),
    proto_node("Sqrt", "ve", "sd"), proto_node("Div", "d sd", "n"),
]  # fmt: skip
RMS = [
    proto_node("Add", "m eps", "e"), proto_node("Sqrt", "e", "s"),
    proto_node("Reciprocal", "s", "i"), proto_node("Mul", "c i", "n"),
]  # fmt: skip
CASES = {
    "layer norm": (TOKENS[:1], "ReduceMean", [-1], SEQUENCE, NORM, 1),
    "instance norm": (CONV[:1], "ReduceMean", [2, 3], IMAGE, NORM, 1),
    "norm over tokens": (TOKENS[:1], "ReduceMean", [1], SEQUENCE, NORM, 1),
    "l2 norm": (TOKENS[:1], "ReduceL2", [-1], SEQUENCE, [proto_node("Div", "c m", "n")], 1),
    "gate by the mean": (
        CONV[:1], "ReduceMean", [2, 3], IMAGE,
        [proto_node("Sigmoid", "m", "g"), proto_node("Mul", "c g", "n")], 1,
    ),
    "channels": (CONV, "ReduceMax", [1], IMAGE, [], 1),
    "features": (TOKENS, "ReduceSum", [-1], SEQUENCE, [], 1),
    "channels with positions": (CONV, "ReduceMean", [1, 2], IMAGE, [], 1),
    "samples": (TOKENS, "ReduceMean", [0, 1], SEQUENCE, [], 1),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_norms_and_reductions_of_units_are_glue(case: str) -> None:
    first, op, axes, shape, more, keep = CASES[case]
    topology = topology_of(reduced(first, op, axes, shape, *more, keep=keep))
    assert [data["kind"] for data in topology.nodes.values()] == [
        "conv" if first[0].op_type == "Conv" else "dense"
    ]


def test_root_mean_square_and_group_norms_are_glue() -> None:
    squares = [TOKENS[0], proto_node("Mul", "c c", "sq")]
    assert len(topology_of(reduced(squares, "ReduceMean", [-1], SEQUENCE, *RMS, keep=1))) == 1
    grouped = [
        CONV[0], proto_node("Reshape", "c groups", "g"), proto_node("ReduceMean", "g axes", "m"),
        proto_node("Sub", "g m", "y"),
    ]  # fmt: skip
    weights = {"k": noise(4, 3, 3, 3), "groups": np.array([1, 2, 32]), "axes": np.array([2])}
    assert len(topology_of(make(grouped, {"x": IMAGE}, ["y"], weights, ranks={"y": 3}))) == 1


def test_squeeze_and_excitation_has_a_pool() -> None:
    more = [
        proto_node("Conv", "m u", "g"), proto_node("Sigmoid", "g", "s"),
        proto_node("Mul", "c s", "n"),
    ]  # fmt: skip
    topology = topology_of(reduced(CONV[:1], "ReduceMean", [2, 3], IMAGE, *more, keep=1))
    assert [data["kind"] for data in topology.nodes.values()] == ["conv", "pool", "conv"]
    assert list(topology.edges) == [("k", "m"), ("m", "u")]


def test_a_sum_weighted_by_an_attention_is_glue() -> None:
    weighted = [*TOKENS, proto_node("Mul", "r c", "p")]
    assert len(topology_of(reduced(weighted, "ReduceSum", [1], SEQUENCE))) == 1


@pytest.mark.parametrize(
    ("first", "shape"),
    [
        (
            [proto_node("Cast", "x", "i", to=7), proto_node("Gather", "t i", "c")], (1, 5),
        ),
        (
            [
                proto_node("Transpose", "x", "xt", perm=[1, 0, 2]),
                proto_node("LSTM", "xt W R", "l", hidden_size=2),
                proto_node("Squeeze", "l one", "s"),
                proto_node("Transpose", "s", "c", perm=[1, 0, 2]),
            ],
            SEQUENCE,
        ),
        ([proto_node("Einsum", "x w", "c", equation="bsd,df->bsf")], SEQUENCE),
        (
            [*TOKENS, proto_node("LayerNormalization", "r g", "z", axis=-1)], SEQUENCE,
        ),
    ],
    ids=["embedding", "LSTM", "Einsum", "norm"],
)  # fmt: skip
def test_what_comes_before_a_pool_of_tokens(first: Any, shape: tuple[int, ...]) -> None:
    proto = reduced(first, "ReduceMean", [1], shape)
    if first[-1].op_type == "LayerNormalization":
        proto.graph.initializer.append(numpy_helper.from_array(noise(4), "g"))
    topology = topology_of(proto)
    assert [data["kind"] for data in topology.nodes.values()][-1] == "pool"


@pytest.mark.parametrize(
    ("shape", "axes", "pools"),
    [
        ((1, 5, 6), [1], True), ((1, 5, 6), [2], False), ((1, 4, 6, 6), [2, 3], True),
        ((1, 6, 6, 4), [1, 2], True), ((1, 4, 6, 6), [1], False), ((1, 6), [1], False),
    ],
)  # fmt: skip
def test_reductions_of_a_model_s_input(shape: Any, axes: list[int], pools: bool) -> None:
    proto = make(
        [proto_node("ReduceMean", "x axes", "y")], {"x": shape}, ["y"], {"axes": np.array(axes)},
        ranks={"y": len(shape)},
    )  # fmt: skip
    assert len(topology_of(proto)) == pools


# --- custom operators ----------------------------------------------------------------------------


def test_an_unknown_operator_with_a_weight_is_a_row_with_a_reason() -> None:
    proto = make(
        [proto_node("Twist", "x w", "h"), proto_node("MatMul", "x v", "y")], {"x": ("N", 4)},
        ["y"], {"w": noise(4, 3), "v": noise(4, 2)}, domains={"acme": 1},
    )  # fmt: skip
    proto.graph.node[0].domain = "acme"
    proto.graph.output.append(onnx.ValueInfoProto(name="h"))
    topology = topology_of(proto)
    assert list(topology) == ["w", "v"]
    assert topology.nodes["w"]["kind"] == "custom"
    assert re.match(
        r"operator Twist of domain 'acme' is of neither ONNX nor onnxruntime: what it computes of "
        r"its weight 'w' .* export the model with standard",
        topology.nodes["w"]["reason"],
    )
    assert topology.nodes["v"]["reason"] is None


@pytest.mark.parametrize("op", ["Conv", "MatMul", "Relu"])
def test_a_custom_operator_of_a_known_name_is_not_taken_for_it(op: str) -> None:
    made = node(op, "X", "W", domain="acme")
    assert layer_op(made, varies) is None


def test_keeping_operators_are_no_layers() -> None:
    for op in KEEPING:
        assert layer_op(node(op, "X"), varies) is None


# --- bias and batch-norm ---------------------------------------------------------------------


def affine(
    op: str, const: tuple[int, ...] | None, x: tuple[int, ...], out: Any, left: bool
) -> bool:
    data = ir.Value(name="X", shape=ir.Shape(x))
    other = ir.Value(name="c", shape=None if const is None else ir.Shape(const))
    made = ir.Node("", op, [other, data] if left else [data, other])
    made.outputs[0].shape = None if out is None else ir.Shape(out)
    return is_affine(made, data, varies)


MAP = (1, 3, 8, 8)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize(
    ("const", "x"),
    [
        ((5,), (1, 5)), ((1, 5), (1, 5)), ((1,), (1, 5)), ((), (1, 5)), ((5,), (1, 7, 5)),
        ((1, 3, 1, 1), MAP), ((3, 1, 1), MAP), ((1, 1, 1, 3), (1, 8, 8, 3)), ((), MAP),
    ],
)  # fmt: skip
def test_biases_and_scales(op: str, const: tuple[int, ...], x: tuple[int, ...]) -> None:
    assert affine(op, const, x, x, left=False)
    assert affine(op, const, x, x, left=True) == (op != "Div")
    assert affine(op, const, x, None, left=False)  # not inferred


@pytest.mark.parametrize(
    ("op", "const", "x", "out"),
    [
        ("Add", (7, 5), (1, 7, 5), (1, 7, 5)),  # a positional table
        ("Add", (1, 7, 5), (1, 7, 5), (1, 7, 5)),
        ("Mul", (8, 8), MAP, MAP),  # a mask
        ("Add", (5,), (1, 1), (1, 5)),  # one unit becomes five
        ("Add", None, (1, 5), (1, 5)),
        ("Pow", (), (1, 5), (1, 5)),
        ("Max", (), (1, 5), (1, 5)),
        ("MatMul", (5,), (1, 5), (1,)),
    ],
)
def test_what_is_no_bias(op: str, const: Any, x: tuple[int, ...], out: tuple[int, ...]) -> None:
    assert not affine(op, const, x, out, left=False)


def test_another_activation_is_no_bias() -> None:
    x, skip = (ir.Value(name=n, shape=ir.Shape((1, 5))) for n in ("X", "SKIP"))
    assert not is_affine(ir.Node("", "Add", [x, skip]), x, varies)
    assert not is_affine(ir.Node("", "Add", [x, x]), x, varies)
    assert not is_affine(ir.Node("", "Mul", [x, None]), x, varies)


def test_batch_normalisation_scales_its_data_only() -> None:
    made = node("BatchNormalization", "X", "s", "b", "m", "v")
    data, scale = made.inputs[0], made.inputs[1]
    assert data is not None
    assert scale is not None
    assert is_affine(made, data, varies)
    assert not is_affine(made, scale, varies)
