"""Reductions that pool: over the positions of a feature map or of a sequence, and nothing else.

A norm reduces too, but to a statistic that is spread over what it was taken from: what comes back
to its own positions before another layer is glue, and so is whatever takes units together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnx_ei._graph.einsum import roles_of_output
from onnx_ei._graph.windows import Dims, axis_groups, dims_of

if TYPE_CHECKING:
    import onnx_ir as ir

    Varies = Callable[[ir.Value | None], bool]

__all__ = ["REDUCTIONS", "roles_of_pooled"]

REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2"})
_UNITS = ("unit", "unit")
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_CONVOLUTIONS = frozenset(
    {"Conv", "FusedConv", "ConvTranspose", "QLinearConv", "ConvInteger", "MaxPool", "AveragePool",
     "LpPool", "GlobalAveragePool", "GlobalMaxPool", "QLinearAveragePool"}
)  # fmt: skip
_PRODUCTS = frozenset(
    {"MatMul", "Gemm", "FusedMatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat",
     "MatMulNBits", "DynamicQuantizeMatMul", "QGemm", "Attention", "QAttention"}
)  # fmt: skip
# What carries a statistic back to the tensor that it was taken from, or on to the next layer.
_ELEMENTWISE = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Max", "Min",
        "Clip", "Cast", "Expand", "Abs", "Neg", "Identity", "Where", "Tile", "Sum", "Dropout",
        "Relu", "Sigmoid", *_VIEWS, "Transpose", "QuantizeLinear", "DequantizeLinear",
    }
)  # fmt: skip


def roles_of_pooled(node: ir.Node, varies: Varies) -> tuple[str, ...] | None:
    """Say of each axis of a reduction's output what it counts, if the reduction pools.

    Parameters
    ----------
    node : onnx_ir.Node
        One of :data:`REDUCTIONS`.
    varies : callable
        Whether a value depends on the model's input.

    Returns
    -------
    tuple of str or None
        ``"batch"``, ``"unit"`` or ``"position"`` of each axis; None where it takes samples or
        units together, is a norm's statistic, or where it is not known what its axes count.
    """
    data = node.inputs[0]
    if not varies(data) or data is None or _is_weighted(node, data, varies):
        return None
    dims = dims_of(data)
    axes = _axes(node)
    if dims is None or not axes or len(dims) < 3:
        return None
    gone = sorted({a % len(dims) for a in axes})
    roles = _roles(data, gone, varies)
    if roles is None or any(roles[a] != "position" for a in gone) or _comes_back(node, dims, gone):
        return None
    keep = node.attributes.get("keepdims")
    if keep is None or keep.as_int():
        return tuple(roles)
    return tuple(r for a, r in enumerate(roles) if a not in gone)


def _axes(node: ir.Node) -> list[int] | None:
    found = node.attributes.get("axes")
    if found is not None:
        return [int(a) for a in found.as_ints()]
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None or value.const_value is None:
        return None
    return [int(a) for a in value.const_value.numpy().reshape(-1)]


def _is_weighted(node: ir.Node, data: ir.Value, varies: Varies) -> bool:
    """Say whether a sum is one of products of two activations: an attention, no pool."""
    made = data.producer()
    both = made is not None and made.op_type == "Mul" and all(varies(v) for v in made.inputs)
    return both and node.op_type == "ReduceSum"


def _roles(value: ir.Value, gone: list[int], varies: Varies) -> list[str] | None:
    """Walk back to the layer that made a tensor, or to an input; carry its axes forward again."""
    path: list[ir.Node] = []
    roles: list[str] | None = None
    while roles is None:
        node = value.producer()
        if node is None:
            roles = _of_an_input(value, gone if not path else [])
            break
        roles = _of_a_layer(node, varies)
        if roles is None:
            path.append(node)
            following = [v for v in node.inputs if v is not None and varies(v)]
            if not following:
                return None
            # of two operands, the one that has the axes
            value = max(following, key=lambda v: len(dims_of(v) or ()))
    for node in reversed(path):
        roles = None if roles is None else _carried(node, roles)
    return roles


def _of_an_input(value: ir.Value, gone: list[int]) -> list[str] | None:
    dims = dims_of(value)
    if dims is None or value.dtype is None or not value.dtype.is_floating_point():
        return None
    if len(dims) == 3:  # tokens of features
        return ["batch", "position", "unit"]
    if len(dims) == 4 and gone == [1, 2]:
        return ["batch", "position", "position", "unit"]
    return ["batch", "unit", *["position"] * (len(dims) - 2)] if len(dims) > 3 else None


def _of_a_layer(node: ir.Node, varies: Varies) -> list[str] | None:
    dims = dims_of(node.outputs[0])
    if dims is None or len(dims) < 2:
        return None
    if node.op_type in _CONVOLUTIONS:
        return ["batch", "unit", *["position"] * (len(dims) - 2)]
    if node.op_type in ("LSTM", "GRU", "RNN") and len(dims) == 4:
        layout = node.attributes.get("layout")
        first = layout is not None and layout.as_int()
        return ["batch", "position", *_UNITS] if first else ["position", "unit", "batch", "unit"]
    if node.op_type == "Gather" and not varies(node.inputs[0]):  # an embedding
        indices = node.inputs[1]
        rank = None if indices is None else dims_of(indices)
        if rank is None or len(rank) + 1 != len(dims):
            return None
    elif node.op_type == "Einsum":
        fixed = [i for i, v in enumerate(node.inputs) if not varies(v)]
        found = roles_of_output(node, 1 - fixed[0]) if fixed == [0] or fixed == [1] else None
        return None if found is None else list(found)
    elif node.op_type not in _PRODUCTS:
        return None
    left = 3 if node.op_type in ("QLinearMatMul", "QGemm") else 1
    if node.op_type != "Gather" and len(node.inputs) > left and varies(node.inputs[left]):
        if varies(node.inputs[0]):
            return None  # a product of two activations: the walk goes on
        return ["batch", *["position"] * (len(dims) - 3), "unit", "position"][-len(dims) :]
    return ["batch", *["position"] * (len(dims) - 2), "unit"]


def _carried(node: ir.Node, roles: list[str]) -> list[str] | None:
    """Carry what axes count from a node's widest input to its output."""
    entering = max(
        (v for v in node.inputs if v is not None and v.const_value is None),
        key=lambda v: len(dims_of(v) or ()),
        default=None,
    )
    before = None if entering is None else dims_of(entering)
    after = dims_of(node.outputs[0])
    if before is None or after is None or len(before) != len(roles):
        return None
    if node.op_type == "Transpose":
        order = node.attributes.get("perm")
        axes = range(len(roles))[::-1] if order is None else order.as_ints()
        return [roles[a] for a in axes]
    if node.op_type in _VIEWS:
        return _through_a_view(before, after, roles)
    if node.op_type in REDUCTIONS and len(after) < len(before):
        gone = {a % len(before) for a in _axes(node) or []}
        return [r for a, r in enumerate(roles) if a not in gone]
    return list(roles) if len(after) == len(before) else None


