"""Names for what jax2onnx numbers: a weight is known by its values, a layer by its weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import permutations

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_ei.exporters._parity import Array

__all__ = ["name_layers"]

LAYERS = {"Gemm", "MatMul", "Conv", "ConvTranspose", "Einsum"}
POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}
KEEPING = {"Transpose", "Cast", "Reshape", "Identity"}


def name_layers(program: onnx.ModelProto, weights: Mapping[str, Array]) -> None:
    """Rename weights, and the operators that read them.

    Parameters
    ----------
    program : onnx.ModelProto
        From jax2onnx; changed in place.
    weights : mapping of str to ndarray
        By dotted path (``block.dense.kernel``).
    """
    graph = program.graph
    names = _found({t.name: numpy_helper.to_array(t) for t in graph.initializer}, weights)
    constants = {tensor.name for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node if node.output}
    counts: Counter[str] = Counter()
    nameless = 0
    for node in graph.node:
        if node.op_type in POOLS:
            node.name = f"/{node.op_type.lower()}{counts[node.op_type]}/{node.op_type}"
            counts[node.op_type] += 1
        if node.op_type not in LAYERS:
            continue
        held = [_constant_behind(name, constants, makers) for name in node.input[:2]]
        weight = next((name for name in reversed(held) if name is not None), None)
        if weight is None:
            continue
        layer = names.get(weight, "").rpartition(".")[0]
        if not layer:
            layer, nameless = f"layer{nameless}", nameless + 1
        counts[layer] += 1
        suffix = "" if counts[layer] == 1 else f"_{counts[layer]}"
        node.name = f"/{layer.replace('.', '/')}/{node.op_type}{suffix}"
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


def _constant_behind(
    name: str, constants: set[str], makers: Mapping[str, onnx.NodeProto]
) -> str | None:
    """Return the initializer that a value is made of, through what only moves its numbers."""
    while name not in constants:
        maker = makers.get(name)
        if maker is None or maker.op_type not in KEEPING:
            return None
        name = maker.input[0]
    return name


def _found(held: Mapping[str, Array], weights: Mapping[str, Array]) -> dict[str, str]:
    """Pair initializers with weights, where each is the other's only match."""
    matches = {
        name: [path for path, weight in weights.items() if _same(array, weight)]
        for name, array in held.items()
        if array.size > 1
    }
    uses = Counter(path for paths in matches.values() for path in paths)
    return {
        name: paths[0] for name, paths in matches.items() if len(paths) == 1 and uses[paths[0]] == 1
    }


def _same(held: Array, weight: Array) -> bool:
    if held.size != weight.size or held.dtype.kind != "f":
        return False
    weight = weight.astype(held.dtype)
    if held.shape == weight.shape and np.array_equal(held, weight):
        return True
    # the sums differ unless the values are the same ones: cheaper than every order of the axes
    if not np.isclose(held.sum(dtype=np.float64), weight.sum(dtype=np.float64)):
        return False
    return any(
        np.array_equal(held.ravel(), weight.transpose(axes).ravel())
        for axes in permutations(range(weight.ndim))
    )
