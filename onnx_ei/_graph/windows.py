"""Which part of a tensor is meant: windows, and how axes are matched across a reshape.

A window says, for each axis of a tensor, which run of indices is needed: ``None`` for all of the
axis, ``(low, high)`` for a part. Along an axis of positions (pixels, frames, tokens) indices are
those of an unbounded map: a window may reach past the real border, where the padding would be;
cutting the padding off and feeding the whole window is then what "away from the padding" means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Dims", "Window", "axis_groups", "dims_of", "full", "is_full", "union"]

Window = tuple["tuple[int, int] | None", ...]
Dims = tuple["int | None", ...]


def full(rank: int) -> Window:
    """Return the window that is the whole tensor."""
    return (None,) * rank


def is_full(window: Window) -> bool:
    """Say whether a window is the whole tensor."""
    return all(w is None for w in window)


def union(a: Window, b: Window) -> Window:
    """Return the smallest window that holds both."""
    return tuple(
        None if x is None or y is None else (min(x[0], y[0]), max(x[1], y[1]))
        for x, y in zip(a, b, strict=True)
    )


def dims_of(value: ir.Value) -> Dims | None:
    """Return a tensor's dimensions, None for those that are open; None if the rank is unknown."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else None for d in value.shape)


def axis_groups(before: Dims, after: Dims) -> list[tuple[list[int], list[int]]] | None:
    """Match the axes of a tensor before and after a reshape.

    Parameters
    ----------
    before, after : tuple of int or None
        The dimensions; None is open.

    Returns
    -------
    list of (list of int, list of int) or None
        Runs of axes that hold the same elements, as short as possible; axes of size 1 that come or
        go stand in runs with an empty side. None where open dimensions leave it undecided.

    Examples
    --------
    >>> axis_groups((1, 12, 5), (1, 3, 4, 5))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        if left and right and before[i] is None and after[j] is None:
            groups.append((left, right))
            i, j = i + 1, j + 1
            continue
        size_left = before[i] if left else 1
        size_right = after[j] if right else 1
        if left and size_left == 1 != size_right:
            groups.append((left, []))
            i += 1
            continue
        if right and size_right == 1 != size_left:
            groups.append(([], right))
            j += 1
            continue
        while size_left != size_right:
            if size_left is None or size_right is None:
                return None
            if size_left < size_right and left and left[-1] + 1 < len(before):
                left.append(left[-1] + 1)
                size_left = _times(size_left, before[left[-1]])
            elif size_right < size_left and right and right[-1] + 1 < len(after):
                right.append(right[-1] + 1)
                size_right = _times(size_right, after[right[-1]])
            else:
                return None
        groups.append((left, right))
        i = left[-1] + 1 if left else i
        j = right[-1] + 1 if right else j
    return groups


def _times(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a * b
