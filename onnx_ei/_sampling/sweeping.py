"""Sensitivity's sampling: one input uniform at a time, the others at 0.

Noise is drawn once a chunk for all inputs, and held for a tile of them. Then, some inputs at a
time, the span runs and its outputs are binned, and pairs are counted: each a task in the pool of
threads, which writes to a place of its own. Inputs of different strands share a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import pairwise, product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from onnx_ei._kernels.sweep import _sweep
from onnx_ei._sampling.progress import SILENT, Progress
from onnx_ei._sampling.source import (
    Source,
    binned,
    binned_outputs,
    check_histogram,
    output_binning,
    part,
    run_tasks,
    slices,
)
from onnx_ei._sampling.swept import Strands, SweepInformation, Swept
from onnx_ei.binning import Binning
from onnx_ei.estimators import Rule, estimator_rule
from onnx_ei.information import INFLUENCES
from onnx_ei.noise import CHUNK

__all__ = ["SweepInformation", "SweepSampler"]

FloatArray: TypeAlias = NDArray[np.float64]
TASK_PASSES = 16
"""Passes of one chunk that one task runs at most."""
BATCH = 1 << 25
"""Bytes of codes and results between running and counting: more would leave the cache for good."""
RESULT_BYTES = 24
"""Bytes of a pair's result: an estimate, its error, the samples kept."""


class _Noise(NamedTuple):
    """The values that some passes' inputs take: (passes, strands, n), and their codes."""

    values: NDArray[np.float32]
    codes: NDArray[Any]


class _Rows(NamedTuple):
    """Results: (2, passes, strands, outputs) and (passes, strands, outputs), as in ``Swept``.

    Influence is (passes, strands, cuts, samples) and spread (passes, strands, cuts, 3), as in
    ``pairwise_information``: a task adds to a cut of its own.
    """

    bits: FloatArray
    kept: NDArray[np.int64]
    influence: FloatArray
    spread: FloatArray


