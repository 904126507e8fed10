"""What sensitivity's sampling holds of some passes: noise, results, and the outputs they are of."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.codes import part
from onnx_ei._sampling.swept import Strands
from onnx_ei.binning import Binning

__all__ = ["RESULT_BYTES", "Column", "Noise", "Rows", "Tile"]

FloatArray: TypeAlias = NDArray[np.float64]
RESULT_BYTES = 24
"""Bytes of a pair's result: an estimate, its error, the samples kept."""


class Noise(NamedTuple):
    """The values that some passes' inputs take: (passes, strands, n), and their codes."""

    values: NDArray[np.float32]
    codes: NDArray[Any]

    def some(self, passes: slice) -> Noise:
        """Return those of some of the passes."""
        return Noise(self.values[passes], self.codes[passes])


class Rows(NamedTuple):
    """Results: (2, passes, strands, outputs) and (passes, strands, outputs), as in ``Swept``.

    Influence is (passes, strands, cuts, samples) and spread (passes, strands, cuts, 3), as in
    ``pairwise_information``: a task adds to a cut of its own.
    """

    bits: FloatArray
    kept: NDArray[np.int64]
    influence: FloatArray
    spread: FloatArray

    @classmethod
    def empty(cls, shape: tuple[int, ...], cuts: int, samples: int) -> Rows:
        """Return results of nothing; ``shape`` is (passes, strands, outputs)."""
        return cls(
            bits=np.zeros((2, *shape)),
            kept=np.zeros(shape, np.int64),
            influence=np.zeros((*shape[:2], cuts, samples)),
            spread=np.zeros((*shape[:2], cuts, 3)),
        )

    def some(self, passes: slice) -> Rows:
        """Return those of some of the passes, to be filled."""
        return Rows(
            self.bits[:, passes], self.kept[passes], self.influence[passes], self.spread[passes]
        )


class Tile(NamedTuple):
    """How many passes have their noise held, how many their codes, of how many outputs."""

    drawn: int
    batch: int
    outputs: int


class Column(NamedTuple):
    """Outputs that are counted together.

    Parameters
    ----------
    outputs : slice
        Which.
    bins : Binning
        Theirs.
    own : list of ndarray of int64
        Those of each strand, as places among these outputs.
    """

    outputs: slice
    bins: Binning
    own: list[NDArray[np.int64]]

    @classmethod
    def of(cls, bins: Binning, strands: Strands, outputs: slice) -> Column:
        """Take some of all outputs."""
        bins, of_outputs = part(bins, outputs), strands.of_outputs[outputs]
        order = np.argsort(of_outputs, kind="stable")
        ends = np.searchsorted(of_outputs[order], np.arange(strands.n_strands + 1))
        own = [order[a:b] for a, b in pairwise(ends)]
        return cls(outputs, bins, own)
