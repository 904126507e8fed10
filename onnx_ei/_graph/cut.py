"""What lies between two tensors of a graph, and which part of each tensor is needed there.

The windows come from :mod:`onnx_ei._graph.receptive`, one operator at a time; here they are planned
over a whole cut, from its target back to its source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnx_ei._graph.receptive import Demand, demand
from onnx_ei._graph.windows import Window, dims_of, full, union
from onnx_ei.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from onnx_ei.activations import Activation

__all__ = ["Cut", "NotLocalError", "Plan", "is_fixed", "make_plan", "nodes_between"]


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
    batch : int
        The size that the model's first axis has where it counts samples: 1, or what the file
        fixes.
    """

    source: ir.Value
    target: ir.Value
    nodes: list[ir.Node]
    sides: dict[str, NDArray[Any]]
    opsets: dict[str, int]
    activation: Activation | None
    batch: int

    def is_batch(self, size: int | None) -> bool:
        """Say whether a tensor's first axis, of this size, counts samples."""
        return size is None or size in (1, self.batch)


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

    Raises
    ------
    UnsupportedModelError
        If there is control flow among the nodes.
    """
    graph = target.producer().graph  # type: ignore[union-attr]
    reached = {id(source)}
    after = []
    for node in graph:  # type: ignore[union-attr]
        if any(id(v) in reached for v in _all_inputs(node)):
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
        if any(True for _ in _branches(node)):
            raise UnsupportedModelError(
                f"control flow inside the span: node {node.name!r} ({node.op_type})"
            )
    sides: dict[int, ir.Value] = {}
    for node in nodes:
        for value in node.inputs:
            if value is not None and id(value) not in reached and not is_fixed(value):
                sides[id(value)] = value
    return nodes, list(sides.values())


def is_fixed(value: ir.Value) -> bool:
    """Say whether a value depends on weights alone."""
    if value.const_value is not None:
        return True
    producer = value.producer()
    if producer is None:
        return False
    return all(is_fixed(v) for v in _all_inputs(producer))


def _all_inputs(node: ir.Node) -> Iterator[ir.Value]:
    """Yield a node's inputs, and what its branches capture from outside."""
    yield from (v for v in node.inputs if v is not None)
    for graph in _branches(node):
        for inner in graph:
            yield from _all_inputs(inner)


def _branches(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type.name == "GRAPH":
            yield attribute.as_graph()
        elif attribute.type.name == "GRAPHS":
            yield from attribute.as_graphs()


# --- the plan ----------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Plan:
    """Windows of a cut.

    Attributes
    ----------
    made : dict
        What is made of each tensor, by its ``id``.
    read : dict
        What a node reads of its input, by the node's ``id`` and the input's index.
    demands : dict
        How a node changes, by its ``id``; nodes that are not there stay as they are.
    """

    made: dict[int, Window] = field(default_factory=dict)
    read: dict[tuple[int, int], Window] = field(default_factory=dict)
    demands: dict[int, Demand] = field(default_factory=dict)


def make_plan(cut: Cut, window: Window, *, local: bool) -> Plan:
    """Carry a window of the target back to the source.

    Parameters
    ----------
    cut : Cut
        The nodes.
    window : Window
        The part of the target that is wanted.
    local : bool
        Whether to compute only what it needs; else every tensor is computed whole.

    Returns
    -------
    Plan
    """
    plan = Plan()
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


def _plan_node(plan: Plan, node: ir.Node, output: Window | None) -> Sequence[Window | None]:
    """Plan how one node makes a window of its output; return what it reads."""
    need = None if output is None else demand(node, output)
    if need is None or output is None:
        for value in node.outputs:
            plan.made[id(value)] = _all_of(value)
        return [None if v is None else _all_of(v) for v in node.inputs]
    plan.made[id(node.outputs[0])] = output
    plan.demands[id(node)] = need
    return need.inputs


def _window_wanted(node: ir.Node, wanted: dict[int, Window]) -> Window | None:
    """Return the window wanted of a node's only used output, or None: compute it whole."""
    if any(id(v) in wanted for v in node.outputs[1:]):
        return None
    return wanted.get(id(node.outputs[0]))
