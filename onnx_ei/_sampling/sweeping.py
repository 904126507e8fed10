"""Sensitivity's sampling: one input uniform at a time, the others at 0.

Noise is drawn once a chunk for all inputs, and held for a tile of them. Then, some inputs at a
time, the span runs and its outputs are binned, and pairs are counted: all of it by one thread where
samples are few and inputs many, so that codes stay in its cache, else each a task in the pool of
threads, which writes to a place of its own. Inputs of different strands share a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import product
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from onnx_ei._kernels.binning import _bin_values
from onnx_ei._kernels.sweep import _sweep
from onnx_ei._sampling.codes import binned, binned_outputs
from onnx_ei._sampling.passes import RESULT_BYTES, Column, Noise, Rows, Tile
from onnx_ei._sampling.progress import SILENT, Progress
from onnx_ei._sampling.source import Source, check_histogram, output_binning, slices
from onnx_ei._sampling.swept import Strands, SweepInformation, Swept
from onnx_ei._sampling.tasks import run_tasks
from onnx_ei.binning import Binning
from onnx_ei.estimators import Rule, estimator_rule
from onnx_ei.information import INFLUENCES
from onnx_ei.noise import CHUNK

__all__ = ["SweepInformation", "SweepSampler"]

FloatArray: TypeAlias = NDArray[np.float64]
TASK_PASSES = 16
"""Passes of one chunk that one task runs at most."""
TASK_SAMPLES = TASK_PASSES * CHUNK
"""Samples of one pass, and of all, that one task runs and counts: of more, threads share a pass."""
NEAR_PASSES = 4
"""Passes that one thread runs before it counts them: what it counts is still in its L2 cache."""
BATCH = 1 << 25
"""Bytes of codes and results between running and counting: more would leave the cache for good."""


class SweepSampler:
    """One input random at a time: mutual information of that input and every output.

    Parameters
    ----------
    source : Source
        Noise and span.
    progress : Progress
        Told of each run.
    matrix : bool
        Whether each pair is wanted, or their sum alone.
    bins : Binning, optional
        Of the outputs, where they are known.

    Examples
    --------
    Made by :func:`onnx_ei._sampling.engine.sample`.
    """

    def __init__(
        self,
        source: Source,
        progress: Progress,
        *,
        matrix: bool = True,
        bins: Binning | None = None,
    ) -> None:
        self._source = source
        self._progress = progress
        self._matrix = matrix
        self._in = source.in_binning
        self._out: Binning | None = bins
        self._rule: Rule = estimator_rule(source.parameters.estimator, 0)

    def at(self, n: int) -> SweepInformation:
        """Return the information from the first ``n`` samples of each input.

        Nothing is kept between calls: codes of every sweep would be n_inputs times those of EI.
        """
        source = self._source
        check_histogram(self._in, self._out_binning(), source.parameters.memory)
        found = Swept(source.n_inputs, source.n_outputs, n, matrix=self._matrix)
        if source.spread is None:
            self.take(n, slice(None), found.add)
            return found.freeze()
        n_passes, bins = len(self._passes), self._out_binning()
        self._progress.plan(n * n_passes)
        for rows in source.spread.sweeps(source, n, n_passes, bins, matrix=self._matrix):
            found.add(*rows)
            self._progress.advance(n * n_passes * len(rows[0]) // source.n_inputs)
        return found.freeze()

    def take(self, n: int, some: slice, add: Callable[..., None]) -> None:
        """Measure some passes from their first ``n`` samples; ``add`` is :meth:`Swept.add`."""
        source, chosen = self._source, self._passes[some]
        self._rule = estimator_rule(source.parameters.estimator, n)
        tile = self._tile(n)
        cut = slices(source.n_outputs, tile.outputs)
        columns = [Column.of(self._out_binning(), self._strands, outputs) for outputs in cut]
        self._progress.plan(n * len(chosen) * len(columns))
        for drawn in slices(len(chosen), tile.drawn):
            passes = chosen[drawn]
            noise = self._drawn(n, passes)
            size = self._alone(n, len(passes), tile.batch)
            if size:
                self._share_out(noise, passes, columns, size, add)
                continue
            for at in slices(len(passes), tile.batch):
                self._measure(noise.some(at), passes[at], columns, add)

    def _alone(self, n: int, n_passes: int, batch: int) -> int:
        """Return how many passes one thread takes by itself; 0 where threads share each."""
        workers = self._workers
        if n > TASK_SAMPLES or n_passes < 4 * workers or batch < workers:
            return 0
        most = min(TASK_SAMPLES // n, TASK_PASSES, n_passes // (4 * workers), batch // workers)
        return max(1, most)

    def _share_out(
        self,
        noise: Noise,
        passes: NDArray[np.int64],
        columns: list[Column],
        size: int,
        add: Callable[..., None],
    ) -> None:
        """Measure passes, ``size`` of them on one thread."""
        lock = Lock()

        def add_alone(*rows: NDArray[Any]) -> None:
            with lock:
                add(*rows)

        def task(at: slice) -> int:
            self._measure(noise.some(at), passes[at], columns, add_alone, alone=True)
            return int(noise.values.shape[-1] * len(passes[at]) * len(columns))

        tasks = (partial(task, at) for at in slices(len(passes), size))
        run_tasks(tasks, self._workers, self._progress)

    @cached_property
    def _strands(self) -> Strands:
        return self._source.strands

    @cached_property
    def _passes(self) -> NDArray[np.int64]:
        return self._strands.passes()

    def _tile(self, n: int) -> Tile:
        """Cut the work: a quarter of the memory for noise, half of it for codes and results."""
        memory, source = self._source.parameters.memory, self._source
        n_passes, n_strands = self._passes.shape
        drawn = memory // 4 // (n * n_strands * (4 + self._in.code_dtype.itemsize))
        column = n * self._out_binning().code_dtype.itemsize
        outputs = max(1, min(source.n_outputs, memory // 2 // column))
        results = RESULT_BYTES * source.n_outputs + 8 * min(n, INFLUENCES)
        each = column * outputs + results * n_strands
        batch = min(memory // 2, max(BATCH, 2 * self._workers * each)) // each
        return Tile(max(1, min(drawn, n_passes)), max(1, batch), outputs)

    def _drawn(self, n: int, passes: NDArray[np.int64]) -> Noise:
        """Draw the values of some inputs: a chunk comes for all inputs, and is drawn once."""
        inputs = np.maximum(passes.ravel(), 0)  # of a strand that has no more, any
        every = slice(int(inputs[0]), int(inputs[-1]) + 1)
        # a slice where it is one: fancy indexing would copy each row once more
        taken: Any = every if np.array_equal(inputs, np.arange(every.start, every.stop)) else inputs
        bins = Binning.uniform(inputs.size, self._source.in_range, self._source.parameters.in_bins)
        values = np.empty((inputs.size, n), np.float32)
        codes = np.empty(values.shape, bins.code_dtype)

        def task(chunk: int) -> int:
            first = chunk * CHUNK
            for rows, drawn in self._source.noise_rows(chunk, min(CHUNK, n - first)):
                at = slice(first + rows.start, first + rows.stop)
                chosen = drawn[:, taken]
                values[:, at] = chosen.T
                codes[:, at] = binned(chosen, bins)
            return 0

        chunks = range(-(-n // CHUNK))
        workers = min(self._workers, len(chunks))
        run_tasks((partial(task, chunk) for chunk in chunks), workers, SILENT)
        return Noise(values.reshape(*passes.shape, n), codes.reshape(*passes.shape, n))

    def _measure(
        self,
        noise: Noise,
        passes: NDArray[np.int64],
        columns: list[Column],
        add: Callable[..., None],
        *,
        alone: bool = False,
    ) -> None:
        """Run some passes, and count the pairs of their inputs and every output.

        Alone, on the calling thread, a few passes are counted before the next ones run.
        """
        n, at_once = noise.values.shape[-1], min(NEAR_PASSES, len(passes)) if alone else len(passes)
        workers = 1 if alone else self._workers
        # Into how many tasks one pass's counting is cut: where passes are few, more.
        cuts = 1 if alone or len(passes) >= 4 * workers else 4 * workers
        rows = Rows.empty((*passes.shape, self._source.n_outputs), cuts, min(n, INFLUENCES))
        if passes.shape[1] > 1:
            # An input's own outputs are counted below.
            rows.kept[:] = n * self._resting()
        x = self._idle() if alone else None
        for column in columns:
            y = np.empty((at_once, column.bins.n_units, n), column.bins.code_dtype)
            for at in slices(len(passes), at_once):
                part = (noise.some(at), passes[at], y, column)
                self._run(*part, workers, x)
                self._count(*part, workers, rows.some(at))
        inputs = passes.ravel()
        real = inputs >= 0
        add(
            inputs[real],
            rows.bits.reshape(2, inputs.size, -1)[:, real],
            rows.kept.reshape(inputs.size, -1)[real],
            rows.influence.sum(axis=2).reshape(inputs.size, -1)[real],
            rows.spread.sum(axis=2).reshape(inputs.size, -1)[real],
        )

    def _run(
        self,
        noise: Noise,
        passes: NDArray[np.int64],
        y: NDArray[Any],
        column: Column,
        workers: int,
        x: NDArray[np.float32] | None,
    ) -> None:
        """Fill the codes (passes, outputs, n); ``x`` are zeros to run, of one thread alone."""
        n = y.shape[-1]

        def task(chunk: int, block: slice) -> int:
            at = slice(chunk * CHUNK, min((chunk + 1) * CHUNK, n))
            values = noise.values[block, :, at]
            zeros = self._idle() if x is None else x
            dropped = np.zeros(column.bins.n_units, np.int64)
            for p, rows, made in self._swept(passes[block], values, zeros):
                _bin_values(
                    np.ascontiguousarray(made[:, column.outputs]),
                    column.bins.rounded_ends,
                    column.bins.n_bins,
                    at.start + rows.start,
                    y[block.start + p],
                    dropped,
                )
            return int(at.stop - at.start) * len(values)

        n_chunks = -(-n // CHUNK)
        size = TASK_PASSES
        if x is None:
            size = min(size, max(1, len(passes) * n_chunks // (4 * workers)))
        cut = product(range(n_chunks), slices(len(passes), size))
        progress = self._progress if x is None else SILENT
        run_tasks((partial(task, *piece) for piece in cut), workers, progress)

    def _idle(self) -> NDArray[np.float32]:
        """Return inputs at rest for one run of the model."""
        return np.zeros((self._source.rows, self._source.n_inputs), np.float32)

    def _swept(
        self, passes: NDArray[np.int64], values: NDArray[np.float32], x: NDArray[np.float32]
    ) -> Iterator[tuple[int, slice, NDArray[np.float32]]]:
        """Yield the outputs while one pass's inputs after another's take their values, else 0.

        Whole batches are run, since the runner would copy a part of one to fill it up: the samples
        that fill it are of an earlier part, or of this one.
        """
        n, size = values.shape[-1], len(x)
        for p, inputs in enumerate(passes):
            real = inputs >= 0
            driven: Any = int(inputs[0]) if real.size == 1 else inputs[real]
            taken = values[p, 0] if real.size == 1 else values[p, real].T
            for rows in slices(n, size):
                count = rows.stop - rows.start
                x[:count, driven] = taken[rows]
                if rows.start == 0:
                    x[count:, driven] = taken[0]
                yield p, rows, self._source.run(x)[:count]
            x[:, driven] = 0.0

    def _count(
        self,
        noise: Noise,
        passes: NDArray[np.int64],
        y: NDArray[Any],
        column: Column,
        workers: int,
        rows: Rows,
    ) -> None:
        """Count the pairs of each input and the outputs of its strand."""

        def task(p: int, cut: int, of: int) -> int:
            for strand in np.flatnonzero(passes[p] >= 0):
                mine = column.own[strand]
                some = mine[len(mine) * cut // of : len(mine) * (cut + 1) // of]
                if not some.size:
                    continue
                near, place = _run_of(some, 0), _run_of(some, column.outputs.start)
                bits, kept = np.empty((2, some.size)), np.empty(some.size, np.int64)
                at = (p, strand, cut)
                bins = (self._source.parameters.in_bins, column.bins.n_bins[near])
                added = (rows.influence[at], rows.spread[at])
                _sweep(noise.codes[p, strand], y[p, near], bins, self._rule, bits, kept, *added)
                rows.bits[:, p, strand, place] = bits
                rows.kept[p, strand, place] = kept
            return 0

        cuts = rows.spread.shape[2]
        tasks = (partial(task, p, cut, cuts) for p in range(len(passes)) for cut in range(cuts))
        run_tasks(tasks, workers, SILENT)

    def _resting(self) -> NDArray[np.bool_]:
        """Say which outputs are in range where all inputs are 0, and tell nothing of an input."""
        bins = self._out_binning()
        return np.asarray(binned_outputs(self._at_rest(), bins)[:, 0] < bins.n_bins)

    def _at_rest(self) -> NDArray[np.float32]:
        """Return the outputs where all inputs are 0."""
        return self._source.run(np.zeros((1, self._source.n_inputs), np.float32))

    @property
    def _workers(self) -> int:
        """Threads: fewer where the rows of one run are most of the memory."""
        source = self._source
        bytes_a_run = 8 * source.rows * (source.n_inputs + source.n_outputs)
        return int(min(get_num_threads(), max(1, source.parameters.memory // bytes_a_run)))

    def _out_binning(self) -> Binning:
        """Return the output bins, one range for all units, decided once."""
        if self._out is None:
            source = self._source
            lower, upper = (
                self._extremes() if isinstance(source.out_range, str) else source.out_range
            )
            self._out = output_binning(
                np.full(source.n_outputs, lower),
                np.full(source.n_outputs, upper),
                source,
                widen=False,
            )
        return self._out

    def _extremes(self) -> tuple[float, float]:
        """Return the least and the greatest output at the edges of the input bins.

        deep_ei looks at the two ends of the range only, which misses what lies between them
        where the span is not monotone.
        """
        source = self._source
        edges = np.linspace(*source.in_range, source.parameters.in_bins + 1).astype(np.float32)
        low = np.full(len(self._passes), np.inf)
        high = np.full(len(self._passes), -np.inf)
        values = np.broadcast_to(edges, (TASK_PASSES, self._passes.shape[1], edges.size))

        def task(block: slice) -> int:
            passes = self._passes[block]
            for p, _, y in self._swept(passes, values, self._idle()):
                _widen(y, low, high, block.start + p)
            return edges.size * len(passes)

        self._progress.plan(edges.size * len(self._passes))
        tasks = (partial(task, block) for block in slices(len(self._passes), TASK_PASSES))
        run_tasks(tasks, self._workers, self._progress)
        if self._passes.shape[1] > 1:
            _widen(self._at_rest(), low, high, 0)
        lower, upper = float(low.min()), float(high.max())
        # Nothing finite: any range drops every sample, which is reported.
        return (lower, upper) if lower <= upper else (0.0, 0.0)


def _run_of(some: NDArray[np.int64], first: int) -> Any:
    """Return places, ``first`` further, as a slice where they are one: no copies are made then."""
    begin, end = int(some[0]), int(some[-1]) + 1
    return slice(first + begin, first + end) if end - begin == some.size else first + some


def _widen(y: NDArray[np.float32], low: FloatArray, high: FloatArray, at: int) -> None:
    """Take the finite values into a range."""
    finite = np.isfinite(y)
    low[at] = min(low[at], y.min(where=finite, initial=np.inf))
    high[at] = max(high[at], y.max(where=finite, initial=-np.inf))
