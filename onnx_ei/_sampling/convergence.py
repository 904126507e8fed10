"""How many samples: a fixed number, doubling until converged, or a curve to infinity."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.parameters import Parameters

__all__ = [
    "Estimate",
    "Outcome",
    "extrapolated",
    "has_converged",
    "is_hopeless",
    "run_schedules",
    "samples_to_cover",
    "schedule",
]

FIRST_STAGE = 10_000
"""Samples of the first stage of automatic sampling, as in deep_ei."""
FLOOR = 0.01
"""Bits below which a change is no change, as in deep_ei: a value near 0 has no relative error."""
FULL_COVERAGE = 0.95
"""Coverage below which a vector measure is undersampled: at 0.96 the jackknife is 0.025 bit above
a truth of 7.86, at 0.63 it is 0.37 above."""
UNRELIABLE = 0.5
"""Coverage below which a vector measure says more of the samples than of the layer."""
SLACK = 1.5
"""How far past ``max_samples`` the need of samples must lie before sampling gives up."""
POINTS = 20
INTERVAL = 100_000
LEFT_OUT = 4
INFINITY = 1e15
EXPONENTS = (0.5, 2.0)
"""Bounds of the exponent. Bias falls like 1/n once the states are seen, slower before; an
exponent near 0 would let noise carry the curve anywhere between the last point and 1e15."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one stage of sampling says, in bits; nothing clipped yet.

    Parameters
    ----------
    value, stderr : ndarray of float64
        One shape: () for a scalar measure.
    out_of_range : float
        Share of samples dropped, in [0, 1].
    coverage : ndarray of float64, optional
        Of each vector estimate.
    """

    value: FloatArray
    stderr: FloatArray
    out_of_range: float
    coverage: FloatArray | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The last estimate, the samples it took and whether it converged (None: not asked)."""

    estimate: Estimate
    n_samples: int
    converged: bool | None


def has_converged(before: Estimate, now: Estimate, threshold: float) -> bool:
    r"""Tell whether doubling the samples changed nothing that matters.

    Parameters
    ----------
    before, now : Estimate
        With half the samples, and with all.
    threshold : float
        Relative tolerance.

    Returns
    -------
    bool
        True where, for every entry, the change (either way) and the standard error are at most
        ``max(threshold * |value|, 0.01 bit)``, and no coverage is below 0.95: what more samples
        would repair should not be called converged, and an undersampled value moves with
        log2(n), which is small beside a large value.

    Examples
    --------
    >>> a, b = (Estimate(value=np.array(v), stderr=np.array(0.001), out_of_range=0.0)
    ...         for v in (1.00, 1.02))
    >>> has_converged(a, b, 0.05), has_converged(a, b, 0.01)
    (True, False)
    """
    return bool(np.all(_settled(before, now, threshold)))


def _settled(before: Estimate, now: Estimate, threshold: float) -> NDArray[np.bool_]:
    """Say of each entry whether it has converged."""
    tolerance = np.maximum(threshold * np.abs(now.value), FLOOR)
    still = np.abs(now.value - before.value) <= tolerance
    covered = True if now.coverage is None else now.coverage >= FULL_COVERAGE
    return np.asarray(still & (now.stderr <= tolerance) & covered)


def samples_to_cover(coverage: NDArray[np.float64], n_samples: int) -> NDArray[np.float64]:
    r"""Estimate how many samples would bring coverage to 0.95, if all states were equally likely.

    Parameters
    ----------
    coverage : ndarray of float64
        Coverage after ``n_samples``: 1 less the share of samples whose state was seen once.
    n_samples : int
        Samples so far.

    Returns
    -------
    ndarray of float64
        A lower bound for all other distributions: their rare states take longer.

    Notes
    -----
    Of K equally likely states, n samples see :math:`n e^{-n/K}` once, so coverage is
    :math:`1 - e^{-n/K}` (Good 1953).

    Examples
    --------
    >>> samples_to_cover(np.array([0.0, 0.5, 0.95]), 1000).round().tolist()
    [inf, 4322.0, 1000.0]
    """
    with np.errstate(divide="ignore"):
        seen = -np.log1p(-np.minimum(coverage, FULL_COVERAGE))
        return np.asarray(-np.log1p(-FULL_COVERAGE) / seen * n_samples)


def is_hopeless(
    before: Estimate | None, now: Estimate, n_samples: int, parameters: Parameters
) -> bool:
    """Tell whether more samples, up to the most allowed, cannot make a vector measure converge.

    Parameters
    ----------
    before : Estimate or None
        With half the samples, where there was such a stage.
    now : Estimate
        With all.
    n_samples : int
        Samples so far.
    parameters : Parameters
        ``max_samples`` and ``threshold``.

    Returns
    -------
    bool
        True where some entry cannot be covered and every other one has converged.

    Examples
    --------
    >>> seen_once = Estimate(value=np.array(13.3), stderr=np.array(0.0), out_of_range=0.0,
    ...                      coverage=np.array(0.0))
    >>> is_hopeless(None, seen_once, 10_000, Parameters())
    True
    """
    if now.coverage is None:
        return False
    needed = samples_to_cover(now.coverage, n_samples)
    # the coverage of a stage has an error of its own: what is near the limit goes on
    lost = needed > SLACK * parameters.max_samples
    done = False if before is None else _settled(before, now, parameters.threshold)
    return bool(np.any(lost) and np.all(lost | done))


def _stages(max_samples: int) -> Iterator[int]:
    """Yield 10,000, 20,000 ... and ``max_samples`` itself."""
    n_samples = min(FIRST_STAGE, max_samples)
    while n_samples < max_samples:
        yield n_samples
        n_samples = min(2 * n_samples, max_samples)
    yield max_samples


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
        return Outcome(estimate=estimate, n_samples=sizes[-1], converged=None)
    if parameters.samples is not None:
        estimate = yield parameters.samples
        return Outcome(estimate=estimate, n_samples=parameters.samples, converged=None)
    before: Estimate | None = None
    for n_samples in _stages(parameters.max_samples):
        now = yield n_samples
        if before is not None and has_converged(before, now, parameters.threshold):
            return Outcome(estimate=now, n_samples=n_samples, converged=True)
        if is_hopeless(before, now, n_samples, parameters):
            break
        before = now
    return Outcome(estimate=now, n_samples=n_samples, converged=False)


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
    >>> still = Estimate(value=np.array(1.0), stderr=np.array(0.0), out_of_range=0.0)
    >>> found = run_schedules(lambda n, names: dict.fromkeys(names, still), ["ei"], Parameters())
    >>> found["ei"].n_samples
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
    >>> curve = [Estimate(value=np.array(2 + 1e4 / k), stderr=np.array(0.0), out_of_range=0.0)
    ...          for k in n]
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
        out_of_range=points[-1].out_of_range,
        coverage=points[-1].coverage,
    )
