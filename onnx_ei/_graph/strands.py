"""Units of a span that have nothing to do with each other: the channels of a pool.

One axis is followed from the span's input through operators that keep its indices apart, to the
output: an output with index i on it depends on the inputs with index i alone. Each of them is then
a strand, and inputs of different strands can be driven in one run, each as if it were alone.
An operator that is not in the table here mixes, as far as is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_ei._graph.attributes import integer, integers
from onnx_ei._graph.receptive import BROADCAST, UNARY
from onnx_ei._graph.reductions import REDUCTIONS
from onnx_ei._graph.windows import axis_groups, dims_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["strand_axes"]

_CHANNELS = frozenset(
    {"AveragePool", "BatchNormalization", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
     "LpPool", "MaxPool"}
)  # fmt: skip
_VIEWS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_KNOWN = UNARY | BROADCAST | _CHANNELS | REDUCTIONS | _VIEWS | {"Conv", "Transpose"}


def strand_axes(model: ir.Model) -> tuple[int, int] | None:
    """Return the axis of a span's input, and the axis of its output, whose indices stay apart.

    Parameters
    ----------
    model : onnx_ir.Model
        A span: one input and one output, the samples on the first axis of both.

    Returns
    -------
    (int, int) or None
        Of several such axes the longest; None where there is none of two indices or more.

    Examples
    --------
    Called by :class:`onnx_ei.runtime.SpanRunner`.
    """
    if not all(node.op_type in _KNOWN for node in model.graph):
        return None
    graph = _with_shapes(model)
    dims, ends = dims_of(graph.inputs[0]), dims_of(graph.outputs[0])
    if dims is None or ends is None:
        return None
    best: tuple[int, int, int] | None = None
    for axis, size in enumerate(dims[1:], 1):
        if size is None or size < 2 or (best is not None and size <= best[0]):
            continue
        after = _followed(graph, graph.inputs[0], axis)
        if after is not None and ends[after] == size:
            best = size, axis, after
    return None if best is None else best[1:]


def _with_shapes(model: ir.Model) -> ir.Graph:
    """Return a copy of the graph in which the shapes between its ends are known."""
    import onnx
    import onnx_ir as ir_module

    proto = onnx.shape_inference.infer_shapes(ir_module.serde.serialize_model(model))
    return ir_module.serde.deserialize_model(proto).graph


def _followed(graph: ir.Graph, source: ir.Value, axis: int) -> int | None:
    """Follow an axis to the output; None where it is lost."""
    at: dict[int, int] = {id(source): axis}
    size = (dims_of(source) or ())[axis]
    for node in graph:
        if not any(v is not None and id(v) in at for v in node.inputs):
            continue
        after = _through(node, at)
        dims = dims_of(node.outputs[0])
        if after is None or dims is None or not 0 < after < len(dims) or dims[after] != size:
            return None
        # what else an operator puts out (a pool's indices) is followed by nobody
        at[id(node.outputs[0])] = after
    return at.get(id(graph.outputs[0]))


def _through(node: ir.Node, at: dict[int, int]) -> int | None:
    """Return the axis in a node's first output."""
    following = [v for v in node.inputs if v is not None and id(v) in at]
    value = following[0]
    axis, op = at[id(value)], node.op_type
    before, after = dims_of(value), dims_of(node.outputs[0])
    if before is None or after is None or node.domain not in ("", "ai.onnx"):
        return None
    if op in BROADCAST:
        # counted from the end, where operands are aligned
        places = {at[id(v)] - len(dims_of(v) or ()) for v in following}
        return len(after) + places.pop() if len(places) == 1 and op != "PRelu" else None
    if len(following) > 1 or value is not node.inputs[0]:
        return None
    if op in UNARY:
        return axis
    if op in _CHANNELS:
        return axis if axis == 1 else None
    if op == "Conv":
        weight = node.inputs[1]
        shape = None if weight is None else dims_of(weight)
        alone = shape is not None and shape[:2] == (before[1], 1)
        return axis if axis == 1 and alone and integer(node, "group", 1) == before[1] else None
    if op == "Transpose":
        order = integers(node, "perm", range(len(before))[::-1])
        return order.index(axis)
    if op in REDUCTIONS:
        return _reduced(node, axis, len(before))
    if op in _VIEWS:
        for left, right in axis_groups(before, after) or ():
            if left == [axis]:
                return right[0] if len(right) == 1 else None
    return None


def _reduced(node: ir.Node, axis: int, rank: int) -> int | None:
    """Return where a reduction leaves an axis."""
    axes = integers(node, "axes", [])
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None:
        if given.const_value is None:
            return None
        axes = [int(a) for a in given.const_value.numpy().reshape(-1)]
    gone = {a % rank for a in axes}
    if not gone or axis in gone:  # none named: all of them
        return None
    return axis if integer(node, "keepdims", 1) else axis - sum(a < axis for a in gone)
