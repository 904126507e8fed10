"""Receptive fields of sums: products, normalisations, reductions, and what quantises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onnx_ei._graph.attributes import constant_axis, integer, numbers, opset_of, text
from onnx_ei._graph.demands import Demand, broadcast, collapsed, first_only
from onnx_ei._graph.windows import Window, dims_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["RULES", "equation"]

_Rule = Callable[["ir.Node", Window], "Demand | None"]


def _operand(value: ir.Value | None, window: Window, *, left: bool) -> Window | None:
    """Rows of the left operand make rows of the product, columns of the right one columns."""
    dims = None if value is None else dims_of(value)
    if dims is None or len(dims) < 2 or len(window) < 2:
        return None
    lead = len(window) - len(dims)
    outer = [None if d == 1 else window[lead + a] for a, d in enumerate(dims[:-2])]
    inner = [window[-2], None] if left else [None, window[-1]]
    return (*outer, *inner)


def _product(right: int, *, scales: Sequence[tuple[int, int]] = ()) -> _Rule:
    """Return the rule of a matrix product.

    ``right`` is the index of its right operand; ``scales`` are the inputs that belong to an operand
    (0: the left one) and are one number for all of it, or the product is computed whole.
    """

    def rule(node: ir.Node, window: Window) -> Demand | None:
        if any(integer(node, f"trans{side}", 0) for side in ("A", "B", "BatchA", "BatchB")):
            return None
        for index, side in scales:
            value = node.inputs[index] if index < len(node.inputs) else None
            shared = value is None or dims_of(value) in ((), (1,))
            if not shared and window[-2 if side == 0 else -1] is not None:
                return None
        inputs: list[Window | None] = [None for _ in node.inputs]
        for index in (0, right):
            inputs[index] = _operand(node.inputs[index], window, left=index == 0)
            if inputs[index] is None:
                return None
        return Demand(inputs=tuple(inputs))

    return rule


def _rows(node: ir.Node, window: Window) -> Demand | None:
    """Weights that are no plain matrix: rows make rows."""
    return None if window[-1] is not None else first_only(node, window)


def _gemm(node: ir.Node, window: Window) -> Demand | None:
    """Rows make rows: a batch, or tokens that were merged with it."""
    if window[1] is not None or integer(node, "transA", 0):
        return None
    inputs: list[Window | None] = [(window[0], None), *(None for _ in node.inputs[1:])]
    if node.op_type != "QGemm" and len(node.inputs) > 2:
        inputs[2] = broadcast(node, node.inputs[2], window)
    return Demand(inputs=tuple(inputs))


def _per_channel(node: ir.Node, window: Window) -> Demand | None:
    """Batch-norm and quantisation have their parameters along one axis, or one for all."""
    axis = 1 if node.op_type == "BatchNormalization" else integer(node, "axis", 1) % len(window)
    shared = all(v is None or dims_of(v) in ((), (1,)) for v in node.inputs[1:])
    if (window[axis] is not None and not shared) or integer(node, "block_size", 0):
        return None
    return first_only(node, window)


def _normalised(node: ir.Node, window: Window) -> Demand | None:
    """Softmax and layer norms take in whole axes: the last ones, counted from ``axis``."""
    softmax = node.op_type in ("Softmax", "LogSoftmax", "Hardmax")
    old = softmax and opset_of(node) < 13
    axis = integer(node, "axis", 1 if old else -1) % len(window)
    one = (softmax and not old) or node.op_type == "LpNormalization"
    whole = [axis] if one else range(axis, len(window))
    if any(window[a] is not None for a in whole):
        return None
    return first_only(node, window)


def _skip_normalised(node: ir.Node, window: Window) -> Demand | None:
    """Normalise a sum of two tensors over its last axis."""
    if window[-1] is not None:
        return None
    inputs: list[Window | None] = [None for _ in node.inputs]
    for index in (0, 1):
        inputs[index] = broadcast(node, node.inputs[index], window)
    return Demand(inputs=tuple(inputs))


def _along(place: int) -> _Rule:
    """Return the rule of what runs along one axis, named by an attribute or a constant input."""

    def rule(node: ir.Node, window: Window) -> Demand | None:
        axis = constant_axis(node, place, len(window))
        return None if axis is None or window[axis] is not None else first_only(node, window)

    return rule


def _reduction(node: ir.Node, window: Window) -> Demand | None:
    first = node.inputs[0]
    dims = None if first is None else dims_of(first)
    axes = numbers(node, "axes", 1)
    if dims is None or axes is None:
        return None
    if node.op_type in ("ArgMax", "ArgMin"):
        axes = [integer(node, "axis", 0)]
    if not axes and integer(node, "noop_with_empty_axes", 0):
        return first_only(node, window)
    gone = {a % len(dims) for a in axes} or set(range(len(dims)))
    if not integer(node, "keepdims", 1):
        kept = iter(window)
        window = tuple(None if a in gone else next(kept) for a in range(len(dims)))
    return collapsed(node, window, gone)


def equation(node: ir.Node) -> tuple[list[str], str] | None:
    """Return the letters of an Einsum's operands and of its result.

    None where it has an ellipsis, or repeats a letter within one operand.
    """
    written = text(node, "equation", "").replace(" ", "")
    if not written or "." in written:
        return None
    left, arrow, result = written.partition("->")
    operands = left.split(",")
    if not arrow:  # the letters that occur once, in their order
        result = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    if any(len(set(letters)) != len(letters) for letters in (*operands, result)):
        return None
    return operands, result


def _einsum(node: ir.Node, window: Window) -> Demand | None:
    """Cut a letter of the result wherever it occurs; sums take whole axes."""
    found = equation(node)
    if found is None or len(found[0]) != len(node.inputs):
        return None
    cut = dict(zip(found[1], window, strict=True))
    inputs = []
    for value, letters in zip(node.inputs, found[0], strict=True):
        dims = None if value is None else dims_of(value)
        if dims is None or len(dims) != len(letters):
            return None
        inputs.append(
            tuple(None if d == 1 else cut.get(c) for c, d in zip(letters, dims, strict=True))
        )
    return Demand(inputs=tuple(inputs))


_REDUCTIONS = (
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceProd",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin",
)  # fmt: skip
_NORMALISED = (
    "Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "LpNormalization",
)  # fmt: skip

#: Rules by operator.
RULES: dict[str, _Rule] = {
    "MatMul": _product(1),
    "FusedMatMul": _product(1),
    "GemmFastGelu": _product(1),
    "MatMulInteger": _product(1, scales=((2, 0), (3, 1))),
    "MatMulIntegerToFloat": _product(1, scales=((2, 0), (3, 1), (4, 0), (5, 1))),
    "QLinearMatMul": _product(3, scales=((1, 0), (2, 0), (4, 1), (5, 1), (6, 0), (6, 1))),
    "MatMulNBits": _rows,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "QGemm": _gemm,
    "BatchNormalization": _per_channel,
    "QuantizeLinear": _per_channel,
    "DequantizeLinear": _per_channel,
    "SkipLayerNormalization": _skip_normalised,
    "SkipSimplifiedLayerNormalization": _skip_normalised,
    "CumSum": _along(1),
    "Einsum": _einsum,
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_NORMALISED, _normalised),
}
