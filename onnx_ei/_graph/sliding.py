"""Receptive fields of kernels that slide over positions: convolutions and pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnx_ei._graph.attributes import integer, integers, text
from onnx_ei._graph.demands import Demand, collapsed, first_only, within
from onnx_ei._graph.windows import Window, dims_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["RULES"]

# where the weight stands among the inputs
_WEIGHT = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}


def _paddings(node: ir.Node, extent: list[int], strides: list[int]) -> list[int] | None:
    """Return the padding before and after each spatial axis, as ONNX orders it.

    None where an automatic padding depends on a size that is open and a stride above 1 leaves the
    alignment undecided.
    """
    n = len(extent)
    mode_name = text(node, "auto_pad", "NOTSET")
    if mode_name == "NOTSET":
        return integers(node, "pads", [0] * 2 * n)
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
    strides, dilations = integers(node, "strides", [1] * n), integers(node, "dilations", [1] * n)
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


def _kernel_of(node: ir.Node) -> list[int] | None:
    """Return the spatial part of a convolution's weight."""
    weight = node.inputs[_WEIGHT.get(node.op_type, 1)]
    dims = None if weight is None else dims_of(weight)
    if dims is None or None in dims:
        return None
    return [d for d in dims[2:] if d is not None]


def _convolution(node: ir.Node, window: Window) -> Demand | None:
    kernel = _kernel_of(node)
    slid = None if kernel is None or window[1] is not None else _slide(node, window, kernel)
    if slid is None:
        return None
    entering, attributes = slid
    rest: list[Window | None] = [None for _ in node.inputs[1:]]
    if node.op_type == "FusedConv" and len(node.inputs) > 3 and node.inputs[3] is not None:
        rest[2] = window  # it adds a tensor of its output's shape
    return Demand(inputs=(entering, *rest), attributes=attributes, drop=("auto_pad",))


def _pool(node: ir.Node, window: Window) -> Demand | None:
    if integer(node, "channels_last", 0):
        return None
    slid = _slide(node, window, integers(node, "kernel_shape", []))
    if slid is None:
        return None
    entering, attributes = slid
    whole = all(w is not None for w in window[2:])
    # a window of every axis fits the kernel to the element: nothing to round up
    drop = ("auto_pad", "ceil_mode") if whole else ("auto_pad",)
    inputs = first_only(node, entering).inputs
    return Demand(inputs=inputs, attributes=attributes, drop=drop)


def _global_pool(node: ir.Node, window: Window) -> Demand | None:
    if integer(node, "channels_last", 0):
        return None
    return collapsed(node, window, range(2, len(window)))


def _transposed(node: ir.Node, window: Window) -> Demand | None:
    kernel = _kernel_of(node)
    if kernel is None or window[1] is not None:
        return None
    if any(w is None for w in window[2:]) or not within(node, window):
        return None
    n = len(kernel)
    strides, dilations = integers(node, "strides", [1] * n), integers(node, "dilations", [1] * n)
    pads = integers(node, "pads", [0] * 2 * n)
    if "output_shape" in node.attributes or text(node, "auto_pad", "").startswith("SAME"):
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
    return Demand(
        inputs=first_only(node, (window[0], None, *spatial)).inputs,
        attributes={"pads": crop},
        drop=("output_padding", "auto_pad"),
    )


def _local_response(node: ir.Node, window: Window) -> Demand | None:
    """Divide by a sum over neighbouring channels: positions do not meet."""
    return None if window[1] is not None else first_only(node, window)


#: Rules by operator.
RULES: dict[str, Callable[[ir.Node, Window], Demand | None]] = {
    "Conv": _convolution,
    "FusedConv": _convolution,
    "QLinearConv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _transposed,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
    "QLinearAveragePool": _pool,
    "GlobalMaxPool": _global_pool,
    "GlobalAveragePool": _global_pool,
    "GlobalLpPool": _global_pool,
    "QLinearGlobalAveragePool": _global_pool,
    "LRN": _local_response,
}
