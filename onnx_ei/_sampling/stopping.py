"""When automatic sampling is done, when it gives up, and how far it goes until it asks again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.parameters import Parameters
from onnx_ei._sampling.vectors import Vector
from onnx_ei.results import FULL_COVERAGE

__all__ = [
    "FLOOR",
    "Estimate",
    "Z",
    "error_left",
    "has_converged",
    "is_hopeless",
    "next_stage",
    "tolerance",
]

Z = 1.96
"""Half-width of a 95 % interval in standard errors."""
FLOOR = 0.01
"""Bits that are always near enough: a value near 0 has no relative error. deep_ei's, too."""
LEAPS = 3
"""Doublings that one stage may leap: a need is told by a standard error that is told by few."""
SLACK = 1.5
"""How far past ``max_samples`` the least need of samples must lie before sampling gives up: the
coverage of a stage has an error of its own."""
DOUBT = 4.0
"""The same for the likely need, which is up to 4 times the truth (``growth.likely_samples``)."""

FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one stage of sampling says, in bits; nothing clipped yet.

    Parameters
    ----------
    value, stderr : ndarray of float64
        One shape: () for a scalar measure.
    out_of_range : float
        Share of samples dropped, in [0, 1].
    n_samples : int
        Samples that it took; 0 where it was computed.
    vectors : tuple of Vector
        The vectors that the first entries of ``value`` were taken from, in order; the other
        entries come from pairs.
    pvalues : ndarray of float64, or None
        Of the shape of ``value``, where they were asked for.
    """

    value: FloatArray
    stderr: FloatArray
    out_of_range: float
    n_samples: int = 0
    vectors: tuple[Vector, ...] = ()
    pvalues: FloatArray | None = None

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Say of each entry whether its states were seen; those of a pair always count so."""
        return self._of_vectors([v.coverage for v in self.vectors], 1.0) >= FULL_COVERAGE

    def needed(self) -> tuple[FloatArray, FloatArray]:
        """Return for each entry the least and the likely number of samples that cover it."""
        both = [v.needed(self.n_samples) for v in self.vectors]
        least, likely = ([need[i] for need in both] for i in range(2))
        return self._of_vectors(least, 0.0), self._of_vectors(likely, 0.0)

    def _of_vectors(self, numbers: list[float], other: float) -> FloatArray:
        """Spread the vectors' numbers over the shape of the value."""
        spread = np.full(self.value.shape, other)
        spread.reshape(-1)[: len(numbers)] = numbers
        return spread


def error_left(before: Estimate, now: Estimate) -> FloatArray:
    r"""Return how far each entry may be from the truth, as two stages tell it.

    Parameters
    ----------
    before, now : Estimate
        From fewer samples, and from more that contain them.

    Returns
    -------
    ndarray of float64, shape of the value
        Bits: the half-width of the 95 % interval, and what remains of a drift.

    Notes
    -----
    With :math:`r = n_1 / n_2` the share of samples that both stages have, chance moves the value
    by :math:`\sigma \sqrt{1 / r - 1}`, :math:`\sigma` the later standard error. What it moved by
    beyond 1.96 times that is the fall of a bias; of one that falls as 1/n,
    :math:`r / (1 - r)` times as much remains.

    Examples
    --------
    >>> a, b = (Estimate(value=np.array(v), stderr=np.array(0.01), n_samples=n, out_of_range=0.0)
    ...         for v, n in ((1.10, 10_000), (1.00, 20_000)))
    >>> round(float(error_left(a, b)), 4)  # 0.0196, and 0.1 - 0.0196
    0.1
    """
    shared = before.n_samples / now.n_samples
    half = Z * now.stderr
    drift = np.abs(now.value - before.value) - half * math.sqrt(1 / shared - 1)
    return np.asarray(half + np.maximum(drift, 0.0) * shared / (1 - shared))


