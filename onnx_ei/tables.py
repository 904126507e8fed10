"""Analyses as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape
from rich.table import Table

from onnx_ei._sampling.remarks import DROPPED_SHARE
from onnx_ei.results import FULL_COVERAGE, UNRELIABLE
from onnx_ei.rows import shown_nodes

if TYPE_CHECKING:
    from onnx_ei.analyzed import Analysis
    from onnx_ei.comparing import Comparison
    from onnx_ei.results import Measurement
    from onnx_ei.rows import Row, Shape

__all__ = [
    "compare_table",
    "describe_table",
    "plan_table",
    "remarks",
    "run_table",
    "shown_bytes",
    "shown_seconds",
    "summary_table",
]

MARKS = {
    "~": f"biased: coverage below {FULL_COVERAGE}",
    "!": f"unreliable: coverage below {UNRELIABLE}",
    "*": f"over {DROPPED_SHARE:.0%} of the samples out of range",
    "?": "not converged",
}


def describe_table(found: Analysis, *, ranges: bool = False, samples: int | None = None) -> Table:
    """Return a table of a model's layers, with their bin ranges and estimates if asked for."""
    table = Table(title=escape(found.model), title_justify="left")
    for column in ("layer", "op", "in act.", "out act.", "in shape", "out shape"):
        table.add_column(column, overflow="fold")
    for column in ("in range", "out range") if ranges else ():
        table.add_column(column, justify="right")
    table.add_column("units", justify="right")
    if samples is not None:
        table.add_column("run", justify="right")
        table.caption = _estimate(found, samples)
        table.caption_justify = "left"
    table.add_column("batch")
    for row in found.rows:
        units = "" if row.n_inputs is None else f"{row.n_inputs} -> {row.n_outputs}"
        batch = {None: "", True: "free", False: "one by one"}[row.batched]
        batch = "; ".join([batch, *map(escape, row.notes)])
        last = escape(row.reason) if row.reason is not None else batch
        table.add_row(
            escape(row.name),
            row.op_type,
            row.in_activation or "-",
            row.out_activation or "-",
            _shape(row.in_shape),
            _shape(row.out_shape),
            *((_range(row.in_range), _range(row.out_range)) if ranges else ()),
            units,
            *((_time(row),) if samples is not None else ()),
            last,
        )
    return table


def _time(row: Row) -> str:
    return shown_seconds(sum(c.seconds for c in row.costs.values())) if row.costs else ""


def _estimate(found: Analysis, samples: int) -> str | None:
    """Say what the column of estimates is, and its sum."""
    costs = [cost for row in found.rows for cost in row.costs.values()]
    if not costs:
        return None
    total = shown_seconds(sum(cost.seconds for cost in costs))
    most = shown_bytes(max(cost.bytes for cost in costs))
    return (
        f"run: ei, ei_parts and sensitivity at 64 bins on this machine, {total} in all, at most "
        f"{most} at once; what is sampled with {samples:,} samples, and in proportion"
    )


