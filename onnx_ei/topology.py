"""A model's layers and how they are connected: the graph that every measure starts from."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import networkx as nx

from onnx_ei._graph.ends import Entry, Exit, entry_of, exit_of, is_swallowed
from onnx_ei._graph.fused import op_type_of
from onnx_ei._graph.names import layer_names, weight_name
from onnx_ei._graph.operators import LayerOp, layer_op
from onnx_ei._graph.patterns import Match
from onnx_ei._graph.quantised import is_whole
from onnx_ei._graph.unknown import shown, unknown_nodes
from onnx_ei._graph.windows import dims_of
from onnx_ei.activations import NO_RANGE
from onnx_ei.errors import ModelError, UnknownLayerError, closest
from onnx_ei.loading import Model, load_model, prepare_model

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    import torch

    from onnx_ei.exporters._live import Trace

__all__ = ["Layer", "layer_of", "model_of", "topology_of"]

#: What a caller may name a layer by: its key (from ONNX), or the module itself (from PyTorch).
Key = Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer's place in the graph.

    Attributes
    ----------
    key : hashable
        Its node key in the topology: a string, or from PyTorch the module.
    label : str
        Its name: the key where that is a string, else the module's path.
    op : LayerOp
        What its operator is.
    node : onnx_ir.Node
        The operator itself.
    entering : onnx_ir.Value
        The tensor that enters it.
    raw : onnx_ir.Value
        Its pre-activation: after bias and batch-norm.
    leaving : onnx_ir.Value
        Its activated output; the pre-activation where no activation follows.
    before, after : Match or None
        The activations found on the input and the output side.
    in_range, out_range : tuple of float
        Default bin ranges of either end: the activation's, else that of the numbers that a
        quantised tensor can stand for, else deep_ei's.
    """

    key: Key
    label: str
    op: LayerOp
    node: ir.Node
    entering: ir.Value
    raw: ir.Value
    leaving: ir.Value
    before: Match | None
    after: Match | None
    in_range: tuple[float, float]
    out_range: tuple[float, float]


