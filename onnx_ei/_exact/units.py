"""One output unit of an affine layer, in the terms in which its distribution is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_ei._exact.pieces import OUT_OF_RANGE, Pieces

__all__ = ["EPSILON", "Unit", "merged", "unit_of"]

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit:
    """An output unit as a sum of independent uniforms, and where the sum falls into codes.

    The pre-activation less its mean is ``scale`` times the sum of ``terms`` times uniforms on
    [-1, 1]; signs of weights do not matter, for the uniforms and the input bins are symmetric.

    Parameters
    ----------
    terms : ndarray of float64, shape (n,)
        The distinct half-widths of the summands, descending, positive; the first is in [1/4, 1).
    counts : ndarray of int64, shape (n,)
        How many inputs have each.
    places : ndarray of int64, shape (n_in,)
        The term of each input; ``n`` where its weight is 0.
    starts, stops : ndarray of float64, shape (n_intervals,)
        The intervals in range, ascending, within the reach of the sum.
    codes : ndarray of int64, shape (n_intervals,)
        Their codes, counted from 0 without gaps.
    slips : ndarray of float64, shape (n_codes,)
        How far the ends of a code's intervals can be off together, from rounding.
    n_codes : int
        The codes that occur.
    """

    terms: NDArray[np.float64]
    counts: NDArray[np.int64]
    places: NDArray[np.int64]
    starts: NDArray[np.float64]
    stops: NDArray[np.float64]
    codes: NDArray[np.int64]
    slips: NDArray[np.float64]
    n_codes: int

    @property
    def reach(self) -> float:
        """The largest value of the sum."""
        return float(self.terms @ self.counts)

    @property
    def variance(self) -> float:
        """The variance of the sum."""
        return float(self.terms**2 @ self.counts) / 3.0


def unit_of(
    weights: NDArray[np.float64], bias: float, in_range: tuple[float, float], pieces: Pieces
) -> Unit:
    """Centre and scale an output unit.

    Parameters
    ----------
    weights : ndarray of float64, shape (n_in,)
        Of the unit, one an input.
    bias : float
        Its pre-activation where every input is 0.
    in_range : (float, float)
        On which every input is uniform.
    pieces : Pieces
        The unit's codes.

    Returns
    -------
    Unit
        With no term and no interval where every weight is 0.

    Examples
    --------
    >>> signs = Pieces(edges=[0.0], codes=[0, 1], n_bins=2)
    >>> unit = unit_of(np.array([2.0, -2.0, 0.0]), 1.0, (0.0, 1.0), signs)
    >>> unit.terms, unit.counts, unit.places
    (array([0.25]), array([2]), array([0, 0, 1]))
    >>> unit.starts, unit.stops
    (array([-0.5 , -0.25]), array([-0.25,  0.5 ]))
    """
    low, high = in_range
    largest = float(np.abs(weights).max(initial=0.0))
    # A power of two, so that scaling rounds nothing; sums of what is left cannot overflow.
    exponent = math.frexp(largest)[1] + math.frexp(0.5 * (high - low))[1]
    half = math.ldexp(0.5 * (high - low), -math.frexp(0.5 * (high - low))[1])
    scaled = np.ldexp(np.abs(weights), -math.frexp(largest)[1]) * half
    terms, places, counts = np.unique(-scaled, return_inverse=True, return_counts=True)
    terms = -terms
    if terms.size and terms[-1] == 0.0:
        terms, counts = terms[:-1], counts[:-1]
    shift = math.fsum(weights.tolist()) * (0.5 * (low + high))
    edges, codes = merged(pieces)
    reach = float(terms @ counts)
    with np.errstate(over="ignore"):
        centred = np.ldexp(edges - bias - shift, -exponent)
        lost = np.ldexp(np.abs(edges - bias) + 3.0 * abs(shift), -exponent)
    slips = EPSILON * (lost + np.abs(centred) + 2.0 * reach)
    # An edge out of reach cannot be off by enough to matter, however far away it is.
    slips[np.isinf(centred) | (np.abs(centred) > reach + slips)] = 0.0
    starts, stops = np.append(-math.inf, centred), np.append(centred, math.inf)
    slipped = np.append(0.0, slips) + np.append(slips, 0.0)
    used = (codes != OUT_OF_RANGE) & (stops > -reach) & (starts < reach) & (starts < stops)
    kept, codes = np.unique(codes[used], return_inverse=True)
    return Unit(
        terms=terms,
        counts=counts.astype(np.int64),
        places=places.astype(np.int64),
        starts=np.maximum(starts[used], -reach),
        stops=np.minimum(stops[used], reach),
        codes=codes.astype(np.int64),
        slips=np.bincount(codes, slipped[used], kept.size).astype(np.float64),
        n_codes=int(kept.size),
    )


def merged(pieces: Pieces) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Drop the edges on both sides of which the code is the same.

    Parameters
    ----------
    pieces : Pieces

    Returns
    -------
    edges : ndarray of float64, shape (n,)
    codes : ndarray of int64, shape (n + 1,)
    """
    changes = pieces.codes[1:] != pieces.codes[:-1]
    return pieces.edges[changes], pieces.codes[np.append(True, changes)]
