"""A PyTorch module -> an ONNX program, by the dynamo exporter or by the legacy one after it.

The dynamo exporter (``torch.export``) proves what it writes, and refuses what it cannot prove. The
legacy one records a run: it takes modules that the other does not (TorchScript modules, operators
without a translation such as ``cdist``), and its programs are compared with the module before they
are used.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_ei.errors import OnnxEiWarning, UnsupportedModelError
from onnx_ei.exporters._example import Example, cases, doubled, leaves, run
from onnx_ei.exporters._legacy_names import name_scopes, name_weights, unshare
from onnx_ei.exporters._parity import check_parity, first_line
from onnx_ei.exporters._writing import need

if TYPE_CHECKING:
    import torch

__all__ = ["EXPORTERS", "Exported", "export_program", "warn_of_legacy"]

EXPORTERS = ("auto", "dynamo", "legacy")

LEGACY_OPSET = 18
"""What the dynamo exporter writes; the legacy one's own default is older."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an exporter wrote.

    Attributes
    ----------
    program : onnx_ir.Model
        The program.
    example : Example
        The input that it was exported with.
    reason : str or None
        Why the batch is not free; None where it is.
    exporter : str
        ``"dynamo"`` or ``"legacy"``.
    cause : str or None
        Why it is not the dynamo exporter's, where that was tried.
    decisions : int
        Decisions of the module on values of the example that the legacy exporter recorded.
    """

    program: ir.Model
    example: Example
    reason: str | None
    exporter: str
    cause: str | None = None
    decisions: int = 0


class _NotExportedError(Exception):
    """An exporter cannot express the module; the message is the cause in one line."""


def export_program(
    model: torch.nn.Module,
    example: Example,
    opset: int | None = None,
    *,
    optimize: bool = True,
    exporter: str = "auto",
) -> Exported:
    """Export with a free batch where that is proven or found to hold, else as the example is.

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
    exporter : {"auto", "dynamo", "legacy"}
        Which; ``"auto"`` tries the legacy one where the dynamo one fails.

    Returns
    -------
    Exported

    Raises
    ------
    UnsupportedModelError
        If no exporter that was tried can express the module in ONNX; all causes are named.
    """
    causes: dict[str, str] = {}
    if exporter != "legacy":
        try:
            return _dynamo(model, example, opset, optimize=optimize)
        except _NotExportedError as error:
            causes["dynamo"] = str(error)
    if exporter != "dynamo":
        try:
            found = _legacy(model, example, opset, optimize=optimize, careful=exporter == "auto")
            return Exported(**{**vars(found), "cause": causes.get("dynamo")})
        except _NotExportedError as error:
            causes["legacy"] = str(error)
    said = "; ".join(f"by the {name} exporter: {cause}" for name, cause in causes.items())
    raise UnsupportedModelError(
        f"{type(model).__name__} cannot be exported to ONNX: {said}. Make its forward "
        "traceable (no control flow on the values of tensors, no operators that ONNX lacks), "
        "or write the file by other means and pass its path"
    )


def warn_of_legacy(model: torch.nn.Module, found: Exported) -> None:
    """Say that the legacy exporter was taken, and what it took for granted."""
    name = type(model).__name__
    if found.cause is not None:
        warnings.warn(
            f"{name}: exported by PyTorch's legacy exporter (dynamo=False), which is to be "
            f"removed; the dynamo exporter fails: {found.cause}",
            OnnxEiWarning,
            stacklevel=3,
        )
    if found.decisions:
        warnings.warn(
            f"{name}: the module takes {found.decisions} decisions on shapes or values, and the "
            "program holds those of the example input for good; its outputs agree with the "
            "module's on random input within the example's range, which is no proof for other",
            OnnxEiWarning,
            stacklevel=3,
        )


def _dynamo(
    model: torch.nn.Module, example: Example, opset: int | None, *, optimize: bool
) -> Exported:
    import torch

    reason = "the inputs' leading dimensions differ"
    if example.batch:
        wide = _wide(example)
        try:
            program = _dynamo_program(model, wide, opset, free=True, optimize=optimize)
        except torch.onnx.OnnxExporterError as error:
            reason = _root(error)
        else:
            if _is_free(program):
                return Exported(program=program, example=wide, reason=None, exporter="dynamo")
            reason = "the module's own shapes fix it"
    try:
        program = _dynamo_program(model, example, opset, free=False, optimize=optimize)
    except torch.onnx.OnnxExporterError as error:
        raise _NotExportedError(_root(error)) from error
    return Exported(program=program, example=example, reason=reason, exporter="dynamo")


def _wide(example: Example) -> Example:
    # Exporters take a dimension of 1 for a constant, so the example must have more.
    return example if (example.batch or 2) > 1 else example.map(doubled)


def _is_free(program: ir.Model) -> bool:
    """Tell whether the exporter kept the dimension free: it may drop it without a word."""
    shapes = [value.shape for value in program.graph.inputs]
    return all(shape is None or len(shape) == 0 or shape.is_dynamic(0) for shape in shapes)


def _dynamo_program(
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
        with _any_failure():
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


@contextmanager
def _any_failure() -> Iterator[None]:
    """Make an exporter's failure of what is raised, which is of every kind."""
    try:
        yield
    except Exception as error:
        raise _NotExportedError(_root(error)) from error