def topology_of(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | torch.nn.Module,
    input: object = None,
) -> nx.DiGraph[Any]:
    """Build the graph of a model's layers.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or torch.nn.Module
        The model. A module is exported once, in memory and in eval mode; its weights are read
        again for every measure, so that it can be trained between two of them.
    input : array, tuple of arrays, or dict of str to array, optional
        An example input (arrays or tensors). Needed for a module, where the file leaves dimensions
        open other than the batch, and for ``background="reference"``.

    Returns
    -------
    networkx.DiGraph
        A node for each layer, in graph order; an edge u -> v for a path from u's output to v's
        input that passes no other layer. Skip connections make a DAG. Each node is keyed by a
        string, from a module by the module that the layer is, and carries::

            {
                "input":  {"activation": str | None, "shape": tuple, "range": tuple, "tensor": str},
                "output": {"activation": str | None, "shape": tuple, "range": tuple, "tensor": str},
                "op_type": str, "kind": str, "name": str, "reason": str | None,
            }

        Shapes are the whole tensors', batch first, with None for a dimension that stays open;
        ``range`` is the default bin range of that end; ``reason`` says why a layer cannot be
        measured. From a module, an activation is the module that it is, or a name where it is a
        function (``F.relu``). ``topology.graph["notes"]`` lists what the analysis could not look
        into.

    Raises
    ------
    ModelError
        If the model cannot be read, or the example does not fit it.
    TypeError
        If ``model`` is none of the allowed kinds, or a module comes without an input.
    ValueError
        If a module fails on the input.
    UnsupportedModelError
        If a module cannot be exported.

    Notes
    -----
    A layer is an operator that mixes its inputs by fixed weights or by pooling. Its activation is
    looked for through glue that keeps values and, on the output side, through bias and folded
    batch-norm. Where something else (a skip connection, a gate) reads the pre-activation too, the
    layer ends there and has no activation.

    Keys are the module path where the exporter left one, else the weight's or the node's name,
    else the output's; equal ones are told apart by ``#2``, ``#3`` in graph order. A module that
    runs twice is ``module`` and ``(module, 2)``; a layer without a module of its own has a string.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return _graph_of(load_model(model, input), None)
    if input is None:
        raise TypeError(
            f"topology_of({type(model).__name__}(...)) needs input=, an example input to trace the "
            "module with"
        )
    from onnx_ei.exporters._live import trace

    traced = trace(model, input)
    loaded = prepare_model(
        traced.program,
        type(model).__name__,
        traced.example,
        live=traced.weights,
        read=traced.read,
    )
    return _graph_of(loaded, traced)


def _graph_of(loaded: Model, traced: Trace | None) -> nx.DiGraph[Any]:
    varies = _variation(loaded.ir)
    found = [(node, op) for node in loaded.ir.graph if (op := layer_op(node, varies)) is not None]
    labels = layer_names(found, varies, loaded.origins)
    keys: Sequence[Any] = labels
    nodes = [node for node, _ in found]
    if traced is not None:
        weights = [weight_name(node, op, varies, loaded.origins) for node, op in found]
        keys = traced.keys(nodes, weights, labels)
    layers: dict[Any, Layer] = {}
    swallowed: dict[int, Match] = {}
    for key, label, (node, op) in zip(keys, labels, found, strict=True):
        made = layers[key] = _layer(loaded, key, label, (node, op), varies, swallowed)
        if made.after is not None and is_swallowed(made.after):
            swallowed |= dict.fromkeys((id(made.raw), id(made.leaving)), made.after)

    def activation(match: Match | None) -> Any:
        if match is None or traced is None:
            return None if match is None else match.name
        return traced.activation(match.output, nodes) or match.name

    graph: nx.DiGraph[Any] = nx.DiGraph()
    for key, layer in layers.items():
        graph.add_node(key, **_attributes(layer, activation))
    graph.add_edges_from(_edges(loaded.ir, layers))
    graph.graph.update(model=loaded, layers=layers, notes=list(_notes(loaded, varies)))
    return graph


def model_of(topology: nx.DiGraph[Any]) -> Model:
    """Return the loaded model behind a topology.

    Raises
    ------
    TypeError
        If the graph does not come from :func:`topology_of`.
    """
    model = topology.graph.get("model") if isinstance(topology, nx.DiGraph) else None
    if not isinstance(model, Model):
        raise TypeError(f"topology must be what topology_of returns, got {type(topology).__name__}")
    return model


def layer_of(topology: nx.DiGraph[Any], key: Key) -> Layer:
    """Return a layer by its key.

    Raises
    ------
    UnknownLayerError
        If the topology has no such layer; the closest keys are named.
    """
    model_of(topology)
    layers: dict[Any, Layer] = topology.graph["layers"]
    if key in layers:
        return layers[key]
    labels = [layer.label for layer in layers.values()]
    if isinstance(key, str):
        for layer in layers.values():  # a module's path names it too
            if layer.label == key:
                return layer
        raise UnknownLayerError(f"no layer {key!r} in the topology; {closest(key, labels)}")
    raise UnknownLayerError(
        f"no layer {key!r} in the topology: it did not run on the example input, it is no layer "
        f"(activations and reshapes are not), or it is part of another model; "
        f"{closest('', labels)}"
    )


def _variation(model: ir.Model) -> Callable[[ir.Value | None], bool]:
    """Return the test of whether a value depends on the model's input."""
    varying = {id(v) for v in model.graph.inputs}
    for node in model.graph:
        if node.op_type in ("Shape", "Size"):
            continue
        if any(id(v) in varying for v in _all_inputs(node)):
            varying.update(id(v) for v in node.outputs)

    def varies(value: ir.Value | None) -> bool:
        return value is not None and id(value) in varying

    return varies


def _all_inputs(node: ir.Node) -> Iterator[ir.Value]:
    """Yield a node's inputs, and what its branches capture from outside."""
    yield from (v for v in node.inputs if v is not None)
    for attribute in node.attributes.values():
        graphs = (
            [attribute.value] if attribute.type.name == "GRAPH"
            else attribute.value if attribute.type.name == "GRAPHS" else []
        )  # fmt: skip
        for graph in graphs:
            for inner in graph:
                yield from _all_inputs(inner)


def _layer(
    loaded: Model,
    key: Key,
    label: str,
    found: tuple[ir.Node, LayerOp],
    varies: Callable[[ir.Value | None], bool],
    swallowed: dict[int, Match],
) -> Layer:
    node, op = found
    read = node.inputs[op.data]
    if read is None:
        raise ModelError(f"layer {label!r} ({node.op_type}) lacks its input")
    start = entry_of(read, swallowed)
    end = exit_of(_output_of(node), start.entering, op, varies)
    if op.reason is None:
        op = replace(op, reason=_reason(loaded, node, start, end))
    return Layer(
        key=key,
        label=label,
        op=op,
        node=node,
        entering=start.entering,
        raw=end.raw,
        leaving=end.leaving,
        before=start.before,
        after=end.after,
        in_range=_range(start.before, start.limits),
        out_range=_range(end.after, end.limits),
    )


