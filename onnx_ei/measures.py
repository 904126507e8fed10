"""deep_ei's measures and their kin, by name and signature: definitions only, in bits.

A span runs from the tensor that enters ``in_layer`` to the activated output of ``layer``. That
tensor is overwritten with independent uniform noise, the intervention do(L1 = H^max); what goes in
and what comes out is binned and counted.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Unpack

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.engine import GroupsArgument
from onnx_ei._sampling.parameters import Options, Range, with_options
from onnx_ei.causal_plane import degeneracy, phi, sensitivity, sensitivity_matrix
from onnx_ei.measuring import measure, measure_many, mutual_information, scalar
from onnx_ei.results import Measurement

__all__ = [
    "degeneracy",
    "ei",
    "ei_parts",
    "ei_parts_matrix",
    "eis_between_groups",
    "measure",
    "measure_many",
    "mutual_information",
    "phi",
    "sensitivity",
    "sensitivity_matrix",
    "vector_and_pairwise_ei",
]


@with_options
def ei(
    layer: Hashable,
    topology: nx.DiGraph[Any],
    threshold: float = 0.05,
    samples: int | None = None,
    batch_size: int = 20,
    in_layer: Hashable | None = None,
    in_range: Range | str | None = None,
    in_bins: int = 64,
    out_range: Range | str | None = None,
    out_bins: int | str = 64,
    activation: object = None,
    device: object = "cpu",
    **options: Unpack[Options],
) -> float:
    r"""Compute EI, the information between a span's whole input and output vectors.

    Parameters
    ----------
    {layer}
    {threshold}
    samples : int, optional
        Number of samples; automatic by default, at ``threshold`` or at 0.05.
    {common}
    {options}

    Returns
    -------
    float
        Bits, not below 0; 0 where the output is constant or nothing was in range.

    {raises}

    Notes
    -----
    :math:`EI(L_1 \to L_2) = I(L_1; L_2) \mid do(L_1 = H^{max})` [1]_. A sample with any unit out
    of range is dropped whole. While joint states are still unseen the estimate is too high, and
    follows log2(samples) rather than the layer: a coverage below 0.95 is warned of.

    {references}

    Examples
    --------
    {model}
    >>> round(ei("fc", topology_of(model), samples=20_000, **unit), 2)
    4.0
    """
    found = measure(
        "ei",
        layer,
        topology,
        threshold=threshold,
        samples=samples,
        batch_size=batch_size,
        in_layer=in_layer,
        in_range=in_range,
        in_bins=in_bins,
        out_range=out_range,
        out_bins=out_bins,
        activation=activation,
        device=device,
        **options,
    )
    return scalar(found)


@with_options
def ei_parts(
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
    **options: Unpack[Options],
) -> float:
    r"""Compute EI_parts, the information of every pair of an input and an output unit, summed.

    Parameters
    ----------
    {layer}
    {threshold}
    samples : int, optional
        Number of samples; automatic by default, at ``threshold`` or at 0.05.
    extrapolate : bool
        Fit a / n^e + C through 20 estimates, 100,000 samples apart, the first 4 left out, and
        take it at n = 1e15. Goes before ``samples``, as in deep_ei.
    {common}
    {options}

    Returns
    -------
    float
        Bits, not below 0: the sum is clipped, not its terms.

    {raises}

    Notes
    -----
    :math:`EI_{parts}(L_1 \to L_2) = \sum_{A \in L_1, B \in L_2} I(t_A; t_B) \mid do(L_1 = H^{max})`
    [1]_. A sample is dropped for the pairs whose output is out of range. With ``"plugin"`` a pair
    is about (in_bins - 1)(out_bins - 1) / (2 samples ln 2) bits too high.

    {references}

    Examples
    --------
    {model}
    >>> round(ei_parts("fc", topology_of(model), samples=20_000, **unit), 2)
    4.0
    """
    found = measure(
        "ei_parts",
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
        **options,
    )
    return scalar(found)


@with_options
def ei_parts_matrix(
    layer: Hashable,
    topology: nx.DiGraph[Any],
    samples: int | None = None,
    batch_size: int = 20,
    in_layer: Hashable | None = None,
    in_range: Range | str | None = None,
    in_bins: int = 64,
    out_range: Range | str | None = None,
    out_bins: int | str = 64,
    activation: object = None,
    device: object = "cpu",
    *,
    return_pvalues: bool = False,
    **options: Unpack[Options],
) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Compute the information of every pair of an input and an output unit.

    Parameters
    ----------
    {layer}
    samples : int, optional
        Number of samples; automatic by default, at ``threshold`` or at 0.05.
    {common}
    return_pvalues : bool
        Test every pair against independence too; sampled, even where bits could be exact.
    {options}

    Returns
    -------
    bits : ndarray of float64, shape (n_inputs, n_outputs)
        Each entry is clipped at 0.
    pvalues : ndarray of float64, shape (n_inputs, n_outputs)
        Only with ``return_pvalues``: how likely a pair of independent units is to show as much
        information, or more.

    {raises}

    Notes
    -----
    :math:`EI(A \to B) = I(t_A; t_B) \mid do(L_1 = H^{max})` [1]_: all inputs are random at once.
    Automatic sampling ends where every entry has converged. The test is the G-test, made good for
    cells that are seen seldom (:func:`onnx_ei.information.pairwise_information`): it says whether
    there is information, never how much. Of many pairs some are below any p-value by chance.

    {references}

    Examples
    --------
    {model}
    >>> ei_parts_matrix("fc", topology_of(model), samples=20_000, **unit).round(2).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    found = measure(
        "ei_parts_matrix",
        layer,
        topology,
        samples=samples,
        batch_size=batch_size,
        in_layer=in_layer,
        in_range=in_range,
        in_bins=in_bins,
        out_range=out_range,
        out_bins=out_bins,
        activation=activation,
        device=device,
        pvalues=return_pvalues,
        **options,
    )
    if found.pvalues is None:
        return np.array(found.value)
    return np.array(found.value), np.array(found.pvalues)


@with_options
def vector_and_pairwise_ei(
    layer: Hashable,
    topology: nx.DiGraph[Any],
    samples: int | None = None,
    batch_size: int = 20,
    in_layer: Hashable | None = None,
    in_range: Range | str | None = None,
    in_bins: int = 64,
    out_range: Range | str | None = None,
    out_bins: int | str = 64,
    activation: object = None,
    device: object = "cpu",
    **options: Unpack[Options],
) -> tuple[float, float]:
    r"""Compute EI and EI_parts from the same samples.

    Parameters
    ----------
    {layer}
    samples : int, optional
        Number of samples; automatic by default, at ``threshold`` or at 0.05.
    {common}
    {options}

    Returns
    -------
    tuple of float
        ``(ei, ei_parts)`` in bits, neither below 0.

    {raises}

    Notes
    -----
    See :func:`ei` and :func:`ei_parts`. Automatic sampling ends where both have converged.

    {references}

    Examples
    --------
    {model}
    >>> both = vector_and_pairwise_ei("fc", topology_of(model), samples=20_000, **unit)
    >>> [round(v, 2) for v in both]
    [4.0, 4.0]
    """
    found = measure(
        "vector_and_pairwise_ei",
        layer,
        topology,
        samples=samples,
        batch_size=batch_size,
        in_layer=in_layer,
        in_range=in_range,
        in_bins=in_bins,
        out_range=out_range,
        out_bins=out_bins,
        activation=activation,
        device=device,
        **options,
    )
    return _pair(found)


@with_options
def eis_between_groups(
    layer: Hashable,
    topology: nx.DiGraph[Any],
    groups: GroupsArgument,
    samples: int | None = None,
    batch_size: int = 20,
    in_layer: Hashable | None = None,
    in_range: Range | str | None = None,
    in_bins: int = 64,
    out_range: Range | str | None = None,
    out_bins: int | str = 64,
    activation: object = None,
    device: object = "cpu",
    **options: Unpack[Options],
) -> list[float]:
    r"""Compute EI between groups of input and of output units.

    Parameters
    ----------
    {layer}
    groups : sequence of ((inputs...), (outputs...))
        Units by index in the flattened tensors, at least one at either end of a group.
    samples : int, optional
        Number of samples; automatic by default, at ``threshold`` or at 0.05.
    {common}
    {options}

    Returns
    -------
    list of float
        Bits for each group, in their order, none below 0.

    {raises}

    Notes
    -----
    As :func:`ei`, for the vectors of a group's units; all inputs are random. A sample is
    dropped for the groups that hold a unit out of range, and for no other.

    {references}

    Examples
    --------
    {model}
    >>> groups = [((0, 1), (0,)), ((0,), (1,))]
    >>> found = eis_between_groups("fc", topology_of(model), groups, samples=20_000, **unit)
    >>> [round(v, 2) for v in found]
    [2.0, 0.0]
    """
    found = measure(
        "eis_between_groups",
        layer,
        topology,
        samples=samples,
        batch_size=batch_size,
        in_layer=in_layer,
        in_range=in_range,
        in_bins=in_bins,
        out_range=out_range,
        out_bins=out_bins,
        activation=activation,
        device=device,
        groups=groups,
        **options,
    )
    return [float(bits) for bits in np.asarray(found.value)]


def _pair(found: Measurement) -> tuple[float, float]:
    first, second = np.asarray(found.value).tolist()
    return first, second
