"""How many samples would cover a vector's states, from how its states turned up so far."""

from __future__ import annotations

import math

from onnx_ei.results import FULL_COVERAGE

__all__ = ["least_samples", "likely_samples"]

LEFT = 1 - FULL_COVERAGE
"""The share of the states' probability that may stay unseen."""
STEPS = 60
"""Halvings of the search for the spread: from 37 decades to the last bit of a float."""
WIDEST = 25.0


def least_samples(n_kept: int, singletons: int) -> float:
    r"""Return how many samples cover 0.95 of the states if all are equally likely.

    Parameters
    ----------
    n_kept : int
        Samples so far.
    singletons : int
        States seen once.

    Returns
    -------
    float
        Samples in all, not in addition. Any other distribution takes more: its rare states wait
        longer. Infinite where no sample was kept.

    Notes
    -----
    Of K equally likely states, n samples see :math:`n e^{-n/K}` once, so the share of the states'
    probability that is still unseen, by Good's estimate ``singletons / n`` [1]_, is
    :math:`e^{-n/K}`. Where none was seen twice, K is above :math:`n^2 / 6` in 95 % of cases: fewer
    would collide in n (n - 1) / 2 pairs of samples.

    References
    ----------
    .. [1] Good, "The population frequencies of species and the estimation of population
       parameters", Biometrika 40(3-4), 1953.

    Examples
    --------
    >>> [round(least_samples(1000, seen_once)) for seen_once in (500, 50, 10)]
    [4322, 1000, 651]
    >>> round(least_samples(1000, 1000))
    499289
    """
    if n_kept == 0:
        return math.inf
    if singletons == 0:
        return float(n_kept)
    if singletons == n_kept:
        return -math.log(LEFT) * max(n_kept * n_kept / 6, 1.0)
    return n_kept * math.log(LEFT) / math.log(singletons / n_kept)


def likely_samples(n_kept: int, singletons: int, n_states: int) -> float:
    r"""Estimate how many samples cover 0.95 of the states, from how coverage has grown.

    Parameters
    ----------
    n_kept : int
        Samples so far.
    singletons : int
        States seen once.
    n_states : int
        States seen.

    Returns
    -------
    float
        Samples in all. Between 0.37 and 4 times the truth from 10,000 samples on, for states of
        sigmoid layers, and equally likely, log-normal and Zipfian ones.

    Notes
    -----
    Let D(n) be the unseen share after n samples. Its end is known, :math:`D(n) = f_1 / n`, and its
    mean along the way, since each new state adds one to those seen: :math:`S(n) = \int_0^n D`.
    Where states occur at rates drawn from a gamma distribution,
    :math:`D(n) = (1 + n / \beta)^{-a}`, and both numbers together give a and :math:`\beta`.
    Of rates that are more even than any gamma distribution's the curve is
    :func:`least_samples`'s.

    Whether rates differ is told by states seen three times and more, of which there may be few:
    m = f_1 - 2 S + n, the sum over the states of how often each was seen past twice (singletons
    aside), so S is raised by :math:`\sqrt{m + 1}`, two standard errors of it, before the fit. What
    comes out still ends too high where a long tail ends, since a gamma distribution's does not;
    the result is its geometric mean with :func:`least_samples`, which is always too low.

    Examples
    --------
    >>> round(likely_samples(10_000, 7788, 8848))  # 40,000 equally likely states: 119,829
    119829
    >>> # 20,000 states by Zipf's law: 114,000
    >>> round(least_samples(10_000, 2342)), round(likely_samples(10_000, 2342, 3305))
    (20638, 141098)
    """
    least = least_samples(n_kept, singletons)
    if not 0 < singletons < n_kept:
        return least
    past_twice = max(0, singletons - 2 * n_states + n_kept)
    unseen = -math.log(singletons / n_kept)
    mean = (n_states + math.sqrt(past_twice + 1)) / n_kept
    if mean >= -math.expm1(-unseen) / unseen:
        return least
    low, high = -WIDEST, WIDEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _mean_unseen(math.exp(middle), unseen) > mean:
            low = middle
        else:
            high = middle
    spread = math.exp((low + high) / 2)
    exponent = unseen / math.log1p(spread)
    with_tail = -math.log(LEFT) / exponent
    # past e^700 it is more than can be drawn in any case
    needed = n_kept * math.expm1(min(with_tail, 700.0)) / spread
    return math.sqrt(least * max(least, needed))


def _mean_unseen(spread: float, unseen: float) -> float:
    """Return the mean of (1 + spread t)^-a for t from 0 to 1, where it ends at e^-unseen."""
    rest = 1 - unseen / math.log1p(spread)
    if abs(rest) < 1e-9:
        return math.log1p(spread) / spread
    return math.expm1(rest * math.log1p(spread)) / (rest * spread)
