"""What skl2onnx leaves unsaid or says wrong: which estimator a node is, and its output's shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_ei.exporters._parity import Array
from onnx_ei.exporters._writing import name_node

__all__ = ["mend_outputs", "name_layers"]

ENDINGS = {"Relu", "Tanh", "Sigmoid", "Softmax"}


def name_layers(program: onnx.ModelProto, model: Any) -> None:
    """Name weights, biases and operators by the estimator's step and the layer's place in it.

    Parameters
    ----------
    program : onnx.ModelProto
        From skl2onnx; changed in place.
    model : sklearn.base.BaseEstimator
        What it was made of. A layer is known by the values of its weights.
    """
    graph = program.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    for layer, weight, bias in _layers(model):
        node = next((n for n in graph.node if _reads(n, weight, arrays, renamed)), None)
        if node is None:
            continue
        renamed[node.input[1]] = f"{layer}.weight"
        name_node(node, layer)
        for reader in _followers(graph, node):
            name_node(reader, layer)
            for name in reader.input:
                if name in arrays and name not in renamed and _same(arrays[name], bias):
                    renamed[name] = f"{layer}.bias"
    _rename(graph, renamed)


def _layers(model: Any) -> Iterator[tuple[str, Array, Array]]:
    """Give the name, weight (n_inputs, n_outputs) and bias of each layer that can be told."""
    found = list(_estimators("", model))
    networks = sum(hasattr(estimator, "coefs_") for _, estimator in found)
    for path, estimator in found:
        if hasattr(estimator, "coefs_"):
            prefix = f"{path}." if path and networks > 1 else ""
            last = len(estimator.coefs_) - 1
            for index, weight in enumerate(estimator.coefs_):
                layer = "output" if index == last else f"hidden{index + 1}"
                yield prefix + layer, weight, estimator.intercepts_[index]
        elif getattr(estimator, "components_", None) is not None:
            step = path or type(estimator).__name__.lower()
            yield step, np.transpose(estimator.components_), np.empty(0)


def _estimators(path: str, model: Any) -> Iterator[tuple[str, Any]]:
    """Walk a pipeline, a union or an ensemble; each fitted estimator with the path of its step."""
    yield path, model
    named: list[tuple[str, Any]] = []
    for attribute in ("steps", "transformer_list", "transformers_"):
        named += [(step[0], step[1]) for step in getattr(model, attribute, ())]
    parts = getattr(model, "estimators_", ())
    if isinstance(parts, list):
        steps = [step[0] for step in getattr(model, "estimators", None) or ()]
        names = steps if len(steps) == len(parts) else [f"estimator{i}" for i in range(len(parts))]
        named += list(zip(names, parts, strict=True))
    for name, part in named:
        step = name.replace("-", "_").replace(" ", "_")
        yield from _estimators(f"{path}.{step}" if path else step, part)


def _reads(
    node: onnx.NodeProto, weight: Array, arrays: Mapping[str, Array], taken: Mapping[str, str]
) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] in taken:
        return False
    held = arrays.get(node.input[1])
    return held is not None and held.shape == weight.shape and _same(held, weight)


def _same(held: Array, wanted: Array) -> bool:
    return held.size == wanted.size and np.array_equal(
        np.ravel(held), np.ravel(wanted).astype(held.dtype)
    )


def _followers(graph: onnx.GraphProto, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Give the Add and the activation that a MatMul's output goes through alone."""
    for wanted in ({"Add"}, ENDINGS):
        readers = [n for n in graph.node if node.output[0] in n.input]
        if len(readers) != 1 or readers[0].op_type not in wanted:
            return
        node = readers[0]
        yield node


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


def mend_outputs(program: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the outputs the shapes that the estimator's have.

    Parameters
    ----------
    program : onnx.ModelProto
        From skl2onnx; changed in place.
    shapes : mapping of str to tuple of int
        By output, without the batch.

    Notes
    -----
    skl2onnx 1.20 reshapes the outputs of an ``MLPRegressor`` to one column however many there are,
    and declares the labels of a multilabel classifier a vector.
    """
    graph = program.graph
    makers = {name: node for node in graph.node for name in node.output}
    for value in graph.output:
        shape = shapes.get(value.name)
        if shape is None:
            continue
        maker = makers[value.name]
        if maker.op_type == "Reshape" and len(shape) == 1 and shape != (1,):
            name = f"{value.name}_shape"
            graph.initializer.append(numpy_helper.from_array(np.array([-1, *shape]), name))
            maker.input[1] = name
        # ClearField drops only what was declared; the element type stays
        value.type.tensor_type.ClearField("shape")
        value.type.tensor_type.shape.dim.add()
        for size in shape:
            value.type.tensor_type.shape.dim.add().dim_value = size
