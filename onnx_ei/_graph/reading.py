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

from onnx_ei._graph.checking import check
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
    check(proto, label)
    return _from_proto(proto), label


def read_path(path: Path) -> tuple[ir.Model, str]:
    """Read a model from a file; see :func:`read_model`.

    Raises
    ------
    ModelError
        If it is missing, truncated, not ONNX or invalid, or its external data is.
    """
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
        loaded = _from_proto(onnx.load(path, load_external_data=False))
    except Exception as error:  # protobuf's and the reader's own exceptions share no base
        raise ModelError(
            f"{label}: not an ONNX model, or a truncated one ({size} bytes; {error})"
        ) from error
    check(label, label)
    _check_external(loaded, label, path.absolute().parent)
    return loaded, label


def _from_proto(proto: onnx.ModelProto) -> ir.Model:
    import onnx_ir as ir_module

    model = ir_module.from_proto(_without_maps(proto))
    for value in model.graph.inputs:
        if value.shape is not None:  # paddle2onnx writes -1 or '?' for each dimension that is open
            dims = [None if getattr(d, "value", d) in (-1, "?") else d for d in value.shape]
            value.shape = ir_module.Shape(dims)
    return model


def _without_maps(proto: onnx.ModelProto) -> onnx.ModelProto:
    """End a model at the scores that ZipMap makes dictionaries of; skl2onnx does so by default.

    onnx_ir has no type for dictionaries, and no layer follows them.
    """
    scores = {n.output[0]: n.input[0] for n in proto.graph.node if n.op_type == "ZipMap"}
    if not scores:
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    outputs = {scores.get(v.name, v.name): v for v in graph.output}
    for entries, kept in (
        (graph.node, [n for n in graph.node if n.op_type != "ZipMap"]),
        (graph.value_info, [v for v in graph.value_info if v.name not in scores]),
        (graph.output, [
            onnx.ValueInfoProto(name=name) if value.name in scores else value
            for name, value in outputs.items()
        ]),
    ):  # fmt: skip
        del entries[:]
        entries.extend(kept)
    return changed


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
