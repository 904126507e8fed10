"""Many models to one results file, which a crash does not harm."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_ei._batch.backends import Workers
from onnx_ei._batch.running import Plan, Progress, model_files, run
from onnx_ei._batch.supervising import Limits, memory_of
from onnx_ei._batch.turns import check_devices, tidy_after
from onnx_ei._batch.work import Job
from onnx_ei._sampling.parameters import Parameters, whole
from onnx_ei.analysis import DEFAULT_MEASURES
from onnx_ei.analyzed import Analysis
from onnx_ei.devices import parse_devices
from onnx_ei.errors import MissingDependencyError
from onnx_ei.provenance import check_options, plain
from onnx_ei.targets import Spans, named_spans
from onnx_ei.topology import topology_of

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["MATRICES", "batch", "plan_batch"]

MATRICES = ("ei_parts_matrix", "sensitivity_matrix")
"""What a folder of matrices holds."""

Models = str | os.PathLike[str] | Iterable["str | os.PathLike[str]"]


def batch(
    models: Models,
    output: str | os.PathLike[str],
    measures: Sequence[str] = DEFAULT_MEASURES,
    layers: str | Iterable[str] | None = None,
    *,
    exclude: str | Iterable[str] | None = None,
    spans: Spans | None = None,
    glob: str | None = None,
    input: Any = None,
    input_range: tuple[float, float] | None = None,
    resume: bool = False,
    jobs: int | None = None,
    backend: str = "loky",
    scheduler: str | None = None,
    split: str = "layers",
    timeout: float | None = None,
    max_memory: int | None = None,
    matrices: str | os.PathLike[str] | None = None,
    on_row: Progress | None = None,
    **options: Any,
) -> Analysis:
    """Measure every layer of many models, each row on the disk as soon as it is done.

    Parameters
    ----------
    models : path, or iterable of path
        Files; a folder stands for the .onnx files in it, at any depth, or for those that ``glob``
        matches.
    output : path
        The results file, of JSON lines. It is locked while it is written.
    measures, layers, exclude, spans, input, input_range
        As for :func:`onnx_ei.analyze`. A pattern must match a layer of one of the models.
    glob : str, optional
        Which files of the folders: ``"*.onnx"``, ``"**/*epoch*.onnx"``.
    resume : bool
        Whether to go on with a file that is there: what did not fail is not measured again.
    jobs : int, optional
        Layers measured at once, each in a process with its share of the processors' threads; by
        default as many as there are devices, or as a cluster takes. No value depends on it.
    backend : str
        ``"loky"``, processes of this machine; or ``"dask"`` or ``"ray"``, the workers of a
        cluster, by the extra of that name. They read the models themselves, by the same paths.
    scheduler : str, optional
        The cluster's address: ``"tcp://host:8786"`` for Dask, by default that of an open client;
        ``"host:6379"`` or ``"auto"`` for Ray, which by default begins a cluster here.
    split : str
        ``"layers"``: whole layers go to the workers. ``"samples"``: one layer is measured after
        the other, each by all workers; for few layers that are huge. No value depends on it.
    timeout : float, optional
        Seconds for a layer, the reading of its model included; a process that takes longer is
        ended.
    max_memory : int, optional
        Bytes that a process may hold; one that holds more is ended. Elsewhere than on Linux it
        takes psutil.
    matrices : path, optional
        A folder for the matrices of ``ei_parts`` and ``sensitivity``, an .npz file a layer.
    on_row : callable, optional
        Called with each row as it is written, how many the file has, and how many there will be.
    **options
        Keyword arguments of :func:`onnx_ei.measure`. ``device`` may be a list, or names with
        commas between them: each process has one of the devices. No value depends on which.

    Returns
    -------
    Analysis
        What the file holds.

    Raises
    ------
    TypeError, ValueError, UnknownLayerError
        If an argument makes no sense; the file cannot be written, is there and ``resume`` is False,
        or holds another run.
    OutputError
        If the disk is full, or fails; the file resumes.
    MissingDependencyError
        If the backend's package is not installed.
    BackendError
        If a device cannot be had, a process of the pool was killed, a scheduler does not answer, or
        a cluster is lost.

    Notes
    -----
    A row is known by the model's content, the layer, the measures, all parameters, the seed and the
    version of the definitions: a file that was renamed or copied is not measured again. Models run
    in processes of their own, so one that hangs or dies costs its own row alone, on every backend.
    Joblib's processes are ended with the call, unless the caller had some before.

    Examples
    --------
    >>> import tempfile, onnx, onnx.parser
    >>> model = onnx.parser.parse_model(
    ...     '<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) '
    ...     "<float[2,2] fc = {1,0,0,1}> { y = MatMul(x, fc) }"
    ... )
    >>> folder = Path(tempfile.mkdtemp())
    >>> onnx.save(model, folder / "a.onnx")
    >>> unit = dict(in_range=(0, 1), out_range=(0, 1), in_bins=4, out_bins=4)
    >>> found = batch(folder, folder / "results.jsonl", ["ei"], samples=20_000, **unit)
    >>> [(row.layer, row.status, round(row.measurements["ei"].value, 1)) for row in found.rows]
    [('fc', 'measured', 4.0)]
    """
    plan = plan_batch(
        models,
        output,
        measures,
        layers,
        exclude=exclude,
        spans=spans,
        glob=glob,
        opener=partial(topology_of, input=input),
        identity={"input": plain(input)},
        input_range=input_range,
        resume=resume,
        workers=Workers(jobs=jobs, backend=backend, scheduler=scheduler, split=split),
        timeout=timeout,
        max_memory=max_memory,
        matrices=matrices,
        options=options,
    )
    if plan.workers.devices_here:
        check_devices(plan.jobs[0].devices)
    run(plan, on_row)
    return Analysis.load(plan.output)


def plan_batch(
    models: Models,
    output: str | os.PathLike[str],
    measures: Sequence[str],
    layers: str | Iterable[str] | None,
    *,
    exclude: str | Iterable[str] | None,
    spans: Spans | None = None,
    glob: str | None = None,
    opener: partial[nx.DiGraph[Any]],
    identity: Mapping[str, Any],
    input_range: tuple[float, float] | None,
    resume: bool,
    workers: Workers,
    timeout: float | None,
    max_memory: int | None,
    matrices: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
) -> Plan:
    """Check everything that can be checked before a model is read.

    Parameters
    ----------
    models, output, measures, layers, exclude, spans, glob, input_range, resume, timeout
        As for :func:`batch`; so are ``max_memory``, ``matrices`` and ``options``.
    workers : Workers
        Who measures.
    opener : functools.partial
        Makes a topology of a path; picklable.
    identity : mapping
        What else decides the values, in JSON's types: what the opener was given.

    Raises
    ------
    TypeError, ValueError
        If an argument makes no sense.
    """
    names = (measures,) if isinstance(measures, str) else tuple(dict.fromkeys(measures))
    beside = () if matrices is None else MATRICES
    Parameters(in_range=input_range)
    parameters = check_options("batch", (*names, *beside), options, several=True)
    parameters |= {"input_range": plain(input_range), "matrices": list(beside), **identity}
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be above 0 seconds, got {timeout}")
    if max_memory is not None and memory_of(os.getpid()) is None:
        raise MissingDependencyError(
            "a memory limit is watched by /proc, as on Linux, or by psutil, and here is neither: "
            "pip install psutil (it comes with the extra 'dask' too), or give no limit"
        )
    files = model_files([models] if isinstance(models, str | os.PathLike) else models, glob)
    own = dict(options)
    devices = parse_devices(own.pop("device", "cpu"), own.pop("tf32", False))
    common: dict[str, Any] = {
        "opener": opener,
        "measures": names,
        "matrices": beside,
        "layers": _patterns(layers),
        "exclude": _patterns(exclude),
        "spans": named_spans(spans),
        "input_range": input_range,
        "options": own,
        "devices": devices,
        "run": uuid.uuid4().hex,
        "parameters": parameters,
        "shared": workers.remote,
    }
    if len(devices) > 1:
        tidy_after(common["run"])
    return Plan(
        jobs=tuple(Job(path=path, file=os.path.abspath(path), **common) for path in files),
        output=Path(output),
        parameters=parameters,
        resume=resume,
        matrices=None if matrices is None else Path(matrices),
        workers=workers.on(len(devices)),
        limits=Limits(
            seconds=timeout,
            memory=None if max_memory is None else whole("max_memory", max_memory, 1),
        ),
    )


def _patterns(given: str | Iterable[str] | None) -> tuple[str, ...] | None:
    return None if given is None else (given,) if isinstance(given, str) else tuple(given)
