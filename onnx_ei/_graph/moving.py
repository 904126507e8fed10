"""Receptive fields of what moves values about: views, cuts, joins, picks and repetitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from onnx_ei._graph.attributes import integer, integers, numbers
from onnx_ei._graph.demands import Demand, broadcast, first_only, within
from onnx_ei._graph.resizing import resized
from onnx_ei._graph.windows import Window, axis_groups, dims_of, full, is_full, union

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["RULES", "picked", "split"]


def _transpose(node: ir.Node, window: Window) -> Demand:
    order = integers(node, "perm", list(range(len(window)))[::-1])
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
    return first_only(node, tuple(entering))


def _pad(node: ir.Node, window: Window) -> Demand | None:
    pads, axes = numbers(node, "pads", 1), numbers(node, "axes", 3)
    if not pads or axes is None or min(pads) < 0:
        return None
    chosen = [a % len(window) for a in axes] or list(range(len(window)))
    entering = list(window)
    for place, axis in enumerate(chosen):
        part = window[axis]
        if part is not None:
            entering[axis] = (part[0] - pads[place], part[1] - pads[place])
            pads[place] = pads[len(chosen) + place] = 0
    inputs = first_only(node, tuple(entering)).inputs
    if "pads" in node.attributes:
        return Demand(inputs=inputs, attributes={"pads": pads})
    return Demand(inputs=inputs, constants={1: pads})


def _sliced(node: ir.Node, window: Window, *, narrow: bool = False) -> Demand | None:
    """Move a window along with a slice; the slice then takes all that is left.

    With ``narrow``, an axis that is wanted whole counts as a window too: what the slice leaves out
    is not asked for.
    """
    names = ("starts", "ends", "axes", "steps")
    found = [numbers(node, name, place + 1) for place, name in enumerate(names)]
    dims = None if node.inputs[0] is None else dims_of(node.inputs[0])
    after = dims_of(node.outputs[0])
    starts, ends, axes, steps = found
    if dims is None or not starts or not ends or axes is None or steps is None:
        return None
    entering, made = list(window), list(window)
    for place, named in enumerate(axes or range(len(starts))):
        axis = named % len(window)
        part, size, step = window[axis], dims[axis], steps[place] if steps else 1
        kept = None if after is None else after[axis]
        if part is None and narrow and size is not None and kept is not None and step > 0:
            part = made[axis] = (0, kept) if kept else None
        if part is None:
            continue
        if size is None or step < 1:
            return None
        start = max(0, min(starts[place] + (size if starts[place] < 0 else 0), size))
        low, high = start + part[0] * step, start + (part[1] - 1) * step + 1
        entering[axis] = None if (low, high) == (0, size) else (low, high)
        starts[place], ends[place] = 0, high - low
    if not within(node, window) or (narrow and is_full(tuple(entering))):
        return None
    inputs = first_only(node, tuple(entering)).inputs
    if "starts" in node.attributes:
        return Demand(inputs=inputs, attributes={"starts": starts, "ends": ends})
    return Demand(inputs=inputs, constants={1: starts, 2: ends})


def _concat(node: ir.Node, window: Window) -> Demand | None:
    """Along the axis that is joined, take from each piece the part of it that the window holds."""
    axis = integer(node, "axis", 0) % len(window)
    part = window[axis]
    if part is None:
        return Demand(inputs=tuple(_piece(v, window) for v in node.inputs))
    if not within(node, window):
        return None
    inputs: list[Window | None] = []
    keep, offset = [], 0
    for index, value in enumerate(node.inputs):
        dims = None if value is None else dims_of(value)
        size = None if dims is None else dims[axis]
        if size is None:
            return None
        low, high = max(part[0] - offset, 0), min(part[1] - offset, size)
        inputs.append((*window[:axis], (low, high), *window[axis + 1 :]))
        if low < high:
            keep.append(index)
        offset += size
    return Demand(inputs=tuple(inputs), keep=tuple(keep))


def _piece(value: ir.Value | None, window: Window) -> Window | None:
    """Cut a piece as the whole is cut; an axis that is cut runs alike in all pieces."""
    dims = None if value is None else dims_of(value)
    return None if dims is None else window


def _quantised_concat(node: ir.Node, window: Window) -> Demand | None:
    """Scale and zero point of the result, then a tensor with its own for each piece."""
    if window[integer(node, "axis", 0) % len(window)] is not None:
        return None
    pieces = [window if i >= 2 and i % 3 == 2 else None for i in range(len(node.inputs))]
    return Demand(inputs=tuple(pieces))


def split(node: ir.Node, windows: Mapping[int, Window]) -> Demand | None:
    """Return what a Split needs for windows of its outputs, by their index.

    Where the axis that it splits is cut, one output alone can be local: it is then a part of the
    input, and the node an Identity.
    """
    rank = len(next(iter(windows.values())))
    axis = integer(node, "axis", 0) % rank
    joined = reduce(union, windows.values())
    if all(w[axis] is None for w in windows.values()):
        made = {i: joined for i in range(len(node.outputs))}
        return first_only(node, joined).making(made)
    if len(windows) > 1:
        return None
    return _only(node, axis, *next(iter(windows.items())))


def _only(node: ir.Node, axis: int, index: int, window: Window) -> Demand | None:
    """Give one output of a Split as a part of its input."""
    sizes = [(dims_of(v) or (None,) * len(window))[axis] for v in node.outputs[: index + 1]]
    before = [s for s in sizes if s is not None]
    if len(before) < len(sizes) or not within(node, window, index):
        return None
    offset, part = sum(before[:-1]), window[axis] or (0, before[-1])
    entering = (*window[:axis], (part[0] + offset, part[1] + offset), *window[axis + 1 :])
    return Demand(
        inputs=first_only(node, entering).inputs, keep=(0,), only=index, made={index: window}
    )


def _gather(node: ir.Node, window: Window, *, narrow: bool = False) -> Demand | None:
    """Cut the indices where their axes are cut; ask for the run of the data that they pick from."""
    data, indices = node.inputs[0], node.inputs[1]
    dims = None if data is None else dims_of(data)
    shape = None if indices is None else dims_of(indices)
    if data is None or dims is None or indices is None or shape is None:
        return None
    axis, n = integer(node, "axis", 0) % len(dims), len(shape)
    outer, cut, inner = window[:axis], window[axis : axis + n], window[axis + n :]
    constant, size = indices.const_value, dims[axis]
    if not within(node, (*full(axis), *cut, *full(len(inner)))):
        return None
    if constant is None or size is None:
        if narrow:
            return None
        around = (*outer, None, *inner)
        held = data.const_value is not None and is_full(around)
        return Demand(inputs=(None if held else around, cut))
    # as int64: the writer puts whole numbers in that type, and Gather takes it
    chosen = constant.numpy()[tuple(slice(None) if w is None else slice(*w) for w in cut)]
    chosen = np.where(chosen < 0, chosen + size, chosen).astype(np.int64)
    if chosen.size == 0:
        return None
    low, high = int(chosen.min()), int(chosen.max()) + 1
    run = None if (low, high) == (0, size) else (low, high)
    if narrow and run is None:
        return None
    return Demand(
        inputs=((*outer, run, *inner), None), constants={1: chosen - (0 if run is None else low)}
    )


def _gather_elements(node: ir.Node, window: Window) -> Demand | None:
    axis = integer(node, "axis", 0) % len(window)
    if not within(node, window):
        return None
    return Demand(inputs=((*window[:axis], None, *window[axis + 1 :]), window))


def _expand(node: ir.Node, window: Window) -> Demand | None:
    dims = dims_of(node.outputs[0])
    if dims is None or None in dims:
        return None
    sizes = [d if w is None else w[1] - w[0] for d, w in zip(dims, window, strict=True)]
    return Demand(inputs=(broadcast(node, node.inputs[0], window), None), constants={1: sizes})


def _tile(node: ir.Node, window: Window) -> Demand | None:
    repeats = numbers(node, "repeats", 1)
    if not repeats or len(repeats) != len(window):
        return None
    cut = any(w is not None and r != 1 for w, r in zip(window, repeats, strict=True))
    return None if cut else first_only(node, window)


def _depth_to_space(node: ir.Node, window: Window) -> Demand | None:
    """Each position makes a block of them: ask for the blocks that the window touches."""
    block = integer(node, "blocksize", 1)
    if window[1] is not None or block < 1:
        return None
    entering, made = list(window), list(window)
    for axis in range(2, len(window)):
        part = window[axis]
        if part is not None:
            low, high = part[0] // block, -(-part[1] // block)
            entering[axis], made[axis] = (low, high), (low * block, high * block)
    return first_only(node, tuple(entering)).making({0: tuple(made)})


def _space_to_depth(node: ir.Node, window: Window) -> Demand | None:
    block = integer(node, "blocksize", 1)
    if window[1] is not None:
        return None
    spatial = (None if w is None else (w[0] * block, w[1] * block) for w in window[2:])
    return first_only(node, (window[0], None, *spatial))


def picked(node: ir.Node, windows: Mapping[int, Window]) -> Demand | None:
    """Return the part of its input that a node picks, where all of what it makes is wanted.

    None where it does not leave anything out.
    """
    window = next(iter(windows.values()))
    if node.op_type == "Gather":
        return _gather(node, window, narrow=True)
    if node.op_type == "Slice":
        return _sliced(node, window, narrow=True)
    if node.op_type == "Split" and len(windows) == 1 and len(node.outputs) > 1:
        axis = integer(node, "axis", 0) % len(window)
        return _only(node, axis, *next(iter(windows.items())))
    return None


#: Rules by operator.
RULES: dict[str, Callable[[ir.Node, Window], Demand | None]] = {
    "Transpose": _transpose,
    "Reshape": _view,
    "Flatten": _view,
    "Squeeze": _view,
    "Unsqueeze": _view,
    "Pad": _pad,
    "Slice": _sliced,
    "Concat": _concat,
    "QLinearConcat": _quantised_concat,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Resize": resized,
    "Upsample": resized,
}
