"""``onnx-ei run``: one model to the terminal, or many to a results file."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

import typer

from onnx_ei import cli_run_options as of
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
    Spans,
)
from onnx_ei.cli_showing import layer_bar, print_json, show
from onnx_ei.importing import load_libraries

if TYPE_CHECKING:
    from onnx_ei.analyzed import Analysis
    from onnx_ei.rows import Row

__all__ = ["measure_names", "run_command"]


def run_command(
    models: of.Models = None,
    output: of.Output = None,
    glob: of.Glob = None,
    resume: of.Resume = False,
    layers: Layers = None,
    exclude: of.Exclude = None,
    spans: Spans = None,
    measures: of.Measures = "ei,ei_parts,sensitivity,degeneracy,phi",
    samples: of.Samples = None,
    threshold: of.Threshold = 0.05,
    max_samples: of.MaxSamples = 1_000_000,
    bins: of.Bins = 64,
    input_range: of.InputRange = None,
    seed: of.Seed = 0,
    estimator: of.Estimator = None,
    method: of.Method = "auto",
    tolerance: of.Tolerance = 1e-6,
    device: of.Device = "cpu",
    tf32: of.Tf32 = False,
    positions: Positions = "one",
    input_shape: InputShape = None,
    input: Inputs = None,
    calibrate: Calibrate = None,
    percentiles: Percentiles = None,
    background: Background = None,
    matrices: of.Matrices = None,
    jobs: of.Jobs = None,
    backend: of.Backend = "loky",
    scheduler: of.Scheduler = None,
    split: of.Split = "layers",
    timeout: of.Timeout = None,
    memory_limit: of.MemoryLimit = None,
    dry_run: of.DryRun = False,
    quiet: of.Quiet = False,
    config: of.Config = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the layers of a model, or of many: one row each, with standard errors.

    Exit codes: 0 done; 1 some rows failed, or an error inside onnx_ei; 2 usage; 3 the model (with
    -o: every one of them); 4 the device or the installation; 130 interrupted.
    """
    given = Namespace(**locals())
    with errors(debug):
        _run(given)


def _run(given: Namespace) -> None:
    """Measure to a file where one is named, else to the terminal."""
    if given.output is not None:
        from onnx_ei.cli_batch import run_batch

        run_batch(given)
        return
    models = given.models or []
    if len(models) != 1:
        raise ValueError(f"one MODEL is needed, got {len(models)}; several need -o FILE")
    for name, default in of.BATCH_ONLY.items():
        if getattr(given, name) != default:
            raise ValueError(f"--{name.replace('_', '-')}: goes with -o FILE")
    _run_one(models[0], given)


def _run_one(model: str, given: Namespace) -> None:
    """Measure one model, to the terminal."""
    load_libraries()
    from onnx_ei.cli_inputs import open_model
    from onnx_ei.devices import parse_device
    from onnx_ei.sessions import check_device

    names = measure_names(given.measures)
    options = measure_options(given)
    check_device(parse_device(given.device, given.tf32))
    topology = open_model(
        model,
        given.input_shape,
        given.input,
        given.background,
        given.calibrate,
        given.percentiles,
    )
    which = {"layers": given.layers, "exclude": given.exclude, "spans": given.spans}
    found = _measured(topology, names, which, options)
    if given.json:
        print_json(found.to_dict())
    else:
        from onnx_ei.tables import remarks, run_table

        show(run_table(found, names), found)
        for remark in remarks(found):
            say(remark)
    broken = [row for row in found.rows if row.broken]
    for row in broken:
        say(f"error: {row.name}: {row.reason}")
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
        "tf32": given.tf32,
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
    topology: Any, names: list[str], which: dict[str, Any], options: dict[str, Any]
) -> Analysis:
    """Measure with a progress bar on standard error; warnings become marks in the table."""
    import warnings

    from onnx_ei.analysis import analyze
    from onnx_ei.errors import OnnxEiWarning
    from onnx_ei.targets import targets

    total = len(targets(topology, **which))
    with warnings.catch_warnings(), layer_bar(total) as (bar, task):
        # every one of them is a field of the measurement, shown as a mark and a remark
        warnings.simplefilter("ignore", OnnxEiWarning)

        def done(row: Row) -> None:
            bar.update(task, advance=1, description=row.name[-40:])

        return analyze(topology, names, on_row=done, **which, **options)


def _nothing(topology: Any, found: Analysis) -> str | None:
    """Say why there is no measurement at all, where that can be helped."""
    from onnx_ei._graph.unknown import unsettled
    from onnx_ei.topology import model_of

    hidden = "; ".join(note for note in found.notes if "control flow" in note)
    return unsettled(model_of(topology)) or (hidden if hidden and not found.rows else None)
