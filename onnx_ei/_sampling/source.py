"""Where samples come from: seeded noise, the span it is fed to, and the threads that carry it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Protocol, TypeAlias, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.parameters import Parameters, Range
from onnx_ei._sampling.progress import Progress
from onnx_ei._sampling.swept import Strands
from onnx_ei._sampling.tasks import run_tasks
from onnx_ei.binning import MAX_BINS, Binning
from onnx_ei.information import PairwiseInformation
from onnx_ei.noise import CHUNK, uniform_chunks, uniform_rows

__all__ = [
    "Runner",
    "Source",
    "Spread",
    "check_histogram",
    "check_states",
    "output_binning",
    "slices",
]

FloatArray: TypeAlias = NDArray[np.float64]
_T = TypeVar("_T")

CELL_BYTES = 12
"""A count, and the information of the cell, as the pairwise kernel holds them."""
SWEEP_STREAM = 1
"""The noise of sensitivity, independent of that of EI."""
NOISE_FLOATS = 1 << 20
"""Noise that is drawn at once, where a chunk of a wide layer would be a gigabyte."""
BLOCK_FLOATS = 1 << 19
"""Floats at a span's ends of the chunks that are handled at once: 2 MB. At half of it every handing
over of the interpreter's lock is there twice (8.4 ms for 7.2), at twice of it nothing is gained."""
BLOCK_SECONDS = 0.002
"""What a block takes at least, by the first chunk: of less, threads wait for the interpreter's lock
more than they compute."""
ALONE_SECONDS = 0.005
"""Work, by the first chunk, that no second thread is worth starting for. Caches are cold in the
first chunk, which takes three times as long as the others; a thread and its waits take about 1 ms:
8 chunks of a 10 -> 10 layer took 1.4 to 1.9 ms on two threads, 0.7 on one."""
MANY_CHUNKS = 64
"""Chunks that are shared out without a first one that is timed: they are work enough."""
SMALL_RUN = 64
"""Samples worth handing over at once: one at a time, Python takes longer than a small model."""
ROWS_FLOATS = 1 << 22
"""Floats at a span's ends that are handed over at once: 16 MB."""
SMALL_HISTOGRAM = 1 << 26
"""Bytes of a pair's histogram, or of counting vectors, that no memory limit refuses: tiles of codes
are what it is for."""
KEY_BYTES = 33
"""Bytes of a sample in one group: two words at either end, or less, and a flag."""
STATE_BYTES = 128
"""Bytes of a sample beside its keys while a group's states are counted: 21 to 113 were seen."""