def _through_a_view(before: Dims, after: Dims, roles: list[str]) -> list[str] | None:
    groups = axis_groups(before, after)
    if groups is None:
        return None
    carried = ["unit"] * len(after)
    for left, right in groups:
        kinds = {roles[i] for i in left if before[i] != 1} or {roles[i] for i in left}
        kind = kinds.pop() if len(kinds) == 1 else "unit"  # units with positions are units
        for axis in right:
            carried[axis] = kind
    if after and 0 in [j for left, right in groups for j in right if 0 in left]:
        carried[0] = roles[0]
    return carried


def _comes_back(node: ir.Node, dims: Dims, gone: list[int]) -> bool:
    """Say whether what was reduced is spread over the reduced axes again before another layer."""
    frontier, seen = [node.outputs[0]], set()
    whole = _size(dims)
    while frontier:
        value = frontier.pop()
        for use in value.uses():
            reader = use.node
            if id(reader) in seen or reader.op_type not in _ELEMENTWISE:
                continue
            seen.add(id(reader))
            after = dims_of(reader.outputs[0])
            if after is None or (len(after) == len(dims) and _spread(after, dims, gone)):
                return True
            size = _size(after)
            if whole is not None and size is not None and size >= whole > 1:
                return True
            frontier.append(reader.outputs[0])
    return False


def _spread(after: Dims, dims: Dims, gone: list[int]) -> bool:
    return all(after[a] == dims[a] for a in gone) and any(dims[a] != 1 for a in gone)


def _size(dims: Dims) -> int | None:
    size = 1
    for d in dims:
        if d is None:
            return None
        size *= d
    return size
