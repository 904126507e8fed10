"""An activation and its output bins -> cuts of the pre-activation: its level sets, as computed.

The cuts are those of the function as onnxruntime (or the caller) computes it, found by running
it: the first float32 number, going up, whose result falls in another bin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_ei._exact.pieces import OUT_OF_RANGE, Pieces
from onnx_ei._exact.unitwise import (
    MAX_POINTS,
    Ints,
    Singles,
    Units,
    floats,
    ordered,
    single,
    spread,
)
from onnx_ei._sampling.codes import binned, binned_outputs
from onnx_ei.binning import Binning
from onnx_ei.errors import UnsupportedModelError

__all__ = ["MAX_EDGES", "pieces_of"]

FloatArray = NDArray[np.float64]

GRID = 4096
"""Points that a function is first looked at, half of them evenly spaced and half of them evenly
spaced among the float32 numbers, which resolves the neighbourhood of 0."""
MAX_EDGES = 1 << 14
"""Cuts of one function: with more, counting samples is faster than distributions are."""
BEND = 0.125
"""Share of a bin's width by which a function may depart from its chord between two points."""
FINEST, SMALLEST = 2.0**-16, 1e-30
"""Share of a number (or of the smaller one) below which a jump next to it is not looked at closer:
it is bisected later."""
ZOOM, ROUNDS = 16, 10
"""An extremum is narrowed to 2 / 16 of an interval ten times, which is past float32."""


def pieces_of(
    function: Callable[[Singles], Singles] | None,
    lower: FloatArray,
    upper: FloatArray,
    binning: Binning,
) -> list[Pieces]:
    """Cut each unit's pre-activation where its output bin changes.

    Parameters
    ----------
    function : callable or None
        The activation: float32 (n, n_units) to (n, n_units), each unit by itself; None is none.
    lower, upper : ndarray of float64, shape (n_units,)
        Where each pre-activation can lie.
    binning : Binning
        Of one output unit, and so of all.

    Returns
    -------
    list of Pieces
        One a unit; units of the same function share it. Between ``lower`` and ``upper`` they are
        the function's; beyond, the outermost go on.

    Raises
    ------
    UnsupportedModelError
        If a function crosses more than ``MAX_EDGES`` bin edges.

    Notes
    -----
    A function is followed on a grid that is refined until it departs from its chords by less than
    an eighth of a bin, its extrema near a bin's edge are narrowed down, and every pair of
    neighbours in different bins is bisected to adjacent float32 numbers. What a function does
    between two points of the grid and undoes before the second is seen only if it is a smooth
    extremum, or wider than 1/2000 of the interval.

    The rule for a value just past the range's end is that of sampling, up to four float32 steps
    are rounding, for functions that saturate there. Where one goes on past that, the cut is at the
    end itself.

    Examples
    --------
    >>> found = pieces_of(lambda z: np.maximum(z, 0), np.array([-1.0]), np.array([20.0]),
    ...                   Binning.uniform(1, (0, 10), 2))
    >>> found[0].edges.round(5).tolist(), found[0].codes.tolist()
    ([5.0, 10.0], [0, 1, -1])
    """
    low, high = single(lower), single(upper)
    units = Units(function, low, high)
    coder = _Coder(units, binning)
    points = _grid(units)
    points = _refined(coder, points)
    points = _with_extrema(coder, points)
    cuts = _cuts(coder, points)
    first = coder.codes(points.y[np.searchsorted(points.owner, np.arange(units.n_functions))])
    edges = _at_the_ends(coder, points, cuts, first)
    shared = [
        _pieces(cuts, int(first[k]), edges, k, coder.n_bins) for k in range(units.n_functions)
    ]
    return [shared[k] for k in units.owner]


@dataclass(frozen=True)
class _Points:
    """Numbers and what functions make of them, sorted by function and number."""

    owner: Ints
    z: Singles
    y: Singles

    @property
    def neighbours(self) -> Ints:
        """Indices whose next point is of the same function."""
        return np.flatnonzero(self.owner[:-1] == self.owner[1:])


@dataclass(frozen=True)
class _Cuts:
    """The first numbers of each bin, sorted by function and number, and the bins.

    The bins are those that were seen when the cut was found: run again at another place of an
    array, onnxruntime may round a result to the other side.
    """

    owner: Ints
    z: Singles
    codes: Ints


