"""Two layers -> the function between them: a bounded, batch-free sub-model of one input.

A span runs from the tensor that enters ``in_layer`` to the activated output of ``layer``. What it
takes in beside its input and fixed weights has to be given as a background. By default it is cut
down to one output position and the inputs that reach it (``positions="one"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from onnx_ei._graph.background import Background, background_values, fingerprint
from onnx_ei._graph.cut import Cut, NotLocalError, is_fixed, nodes_between
from onnx_ei._graph.positions import position_window
from onnx_ei._graph.recurrent import cell_activation, cell_cut, cell_range, states_of
from onnx_ei._graph.submodel import SubModel, build
from onnx_ei._graph.windows import Window
from onnx_ei.activations import NO_RANGE, Override, resolve_activation
from onnx_ei.errors import BackendError, ModelError, UnsupportedModelError
from onnx_ei.sessions import Session, parse_device
from onnx_ei.topology import Key, Layer, layer_of, model_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir
    from numpy.typing import NDArray

    from onnx_ei._graph.live import LiveWeights
    from onnx_ei.loading import Model

__all__ = ["Span", "span_of"]

#: A batch has to give what single runs give, to this share of the largest output.
BATCH_TOLERANCE = 1e-5
_CHECKED_BATCH = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Span:
    r"""The function between two layers.

    Attributes
    ----------
    layer, in_layer : str
        Its ends.
    model : onnx_ir.Model
        The sub-model: input ``x`` of shape (batch, \\*in_shape), one output.
    in_window, out_window : tuple
        For each axis of the whole tensors, batch included, the part that is measured: None for all
        of it, (low, high) for a run of indices. They count from the model's own border; a low
        below 0 says that the receptive field reaches past it.
    in_shape, out_shape : tuple of int
        Shapes of the units at either end, without the batch.
    in_range, out_range : tuple of float
        Default bin ranges: those of the activations at either end.
    batched : bool
        Whether a batch gives what single runs give; else samples are run one at a time.
    positions : str
        ``"one"`` or ``"all"``.
    function : callable or None
        An activation that is not part of the model: called on its output.
    versions : dict of str to int
        Which state of its network's weights it holds; empty where they do not change.
    widest : int
        Elements that one sample has in the largest tensor between the ends.
    """

    layer: str
    in_layer: str
    model: ir.Model = field(repr=False)
    in_window: Window
    out_window: Window
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    in_range: tuple[float, float]
    out_range: tuple[float, float]
    batched: bool
    positions: str
    function: Callable[[NDArray[Any]], NDArray[Any]] | None
    widest: int
    sessions: dict[tuple[str, int], Session] = field(repr=False)
    versions: dict[str, int] = field(default_factory=dict, repr=False)
    runners: dict[object, Any] = field(default_factory=dict, repr=False)

    @property
    def n_inputs(self) -> int:
        """Number of units that enter."""
        return prod(self.in_shape)

    @property
    def n_outputs(self) -> int:
        """Number of units that leave."""
        return prod(self.out_shape)

    def session(self, device: object = "cpu") -> Session:
        """Return the session on a device, made once."""
        key = parse_device(device)
        if key not in self.sessions:
            self.sessions[key] = Session(self.model, device)
        return self.sessions[key]


def span_of(
    topology: nx.DiGraph[Any],
    layer: Key,
    *,
    in_layer: Key | None = None,
    activation: object = None,
    positions: str = "one",
    background: Background = None,
) -> Span:
    """Cut the function between two layers out of the model.

    Parameters
    ----------
    topology : networkx.DiGraph
        From :func:`onnx_ei.topology_of`.
    layer : str
        The layer whose activated output ends the span.
    in_layer : str, optional
        The layer whose input begins it; ``layer`` itself by default.
    activation : str, torch.nn.Module or callable, optional
        Takes the place of the layer's own activation.
    positions : {"one", "all"}
        One output position with the inputs that reach it, or whole tensors.
    background : {"reference", "zeros"} or mapping of str to array, optional
        What the other tensors are that the span needs, by tensor name.

    Returns
    -------
    Span
        Kept in the topology: the same call returns the same span.

    Raises
    ------
    UnknownLayerError
        If a layer is not in the topology.
    ValueError
        If ``layer`` does not come after ``in_layer``, or an option is not one of those allowed.
    UnboundedSpanError
        If the span needs other tensors and ``background`` does not say what they are.
    UnsupportedModelError
        If this part of the model cannot be measured.
    ModelError
        If its weights hold NaN.
    """
    end = layer_of(topology, layer)
    start = end if in_layer is None else layer_of(topology, in_layer)
    _check_ends(topology, start, end)
    if positions not in ("one", "all"):
        raise ValueError(f"positions must be 'one' or 'all', got {positions!r}")
    override = None if activation is None else resolve_activation(activation)
    key = (
        "span", start.key, end.key, positions,
        # one sub-model serves all functions: they are called on what it puts out
        None if override is None else (override.function is None and override.key,),
        fingerprint(background),
    )  # fmt: skip
    model = model_of(topology)
    stamp: object = None
    if model.live is not None and background == "reference":
        stamp = model.live.refresh()  # the other tensors follow from every weight there is
    which = None if override is None else override.key
    span: Span
    span, made, called = model.cache.get(key, (None, (), None))
    if made != stamp:
        span = _make(topology, start, end, override, positions, background)
    elif override is not None and which != called:
        span = replace(span, function=override.function, runners={})
    model.cache[key] = span, stamp, which
    _renew(span, model.live)
    return span


def _renew(span: Span, live: LiveWeights | None) -> None:
    """Put weights that changed since the span was used into it; its sessions hold the old ones."""
    if live is None or live.refresh(span.model.graph.initializers) == span.versions:
        return
    now = live.put_into(span.model)
    _refuse_nan(span.model, span.layer)
    span.sessions.clear()
    span.runners.clear()
    span.versions.update(now)


def _check_ends(topology: nx.DiGraph[Any], start: Layer, end: Layer) -> None:
    if start is not end and end.key not in nx.descendants(topology, start.key):
        after = sorted(layer_of(topology, k).label for k in nx.descendants(topology, start.key))
        raise ValueError(
            f"layer {end.label!r} does not come after in_layer {start.label!r}; "
            f"what does: {', '.join(map(repr, after[:8])) or 'nothing'}"
        )
    for layer in (start, end):
        if start is not end and layer.op.kind == "recurrent":
            raise UnsupportedModelError(
                f"layer {layer.label!r} ({layer.node.op_type}) is measured alone, one step of its "
                "cell: a span of several layers cannot begin or end in it"
            )
        if layer.op.reason is not None:
            raise UnsupportedModelError(
                f"layer {layer.label!r} ({layer.node.op_type}) cannot be measured: "
                f"{layer.op.reason}"
            )


def _make(
    topology: nx.DiGraph[Any],
    start: Layer,
    end: Layer,
    override: Override | None,
    positions: str,
    background: Background,
) -> Span:
    model = model_of(topology)
    with _cut(model, start, end, override, background) as cut:
        sub, in_window, out_window, widest = _build(cut, end, positions)
    versions = {} if model.live is None else model.live.put_into(sub)
    _refuse_nan(sub, end.label)
    in_range = NO_RANGE if start.before is None else start.before.range
    in_shape = _units(sub)
    with _running_alone(start, end):
        session = Session(sub, "cpu")
        batched, out_shape = _probe(session, sub, in_shape, in_range)
    return Span(
        layer=end.label,
        in_layer=start.label,
        model=sub,
        in_window=in_window,
        out_window=out_window,
        in_shape=in_shape,
        out_shape=out_shape,
        in_range=in_range,
        out_range=_out_range(end, override),
        batched=batched,
        positions=positions,
        function=None if override is None else override.function,
        widest=widest,
        sessions={("cpu", 0): session},
        versions=versions,
    )


@contextmanager
def _cut(
    model: Model, start: Layer, end: Layer, override: Override | None, background: Background
) -> Iterator[Cut]:
    """Give what lies between the two ends; of a recurrent layer, one step."""
    ends, opsets = (start.label, end.label), dict(model.ir.opset_imports)
    activation = None if override is None else override.activation
    if end.op.kind == "recurrent":
        states = [v for v in states_of(end.node) if not is_fixed(v)]
        values = background_values(model, ends, states, background)
        if override is None and end.after is not None:
            activation = cell_activation(end.after.name)
        with cell_cut(end.node, opsets, values, activation) as cut:
            yield cut
        return
    target = end.leaving if override is None else end.raw
    nodes, sides = nodes_between(start.entering, target)
    yield Cut(
        source=start.entering,
        target=target,
        nodes=nodes,
        sides=background_values(model, ends, sides, background),
        opsets=opsets,
        activation=activation,
        batch=_batch_size(model.ir),
    )


@contextmanager
def _running_alone(start: Layer, end: Layer) -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        hint = ""
        if str(start.entering.dtype) == "BFLOAT16":
            hint = "; few operators run in BFLOAT16: measure the module in another type (.float())"
        raise UnsupportedModelError(
            f"the span from {start.label!r} to {end.label!r} does not run on its own: {error}{hint}"
        ) from error


def _batch_size(model: ir.Model) -> int:
    """Return the batch that the model's first input has: 1 unless the file fixes another."""
    first = model.graph.inputs[0].shape if model.graph.inputs else None
    size = first[0] if first is not None and len(first) > 0 else 1
    return size if isinstance(size, int) else 1


