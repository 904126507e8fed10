"""What each measure is, in terms of what the samplers count."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.parameters import Parameters
from onnx_ei._sampling.stopping import Estimate
from onnx_ei._sampling.swept import SweepInformation
from onnx_ei._sampling.vectors import Vector
from onnx_ei.errors import closest
from onnx_ei.information import PairwiseInformation
from onnx_ei.results import Value

__all__ = ["MEASURES", "Counted", "Quantity", "quantities"]

_T = TypeVar("_T")
AGAINST = ("ei", "ei_parts")


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What one stage of sampling counted; a measure reads what it asked for.

    Parameters
    ----------
    n_samples : int
        Samples of the stage.
    pairs : PairwiseInformation or None
        Of every pair, all inputs random at once.
    vectors : Vector or None
        Of all units.
    groups : list of Vector
        Of each group of units.
    sweeps : SweepInformation or None
        Of every pair, one input random at a time.
    """

    n_samples: int
    pairs: PairwiseInformation | None
    vectors: Vector | None
    groups: list[Vector]
    sweeps: SweepInformation | None


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A measure: what must be counted, and the estimate out of it.

    Parameters
    ----------
    estimate : callable
        From what was counted to bits.
    pairs, vectors, groups, sweeps : bool
        What must be counted.
    signed : bool
        Whether it may be below 0; any other measure is clipped.
    shape : callable
        From an array to what the measure returns.
    """

    estimate: Callable[[Counted], Estimate]
    pairs: bool = False
    vectors: bool = False
    groups: bool = False
    sweeps: bool = False
    signed: bool = False
    shape: Callable[[NDArray[np.float64]], Value] = float


def _dropped(kept: NDArray[np.int64] | int, n_samples: int) -> float:
    """Return the share of samples that were dropped."""
    return float(1.0 - np.mean(kept) / n_samples)


def _ei(counted: Counted) -> Estimate:
    """I(X; Y) of the whole vectors."""
    vector = _had(counted.vectors)
    found = vector.information
    return Estimate(
        value=np.array(found.bits),
        stderr=np.array(found.stderr),
        n_samples=counted.n_samples,
        out_of_range=_dropped(found.n_kept, counted.n_samples),
        vectors=(vector,),
    )


def _of_groups(counted: Counted) -> Estimate:
    """I(X; Y) of the vectors of each group's units."""
    found = [vector.information for vector in counted.groups]
    return Estimate(
        value=np.array([v.bits for v in found]),
        stderr=np.array([v.stderr for v in found]),
        n_samples=counted.n_samples,
        out_of_range=max(_dropped(v.n_kept, counted.n_samples) for v in found),
        vectors=tuple(counted.groups),
    )


def _of_pairs(counted: Counted, *, matrix: bool) -> Estimate:
    """I(X_a; Y_b), all inputs random at once: every pair, or their sum."""
    info = _had(counted.pairs)
    return Estimate(
        value=info.bits if matrix else np.array(info.total),
        stderr=info.stderr if matrix else np.array(info.total_stderr),
        n_samples=counted.n_samples,
        out_of_range=1.0 - info.mean_kept / info.n_samples,
        pvalues=info.pvalues if matrix else None,
    )


def _of_sweeps(counted: Counted, *, matrix: bool) -> Estimate:
    """I(X_a; Y_b), one input random at a time: every pair, or their sum."""
    info = _had(counted.sweeps)
    return Estimate(
        value=info.bits if matrix else np.array(info.total),
        stderr=info.stderr if matrix else np.array(info.total_stderr),
        n_samples=counted.n_samples,
        out_of_range=info.dropped,
    )


def _vector_and_pairwise(counted: Counted) -> Estimate:
    """EI and EI_parts of the same samples."""
    vector, parts = _ei(counted), _of_pairs(counted, matrix=False)
    return Estimate(
        value=np.array([vector.value, parts.value]),
        stderr=np.array([vector.stderr, parts.stderr]),
        n_samples=counted.n_samples,
        out_of_range=max(vector.out_of_range, parts.out_of_range),
        vectors=vector.vectors,
    )


def _phi(counted: Counted) -> Estimate:
    """EI less EI_parts: they share samples, so their influences are subtracted sample by sample."""
    both = _vector_and_pairwise(counted)
    influence = _had(counted.vectors).information.influence - _had(counted.pairs).influence
    return Estimate(
        value=both.value[0] - both.value[1],
        stderr=np.array(influence.stderr),
        n_samples=counted.n_samples,
        out_of_range=both.out_of_range,
        vectors=both.vectors,
    )


