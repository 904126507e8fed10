"""What PyTorch's legacy exporter merges, transposes and leaves unnamed, put right again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_ei.exporters._example import array_of

if TYPE_CHECKING:
    import torch

__all__ = ["name_scopes", "name_weights", "unshare"]

SCOPES = "pkg.torch.onnx.name_scopes"
_SECOND_CALL = re.compile(r"_\d+$")


def unshare(program: ir.Model, state: Mapping[str, torch.Tensor]) -> None:
    """Give each parameter an initializer of its own again.

    The exporter keeps one of several that are equal (all batch norms' at first) and writes the
    others as Identity nodes of it: after a step of training they are not equal any more.

    Parameters
    ----------
    program : onnx_ir.Model
        Changed in place.
    state : mapping of str to torch.Tensor
        The ``state_dict``.
    """
    graph = program.graph
    for node in list(graph):
        output = node.outputs[0]
        name = str(output.name)
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "Identity" or source is None or name not in state:
            continue
        if str(source.name) not in graph.initializers or name in graph.initializers:
            continue
        # one tensor of two names stays one
        if state.get(str(source.name)) is state[name]:
            continue
        array = array_of(state[name])
        own = ir.Value(
            name=name,
            type=source.type,
            shape=ir.Shape(array.shape),
            const_value=ir.tensor(array, name=name),
        )
        output.name = f"{name}.alias"
        output.replace_all_uses_with(own)
        graph.remove(node, safe=True)
        graph.register_initializer(own)


def name_weights(program: ir.Model, state: Mapping[str, torch.Tensor]) -> None:
    """Give a weight that the exporter transposed its ``state_dict`` name again.

    Parameters
    ----------
    program : onnx_ir.Model
        Changed in place.
    state : mapping of str to torch.Tensor
        The ``state_dict``.
    """
    initializers = program.graph.initializers
    arrays = {name: array_of(t) for name, t in state.items() if t.dim() == 2}
    for name, value in list(initializers.items()):
        tensor = value.const_value
        if name in state or tensor is None or len(tensor.shape) != 2:
            continue
        held = tensor.numpy()
        same = [
            known
            for known, array in arrays.items()
            if array.T.shape == held.shape and np.array_equal(array.T, held)
        ]
        if len(same) == 1 and same[0] not in initializers:
            value.name = same[0]


def name_scopes(program: ir.Model, modules: Set[str], *, scripted: bool = False) -> None:
    """Write the module that each node's name tells, as the dynamo exporter does.

    A node in ``layer.1.conv`` is called ``/layer/layer.1/conv/Conv``; the second call of a module,
    ``/conv_1/Conv``.

    Parameters
    ----------
    program : onnx_ir.Model
        Changed in place.
    modules : set of str
        The paths that there are.
    scripted : bool
        Whether it is a TorchScript module: where such a one is exported for a second time, names
        tell no path, and the owner of a node's weight is its module.
    """
    for node in program.graph:
        name = node.name or ""
        if not name.startswith("/"):
            continue
        scopes = _scopes(name, modules)
        owner = _owner(node) if scripted and scopes == [""] else None
        if owner is not None and owner in modules:
            scopes.append(owner)
        node.metadata_props[SCOPES] = repr([*scopes, name])


def _scopes(name: str, modules: Set[str]) -> list[str]:
    path, scopes = "", [""]
    for part in name.strip("/").split("/")[:-1]:
        path = part if not path or part.startswith(f"{path}.") else f"{path}.{part}"
        if path not in modules and _SECOND_CALL.sub("", path) in modules:
            path = _SECOND_CALL.sub("", path)
        scopes.append(path)
    return scopes


def _owner(node: ir.Node) -> str | None:
    """Return what the name of a node's first constant stands under."""
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None and producer.op_type == "Transpose":
            value = producer.inputs[0]
        if value is not None and value.is_initializer():
            return str(value.name).rpartition(".")[0] or None
    return None
