"""One huge span over many processes, at the bits that one process gives.

What there is to do for a span, and what it takes to have it done elsewhere:

- **Noise** is drawn from ``(seed, chunk)``: 3 ns a value, while a byte takes 8 ns through a network
  of 1 Gbit/s. It is never sent. Whoever needs it draws it: the workers to run the span, and this
  process, which needs the inputs' codes, too.
- **Running and binning** is cut by samples, into runs of whole chunks. What comes back is the codes
  of the outputs: one byte a unit and sample (two for more than 255 bins), and lossless, so that
  everything after it is the same code on the same numbers. Counts would merge exactly too, and are
  worse to send: the histograms of pairs are n_inputs * n_outputs * bins^2 cells, which is more than
  the codes of n samples unless n exceeds n_outputs * bins^2, millions for the spans that this is
  for; the states of vectors are as many as the samples wherever there is little coverage; and the
  estimators need which sample had which state, for standard errors, as do pairs of measures that
  share them.
- **Counting pairs** is n_inputs * n_outputs * samples increments of 0.5 ns, as much as a dense
  layer's run or more, and is cut by outputs: a pair belongs to one worker, which counts all its
  samples. The outputs' codes go there, each byte of them for n_inputs increments; the inputs' codes
  are drawn there, once for all of a worker's tiles. What comes back is 24 bytes a pair, and the
  influences of the samples, which are rounded so that their sums are exact in any order. It is
  left alone where a tile's outputs are too few to pay for drawing its inputs.
- **Sensitivity** is cut by the inputs that are driven: they share no sample. What comes back is 24
  bytes a pair and an input's influences.
- **States of vectors** are packed and sorted here: nanoseconds a sample, out of the codes.

How it is cut depends on how many workers there are, and no value depends on how it is cut: chunks
have seeds of their own, a chunk is run from its first row by whoever runs it, and sums are of
integers. Workers must run the same versions of what computes; that is checked. Kinds of processors
may differ in the last bits of a model's float32 outputs: then so may codes, as they would without
any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_ei._batch.elsewhere import Task, done_elsewhere
from onnx_ei._batch.work import Job, measured, opened, options_here, span_options
from onnx_ei._sampling.codes import binned, binned_outputs, part
from onnx_ei._sampling.parameters import Parameters, Range
from onnx_ei._sampling.progress import SILENT
from onnx_ei._sampling.source import Source, slices
from onnx_ei._sampling.sweeping import SweepSampler
from onnx_ei.binning import Binning
from onnx_ei.errors import OnnxEiError
from onnx_ei.information import PairwiseInformation, pairwise_information
from onnx_ei.noise import CHUNK
from onnx_ei.provenance import versions
from onnx_ei.results import Measurement
from onnx_ei.rows import Row
from onnx_ei.runtime import runner
from onnx_ei.sampling import ends_of
from onnx_ei.span import span_of
from onnx_ei.targets import Target

__all__ = ["Elsewhere", "Portion", "measured_in_parts"]

TASKS_EACH = 3
"""Tasks of a worker: more balance better, fewer share more."""
WINDOW = 4
"""Of the memory allowed, one part in so many is codes under way: they are kept as well."""
LEAST_OUTPUTS = 16
"""Of a tile: drawing and binning an input's sample is worth 7 increments."""
LEAST_INCREMENTS = 1 << 28
"""Pairs times samples below which counting is done where the codes are: 0.15 s."""
_COMPUTES = ("onnx_ei", "onnxruntime", "onnxruntime-gpu", "numpy", "numba")

FloatArray = NDArray[np.float64]
DoneElsewhere = Callable[[Sequence[Task]], Iterator[tuple[int, Any]]]


@dataclass(frozen=True, kw_only=True)
class Portion:
    """A span, for another process to find.

    Attributes
    ----------
    job : Job
        Its model.
    target : str or Target
        Its layer, or what else.
    in_range, out_range : (float, float), or "dynamic" for ``out_range``
        As in :class:`Source`.
    parameters : Parameters
        As in :class:`Source`.
    model_sha256 : str or None
        What the model's file must hold.
    versions : mapping of str to str
        What must compute.
    """

    job: Job
    target: str | Target
    in_range: Range
    out_range: Range | str
    parameters: Parameters
    model_sha256: str | None
    versions: dict[str, str]

    def source(self) -> Source:
        """Return where the span's samples come from, in this process.

        Raises
        ------
        ValueError
            If the model is another one here, or something else computes.
        """
        topology, facts = opened(self.job)
        if facts["model_sha256"] != self.model_sha256:
            raise ValueError(
                f"{self.job.path} holds another model for this worker (sha256 "
                f"{facts['model_sha256']}, not {self.model_sha256})"
            )
        here = _computing()
        for name in here.keys() | self.versions.keys():
            if here.get(name) != self.versions.get(name):
                raise ValueError(
                    f"this worker has {name} {here.get(name)}, and the run "
                    f"{self.versions.get(name)}: install the same everywhere"
                )
        span = span_of(topology, _layer(self.target), **span_options(self.job, self.target))
        return Source(
            runner=runner(span, options_here(self.job)["device"]),
            n_inputs=span.n_inputs,
            n_outputs=span.n_outputs,
            in_range=self.in_range,
            out_range=self.out_range,
            parameters=self.parameters,
        )


