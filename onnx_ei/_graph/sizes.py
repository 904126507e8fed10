"""Sizes that a span takes from the shapes of tensors outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_ei._graph.listing import Listing
from onnx_ei._graph.windows import Dims, dims_of
from onnx_ei.errors import BackendError
from onnx_ei.sessions import Session

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["known_sizes"]


def known_sizes(
    listing: Listing, values: Sequence[ir.Value], opsets: dict[str, int]
) -> dict[str, NDArray[Any]]:
    """Return those sizes that are known without running the model: they follow from fixed shapes.

    Parameters
    ----------
    listing : Listing
        Of the graph.
    values : sequence of onnx_ir.Value
        What depends on the model's input by the shapes of tensors alone.
    opsets : dict of str to int
        The model's operator sets.

    Returns
    -------
    dict of str to ndarray
        By tensor name; the others are left out.
    """
    found: dict[str, NDArray[Any]] = {}
    for value in values:
        array = _evaluated(listing, value, opsets)
        if array is not None:
            found[str(value.name)] = array
    return found


def _evaluated(listing: Listing, value: ir.Value, opsets: dict[str, int]) -> NDArray[Any] | None:
    """Run what computes a size, with the shapes that it asks for as constants."""
    import onnx_ir as ir_module

    copies: dict[int, ir.Value] = {}
    initializers: list[ir.Value] = []
    nodes: list[ir.Node] = []

    def constant(of: ir.Value, tensor: Any) -> None:
        name = f"size/{len(initializers)}"
        copy = ir_module.Value(
            name=name, shape=tensor.shape, type=ir_module.TensorType(tensor.dtype),
            const_value=tensor,
        )  # fmt: skip
        copies[id(of)] = copy
        initializers.append(copy)

    waiting = [value]
    while waiting:
        now = waiting[-1]
        node = now.producer()
        if id(now) in copies:
            waiting.pop()
        elif now.const_value is not None:
            constant(now, now.const_value)
        elif node is None or not (listing.is_size(now) or listing.is_fixed(now)):
            return None
        elif (array := _known(node)) is not None:
            constant(now, ir_module.tensor(array))
        elif node.op_type in ("Shape", "Size"):
            return None
        elif missing := [v for v in node.inputs if v is not None and id(v) not in copies]:
            waiting += missing
        else:
            inputs = [None if v is None else copies[id(v)] for v in node.inputs]
            outputs = [ir_module.Value(name=f"{v.name}/known", type=v.type) for v in node.outputs]
            attributes = node.attributes.values()
            nodes.append(
                ir_module.Node(node.domain, node.op_type, inputs, attributes, outputs=outputs)
            )
            copies |= {id(v): new for v, new in zip(node.outputs, outputs, strict=True)}
    return _run(copies[id(value)], nodes, initializers, opsets)


def _known(node: ir.Node) -> NDArray[Any] | None:
    """Return a shape, or what is picked of one that is open elsewhere, where it is known."""
    if node.op_type == "Gather" and node.inputs[0] is not None and node.inputs[1] is not None:
        origin, chosen = node.inputs[0].producer(), node.inputs[1].const_value
        dims = None if origin is None or origin.op_type != "Shape" else _dims(origin)
        if dims is None or chosen is None:
            return None
        picked = np.array(dims, object)[chosen.numpy()]
        known = all(d is not None for d in np.ravel(picked))
        return np.asarray(picked, np.int64) if known else None
    dims = _dims(node) if node.op_type in ("Shape", "Size") else None
    if dims is None or None in dims:
        return None
    sizes = np.array(dims, np.int64)
    return sizes if node.op_type == "Shape" else np.array(sizes.prod(), np.int64)


def _dims(node: ir.Node) -> Dims | None:
    """Return the part of a shape that a Shape node asks for."""
    dims = None if node.inputs[0] is None else dims_of(node.inputs[0])
    start, end = (node.attributes.get(k) for k in ("start", "end"))
    low, high = (None if k is None else k.as_int() for k in (start, end))
    return None if dims is None else dims[low:high]


def _run(
    leaving: ir.Value, nodes: list[ir.Node], initializers: list[ir.Value], opsets: dict[str, int]
) -> NDArray[Any] | None:
    import onnx_ir as ir_module

    if leaving.const_value is not None:
        return np.asarray(leaving.const_value.numpy())
    graph = ir_module.Graph(
        [], [leaving], nodes=nodes, initializers=initializers, opset_imports=opsets, name="sizes"
    )
    try:
        session = Session(ir_module.Model(graph, ir_version=10))
        return session.run({}, [str(leaving.name)])[0]
    except BackendError:
        return None
