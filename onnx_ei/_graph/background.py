"""What the other tensors are that a span needs: given, zero, or as the model makes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_ei.errors import UnboundedSpanError, UnsupportedModelError, closest

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from onnx_ei.loading import Model

__all__ = ["Background", "background_values", "fingerprint"]

#: What a caller may say of them.
Background = str | Mapping[str, Any] | None


def background_values(
    model: Model, ends: tuple[str, str], sides: Sequence[ir.Value], background: Background
) -> dict[str, NDArray[Any]]:
    """Return the values of the tensors that a span needs from outside.

    Parameters
    ----------
    model : Model
        Where the span is cut out of.
    ends : tuple of str
        The names of its first and last layer, for messages.
    sides : sequence of onnx_ir.Value
        The tensors.
    background : {"reference", "zeros"}, mapping or None
        What the caller said.

    Returns
    -------
    dict of str to ndarray
        By tensor name.

    Raises
    ------
    UnboundedSpanError
        If there are any and it is not said what they are.
    ValueError
        If a word or a name is unknown.
    UnsupportedModelError
        If zeros are asked for and a shape is open.
    """
    if isinstance(background, str) and background not in ("reference", "zeros"):
        raise ValueError(
            "background must be 'reference', 'zeros' or a dict of arrays by tensor name, "
            f"got {background!r}"
        )
    names = [str(v.name) for v in sides]
    if isinstance(background, Mapping):
        unknown = [n for n in background if n not in names]
        if unknown:
            raise ValueError(
                f"background names {unknown[0]!r}, which the span does not need; "
                f"{closest(str(unknown[0]), names)}"
            )
    if not names:
        return {}
    if background is None:
        raise UnboundedSpanError(
            f"the span from {ends[0]!r} to {ends[1]!r} also needs "
            f"{', '.join(map(repr, sorted(names)))}; say what they are with "
            "background='reference' (their values on the example input), 'zeros', "
            "or a dict of arrays"
        )
    if isinstance(background, Mapping):
        missing = sorted(n for n in names if n not in background)
        if missing:
            raise UnboundedSpanError(
                f"background lacks {', '.join(map(repr, missing))}, which the span needs"
            )
        return {n: np.asarray(background[n]) for n in names}
    if background == "reference":
        return model.tensors(names)
    return {str(v.name): _zeros(v) for v in sides}


def _zeros(value: ir.Value) -> NDArray[Any]:
    dims = [d if isinstance(d, int) else None for d in value.shape or [None]]
    if None in dims:
        raise UnsupportedModelError(
            f"the shape of tensor {value.name!r} is open; pass input= to topology_of"
        )
    dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
    return np.zeros([d for d in dims if d is not None], dtype)


def fingerprint(background: Background) -> object:
    """Return a key of a background's values: a caller may change its arrays between two calls.

    Raises
    ------
    TypeError
        If it is neither a word nor a dict.
    """
    if background is None or isinstance(background, str):
        return background
    if not isinstance(background, Mapping):
        raise TypeError(
            "background must be 'reference', 'zeros' or a dict of arrays by tensor name, "
            f"got {type(background).__name__}"
        )
    arrays = {str(name): np.ascontiguousarray(a) for name, a in background.items()}
    return tuple(
        (name, a.shape, a.dtype.str, hashlib.sha256(a.tobytes()).digest())
        for name, a in sorted(arrays.items())
    )
