"""Quantised operators as functions of real numbers: those that their integers stand for.

Every integer tensor that a quantised operator reads or makes gets a real twin: it is dequantised
and quantised again, which changes no value (an integer times its scale, divided by it, rounds to
itself). Layers then begin and end at the twins, and everything else deals in real numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "KEEPING_INTEGERS",
    "coupling",
    "is_bias",
    "is_rescaling",
    "is_whole",
    "make_real",
    "quantiser_of",
    "real_range",
    "swallows_relu",
]

#: Operators that move integers, or pass some of them on: the scale stays.
KEEPING_INTEGERS = frozenset(
    {"Reshape", "Transpose", "Identity", "Flatten", "Squeeze", "Unsqueeze", "MaxPool"}
)


class _Places(NamedTuple):
    """Which inputs of a quantised operator are tensors and which their scales.

    Attributes
    ----------
    read : tuple of (int, int, int)
        Tensor, scale and zero point of each tensor that it reads.
    made : (int, int)
        Scale and zero point of what it makes.
    """

    read: tuple[tuple[int, int, int], ...]
    made: tuple[int, int]


_ONE, _TWO = ((0, 1, 2),), ((0, 1, 2), (3, 4, 5))
_PLACES = {
    **dict.fromkeys(
        ("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), _Places(_TWO, (6, 7))
    ),
    "QGemm": _Places(_TWO, (7, 8)),
    **dict.fromkeys(
        (
            "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSigmoid",
            "QLinearLeakyRelu", "QLinearSoftmax", "QLinearReduceMean",
        ),
        _Places(_ONE, (3, 4)),
    ),
    "QLinearWhere": _Places(((1, 2, 3), (4, 5, 6)), (7, 8)),
}  # fmt: skip
# onnxruntime computes these by a table of the real function's values: the same as dequantising,
# computing and quantising.
_TABLES = {"QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu": "LeakyRelu"}
# The scale is taken from all that goes in at once.
_DYNAMIC = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})


def _places(node: ir.Node) -> _Places | None:
    if node.op_type == "QLinearConcat":
        read = tuple((i, i + 1, i + 2) for i in range(2, len(node.inputs), 3))
        return _Places(read, (0, 1))
    return _PLACES.get(node.op_type)


# --- real twins --------------------------------------------------------------------------------


def make_real(model: ir.Model) -> None:
    """Give every quantised tensor that an operator reads or makes a real twin.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place: pairs of ``DequantizeLinear`` and ``QuantizeLinear``, which together
        change no value, are put in, and activations that are tables are written out.
    """
    for node in [n for n in model.graph if _places(n) is not None]:
        if node.op_type in _TABLES:
            _write_out(node)
            continue
        places = _places(node)
        if places is None:
            continue
        for tensor, scale, zero in places.read:
            value = _at(node, tensor)
            if value is not None and value.const_value is None and not _is_made_real(value):
                _insert(node, value, _at(node, scale), _at(node, zero))
        if _at(node, places.made[0]) is not None:
            _insert(node, node.outputs[0], *(_at(node, i) for i in places.made))


def _at(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _is_made_real(value: ir.Value) -> bool:
    """Say whether a tensor's real twin is there: it was quantised from it, or computed weights."""
    producer = value.producer()
    if producer is None:
        return False
    if producer.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        return True
    return _places(producer) is not None or all(
        v is None or v.const_value is not None for v in producer.inputs
    )


def _insert(node: ir.Node, value: ir.Value, scale: ir.Value | None, zero: ir.Value | None) -> None:
    """Put a pair behind a tensor that a node makes, or before one that it reads."""
    if scale is None or node.graph is None:
        return
    made = value.producer() is node
    # what dequantises it already does not need to
    others = [u for u in value.uses() if u.node.op_type != "DequantizeLinear"]
    found = [u.node for u in value.uses() if u.node.op_type == "DequantizeLinear"]
    if made and found and not others:
        return
    real = _node("DequantizeLinear", [value, scale, zero], f"{value.name}/real", value, scale)
    again = _node("QuantizeLinear", [real.outputs[0], scale, zero], f"{value.name}/again", value)
    if made:
        node.graph.insert_after(node, [real, again])
    else:
        node.graph.insert_before(node, [real, again])
    for use in others if made else [u for u in others if _places(u.node) is not None]:
        use.node.replace_input_with(use.idx, again.outputs[0])


def _node(
    op: str, inputs: list[ir.Value | None], name: str, like: ir.Value, typed: ir.Value | None = None
) -> ir.Node:
    """Make a node whose output has a tensor's shape, and its type or another's."""
    import onnx_ir as ir_module

    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    made = ir_module.node(op, inputs)
    made.name, made.outputs[0].name = name, name
    made.outputs[0].shape = like.shape
    dtype = (typed or like).dtype
    if dtype is not None:
        made.outputs[0].type = ir_module.TensorType(dtype)
    return made


