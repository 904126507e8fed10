"""Sensitivity's sampling: one input uniform at a time, the others at 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.progress import Progress
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
from onnx_ei.binning import Binning
from onnx_ei.information import Influence, pairwise_information
from onnx_ei.noise import CHUNK

__all__ = ["SweepInformation", "SweepSampler"]

FloatArray: TypeAlias = NDArray[np.float64]
STREAM = 1
"""The noise of sensitivity, independent of that of EI."""
TASK_INPUTS = 16
"""Inputs that one task drives with the chunk of noise that it draws."""


@dataclass(frozen=True, kw_only=True)
class SweepInformation:
    """Mutual information of every pair, each input driven alone.

    Parameters
    ----------
    bits, stderr : ndarray of float64, shape (n_inputs, n_outputs)
        Estimates in bits, not clipped, and the standard error of each alone.
    kept : ndarray of int64, shape (n_inputs, n_outputs)
        Samples that neither unit dropped.
    input_stderr : ndarray of float64, shape (n_inputs,)
        Standard error of the sum over the outputs: they share an input's samples.
    n_samples : int
        Samples of each input.

    Examples
    --------
    Made by :class:`SweepSampler`.
    """

    bits: FloatArray
    stderr: FloatArray
    kept: NDArray[np.int64]
    input_stderr: FloatArray
    n_samples: int

    @property
    def total(self) -> float:
        """Sum over all pairs, in bits."""
        return float(self.bits.sum())

    @property
    def total_stderr(self) -> float:
        """Standard error of ``total``: inputs have independent noise, so variances add."""
        return float(np.sqrt(np.sum(self.input_stderr**2)))


class SweepSampler:
    """One input random at a time: mutual information of that input and every output.

    Parameters
    ----------
    source : Source
        Noise and span.
    progress : Progress
        Told of each run.

    Examples
    --------
    Made by :func:`onnx_ei._sampling.engine.sample`.
    """

    def __init__(self, source: Source, progress: Progress) -> None:
        self._source = source
        self._progress = progress
        self._in = source.in_binning
        self._out: Binning | None = None

    def at(self, n: int) -> SweepInformation:
        """Return the information from the first ``n`` samples of each input.

        Nothing is kept between calls: codes of every sweep would be n_inputs times those of EI.
        """
        source = self._source
        check_histogram(self._in, self._out_binning(), source.parameters.memory)
        shape = (source.n_inputs, source.n_outputs)
        bits = np.empty((2, *shape))
        kept = np.empty(shape, np.int64)
        input_stderr = np.empty(source.n_inputs)
        n_inputs, n_outputs = self._tile(n)
        columns = slices(source.n_outputs, n_outputs)
        self._progress.plan(n * source.n_inputs * len(columns))
        for inputs in slices(source.n_inputs, n_inputs):
            influence = [Influence.none(n)] * (inputs.stop - inputs.start)
            for outputs in columns:
                x, y = self._codes(n, inputs, outputs)
                found = [self._count(x, y, a, inputs, outputs) for a in range(len(x))]
                bits[0, inputs, outputs] = [info.bits[0] for info in found]
                bits[1, inputs, outputs] = [info.stderr[0] for info in found]
                kept[inputs, outputs] = [info.kept[0] for info in found]
                # Influences are rounded so that sums over tiles are exact.
                influence = [a + b.influence for a, b in zip(influence, found, strict=True)]
            input_stderr[inputs] = [each.stderr for each in influence]
        return SweepInformation(
            bits=bits[0], stderr=bits[1], kept=kept, input_stderr=input_stderr, n_samples=n
        )

    def _tile(self, n: int) -> tuple[int, int]:
        """Return how many inputs, of how many outputs each, have their codes held at once."""
        itemsize = max(self._in.code_dtype.itemsize, self._out_binning().code_dtype.itemsize)
        units = max(2, self._source.parameters.memory // (n * itemsize))
        n_outputs = min(self._source.n_outputs, units - 1)
        return max(1, min(4 * TASK_INPUTS, units // (n_outputs + 1))), n_outputs

    def _codes(self, n: int, inputs: slice, outputs: slice) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the codes of some inputs (inputs, n), and of outputs (inputs, outputs, n)."""
        in_bins, out_bins = part(self._in, inputs), part(self._out_binning(), outputs)
        x = np.empty((in_bins.n_units, n), in_bins.code_dtype)
        y = np.empty((in_bins.n_units, out_bins.n_units, n), out_bins.code_dtype)

        def task(chunk: int, block: slice) -> int:
            first, rows = chunk * CHUNK, min(CHUNK, n - chunk * CHUNK)
            at = slice(first, first + rows)
            noise = self._source.noise(chunk, stream=STREAM)[:rows]
            x[block, at] = binned(noise[:, inputs][:, block], part(in_bins, block))
            columns = range(inputs.start + block.start, inputs.start + block.stop)
            values = (noise[:, column] for column in columns)
            for a, run in enumerate(self._sweeps(rows, columns, values), block.start):
                y[a, :, at] = binned_outputs(run[:, outputs], out_bins)
            return rows * len(columns)

        blocks = slices(in_bins.n_units, TASK_INPUTS)
        chunks = range(-(-n // CHUNK))
        tasks = (partial(task, chunk, block) for chunk, block in product(chunks, blocks))
        run_tasks(tasks, self._source.workers, self._progress)
        return x, y

    def _sweeps(
        self, rows: int, columns: range, values: Iterator[NDArray[np.float32]]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the outputs while one input after another takes its values, the others 0."""
        x = np.zeros((rows, self._source.n_inputs), np.float32)
        for column, value in zip(columns, values, strict=True):
            x[:, column] = value
            yield self._source.run(x)
            x[:, column] = 0.0

    def _count(
        self, x: NDArray[Any], y: NDArray[Any], a: int, inputs: slice, outputs: slice
    ) -> Any:
        """Count the pairs of one input."""
        column = inputs.start + a
        return pairwise_information(
            x[a : a + 1],
            y[a],
            self._in.n_bins[column : column + 1],
            self._out_binning().n_bins[outputs],
            self._source.parameters.estimator,
        )

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
        low = np.full(source.n_inputs, np.inf)
        high = np.full(source.n_inputs, -np.inf)

        def task(block: slice) -> int:
            columns = range(block.start, block.stop)
            for rows in slices(edges.size, CHUNK):
                values = edges[rows]
                repeated = (values for _ in columns)
                for a, y in enumerate(self._sweeps(values.size, columns, repeated), block.start):
                    finite = np.isfinite(y)
                    low[a] = min(low[a], y.min(where=finite, initial=np.inf))
                    high[a] = max(high[a], y.max(where=finite, initial=-np.inf))
            return edges.size * len(columns)

        self._progress.plan(edges.size * source.n_inputs)
        tasks = (partial(task, block) for block in slices(source.n_inputs, TASK_INPUTS))
        run_tasks(tasks, source.workers, self._progress)
        lower, upper = float(low.min()), float(high.max())
        # Nothing finite: any range drops every sample, which is reported.
        return (lower, upper) if lower <= upper else (0.0, 0.0)
