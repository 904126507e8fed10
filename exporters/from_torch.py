"""PyTorch to ONNX: free batch, module paths kept, no source paths, checked against the module.

The file is written by ``torch.onnx.export``. What this module adds is what a measurement needs and
that call does not promise: eval mode for the time of the export, a leading
dimension that is free where it can be, weights under their ``state_dict`` names, nothing of the
machine it was made on, and outputs that have been compared with the module's own.
"""

from __future__ import annotations

import ast
import importlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnx_ei.errors import MissingDependencyError, OnnxEiWarning, closest
from onnx_ei.exporters._example import Example, cases, evaluating, example_of, run
from onnx_ei.exporters._parity import check_parity
from onnx_ei.exporters._programs import EXPORTERS, export_program, warn_of_legacy

if TYPE_CHECKING:
    import torch

__all__ = ["export_torch"]

IR_VERSION = 10
"""Every onnxruntime since 1.18 reads it."""

MAX_INLINE_BYTES = 2_000_000_000
"""A protobuf message ends at 2**31 - 1 bytes; the difference is room for the graph itself."""

OPSETS = range(18, 24)
"""The exporter's operators are written for 18; newer ones are reached by conversion, to 23."""

KEPT_METADATA = ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")
"""An allow list, so that what a later torch adds does not leak before somebody has read it."""

FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"


def export_torch(
    model: torch.nn.Module,
    input: Any,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    exporter: str = "auto",
    check: bool = True,
    max_inline_bytes: int = MAX_INLINE_BYTES,
) -> Path:
    """Write a PyTorch module as an ONNX file that onnx_ei can measure.

    Parameters
    ----------
    model : torch.nn.Module
        The module. It is exported in eval mode, on its own device and without gradients; the mode
        of each of its submodules is put back afterwards.
    input : torch.Tensor, array-like, tuple or dict
        An example input, batch first: one tensor or array, a tuple of them (positional
        arguments of ``forward``), or a dict by argument name. Floating arrays take the module's
        dtype; tensors keep theirs. Everything is moved to the module's device.
    path : str or os.PathLike
        Where the file goes. Its folder must exist; a file of that name is replaced, and only once
        the new one is complete.
    opset : int, optional
        Version of the default operator set, 18 to 23. Default: the exporter's own choice.
    exporter : {"auto", "dynamo", "legacy"}
        ``"dynamo"`` proves what it writes. ``"legacy"`` (``dynamo=False``, which PyTorch is about
        to remove) records a run, and takes some modules that the other does not: TorchScript's,
        and those with operators that it has no translation of. ``"auto"`` takes the dynamo one and,
        where it fails, the legacy one, unless the recorded run takes decisions on shapes or values
        that would hold for the example alone.
    check : bool, default True
        Compare the file's outputs in onnxruntime with the module's before returning, on random
        input within the example's range, at the example's batch size and at another.
    max_inline_bytes : int, default 2_000_000_000
        Weights of more bytes than this go to ``<name>.data`` beside the file: ONNX files end at
        2 GiB.

    Returns
    -------
    pathlib.Path
        The file written, in IR version 10. Parameters keep their ``state_dict`` names, also where
        the exporter transposed them or folded a batch norm into them; what it merged from several
        has a name of its own. Each node's metadata tells the path of its module.

    Raises
    ------
    TypeError
        If ``model`` is not a module, or ``input`` is no tensor, array, tuple or dict of them.
    ValueError
        If ``opset`` is out of range, ``exporter`` is unknown, or the module fails on the example
        input.
    FileNotFoundError
        If the folder of ``path`` does not exist.
    MissingDependencyError
        If torch, or for the check onnxruntime, is not installed.
    UnsupportedModelError
        If no exporter can express the module in ONNX; the causes are named.
    ModelError
        If the file's outputs differ from the module's. No file is left then.

    Warns
    -----
    OnnxEiWarning
        If the leading dimension cannot be free: the file then takes the example's batch only. If
        the legacy exporter stepped in, or recorded decisions of the module.

    Notes
    -----
    Outputs agree when ``|onnx - torch| <= 1e-6 + 1e-4 * max|torch|`` (1e-2 for 16-bit floats),
    NaN equal to NaN.

    Examples
    --------
    >>> import torch, tempfile
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Sigmoid())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_torch(net, torch.zeros(1, 4), f"{folder}/net.onnx").name
    'net.onnx'
    """
    require("torch", "onnx-ei[torch]")
    if check:
        require("onnxruntime", "onnx-ei[cpu]", "or pass check=False to skip the comparison")
    import torch

    path = Path(path)
    _validate(model, path, opset, max_inline_bytes)
    if exporter not in EXPORTERS:
        raise ValueError(f"unknown exporter {exporter!r}: {closest(str(exporter), EXPORTERS)}")
    example = example_of(model, input)
    with evaluating(model), torch.no_grad():
        run(model, example)
        found = export_program(model, example, opset, exporter=exporter)
        program, example, reason = found.program, found.example, found.reason
        warn_of_legacy(model, found)
        if reason is not None:
            _warn_of_fixed_batch(model, example, reason)
        _name_folded_weights(program, {k: v.numel() for k, v in model.state_dict().items()})
        _clean(program)
        # Beside the target, so that the last step is a rename and never a half-written file.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            file = Path(folder) / path.name
            _save(program, file, max_inline_bytes)
            if check:
                check_parity(file, type(model).__name__, cases(model, example, reason is None))
            for written in sorted(Path(folder).iterdir()):
                written.replace(path.parent / written.name)
    return path


