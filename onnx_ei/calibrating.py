"""Data through the whole model: what each layer's input and output are, recorded as they pass.

onnxruntime's own calibrators (``onnxruntime.quantization.calibrate``) do not serve here: they read
the model from a file and write another beside it, so that weights in memory are out of reach; the
percentile one keeps every tensor of every batch until the end, counts absolute values only, and
passes over NaN without a word. Their least and greatest values are the tests' oracle.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from threading import Lock
from typing import Any

import networkx as nx
import numba
import numpy as np
from numpy.typing import NDArray

from onnx_ei._graph.recurrent import cell_range
from onnx_ei._sampling.progress import ProgressOption, reporting
from onnx_ei._sampling.tasks import run_tasks
from onnx_ei.activations import NO_RANGE
from onnx_ei.calibration import Calibration, Extent, Range, check_choice
from onnx_ei.data import Feeds, samples_of
from onnx_ei.devices import parse_device
from onnx_ei.errors import ConstantLayerWarning, ModelError
from onnx_ei.loading import Model
from onnx_ei.quantiles import Sketch
from onnx_ei.sessions import Session
from onnx_ei.topology import Layer, model_of

__all__ = ["calibrate"]

BLOCK_VALUES = 1 << 20
"""Values that a thread holds before it counts them; 4 MB of float32."""

MOST_SAMPLES = 256
"""Samples in a block, however small they are: progress is told after each."""


def calibrate(
    topology: nx.DiGraph[Any],
    batches: Any,
    *,
    statistic: str = "minmax",
    percentiles: tuple[float, float] = (0.1, 99.9),
    keep_bounds: bool = True,
    device: object = "cpu",
    progress: ProgressOption = None,
) -> Calibration:
    r"""Run data through a model and record the range of each layer's input and output.

    Parameters
    ----------
    topology : networkx.DiGraph
        From :func:`onnx_ei.topology_of`. A module's weights are taken as they are now.
    batches : array, tuple of arrays, dict of str to array, or iterable of these
        The model's inputs: one array (or tensor), a tuple of them in the inputs' order, or a dict
        by input name; the first axis is samples. Or any number of such batches, from a list, a
        generator, a ``DataLoader``. Where an input has another layout (time first, a state), give
        whole inputs, stacked along an axis of their own: shape (samples, \*shape of the input).
        Inputs of rank 0 are held by the topology and may be left out.
    statistic : {"minmax", "percentiles"}
        What the ranges are: the least and the greatest value, or the percentiles, which a few
        outliers do not move.
    percentiles : (float, float)
        Which percentiles are recorded, over all units and samples.
    keep_bounds : bool
        Whether an end whose activation is bounded on both sides (Sigmoid, Tanh, ReLU6 ...) keeps
        its bounds for a range: they are not a guess that data could mend, and noise goes beyond
        what data do. Its extremes and percentiles are recorded all the same.
    device : str or torch.device
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    progress : bool or callable, optional
        True for a bar on stderr, or a function of (done, total) samples, where the total is what
        has been read of ``batches`` so far.

    Returns
    -------
    Calibration
        Also kept in the topology: ``in_range="calibrated"`` and ``out_range="calibrated"`` of every
        measure take their numbers from it, until the next call. Later training leaves it as it is.

    Raises
    ------
    ValueError
        If the data do not fit the inputs, are empty, or NaN or infinity appears in them or in a
        layer: the first such layer is named. If ``statistic`` or ``percentiles`` is out of bounds.
    TypeError
        If ``batches`` is none of these.
    ModelError
        If the model has no layers.
    BackendError
        If the device or the runtime cannot run the model.

    Warns
    -----
    ConstantLayerWarning
        Where a layer's input or output was one value, c, on all data: its range is
        c ± max(\|c\|, 1) / 2, by no better reason than that it has to have some width.

    Notes
    -----
    The ranges are of the whole tensors, all units together, and do not depend on how the data are
    cut into batches. With ``"minmax"`` no value of the data is out of range. Samples run one at a
    time (the topology's model is made for one; a file that fixes a larger batch takes so many),
    spread over threads. Memory does not grow with the data: see :class:`onnx_ei.quantiles.Sketch`.

    Examples
    --------
    >>> import onnx.parser
    >>> from onnx_ei import topology_of
    >>> model = onnx.parser.parse_model(
    ...     '<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) '
    ...     "<float[2,2] fc = {2,0,0,1}> { h = MatMul(x, fc) y = Relu(h) }"
    ... )
    >>> topology = topology_of(model)
    >>> found = calibrate(topology, np.array([[0.5, -1.0], [1.5, 0.25]]))
    >>> found.ranges["fc"]
    ((-1.0, 1.5), (0.0, 3.0))
    """
    check_choice(statistic, percentiles)
    model = model_of(topology)
    layers = [layer for layer in topology.graph["layers"].values() if _is_numeric(layer)]
    if not layers:
        raise ModelError(f"{model.label}: there is no layer to calibrate")
    recorder = _Recorder(model, layers, device)
    with reporting(progress, "calibrate") as report:

        def tasks() -> Iterator[partial[int]]:
            for block in recorder.blocks(samples_of(model, batches)):
                report.plan(len(block))
                yield partial(recorder.record, recorder.read, block)
                recorder.read += len(block)

        run_tasks(tasks(), recorder.workers, report)
    found = Calibration(
        model=model.label,
        n_samples=recorder.read,
        statistic=statistic,
        percentiles=(float(percentiles[0]), float(percentiles[1])),
        extents={
            layer.label: (
                recorder.extent(layer.entering.name, percentiles, bounds),
                recorder.extent(layer.leaving.name, percentiles, out_bounds),
            )
            for layer in layers
            for bounds, out_bounds in [_bounds(layer) if keep_bounds else (None, None)]
        },
    )
    _warn_of_constants(found)
    found.use(topology)
    return found


def _bounds(layer: Layer) -> tuple[Range | None, Range | None]:
    """Return the exact bounds of the activations at a layer's ends, where they have any."""
    before = NO_RANGE if layer.before is None else layer.before.range
    after = NO_RANGE if layer.after is None else layer.after.range
    if layer.after is None and layer.op.kind == "recurrent":
        after = cell_range(layer.node)
    return _exact(before), _exact(after)


def _exact(found: Range) -> Range | None:
    """Tell bounds from a guess: an end without a bound is that of no activation at all."""
    least, most = NO_RANGE
    return (float(found[0]), float(found[1])) if least < found[0] and found[1] < most else None


def _is_numeric(layer: Layer) -> bool:
    """Say whether both ends are tensors of numbers: text classifiers have others."""
    return not any(
        value.dtype is not None and value.dtype.is_string()
        for value in (layer.entering, layer.leaving)
    )


class _Recorder:
    """The model with its layers' ends as outputs, and a sketch of each."""

    def __init__(self, model: Model, layers: Sequence[Layer], device: object) -> None:
        self.read = 0
        self._ends: dict[str, str] = {}
        for layer in layers:
            for end, value in (("input", layer.entering), ("output", layer.leaving)):
                self._ends.setdefault(str(value.name), f"the {end} of layer {layer.label!r}")
        if model.live is not None:
            model.live.refresh()
        inputs = {str(value.name) for value in model.ir.graph.inputs}
        self._inner = [name for name in self._ends if name not in inputs]
        with _outputs(model, self._inner):
            self._session = Session(model.ir, device)
        self._sketches = {name: Sketch() for name in self._ends}
        self._lock = Lock()
        self._on_cpu = parse_device(device)[0] == "cpu"
        self._values = 0

    @property
    def workers(self) -> int:
        """Threads; one device has no use for more than one."""
        return int(numba.get_num_threads()) if self._on_cpu else 1

    def blocks(self, samples: Iterator[Feeds]) -> Iterator[list[Feeds]]:
        """Group samples: the first alone, which tells how large they are."""
        for first in samples:
            self._values = sum(values.size for values in self._run(first).values())
            yield [first]
            break
        rows = max(1, min(MOST_SAMPLES, BLOCK_VALUES // max(1, self._values)))
        while block := list(islice(samples, rows)):
            yield block

    def _run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        found = dict(zip(self._inner, self._session.run(feeds, self._inner), strict=True))
        return {name: feeds[name] if name in feeds else found[name] for name in self._ends}

    def record(self, start: int, block: list[Feeds]) -> int:
        """Run samples and count their values; return how many samples."""
        runs = [self._run(feeds) for feeds in block]
        for name, end in self._ends.items():
            values = [_plain(run[name]).reshape(-1) for run in runs]
            _check_finite(values, start, f"{end} (tensor {name!r})")
            with self._lock:
                self._sketches[name].add(np.concatenate(values))
        return len(block)

    def extent(
        self, name: str | None, percentiles: tuple[float, float], bounds: Range | None
    ) -> Extent:
        """Return what was recorded of a tensor."""
        sketch = self._sketches[str(name)]
        low, high = (sketch.quantile(share / 100) for share in percentiles)
        return Extent(
            tensor=str(name),
            low=sketch.low,
            high=sketch.high,
            percentiles=(low, high),
            bounds=bounds,
        )


@contextmanager
def _outputs(model: Model, names: Sequence[str]) -> Iterator[None]:
    """Make inner tensors the model's outputs for a time."""
    graph = model.ir.graph
    values = {str(value.name): value for node in graph for value in node.outputs}
    kept = list(graph.outputs)
    try:
        graph.outputs.clear()
        graph.outputs.extend(values[name] for name in names)
        yield
    finally:
        graph.outputs.clear()
        graph.outputs.extend(kept)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers of a type that numpy orders: bfloat16 and float8 are not of numpy."""
    return values if values.dtype.kind in "fiub" else values.astype(np.float32)


def _check_finite(values: Sequence[NDArray[Any]], start: int, end: str) -> None:
    for index, array in enumerate(values):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            what = "NaN" if np.isnan(array).any() else "infinity"
            raise ValueError(
                f"calibrate: {end} holds {what} on sample {start + index}: the data are not what "
                "the model expects (their scale?), or the model is broken; no range can be given"
            )


def _warn_of_constants(found: Calibration) -> None:
    ends = [
        f"the {name} of {label!r} ({extent.low:.4g})"
        for label, both in found.extents.items()
        for name, extent in zip(("input", "output"), both, strict=True)
        if extent.constant and extent.bounds is None
    ]
    if ends:
        more = f" and {len(ends) - 4} more" if len(ends) > 4 else ""
        warnings.warn(
            f"calibrate: one value on all {found.n_samples} samples: {', '.join(ends[:4])}{more}; "
            "their ranges are made up around it: give more data, or the range as two numbers",
            ConstantLayerWarning,
            stacklevel=3,
        )