def shown_seconds(seconds: float) -> str:
    """Return a time in two digits and the largest unit that fits."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"


def _range(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.4g}, {ends[1]:.4g}"


def _shape(dims: Shape) -> str:
    return "x".join("?" if d is None else str(d) for d in dims) or "?"


def run_table(found: Analysis, names: Sequence[str]) -> Table:
    """Return a table of measurements: value, standard error, marks, and what the marks mean."""
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
        table.add_row(escape(row.name), units, *cells, *reason)
    table.caption = "\n".join(_legend(found, names)) or None
    table.caption_justify = "left"
    return table


def _legend(found: Analysis, names: Sequence[str]) -> Iterator[str]:
    """Yield what each mark in the table means."""
    shown = [row.measurements[n] for row in found.rows for n in names if n in row.measurements]
    marks = {mark for measurement in shown for mark, _ in _faults(measurement)}
    yield from (f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in marks)
    if any(_is_exact(measurement) for measurement in shown):
        yield "exact: right to the digits shown"


def _cell(row: Row, name: str) -> str:
    found = row.measurements.get(name)
    if found is None:
        return ""
    mark = "".join(flag for flag, _ in _faults(found))
    error = "   exact" if _is_exact(found) else f"± {found.stderr:.4f}"
    return f"{found.value:.4f} {error}{mark}"


def _is_exact(found: Measurement) -> bool:
    """Whether the bound of the error cannot be seen in four decimals."""
    return found.method == "exact" and float(np.max(found.stderr)) < 5e-5


def _faults(found: Measurement) -> Iterator[tuple[str, str]]:
    """Yield a mark and its meaning for everything that lessens a value."""
    if found.adequacy in ("undersampled", "unreliable"):
        mark, word = ("!", "unreliable") if found.reliable is False else ("~", "biased")
        seen = f"{found.n_samples} samples cover {found.coverage:.2f} of the joint states"
        yield mark, f"{word}: {seen}"
    elif found.reliable is False:
        yield "!", "unreliable: no sample was in range"
    if found.out_of_range > DROPPED_SHARE:
        yield (
            "*",
            f"{found.out_of_range:.1%} of the samples out of range {found.out_range}, dropped",
        )
    if found.converged is False:
        yield "?", f"not converged after {found.n_samples} samples"


def remarks(found: Analysis) -> Iterator[str]:
    """Yield a line for every mark of a layer, with the measures that it concerns.

    Before them one for what a GPU left to the CPU.
    """
    for row in found.rows:
        if on_cpu := row.provenance.get("cpu_nodes"):
            yield f"{row.layer}: nodes that the GPU left to the CPU: {shown_nodes(on_cpu)}"
        concerned: dict[tuple[str, str], list[str]] = {}
        for name, measurement in row.measurements.items():
            for fault in _faults(measurement):
                concerned.setdefault(fault, []).append(name)
        for (mark, meaning), names in concerned.items():
            notes = _notes(row, names) if mark in "~!" else ()
            yield f"{mark} {row.name} {', '.join(names)}: " + "; ".join((meaning, *notes))


def _notes(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    """Return what can be said instead: each measure's bound, then what they have in common."""
    notes = [row.measurements[name].notes for name in names]
    return tuple(dict.fromkeys([*(n for of in notes for n in of[:1]), *sum(notes, ())]))


def summary_table(found: Analysis) -> Table:
    """Return a table of a row a model: how many layers, what became of them, means."""
    records = found.summary()
    table = Table(title=f"{escape(found.model)} (means over layers, bits)", title_justify="left")
    table.add_column("model", overflow="fold")
    names = [name for name in (records or [{}])[0] if name != "model" and not _counts(name)]
    for name in names:
        table.add_column(name, justify="right")
    for record in records:
        table.add_row(escape(str(record["model"])), *(_number(record[name]) for name in names))
    return table


def _counts(name: str) -> bool:
    return name.endswith("_layers")


def compare_table(found: Comparison) -> Table:
    """Return a table of two models side by side."""
    title = f"{escape(found.second)} less {escape(found.first)} (bits, ± standard error)"
    table = Table(title=title, title_justify="left")
    table.add_column("layer", overflow="fold")
    for name in found.measures:
        table.add_column(name, justify="right")
    table.add_column("note", overflow="fold")
    for record in found.records:
        cells = []
        for name in found.measures:
            change, error = (record[f"{name}_difference{end}"] for end in ("", "_stderr"))
            cells.append("" if change is None else f"{change:+.4f} ± {error:.4f}")
        sides = ((found.first, record["status_a"]), (found.second, record["status_b"]))
        notes = [f"not in {model}" for model, status in sides if status is None]
        notes += [f"{status} in {m}" for m, status in sides if status not in (None, "measured")]
        notes += [f"measured with {record['differs']}"] if record["differs"] else []
        table.add_row(
            escape(str(record["layer"] or record["span"])), *cells, escape("; ".join(notes))
        )
    return table


def plan_table(
    rows: Sequence[Row], words: Sequence[str], takes: Sequence[tuple[float, int] | None]
) -> Table:
    """Return a table of what a batch would do, and what that takes: seconds and bytes."""
    table = Table()
    for column in ("model", "layer", "op"):
        table.add_column(column, overflow="fold")
    for column in ("units", "run", "memory"):
        table.add_column(column, justify="right")
    table.add_column("state")
    table.add_column("reason", overflow="fold")
    for row, word, cost in zip(rows, words, takes, strict=True):
        units = "" if row.n_inputs is None else f"{row.n_inputs} -> {row.n_outputs}"
        shown = ("", "") if cost is None else (shown_seconds(cost[0]), shown_bytes(cost[1]))
        texts = (row.model, row.name, row.op_type, units, *shown, word, row.reason or "")
        table.add_row(*map(escape, texts))
    return table


def shown_bytes(held: int) -> str:
    """Return a size in MB, in two digits or whole."""
    return f"{held / 1e6:.2g} MB" if held < 1e7 else f"{held / 1e6:.0f} MB"


def _number(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