def _degeneracy(counted: Counted, *, parts: bool) -> Estimate:
    """Sensitivity less EI, or less EI_parts: independent noise, so variances add."""
    taken = _of_pairs(counted, matrix=False) if parts else _ei(counted)
    given = _of_sweeps(counted, matrix=False)
    return Estimate(
        value=given.value - taken.value,
        stderr=np.hypot(given.stderr, taken.stderr),
        n_samples=counted.n_samples,
        out_of_range=max(given.out_of_range, taken.out_of_range),
        vectors=taken.vectors,
    )


def _had(found: _T | None) -> _T:
    """Return what was counted; a measure that did not ask for it is a mistake in its table."""
    if found is None:
        raise LookupError("a measure reads what it did not ask the samplers to count")
    return found


def _array(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return value


def _pair(value: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(value.tolist())


def _list(value: NDArray[np.float64]) -> list[float]:
    return [float(v) for v in value]


_TABLE: dict[str, Quantity] = {
    "ei": Quantity(estimate=_ei, vectors=True),
    "ei_parts": Quantity(estimate=lambda c: _of_pairs(c, matrix=False), pairs=True),
    "ei_parts_matrix": Quantity(
        estimate=lambda c: _of_pairs(c, matrix=True), pairs=True, shape=_array
    ),
    "sensitivity": Quantity(estimate=lambda c: _of_sweeps(c, matrix=False), sweeps=True),
    "sensitivity_matrix": Quantity(
        estimate=lambda c: _of_sweeps(c, matrix=True), sweeps=True, shape=_array
    ),
    "vector_and_pairwise_ei": Quantity(
        estimate=_vector_and_pairwise, vectors=True, pairs=True, shape=_pair
    ),
    "eis_between_groups": Quantity(estimate=_of_groups, groups=True, shape=_list),
    "degeneracy": Quantity(
        estimate=lambda c: _degeneracy(c, parts=False), vectors=True, sweeps=True, signed=True
    ),
    "phi": Quantity(estimate=_phi, vectors=True, pairs=True, signed=True),
}
_DEGENERACY_OF_PARTS = Quantity(
    estimate=lambda c: _degeneracy(c, parts=True), pairs=True, sweeps=True, signed=True
)
MEASURES = tuple(_TABLE)
"""Names of the measures."""


def quantities(
    names: Iterable[str], parameters: Parameters, *, groups: object = None, against: str = "ei"
) -> dict[str, Quantity]:
    """Look measures up, and check what only some of them take.

    Parameters
    ----------
    names : iterable of str
        From ``MEASURES``.
    parameters : Parameters
        ``extrapolate`` is for ``"ei_parts"`` only.
    groups : object
        Whether it is None: ``"eis_between_groups"`` needs groups, no other measure takes them.
    against : str
        What degeneracy subtracts: ``"ei"`` or ``"ei_parts"``.

    Returns
    -------
    dict of str to Quantity

    Raises
    ------
    TypeError
        If an argument is missing, or another measure's.
    ValueError
        If a name is unknown, or there are none.

    Examples
    --------
    >>> quantities(["phi"], Parameters())["phi"].signed
    True
    """
    listed = [names] if isinstance(names, str) else list(names)
    for name in listed:
        if name not in _TABLE:
            raise ValueError(f"unknown measure {name!r}: {closest(str(name), _TABLE)}")
        if parameters.extrapolate and name != "ei_parts":
            raise ValueError(f"extrapolate=True is for 'ei_parts' only, not for {name!r}")
    if not listed:
        raise ValueError(f"no measures named; {closest('', _TABLE)}")
    if groups is None and "eis_between_groups" in listed:
        raise TypeError("measure 'eis_between_groups' needs groups=[((0, 1), (0,)), ...]")
    if groups is not None and "eis_between_groups" not in listed:
        raise TypeError(f"groups are for 'eis_between_groups' only, not for {listed[0]!r}")
    if against not in AGAINST:
        raise ValueError(f"unknown against {against!r}: {closest(str(against), AGAINST)}")
    if against != "ei" and "degeneracy" not in listed:
        raise TypeError(f"against is for 'degeneracy' only, not for {listed[0]!r}")
    found = {name: _TABLE[name] for name in listed}
    if against == "ei_parts":
        found["degeneracy"] = _DEGENERACY_OF_PARTS
    return found
