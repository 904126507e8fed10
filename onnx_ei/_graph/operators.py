"""Which ONNX operators are layers, where their data enters, and why some cannot be measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnx_ei._graph.einsum import mixes, roles_of_output
from onnx_ei._graph.reductions import REDUCTIONS, roles_of_pooled

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["KEEPING", "KNOWN_DOMAINS", "LayerOp", "is_affine", "is_weight", "layer_op"]

#: Operators that move values without changing them.
KEEPING = frozenset(
    {"Reshape", "Transpose", "Identity", "Cast", "Dropout", "Flatten", "Squeeze", "Unsqueeze"}
)

_POOLS = frozenset(
    {"MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"}
)
_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose"})
_PRODUCTS = frozenset({"Gemm", "MatMul", "FusedMatMul", "FusedGemm", "GemmFastGelu"})
_PACKED_PRODUCTS = frozenset({"DynamicQuantizeMatMul", "MatMulNBits", "MatMulBnb4"})
_INTEGER = {
    # operator -> (index of the data, index of the weight), which a product may have the other way
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "QGemm": (0, 3),
    "QLinearAveragePool": (0, None),
    "QLinearGlobalAveragePool": (0, None),
}
_RECURRENT = frozenset({"RNN", "LSTM", "GRU", "DynamicQuantizeLSTM"})
_ATTENTION = frozenset({"Attention", "QAttention"})
_PREDICTORS = frozenset(
    {
        "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "SVMClassifier",
        "SVMRegressor", "LinearClassifier", "LinearRegressor",
    }
)  # fmt: skip
#: Domains whose operators are ONNX's own, or come with onnxruntime.
KNOWN_DOMAINS = frozenset(
    {
        "", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training",
        "ai.onnx.training", "com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental",
        "com.ms.internal.nhwc", "org.pytorch.aten", "pkg.onnxscript.torch_lib",
    }
)  # fmt: skip

_PREDICTOR_REASON = "an opaque predictor ({}): no tensor of units enters it"
_CUSTOM_REASON = (
    "operator {} of domain {!r} is of neither ONNX nor onnxruntime: what it computes of its weight "
    "{!r} is known only to its custom-op library, which is not loaded; export the model with "
    "standard operators to measure it"
)


@dataclass(frozen=True, kw_only=True)
class LayerOp:
    """What is known of a layer's operator.

    Attributes
    ----------
    kind : str
        ``"dense"``, ``"conv"``, ``"pool"``, ``"recurrent"``, ``"attention"``, ``"predictor"`` or
        ``"custom"``.
    data : int
        Index of the input that carries the units.
    weight : int or None
        Index of the input that carries the weights.
    reason : str or None
        Why a layer of this kind cannot be measured.
    roles : tuple of str or None
        What each axis of its output counts: ``"batch"``, ``"unit"`` or ``"position"``; None where
        the kind says it.
    """

    kind: str
    data: int = 0
    weight: int | None = None
    reason: str | None = None
    roles: tuple[str, ...] | None = None


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
        None for glue: products of two activations, elementwise operators, norms, everything
        unknown. An operator of an unknown domain is a layer where it has a weight.
    """
    op, domain = node.op_type, node.domain
    if domain not in KNOWN_DOMAINS:
        return _custom(node, varies)
    if op in _PRODUCTS:
        return _product(node, varies)
    if op == "Einsum":
        found = _product(node, varies) if len(node.inputs) == 2 else None
        if found is None or not mixes(node, found.data):
            return None
        return replace(found, roles=roles_of_output(node, found.data))
    if op in _CONVOLUTIONS or op in _PACKED_PRODUCTS:
        kind = "conv" if op in _CONVOLUTIONS else "dense"
        fixed = varies(node.inputs[0]) and not varies(node.inputs[1])
        return LayerOp(kind=kind, weight=1) if fixed else None
    if op in _POOLS:
        return LayerOp(kind="pool") if varies(node.inputs[0]) else None
    if op in REDUCTIONS:
        roles = roles_of_pooled(node, varies)
        return None if roles is None else LayerOp(kind="pool", roles=roles)
    if op in _INTEGER:
        return _integer(node, varies)
    if op in _RECURRENT:
        fixed = not any(varies(v) for v in node.inputs[1:3])
        return LayerOp(kind="recurrent", weight=1) if fixed else None
    if op in _ATTENTION and domain == "com.microsoft":
        # ONNX's own, and those that read queries, keys and values, have no weights: they are glue
        fixed = varies(node.inputs[0]) and not varies(node.inputs[1])
        roles = ("batch", "position", "unit")
        return LayerOp(kind="attention", weight=1, roles=roles) if fixed else None
    if op in _PREDICTORS and domain == "ai.onnx.ml":
        return LayerOp(kind="predictor", reason=_PREDICTOR_REASON.format(op))
    return None


def _product(node: ir.Node, varies: Callable[[ir.Value | None], bool]) -> LayerOp | None:
    left, right = varies(node.inputs[0]), varies(node.inputs[1])
    if left == right:
        return None
    return LayerOp(kind="dense", data=0 if left else 1, weight=1 if left else 0)


def _integer(node: ir.Node, varies: Callable[[ir.Value | None], bool]) -> LayerOp | None:
    op = node.op_type
    data, weight = _INTEGER[op]
    if weight is None:
        return LayerOp(kind="pool") if varies(node.inputs[data]) else None
    left, right = varies(node.inputs[data]), varies(node.inputs[weight])
    if left == right or (right and "MatMul" not in op):
        return None
    kind = "conv" if "Conv" in op else "dense"
    return LayerOp(kind=kind, data=data if left else weight, weight=weight if left else data)


def _custom(node: ir.Node, varies: Callable[[ir.Value | None], bool]) -> LayerOp | None:
    """Take an unknown operator for a layer where it has a matrix and something to put it on."""
    data = next((i for i, v in enumerate(node.inputs) if varies(v)), None)
    for place, value in enumerate(node.inputs):
        tensor = None if value is None else value.const_value
        if data is None or value is None or tensor is None or len(tensor.shape) < 2:
            continue
        reason = _CUSTOM_REASON.format(node.op_type, node.domain, value.name)
        return LayerOp(kind="custom", data=data, weight=place, reason=reason)
    return None


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
