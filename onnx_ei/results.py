"""What a measure returns: a value, its standard error, and what judges and repeats it."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Measurement", "Value"]

Value: TypeAlias = float | tuple[float, ...] | list[float] | NDArray[np.float64]
"""A scalar, a tuple, a list or a matrix: whatever the function of the same name returns."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """One measure of one span, in bits, with its error and the parameters that repeat it.

    Attributes
    ----------
    name : str
        The measure: ``"ei"``, ``"ei_parts"``, ``"sensitivity"`` ...
    value : float, tuple of float, list of float or ndarray of float64
        Bits, in the shape that the function of the same name returns. Never below 0, except for
        ``phi`` and ``degeneracy``. Arrays are read-only.
    stderr : same shape as ``value``
        Standard error of ``value`` in bits. It says how far another seed may land, not how far
        the estimator is biased: for a vector measure read ``coverage`` as well.
    n_samples : int
        Samples drawn; for measures that drive one input at a time, samples for each input.
    estimator, method : str
        How counts became bits, and how the measure was computed.
    out_of_range : float
        Share of samples (vector measures) or of (pair, sample) couples that fell outside the
        binning ranges, or were NaN, and were dropped.
    coverage : float, list of float or None
        ``1 - singletons / n`` of the joint states of a vector measure, one for each group where
        there are groups; None where no vectors are counted; 1 where either vector was constant.
        Below 0.95 the value is biased, below 0.5 unreliable.
    converged : bool or None
        Whether automatic sampling met its threshold; None where the number of samples was fixed.
    provider : str
        What ran the model.
    seconds : float
        Wall time.
    seed : int
        The seed of the noise.
    layer, in_layer : hashable
        Keys of the last and the first layer of the span.
    n_inputs, n_outputs : int
        Units at either end.
    in_range, out_range : (float, float), or "dynamic" for ``out_range``
        Closed binning ranges.
    in_bins, out_bins : int, or "dynamic" for ``out_bins``
        Bins of a unit.
    positions : str
        ``"one"`` or ``"all"`` positions of the layer.
    batched : bool
        Whether the span ran many samples at once.

    Raises
    ------
    ValueError
        Where a field makes no sense: shapes of value and error that differ, shares outside
        [0, 1], counts below 1.

    Examples
    --------
    >>> m = Measurement(
    ...     name="ei", value=2.0, stderr=0.01, n_samples=1000, estimator="jackknife",
    ...     method="sample", out_of_range=0.0, coverage=1.0, converged=None, provider="CPU",
    ...     seconds=0.1, seed=0, layer="fc", in_layer="fc", n_inputs=1, n_outputs=1,
    ...     in_range=(0.0, 1.0), out_range=(0.0, 1.0), in_bins=4, out_bins=4, positions="one",
    ...     batched=True,
    ... )
    >>> m.to_dict()["value"]
    2.0
    """

    name: str
    value: Value
    stderr: Value
    n_samples: int
    estimator: str
    method: str
    out_of_range: float
    coverage: float | list[float] | None
    converged: bool | None
    provider: str
    seconds: float
    seed: int
    layer: Hashable
    in_layer: Hashable
    n_inputs: int
    n_outputs: int
    in_range: tuple[float, float]
    out_range: tuple[float, float] | str
    in_bins: int
    out_bins: int | str
    positions: str
    batched: bool

    def __post_init__(self) -> None:
        """Refuse what cannot be a measurement; freeze the arrays."""
        for field in ("n_samples", "n_inputs", "n_outputs", "in_bins"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if np.shape(self.value) != np.shape(self.stderr):
            raise ValueError(
                f"value and stderr must have one shape, got {np.shape(self.value)} "
                f"and {np.shape(self.stderr)}"
            )
        if np.any(np.asarray(self.stderr) < 0):
            raise ValueError("stderr must not be negative")
        shares = [self.out_of_range, *np.ravel(0.0 if self.coverage is None else self.coverage)]
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError(
                f"out_of_range and coverage are shares in [0, 1], got {self.out_of_range} "
                f"and {self.coverage}"
            )
        if self.seconds < 0:
            raise ValueError(f"seconds must not be negative, got {self.seconds}")
        if not self.in_range[0] < self.in_range[1]:
            raise ValueError(f"in_range must be (lower, upper), got {self.in_range}")
        for array in (self.value, self.stderr):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain JSON values.

        Returns
        -------
        dict
            Field names to str, int, float, bool, None or (nested) lists of them. Keys that are
            not strings (torch modules) become strings; floats that are not finite become None.

        Examples
        --------
        See :class:`Measurement`.
        """
        return {field.name: _json_safe(getattr(self, field.name)) for field in fields(self)}


def _json_safe(value: object) -> object:
    """Turn a field into what ``json.dumps(allow_nan=False)`` takes."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)
