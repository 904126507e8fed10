"""An analysis: the rows of one model or many, written, read back, merged, compared, summed up."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnx_ei.frames import Scalar, flat_records, frame, summary_records
from onnx_ei.jsonlines import line_of
from onnx_ei.resultfile import header_line, read_results, refuse_others, row_line
from onnx_ei.rows import FAILURES, Row, in_order
from onnx_ei.tabular import replaced, write_csv, write_parquet

if TYPE_CHECKING:
    import pandas

    from onnx_ei.comparing import Comparison

__all__ = ["Analysis"]


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The layers of a model, or of several, measured.

    Attributes
    ----------
    model : str
        Where it came from; of several models, how many there are.
    rows : tuple of Row
        One a layer: by model, then in graph order.
    notes : tuple of str
        What the analysis could not look into.
    measures : tuple of str
        What was measured.
    parameters : dict
        How: the arguments of :func:`onnx_ei.measure` in JSON's types, defaults included.

    Examples
    --------
    >>> import onnx.parser
    >>> from onnx_ei import analyze
    >>> model = onnx.parser.parse_model(
    ...     '<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) '
    ...     "<float[2,2] fc = {1,0,0,1}> { y = MatMul(x, fc) }"
    ... )
    >>> unit = dict(in_range=(0, 1), out_range=(0, 1), in_bins=4, out_bins=4)
    >>> found = analyze(model, ["ei"], samples=20_000, **unit)
    >>> [(row.layer, row.status) for row in found.rows]
    [('fc', 'measured')]
    """

    model: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

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
            All with the same keys; None where a layer has no such value. The layer's ``model``,
            ``layer_id``, ``layer``, ``span`` and ``in_layer`` (of a named span: its name and the
            layer that begins it), ``op_type``, ``kind``, ``in_activation``, ``out_activation``,
            ``n_inputs``, ``n_outputs``, ``batched``, ``status``, ``reason``; then for each
            measure, such as ``ei``: ``ei`` and ``ei_stderr`` in bits, ``ei_low`` and ``ei_high``
            (the 95 % interval), ``ei_method``, ``ei_estimator``, ``ei_n_samples``,
            ``ei_out_of_range``, ``ei_converged``, ``ei_coverage``, ``ei_adequacy``,
            ``ei_reliable``, ``ei_singletons``, ``ei_saturation``, ``ei_upper_bound``,
            ``ei_in_states``, ``ei_out_states``, ``ei_joint_states`` and ``ei_notes``. Entries of a
            tuple or a list have their index in the name: ``eis_between_groups[0]_stderr``. Then
            where the values come from: ``provider``, ``device``, ``tf32``, ``cpu_nodes`` (how many
            nodes a GPU left to the CPU), ``cpu_node_types``, ``seed``, ``seconds``,
            ``peak_memory`` (bytes), ``model_sha256``, ``opset``, ``producer``, ``definitions`` and
            the versions, ``onnx_ei_version`` and so on.

        Raises
        ------
        ValueError
            If a measure was not taken, or is a matrix.

        Examples
        --------
        >>> import onnx.parser
        >>> from onnx_ei import analyze
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
        >>> from onnx_ei import analyze
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

    def to_csv(self, path: str | os.PathLike[str], measures: Iterable[str] | None = None) -> None:
        """Write :meth:`to_records` as comma-separated values: a header, then a line a layer.

        Parameters
        ----------
        path : path
            The file; one that is there is replaced when the new one is whole.
        measures : iterable of str, optional
            Which measures; all that were taken by default.

        Raises
        ------
        OSError
            If it cannot be written.
        ValueError
            As :meth:`to_records`.
        """
        write_csv(path, flat_records(self, measures))

    def to_parquet(
        self, path: str | os.PathLike[str], measures: Iterable[str] | None = None
    ) -> None:
        """Write :meth:`to_records` as a Parquet file; needs the extra ``parquet``.

        Parameters
        ----------
        path : path
            The file; one that is there is replaced when the new one is whole.
        measures : iterable of str, optional
            Which measures; all that were taken by default.

        Raises
        ------
        MissingDependencyError
            If pyarrow is not installed.
        OSError
            If it cannot be written.
        ValueError
            As :meth:`to_records`.
        """
        write_parquet(path, flat_records(self, measures))

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a results file, as ``onnx-ei run -o`` does; :meth:`load` reads it.

        Parameters
        ----------
        path : path
            The file; one that is there is replaced when the new one is whole.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        header = header_line(self.measures, self.parameters)
        lines = [line_of(header), *(line_of(row_line(row, header)) for row in self.rows)]
        with replaced(path) as file:
            file.writelines(lines)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Analysis:
        """Read a results file: of :meth:`to_jsonl`, or of a batch, also while it is running.

        Parameters
        ----------
        path : path
            The file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is another kind of file, or a line other than an unfinished last one is damaged.

        Examples
        --------
        >>> import tempfile, onnx.parser
        >>> from onnx_ei import analyze
        >>> model = onnx.parser.parse_model(
        ...     '<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) '
        ...     "<float[2,2] fc = {1,0,0,1}> { y = MatMul(x, fc) }"
        ... )
        >>> unit = dict(in_range=(0, 1), out_range=(0, 1), in_bins=4, out_bins=4)
        >>> found = analyze(model, ["ei"], samples=20_000, **unit)
        >>> path = tempfile.mkdtemp() + "/results.jsonl"
        >>> found.to_jsonl(path)
        >>> Analysis.load(path).to_records() == found.to_records()
        True
        """
        header, rows, incomplete = read_results(path)
        notes = ("the last line was cut off in writing, and left out",) if incomplete else ()
        return cls(
            model=_named(rows, str(path)),
            rows=tuple(rows),
            notes=notes,
            measures=tuple(header["measures"]),
            parameters=header["parameters"],
        )

    def merge(self, *others: Analysis) -> Analysis:
        """Return one analysis of the rows of all: the parts of a run, say.

        Parameters
        ----------
        *others : Analysis
            Of the same measures and parameters.

        Returns
        -------
        Analysis
            Each layer of each model once: where one part failed and another did not, the latter.

        Raises
        ------
        ValueError
            If measures or parameters differ, or two parts have different values, or different
            models, under one name.

        Examples
        --------
        See docs/batch.md.
        """
        rows: dict[tuple[str, tuple[bool, str]], Row] = {}
        for part in (self, *others):
            refuse_others(
                "a part",
                header_line(self.measures, self.parameters),
                header_line(part.measures, part.parameters),
                "merge parts of one run",
            )
            for row in part.rows:
                there = rows.get((row.model, row.place))
                rows[row.model, row.place] = row if there is None else _better(there, row)
        whole = {row.model for row in rows.values() if row.layer}
        kept = [row for row in rows.values() if row.layer or row.model not in whole]
        kept.sort(key=in_order)
        notes = tuple(dict.fromkeys(note for part in (self, *others) for note in part.notes))
        return replace(self, model=_named(kept, self.model), rows=tuple(kept), notes=notes)

    def compare(self, other: Analysis) -> Comparison:
        """Put two models or checkpoints side by side: ``other`` less this one, layer by layer.

        Parameters
        ----------
        other : Analysis
            Of one model, like this one. Layers are matched by their keys.

        Returns
        -------
        Comparison
            A row a layer of either.

        Raises
        ------
        ValueError
            If either holds several models.
        """
        from onnx_ei.comparing import compare

        return compare(self, other)

    def of(self, model: str) -> Analysis:
        """Return the rows of one model alone.

        Parameters
        ----------
        model : str
            Its name, as the rows have it.

        Raises
        ------
        ValueError
            If there is no such model; the closest are named.
        """
        from onnx_ei.errors import closest

        rows = tuple(row for row in self.rows if row.model == model)
        if not rows:
            known = dict.fromkeys(row.model for row in self.rows)
            raise ValueError(f"no model {model!r} in the results; {closest(model, known)}")
        return replace(self, model=model, rows=rows)

    def summary(self) -> list[dict[str, Scalar]]:
        """Return one record a model: how many layers, what became of them, means.

        Returns
        -------
        list of dict
            ``model``; how many ``layers`` and ``spans`` there are; how many of them are
            ``measured``, ``unmeasurable``, ``failed`` and ``unreliable`` (with a value that cannot
            be relied on); ``seconds``; and for each scalar
            measure the mean over the layers that have it, in bits, and how many they are: ``ei``,
            ``ei_layers``.

        Examples
        --------
        See docs/batch.md.
        """
        return summary_records(self.rows)


def _named(rows: Iterable[Row], otherwise: str) -> str:
    models = dict.fromkeys(row.model for row in rows)
    return (
        otherwise
        if not models
        else next(iter(models))
        if len(models) == 1
        else f"{len(models)} models"
    )


def _better(there: Row, here: Row) -> Row:
    """Return the one of two rows of the same layer that did not fail."""
    hashes = [row.provenance.get("model_sha256") for row in (there, here)]
    if hashes[0] != hashes[1] and there.layer:
        raise ValueError(
            f"two models have the name {there.model!r}: {hashes[0]} and {hashes[1]}; "
            "measure one of them under another name"
        )
    if there.status in FAILURES:
        return here
    if here.status not in FAILURES and _values(there) != _values(here):
        what = "layer" if there.span is None else "span"
        raise ValueError(
            f"{what} {there.name!r} of {there.model!r} has two different values; they were "
            "measured on other devices or by other versions: leave one part out"
        )
    return there


def _values(row: Row) -> dict[str, object]:
    return {name: found.to_dict()["value"] for name, found in row.measurements.items()}
