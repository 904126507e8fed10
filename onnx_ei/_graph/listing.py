"""A graph's nodes in order, and which of its values depend on what: looked up by every span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Listing", "all_inputs", "branches"]

# How much these put out depends on what comes in, not on how much of it.
_COUNTING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"})


class Listing:
    """One pass over a graph, so that a span between two neighbours costs what lies between them.

    Parameters
    ----------
    graph : onnx_ir.Graph
        A graph that does not change any more.

    Attributes
    ----------
    nodes : list of onnx_ir.Node
        In graph order.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.nodes = list(graph)
        self._place = {id(node): index for index, node in enumerate(self.nodes)}
        self._varying = {id(v) for v in graph.inputs}
        self._sizes: set[int] = set()
        self._counted: set[int] = set()
        for node in self.nodes:
            read = list(all_inputs(node))
            moving = [v for v in read if not self.is_fixed(v)]
            if not moving:
                continue
            made = {id(v) for v in node.outputs}
            self._varying |= made
            if node.op_type in _COUNTING or any(id(v) in self._counted for v in moving):
                self._counted |= made
            if node.op_type in ("Shape", "Size") or all(id(v) in self._sizes for v in moving):
                self._sizes |= made

    def is_fixed(self, value: ir.Value) -> bool:
        """Say whether a value depends on weights alone."""
        if value.const_value is not None:
            return True
        return value.producer() is not None and id(value) not in self._varying

    def is_size(self, value: ir.Value) -> bool:
        """Say whether a value depends on the model's input by the shapes of tensors alone."""
        return id(value) in self._sizes

    def is_counted(self, value: ir.Value) -> bool:
        """Say whether a value comes from a tensor whose size depends on data."""
        return id(value) in self._counted

    def between(self, source: ir.Value, target: ir.Value) -> Sequence[ir.Node]:
        """Return the nodes that stand after the source in the graph, up to the target."""
        first, last = source.producer(), target.producer()
        start = 0 if first is None else self._place[id(first)] + 1
        end = len(self.nodes) if last is None else self._place[id(last)] + 1
        return self.nodes[start:end]


def all_inputs(node: ir.Node) -> Iterator[ir.Value]:
    """Yield a node's inputs, and what its branches capture from outside."""
    yield from (v for v in node.inputs if v is not None)
    for graph in branches(node):
        for inner in graph:
            yield from all_inputs(inner)


def branches(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that a node holds."""
    for attribute in node.attributes.values():
        if attribute.type.name == "GRAPH":
            yield attribute.as_graph()
        elif attribute.type.name == "GRAPHS":
            yield from attribute.as_graphs()
