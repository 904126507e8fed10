"""What a node needs to make a part of its outputs, and what the rules of many operators share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnx_ei._graph.windows import Window, dims_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Demand", "broadcast", "collapsed", "first_only", "within"]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a node needs to make a window of its output.

    Attributes
    ----------
    inputs : tuple
        A window for each input; None where the input is not cut (weights).
    attributes : dict
        Attributes that change when only the window is computed (padding cut off).
    drop : tuple of str
        Attributes that go.
    constants : dict of int to array-like, or None
        Inputs, by index, that change in the same way; None for one that goes.
    keep : tuple of int or None
        The inputs that are still needed, by index; None where all are.
    made : dict of int to Window
        What the node makes of its outputs, where that is not just what was asked for.
    only : int or None
        The index of the one output that is left when an Identity takes the node's place.
    """

    inputs: tuple[Window | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    constants: dict[int, Any] = field(default_factory=dict)
    keep: tuple[int, ...] | None = None
    made: dict[int, Window] = field(default_factory=dict)
    only: int | None = None

    def making(self, made: Mapping[int, Window]) -> Demand:
        """Return the same with other windows of its outputs."""
        return replace(self, made=dict(made))

    def needs(self, index: int) -> bool:
        """Say whether an input is still needed."""
        return self.keep is None or index in self.keep


def first_only(node: ir.Node, window: Window) -> Demand:
    """Ask for a window of the first input; the others, parameters, are not cut."""
    return Demand(inputs=(window, *(None for _ in node.inputs[1:])))


def broadcast(node: ir.Node, value: ir.Value | None, window: Window) -> Window | None:
    """Return the part of one operand that a window of the broadcast result needs.

    An axis of size 1 is there once for all positions, unless the result has only one too: then it
    is itself an axis of positions, whose window may reach past the border. A weight is no map.
    """
    dims = None if value is None else dims_of(value)
    if value is None or dims is None:
        return None
    lead = len(window) - len(dims)
    result = dims_of(node.outputs[0]) or (None,) * len(window)
    fixed = value.const_value is not None
    return tuple(
        None if d == 1 and (fixed or result[lead + a] != 1) else window[lead + a]
        for a, d in enumerate(dims)
    )


def collapsed(node: ir.Node, window: Window, axes: Iterable[int]) -> Demand | None:
    """Take some axes in whole: they leave one position, with nothing beside it."""
    gone = set(axes)
    if any(window[a] not in (None, (0, 1)) for a in gone):
        return None
    return first_only(node, tuple(None if a in gone else w for a, w in enumerate(window)))


def within(node: ir.Node, window: Window, output: int = 0) -> bool:
    """Say whether a window stays within an output.

    Where a node crops, there is data past its border, which the model never reads: it is no
    padding that could be cut off.
    """
    dims = dims_of(node.outputs[output])
    return dims is not None and all(
        w is None or d is None or (w[0] >= 0 and w[1] <= d)
        for w, d in zip(window, dims, strict=True)
    )