def _units(sub: ir.Model) -> tuple[int, ...]:
    return tuple(int(d) for d in list(sub.graph.inputs[0].shape or ())[1:] if isinstance(d, int))


def _out_range(end: Layer, override: Override | None) -> tuple[float, float]:
    if override is not None:
        return override.range or NO_RANGE
    if end.after is not None:
        return end.after.range
    return cell_range(end.node) if end.op.kind == "recurrent" else NO_RANGE


def _build(cut: Cut, end: Layer, positions: str) -> SubModel:
    whole = positions == "all" or end.op.kind == "recurrent"
    window = None if whole else position_window(cut, end)
    try:
        return build(cut, window, local=True)
    except NotLocalError:
        # what one position needs is not a window of every tensor: compute whole tensors and keep
        # the one position of the result
        pass
    try:
        return build(cut, window, local=False)
    except NotLocalError as error:
        raise UnsupportedModelError(
            f"one position of layer {end.label!r} needs all of tensor {str(error)!r}, whose shape "
            "is open; pass an example input that settles it (input= of topology_of, --input-shape "
            "on the command line)"
        ) from error


def _refuse_nan(sub: ir.Model, layer: str) -> None:
    for name, value in sub.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        # through float32: bfloat16 and float8 have no isnan of their own
        if np.isnan(tensor.numpy().astype(np.float32, copy=False)).any():
            raise ModelError(
                f"layer {layer!r}: weight {name!r} holds NaN; the model is broken there "
                "(a diverged training run?), and no measure of it means anything"
            )