def require(package: str, extra: str, otherwise: str = "") -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        hint = f" ({otherwise})" if otherwise else ""
        raise MissingDependencyError(
            f'export_torch needs {package}, which is not installed: pip install "{extra}"{hint}'
        ) from error


def _validate(model: torch.nn.Module, path: Path, opset: int | None, max_inline_bytes: int) -> None:
    import torch

    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if opset is not None and opset not in OPSETS:
        raise ValueError(
            f"opset must be from {OPSETS[0]} to {OPSETS[-1]}, or None for the exporter's own "
            f"choice; got {opset!r}"
        )
    if max_inline_bytes < 0:
        raise ValueError(f"max_inline_bytes must be 0 or more, got {max_inline_bytes}")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path}: the folder {path.parent} does not exist; create it first"
        )


def _warn_of_fixed_batch(model: torch.nn.Module, example: Example, reason: str) -> None:
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in example.tensors)
    warnings.warn(
        f"{type(model).__name__}: the leading dimension cannot be free ({reason}); the file takes "
        f"inputs of exactly the example's shape: {shapes}",
        OnnxEiWarning,
        stacklevel=3,
    )


def _clean(program: ir.Model) -> None:
    """Keep what names modules, drop what names this machine: stack traces hold source paths."""
    program.ir_version = IR_VERSION
    program.doc_string = None
    program.metadata_props.clear()
    for function in program.functions.values():
        function.doc_string = None
        function.metadata_props.clear()
    for graph in program.graphs():
        graph.doc_string = None
        graph.metadata_props.clear()
        for value in [*graph.inputs, *graph.initializers.values()]:
            _strip(value)
        for node in graph:
            _strip(node)
            for value in node.outputs:
                _strip(value)


def _strip(thing: ir.Node | ir.Value) -> None:
    thing.doc_string = None
    kept = {key: thing.metadata_props[key] for key in KEPT_METADATA if key in thing.metadata_props}
    thing.metadata_props.clear()
    thing.metadata_props.update(kept)


def _name_folded_weights(program: ir.Model, sizes: Mapping[str, int]) -> None:
    """Give a weight that the optimizer rewrote (transposed, say) its ``state_dict`` name again."""
    initializers = program.graph.initializers
    for value in list(initializers.values()):
        sources = ast.literal_eval(value.metadata_props.get(FOLDED_FROM, "[]"))
        names = [source for source in sources if source in sizes]
        # The same size: a constant can be folded from a weight's shape alone.
        if len(names) == 1 and names[0] not in initializers:
            tensor = value.const_value
            if tensor is not None and tensor.size == sizes[names[0]]:
                value.name = names[0]


def _save(program: ir.Model, file: Path, max_inline_bytes: int) -> None:
    tensors = [value.const_value for value in program.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    data = f"{file.name}.data" if size > max_inline_bytes else None
    ir.save(program, file, external_data=data)
