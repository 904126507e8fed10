"""How one output unit's pre-activation axis falls into output bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["OUT_OF_RANGE", "Pieces"]

OUT_OF_RANGE = -1
"""The code of an interval whose activation lies outside the output range."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """The output bin of each interval of a pre-activation.

    What an elementwise activation and its output bins come to: cuts of the real line, and the bin
    in which the activation lies between them. A flat activation (ReLU below 0) is one interval; a
    non-monotone one (GELU) gives one code to several intervals.

    Parameters
    ----------
    edges : ndarray of float64, shape (n_edges,)
        Where the bin changes: finite, strictly ascending; may be empty.
    codes : ndarray of int64, shape (n_edges + 1,)
        The bin of (-inf, edges[0]), (edges[0], edges[1]), ..., (edges[-1], inf); ``OUT_OF_RANGE``
        (-1) where the activation is outside the output range.
    n_bins : int
        The number of output bins: every code is below it.

    Raises
    ------
    ValueError
        The edges do not ascend or are not finite, or the codes do not fit them or ``n_bins``.

    Examples
    --------
    A ReLU in two bins on (0, 10), pulled back to its argument:

    >>> Pieces(edges=[5.0, 10.0], codes=[0, 1, -1], n_bins=2).codes
    array([ 0,  1, -1])
    """

    edges: NDArray[np.float64]
    codes: NDArray[np.int64]
    n_bins: int

    def __post_init__(self) -> None:
        edges = np.array(self.edges, np.float64, ndmin=1)
        codes = np.array(self.codes, np.int64, ndmin=1)
        if edges.ndim != 1 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ValueError(
                f"edges must be finite and strictly ascending, got {edges!r}; drop an edge that "
                "the activation never reaches, and merge equal ones"
            )
        if codes.shape != (edges.size + 1,):
            raise ValueError(
                f"{edges.size} edges make {edges.size + 1} intervals, got codes of shape "
                f"{codes.shape}; give one code an interval, {OUT_OF_RANGE} where out of range"
            )
        if codes.min() < OUT_OF_RANGE or codes.max() >= self.n_bins:
            raise ValueError(
                f"codes must lie in [{OUT_OF_RANGE}, {self.n_bins}) for n_bins={self.n_bins}, "
                f"got {codes.min()} to {codes.max()}"
            )
        for name, array in (("edges", edges), ("codes", codes)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)