def _computing() -> dict[str, str]:
    return {name: version for name, version in versions().items() if name in _COMPUTES}


def _layer(target: str | Target) -> str:
    return target if isinstance(target, str) else target.layer


def measured_in_parts(
    job: Job, target: str | Target, slots: int
) -> tuple[Row, dict[str, Measurement]]:
    """Measure a layer whose samples others run.

    Parameters
    ----------
    job, target
        As for :func:`onnx_ei._batch.work.measured`.
    slots : int
        Tasks that are done elsewhere at once.
    """
    topology, facts = opened(job)
    with suppress(OnnxEiError):  # a layer without a span: its row says why
        span = span_of(topology, _layer(target), **span_options(job, target))
        run = runner(span, options_here(job)["device"])
        run.spread = Elsewhere(job, target, facts["model_sha256"], slots)  # type: ignore[attr-defined]
    return measured(job, target)


class Elsewhere:
    """Has a span run, and its pairs counted, by other processes; a ``Spread`` of the samplers.

    Parameters
    ----------
    job : Job
        The model.
    target : str or Target
        The layer, or what else.
    model_sha256 : str or None
        The model's content.
    slots : int
        Tasks that are done at once.
    done : callable
        Does tasks; yields the index and the result of each as it comes.
    """

    def __init__(
        self,
        job: Job,
        target: str | Target,
        model_sha256: str | None,
        slots: int,
        done: DoneElsewhere = done_elsewhere,
    ) -> None:
        self._portion = {"job": job, "target": target, "model_sha256": model_sha256}
        self._slots = slots
        self._done = done

    def codes(
        self, source: Source, samples: range, units: slice, bins: Binning
    ) -> Iterator[tuple[range, NDArray[Any]]]:
        """Yield some outputs' codes, a run of samples at a time, in any order.

        Parameters
        ----------
        source : Source
            Noise and span.
        samples : range
            Which.
        units : slice
            Of the outputs.
        bins : Binning
            Theirs.
        """
        portion = self._of(source)
        held = bins.n_units * bins.code_dtype.itemsize * CHUNK
        most = max(self._slots, source.parameters.memory // WINDOW // held)
        for window in _runs(samples, most * CHUNK):
            runs = list(_runs(window, self._grain(window)))
            tasks: list[Task] = [(chunk_codes, (portion, run, units, bins)) for run in runs]
            for index, y in self._done(tasks):
                yield runs[index], y

    def ends(self, source: Source, n: int) -> tuple[FloatArray, FloatArray]:
        """Return each output's least and greatest finite value among the first samples.

        Parameters
        ----------
        source : Source
            Noise and span.
        n : int
            Samples.
        """
        portion = self._of(source)
        runs = _runs(range(n), self._grain(range(n)))
        found = [ends for _, ends in self._done([(chunk_ends, (portion, run)) for run in runs])]
        low, high = (np.array(end) for end in zip(*found, strict=True))
        return low.min(axis=0), high.max(axis=0)

    def pairs(
        self, source: Source, ends: tuple[slice, slice], y: NDArray[Any], bins: Binning
    ) -> Iterator[tuple[slice, PairwiseInformation]] | None:
        """Yield the information of some inputs and outputs; None where it is too little work.

        Parameters
        ----------
        source : Source
            Noise and span.
        ends : (slice, slice)
            Which inputs, and which outputs.
        y : ndarray of unsigned int, shape (n_outputs, n_samples)
            These outputs' codes.
        bins : Binning
            Theirs.
        """
        n_inputs = len(range(source.n_inputs)[ends[0]])
        if n_inputs * y.size < LEAST_INCREMENTS or len(y) < 2 * LEAST_OUTPUTS:
            return None
        first = range(source.n_outputs)[ends[1]].start
        size = max(LEAST_OUTPUTS, -(-len(y) // (TASKS_EACH * self._slots)))
        columns, portion = slices(len(y), size), self._of(source)
        tasks: list[Task] = [
            (pair_tile, (portion, ends[0], np.ascontiguousarray(y[at]), part(bins, at)))
            for at in columns
        ]
        return (
            (slice(first + columns[index].start, first + columns[index].stop), info)
            for index, info in self._done(tasks)
        )

    def sweeps(
        self, source: Source, n: int, n_passes: int, bins: Binning, *, matrix: bool
    ) -> Iterator[tuple[Any, ...]]:
        """Yield what ``Swept.add`` takes, for all passes of sensitivity.

        Parameters
        ----------
        source : Source
            Noise and span.
        n : int
            Samples of each input.
        n_passes : int
            Passes.
        bins : Binning
            Of the outputs.
        matrix : bool
            Whether each pair is wanted.
        """
        portion = self._of(source)
        size = max(1, -(-n_passes // (TASKS_EACH * self._slots)))
        some = slices(n_passes, size)
        tasks: list[Task] = [(sweep_rows, (portion, n, at, bins, matrix)) for at in some]
        for _, rows in self._done(tasks):
            yield from rows

    def _of(self, source: Source) -> Portion:
        return Portion(
            **self._portion,  # type: ignore[arg-type]
            in_range=source.in_range,
            out_range=source.out_range,
            parameters=replace(source.parameters, progress=None),
            versions=_computing(),
        )

    def _grain(self, samples: range) -> int:
        """Return the samples of one task: whole chunks."""
        n_chunks = -(-len(samples) // CHUNK)
        return CHUNK * max(1, -(-n_chunks // (TASKS_EACH * self._slots)))


def _runs(samples: range, size: int) -> Iterator[range]:
    """Cut samples into runs that begin with a chunk, but for the first."""
    start = samples.start
    while start < samples.stop:
        stop = min(samples.stop, start // CHUNK * CHUNK + size)
        yield range(start, stop)
        start = stop


def chunk_codes(portion: Portion, samples: range, units: slice, bins: Binning) -> NDArray[Any]:
    """Run some samples, and return the codes of some outputs.

    Parameters
    ----------
    portion : Portion
        The span.
    samples, units, bins
        As for :meth:`Elsewhere.codes`.
    """
    source = portion.source()
    codes = np.empty((bins.n_units, len(samples)), bins.code_dtype)

    def visit(chunks: range, rows: int, noise: NDArray[np.float32]) -> None:
        first = chunks.start * CHUNK
        fresh = max(0, samples.start - first)
        y = source.run(noise)[fresh:, units]
        at = first + fresh - samples.start
        codes[:, at : at + len(y)] = binned_outputs(y, bins)

    source.each_block(samples.start, samples.stop, source.drawn, visit, SILENT)
    return codes


def chunk_ends(portion: Portion, samples: range) -> tuple[FloatArray, FloatArray]:
    """Run some samples, and return each output's least and greatest value.

    Parameters
    ----------
    portion : Portion
        The span.
    samples : range
        Which.
    """
    return ends_of(portion.source(), samples, SILENT)


_DRAWN: dict[tuple[Any, ...], NDArray[Any]] = {}
"""The inputs' codes at hand: the tiles of a layer share them."""


def pair_tile(
    portion: Portion, inputs: slice, y: NDArray[Any], bins: Binning
) -> PairwiseInformation:
    """Count the pairs of some inputs and outputs.

    Parameters
    ----------
    portion : Portion
        The span.
    inputs : slice
        Which.
    y : ndarray of unsigned int, shape (n_outputs, n_samples)
        The outputs' codes.
    bins : Binning
        Theirs.
    """
    source = portion.source()
    n, in_bins = y.shape[1], part(source.in_binning, inputs)
    # all that decides noise and bins
    given = source.parameters
    drawn = (given.seed, source.n_inputs, source.in_range, given.in_bins)
    key = (*drawn, inputs.start, inputs.stop, n)
    if key not in _DRAWN:
        _DRAWN.clear()
        x = np.empty((in_bins.n_units, n), in_bins.code_dtype)

        def visit(chunks: range, rows: int, noise: NDArray[np.float32]) -> None:
            at = slice(chunks.start * CHUNK, chunks.start * CHUNK + rows)
            x[:, at] = binned(noise[:, inputs], in_bins)

        source.each_block(0, n, source.drawn, visit, SILENT)
        _DRAWN[key] = x
    return pairwise_information(
        _DRAWN[key],
        y,
        in_bins.n_bins,
        bins.n_bins,
        source.parameters.estimator,
        pvalues=source.parameters.pvalues,
    )


def sweep_rows(
    portion: Portion, n: int, some: slice, bins: Binning, matrix: bool
) -> list[tuple[Any, ...]]:
    """Measure some passes of sensitivity, and return what ``Swept.add`` takes.

    Parameters
    ----------
    portion : Portion
        The span.
    n : int
        Samples of each input.
    some : slice
        Which passes.
    bins : Binning
        Of the outputs.
    matrix : bool
        Whether each pair is wanted.
    """
    rows: list[tuple[Any, ...]] = []
    sampler = SweepSampler(portion.source(), SILENT, matrix=matrix, bins=bins)
    sampler.take(n, some, lambda *row: rows.append(row))
    return rows
