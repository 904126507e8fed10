"""What a training run recorded: its file, and time series of it.

A recording is a text file. Its first line says how everything in it was measured; each line after
that is one layer at one step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_ei.errors import UnknownLayerError, closest
from onnx_ei.jsonlines import JsonLines
from onnx_ei.results import adequacy_of

__all__ = ["FIELDS", "RECORDING", "Label", "Point", "Record", "Recording", "read_records"]

Label: TypeAlias = str | int | float | bool | None
RECORDING = JsonLines(noun="recording", done="recorded", version=1)


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a recording keeps of a :class:`onnx_ei.Measurement`; the fields are its own.

    Attributes
    ----------
    value, stderr : float, or (nested) list of float
        Bits.
    n_samples, coverage, converged, out_of_range
        What judges them.
    method, singletons, n_states, saturation, upper_bound
        None in files that earlier versions began, which lack them.
    adequacy, reliable
        From the coverage, where the file lacks them.
    """

    value: Any
    stderr: Any
    n_samples: int
    coverage: float | list[float] | None
    converged: bool | None
    out_of_range: float
    method: str | None = None
    singletons: int | list[int] | None = None
    n_states: list[Any] | None = None
    saturation: float | list[float] | None = None
    upper_bound: float | list[float] | None = None
    adequacy: str | list[str] | None = None
    reliable: bool | list[bool] | None = None

    def __post_init__(self) -> None:
        """Judge what an earlier version wrote."""
        if self.method is None and self.coverage is not None:
            many = isinstance(self.coverage, list)
            words = [adequacy_of(share) for share in np.atleast_1d(self.coverage).tolist()]
            usable = [word != "unreliable" for word in words]
            object.__setattr__(self, "adequacy", words if many else words[0])
            object.__setattr__(self, "reliable", usable if many else usable[0])


FIELDS = tuple(field.name for field in fields(Point))


@dataclass(frozen=True, kw_only=True)
class Record:
    """One layer at one step.

    Attributes
    ----------
    step : int
        When.
    layer : str
        The layer's name.
    labels : dict of str to str, int, float, bool or None
        What else was noted.
    points : dict of str to Point
        By measure.
    """

    step: int
    layer: str
    labels: Mapping[str, Label]
    points: Mapping[str, Point]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A results file, read.

    Attributes
    ----------
    measures, layers : tuple of str
        What was measured of which layers.
    parameters : dict
        How: the arguments of :func:`onnx_ei.measure`, defaults included, and ``input_range``.
    versions : dict of str to str
        Of what began the file.
    rows : tuple of Record
        As they were written; one with the step, layer and labels of an earlier one replaces it.
    incomplete : bool
        Whether the last line had been cut off in writing, and was dropped.
    """

    measures: tuple[str, ...]
    layers: tuple[str, ...]
    parameters: Mapping[str, Any]
    versions: Mapping[str, str]
    rows: tuple[Record, ...]
    incomplete: bool

    def series(
        self, measure: str, layer: str, /, **labels: Label
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return a measure of a layer as a time series.

        Parameters
        ----------
        measure, layer : str
            Their names.
        **labels
            Only rows that carry these.

        Returns
        -------
        steps : ndarray of int64, shape (n,)
            Growing.
        values, stderrs : ndarray of float64, shape (n, ...)
            Bits; one number a step unless the measure is a list or a matrix.

        Raises
        ------
        UnknownLayerError
            If the layer was not measured.
        ValueError
            If the measure was not taken, no row carries the labels, or a step occurs twice.

        Examples
        --------
        See :class:`Recorder`.
        """
        if measure not in self.measures:
            raise ValueError(
                f"measure {measure!r} was not recorded; {closest(measure, self.measures)}"
            )
        if layer not in self.layers:
            raise UnknownLayerError(
                f"layer {layer!r} was not recorded; {closest(layer, self.layers)}"
            )
        rows = [row for row in self.rows if row.layer == layer]
        for name, label in labels.items():
            seen = {row.labels[name]: None for row in rows if name in row.labels}
            rows = [row for row in rows if name in row.labels and row.labels[name] == label]
            if not rows:
                raise ValueError(f"no row has {name}={label!r}; {closest(str(label), seen)}")
        rows = sorted(rows, key=lambda row: row.step)
        for row, after in pairwise(rows):
            if row.step == after.step:
                raise ValueError(
                    f"step {row.step} occurs more than once, with {dict(row.labels)} and "
                    f"{dict(after.labels)}; say which by a label"
                )
        points = [row.points[measure] for row in rows]
        return (
            np.array([row.step for row in rows], np.int64),
            np.array([point.value for point in points], np.float64),
            np.array([point.stderr for point in points], np.float64),
        )


def read_records(path: str | os.PathLike[str]) -> Recording:
    """Read a results file of a :class:`Recorder`, also while it is being written.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    Recording

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is no recording, or a line other than an unfinished last one is damaged.

    Examples
    --------
    See :class:`Recorder`.
    """
    header, entries, incomplete = RECORDING.read(path, _record, _key)
    return Recording(
        measures=tuple(header["measures"]),
        layers=tuple(header["layers"]),
        parameters=header["parameters"],
        versions=header["versions"],
        rows=tuple(entry.content for entry in entries),
        incomplete=incomplete,
    )


def _record(header: Mapping[str, Any], row: Mapping[str, Any]) -> Record:
    points = {
        name: Point(**dict(zip(header["fields"], values, strict=True)))
        for name, values in row["points"].items()
    }
    return Record(step=row["step"], layer=row["layer"], labels=row["labels"], points=points)


def _key(record: Record) -> tuple[Any, ...]:
    return record.step, record.layer, *sorted(record.labels.items())
