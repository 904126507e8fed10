"""The pairwise terms of one span, computed: its affine map, its pieces, and the engine on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numba
import numpy as np
from numpy.typing import NDArray

from onnx_ei._exact.affine import AffineMap, Departure, NotAffineError, affine_map, departure
from onnx_ei._exact.levels import pieces_of
from onnx_ei._exact.pairs import ExactPairs, ExactTotals, exact_pairs, exact_totals
from onnx_ei._exact.pieces import Pieces
from onnx_ei._exact.split import Split, check_activation, split_of
from onnx_ei._exact.sweeps import exact_sweep_totals, exact_sweeps
from onnx_ei._sampling.parameters import Parameters, Range
from onnx_ei._sampling.progress import Progress
from onnx_ei._sampling.stopping import Estimate
from onnx_ei.binning import Binning
from onnx_ei.devices import parse_device
from onnx_ei.errors import UnsupportedModelError
from onnx_ei.span import Span

__all__ = ["TERMS", "Exact", "exact_of"]

FloatArray = NDArray[np.float64]

TERMS = ("ei_parts", "ei_parts_matrix", "sensitivity", "sensitivity_matrix")
"""What is computed: the measures of pairs."""
KEPT_BYTES = 1 << 26
"""The largest affine map that is kept with its span for the next measure; larger ones are read
again, which costs two rows an input."""
TASK_PAIRS = 1 << 17
"""Pairs between two reports of progress: seconds at 30 us each."""
TASK_OUTPUTS = 16
"""Outputs that are worked on together at least, so that every thread has some."""


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The pairwise terms of one span, computed.

    Parameters
    ----------
    affine : AffineMap
        From the inputs to the pre-activations.
    pieces : list of Pieces
        How each pre-activation falls into output bins.
    in_range : (float, float)
        Closed range of every input.
    in_bins : int
        Bins of every input.
    tolerance : float
        Bits that the bound of a pair may be.

    Examples
    --------
    Made by :func:`exact_of`.
    """

    affine: AffineMap
    pieces: list[Pieces]
    in_range: Range
    in_bins: int
    tolerance: float

    @property
    def n_pairs(self) -> int:
        """Pairs of an input and an output."""
        return self.affine.n_inputs * self.affine.n_outputs

    def term(self, name: str, progress: Progress) -> Estimate:
        """Compute the pairwise term of a measure.

        Parameters
        ----------
        name : str
            One of ``TERMS``.
        progress : Progress
            Told of the pairs.

        Returns
        -------
        Estimate
            Bits, not clipped; its ``stderr`` is the bound of the error.
        """
        sweeps = name.startswith("sensitivity")
        if name.endswith("_matrix"):
            return self._matrix(exact_sweeps if sweeps else self._pairs, progress)
        return self._total(exact_sweep_totals if sweeps else self._totals, progress)

    def _pairs(self, *arguments: Any, workers: int) -> ExactPairs:
        return exact_pairs(*arguments, tolerance=self.tolerance, workers=workers)

    def _totals(self, *arguments: Any, workers: int) -> ExactTotals:
        return exact_totals(*arguments, tolerance=self.tolerance, workers=workers)

    def _matrix(self, engine: Callable[..., ExactPairs], progress: Progress) -> Estimate:
        shape = (self.affine.n_inputs, self.affine.n_outputs)
        bits, bound, kept = np.empty(shape), np.empty(shape), np.empty(shape[1])
        for outputs, found in self._each(engine, progress):
            bits[:, outputs], bound[:, outputs] = found.bits, found.bound
            kept[outputs] = [math.fsum(column) / shape[0] for column in found.kept.T.tolist()]
        return Estimate(value=bits, stderr=bound, out_of_range=1.0 - math.fsum(kept) / shape[1])

    def _total(self, engine: Callable[..., ExactTotals], progress: Progress) -> Estimate:
        bits, bound, kept = (np.empty(self.affine.n_outputs) for _ in range(3))
        for outputs, found in self._each(engine, progress):
            bits[outputs], bound[outputs], kept[outputs] = found.bits, found.bound, found.kept
        # rounded once: the same sum whatever the tiles
        return Estimate(
            value=np.array(math.fsum(bits)),
            stderr=np.array(math.fsum(bound)),
            out_of_range=1.0 - math.fsum(kept) / self.affine.n_outputs,
        )

    def _each(self, engine: Callable[..., Any], progress: Progress) -> Iterable[tuple[slice, Any]]:
        """Run the engine on a few outputs at a time."""
        progress.plan(self.n_pairs)
        width = max(TASK_OUTPUTS, TASK_PAIRS // self.affine.n_inputs)
        for tile in self.affine.tiles:
            weights = self.affine.columns(tile)
            for first in range(tile.start, tile.stop, width):
                outputs = slice(first, min(first + width, tile.stop))
                part = weights[:, first - tile.start : outputs.stop - tile.start]
                found = engine(
                    np.ascontiguousarray(part),
                    self.affine.bias[outputs],
                    self.in_range,
                    self.in_bins,
                    self.pieces[outputs],
                    workers=numba.get_num_threads(),
                )
                progress.advance(part.size)
                yield outputs, found


def exact_of(
    topology: nx.DiGraph[Any],
    layer: Hashable,
    parameters: Parameters,
    *,
    explain: bool = True,
    **where: Any,
) -> Exact:
    """Find out whether a span is affine up to an elementwise function, and what it is then.

    Parameters
    ----------
    topology, layer
        The span's.
    parameters : Parameters
        Ranges, bins, memory.
    explain : bool
        Whether to look for the operator that makes the span another function, which takes a
        session of its own.
    **where
        ``in_layer``, ``activation``, ``positions``, ``background`` and ``device``, as for
        :func:`onnx_ei.measures.measure`.

    Returns
    -------
    Exact
        What it is made of is kept with the span, until the weights change.

    Raises
    ------
    UnsupportedModelError
        If the span is another function; the message says which operator makes it one.

    Examples
    --------
    See :func:`onnx_ei.measures.measure`.
    """
    split = split_of(topology, layer, **where)
    span = split.whole
    in_range = span.in_range if parameters.in_range is None else parameters.in_range
    given = span.out_range if parameters.out_range is None else parameters.out_range
    out_range = (float(given[0]), float(given[1]))
    affine = _kept_affine(split, in_range, parameters.memory)
    if isinstance(affine, NotAffineError):
        largest = max(map(abs, in_range))
        found = departure(split.raw, split.device, largest) if explain else None
        raise UnsupportedModelError(_why(split.raw, affine.deviation, found)) from affine
    if isinstance(affine, UnsupportedModelError):
        raise affine
    return Exact(
        affine=affine,
        pieces=_pieces(split, affine, in_range, out_range, int(parameters.out_bins)),
        in_range=in_range,
        in_bins=parameters.in_bins,
        tolerance=parameters.tolerance,
    )


def _kept_affine(
    split: Split, in_range: Range, memory: int
) -> AffineMap | NotAffineError | UnsupportedModelError:
    """Return the affine map, or what stands against it: found once a state of the weights."""
    kept = split.whole.runners
    key = ("affine", *parse_device(split.device), *in_range, memory)
    affine: AffineMap | NotAffineError | UnsupportedModelError | None = kept.get(key)
    if affine is None:
        try:
            # a function of the caller's may overflow, as it may on samples: that is its result
            with np.errstate(all="ignore"):
                affine = _affine(split, in_range, memory)
        except (NotAffineError, UnsupportedModelError) as error:
            affine = error.with_traceback(None)
        if not isinstance(affine, AffineMap) or affine.nbytes <= KEPT_BYTES:
            kept[key] = affine
    return affine


def _affine(split: Split, in_range: Range, memory: int) -> AffineMap:
    """Read the affine map, and check that the activation makes the span of it."""
    raw = split.raw
    found = affine_map(
        split.run_raw, raw.n_inputs, raw.n_outputs, largest=max(map(abs, in_range)), memory=memory
    )
    check_activation(split, in_range)
    return found


def _why(span: Span, deviation: float, found: Departure | None) -> str:
    """Say where a span stops being affine, and by how much."""
    ends = (
        f"layer {span.layer!r}" if span.layer == span.in_layer
        else f"the span from {span.in_layer!r} to {span.layer!r}"
    )  # fmt: skip
    if found is None:
        where = f"its pre-activation departs from an affine map by {deviation:.2g} of its terms"
    else:
        where = (
            f"the result of {found.op_type} {found.name!r} departs from an affine map by "
            f"{found.deviation:.2g} of its largest"
        )
        if found.dtype.endswith("16"):
            where += f" (it is rounded to {found.dtype})"
    return (
        f"{ends} is not affine up to an elementwise activation: {where}; use method='sample', "
        "or method='auto', which samples what is not exact"
    )


def _pieces(
    split: Split,
    affine: AffineMap,
    in_range: Range,
    out_range: Range,
    out_bins: int,
) -> list[Pieces]:
    """Return every unit's pieces, found once for each state of the weights."""
    kept = split.whole.runners
    key = ("pieces", *parse_device(split.device), *in_range, *out_range, out_bins)
    if key not in kept:
        lower, upper = _reached(affine, in_range)
        binning = Binning.uniform(1, out_range, out_bins)
        try:
            with np.errstate(all="ignore"):
                kept[key] = pieces_of(split.activation, lower, upper, binning)
        except UnsupportedModelError as error:
            kept[key] = UnsupportedModelError(f"layer {split.whole.layer!r}: {error}")
    pieces: list[Pieces] | UnsupportedModelError = kept[key]
    if isinstance(pieces, UnsupportedModelError):
        raise pieces
    return pieces


def _reached(affine: AffineMap, in_range: Range) -> tuple[FloatArray, FloatArray]:
    """Return how far each pre-activation goes, with all inputs in range or one and the others 0."""
    lower, upper = affine.bias.copy(), affine.bias.copy()
    for outputs in affine.tiles:
        weights = affine.columns(outputs)
        ends = np.stack([weights * in_range[0], weights * in_range[1]])
        low, high = ends.min(axis=0), ends.max(axis=0)
        lower[outputs] += np.minimum(low.sum(axis=0), low.min(axis=0).clip(max=0.0))
        upper[outputs] += np.maximum(high.sum(axis=0), high.max(axis=0).clip(min=0.0))
    return lower, upper
