"""A whole model -> one row a layer: what it is, what it measures, or why it cannot be measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import networkx as nx

from onnx_ei.calibration import calibration_of
from onnx_ei.errors import (
    OnnxEiError,
    UnboundedSpanError,
    UnknownLayerError,
    UnsupportedModelError,
    closest,
)
from onnx_ei.frames import Scalar, flat_records, frame
from onnx_ei.measures import measure_many
from onnx_ei.results import Measurement
from onnx_ei.runtime import runner
from onnx_ei.span import Span, span_of
from onnx_ei.topology import layer_of, model_of, topology_of

if TYPE_CHECKING:
    import onnx
    import pandas

    from onnx_ei.costs import Cost

__all__ = ["DEFAULT_MEASURES", "Analysis", "Row", "analyze", "describe", "select_layers"]

#: What a row holds by default: the causal plane's quantities.
DEFAULT_MEASURES = ("ei", "ei_parts", "sensitivity", "degeneracy", "phi")

Shape = tuple["int | None", ...]
_AFFINE_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer of a model.

    Attributes
    ----------
    layer : str
        Its key.
    op_type, kind : str
        Its ONNX operator, and what that is (``"dense"``, ``"conv"``, ``"pool"`` ...).
    in_activation, out_activation : str or None
        The activations at either end.
    in_shape, out_shape : tuple of int or None
        The whole tensors' shapes, batch first.
    n_inputs, n_outputs : int or None
        Units of its span; None where it has none.
    in_range, out_range : (float, float) or None
        From :func:`describe`: bin ranges of its ends, those of the calibration where the topology
        has one, else the defaults. A measurement tells its own.
    batched : bool or None
        Whether its samples run in batches, or one at a time.
    reason : str or None
        Why it was not measured.
    broken : bool
        Whether the reason is an error of the model or the runtime, not a limit of what can be
        measured.
    notes : tuple of str
        What else has to be known of its span: what couples its samples, say.
    measurements : dict of str to Measurement
        By name of the measure.
    costs : dict of str to Cost
        From :func:`describe` with ``samples``: what each measure will take, by its name.
    """

    layer: str
    op_type: str
    kind: str
    in_activation: str | None
    out_activation: str | None
    in_shape: Shape
    out_shape: Shape
    n_inputs: int | None = None
    n_outputs: int | None = None
    in_range: tuple[float, float] | None = None
    out_range: tuple[float, float] | None = None
    batched: bool | None = None
    reason: str | None = None
    broken: bool = False
    notes: tuple[str, ...] = ()
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the row in JSON's types."""
        return {
            "layer": self.layer,
            "op_type": self.op_type,
            "kind": self.kind,
            "in_activation": self.in_activation,
            "out_activation": self.out_activation,
            "in_shape": list(self.in_shape),
            "out_shape": list(self.out_shape),
            "n_inputs": self.n_inputs,
            "n_outputs": self.n_outputs,
            **{name: list(ends) for name, ends in self._ranges() if ends is not None},
            "batched": self.batched,
            "reason": self.reason,
            "notes": list(self.notes),
            "measurements": {k: m.to_dict() for k, m in self.measurements.items()},
            **({"estimate": {k: asdict(c) for k, c in self.costs.items()}} if self.costs else {}),
        }

    def _ranges(self) -> tuple[tuple[str, tuple[float, float] | None], ...]:
        return ("in_range", self.in_range), ("out_range", self.out_range)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The layers of a model, measured.

    Attributes
    ----------
    model : str
        Where it came from.
    rows : tuple of Row
        One a layer, in graph order.
    notes : tuple of str
        What the analysis could not look into.
    """

    model: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the analysis in JSON's types."""
        return {
            "model": self.model,
            "notes": list(self.notes),
            "rows": [row.to_dict() for row in self.rows],
        }

    def to_records(self, measures: Iterable[str] | None = None) -> list[dict[str, Scalar]]:
        """Return one flat dict a layer, of named single values: rows of a table.

        Parameters
        ----------
        measures : iterable of str, optional
            Which measures; all that were taken by default.

        Returns
        -------
        list of dict
            All with the same keys; None where a layer has no such value. The layer's ``layer``,
            ``op_type``, ``kind``, ``in_activation``, ``out_activation``, ``n_inputs``,
            ``n_outputs``, ``batched``, ``reason``; then for each measure, such as ``ei``: ``ei``
            and ``ei_stderr`` in bits, ``ei_low`` and ``ei_high`` (the 95 % interval),
            ``ei_method``, ``ei_estimator``, ``ei_n_samples``, ``ei_out_of_range``,
            ``ei_converged``, ``ei_coverage``, ``ei_adequacy``, ``ei_reliable``,
            ``ei_singletons``, ``ei_saturation``, ``ei_upper_bound``, ``ei_in_states``,
            ``ei_out_states``, ``ei_joint_states`` and ``ei_notes``. Entries of a tuple or a list
            have their index in the name: ``eis_between_groups[0]_stderr``.

        Raises
        ------
        ValueError
            If a measure was not taken, or is a matrix.

        Examples
        --------
        >>> import onnx.parser
        >>> model = onnx.parser.parse_model(
        ...     '<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) '
        ...     "<float[2,2] fc = {1,0,0,1}> { y = MatMul(x, fc) }"
        ... )
        >>> unit = dict(in_range=(0, 1), out_range=(0, 1), in_bins=4, out_bins=4)
        >>> (record,) = analyze(model, ["ei"], samples=20_000, **unit).to_records()
        >>> record["layer"], round(record["ei"], 2), record["ei_reliable"]
        ('fc', 4.0, True)
        """
        return flat_records(self, measures)

    def to_pandas(self, measures: Iterable[str] | None = None) -> pandas.DataFrame:
        """Return :meth:`to_records` as a data frame; needs the extra ``pandas``.

        Parameters
        ----------
        measures : iterable of str, optional
            Which measures; all that were taken by default.

        Returns
        -------
        pandas.DataFrame
            A row a layer, in graph order.

        Raises
        ------
        MissingDependencyError
            If pandas is not installed.
        ValueError
            As :meth:`to_records`.

        Examples
        --------
        >>> import onnx.parser
        >>> model = onnx.parser.parse_model(
        ...     '<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) '
        ...     "<float[2,2] fc = {1,0,0,1}> { y = MatMul(x, fc) }"
        ... )
        >>> unit = dict(in_range=(0, 1), out_range=(0, 1), in_bins=4, out_bins=4)
        >>> layers = analyze(model, ["ei"], samples=20_000, **unit).to_pandas()
        >>> layers[layers.ei_adequacy == "adequate"].layer.tolist()
        ['fc']
        """
        return frame(flat_records(self, measures))


