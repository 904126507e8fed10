"""Path, bytes or proto -> a checked model: what is refused, and the remedy.

External data is never followed out of the model's own folder, and never looked for at all where a
model comes without a folder: a relative path would then be read from wherever the process runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from onnx_ei.errors import ModelError, closest

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["read_model", "read_path"]


def read_model(model: object) -> tuple[ir.Model, str]:
    """Read a model and check it.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        External data is looked for beside the file; bytes and protos must hold their weights.

    Returns
    -------
    model : onnx_ir.Model
        As it is in the file; external data stays there, mapped when it is read.
    label : str
        What to call it in messages.

    Raises
    ------
    ModelError
        If it is missing, truncated, not ONNX or invalid.
    TypeError
        If it is none of the allowed kinds.
    """
    import onnx_ir as ir_module

    if isinstance(model, (str, os.PathLike)):
        return read_path(Path(model))
    if isinstance(model, (bytes, bytearray, memoryview)):
        data = bytes(model)
        label = f"model of {len(data)} bytes ({hashlib.sha256(data).hexdigest()[:8]})"
        proto = onnx.ModelProto()
        try:
            proto.ParseFromString(data)
        except Exception as error:  # protobuf's DecodeError differs between its implementations
            raise ModelError(f"{label}: not an ONNX model ({error})") from error
    elif isinstance(model, onnx.ModelProto):
        proto, label = model, f"model {model.graph.name!r}"
    else:
        raise TypeError(
            "model must be a path, bytes, an onnx.ModelProto or a torch.nn.Module, "
            f"got {type(model).__name__}"
        )
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"{label}: weight {tensor.name!r} lies in an external file, which bytes and protos "
                "cannot name; pass the path of the .onnx file instead"
            )
    _check(proto, label)
    return ir_module.from_proto(proto), label


def read_path(path: Path) -> tuple[ir.Model, str]:
    """Read a model from a file; see :func:`read_model`.

    Raises
    ------
    ModelError
        If it is missing, truncated, not ONNX or invalid, or its external data is.
    """
    import onnx_ir as ir_module

    label = str(path)
    if not os.path.exists(path):
        beside = [p.name for p in path.parent.glob("*.onnx")] if path.parent.is_dir() else []
        hint = f"; {closest(path.name, beside)}" if beside else ""
        raise ModelError(f"{label}: no such file{hint}")
    if not path.is_file():
        raise ModelError(f"{label}: a folder, not an .onnx file")
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"{label}: an empty file, not an ONNX model")
    try:
        # absolute, since onnx_ir does not check external paths against a folder of no name
        loaded = ir_module.load(path.absolute())
    except Exception as error:  # protobuf's and the reader's own exceptions share no base
        raise ModelError(
            f"{label}: not an ONNX model, or a truncated one ({size} bytes; {error})"
        ) from error
    _check(label, label)
    _check_external(loaded, label, path.absolute().parent)
    return loaded, label


def _check(model: onnx.ModelProto | str, label: str) -> None:
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker has its own, protobuf's and the builtin ones
        raise ModelError(f"{label}: invalid ONNX: {str(error).strip()[:400]}") from error


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that a model holds, those in nodes, branches and functions included."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in attribute.graphs:
                yield from _graph_tensors(graph)
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g)


def _check_external(model: ir.Model, label: str, folder: Path) -> None:
    """Refuse a data file that is cut short: else it fails when a weight is first read."""
    import onnx_ir as ir_module

    graphs = [*model.graphs(), *model.functions.values()]
    for function in model.functions.values():
        graphs += function.subgraphs()
    for graph in graphs:
        weights = graph.initializers.values() if isinstance(graph, ir_module.Graph) else ()
        tensors: list[object] = [value.const_value for value in weights]
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir_module.AttributeType.TENSOR and not attribute.is_ref():
                    tensors.append(attribute.value)
        for tensor in tensors:
            if isinstance(tensor, ir_module.ExternalTensor):
                tensor.base_dir = folder  # onnx_ir leaves out those in functions
                _check_length(tensor, label)


def _check_length(tensor: ir.ExternalTensor, label: str) -> None:
    held = os.path.getsize(tensor.path)
    start = tensor.offset or 0
    needed = start + tensor.nbytes
    if held < needed or (tensor.length is not None and tensor.length < tensor.nbytes):
        raise ModelError(
            f"{label}: weight {tensor.name!r} needs bytes {start} to {needed} of "
            f"{Path(tensor.path).name!r}, which holds {held}; the file is truncated, or belongs to "
            "another model"
        )