def _probe(
    session: Session, sub: ir.Model, in_shape: tuple[int, ...], in_range: tuple[float, float]
) -> tuple[bool, tuple[int, ...]]:
    """Run noise in a batch and one by one: the same results, or no batches."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(*in_range, size=(_CHECKED_BATCH, *in_shape))
    value, output = sub.graph.inputs[0], str(sub.graph.outputs[0].name)
    dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
    noise = noise.astype(dtype)
    singles = [session.run({"x": noise[i : i + 1]}, [output])[0] for i in range(_CHECKED_BATCH)]
    shape = tuple(singles[0].shape)
    if not shape or shape[0] != 1:
        return False, shape
    single = np.concatenate(singles).astype(np.float64)
    try:
        batch = session.run({"x": noise}, [output])[0].astype(np.float64)
    except BackendError:
        return False, shape[1:]
    if batch.shape != single.shape:
        return False, shape[1:]
    # half precision cannot keep 1e-5: four units in its last place
    narrow = np.finfo(dtype).eps if np.issubdtype(dtype, np.floating) else 0.0
    tolerance = max(BATCH_TOLERANCE, 4 * float(narrow))
    scale = np.abs(single[np.isfinite(single)]).max(initial=0.0)
    same = np.allclose(batch, single, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    return bool(same), shape[1:]
