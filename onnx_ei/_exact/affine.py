"""Whether a function of arrays is affine, by running it; and the affine map that it is.

No operator is looked at by name: what a run says holds for convolutions at one position, average
pools, batch-norm and chains of them alike. Only where it says no are the tensors on the way
looked at, to tell the user where the function stops being affine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_ei._exact.split import Rows
from onnx_ei.sessions import Session

if TYPE_CHECKING:
    from onnx_ei.span import Span

__all__ = ["TOLERANCE", "AffineMap", "Departure", "NotAffineError", "affine_map", "departure"]

FloatArray = NDArray[np.float64]

TOLERANCE = 1e-5
"""How far a result may be from the affine map, as a share of the sum of its terms' magnitudes.

Float32 sums of 10 to 10,000 terms, with a batch-norm behind them, stay below 1e-6 of it; the
rounding of half precision (5e-4) does not, and is no affine map: its values lie on a coarse grid.
"""
FLOOR = 0.05
"""Share of the largest unit's scale below which a unit is not judged by its own: where the terms
of a chain of layers cancel, what is left is rounding alone, 3e-7 of what there was."""
UNIT = 2.0**60
"""What one input is set to while its weights are read. A power of 2, so that the product is exact,
and so large that a bias of the same sum is rounded away or exact: float32 weights come back to the
bit, where reading them at 1 would cost 6e-8 of the bias."""
SCALES = (2.0**-12, 1.0, 2.0**12)
"""Noise is drawn at these multiples of the input range, so that a clip that noise in range does
not reach, or a threshold far below it, is found."""
ROWS = 8
"""Rows of noise a scale and sign."""
BENT = 1e-4
"""Share of the largest result that the middle of two inputs may be from the middle of their
results. Wider than ``TOLERANCE``: that is of the terms' magnitudes, and the terms of a wide unit
cancel down to their square root."""
_FLOATS_A_RUN = 1 << 22


class NotAffineError(Exception):
    """A function is not affine.

    Parameters
    ----------
    deviation : float
        How far it is from an affine map, as a share of its largest result.
    """

    def __init__(self, deviation: float) -> None:
        super().__init__(f"not affine: off by {deviation:.1g}")
        self.deviation = deviation


class AffineMap:
    """The affine map that a function of arrays computes: ``x @ weights + bias``.

    Parameters
    ----------
    run : callable
        From float32 (n, n_inputs) to float32 (n, n_outputs).
    n_inputs, n_outputs : int
        Units at either end.
    memory : int
        Bytes that the weights may take; where they are more, they are read again when needed.

    Attributes
    ----------
    bias : ndarray of float64, shape (n_outputs,)
        The result at 0.
    """

    def __init__(self, run: Rows, n_inputs: int, n_outputs: int, memory: int) -> None:
        self._run = run
        self.n_inputs, self.n_outputs = n_inputs, n_outputs
        self.bias: FloatArray = run(np.zeros((1, n_inputs), np.float32))[0].astype(np.float64)
        self._held: NDArray[Any] | None = None
        self._width = n_outputs
        if 8 * n_inputs * n_outputs <= memory:
            self._held = self._narrow(self._read(slice(0, n_outputs)))
        else:
            # a tile, its copy for the engine, and the rows that it was read from
            self._width = max(1, memory // (16 * n_inputs))

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps."""
        return self.bias.nbytes + (0 if self._held is None else self._held.nbytes)

    @property
    def tiles(self) -> Iterator[slice]:
        """Runs of outputs whose weights fit the memory."""
        for first in range(0, self.n_outputs, self._width):
            yield slice(first, min(first + self._width, self.n_outputs))

    def columns(self, outputs: slice) -> FloatArray:
        """Return the weights of some outputs.

        Parameters
        ----------
        outputs : slice
            Which, from start to stop.

        Returns
        -------
        ndarray of float64, shape (n_inputs, n_outputs of the slice)
        """
        if self._held is None:
            return self._read(outputs)
        return np.ascontiguousarray(self._held[:, outputs], np.float64)

    def _read(self, outputs: slice) -> FloatArray:
        """Set one input at a time to a large number and to its negative: the bias cancels."""
        weights = np.empty((self.n_inputs, outputs.stop - outputs.start))
        rows = max(1, min(256, _FLOATS_A_RUN // max(self.n_inputs, self.n_outputs)))
        x = np.zeros((rows, self.n_inputs), np.float32)
        for first in range(0, self.n_inputs, rows):
            at = np.arange(min(rows, self.n_inputs - first))
            ends = []
            for value in (UNIT, -UNIT):
                x[at, first + at] = value
                ends.append(self._run(x[: at.size])[:, outputs].astype(np.float64))
            x[at, first + at] = 0.0
            weights[first : first + at.size] = (ends[0] - ends[1]) / (2 * UNIT)
        return weights

    @staticmethod
    def _narrow(weights: FloatArray) -> NDArray[Any]:
        """Hold in float32 what float32 holds exactly: most weights are."""
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = weights.astype(np.float32)
        return narrow if np.array_equal(narrow, weights) else weights


def affine_map(
    run: Rows, n_inputs: int, n_outputs: int, *, largest: float, memory: int
) -> AffineMap:
    """Read the affine map off a function, and hold the function against it.

    Parameters
    ----------
    run : callable
        From float32 (n, n_inputs) to float32 (n, n_outputs).
    n_inputs, n_outputs : int
        Units at either end.
    largest : float
        Magnitude of the inputs that matter.
    memory : int
        Bytes that the weights may take.

    Returns
    -------
    AffineMap

    Raises
    ------
    NotAffineError
        If the function departs from it by more than float32 rounds.

    Examples
    --------
    >>> found = affine_map(lambda x: x @ np.float32([[2], [3]]) + 1, 2, 1, largest=1, memory=1000)
    >>> found.columns(slice(0, 1)).tolist(), found.bias.tolist()
    ([[2.0], [3.0]], [1.0])
    """
    with np.errstate(over="ignore", invalid="ignore"):
        x, middle = _chords(n_inputs, largest)
        ends, halfway = run(x), run(middle)
        # cheap, and enough for most that are not affine: no weights are read
        deviation = _bend(ends, halfway)
        if not deviation <= BENT:
            raise NotAffineError(deviation)
        found = AffineMap(run, n_inputs, n_outputs, memory)
        for outputs in found.tiles:
            weights = found.columns(outputs)
            for rows, y in ((x, ends), (middle, halfway)):
                deviation = _residual(rows, y[:, outputs], weights, found.bias[outputs])
                if not deviation <= TOLERANCE:
                    raise NotAffineError(deviation)
    return found


def _chords(n_inputs: int, largest: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return noise of several scales and signs, and the middles between its two halves."""
    rng = np.random.default_rng(0)
    blocks = []
    for scale in SCALES:
        # on a grid of 2^-10: the middle of two is exact in float32
        size = 2.0 ** np.round(np.log2(scale * largest))
        for low, high in ((-1024, 1025), (0, 1025), (-1024, 1)):
            block = rng.integers(low, high, (2, ROWS, n_inputs)) * (size / 1024)
            blocks.append(block)
    both = np.concatenate(blocks, axis=1)
    x = both.reshape(-1, n_inputs).astype(np.float32)
    return x, both.mean(axis=0).astype(np.float32)


def _bend(ends: NDArray[Any], halfway: NDArray[Any]) -> float:
    """Return how far the middle of two inputs is from the middle of their results."""
    y = ends.astype(np.float64).reshape(2, *halfway.shape)
    if not (np.isfinite(y).all() and np.isfinite(halfway).all()):
        return np.inf
    bend = np.abs(y.mean(axis=0) - halfway)
    # a scale at a time: a kink near 0 is small beside results far from it
    size = np.abs(y).max(axis=0).max(axis=tuple(range(1, halfway.ndim)), initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = bend / size.reshape(-1, *(1,) * (halfway.ndim - 1))
    return float(np.where(bend == 0, 0.0, share).max(initial=0.0))


def _residual(x: FloatArray | NDArray[Any], y: Any, weights: FloatArray, bias: FloatArray) -> float:
    """Return how far results are from the map, as a share of their terms' magnitudes."""
    x = x.astype(np.float64)
    off = np.abs(x @ weights + bias - y)
    scale = np.abs(x) @ np.abs(weights) + np.abs(bias)
    scale = np.maximum(scale, FLOOR * scale.max(axis=1, keepdims=True))
    if not (np.isfinite(off).all() and np.isfinite(scale).all()):
        return np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(off == 0, 0.0, off / scale).max(initial=0.0))


@dataclass(frozen=True, kw_only=True)
class Departure:
    """The first operator of a span whose result is not affine in the input.

    Parameters
    ----------
    op_type, name : str
        The operator, and its node's or its output's name.
    deviation : float
        How far the middle of two inputs is from the middle of their results, as a share of the
        largest result.
    dtype : str
        Element type of what it puts out.
    """

    op_type: str
    name: str
    deviation: float
    dtype: str


def departure(span: Span, device: object, largest: float) -> Departure | None:
    """Find the first operator of a span whose result is not affine in the input.

    Parameters
    ----------
    span : Span
        Which.
    device : str or torch.device
        Where it runs.
    largest : float
        Magnitude of the inputs that matter.

    Returns
    -------
    Departure or None
        None where each result is, as far as single runs tell.
    """
    graph = span.model.graph
    made = [(node, value) for node in graph for value in node.outputs if value.name]
    there = {id(v) for v in graph.outputs}
    extra = [value for _, value in made if id(value) not in there]
    graph.outputs.extend(extra)
    try:
        session = Session(span.model, device)
    finally:
        for value in extra:
            graph.outputs.remove(value)
    dtype = graph.inputs[0].dtype
    kind = np.dtype(np.float32) if dtype is None else dtype.numpy()
    x, middle = _chords(span.n_inputs, largest)
    names = [str(value.name) for _, value in made]
    worst = np.zeros(len(made))
    for row in range(0, len(middle), ROWS):
        rows = (x[row], x[len(middle) + row], middle[row])
        feeds = [r.reshape(1, *span.in_shape).astype(kind) for r in rows]
        runs = [session.run({"x": feed}, names) for feed in feeds]
        worst = np.maximum(worst, [_triple(*results) for results in zip(*runs, strict=True)])
    first = int(np.argmax(worst > BENT))
    if not worst[first] > BENT:
        return None
    node, value = made[first]
    return Departure(
        op_type=node.op_type,
        name=node.name or str(value.name),
        deviation=float(worst[first]),
        dtype=str(value.dtype),
    )


def _triple(first: Any, second: Any, middle: Any) -> float:
    """Return the deviation of one result at three inputs; of whatever type it is."""
    arrays = [np.asarray(a) for a in (first, second, middle)]
    if any(a.dtype.kind in "OUS" for a in arrays):
        return 0.0
    if len({a.shape for a in arrays}) > 1:
        return np.inf
    a, b, m = (array.astype(np.float64).reshape(1, -1) for array in arrays)
    return _bend(np.concatenate([a, b]), m)
