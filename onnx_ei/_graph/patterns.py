"""Which activation starts at a tensor: single operators and the patterns exporters write.

Each matcher looks at a value ``x`` and returns the tensor that holds ``f(x)``, if *all* that reads
``x`` belongs to ``f``: where a skip connection or a gate reads the raw value too, the layer ends
at the raw value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnx_ei._graph.operators import KNOWN_DOMAINS, is_weight
from onnx_ei._graph.written import Kind, written_out
from onnx_ei.activations import ACTIVATIONS

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Match", "match_activation", "producing_activation", "readers", "scalar"]


@dataclass(frozen=True, kw_only=True)
class Match:
    """An activation found in a graph.

    Attributes
    ----------
    name : str
        Its name in :data:`onnx_ei.activations.ACTIVATIONS`.
    range : tuple of float
        Its default range, from its own attributes where it has any.
    source, output : onnx_ir.Value
        The pre-activation and the activated tensor.
    """

    name: str
    range: tuple[float, float]
    source: ir.Value
    output: ir.Value


def readers(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that read a value, each once; those that only ask for its shape do not."""
    seen = {id(u.node): u.node for u in value.uses() if u.node.op_type not in ("Shape", "Size")}
    return list(seen.values())


def scalar(value: ir.Value | None) -> float | None:
    """Return the number in a constant of one element, or None."""
    tensor = None if value is None else value.const_value
    if tensor is None or tensor.size != 1 or tensor.dtype.is_string():
        return None
    return float(np.asarray(tensor.numpy()).reshape(()))


def match_activation(x: ir.Value) -> Match | None:
    """Return the activation that starts at ``x`` and takes in all that reads it.

    Parameters
    ----------
    x : onnx_ir.Value
        A pre-activation.

    Returns
    -------
    Match or None
    """
    for name, limits, output, used in _candidates(x):
        if {id(n) for n in readers(x)} <= {id(n) for n in used}:
            return Match(name=name, range=limits, source=x, output=output)
    return None


def producing_activation(y: ir.Value) -> Match | None:
    """Return the activation that ends in ``y``: the inverse of :func:`match_activation`.

    The longest pattern is taken, since it may hold a shorter one. What else reads the
    pre-activation does not matter here.
    """
    node = y.producer()
    longest: Match | None = None
    seen: set[int] = set()
    frontier = [node] if node is not None else []
    for _ in range(6):  # the longest pattern (Gelu by Tanh) is 8 nodes, 6 deep
        following = []
        for current in frontier:
            for value in current.inputs:
                if value is None or value.const_value is not None or id(value) in seen:
                    continue
                seen.add(id(value))
                for name, limits, output, _ in _candidates(value):
                    if output is y:
                        longest = Match(name=name, range=limits, source=value, output=y)
                        break
                producer = value.producer()
                if producer is not None:
                    following.append(producer)
        frontier = following
    return longest


Found = tuple[str, "tuple[float, float]", "ir.Value", "list[ir.Node]"]


def _candidates(x: ir.Value) -> Iterator[Found]:
    nodes = [node for node in readers(x) if node.domain in KNOWN_DOMAINS]
    # the long patterns first: they contain the short ones
    for matcher in (_products, _single):
        for node in nodes:
            yield from matcher(x, node)
    for kind, output, used in written_out(x):
        yield (*_named(kind), output, used)


def _named(kind: Kind) -> tuple[str, tuple[float, float]]:
    """Return a function's name and default range, by its parameter."""
    name, parameter = kind
    if isinstance(parameter, tuple):
        return _clip_name(*(round(end, 3) + 0.0 for end in parameter))  # -0 is 0
    if parameter is None or name in ("LeakyRelu", "ThresholdedRelu"):
        return name, _default(name)
    if name in ("Elu", "Celu"):
        return name, (min(0.0, -round(parameter, 3)), 10.0)
    return next(_gated(parameter))


def _default(name: str) -> tuple[float, float]:
    return ACTIVATIONS[name].range


def _attribute(node: ir.Node, name: str, default: float) -> float:
    found = node.attributes.get(name)
    return default if found is None else float(found.as_float())


def _single(x: ir.Value, node: ir.Node) -> Iterator[Found]:
    op = node.op_type
    if node.inputs[0] is not x:
        yield from _clip_by_bounds(x, node)
        return
    out, used = node.outputs[0], [node]
    if op == "Clip":
        yield from _clip(x, node)
    elif op == "Relu":
        yield from _clip_by_bounds(x, node)
    elif op in ("Elu", "Celu"):
        yield op, (min(0.0, -_attribute(node, "alpha", 1.0)), 10.0), out, used
    elif op == "Selu":
        low = -_attribute(node, "alpha", 1.67326324) * _attribute(node, "gamma", 1.05070102)
        yield op, (_outwards(low), 10.0), out, used
    elif op == "PRelu":
        if is_weight(node.inputs[1]):
            yield op, _default(op), out, used
    elif op in ("QuickGelu", "Swish", "Silu"):
        steepness = _attribute(node, "alpha", 1.702 if op == "QuickGelu" else 1.0)
        yield from ((*found, out, used) for found in _gated(steepness))
    elif op in ("Gelu", "FastGelu"):
        if len([i for i in node.inputs if i is not None]) == 1:  # else it adds a bias first
            yield "Gelu", _default("Gelu"), out, used
    elif op in ACTIVATIONS and op != "Identity":
        yield op, _default(op), out, used
    else:
        yield from _clip_by_bounds(x, node)


