"""What is done with one model: its layers listed, one of them measured."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx_ei._batch.turns import device_in_turn
from onnx_ei.devices import Device, parse_device
from onnx_ei.errors import ModelError
from onnx_ei.results import Measurement
from onnx_ei.rows import Row, model_row
from onnx_ei.targets import NamedSpan, Target

__all__ = [
    "Job",
    "Listing",
    "bins_of",
    "failed",
    "listed",
    "measured",
    "opened",
    "options_here",
    "span_options",
    "unread",
]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model, and what to do with each of its layers; it goes to another process whole.

    Attributes
    ----------
    path : str
        The model, as its rows name it.
    file : str or None
        Where it lies, from the root; the same.
    shared : bool
        Whether other machines may read it.
    opener : callable
        Of the path; returns the topology.
    measures, matrices : tuple of str
        What becomes part of the row, and what goes to a file beside.
    layers, exclude : tuple of str or None
        Patterns.
    spans : tuple of NamedSpan
        What to measure besides.
    input_range : (float, float) or None
        As for :func:`onnx_ei.analyze`.
    options : dict
        Keyword arguments of :func:`onnx_ei.measure`, but for the device.
    devices : tuple of Device
        Where: each process takes one of them.
    run : str
        A name of the run that no other has: its processes find out who has which device.
    parameters : dict
        All that decides a value, in JSON's types.
    predict : int or None
        Samples for which the listing is to say what measuring takes.
    """

    path: str
    opener: Callable[[str], Any]
    measures: tuple[str, ...]
    matrices: tuple[str, ...] = ()
    layers: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    spans: tuple[NamedSpan, ...] = ()
    input_range: tuple[float, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    devices: tuple[Device, ...] = (parse_device("cpu"),)
    run: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    predict: int | None = None
    file: str | None = None
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The layers of a model.

    Attributes
    ----------
    rows : tuple of Row
        As :func:`onnx_ei.analysis.describe` lists them, with their provenance.
    keys : tuple of str
        Of all layers, those that were not asked for too.
    notes : tuple of str
        What was not looked into.
    """

    rows: tuple[Row, ...]
    keys: tuple[str, ...]
    notes: tuple[str, ...]


_KEPT: dict[str, tuple[Any, dict[str, Any]]] = {}
"""The model at hand: its topology, and what is known of it."""


def listed(job: Job) -> Listing:
    """List a model's layers.

    Parameters
    ----------
    job : Job
        The model.
    """
    from onnx_ei.analysis import describe, select_layers
    from onnx_ei.provenance import origin, peak_memory

    topology, facts = opened(job)
    found = describe(
        topology,
        job.layers,
        exclude=job.exclude,
        spans=job.spans,
        strict=False,
        positions=job.options.get("positions", "one"),
        background=job.options.get("background"),
        samples=job.predict,
        bins=bins_of(job.options),
    )
    known = origin(facts, _options(job, job.devices[0]), job.parameters)
    known["peak_memory"] = peak_memory()
    # those that cannot be measured are rows as they are here: nothing was measured in no time
    rows = (replace(row, model=job.path, seconds=0.0, provenance=known) for row in found.rows)
    return Listing(rows=tuple(rows), keys=tuple(select_layers(topology)), notes=found.notes)


def bins_of(options: Mapping[str, Any]) -> tuple[int, int]:
    """Return the bins of an input and an output; as many as inputs' where they are to be found.

    Parameters
    ----------
    options : mapping
        Keyword arguments of :func:`onnx_ei.measure`.
    """
    first = options.get("in_bins", 64)
    last = options.get("out_bins", 64)
    return first, first if isinstance(last, str) else last


def measured(job: Job, target: str | Target) -> tuple[Row, dict[str, Measurement]]:
    """Measure a layer, or a named span.

    Parameters
    ----------
    job : Job
        The model.
    target : str or Target
        The layer's key, or what else.

    Returns
    -------
    row : Row
        With its measurements, or with the reason why there are none.
    matrices : dict of str to Measurement
        Of ``job.matrices``, what was measured.
    """
    from onnx_ei.analysis import measured_row
    from onnx_ei.errors import OnnxEiWarning

    topology, facts = opened(job)
    _reset_peak()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OnnxEiWarning)  # each is a field of the measurement
        row = measured_row(
            topology,
            target,
            (*job.measures, *job.matrices),
            job.input_range,
            facts,
            options_here(job),
            job.parameters,
        )
    taken = dict(row.measurements)
    matrices = {n: taken.pop(n) for n in job.matrices if n in taken}
    return replace(row, model=job.path, measurements=taken), matrices


def failed(row: Row, outcome: str, answer: object) -> Row:
    """Return the row of a layer that was not measured.

    Parameters
    ----------
    row : Row
        The layer as it was listed.
    outcome, answer : str, object
        As :meth:`onnx_ei._batch.supervising.Supervisor.ask` returns them.
    """
    return replace(
        row,
        reason=str(answer),
        broken=True,
        failure=None if outcome == "failed" else outcome,
        seconds=getattr(answer, "seconds", None),
        provenance={**row.provenance, "peak_memory": getattr(answer, "peak_memory", None)},
    )


def unread(job: Job, outcome: str, answer: object) -> Row:
    """Return the row of a model whose layers could not be listed.

    Parameters
    ----------
    job : Job
        The model.
    outcome, answer : str, object
        As for :func:`failed`.
    """
    from onnx_ei.provenance import content_hash, origin

    facts: dict[str, Any] = {"model_sha256": None, "opset": None, "producer": None}
    with suppress(ModelError):
        facts["model_sha256"] = content_hash(job.path)
    known = origin(facts, _options(job, job.devices[0]), job.parameters)
    return failed(replace(model_row(job.path, ""), provenance=known), outcome, answer)


def options_here(job: Job) -> dict[str, Any]:
    """Return the arguments of :func:`onnx_ei.measure`, with the device of this process.

    Parameters
    ----------
    job : Job
        The model.
    """
    return _options(job, device_in_turn(job.devices, job.run))


def span_options(job: Job, target: str | Target) -> dict[str, Any]:
    """Return the options that decide a layer's span, or that of a named one.

    Parameters
    ----------
    job : Job
        The model.
    target : str or Target
        The layer's key, or what else.
    """
    given = {"positions": "one", "background": None, "activation": None, "in_layer": None}
    found = {name: job.options.get(name, default) for name, default in given.items()}
    if isinstance(target, Target) and target.span is not None:
        return found | {"in_layer": target.in_layer}
    return found


def _options(job: Job, device: Device) -> dict[str, Any]:
    return {**job.options, "device": device}


def opened(job: Job) -> tuple[Any, dict[str, Any]]:
    """Return a model's topology and what is known of it; the last one stays open.

    Parameters
    ----------
    job : Job
        The model.

    Raises
    ------
    ModelError
        If it cannot be read.
    """
    from onnx_ei.provenance import content_hash, model_facts

    if job.path not in _KEPT:
        file = job.path if job.file is None else job.file
        if job.shared and not Path(file).exists():
            raise ModelError(
                f"{file} is not there for a worker on {platform.node()}: every worker reads the "
                "models itself, so they must lie where all of them see them, by one path (a "
                "shared file system)"
            )
        topology = job.opener(file)
        facts = model_facts(topology, content_hash(file))
        _KEPT.clear()  # one at a time: a model may be large
        _KEPT[job.path] = topology, facts
    return _KEPT[job.path]


def _reset_peak() -> None:
    """Begin the peak of this process's memory anew, where that is possible (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
