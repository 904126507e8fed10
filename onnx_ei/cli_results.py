"""``onnx-ei summary``, ``compare`` and ``merge``: what to do with results files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_ei.cli_errors import errors, say
from onnx_ei.cli_options import Debug, Json
from onnx_ei.cli_showing import print_json, print_table

if TYPE_CHECKING:
    from onnx_ei.analyzed import Analysis
    from onnx_ei.frames import Scalar

__all__ = ["compare_command", "merge_command", "summary_command"]

_RESULTS = "Results of onnx-ei run -o."
_TABLE = "Write the table here too: .csv or .parquet."


def summary_command(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help=_RESULTS)],
    table: Annotated[
        Path | None, typer.Option("--table", "-t", metavar="FILE", help=_TABLE)
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Sum up results: a row a model; how many layers, what became of them, means."""
    with errors(debug):
        found = _merged(results)
        if table is not None:
            _write(found.to_records(), table)
        if json:
            print_json(found.summary())
        else:
            from onnx_ei.tables import summary_table

            print_table(summary_table(found))
        for note in found.notes:
            say(f"note: {note}")


def compare_command(
    first: Annotated[Path, typer.Argument(metavar="A", help=_RESULTS)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Other ones, or the same file.")],
    model_a: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Which model of A, where it holds several.")
    ] = None,
    model_b: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Which model of B, where it holds several.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--table", "-t", metavar="FILE", help=_TABLE)
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Put two models or checkpoints side by side: B less A, layer by layer, with errors."""
    with errors(debug):
        a, b = _chosen("--model-a", first, model_a), _chosen("--model-b", second, model_b)
        found = a.compare(b)
        if table is not None:
            _write(found.to_records(), table)
        if json:
            print_json(found.to_records())
        else:
            from onnx_ei.tables import compare_table

            print_table(compare_table(found))


def merge_command(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help=_RESULTS)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The results file to be.")
    ],
    debug: Debug = False,
) -> None:
    """Make one results file of parts of a run, which the parts of a cluster job are, say."""
    with errors(debug):
        if output.exists():
            raise ValueError(f"{output} is there already; choose another file")
        found = _merged(results)
        try:
            found.to_jsonl(output)
        except OSError as error:
            raise _unwritable(output, error) from error
        say(f"{len(found.rows)} rows of {len(results)} files are in {output}")


def _merged(paths: list[Path]) -> Analysis:
    parts = [_loaded(path) for path in paths]
    return parts[0].merge(*parts[1:])


def _loaded(path: Path) -> Analysis:
    from onnx_ei.analyzed import Analysis

    try:
        return Analysis.load(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _chosen(option: str, path: Path, model: str | None) -> Analysis:
    found = _loaded(path)
    if model is not None:
        return found.of(model)
    models = list(dict.fromkeys(row.model for row in found.rows))
    if len(models) > 1:
        shown = ", ".join(models[:6]) + (" ..." if len(models) > 6 else "")
        raise ValueError(f"{path} holds {len(models)} models; choose by {option}: {shown}")
    return found


def _write(records: list[dict[str, Scalar]], path: Path) -> None:
    from onnx_ei.tabular import write_table

    try:
        write_table(path, records)
    except ValueError as error:
        raise ValueError(f"--table: {error}") from None
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path} cannot be written: {error.strerror}")
