"""Analyses as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from onnx_ei._sampling.convergence import UNRELIABLE
from onnx_ei._sampling.engine import DROPPED_SHARE, FULL_COVERAGE

if TYPE_CHECKING:
    from onnx_ei.analysis import Analysis, Row, Shape
    from onnx_ei.results import Measurement

__all__ = ["describe_table", "remarks", "run_table"]


def describe_table(found: Analysis) -> Table:
    """Return a table of a model's layers."""
    table = Table(title=escape(found.model), title_justify="left")
    for column in ("layer", "op", "in act.", "out act.", "in shape", "out shape"):
        table.add_column(column, overflow="fold")
    table.add_column("units", justify="right")
    table.add_column("batch")
    for row in found.rows:
        units = "" if row.n_inputs is None else f"{row.n_inputs} -> {row.n_outputs}"
        batch = {None: "", True: "free", False: "one by one"}[row.batched]
        last = escape(row.reason) if row.reason is not None else batch
        table.add_row(
            escape(row.layer),
            row.op_type,
            row.in_activation or "-",
            row.out_activation or "-",
            _shape(row.in_shape),
            _shape(row.out_shape),
            units,
            last,
        )
    return table


def _shape(dims: Shape) -> str:
    return "x".join("?" if d is None else str(d) for d in dims) or "?"


def run_table(found: Analysis, names: Sequence[str]) -> Table:
    """Return a table of measurements: value, standard error, and a mark where one is needed."""
    table = Table(title=f"{escape(found.model)} (bits, ± standard error)", title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("units", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    with_reasons = any(row.reason is not None for row in found.rows)
    if with_reasons:
        table.add_column("not measured because", overflow="fold")
    for row in found.rows:
        units = "" if row.n_inputs is None else f"{row.n_inputs} -> {row.n_outputs}"
        cells = [_cell(row, name) for name in names]
        reason = [escape(row.reason or "")] if with_reasons else []
        table.add_row(escape(row.layer), units, *cells, *reason)
    return table


def _cell(row: Row, name: str) -> str:
    found = row.measurements.get(name)
    if found is None:
        return ""
    mark = "".join(flag for flag, _ in _faults(found))
    return f"{found.value:.4f} ± {found.stderr:.4f}{mark}"


def _faults(found: Measurement) -> Iterator[tuple[str, str]]:
    """Yield a mark and its meaning for everything that lessens a value."""
    coverage = found.coverage
    if isinstance(coverage, float) and coverage < FULL_COVERAGE:
        word = "unreliable" if coverage < UNRELIABLE else "biased"
        yield (
            "!" if coverage < UNRELIABLE else "~",
            f"{word}: {found.n_samples} samples cover {coverage:.2f} of the joint states",
        )
    if found.out_of_range > DROPPED_SHARE:
        yield (
            "*",
            f"{found.out_of_range:.1%} of the samples out of range {found.out_range}, dropped",
        )
    if found.converged is False:
        yield "?", f"not converged after {found.n_samples} samples"


def remarks(found: Analysis) -> Iterator[str]:
    """Yield a line for every mark of a layer, with the measures that it concerns."""
    for row in found.rows:
        concerned: dict[tuple[str, str], list[str]] = {}
        for name, measurement in row.measurements.items():
            for fault in _faults(measurement):
                concerned.setdefault(fault, []).append(name)
        for (mark, meaning), names in concerned.items():
            yield f"{mark} {row.layer} {', '.join(names)}: {meaning}"
