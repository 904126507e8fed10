"""Which axes of a layer's output count positions, and the position that is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_ei._graph.cut import Cut
from onnx_ei._graph.windows import Window, axis_groups, dims_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_ei.topology import Layer

__all__ = ["position_window"]


def position_window(cut: Cut, end: Layer) -> Window | None:
    """Return the window of one position, in the middle of the target.

    Parameters
    ----------
    cut : Cut
        The cut.
    end : Layer
        The layer that ends it.

    Returns
    -------
    Window or None
        None where the target has no positions, or it is not known which axes they are.
    """
    roles = _roles(cut, end)
    dims = dims_of(cut.target)
    if roles is None or dims is None:
        return None
    window = []
    for role, size in zip(roles, dims, strict=True):
        middle = 0 if size is None else size // 2
        window.append((middle, middle + 1) if role == "position" and size != 1 else None)
    return tuple(window)


def _roles(cut: Cut, end: Layer) -> list[str] | None:
    """Say of each axis of the target whether it counts samples, units or positions."""
    first = end.node.outputs[0]
    dims = dims_of(first)
    if not dims:
        return None
    # an axis of another size than the batch's holds tokens or patches that were merged with it
    first_axis = "batch" if cut.is_batch(dims[0]) else "position"
    roles = [first_axis, *("unit" for _ in dims[1:])]
    if end.op.roles is not None:
        roles[1:] = end.op.roles[1:]
    elif end.op.kind == "dense":
        unit = len(dims) - (1 if end.op.data == 0 else 2)
        roles[1:] = ["position"] * (len(dims) - 1)
        roles[unit] = "unit"
    elif "Global" not in end.node.op_type:
        roles[2:] = ["position"] * (len(dims) - 2)
    known = {id(first): roles}
    for node in cut.nodes:
        entering = next((v for v in node.inputs if v is not None and id(v) in known), None)
        if entering is not None and id(node.outputs[0]) not in known:
            carried = _carry(node, entering, known[id(entering)])
            if carried is not None:
                known[id(node.outputs[0])] = carried
    return known.get(id(cut.target))


def _carry(node: ir.Node, entering: ir.Value, roles: list[str]) -> list[str] | None:
    before, after = dims_of(entering), dims_of(node.outputs[0])
    if before is None or after is None:
        return None
    if node.op_type == "Transpose":
        order = node.attributes.get("perm")
        axes = range(len(roles))[::-1] if order is None else order.as_ints()
        return [roles[a] for a in axes]
    if node.op_type not in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        return list(roles) if len(after) == len(before) else None
    groups = axis_groups(before, after)
    if groups is None:
        return None
    carried = ["unit"] * len(after)
    for left, right in groups:
        if len(left) == 1 and len(right) == 1:
            carried[right[0]] = roles[left[0]]
        elif any(roles[i] != "unit" and before[i] != 1 for i in left):
            return None
    return carried
