"""What is done with one model: its layers listed, one of them measured."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx_ei.errors import ModelError
from onnx_ei.results import Measurement
from onnx_ei.rows import Row

__all__ = ["Job", "Listing", "listed", "measured", "opened", "span_options"]


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
    input_range : (float, float) or None
        As for :func:`onnx_ei.analyze`.
    options : dict
        Keyword arguments of :func:`onnx_ei.measure`.
    """

    path: str
    opener: Callable[[str], Any]
    measures: tuple[str, ...]
    matrices: tuple[str, ...] = ()
    layers: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    input_range: tuple[float, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
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
    from onnx_ei.analysis import describe, origin, select_layers

    topology, facts = opened(job)
    found = describe(
        topology,
        job.layers,
        exclude=job.exclude,
        strict=False,
        positions=job.options.get("positions", "one"),
        background=job.options.get("background"),
    )
    known = origin(facts, job.options)
    rows = (replace(row, model=job.path, provenance=known) for row in found.rows)
    return Listing(rows=tuple(rows), keys=tuple(select_layers(topology)), notes=found.notes)


def measured(job: Job, layer: str) -> tuple[Row, dict[str, Measurement]]:
    """Measure a layer.

    Parameters
    ----------
    job : Job
        The model.
    layer : str
        The layer's key.

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
            layer,
            (*job.measures, *job.matrices),
            job.input_range,
            facts,
            job.options,
        )
    taken = dict(row.measurements)
    matrices = {n: taken.pop(n) for n in job.matrices if n in taken}
    return replace(row, model=job.path, measurements=taken), matrices


def span_options(job: Job) -> dict[str, Any]:
    """Return the options of a job that decide a layer's span.

    Parameters
    ----------
    job : Job
        The model.
    """
    given = {"positions": "one", "background": None, "activation": None, "in_layer": None}
    return {name: job.options.get(name, default) for name, default in given.items()}


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
