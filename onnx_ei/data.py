"""Data as a caller has them -> one model input after another, checked against the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_ei._graph.example import declared, shown
from onnx_ei.errors import closest

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_ei.loading import Model

__all__ = ["Feeds", "as_numbers", "samples_of", "stack_length"]

Feeds: TypeAlias = dict[str, NDArray[Any]]
Dims: TypeAlias = "tuple[int | None, ...] | None"


def samples_of(model: Model, batches: Any) -> Iterator[Feeds]:
    """Yield what the model takes at once: a sample, or so many as its file fixes.

    Parameters
    ----------
    model : Model
        Its inputs are those of one example.
    batches : array, tuple, dict, or iterable of these
        As for :func:`onnx_ei.calibrate`.

    Raises
    ------
    ValueError
        If a batch does not fit the inputs, or there are no samples.
    TypeError
        If ``batches`` is none of these.
    """
    count = 0
    for number, batch in enumerate(_batches(batches)):
        for feeds in _samples(model, batch, f"calibrate: batch {number}"):
            yield feeds
            count += 1
    if not count:
        raise ValueError("calibrate: there are no samples: batches is empty")


def _batches(given: Any) -> Iterable[Any]:
    if isinstance(given, Mapping | tuple) or hasattr(given, "shape"):
        return [given]
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(
            "batches must be an array, a tuple of arrays, a dict of arrays by input name, or an "
            f"iterable of these; got {type(given).__name__}"
        )
    return given


def _samples(model: Model, batch: Any, where: str) -> Iterator[Feeds]:
    inputs = {str(value.name): value for value in model.ir.graph.inputs}
    named = _named(model, inputs, batch, where)
    arrays = {n: as_numbers(where, n, named[n], v) for n, v in inputs.items()}
    lengths = {}
    for name, value in inputs.items():
        dims, shape = declared(value), arrays[name].shape
        length = stack_length(dims, shape)
        if length is None:
            raise ValueError(
                f"{where}: input {name!r} has shape {shape}; {_wanted(dims)} is needed, "
                "N being samples"
            )
        lengths[name] = length
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{length} of {name!r}" for name, length in lengths.items())
        raise ValueError(f"{where}: the inputs differ in their number of samples: {said}")
    for index in range(next(iter(lengths.values()), 0)):
        yield {
            name: _cast(where, name, _sample(arrays[name], declared(value), index), value)
            for name, value in inputs.items()
        }


def _named(model: Model, inputs: Mapping[str, ir.Value], batch: Any, where: str) -> dict[str, Any]:
    """Give the batch by input name; what the topology holds is checked and left out."""
    names = list(inputs)
    if isinstance(batch, Mapping):
        for name, given in batch.items():
            if name in model.pinned:
                _check_pinned(where, str(name), given, model.pinned[name])
            elif name not in names:
                raise ValueError(f"{where}: no input {name!r}; {closest(str(name), names)}")
        named = {str(name): given for name, given in batch.items() if name in names}
    else:
        is_list = isinstance(batch, list) and any(hasattr(part, "shape") for part in batch)
        given_parts = list(batch) if is_list or isinstance(batch, tuple) else [batch]
        if len(given_parts) > len(names):
            raise ValueError(
                f"{where}: {len(given_parts)} arrays for {len(names)} inputs "
                f"({', '.join(map(repr, names))}); of a loader that yields labels too, take the "
                "inputs: calibrate(topology, (x for x, _ in loader))"
            )
        named = dict(zip(names, given_parts, strict=False))
    missing = [name for name in names if name not in named]
    if missing:
        raise ValueError(
            f"{where}: input {missing[0]!r} is missing; {closest(missing[0], named)}"
            if named
            else f"{where}: input {missing[0]!r} is missing"
        )
    return named


def _check_pinned(where: str, name: str, given: Any, held: Any) -> None:
    if not np.all(np.asarray(given) == held):
        raise ValueError(
            f"{where}: input {name!r} is held at {held} in this topology; for another value make "
            f"another topology: topology_of(model, input={{{name!r}: ..., ...}})"
        )


def as_numbers(where: str, name: str, given: Any, value: ir.Value) -> NDArray[Any]:
    """Return an input as an array of a type that the model's can hold.

    Parameters
    ----------
    where : str
        What the messages begin with.
    name : str
        The input.
    given : array or tensor
        What the caller has.
    value : onnx_ir.Value
        The model's input.

    Raises
    ------
    ValueError
        If it is no array, or of another kind: text for numbers, fractions for whole numbers.
    """
    try:
        if hasattr(given, "detach"):
            given = given.detach().cpu().numpy()
        array = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: input {name!r} is no array: {error}") from error
    if value.dtype is None or value.dtype.is_string():
        return array
    allowed = "fiub" if value.dtype.is_floating_point() else "iub"
    if array.dtype.kind not in allowed:
        raise ValueError(
            f"{where}: input {name!r} is of type {value.dtype}, the data are of type "
            f"{array.dtype}: give {'numbers' if 'f' in allowed else 'whole numbers'}"
        )
    return array


def stack_length(dims: Dims, shape: tuple[int, ...]) -> int | None:
    """Return how many model inputs an array holds, or None where its shape does not fit.

    Parameters
    ----------
    dims : tuple of int or None
        The input's shape, None for an open dimension; or None where the rank is unknown.
    shape : tuple of int
        The array's. It has samples along the input's first axis, or along one axis more.

    Examples
    --------
    >>> stack_length((1, 3), (50, 3)), stack_length((4, 3), (8, 3)), stack_length((1, 3), (50, 4))
    (50, 2, None)
    >>> stack_length((5, 1, 3), (50, 5, 1, 3))
    50
    """
    if not shape or 0 in shape:
        return None
    if dims is None:
        return shape[0]
    if len(shape) == len(dims) + 1 and _agree(dims, shape[1:]):
        return shape[0]
    if len(shape) == len(dims) and _agree(dims[1:], shape[1:]):
        count, left = divmod(shape[0], dims[0] or 1)
        return None if left else count
    return None


def _agree(dims: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    return all(d is None or d == s for d, s in zip(dims, shape, strict=True))


def _sample(array: NDArray[Any], dims: Dims, index: int) -> NDArray[Any]:
    if dims is not None and array.ndim == len(dims) + 1:
        return np.asarray(array[index])
    step = 1 if dims is None else dims[0] or 1
    return array[index * step : (index + 1) * step]


def _cast(where: str, name: str, array: NDArray[Any], value: ir.Value) -> NDArray[Any]:
    if value.dtype is None or value.dtype.is_string():
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(array.astype(value.dtype.numpy(), copy=False))
    if cast.dtype.kind in "iub" and not np.array_equal(cast, array):
        raise ValueError(f"{where}: input {name!r} holds numbers that {value.dtype} cannot hold")
    return cast


def _wanted(dims: Dims) -> str:
    if dims is None:
        return "(N, ...)"
    whole = shown(dims)
    if not dims:
        return "(N,)"
    times = "N" if dims[0] in (1, None) else f"{dims[0]} N"
    rest = "".join(f", {'?' if d is None else d}" for d in dims[1:])
    return f"({times}{rest})" + (f" or (N, {whole[1:]}" if dims[0] not in (1, None) else "")
