"""The command line: ``onnx-ei describe``, ``run``, ``summary``, ``compare``, ``merge``, ``doctor``.

Tables and JSON go to standard output, everything else to standard error. Exit codes: 0 done,
1 some rows failed or an error inside onnx_ei, 2 usage, 3 the model, 4 the device or the
installation, 130 interrupted.
"""

from __future__ import annotations

import gc
from typing import NoReturn

import typer

from onnx_ei.cli_errors import DEVICE, errors, say
from onnx_ei.cli_export import export_app
from onnx_ei.cli_options import (
    Background,
    Calibrate,
    Debug,
    Inputs,
    InputShape,
    Json,
    Layers,
    ModelPath,
    Percentiles,
    Positions,
    Spans,
)
from onnx_ei.cli_results import compare_command, merge_command, summary_command
from onnx_ei.cli_run import run_command
from onnx_ei.cli_showing import PREDICTED_SAMPLES, print_json, show
from onnx_ei.importing import load_libraries

__all__ = ["app", "main"]

app = typer.Typer(
    name="onnx-ei",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What each layer of a neural network does, in bits: effective information and its kin "
    "for any ONNX model.",
)

app.add_typer(export_app, name="export")
app.command("run")(run_command)
app.command("summary")(summary_command)
app.command("compare")(compare_command)
app.command("merge")(merge_command)


def main() -> NoReturn:
    """Run the command line."""
    try:
        app()
    finally:
        gc.freeze()  # the process ends: to take all its objects apart first costs a second
    raise SystemExit(0)


@app.command("describe")
def describe_command(
    model: ModelPath,
    layers: Layers = None,
    spans: Spans = None,
    positions: Positions = "one",
    input_shape: InputShape = None,
    input: Inputs = None,
    calibrate: Calibrate = None,
    percentiles: Percentiles = None,
    background: Background = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List a model's layers: keys, operators, activations, shapes, units, what measuring takes."""
    with errors(debug):
        load_libraries()
        from onnx_ei.analysis import describe
        from onnx_ei.cli_inputs import open_model

        topology = open_model(model, input_shape, input, background, calibrate, percentiles)
        found = describe(
            topology,
            layers,
            spans=spans,
            positions=positions,
            background=background,
            samples=PREDICTED_SAMPLES,
        )
        if json:
            print_json(found.to_dict())
        else:
            from onnx_ei.tables import describe_table

            shown = describe_table(found, ranges=calibrate is not None, samples=PREDICTED_SAMPLES)
            show(shown, found)


@app.command("doctor")
def doctor_command(json: Json = False, debug: Debug = False) -> None:
    """Say what this installation has: versions, providers, threads, and what is wrong with it."""
    with errors(debug):
        from onnx_ei.doctor import examine, problems

        facts = examine()
        faults = problems(facts)
        if json:
            print_json(facts | {"problems": faults})
        else:
            width = max(len(name) for name in facts)
            for name, value in facts.items():
                shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                typer.echo(f"{name:<{width}}  {shown}")
            for fault in faults:
                say(f"problem: {fault}")
        if faults:
            raise typer.Exit(DEVICE)
