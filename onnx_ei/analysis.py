"""A whole model -> one row a layer: what it is, what it measures, or why it cannot be measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import networkx as nx

from onnx_ei.analyzed import Analysis
from onnx_ei.calibration import calibration_of
from onnx_ei.devices import Device, parse_device, parse_devices
from onnx_ei.errors import (
    OnnxEiError,
    UnboundedSpanError,
    UnknownLayerError,
    UnsupportedModelError,
)
from onnx_ei.measures import measure_many
from onnx_ei.provenance import (
    check_options,
    content_hash,
    model_facts,
    origin,
    peak_memory,
    plain,
)
from onnx_ei.results import Measurement
from onnx_ei.rows import Row, model_row, span_row
from onnx_ei.span import Span, span_of
from onnx_ei.targets import (
    Spans,
    Target,
    check_spans,
    named_spans,
    select_layers,
    targets,
)
from onnx_ei.topology import layer_of, model_of, topology_of

if TYPE_CHECKING:
    import onnx


__all__ = [
    "DEFAULT_MEASURES",
    "Analysis",
    "Row",
    "analyze",
    "describe",
    "measured_row",
    "select_layers",
]

#: What a row holds by default: the causal plane's quantities.
DEFAULT_MEASURES = ("ei", "ei_parts", "sensitivity", "degeneracy", "phi")


def describe(
    topology: nx.DiGraph[Any],
    layers: str | Iterable[str] | None = None,
    *,
    exclude: str | Iterable[str] | None = None,
    spans: Spans | None = None,
    strict: bool = True,
    positions: str = "one",
    background: str | Mapping[str, Any] | None = None,
    samples: int | None = None,
    bins: tuple[int, int] = (64, 64),
) -> Analysis:
    """List a model's layers without measuring them.

    Parameters
    ----------
    topology : networkx.DiGraph
        From :func:`onnx_ei.topology_of`.
    layers : str or iterable of str, optional
        Keys or shell patterns; all layers by default.
    exclude : str or iterable of str, optional
        Keys or patterns of layers to leave out.
    spans : str, or several, or mapping, optional
        As for :func:`analyze`.
    strict : bool
        Whether a pattern that matches nothing is an error.
    positions, background
        As in :func:`onnx_ei.ei`.
    samples : int, optional
        Predict what ``ei``, ``ei_parts`` and ``sensitivity`` of each layer take, where this many
        samples are drawn; those that the exact engine takes, as far as the operator tells, are
        predicted as computed. Each layer is run twice for it.
    bins : (int, int)
        Of an input and an output, for that prediction.

    Returns
    -------
    Analysis
        Rows without measurements, with the ranges that a measure takes: by the activations, or by
        ``"calibrated"`` where the topology has a calibration.
    """
    calibration = calibration_of(topology)
    ranges = {} if calibration is None else calibration.ranges
    label, rows = model_of(topology).label, []
    where = {"positions": positions, "background": background}
    for target in targets(topology, layers, exclude, spans, strict=strict):
        row = _described(topology, target, where, None if samples is None else (samples, bins))
        first, last = (ranges.get(key) for key in (target.in_layer or target.layer, target.layer))
        in_range = first[0] if first else row.in_range
        out_range = last[1] if last else row.out_range
        rows.append(replace(row, model=label, in_range=in_range, out_range=out_range))
    return Analysis(model=label, rows=tuple(rows), notes=tuple(topology.graph["notes"]))


def _described(
    topology: nx.DiGraph[Any],
    target: Target,
    where: Mapping[str, Any],
    predict: tuple[int, tuple[int, int]] | None,
) -> Row:
    """List one layer or span, with what measuring it takes if that is asked for."""
    found: dict[str, Any] = {}

    def look(row: Row, span: Span) -> Mapping[str, Measurement]:
        found.update(in_range=span.in_range, out_range=span.out_range)
        if predict is not None:
            from onnx_ei.costs import predicted

            # of a span the operator at its end tells nothing
            op_type = row.op_type if row.span is None else ""
            found["costs"] = predicted(row.kind, op_type, span, predict[0], bins=predict[1])
        return {}

    row = _row(topology, target, look, where)
    return replace(row, **found)


Source = Any
"""A path, bytes, an onnx.ModelProto, a torch.nn.Module, or a topology of one of them."""


def analyze(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | nx.DiGraph[Any] | Sequence[Any],
    measures: Sequence[str] = DEFAULT_MEASURES,
    layers: str | Iterable[str] | None = None,
    *,
    exclude: str | Iterable[str] | None = None,
    spans: Spans | None = None,
    input: object = None,
    input_range: tuple[float, float] | None = None,
    on_row: Callable[[Row], object] | None = None,
    **options: Any,
) -> Analysis:
    """Measure every layer of a model, or of several.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto, torch.nn.Module or networkx.DiGraph, or a list of them
        The model, or its topology; or several.
    measures : sequence of str
        Names, as for :func:`onnx_ei.measure`.
    layers : str or iterable of str, optional
        Keys or shell patterns; all layers by default.
    exclude : str or iterable of str, optional
        Keys or shell patterns of layers to leave out.
    spans : str, or iterable of str or (str, str), or mapping, optional
        Spans of several layers, each a row after the layers' own: from the input of one layer to
        the output of another. ``"first:last"`` or ``"name=first:last"``, by keys or patterns that
        match one layer each; ``[("first", "last")]``, or by name ``{"all": ("first", "last")}``.
        Of several models, those that have no such layers have no such row.
    input : array, tuple or dict, optional
        An example input, as in :func:`onnx_ei.topology_of`.
    input_range : (float, float), optional
        Range of the layers that the model's own input feeds.
    on_row : callable, optional
        Called with each row as it is done.
    **options
        Keyword arguments of :func:`onnx_ei.measure`. ``device`` may be a list, or names with
        commas between them, where there are several models: they take the devices in turn, one
        after another. :func:`onnx_ei.batch` uses several at once.

    Returns
    -------
    Analysis
        A layer that cannot be measured is a row with its reason, not a gap. So is a model that
        cannot be read, where it is one of several.

    Raises
    ------
    ModelError, UnknownLayerError, BackendError, TypeError, ValueError
        For what concerns the whole call: the model, the device, a bad argument.

    Examples
    --------
    >>> import onnx.parser
    >>> model = onnx.parser.parse_model(
    ...     '<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) '
    ...     "<float[2,2] fc = {1,0,0,1}> { y = MatMul(x, fc) }"
    ... )
    >>> unit = dict(in_range=(0, 1), out_range=(0, 1), in_bins=4, out_bins=4)
    >>> found = analyze(model, ["ei", "phi"], samples=20_000, **unit)
    >>> [round(abs(m.value), 1) for m in found.rows[0].measurements.values()]
    [4.0, 0.0]
    """
    names = (measures,) if isinstance(measures, str) else tuple(dict.fromkeys(measures))
    wanted = named_spans(spans)
    many = isinstance(model, list | tuple)
    parameters = check_options("analyze", names, options, several=many)
    parameters |= {"input_range": plain(input_range), "input": plain(input)}
    sources: Sequence[Source] = model if many else [model]  # type: ignore[assignment]
    devices = _devices(options, many)
    rows: list[Row] = []
    notes: list[str] = []
    keys: list[str] = []
    for number, (label, source) in enumerate(zip(_labels(sources), sources, strict=True)):
        own = {**options, "device": devices[number % len(devices)]}
        started = time.perf_counter()
        try:
            topology = source if isinstance(source, nx.DiGraph) else topology_of(source, input)
            facts = model_facts(topology, _hash_of(source))
            label = label or model_of(topology).label
        except OnnxEiError as error:
            if not many:
                raise
            row = model_row(label or type(source).__name__, str(error))
            known = {"model_sha256": _hash_or_none(source), "opset": None, "producer": None}
            facts = origin(known, own, parameters) | {"peak_memory": peak_memory()}
            rows.append(replace(row, seconds=time.perf_counter() - started, provenance=facts))
            continue
        notes += [note for note in topology.graph["notes"] if note not in notes]
        keys += select_layers(topology)
        for target in targets(topology, layers, exclude, wanted, strict=not many):
            row = measured_row(topology, target, names, input_range, facts, own, parameters)
            rows.append(replace(row, model=label))
            if on_row is not None:
                on_row(rows[-1])
    if many:
        check_spans(wanted, (row.span for row in rows), keys)
    if not rows and many:
        raise UnknownLayerError(f"no layer of {len(sources)} models matches {layers!r}")
    return Analysis(
        model=f"{len(sources)} models" if many else str(label),
        rows=tuple(rows),
        notes=tuple(notes),
        measures=names,
        parameters=parameters,
    )


def _labels(sources: Sequence[Source]) -> list[str | None]:
    """Return names of several models, no two the same; of one, None: its own is good."""
    if len(sources) == 1:
        return [None]
    names: list[str | None] = []
    for source in sources:
        own = str(source) if isinstance(source, str | os.PathLike) else type(source).__name__
        if isinstance(source, nx.DiGraph):
            own = model_of(source).label
        name, number = own, 1
        while name in names:
            number += 1
            name = f"{own} #{number}"
        names.append(name)
    return names


def _devices(options: Mapping[str, Any], many: bool) -> tuple[Device, ...]:
    device, tf32 = options.get("device", "cpu"), options.get("tf32", False)
    return parse_devices(device, tf32) if many else (parse_device(device, tf32),)


def _hash_or_none(source: Source) -> str | None:
    """Return the hash of a model that could not be read, where its bytes can."""
    try:
        return _hash_of(source)
    except OnnxEiError:
        return None


def _hash_of(source: Source) -> str | None:
    """Return a model's hash, or None: a module's weights, or a topology's, may change."""
    if isinstance(source, nx.DiGraph) or not (
        isinstance(source, str | os.PathLike | bytes) or hasattr(source, "SerializeToString")
    ):
        return None
    return content_hash(source)


