"""Dense layers on more than two axes: one operator, where an exporter flattens and unflattens."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx
from onnx import helper, numpy_helper

from onnx_ei.exporters._parity import Array
from onnx_ei.exporters._writing import drop_unread

__all__ = ["merge_positions"]

PROBE = 7
"""A batch for shape inference that no other dimension is likely to be a multiple of."""


def merge_positions(program: onnx.ModelProto) -> None:
    """Write Reshape, MatMul, Reshape as the one MatMul that it is.

    Parameters
    ----------
    program : onnx.ModelProto
        With a named batch; changed in place.

    Notes
    -----
    tf2onnx and jax2onnx flatten all axes but the last before a dense layer and put them back after
    it. ONNX's MatMul takes them as they are, and samples and positions stay apart: that is how
    PyTorch's exporter writes the same layer.
    """
    graph = program.graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    shapes = _shapes(program)
    makers = {node.output[0]: node for node in graph.node if node.output}
    dropped: set[str] = set()
    added: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        before = makers.get(node.input[0]) if node.input else None
        readers = [other for other in graph.node if node.output[0] in other.input]
        if before is None or len(readers) != 1 or not _is_plain(node, weights):
            continue
        after = readers[0]
        if before.op_type != "Reshape" or after.op_type != "Reshape":
            continue
        shape = shapes.get(before.input[0], ())
        kernel = weights[node.input[1]]
        if len(shape) < 3 or shapes.get(before.output[0]) != (prod(shape[:-1]), shape[-1]):
            continue
        if shapes.get(after.output[0]) == (*shape[:-1], kernel.shape[1]):
            added[node.output[0]] = _merged(node, before.input[0], after.output[0])
            dropped.add(after.output[0])
    nodes = [
        new
        for node in graph.node
        if not dropped.intersection(node.output)
        for new in added.get(node.output[0], [node])
    ]
    if not dropped:
        return
    del graph.node[:]
    graph.node.extend(nodes)
    # what was declared of the tensors in between held of two axes
    del graph.value_info[:]
    drop_unread(graph)


def _is_plain(node: onnx.NodeProto, weights: Mapping[str, Array]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return False
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    return weights[node.input[1]].ndim == 2 and all(
        plain.get(name) == value for name, value in given.items()
    )


def _merged(node: onnx.NodeProto, entering: str, leaving: str) -> list[onnx.NodeProto]:
    if node.op_type == "MatMul" or len(node.input) < 3:
        return [helper.make_node("MatMul", [entering, node.input[1]], [leaving], node.name)]
    product = node.output[0]
    return [
        helper.make_node("MatMul", [entering, node.input[1]], [product], _named(node, "MatMul")),
        helper.make_node("Add", [product, node.input[2]], [leaving], _named(node, "Add")),
    ]


def _named(node: onnx.NodeProto, operator: str) -> str:
    """Name an operator as the Gemm was named that it is a part of: ``/ff/Gemm_2``."""
    place, slash, last = node.name.rpartition("/")
    return place + slash + last.replace(node.op_type, operator)


def _shapes(program: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Infer what is static once the batch is: shapes are computed by operators in between."""
    probe = onnx.ModelProto()
    probe.CopyFrom(program)
    # jax2onnx's own can be wrong
    del probe.graph.value_info[:]
    for value in probe.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = PROBE
    for value in probe.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(probe, data_prop=True).graph
    found = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        if tensor.HasField("shape") and min(dims, default=0) >= 0:
            found[value.name] = tuple(dims)
    return found
