"""One measure of one span: sampled as the parameters say, described, and warned of."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from onnx_ei._sampling.convergence import Outcome, run_schedules
from onnx_ei._sampling.parameters import Parameters, Range, whole
from onnx_ei._sampling.progress import Progress, reporting
from onnx_ei._sampling.quantities import Counted, Quantity, quantities
from onnx_ei._sampling.remarks import (
    DROPPED_SHARE,
    give_warnings,
    instead,
    upper_bounds,
    warn,
)
from onnx_ei._sampling.source import Runner, Source
from onnx_ei._sampling.stopping import Estimate
from onnx_ei._sampling.sweeping import SweepSampler
from onnx_ei.results import Measurement
from onnx_ei.sampling import ALL, Group, JointSampler

__all__ = [
    "DROPPED_SHARE",
    "GroupsArgument",
    "SpanLike",
    "check_groups",
    "described",
    "sample",
    "source_of",
    "warn",
]

GroupsArgument: TypeAlias = Iterable[tuple[Iterable[int], Iterable[int]]]


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
    mixed: Mapping[str, Quantity] | None = None,
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
    mixed : mapping of str to Quantity, optional
        Measures whose pairwise term is computed: they count vectors alone.

    Returns
    -------
    dict of str to Measurement
        What each measure alone would give.

    Raises
    ------
    TypeError, ValueError
        If a name or a group is wrong.

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
    wanted |= mixed or {}
    source = source_of(span, runner, parameters)
    units = [] if groups is None else check_groups(groups, span.n_inputs, span.n_outputs)
    with reporting(parameters.progress, ", ".join(wanted)) as progress:
        stages = _Stages(wanted, source, units, progress)
        outcomes = run_schedules(stages.estimates_at, wanted, parameters)
    seconds = time.perf_counter() - started
    found = {
        name: described(
            name, wanted[name], span, source, outcomes[name], seconds,
            method="sample+exact" if name in (mixed or {}) else "sample",
        )
        for name in wanted
    }  # fmt: skip
    for name, result in found.items():
        give_warnings(result, outcomes[name].estimate, parameters)
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


def source_of(span: SpanLike, runner: Runner, parameters: Parameters) -> Source:
    """Put the span's default ranges where the user gave none.

    Parameters
    ----------
    span : Span
        Units and default ranges.
    runner : Runner
        Runs the span.
    parameters : Parameters
        What the user gave.

    Returns
    -------
    Source

    Examples
    --------
    Called by :func:`sample`.
    """
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
        self._joint = JointSampler(
            source,
            pairs=pairs,
            groups=vectors,
            progress=progress,
            matrix="ei_parts_matrix" in wanted,
        )
        # Made where it is asked for: its binnings take 30 us, 1 % of a small layer's whole call.
        self._sweep: SweepSampler | None = None
        if any(q.sweeps for q in wanted.values()):
            self._sweep = SweepSampler(source, progress, matrix="sensitivity_matrix" in wanted)

    def estimates_at(self, n_samples: int, names: Sequence[str]) -> dict[str, Estimate]:
        """Return the estimates of some measures from the first ``n_samples``."""
        asked = [self._wanted[name] for name in names]
        pairs = any(q.pairs for q in asked)
        vectors = any(q.vectors or q.groups for q in asked)
        sweeps = any(q.sweeps for q in asked)
        if pairs or vectors:
            self._joint.grow(n_samples)
        found = self._joint.vectors() if vectors else []
        counted = Counted(
            n_samples=n_samples,
            pairs=self._joint.pairwise() if pairs else None,
            vectors=found[0] if found and self._whole else None,
            groups=found[1:] if self._whole else found,
            sweeps=self._sweep.at(n_samples) if self._sweep and sweeps else None,
        )
        return {name: self._wanted[name].estimate(counted) for name in names}


def described(
    name: str,
    quantity: Quantity,
    span: SpanLike,
    source: Source,
    outcome: Outcome,
    seconds: float,
    *,
    method: str,
) -> Measurement:
    """Clip, shape and describe an outcome.

    Parameters
    ----------
    name, quantity
        The measure.
    span, source
        Of what, and from which noise.
    outcome : Outcome
        Its last estimate.
    seconds : float
        The time it took.
    method : str
        ``"sample"``, ``"exact"`` or ``"sample+exact"``.

    Returns
    -------
    Measurement

    Examples
    --------
    Called by :func:`sample`.
    """
    estimate, parameters = outcome.estimate, source.parameters
    value = estimate.value if quantity.signed else np.maximum(estimate.value, 0.0)
    return Measurement(
        name=name,
        value=quantity.shape(value),
        stderr=quantity.shape(estimate.stderr),
        n_samples=estimate.n_samples,
        estimator="exact" if method == "exact" else parameters.estimator,
        method=method,
        out_of_range=min(max(estimate.out_of_range, 0.0), 1.0),
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
        notes=instead(name, estimate),
        pvalues=estimate.pvalues,
        **_judged(name, estimate),
    )


def _judged(name: str, estimate: Estimate) -> dict[str, Any]:
    """Return the fields that judge vectors: of the only one, or lists over the groups."""
    vectors = estimate.vectors
    if not vectors:
        return {"coverage": None}
    fields: dict[str, list[Any]] = {
        "coverage": [v.coverage for v in vectors],
        "singletons": [v.information.singletons for v in vectors],
        "n_states": [v.information.n_states for v in vectors],
        "saturation": [v.saturation for v in vectors],
        "upper_bound": upper_bounds(name, estimate) or [None],
    }
    if name == "eis_between_groups":
        return dict(fields)
    return {field: given[0] for field, given in fields.items()}
