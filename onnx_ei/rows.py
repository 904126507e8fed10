"""What an analysis is made of: one row a layer, with what was measured of it or why nothing was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from onnx_ei.results import Measurement
from onnx_ei.targets import Target

if TYPE_CHECKING:
    from onnx_ei.costs import Cost

__all__ = ["FAILURES", "Row", "Shape", "in_order", "model_row", "shown_nodes", "span_row"]

Shape = tuple["int | None", ...]

FAILURES = ("failed", "timeout", "memory", "crashed")
"""The values of ``Row.status`` that say that something went wrong: such a row is tried again."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer of a model, or one named span of several.

    Attributes
    ----------
    layer : str
        Its key, of a span that of its last layer; empty where the model itself could not be read.
    op_type, kind : str
        Its ONNX operator, and what that is (``"dense"``, ``"conv"``, ``"pool"`` ...); ``"span"``.
    in_activation, out_activation : str or None
        The activations at either end.
    in_shape, out_shape : tuple of int or None
        The whole tensors' shapes, batch first.
    n_inputs, n_outputs : int or None
        Units of its span; None where it has none.
    in_range, out_range : (float, float) or None
        From :func:`describe`: bin ranges of its ends, those of the calibration where the topology
        has one, else the defaults. A measurement tells its own.
    batched : bool or None
        Whether its samples run in batches, or one at a time.
    reason : str or None
        Why it was not measured.
    broken : bool
        Whether the reason is an error of the model or the runtime, not a limit of what can be
        measured.
    notes : tuple of str
        What else has to be known of its span: what couples its samples, say.
    measurements : dict of str to Measurement
        By name of the measure.
    model : str
        The model that it is a layer of: its path, or what else it came as.
    layer_id : int or None
        Its place among the model's layers, from 0 in graph order; a span has none.
    span : str or None
        The name of a span; None of a layer.
    in_layer : str or None
        The key of the layer that begins a span; None of a layer.
    failure : str or None
        How the process that measured it ended, where it did not survive: ``"timeout"``,
        ``"memory"`` or ``"crashed"``.
    seconds : float or None
        Wall time of all its measures.
    provenance : dict
        Where its values come from: ``model_sha256``, ``opset``, ``producer``, ``provider``,
        ``device`` (its name), ``device_id``, ``tf32``, ``cpu_nodes`` (nodes of the span that a GPU
        left to the CPU, by operator; None where that is not known), ``seed``, ``parameters`` (all
        that decides a value), ``definitions``, ``versions``, ``peak_memory`` (bytes).
    costs : dict of str to Cost
        From :func:`describe` with ``samples``: what each measure will take, by its name. Not
        written to files.
    """

    layer: str
    op_type: str
    kind: str
    in_activation: str | None
    out_activation: str | None
    in_shape: Shape
    out_shape: Shape
    n_inputs: int | None = None
    n_outputs: int | None = None
    in_range: tuple[float, float] | None = None
    out_range: tuple[float, float] | None = None
    batched: bool | None = None
    reason: str | None = None
    broken: bool = False
    notes: tuple[str, ...] = ()
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    model: str = ""
    layer_id: int | None = None
    span: str | None = None
    in_layer: str | None = None
    failure: str | None = None
    seconds: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The span's name, or the layer's key."""
        return self.layer if self.span is None else self.span

    @property
    def place(self) -> tuple[bool, str]:
        """Which row of its model it is: no two have the same."""
        return self.span is not None, self.name

    @property
    def target(self) -> Target:
        """What it is a row of, to be measured again."""
        return Target(layer=self.layer, in_layer=self.in_layer, span=self.span)

    @property
    def status(self) -> str:
        """What became of it, in a word.

        ``"measured"``; ``"unmeasurable"``, which ``reason`` explains; ``"listed"``, where nothing
        was asked (:func:`describe`); or a failure: ``"failed"`` (an error of the model or the
        runtime), ``"timeout"``, ``"memory"``, ``"crashed"``.
        """
        if self.reason is None:
            return "measured" if self.measurements else "listed"
        return self.failure or ("failed" if self.broken else "unmeasurable")

    def to_dict(self) -> dict[str, object]:
        """Return the row in JSON's types."""
        return {
            "model": self.model,
            "layer_id": self.layer_id,
            "layer": self.layer,
            "span": self.span,
            "in_layer": self.in_layer,
            "op_type": self.op_type,
            "kind": self.kind,
            "in_activation": self.in_activation,
            "out_activation": self.out_activation,
            "in_shape": list(self.in_shape),
            "out_shape": list(self.out_shape),
            "n_inputs": self.n_inputs,
            "n_outputs": self.n_outputs,
            **{name: list(ends) for name, ends in self._ranges() if ends is not None},
            "batched": self.batched,
            "status": self.status,
            "reason": self.reason,
            "broken": self.broken,
            "failure": self.failure,
            "notes": list(self.notes),
            "measurements": {k: m.to_dict() for k, m in self.measurements.items()},
            "seconds": self.seconds,
            "provenance": dict(self.provenance),
            **({"estimate": {k: asdict(c) for k, c in self.costs.items()}} if self.costs else {}),
        }

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Row:
        """Return the row that :meth:`to_dict` gave.

        Parameters
        ----------
        known : mapping
            JSON's types; what is no field of a row is left out.

        Raises
        ------
        TypeError, ValueError
            If a field is missing, or makes no sense.

        Examples
        --------
        >>> row = Row(layer="fc", op_type="Gemm", kind="dense", in_activation=None,
        ...           out_activation="Relu", in_shape=(1, 4), out_shape=(1, 5))
        >>> Row.from_dict(row.to_dict()) == row
        True
        """
        names = {of.name for of in fields(cls)}
        given = {name: value for name, value in known.items() if name in names}
        for name in ("in_shape", "out_shape", "in_range", "out_range", "notes"):
            if isinstance(given.get(name), list):
                given[name] = tuple(given[name])
        taken = given.get("measurements", {})
        given["measurements"] = {k: Measurement.from_dict(m) for k, m in taken.items()}
        return cls(**given)

    def _ranges(self) -> tuple[tuple[str, tuple[float, float] | None], ...]:
        return ("in_range", self.in_range), ("out_range", self.out_range)


