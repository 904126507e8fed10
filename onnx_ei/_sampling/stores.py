"""What is kept of samples from stage to stage: the codes of units, the keys of whole vectors."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.vectors import UnitCounts, Vector
from onnx_ei.binning import Binning
from onnx_ei.histogram import Keys, pack_keys
from onnx_ei.information import vector_information

__all__ = ["Codes", "Group", "GroupKeys"]

_NO_WORD = np.empty(0, np.uint64)
Group: TypeAlias = tuple[NDArray[np.intp] | slice, NDArray[np.intp] | slice]
"""Units at the input and at the output."""


class Codes:
    """Codes of a tile of units, feature-major, grown as stages ask for more samples."""

    def __init__(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        self.x = x
        self.y = y

    @classmethod
    def empty(cls, inputs: Binning | None, outputs: Binning | None) -> Codes:
        """Return room for units of these bins, and no samples."""
        x, y = (
            np.empty((0 if b is None else b.n_units, 0), np.uint8 if b is None else b.code_dtype)
            for b in (inputs, outputs)
        )
        return cls(x, y)

    def resize(self, n: int) -> None:
        self.x, self.y = _grown(self.x, n), _grown(self.y, n)

    def put_inputs(self, at: slice, codes: NDArray[Any]) -> None:
        self.x[:, at] = codes

    def put_outputs(self, at: slice, codes: NDArray[Any]) -> None:
        self.y[:, at] = codes


class GroupKeys:
    """State keys of one group's vectors, grown as stages ask for more samples."""

    def __init__(self, group: Group, in_bins: NDArray[np.int64], out_bins: NDArray[np.int64]):
        self._group = group
        self._bins = (in_bins[group[0]], out_bins[group[1]])
        # The words of the inputs' keys, then those of the outputs'.
        self._n_words = [Keys.words(bins) for bins in self._bins]
        self._words = np.empty((sum(self._n_words), 0), np.uint64)
        self._kept = np.ones((1, 0), np.bool_)
        # A unit that a group names twice has its entropy once.
        self._once = [units if isinstance(units, slice) else np.unique(units) for units in group]
        self._in_bits = float(np.log2(in_bins[self._once[0]]).sum())
        self._out_units = UnitCounts(out_bins[self._once[1]])

    def resize(self, n: int) -> None:
        old = self._kept.shape[1]
        self._words, self._kept = _grown(self._words, n), _grown(self._kept, n)
        self._kept[:, old:] = True

    def put_inputs(self, at: slice, codes: NDArray[Any]) -> None:
        self._pack(0, at, codes)

    def put_outputs(self, at: slice, codes: NDArray[Any]) -> None:
        """Take outputs; the inputs of the same samples come before them."""
        self._pack(1, at, codes)
        self._out_units.add(np.ascontiguousarray(codes[self._once[1]]), self._kept[0, at])

    def _pack(self, end: int, at: slice, codes: NDArray[Any]) -> None:
        units = np.ascontiguousarray(codes[self._group[end]])
        high, low = self._keys(end)
        pack_keys(units, self._bins[end], high[at], low[at], self._kept[0, at])

    def vector(self, estimator: str, threads: int = 1) -> Vector:
        ends = self._keys(0), self._keys(1)
        return Vector(
            information=vector_information(*ends, self._kept[0], estimator, threads=threads),
            in_bits=self._in_bits,
            out_bits=self._out_units.entropy_bound(),
        )

    def _keys(self, end: int) -> Keys:
        """Return the keys of the inputs, or of the outputs."""
        first = sum(self._n_words[:end])
        words = self._words[first : first + self._n_words[end]]
        return Keys(words[0] if len(words) == 2 else _NO_WORD, words[-1])


def _grown(old: NDArray[Any], n: int) -> NDArray[Any]:
    """Return an array with ``n`` columns that begins with those of the old one."""
    new = np.empty((old.shape[0], n), old.dtype)
    new[:, : old.shape[1]] = old
    return new
