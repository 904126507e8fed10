"""Path, bytes or proto -> a checked, inlined, folded, shape-inferred model.

A model is specialised to one example: the batch is 1, the other open dimensions take the sizes of
the example input where one is given. Chains of ``Shape`` arithmetic then fold into constants, and
every tensor has its real shape. Nothing is converted between opsets: the file is analysed as it is.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from .errors import ModelError, closest
from .sessions import Session

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["Model", "load_model"]

IR_VERSION = 10
# What the folder may evaluate and keep: enough for shape arithmetic and small tables, too little
# for a weight matrix to be computed twice.
FOLD_INPUT_LIMIT = 1 << 14
FOLD_OUTPUT_LIMIT = 1 << 18


@dataclass(kw_only=True, eq=False)
class Model:
    """A loaded model, specialised to one example.

    Attributes
    ----------
    ir : onnx_ir.Model
        The graph: functions inlined, constants folded, batch 1, shapes inferred afresh.
    label : str
        The file's path, or what else the model came as; for messages.
    example : dict of str to ndarray or None
        The example input by input name, batch as given.
    open_inputs : dict of str to tuple
        Inputs with dimensions that neither the file nor an example settles; open ones are None.
    """

    ir: ir.Model
    label: str
    example: dict[str, NDArray[Any]] | None
    open_inputs: dict[str, tuple[int | None, ...]]
    cache: dict[object, Any] = field(default_factory=dict, repr=False)

    def tensors(self, names: list[str]) -> dict[str, NDArray[Any]]:
        """Run the whole model on the example and return inner tensors by name.

        Raises
        ------
        ModelError
            If there is no example input.
        """
        if self.example is None:
            raise ModelError(
                f"{self.label}: inner values are needed and there is no example input; "
                "pass input= (an array, a tuple, or a dict by input name) to topology_of"
            )
        return _inner_values(self.ir, self.example, names)


def load_model(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto, example: object = None
) -> Model:
    """Read a model, check it and make it ready for analysis.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        External data is looked for beside the file; bytes and protos must hold their weights.
    example : array, tuple of arrays, dict of str to array, optional
        Settles the dimensions that the file leaves open.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        If it is missing, truncated, not ONNX, invalid, or the example does not fit.
    TypeError
        If ``model`` is none of the allowed kinds.
    """
    import onnx_ir as ir_module
    from onnx_ir.passes import common

    loaded, label = _read(model)
    _drop_inferred(loaded)
    for transform in (
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveInitializersFromInputsPass(),
        common.NameFixPass(),
    ):
        try:
            transform(loaded)
        except Exception as error:  # the passes raise whatever a malformed graph makes them raise
            raise ModelError(f"{label}: the graph is malformed ({error})") from error
    inputs = {str(v.name): v for v in loaded.graph.inputs}
    feeds = None if example is None else _bind_example(label, inputs, example)
    open_inputs = _fix_shapes(loaded, feeds)
    _fold(loaded)
    loaded.ir_version = max(IR_VERSION, loaded.ir_version or 0)
    result = Model(ir=loaded, label=label, example=feeds, open_inputs=open_inputs)
    if not open_inputs:
        _measure_unknown_shapes(result, ir_module.Shape)
    return result


def _read(model: object) -> tuple[ir.Model, str]:
    import onnx_ir as ir_module

    if isinstance(model, (str, os.PathLike)):
        return _read_path(Path(model))
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
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"{label}: weight {tensor.name!r} lies in an external file, which bytes and protos "
                "cannot name; pass the path of the .onnx file instead"
            )
    _check(proto, label)
    return ir_module.from_proto(proto), label


def _read_path(path: Path) -> tuple[ir.Model, str]:
    import onnx_ir as ir_module

    label = str(path)
    if not path.exists():
        beside = [p.name for p in path.parent.glob("*.onnx")] if path.parent.is_dir() else []
        hint = f"; {closest(path.name, beside)}" if beside else ""
        raise ModelError(f"{label}: no such file{hint}")
    if not path.is_file():
        raise ModelError(f"{label}: a folder, not an .onnx file")
    try:
        # by path: external data stays in its file, mapped when it is read
        loaded = ir_module.load(path)
    except Exception as error:  # protobuf's and the reader's own exceptions share no base
        size = path.stat().st_size
        raise ModelError(
            f"{label}: not an ONNX model, or a truncated one ({size} bytes; {error})"
        ) from error
    _check(label, label)
    return loaded, label


def _check(model: onnx.ModelProto | str, label: str) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{label}: invalid ONNX: {str(error).strip()[:400]}") from error


def _drop_inferred(model: ir.Model) -> None:
    """Forget the exporter's shapes, which can be wrong; element types stay where ops lack rules."""
    for graph in model.graphs():
        for node in graph:
            for value in node.outputs:
                value.shape = None


def _bind_example(
    label: str, inputs: Mapping[str, ir.Value], example: object
) -> dict[str, NDArray[Any]]:
    named = _named(label, list(inputs), example)
    feeds = {}
    for name, given in named.items():
        array = _to_numpy(given)
        value = inputs[name]
        if value.dtype is not None and not value.dtype.is_string():
            array = array.astype(value.dtype.numpy(), copy=False)
        declared = _declared(value)
        if declared is not None and not _fits(declared, array.shape):
            raise ModelError(
                f"{label}: input {name!r} has shape {_shown(declared)}, "
                f"the example given has {array.shape}"
            )
        feeds[name] = array
    return feeds