def model_row(model: str, reason: str, failure: str | None = None) -> Row:
    """Return the row of a model whose layers could not be listed.

    Parameters
    ----------
    model : str
        Its name.
    reason : str
        Why.
    failure : str, optional
        As for :class:`Row`.
    """
    return Row(
        layer="",
        op_type="",
        kind="",
        in_activation=None,
        out_activation=None,
        in_shape=(),
        out_shape=(),
        reason=reason,
        broken=True,
        model=model,
        failure=failure,
    )


def span_row(target: Target) -> Row:
    """Return the row of a span whose ends cannot be told.

    Parameters
    ----------
    target : Target
        With the reason.
    """
    return Row(
        layer=target.layer,
        op_type="",
        kind="span",
        in_activation=None,
        out_activation=None,
        in_shape=(),
        out_shape=(),
        reason=target.reason,
        span=target.span,
        in_layer=target.in_layer,
    )


def in_order(row: Row) -> tuple[str, tuple[bool, str], int]:
    """Sort rows by model, its layers in graph order, then its spans by name.

    Parameters
    ----------
    row : Row
        Any.

    Returns
    -------
    tuple
        A key for ``sorted``.
    """
    of_span = (False, "") if row.span is None else (True, row.span)
    return row.model, of_span, -1 if row.layer_id is None else row.layer_id


def shown_nodes(kinds: Mapping[str, int]) -> str:
    """Return counted operators in words.

    Parameters
    ----------
    kinds : mapping of str to int
        How many of each operator.

    Examples
    --------
    >>> shown_nodes({"NonZero": 1, "Shape": 2})
    '1 NonZero, 2 Shape'
    """
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())
