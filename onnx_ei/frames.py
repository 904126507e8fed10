"""Analyses as flat records: one a layer, a named scalar a column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from onnx_ei.errors import MissingDependencyError, closest
from onnx_ei.results import Measurement
from onnx_ei.rows import FAILURES, shown_nodes

if TYPE_CHECKING:
    import pandas

    from onnx_ei.analyzed import Analysis
    from onnx_ei.rows import Row

__all__ = ["Scalar", "column_type", "flat_records", "frame", "summary_records"]

Scalar: TypeAlias = str | int | float | bool | None

LAYER = ("model", "layer_id", "layer", "span", "in_layer", "op_type", "kind", "in_activation",
         "out_activation", "n_inputs", "n_outputs", "batched", "status", "reason")  # fmt: skip
FACTS = ("model_sha256", "opset", "producer", "definitions")
PACKAGES = ("onnx_ei", "onnx", "onnxruntime", "numba", "numpy")
EACH = ("coverage", "adequacy", "reliable", "singletons", "saturation", "upper_bound")
"""Fields that are lists where there are groups."""
ONCE = ("method", "estimator", "n_samples", "out_of_range", "converged")
TEXT = (
    "model",
    "layer",
    "span",
    "activation",
    "reason",
    "provider",
    "device",
    "producer",
    "sha256",
    "version",
    "method",
    "estimator",
    "adequacy",
    "notes",
    "types",
)
"""Ends of the names of text columns: one with nothing in it is no column of numbers."""
STATES = ("in_states", "out_states", "joint_states")


def flat_records(
    analysis: Analysis, measures: Iterable[str] | None = None
) -> list[dict[str, Scalar]]:
    """Return one dict a layer, all with the same keys.

    Parameters
    ----------
    analysis : Analysis
        What was measured.
    measures : iterable of str, optional
        Which measures; all of them by default.

    Returns
    -------
    list of dict
        As :meth:`onnx_ei.Analysis.to_records` describes them.

    Raises
    ------
    ValueError
        If a measure was not taken, or is a matrix.

    Examples
    --------
    See :meth:`onnx_ei.Analysis.to_records`.
    """
    known = list(dict.fromkeys(name for row in analysis.rows for name in row.measurements))
    wanted = known if measures is None else _wanted(measures, known)
    rows: list[dict[str, Scalar]] = []
    for row in analysis.rows:
        record: dict[str, Scalar] = {name: getattr(row, name) for name in LAYER}
        record["layer"] = row.layer or None
        for name in wanted:
            if name in row.measurements:
                record |= _columns(row.measurements[name], row.name, measures is None)
        rows.append(record)
    origins = [_origin(row) for row in analysis.rows]
    columns = dict.fromkeys(name for record in rows for name in record)
    return [
        {name: record.get(name) for name in columns} | origin
        for record, origin in zip(rows, origins, strict=True)
    ]


def frame(records: Sequence[dict[str, Scalar]]) -> pandas.DataFrame:
    """Return records as a data frame.

    Parameters
    ----------
    records : sequence of dict
        From :func:`flat_records`.

    Returns
    -------
    pandas.DataFrame
        A row a record. Columns are int64, float64 or bool, with gaps Int64, float64 (NaN) or
        boolean; text is object.

    Raises
    ------
    MissingDependencyError
        If pandas is not installed.

    Examples
    --------
    See :meth:`onnx_ei.Analysis.to_pandas`.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingDependencyError(
            'pandas is not installed: pip install "onnx-ei[pandas]", or use to_records()'
        ) from error
    columns = {name: [record[name] for record in records] for name in (records or [{}])[0]}
    return pandas.DataFrame(
        {name: pandas.Series(of, dtype=column_type(name, of)) for name, of in columns.items()}
    )


def column_type(name: str, values: list[Scalar]) -> str:
    """Return a column's type, as pandas calls it.

    Parameters
    ----------
    name : str
        The column.
    values : list
        What is in it.

    Returns
    -------
    str
        ``"int64"``, ``"float64"``, ``"bool"``, ``"object"`` (text); with gaps ``"Int64"`` and
        ``"boolean"``: pandas by itself would make objects or floats of them.
    """
    kinds = {type(value) for value in values if value is not None}
    gaps = None in values
    if kinds == {bool}:
        return "boolean" if gaps else "bool"
    if kinds == {int}:
        return "Int64" if gaps else "int64"
    if not kinds:
        return "object" if name.endswith(TEXT) else "float64"
    return "float64" if kinds in ({float}, {int, float}) else "object"


