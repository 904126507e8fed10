"""Which part of each tensor one output position needs: receptive fields, operator by operator.

A window says, for each axis of a tensor, which run of indices is needed: ``None`` for all of the
axis, ``(low, high)`` for a part. Windows travel backwards, from the output of a node to its inputs.
Along an axis of positions (pixels, frames, tokens) indices are those of an unbounded map: a window
may reach past the real border, where the padding would be; cutting the padding off and feeding the
whole window is then what "away from the padding" means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Demand", "Window", "axis_groups", "demand", "dims_of", "full", "is_full", "union"]

Window = tuple["tuple[int, int] | None", ...]
Dims = tuple["int | None", ...]

_UNARY = frozenset(
    {
        "Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor",
        "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Not",
        "QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus",
        "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu", "BatchNormalization",
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
    """

    inputs: tuple[Window | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()


def full(rank: int) -> Window:
    """Return the window that is the whole tensor."""
    return (None,) * rank


def is_full(window: Window) -> bool:
    """Say whether a window is the whole tensor."""
    return all(w is None for w in window)


def union(a: Window, b: Window) -> Window:
    """Return the smallest window that holds both."""
    return tuple(
        None if x is None or y is None else (min(x[0], y[0]), max(x[1], y[1]))
        for x, y in zip(a, b, strict=True)
    )


def dims_of(value: ir.Value) -> Dims | None:
    """Return a tensor's dimensions, None for those that are open; None if the rank is unknown."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else None for d in value.shape)


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
        return Demand(inputs=tuple(_broadcast(v, window) for v in node.inputs))
    if op in ("Conv", "FusedConv"):
        return _convolution(node, window)
    if op == "ConvTranspose":
        return _transposed(node, window)
    if op in _LOCAL_POOLS:
        return None if len(node.outputs) > 1 and node.outputs[1].uses() else _pool(node, window)
    if op in _GLOBAL_POOLS:
        return Demand(inputs=((*window[:2], *(None for _ in window[2:])),))
    if op in ("MatMul", "FusedMatMul"):
        return _product(node, window)
    if op == "Transpose":
        return _transpose(node, window)
    if op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        return _view(node, window)
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


def _broadcast(value: ir.Value | None, window: Window) -> Window | None:
    """Return the part of one operand that a window of the broadcast result needs."""
    dims = None if value is None else dims_of(value)
    if dims is None:
        return None
    lead = len(window) - len(dims)
    return tuple(None if d == 1 else window[lead + a] for a, d in enumerate(dims))


def _paddings(node: ir.Node, extent: list[int], strides: list[int]) -> list[int] | None:
    """Return the padding before and after each spatial axis, as ONNX orders it.

    None where an automatic padding depends on a size that is open and a stride above 1 leaves the
    alignment undecided.
    """
    n = len(extent)
    mode = node.attributes.get("auto_pad")
    mode_name = "NOTSET" if mode is None else mode.as_string()
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
    if dims is None or None in dims or any(w is None for w in window[2:]):
        return None
    kernel = [d for d in dims[2:] if d is not None]
    n = len(kernel)
    strides, dilations = _ints(node, "strides", [1] * n), _ints(node, "dilations", [1] * n)
    pads = _ints(node, "pads", [0] * 2 * n)
    if "output_shape" in node.attributes or "auto_pad" in node.attributes:
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
        drop=("output_padding",),
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


def _transpose(node: ir.Node, window: Window) -> Demand:
    order = _ints(node, "perm", list(range(len(window)))[::-1])
    entering: list[tuple[int, int] | None] = [None] * len(window)
    for axis, source in enumerate(order):
        entering[source] = window[axis]
    return Demand(inputs=(tuple(entering),))


def axis_groups(before: Dims, after: Dims) -> list[tuple[list[int], list[int]]] | None:
    """Match the axes of a tensor before and after a reshape.

    Parameters
    ----------
    before, after : tuple of int or None
        The dimensions; None is open.

    Returns
    -------
    list of (list of int, list of int) or None
        Runs of axes that hold the same elements, as short as possible; axes of size 1 that come or
        go stand in runs with an empty side. None where open dimensions leave it undecided.

    Examples
    --------
    >>> axis_groups((1, 12, 5), (1, 3, 4, 5))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        if left and right and before[i] is None and after[j] is None:
            groups.append((left, right))
            i, j = i + 1, j + 1
            continue
        size_left = before[i] if left else 1
        size_right = after[j] if right else 1
        if size_left != size_right and i and size_left == 1:
            groups.append((left, []))
            i += 1
            continue
        if size_left != size_right and j and size_right == 1:
            groups.append(([], right))
            j += 1
            continue
        while size_left != size_right:
            if size_left is None or size_right is None:
                return None
            if size_left < size_right and left and left[-1] + 1 < len(before):
                left.append(left[-1] + 1)
                size_left = _times(size_left, before[left[-1]])
            elif size_right < size_left and right and right[-1] + 1 < len(after):
                right.append(right[-1] + 1)
                size_right = _times(size_right, after[right[-1]])
            else:
                return None
        groups.append((left, right))
        i = left[-1] + 1 if left else i
        j = right[-1] + 1 if right else j
    return groups


def _times(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a * b


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
    axis = _int(node, "axis", -1) % len(window)
    version = node.graph.opset_imports.get("", 0) if node.graph is not None else 0
    alone = node.op_type in ("Softmax", "LogSoftmax") and version >= 13
    whole = [axis] if alone else range(axis, len(window))
    if any(window[a] is not None for a in whole):
        return None
    return Demand(inputs=(window, *(None for _ in node.inputs[1:])))


def _reduction(node: ir.Node, window: Window) -> Demand | None:
    first = node.inputs[0]
    dims = None if first is None else dims_of(first)
    axes = _ints(node, "axes", [])
    if dims is None or (len(node.inputs) > 1 and axes):
        return None
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        constant = node.inputs[1].const_value
        if constant is None:
            return None
        axes = [int(a) for a in constant.numpy().reshape(-1)]
    gone = {a % len(dims) for a in axes} or set(range(len(dims)))
    kept = _int(node, "keepdims", 1)
    entering: list[tuple[int, int] | None] = []
    position = 0
    for axis in range(len(dims)):
        if axis in gone:
            entering.append(None)
            position += 1 if kept else 0
        else:
            entering.append(window[position])
            position += 1
    return Demand(inputs=(tuple(entering), *(None for _ in node.inputs[1:])))