def select_layers(topology: nx.DiGraph[Any], layers: str | Iterable[str] | None) -> list[str]:
    """Return the names of the layers that match any of some patterns, in graph order.

    Parameters
    ----------
    topology : networkx.DiGraph
        From :func:`onnx_ei.topology_of`.
    layers : str or iterable of str, optional
        Keys or shell patterns (``"layer1.*"``); all layers by default.

    Raises
    ------
    UnknownLayerError
        If a pattern matches nothing; the closest keys are named.
    """
    keys = [layer_of(topology, key).label for key in topology]
    if layers is None:
        return keys
    patterns = [layers] if isinstance(layers, str) else list(layers)
    chosen: set[str] = set()
    for pattern in patterns:
        # a key may hold the characters of a pattern itself
        matching = {k for k in keys if k == pattern or fnmatchcase(k, pattern)}
        if not matching:
            raise UnknownLayerError(f"no layer matches {pattern!r}; {closest(pattern, keys)}")
        chosen |= matching
    return [k for k in keys if k in chosen]


def describe(
    topology: nx.DiGraph[Any],
    layers: str | Iterable[str] | None = None,
    *,
    positions: str = "one",
    background: str | Mapping[str, Any] | None = None,
    samples: int | None = None,
) -> Analysis:
    """List a model's layers without measuring them.

    Parameters
    ----------
    topology : networkx.DiGraph
        From :func:`onnx_ei.topology_of`.
    layers : str or iterable of str, optional
        Keys or shell patterns; all layers by default.
    positions, background
        As in :func:`onnx_ei.ei`.
    samples : int, optional
        Predict what ``ei``, ``ei_parts`` and ``sensitivity`` of each layer take at 64 bins, where
        this many samples are drawn; those that the exact engine takes, as far as the operator
        tells, are predicted as computed. Each layer is run twice for it.

    Returns
    -------
    Analysis
        Rows without measurements, with the ranges that a measure takes: by the activations, or by
        ``"calibrated"`` where the topology has a calibration.
    """
    calibration = calibration_of(topology)
    ranges = {} if calibration is None else calibration.ranges
    costs: dict[str, Mapping[str, Cost]] = {}

    def bounds(row: Row, span: Span) -> Mapping[str, Measurement]:
        ranges.setdefault(row.layer, (span.in_range, span.out_range))
        if samples is not None:
            costs[row.layer] = _predicted(row, span, samples)
        return {}

    found = _each_layer(topology, layers, bounds, positions=positions, background=background)
    rows = []
    for row in found.rows:
        in_range, out_range = ranges.get(row.layer, (None, None))
        own = costs.get(row.layer, {})
        rows.append(replace(row, in_range=in_range, out_range=out_range, costs=own))
    return replace(found, rows=tuple(rows))


