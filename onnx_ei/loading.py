"""Path, bytes or proto -> a checked, inlined, folded, shape-inferred model.

A model is specialised to one example: the batch is 1, the other open dimensions take the sizes of
the example input where one is given. Chains of ``Shape`` arithmetic then fold into constants, and
every tensor has its real shape. Nothing is converted between opsets: the file is analysed as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_ei._graph.einsum import spell_out
from onnx_ei._graph.example import (
    bind_example,
    declared,
    fits,
    fix_shapes,
    neutral_inputs,
    shown,
    static,
)
from onnx_ei._graph.folding import fold, is_sequence
from onnx_ei._graph.fused import unfuse
from onnx_ei._graph.live import LiveWeights, Reading, drop_neutral, unfolded
from onnx_ei._graph.quantised import make_real
from onnx_ei._graph.reading import read_model, read_path
from onnx_ei._graph.unknown import trouble
from onnx_ei._graph.widening import widened
from onnx_ei.errors import BackendError, ModelError, closest
from onnx_ei.sessions import Session

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["Model", "example_of_shape", "load_model", "prepare_model"]

IR_VERSION = 10


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
    origins : dict of str to str
        Tensors computed from weights alone, such as a transposed or dequantised one, to the weight
        that each is made of: folding would lose its name.
    pinned : dict of str to number
        Inputs of rank 0 that the example turned into constants.
    live : LiveWeights or None
        Weights that belong to a network outside, and are read again when they are used.
    trouble : str or None
        Why the whole model does not run, where its shapes were asked of it: what follows the
        operator that is missing keeps open shapes.
    """

    ir: ir.Model
    label: str
    example: dict[str, NDArray[Any]] | None
    open_inputs: dict[str, tuple[int | None, ...]]
    origins: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, Any] = field(default_factory=dict)
    live: LiveWeights | None = None
    trouble: str | None = None
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
        if self.live is not None:
            self.live.refresh()
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
    loaded, label = read_model(model)
    return prepare_model(loaded, label, example)


def prepare_model(
    loaded: ir.Model,
    label: str,
    example: object = None,
    *,
    live: Sequence[str] = (),
    read: Callable[[str], Reading] | None = None,
) -> Model:
    """Inline, specialise, fold and infer a model that has been read.

    Parameters
    ----------
    loaded : onnx_ir.Model
        The model; it is changed.
    label : str
        What to call it in messages.
    example : array, tuple of arrays, dict of str to array, optional
        As for :func:`load_model`.
    live : sequence of str
        Initializers that go on changing: nothing that depends on them is folded.
    read : callable, optional
        Reads one of them; needed where there are any.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        If the graph is malformed, or the example does not fit.
    """
    from onnx_ir.passes import common

    types = _drop_inferred(loaded)
    for transform in (
        common.InlinePass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveInitializersFromInputsPass(),
        common.NameFixPass(_node_namer()),
    ):
        try:
            transform(loaded)
        except Exception as error:  # the passes raise whatever a malformed graph makes them raise
            raise ModelError(f"{label}: the graph is malformed ({error})") from error
    unfuse(loaded)
    inputs = {str(v.name): v for v in loaded.graph.inputs}
    feeds = None if example is None else bind_example(label, inputs, example)
    pinned = {} if feeds is None else _pin_scalars(loaded, feeds)
    open_inputs = fix_shapes(loaded, feeds)
    origins = _origins(loaded)
    with unfolded(loaded, live):
        fold(loaded)
        if read is not None:
            drop_neutral(loaded)
    for value, kind in types:  # of operators without a rule, the file is all there is
        value.type = kind if value.type is None else value.type
    for node in loaded.graph:
        if node.op_type == "Einsum":
            spell_out(node)
    make_real(loaded)
    loaded.ir_version = max(IR_VERSION, loaded.ir_version or 0)
    result = Model(
        ir=loaded,
        label=label,
        example=feeds,
        open_inputs=open_inputs,
        origins=origins,
        pinned=pinned,
    )
    if read is not None:
        used = [name for name in live if name in loaded.graph.initializers]
        result.live = LiveWeights(loaded, used, read)
    if not open_inputs:
        _measure_unknown_shapes(result)
    return result


