"""The command line: ``onnx-ei describe``, ``run`` and ``doctor``.

Tables and JSON go to standard output, everything else to standard error. Exit codes: 0 done,
1 an error inside onnx_ei, 2 usage, 3 the model, 4 the device or the installation, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from onnx_ei.cli_errors import DEVICE, MODEL, errors, say
from onnx_ei.cli_export import export_app

if TYPE_CHECKING:
    from onnx_ei.analysis import Analysis, Row

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
    background: Background = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List a model's layers: keys, operators, activations, shapes, units."""
    with errors(debug):
        from onnx_ei.analysis import describe

        topology = _topology(model, input_shape, background)
        found = describe(topology, layers, positions=positions, background=background)
        if json:
            _print_json(found.to_dict())
        else:
            from onnx_ei.tables import describe_table

            _show(describe_table(found), found)


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
    estimator: Annotated[str, typer.Option(help="'jackknife' or 'plugin'.")] = "jackknife",
    device: Annotated[str, typer.Option(help="'cpu', 'cuda' or 'cuda:N'.")] = "cpu",
    positions: Positions = "one",
    input_shape: InputShape = None,
    background: Background = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model's layers: one row each, with standard errors."""
    with errors(debug):
        from onnx_ei.sessions import check_device

        names = _measure_names(measures)
        limits = None if input_range is None else _pair(input_range)
        check_device(device)
        topology = _topology(model, input_shape, background)
        found = _run(
            topology,
            names,
            layers,
            input_range=limits,
            samples=samples,
            threshold=threshold,
            max_samples=max_samples,
            in_bins=bins,
            out_bins=bins,
            seed=seed,
            estimator=estimator,
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
        if broken:
            raise typer.Exit(MODEL)


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


def _pair(given: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in given.split(","))
    except ValueError:
        raise ValueError(f"--input-range: two numbers LO,HI are needed, got {given!r}") from None
    return low, high


def _topology(path: str, shapes: list[str] | None, background: str | None) -> Any:
    from onnx_ei.topology import topology_of

    if not shapes and background != "reference":
        return topology_of(path)
    from onnx_ei.loading import example_of_shape

    return topology_of(path, example_of_shape(path, dict(_shape(s) for s in shapes or ())))


def _shape(given: str) -> tuple[str, tuple[int, ...]]:
    name, separator, dims = given.rpartition("=")
    try:
        shape = tuple(int(d) for d in dims.split(","))
    except ValueError:
        shape = ()
    if not separator or not shape or min(shape) < 1:
        raise ValueError(f"--input-shape: NAME=D,D,... is needed, got {given!r}")
    return name, shape


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