def _write_out(node: ir.Node) -> None:
    """Write a table of an activation as what the table was made of."""
    import onnx_ir as ir_module

    value, out, graph = node.inputs[0], node.outputs[0], node.graph
    scale, zero, made_scale, made_zero = (_at(node, i) for i in range(1, 5))
    if value is None or scale is None or made_scale is None or graph is None:
        return
    real = _node("DequantizeLinear", [value, scale, zero], f"{out.name}/before", value, scale)
    kept = [a for a in node.attributes.values() if a.name == "alpha"]
    active = _node(_TABLES[node.op_type], [real.outputs[0]], f"{out.name}/active", out, scale)
    for attribute in kept:
        active.attributes[attribute.name] = attribute
    inputs: list[ir.Value | None] = [active.outputs[0], made_scale, made_zero]
    again = _node("QuantizeLinear", inputs, f"{out.name}/again", out)
    graph.insert_after(node, [real, active, again])
    ir_module.convenience.replace_all_uses_with(out, again.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)


# --- what is read off the graph ----------------------------------------------------------------


def is_whole(value: ir.Value) -> bool:
    """Say whether a tensor is of integers: no unit's value itself, but the stand-in of one."""
    return value.dtype is not None and value.dtype.is_integer()


def quantiser_of(value: ir.Value) -> ir.Node | None:
    """Return the node that quantised what enters a layer, or None.

    Parameters
    ----------
    value : onnx_ir.Value
        The layer's input: integers, or real numbers that were integers just before.

    Returns
    -------
    onnx_ir.Node or None
        A ``QuantizeLinear`` or ``DynamicQuantizeLinear``; the layer begins at its input.
    """
    node = value.producer()
    if not is_whole(value):
        if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
            return None
        node = node.inputs[0].producer()
        return node if node is not None and node.op_type == "QuantizeLinear" else None
    while node is not None and node.op_type in KEEPING_INTEGERS - {"MaxPool"}:
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    quantising = ("QuantizeLinear", "DynamicQuantizeLinear")
    return node if node is not None and node.op_type in quantising else None


def real_range(node: ir.Node) -> tuple[float, float] | None:
    """Return the least and the greatest number that a quantised tensor can stand for.

    Parameters
    ----------
    node : onnx_ir.Node
        A ``QuantizeLinear`` or ``DequantizeLinear``.

    Returns
    -------
    (float, float) or None
        ``(q - zero point) * scale`` at the ends of the integer type, over all channels; None where
        the scale is not fixed, or the type not one of integers.
    """
    import onnx_ir as ir_module

    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    scale, zero = (None if v is None else v.const_value for v in (_at(node, 1), _at(node, 2)))
    whole = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    dtype = None if whole is None else whole.dtype
    if dtype is None:
        dtype = ir_module.DataType.UINT8 if zero is None else zero.dtype
    if scale is None or not dtype.is_integer() or (zero is None and _at(node, 2) is not None):
        return None
    bits, signed = dtype.bitwidth, dtype.is_signed()
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    middle = 0.0 if zero is None else np.asarray(zero.numpy()).astype(np.float64)
    factor = np.asarray(scale.numpy()).astype(np.float64)
    limits = float(((low - middle) * factor).min()), float(((high - middle) * factor).max())
    return limits if limits[0] < limits[1] else None


def swallows_relu(limits: tuple[float, float] | None) -> str | None:
    """Say which activation a quantisation is: one that saturates at 0 is a ReLU.

    onnxruntime's quantiser takes a ReLU away where the zero point is the least integer, since
    nothing below 0 is left. At 6, within the step of the scale, it was a ReLU6.

    Parameters
    ----------
    limits : (float, float) or None
        From :func:`real_range`.

    Returns
    -------
    str or None
        ``"Relu"``, ``"Relu6"`` or None.
    """
    if limits is None or limits[0] != 0.0:
        return None
    return "Relu6" if abs(limits[1] - 6.0) < 1e-4 else "Relu"


def is_rescaling(node: ir.Node, x: ir.Value, entering: ir.Value) -> bool:
    """Say whether a node multiplies by the scale that was taken from the layer's own input."""
    if node.op_type != "Mul" or len(node.inputs) != 2:
        return False
    other = node.inputs[1] if node.inputs[0] is x else node.inputs[0]
    return other is not None and other.const_value is None and _is_scale(other, entering)


def _is_scale(value: ir.Value | None, entering: ir.Value) -> bool:
    if value is None or value.const_value is not None:
        return value is not None
    node = value.producer()
    if node is None:
        return False
    if node.op_type == "DynamicQuantizeLinear":
        return node.outputs[1] is value and node.inputs[0] is entering
    moving = ("Mul", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten")
    return node.op_type in moving and all(_is_scale(v, entering) for v in node.inputs)


def is_bias(node: ir.Node, x: ir.Value) -> bool:
    """Say whether a node adds or multiplies one number, or one for each channel, to integers."""
    if node.op_type not in ("QLinearAdd", "QLinearMul") or len(node.inputs) < 7:
        return False
    other = node.inputs[3] if node.inputs[0] is x else node.inputs[0]
    if other is None or other is x or other.const_value is None or other.shape is None:
        return False
    return sum(1 for d in other.shape if d != 1) <= 1


def coupling(nodes: Iterable[ir.Node]) -> str | None:
    """Say what among some nodes takes samples of a batch together, or None.

    Parameters
    ----------
    nodes : iterable of onnx_ir.Node
        What a span is made of.

    Returns
    -------
    str or None
        A sentence for people; None where nothing is known to.
    """
    found = [n for n in nodes if n.op_type in _DYNAMIC]
    if not found:
        return None
    names = ", ".join(dict.fromkeys(f"{n.op_type} {n.name!r}" for n in found))
    return f"couples samples: {names} takes its scale from the whole batch"
