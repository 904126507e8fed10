"""Where the samples of a batch stand in a tensor, and where an operator takes them.

A file is analysed with one sample. To run many at once, each tensor has to say where it holds
them: on an axis of their own, mostly the first; after a transpose on another; or merged with heads
or tokens into one axis, where a Reshape put them. Operators then carry that place, their lane,
along; what was written for one sample (a Reshape's target, a state, a class token) is rewritten for
any number. Nothing here is trusted: a batch is compared with single runs before it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from onnx_ei._graph.windows import Dims

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "Lane", "LaneLostError", "Operand", "Step", "Visit", "joined", "kept", "lanes_of", "part_of",
    "placed", "viewed",
]  # fmt: skip


class Lane(NamedTuple):
    """The samples' place in a tensor: an axis of size ``outer * batch * inner``, in this order.

    Attributes
    ----------
    axis : int
        Which axis.
    outer, inner : int
        What is merged with the samples: 1 and 1 where they have the axis to themselves.
    """

    axis: int
    outer: int = 1
    inner: int = 1

    @property
    def plain(self) -> bool:
        """Whether the samples have the axis to themselves."""
        return self.outer == self.inner == 1

    def on(self, axis: int) -> Lane:
        """Return the same on another axis."""
        return self._replace(axis=axis)


class LaneLostError(Exception):
    """An operator brings the samples of a batch together, or nobody knows where it takes them."""


class Operand(NamedTuple):
    """A tensor around a node: where it holds the samples, and its sizes with one of them.

    Attributes
    ----------
    lane : Lane or None
        None where it holds none, or (of an output) it is asked for.
    dims : tuple of int, or None
        Sizes of the part that the node reads or makes; None where they are not known.
    whole : tuple of int, or None
        Sizes of the tensor that it is a part of.
    """

    lane: Lane | None
    dims: Dims | None
    whole: Dims | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """What becomes of a node.

    Attributes
    ----------
    lanes : tuple
        A lane for each output; None where it holds no samples.
    repeat : dict of int to Lane
        Inputs without samples that need some: where to repeat them.
    target : list of int or None
        The node becomes a Reshape to this.
    constants : dict of int to list of int
        Inputs that change.
    wide : Lane or None
        The lane in the whole of the tensors that are made, where it is not just on another axis.
    """

    lanes: tuple[Lane | None, ...]
    repeat: dict[int, Lane] = field(default_factory=dict)
    target: list[int] | None = None
    constants: dict[int, list[int]] = field(default_factory=dict)
    wide: Lane | None = None


class Visit(NamedTuple):
    """A node with the lanes and sizes around it.

    Attributes
    ----------
    node : onnx_ir.Node
        The node.
    operands : sequence of Operand
        Its inputs.
    results : sequence of Operand
        Its outputs.
    batch : int
        The samples that the sizes count: 1, or what the file fixes.
    wide : Lane
        Where the samples stand in the whole of the tensor that is read, of which a part may be.
    """

    node: ir.Node
    operands: Sequence[Operand]
    results: Sequence[Operand]
    batch: int
    wide: Lane

    @property
    def outputs(self) -> list[Dims | None]:
        """The sizes of its outputs."""
        return [result.dims for result in self.results]

    def total(self, lane: Lane) -> int:
        """Return the size of a lane's axis."""
        return lane.outer * self.batch * lane.inner

    def laned(self) -> list[int]:
        """Return the inputs that hold samples, by index."""
        return [i for i, operand in enumerate(self.operands) if operand.lane is not None]

    def lane(self, index: int = 0) -> Lane:
        """Return the lane of the one input that may have one."""
        lane = self.operands[index].lane if index < len(self.operands) else None
        if lane is None or self.laned() != [index]:
            raise LaneLostError("reads samples where a parameter is expected")
        return lane

    def rank(self, index: int = 0) -> int:
        """Return the rank of an input."""
        dims = self.operands[index].dims
        if dims is None:
            raise LaneLostError("reads a tensor of unknown rank")
        return len(dims)

    def step(self, lane: Lane, **changes: object) -> Step:
        """Return a step after which every output has the same lane."""
        return Step(lanes=(lane,) * len(self.node.outputs), **changes)  # type: ignore[arg-type]

    def repeat(self, index: int, lane: Lane) -> Lane | None:
        """Say where an input without samples has to be repeated for a lane in its own axes.

        None where it holds one element there: it is spread by itself.
        """
        dims = self.operands[index].dims
        if dims is None:
            raise LaneLostError("reads a tensor of unknown shape beside the samples")
        if lane.axis < 0 or dims[lane.axis] == 1:
            return None
        if lane.plain or dims[lane.axis] != lane.outer * lane.inner:
            raise LaneLostError("spreads one sample over an axis of another size")
        return lane


