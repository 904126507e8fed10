"""What is said of a measurement: its warnings, and what can be estimated where it cannot."""

from __future__ import annotations

import inspect
import math
import warnings

import numpy as np

from onnx_ei._sampling.parameters import Parameters
from onnx_ei._sampling.stopping import Estimate, Z, tolerance
from onnx_ei._sampling.vectors import ERRORS
from onnx_ei.errors import NotConvergedWarning, OutOfRangeWarning, UndersampledWarning
from onnx_ei.results import FULL_COVERAGE, UNRELIABLE, Measurement

__all__ = ["DROPPED_SHARE", "give_warnings", "instead", "upper_bounds", "warn"]

DROPPED_SHARE = 0.01
"""Share of dropped samples past which an OutOfRangeWarning is given."""
GROUPS_NAMED = 3
"""Undersampled groups that a note names; ``upper_bound`` has them all."""
COUNTLESS = 1e15


def instead(name: str, estimate: Estimate) -> tuple[str, ...]:
    """Say what can be estimated where a vector's states were not seen.

    Parameters
    ----------
    name : str
        The measure.
    estimate : Estimate
        Of its last stage.

    Returns
    -------
    tuple of str
        What bounds the truth, how many samples would do, and smaller questions; empty where the
        states were seen.

    Examples
    --------
    >>> instead("ei_parts", Estimate(value=np.array(1.0), stderr=np.array(0.1), n_samples=100,
    ...                              out_of_range=0.0))
    ()
    """
    unseen = [i for i, v in enumerate(estimate.vectors) if v.coverage < FULL_COVERAGE]
    if not unseen:
        return ()
    groups = name == "eis_between_groups"
    smaller = "smaller groups of units" + ("" if groups else " (eis_between_groups)")
    return (
        _bounds(name, estimate, unseen),
        f"{_need(estimate)} would cover {FULL_COVERAGE} of the joint states",
        f"fewer bins or {smaller} need fewer samples",
    )


def upper_bounds(name: str, estimate: Estimate) -> list[float] | None:
    """Return what the truth of each vector's value does not exceed.

    Parameters
    ----------
    name : str
        The measure.
    estimate : Estimate
        Of its last stage.

    Returns
    -------
    list of float or None
        Bits. Of phi EI's bound less EI_parts, which has its error; None for degeneracy, which EI
        bounds from below.

    Examples
    --------
    Called by :func:`onnx_ei._sampling.engine.sample`.
    """
    bounds = [vector.upper_bound for vector in estimate.vectors]
    if name == "degeneracy":
        return None
    return [bounds[0] - _other(estimate, 1)] if name == "phi" else bounds


def _other(estimate: Estimate, sign: int) -> float:
    """Return a bound from below of the measure that EI is compared with.

    It is EI - phi or EI + degeneracy; its own standard error is at most the sum of theirs.
    """
    found = estimate.vectors[0].information
    error = ERRORS * (float(estimate.stderr) + found.stderr)
    return found.bits - sign * float(estimate.value) - error


def _bounds(name: str, estimate: Estimate, unseen: list[int]) -> str:
    """Say what the truth does not exceed."""
    bounds = upper_bounds(name, estimate)
    vector = estimate.vectors[0]
    if bounds is None:
        return f"{name} is at least {_other(estimate, -1) - vector.upper_bound:.2f} bits"
    if name == "eis_between_groups":
        named = ", ".join(f"{bounds[i]:.2f} bits in groups[{i}]" for i in unseen[:GROUPS_NAMED])
        more = len(unseen) - GROUPS_NAMED
        return f"EI is at most {named}" + (f" (and {more} more groups)" if more > 0 else "")
    end = "output" if vector.out_bits < vector.in_bits else "input"
    what = "phi" if name == "phi" else "EI"
    beyond = ", less than the value" if float(estimate.value.flat[0]) > bounds[0] else ""
    return f"{what} is at most {bounds[0]:.2f} bits by the entropy of the {end} units{beyond}"


def _need(estimate: Estimate) -> str:
    """Say how many samples would cover the vector that needs most."""
    least, likely = (float(np.max(need)) for need in estimate.needed())
    # where every sample was dropped
    if not math.isfinite(least):
        return "samples that are in range, of which there were none,"
    if likely > COUNTLESS:
        return f"at least {_rounded(least)} samples"
    if likely < 1.1 * least:
        return f"{_rounded(least)} samples or more"
    return f"about {_rounded(likely)} samples (at least {_rounded(least)})"


def _rounded(number: float) -> str:
    """Return two digits of a number of samples: it is not known better."""
    return f"{int(float(f'{number:.1e}')):,}"


def give_warnings(result: Measurement, estimate: Estimate, parameters: Parameters) -> None:
    """Warn of what makes a value less than it looks.

    Parameters
    ----------
    result : Measurement
        The value.
    estimate : Estimate
        What it was made of.
    parameters : Parameters
        What was asked for.

    Warns
    -----
    OutOfRangeWarning, UndersampledWarning, NotConvergedWarning

    Examples
    --------
    Called by :func:`onnx_ei._sampling.engine.sample`.
    """
    what = f"{result.name} of layer {result.layer!r}"
    if result.out_of_range > DROPPED_SHARE:
        warn(
            f"{what}: {result.out_of_range:.1%} of the samples fell outside out_range "
            f"{result.out_range} (or were NaN) and were dropped; give a wider out_range, "
            "or out_range='dynamic'",
            OutOfRangeWarning,
        )
    coverage = float(np.min(1.0 if result.coverage is None else result.coverage))
    if coverage < FULL_COVERAGE:
        word = "biased" if np.all(result.reliable) else "unreliable"
        warn(
            f"{what}: the value is {word}, {result.n_samples} samples cover only {coverage:.2f} "
            f"of the joint states (biased below {FULL_COVERAGE}, unreliable below {UNRELIABLE}); "
            + "; ".join(result.notes),
            UndersampledWarning,
        )
    if result.converged is False:
        warn(f"{what}: {_unconverged(estimate, parameters)}", NotConvergedWarning)


def _unconverged(estimate: Estimate, parameters: Parameters) -> str:
    """Say why automatic sampling stopped before it converged, and what would help."""
    most = parameters.max_samples
    if estimate.n_samples < most:
        return (
            f"stopped after {estimate.n_samples} samples, since max_samples={most} cannot reach "
            f"threshold={parameters.threshold:g}: {_need(estimate)} are needed to cover the joint "
            "states; raise max_samples, use fewer bins, or smaller groups of units"
        )
    wanted = tolerance(estimate, parameters.threshold)
    short = Z * np.asarray(estimate.stderr) / wanted
    why = "the value still moves with the number of samples"
    if not np.all(estimate.covered):
        why = f"{_need(estimate)} are needed to cover the joint states"
    elif np.any(short > 1):
        worst = np.unravel_index(np.argmax(short), short.shape)
        why = (
            f"the 95 % interval is ± {Z * estimate.stderr[worst]:.2g} bits, ± {wanted[worst]:.2g} "
            f"is asked for, which takes about {_rounded(most * float(short[worst]) ** 2)} samples"
        )
    return (
        f"not converged to threshold={parameters.threshold:g} after max_samples={most} samples: "
        f"{why}; raise either, or give samples"
    )


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line outside this package that asked.

    Parameters
    ----------
    message : str
        What is said.
    category : type of Warning
        Its class.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("x", UserWarning)
    >>> str(caught[0].message)
    'x'
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "onnx_ei":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=max(level, 1))