def _predicted(row: Row, span: Span, samples: int) -> Mapping[str, Cost]:
    """Return what each measure of a layer will take."""
    from onnx_ei.costs import MEASURED, cost_of, machine_at_hand, work_of

    affine = row.kind in ("dense", "conv") or row.op_type in _AFFINE_POOLS
    work = work_of(runner(span), affine=affine)
    return {name: cost_of(name, work, machine_at_hand(), samples) for name in MEASURED}


def analyze(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | nx.DiGraph[Any],
    measures: Sequence[str] = DEFAULT_MEASURES,
    layers: str | Iterable[str] | None = None,
    *,
    input: object = None,
    input_range: tuple[float, float] | None = None,
    on_row: Callable[[Row], object] | None = None,
    **options: Any,
) -> Analysis:
    """Measure every layer of a model.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or networkx.DiGraph
        The model, or its topology.
    measures : sequence of str
        Names of scalar measures.
    layers : str or iterable of str, optional
        Keys or shell patterns; all layers by default.
    input : array, tuple or dict, optional
        An example input, as in :func:`onnx_ei.topology_of`.
    input_range : (float, float), optional
        Range of the layers that the model's own input feeds.
    on_row : callable, optional
        Called with each row as it is done.
    **options
        Keyword arguments of :func:`onnx_ei.measure`.

    Returns
    -------
    Analysis
        A layer that cannot be measured is a row with its reason, not a gap.

    Raises
    ------
    ModelError, UnknownLayerError, BackendError, TypeError, ValueError
        For what concerns the whole call: the model, the device, a bad argument.
    """
    topology = model if isinstance(model, nx.DiGraph) else topology_of(model, input)

    def measured(row: Row, span: Span) -> Mapping[str, Measurement]:
        own = dict(options)
        if input_range is not None and topology.in_degree(layer_of(topology, row.layer).key) == 0:
            own["in_range"] = input_range
        return measure_many(measures, row.layer, topology, **own)

    return _each_layer(
        topology,
        layers,
        measured,
        positions=options.get("positions", "one"),
        background=options.get("background"),
        activation=options.get("activation"),
        on_row=on_row,
    )


def _each_layer(
    topology: nx.DiGraph[Any],
    layers: str | Iterable[str] | None,
    work: Callable[[Row, Span], Mapping[str, Measurement]],
    *,
    on_row: Callable[[Row], object] | None = None,
    **span_options: Any,
) -> Analysis:
    rows = []
    for key in select_layers(topology, layers):
        row = _row(topology, key, work, span_options)
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return Analysis(
        model=model_of(topology).label, rows=tuple(rows), notes=tuple(topology.graph["notes"])
    )


def _name(activation: object) -> str | None:
    """Return an activation's name, from PyTorch its class's."""
    if activation is None or isinstance(activation, str):
        return activation
    return type(activation).__name__


def _row(
    topology: nx.DiGraph[Any],
    key: str,
    work: Callable[[Row, Span], Mapping[str, Measurement]],
    span_options: Mapping[str, Any],
) -> Row:
    node = topology.nodes[layer_of(topology, key).key]
    facts: dict[str, Any] = {
        "layer": key,
        "op_type": node["op_type"],
        "kind": node["kind"],
        "in_activation": _name(node["input"]["activation"]),
        "out_activation": _name(node["output"]["activation"]),
        "in_shape": node["input"]["shape"],
        "out_shape": node["output"]["shape"],
    }
    if node["reason"] is not None:
        return Row(**facts, reason=node["reason"])
    try:
        span = span_of(topology, key, **span_options)
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