def _pin_scalars(model: ir.Model, feeds: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Make constants of the inputs of rank 0, such as a sampling rate; return their values.

    No unit enters by them, and files put all that they do inside an If that asks for one.
    """
    import onnx_ir as ir_module

    pinned = {}
    for value in [v for v in model.graph.inputs if feeds[str(v.name)].ndim == 0]:
        array = feeds[str(value.name)]
        if array.dtype.kind not in "fiub":
            continue
        value.const_value = ir_module.tensor(array, name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
        pinned[str(value.name)] = feeds.pop(str(value.name)).item()
    return pinned


def example_of_shape(
    path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """Make an example input of given shapes: seeded noise, zeros for whole numbers.

    Parameters
    ----------
    path : path
        The model.
    shapes : mapping of str to tuple of int
        By input name; inputs that the file settles may be left out.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ModelError
        If an input is unknown, does not fit, or stays open.
    """
    import onnx_ir as ir_module

    loaded, label = read_path(Path(path))
    inputs = [v for v in loaded.graph.inputs if v.name not in loaded.graph.initializers]
    names = [str(v.name) for v in inputs]
    for name in shapes:
        if name not in names:
            raise ModelError(f"{label}: no input {name!r}; {closest(name, names)}")
    sizes: dict[object, int] = {}
    for value in (v for v in inputs if v.name in shapes):
        given, dims = tuple(shapes[str(value.name)]), declared(value)
        if min(given, default=1) < 1 or not (dims is None or fits(dims, given)):
            raise ModelError(
                f"{label}: input {value.name!r} has shape {shown(dims or ())}, "
                f"the shape given is {given}"
            )
        sizes.update((d.value, s) for d, s in _open_axes(value, given) if d.value is not None)
        value.shape = ir_module.Shape(given)
    for value in inputs:  # a dimension of the same name is the same in every input
        if value.shape is not None:
            dims_now = [d if isinstance(d, int) else sizes.get(d.value, d) for d in value.shape]
            value.shape = ir_module.Shape(dims_now)
    still_open = fix_shapes(loaded, None)
    for name, dims in still_open.items():
        what = shown(dims) if dims else "the file does not say how many dimensions it has"
        raise ModelError(f"{label}: input {name!r} is still open: {what}")
    return {n: a for n, a in neutral_inputs(loaded).items() if n in names}


def _open_axes(value: ir.Value, given: tuple[int, ...]) -> list[tuple[ir.SymbolicDim, int]]:
    pairs = zip(value.shape or (), given, strict=False)
    return [(dim, size) for dim, size in pairs if not isinstance(dim, int)]


def _drop_inferred(model: ir.Model) -> list[tuple[ir.Value, ir.TypeProtocol]]:
    """Forget the exporter's shapes and types, which can be wrong; return the types."""
    types = []
    for graph in model.graphs():
        outputs = {id(value) for value in graph.outputs}
        for node in graph:
            for value in node.outputs:
                value.shape = None
                if value.type is not None and id(value) not in outputs:
                    types.append((value, value.type))
                    value.type = None
    return types


def _node_namer() -> Any:
    """Name a nameless node after what it puts out, which is more than its place in the file."""
    from onnx_ir.passes.common.naming import SimpleNameGenerator

    class Namer(SimpleNameGenerator):
        def generate_node_name(self, node: ir.Node) -> str:
            return node.name or node.outputs[0].name or node.op_type

    return Namer()


def _origins(model: ir.Model) -> dict[str, str]:
    """Trace every tensor that is computed from weights alone to the largest of them."""
    sizes = {name: _size(value) for name, value in model.graph.initializers.items()}
    origins: dict[str, str] = {}
    for node in model.graph:
        names = [str(v.name) for v in node.inputs if v is not None]
        if names and all(n in sizes for n in names):
            largest = max(names, key=lambda n: sizes[n])
            for value in node.outputs:
                origins[str(value.name)] = origins.get(largest, largest)
                sizes[str(value.name)] = sizes[largest]
    return origins


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else int(value.const_value.size)


def _measure_unknown_shapes(model: Model) -> None:
    """Where an operator has no shape rule, run the model once and read its tensors' shapes."""
    import onnx_ir as ir_module

    unknown = [
        value
        for node in model.ir.graph
        for value in node.outputs
        if value.name and static(value) is None and not is_sequence(value)
    ]
    if not unknown:
        return
    feeds = neutral_inputs(model.ir) if model.example is None else model.example
    try:
        values = _inner_values(model.ir, feeds, [str(v.name) for v in unknown])
    except BackendError as error:
        model.trouble = trouble(model.ir, error)
        return
    for value in unknown:
        array = values[str(value.name)]
        value.shape = ir_module.Shape(array.shape)
        if value.dtype is None and array.dtype.kind in "fiub":
            value.dtype = ir_module.DataType.from_numpy(array.dtype)


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
        values = _run(model, feeds, wanted) if wanted else []
    finally:
        model.graph.outputs.clear()
        model.graph.outputs.extend(kept)
    return given | dict(zip(wanted, values, strict=True))


def _run(
    model: ir.Model, feeds: Mapping[str, NDArray[Any]], wanted: list[str]
) -> list[NDArray[Any]]:
    """Run a whole model; in float32 where onnxruntime has no kernels for bfloat16."""
    import numpy as np

    try:
        return Session(model).run(feeds, wanted)
    except BackendError:
        wide = widened(model)
        if wide is None:
            raise
    narrow = [v.name for v in model.graph.inputs if str(v.dtype) == "BFLOAT16"]
    given = {n: a.astype(np.float32) if n in narrow else a for n, a in feeds.items()}
    return Session(wide).run(given, wanted)
