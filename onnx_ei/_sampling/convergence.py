"""How many samples: a fixed number, as many as a threshold needs, or a curve to infinity."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.parameters import Parameters
from onnx_ei._sampling.stopping import Estimate, has_converged, is_hopeless, next_stage

__all__ = ["Outcome", "extrapolated", "run_schedules", "schedule"]

FIRST_STAGE = 10_000
"""Samples of the first stage of automatic sampling, as in deep_ei."""
POINTS = 20
INTERVAL = 100_000
LEFT_OUT = 4
INFINITY = 1e15
EXPONENTS = (0.5, 2.0)
"""Bounds of the exponent. Bias falls like 1/n once the states are seen, slower before; an
exponent near 0 would let noise carry the curve anywhere between the last point and 1e15."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The last estimate, and whether it converged (None: not asked)."""

    estimate: Estimate
    converged: bool | None


def schedule(parameters: Parameters) -> Generator[int, Estimate, Outcome]:
    """Ask for estimates from growing numbers of samples until there are enough.

    Parameters
    ----------
    parameters : Parameters
        ``extrapolate`` (first, as in deep_ei), else ``samples``, else ``threshold`` and
        ``max_samples``.

    Yields
    ------
    int
        A number of samples; the estimate from the first so many is to be sent back.

    Returns
    -------
    Outcome

    Examples
    --------
    >>> stages = schedule(Parameters())
    >>> next(stages)
    10000
    """
    if parameters.extrapolate:
        sizes = [INTERVAL * (k + 1) for k in range(POINTS)]
        points = []
        for n_samples in sizes:
            points.append((yield n_samples))
        estimate = extrapolated(np.array(sizes[LEFT_OUT:]), points[LEFT_OUT:])
        return Outcome(estimate=estimate, converged=None)
    if parameters.samples is not None:
        estimate = yield parameters.samples
        return Outcome(estimate=estimate, converged=None)
    before: Estimate | None = None
    now = yield min(FIRST_STAGE, parameters.max_samples)
    while now.n_samples < parameters.max_samples and not is_hopeless(before, now, parameters):
        before, now = now, (yield next_stage(now, parameters))
        if has_converged(before, now, parameters.threshold):
            return Outcome(estimate=now, converged=True)
    return Outcome(estimate=now, converged=False)


def run_schedules(
    estimates_at: Callable[[int, list[str]], Mapping[str, Estimate]],
    names: Iterable[str],
    parameters: Parameters,
) -> dict[str, Outcome]:
    """Run several measures' schedules abreast, so that each stage is sampled once for all.

    Parameters
    ----------
    estimates_at : callable
        From a number of samples, never smaller than before, and the measures that wait for it
        to their estimates.
    names : iterable of str
        The measures.
    parameters : Parameters
        The schedule of each.

    Returns
    -------
    dict of str to Outcome
        The same as if each had run alone.

    Examples
    --------
    >>> def still(n, names):
    ...     return {name: Estimate(value=np.array(1.0), stderr=np.array(0.0), n_samples=n,
    ...                            out_of_range=0.0) for name in names}
    >>> run_schedules(still, ["ei"], Parameters())["ei"].estimate.n_samples
    20000
    """
    running = {name: schedule(parameters) for name in names}
    wanted = {name: next(stages) for name, stages in running.items()}
    outcomes: dict[str, Outcome] = {}
    while wanted:
        n_samples = min(wanted.values())
        waiting = [name for name, size in wanted.items() if size == n_samples]
        estimates = estimates_at(n_samples, waiting)
        for name in waiting:
            try:
                wanted[name] = running[name].send(estimates[name])
            except StopIteration as end:
                outcomes[name] = end.value
                del wanted[name]
    return outcomes


def extrapolated(sizes: NDArray[np.int64], points: list[Estimate]) -> Estimate:
    r"""Fit a curve through estimates of a scalar, and follow it to infinitely many samples.

    Parameters
    ----------
    sizes : ndarray of int, shape (n_points,)
        Numbers of samples, growing.
    points : list of Estimate
        The estimates; each contains the samples of those before it.

    Returns
    -------
    Estimate
        :math:`a / n^e + C` at :math:`n = 10^{15}`, fitted by least squares.

    Notes
    -----
    For a given exponent the fit is linear, so only e is searched, between 0.5 and 2.
    The points share samples: the covariance of two is the variance of the longer one,
    :math:`\sigma^2 / \max(n_i, n_j)`, with :math:`\sigma^2` from the last point. C is linear in the
    points near the fit, :math:`\sum c_i V_i`, so its variance is
    :math:`\sum c_i c_j \sigma^2 / \max(n_i, n_j)`. Where a is near 0 the exponent is unknown, the
    linear error unbounded; then the error with e held, plus half of what e can move C between
    its bounds, is the smaller one, and is taken.

    Examples
    --------
    >>> n = np.arange(5, 21) * 100_000
    >>> curve = [Estimate(value=np.array(2 + 1e4 / k), stderr=np.array(0.0), n_samples=k,
    ...                   out_of_range=0.0) for k in n]
    >>> round(float(extrapolated(n, curve).value), 6)
    2.0
    """
    from scipy.optimize import minimize_scalar

    values = np.array([float(point.value) for point in points])
    # In units of the last size, so that both columns are of one order.
    scaled = sizes / sizes[-1]

    def design(e: float) -> FloatArray:
        return np.stack([scaled**-e, np.ones_like(scaled)], axis=1)

    def loss(e: float) -> float:
        """Sum of squares of the best line in n^-e: a and C follow from e by linear algebra."""
        matrix = design(e)
        residual = values - matrix @ (np.linalg.pinv(matrix) @ values)
        return float(residual @ residual)

    def limit_of(e: float) -> float:
        return float((np.linalg.pinv(design(e)) @ values)[1])

    def error(matrix: FloatArray) -> float:
        """Return the standard error of the last parameter of a linear fit."""
        weights = np.linalg.pinv(matrix)[-1]
        shared = float(sizes[-1]) / np.maximum.outer(sizes, sizes)
        return float(points[-1].stderr) * float(np.sqrt(weights @ shared @ weights))

    e = float(minimize_scalar(loss, bounds=EXPONENTS, method="bounded").x)
    a, limit = np.linalg.pinv(design(e)) @ values
    slope = -a * np.log(scaled) * scaled**-e
    held = error(design(e)) + abs(limit_of(EXPONENTS[0]) - limit_of(EXPONENTS[1])) / 2
    stderr = min(held, error(np.stack([scaled**-e, slope, np.ones_like(scaled)], axis=1)))
    return Estimate(
        value=np.asarray(a * (INFINITY / float(sizes[-1])) ** -e + limit),
        stderr=np.asarray(stderr),
        n_samples=int(sizes[-1]),
        out_of_range=points[-1].out_of_range,
    )
