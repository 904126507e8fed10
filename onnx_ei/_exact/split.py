"""A span in two: up to its pre-activation, and the activation, each run as onnxruntime runs it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from onnx_ei._graph.background import Background
from onnx_ei._graph.cut import Cut, NotLocalError, nodes_between
from onnx_ei._graph.recurrent import cell_activation
from onnx_ei._graph.submodel import SubModel, build
from onnx_ei._graph.widening import widen
from onnx_ei._graph.windows import dims_of
from onnx_ei.activations import Activation, Override, resolve_activation
from onnx_ei.devices import parse_device
from onnx_ei.errors import UnsupportedModelError
from onnx_ei.runtime import runner
from onnx_ei.sessions import Session
from onnx_ei.span import WIDENED, Span, span_of
from onnx_ei.topology import Layer, layer_of, model_of

__all__ = ["Rows", "Split", "UnitFunction", "check_activation", "split_of"]

Rows: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A map of samples, one a row."""

ROUNDING = 1e-5
"""Share of the largest output by which two ways of computing an activation may differ."""
DIFFERING = 0.01
"""Share of the outputs that may differ by more: where a function jumps, a pre-activation that two
runs round in two ways may land on either side."""
FAR = 16.0
"""Half of the noise is this much larger than the input range: where an activation is flat, or a
line, in range, other parts of it are seen. A caller's function is the same on either side, and may
be defined in range only."""
# Floats that one run of an activation may hold: 16 MB, as for a span.
_FLOATS_A_RUN = 1 << 22
_CHECKED = 32


