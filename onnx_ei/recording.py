"""Measurements along a training run, appended to a file line by line.

Each line is on the disk before the next layer is measured.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx

from onnx_ei._sampling.parameters import Parameters, whole
from onnx_ei.analysis import select_layers
from onnx_ei.calibration import resolve_ranges
from onnx_ei.jsonlines import Appender
from onnx_ei.measuring import measure_many
from onnx_ei.provenance import calibrated_names, check_options, plain, versions
from onnx_ei.records import FIELDS, RECORDING, Label
from onnx_ei.results import Measurement
from onnx_ei.topology import layer_of

__all__ = ["Recorder"]


class Recorder:
    """Appends measurements of a network in training to a results file.

    Parameters
    ----------
    path : path
        The file. One that holds a recording with the same measures, layers and parameters is
        continued; a line that a crash cut off is overwritten.
    topology : networkx.DiGraph
        From :func:`onnx_ei.topology_of`, of the module that is trained.
    measures : sequence of str
        Names, as for :func:`onnx_ei.measure`.
    layers : hashable, or iterable of hashable or str, optional
        Modules, names or shell patterns; every layer that can be measured by default.
    input_range : (float, float), optional
        ``in_range`` of the layers that the model's own input feeds.
    **options
        Keyword arguments of :func:`onnx_ei.measure`.

    Raises
    ------
    TypeError, ValueError, UnknownLayerError
        If an option, a measure or a layer makes no sense.
    ValueError
        If the file is no recording, or one of other measures, layers or parameters.

    Notes
    -----
    Parameters that no result depends on (``batch_size``, ``memory_limit``, ``progress``) are not
    kept. A function given as ``activation`` is known by its name. ``"calibrated"`` ranges are those
    of the time when the recorder was made, and stay so along the training.

    Examples
    --------
    >>> import tempfile, onnx.parser
    >>> from onnx_ei import read_records, topology_of
    >>> topology = topology_of(onnx.parser.parse_model(
    ...     '<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) '
    ...     "<float[2,2] fc = {1,0,0,1}> { y = MatMul(x, fc) }"
    ... ))
    >>> unit = dict(in_range=(0, 1), out_range=(0, 1), in_bins=4, out_bins=4, samples=20_000)
    >>> path = Path(tempfile.mkdtemp(), "results.jsonl")
    >>> with Recorder(path, topology, ("ei", "phi"), **unit) as recorder:
    ...     for step in (0, 50):
    ...         found = recorder.record(step, run=0)
    >>> steps, values, stderrs = read_records(path).series("ei", "fc", run=0)
    >>> steps.tolist(), values.round(2).tolist()
    ([0, 50], [4.0, 4.0])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        topology: nx.DiGraph[Any],
        measures: Sequence[str] = ("ei", "ei_parts", "sensitivity"),
        layers: Hashable | Iterable[Hashable] | None = None,
        *,
        input_range: tuple[float, float] | None = None,
        **options: Any,
    ) -> None:
        if options.get("groups") is not None:
            options["groups"] = list(options["groups"])  # each step goes through them again
        Parameters(in_range=input_range)
        named = (measures,) if isinstance(measures, str) else tuple(dict.fromkeys(measures))
        parameters = check_options("Recorder", named, options)
        if options.get("in_layer") is not None:
            parameters["in_layer"] = layer_of(topology, options["in_layer"]).label
        self._topology, self._options, self._input_range = topology, options, input_range
        self.path, self.measures = Path(path), named
        self.layers = _chosen(topology, layers)
        # as they are now: bins that moved along the training would make a trend of their own
        self._calibrated = {layer: _calibrated(topology, layer, options) for layer in self.layers}
        for name in calibrated_names(options):
            parameters[name] = {n: list(found[name]) for n, found in self._calibrated.items()}
        header = {
            "format": RECORDING.format,
            "measures": list(self.measures),
            "layers": list(self.layers),
            "parameters": parameters | {"input_range": plain(input_range)},
            "fields": list(FIELDS),
            "versions": versions(),
        }
        there, length = RECORDING.begun(self.path)
        if there is not None:
            _refuse_others(self.path, there, header)
        # a file that an earlier version began goes on with the fields that it has
        self._fields = tuple(FIELDS if there is None else there["fields"])
        self._file = Appender(self.path, length, "make a recorder of the same file")
        if there is None:
            self._file.write(header)

    def record(self, step: int, /, **labels: Any) -> dict[str, dict[str, Measurement]]:
        """Measure the layers as they are now, and append a line for each.

        Parameters
        ----------
        step : int
            When: an epoch, a number of batches; from 0.
        **labels : str, int, float, bool, None, or a tensor of one number
            What else to note: which run it is, the loss.

        Returns
        -------
        dict of str to dict of str to Measurement
            By layer, then by measure.

        Raises
        ------
        TypeError, ValueError
            If the step or a label is of another kind, or the recorder is closed; beside what
            :func:`onnx_ei.measure` raises and warns of.
        OutputError
            If the disk is full, or fails; the file can be continued.
        """
        line = {"step": whole("step", step, 0)}
        noted = {name: _label(name, value) for name, value in labels.items()}
        if self._file.closed:
            raise ValueError(f"the recorder of {self.path} is closed; make another to continue it")
        found = {}
        for layer in self.layers:
            options = self._options | self._calibrated[layer]
            fed = self._topology.in_degree(layer_of(self._topology, layer).key) == 0
            if self._input_range is not None and fed:
                options["in_range"] = self._input_range
            found[layer] = measure_many(self.measures, layer, self._topology, **options)
            points = {name: _kept(found[layer][name], self._fields) for name in found[layer]}
            self._file.write({**line, "layer": layer, "labels": noted, "points": points})
        return found

    def close(self) -> None:
        """Close the file; every line is on the disk already."""
        self._file.close()

    def __enter__(self) -> Recorder:
        """Return the recorder itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()


def _refuse_others(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Compare what decides the values; a later version may continue a file."""
    before, now = ({**h["parameters"], **h} for h in (there, json.loads(json.dumps(here))))
    names = {"measures", "layers", *there["parameters"], *here["parameters"]}
    # fewer fields are an earlier version's, others a later one's
    if not set(before["fields"]) <= set(now["fields"]):
        names.add("fields")
    for name in sorted(names):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{path} was recorded with {name}={before.get(name)!r}, not {now.get(name)!r}; "
                "continue it with what it began with, or choose another file"
            )


