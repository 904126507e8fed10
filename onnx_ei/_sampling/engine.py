"""One measure of one span: sampled as the parameters say, described, and warned of."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from onnx_ei._sampling.convergence import (
    FULL_COVERAGE,
    UNRELIABLE,
    Estimate,
    Outcome,
    run_schedules,
    samples_to_cover,
)
from onnx_ei._sampling.parameters import Parameters, Range, whole
from onnx_ei._sampling.progress import Progress, reporting
from onnx_ei._sampling.quantities import Counted, Quantity, quantities
from onnx_ei._sampling.source import Runner, Source
from onnx_ei._sampling.sweeping import SweepSampler
from onnx_ei.errors import (
    NotConvergedWarning,
    OutOfRangeWarning,
    UndersampledWarning,
    UnsupportedModelError,
)
from onnx_ei.results import Measurement
from onnx_ei.sampling import ALL, Group, JointSampler

__all__ = [
    "DROPPED_SHARE",
    "FULL_COVERAGE",
    "GroupsArgument",
    "SpanLike",
    "check_groups",
    "sample",
    "warn",
]

GroupsArgument: TypeAlias = Iterable[tuple[Iterable[int], Iterable[int]]]
DROPPED_SHARE = 0.01
"""Share of dropped samples past which an OutOfRangeWarning is given."""


class SpanLike(Protocol):
    """What the engine needs to know of a span."""

    @property
    def layer(self) -> Hashable:
        """Key of the last layer."""
        ...

    @property
    def in_layer(self) -> Hashable:
        """Key of the first layer."""
        ...

    @property
    def n_inputs(self) -> int:
        """Units that the noise overwrites."""
        ...

    @property
    def n_outputs(self) -> int:
        """Units of the activated output."""
        ...

    @property
    def in_range(self) -> Range:
        """Default range of an input."""
        ...

    @property
    def out_range(self) -> Range:
        """Default range of an output."""
        ...

    @property
    def batched(self) -> bool:
        """Whether many samples run at once."""
        ...

    @property
    def positions(self) -> str:
        """``"one"`` or ``"all"``."""
        ...


def sample(
    names: Sequence[str],
    span: SpanLike,
    runner: Runner,
    parameters: Parameters,
    *,
    groups: GroupsArgument | None = None,
    against: str = "ei",
) -> dict[str, Measurement]:
    """Take measures of a span by sampling; those that want the same samples share them.

    Parameters
    ----------
    names : sequence of str
        From ``MEASURES``.
    span : Span
        Units, default ranges and keys.
    runner : Runner
        Runs the span.
    parameters : Parameters
        How to sample and bin.
    groups : iterable of ((inputs...), (outputs...)), optional
        For ``"eis_between_groups"``.
    against : str
        For ``"degeneracy"``: ``"ei"`` or ``"ei_parts"``.

    Returns
    -------
    dict of str to Measurement
        What each measure alone would give.

    Raises
    ------
    TypeError, ValueError
        If a name or a group is wrong.
    UnsupportedModelError
        If the exact engine is asked for.

    Warns
    -----
    OutOfRangeWarning, UndersampledWarning, NotConvergedWarning
        Each at most once a measure, at the line of the user's that called.

    Examples
    --------
    See :func:`onnx_ei.measures.measure`.
    """
    started = time.perf_counter()
    wanted = quantities(names, parameters, groups=groups, against=against)
    if parameters.method == "exact":
        raise UnsupportedModelError(
            f"method='exact': the exact engine is not available for layer {span.layer!r} yet; "
            "use method='sample' or 'auto'"
        )
    source = _source(span, runner, parameters)
    units = [] if groups is None else check_groups(groups, span.n_inputs, span.n_outputs)
    with reporting(parameters.progress, ", ".join(wanted)) as progress:
        stages = _Stages(wanted, source, units, progress)
        outcomes = run_schedules(stages.estimates_at, wanted, parameters)
    seconds = time.perf_counter() - started
    found = {
        name: _measurement(name, wanted[name], span, source, outcomes[name], seconds)
        for name in wanted
    }
    for result in found.values():
        _give_warnings(result, parameters)
    return found


def check_groups(groups: GroupsArgument, n_inputs: int, n_outputs: int) -> list[Group]:
    """Turn groups of units into arrays of indices, or say what is wrong with which.

    Parameters
    ----------
    groups : iterable of ((inputs...), (outputs...))
        At least one, each with at least one unit at either end.
    n_inputs, n_outputs : int
        Units that there are.

    Returns
    -------
    list of (ndarray, ndarray)

    Raises
    ------
    TypeError
        If a group is not a pair of sequences of whole numbers.
    ValueError
        If there are no groups, one is empty, or an index is out of range.

    Examples
    --------
    >>> [(i.tolist(), o.tolist()) for i, o in check_groups([((0, 2), (1,))], 3, 2)]
    [([0, 2], [1])]
    """
    try:
        listed = [tuple(tuple(units) for units in group) for group in groups]
    except TypeError:
        raise TypeError(
            f"groups must be [((inputs...), (outputs...)), ...], got {groups!r}"
        ) from None
    if not listed:
        raise ValueError("groups must hold at least one group ((inputs...), (outputs...))")
    checked: list[Group] = []
    for index, group in enumerate(listed):
        if len(group) != 2:
            raise TypeError(f"groups[{index}] must be ((inputs...), (outputs...)), got {group!r}")
        ends = []
        for units, n_units, end in zip(
            group, (n_inputs, n_outputs), ("input", "output"), strict=True
        ):
            if not units:
                raise ValueError(f"groups[{index}] has no {end} units")
            for unit in units:
                number = whole(f"groups[{index}]: an {end} unit", unit, -(1 << 62))
                if not 0 <= number < n_units:
                    raise ValueError(
                        f"groups[{index}]: {end} unit {number} is out of range, "
                        f"the span has {n_units} (0 to {n_units - 1})"
                    )
            ends.append(np.array(units, np.intp))
        checked.append((ends[0], ends[1]))
    return checked


def _source(span: SpanLike, runner: Runner, parameters: Parameters) -> Source:
    """Put the span's default ranges where the user gave none."""
    return Source(
        runner=runner,
        n_inputs=span.n_inputs,
        n_outputs=span.n_outputs,
        in_range=span.in_range if parameters.in_range is None else parameters.in_range,
        out_range=span.out_range if parameters.out_range is None else parameters.out_range,
        parameters=parameters,
    )


