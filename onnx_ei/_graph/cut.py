"""What lies between two tensors of a graph, and which part of each tensor is needed there.

The windows come from :mod:`onnx_ei._graph.receptive`, one operator at a time; here they are planned
over a whole cut, from its target back to its source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnx_ei._graph.listing import Listing, all_inputs, branches
from onnx_ei._graph.receptive import Demand, demand
from onnx_ei._graph.unknown import shown, unknown_nodes
from onnx_ei._graph.windows import Window, dims_of, full, union
from onnx_ei.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from onnx_ei.activations import Activation

__all__ = ["Cut", "NotLocalError", "Plan", "make_plan", "nodes_between"]


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
    notes : tuple of str
        What was decided about it.
    open_sizes : frozenset of str
        Tensors that it reads and that nothing is known of: sizes that follow from open shapes.
    """

    source: ir.Value
    target: ir.Value
    nodes: list[ir.Node]
    sides: dict[str, NDArray[Any]]
    opsets: dict[str, int]
    activation: Activation | None
    batch: int
    notes: tuple[str, ...] = ()
    open_sizes: frozenset[str] = frozenset()

    def is_batch(self, size: int | None) -> bool:
        """Say whether a tensor's first axis, of this size, counts samples."""
        return size is None or size in (1, self.batch)


# --- what belongs to it ------------------------------------------------------------------------


def nodes_between(
    source: ir.Value, target: ir.Value, listing: Listing | None = None
) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return the nodes on the paths from source to target, and the other tensors they need.

    Parameters
    ----------
    source, target : onnx_ir.Value
        The ends; the target depends on the source.
    listing : Listing, optional
        Of the graph that holds both; made afresh without.

    Returns
    -------
    nodes : list of onnx_ir.Node
        In graph order.
    sides : list of onnx_ir.Value
        Tensors that depend on the model's input by other ways than through the source.

    Raises
    ------
    UnsupportedModelError
        If there is control flow among the nodes, or an operator that nobody knows.
    """
    if listing is None:
        listing = Listing(target.producer().graph)  # type: ignore[union-attr, arg-type]
    reached = {id(source)}
    after = []
    for node in listing.between(source, target):
        if any(id(v) in reached for v in all_inputs(node)):
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
        if any(True for _ in branches(node)):
            raise UnsupportedModelError(
                f"control flow inside the span: node {node.name!r} ({node.op_type}), which the "
                "data decides; measure the layers before it and behind it, each side by itself, or "
                "export the model without it"
            )
    if unknown := unknown_nodes(nodes):
        raise UnsupportedModelError(f"inside the span: {shown(unknown)}")
    sides: dict[int, ir.Value] = {}
    for node in nodes:
        for value in node.inputs:
            if value is not None and id(value) not in reached and not listing.is_fixed(value):
                sides[id(value)] = value
    return nodes, list(sides.values())


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
        parts = {i: wanted[id(v)] for i, v in enumerate(node.outputs) if id(v) in wanted}
        need = demand(node, parts, narrow=True) if local and parts else None
        reads = _plan_node(plan, node, parts, need)
        for index, value in enumerate(node.inputs):
            part = reads[index]
            if value is None or not (need is None or need.needs(index)):
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


def _plan_node(
    plan: Plan, node: ir.Node, parts: Mapping[int, Window], need: Demand | None
) -> Sequence[Window | None]:
    """Plan how one node makes the windows wanted of its outputs; return what it reads."""
    for index, value in enumerate(node.outputs):
        part = None if need is None else need.made.get(index, parts.get(index))
        plan.made[id(value)] = _all_of(value) if part is None else part
    if need is None:
        return [None if v is None else _all_of(v) for v in node.inputs]
    plan.demands[id(node)] = need
    return need.inputs
