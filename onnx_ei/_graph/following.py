"""Lanes, operator by operator: where each takes the samples of a batch.

See :mod:`onnx_ei._graph.lanes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from onnx_ei._graph.attributes import constant_axis, integer, integers, numbers, opset_of
from onnx_ei._graph.lanes import Lane, LaneLostError, Step, Visit, joined, kept, viewed
from onnx_ei._graph.mixing import equation
from onnx_ei._graph.receptive import BROADCAST, UNARY

__all__ = ["follow"]

_Rule = Callable[[Visit], Step]


def follow(visit: Visit) -> Step:
    """Say where a node takes the samples that it reads.

    Parameters
    ----------
    visit : Visit
        The node; one of its inputs holds samples.

    Returns
    -------
    Step

    Raises
    ------
    LaneLostError
        If it brings them together, or nobody knows where it takes them.
    """
    node = visit.node
    if node.op_type in UNARY:
        return kept(visit)
    if node.op_type in BROADCAST:
        return joined(visit, range(len(visit.operands)))
    return _RULES.get(node.op_type, _first_axis)(visit)


def _first_axis(visit: Visit) -> Step:
    """Follow what has samples on its first axis, or is not known here: to the first axis."""
    lanes = {visit.operands[i].lane for i in visit.laned()}
    lane = lanes.pop()
    if lanes or lane is None or lane.axis != 0:
        raise LaneLostError("reads samples on an axis that is not its first")
    for dims in visit.outputs:
        if dims is not None and (not dims or dims[0] not in (None, visit.total(lane))):
            raise LaneLostError("makes a tensor whose first axis does not count the samples")
    return visit.step(lane)


def _sizes_only(visit: Visit) -> Step:
    """Follow a shape to nothing: it is the same for every sample."""
    return Step(lanes=(None,) * len(visit.node.outputs))


def _scaled_by_all(visit: Visit) -> Step:
    """Follow the numbers; their scale and zero point are those of all samples."""
    return Step(lanes=(visit.lane(), None, None)[: len(visit.node.outputs)])


def _axis_of(visit: Visit, default: int) -> int:
    return integer(visit.node, "axis", default) % visit.rank()


def _along(default: int) -> _Rule:
    return lambda visit: kept(visit, [_axis_of(visit, default)])


def _softmax(visit: Visit) -> Step:
    old = opset_of(visit.node) < 13
    axis = _axis_of(visit, 1 if old else -1)
    return kept(visit, range(axis, visit.rank()) if old else [axis])


def _trailing(visit: Visit) -> Step:
    return kept(visit, range(_axis_of(visit, -1), visit.rank()))


def _running(visit: Visit) -> Step:
    axis = constant_axis(visit.node, 1, visit.rank())
    if axis is None:
        raise LaneLostError("works along an axis that is computed")
    return kept(visit, [axis])


def _sliced(visit: Visit) -> Step:
    starts, axes = numbers(visit.node, "starts", 1), numbers(visit.node, "axes", 3)
    if starts is None or axes is None:
        raise LaneLostError("cuts along an axis that is computed")
    touched = [a % visit.rank() for a in axes] or list(range(len(starts)))
    return _through(visit, touched)


def _through(visit: Visit, touched: Iterable[int]) -> Step:
    """Cut; the one sample of the file, cut out of one, is all of them."""
    lane = visit.lane()
    after = visit.outputs[0]
    cut = lane.axis in set(touched)
    if cut and after is not None and after == visit.operands[0].dims:
        return viewed(visit)
    return kept(visit, touched)


def _padded(visit: Visit) -> Step:
    pads, axes = numbers(visit.node, "pads", 1), numbers(visit.node, "axes", 3)
    if pads is None or axes is None:
        raise LaneLostError("pads by sizes that are computed")
    chosen = [a % visit.rank() for a in axes] or list(range(visit.rank()))
    n = len(chosen)
    return kept(visit, [a for i, a in enumerate(chosen) if pads[i] or pads[n + i]])


def _transposed(visit: Visit) -> Step:
    lane = visit.lane()
    found = integers(visit.node, "perm", ())
    order = found or list(range(visit.rank()))[::-1]
    return visit.step(lane.on(order.index(lane.axis)))


def _squeezed(visit: Visit) -> Step:
    """Axes go or come: the samples keep theirs, or are merged with what stands beside it."""
    lane, rank = visit.lane(), visit.rank()
    axes = numbers(visit.node, "axes", 1)
    if visit.node.op_type == "Unsqueeze" and axes:
        come = {a % (rank + len(axes)) for a in axes}
        left = [a for a in range(rank + len(axes)) if a not in come]
        return visit.step(lane.on(left[lane.axis]))
    if axes:
        gone = {a % rank for a in axes}
        if lane.axis not in gone:
            return visit.step(lane.on(lane.axis - sum(a < lane.axis for a in gone)))
    return viewed(visit)


def _concatenated(visit: Visit) -> Step:
    after = visit.outputs[0]
    pieces = range(2, len(visit.operands), 3) if visit.node.op_type[0] == "Q" else None
    chosen = list(pieces or range(len(visit.operands)))
    lanes = {visit.operands[i].lane for i in chosen} - {None}
    lane = lanes.pop()
    if lane is None or lanes:
        raise LaneLostError("joins tensors that hold the samples in different places")
    if lane.axis == integer(visit.node, "axis", 0) % visit.rank(visit.laned()[0]):
        raise LaneLostError("joins along the samples")
    if after is not None and after[lane.axis] not in (None, visit.total(lane)):
        raise LaneLostError("spreads one sample over an axis of another size")
    # nothing is broadcast here: a piece without samples is repeated for each of them
    bare = [i for i in chosen if visit.operands[i].lane is None]
    return visit.step(lane, repeat=dict.fromkeys(bare, lane))


def _product(right: int) -> _Rule:
    def rule(visit: Visit) -> Step:
        sides = [i for i in (0, right) if visit.operands[i].lane is not None]
        if not sides or set(visit.laned()) - set(sides):
            raise LaneLostError("reads samples where a parameter is expected")
        if any(integer(visit.node, f"trans{s}", 0) for s in ("A", "B", "BatchA", "BatchB")):
            raise LaneLostError("multiplies a transposed matrix")
        rank = max(visit.rank(0), visit.rank(right), 2)
        lanes = [_factor(visit, i, rank, left=i == 0) for i in sides]
        if len(set(lanes)) != 1:
            raise LaneLostError("multiplies samples by other samples")
        lane = lanes[0]
        vectors = visit.rank(0) == 1 or visit.rank(right) == 1
        if len(sides) == 2 or lane.axis >= rank - 2:
            if len(sides) == 2 and lane.axis >= rank - 2:
                raise LaneLostError("multiplies samples by other samples")
            return visit.step(lane.on(min(lane.axis, rank - 2)) if vectors else lane)
        other = right if sides == [0] else 0
        where = visit.repeat(other, lane.on(lane.axis - rank + visit.rank(other)))
        return visit.step(lane, repeat={} if where is None else {other: where})

    return rule


def _factor(visit: Visit, index: int, rank: int, *, left: bool) -> Lane:
    """Return where a factor's samples stand in a product."""
    lane = visit.operands[index].lane
    n = visit.rank(index)
    summed = n - 1 if left or n == 1 else n - 2
    if lane is None or lane.axis == summed:
        raise LaneLostError("sums over the samples")
    return lane.on(lane.axis + rank - n)