class _Coder:
    """Numbers -> the bins of what functions make of them."""

    def __init__(self, units: Units, binning: Binning) -> None:
        self.units, self._binning = units, binning
        self.n_bins = int(binning.n_bins[0])
        self.width = float((binning.upper[0] - binning.lower[0]) / binning.n_bins[0])
        self._ends = float(binning.lower[0]), float(binning.upper[0])

    def points(self, owner: Ints, z: Singles) -> _Points:
        """Sort numbers, each once, and run the functions on them."""
        order = np.lexsort((z, owner))
        owner, z = owner[order], z[order]
        first = np.ones(z.size, bool)
        first[1:] = (owner[1:] != owner[:-1]) | (z[1:] != z[:-1])
        owner, z = owner[first], z[first]
        return _Points(owner, z, self.units.run(owner, z))

    def merged(self, points: _Points, more: _Points) -> _Points:
        """Put sorted points among others; equal numbers stay once."""
        owner = np.concatenate([points.owner, more.owner])
        z, y = np.concatenate([points.z, more.z]), np.concatenate([points.y, more.y])
        order = np.lexsort((z, owner))
        owner, z, y = owner[order], z[order], y[order]
        first = np.ones(z.size, bool)
        first[1:] = (owner[1:] != owner[:-1]) | (z[1:] != z[:-1])
        return _Points(owner[first], z[first], y[first])

    def codes(self, y: NDArray[np.floating], *, strict: bool = False) -> Ints:
        """Return the bins of results, ``OUT_OF_RANGE`` for those that sampling drops."""
        found = (binned if strict else binned_outputs)(y[:, None], self._binning)[0]
        codes: Ints = found.astype(np.int64)
        codes[codes == self.n_bins] = OUT_OF_RANGE
        return codes

    def bounded(self, y: Singles) -> FloatArray:
        """Cut off what is far out of range, where a function may do what it likes."""
        low, high = self._ends
        values = np.nan_to_num(y.astype(np.float64), nan=low - 2 * self.width)
        return np.clip(values, low - 2 * self.width, high + 2 * self.width)


