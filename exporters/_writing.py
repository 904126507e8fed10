"""What every exporter does with its file: beside the target, renamed, clean, batch named."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_ei.errors import MissingDependencyError
from onnx_ei.exporters._parity import Array

__all__ = [
    "BATCH",
    "array_like",
    "check_folder",
    "clean",
    "drawn",
    "drop_unread",
    "fix_batch",
    "name_batch",
    "name_node",
    "need",
    "replacing",
    "unique_names",
]

BATCH = "batch"
"""What the free leading dimension is called in every exported file."""

IR_VERSION = 10
"""Every onnxruntime since 1.18 reads it."""


def need(caller: str, packages: dict[str, str], otherwise: str = "") -> None:
    """Import packages, or say which is missing and which extra brings it.

    Parameters
    ----------
    caller : str
        The function that needs them.
    packages : dict of str to str
        Module names, to the extra that brings each.
    otherwise : str
        What else would help.

    Raises
    ------
    MissingDependencyError
        If one cannot be imported.
    """
    for package, extra in packages.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            hint = f" ({otherwise})" if otherwise else ""
            raise MissingDependencyError(
                f'{caller} needs {package}, which is not installed: pip install "{extra}"{hint}'
            ) from error


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Return the target as a path whose folder exists."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path}: the folder {path.parent} does not exist; create it first"
        )
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file beside the target to write to; it takes the target's place on success only."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        file = Path(folder) / path.name
        yield file
        file.replace(path)


def clean(model: onnx.ModelProto) -> None:
    """Drop what may name the machine the file was made on, and lower the IR version."""
    model.ir_version = min(model.ir_version, IR_VERSION)
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in [model.graph, *model.functions]:
        _clean_graph(graph)


def _clean_graph(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    if isinstance(graph, onnx.GraphProto):
        for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
            value.doc_string = ""
            del value.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node:
                    _clean_graph(inner)


def name_batch(model: onnx.ModelProto) -> bool:
    """Call the free leading dimensions ``batch``; tell whether every input has one."""
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = BATCH
    firsts = [value.type.tensor_type.shape.dim[:1] for value in model.graph.input]
    return all(dim[0].dim_param == BATCH for dim in firsts if dim)


def fix_batch(model: onnx.ModelProto, size: int) -> None:
    """Declare that the file takes inputs of one batch size only."""
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param == BATCH:
            dims[0].ClearField("dim_param")
            if value in model.graph.input:
                dims[0].dim_value = size


def drop_unread(graph: onnx.GraphProto) -> None:
    """Drop the nodes and initializers whose results nobody reads."""
    while True:
        read = {name for node in graph.node for name in node.input}
        read.update(value.name for value in graph.output)
        nodes = [node for node in graph.node if read.intersection(node.output)]
        if len(nodes) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(nodes)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def unique_names(graph: onnx.GraphProto) -> None:
    """Tell nodes of one name apart by a count: onnxruntime refuses a file that does not."""
    taken: set[str] = set()
    for node in graph.node:
        name, count = node.name, 1
        while node.name and node.name in taken:
            count += 1
            node.name = f"{name}_{count}"
        taken.add(node.name)


def name_node(node: onnx.NodeProto, layer: str) -> None:
    """Name an operator by its layer, in the form from which keys are read."""
    node.name = f"/{layer.replace('.', '/')}/{node.op_type}"


def array_like(value: Any) -> Array:
    """Give one example input as an array: floats in float32, other numbers as they are."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or not array.ndim:
        raise TypeError(
            "input must be an array of numbers with a leading batch dimension, a tuple of them or "
            f"a dict of them by input name; got {type(value).__name__}"
        )
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def drawn(rng: np.random.Generator, example: Array, batch: int) -> Array:
    """Draw within the example's own range: an index stays valid, a log keeps its domain."""
    shape = (batch, *example.shape[1:])
    low, high = (float(example.min()), float(example.max())) if example.size else (0.0, 0.0)
    made: Array
    if example.dtype.kind == "b":
        made = rng.integers(0, 2, shape)
    elif example.dtype.kind in "iu":
        made = rng.integers(int(low), int(high) + 1, shape)
    elif low < high:
        made = rng.uniform(low, high, shape)
    else:
        made = rng.standard_normal(shape)
    return made.astype(example.dtype)