def _calibrated(
    topology: nx.DiGraph[Any], layer: str, options: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """Return a layer's calibrated ranges, those that were asked for."""
    names = ("in_layer", "in_range", "out_range", "activation")
    found = resolve_ranges(topology, layer, *(options.get(name) for name in names))
    ranges = dict(zip(("in_range", "out_range"), found, strict=True))
    return {name: ranges[name] for name in calibrated_names(options)}


def _chosen(topology: nx.DiGraph[Any], layers: Any) -> tuple[str, ...]:
    """Return the names of layers in graph order."""
    if layers is None:
        able = [key for key in topology if topology.nodes[key]["reason"] is None]
        return tuple(layer_of(topology, key).label for key in able)
    one = isinstance(layers, str) or not isinstance(layers, Iterable)
    wanted: set[str] = set()
    for layer in [layers] if one else layers:
        patterned = isinstance(layer, str)
        wanted.update(
            select_layers(topology, layer) if patterned else [layer_of(topology, layer).label]
        )
    if not wanted:
        raise ValueError("layers is empty; leave it out to record every layer")
    return tuple(name for name in select_layers(topology, None) if name in wanted)


def _label(name: str, value: Any) -> Label:
    """Return a label in JSON's types; a number that is not finite becomes None."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if not (value is None or isinstance(value, str | int | float)):
        raise TypeError(
            f"label {name} must be a str, a number, a bool or None, got {type(value).__name__}"
        )
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _kept(measured: Measurement, names: Iterable[str]) -> list[Any]:
    """Return the fields of a point: the value to the bit, what judges it to six digits."""
    known = measured.to_dict()
    return [known[n] if n == "value" else _short(known[n]) for n in names]


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