def _gemm(visit: Visit) -> Step:
    left = visit.operands[0].lane
    rows = 1 if integer(visit.node, "transA", 0) else 0
    if left is None or left.axis != rows or visit.operands[1].lane is not None:
        raise LaneLostError("sums over the samples, or has them in its weights")
    lane, repeat = left.on(0), {}
    if visit.node.op_type != "QGemm" and len(visit.operands) > 2 and visit.operands[2].dims:
        bias = visit.operands[2]
        if bias.lane not in (None, lane):
            raise LaneLostError("joins tensors that hold the samples in different places")
        if bias.lane is None:
            where = visit.repeat(2, lane.on(visit.rank(2) - 2))
            repeat = {} if where is None else {2: where}
    return visit.step(lane, repeat=repeat)


def _reduced(visit: Visit) -> Step:
    lane, rank, node = visit.lane(), visit.rank(), visit.node
    axes = numbers(node, "axes", 1)
    if node.op_type in ("ArgMax", "ArgMin"):
        axes = [integer(node, "axis", 0)]
    if axes is None:
        raise LaneLostError("works along an axis that is computed")
    if not axes and integer(node, "noop_with_empty_axes", 0):
        return visit.step(lane)
    gone = {a % rank for a in axes} or set(range(rank))
    if lane.axis in gone:
        raise LaneLostError("works along the samples")
    before = 0 if integer(node, "keepdims", 1) else sum(a < lane.axis for a in gone)
    return visit.step(lane.on(lane.axis - before))


def _gathered(visit: Visit) -> Step:
    axis = _axis_of(visit, 0)
    if visit.operands[0].lane is None:
        found = visit.operands[1].lane
        if found is None:
            raise LaneLostError("reads samples where a parameter is expected")
        return visit.step(found.on(found.axis + axis))
    lane = visit.lane()
    if lane.axis == axis:
        # the first of one sample: each of them
        chosen = numbers(visit.node, "", 1)
        if lane.plain and visit.batch == 1 and chosen in ([0], [-1]):
            return viewed(visit)
        raise LaneLostError("picks among the samples")
    return visit.step(lane if lane.axis < axis else lane.on(lane.axis - 1 + visit.rank(1)))


