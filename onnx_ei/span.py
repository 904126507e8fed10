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
from typing import TYPE_CHECKING, Any, NamedTuple

import networkx as nx
import numpy as np

from onnx_ei._graph.background import Background, fingerprint
from onnx_ei._graph.between import cut_between
from onnx_ei._graph.cut import Cut, NotLocalError
from onnx_ei._graph.lanes import Lane
from onnx_ei._graph.positions import position_window
from onnx_ei._graph.probing import Probe, probe
from onnx_ei._graph.quantised import coupling
from onnx_ei._graph.recurrent import cell_range
from onnx_ei._graph.submodel import SubModel, build
from onnx_ei._graph.widening import is_narrow, widen
from onnx_ei._graph.windows import Window, dims_of
from onnx_ei.activations import NO_RANGE, Override, resolve_activation
from onnx_ei.devices import Device, parse_device
from onnx_ei.errors import BackendError, ModelError, UnsupportedModelError
from onnx_ei.sessions import Session
from onnx_ei.topology import Key, Layer, layer_of, model_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir
    from numpy.typing import NDArray

    from onnx_ei._graph.live import LiveWeights

__all__ = ["Span", "span_of"]

WIDENED = "runs in float32: onnxruntime has no kernels for it in bfloat16, the weights' own type"


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
    notes : tuple of str
        Why its samples run one at a time, whether it runs in another element type than the
        model's, and which sizes are held at those of the example.
    batch_note : str
        Why samples run one at a time; empty where they run in batches.
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
    notes: tuple[str, ...]
    batch_note: str
    sessions: dict[Device, Session] = field(repr=False)
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
        If an option is not one of those allowed.
    UnboundedSpanError
        If the span needs other tensors and ``background`` does not say what they are.
    UnsupportedModelError
        If this part of the model cannot be measured, or ``layer`` does not come after ``in_layer``.
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
    if WIDENED in span.notes:
        widen(span.model)
    _refuse_nan(span.model, span.layer)
    span.sessions.clear()
    span.runners.clear()
    span.versions.update(now)


def _check_ends(topology: nx.DiGraph[Any], start: Layer, end: Layer) -> None:
    if start is not end and end.key not in nx.descendants(topology, start.key):
        after = sorted(layer_of(topology, k).label for k in nx.descendants(topology, start.key))
        raise UnsupportedModelError(
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
    live = model_of(topology).live
    with cut_between(model_of(topology), start, end, override, background) as cut:
        trial = _first_that_batches(cut, start, end, positions, live)
        notes = cut.notes
    return Span(
        layer=end.label,
        in_layer=start.label,
        model=trial.sub.model,
        in_window=trial.sub.entering,
        out_window=trial.sub.leaving,
        in_shape=_units(trial.sub.model),
        out_shape=trial.found.out_shape,
        in_range=start.in_range,
        out_range=_out_range(end, override),
        batched=trial.found.batched,
        notes=(*notes, *trial.notes),
        batch_note=trial.found.note,
        positions=positions,
        function=None if override is None else override.function,
        widest=trial.sub.widest,
        sessions={trial.session.device: trial.session},
        versions=trial.versions,
    )


class _Trial(NamedTuple):
    """A sub-model that was run."""

    sub: SubModel
    session: Session
    found: Probe
    notes: tuple[str, ...]
    versions: dict[str, int]


def _first_that_batches(
    cut: Cut, start: Layer, end: Layer, positions: str, live: LiveWeights | None
) -> _Trial:
    """Run the span with the samples where they most likely stand, then where else they may."""
    with _running_alone(start, end):
        first = _try(_build(cut, end, positions, None), start, end, live)
    if first.found.batched:
        return first
    for lane in first.sub.lanes[1:]:
        try:
            other = _try(_build(cut, end, positions, lane), start, end, live)
        except (BackendError, UnsupportedModelError):
            continue
        if other.found.batched:
            return other
    return first


def _try(sub: SubModel, start: Layer, end: Layer, live: LiveWeights | None) -> _Trial:
    versions = {} if live is None else live.put_into(sub.model)
    _refuse_nan(sub.model, end.label)
    session, notes = _session(sub.model)
    found = probe(session, sub.model, start.in_range)
    if sub.lost and not found.batched and found.note.startswith("does not run"):
        found = found._replace(note=f"does not run in a batch: {sub.lost}")
    coupled = coupling(sub.model.graph)
    if coupled is not None:
        # whatever the check saw: among samples that reach as far, a scale of all of them is theirs
        note = f"{coupled}; {found.note}" if found.note else coupled
        found, notes = found._replace(batched=False, note=note), (*notes, coupled)
    elif found.note:
        notes = (*notes, found.note)
    return _Trial(sub, session, found, notes, versions)


def _session(sub: ir.Model) -> tuple[Session, tuple[str, ...]]:
    """Return a session of a sub-model, in float32 where onnxruntime has no kernels for bfloat16."""
    try:
        return Session(sub, "cpu"), ()
    except BackendError:
        if not is_narrow(sub):
            raise
    widen(sub)
    return Session(sub, "cpu"), (WIDENED,)


@contextmanager
def _running_alone(start: Layer, end: Layer) -> Iterator[None]:
    try:
        yield
    except BackendError as error:
        hint = ""
        if None in (dims_of(start.entering) or ()):
            hint = (
                f"; the shape of {start.entering.name!r} is open: pass an example input that "
                "settles it (input= of topology_of, --input-shape on the command line)"
            )
        raise UnsupportedModelError(
            f"the span from {start.label!r} to {end.label!r} does not run on its own: {error}{hint}"
        ) from error


def _units(sub: ir.Model) -> tuple[int, ...]:
    return tuple(int(d) for d in list(sub.graph.inputs[0].shape or ())[1:] if isinstance(d, int))


def _out_range(end: Layer, override: Override | None) -> tuple[float, float]:
    if override is not None:
        return override.range or NO_RANGE
    if end.after is None and end.op.kind == "recurrent":
        return cell_range(end.node)
    return end.out_range


def _build(cut: Cut, end: Layer, positions: str, lane: Lane | None) -> SubModel:
    whole = positions == "all" or end.op.kind == "recurrent"
    window = None if whole else position_window(cut, end)
    try:
        return build(cut, window, local=True, lane=lane)
    except NotLocalError:
        # what one position needs is not a window of every tensor: compute whole tensors and keep
        # the one position of the result
        pass
    try:
        return build(cut, window, local=False, lane=lane)
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
