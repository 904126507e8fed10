"""A cut -> a model of its own: its nodes copied, rewritten for the windows of a plan.

Padding is cut off, slices stand where two readers of a tensor need different parts, constant
reshape targets are set to the sizes that remain, with the batch free.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onnx_ei._graph.cut import Cut, NotLocalError, Plan, make_plan
from onnx_ei._graph.windows import Window, axis_groups, dims_of, full
from onnx_ei.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["SubModel", "build"]

_INPUT = "x"


class SubModel(NamedTuple):
    """A cut as a model of one input ``x``, batch first and free.

    Attributes
    ----------
    model : onnx_ir.Model
        The model.
    entering, leaving : Window
        Which part of the source goes in, which part of the target comes out.
    widest : int
        Elements that one sample has in the largest tensor that is made on the way.
    """

    model: ir.Model
    entering: Window
    leaving: Window
    widest: int


def build(cut: Cut, window: Window | None, *, local: bool) -> SubModel:
    """Write a cut as a model of one input ``x``, batch first and free.

    Parameters
    ----------
    cut : Cut
        What to write.
    window : Window or None
        The part of the target that is kept; None keeps all.
    local : bool
        Whether to compute only what the window needs, or whole tensors, sliced at the end.

    Returns
    -------
    SubModel

    Raises
    ------
    NotLocalError
        If ``local`` and some operator cannot be cut to a window.
    UnsupportedModelError
        If a shape that is needed stays open.
    """
    dims = dims_of(cut.target)
    if window is None:
        window = full(len(dims or ()))
    plan = make_plan(cut, window, local=local)
    writer = _Writer(cut, plan)
    model = writer.write(window)
    return SubModel(model, plan.made[id(cut.source)], window, writer.widest)


class _Writer:
    """Copies the nodes of a cut, cut to the windows of a plan."""

    def __init__(self, cut: Cut, plan: Plan) -> None:
        self._cut = cut
        self._plan = plan
        self._nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._copies: dict[int, ir.Value] = {}
        self._slices: dict[tuple[int, Window], ir.Value] = {}
        self.widest = 0

    def write(self, window: Window) -> ir.Model:
        import onnx_ir as ir_module

        entering = self._input()
        for node in self._cut.nodes:
            self._copy(node)
        target = self._cut.target
        leaving = self._part(target, window)
        leaving = self._activated(leaving)
        dtype = leaving.dtype or ir_module.DataType.FLOAT
        leaving.type = ir_module.TensorType(dtype)
        if not dtype.is_floating_point():
            raise UnsupportedModelError(
                f"tensor {target.name!r}, which ends the span, is of type {dtype}, "
                "not of real numbers"
            )
        graph = ir_module.Graph(
            [entering],
            [leaving],
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports=self._cut.opsets,
            name="span",
        )
        return ir_module.Model(graph, ir_version=10, producer_name="onnx_ei")

    def _input(self) -> ir.Value:
        import onnx_ir as ir_module

        source = self._cut.source
        sizes = self._sizes(source, self._plan.made[id(source)])
        if len(sizes) < 2:
            raise UnsupportedModelError(
                f"tensor {source.name!r}, which enters the span, has no batch axis "
                f"(shape {tuple(dims_of(source) or ())})"
            )
        if None in sizes[1:]:
            raise self._open(source)
        dtype = source.dtype or ir_module.DataType.FLOAT
        known = [s for s in sizes if s is not None]
        free = self._cut.is_batch(sizes[0])
        units = [s for s in sizes[1:] if s is not None] if free else known
        value = ir_module.Value(
            name=_INPUT,
            shape=ir_module.Shape(["batch", *units]),
            type=ir_module.TensorType(dtype),
        )
        self._copies[id(source)] = value if free else self._without_batch(value, known)
        return value

    def _without_batch(self, value: ir.Value, sizes: list[int]) -> ir.Value:
        """Put in a tensor whose first axis counts no samples: one sample at a time."""
        import onnx_ir as ir_module

        shape = self._constant(f"{_INPUT}/shape", np.array(sizes, np.int64))
        node = ir_module.node("Reshape", [value, shape])
        node.outputs[0].name, node.outputs[0].type = f"{_INPUT}/alone", value.type
        self._nodes.append(node)
        return node.outputs[0]

    def _open(self, value: ir.Value) -> UnsupportedModelError:
        shown = tuple("?" if d is None else d for d in dims_of(value) or ("?",))
        return UnsupportedModelError(
            f"the shape of tensor {value.name!r} is open ({', '.join(map(str, shown))}); pass an "
            "example input that settles it (input= of topology_of, --input-shape on the command "
            "line)"
        )

    def _sizes(self, value: ir.Value, window: Window) -> list[int | None]:
        dims = dims_of(value)
        if dims is None:
            raise self._open(value)
        return [
            d if w is None else w[1] - w[0]
            for d, w in zip(dims, window or full(len(dims)), strict=True)
        ]

    def _copy(self, node: ir.Node) -> None:
        import onnx_ir as ir_module

        inputs = [
            None if v is None else self._part(v, self._plan.read.get((id(node), i)))
            for i, v in enumerate(node.inputs)
        ]
        attributes = dict(node.attributes)
        need = self._plan.demands.get(id(node))
        if need is not None:
            attributes = {k: v for k, v in attributes.items() if k not in need.drop}
            attributes |= {k: _attribute(k, v) for k, v in need.attributes.items()}
            for index, numbers in need.constants.items():
                name = f"{node.outputs[0].name}/input{index}"
                inputs[index] = self._constant(name, np.array(numbers, np.int64))
        if node.op_type == "Reshape":
            inputs, attributes = self._reshape(node, inputs, attributes)
        elif node.op_type == "Squeeze":
            inputs, attributes = self._squeeze(node, inputs, attributes)
        outputs = [ir_module.Value(name=_inner_name(v), type=v.type) for v in node.outputs]
        self._measure(node)
        copy = ir_module.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes.values(),
            overload=node.overload,
            outputs=outputs,
            name=node.name,
        )
        self._nodes.append(copy)
        for old, new in zip(node.outputs, outputs, strict=True):
            self._copies[id(old)] = new

    def _measure(self, node: ir.Node) -> None:
        """Note how large a node's outputs are: they bound the samples of a run."""
        for value in node.outputs:
            dims = dims_of(value)
            if dims is not None:
                sizes = self._sizes(value, self._plan.made.get(id(value), full(len(dims))))
                self.widest = max(self.widest, prod(s for s in sizes[1:] if s is not None))

    def _part(self, value: ir.Value, window: Window | None) -> ir.Value:
        """Return a copy of a value, cut to a window."""
        if id(value) not in self._copies:
            self._fix(value)
        copy = self._copies[id(value)]
        made = self._plan.made.get(id(value))
        if window is None:
            return copy
        if made is None:  # a weight or a side tensor: all of it is there
            made = full(len(window))
        if made == window:
            return copy
        if (id(value), window) not in self._slices:
            self._slices[id(value), window] = self._slice(value, copy, made, window)
        return self._slices[id(value), window]

    def _slice(self, value: ir.Value, copy: ir.Value, made: Window, window: Window) -> ir.Value:
        import onnx_ir as ir_module

        dims = dims_of(value) or ()
        starts, ends, axes = [], [], []
        for axis, (have, want) in enumerate(zip(made, window, strict=True)):
            if want is None or have == want:
                continue
            if have is None and (dims[axis] is None or want[0] < 0 or want[1] > (dims[axis] or 0)):
                raise NotLocalError(str(value.name))
            offset = 0 if have is None else have[0]
            starts.append(want[0] - offset)
            ends.append(want[1] - offset)
            axes.append(axis)
        name = f"{value.name}/part{len(self._slices)}"
        if self._cut.opsets.get("", 1) < 10:
            attributes = {"starts": starts, "ends": ends, "axes": axes}
            node = ir_module.node("Slice", [copy], attributes=attributes)
        else:
            bounds = [
                self._constant(f"{name}/{k}", np.array(v, np.int64))
                for k, v in (("starts", starts), ("ends", ends), ("axes", axes))
            ]
            node = ir_module.node("Slice", [copy, *bounds])
        node.outputs[0].name, node.outputs[0].type = name, copy.type
        self._nodes.append(node)
        return node.outputs[0]

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        import onnx_ir as ir_module

        tensor = ir_module.tensor(array, name=name)
        value = ir_module.Value(
            name=name,
            shape=ir_module.Shape(array.shape),
            type=ir_module.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._initializers[name] = value
        return value

    def _fix(self, value: ir.Value) -> None:
        """Copy a weight, what computes it, or a side tensor's given value."""
        import onnx_ir as ir_module

        name = _inner_name(value)
        if value.name in self._cut.sides:
            array = self._side(value, self._cut.sides[str(value.name)])
            self._copies[id(value)] = self._constant(name, array)
        elif value.const_value is not None:
            copy = ir_module.Value(
                name=name, shape=value.shape, type=value.type, const_value=value.const_value
            )
            if copy.type is None:
                copy.type = ir_module.TensorType(value.const_value.dtype)
            self._initializers[name] = copy
            self._copies[id(value)] = copy
        else:
            producer = value.producer()
            if producer is None:
                raise UnsupportedModelError(f"tensor {name!r} has no source")
            self._copy(producer)

    def _side(self, value: ir.Value, array: NDArray[Any]) -> NDArray[Any]:
        """Return what a side tensor is said to be, for one sample, in the tensor's own type."""
        if value.dtype is not None:
            array = array.astype(value.dtype.numpy(), copy=False)
        dims = dims_of(value)
        if dims is not None and (
            len(dims) != array.ndim
            or any(d not in (None, s) for d, s in zip(dims, array.shape, strict=True))
        ):
            raise ValueError(
                f"background for {value.name!r} has shape {array.shape}, the tensor "
                f"({', '.join('?' if d is None else str(d) for d in dims)})"
            )
        # a file with a fixed batch brings as many samples; the span has one
        return array[:1] if array.ndim and array.shape[0] == self._cut.batch else array

    def _reshape(
        self, node: ir.Node, inputs: list[ir.Value | None], attributes: dict[str, ir.Attr]
    ) -> tuple[list[ir.Value | None], dict[str, ir.Attr]]:
        """Set a constant target to the sizes that remain, the batch free where it stands alone.

        A target that was written for a batch of one either fails on a larger one or, with a -1 in
        it, mixes the samples in silence.
        """
        output = node.outputs[0]
        after = dims_of(output)
        sizes = None if after is None else self._sizes(output, self._plan.made.get(id(output), ()))
        if not sizes or None in sizes[1:]:
            return inputs, attributes
        alone = self._batch_stands_alone(node, sizes)
        if not alone and sizes[0] is None:
            return inputs, attributes
        target = [-1 if alone else sizes[0], *sizes[1:]]
        array = np.array(target, np.int64)
        attributes = {k: v for k, v in attributes.items() if k not in ("allowzero", "shape")}
        if len(inputs) < 2:  # opset < 5
            return inputs, attributes | {"shape": _attribute("shape", [int(t) for t in array])}
        shape = self._constant(f"{output.name}/shape", array)
        return [inputs[0], shape], attributes

    def _batch_stands_alone(self, node: ir.Node, sizes: list[int | None]) -> bool:
        """Say whether the first axis holds the same before and after, and so can be left free."""
        first = node.inputs[0]
        before = None if first is None else dims_of(first)
        if first is None or not before:
            return False
        entering = self._sizes(first, self._plan.read.get((id(node), 0), ()))
        rest = [s for s in entering[1:] if s is not None]
        if len(rest) < len(entering) - 1:
            groups = axis_groups(before, dims_of(node.outputs[0]) or ()) or []
            return groups[:1] == [([0], [0])]
        return prod(rest) == prod(s for s in sizes[1:] if s is not None)

    def _squeeze(
        self, node: ir.Node, inputs: list[ir.Value | None], attributes: dict[str, ir.Attr]
    ) -> tuple[list[ir.Value | None], dict[str, ir.Attr]]:
        """Name the axes that go: without names a cut axis, now of size 1, would go too."""
        first = node.inputs[0]
        dims = None if first is None else dims_of(first)
        if dims is None or "axes" in attributes or any(v is not None for v in inputs[1:]):
            return inputs, attributes
        axes = [a for a, d in enumerate(dims) if d == 1]
        if self._cut.opsets.get("", 1) < 13:
            return inputs, attributes | {"axes": _attribute("axes", axes)}
        name = f"{node.outputs[0].name}/axes"
        return [inputs[0], self._constant(name, np.array(axes, np.int64))], attributes

    def _activated(self, value: ir.Value) -> ir.Value:
        activation = self._cut.activation
        if activation is None or activation.name == "Identity":
            return value
        count = 0

        def tensor(number: float) -> ir.Value:
            nonlocal count
            count += 1
            dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
            return self._constant(f"activation/c{count}", np.array(number, dtype))

        nodes = activation.apply(value, tensor)
        for index, node in enumerate(nodes):
            node.outputs[0].name = f"activation/{index}"
        self._nodes.extend(nodes)
        return nodes[-1].outputs[0]


def _inner_name(value: ir.Value) -> str:
    """Return a tensor's name in the sub-model, where the input's is taken."""
    return f"{value.name}/inner" if value.name == _INPUT else str(value.name)


def _attribute(name: str, value: Any) -> ir.Attr:
    import onnx_ir as ir_module

    if isinstance(value, Iterable):
        return ir_module.AttrInt64s(name, [int(v) for v in value])
    return ir_module.AttrInt64(name, int(value))
