"""A batch: every layer of every model to a file, what is done already left alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np

from onnx_ei._batch.appending import ResultsWriter
from onnx_ei._batch.backends import Workers
from onnx_ei._batch.elsewhere import Task
from onnx_ei._batch.spreading import Pool
from onnx_ei._batch.supervising import Limits, Outcomes
from onnx_ei._batch.work import Job, Listing, failed, listed, measured, unread
from onnx_ei.errors import UnknownLayerError, closest
from onnx_ei.resultfile import header_line, row_line
from onnx_ei.results import Measurement
from onnx_ei.rows import Row
from onnx_ei.tabular import replaced
from onnx_ei.targets import check_spans

__all__ = ["Plan", "Progress", "State", "model_files", "run", "survey"]

Progress: TypeAlias = Callable[[Row, int, int], object]
"""Called with each row as it is written, how many the file has, and how many there will be."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a batch is to do.

    Attributes
    ----------
    jobs : tuple of Job
        One a model.
    output : Path
        The results file.
    parameters : dict
        All that decides a value, in JSON's types.
    resume : bool
        Whether to go on with a file that is there.
    matrices : Path or None
        The folder for the pairwise matrices.
    workers : Workers
        Who measures.
    limits : Limits
        What each may take.
    """

    jobs: tuple[Job, ...]
    output: Path
    parameters: Mapping[str, Any]
    resume: bool = False
    matrices: Path | None = None
    workers: Workers = field(default_factory=Workers)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class State:
    """One layer before the batch begins.

    Attributes
    ----------
    job : Job
        Its model.
    row : Row
        As it is listed, or as it was measured before.
    done : bool
        Whether there is nothing to measure.
    written : bool
        Whether the file has it.
    """

    job: Job
    row: Row
    done: bool
    written: bool


def model_files(models: Iterable[str | os.PathLike[str]], pattern: str | None = None) -> list[str]:
    """Return the files that paths and folders name, each once.

    Parameters
    ----------
    models : iterable of path
        Files; folders stand for files in them, in the order of their names.
    pattern : str, optional
        Which files: a shell pattern of paths within the folder, ``**`` for any depth; the .onnx
        files at any depth by default.

    Raises
    ------
    TypeError
        If one is no path.
    ValueError
        If a folder holds none, there are no models, or a pattern and no folder.
    """
    found: dict[str, None] = {}
    folders = 0
    for model in models:
        if not isinstance(model, str | os.PathLike):
            raise TypeError(
                f"a batch is of files, got {type(model).__name__}; save the model, or use analyze"
            )
        path = Path(model)
        folders += path.is_dir()
        inside = _inside(path, pattern) if path.is_dir() else [str(model)]
        found |= dict.fromkeys(inside)
    if not found:
        raise ValueError("no models are named")
    if pattern is not None and not folders:
        raise ValueError(f"glob: {pattern!r} is of files in folders, and no folder is named")
    return list(found)


def _inside(folder: Path, pattern: str | None) -> list[str]:
    try:
        found = sorted(folder.glob("**/*.onnx" if pattern is None else pattern))
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"glob: {pattern!r} is no pattern of files in a folder: {error}") from None
    files = [str(path) for path in found if path.is_file()]
    if not files:
        kind = "no .onnx file" if pattern is None else f"no file that {pattern!r} matches"
        raise ValueError(f"{folder} holds {kind}")
    return files


def survey(plan: Plan, samples: int | None = None) -> Iterator[State]:
    """List what there is to do, and what is done, without measuring or writing anything.

    Parameters
    ----------
    plan : Plan
        The batch.
    samples : int, optional
        For how many samples to predict what each row takes, as :func:`onnx_ei.analysis.describe`.

    Yields
    ------
    State
        One a layer, in order.

    Raises
    ------
    ValueError, UnknownLayerError
        As :func:`run`.
    """
    plan = replace(plan, jobs=tuple(replace(job, predict=samples) for job in plan.jobs))
    with _writer(plan) as writer, Pool(plan.limits, plan.workers) as pool:
        yield from _states(plan, writer, pool)


def run(plan: Plan, on_row: Progress | None = None) -> None:
    """Measure what is not measured yet, each row on the disk before the next.

    Parameters
    ----------
    plan : Plan
        The batch.
    on_row : callable, optional
        Told of each row.

    Raises
    ------
    ValueError
        If the file cannot be written, or is not this run's.
    UnknownLayerError
        If a pattern matches no layer of any model.
    OutputError
        If the disk is full, or fails.
    BackendError
        If a process of the pool was killed, or a cluster does not answer.
    """
    with _writer(plan) as writer, Pool(plan.limits, plan.workers) as pool:
        if plan.matrices is not None:
            plan.matrices.mkdir(parents=True, exist_ok=True)
        states = list(_states(plan, writer, pool))
        count = sum(state.written for state in states)

        def told(row: Row) -> None:
            nonlocal count
            count += 1
            if on_row is not None:
                on_row(row, count, len(states))

        for state in states:
            if state.done and not state.written:
                writer.append(state.row)
                told(state.row)
        pending = [state for state in states if not state.done]
        with closing(_measured(plan, pool, pending)) as outcomes:
            for index, (outcome, answer) in outcomes:
                row = _row(pending[index], outcome, answer, plan.matrices)
                writer.append(row)
                told(row)


def _measured(plan: Plan, pool: Pool, pending: list[State]) -> Outcomes:
    each = [(state.job, state.row.target) for state in pending]
    if plan.workers.split == "layers":
        return pool.outcomes([(measured, one) for one in each])
    from onnx_ei._batch.samples import measured_in_parts

    return pool.outcomes_of_parts([(measured_in_parts, (*one, pool.slots)) for one in each])


def _writer(plan: Plan) -> ResultsWriter:
    measures = plan.jobs[0].measures
    return ResultsWriter(plan.output, header_line(measures, plan.parameters), plan.resume)


def _states(plan: Plan, writer: ResultsWriter, pool: Pool) -> Iterator[State]:
    tasks: list[Task] = [(listed, (job,)) for job in plan.jobs]
    found = dict(pool.outcomes(tasks))
    listings = [answer for outcome, answer in found.values() if outcome == "done"]
    _check_patterns(plan, listings)
    there: dict[str, list[Row]] = {}
    for row in writer.rows:
        there.setdefault(row_line(row, writer.header)["key"], []).append(row)
    paths = {job.path for job in plan.jobs}
    for index, job in enumerate(plan.jobs):
        outcome, answer = found[index]
        if outcome != "done":
            yield State(job=job, row=unread(job, outcome, answer), done=True, written=False)
            continue
        for row in answer.rows:
            yield _state(job, row, there.get(row_line(row, writer.header)["key"], []), paths)


def _state(job: Job, row: Row, same: list[Row], paths: set[str]) -> State:
    """Find a layer among what was measured before: by content, not by the model's name."""
    own = [known for known in same if known.model == job.path and known.span == row.span]
    if own:
        return State(job=job, row=own[-1], done=True, written=True)
    if row.reason is not None:
        return State(job=job, row=row, done=True, written=False)
    if same:
        # the same model under another name: a copy, or a file that was moved
        moved = [known for known in same if known.model not in paths and known.span == row.span]
        return State(
            job=job,
            row=moved[-1] if moved else replace(same[-1], model=job.path, span=row.span),
            done=True,
            written=bool(moved),
        )
    return State(job=job, row=row, done=False, written=False)


