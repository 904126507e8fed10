"""What a measure returns: a value, its standard error, and what judges and repeats it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["FULL_COVERAGE", "SIGNED", "UNRELIABLE", "Measurement", "States", "Value", "adequacy_of"]

Value: TypeAlias = float | tuple[float, ...] | list[float] | NDArray[np.float64]
"""A scalar, a tuple, a list or a matrix: whatever the function of the same name returns."""
States: TypeAlias = tuple[int, int, int]
"""Distinct states of the input, of the output, and of both together."""

FULL_COVERAGE = 0.95
"""Coverage below which a vector measure is undersampled: at 0.96 the jackknife is 0.025 bit above
a truth of 7.86, at 0.63 it is 0.37 above."""
UNRELIABLE = 0.5
"""Coverage below which a vector measure says more of the samples than of the layer."""
SIGNED = ("phi", "degeneracy")
"""The measures that may be below 0."""
EXACT = "exact"


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
        the estimator is biased: for a vector measure read ``adequacy`` as well. With the method
        ``"exact"`` it is a bound of the error.
    n_samples : int
        Samples drawn; for measures that drive one input at a time, samples for each input. 0
        where the value was computed and not sampled.
    estimator, method : str
        How counts became bits, and how the measure was computed.
    out_of_range : float
        Share of samples (vector measures) or of (pair, sample) couples that fell outside the
        binning ranges, or were NaN, and were dropped.
    coverage : float, list of float or None
        ``1 - singletons / n`` of the joint states of a vector measure, one for each group where
        there are groups; None where no vectors are counted; 1 where either vector was constant.
        Below 0.95 the value is biased, below 0.5 unreliable.
    singletons, n_states, saturation, upper_bound
        What else judges a vector measure; see below.
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
    singletons : int, list of int or None
        Joint states seen once: the more there are, the more was not seen. Like the three fields
        that follow, None where no vectors are counted, and a list, one for each group, where
        there are groups.
    n_states : (int, int, int), list of (int, int, int) or None
        Distinct states of the input, of the output and of both together that were seen.
    saturation : float, list of float or None
        EI / log2(samples kept). At 1 (or above: the correction of a bias adds to it) the value is
        the ceiling that the number of samples sets, whatever the layer does.
    upper_bound : float, list of float or None
        Bits that the truth does not exceed, however few the samples: of EI the lesser of H(L1) and
        the sum of the output units' entropies, of phi that less EI_parts, each moved by three
        standard errors. None for degeneracy, which EI bounds from below (``notes`` has that
        number).
    notes : tuple of str
        Where the value is not adequate: what can be estimated instead, and with how many samples.
    pvalues : ndarray of float64, or None
        Of the shape of ``value``, where they were asked for: how likely a pair of independent
        units is to show as much information, or more.
    adequacy : str, list of str or None
        ``"adequate"`` from a coverage of 0.95 on, ``"undersampled"`` below, ``"unreliable"`` below
        0.5. One for each group where there are groups; None where no vectors are counted. Not an
        argument.
    reliable : bool, list of bool or None
        False where ``adequacy`` is ``"unreliable"``, or every sample was dropped. True for other
        vector measures, and for exact values; None where nothing judges it: for pairs, whose
        error ``stderr`` says. Not an argument.

    Raises
    ------
    ValueError
        Where a field makes no sense: shapes of value and error that differ, shares outside
        [0, 1], counts below 1 (of samples below 0 for the method ``"exact"``), singletons,
        states, saturations or bounds that are not one for each coverage.

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
    >>> m.adequacy, [round(end, 4) for end in m.interval()]
    ('adequate', [1.9804, 2.0196])
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
    singletons: int | list[int] | None = None
    n_states: States | list[States] | None = None
    saturation: float | list[float] | None = None
    upper_bound: float | list[float] | None = None
    notes: tuple[str, ...] = ()
    pvalues: NDArray[np.float64] | None = None
    # Not arguments: what follows from the others cannot contradict them.
    adequacy: str | list[str] | None = field(init=False)
    reliable: bool | list[bool] | None = field(init=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be a measurement; judge it; freeze the arrays."""
        self._check_counts()
        self._check_shares()
        self._check_vectors()
        adequacy = self._judged()
        object.__setattr__(self, "adequacy", adequacy)
        object.__setattr__(self, "reliable", self._relied_on(adequacy))
        for array in (self.value, self.stderr, self.pvalues):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)

    def _check_counts(self) -> None:
        least = 0 if self.method == EXACT else 1
        if self.n_samples < least:
            raise ValueError(f"n_samples must be at least {least}, got {self.n_samples}")
        for name in ("n_inputs", "n_outputs", "in_bins"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if np.shape(self.value) != np.shape(self.stderr):
            raise ValueError(
                f"value and stderr must have one shape, got {np.shape(self.value)} "
                f"and {np.shape(self.stderr)}"
            )

    def _check_shares(self) -> None:
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
        notes: Any = self.notes
        if not isinstance(notes, tuple) or not all(isinstance(note, str) for note in notes):
            raise ValueError(f"notes must be a tuple of str, got {notes!r}")

    def _check_vectors(self) -> None:
        """Check what judges a vector measure: as many of each as there are coverages."""
        shape = () if self.coverage is None else np.shape(self.coverage)
        for name, inner in _OF_VECTORS.items():
            given: Any = getattr(self, name)
            if given is None:
                continue
            if self.coverage is None or np.shape(given) != (*shape, *inner):
                raise ValueError(
                    f"{name} must be given for each coverage, got {given} for {self.coverage}"
                )
            if name != "upper_bound" and not np.all(np.asarray(given) >= 0):
                raise ValueError(f"{name} must not be negative, got {given}")
            if not np.all(np.isfinite(given)):
                raise ValueError(f"{name} must be finite, got {given}")

    def _judged(self) -> str | list[str] | None:
        """Return a word for each coverage."""
        if isinstance(self.coverage, list):
            return [adequacy_of(share) for share in self.coverage]
        return None if self.coverage is None else adequacy_of(self.coverage)

    def _relied_on(self, adequacy: str | list[str] | None) -> bool | list[bool] | None:
        """Return whether the value can be used."""
        kept = self.out_of_range < 1.0
        if isinstance(adequacy, list):
            return [word != "unreliable" for word in adequacy]
        if adequacy is not None:
            return kept and adequacy != "unreliable"
        return (True if self.method == EXACT else None) if kept else False

    def interval(self, confidence: float = 0.95) -> tuple[Value, Value]:
        r"""Return the ends of a confidence interval.

        Parameters
        ----------
        confidence : float
            Between 0 and 1.

        Returns
        -------
        lower, upper : same shape as ``value``
            Bits: :math:`\hat I \mp z \sigma`, with the normal distribution's :math:`z` and
            :math:`\sigma` the standard error; for exact values the value less and plus the bound,
            whatever the confidence. No end is below 0 for a measure that cannot be.

        Raises
        ------
        ValueError
            If the confidence is not between 0 and 1.

        Notes
        -----
        The interval is of the scatter between seeds. That of an undersampled vector measure lies
        around a value that is too high (``adequacy``), and need not hold the truth.

        Examples
        --------
        See :class:`Measurement`.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, got {confidence}; try 0.95")
        z = 1.0 if self.method == EXACT else NormalDist().inv_cdf((1 + confidence) / 2)
        value, half = np.asarray(self.value, np.float64), z * np.asarray(self.stderr, np.float64)
        least = -np.inf if self.name in SIGNED else 0.0
        lower, upper = (np.maximum(end, least) for end in (value - half, value + half))
        return _like(self.value, lower), _like(self.value, upper)

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
        return {known.name: _json_safe(getattr(self, known.name)) for known in fields(self)}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Measurement:
        """Return the measurement that :meth:`to_dict` gave the fields of.

        Parameters
        ----------
        known : mapping
            Field names to JSON values. A value that was not finite comes back as NaN; keys of
            layers that were no strings stay the strings that they became.

        Raises
        ------
        ValueError
            If a field is missing or unknown, or makes no sense.

        Examples
        --------
        See :meth:`onnx_ei.Analysis.load`.
        """
        wanted = {of.name: of for of in fields(cls) if of.init}
        given = {name: value for name, value in known.items() if name not in _FOLLOWS}
        lacking = {n for n, of in wanted.items() if of.default is MISSING} - set(given)
        if lacking or set(given) - set(wanted):
            wrong = sorted(lacking) or sorted(set(given) - set(wanted))
            word = "lacks" if lacking else "has unknown"
            raise ValueError(f"a measurement {word} {', '.join(wrong)}: written by another version")
        for name in ("value", "stderr"):
            given[name] = _restored(given["name"], given[name])
        for name in ("in_range", "out_range", "notes"):
            if isinstance(given.get(name), list):
                given[name] = tuple(given[name])
        states = given.get("n_states")
        if states is not None:
            many = bool(states) and isinstance(states[0], list)
            given["n_states"] = [tuple(of) for of in states] if many else tuple(states)
        return cls(**given)


def adequacy_of(coverage: float) -> str:
    """Say what a coverage is worth.

    Parameters
    ----------
    coverage : float
        In [0, 1].

    Returns
    -------
    str
        ``"adequate"``, ``"undersampled"`` or ``"unreliable"``.

    Examples
    --------
    >>> [adequacy_of(share) for share in (0.95, 0.94, 0.49)]
    ['adequate', 'undersampled', 'unreliable']
    """
    if coverage >= FULL_COVERAGE:
        return "adequate"
    return "undersampled" if coverage >= UNRELIABLE else "unreliable"


_OF_VECTORS: dict[str, tuple[int, ...]] = {
    "singletons": (),
    "n_states": (3,),
    "saturation": (),
    "upper_bound": (),
}
"""What judges a vector, and the shape of each."""


_FOLLOWS = ("adequacy", "reliable")
"""What is no argument: it follows from the other fields."""


def _restored(measure: str, value: Any) -> Value:
    """Return a value in the kind that the measure's function returns."""
    if not isinstance(value, list):
        return math.nan if value is None else float(value)
    array = np.array(value, np.float64)
    if measure.endswith("_matrix"):
        return array
    plain: list[float] = array.tolist()
    return tuple(plain) if measure == "vector_and_pairwise_ei" else plain


def _like(value: Value, array: NDArray[np.float64]) -> Value:
    """Return an array in the kind of the value: a float, a tuple, a list or an array."""
    if isinstance(value, np.ndarray):
        return array
    plain: Any = array.tolist()
    return tuple(plain) if isinstance(value, tuple) else plain


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