def summary_records(rows: Sequence[Row]) -> list[dict[str, Scalar]]:
    """Return one dict a model: how many layers, what became of them, means.

    Parameters
    ----------
    rows : sequence of Row
        Of any models.

    Returns
    -------
    list of dict
        As :meth:`onnx_ei.Analysis.summary` describes them.

    Examples
    --------
    See :meth:`onnx_ei.Analysis.summary`.
    """
    models: dict[str, list[Row]] = {}
    for row in rows:
        models.setdefault(row.model, []).append(row)
    scalars = _scalars(rows)
    return [_summed(model, of, scalars) for model, of in models.items()]


def _origin(row: Row) -> dict[str, Scalar]:
    """Return where a row's values come from, always the same columns."""
    known = row.provenance
    versions = known.get("versions", {})
    # the GPU's wheel has another name, and is the same library
    wheel = versions.get("onnxruntime", versions.get("onnxruntime-gpu"))
    found = {**versions, "onnxruntime": wheel}
    providers = dict.fromkeys(m.provider for m in row.measurements.values())
    on_cpu = known.get("cpu_nodes")
    return {
        "provider": ", ".join(providers) or known.get("provider"),
        "device": known.get("device"),
        "tf32": known.get("tf32"),
        "cpu_nodes": None if on_cpu is None else sum(on_cpu.values()),
        "cpu_node_types": shown_nodes(on_cpu or {}) or None,
        "seed": known.get("seed"),
        "seconds": row.seconds,
        "peak_memory": known.get("peak_memory"),
        **{name: known.get(name) for name in FACTS},
        **{f"{name}_version": found.get(name) for name in PACKAGES},
    }


def _wanted(measures: Iterable[str], known: list[str]) -> list[str]:
    wanted = [measures] if isinstance(measures, str) else list(measures)
    for name in wanted:
        if name not in known:
            raise ValueError(f"measure {name!r} was not taken; {closest(name, known)}")
    return wanted


def _columns(found: Measurement, layer: str, all_measures: bool) -> dict[str, Scalar]:
    """Return a measurement's columns, those of a list or a tuple with the index in the name."""
    if np.ndim(found.value) > 1:
        others = "name the other measures, " if all_measures else ""
        raise ValueError(
            f"{found.name} of layer {layer!r} is a matrix, and a record holds single numbers; "
            f"{others}or read row.measurements[{found.name!r}].value"
        )
    columns: dict[str, Scalar] = {}
    lower, upper = found.interval()
    ends: dict[str, Any] = {"": found.value, "_stderr": found.stderr, "_low": lower, "_high": upper}
    for suffix, value in ends.items():
        columns |= dict(_spread(found.name, suffix, _listed(value)))
    for field in ONCE:
        columns[f"{found.name}_{field}"] = getattr(found, field)
    for field in EACH:
        columns |= dict(_spread(found.name, f"_{field}", getattr(found, field)))
    for index, field in enumerate(STATES):
        states: Any = None if found.n_states is None else np.array(found.n_states)[..., index]
        columns |= dict(_spread(found.name, f"_{field}", _listed(states)))
    columns[f"{found.name}_notes"] = "; ".join(found.notes) or None
    return columns


def _spread(name: str, suffix: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    """Yield a column for a scalar, or one for each entry."""
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"{name}[{index}]{suffix}", item
    else:
        yield f"{name}{suffix}", value


def _listed(value: Any) -> Any:
    """Return plain numbers in place of NumPy's, alone or in a list."""
    return None if value is None else np.asarray(value).tolist()


def _scalars(rows: Sequence[Row]) -> list[str]:
    taken = (m for row in rows for m in row.measurements.values())
    return list(dict.fromkeys(m.name for m in taken if isinstance(m.value, float | int)))


def _summed(model: str, rows: list[Row], scalars: list[str]) -> dict[str, Scalar]:
    layers = [row for row in rows if row.layer and row.span is None]
    spans = [row for row in rows if row.span is not None]
    doubtful = [r for r in rows if any(m.reliable is False for m in r.measurements.values())]
    record: dict[str, Scalar] = {
        "model": model,
        "layers": len(layers),
        "spans": len(spans),
        "measured": sum(row.status == "measured" for row in rows),
        "unmeasurable": sum(row.status == "unmeasurable" for row in rows),
        "failed": sum(row.status in FAILURES for row in rows),
        "unreliable": len(doubtful),
        "seconds": sum(row.seconds or 0.0 for row in rows),
    }
    for name in scalars:
        values = [float(r.measurements[name].value) for r in layers if name in r.measurements]  # type: ignore[arg-type]
        record[name] = sum(values) / len(values) if values else None
        record[f"{name}_layers"] = len(values)
    return record
