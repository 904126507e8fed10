"""A cut -> a model of its own: its nodes copied, rewritten for the windows of a plan.

Padding is cut off, slices stand where two readers of a tensor need different parts, and what was
written for one sample is rewritten for any number (:mod:`onnx_ei._graph.lanes`).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onnx_ei._graph.cut import Cut, Plan, make_plan
from onnx_ei._graph.following import follow
from onnx_ei._graph.lanes import Lane, LaneLostError, Operand, Step, Visit, lanes_of, part_of
from onnx_ei._graph.pieces import attribute
from onnx_ei._graph.values import INPUT, Values, inner_name
from onnx_ei._graph.windows import Window, dims_of, full
from onnx_ei.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SubModel", "build"]


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
    lanes : list of Lane
        Where the samples may stand in the source; the first was taken, or the one asked for.
    lost : str
        Where and why the samples of a batch were lost sight of; empty where they were not.
    """

    model: ir.Model
    entering: Window
    leaving: Window
    widest: int
    lanes: list[Lane]
    lost: str


def build(cut: Cut, window: Window | None, *, local: bool, lane: Lane | None = None) -> SubModel:
    """Write a cut as a model of one input ``x``, batch first and free.

    Parameters
    ----------
    cut : Cut
        What to write.
    window : Window or None
        The part of the target that is kept; None keeps all.
    local : bool
        Whether to compute only what the window needs, or whole tensors, sliced at the end.
    lane : Lane, optional
        Where the samples stand in the source; by default where they most likely do.

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
    plan = make_plan(cut, full(len(dims or ())) if window is None else window,
                     local=local and window is not None)  # fmt: skip
    writer = _Writer(cut, plan)
    leaving = full(len(dims or ())) if window is None else window
    model = writer.write(leaving, lane)
    entering = plan.made[id(cut.source)]
    return SubModel(model, entering, leaving, writer.widest, writer.possible, writer.lost)


class _Writer(Values):
    """Copies the nodes of a cut, cut to the windows of a plan."""

    def __init__(self, cut: Cut, plan: Plan) -> None:
        super().__init__(cut, plan)
        self.possible: list[Lane] = []
        self.widest = 0
        self.lost = ""

    def write(self, window: Window, lane: Lane | None) -> ir.Model:
        import onnx_ir as ir_module

        entering = self._input(lane)
        for node in self._cut.nodes:
            self._copy(node)
        target = self._cut.target
        leaving = self._activated(self._part(target, window))
        dtype = leaving.dtype or ir_module.DataType.FLOAT
        leaving.type = ir_module.TensorType(dtype)
        if not dtype.is_floating_point():
            raise UnsupportedModelError(
                f"tensor {target.name!r}, which ends the span, is of type {dtype}, "
                "not of real numbers"
            )
        leaving = self._with_samples_first(leaving, window)
        graph = ir_module.Graph(
            [entering],
            [leaving],
            nodes=self._pieces.nodes,
            initializers=list(self._pieces.initializers.values()),
            opset_imports=self._cut.opsets,
            name="span",
        )
        return ir_module.Model(graph, ir_version=10, producer_name="onnx_ei")

    def _input(self, lane: Lane | None) -> ir.Value:
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
        first, whole = self._cut.is_batch(sizes[0]), dims_of(source) or ()
        self.possible = lanes_of(whole, self._cut.is_batch(whole[0]))
        wide = self.possible[0] if lane is None else lane
        if wide == (0, 1, 1):
            self._batch = sizes[0] or 1
        lane = wide
        if wide.axis == 0 and sizes[0] is not None:
            lane = part_of(wide, sizes[0], self._batch)
        units = sizes[1:] if first else known
        value = ir_module.Value(
            name=INPUT,
            shape=ir_module.Shape(["batch", *(s for s in units if s is not None)]),
            type=ir_module.TensorType(dtype),
        )
        self._copies[id(source)] = self._entering = value
        self._lanes[id(source)], self._wide[id(source)] = lane, wide
        if not (lane == (0, 1, 1) and first):
            # without the samples, first where they were counted there: one of them
            dims = [1, *known[1:]] if first and len(known) == len(sizes) else known
            self._copies[id(source)] = self._pieces.entered(value, dims, lane)
        return value

    def _with_samples_first(self, leaving: ir.Value, window: Window) -> ir.Value:
        lane = self._lanes.get(id(self._cut.target))
        dims = dims_of(self._cut.target)
        if lane is None or lane == (0, 1, 1) or dims is None:
            return leaving
        sizes = [s for s in self._sizes(self._cut.target, window) if s is not None]
        return leaving if len(sizes) < len(dims) else self._pieces.left(leaving, sizes, lane)

    # --- one node ------------------------------------------------------------------------------

    def _copy(self, node: ir.Node) -> None:
        need = self._plan.demands.get(id(node))
        kept = [i for i in range(len(node.inputs)) if need is None or need.needs(i)]
        step = self._follow(node, kept)
        self._measure(node)
        for value, lane in zip(node.outputs, step.lanes, strict=True):
            if lane is not None:
                self._lanes[id(value)] = lane
                self._wide[id(value)] = (step.wide or lane).on(lane.axis)
        target = self._target(node, step)
        if target is not None:
            read = self._read(node, 0)
            if read is not None:
                name = inner_name(node.outputs[0])
                made = self._pieces.reshaped(read, target, name)
                made.type = node.outputs[0].type or read.type
                self._copies[id(node.outputs[0])] = made
                return
        given = dict(need.constants if need is not None else {}) | step.constants
        inputs = [self._input_of(node, i, given, step) for i in kept]
        attributes = dict(node.attributes)
        if need is not None:
            attributes = {k: v for k, v in attributes.items() if k not in need.drop}
            attributes |= {k: attribute(k, v) for k, v in need.attributes.items()}
        if node.op_type == "Squeeze":
            inputs, attributes = self._squeeze(node, inputs, attributes)
        self._emit(node, inputs, attributes, None if need is None else need.only)

    def _emit(
        self,
        node: ir.Node,
        inputs: list[ir.Value | None],
        attributes: dict[str, ir.Attr],
        only: int | None,
    ) -> None:
        """Write a node; where one output alone is left of a Split, an Identity."""
        import onnx_ir as ir_module

        left = list(node.outputs) if only is None else [node.outputs[only]]
        outputs = [ir_module.Value(name=inner_name(v), type=v.type) for v in left]
        if only is not None:
            self._pieces.nodes.append(
                ir_module.Node("", "Identity", inputs[:1], outputs=outputs, name=node.name)
            )
        else:
            self._pieces.nodes.append(
                ir_module.Node(
                    node.domain, node.op_type, inputs, attributes.values(),
                    overload=node.overload, outputs=outputs, name=node.name,
                )
            )  # fmt: skip
        for old, new in zip(left, outputs, strict=True):
            self._copies[id(old)] = new

    def _read(self, node: ir.Node, index: int) -> ir.Value | None:
        value = node.inputs[index]
        return None if value is None else self._part(value, self._plan.read.get((id(node), index)))

    def _input_of(
        self, node: ir.Node, index: int, given: dict[int, Any], step: Step
    ) -> ir.Value | None:
        """Return an input as a node is to read it: changed, repeated, or the part of it."""
        if index in given:
            numbers = given[index]
            array = numbers if isinstance(numbers, np.ndarray) else np.array(numbers, np.int64)
            name = f"{node.outputs[0].name}/input{index}"
            return None if numbers is None else self._pieces.constant(name, array)
        read, lane, value = self._read(node, index), step.repeat.get(index), node.inputs[index]
        if lane is None or read is None or value is None:
            return read
        sizes = [s for s in self._operand(node, index).dims or () if s is not None]
        name = f"{node.outputs[0].name}/input{index}"
        return self._pieces.repeated(read, sizes, lane, self._entering, name)

    def _measure(self, node: ir.Node) -> None:
        """Note how large a node's outputs are: they bound the samples of a run."""
        for value in node.outputs:
            if dims_of(value) is not None:
                sizes = self._made_sizes(value) or ()
                counted = self._batch if id(value) in self._lanes else 1
                held = prod(s for s in sizes[0 if self._lanes else 1 :] if s is not None)
                self.widest = max(self.widest, held // counted)

    # --- lanes ---------------------------------------------------------------------------------

    def _follow(self, node: ir.Node, kept: list[int]) -> Step:
        """Say where a node takes the samples; where that is not known, nobody looks any more."""
        nothing = Step(lanes=(None,) * len(node.outputs))
        if self.lost or not any(id(v) in self._lanes for v in node.inputs if v is not None):
            return nothing
        wide = next(self._wide[id(v)] for v in node.inputs if id(v) in self._wide)
        try:
            operands = [self._operand(node, i) for i in kept]
            only = self._plan.demands[id(node)].only if id(node) in self._plan.demands else None
            if only is not None:
                alone = (operands[0].lane if i == only else None for i in range(len(node.outputs)))
                return Step(lanes=tuple(alone), wide=wide)
            results = [Operand(None, self._made_sizes(v), dims_of(v)) for v in node.outputs]
            step = follow(Visit(node, operands, results, self._batch, wide))
            self._check_repeats(step, operands)
        except LaneLostError as error:
            self.lost = f"{node.op_type} {node.name!r} {error}"
            return nothing
        return Step(
            lanes=step.lanes,
            repeat={kept[i]: lane for i, lane in step.repeat.items()},
            target=step.target,
            constants=step.constants,
            wide=wide if step.wide is None else step.wide,
        )

    def _check_repeats(self, step: Step, operands: list[Operand]) -> None:
        for index, lane in step.repeat.items():
            dims = operands[index].dims
            if dims is None or None in dims or dims[lane.axis] != lane.outer * lane.inner:
                raise LaneLostError("spreads one sample over an axis of another size")
            if self._cut.opsets.get("", 1) < 8:
                raise LaneLostError("needs a constant repeated: there is no Expand before opset 8")

    def _target(self, node: ir.Node, step: Step) -> list[int] | None:
        """Return what a Reshape, or its kin, has to reshape to; None where it stays as it is."""
        if step.target is not None or node.op_type != "Reshape":
            return step.target
        inside = id(node.outputs[0]) in self._plan.made
        sizes = list((self._made_sizes(node.outputs[0]) if inside else None) or ())
        if not sizes or None in sizes:
            return None
        if self._batch > 1 and sizes[0] == self._batch:
            sizes[0] = -1
        return [s for s in sizes if s is not None]

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
            return inputs, attributes | {"axes": attribute("axes", axes)}
        return [inputs[0], self._pieces.numbers(f"{node.outputs[0].name}/axes", axes)], attributes

    def _activated(self, value: ir.Value) -> ir.Value:
        activation = self._cut.activation
        if activation is None or activation.name == "Identity":
            return value
        count = 0

        def tensor(number: float) -> ir.Value:
            nonlocal count
            count += 1
            dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
            return self._pieces.constant(f"activation/c{count}", np.array(number, dtype))

        nodes = activation.apply(value, tensor)
        for index, node in enumerate(nodes):
            node.outputs[0].name = f"activation/{index}"
        self._pieces.nodes.extend(nodes)
        return nodes[-1].outputs[0]