def _named(label: str, names: list[str], example: object) -> dict[str, Any]:
    if isinstance(example, Mapping):
        unknown = [k for k in example if k not in names]
        if unknown:
            raise ModelError(f"{label}: no input {unknown[0]!r}; {closest(unknown[0], names)}")
        named = dict(example)
    else:
        given = list(example) if isinstance(example, (tuple, list)) else [example]
        named = dict(zip(names, given, strict=False))
        if len(given) > len(names):
            raise ModelError(f"{label}: {len(given)} example inputs for {len(names)} inputs")
    missing = [n for n in names if n not in named]
    if missing:
        raise ModelError(f"{label}: the example lacks input {missing[0]!r}; inputs: {names}")
    return named


def _to_numpy(given: Any) -> NDArray[Any]:
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    return np.asarray(given)


def _declared(value: ir.Value) -> tuple[int | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else None for d in value.shape)


def _fits(declared: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    # a file with a fixed batch still takes an example of another one: the batch is set to 1
    pairs = list(zip(declared, shape, strict=False))[1:]
    return len(declared) == len(shape) and all(d is None or d == s for d, s in pairs)


def _shown(dims: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in dims) + ")"


def _fix_shapes(
    model: ir.Model, feeds: dict[str, NDArray[Any]] | None
) -> dict[str, tuple[int | None, ...]]:
    """Set input shapes: those of the example, else batch 1; return those that stay open."""
    import onnx_ir as ir_module

    batch = {
        d.value
        for v in model.graph.inputs
        if v.shape is not None and len(v.shape) and not isinstance(d := v.shape[0], int)
    } - {None}
    still_open = {}
    for value in model.graph.inputs:
        name = str(value.name)
        dims: list[int | None]
        if feeds is not None:
            feeds[name] = _one_sample(feeds[name], value)
            dims = list(feeds[name].shape)
        elif value.shape is None:
            continue
        else:
            dims = [
                d if isinstance(d, int) else 1 if axis == 0 or d.value in batch else None
                for axis, d in enumerate(value.shape)
            ]
        if None in dims:
            still_open[name] = tuple(dims)
            original = list(value.shape or [])
            dims = [original[a] if d is None else d for a, d in enumerate(dims)]  # type: ignore[misc]
        value.shape = ir_module.Shape(dims)
    for value in model.graph.outputs:
        value.shape = None
    return still_open


def _one_sample(array: NDArray[Any], value: ir.Value) -> NDArray[Any]:
    """Keep the first sample where the file leaves the batch free; a fixed batch is kept."""
    if value.shape is None or not len(value.shape) or isinstance(value.shape[0], int):
        return array
    return array[:1]


def _fold(model: ir.Model) -> None:
    """Fold constants and infer shapes until neither finds more."""
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    infer = common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    for _ in range(4):  # a fold can settle a shape that lets another fold; real files need 2
        infer(model)
        folded = fold_constants(
            model, input_size_limit=FOLD_INPUT_LIMIT, output_size_limit=FOLD_OUTPUT_LIMIT
        )
        if not folded.modified:
            break
    common.RemoveUnusedNodesPass()(model)
    infer(model)


def _measure_unknown_shapes(model: Model, shape_type: Any) -> None:
    """Where an operator has no shape rule, run the model once and read its tensors' shapes."""
    unknown = [
        v for n in model.ir.graph for v in n.outputs if v.name and _declared_static(v) is None
    ]
    if not unknown:
        return
    feeds = _neutral_inputs(model.ir) if model.example is None else model.example
    values = _inner_values(model.ir, feeds, [str(v.name) for v in unknown])
    for value in unknown:
        value.shape = shape_type(values[str(value.name)].shape)


def _declared_static(value: ir.Value) -> tuple[int, ...] | None:
    dims = _declared(value)
    return None if dims is None or None in dims else tuple(d for d in dims if d is not None)


def _neutral_inputs(model: ir.Model) -> dict[str, NDArray[Any]]:
    """Zeros for indices (any table has a row 0), seeded noise for numbers."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.inputs:
        shape = _declared_static(value) or ()
        dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
        noise = rng.random(shape) if np.issubdtype(dtype, np.floating) else np.zeros(shape)
        feeds[str(value.name)] = noise.astype(dtype)
    return feeds


def _inner_values(
    model: ir.Model, feeds: Mapping[str, NDArray[Any]], names: list[str]
) -> dict[str, NDArray[Any]]:
    """Run a model with some inner tensors as its outputs."""
    by_name = {str(v.name): v for n in model.graph for v in n.outputs}
    given = {n: feeds[n] for n in names if n in feeds}
    wanted = [n for n in names if n not in given]
    kept = list(model.graph.outputs)
    try:
        model.graph.outputs.clear()
        model.graph.outputs.extend(by_name[n] for n in wanted)
        values = Session(model).run(feeds, wanted) if wanted else []
    finally:
        model.graph.outputs.clear()
        model.graph.outputs.extend(kept)
    return given | dict(zip(wanted, values, strict=True))
