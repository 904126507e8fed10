"""Receptive fields of Resize and Upsample, where a part of a map is resized as the whole is.

That is so where a shift by whole positions stays one: for scales that are whole numbers, or one
over a power of two (other fractions are not exact in float32, and a rounding could go the other
way in a part), and for coordinates that do not depend on the length of the map.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np

from onnx_ei._graph.attributes import integer, integers, opset_of, text
from onnx_ei._graph.demands import Demand, first_only, within
from onnx_ei._graph.windows import Dims, Window, dims_of

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["resized"]


def resized(node: ir.Node, window: Window) -> Demand | None:
    """Return what a Resize or an Upsample needs; the rule of both operators."""
    before = None if node.inputs[0] is None else dims_of(node.inputs[0])
    after = dims_of(node.outputs[0])
    if before is None or after is None or not within(node, window):
        return None
    entering, made = list(window), list(window)
    for axis, part in enumerate(window):
        if part is None:
            continue
        scale = _scale(node, axis, before[axis], after[axis])
        spread = None if scale is None else _spread(node, part, scale, before[axis] or 0)
        if scale is None or spread is None:
            return None
        entering[axis], made[axis] = spread, _times(spread, scale)
    need = first_only(node, tuple(entering)).making({0: tuple(made)})
    if _coordinates(node) == "pytorch_half_pixel":
        if any(a == 1 != b for a, b in zip(after, before, strict=True)):
            return None
        # a length of 1 is a case of its own there, and a part may have it
        need = replace(need, attributes={"coordinate_transformation_mode": "half_pixel"})
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    return need if sizes is None else _rescaled(node, need, before, after)


def _scale(node: ir.Node, axis: int, size: int | None, made: int | None) -> Fraction | None:
    """Return the scale of an axis where parts are resized exactly."""
    if not size or not made:
        return None
    scale = Fraction(made, size)
    given = _given_scales(node)
    if given is not None and float(given[axis]) != float(scale):
        return None  # the length was rounded
    power = scale.denominator & (scale.denominator - 1) == 0
    return scale if scale.denominator == 1 or (scale.numerator == 1 and power) else None


def _given_scales(node: ir.Node) -> NDArray[np.float32] | None:
    """Return the scales of all axes; None where sizes are given in their place."""
    found = node.attributes.get("scales")
    if found is not None:
        return np.asarray(found.as_floats(), np.float32)
    place = 2 if node.op_type == "Resize" and opset_of(node) >= 11 else 1
    value = node.inputs[place] if len(node.inputs) > place else None
    constant = None if value is None else value.const_value
    if constant is None or constant.size == 0:
        return None
    given = np.asarray(constant.numpy(), np.float32)
    axes = integers(node, "axes", [])
    if not axes:
        return given
    rank = len(dims_of(node.outputs[0]) or ())
    scales = np.ones(rank, np.float32)
    scales[[a % rank for a in axes]] = given
    return scales


def _times(part: tuple[int, int], scale: Fraction) -> tuple[int, int]:
    return int(part[0] * scale), int(part[1] * scale)


def _spread(
    node: ir.Node, part: tuple[int, int], scale: Fraction, size: int
) -> tuple[int, int] | None:
    """Return the run of an axis that a run of the resized axis is made of."""
    ends = [_support(node, place, scale, size) for place in (part[0], part[1] - 1)]
    if ends[0] is None or ends[1] is None:
        return None
    low, high = ends[0][0], ends[1][1] + 1
    # what is made has to begin where the part does, or before: a shift is one by whole steps
    low = max(0, min(low, floor(part[0] / scale)))
    high = min(size, max(high, ceil(part[1] / scale)))
    step = scale.denominator
    return low // step * step, -(-high // step) * step


def _support(node: ir.Node, place: int, scale: Fraction, size: int) -> tuple[int, int] | None:
    """Return the first and the last position that one resized position is made of."""
    old, coordinates = _is_old(node), _coordinates(node)
    if integer(node, "antialias", 0) or text(node, "keep_aspect_ratio_policy", "stretch")[0] != "s":
        return None
    if old and scale < 1:
        return None  # how these round there is not written down
    if coordinates == "asymmetric":
        centre = place / scale
    elif coordinates in ("half_pixel", "pytorch_half_pixel"):
        centre = (place + Fraction(1, 2)) / scale - Fraction(1, 2)
    else:
        return None
    mode = text(node, "mode", "nearest")
    if mode == "nearest":
        rounding = "floor" if old else text(node, "nearest_mode", "round_prefer_floor")
        low = high = _rounded(centre, rounding)
    elif mode in ("linear", "bilinear"):
        low, high = floor(centre), ceil(centre)
    else:
        return None
    return min(max(low, 0), size - 1), min(max(high, 0), size - 1)


def _is_old(node: ir.Node) -> bool:
    return node.op_type == "Upsample" or opset_of(node) < 11


def _coordinates(node: ir.Node) -> str:
    if _is_old(node):
        return "asymmetric"
    return text(node, "coordinate_transformation_mode", "half_pixel")


def _rounded(centre: Fraction, mode: str) -> int:
    half = Fraction(1, 2)
    return {
        "floor": floor(centre),
        "ceil": ceil(centre),
        "round_prefer_ceil": floor(centre + half),
    }.get(mode, ceil(centre - half))


def _rescaled(node: ir.Node, need: Demand, before: Dims, after: Dims) -> Demand | None:
    """Give scales in the place of sizes, to which a part would be stretched."""
    axes = [a % len(before) for a in integers(node, "axes", range(len(before)))]
    scales = [_scale(node, a, before[a], after[a]) for a in axes]
    given = np.array([float(s) for s in scales if s is not None], np.float32)
    if len(given) < len(axes):
        return None
    return replace(need, constants={2: given, 3: None})