class Runner(Protocol):
    """What runs a span: thread-safe, each row on its own."""

    @property
    def provider(self) -> str:
        """What runs the model."""
        ...

    def __call__(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Map (n, n_inputs) to (n, n_outputs)."""
        ...


class Spread(Protocol):
    """Who has a span run, and its pairs counted, by other processes, at the same result."""

    def codes(
        self, source: Source, samples: range, units: slice, bins: Binning
    ) -> Iterator[tuple[range, NDArray[Any]]]:
        """Yield some outputs' codes, a run of samples at a time, in any order."""
        ...

    def ends(self, source: Source, n: int) -> tuple[FloatArray, FloatArray]:
        """Return each output's least and greatest finite value among the first samples."""
        ...

    def pairs(
        self, source: Source, ends: tuple[slice, slice], y: NDArray[Any], bins: Binning
    ) -> Iterator[tuple[slice, PairwiseInformation]] | None:
        """Yield the information of some inputs and outputs, or say that it is too little work."""
        ...

    def sweeps(
        self, source: Source, n: int, n_passes: int, bins: Binning, *, matrix: bool
    ) -> Iterator[tuple[Any, ...]]:
        """Yield what ``Swept.add`` takes, for all passes of sensitivity."""
        ...


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where samples come from: seeded noise, and the span it is fed to.

    Parameters
    ----------
    runner : Runner
        Runs the span.
    n_inputs, n_outputs : int
        Units at either end.
    in_range, out_range : (float, float), or "dynamic" for ``out_range``
        Closed ranges.
    parameters : Parameters
        Bins, seed, memory.

    Examples
    --------
    Made by :func:`onnx_ei._sampling.engine.sample`.
    """

    runner: Runner
    n_inputs: int
    n_outputs: int
    in_range: Range
    out_range: Range | str
    parameters: Parameters

    @property
    def strands(self) -> Strands:
        """Which units have nothing to do with each other; found when it is first asked for."""
        found = getattr(self.runner, "strands", None)
        if found is None:
            return Strands.single(self.n_inputs, self.n_outputs)
        return Strands(of_inputs=found[0], of_outputs=found[1])

    @property
    def spread(self) -> Spread | None:
        """Who else runs the span, if there is somebody."""
        found: Spread | None = getattr(self.runner, "spread", None)
        return found

    @property
    def workers(self) -> int:
        """Threads of the pool: numba's number, fewer where a chunk of a huge layer is huge."""
        # noise and outputs in float32, and their codes in up to 2 bytes, of one chunk
        chunk_bytes = 6 * CHUNK * (self.n_inputs + self.n_outputs)
        allowed = max(1, self.parameters.memory // chunk_bytes)
        return int(min(numba.get_num_threads(), allowed))

    def noise(self, chunks: range) -> NDArray[np.float32]:
        """Return chunks of noise over all inputs, one after the other."""
        return uniform_chunks(self.parameters.seed, chunks, self.n_inputs, *self.in_range)

    def noise_rows(self, chunk: int, n_samples: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the first samples of sensitivity's noise in a chunk, some rows at a time."""
        rows = max(1, min(n_samples, NOISE_FLOATS // self.n_inputs))
        drawn = uniform_rows(
            self.parameters.seed,
            chunk,
            self.n_inputs,
            *self.in_range,
            stream=SWEEP_STREAM,
            rows=rows,
        )
        for at in slices(n_samples, rows):
            yield at, next(drawn)[: at.stop - at.start]

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the span; say so where it returns another shape than it claims."""
        y = np.asarray(self.runner(x))
        if y.shape != (x.shape[0], self.n_outputs):
            raise ValueError(
                f"the span returned {y.shape} for {x.shape[0]} samples of {self.n_outputs} outputs"
            )
        return y

    @property
    def batch(self) -> int:
        """Samples that the runner hands to the runtime at once."""
        return int(getattr(self.runner, "rows", CHUNK))

    @property
    def rows(self) -> int:
        """Samples of one run of the model: the runner's batch, some of them where it is small."""
        batch = self.batch
        at_most = max(1, ROWS_FLOATS // (self.n_inputs + self.n_outputs))
        return batch * max(1, min(SMALL_RUN, at_most) // batch)

    @property
    def in_binning(self) -> Binning:
        """Bins of the inputs."""
        return Binning.uniform(self.n_inputs, self.in_range, self.parameters.in_bins)

    def drawn(self, chunks: range, rows: int) -> NDArray[np.float32]:
        """Return the first rows of the noise of some chunks, as ``each_block`` asks for it."""
        return self.noise(chunks)[:rows]

    def each_block(
        self,
        start: int,
        stop: int,
        draw: Callable[[range, int], _T],
        visit: Callable[[range, int, _T], None],
        progress: Progress,
    ) -> None:
        """Visit the chunks that hold samples ``start`` to ``stop``, in the pool.

        ``draw`` gets the indices of some chunks that follow each other, and their number of rows,
        the last chunk's cut at ``stop``; ``visit`` gets the same, and what ``draw`` returned.
        Narrow layers have several chunks in a block: of one alone, Python took more time than the
        kernels. Of few chunks the first is timed: by that the others are shared out. No result
        depends on how they are.
        The rows are planned by the caller, who knows how many such calls a stage makes.
        """
        first, last = start // CHUNK, ceil(stop / CHUNK)
        wide = max(1, BLOCK_FLOATS // (CHUNK * (self.n_inputs + self.n_outputs)))
        if CHUNK % self.batch:
            wide = 1  # a sample keeps its place in the runtime's batch

        def block(chunk: int, size: int) -> tuple[range, int]:
            chunks = range(chunk, min(chunk + size, last))
            return chunks, min(len(chunks) * CHUNK, stop - chunk * CHUNK)

        def task(chunks: range, rows: int) -> int:
            visit(chunks, rows, draw(chunks, rows))
            return rows - max(0, start - chunks.start * CHUNK)

        left, seconds, workers = range(first, last), BLOCK_SECONDS, self.workers
        if len(left) < MANY_CHUNKS:
            began = time.perf_counter()
            progress.advance(task(*block(first, 1)))
            left, seconds = left[1:], time.perf_counter() - began
            workers = workers if seconds * len(left) >= ALONE_SECONDS else 1
        if workers > 1:
            # Every thread has four blocks or more, if there are so many chunks that take so long.
            wide = max(1, min(wide, max(len(left) // (4 * workers), ceil(BLOCK_SECONDS / seconds))))
        blocks = [block(chunk, wide) for chunk in left[::wide]]
        run_tasks((partial(task, *b) for b in blocks), workers, progress)


def check_histogram(inputs: Binning, outputs: Binning, memory: int) -> None:
    """Refuse bins whose histogram of a single pair is larger than the memory allowed.

    Parameters
    ----------
    inputs, outputs : Binning
        Bins of either end.
    memory : int
        Bytes.

    Raises
    ------
    ValueError
        If the largest pair does not fit; the message says how many bytes it takes.

    Examples
    --------
    >>> check_histogram(*2 * [Binning.uniform(1, (0, 1), 64)], memory=1 << 20)
    """
    rows, columns = int(inputs.n_bins.max()), int(outputs.n_bins.max())
    needed = CELL_BYTES * (rows + 1) * (columns + 1)
    allowed = max(memory, SMALL_HISTOGRAM)
    if needed > allowed:
        raise ValueError(
            f"the histogram of one pair at {rows} x {columns} bins takes {needed} bytes, "
            f"allowed are {allowed}: use fewer in_bins or out_bins, or raise memory_limit"
        )


def check_states(n_samples: int, memory: int) -> None:
    """Refuse more samples of whole vectors than the memory allowed can count: no tile helps there.

    Parameters
    ----------
    n_samples : int
        Samples.
    memory : int
        Bytes.

    Raises
    ------
    ValueError
        If counting them may take more; the message says how many may be asked for.

    Examples
    --------
    >>> check_states(100_000, memory=1 << 20)
    """
    needed, allowed = n_samples * (KEY_BYTES + STATE_BYTES), max(memory, SMALL_HISTOGRAM)
    if needed > allowed:
        raise ValueError(
            f"counting the states of vectors of {n_samples} samples may take {needed} bytes, "
            f"allowed are {allowed}: take at most {allowed // (KEY_BYTES + STATE_BYTES)} samples "
            "(samples, max_samples), or raise memory_limit"
        )


def output_binning(lower: FloatArray, upper: FloatArray, source: Source, *, widen: bool) -> Binning:
    """Bin outputs over ranges that are given, or that were seen.

    Parameters
    ----------
    lower, upper : ndarray of float64, shape (n_outputs,)
        Ends of the ranges; equal for a unit that is constant, which gets one bin.
    source : Source
        Its ``out_bins`` say how many bins, or that they are as wide as an input bin.
    widen : bool
        With dynamic bins: True takes one bin more than fit in the range, each of the input bins'
        exact width (deep_ei's rule for EI); False as many as cover the range, which stays as it
        is (deep_ei's rule for sensitivity).

    Returns
    -------
    Binning

    Raises
    ------
    ValueError
        If dynamic bins are more than a unit can have.

    Examples
    --------
    Called by the samplers.
    """
    parameters = source.parameters
    constant = upper <= lower
    # A constant lies at the lower end of a range of any positive length.
    closed = np.where(constant, lower + np.maximum(1.0, np.abs(lower)), upper)
    if not isinstance(parameters.out_bins, str):
        n_bins = np.where(constant, 1, parameters.out_bins)
        return Binning(lower=lower, upper=closed, n_bins=n_bins)
    width = (source.in_range[1] - source.in_range[0]) / parameters.in_bins
    length = (upper - lower) / width
    wanted = np.floor(length) + 1.0 if widen else np.maximum(np.ceil(length), 1.0)
    if wanted.max() > MAX_BINS:
        raise ValueError(
            f"out_bins='dynamic' asks for {wanted.max():.0f} bins of width {width:g} for output "
            f"unit {int(wanted.argmax())}, at most {MAX_BINS} are possible: use fewer in_bins, "
            "or a number of out_bins"
        )
    return Binning(
        lower=lower,
        upper=lower + wanted * width if widen else closed,
        n_bins=wanted.astype(np.int64),
    )


def slices(n: int, size: int) -> list[slice]:
    """Cut a number of units into runs.

    Parameters
    ----------
    n, size : int
        Units in all, and units of a run; the last run may have fewer.

    Returns
    -------
    list of slice

    Examples
    --------
    >>> slices(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]
