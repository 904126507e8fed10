"""What tf2onnx leaves unsaid or writes wrong: layers' names, operators that ONNX does not have."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_ei.exporters._parity import Array
from onnx_ei.exporters._writing import drop_unread

__all__ = ["Scopes", "mend_erfc", "mend_means", "name_layers", "unknown_operators"]


RECURRENT = {"LSTM", "GRU", "RNN"}


class Scopes:
    """The layers of a Keras model, found again in TensorFlow's name scopes.

    Parameters
    ----------
    model : keras.Model
        A built model.

    Notes
    -----
    Layer ``dense`` of model ``net`` is ``net_1/dense_1/MatMul``: TensorFlow counts each name up
    when the model is traced. ``dense_1`` is then a scope of ``dense`` where there is one, and of
    the layer of that name where there is not.
    """

    def __init__(self, model: Any) -> None:
        self.root = str(model.name)
        self.names = {self.root}
        self.sizes: dict[str, set[int]] = defaultdict(set)
        self.sums: dict[str, float] = {}
        for variable in model.variables:
            *path, _ = str(variable.path).split("/")
            self.names.update(path)
            if path and len(variable.shape) > 1:
                self.sums[str(variable.path)] = float(np.sum(variable.numpy(), dtype=np.float64))
            if path:
                self.sizes[path[-1]].add(int(np.prod(variable.shape)))
        self.names.update(_names_below(model))

    def layer_of(self, name: str, size: int | None = None) -> str | None:
        """Return the path of the layer that a node or tensor is part of, dotted, or None.

        Parameters
        ----------
        name : str
            Of the node or tensor.
        size : int, optional
            Of a weight: tells ``dense_1`` the layer from ``dense_1`` the second scope of ``dense``.
        """
        paths = [path for path in (self._path(name, 0), self._path(name, 1)) if path]
        for path in paths:
            if size is not None and size in self.sizes.get(path[-1], ()):
                return ".".join(path)
        return ".".join(paths[0]) if paths else None

    def layer_of_values(self, weight: Array) -> str | None:
        """Return the one layer whose kernel holds the same values in another order, or None.

        Parameters
        ----------
        weight : ndarray
            Such as the gates of a recurrent layer: tf2onnx sorts them and drops their scope.
        """
        total = weight.sum(dtype=np.float64)
        paths = [path for path, own in self.sums.items() if np.isclose(own, total, rtol=1e-5)]
        if len(paths) != 1 or weight.size not in self.sizes.get(paths[0].split("/")[-2], ()):
            return None
        *layer, _ = paths[0].removeprefix(f"{self.root}/").split("/")
        # the cell inside a recurrent layer is Keras's affair
        return ".".join(
            part for part in layer if not re.fullmatch(r"(lstm|gru|simple_rnn)_cell.*", part)
        )

    def _path(self, name: str, first: int) -> list[str]:
        path: list[str] = []
        for scope in name.split("/")[:-1]:
            options = list(_without_counts(scope))
            options = options[1:2] + options[:1] + options[2:] if first == 0 else options
            known = next((option for option in options if option in self.names), None)
            if known is None:
                break
            path.append(known)
        return path[1:] if path[:1] == [self.root] else path


def _names_below(layer: Any) -> Iterator[str]:
    for part in getattr(layer, "layers", ()):
        yield str(part.name)
        yield from _names_below(part)


def _without_counts(scope: str) -> Iterator[str]:
    """Give a scope's name as it is, and without one, two ... counts at its end."""
    yield scope
    while (match := re.fullmatch(r"(.+)_\d+", scope)) is not None:
        scope = match[1]
        yield scope


