"""A results file: JSON lines, the first of which says how all the others were measured.

Each line after it is one layer of one model. The file is read here; what writes it is a batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from onnx_ei.jsonlines import Entry, JsonLines
from onnx_ei.provenance import DEFINITIONS, key_of, versions
from onnx_ei.rows import FAILURES, Row, in_order

__all__ = [
    "RESULTS",
    "done",
    "header_line",
    "lines_that_count",
    "read_results",
    "refuse_others",
    "row_line",
]

RESULTS = JsonLines(noun="results file", done="measured", version=1)


def header_line(measures: Iterable[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first line: what all the others have in common.

    Parameters
    ----------
    measures : iterable of str
        What is measured.
    parameters : mapping
        How, in JSON's types.
    """
    return {
        "format": RESULTS.format,
        "definitions": DEFINITIONS,
        "measures": list(measures),
        "parameters": dict(parameters),
        "versions": versions(),
    }


def row_line(row: Row, header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's line, with the key of its result.

    Parameters
    ----------
    row : Row
        The layer.
    header : mapping
        From :func:`header_line`.
    """
    sha = row.provenance.get("model_sha256")
    parameters = header["parameters"]
    if row.span is not None:  # a result is that of its ends, whatever they are called
        parameters = {**parameters, "in_layer": row.in_layer}
    key = key_of(sha, row.layer, header["measures"], parameters)
    return {"key": key, **row.to_dict()}


def read_results(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Row], bool]:
    """Read a results file, also while it is being written.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    header : dict
        Its first line.
    rows : list of Row
        One for each layer and span of each model, by model in the order of their names, then as
        :func:`onnx_ei.rows.in_order` says. A later line replaces an earlier one of the same layer.
    incomplete : bool
        Whether a last line had been cut off in writing, and was left out.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is another kind of file, or a line other than an unfinished last one is damaged.
    """
    header, entries, incomplete = _read(path)
    return header, sorted((entry.content for entry in entries), key=in_order), incomplete


def lines_that_count(path: str | os.PathLike[str]) -> list[bytes]:
    """Return the lines of a results file that nothing later replaces, as they stand there.

    Parameters
    ----------
    path : path
        The file; every line of it is whole.

    Returns
    -------
    list of bytes
        The first line, then those that :func:`read_results` makes rows of.
    """
    _, entries, _ = _read(path)
    with open(path, "rb") as file:
        first = file.readline()
    return [first, *(entry.line for entry in entries)]


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Entry[Row]], bool]:
    header, entries, incomplete = RESULTS.read(
        path, lambda _, line: Row.from_dict(line), lambda row: (row.model, row.place)
    )
    rows = [entry.content for entry in entries]
    # a file that was written anew, under the same name, is another model
    latest = {row.model: row.provenance.get("model_sha256") for row in rows if row.layer}

    def counts(row: Row) -> bool:
        if not row.layer:  # a model that could be read later has layers instead
            return row.model not in latest
        return bool(row.provenance.get("model_sha256") == latest[row.model])

    return header, [entry for entry in entries if counts(entry.content)], incomplete


def refuse_others(
    path: str | os.PathLike[str],
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    remedy: str = "continue it with what it began with, or choose another file",
) -> None:
    """Compare what decides the values of two runs: they may not differ within one file.

    Parameters
    ----------
    path : path
        The file that was begun.
    there, here : mapping
        Its first line, and the one that it would have if it were begun now.
    remedy : str
        What to do about it.

    Raises
    ------
    ValueError
        If they differ; the first difference is named.
    """
    if there["definitions"] != here["definitions"]:
        raise ValueError(
            f"{path} holds values of version {there['definitions']} of the measures' definitions, "
            f"this onnx_ei computes version {here['definitions']}; choose another file, or the "
            f"onnx_ei that began it ({there['versions'].get('onnx_ei')})"
        )
    old, new = ({"measures": sorted(h["measures"]), **h["parameters"]} for h in (there, here))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            raise ValueError(
                f"{path} was measured with {name}={old.get(name)!r}, "
                f"not {new.get(name)!r}; {remedy}"
            )


def done(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that need not be measured again: those that did not fail."""
    return [row for row in rows if row.status not in FAILURES]
