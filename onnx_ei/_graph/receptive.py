"""Receptive fields, operator by operator: the inputs that a part of an output needs.

Windows travel backwards, from the outputs of a node to its inputs. Here are the table of operators
and those that work element by element; the others are in :mod:`onnx_ei._graph.sliding` (kernels),
:mod:`onnx_ei._graph.moving` (what moves values) and :mod:`onnx_ei._graph.mixing` (sums).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from onnx_ei._graph import mixing, moving, sliding
from onnx_ei._graph.demands import Demand, broadcast
from onnx_ei._graph.windows import Window, dims_of, full, is_full, union

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["BROADCAST", "UNARY", "Demand", "demand"]

#: Operators that map each element of their first input by itself.
UNARY = frozenset(
    {
        "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil",
        "Celu", "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu",
        "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg",
        "Not", "QLinearLeakyRelu", "QLinearSigmoid", "QuickGelu", "Reciprocal", "Relu", "Round",
        "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish",
        "Tan", "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
#: Operators that join elements of the same place.
BROADCAST = frozenset(
    {
        "Add", "And", "BiasGelu", "Div", "Equal", "FastGelu", "Greater", "GreaterOrEqual", "Less",
        "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum",
        "Where", "Xor",
    }
)  # fmt: skip
# the two tensors that these join, among the scales and zero points
_QUANTISED_BROADCAST = frozenset({"QLinearAdd", "QLinearMul"})

_Rule = Callable[["ir.Node", Window], "Demand | None"]
_RULES: Mapping[str, _Rule] = sliding.RULES | moving.RULES | mixing.RULES
_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})


def demand(
    node: ir.Node, window: Window | Mapping[int, Window], *, narrow: bool = False
) -> Demand | None:
    """Return what a node needs to make a window of its outputs.

    Parameters
    ----------
    node : onnx_ir.Node
        The operator.
    window : Window, or mapping of int to Window
        The part of its first output that is wanted; or the parts, by the index of the output.
    narrow : bool
        Whether an operator that picks (Gather, Slice, Split) may ask for less than its whole input
        where all of its output is wanted.

    Returns
    -------
    Demand or None
        None where the operator is not local in the windowed axes: it then has to be computed whole.
    """
    if any(v is None or dims_of(v) is None for v in node.inputs[:1]):
        return None
    if node.domain not in _DOMAINS:
        return None
    windows = window if isinstance(window, Mapping) else {0: window}
    if all(is_full(w) for w in windows.values()):
        picked = moving.picked(node, windows) if narrow else None
        return _whole(node) if picked is None else picked
    if node.op_type == "Split":
        return moving.split(node, windows)
    if set(windows) == {0}:
        return _single(node, windows[0])
    if node.op_type in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        # the sum before the normalisation has the same shape
        parts = [windows[i] for i in sorted(windows) if i in (0, 3)]
        if len(parts) == len(windows):
            joined = union(parts[0], parts[-1])
            need = _single(node, joined)
            return None if need is None else need.making(dict.fromkeys(windows, joined))
    return None


def _single(node: ir.Node, window: Window) -> Demand | None:
    op = node.op_type
    if op in UNARY:
        return Demand(inputs=(window, *(None for _ in node.inputs[1:])))
    if op in BROADCAST:
        return Demand(inputs=tuple(broadcast(node, v, window) for v in node.inputs))
    if op in _QUANTISED_BROADCAST:
        parts = [broadcast(node, v, window) if i in (0, 3) else None
                 for i, v in enumerate(node.inputs)]  # fmt: skip
        return Demand(inputs=tuple(parts))
    rule = _RULES.get(op)
    return None if rule is None else rule(node, window)


def _whole(node: ir.Node) -> Demand:
    inputs = []
    for value in node.inputs:
        dims = None if value is None else dims_of(value)
        inputs.append(None if dims is None else full(len(dims)))
    return Demand(inputs=tuple(inputs))
