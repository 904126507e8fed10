"""The command line: ``onnx-ei describe``, ``run`` and ``doctor``.

Tables and JSON go to standard output, everything else to standard error. Exit codes: 0 done,
1 an error inside onnx_ei, 2 usage, 3 the model, 4 the device or the installation, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from onnx_ei.cli_errors import DEVICE, MODEL, errors, say
from onnx_ei.cli_export import export_app

if TYPE_CHECKING:
    from onnx_ei.analyzed import Analysis
    from onnx_ei.rows import Row

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

ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file.")]
Layers = Annotated[
    list[str] | None,
    typer.Option("--layers", "-l", metavar="GLOB", help="Layers by key or pattern; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Positions = Annotated[
    str,
    typer.Option(
        help="'one': one output position and the inputs that reach it; 'all': whole tensors."
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="NAME=DIMS",
        help="Shape of an input whose dimensions the file leaves open, e.g. x=1,3,48,48; "
        "repeatable.",
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="FILE|NAME=VALUE",
        help="An example input: an .npz file of arrays by input name, an .npy file for a model of "
        "one input, or a number for one, e.g. sr=16000; repeatable. What is not given is noise.",
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        metavar="FILE",
        help="Data to take each layer's ranges from, instead of the defaults by its activation: "
        "arrays by input name (.npz) or one array (.npy), the first axis samples; or a saved "
        "calibration (.json).",
    ),
]
Percentiles = Annotated[
    str | None,
    typer.Option(
        metavar="LO,HI",
        help="With --calibrate: ranges between these percentiles of the data, e.g. 0.1,99.9, "
        "instead of its extremes.",
    ),
]
Background = Annotated[
    str | None,
    typer.Option(
        help="What other tensors a layer needs are: 'reference' (from a run on noise or zeros) "
        "or 'zeros'."
    ),
]


def main() -> NoReturn:
    """Run the command line."""
    app()
    raise SystemExit(0)


@app.command("describe")
def describe_command(
    model: ModelPath,
    layers: Layers = None,
    positions: Positions = "one",
    input_shape: InputShape = None,
    input: Inputs = None,
    calibrate: Calibrate = None,
    percentiles: Percentiles = None,
    background: Background = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List a model's layers: keys, operators, activations, shapes, units, calibrated ranges."""
    with errors(debug):
        from onnx_ei.analysis import describe

        topology = _topology(model, input_shape, input, background, calibrate, percentiles)
        found = describe(topology, layers, positions=positions, background=background)
        if json:
            _print_json(found.to_dict())
        else:
            from onnx_ei.tables import describe_table

            _show(describe_table(found, ranges=calibrate is not None), found)