def measured_row(
    topology: nx.DiGraph[Any],
    key: str | Target,
    measures: Sequence[str],
    input_range: tuple[float, float] | None,
    facts: Mapping[str, Any],
    options: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> Row:
    """Measure one layer, or one named span.

    Parameters
    ----------
    topology : networkx.DiGraph
        Of the model.
    key : str or Target
        The layer's name, or what else to measure.
    measures : sequence of str
        Names.
    input_range : (float, float), optional
        ``in_range`` where the model's own input feeds the layer, or the span.
    facts : mapping
        From :func:`onnx_ei.provenance.model_facts`.
    options : mapping
        Keyword arguments of :func:`onnx_ei.measure`.
    parameters : mapping
        The same in JSON's types, from :func:`onnx_ei.provenance.check_options`.

    Returns
    -------
    Row
        With the measurements, or with the reason why there are none.
    """
    target = Target(layer=key) if isinstance(key, str) else key
    own = dict(options)
    if target.span is not None:
        own["in_layer"] = target.in_layer
    if input_range is not None and target.reason is None:
        first = layer_of(topology, target.layer if target.span is None else target.in_layer)
        if topology.in_degree(first.key) == 0:
            own["in_range"] = input_range
    names = ("positions", "background", "activation", "in_layer")
    span_options = {"positions": "one"} | {name: own[name] for name in names if name in own}
    placed: dict[str, Any] = {}

    def work(row: Row, span: Span) -> Mapping[str, Measurement]:
        try:
            return measure_many(measures, row.layer, topology, **own)
        finally:
            device = parse_device(own.get("device", "cpu"), own.get("tf32", False))
            if device in span.sessions:
                placed["cpu_nodes"] = span.sessions[device].cpu_nodes

    known = origin(facts, options, parameters)
    started = time.perf_counter()
    row = _row(topology, target, work, span_options)
    return replace(
        row,
        model=model_of(topology).label,
        seconds=time.perf_counter() - started,
        provenance={**known, **placed, "peak_memory": peak_memory()},
    )


def _name(activation: object) -> str | None:
    """Return an activation's name, from PyTorch its class's."""
    if activation is None or isinstance(activation, str):
        return activation
    return type(activation).__name__


def _row(
    topology: nx.DiGraph[Any],
    target: Target,
    work: Callable[[Row, Span], Mapping[str, Measurement]],
    span_options: Mapping[str, Any],
) -> Row:
    if target.reason is not None:
        return span_row(target)
    facts, reason = _facts(topology, target)
    if reason is not None:
        return Row(**facts, reason=reason)
    if target.in_layer is not None:
        span_options = {**span_options, "in_layer": target.in_layer}
    try:
        span = span_of(topology, target.layer, **span_options)
        facts |= {
            "n_inputs": span.n_inputs,
            "n_outputs": span.n_outputs,
            "batched": span.batched,
            "notes": span.notes,
        }
        return Row(**facts, measurements=work(Row(**facts), span))
    except (UnsupportedModelError, UnboundedSpanError) as error:
        return Row(**facts, reason=str(error))
    except OnnxEiError as error:
        return Row(**facts, reason=str(error), broken=True)


def _facts(topology: nx.DiGraph[Any], target: Target) -> tuple[dict[str, Any], str | None]:
    """Return what a row says of its layer, or of the two ends of its span; and why not to go on."""
    last = layer_of(topology, target.layer).key
    first = last if target.in_layer is None else layer_of(topology, target.in_layer).key
    begin, end = (topology.nodes[key] for key in (first, last))
    alone = target.span is None
    facts = {
        "layer": target.layer,
        "layer_id": list(topology).index(last) if alone else None,
        "op_type": end["op_type"],
        "kind": end["kind"] if alone else "span",
        "in_activation": _name(begin["input"]["activation"]),
        "out_activation": _name(end["output"]["activation"]),
        "in_shape": begin["input"]["shape"],
        "out_shape": end["output"]["shape"],
        "span": target.span,
        "in_layer": target.in_layer,
    }
    return facts, end["reason"] if end["reason"] is not None else begin["reason"]