class UnitFunction:
    """The activation of a span as a map of its pre-activations, every unit by itself.

    Parameters
    ----------
    session : Session or None
        Runs the model of it; None where it is a function alone.
    sub : SubModel or None
        That model.
    function : callable or None
        What is called on the result; None where it is a model alone.
    shape : tuple of int
        The units' shape, without the batch.

    Examples
    --------
    >>> relu = UnitFunction(None, None, lambda z: np.maximum(z, 0), (2,))
    >>> relu(np.array([[-1, 2]], np.float32)).tolist()
    [[0.0, 2.0]]
    """

    def __init__(
        self,
        session: Session | None,
        sub: SubModel | None,
        function: Callable[[NDArray[Any]], NDArray[Any]] | None,
        shape: tuple[int, ...],
    ) -> None:
        self._session, self._function, self._shape = session, function, shape
        self.n_units = prod(shape)
        if sub is not None:
            graph = sub.model.graph
            given = graph.inputs[0]
            self._output = str(graph.outputs[0].name)
            self._dtype = np.dtype(np.float32) if given.dtype is None else given.dtype.numpy()
            self._shape = tuple(d for d in list(given.shape or ())[1:] if isinstance(d, int))

    def __call__(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply it.

        Parameters
        ----------
        z : ndarray of float32, shape (n, n_units)
            Pre-activations, one sample a row.

        Returns
        -------
        ndarray of float32, shape (n, n_units)

        Raises
        ------
        UnsupportedModelError
            If it does not return one value for each.
        """
        rows = max(1, _FLOATS_A_RUN // self.n_units)
        out = np.empty(z.shape, np.float32)
        for start in range(0, len(z), rows):
            part = z[start : start + rows]
            out[start : start + rows] = self._run(part).reshape(part.shape)
        return out

    def _run(self, part: NDArray[np.float32]) -> NDArray[Any]:
        values: NDArray[Any] = part.reshape(-1, *self._shape)
        if self._session is not None:
            feed = values.astype(self._dtype, copy=False)
            values = self._session.run({"x": feed}, [self._output])[0]
        if self._function is not None:
            values = self._function(values.astype(np.float32, copy=False))
        if values.size != part.size:
            raise UnsupportedModelError(
                f"the activation turned {part.size} pre-activations into {values.size} values; "
                "it is not elementwise"
            )
        return values


@dataclass(frozen=True, kw_only=True)
class Split:
    """A span, the part of it up to the pre-activation, and its activation.

    Parameters
    ----------
    whole : Span
        The span.
    raw : Span
        Up to the pre-activation; ``whole`` itself where no activation follows.
    activation : UnitFunction or None
        None where no activation follows.
    device : str or torch.device
        Where all of them run.
    """

    whole: Span
    raw: Span
    activation: UnitFunction | None
    device: object

    @property
    def run_whole(self) -> Rows:
        """The span as a function of arrays."""
        return runner(self.whole, self.device)

    @property
    def run_raw(self) -> Rows:
        """The pre-activation as a function of arrays."""
        return runner(self.raw, self.device)


def split_of(
    topology: nx.DiGraph[Any],
    layer: Hashable,
    *,
    in_layer: Hashable | None = None,
    activation: object = None,
    positions: str = "one",
    background: Background = None,
    device: object = "cpu",
) -> Split:
    """Cut a span in two at its pre-activation.

    Parameters
    ----------
    topology, layer, in_layer, activation, positions, background
        As for :func:`onnx_ei.span.span_of`.
    device : str or torch.device
        Where it is to run.

    Returns
    -------
    Split
        Its parts are kept in the topology with the span.

    Raises
    ------
    UnsupportedModelError
        If the two parts do not fit together.
    OnnxEiError, ValueError
        As :func:`onnx_ei.span.span_of`.
    """
    where: dict[str, Any] = {
        "in_layer": in_layer,
        "positions": positions,
        "background": background,
    }
    whole = span_of(topology, layer, activation=activation, **where)
    end = layer_of(topology, layer)
    override = None if activation is None else resolve_activation(activation)
    if (override is None and end.after is None) or _is_identity(override):
        return Split(whole=whole, raw=whole, activation=None, device=device)
    if whole.function is None:
        raw = span_of(topology, layer, activation="identity", **where)
    elif "raw" in whole.runners:
        raw = whole.runners["raw"]
    else:
        # the model of such a span ends at the pre-activation: the function is called on it
        raw = whole.runners["raw"] = replace(whole, function=None, runners={})
    if (raw.in_shape, raw.in_window, raw.n_outputs) != (
        whole.in_shape, whole.in_window, whole.n_outputs
    ):  # fmt: skip
        raise UnsupportedModelError(
            f"layer {whole.layer!r}: the pre-activation takes in units {raw.in_shape} and has "
            f"{raw.n_outputs}, the activated output {whole.in_shape} and {whole.n_outputs}"
        )
    key = ("activation", *parse_device(device))
    if key not in whole.runners:
        whole.runners[key] = _unit_function(topology, end, whole, raw, override, device)
    return Split(whole=whole, raw=raw, activation=whole.runners[key], device=device)


def _is_identity(override: Override | None) -> bool:
    known = None if override is None else override.activation
    return known is not None and known.name == "Identity"


def _unit_function(
    topology: nx.DiGraph[Any],
    end: Layer,
    whole: Span,
    raw: Span,
    override: Override | None,
    device: object,
) -> UnitFunction:
    if whole.function is not None:
        return UnitFunction(None, None, whole.function, raw.out_shape)
    model = model_of(topology)
    if override is not None and override.activation is not None:
        sub = _known(override.activation, raw)
    elif end.op.kind == "recurrent" and end.after is not None:
        sub = _known(cell_activation(end.after.name), raw)
    else:
        sub = _cut_out(end, whole, dict(model.ir.opset_imports))
    if model.live is not None:
        model.live.put_into(sub.model)
    if WIDENED in whole.notes:
        widen(sub.model)
    return UnitFunction(Session(sub.model, device), sub, None, raw.out_shape)


def _cut_out(end: Layer, whole: Span, opsets: dict[str, int]) -> SubModel:
    """Cut the activation out of the model, for the units that the span measures."""
    nodes, sides = nodes_between(end.raw, end.leaving)
    if sides:
        raise UnsupportedModelError(
            f"layer {whole.layer!r}: its activation takes in {sides[0].name!r} beside the "
            "pre-activation"
        )
    first = (dims_of(end.raw) or (1,))[0]
    cut = Cut(
        source=end.raw, target=end.leaving, nodes=nodes, sides={}, opsets=opsets, activation=None,
        # whatever the first axis counts, an elementwise function takes any number of it
        batch=1 if first is None else first,
    )  # fmt: skip
    try:
        return build(cut, whole.out_window, local=True)
    except NotLocalError as error:
        raise UnsupportedModelError(
            f"layer {whole.layer!r}: its activation at one position needs all of {error}"
        ) from error


def _known(activation: Activation, raw: Span) -> SubModel:
    """Write an activation of the table as a model."""
    import onnx_ir as ir_module

    leaving = raw.model.graph.outputs[0]
    given = ir_module.Value(
        name="pre-activation",
        shape=ir_module.Shape([1, *raw.out_shape]),
        type=ir_module.TensorType(leaving.dtype or ir_module.DataType.FLOAT),
    )
    opsets = dict(raw.model.graph.opset_imports)
    cut = Cut(
        source=given, target=given, nodes=[], sides={}, opsets=opsets, activation=activation,
        batch=1,
    )  # fmt: skip
    return build(cut, None, local=True)


def check_activation(split: Split, in_range: tuple[float, float]) -> None:
    """Hold the two parts against the span, and the activation against itself.

    Parameters
    ----------
    split : Split
        Whose parts.
    in_range : (float, float)
        Range of the inputs that matter.

    Raises
    ------
    UnsupportedModelError
        If the activation of the pre-activation is not what the span puts out, or a unit's output
        depends on another unit, or on another sample.
    """
    if split.activation is None:
        return
    whole = split.whole
    rng = np.random.default_rng(0)
    x = rng.uniform(*in_range, (2 * _CHECKED, whole.n_inputs))
    if whole.function is None:
        x[_CHECKED:] *= FAR
    rows = x.astype(np.float32)
    z, y = split.run_raw(rows), split.run_whole(rows)
    alone = split.activation(z)
    share = _differing(alone, y)
    if share > DIFFERING:
        raise UnsupportedModelError(
            f"layer {whole.layer!r}: {share:.0%} of its outputs are not the activation of their "
            "own pre-activation; use method='sample'"
        )
    others = rng.random(z.shape) < 0.5
    mixed = split.activation(np.where(others, np.roll(z, 1, axis=0), z))
    share = _differing(np.where(others, alone, mixed), alone)
    if share > 0:
        raise UnsupportedModelError(
            f"layer {whole.layer!r}: its activation is not elementwise, {share:.0%} of its outputs "
            "change with the pre-activations of other units or samples; use method='sample'"
        )


def _differing(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the share of entries that differ by more than float32 rounds."""
    finite = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    same = np.isclose(a, b, rtol=ROUNDING, atol=ROUNDING * float(finite), equal_nan=True)
    return float(1.0 - same.mean())