def tolerance(now: Estimate, threshold: float) -> FloatArray:
    """Return the error that is allowed of each entry, in bits.

    Parameters
    ----------
    now : Estimate
        Of the last stage.
    threshold : float
        Relative tolerance.

    Returns
    -------
    ndarray of float64, shape of the value
        ``threshold`` times the value, at least 0.01 bit.

    Examples
    --------
    >>> tolerance(Estimate(value=np.array([2.0, 0.0]), stderr=np.zeros(2), n_samples=1,
    ...                    out_of_range=0.0), 0.05).tolist()
    [0.1, 0.01]
    """
    return np.asarray(np.maximum(threshold * np.abs(now.value), FLOOR))


def has_converged(before: Estimate, now: Estimate, threshold: float) -> bool:
    r"""Tell whether the error is within the threshold.

    Parameters
    ----------
    before, now : Estimate
        From fewer samples, and from more that contain them.
    threshold : float
        Relative tolerance.

    Returns
    -------
    bool
        True where, for every entry, :func:`error_left` is at most
        ``max(threshold * |value|, 0.01 bit)``, and every vector's coverage is at least 0.95: what
        is biased by unseen states moves with log2(n), which is small beside a large value.

    Notes
    -----
    One stage alone is never enough: it cannot tell a bias, and where by chance it saw one state
    only, its standard error is 0.

    Examples
    --------
    >>> a, b = (Estimate(value=np.array(1.0), stderr=np.array(0.02), n_samples=n, out_of_range=0.0)
    ...         for n in (10_000, 20_000))
    >>> has_converged(a, b, 0.05), has_converged(a, b, 0.03)
    (True, False)
    """
    return bool(np.all(_settled(before, now, threshold)))


def _settled(before: Estimate, now: Estimate, threshold: float) -> NDArray[np.bool_]:
    """Say of each entry whether it has converged."""
    within = error_left(before, now) <= tolerance(now, threshold)
    return np.asarray(within & now.covered)


def is_hopeless(before: Estimate | None, now: Estimate, parameters: Parameters) -> bool:
    """Tell whether more samples, up to the most allowed, cannot make a vector measure converge.

    Parameters
    ----------
    before : Estimate or None
        From fewer samples, where there was such a stage.
    now : Estimate
        From more.
    parameters : Parameters
        ``max_samples`` and ``threshold``.

    Returns
    -------
    bool
        True where some vector cannot be covered and every other entry has converged.

    Examples
    --------
    >>> still = Estimate(value=np.array(1.0), stderr=np.array(0.0), n_samples=10_000,
    ...                  out_of_range=0.0)
    >>> is_hopeless(None, still, Parameters())
    False
    """
    least, likely = now.needed()
    most = parameters.max_samples
    lost = ~now.covered & ((least > SLACK * most) | (likely > DOUBT * most))
    done = False if before is None else _settled(before, now, parameters.threshold)
    return bool(np.any(lost) and np.all(lost | done))


def next_stage(now: Estimate, parameters: Parameters) -> int:
    """Choose the next stage's number of samples: 10,000 times a power of two, or the most allowed.

    Parameters
    ----------
    now : Estimate
        Of the last stage.
    parameters : Parameters
        ``max_samples`` and ``threshold``.

    Returns
    -------
    int
        Twice, four or eight times as many as before: what the worst entry's standard error,
        falling as 1/sqrt(n), and the least need of the vectors ask for. On one grid for all
        measures, so that they share stages, and a last bit that another processor rounds another
        way does not choose another number of samples.

    Examples
    --------
    >>> far = Estimate(value=np.array(1.0), stderr=np.array(0.05), n_samples=10_000,
    ...                out_of_range=0.0)
    >>> next_stage(far, Parameters())  # 1.96 times 0.05 is to become 0.05
    40000
    """
    asked = (Z * now.stderr / tolerance(now, parameters.threshold)) ** 2
    covering = now.needed()[0] / now.n_samples
    # Entries that no number of samples covers must not drive the others past their need.
    covering = np.where(covering * now.n_samples > SLACK * parameters.max_samples, 0.0, covering)
    more = float(np.max(np.maximum(asked, covering), initial=1.0))
    doublings = min(max(math.ceil(math.log2(max(more, 1.0))), 1), LEAPS)
    return min(now.n_samples << doublings, parameters.max_samples)