def _check_patterns(plan: Plan, listings: list[Listing]) -> None:
    patterns = (*(plan.jobs[0].layers or ()), *(plan.jobs[0].exclude or ()))
    keys = dict.fromkeys(key for listing in listings for key in listing.keys)
    for pattern in patterns if listings else ():
        if not any(key == pattern or fnmatchcase(key, pattern) for key in keys):
            raise UnknownLayerError(
                f"no layer of any model matches {pattern!r}; {closest(pattern, keys)}"
            )
    if listings:
        names = (row.span for listing in listings for row in listing.rows)
        check_spans(plan.jobs[0].spans, names, keys)


def _row(state: State, outcome: str, answer: Any, folder: Path | None) -> Row:
    """Return what is to be written of a layer; its matrices are on the disk before it."""
    if outcome != "done":
        return failed(state.row, outcome, answer)
    measured_now: tuple[Row, dict[str, Measurement]] = answer
    row, matrices = measured_now
    if folder is not None and matrices:
        name = _save(folder, row, matrices)
        return replace(row, provenance={**row.provenance, "matrices": name})
    return row


def _save(folder: Path, row: Row, matrices: Mapping[str, Measurement]) -> str:
    """Write a layer's matrices and their errors as one .npz file; return its name."""
    sha = str(row.provenance["model_sha256"])
    place = "span" if row.layer_id is None else f"{row.layer_id:04}"
    # names of layers hold slashes; names of files end at 255 bytes
    own = Path(f"{Path(row.model).stem}-{sha[:8]}", f"{place}-{quote(row.name, '')[-200:]}.npz")
    (folder / own.parent).mkdir(exist_ok=True)
    arrays: dict[str, Any] = {}
    for name, found in matrices.items():
        arrays |= {name: np.asarray(found.value), f"{name}_stderr": np.asarray(found.stderr)}
    with replaced(folder / own) as file:
        np.savez(file, **arrays)
    return own.as_posix()
