"""The arguments that measures share: checked once, documented once."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict, TypeVar

from onnx_ei._sampling.progress import ProgressOption
from onnx_ei.binning import MAX_BINS
from onnx_ei.errors import closest
from onnx_ei.information import DEFAULT_ESTIMATOR, ESTIMATORS

__all__ = [
    "DEFAULT_MAX_SAMPLES",
    "DEFAULT_TOLERANCE",
    "OPTION_DEFAULTS",
    "SWEEP_SAMPLES",
    "Options",
    "Parameters",
    "Range",
    "Unasked",
    "whole",
    "with_options",
]

Range: TypeAlias = tuple[float, float]
DYNAMIC = "dynamic"
METHODS = ("auto", "sample", "exact")
DEFAULT_MEMORY = 1 << 30
DEFAULT_MAX_SAMPLES = 1_000_000
DEFAULT_TOLERANCE = 1e-6

_F = TypeVar("_F", bound=Callable[..., object])


class Unasked(int):
    """A number of samples that is a default: it says how many, but not that the caller wants to."""


SWEEP_SAMPLES = Unasked(500)
"""deep_ei's default for sensitivity. As it is nobody's wish, ``method="auto"`` may compute."""


class Options(TypedDict, total=False):
    """The keyword-only arguments that every measure takes beside deep_ei's."""

    seed: int
    estimator: str
    method: str
    tolerance: float
    positions: str
    background: object
    max_samples: int
    memory_limit: int | None
    progress: ProgressOption
    tf32: bool


OPTION_DEFAULTS: dict[str, object] = {
    "seed": 0,
    "estimator": DEFAULT_ESTIMATOR,
    "method": "auto",
    "tolerance": DEFAULT_TOLERANCE,
    "positions": "one",
    "background": None,
    "max_samples": DEFAULT_MAX_SAMPLES,
    "memory_limit": None,
    "progress": None,
    "tf32": False,
}
"""The keyword-only arguments that every measure takes beside deep_ei's, with their defaults."""

