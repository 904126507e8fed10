"""Activations that are written out in a way that no pattern foresees: told by what they compute.

The operators between a tensor and the one that it all runs together in are evaluated on a grid, by
numpy, and the result is held against the functions that are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Kind", "written_out"]

Array = NDArray[np.float64]
#: A function's name, and its parameter where it has one.
Kind = tuple[str, "float | tuple[float, float] | None"]

# Far enough out for what saturates at 6 or 20, and off the whole numbers, where functions bend.
_GRID = np.concatenate([np.linspace(-12.03, 12.07, 97), [-30.5, -21.5, 21.5, 30.5]])
# Constants in half precision are off by 5e-4, and the two ways of GELU by as much.
_TOLERANCE = 2e-3
_LONGEST = 24


def _erf(x: Array) -> Array:
    from scipy.special import erf

    found: Array = erf(x)
    return found


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, x))


_ONE: dict[str, Callable[[Any], Any]] = {
    "Abs": np.abs, "Neg": np.negative, "Exp": np.exp, "Log": np.log, "Sqrt": np.sqrt,
    "Reciprocal": lambda x: 1 / x, "Tanh": np.tanh, "Sigmoid": _sigmoid, "Erf": _erf,
    "Softplus": _softplus, "Relu": lambda x: np.maximum(x, 0), "Sign": np.sign,
    "Softsign": lambda x: x / (1 + np.abs(x)), "Identity": lambda x: x, "Not": np.logical_not,
    "IsNaN": np.isnan, "QuantizeLinear": lambda x: x, "DequantizeLinear": lambda x: x,
    "Cast": lambda x: x, "Dropout": lambda x: x,
}  # fmt: skip
_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power,
    "Max": np.maximum, "Min": np.minimum, "Sum": np.add, "Greater": np.greater, "Less": np.less,
    "GreaterOrEqual": np.greater_equal, "LessOrEqual": np.less_equal, "Equal": np.equal,
    "And": np.logical_and, "Or": np.logical_or,
}  # fmt: skip
# Their parameters are attributes.
_SHAPED = ("LeakyRelu", "Elu", "HardSigmoid")
_OWN_SCALE = ("QuantizeLinear", "DequantizeLinear", "Dropout")


def written_out(x: ir.Value) -> Iterator[tuple[Kind, ir.Value, list[ir.Node]]]:
    """Find activations that start at a tensor, by what is computed.

    Parameters
    ----------
    x : onnx_ir.Value
        A pre-activation.

    Yields
    ------
    kind : (str, float or (float, float) or None)
        The function's name and its parameter: a slope, a bound, two bounds.
    output : onnx_ir.Value
        The activated tensor.
    nodes : list of onnx_ir.Node
        What computes it from ``x`` and constants alone; longest first. Nothing else reads what is
        between.
    """
    nodes = _region(x)
    if nodes and nodes[0].op_type == "QuantizeLinear":
        return  # the layer ends behind it, or it took an activation in
    found: list[tuple[Kind, ir.Value, list[ir.Node]]] = []
    values: dict[int, Any] = {id(x): _GRID[:, None]}
    with np.errstate(all="ignore"):
        for place, node in enumerate(nodes):
            made = _evaluated(node, values)
            if made is None:
                break
            values[id(node.outputs[0])] = made
            used = nodes[: place + 1]
            if place and _closed(x, node, used):
                kind = _known(np.asarray(made))
                # what follows may keep a function what it is: a ReLU behind a ReLU, rounding
                if kind is not None and (not found or found[-1][0] != kind):
                    found.append((kind, node.outputs[0], used))
    yield from reversed(found)


def _readers(value: ir.Value) -> list[ir.Node]:
    return [u.node for u in value.uses() if u.node.op_type not in ("Shape", "Size")]


def _region(x: ir.Value) -> list[ir.Node]:
    """Return what depends on a tensor and constants alone, in an order in which it can run."""
    inside, frontier = {id(x)}, _readers(x)
    nodes: list[ir.Node] = []
    seen: set[int] = set()
    while frontier and len(nodes) < _LONGEST:
        waiting = []
        for node in frontier:
            known = node.op_type in _ONE or node.op_type in _TWO or node.op_type in _OTHERS
            if id(node) in seen or not known or node.domain != "":
                continue
            if all(_is_given(v, inside) for v in node.inputs):
                seen.add(id(node))
                nodes.append(node)
                inside.add(id(node.outputs[0]))
                waiting += _readers(node.outputs[0])
        frontier = waiting
    return nodes


_OTHERS = ("Where", "Clip", "Mean", *_SHAPED)


def _is_given(value: ir.Value | None, inside: set[int]) -> bool:
    return value is None or value.const_value is not None or id(value) in inside


def _closed(x: ir.Value, last: ir.Node, used: list[ir.Node]) -> bool:
    """Say whether all that is computed on the way is read on the way, and the way is one."""
    places = {id(n) for n in used}
    for node in used:
        value = node.outputs[0]
        if node is not last and (
            value.is_graph_output() or not all(id(n) in places for n in _readers(value))
        ):
            return False
    return last.outputs[0].dtype is None or last.outputs[0].dtype.is_floating_point()


def _constant(value: ir.Value) -> Any:
    """Return a constant as a row: one number, or one for each channel."""
    tensor = value.const_value
    if tensor is None or tensor.dtype.is_string() or tensor.size > 1 << 16:
        return None
    return np.asarray(tensor.numpy()).astype(np.float64).reshape(1, -1)


def _evaluated(node: ir.Node, values: dict[int, Any]) -> Any:
    op = node.op_type
    wanted = node.inputs[:1] if op in _OWN_SCALE else node.inputs
    given: list[Any] = []
    for value in wanted:
        if value is None:
            given.append(None)
        elif id(value) in values:
            given.append(values[id(value)])
        else:
            constant = _constant(value)
            if constant is None:
                return None
            given.append(constant)
    try:
        if op in _ONE:
            return _ONE[op](*given)
        if op in _TWO:
            return None if len(given) != 2 else _TWO[op](*given)
        return _other(node, given)
    except (TypeError, ValueError):  # channels that do not match: no function of one number
        return None


def _other(node: ir.Node, given: list[Any]) -> Any:
    op = node.op_type
    if op == "Where":
        return np.where(given[0].astype(bool), given[1], given[2])
    if op == "Clip":
        ends = {k: node.attributes[k].as_float() for k in ("min", "max") if k in node.attributes}
        given += [None] * (3 - len(given))
        low = ends.get("min", -np.inf) if given[1] is None else given[1]
        high = ends.get("max", np.inf) if given[2] is None else given[2]
        return np.minimum(np.maximum(given[0], low), high)
    if op not in _SHAPED:
        return None
    default = {"LeakyRelu": 0.01, "Elu": 1.0, "HardSigmoid": 0.2}[op]
    alpha, beta = (
        node.attributes[k].as_float() if k in node.attributes else d
        for k, d in (("alpha", default), ("beta", 0.5))
    )
    if op == "HardSigmoid":
        return np.clip(alpha * given[0] + beta, 0, 1)
    below = alpha * (given[0] if op == "LeakyRelu" else np.expm1(given[0]))
    return np.where(given[0] > 0, given[0], below)


# --- the functions that are known --------------------------------------------------------------


@cache
def _fixed() -> dict[str, Array]:
    x = _GRID
    return {
        "Relu": np.maximum(x, 0),
        "Sigmoid": _sigmoid(x),
        "Tanh": np.tanh(x),
        "Softplus": _softplus(x),
        "Softsign": x / (1 + np.abs(x)),
        "Mish": x * np.tanh(_softplus(x)),
        "Gelu": 0.5 * x * (1 + _erf(x / np.sqrt(2))),
        "HardSwish": x * np.clip(x + 3, 0, 6) / 6,
        "HardSigmoid": np.clip(x + 3, 0, 6) / 6,
        "Selu": 1.0507009873554805
        * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    }


def _same(y: Array, wanted: Array) -> bool:
    return bool(np.all(np.abs(y - wanted) <= _TOLERANCE * np.maximum(1, np.abs(wanted))))


def _known(values: Array) -> Kind | None:
    """Return the function that some values on the grid are of, one column for each channel."""
    if values.dtype.kind != "f" or values.ndim != 2 or len(values) != len(_GRID):
        return None
    if not np.isfinite(values).all():
        return None
    kinds: list[Kind] = []
    for column in range(values.shape[1]):
        kind = _one_known(values[:, column])
        if kind is None:
            return None
        kinds.append(kind)
    names = {name for name, _ in kinds}
    if len(kinds) > 1 and names <= {"LeakyRelu", "Relu"}:
        return "PRelu" if "LeakyRelu" in names else "Relu", None
    return kinds[0] if len(set(kinds)) == 1 else None


def _one_known(y: Array) -> Kind | None:
    for name, wanted in _fixed().items():
        if _same(y, wanted):
            return name, None
    x, below = _GRID, _GRID < 0
    low, high = float(y.min()), float(y.max())
    if low >= 0 and _is_ramp(y):
        return "HardSigmoid", None
    inner = (low > x[0] or high < x[-1]) and low < high
    if inner and _same(y, np.clip(x, low, high)):
        return "Clip", (low if low > x[0] else -np.inf, high if high < x[-1] else np.inf)
    if _same(y[~below], x[~below]):
        slope = float(y[0] / x[0])
        if 0 < slope < 1 - _TOLERANCE and _same(y, np.where(below, slope * x, x)):
            return "LeakyRelu", slope
        alpha = -low
        if alpha > 0 and _same(y, np.where(below, alpha * np.expm1(np.minimum(x, 0)), x)):
            return "Elu", alpha
        if alpha > 0 and _same(y, np.where(below, alpha * np.expm1(np.minimum(x, 0) / alpha), x)):
            return "Celu", alpha
    if np.all((y == 0) | (np.abs(y - x) <= _TOLERANCE)) and low == 0 and np.all(y[below] == 0):
        return "ThresholdedRelu", float(x[y > 0].min(initial=np.inf))
    return _gated(y)


def _is_ramp(y: Array) -> bool:
    """Say whether values go from 0 to 1 in a straight line, with some of it on the grid."""
    between = (y > 1e-6) & (y < 1 - 1e-6)
    if between.sum() < 3:
        return False
    slope, start = np.polyfit(_GRID[between], y[between], 1)
    return slope > 0 and _same(y, np.clip(slope * _GRID + start, 0, 1))


def _gated(y: Array) -> Kind | None:
    """``x Sigmoid(k x)``, where k is read off one point near 0."""
    place = int(np.argmin(np.abs(_GRID - 0.5)))
    share = float(y[place] / _GRID[place])
    if not 0.5 < share < 1:
        return None
    steepness = float(np.log(share / (1 - share)) / _GRID[place])
    same = _same(y, _GRID * _sigmoid(steepness * _GRID))
    return ("Silu", steepness) if same else None
