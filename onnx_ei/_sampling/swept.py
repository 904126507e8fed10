"""What sampling one input at a time found, and which inputs may be sampled together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_ei.information import Influence

__all__ = ["Strands", "SweepInformation", "Swept"]

FloatArray: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

LARGE = 1 << 22
"""Pairs past which a sum does without the matrix, which at 24 bytes a pair would fill the memory.
It depends on the layer alone, so that the order of summing does too."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Strands:
    """Units that have nothing to do with those of another strand, as the channels of a pool.

    Parameters
    ----------
    of_inputs : ndarray of int64, shape (n_inputs,)
        Each input's strand, from 0.
    of_outputs : ndarray of int64, shape (n_outputs,)
        Each output's: it depends on the inputs of this strand alone.

    Examples
    --------
    Two channels of two pixels; one input of each is driven at a time:

    >>> Strands(of_inputs=np.array([0, 0, 1, 1]), of_outputs=np.array([0, 1])).passes().tolist()
    [[0, 2], [1, 3]]
    """

    of_inputs: Ints
    of_outputs: Ints

    @classmethod
    def single(cls, n_inputs: int, n_outputs: int) -> Strands:
        """Return one strand of everything.

        >>> Strands.single(3, 2).passes().tolist()
        [[0], [1], [2]]
        """
        return cls(of_inputs=np.zeros(n_inputs, np.int64), of_outputs=np.zeros(n_outputs, np.int64))

    @property
    def n_strands(self) -> int:
        """Number of strands."""
        return int(self.of_inputs.max()) + 1

    def passes(self) -> Ints:
        """Return the inputs that are driven together, a strand each; -1 where one has no more."""
        sizes = np.bincount(self.of_inputs)
        table = np.full((int(sizes.max()), sizes.size), -1)
        order = np.argsort(self.of_inputs, kind="stable")
        strand = self.of_inputs[order]
        place = np.arange(order.size) - (np.cumsum(sizes) - sizes)[strand]
        table[place, strand] = order
        return table


@dataclass(frozen=True, kw_only=True)
class SweepInformation:
    """Mutual information of every pair, each input driven alone.

    Parameters
    ----------
    bits, stderr : ndarray of float64, shape (n_inputs, n_outputs)
        Estimates in bits, not clipped, and the standard error of each alone. Empty where only
        the sum is wanted of a layer of more than ``LARGE`` pairs.
    total : float
        Sum over all pairs, in bits.
    dropped : float
        Share of the samples that a pair dropped, over all pairs.
    input_stderr : ndarray of float64, shape (n_inputs,)
        Standard error of the sum over the outputs: they share an input's samples.
    n_samples : int
        Samples of each input.

    Examples
    --------
    Made by :class:`onnx_ei._sampling.sweeping.SweepSampler`.
    """

    bits: FloatArray
    stderr: FloatArray
    total: float
    dropped: float
    input_stderr: FloatArray
    n_samples: int

    @property
    def total_stderr(self) -> float:
        """Standard error of ``total``: inputs have independent noise, so variances add."""
        return float(np.sqrt(np.sum(self.input_stderr**2)))


class Swept:
    """A whole layer's sweeps, filled with some inputs at a time.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Units.
    n_samples : int
        Samples of each input.
    matrix : bool
        Whether each pair is wanted, whatever memory that takes.

    Examples
    --------
    >>> swept = Swept(1, 2, 4, matrix=False)
    >>> swept.add(np.array([0]), np.array([[[1.0, 2.0]], [[0.5, 0.5]]]), np.array([[4, 2]]),
    ...     np.zeros((1, 4)), np.zeros((1, 3)))
    >>> swept.freeze().total, swept.freeze().dropped
    (3.0, 0.25)
    """

    def __init__(self, n_inputs: int, n_outputs: int, n_samples: int, *, matrix: bool) -> None:
        self._shape = (n_inputs, n_outputs)
        self._large = n_inputs * n_outputs > LARGE
        self._bits = np.empty((2, *self._shape)) if matrix or not self._large else None
        self._row_bits = np.empty(n_inputs)
        self._kept = 0
        self._stderr = np.empty(n_inputs)
        self._n_samples = n_samples

    def add(
        self, inputs: Ints, bits: FloatArray, kept: Ints, influence: FloatArray, spread: FloatArray
    ) -> None:
        """Take whole rows: (2, inputs, outputs), (inputs, outputs), (inputs, m), (inputs, 3)."""
        if self._bits is not None:
            self._bits[:, inputs] = bits
        self._row_bits[inputs] = bits[0].sum(axis=1)
        self._kept += int(kept.sum())
        # Their scatter at once: row by row it took a twentieth of a small layer's time.
        scatter = influence.var(axis=1, ddof=1) if influence.shape[1] > 1 else np.zeros(len(inputs))
        self._stderr[inputs] = [
            Influence.of(values, each, self._n_samples).error_of(float(var))
            for values, each, var in zip(influence, spread, scatter, strict=True)
        ]

    def freeze(self) -> SweepInformation:
        """Return the whole."""
        held = self._bits if self._bits is not None else np.empty((2, 0, 0))
        rows: NDArray[Any] = self._row_bits if self._large else held[0]
        return SweepInformation(
            bits=held[0],
            stderr=held[1],
            total=float(rows.sum()),
            # the mean of the counts first, as it is taken of a matrix
            dropped=1.0 - self._kept / (self._shape[0] * self._shape[1]) / self._n_samples,
            input_stderr=self._stderr,
            n_samples=self._n_samples,
        )
