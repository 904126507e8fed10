"""The exact engine: which measures it takes, alone or as a term of one that is sampled.

It takes the measures of pairs, of a span that is affine up to an elementwise function. Whether a
span is, and what its affine map and its activation are, is found by running it (``_exact/``); then
every pair's information follows from the distribution of a sum of uniforms, without samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import networkx as nx
import numpy as np

from onnx_ei._exact.terms import TERMS, exact_of
from onnx_ei._sampling.convergence import Outcome
from onnx_ei._sampling.engine import DROPPED_SHARE, SpanLike, described, source_of, warn
from onnx_ei._sampling.parameters import Parameters
from onnx_ei._sampling.progress import reporting
from onnx_ei._sampling.quantities import Counted, Quantity, quantities
from onnx_ei._sampling.source import Runner
from onnx_ei._sampling.stopping import Estimate, tolerance
from onnx_ei.errors import (
    BackendError,
    NotConvergedWarning,
    OutOfRangeWarning,
    UnsupportedModelError,
)
from onnx_ei.results import Measurement

__all__ = ["MIXED_MEASURES", "Plan", "computed", "mixed_quantities", "plan_of", "terms_of"]

MIXED_MEASURES = ("vector_and_pairwise_ei", "degeneracy", "phi")
"""Measures of a vector term, which is sampled, and of a pairwise one."""
_OWN_TERM = {"vector_and_pairwise_ei": "ei_parts", "degeneracy": "sensitivity", "phi": "ei_parts"}


class Plan(NamedTuple):
    """Which measures are computed, in whole or in part, and which are sampled.

    Attributes
    ----------
    exact : tuple of str
        Computed.
    mixed : tuple of str
        The pairwise term is computed, the vector term sampled.
    """

    exact: tuple[str, ...]
    mixed: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether anything is computed."""
        return bool(self.exact or self.mixed)


def plan_of(
    names: Iterable[str], parameters: Parameters, *, against: str, samples_given: bool
) -> Plan:
    """Say which measures the exact engine may take, before the span is known.

    Parameters
    ----------
    names : iterable of str
        The measures.
    parameters : Parameters
        ``method``, and what there is no exact form of.
    against : str
        What degeneracy subtracts.
    samples_given : bool
        Whether the caller asked for a number of samples, which ``"auto"`` takes for sampling.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If ``method="exact"`` and a measure or an argument has no exact form.

    Examples
    --------
    >>> plan_of(["ei", "ei_parts", "phi"], Parameters(), against="ei", samples_given=False)
    Plan(exact=('ei_parts',), mixed=('phi',))
    """
    listed = [names] if isinstance(names, str) else list(names)
    pairwise = {*TERMS, *(["degeneracy"] if against == "ei_parts" else [])}
    sampled = _only_sampled(parameters)
    if parameters.method == "exact":
        for name in listed:
            if name not in pairwise:
                raise ValueError(
                    f"method='exact' has no form of {name!r}: it is for "
                    f"{', '.join(map(repr, TERMS))} and for 'degeneracy' with "
                    "against='ei_parts'; use method='auto', which samples what has a vector in it"
                )
        if sampled is not None:
            raise ValueError(f"method='exact' {sampled}; or use method='sample'")
        return Plan(exact=tuple(listed), mixed=())
    if parameters.method == "sample" or samples_given or sampled is not None:
        return Plan(exact=(), mixed=())
    return Plan(
        exact=tuple(n for n in listed if n in pairwise),
        mixed=tuple(n for n in listed if n in MIXED_MEASURES and n not in pairwise),
    )


def _only_sampled(parameters: Parameters) -> str | None:
    """Say which argument there is no exact form of, and what would be one."""
    if parameters.extrapolate:
        return "needs no extrapolation, it is what extrapolate=True estimates: leave that out"
    if isinstance(parameters.out_range, str):
        return "has no out_range='dynamic', which is what samples reach: give (lower, upper)"
    if isinstance(parameters.out_bins, str):
        return "has no out_bins='dynamic': give a whole number"
    return None


def terms_of(
    plan: Plan,
    topology: nx.DiGraph[Any],
    layer: Hashable,
    parameters: Parameters,
    **where: Any,
) -> dict[str, Estimate]:
    """Compute the pairwise terms of a plan, where the span allows it.

    Parameters
    ----------
    plan : Plan
        From :func:`plan_of`.
    topology, layer
        The span's.
    parameters : Parameters
        Ranges, bins, tolerance.
    **where
        ``in_layer``, ``activation``, ``positions``, ``background`` and ``device``.

    Returns
    -------
    dict of str to Estimate
        By the measure that each is; ``stderr`` is a bound of the error. With ``method="auto"``,
        none where the span is not affine up to an elementwise function, and not those whose bound
        is larger than the error that sampling is asked for.

    Raises
    ------
    UnsupportedModelError
        With ``method="exact"``, if the span is not affine up to an elementwise function.
    """
    names = dict.fromkeys(t for name in (*plan.exact, *plan.mixed) for t in _terms(plan, name))
    auto = parameters.method == "auto"
    try:
        exact = exact_of(topology, layer, parameters, explain=not auto, **where)
    except (UnsupportedModelError, BackendError):
        # a part of the span may fail where the span does not, at inputs far out of range
        if auto and names:
            return {}
        raise
    with reporting(parameters.progress, ", ".join(names)) as progress:
        found = {name: exact.term(name, progress) for name in names}
    wide = {n for n, t in found.items() if np.any(t.stderr > tolerance(t, parameters.threshold))}
    return {name: term for name, term in found.items() if not (auto and name in wide)}