def _outwards(low: float) -> float:
    return float(np.floor(low * 1000) / 1000)


def _gated(steepness: float) -> Iterator[tuple[str, tuple[float, float]]]:
    """``x Sigmoid(k x)``: its minimum is that of SiLU, divided by k."""
    for name, known in (("Silu", 1.0), ("QuickGelu", 1.702)):
        if abs(steepness - known) < 1e-2:
            yield name, _default(name)
            return
    if steepness > 0:
        yield "Silu", (_outwards(-0.27847 / steepness), 10.0)


def _clip(x: ir.Value, node: ir.Node) -> Iterator[Found]:
    if "min" in node.attributes or "max" in node.attributes:  # opset < 11
        low = _attribute(node, "min", -np.inf)
        high = _attribute(node, "max", np.inf)
    else:
        bounds = [scalar(v) for v in node.inputs[1:3]]
        given = [v is not None for v in node.inputs[1:3]]
        if any(g and b is None for g, b in zip(given, bounds, strict=True)):
            return
        low = bounds[0] if len(bounds) > 0 and bounds[0] is not None else -np.inf
        high = bounds[1] if len(bounds) > 1 and bounds[1] is not None else np.inf
    yield (*_clip_name(low, high), node.outputs[0], [node])


def _clip_name(low: float, high: float) -> tuple[str, tuple[float, float]]:
    if (low, high) == (0.0, 6.0):
        return "Relu6", (0.0, 6.0)
    if low == 0.0 and high == np.inf:
        return "Relu", _default("Relu")
    limits = (max(low, -10.0), min(high, 10.0))
    # bounds outside the default range, or the wrong way round, leave no range to bin
    return "Clip", limits if limits[0] < limits[1] else _default("Identity")


def _clip_by_bounds(x: ir.Value, node: ir.Node) -> Iterator[Found]:
    """``Max(x, a)`` and ``Min(x, b)`` in either order: how frameworks without Clip write it."""
    first = _bound(x, node)
    if first is None:
        return
    after = readers(node.outputs[0])
    second = _bound(node.outputs[0], after[0]) if len(after) == 1 else None
    if second is not None and after[0].op_type in _OPPOSITE[node.op_type]:
        low, high = (first, second) if node.op_type != "Min" else (second, first)
        yield (*_clip_name(low, high), after[0].outputs[0], [node, after[0]])
    elif node.op_type == "Min":
        yield (*_clip_name(-np.inf, first), node.outputs[0], [node])
    else:
        yield (*_clip_name(first, np.inf), node.outputs[0], [node])


_OPPOSITE = {"Max": ("Min",), "Relu": ("Min",), "Min": ("Max", "Relu")}


def _bound(x: ir.Value, node: ir.Node) -> float | None:
    """Return the number that a node bounds ``x`` by."""
    if node.op_type == "Relu":
        return 0.0
    return scalar(_other(node, x)) if node.op_type in ("Max", "Min") else None


def _other(node: ir.Node, x: ir.Value) -> ir.Value | None:
    """Return the operand of a binary node that is not ``x``."""
    if len(node.inputs) != 2:
        return None
    first, second = node.inputs
    return second if first is x else first if second is x else None


def _only(value: ir.Value, op: str) -> ir.Node | None:
    after = readers(value)
    return after[0] if len(after) == 1 and after[0].op_type == op else None


def _products(x: ir.Value, node: ir.Node) -> Iterator[Found]:
    """``x * g(x)``: SiLU, HardSwish, Mish."""
    gate, used = node.outputs[0], [node]
    limits: tuple[float, float] | None = None
    if node.op_type == "Sigmoid":
        name = "Silu"
    elif node.op_type == "HardSigmoid":
        name = "HardSwish"
    elif node.op_type == "Mul" and (inner := _only(gate, "Sigmoid")) is not None:
        # x * Sigmoid(k x): the quick GELU of some encoders
        steepness = scalar(_other(node, x))
        found = None if steepness is None else next(_gated(steepness), None)
        if found is None:
            return
        name, limits = found
        gate, used = inner.outputs[0], [node, inner]
    elif node.op_type == "Softplus" and (inner := _only(gate, "Tanh")) is not None:
        gate, used, name = inner.outputs[0], [node, inner], "Mish"
    else:
        return
    product = _only(gate, "Mul")
    if product is not None and _other(product, gate) is x:
        yield name, limits or _default(name), product.outputs[0], [*used, product]
