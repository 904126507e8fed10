"""``onnx-ei run``: one model to the terminal, or many to a results file."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_ei.cli_config import read_config
from onnx_ei.cli_errors import MODEL, errors, say
from onnx_ei.cli_options import (
    Background,
    Calibrate,
    Debug,
    Inputs,
    InputShape,
    Json,
    Layers,
    Percentiles,
    Positions,
)
from onnx_ei.cli_showing import layer_bar, print_json, show

if TYPE_CHECKING:
    from onnx_ei.analyzed import Analysis
    from onnx_ei.rows import Row

__all__ = ["measure_names", "run_command"]

_WITH_OUTPUT = {"resume": False, "dry_run": False, "matrices": None, "jobs": None, "timeout": None,
                "memory_limit": None, "quiet": False, "backend": "loky", "scheduler": None,
                "split": "layers"}  # fmt: skip
"""Options of a batch alone, with their defaults."""


def run_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODELS...", help="An .onnx file; with -o several, or folders of them."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A results file of JSON lines: each row is on the disk as soon as it is done.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an output that is there.")
    ] = False,
    layers: Layers = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", "-x", metavar="GLOB", help="Layers to leave out; repeatable."),
    ] = None,
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
    matrices: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With -o: a folder for the matrices of ei_parts and sensitivity, an .npz file a "
            "layer.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="With -o: layers at once, 1 or as many as the cluster takes. No value depends on "
            "it.",
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(help="With -o: 'loky', this machine; 'dask' or 'ray', a cluster's workers."),
    ] = "loky",
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="With --backend dask or ray: where the cluster is."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="With -o: what is spread, 'layers', or the 'samples' of one layer after another."
        ),
    ] = "layers",
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="With -o: for a layer; what takes longer is ended alone."
        ),
    ] = None,
    memory_limit: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            min=1,
            help="With -o: for a process; what takes more is ended alone (Linux, or with psutil).",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With -o: list what would be measured.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="With -o: no progress and no summary.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="TOML",
            callback=read_config,
            is_eager=True,
            help="A file of options, by their long names, and models; the command line goes first.",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the layers of a model, or of many: one row each, with standard errors.

    Exit codes: 0 done; 1 some rows failed, or an error inside onnx_ei; 2 usage; 3 the model (with
    -o: every one of them); 4 the device or the installation; 130 interrupted.
    """
    given = Namespace(**locals())
    with errors(debug):
        if output is not None:
            from onnx_ei.cli_batch import run_batch

            run_batch(given)
            return
        if not models or len(models) > 1:
            raise ValueError(f"one MODEL is needed, got {len(models or ())}; several need -o FILE")
        for name, default in _WITH_OUTPUT.items():
            if getattr(given, name) != default:
                raise ValueError(f"--{name.replace('_', '-')}: goes with -o FILE")
        _run_one(models[0], given)


def _run_one(model: str, given: Namespace) -> None:
    """Measure one model, to the terminal."""
    from onnx_ei.cli_inputs import open_model
    from onnx_ei.sessions import check_device

    names = measure_names(given.measures)
    options = measure_options(given)
    check_device(given.device)
    topology = open_model(
        model,
        given.input_shape,
        given.input,
        given.background,
        given.calibrate,
        given.percentiles,
    )
    found = _measured(topology, names, given.layers, exclude=given.exclude, **options)
    if given.json:
        print_json(found.to_dict())
    else:
        from onnx_ei.tables import remarks, run_table

        show(run_table(found, names), found)
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


def measure_options(given: Namespace) -> dict[str, Any]:
    """Return the arguments of :func:`onnx_ei.analyze` that the options of ``run`` stand for.

    Parameters
    ----------
    given : argparse.Namespace
        The options.

    Raises
    ------
    ValueError
        If ``--input-range`` is no pair.
    """
    from onnx_ei.cli_inputs import pair

    ranges = None if given.calibrate is None else "calibrated"
    limits = None if given.input_range is None else pair("--input-range", given.input_range)
    return {
        "input_range": limits,
        "in_range": ranges,
        "out_range": ranges,
        "samples": given.samples,
        "threshold": given.threshold,
        "max_samples": given.max_samples,
        "in_bins": given.bins,
        "out_bins": given.bins,
        "seed": given.seed,
        **({} if given.estimator is None else {"estimator": given.estimator}),
        "method": given.method,
        "tolerance": given.tolerance,
        "device": given.device,
        "positions": given.positions,
        "background": given.background,
    }


def measure_names(given: str) -> list[str]:
    """Return the measures that ``--measures`` names.

    Parameters
    ----------
    given : str
        Separated by commas.

    Raises
    ------
    ValueError
        If one is unknown, or there is none.
    """
    from onnx_ei.analysis import DEFAULT_MEASURES
    from onnx_ei.errors import closest

    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in DEFAULT_MEASURES:
            raise ValueError(f"--measures: unknown {name!r}; {closest(name, DEFAULT_MEASURES)}")
    if not names:
        raise ValueError("--measures: no measure named")
    return names


def _measured(
    topology: Any, names: list[str], layers: list[str] | None, **options: Any
) -> Analysis:
    """Measure with a progress bar on standard error; warnings become marks in the table."""
    import warnings

    from onnx_ei.analysis import analyze, select_layers
    from onnx_ei.errors import OnnxEiWarning

    total = len(select_layers(topology, layers, options["exclude"]))
    with warnings.catch_warnings(), layer_bar(total) as (bar, task):
        # every one of them is a field of the measurement, shown as a mark and a remark
        warnings.simplefilter("ignore", OnnxEiWarning)

        def done(row: Row) -> None:
            bar.update(task, advance=1, description=row.layer[-40:])

        return analyze(topology, names, layers, on_row=done, **options)


def _nothing(topology: Any, found: Analysis) -> str | None:
    """Say why there is no measurement at all, where that can be helped."""
    from onnx_ei._graph.unknown import unsettled
    from onnx_ei.topology import model_of

    hidden = "; ".join(note for note in found.notes if "control flow" in note)
    return unsettled(model_of(topology)) or (hidden if hidden and not found.rows else None)