def _reason(loaded: Model, node: ir.Node, start: Entry, end: Exit) -> str | None:
    """Say why the numbers at a layer's ends cannot be drawn or binned."""
    entering, raw = start.entering, end.raw
    if is_whole(entering) and node.op_type.endswith(("Integer", "IntegerToFloat")):
        return (
            f"its input {entering.name!r} is a quantised integer tensor of no known scale "
            f"({entering.dtype}): which real numbers it stands for is not said"
        )
    if entering.dtype is not None and not entering.dtype.is_floating_point():
        return f"its input is of type {entering.dtype}, not of real numbers"
    if raw.dtype is not None and not raw.dtype.is_floating_point():
        return f"its output is of type {raw.dtype}, and nothing makes real numbers of it"
    if loaded.trouble is not None and entering.shape is None:
        return f"the shape of its input {entering.name!r} is not known: {loaded.trouble}"
    return None


def _range(match: Match | None, limits: tuple[float, float] | None) -> tuple[float, float]:
    return match.range if match is not None else NO_RANGE if limits is None else limits


def _output_of(node: ir.Node) -> ir.Value:
    """Return the first output that is read: a recurrent layer may give its last state alone."""
    used = (v for v in node.outputs if v.uses() or v.is_graph_output())
    return next(used, node.outputs[0])


def _attributes(layer: Layer, activation: Callable[[Match | None], Any]) -> dict[str, Any]:
    def end(value: ir.Value, shaped: ir.Value, match: Match | None) -> dict[str, Any]:
        return {
            "activation": activation(match),
            "shape": dims_of(shaped) or (),
            "range": layer.in_range if value is layer.entering else layer.out_range,
            "tensor": str(value.name),
        }

    return {
        "input": end(layer.entering, layer.entering, layer.before),
        "output": end(layer.leaving, _output_of(layer.node), layer.after),
        "op_type": op_type_of(layer.node),
        "kind": layer.op.kind,
        "name": layer.node.name or "",
        "reason": layer.op.reason,
    }


def _edges(model: ir.Model, layers: dict[Key, Layer]) -> Iterator[tuple[Key, Key]]:
    """Carry along every tensor the set of layers whose output reaches it past no other layer."""
    by_node = {id(layer.node): key for key, layer in layers.items()}
    # the scale of its input reaches a quantised layer's output past its operator, not past it
    ends = {id(v): key for key, layer in layers.items() for v in (layer.raw, layer.leaving)}
    place = {key: index for index, key in enumerate(layers)}
    reached: dict[int, frozenset[Key]] = {}
    for node in model.graph:
        sources: frozenset[Key] = frozenset()
        if node.op_type not in ("Shape", "Size"):
            sources = sources.union(*(reached.get(id(v), ()) for v in _all_inputs(node)))
        key = by_node.get(id(node))
        if key is not None:
            yield from ((source, key) for source in sorted(sources, key=place.__getitem__))
            sources = frozenset({key})
        for value in node.outputs:
            own = ends.get(id(value))
            reached[id(value)] = sources if own is None else frozenset({own})


def _notes(model: Model, varies: Callable[[ir.Value | None], bool]) -> Iterator[str]:
    """Say what was decided, and which layers stand inside control flow, where nobody looks."""
    for name, value in model.pinned.items():
        yield f"input {name!r} is held at {value}, its value in the example"
    if model.trouble is not None:
        yield model.trouble
    elif unknown := unknown_nodes(model.ir.graph):
        yield shown(unknown)
    for node in model.ir.graph:
        hidden = sum(
            1
            for inner in _inner_nodes(node)
            if layer_op(inner, _holds_no_data) or inner.op_type in _PRODUCTS
        )
        if hidden:
            yield (
                f"{node.op_type} node {node.name or node.outputs[0].name!r} holds {hidden} "
                "operators that would be layers; control flow is not looked into"
            )


# Their weights may be computed inside the branch.
_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def _holds_no_data(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is None


def _inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type.name == "GRAPH":
            for inner in attribute.value:
                yield inner
                yield from _inner_nodes(inner)
