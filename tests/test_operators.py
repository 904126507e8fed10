"""What is a layer and what is glue; what adds a bias and what does not."""

from __future__ import annotations

import re
from typing import Any

import onnx_ir as ir
import pytest

from onnx_ei._graph.operators import KEEPING, LayerOp, is_affine, layer_op


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
    ("made", "kind", "data", "weight", "reason"),
    [
        (node("QLinearConv", "X", "s", "z", "w"), "conv", 0, 3, "quantised integer"),
        (node("QLinearMatMul", "X", "s", "z", "w"), "dense", 0, 3, "quantised integer"),
        (node("ConvInteger", "X", "w"), "conv", 0, 1, "quantised integer"),
        (node("MatMulInteger", "X", "w"), "dense", 0, 1, "quantised integer"),
        (node("QGemm", "X", "s", "z", "w", domain=MS), "dense", 0, 3, "quantised integer"),
        (node("QLinearAveragePool", "X", domain=MS), "pool", 0, None, "quantised integer"),
        (node("DynamicQuantizeLSTM", "X", "w", domain=MS), "recurrent", 0, 1, "recurrent"),
        (node("Attention", "X", "w", domain=MS), "attention", 0, 1, "tokens are coupled"),
        (node("MultiHeadAttention", "Q", "K", "V", domain=MS), "attention", 0, None, "coupled"),
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