class _Tile(NamedTuple):
    """How many passes have their noise held, how many their codes, of how many outputs."""

    drawn: int
    batch: int
    outputs: int


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
        columns = slices(source.n_outputs, tile.outputs)
        self._progress.plan(n * len(chosen) * len(columns))
        for drawn in slices(len(chosen), tile.drawn):
            passes = chosen[drawn]
            noise = self._drawn(n, passes)
            for at in slices(len(passes), tile.batch):
                batch = _Noise(noise.values[at], noise.codes[at])
                self._measure(batch, passes[at], columns, add)

    @cached_property
    def _strands(self) -> Strands:
        return self._source.strands

    @cached_property
    def _passes(self) -> NDArray[np.int64]:
        return self._strands.passes()

    def _tile(self, n: int) -> _Tile:
        """Cut the work: a quarter of the memory for noise, half of it for codes and results."""
        memory, source = self._source.parameters.memory, self._source
        n_passes, n_strands = self._passes.shape
        drawn = memory // 4 // (n * n_strands * (4 + self._in.code_dtype.itemsize))
        column = n * self._out_binning().code_dtype.itemsize
        outputs = max(1, min(source.n_outputs, memory // 2 // column))
        results = RESULT_BYTES * source.n_outputs + 8 * min(n, INFLUENCES)
        each = column * outputs + results * n_strands
        batch = min(memory // 2, max(BATCH, 2 * self._workers * each)) // each
        return _Tile(max(1, min(drawn, n_passes)), max(1, batch), outputs)

    def _drawn(self, n: int, passes: NDArray[np.int64]) -> _Noise:
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
        run_tasks((partial(task, chunk) for chunk in chunks), self._workers, SILENT)
        return _Noise(values.reshape(*passes.shape, n), codes.reshape(*passes.shape, n))

    def _measure(
        self,
        noise: _Noise,
        passes: NDArray[np.int64],
        columns: list[slice],
        add: Callable[..., None],
    ) -> None:
        """Run some passes, and count the pairs of their inputs and every output."""
        n, shape = noise.values.shape[-1], (*passes.shape, self._source.n_outputs)
        rows = _Rows(
            bits=np.zeros((2, *shape)),
            kept=np.zeros(shape, np.int64),
            influence=np.zeros((*passes.shape, len(self._cuts(passes)), min(n, INFLUENCES))),
            spread=np.zeros((*passes.shape, len(self._cuts(passes)), 3)),
        )
        if passes.shape[1] > 1:
            # An input's own outputs are counted below.
            rows.kept[:] = n * self._resting()
        for outputs in columns:
            bins = part(self._out_binning(), outputs)
            y = np.empty((len(passes), bins.n_units, n), bins.code_dtype)
            self._run(noise, passes, y, outputs)
            self._count(noise, passes, y, outputs, rows)
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
        self, noise: _Noise, passes: NDArray[np.int64], y: NDArray[Any], outputs: slice
    ) -> None:
        """Fill the codes (passes, outputs, n)."""
        n, bins = y.shape[-1], part(self._out_binning(), outputs)

        def task(chunk: int, block: slice) -> int:
            at = slice(chunk * CHUNK, min((chunk + 1) * CHUNK, n))
            values = noise.values[block, :, at]
            for p, rows, made in self._swept(passes[block], values):
                place = slice(at.start + rows.start, at.start + rows.stop)
                y[block.start + p, :, place] = binned_outputs(made[:, outputs], bins)
            return int(at.stop - at.start) * len(values)

        n_chunks = -(-n // CHUNK)
        size = min(TASK_PASSES, max(1, len(passes) * n_chunks // (4 * self._workers)))
        cut = product(range(n_chunks), slices(len(passes), size))
        run_tasks((partial(task, *piece) for piece in cut), self._workers, self._progress)

    def _swept(
        self, passes: NDArray[np.int64], values: NDArray[np.float32]
    ) -> Iterator[tuple[int, slice, NDArray[np.float32]]]:
        """Yield the outputs while one pass's inputs after another's take their values, else 0."""
        n = values.shape[-1]
        size = self._source.rows
        x = np.zeros((min(size, n), self._source.n_inputs), np.float32)
        for p, inputs in enumerate(passes):
            real = inputs >= 0
            driven: Any = int(inputs[0]) if real.size == 1 else inputs[real]
            taken = values[p, 0] if real.size == 1 else values[p, real].T
            for rows in slices(n, size):
                part_ = x[: rows.stop - rows.start]
                part_[:, driven] = taken[rows]
                yield p, rows, self._source.run(part_)
            x[:, driven] = 0.0

    def _count(
        self,
        noise: _Noise,
        passes: NDArray[np.int64],
        y: NDArray[Any],
        outputs: slice,
        rows: _Rows,
    ) -> None:
        """Count the pairs of each input and the outputs of its strand."""
        n_bins = self._out_binning().n_bins[outputs]
        own = self._own(outputs)

        def task(p: int, cut: int, of: int) -> int:
            for strand in np.flatnonzero(passes[p] >= 0):
                mine = own[strand]
                some = mine[len(mine) * cut // of : len(mine) * (cut + 1) // of]
                if not some.size:
                    continue
                # without the copy that fancy indexing makes
                near = slice(some[0], some[-1] + 1) if some[-1] - some[0] + 1 == some.size else some
                bits, kept = np.empty((2, some.size)), np.empty(some.size, np.int64)
                at = (p, strand, cut)
                bins = (self._source.parameters.in_bins, n_bins[near])
                added = (rows.influence[at], rows.spread[at])
                _sweep(noise.codes[p, strand], y[p, near], bins, self._rule, bits, kept, *added)
                rows.bits[:, p, strand, outputs.start + some] = bits
                rows.kept[p, strand, outputs.start + some] = kept
            return 0

        cuts = self._cuts(passes)
        tasks = (partial(task, p, cut, len(cuts)) for p in range(len(passes)) for cut in cuts)
        run_tasks(tasks, self._workers, SILENT)

    def _resting(self) -> NDArray[np.bool_]:
        """Say which outputs are in range where all inputs are 0, and tell nothing of an input."""
        bins = self._out_binning()
        return np.asarray(binned_outputs(self._at_rest(), bins)[:, 0] < bins.n_bins)

    def _at_rest(self) -> NDArray[np.float32]:
        """Return the outputs where all inputs are 0."""
        return self._source.run(np.zeros((1, self._source.n_inputs), np.float32))

    def _cuts(self, passes: NDArray[np.int64]) -> range:
        """Return into how many tasks to cut one pass's counting: where passes are few, more."""
        return range(1 if len(passes) >= 4 * self._workers else 4 * self._workers)

    def _own(self, outputs: slice) -> list[NDArray[np.int64]]:
        """Return the outputs of each strand, as places in a slice of all."""
        strands = self._strands.of_outputs[outputs]
        order = np.argsort(strands, kind="stable")
        ends = np.searchsorted(strands[order], np.arange(self._passes.shape[1] + 1))
        return [order[a:b] for a, b in pairwise(ends)]

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
            for p, _, y in self._swept(passes, values):
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


def _widen(y: NDArray[np.float32], low: FloatArray, high: FloatArray, at: int) -> None:
    """Take the finite values into a range."""
    finite = np.isfinite(y)
    low[at] = min(low[at], y.min(where=finite, initial=np.inf))
    high[at] = max(high[at], y.max(where=finite, initial=-np.inf))
