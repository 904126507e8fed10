"""Two models or checkpoints side by side: differences, with their errors."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx_ei.frames import Scalar, frame
from onnx_ei.results import EXACT, Measurement
from onnx_ei.rows import Row
from onnx_ei.tabular import write_csv

if TYPE_CHECKING:
    import pandas

    from onnx_ei.analyzed import Analysis

__all__ = ["Comparison", "compare"]

_SAME = ("in_range", "out_range", "in_bins", "out_bins", "positions", "estimator")
"""Fields in which two values must agree for their difference to mean anything."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The layers of two models, side by side.

    Attributes
    ----------
    first, second : str
        The models. Differences are the second less the first.
    measures : tuple of str
        The scalar measures that either has.
    records : tuple of dict
        One a layer of either, as :meth:`to_records` says.
    """

    first: str
    second: str
    measures: tuple[str, ...]
    records: tuple[dict[str, Scalar], ...]

    def to_records(self) -> list[dict[str, Scalar]]:
        """Return one flat dict a layer.

        Returns
        -------
        list of dict
            ``layer`` or ``span``, ``status_a``, ``status_b`` (None where that model has none such),
            ``differs`` (in what the two measurements are not alike, so that their difference says
            more of the parameters than of the layer; None where they are); and for each measure,
            such as ``ei``: ``ei_a``, ``ei_b``, ``ei_difference`` and ``ei_difference_stderr`` in
            bits.

        Notes
        -----
        The error of a difference is the root of the sum of the squared errors, and the sum of the
        bounds where both values are exact. Two runs with one seed share their noise, which makes
        the true error smaller rather than larger.
        """
        return [dict(record) for record in self.records]

    def to_pandas(self) -> pandas.DataFrame:
        """Return :meth:`to_records` as a data frame; needs the extra ``pandas``.

        Raises
        ------
        MissingDependencyError
            If pandas is not installed.
        """
        return frame(self.to_records())

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_records` as comma-separated values.

        Parameters
        ----------
        path : path
            The file; one that is there is replaced when the new one is whole.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        write_csv(path, self.to_records())


def compare(first: Analysis, second: Analysis) -> Comparison:
    """Put two analyses side by side.

    Parameters
    ----------
    first, second : Analysis
        Of one model each.

    Returns
    -------
    Comparison
        A row for each layer of the first, then for those that only the second has; so for named
        spans, which are matched by name.

    Raises
    ------
    ValueError
        If either holds several models.

    Examples
    --------
    >>> import onnx.parser
    >>> from onnx_ei import analyze
    >>> text = (
    ...     '<ir_version: 10, opset_import: ["" : 20]> g (float[N,1] x) => (float[N,1] y) '
    ...     "<float[1,1] fc = {%s}> { y = MatMul(x, fc) }"
    ... )
    >>> unit = dict(in_range=(0, 1), out_range=(0, 1), in_bins=4, out_bins=4, samples=20_000)
    >>> one, half = (analyze(onnx.parser.parse_model(text % w), ["ei"], **unit) for w in (1, .5))
    >>> (record,) = one.compare(half).to_records()
    >>> round(record["ei_difference"], 2), record["differs"]
    (-1.0, None)
    """
    for found in (first, second):
        models = list(dict.fromkeys(row.model for row in found.rows))
        if len(models) > 1:
            raise ValueError(
                f"a comparison is of one model with one other, and these are {len(models)} "
                f"({models[0]!r}, {models[1]!r} ...); choose with Analysis.of(model)"
            )
    sides = [{row.place: row for row in found.rows if row.layer} for found in (first, second)]
    taken = (m for side in sides for row in side.values() for m in row.measurements.values())
    measures = tuple(dict.fromkeys(m.name for m in taken if isinstance(m.value, float | int)))
    layers = dict.fromkeys([*sides[0], *sides[1]])
    return Comparison(
        first=first.model,
        second=second.model,
        measures=measures,
        records=tuple(_record(n, sides[0].get(n), sides[1].get(n), measures) for n in layers),
    )


def _record(
    place: tuple[bool, str], first: Row | None, second: Row | None, measures: tuple[str, ...]
) -> dict[str, Scalar]:
    record: dict[str, Scalar] = {
        "layer": None if place[0] else place[1],
        "span": place[1] if place[0] else None,
        "status_a": None if first is None else first.status,
        "status_b": None if second is None else second.status,
        "differs": None,
    }
    differs: dict[str, None] = {}
    for name in measures:
        a, b = (None if row is None else row.measurements.get(name) for row in (first, second))
        record |= {f"{name}_a": _value(a), f"{name}_b": _value(b)}
        difference, error = (None, None) if a is None or b is None else _difference(a, b)
        record |= {f"{name}_difference": difference, f"{name}_difference_stderr": error}
        if a is not None and b is not None:
            differs |= dict.fromkeys(_unlike(a, b))
    record["differs"] = ", ".join(differs) or None
    return record


def _unlike(a: Measurement, b: Measurement) -> list[str]:
    """Say in what two measurements are not alike; the layers' own names do not count."""
    names = [n for n in _SAME if getattr(a, n) != getattr(b, n)]
    return [f"{name} {getattr(a, name)} against {getattr(b, name)}" for name in names]


def _value(found: Measurement | None) -> float | None:
    return None if found is None else float(found.value)  # type: ignore[arg-type]


def _difference(a: Measurement, b: Measurement) -> tuple[float, float]:
    errors = float(a.stderr), float(b.stderr)  # type: ignore[arg-type]
    both = a.method == b.method == EXACT
    values = float(a.value), float(b.value)  # type: ignore[arg-type]
    return values[1] - values[0], sum(errors) if both else math.hypot(*errors)
