"""Where a layer begins and ends: past glue, bias, batch-norm and quantisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from onnx_ei._graph.operators import KEEPING, LayerOp, is_affine
from onnx_ei._graph.patterns import Match, match_activation, producing_activation, readers
from onnx_ei._graph.quantised import (
    is_bias,
    is_rescaling,
    is_whole,
    quantiser_of,
    real_range,
    swallows_relu,
)
from onnx_ei.activations import ACTIVATIONS

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Entry", "Exit", "entry_of", "exit_of", "is_swallowed"]

_MOVING = ("Reshape", "Transpose")
_WITH_WEIGHTS = ("dense", "conv")
# What they put out has either sign: where it ends at 0, something cut it off.
_SUMS = ("Add", "Sub", "Sum", "QLinearAdd", "BatchNormalization")


class Entry(NamedTuple):
    """Where a layer begins.

    Attributes
    ----------
    entering : onnx_ir.Value
        The tensor of real numbers that enters it.
    before : Match or None
        The activation that made it.
    limits : (float, float) or None
        The range of the numbers that it is quantised to on the way in.
    """

    entering: ir.Value
    before: Match | None
    limits: tuple[float, float] | None


class Exit(NamedTuple):
    """Where a layer ends.

    Attributes
    ----------
    raw : onnx_ir.Value
        Its pre-activation.
    leaving : onnx_ir.Value
        Its activated output.
    after : Match or None
        The activation.
    limits : (float, float) or None
        The range of the numbers that the output is quantised to.
    """

    raw: ir.Value
    leaving: ir.Value
    after: Match | None
    limits: tuple[float, float] | None


def entry_of(value: ir.Value, swallowed: Mapping[int, Match]) -> Entry:
    """Return where a layer begins.

    Parameters
    ----------
    value : onnx_ir.Value
        What its operator reads: the real numbers, the integers that stand for them, or what those
        were turned into again.
    swallowed : mapping of int to Match
        Activations that a quantisation took in, by the ``id`` of the tensors at either end of it.

    Returns
    -------
    Entry
    """
    quantiser = quantiser_of(value)
    entering = value
    if quantiser is not None and quantiser.inputs[0] is not None:
        entering = quantiser.inputs[0]
    maker = entering.producer()
    if quantiser is None and maker is not None and maker.op_type == "DequantizeLinear":
        quantiser = maker
    limits = None if quantiser is None else real_range(quantiser)
    before = _activation_before(entering, swallowed)
    if before is None:
        before = _clipped_sum(entering, limits)
    return Entry(entering, before, limits)


def _clipped_sum(entering: ir.Value, limits: tuple[float, float] | None) -> Match | None:
    """Return the ReLU that quantisation makes of a sum, such as a skip connection's."""
    name = swallows_relu(limits)
    node = entering.producer()
    if node is not None and node.op_type == "DequantizeLinear" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if name is None or node is None or node.op_type not in _SUMS:
        return None
    return Match(name=name, range=ACTIVATIONS[name].range, source=entering, output=entering)


def _activation_before(value: ir.Value, swallowed: Mapping[int, Match]) -> Match | None:
    """Follow a layer's input back through glue that keeps values to an activation."""
    while True:
        match = producing_activation(value) or swallowed.get(id(value))
        if match is not None:
            return match
        node = value.producer()
        kept = KEEPING | {"QuantizeLinear", "DequantizeLinear"}
        if node is None or node.op_type not in kept or node.inputs[0] is None:
            return None
        value = node.inputs[0]


def exit_of(
    value: ir.Value, entering: ir.Value, op: LayerOp, varies: Callable[[ir.Value | None], bool]
) -> Exit:
    """Return where a layer ends.

    Parameters
    ----------
    value : onnx_ir.Value
        What its operator puts out.
    entering : onnx_ir.Value
        Where it begins: integers are scaled by what was taken from there.
    op : LayerOp
        What its operator is.
    varies : callable
        Whether a value depends on the model's input.

    Returns
    -------
    Exit
        ``raw`` is still of integers where nothing makes real numbers of them.
    """
    raw, moved = value, False
    limits: tuple[float, float] | None = None
    while True:
        match = None if is_whole(value) else match_activation(value)
        if match is not None:
            leaving, found = _past_quantisation(match.output)
            return Exit(value, leaving, match, found)
        after = readers(value)
        if len(after) != 1:
            return Exit(raw, raw, None, limits)
        node, following = after[0], after[0].outputs[0]
        if node.op_type == "DequantizeLinear" and node.inputs[0] is value:
            found = real_range(node)
            name = swallows_relu(found) if op.kind in _WITH_WEIGHTS else None
            if name is not None and not moved and _explicit(following) is None:
                start = following if is_whole(raw) else raw
                limits_of = ACTIVATIONS[name].range
                made = Match(name=name, range=limits_of, source=start, output=following)
                return Exit(start, following, made, found)
            value = following
            if not moved or is_whole(raw):
                raw, limits = following, found
        elif node.op_type == "QuantizeLinear" and node.inputs[0] is value:
            value = following
        elif _is_part(node, value, entering, varies) and not (moved and _is_scale(node, value)):
            value = raw = following
            limits = None
        elif node.op_type in KEEPING and node.inputs[0] is value:
            moved = moved or node.op_type in _MOVING
            value = following
            if is_whole(raw) and not is_whole(value):
                raw = value
        else:
            return Exit(raw, raw, None, limits)


def is_swallowed(match: Match) -> bool:
    """Say whether an activation is what a quantisation does, with no operator of its own."""
    made = match.output.producer()
    return made is not None and made.op_type == "DequantizeLinear"


def _explicit(value: ir.Value) -> Match | None:
    """Return an activation that follows a tensor past glue, if any."""
    while (match := match_activation(value)) is None:
        after = readers(value)
        if len(after) != 1 or after[0].op_type not in KEEPING or after[0].inputs[0] is not value:
            return None
        value = after[0].outputs[0]
    return match


def _past_quantisation(value: ir.Value) -> tuple[ir.Value, tuple[float, float] | None]:
    """Return what an activated tensor is quantised to, where nothing reads it before."""
    first = readers(value)
    if len(first) != 1 or first[0].op_type != "QuantizeLinear" or first[0].inputs[0] is not value:
        return value, None
    second = readers(first[0].outputs[0])
    if len(second) != 1 or second[0].op_type != "DequantizeLinear":
        return value, None
    return second[0].outputs[0], real_range(second[0])


def _is_part(
    node: ir.Node, x: ir.Value, entering: ir.Value, varies: Callable[[ir.Value | None], bool]
) -> bool:
    """Say whether a node adds a layer's bias, scales its integers, or is its batch-norm."""
    if is_affine(node, x, varies) or is_bias(node, x):
        return True
    made = x.producer()
    fresh = made is not None and made.op_type == "Cast"
    return fresh and is_rescaling(node, x, entering)


def _is_scale(node: ir.Node, x: ir.Value) -> bool:
    """Say whether a node multiplies by one number: an attention's temperature, say.

    Past the reshape that makes heads of units it is no longer the layer's, and the heads may have
    taken the batch into theirs.
    """
    other = node.inputs[1] if node.inputs[0] is x else node.inputs[0]
    if node.op_type not in ("Mul", "Div") or other is None or other.shape is None:
        return False
    return all(d == 1 for d in other.shape)
