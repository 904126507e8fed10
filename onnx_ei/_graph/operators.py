"""Which ONNX operators are layers, where their data enters, and why some cannot be measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["KEEPING", "LayerOp", "is_affine", "is_weight", "layer_op"]

#: Operators that move values without changing them.
KEEPING = frozenset(
    {"Reshape", "Transpose", "Identity", "Cast", "Dropout", "Flatten", "Squeeze", "Unsqueeze"}
)

_POOLS = frozenset(
    {"MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"}
)
_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose"})
_PRODUCTS = frozenset({"Gemm", "MatMul", "FusedMatMul", "FusedGemm", "GemmFastGelu"})
_QUANTISED_PRODUCTS = frozenset({"DynamicQuantizeMatMul", "MatMulNBits"})
_INTEGER = {
    # operator -> (index of the data, index of the weight)
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "QGemm": (0, 3),
    "QLinearAveragePool": (0, None),
    "QLinearGlobalAveragePool": (0, None),
}
_RECURRENT = frozenset({"RNN", "LSTM", "GRU"})
_QUANTISED_RECURRENT = frozenset({"DynamicQuantizeLSTM"})
_ATTENTION = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention"})
_PREDICTORS = frozenset(
    {
        "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "SVMClassifier",
        "SVMRegressor", "LinearClassifier", "LinearRegressor",
    }
)  # fmt: skip

_INTEGER_REASON = (
    "its input is a quantised integer tensor: uniform noise on a range of real numbers is not "
    "defined there"
)
_RECURRENT_REASON = "a quantised recurrent layer: its scales couple the steps of a sequence"
_ATTENTION_REASON = "a fused attention operator: its tokens are coupled"
_PREDICTOR_REASON = "an opaque predictor ({}): no tensor of units enters it"


@dataclass(frozen=True, kw_only=True)
class LayerOp:
    """What is known of a layer's operator.

    Attributes
    ----------
    kind : str
        ``"dense"``, ``"conv"``, ``"pool"``, ``"recurrent"``, ``"attention"`` or ``"predictor"``.
    data : int
        Index of the input that carries the units.
    weight : int or None
        Index of the input that carries the weights.
    reason : str or None
        Why a layer of this kind cannot be measured.
    """

    kind: str
    data: int = 0
    weight: int | None = None
    reason: str | None = None


def layer_op(node: ir.Node, varies: Callable[[ir.Value | None], bool]) -> LayerOp | None:
    """Say whether a node is a layer.

    Parameters
    ----------
    node : onnx_ir.Node
        Any node.
    varies : callable
        Whether a value depends on the model's input.

    Returns
    -------
    LayerOp or None
        None for glue: products of two activations, elementwise operators, everything unknown.
    """
    op = node.op_type
    if op in _PRODUCTS:
        return _product(node, varies)
    if op in _CONVOLUTIONS or op in _QUANTISED_PRODUCTS:
        kind = "conv" if op in _CONVOLUTIONS else "dense"
        fixed = varies(node.inputs[0]) and not varies(node.inputs[1])
        return LayerOp(kind=kind, weight=1) if fixed else None
    if op in _POOLS:
        return LayerOp(kind="pool") if varies(node.inputs[0]) else None
    if op in _INTEGER:
        data, weight = _INTEGER[op]
        fixed = weight is None or not varies(node.inputs[weight])
        if not (varies(node.inputs[data]) and fixed):
            return None
        kind = "conv" if "Conv" in op else "pool" if "Pool" in op else "dense"
        return LayerOp(kind=kind, data=data, weight=weight, reason=_INTEGER_REASON)
    if op in _RECURRENT:
        fixed = not any(varies(v) for v in node.inputs[1:3])
        return LayerOp(kind="recurrent", weight=1) if fixed else None
    if op in _QUANTISED_RECURRENT:
        return LayerOp(kind="recurrent", weight=1, reason=_RECURRENT_REASON)
    if op in _ATTENTION and node.domain == "com.microsoft":
        # in the others, input 1 is the keys
        weight = 1 if op in ("Attention", "QAttention") else None
        return LayerOp(kind="attention", weight=weight, reason=_ATTENTION_REASON)
    if op in _PREDICTORS and node.domain == "ai.onnx.ml":
        return LayerOp(kind="predictor", reason=_PREDICTOR_REASON.format(op))
    return None


def _product(node: ir.Node, varies: Callable[[ir.Value | None], bool]) -> LayerOp | None:
    left, right = varies(node.inputs[0]), varies(node.inputs[1])
    if left == right:
        return None
    return LayerOp(kind="dense", data=0 if left else 1, weight=1 if left else 0)


def is_affine(node: ir.Node, x: ir.Value, varies: Callable[[ir.Value | None], bool]) -> bool:
    """Say whether a node adds a bias to ``x`` or scales it per channel, batch-norm included.

    A constant with more than one axis of more than one element is a table (a positional
    embedding, a mask), not a bias.
    """
    if node.op_type == "BatchNormalization":
        return node.inputs[0] is x
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return False
    other = node.inputs[1] if node.inputs[0] is x else node.inputs[0]
    if other is None or other is x or varies(other):
        return False
    if node.op_type == "Div" and node.inputs[0] is not x:
        return False
    if other.shape is None or sum(1 for d in other.shape if d != 1) > 1:
        return False
    # a vector spread over a tensor of fewer units makes units of its own
    before, after = ([d for d in v.shape or () if d != 1] for v in (x, node.outputs[0]))
    return before == after or x.shape is None or node.outputs[0].shape is None


def is_weight(value: ir.Value | None) -> bool:
    """Say whether a value is a constant, or one that glue reshapes."""
    while value is not None and value.const_value is None:
        node = value.producer()
        if node is None or node.op_type not in KEEPING:
            return False
        value = node.inputs[0]
    return value is not None