def name_layers(program: onnx.ModelProto, scopes: Scopes) -> None:
    """Call each operator by its layer, and each layer's one kernel ``<layer>.kernel``.

    Parameters
    ----------
    program : onnx.ModelProto
        From tf2onnx; changed in place.
    scopes : Scopes
        The model's.
    """
    graph = program.graph
    sizes = {t.name: int(np.prod(t.dims)) for t in graph.initializer if len(t.dims) > 1}
    kernels: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for node in graph.node:
        weight = next((name for name in node.input[1:2] if name in sizes), None)
        layer = None if weight is None else scopes.layer_of(weight, sizes[weight])
        if layer is not None and weight is not None and weight not in kernels:
            counts[f"{layer}.kernel"] += 1
            if counts[f"{layer}.kernel"] == 1:
                kernels[weight] = f"{layer}.kernel"
        if layer is None and node.op_type in RECURRENT and node.input[1] in sizes:
            tensor = next(t for t in graph.initializer if t.name == node.input[1])
            layer = scopes.layer_of_values(numpy_helper.to_array(tensor))
        layer = layer or scopes.layer_of(node.name)
        if layer is not None:
            name = f"/{layer.replace('.', '/')}/{node.op_type}"
            counts[name] += 1
            node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
    for tensor in graph.initializer:
        tensor.name = kernels.get(tensor.name, tensor.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = kernels.get(name, name)


def mend_erfc(program: onnx.ModelProto) -> None:
    """Write the complementary error function by erf: ONNX has no ``Erfc``.

    Notes
    -----
    erfc(x) = 1 - erf(x) and erfc(-x) = 1 + erf(x). TensorFlow computes exact GELU as
    x/2 erfc(-x/sqrt(2)); the second makes it the form in which everybody else writes it. Far in the
    tail 1 + erf loses erfc's relative precision; GELU multiplies it by x and keeps its absolute
    one, 6e-8 in float32.
    """
    graph = program.graph
    _sink_transposes(graph)
    makers = {node.output[0]: node for node in graph.node if node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.extend(_erf_nodes(node, makers) if node.op_type == "Erfc" else [node])
    if len(nodes) == len(graph.node):
        return
    graph.initializer.append(numpy_helper.from_array(np.array(1.0, np.float32), _ONE))
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(graph)


def _sink_transposes(graph: onnx.GraphProto) -> None:
    """Move the transposes that tf2onnx left before an ``Erfc`` behind the product that reads it.

    It moves them past every operator that it knows, so that they meet and vanish between two
    convolutions: here one would stay within the activation.
    """
    makers = {node.output[0]: node for node in graph.node if node.output}
    for node in [node for node in graph.node if node.op_type == "Erfc"]:
        readers = [other for other in graph.node if node.output[0] in other.input]
        if len(readers) != 1 or readers[0].op_type != "Mul":
            continue
        product = readers[0]
        factor = next((name for name in product.input if name != node.output[0]), "")
        moved = [makers.get(node.input[0]), makers.get(factor)]
        first, second = moved
        if first is None or second is None or {first.op_type, second.op_type} != {"Transpose"}:
            continue
        if list(first.attribute) != list(second.attribute):
            continue
        node.input[0] = first.input[0]
        operands, result = [second.input[0], node.output[0]], product.output[0]
        product.input[:] = operands
        product.output[0] = f"{result}/moved"
        after = onnx.NodeProto()
        after.CopyFrom(first)
        after.input[:], after.output[:] = [product.output[0]], [result]
        after.name = f"{product.name}/transpose"
        graph.node.insert(list(graph.node).index(product) + 1, after)


_ONE = "erfc/one"


def _erf_nodes(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    result, entering, outer = node.output[0], node.input[0], "Sub"
    scale = makers.get(entering)
    if scale is not None and scale.op_type in ("Mul", "Div"):
        negated = makers.get(scale.input[0])
        if negated is not None and negated.op_type == "Neg":
            # a node of its own: others may read the negated product
            entering, outer = f"{result}/scaled", "Add"
            operands = [negated.input[0], scale.input[1]]
            yield helper.make_node(scale.op_type, operands, [entering], f"{node.name}/scale")
    yield helper.make_node("Erf", [entering], [f"{result}/erf"], f"{node.name}/erf")
    yield helper.make_node(outer, [_ONE, f"{result}/erf"], [result], f"{node.name}/sum")


def mend_means(program: onnx.ModelProto) -> None:
    """Write the means inside layer normalisation as ReduceMean.

    Notes
    -----
    tf2onnx writes the mean over the last axes as ``GlobalAveragePool``, which is the same number
    and would pass for a pooling layer of the model.
    """
    inferred = onnx.shape_inference.infer_shapes(program).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in [*inferred.input, *inferred.value_info]
        if value.type.tensor_type.HasField("shape")
    }
    for node in program.graph.node:
        rank = ranks.get(node.input[0], 0) if node.input else 0
        if node.op_type == "GlobalAveragePool" and "/moments/" in node.name and rank > 2:
            axes = list(range(2, rank))
            mean = helper.make_node("ReduceMean", node.input, node.output, node.name, keepdims=1)
            mean.attribute.append(helper.make_attribute("axes", axes))
            node.CopyFrom(mean)


def unknown_operators(program: onnx.ModelProto) -> list[str]:
    """Name the operators that no set imported by the file defines, each with its node.

    Parameters
    ----------
    program : onnx.ModelProto
        From tf2onnx, which writes an operator that it cannot convert as it found it.
    """
    return [
        f"{node.op_type} ({node.name})"
        for node in _all_nodes(program.graph)
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type)
    ]


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _all_nodes(inner)