_SHARED_DOC = {
    "layer": """layer : hashable
    Key of a node of ``topology``: the layer whose activated output is measured.
topology : networkx.DiGraph
    From :func:`topology_of`.""",
    "threshold": """threshold : float
    Relative error at which automatic sampling ends: the half-width of the 95 % interval, and what
    is left of a bias that still falls, are no more than this share of the value (or 0.01 bit), of
    every entry of a list or a matrix, and a vector measure covers 0.95 of the joint states.""",
    "common": """batch_size : int
    Checked, and otherwise without effect: the rows of a run are fixed by the span, so that no
    result depends on the batch. Kept so that deep_ei scripts run unchanged.
in_layer : hashable, optional
    The layer where the span begins; ``layer`` itself by default.
in_range : (float, float) or "calibrated", optional
    Closed range of the noise; by default that of the activation before ``in_layer``.
    ``"calibrated"``: the range of what enters ``in_layer`` on the data of :func:`calibrate`.
in_bins : int
    Equal-width bins of an input unit.
out_range : (float, float), "dynamic" or "calibrated", optional
    Closed range of an output unit; by default that of the activation after ``layer``.
    ``"calibrated"``: the range of what leaves ``layer`` on the data of :func:`calibrate`.
    ``"dynamic"``: for each output unit, from the least to the greatest value seen over all
    samples, or over the first stage of automatic sampling. Sensitivity takes one range for all
    units, over the edges of the input bins.
out_bins : int or "dynamic"
    Equal-width bins of an output unit. ``"dynamic"``: as wide as an input bin.
activation : None, str, torch.nn.Module or callable
    Replaces the activation after ``layer``.
device : str or torch.device
    ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.""",
    "options": """seed : int
    Seed of the noise, keyword only like all that follow. The same seed gives the same bits of
    the result, whatever the threads and the memory limit.
estimator : str
    ``"coverage-jackknife"`` (the least biased), ``"jackknife"``, ``"chao-wang-jost"``,
    ``"chao-shen"``, ``"grassberger"``, ``"miller-madow"`` or ``"plugin"`` (deep_ei's, biased
    upwards); see :func:`onnx_ei.estimators.information_of_counts`.
method : str
    ``"sample"``, ``"exact"`` or ``"auto"``: without ``samples``, the measures of pairs (and the
    pairwise term of phi, degeneracy and vector_and_pairwise_ei) are exact where the span is
    affine up to an elementwise activation, and everything else is sampled. ``"exact"`` is an
    error where it does not apply, and takes no notice of ``samples``.
tolerance : float
    Of exact values: the bound of the error in bits a pair, which their ``stderr`` is.
positions : str
    ``"one"``: one position of the output with the inputs that reach it; ``"all"``: the tensors.
background : str or dict, optional
    What other tensors the span needs are: ``"reference"``, ``"zeros"`` or arrays by name.
max_samples : int
    Where automatic sampling stops, with a NotConvergedWarning.
memory_limit : int, optional
    Bytes that codes may take, 1 GiB by default; past it the work is tiled, at the same result.
progress : bool or callable, optional
    True for a bar on stderr, or a function of (done, total) model rows, of pairs while they are
    computed.
tf32 : bool
    On a GPU: let the factors of products be rounded to 10 bits of mantissa, which is faster and
    moves values across the edges of bins.""",
    "raises": """Raises
------
TypeError, ValueError
    If an argument is of the wrong kind, out of bounds or unknown; the message names the closest.
UnknownLayerError
    If a layer is not in the topology.
UnboundedSpanError
    If the span needs other tensors and no ``background`` says what they are.
UnsupportedModelError
    If the span cannot be measured, or not by this method.
BackendError
    If the device or the runtime cannot do what is asked.

Warns
-----
OutOfRangeWarning
    Where more than 1 % of the samples fell outside ``out_range``, or were NaN.
UndersampledWarning
    Where a vector measure covers less than 0.95 of the joint states.
NotConvergedWarning
    Where automatic sampling stopped at ``max_samples``, or before: coverage grows too slowly; or
    where the bound of an exact value is wider than its ``tolerance``.
CpuNodesWarning
    Where a GPU leaves nodes of the span to the CPU.""",
    "references": """References
----------
.. [1] Marrow, Michaud, Hoel, "Examining the Causal Structures of Deep Neural Networks Using
   Information Theory", Entropy 22(12), 1429, 2020.""",
    "model": """>>> import onnx.parser
>>> from onnx_ei.topology import topology_of
>>> model = onnx.parser.parse_model(
...     '<ir_version: 10, opset_import: ["" : 20]> g (float[N,2] x) => (float[N,2] y) '
...     "<float[2,2] fc = {1,0,0,1}> { y = MatMul(x, fc) }"
... )
>>> unit = dict(in_range=(0, 1), out_range=(0, 1), in_bins=4, out_bins=4)""",
}


def with_options(function: _F) -> _F:
    """Spell out ``**options`` in a measure's signature, and its shared arguments in its docstring.

    Ten functions share eighteen arguments. Writing them here once keeps the ten from drifting
    apart, and ``help()`` and notebooks still show each of them.

    Parameters
    ----------
    function : callable
        A measure; ``**options: Unpack[Options]`` is spelled out where it has one. Its docstring
        names shared parts in braces: ``{layer}``, ``{common}``, ``{options}`` ...

    Returns
    -------
    callable
        The same function.

    Examples
    --------
    >>> @with_options
    ... def f(layer, **options): "Do."
    >>> inspect.signature(f).parameters["seed"].default
    0
    """
    signature = inspect.signature(function)
    shown = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    if len(shown) < len(signature.parameters):
        shown += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Options.__annotations__[name],
            )
            for name, default in OPTION_DEFAULTS.items()
        ]
        function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    doc = inspect.cleandoc(function.__doc__ or "")
    for key, text in _SHARED_DOC.items():
        doc = doc.replace(f"{{{key}}}", text)
    function.__doc__ = doc
    return function


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return a whole number, or say what is wrong with it.

    Parameters
    ----------
    name : str
        What the user calls it.
    value : object
        An int, or a NumPy integer; a bool is not a number here.
    least, most : int
        What is allowed, ends included.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is too small or too large.

    Examples
    --------
    >>> whole("samples", 500, 1)
    500
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < least or (most is not None and number > most):
        allowed = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {allowed}, got {number}")
    return number


