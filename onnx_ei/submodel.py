"""Nodes of a graph -> a model of their own: what belongs to it, its windows, its nodes rewritten.

The windows come from :mod:`onnx_ei.windows`; here they are planned over a whole cut and written
into nodes: padding cut off, slices where two readers of a tensor need different parts, constant
reshape targets set to the sizes that remain, with the batch free.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UnsupportedModelError
from .windows import Window, axis_groups, demand, dims_of, full, union

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from .activations import Activation
    from .topology import Layer

__all__ = ["Cut", "NotLocalError", "build", "nodes_between", "position_window"]


class NotLocalError(Exception):
    """One output position does not need just a window of each tensor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """What is cut out of a model.

    Attributes
    ----------
    source, target : onnx_ir.Value
        Its ends.
    nodes : list of onnx_ir.Node
        What lies between, in graph order.
    sides : dict of str to ndarray
        Values of the other tensors that it needs.
    opsets : dict of str to int
        The model's operator sets.
    activation : Activation or None
        What is applied to the target.
    example_given : bool
        Whether the model came with an example input; for messages.
    """

    source: ir.Value
    target: ir.Value
    nodes: list[ir.Node]
    sides: dict[str, NDArray[Any]]
    opsets: dict[str, int]
    activation: Activation | None
    example_given: bool


# --- what belongs to it ------------------------------------------------------------------------


def nodes_between(source: ir.Value, target: ir.Value) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return the nodes on the paths from source to target, and the other tensors they need.

    Parameters
    ----------
    source, target : onnx_ir.Value
        The ends; the target depends on the source.

    Returns
    -------
    nodes : list of onnx_ir.Node
        In graph order.
    sides : list of onnx_ir.Value
        Tensors that depend on the model's input by other ways than through the source.
    """
    graph = target.producer().graph  # type: ignore[union-attr]
    reached = {id(source)}
    after = []
    for node in graph:  # type: ignore[union-attr]
        if any(id(v) in reached for v in node.inputs if v is not None):
            reached.update(id(v) for v in node.outputs)
            after.append(node)
    needed = {id(target)}
    nodes = []
    for node in reversed(after):
        if any(id(v) in needed for v in node.outputs):
            needed.update(id(v) for v in node.inputs if v is not None)
            nodes.append(node)
    nodes.reverse()
    for node in nodes:
        if any(a.type.name in ("GRAPH", "GRAPHS") for a in node.attributes.values()):
            raise UnsupportedModelError(
                f"control flow inside the span: node {node.name!r} ({node.op_type})"
            )
    sides: dict[int, ir.Value] = {}
    for node in nodes:
        for value in node.inputs:
            if value is not None and id(value) not in reached and not _is_fixed(value):
                sides[id(value)] = value
    return nodes, list(sides.values())


def _is_fixed(value: ir.Value) -> bool:
    """Say whether a value depends on weights alone."""
    if value.const_value is not None:
        return True
    producer = value.producer()
    if producer is None:
        return False
    return all(_is_fixed(v) for v in producer.inputs if v is not None)


# --- which position ----------------------------------------------------------------------------


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
    if dims is None:
        return None
    roles = ["batch", *("unit" for _ in dims[1:])]
    if end.op.kind == "dense":
        unit = len(dims) - (1 if end.op.data == 0 else 2)
        roles = ["position"] * len(dims)
        roles[0], roles[unit] = "batch", "unit"
    elif not end.node.op_type.startswith("Global"):
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


# --- the plan ----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Plan:
    """Windows of a cut: what is made of each tensor, what each node reads of it."""

    made: dict[int, Window] = field(default_factory=dict)
    read: dict[tuple[int, int], Window] = field(default_factory=dict)
    attributes: dict[int, tuple[dict[str, Any], tuple[str, ...]]] = field(default_factory=dict)


def _plan(cut: Cut, window: Window, *, local: bool) -> _Plan:
    plan = _Plan()
    wanted: dict[int, Window] = {}
    if local:
        wanted[id(cut.target)] = window
    inside = {id(v) for n in cut.nodes for v in n.outputs} | {id(cut.source)}
    for node in reversed(cut.nodes):
        reads = _plan_node(plan, node, _window_wanted(node, wanted) if local else None)
        for index, value in enumerate(node.inputs):
            part = reads[index]
            if value is None:
                continue
            if part is None and id(value) in inside:
                part = _all_of(value)
            if part is None:
                continue
            plan.read[id(node), index] = part
            if id(value) in inside:
                before = wanted.get(id(value))
                wanted[id(value)] = part if before is None else union(before, part)
    plan.made[id(cut.source)] = wanted.get(id(cut.source), _all_of(cut.source))
    return plan


def _all_of(value: ir.Value) -> Window:
    return full(len(dims_of(value) or ()))


def _plan_node(plan: _Plan, node: ir.Node, output: Window | None) -> Sequence[Window | None]:
    """Plan how one node makes a window of its output; return what it reads."""
    need = None if output is None else demand(node, output)
    if need is None or output is None:
        for value in node.outputs:
            plan.made[id(value)] = _all_of(value)
        return [None if v is None else _all_of(v) for v in node.inputs]
    plan.made[id(node.outputs[0])] = output
    plan.attributes[id(node)] = (need.attributes, need.drop)
    return need.inputs


def _window_wanted(node: ir.Node, wanted: dict[int, Window]) -> Window | None:
    """Return the window wanted of a node's only used output, or None: compute it whole."""
    if any(id(v) in wanted for v in node.outputs[1:]):
        return None
    return wanted.get(id(node.outputs[0]))