def _terms(plan: Plan, name: str) -> tuple[str, ...]:
    """Return what has to be computed of a measure."""
    if name == "degeneracy" and name in plan.exact:
        return "sensitivity", "ei_parts"
    return (_OWN_TERM.get(name, name),)


def computed(
    plan: Plan,
    terms: Mapping[str, Estimate],
    span: SpanLike,
    runner: Runner,
    parameters: Parameters,
    started: float,
) -> dict[str, Measurement]:
    """Return the measures of which nothing has to be sampled.

    Parameters
    ----------
    plan : Plan
        Names them.
    terms : mapping of str to Estimate
        From :func:`terms_of`; a measure that lacks one is left out.
    span, runner
        What was measured, and what ran it.
    parameters : Parameters
        As they were.
    started : float
        When the work began, by ``time.perf_counter``.

    Returns
    -------
    dict of str to Measurement

    Warns
    -----
    OutOfRangeWarning
        Where more than 1 % of the pre-activations' mass is out of range.
    NotConvergedWarning
        Where a bound of the error is larger than the tolerance.
    """
    source, found = source_of(span, runner, parameters), {}
    for name in plan.exact:
        own = _terms(plan, name)
        if not all(term in terms for term in own):
            continue
        estimate = _difference(*(terms[term] for term in own))
        pairs = 1 if name.endswith("_matrix") else span.n_inputs * span.n_outputs
        limit = parameters.tolerance * pairs * len(own)
        found[name] = described(
            name,
            quantities([name], replace(parameters, extrapolate=False))[name],
            span,
            source,
            Outcome(estimate=estimate, converged=bool(np.all(estimate.stderr <= limit))),
            time.perf_counter() - started,
            method="exact",
        )
    for result in found.values():
        _give_warnings(result, parameters)
    return found


def _difference(first: Estimate, second: Estimate | None = None) -> Estimate:
    """Return a term, or what it exceeds another by: their bounds add."""
    if second is None:
        return first
    return Estimate(
        value=first.value - second.value,
        stderr=first.stderr + second.stderr,
        out_of_range=max(first.out_of_range, second.out_of_range),
    )


def _give_warnings(result: Measurement, parameters: Parameters) -> None:
    what = f"{result.name} of layer {result.layer!r}"
    if result.out_of_range > DROPPED_SHARE:
        warn(
            f"{what}: {result.out_of_range:.1%} of the outputs are outside out_range "
            f"{result.out_range} and were left out; give a wider out_range",
            OutOfRangeWarning,
        )
    if not result.converged:
        worst = float(np.max(result.stderr))
        warn(
            f"{what}: the error is bounded by {worst:.2g} bits, more than tolerance="
            f"{parameters.tolerance:g} a pair: float64 cannot tell it better; method='sample' has "
            "an error of its own",
            NotConvergedWarning,
        )


def mixed_quantities(
    plan: Plan, terms: Mapping[str, Estimate], parameters: Parameters
) -> dict[str, Quantity]:
    """Return measures whose pairwise term is computed, for the sampling of their vector term.

    Parameters
    ----------
    plan : Plan
        Names them.
    terms : mapping of str to Estimate
        From :func:`terms_of`; a measure that lacks its own is left out.
    parameters : Parameters
        Of the measures.

    Returns
    -------
    dict of str to Quantity
        To be estimated from the counts of vectors alone.
    """
    own = replace(parameters, extrapolate=False)  # which no vector measure takes
    vector = quantities(["ei"], own)["ei"].estimate
    return {
        name: replace(
            quantities([name], own)[name],
            estimate=_combined(name, vector, terms[_OWN_TERM[name]]),
            vectors=True,
            pairs=False,
            sweeps=False,
        )
        for name in plan.mixed
        if _OWN_TERM[name] in terms
    }


def _combined(
    name: str, vector: Callable[[Counted], Estimate], term: Estimate
) -> Callable[[Counted], Estimate]:
    """Put a sampled EI and a computed term together."""

    def estimate(counted: Counted) -> Estimate:
        ei = vector(counted)
        out_of_range = max(ei.out_of_range, term.out_of_range)
        if name == "vector_and_pairwise_ei":
            value = np.array([ei.value, term.value])
            stderr = np.array([ei.stderr, term.stderr])
            return replace(ei, value=value, stderr=stderr, out_of_range=out_of_range)
        value = ei.value - term.value if name == "phi" else term.value - ei.value
        # the bound does not scatter: it is added in full
        stderr = ei.stderr + term.stderr
        return replace(ei, value=value, stderr=stderr, out_of_range=out_of_range)

    return estimate
