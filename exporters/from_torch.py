"""PyTorch to ONNX: free batch, module paths kept, no source paths, checked against the module.

The file is written by ``torch.onnx.export(dynamo=True)``. What this module adds is what a
measurement needs and that call does not promise: eval mode for the time of the export, a leading
dimension that is free where it can be, weights under their ``state_dict`` names, nothing of the
machine it was made on, and outputs that have been compared with the module's own.
"""

from __future__ import annotations

import ast
import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_ei.errors import (
    MissingDependencyError,
    OnnxEiWarning,
    UnsupportedModelError,
)
from onnx_ei.exporters._example import Example, array_of, doubled, example_of, leaves, random_like
from onnx_ei.exporters._parity import Case, check_parity, first_line

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
        If ``opset`` is out of range, or the module fails on the example input.
    FileNotFoundError
        If the folder of ``path`` does not exist.
    MissingDependencyError
        If torch, or for the check onnxruntime, is not installed.
    UnsupportedModelError
        If the exporter cannot express the module in ONNX.
    ModelError
        If the file's outputs differ from the module's. No file is left then.

    Warns
    -----
    OnnxEiWarning
        If the leading dimension cannot be free: the file then takes the example's batch only.

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
    example = example_of(model, input)
    with evaluating(model), torch.no_grad():
        run(model, example)
        program, example, reason = export_program(model, example, opset)
        if reason is not None:
            _warn_of_fixed_batch(model, example, reason)
        _name_folded_weights(program, {k: v.numel() for k, v in model.state_dict().items()})
        _clean(program)
        # Beside the target, so that the last step is a rename and never a half-written file.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            file = Path(folder) / path.name
            _save(program, file, max_inline_bytes)
            if check:
                check_parity(file, type(model).__name__, _cases(model, example, reason is None))
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


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode; afterwards each submodule gets its own mode back, not its root's."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says to its own developers; what it raises still speaks.

    Its warnings are about its own deprecations, LSTM weights and axis names, its log about absent
    packages and about strategies that failed where a later one went on to work.
    """
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def run(model: torch.nn.Module, example: Example, which: str = "the example input") -> Any:
    try:
        return model(*example.args, **example.kwargs)
    # A module's forward is the user's code: it can raise anything.
    except Exception as error:
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in example.tensors)
        raise ValueError(
            f"{type(model).__name__} fails on {which} ({shapes}): {first_line(error)}; "
            "pass an example that its forward accepts"
        ) from error


def export_program(
    model: torch.nn.Module, example: Example, opset: int | None = None, *, optimize: bool = True
) -> tuple[ir.Model, Example, str | None]:
    """Export with a free batch where the exporter proves that it can be, else as the example is.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode.
    example : Example
        An input that it accepts.
    opset : int, optional
        Version of the default operator set.
    optimize : bool
        Whether the exporter may fold weights into each other. Without, every parameter and buffer
        keeps its ``state_dict`` name, and every node is its own module's.

    Returns
    -------
    program : onnx_ir.Model
        The program.
    example : Example
        The input that it was exported with.
    reason : str or None
        Why the batch is not free; None where it is.

    Raises
    ------
    UnsupportedModelError
        If the exporter cannot express the module in ONNX.
    """
    import torch

    reason = "the inputs' leading dimensions differ"
    if example.batch:
        # torch.export takes a dimension of 1 for a constant, so the example must have more.
        wide = example if example.batch > 1 else example.map(doubled)
        try:
            program = _program(model, wide, opset, free=True, optimize=optimize)
        except torch.onnx.OnnxExporterError as error:
            reason = _root(error)
        else:
            if _is_free(program):
                return program, wide, None
            reason = "the module's own shapes fix it"
    try:
        program = _program(model, example, opset, free=False, optimize=optimize)
    except torch.onnx.OnnxExporterError as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be exported to ONNX: {_root(error)}; make its forward "
            "traceable (no control flow on the values of tensors, no operators that ONNX lacks), "
            "or write the file by other means and pass its path"
        ) from error
    return program, example, reason


def _warn_of_fixed_batch(model: torch.nn.Module, example: Example, reason: str) -> None:
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in example.tensors)
    warnings.warn(
        f"{type(model).__name__}: the leading dimension cannot be free ({reason}); the file takes "
        f"inputs of exactly the example's shape: {shapes}",
        OnnxEiWarning,
        stacklevel=3,
    )


def _is_free(program: ir.Model) -> bool:
    """Tell whether the exporter kept the dimension free: it may drop it without a word."""
    shapes = [value.shape for value in program.graph.inputs]
    return all(shape is None or len(shape) == 0 or shape.is_dynamic(0) for shape in shapes)


def _program(
    model: torch.nn.Module, example: Example, opset: int | None, *, free: bool, optimize: bool
) -> ir.Model:
    import torch

    shapes = None
    if free:
        batch = torch.export.Dim("batch")
        collection = torch.export.ShapesCollection()
        for tensor in example.tensors:
            if tensor.dim() > 0:
                collection[tensor] = {0: batch}
        shapes = collection.dynamic_shapes(model, example.args, dict(example.kwargs))
    with _quiet():
        program = torch.onnx.export(
            model,
            example.args,
            kwargs=dict(example.kwargs),
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=opset,
            optimize=optimize,
            verbose=False,
        )
    exported: ir.Model = program.model
    return exported


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


def _cases(model: torch.nn.Module, example: Example, free: bool) -> Iterator[Case]:
    """Give random inputs with the module's outputs, at the example's batch and at one more."""
    rng = np.random.default_rng(0)
    batch = example.batch
    for size in (batch, batch + 1) if free and batch else (None,):
        drawn = example.map(partial(random_like, rng, size))
        outputs = [array_of(tensor) for tensor in leaves(run(model, drawn, "random input"))]
        named = {name: array_of(tensor) for name, tensor in drawn.kwargs.items()}
        yield named or [array_of(tensor) for tensor in drawn.args], outputs


def _root(error: BaseException) -> str:
    """Say in one line what lies at the bottom of a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