# --- writing it --------------------------------------------------------------------------------


def build(cut: Cut, window: Window | None, *, local: bool) -> tuple[ir.Model, Window, Window]:
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
    model : onnx_ir.Model
        The sub-model.
    entering, leaving : Window
        Which part of the source goes in, which part of the target comes out.

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
    plan = _plan(cut, window, local=local)
    return _Writer(cut, plan).write(window), plan.made[id(cut.source)], window


class _Writer:
    """Copies the nodes of a cut, cut to the windows of a plan."""

    def __init__(self, cut: Cut, plan: _Plan) -> None:
        self._cut = cut
        self._plan = plan
        self._nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._copies: dict[int, ir.Value] = {}
        self._slices: dict[tuple[int, Window], ir.Value] = {}
        self._sides: set[int] = set()

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
        shape: list[int | str] = ["batch", *(s for s in sizes[1:] if s is not None)]
        value = ir_module.Value(
            name="x", shape=ir_module.Shape(shape), type=ir_module.TensorType(dtype)
        )
        self._copies[id(source)] = value
        return value

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
        changed, dropped = self._plan.attributes.get(id(node), ({}, ()))
        attributes = {k: v for k, v in node.attributes.items() if k not in dropped}
        attributes |= {k: _attribute(k, v) for k, v in changed.items()}
        if node.op_type == "Reshape":
            inputs, attributes = self._reshape(node, inputs, attributes)
        outputs = [ir_module.Value(name=v.name, type=v.type) for v in node.outputs]
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

        name = str(value.name)
        if name in self._cut.sides:
            array = self._cut.sides[name]
            if value.dtype is not None:
                array = array.astype(value.dtype.numpy(), copy=False)
            self._check_side(value, array)
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

    def _check_side(self, value: ir.Value, array: NDArray[Any]) -> None:
        dims = dims_of(value)
        if dims is not None and (
            len(dims) != array.ndim
            or any(d not in (None, s) for d, s in zip(dims, array.shape, strict=True))
        ):
            raise ValueError(
                f"background for {value.name!r} has shape {array.shape}, the tensor {dims}"
            )

    def _reshape(
        self, node: ir.Node, inputs: list[ir.Value | None], attributes: dict[str, ir.Attr]
    ) -> tuple[list[ir.Value | None], dict[str, ir.Attr]]:
        """Set a constant target to the sizes that remain, the batch free where it stands alone.

        A target that was written for a batch of one either fails on a larger one or, with a -1 in
        it, mixes the samples in silence.
        """
        first, output = node.inputs[0], node.outputs[0]
        before = None if first is None else dims_of(first)
        after = dims_of(output)
        sizes = None if after is None else self._sizes(output, self._plan.made.get(id(output), ()))
        if before is None or after is None or sizes is None or None in sizes[1:]:
            return inputs, attributes
        groups = axis_groups(before, after) or []
        alone = bool(groups) and groups[0] == ([0], [0])
        if not alone and sizes[:1] == [None]:
            return inputs, attributes
        target = [-1 if alone else sizes[0], *sizes[1:]]
        array = np.array(target, np.int64)
        attributes = {k: v for k, v in attributes.items() if k not in ("allowzero", "shape")}
        if len(inputs) < 2:  # opset < 5
            return inputs, attributes | {"shape": _attribute("shape", [int(t) for t in array])}
        shape = self._constant(f"{output.name}/shape", array)
        return [inputs[0], shape], attributes

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


def _attribute(name: str, value: Any) -> ir.Attr:
    import onnx_ir as ir_module

    if isinstance(value, Iterable):
        return ir_module.AttrInt64s(name, [int(v) for v in value])
    return ir_module.AttrInt64(name, int(value))