def _legacy(
    model: torch.nn.Module,
    example: Example,
    opset: int | None,
    *,
    optimize: bool,
    careful: bool,
) -> Exported:
    """Record a run; free the batch where another batch gives what the module gives."""
    need("the legacy exporter", {"onnxruntime": "onnx-ei[cpu]"}, "it is compared before use")
    name = type(model).__name__
    reason = "the inputs' leading dimensions differ"
    if example.batch:
        wide = _wide(example)
        try:
            data, decisions = _recorded(model, wide, opset, free=True, fold=optimize)
            check_parity(data, name, cases(model, wide, True), "")
        # a module that fails on another batch raises one, and a ModelError is one
        except (_NotExportedError, ValueError) as error:
            reason = f"the recorded program fixes it: {_root(error)}"
        else:
            if decisions and careful:
                raise _NotExportedError(_DECIDES.format(decisions))
            program = _finished(data, model, optimize)
            return Exported(
                program=program, example=wide, reason=None, exporter="legacy", decisions=decisions
            )
    data, decisions = _recorded(model, example, opset, free=False, fold=optimize)
    if decisions and careful:
        raise _NotExportedError(_DECIDES.format(decisions))
    return Exported(
        program=_finished(data, model, optimize),
        example=example,
        reason=reason,
        exporter="legacy",
        decisions=decisions,
    )


_DECIDES = (
    "its forward takes {} decisions on shapes or values of the example, which a recorded run "
    "would hold for good (exporter='legacy' takes it all the same)"
)


def _finished(data: bytes, model: torch.nn.Module, optimize: bool) -> ir.Model:
    import onnx
    import torch

    program = ir.from_proto(onnx.load_model_from_string(data))
    state = dict(model.state_dict(keep_vars=True))
    unshare(program, state)
    if optimize:
        name_weights(program, state)
    paths = {path for path, _ in model.named_modules(remove_duplicate=False)}
    name_scopes(program, paths, scripted=isinstance(model, torch.jit.ScriptModule))
    return program


def _recorded(
    model: torch.nn.Module, example: Example, opset: int | None, *, free: bool, fold: bool
) -> tuple[bytes, int]:
    """Export with ``dynamo=False``; return the file and the decisions that the tracer saw."""
    import torch

    names = _argument_names(model, example)
    outputs = leaves(run(model, example))
    out_names = [f"output_{i}" for i in range(len(outputs))] if len(outputs) > 1 else ["output"]
    axes = None
    if free:
        named = [*zip(names, _in_order(names, example), strict=True)]
        named += [*zip(out_names, outputs, strict=True)]
        axes = {n: {0: "batch"} for n, t in named if t.dim() and t.shape[0] == example.batch}
    file = BytesIO()
    with _any_failure(), _quiet(), _silenced(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.onnx.export(
            model,
            example.args,
            file,
            kwargs=dict(example.kwargs),
            dynamo=False,
            input_names=names,
            dynamic_axes=axes,
            output_names=out_names,
            opset_version=LEGACY_OPSET if opset is None else opset,
            do_constant_folding=fold,
            # the model is in eval mode; EVAL would fold batch norms into weights of another name
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    tracer = torch.jit.TracerWarning
    return file.getvalue(), sum(issubclass(w.category, tracer) for w in caught)


def _argument_names(model: torch.nn.Module, example: Example) -> list[str]:
    """Name the tensors after the arguments of forward, in the order of its signature."""
    try:
        signature = inspect.signature(model.forward)
        bound = signature.bind(*example.args, **example.kwargs)
    except (TypeError, ValueError):
        return [f"input_{i}" for i in range(len(example.args))] + list(example.kwargs)
    names: list[str] = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}_{i}" for i in range(len(value))]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            names += list(value)
        else:
            names.append(name)
    return names


def _in_order(names: list[str], example: Example) -> list[torch.Tensor]:
    """Return the tensors in the order of their names."""
    positional = iter(example.args)
    return [example.kwargs[name] if name in example.kwargs else next(positional) for name in names]


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


@contextmanager
def _silenced() -> Iterator[None]:
    """Send file descriptors 1 and 2 nowhere: the legacy exporter's C++ writes to them.

    It warns of its own operators there, and on failure prints its graph; the switches that torch
    has for that do not work in 2.13.
    """
    with ExitStack() as stack:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        for stream, descriptor in ((sys.__stdout__, 1), (sys.__stderr__, 2)):
            with suppress(OSError, ValueError):  # closed, in a service without either
                kept = os.dup(descriptor)
                stack.callback(os.close, kept)
                if stream is not None:
                    stream.flush()
                os.dup2(nowhere, descriptor)
                stack.callback(os.dup2, kept, descriptor)
        yield


def _root(error: BaseException) -> str:
    """Say in one line what lies at the bottom of a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
