"""A measure by its name, and the mutual information of two series."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Unpack

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_ei._sampling.codes import binned
from onnx_ei._sampling.engine import DROPPED_SHARE, GroupsArgument, sample, warn
from onnx_ei._sampling.parameters import (
    OPTION_DEFAULTS,
    Options,
    Parameters,
    Range,
    Unasked,
    with_options,
)
from onnx_ei._sampling.quantities import quantities
from onnx_ei.binning import Binning
from onnx_ei.calibration import resolve_ranges
from onnx_ei.devices import parse_device
from onnx_ei.errors import CpuNodesWarning, OutOfRangeWarning, closest
from onnx_ei.exact import computed, mixed_quantities, plan_of, terms_of
from onnx_ei.histogram import joint_counts
from onnx_ei.information import DEFAULT_ESTIMATOR, information_of_counts
from onnx_ei.results import Measurement
from onnx_ei.runtime import runner
from onnx_ei.span import span_of

__all__ = ["measure", "measure_many", "mutual_information", "scalar"]


@with_options
def measure(
    name: str,
    layer: Hashable,
    topology: nx.DiGraph[Any],
    threshold: float = 0.05,
    samples: int | None = None,
    extrapolate: bool = False,
    batch_size: int = 20,
    in_layer: Hashable | None = None,
    in_range: Range | str | None = None,
    in_bins: int = 64,
    out_range: Range | str | None = None,
    out_bins: int | str = 64,
    activation: object = None,
    device: object = "cpu",
    *,
    groups: GroupsArgument | None = None,
    against: str = "ei",
    pvalues: bool = False,
    **options: Unpack[Options],
) -> Measurement:
    """Measure a span by name, with the standard error and all that is needed to judge it.

    Parameters
    ----------
    name : str
        ``"ei"``, ``"ei_parts"``, ``"ei_parts_matrix"``, ``"sensitivity"``,
        ``"sensitivity_matrix"``, ``"vector_and_pairwise_ei"``, ``"eis_between_groups"``,
        ``"degeneracy"`` or ``"phi"``.
    {layer}
    {threshold}
    samples : int, optional
        Number of samples (for each input, where one is driven at a time); automatic by default,
        for sensitivity too: what is not exact (see ``method``) is sampled to ``threshold``.
    extrapolate : bool
        As for :func:`ei_parts`, and for no other measure.
    {common}
    groups : sequence of ((inputs...), (outputs...)), optional
        For ``"eis_between_groups"`` only.
    against : str
        For ``"degeneracy"`` only: ``"ei"`` or ``"ei_parts"``.
    pvalues : bool
        For ``"ei_parts_matrix"`` only, by sampling: test every pair against independence.
    {options}

    Returns
    -------
    Measurement
        ``value`` and ``stderr`` have the shape that the function of the same name returns.

    {raises}

    {references}

    Examples
    --------
    {model}
    >>> found = measure("ei", "fc", topology_of(model), samples=20_000, **unit)
    >>> round(found.value, 2), found.n_samples, found.coverage
    (4.0, 20000, 1.0)
    """
    found = measure_many(
        (name,),
        layer,
        topology,
        threshold=threshold,
        samples=samples,
        extrapolate=extrapolate,
        batch_size=batch_size,
        in_layer=in_layer,
        in_range=in_range,
        in_bins=in_bins,
        out_range=out_range,
        out_bins=out_bins,
        activation=activation,
        device=device,
        groups=groups,
        against=against,
        pvalues=pvalues,
        **options,
    )
    return found[name]


@with_options
def measure_many(
    names: Sequence[str],
    layer: Hashable,
    topology: nx.DiGraph[Any],
    threshold: float = 0.05,
    samples: int | None = None,
    extrapolate: bool = False,
    batch_size: int = 20,
    in_layer: Hashable | None = None,
    in_range: Range | str | None = None,
    in_bins: int = 64,
    out_range: Range | str | None = None,
    out_bins: int | str = 64,
    activation: object = None,
    device: object = "cpu",
    *,
    groups: GroupsArgument | None = None,
    against: str = "ei",
    pvalues: bool = False,
    **options: Unpack[Options],
) -> dict[str, Measurement]:
    """Take several measures of a span at once: those that want the same samples share them.

    Parameters
    ----------
    names : sequence of str
        As for :func:`measure`.
    {layer}
    {threshold}
    samples : int, optional
        As for :func:`measure`. Automatic sampling ends for each measure on its own.
    extrapolate : bool
        As for :func:`measure`.
    {common}
    groups : sequence of ((inputs...), (outputs...)), optional
        For ``"eis_between_groups"`` only.
    against : str
        For ``"degeneracy"`` only: ``"ei"`` or ``"ei_parts"``.
    pvalues : bool
        As for :func:`measure`.
    {options}

    Returns
    -------
    dict of str to Measurement
        By name, in order: what :func:`measure` gives for each, but for ``seconds``, the time of
        all.

    {raises}

    {references}

    Examples
    --------
    {model}
    >>> found = measure_many(["ei", "phi"], "fc", topology_of(model), samples=20_000, **unit)
    >>> round(found["ei"].value, 2), abs(found["phi"].value) < 0.01
    (4.0, True)
    """
    where, sampling = _apart("measure_many", options)
    where |= {"in_layer": in_layer, "activation": activation}
    device = parse_device(device, sampling.pop("tf32", False))
    ranges = resolve_ranges(topology, layer, in_layer, in_range, out_range, activation)
    parameters = Parameters(
        threshold=threshold,
        samples=samples,
        extrapolate=extrapolate,
        batch_size=batch_size,
        in_range=ranges[0],
        in_bins=in_bins,
        out_range=ranges[1],
        out_bins=out_bins,
        pvalues=pvalues,
        **sampling,
    )
    # not by the parameters, which hold a plain number
    asked = pvalues or (samples is not None and not isinstance(samples, Unasked))
    return _taken(names, layer, topology, parameters, where, device, asked, groups, against)


def _apart(caller: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that say what the span is, and those of the sampling."""
    for name in options:
        if name not in Options.__annotations__:
            raise TypeError(f"{caller} has no option {name!r}; {closest(name, OPTION_DEFAULTS)}")
    where = {name: options.get(name, OPTION_DEFAULTS[name]) for name in ("positions", "background")}
    return where, {name: value for name, value in options.items() if name not in where}


