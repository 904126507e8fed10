"""Sensitivity and degeneracy, the axes of the causal plane, and phi: definitions only, in bits."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Unpack

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.parameters import SWEEP_SAMPLES, Options, Range, with_options
from onnx_ei.measuring import measure, scalar

__all__ = ["degeneracy", "phi", "sensitivity", "sensitivity_matrix"]


@with_options
def sensitivity(
    layer: Hashable,
    topology: nx.DiGraph[Any],
    samples: int | None = SWEEP_SAMPLES,
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
    r"""Compute sensitivity: every pair's information, one input random at a time, summed.

    Parameters
    ----------
    {layer}
    samples : int or None
        Number of samples for each input; None for automatic, at a threshold of 0.05. The default
        is deep_ei's, for where the value is not exact; a number that is given means sampling.
    {common}
    {options}

    Returns
    -------
    float
        Bits, not below 0.

    {raises}

    Notes
    -----
    :math:`S(L_1 \to L_2) = \sum_{A \in L_1, B \in L_2} I(t_A; t_B) \mid do(A = H^{max})` [1]_, the
    other inputs held at 0 (as in deep_ei, even where 0 is an end of their range). The noise is
    independent of that of EI.

    {references}

    Examples
    --------
    {model}
    >>> round(sensitivity("fc", topology_of(model), samples=20_000, **unit), 2)
    4.0
    """
    found = measure(
        "sensitivity",
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
    return scalar(found)


@with_options
def sensitivity_matrix(
    layer: Hashable,
    topology: nx.DiGraph[Any],
    samples: int | None = SWEEP_SAMPLES,
    batch_size: int = 20,
    in_layer: Hashable | None = None,
    in_range: Range | str | None = None,
    in_bins: int = 64,
    out_range: Range | str | None = None,
    out_bins: int | str = 64,
    activation: object = None,
    device: object = "cpu",
    **options: Unpack[Options],
) -> NDArray[np.float64]:
    r"""Compute every pair's information, one input random at a time.

    Parameters
    ----------
    {layer}
    samples : int or None
        Number of samples for each input; None for automatic, at a threshold of 0.05. The default
        is deep_ei's, for where the value is not exact; a number that is given means sampling.
    {common}
    {options}

    Returns
    -------
    ndarray of float64, shape (n_inputs, n_outputs)
        Bits; each entry is clipped at 0.

    {raises}

    Notes
    -----
    :math:`S(A \to B) = I(t_A; t_B) \mid do(A = H^{max})` [1]_, the other inputs held at 0.

    {references}

    Examples
    --------
    {model}
    >>> sensitivity_matrix("fc", topology_of(model), samples=20_000, **unit).round(2).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    found = measure(
        "sensitivity_matrix",
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
    return np.array(found.value)


@with_options
def degeneracy(
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
    *,
    against: str = "ei",
    **options: Unpack[Options],
) -> float:
    r"""Compute degeneracy: what a span's edges transmit one at a time and lose together.

    Parameters
    ----------
    {layer}
    {threshold}
    samples : int, optional
        Number of samples; automatic by default, at ``threshold`` or at 0.05.
    {common}
    against : str
        What is subtracted: ``"ei"`` or ``"ei_parts"``.
    {options}

    Returns
    -------
    float
        Bits; may be negative, by noise or where inputs gate each other.

    {raises}

    Notes
    -----
    :math:`S - EI`, or :math:`S - EI_{parts}` [1]_. Where both terms are sampled, it is from
    independent noise and the same number of samples, and their variances add; where one is exact,
    its bound is added to the other's standard error.

    {references}

    Examples
    --------
    {model}
    >>> abs(degeneracy("fc", topology_of(model), samples=20_000, **unit)) < 0.01
    True
    """
    found = measure(
        "degeneracy",
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
        against=against,
        **options,
    )
    return scalar(found)


@with_options
def phi(
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
    r"""Compute phi: what the input vector tells of the output beyond its parts.

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
        Bits; negative where the parts tell the same thing over and over.

    {raises}

    Notes
    -----
    :math:`\phi = EI - EI_{parts}` [1]_. Where both are sampled, from the same samples, and the
    standard error is that of the difference, block by block; where EI_parts is exact, its bound is
    added to EI's standard error. It is as biased as EI: see :func:`ei`.

    {references}

    Examples
    --------
    {model}
    >>> abs(phi("fc", topology_of(model), samples=20_000, **unit)) < 0.01
    True
    """
    found = measure(
        "phi",
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