def _positive(name: str, value: object) -> float:
    """Return a positive number as a float, or say what is wrong with it."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {number}")
    return number


def _range(name: str, value: object) -> Range:
    """Return a closed range as two floats, or say what is wrong with it."""
    try:
        lower, upper = (float(end) for end in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a pair (lower, upper), got {value!r}") from None
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        raise ValueError(f"{name} must be finite with lower < upper, got ({lower}, {upper})")
    return lower, upper


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}: {closest(str(value), allowed)}")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """How a measure is sampled and binned: the arguments of a measure but for the span.

    Parameters
    ----------
    threshold, samples, extrapolate, batch_size, in_range, in_bins, out_range, out_bins
        As for :func:`onnx_ei.measures.measure`.
    seed, estimator, method, tolerance, max_samples, memory_limit, progress, pvalues
        As for :func:`onnx_ei.measures.measure`.

    Raises
    ------
    TypeError
        If a whole number is not one, or ``progress`` is neither a bool nor callable.
    ValueError
        If a number or a range is out of bounds, or a word unknown.

    Examples
    --------
    >>> Parameters(in_range=(0, 1)).in_range
    (0.0, 1.0)
    """

    threshold: float = 0.05
    samples: int | None = None
    extrapolate: bool = False
    batch_size: int = 20
    in_range: Range | None = None
    in_bins: int = 64
    out_range: Range | str | None = None
    out_bins: int | str = 64
    seed: int = 0
    estimator: str = DEFAULT_ESTIMATOR
    method: str = "auto"
    tolerance: float = DEFAULT_TOLERANCE
    max_samples: int = DEFAULT_MAX_SAMPLES
    memory_limit: int | None = None
    progress: ProgressOption = None
    pvalues: bool = False

    def __post_init__(self) -> None:
        """Check everything, and keep plain ints and floats."""
        for name, least in (("batch_size", 1), ("seed", 0), ("max_samples", 1)):
            self._set(name, whole(name, getattr(self, name), least))
        for name in ("samples", "memory_limit"):
            if getattr(self, name) is not None:
                self._set(name, whole(name, getattr(self, name), 1))
        for name in ("threshold", "tolerance"):
            self._set(name, _positive(name, getattr(self, name)))
        _choice("estimator", self.estimator, ESTIMATORS)
        _choice("method", self.method, METHODS)
        if not (self.progress is None or callable(self.progress) or self.progress in (True, False)):
            raise TypeError(
                f"progress must be None, a bool or a function of (done, total), "
                f"got {self.progress!r}"
            )
        self._check_bins()

    def _check_bins(self) -> None:
        """Check the ranges and the numbers of bins."""
        self._set("in_bins", whole("in_bins", self.in_bins, 1, MAX_BINS))
        if isinstance(self.in_range, str):
            raise ValueError(
                f"in_range must be a pair (lower, upper) or 'calibrated', got {self.in_range!r}: "
                "only out_range can be 'dynamic'"
            )
        if self.in_range is not None:
            self._set("in_range", _range("in_range", self.in_range))
        if isinstance(self.out_range, str) and self.out_range != DYNAMIC:
            raise ValueError(
                "out_range must be a pair (lower, upper), 'calibrated' or 'dynamic', "
                f"got {self.out_range!r}"
            )
        if self.out_range is not None and not isinstance(self.out_range, str):
            self._set("out_range", _range("out_range", self.out_range))
        if isinstance(self.out_bins, str):
            if self.out_bins != DYNAMIC:
                raise ValueError(
                    f"out_bins must be a whole number or 'dynamic', got {self.out_bins!r}"
                )
        else:
            self._set("out_bins", whole("out_bins", self.out_bins, 1, MAX_BINS))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def memory(self) -> int:
        """Bytes that codes and keys may take."""
        return DEFAULT_MEMORY if self.memory_limit is None else self.memory_limit
