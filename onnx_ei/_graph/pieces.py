"""Nodes and constants of a model in the making: the small ones that rewriting adds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_ei._graph.lanes import Lane, LaneLostError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["Pieces", "attribute"]


class Pieces:
    """What a model is written into.

    Parameters
    ----------
    opset : int
        The version of ONNX's operators.

    Attributes
    ----------
    nodes : list of onnx_ir.Node
        In order.
    initializers : dict of str to onnx_ir.Value
        By name.
    """

    def __init__(self, opset: int) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self._opset = opset
        self._count: ir.Value | None = None

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Add a constant."""
        import onnx_ir as ir_module

        # ir.tensor() asks first what kind of thing it was given, which took a third of a span
        tensor = ir_module.Tensor(array, name=name)
        value = ir_module.Value(
            name=name,
            shape=ir_module.Shape(array.shape),
            type=ir_module.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.initializers[name] = value
        return value

    def numbers(self, name: str, numbers: Sequence[int]) -> ir.Value:
        """Add a constant of whole numbers."""
        return self.constant(name, np.array(numbers, np.int64))

    def add(
        self, op: str, inputs: list[ir.Value | None], name: str, like: ir.Value, **attributes: Any
    ) -> ir.Value:
        """Add a node of one output, of the same element type as ``like``."""
        import onnx_ir as ir_module

        node = ir_module.node(op, inputs, attributes=attributes, name=name)
        node.outputs[0].name, node.outputs[0].type = name, like.type
        self.nodes.append(node)
        return node.outputs[0]

    def reshaped(self, value: ir.Value, target: Sequence[int], name: str) -> ir.Value:
        """Reshape a value."""
        if self._opset < 5:
            return self.add("Reshape", [value], name, value, shape=list(target))
        shape = self.numbers(f"{name}/shape", target)
        return self.add("Reshape", [value, shape], name, value)

    def sliced(
        self, value: ir.Value, bounds: Sequence[tuple[int, int, int]], name: str
    ) -> ir.Value:
        """Cut a value; ``bounds`` holds an axis, a start and an end for each cut."""
        axes, starts, ends = ([b[k] for b in bounds] for k in range(3))
        if self._opset < 10:
            return self.add("Slice", [value], name, value, starts=starts, ends=ends, axes=axes)
        named = (("starts", starts), ("ends", ends), ("axes", axes))
        return self.add(
            "Slice", [value, *(self.numbers(f"{name}/{k}", v) for k, v in named)], name, value
        )

    def count(self, x: ir.Value) -> ir.Value:
        """Return the number of samples that come in, as a tensor of one element."""
        if self._count is None:
            first = self.numbers("x/first", [0])
            shape = self.add("Shape", [x], "x/sizes", first)
            self._count = self.add("Gather", [shape, first], "x/count", first)
        return self._count

    def repeated(
        self, value: ir.Value, dims: Sequence[int], lane: Lane, x: ir.Value, name: str
    ) -> ir.Value:
        """Repeat a value without samples for each of those that come in.

        Raises
        ------
        LaneLostError
            If it cannot be spread.
        """
        if self._opset < 8:
            raise LaneLostError("needs repeating, and there is no Expand before opset 8")
        before, after = list(dims[: lane.axis]), list(dims[lane.axis + 1 :])
        if dims[lane.axis] != lane.outer * lane.inner:
            raise LaneLostError("spreads one sample over an axis of another size")
        if not lane.plain:
            parts = [*before, lane.outer, 1, lane.inner, *after]
            value = self.reshaped(value, parts, f"{name}/apart")
            before, after = [*before, lane.outer], [lane.inner, *after]
        sizes = [self.numbers(f"{name}/{k}", v) for k, v in (("l", before), ("r", after))]
        shape = self.add("Concat", [sizes[0], self.count(x), sizes[1]], f"{name}/to", sizes[0],
                         axis=0)  # fmt: skip
        spread = self.add("Expand", [value, shape], f"{name}/spread", value)
        if lane.plain:
            return spread
        target = [*dims[: lane.axis], -1, *dims[lane.axis + 1 :]]
        return self.reshaped(spread, target, f"{name}/joined")

    def entered(self, x: ir.Value, dims: Sequence[int], lane: Lane) -> ir.Value:
        """Put samples, which come first, where a tensor of one sample has them."""
        before, after = list(dims[: lane.axis]), list(dims[lane.axis + 1 :])
        beside = [] if lane.plain else [lane.outer]
        within = [] if lane.plain else [lane.inner]
        target = [*before, -1, *after]
        if lane.outer == 1 and lane.axis == 0:
            return self.reshaped(x, target, f"{x.name}/alone")
        apart = [-1, *before, *beside, *within, *after]
        alone = self.reshaped(x, apart, f"{x.name}/alone")
        place = len(before) + len(beside)
        order = [*range(1, place + 1), 0, *range(place + 1, len(apart))]
        moved = self.add("Transpose", [alone], f"{x.name}/moved", x, perm=order)
        return moved if lane.plain else self.reshaped(moved, target, f"{x.name}/merged")

    def left(self, value: ir.Value, dims: Sequence[int], lane: Lane) -> ir.Value:
        """Put the samples first again; where they had an axis to themselves it is gone."""
        name, axis = f"{value.name}/leaving", lane.axis
        if lane == (0, 1, 1):
            return value
        rank = len(dims)
        if not lane.plain:
            target = [*dims[:axis], lane.outer, -1, lane.inner, *dims[axis + 1 :]]
            value = self.reshaped(value, target, f"{name}/apart")
            axis, rank = axis + 1, rank + 2
        order = [axis, *(a for a in range(rank) if a != axis)]
        moved = self.add("Transpose", [value], f"{name}/moved", value, perm=order)
        if lane.plain:
            return moved
        return self.reshaped(moved, [-1, *dims], name)


def attribute(name: str, value: Any) -> ir.Attr:
    """Return an attribute of whole numbers, or a word."""
    import onnx_ir as ir_module

    if isinstance(value, str):
        return ir_module.AttrString(name, value)
    if isinstance(value, Iterable):
        return ir_module.AttrInt64s(name, [int(v) for v in value])
    return ir_module.AttrInt64(name, int(value))
