"""The example input: bound by name, checked against the file, cut to one sample.

It settles the dimensions that the file leaves open. Without one the batch is 1, and whatever else
is open stays open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_ei.errors import ModelError, closest

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["bind_example", "declared", "fits", "fix_shapes", "neutral_inputs", "shown", "static"]


def bind_example(
    label: str, inputs: Mapping[str, ir.Value], example: object
) -> dict[str, NDArray[Any]]:
    """Turn an example as a caller gives it into arrays by input name.

    Parameters
    ----------
    label : str
        The model, for messages.
    inputs : mapping of str to onnx_ir.Value
        The model's inputs, in order.
    example : array or tensor, tuple of them, or mapping of str to them
        The example.

    Returns
    -------
    dict of str to ndarray
        In the model's order and element types, batch as given.

    Raises
    ------
    ModelError
        If it does not fit the inputs.
    """
    named = _named(label, list(inputs), example)
    feeds = {}
    sizes: dict[object, int] = {}
    for name, value in inputs.items():
        array = _to_numpy(label, name, named[name], value)
        dims = declared(value)
        if dims is not None and not fits(dims, array.shape):
            raise ModelError(
                f"{label}: input {name!r} has shape {shown(dims)}, "
                f"the example given has {array.shape}"
            )
        if 0 in array.shape:
            raise ModelError(f"{label}: the example for input {name!r} is empty: {array.shape}")
        for dim, size in zip(value.shape or (), array.shape, strict=False):
            symbol = None if isinstance(dim, int) else dim.value
            if symbol is not None and sizes.setdefault(symbol, size) != size:
                raise ModelError(
                    f"{label}: dimension {symbol!r} is {sizes[symbol]} in one example input and "
                    f"{size} in {name!r}; it has to be the same"
                )
        feeds[name] = array
    return feeds


def _named(label: str, names: list[str], example: object) -> dict[str, Any]:
    if isinstance(example, Mapping):
        unknown = [k for k in example if k not in names]
        if unknown:
            raise ModelError(f"{label}: no input {unknown[0]!r}; {closest(unknown[0], names)}")
        named = dict(example)
    else:
        given = list(example) if isinstance(example, (tuple, list)) else [example]
        named = dict(zip(names, given, strict=False))
        if len(given) > len(names):
            raise ModelError(f"{label}: {len(given)} example inputs for {len(names)} inputs")
    missing = [n for n in names if n not in named]
    if missing:
        raise ModelError(f"{label}: the example lacks input {missing[0]!r}; inputs: {names}")
    return named


def _to_numpy(label: str, name: str, given: Any, value: ir.Value) -> NDArray[Any]:
    try:
        if hasattr(given, "detach"):
            given = given.detach().cpu().numpy()
        array = np.asarray(given)
        if value.dtype is None or value.dtype.is_string():
            return array
        return array.astype(value.dtype.numpy(), copy=False)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{label}: the example for input {name!r} is no array of {value.dtype}: {error}"
        ) from error


def declared(value: ir.Value) -> tuple[int | None, ...] | None:
    """Return a tensor's dimensions, None for open ones; None if the rank is unknown."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else None for d in value.shape)


def fits(dims: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    """Say whether an example's shape is one that the file allows."""
    # a file with a fixed batch still takes an example of a larger one: its first samples
    if len(dims) != len(shape):
        return False
    return all(
        d is None or d == s or (axis == 0 and d < s)
        for axis, (d, s) in enumerate(zip(dims, shape, strict=True))
    )


def shown(dims: tuple[int | None, ...]) -> str:
    """Write dimensions for a message: ``(1, ?, 8)``."""
    return "(" + ", ".join("?" if d is None else str(d) for d in dims) + ")"


# In time-major files and in the states of recurrent layers the batch is not the first axis.
_BATCH_NAMES = {"batch", "batch_size", "batchsize", "N", "B"}


def fix_shapes(
    model: ir.Model, feeds: dict[str, NDArray[Any]] | None
) -> dict[str, tuple[int | None, ...]]:
    """Set the inputs' shapes to one sample of the example, or else to batch 1.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place; its outputs' shapes are forgotten.
    feeds : dict of str to ndarray or None
        The example from :func:`bind_example`; cut in place to one sample where the batch is free.

    Returns
    -------
    dict of str to tuple
        Inputs that stay open, with None for an open dimension.
    """
    import onnx_ir as ir_module

    batch = {
        d.value
        for v in model.graph.inputs
        if v.shape is not None and len(v.shape) and not isinstance(d := v.shape[0], int)
    }
    batch = (batch | _BATCH_NAMES) - {None}
    still_open: dict[str, tuple[int | None, ...]] = {}
    for value in model.graph.inputs:
        name = str(value.name)
        dims: list[int | None]
        if feeds is not None:
            feeds[name] = _one_sample(feeds[name], value, batch)
            dims = list(feeds[name].shape)
        elif value.shape is None:
            still_open[name] = ()  # not even the rank is known
            continue
        else:
            dims = [
                d if isinstance(d, int) else 1 if axis == 0 or d.value in batch else None
                for axis, d in enumerate(value.shape)
            ]
        if None in dims:
            still_open[name] = tuple(dims)
            original = list(value.shape or [])
            dims = [original[a] if d is None else d for a, d in enumerate(dims)]  # type: ignore[misc]
        value.shape = ir_module.Shape(dims)
    for value in model.graph.outputs:
        value.shape = None
    return still_open


def _one_sample(array: NDArray[Any], value: ir.Value, batch: set[Any]) -> NDArray[Any]:
    """Keep the first sample where the file leaves the batch free; a fixed batch is kept."""
    for axis, dim in enumerate(value.shape or ()):
        if isinstance(dim, int):
            array = array[:dim] if axis == 0 else array
        elif axis == 0 or dim.value in batch:
            array = array[(slice(None),) * axis + (slice(1),)]
    return array


def static(value: ir.Value) -> tuple[int, ...] | None:
    """Return a tensor's shape, or None where any part of it is open."""
    dims = declared(value)
    return None if dims is None or None in dims else tuple(d for d in dims if d is not None)


def neutral_inputs(model: ir.Model) -> dict[str, NDArray[Any]]:
    """Zeros for indices (any table has a row 0), seeded noise for numbers."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.inputs:
        shape = static(value) or ()
        if value.dtype is not None and value.dtype.is_string():
            feeds[str(value.name)] = np.full(shape, "", object)
            continue
        dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
        noise = rng.random(shape) if np.issubdtype(dtype, np.floating) else np.zeros(shape)
        feeds[str(value.name)] = noise.astype(dtype)
    return feeds