class _Stages:
    """Counts, stage by stage, what the measures that still run need."""

    def __init__(
        self,
        wanted: Mapping[str, Quantity],
        source: Source,
        groups: Sequence[Group],
        progress: Progress,
    ) -> None:
        self._wanted = wanted
        self._whole = any(q.vectors for q in wanted.values())
        pairs = any(q.pairs for q in wanted.values())
        vectors = [*([(ALL, ALL)] if self._whole else []), *groups]
        self._joint = JointSampler(source, pairs=pairs, groups=vectors, progress=progress)
        self._sweep = SweepSampler(source, progress)

    def estimates_at(self, n_samples: int, names: Sequence[str]) -> dict[str, Estimate]:
        """Return the estimates of some measures from the first ``n_samples``."""
        asked = [self._wanted[name] for name in names]
        pairs = any(q.pairs for q in asked)
        vectors = any(q.vectors or q.groups for q in asked)
        if pairs or vectors:
            self._joint.grow(n_samples)
        found = self._joint.vectors() if vectors else []
        counted = Counted(
            n_samples=n_samples,
            pairs=self._joint.pairwise() if pairs else None,
            vectors=found[0] if found and self._whole else None,
            groups=found[1:] if self._whole else found,
            sweeps=self._sweep.at(n_samples) if any(q.sweeps for q in asked) else None,
        )
        return {name: self._wanted[name].estimate(counted) for name in names}


def _measurement(
    name: str,
    quantity: Quantity,
    span: SpanLike,
    source: Source,
    outcome: Outcome,
    seconds: float,
) -> Measurement:
    """Clip, shape and describe an outcome."""
    estimate, parameters = outcome.estimate, source.parameters
    value = estimate.value if quantity.signed else np.maximum(estimate.value, 0.0)
    coverage = estimate.coverage
    return Measurement(
        name=name,
        value=quantity.shape(value),
        stderr=quantity.shape(estimate.stderr),
        n_samples=outcome.n_samples,
        estimator=parameters.estimator,
        method="sample",
        out_of_range=min(max(estimate.out_of_range, 0.0), 1.0),
        coverage=None if coverage is None else coverage.tolist(),
        converged=outcome.converged,
        provider=source.runner.provider,
        seconds=seconds,
        seed=parameters.seed,
        layer=span.layer,
        in_layer=span.in_layer,
        n_inputs=span.n_inputs,
        n_outputs=span.n_outputs,
        in_range=source.in_range,
        out_range=source.out_range,
        in_bins=parameters.in_bins,
        out_bins=parameters.out_bins,
        positions=span.positions,
        batched=span.batched,
    )


def _give_warnings(result: Measurement, parameters: Parameters) -> None:
    """Say what makes the value less than it looks."""
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
        word = "unreliable" if coverage < UNRELIABLE else "biased"
        warn(
            f"{what}: the value is {word}, {result.n_samples} samples cover only {coverage:.2f} "
            f"of the joint states (biased below {FULL_COVERAGE}, unreliable below {UNRELIABLE}); "
            "take more samples, fewer bins, or smaller groups of units",
            UndersampledWarning,
        )
    if result.converged is False:
        warn(f"{what}: {_unconverged(result, parameters)}", NotConvergedWarning)


def _unconverged(result: Measurement, parameters: Parameters) -> str:
    """Say why automatic sampling stopped before it converged, and what would help."""
    if result.n_samples < parameters.max_samples and result.coverage is not None:
        least = samples_to_cover(np.array(result.coverage), result.n_samples).max()
        need = f"at least {least:.1g}" if np.isfinite(least) else "far more"
        return (
            f"stopped after {result.n_samples} samples, {need} are needed to cover the joint "
            f"states and max_samples={parameters.max_samples}; use fewer bins, or smaller groups "
            "of units"
        )
    return (
        f"not converged to threshold={parameters.threshold} after max_samples="
        f"{parameters.max_samples} samples; raise either, or give samples"
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
