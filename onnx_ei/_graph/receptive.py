"""Receptive fields, operator by operator: the inputs that a part of an output needs.

Windows travel backwards, from the output of a node to its inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnx_ei._graph.windows import Window, axis_groups, dims_of, full, is_full

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Demand", "demand"]

_UNARY = frozenset(
    {
        "Abs", "Atan", "Cast", "Ceil", "Celu", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp",
        "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg",
        "Not", "QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign",
        "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
_BROADCAST = frozenset(
    {
        "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
        "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor", "BiasGelu",
    }
)  # fmt: skip
_REDUCE = frozenset(
    {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceProd"}
)
_LOCAL_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
_GLOBAL_POOLS = frozenset({"GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"})


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a node needs to make a window of its output.

    Attributes
    ----------
    inputs : tuple
        A window for each input; None where the input is not cut (weights).
    attributes : dict
        Attributes that change when only the window is computed (padding cut off).
    drop : tuple of str
        Attributes that go.
    constants : dict of int to list of int
        Inputs, by index, that change in the same way.
    """

    inputs: tuple[Window | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    constants: dict[int, list[int]] = field(default_factory=dict)


def demand(node: ir.Node, window: Window) -> Demand | None:
    """Return what a node needs to make a window of its first output.

    Parameters
    ----------
    node : onnx_ir.Node
        The operator.
    window : Window
        The part of its first output that is wanted.

    Returns
    -------
    Demand or None
        None where the operator is not local in the windowed axes: it then has to be computed whole.
    """
    if any(v is None or dims_of(v) is None for v in node.inputs[:1]):
        return None
    op = node.op_type
    if is_full(window):
        return _whole(node)
    if op in _UNARY:
        return Demand(inputs=(window, *(None for _ in node.inputs[1:])))
    if op in _BROADCAST:
        return Demand(inputs=tuple(_broadcast(node, v, window) for v in node.inputs))
    if op in ("Conv", "FusedConv"):
        return _convolution(node, window)
    if op == "ConvTranspose":
        return _transposed(node, window)
    if op in _LOCAL_POOLS:
        return _pool(node, window)
    if op in _GLOBAL_POOLS:
        return _collapsed(node, window, range(2, len(window)))
    if op in ("MatMul", "FusedMatMul"):
        return _product(node, window)
    if op == "Gemm":
        return _gemm(node, window)
    if op in ("BatchNormalization", "QuantizeLinear", "DequantizeLinear"):
        return _per_channel(node, window)
    if op == "Transpose":
        return _transpose(node, window)
    if op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        return _view(node, window)
    if op == "Pad":
        return _pad(node, window)
    if op == "Slice":
        return _sliced(node, window)
    if op == "Concat":
        axis = _int(node, "axis", 0) % len(window)
        return None if window[axis] is not None else Demand(inputs=(window,) * len(node.inputs))
    if op in ("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization"):
        return _normalised(node, window)
    if op in _REDUCE:
        return _reduction(node, window)
    return None


def _whole(node: ir.Node) -> Demand:
    inputs = []
    for value in node.inputs:
        dims = None if value is None else dims_of(value)
        inputs.append(None if dims is None else full(len(dims)))
    return Demand(inputs=tuple(inputs))


def _int(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else int(found.as_int())


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    found = node.attributes.get(name)
    return list(default) if found is None else [int(v) for v in found.as_ints()]


def _broadcast(node: ir.Node, value: ir.Value | None, window: Window) -> Window | None:
    """Return the part of one operand that a window of the broadcast result needs.

    An axis of size 1 is there once for all positions, unless the result has only one too: then it
    is itself an axis of positions, whose window may reach past the border. A weight is no map.
    """
    dims = None if value is None else dims_of(value)
    if value is None or dims is None:
        return None
    lead = len(window) - len(dims)
    result = dims_of(node.outputs[0]) or (None,) * len(window)
    fixed = value.const_value is not None
    return tuple(
        None if d == 1 and (fixed or result[lead + a] != 1) else window[lead + a]
        for a, d in enumerate(dims)
    )


def _per_channel(node: ir.Node, window: Window) -> Demand | None:
    """Batch-norm and quantisation have their parameters along one axis, or one for all."""
    axis = 1 if node.op_type == "BatchNormalization" else _int(node, "axis", 1) % len(window)
    shared = all(v is None or dims_of(v) in ((), (1,)) for v in node.inputs[1:])
    if (window[axis] is not None and not shared) or _int(node, "block_size", 0):
        return None
    return Demand(inputs=(window, *(None for _ in node.inputs[1:])))


def _collapsed(node: ir.Node, window: Window, axes: Iterable[int]) -> Demand | None:
    """Take some axes in whole: they leave one position, with nothing beside it."""
    gone = set(axes)
    if any(window[a] not in (None, (0, 1)) for a in gone):
        return None
    entering = tuple(None if a in gone else w for a, w in enumerate(window))
    return Demand(inputs=(entering, *(None for _ in node.inputs[1:])))


def _auto_pad(node: ir.Node) -> str:
    found = node.attributes.get("auto_pad")
    return "NOTSET" if found is None else found.as_string()


def _paddings(node: ir.Node, extent: list[int], strides: list[int]) -> list[int] | None:
    """Return the padding before and after each spatial axis, as ONNX orders it.

    None where an automatic padding depends on a size that is open and a stride above 1 leaves the
    alignment undecided.
    """
    n = len(extent)
    mode_name = _auto_pad(node)
    if mode_name == "NOTSET":
        return _ints(node, "pads", [0] * 2 * n)
    if mode_name == "VALID":
        return [0] * 2 * n
    first = node.inputs[0]
    dims = (None if first is None else dims_of(first)) or (None,) * (n + 2)
    pads = [0] * 2 * n
    for axis, (k, s, size) in enumerate(zip(extent, strides, dims[2:], strict=True)):
        if size is None and s > 1:
            return None
        last = 0 if size is None else (-(-size // s) - 1) * s
        total = k - 1 if size is None else max(last + k - size, 0)
        before = total // 2 if mode_name == "SAME_UPPER" else total - total // 2
        pads[axis], pads[n + axis] = before, total - before
    return pads


def _slide(
    node: ir.Node, window: Window, kernel: list[int]
) -> tuple[Window, dict[str, Any]] | None:
    """Return the input window of a sliding kernel, and its padding without the cut-off part."""
    n = len(kernel)
    strides, dilations = _ints(node, "strides", [1] * n), _ints(node, "dilations", [1] * n)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _paddings(node, extent, strides)
    if pads is None:
        return None
    spatial: list[tuple[int, int] | None] = []
    for axis in range(n):
        part = window[2 + axis]
        if part is None:
            spatial.append(None)
            continue
        low = part[0] * strides[axis] - pads[axis]
        spatial.append((low, low + (part[1] - 1 - part[0]) * strides[axis] + extent[axis]))
        pads[axis] = pads[n + axis] = 0
    return (window[0], window[1], *spatial), {"pads": pads}


def _convolution(node: ir.Node, window: Window) -> Demand | None:
    weight = node.inputs[1]
    dims = None if weight is None else dims_of(weight)
    if dims is None or None in dims or window[1] is not None:
        return None
    slid = _slide(node, window, [d for d in dims[2:] if d is not None])
    if slid is None:
        return None
    entering, attributes = slid
    rest: list[Window | None] = [None for _ in node.inputs[1:]]
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        rest[2] = window  # FusedConv adds a tensor of its output's shape
    return Demand(inputs=(entering, *rest), attributes=attributes, drop=("auto_pad",))


def _pool(node: ir.Node, window: Window) -> Demand | None:
    slid = _slide(node, window, _ints(node, "kernel_shape", []))
    if slid is None:
        return None
    entering, attributes = slid
    if all(w is not None for w in window[2:]):
        # the window fits the kernel to the element: nothing to round up
        return Demand(inputs=(entering,), attributes=attributes, drop=("auto_pad", "ceil_mode"))
    return Demand(inputs=(entering,), attributes=attributes, drop=("auto_pad",))


def _transposed(node: ir.Node, window: Window) -> Demand | None:
    weight = node.inputs[1]
    dims = None if weight is None else dims_of(weight)
    if dims is None or None in dims or window[1] is not None:
        return None
    if any(w is None for w in window[2:]) or not _within(node, window):
        return None
    kernel = [d for d in dims[2:] if d is not None]
    n = len(kernel)
    strides, dilations = _ints(node, "strides", [1] * n), _ints(node, "dilations", [1] * n)
    pads = _ints(node, "pads", [0] * 2 * n)
    if "output_shape" in node.attributes or _auto_pad(node).startswith("SAME"):
        return None
    spatial, crop = [], [0] * 2 * n
    for axis in range(n):
        low, high = window[2 + axis]  # type: ignore[misc]
        extent = dilations[axis] * (kernel[axis] - 1) + 1
        first = -(-(low + pads[axis] - extent + 1) // strides[axis])
        last = (high - 1 + pads[axis]) // strides[axis]
        if last < first:
            return None  # a position that no input reaches
        made = (last - first) * strides[axis] + extent
        crop[axis] = low + pads[axis] - first * strides[axis]
        crop[n + axis] = made - crop[axis] - (high - low)
        spatial.append((first, last + 1))
    if min(crop) < 0:
        return None
    entering = (window[0], None, *spatial)
    return Demand(
        inputs=(entering, *(None for _ in node.inputs[1:])),
        attributes={"pads": crop},
        drop=("output_padding", "auto_pad"),
    )


def _product(node: ir.Node, window: Window) -> Demand | None:
    """Rows of the left operand make rows of the product, columns of the right one columns."""
    if any(_int(node, f"trans{side}", 0) for side in ("A", "B", "BatchA", "BatchB")):
        return None
    windows: list[Window] = []
    for side, value in enumerate(node.inputs):
        dims = None if value is None else dims_of(value)
        if dims is None or len(dims) < 2 or len(window) < 2:
            return None
        lead = len(window) - len(dims)
        outer = [None if d == 1 else window[lead + a] for a, d in enumerate(dims[:-2])]
        inner = [window[-2], None] if side == 0 else [None, window[-1]]
        windows.append((*outer, *inner))
    return Demand(inputs=tuple(windows))


def _gemm(node: ir.Node, window: Window) -> Demand | None:
    """Rows make rows: a batch, or tokens that were merged with it."""
    if window[1] is not None or _int(node, "transA", 0):
        return None
    bias = _broadcast(node, node.inputs[2], window) if len(node.inputs) > 2 else None
    return Demand(inputs=((window[0], None), None, bias)[: len(node.inputs)])


def _transpose(node: ir.Node, window: Window) -> Demand:
    order = _ints(node, "perm", list(range(len(window)))[::-1])
    entering: list[tuple[int, int] | None] = [None] * len(window)
    for axis, source in enumerate(order):
        entering[source] = window[axis]
    return Demand(inputs=(tuple(entering),))


def _view(node: ir.Node, window: Window) -> Demand | None:
    first = node.inputs[0]
    before = None if first is None else dims_of(first)
    after = dims_of(node.outputs[0])
    groups = None if before is None or after is None else axis_groups(before, after)
    if groups is None or before is None:
        return None
    entering: list[tuple[int, int] | None] = [None] * len(before)
    for left, right in groups:
        if all(window[j] is None for j in right):
            continue
        if len(left) == 1 and len(right) == 1:
            entering[left[0]] = window[right[0]]
        elif left or any(window[j] not in (None, (0, 1)) for j in right):
            return None
    return Demand(inputs=(tuple(entering), *(None for _ in node.inputs[1:])))


def _normalised(node: ir.Node, window: Window) -> Demand | None:
    """Softmax and layer norms take in whole axes: the last ones, counted from ``axis``."""
    version = node.graph.opset_imports.get("", 0) if node.graph is not None else 0
    softmax = node.op_type in ("Softmax", "LogSoftmax")
    axis = _int(node, "axis", 1 if softmax and version < 13 else -1) % len(window)
    whole = [axis] if softmax and version >= 13 else range(axis, len(window))
    if any(window[a] is not None for a in whole):
        return None
    return Demand(inputs=(window, *(None for _ in node.inputs[1:])))


def _reduction(node: ir.Node, window: Window) -> Demand | None:
    first = node.inputs[0]
    dims = None if first is None else dims_of(first)
    axes = _numbers(node, "axes", 1)
    if dims is None or axes is None:
        return None
    if not axes and _int(node, "noop_with_empty_axes", 0):
        return Demand(inputs=(window, *(None for _ in node.inputs[1:])))
    gone = {a % len(dims) for a in axes} or set(range(len(dims)))
    if not _int(node, "keepdims", 1):
        kept = iter(window)
        window = tuple(None if a in gone else next(kept) for a in range(len(dims)))
    return _collapsed(node, window, gone)


def _within(node: ir.Node, window: Window) -> bool:
    """Say whether a window stays within the output.

    Where a node crops, there is data past its border, which the model never reads: it is no
    padding that could be cut off.
    """
    dims = dims_of(node.outputs[0])
    return dims is not None and all(
        w is None or d is None or (w[0] >= 0 and w[1] <= d)
        for w, d in zip(window, dims, strict=True)
    )


def _numbers(node: ir.Node, name: str, index: int) -> list[int] | None:
    """Return whole numbers that are an attribute or a constant input; None where computed."""
    if name in node.attributes:
        return _ints(node, name, [])
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return []
    constant = value.const_value
    return None if constant is None else [int(v) for v in constant.numpy().reshape(-1)]


def _pad(node: ir.Node, window: Window) -> Demand | None:
    pads, axes = _numbers(node, "pads", 1), _numbers(node, "axes", 3)
    if not pads or axes is None or min(pads) < 0:
        return None
    chosen = [a % len(window) for a in axes] or list(range(len(window)))
    entering = list(window)
    for place, axis in enumerate(chosen):
        part = window[axis]
        if part is not None:
            entering[axis] = (part[0] - pads[place], part[1] - pads[place])
            pads[place] = pads[len(chosen) + place] = 0
    inputs = (tuple(entering), *(None for _ in node.inputs[1:]))
    if "pads" in node.attributes:
        return Demand(inputs=inputs, attributes={"pads": pads})
    return Demand(inputs=inputs, constants={1: pads})


def _sliced(node: ir.Node, window: Window) -> Demand | None:
    """Move a window along with a slice of step 1; the slice then takes all that is left."""
    names = ("starts", "ends", "axes", "steps")
    found = [_numbers(node, name, place + 1) for place, name in enumerate(names)]
    dims = None if node.inputs[0] is None else dims_of(node.inputs[0])
    starts, ends, axes, steps = found
    if dims is None or not starts or not ends or axes is None or steps is None:
        return None
    entering = list(window)
    for place, axis in enumerate(axes or range(len(starts))):
        part, size = window[axis % len(window)], dims[axis % len(window)]
        if part is None:
            continue
        if size is None or (steps and steps[place] != 1):
            return None
        start = max(0, min(starts[place] + (size if starts[place] < 0 else 0), size))
        entering[axis % len(window)] = (part[0] + start, part[1] + start)
        starts[place], ends[place] = 0, part[1] - part[0]
    if not _within(node, window):
        return None
    inputs = (tuple(entering), *(None for _ in node.inputs[1:]))
    if "starts" in node.attributes:
        return Demand(inputs=inputs, attributes={"starts": starts, "ends": ends})
    return Demand(inputs=inputs, constants={1: starts, 2: ends})