def _gathered_elements(visit: Visit) -> Step:
    lanes = {visit.operands[i].lane for i in (0, 1)} - {None}
    lane = lanes.pop()
    if lane is None or lanes or lane.axis == _axis_of(visit, 0):
        raise LaneLostError("picks among the samples")
    bare = [i for i in (0, 1) if visit.operands[i].lane is None]
    return visit.step(lane, repeat=dict.fromkeys(bare, lane))


def _expanded(visit: Visit) -> Step:
    after = visit.outputs[0]
    step = joined(visit, [0])
    lane = step.lanes[0]
    if after is None or lane is None or any(d is None for d in after):
        raise LaneLostError("makes a tensor of unknown shape")
    sizes = [1 if a == lane.axis or d is None else d for a, d in enumerate(after)]
    return visit.step(lane, constants={1: sizes})


def _tiled(visit: Visit) -> Step:
    repeats = numbers(visit.node, "repeats", 1)
    if not repeats:
        raise LaneLostError("repeats as often as is computed")
    return kept(visit, [a for a, r in enumerate(repeats) if r != 1])


def _recurrent(visit: Visit) -> Step:
    """Follow a recurrent layer; states and lengths for one sample serve all of them."""
    first = integer(visit.node, "layout", 0) == 1
    place = 0 if first else 1
    for index in visit.laned():
        lane = visit.operands[index].lane
        wanted = {0: place, 4: 0, 5: place, 6: place}.get(index)
        if lane is None or not lane.plain or lane.axis != wanted:
            raise LaneLostError("reads samples on an axis that counts something else")
    if visit.operands[0].lane is None:
        raise LaneLostError("reads one sequence for all samples")
    repeat = {
        index: Lane(0 if index == 4 else place)
        for index in range(4, min(len(visit.operands), 7))
        if visit.operands[index].lane is None and visit.operands[index].dims
    }
    lanes = (Lane(0),) * 3 if first else (Lane(2), Lane(1), Lane(1))
    return Step(lanes=lanes[: len(visit.node.outputs)], repeat=repeat)


def _einsum(visit: Visit) -> Step:
    found = equation(visit.node)
    if found is None:
        raise LaneLostError("is written with an ellipsis")
    letters = {
        found[0][i][lane.axis]: lane
        for i in visit.laned()
        if (lane := visit.operands[i].lane) is not None
    }
    letter, lane = next(iter(letters.items()))
    if len(letters) > 1 or letter not in found[1]:
        raise LaneLostError("sums over the samples, or multiplies them by other samples")
    bare = [i for i, w in enumerate(found[0]) if letter in w and visit.operands[i].lane is None]
    repeat = {i: lane.on(found[0][i].index(letter)) for i in bare}
    return visit.step(lane.on(found[1].index(letter)), repeat=repeat)


def _matrices(visit: Visit) -> Step:
    return kept(visit, [visit.rank() - 2, visit.rank() - 1])


def _skip_normalised(visit: Visit) -> Step:
    lane = joined(visit, [0, 1]).lanes[0]
    return visit.step(lane if lane is not None else Lane(0))


_REDUCTIONS = (
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceProd",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin",
)  # fmt: skip

_RULES: Mapping[str, _Rule] = {
    "Concat": _concatenated,
    "CumSum": _running,
    "DynamicQuantizeLSTM": _recurrent,
    "DynamicQuantizeLinear": _scaled_by_all,
    "Einsum": _einsum,
    "Expand": _expanded,
    "Flatten": viewed,
    "FusedGemm": _gemm,
    "FusedMatMul": _product(1),
    "GRU": _recurrent,
    "Gather": _gathered,
    "GatherElements": _gathered_elements,
    "Gemm": _gemm,
    "GemmFastGelu": _product(1),
    "Hardmax": _softmax,
    "LSTM": _recurrent,
    "LayerNormalization": _trailing,
    "LogSoftmax": _softmax,
    "LpNormalization": _along(-1),
    "MatMul": _product(1),
    "MatMulInteger": _product(1),
    "MatMulIntegerToFloat": _product(1),
    "Pad": _padded,
    "QGemm": _gemm,
    "QLinearAdd": lambda visit: joined(visit, [0, 3]),
    "QLinearConcat": _concatenated,
    "QLinearMatMul": _product(3),
    "QLinearMul": lambda visit: joined(visit, [0, 3]),
    "QuantizeLinear": kept,
    "DequantizeLinear": kept,
    "RMSNormalization": _trailing,
    "RNN": _recurrent,
    "Reshape": viewed,
    "Shape": _sizes_only,
    "SimplifiedLayerNormalization": _trailing,
    "Size": _sizes_only,
    "SkipLayerNormalization": _skip_normalised,
    "SkipSimplifiedLayerNormalization": _skip_normalised,
    "Slice": _sliced,
    "Softmax": _softmax,
    "Split": _along(0),
    "Squeeze": _squeezed,
    "Tile": _tiled,
    "Transpose": _transposed,
    "Trilu": _matrices,
    "Unsqueeze": _squeezed,
    **dict.fromkeys(_REDUCTIONS, _reduced),
}
