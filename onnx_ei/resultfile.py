"""A results file: JSON lines, the first of which says how all the others were measured.

Each line after it is one layer of one model. A last line without an end is what a crash left of
one. The file is read here and begun here; what appends to it is a batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnx_ei.provenance import DEFINITIONS, key_of, versions
from onnx_ei.rows import FAILURES, Row

__all__ = [
    "FORMAT",
    "begun",
    "done",
    "header_line",
    "line_of",
    "read_results",
    "refuse_others",
    "row_line",
]

FORMAT = "onnx_ei results 1"
_BEGINNING = json.dumps({"format": FORMAT}, separators=(",", ":"))[:-1].encode()
_KIND = "onnx_ei results "


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
        "format": FORMAT,
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
    key = key_of(sha, row.layer, header["measures"], header["parameters"])
    return {"key": key, **row.to_dict()}


def line_of(content: Mapping[str, Any]) -> bytes:
    """Return one line of JSON, its end included."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n"


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
        One for each layer of each model, by model in the order of their names, then by layer. A
        later line replaces an earlier one of the same layer.
    incomplete : bool
        Whether a last line had been cut off in writing, and was left out.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is another kind of file, or a line other than an unfinished last one is damaged.
    """
    lines, rest = _lines(Path(path))
    if not lines:
        raise _no_results(path) if rest else ValueError(f"{path} is empty: nothing was measured")
    header = _header(path, lines[0])
    rows: dict[tuple[str, str], Row] = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            row = Row.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is damaged ({error}); remove it") from error
        rows.pop((row.model, row.layer), None)
        rows[row.model, row.layer] = row
    # a file that was written anew, under the same name, is another model
    latest = {row.model: row.provenance.get("model_sha256") for row in rows.values() if row.layer}
    # a model that could not be read before, and could be later, has layers instead
    kept = [
        row
        for row in rows.values()
        if (not row.layer and row.model not in latest)
        or (row.layer and row.provenance.get("model_sha256") == latest[row.model])
    ]
    kept.sort(key=lambda row: (row.model, -1 if row.layer_id is None else row.layer_id))
    return header, kept, bool(rest)


def begun(path: Path) -> tuple[dict[str, Any] | None, int]:
    """Look at a file that may be a results file to continue.

    Parameters
    ----------
    path : Path
        The file; it need not exist.

    Returns
    -------
    header : dict or None
        Its first line; None where there is none yet.
    length : int
        Bytes of whole lines; what follows, a crash cut off.

    Raises
    ------
    ValueError
        If it is another kind of file.
    """
    if not path.exists():
        return None, 0
    lines, rest = _lines(path)
    if not lines:
        if rest[: len(_BEGINNING)] != _BEGINNING[: len(rest)]:
            raise _no_results(path)
        return None, 0
    return _header(path, lines[0]), sum(len(line) + 1 for line in lines)


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


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    """Return the whole lines of a file, and what follows the last of them."""
    *lines, rest = path.read_bytes().split(b"\n")
    return lines, rest


def _header(path: str | os.PathLike[str], line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        found = header["format"]
    except (ValueError, KeyError, TypeError):
        raise _no_results(path) from None
    if found != FORMAT:
        if str(found).startswith(_KIND):
            raise ValueError(
                f"{path} is of the format {found!r}, this onnx_ei reads {FORMAT!r}; read it with "
                "the onnx_ei that wrote it, or choose another file"
            )
        raise _no_results(path)
    whole: dict[str, Any] = header
    return whole


def _no_results(path: str | os.PathLike[str]) -> ValueError:
    return ValueError(f"{path} is no results file ({FORMAT!r}); choose another file")