def _taken(
    names: Sequence[str],
    layer: Hashable,
    topology: nx.DiGraph[Any],
    parameters: Parameters,
    where: dict[str, Any],
    device: object,
    asked: bool,
    groups: GroupsArgument | None,
    against: str,
) -> dict[str, Measurement]:
    """Take the measures of a span: those that can be computed by the plan, then the others."""
    # Before the span: a wrong name should not wait for a model to be cut.
    wanted = list(quantities(names, parameters, groups=groups, against=against))
    if parameters.pvalues:
        _check_tested(wanted, parameters.method)
    plan = plan_of(wanted, parameters, against=against, samples_given=asked)
    span = span_of(topology, layer, **where)
    run = runner(span, device)
    if run.remark is not None:
        warn(run.remark, CpuNodesWarning)
    started = time.perf_counter()
    terms = terms_of(plan, topology, layer, parameters, device=device, **where) if plan else {}
    found = computed(plan, terms, span, run, parameters, started)
    rest = [name for name in wanted if name not in found]
    if rest:
        found |= sample(
            rest,
            span,
            run,
            parameters,
            groups=groups,
            against=against if "degeneracy" in rest else "ei",
            mixed=mixed_quantities(plan, terms, parameters),
        )
    return {name: found[name] for name in wanted}


def mutual_information(
    x: ArrayLike,
    y: ArrayLike,
    bins: int | tuple[int, int] = 32,
    range: tuple[Range, Range] = ((0, 1), (0, 1)),
    *,
    estimator: str = DEFAULT_ESTIMATOR,
) -> float:
    r"""Estimate the mutual information of two series.

    Parameters
    ----------
    x, y : array_like of float, shape (n_samples,)
        The series: arrays, lists or tensors.
    bins : int or (int, int)
        Equal-width bins, of both or of each.
    range : ((float, float), (float, float))
        Closed ranges of ``x`` and of ``y``.
    estimator : str
        One of ``onnx_ei.estimators.ESTIMATORS``.

    Returns
    -------
    float
        Bits, not below 0; 0 where nothing is in range.

    Raises
    ------
    ValueError
        If the series are not one-dimensional or differ in length, a range or a number of bins is
        out of bounds, or the estimator is unknown.

    Warns
    -----
    OutOfRangeWarning
        Where more than 1 % of the samples are out of range, or NaN, and were dropped.

    Notes
    -----
    :math:`I(X; Y) = \sum p(x, y) \log_2 \frac{p(x, y)}{p(x) p(y)}` over the bins. The plug-in is
    about (bins_x - 1)(bins_y - 1) / (2 n ln 2) bits too high where the series are independent.

    Examples
    --------
    >>> x = np.linspace(0, 1, 9999)
    >>> round(mutual_information(x, 1 - x, bins=4), 2)
    2.0
    """
    columns = [_series(name, values) for name, values in (("x", x), ("y", y))]
    if columns[0].size != columns[1].size:
        raise ValueError(
            f"x and y must be of one length, got {columns[0].size} and {columns[1].size}"
        )
    each = bins if isinstance(bins, tuple) else (bins, bins)
    codes = [
        binned(column[:, None], Binning.uniform(1, limits, n_bins))[0]
        for column, limits, n_bins in zip(columns, range, each, strict=True)
    ]
    counts = joint_counts(codes[0], codes[1], *each)
    bits, _ = information_of_counts(counts, estimator)
    dropped = 1.0 - counts.sum() / max(1, columns[0].size)
    if columns[0].size and dropped > DROPPED_SHARE:
        warn(
            f"mutual_information: {dropped:.1%} of the samples fell outside range {range} (or were "
            "NaN) and were dropped; give a wider range",
            OutOfRangeWarning,
        )
    return max(bits, 0.0)


def _check_tested(names: Sequence[str], method: str) -> None:
    """Refuse to test what is no matrix of sampled pairs."""
    for name in names:
        if name != "ei_parts_matrix":
            raise ValueError(f"pvalues=True is for 'ei_parts_matrix' only, not for {name!r}")
    if method == "exact":
        raise ValueError("pvalues=True is for method 'sample' only: exact bits need no test")


def scalar(found: Measurement) -> float:
    """Return the value of a scalar measure.

    Parameters
    ----------
    found : Measurement
        Its value is one number.

    Returns
    -------
    float

    Examples
    --------
    See :func:`onnx_ei.measures.ei`.
    """
    return float(np.asarray(found.value))


def _series(name: str, values: Any) -> NDArray[np.float64]:
    """Return a series as an array; a torch tensor is cut from its graph and brought to the CPU."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    return array
