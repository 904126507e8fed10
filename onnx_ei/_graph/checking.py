"""What onnx's checker refuses, with the remedy; what it need not refuse, let through."""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from onnx_ei.errors import ModelError

__all__ = ["check"]

# What the checker says, and the remedy.
_REMEDIES = (
    (
        re.compile(r"No opset import for domain '(?P<domain>[^']*)'"),
        "the file does not say which version of domain {domain!r} its operators are from: add it "
        "to opset_import (onnx.helper.make_opsetid({domain!r}, 1)), or correct the domain",
    ),
    (
        re.compile(r"No Op registered for (?P<op>\S+) with domain_version of (?P<version>\d+)"),
        "ONNX has no operator {op!r} in opset {version}: it is misspelt, of another domain, or of "
        "another opset; export the model again with an opset that has it",
    ),
    (
        re.compile(r"must specify opset_import"),
        "the file does not say which opset its operators are from: add opset_import "
        "(onnx.helper.make_opsetid('', version))",
    ),
)
# A file may leave open what its outputs look like: they are inferred anyway. An input of no shape
# takes an example.
_HARMLESS = re.compile(r"Field '(shape' of 'type|type' of 'value_info)' is required but missing")


def check(model: onnx.ModelProto | str, label: str) -> None:
    """Refuse a model that is invalid.

    Parameters
    ----------
    model : onnx.ModelProto or str
        The model, or its path.
    label : str
        What to call it in messages.

    Raises
    ------
    ModelError
        If it is invalid, or written for an opset that is not there yet.
    """
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker has its own, protobuf's and the builtin ones
        said = str(error).strip()
        if not _HARMLESS.search(said):
            raise ModelError(f"{label}: invalid ONNX: {_explained(said)}") from error
        _check_completed(model, label)
    proto = model if isinstance(model, onnx.ModelProto) else _head(model)
    known = onnx.defs.onnx_opset_version()
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > known:
            raise ModelError(
                f"{label}: opset {entry.version} of domain {entry.domain or 'ai.onnx'!r} is newer "
                f"than the {known} that the installed onnx knows; export the model with "
                f"opset {known}, or upgrade onnx and onnxruntime"
            )


def _explained(said: str) -> str:
    """Put the remedy behind what the checker said."""
    for pattern, remedy in _REMEDIES:
        found = pattern.search(said)
        if found is not None:
            place = re.search(r"Context: (.*)", said)
            where = f" ({place.group(1).strip()[:200]})" if place is not None else ""
            return f"{found.group(0)}{where}; {remedy.format(**found.groupdict())}"
    return said[:400]


def _head(path: str) -> onnx.ModelProto:
    return onnx.load(Path(path), load_external_data=False)


def _check_completed(model: onnx.ModelProto | str, label: str) -> None:
    """Check a model once more with shapes of its inputs and outputs that the file leaves out."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model if isinstance(model, onnx.ModelProto) else _head(model))
    for value in (*proto.graph.input, *proto.graph.output):
        kind = value.type.tensor_type
        if not value.type.WhichOneof("value"):
            kind.elem_type = onnx.TensorProto.FLOAT
        if value.type.HasField("tensor_type") and not kind.HasField("shape"):
            kind.shape.SetInParent()
    external = onnx.TensorProto.EXTERNAL
    if any(tensor.data_location == external for tensor in proto.graph.initializer):
        return  # the checker of bytes looks for the data in the folder of the process
    try:
        onnx.checker.check_model(proto)
    except Exception as error:  # as above
        raise ModelError(f"{label}: invalid ONNX: {_explained(str(error).strip())}") from error