def joined(visit: Visit, indices: Iterable[int], rank: int | None = None) -> Step:
    """Follow an operator that joins elements of the same place, some of its inputs broadcast."""
    after = visit.outputs[0]
    if rank is None:
        if after is None:
            raise LaneLostError("makes a tensor of unknown rank")
        rank = len(after)
    chosen = [i for i in indices if i < len(visit.operands)]
    if set(visit.laned()) - set(chosen):
        raise LaneLostError("reads samples where a parameter is expected")
    lanes = {
        lane.on(lane.axis + rank - visit.rank(i))
        for i in chosen
        if (lane := visit.operands[i].lane) is not None
    }
    if len(lanes) != 1:
        raise LaneLostError("joins tensors that hold the samples in different places")
    lane = lanes.pop()
    if after is not None and after[lane.axis] not in (None, visit.total(lane)):
        raise LaneLostError("spreads one sample over an axis of another size")
    repeat = {}
    for i in chosen:
        if visit.operands[i].lane is None and visit.operands[i].dims != ():
            where = visit.repeat(i, lane.on(lane.axis - rank + visit.rank(i)))
            if where is not None:
                repeat[i] = where
    return visit.step(lane, repeat=repeat)


def kept(visit: Visit, touched: Iterable[int] = ()) -> Step:
    """Follow an operator that leaves the axes of its first input where they are.

    ``touched`` are those along which it works.
    """
    lane = visit.lane()
    if lane.axis in set(touched):
        raise LaneLostError("works along the samples")
    return visit.step(lane)


def placed(
    before: Sequence[int], lane: Lane, after: Sequence[int], batch: int, axis: int | None = None
) -> Lane | None:
    """Return where the samples stand after a reshape: the place is one in the flat tensor.

    Parameters
    ----------
    before, after : sequence of int
        The shapes.
    lane : Lane
        Their place before.
    batch : int
        How many of them the shapes count.
    axis : int, optional
        The axis that they are to stand on, where there is a choice.

    Returns
    -------
    Lane or None
        An axis of their own where there is one; None where the shapes do not agree.

    Examples
    --------
    Heads merged with the samples, as in PyTorch's attention:

    >>> placed((7, 1, 12), Lane(1), (7, 4, 3), 1)
    Lane(axis=1, outer=1, inner=4)
    """
    outer, inner = prod(before[: lane.axis]) * lane.outer, prod(before[lane.axis + 1 :])
    inner *= lane.inner
    found = []
    for place, size in enumerate(after):
        rest = prod(after[place + 1 :])
        within = inner // rest if rest else 0
        if within < 1 or within * rest != inner or size % (batch * within):
            continue
        beside = size // (batch * within)
        if beside * prod(after[:place]) == outer:
            found.append(Lane(place, beside, within))
    if not found:
        return None
    # merged, they may stand at the end of one axis or at the start of the next: the same place in
    # memory. Of as many axes as before it is the same axis (units into heads, as above); of fewer,
    # the first (tokens and samples into rows)
    moved = len(after) == len(before)
    order = {at: (not at.plain, moved and at.axis != lane.axis, at.axis) for at in found}
    return min(found, key=lambda at: (at.axis != axis and axis is not None, *order[at]))


def viewed(visit: Visit) -> Step:
    """Follow a Reshape and its kin; it becomes a Reshape for any number of samples."""
    lane, first, result = visit.lane(), visit.operands[0], visit.results[0]
    # an axis that is cut to one position is no place for the samples, though its size would fit:
    # the whole tensors say which it is
    whole = _sizes(visit, visit.wide, first.whole, result.whole)
    wide = None if whole is None else placed(whole[0], visit.wide, whole[1], visit.batch)
    sizes = _sizes(visit, lane, first.dims, result.dims)
    if sizes is None:
        raise LaneLostError("makes a tensor of unknown shape")
    found = placed(sizes[0], lane, sizes[1], visit.batch, None if wide is None else wide.axis)
    if found is None:
        raise LaneLostError("cuts the samples apart")
    target = [-1 if a == found.axis else d for a, d in enumerate(sizes[1])]
    return visit.step(found, target=target, wide=wide or found)


def _sizes(
    visit: Visit, lane: Lane, before: Dims | None, after: Dims | None
) -> tuple[list[int], list[int]] | None:
    """Settle the sizes before and after a view; None where they stay open."""
    if before is None or after is None:
        return None
    known = [visit.total(lane) if a == lane.axis and d is None else d for a, d in enumerate(before)]
    sizes = [int(d) for d in known if d is not None]
    made = [int(d) for d in after if d is not None]
    if len(sizes) < len(known):
        return None
    held = prod(made)
    if held and len(made) == len(after) - 1:  # one is open: what is left is its size
        left = prod(sizes) // held
        made = [left if d is None else int(d) for d in after]
    return None if len(made) < len(after) else (sizes, made)


def lanes_of(whole: Dims, first: bool) -> list[Lane]:
    """Return where the samples may stand in a tensor that enters a span, most likely first.

    Parameters
    ----------
    whole : tuple of int or None
        The tensor's sizes.
    first : bool
        Whether its first axis may count them.

    Returns
    -------
    list of Lane
        On the first axis; on another of size 1; or merged with what the first one counts.

    Examples
    --------
    >>> lanes_of((7, 1, 12), first=False)[0]
    Lane(axis=1, outer=1, inner=1)
    """
    found = [Lane(0)] if first else []
    found += [Lane(a) for a, d in enumerate(whole) if a > 0 and d == 1][: 2 - len(found)]
    if not first and whole and whole[0] is not None:
        found += [Lane(0, inner=whole[0]), Lane(0, outer=whole[0])]
    return found


def part_of(lane: Lane, size: int, batch: int) -> Lane:
    """Return a lane in a part of a tensor whose axis of samples has this size."""
    if lane.outer > 1:
        return lane._replace(outer=size // batch // lane.inner)
    return lane._replace(inner=size // batch)