def _grid(units: Units) -> _Points:
    """Return the points that each function is first looked at."""
    n = int(np.clip(MAX_POINTS // (4 * units.n_functions), 64, GRID))
    each = [spread(low, high, n) for low, high in zip(units.low, units.high, strict=True)]
    owner = np.repeat(np.arange(units.n_functions), [z.size for z in each])
    z = np.concatenate(each)
    return _Points(owner, z, units.run(owner, z))


def _refined(coder: _Coder, points: _Points) -> _Points:
    """Halve what departs from its chord, until nothing does."""
    left = points.neighbours
    while left.size:
        a, b = points.z[left].astype(np.float64), points.z[left + 1].astype(np.float64)
        owner = points.owner[left]
        middle = ((a + b) / 2).astype(np.float32)
        inside = (middle > points.z[left]) & (middle < points.z[left + 1])
        inside &= b - a > FINEST * np.maximum(np.maximum(-a, b), SMALLEST)
        left, a, b, owner = left[inside], a[inside], b[inside], owner[inside]
        new = _Points(owner, middle[inside], coder.units.run(owner, middle[inside]))
        ends = coder.bounded(points.y[left]), coder.bounded(points.y[left + 1])
        share = (new.z - a) / (b - a)
        bend = np.abs(ends[0] + share * (ends[1] - ends[0]) - coder.bounded(new.y))
        bent = bend > BEND * coder.width
        if not bent.any():
            return points
        kept = _Points(new.owner[bent], new.z[bent], new.y[bent])
        points = coder.merged(points, kept)
        if points.z.size > MAX_POINTS:
            raise UnsupportedModelError(
                f"the activation changes too fast for its level sets: {MAX_POINTS} points do not "
                "resolve it; use method='sample'"
            )
        # only what is next to a new point can be bent still
        index = np.flatnonzero(np.isin(_keys(points), _keys(kept)))
        left = np.unique(np.concatenate([index - 1, index]))
    return points


def _keys(points: _Points) -> Ints:
    """Return an integer for each function and number."""
    return (points.owner << 32) + ordered(points.z)


def _with_extrema(coder: _Coder, points: _Points) -> _Points:
    """Add the extrema that may reach into another bin than the points beside them."""
    for sign in (1.0, -1.0):
        found = _extrema(coder, points, sign)
        if found.z.size:
            points = coder.merged(points, found)
    return points


def _extrema(coder: _Coder, points: _Points, sign: float) -> _Points:
    """Narrow down maxima (sign 1) or minima (-1) that lie within reach of a bin's edge."""
    y = sign * coder.bounded(points.y)
    inner = np.flatnonzero(points.owner[:-2] == points.owner[2:]) + 1
    rise, fall = y[inner] - y[inner - 1], y[inner] - y[inner + 1]
    top = (rise >= 0) & (fall >= 0) & ((rise > 0) | (fall > 0))
    inner, reach = inner[top], 2 * np.maximum(rise, fall)[top]
    here = coder.codes(points.y[inner])
    inner = inner[coder.codes(points.y[inner] + sign * reach) != here]
    owner = points.owner[inner]
    left = points.z[inner - 1].astype(np.float64)
    right = points.z[inner + 1].astype(np.float64)
    best = points.z[inner]
    for _ in range(ROUNDS if inner.size else 0):
        share = np.linspace(0, 1, ZOOM + 1)
        z = (left[:, None] + share * (right - left)[:, None]).astype(np.float32)
        values = coder.units.run(np.repeat(owner, ZOOM + 1), z.ravel()).reshape(z.shape)
        at = np.argmax(sign * coder.bounded(values), axis=1)
        row = np.arange(at.size)
        best = z[row, at]
        left = z[row, np.maximum(at - 1, 0)].astype(np.float64)
        right = z[row, np.minimum(at + 1, ZOOM)].astype(np.float64)
    return coder.points(owner, best)


def _cuts(coder: _Coder, points: _Points) -> _Cuts:
    """Bisect every pair of neighbours in different bins, down to adjacent numbers."""
    codes = coder.codes(points.y)
    left = points.neighbours
    left = left[codes[left] != codes[left + 1]]
    places = ordered(points.z)
    owner, a, b = points.owner[left], places[left], places[left + 1]
    before, after = codes[left], codes[left + 1]
    done: list[tuple[Ints, ...]] = [(owner[:0], b[:0], after[:0])]
    while owner.size:
        apart = b - a > 1
        done.append((owner[~apart], b[~apart], after[~apart]))
        owner, a, b, before, after = (v[apart] for v in (owner, a, b, before, after))
        middle = (a + b) // 2
        codes = coder.codes(coder.units.run(owner, floats(middle)))
        # both halves, of which those whose ends agree hold no cut
        order = np.argsort(np.concatenate([owner, owner]), kind="stable")
        owner = np.concatenate([owner, owner])[order]
        a, b = np.concatenate([a, middle])[order], np.concatenate([middle, b])[order]
        before = np.concatenate([before, codes])[order]
        after = np.concatenate([codes, after])[order]
        differ = before != after
        owner, a, b, before, after = (v[differ] for v in (owner, a, b, before, after))
        _refuse_many(owner.size + sum(z.size for _, z, _ in done), coder.units.n_functions)
    owner, b, after = (np.concatenate(column) for column in zip(*done, strict=True))
    order = np.lexsort((b, owner))
    return _Cuts(owner[order], floats(b[order]), after[order])


def _refuse_many(n_edges: int, n_functions: int) -> None:
    if n_edges > MAX_EDGES * n_functions:
        raise UnsupportedModelError(
            f"the activation crosses more than {MAX_EDGES} bin edges; use method='sample', or "
            "fewer out_bins"
        )


def _pieces(cuts: _Cuts, first: int, edges: FloatArray, k: int, n_bins: int) -> Pieces:
    """Put the cuts of one function together."""
    mine = cuts.owner == k
    codes = np.concatenate([[first], cuts.codes[mine]]).astype(np.int64)
    return Pieces(edges=edges[mine], codes=codes, n_bins=n_bins)


def _at_the_ends(coder: _Coder, points: _Points, cuts: _Cuts, first: Ints) -> FloatArray:
    """Move the cuts where a function leaves the range to the range's end itself.

    Where it goes on past what counts as rounding, what lies between is no rounding either: a line
    would keep 4.8e-7 of its argument too many, and a bin's edge there would make 1e-5 bit of it.
    """
    codes = cuts.codes
    edges = cuts.z.astype(np.float64)
    if not edges.size:
        return edges
    begins = np.ones(edges.size, bool)
    begins[1:] = cuts.owner[1:] != cuts.owner[:-1]
    ends = np.roll(begins, -1)
    before = np.where(begins, first[cuts.owner], np.roll(codes, 1))
    place, bounds = ordered(cuts.z), _bounds(points, coder.units.n_functions)
    previous = np.where(begins, bounds[0][cuts.owner], np.roll(place, 1))
    following = np.where(ends, bounds[1][cuts.owner], np.roll(place, -1) - 1)
    leaving = (codes == OUT_OF_RANGE) & (before != OUT_OF_RANGE)
    entering = (codes != OUT_OF_RANGE) & (before == OUT_OF_RANGE)
    inner = np.where(leaving, previous, following)
    outer = np.where(leaving, place, place - 1)
    strict = _strictly_inside(coder, cuts.owner, inner)
    moved = np.flatnonzero((leaving | entering) & strict)
    owner, a, b = cuts.owner[moved], inner[moved], outer[moved]
    while moved.size and np.abs(b - a).max() > 1:
        middle = (a + b) // 2
        inside = _strictly_inside(coder, owner, middle)
        a, b = np.where(inside, middle, a), np.where(inside, b, middle)
    # the range is closed: the last number inside stays inside, whatever lies past it does not
    last = floats(a).astype(np.float64)
    edges[moved] = np.where(leaving[moved], np.nextafter(last, np.inf), last)
    return edges


def _bounds(points: _Points, n_functions: int) -> tuple[Ints, Ints]:
    """Return each function's first and last point, as ordered integers."""
    place = ordered(points.z)
    starts = np.searchsorted(points.owner, np.arange(n_functions + 1))
    return place[starts[:-1]], place[starts[1:] - 1]


def _strictly_inside(coder: _Coder, owner: Ints, place: Ints) -> NDArray[np.bool_]:
    y = coder.units.run(owner, floats(place))
    return np.asarray(coder.codes(y, strict=True) != OUT_OF_RANGE, np.bool_)