@app.command("run")
def run_command(
    model: ModelPath,
    layers: Layers = None,
    measures: Annotated[
        str, typer.Option("--measures", "-m", metavar="NAMES", help="Measures, comma-separated.")
    ] = "ei,ei_parts,sensitivity,degeneracy,phi",
    samples: Annotated[
        int | None,
        typer.Option(help="Samples of every measure; by default as many as --threshold needs."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Relative error at which automatic sampling stops.")
    ] = 0.05,
    max_samples: Annotated[
        int, typer.Option(help="Where automatic sampling stops in any case.")
    ] = 1_000_000,
    bins: Annotated[int, typer.Option(help="Bins of every unit.")] = 64,
    input_range: Annotated[
        str | None,
        typer.Option(metavar="LO,HI", help="Range of the layers that the model's input feeds."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    estimator: Annotated[
        str | None,
        typer.Option(help="From counts to bits: 'jackknife', 'plugin' ...; by default measure's."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="'sample', 'exact' (pairwise measures of layers that are affine up to their "
            "activation) or 'auto': exact where it applies and no --samples are given."
        ),
    ] = "auto",
    tolerance: Annotated[
        float, typer.Option(help="Error bound of exact values, in bits a pair.")
    ] = 1e-6,
    device: Annotated[str, typer.Option(help="'cpu', 'cuda' or 'cuda:N'.")] = "cpu",
    positions: Positions = "one",
    input_shape: InputShape = None,
    input: Inputs = None,
    calibrate: Calibrate = None,
    percentiles: Percentiles = None,
    background: Background = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model's layers: one row each, with standard errors."""
    with errors(debug):
        from onnx_ei.sessions import check_device

        names = _measure_names(measures)
        limits = None if input_range is None else _pair("--input-range", input_range)
        check_device(device)
        topology = _topology(model, input_shape, input, background, calibrate, percentiles)
        ranges = None if calibrate is None else "calibrated"
        found = _run(
            topology,
            names,
            layers,
            input_range=limits,
            in_range=ranges,
            out_range=ranges,
            samples=samples,
            threshold=threshold,
            max_samples=max_samples,
            in_bins=bins,
            out_bins=bins,
            seed=seed,
            **({} if estimator is None else {"estimator": estimator}),
            method=method,
            tolerance=tolerance,
            device=device,
            positions=positions,
            background=background,
        )
        if json:
            _print_json(found.to_dict())
        else:
            from onnx_ei.tables import remarks, run_table

            _show(run_table(found, names), found)
            for remark in remarks(found):
                say(remark)
        broken = [row for row in found.rows if row.broken]
        for row in broken:
            say(f"error: {row.layer}: {row.reason}")
        nothing = None if any(row.measurements for row in found.rows) else _nothing(topology, found)
        if nothing is not None:
            say(f"error: no layer could be measured: {nothing}")
        if broken or nothing is not None:
            raise typer.Exit(MODEL)


def _nothing(topology: Any, found: Analysis) -> str | None:
    """Say why there is no measurement at all, where that can be helped."""
    from onnx_ei._graph.unknown import unsettled
    from onnx_ei.topology import model_of

    hidden = "; ".join(note for note in found.notes if "control flow" in note)
    return unsettled(model_of(topology)) or (hidden if hidden and not found.rows else None)


@app.command("doctor")
def doctor_command(json: Json = False, debug: Debug = False) -> None:
    """Say what this installation has: versions, providers, threads, and what is wrong with it."""
    with errors(debug):
        from onnx_ei.doctor import examine, problems

        facts = examine()
        faults = problems(facts)
        if json:
            _print_json(facts | {"problems": faults})
        else:
            width = max(len(name) for name in facts)
            for name, value in facts.items():
                shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                typer.echo(f"{name:<{width}}  {shown}")
            for fault in faults:
                say(f"problem: {fault}")
        if faults:
            raise typer.Exit(DEVICE)


def _measure_names(given: str) -> list[str]:
    from onnx_ei.analysis import DEFAULT_MEASURES
    from onnx_ei.errors import closest

    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in DEFAULT_MEASURES:
            raise ValueError(f"--measures: unknown {name!r}; {closest(name, DEFAULT_MEASURES)}")
    if not names:
        raise ValueError("--measures: no measure named")
    return names


def _pair(option: str, given: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in given.split(","))
    except ValueError:
        raise ValueError(f"{option}: two numbers LO,HI are needed, got {given!r}") from None
    return low, high


def _topology(
    path: str,
    shapes: list[str] | None,
    inputs: list[str] | None,
    background: str | None,
    calibrate: Path | None,
    percentiles: str | None,
) -> Any:
    from onnx_ei.cli_inputs import calibrated, read_arrays, topology_for

    chosen = None if percentiles is None else _pair("--percentiles", percentiles)
    if chosen is not None and (calibrate is None or calibrate.suffix == ".json"):
        raise ValueError("--percentiles: goes with --calibrate and data (.npz, .npy)")
    data = None
    if calibrate is not None and calibrate.suffix != ".json":
        data = read_arrays("--calibrate", calibrate)
    topology = topology_for(path, shapes, inputs, background, data)
    if calibrate is not None:
        calibrated(topology, calibrate, data, chosen)
    return topology


def _run(topology: Any, names: list[str], layers: list[str] | None, **options: Any) -> Analysis:
    """Measure with a progress bar on standard error; warnings become marks in the table."""
    import warnings

    from rich import progress as rich_progress
    from rich.console import Console

    from onnx_ei.analysis import analyze, select_layers
    from onnx_ei.errors import OnnxEiWarning

    total = len(select_layers(topology, layers))
    console = Console(stderr=True)
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    bar = rich_progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    )
    with warnings.catch_warnings(), bar:
        # every one of them is a field of the measurement, shown as a mark and a remark
        warnings.simplefilter("ignore", OnnxEiWarning)
        task = bar.add_task("layers", total=total)

        def done(row: Row) -> None:
            bar.update(task, advance=1, description=row.layer[-40:])

        return analyze(topology, names, layers, on_row=done, **options)


def _show(table: Any, found: Analysis) -> None:
    from rich.console import Console

    # a pipe has no width: rows stay whole for grep and less -S
    console = Console() if sys.stdout.isatty() else Console(width=240)
    console.print(table)
    for note in found.notes:
        say(f"note: {note}")


def _print_json(content: object) -> None:
    from json import dumps

    typer.echo(dumps(content, indent=1, allow_nan=False))
