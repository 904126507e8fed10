"""``onnx-ei run MODELS... -o FILE``: a batch, its progress, and how it ends."""

from __future__ import annotations

import signal
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from onnx_ei.cli_errors import FAILED, INTERRUPTED, MODEL, say
from onnx_ei.cli_showing import layer_bar, line_of_row, print_json, print_table

if TYPE_CHECKING:
    from onnx_ei._batch.running import Plan
    from onnx_ei.rows import Row

__all__ = ["run_batch"]


def run_batch(given: Namespace) -> None:
    """Measure many models to a file.

    Parameters
    ----------
    given : argparse.Namespace
        The options of ``onnx-ei run``.

    Raises
    ------
    ValueError, TypeError
        If an option makes no sense, or the file cannot be written.
    typer.Exit
        With 1 where rows failed, with 3 where no model could be read, with 130 where a signal
        ended it.
    """
    from onnx_ei._batch.turns import check_devices
    from onnx_ei.analyzed import Analysis

    plan = _plan(given)
    if given.dry_run:
        from onnx_ei.cli_plan import show_plan

        show_plan(plan, given.json)
        return
    if plan.workers.devices_here:
        check_devices(plan.jobs[0].devices)
    with _stoppable(plan):
        _measure(plan, given.quiet)
    found = Analysis.load(plan.output)
    paths = {job.path for job in plan.jobs}
    rows = [row for row in found.rows if row.model in paths]
    if given.json:
        print_json(found.summary())
    elif not given.quiet:
        from onnx_ei.tables import summary_table

        print_table(summary_table(found))
    _end(rows)


def _plan(given: Namespace) -> Plan:
    from onnx_ei._batch.backends import Workers
    from onnx_ei.batching import plan_batch
    from onnx_ei.cli_inputs import open_model, pair
    from onnx_ei.cli_run import measure_names, measure_options

    options = measure_options(given)
    if given.percentiles is not None:
        pair("--percentiles", given.percentiles)
    opener: Any = partial(
        open_model,
        shapes=given.input_shape,
        inputs=given.input,
        background=given.background,
        calibrate=given.calibrate,
        percentiles=given.percentiles,
    )
    return plan_batch(
        given.models or [],
        given.output,
        measure_names(given.measures),
        given.layers,
        exclude=given.exclude,
        spans=given.spans,
        glob=given.glob,
        opener=opener,
        identity=_identity(given),
        input_range=options.pop("input_range"),
        resume=given.resume or given.dry_run,
        workers=Workers(
            jobs=given.jobs, backend=given.backend, scheduler=given.scheduler, split=given.split
        ),
        timeout=given.timeout,
        max_memory=None if given.memory_limit is None else given.memory_limit << 20,
        matrices=given.matrices,
        options=options,
    )


def _identity(given: Namespace) -> dict[str, Any]:
    """Return what else decides the values: inputs and data, by their content."""
    from onnx_ei.provenance import file_digest

    def content(option: str, path: Path) -> str:
        try:
            return f"sha256 {file_digest(path)}"
        except OSError as error:
            raise ValueError(f"{option}: {error}") from error

    inputs = [
        content("--input", Path(item)) if Path(item).suffix in (".npz", ".npy") else item
        for item in given.input or ()
    ]
    data = None if given.calibrate is None else content("--calibrate", given.calibrate)
    return {
        "input": inputs,
        "input_shape": list(given.input_shape or ()),
        "calibrate": data,
        "percentiles": given.percentiles,
    }


@contextmanager
def _stoppable(plan: Plan) -> Iterator[None]:
    """Finish cleanly on Ctrl-C and SIGTERM: say what is safe, and exit with 130."""
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; what {plan.output} holds is whole: --resume goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _measure(plan: Plan, quiet: bool) -> None:
    from onnx_ei._batch.running import run

    if quiet:
        run(plan)
        return
    with layer_bar(None) as (bar, task):
        terminal = bar.console.is_terminal

        def done(row: Row, count: int, total: int) -> None:
            bar.update(task, completed=count, total=total, description=row.name[-40:])
            if not terminal:
                say(f"[{count}/{total}] {line_of_row(row)}")

        run(plan, done)


def _end(rows: list[Row]) -> None:
    """Exit with what became of the rows."""
    from onnx_ei.rows import FAILURES

    failed = [row for row in rows if row.status in FAILURES]
    for row in failed:
        say(f"error: {line_of_row(row)}")
    if failed and not any(row.layer for row in rows):
        raise typer.Exit(MODEL)
    if failed:
        raise typer.Exit(FAILED)
