"""The sampling engine: chunks of noise through a span, into codes, keys and counts.

Chunks run in a pool of threads: noise, model and binning, each writing to places fixed by the
chunk's index. Counting then starts from the calling thread alone and spreads over numba's own
threads. Neither the threads, nor the memory limit, nor how far a stage reaches change a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_ei._kernels.pairwise import SQUARE
from onnx_ei._sampling.codes import binned, binned_outputs, part
from onnx_ei._sampling.progress import Progress
from onnx_ei._sampling.source import (
    KEY_BYTES,
    STATE_BYTES,
    Source,
    check_histogram,
    check_states,
    output_binning,
    slices,
)
from onnx_ei._sampling.stores import Codes, Group, GroupKeys
from onnx_ei._sampling.swept import LARGE
from onnx_ei._sampling.vectors import Vector
from onnx_ei.binning import Binning
from onnx_ei.histogram import MANY_SAMPLES
from onnx_ei.information import (
    Influence,
    PairwiseInformation,
    pairwise_information,
)
from onnx_ei.noise import CHUNK

__all__ = ["Group", "JointSampler", "PairwiseResult", "ends_of"]

GROWTH = 1.5
"""While a store doubles, the old one is held too."""
ALL = slice(None)
PAIR_BYTES = 256
"""Four times the bytes of what is found of a pair and of the steps from it to a sum."""
GRAINS = 2**32
"""Parts of a bit in which the pairs of a large layer are summed."""

FloatArray: TypeAlias = NDArray[np.float64]


class JointSampler:
    """All inputs random at once: mutual information of pairs of units, and of vectors of them.

    Parameters
    ----------
    source : Source
        Noise and span.
    pairs : bool
        Whether :meth:`pairwise` will be asked for.
    groups : sequence of (inputs, outputs)
        The vectors that :meth:`vectors` will be asked for, each a slice or an array of units.
    progress : Progress
        Told of each chunk.
    matrix : bool
        Whether each pair is wanted, or the sum over them.

    Examples
    --------
    Made by :func:`onnx_ei._sampling.engine.sample`.
    """

    def __init__(
        self,
        source: Source,
        *,
        pairs: bool,
        groups: Sequence[Group],
        progress: Progress,
        matrix: bool = True,
    ) -> None:
        self._source = source
        self._pairs = pairs
        self._groups = groups
        self._progress = progress
        self._matrix = matrix
        self._in = source.in_binning
        self._out: Binning | None = None
        self._codes: Codes | None = None
        self._keys: list[GroupKeys] | None = None
        self._n = 0

    def grow(self, n: int) -> None:
        """Reach ``n`` samples, more than before.

        Codes and keys are kept from stage to stage while they fit in memory; what does not fit
        is drawn again, tile by tile, when it is asked for.
        """
        if self._groups:
            check_states(n, self._source.parameters.memory)
        start, self._n = self._n, n
        stores: list[Codes | GroupKeys] = []
        memory = self._source.parameters.memory / GROWTH
        held = self._keys is not None or start == 0
        if held and self._groups and len(self._groups) <= self._groups_held() / GROWTH:
            self._keys = self._keys or self._new_keys(self._groups)
            stores += self._keys
        else:
            self._keys = None
        held = self._codes is not None or start == 0
        n_units = self._source.n_inputs + self._source.n_outputs
        if held and self._pairs and self._unit_bytes() * n_units <= memory:
            self._codes = self._codes or Codes.empty(self._in, self._out_binning())
            stores.append(self._codes)
        else:
            self._codes = None
        if stores:
            self._progress.plan(n - start)
            self._fill(start, stores, ALL, ALL)

    def vectors(self) -> list[Vector]:
        """Return the information between each group's vectors, in the order of the groups."""
        if not self._groups:
            return []
        if self._keys is not None:
            return self._informed(self._keys)
        at_once = max(1, self._groups_held())
        found: list[Vector] = []
        self._progress.plan(self._n * -(-len(self._groups) // at_once))
        for first in range(0, len(self._groups), at_once):
            batch = self._new_keys(self._groups[first : first + at_once])
            self._fill(0, batch, ALL, ALL)
            found += self._informed(batch)
        return found

    def _groups_held(self) -> int:
        """Return how many groups' keys the memory holds beside the counting of one of them."""
        memory = self._source.parameters.memory - STATE_BYTES * self._n
        return max(0, memory // (KEY_BYTES * self._n))

    def _informed(self, groups: Sequence[GroupKeys]) -> list[Vector]:
        """Return the information of some groups, at once where each does not use every thread."""
        estimator = self._source.parameters.estimator
        if len(groups) == 1 or self._n >= MANY_SAMPLES:
            return [keys.vector(estimator, self._source.workers) for keys in groups]
        memory = self._source.parameters.memory - KEY_BYTES * self._n * len(groups)
        at_once = max(1, min(self._source.workers, memory // (STATE_BYTES * self._n)))
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda keys: keys.vector(estimator), groups))

    def pairwise(self) -> PairwiseInformation:
        """Return the information of every pair of an input and an output unit."""
        check_histogram(self._in, self._out_binning(), self._source.parameters.memory)
        n_in, n_out = self._source.n_inputs, self._source.n_outputs
        result = PairwiseResult(n_in, n_out, self._n, matrix=self._matrix)
        if self._codes is not None:
            self._count(self._codes, ALL, ALL, result)
            return result.freeze()
        a, b = self._tile()
        rows, columns = slices(n_in, a), slices(n_out, b)
        self._progress.plan(self._n * len(rows) * len(columns))
        for outputs in columns:
            y: NDArray[Any] | None = None
            for inputs in rows:
                # Only the first tile of a row runs the model: noise alone is cheap to draw again.
                fresh = outputs if y is None else None
                out = part(self._out_binning(), outputs) if y is None else None
                codes = Codes.empty(part(self._in, inputs), out)
                self._fill(0, [codes], inputs, fresh)
                y = codes.y if y is None else y
                self._count(Codes(codes.x, y), inputs, outputs, result)
        return result.freeze()

    def _tile(self) -> tuple[int, int]:
        """Return how many inputs and outputs a tile holds: half the memory each, or one has all."""
        n_in, n_out = self._source.n_inputs, self._source.n_outputs
        units = max(2, self._source.parameters.memory // self._unit_bytes())
        a = min(n_in, units // 2)
        b = min(n_out, units - a)
        return min(n_in, units - b), b

    def _unit_bytes(self) -> int:
        """Return the bytes of one unit's codes, at most."""
        inputs, outputs = self._in, self._out_binning()
        size = max(inputs.code_dtype.itemsize, outputs.code_dtype.itemsize)
        # Inputs are held once more, two samples together, where pairs are counted that way.
        cells = int((inputs.n_bins.max() + 1) * (outputs.n_bins.max() + 1))
        return self._n * (size + (cells * cells <= SQUARE))

    def _new_keys(self, groups: Sequence[Group]) -> list[GroupKeys]:
        out = self._out_binning()
        return [GroupKeys(group, self._in.n_bins, out.n_bins) for group in groups]

    def _count(self, codes: Codes, inputs: slice, outputs: slice, into: PairwiseResult) -> None:
        """Count the pairs of a tile, as many at once as leave memory for what is found of them."""
        spread, bins = self._source.spread, part(self._out_binning(), outputs)
        done = spread and spread.pairs(self._source, (inputs, outputs), codes.y, bins)
        if done:
            for some, info in done:
                into.add(info, inputs, some)
            return
        at_once = max(1, self._source.parameters.memory // (PAIR_BYTES * len(codes.x)))
        first = outputs.start or 0
        for some in slices(len(codes.y), at_once):
            info = pairwise_information(
                codes.x,
                codes.y[some],
                self._in.n_bins[inputs],
                bins.n_bins[some],
                self._source.parameters.estimator,
                pvalues=self._source.parameters.pvalues,
            )
            into.add(info, inputs, slice(first + some.start, first + some.stop))

    def _fill(
        self, start: int, stores: Sequence[Codes | GroupKeys], inputs: slice, outputs: slice | None
    ) -> None:
        """Run the samples from ``start`` on, and hand the codes of some units to the stores."""
        for store in stores:
            store.resize(self._n)
        in_bins = part(self._in, inputs)
        out_bins = None if outputs is None else part(self._out_binning(), outputs)

        # A chunk that a stage cut is run again from its first row, so that a sample always has the
        # same place in the runtime's batch.
        def fresh(chunks: range) -> int:
            return max(0, start - chunks.start * CHUNK)

        def place(chunks: range, rows: int) -> slice:
            first = chunks.start * CHUNK
            return slice(first + fresh(chunks), first + rows)

        def draw(chunks: range, rows: int) -> NDArray[np.float32]:
            noise = self._source.drawn(chunks, rows)
            x = binned(noise[fresh(chunks) :, inputs], in_bins)
            for store in stores:
                store.put_inputs(place(chunks, rows), x)
            return noise

        def run(chunks: range, rows: int, noise: NDArray[np.float32]) -> None:
            if outputs is not None and out_bins is not None:
                y = binned_outputs(self._source.run(noise)[fresh(chunks) :, outputs], out_bins)
                for store in stores:
                    store.put_outputs(place(chunks, rows), y)

        spread = self._source.spread
        if spread is None or outputs is None or out_bins is None:
            self._source.each_block(start, self._n, draw, run, self._progress)
            return

        def take(
            chunks: range, rows: int, noise: NDArray[np.float32], *, first: int, y: NDArray[Any]
        ) -> None:
            samples = place(chunks, rows)
            for store in stores:
                store.put_outputs(samples, y[:, samples.start - first : samples.stop - first])

        for at, y in spread.codes(self._source, range(start, self._n), outputs, out_bins):
            ready = partial(take, first=at.start, y=y)
            self._source.each_block(at.start, at.stop, draw, ready, self._progress)

    def _out_binning(self) -> Binning:
        """Return the output bins, decided once; dynamic ones from the first stage's samples."""
        if self._out is None:
            source = self._source
            if isinstance(source.out_range, str):
                lower, upper = self._extremes()
            else:
                lower, upper = (np.full(source.n_outputs, end) for end in source.out_range)
            self._out = output_binning(lower, upper, source, widen=True)
        return self._out

    def _extremes(self) -> tuple[FloatArray, FloatArray]:
        """Return each output's least and greatest finite value."""
        source = self._source
        self._progress.plan(self._n)
        if source.spread is not None:
            lower, upper = source.spread.ends(source, self._n)
            self._progress.advance(self._n)
        else:
            lower, upper = ends_of(source, range(self._n), self._progress)
        # A unit that is never finite gets any range: its samples are dropped, and reported.
        never = lower > upper
        return np.where(never, 0.0, lower), np.where(never, 0.0, upper)


def ends_of(source: Source, samples: range, progress: Progress) -> tuple[FloatArray, FloatArray]:
    """Return each output's least and greatest finite value among some samples.

    Parameters
    ----------
    source : Source
        Noise and span.
    samples : range
        Which; they begin with a chunk.
    progress : Progress
        Told of each chunk.

    Examples
    --------
    Called by :class:`JointSampler`.
    """
    before = samples.start // CHUNK
    low = np.full((-(-samples.stop // CHUNK) - before, source.n_outputs), np.inf)
    high = -low

    def visit(chunks: range, rows: int, noise: NDArray[np.float32]) -> None:
        y = source.run(noise).astype(np.float64)
        finite = np.isfinite(y)
        at = chunks.start - before
        low[at] = np.min(y, axis=0, where=finite, initial=np.inf)
        high[at] = np.max(y, axis=0, where=finite, initial=-np.inf)

    source.each_block(samples.start, samples.stop, source.drawn, visit, progress)
    return low.min(axis=0), high.max(axis=0)


class PairwiseResult:
    """A whole layer's pairwise information, filled tile by tile.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Units.
    n_samples : int
        Samples of each.
    matrix : bool
        Whether each pair is wanted, whatever memory that takes: else only the sum of more than
        ``LARGE`` pairs is held, each rounded to 2**-32 bit.

    Examples
    --------
    Filled by the samplers.
    """

    def __init__(
        self, n_inputs: int, n_outputs: int, n_samples: int, *, matrix: bool = True
    ) -> None:
        """Begin with nothing known of any pair."""
        self._held = matrix or n_inputs * n_outputs <= LARGE
        shape = (n_inputs, n_outputs) if self._held else (0, 0)
        self._bits = np.empty((2, *shape))
        self._kept = np.empty(shape, np.int64)
        # In whole grains, so that no order of adding, and no tile, changes a sum.
        self._grains = self._kept_sum = 0
        self._n_pairs = n_inputs * n_outputs
        self._influence = Influence.none(n_samples)
        self._pvalues: FloatArray | None = None
        self._n_samples = n_samples

    def add(self, info: PairwiseInformation, inputs: slice, outputs: slice) -> None:
        """Take a tile's part. Influences are rounded so that sums are exact."""
        self._influence += info.influence
        if not self._held:
            self._grains += int(np.rint(info.bits * GRAINS).astype(np.int64).sum())
            self._kept_sum += int(info.kept.sum())
            return
        self._bits[0, inputs, outputs] = info.bits
        self._bits[1, inputs, outputs] = info.stderr
        self._kept[inputs, outputs] = info.kept
        if info.pvalues is not None:
            if self._pvalues is None:
                self._pvalues = np.empty(self._kept.shape)
            self._pvalues[inputs, outputs] = info.pvalues

    def freeze(self) -> PairwiseInformation:
        """Return the whole."""
        summed = (self._grains / GRAINS, self._kept_sum / self._n_pairs)
        return PairwiseInformation(
            bits=self._bits[0],
            stderr=self._bits[1],
            kept=self._kept,
            influence=self._influence,
            pvalues=self._pvalues,
            n_samples=self._n_samples,
            summed=None if self._held else summed,
        )
