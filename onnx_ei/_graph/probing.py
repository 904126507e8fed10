"""Whether a batch gives what single runs give: run and compared, never believed."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onnx_ei.errors import BackendError
from onnx_ei.sessions import Session

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["BATCH_TOLERANCE", "Probe", "probe"]

#: A batch has to give what single runs give, to this share of the largest output.
BATCH_TOLERANCE = 1e-5
# How far the samples of the batch reach into the input range. A scale or a norm that is taken over
# a whole batch is that of its largest sample: among samples of one size it hardly shows.
_REACHES = (1.0, 0.1, 0.01, 1.0)


class Probe(NamedTuple):
    """What a batch showed.

    Attributes
    ----------
    batched : bool
        Whether it gave what single runs give.
    out_shape : tuple of int
        The units' shape, without the batch.
    note : str
        Why not; empty where it did.
    """

    batched: bool
    out_shape: tuple[int, ...]
    note: str


def probe(session: Session, sub: ir.Model, in_range: tuple[float, float]) -> Probe:
    """Run noise in a batch and one by one.

    Parameters
    ----------
    session : Session
        Of the sub-model.
    sub : onnx_ir.Model
        From input ``x``, batch first, to one output.
    in_range : (float, float)
        What the noise fills.

    Returns
    -------
    Probe

    Raises
    ------
    BackendError
        If a single run fails.
    """
    output = str(sub.graph.outputs[0].name)
    noise = _noise(sub, in_range)
    n = len(noise)
    singles = [session.run({"x": noise[i : i + 1]}, [output])[0] for i in range(n)]
    shape = tuple(singles[0].shape)
    if not shape or shape[0] != 1:
        return Probe(False, shape, _no_batch("its output has no axis that counts them"))
    try:
        batch = session.run({"x": noise}, [output])[0].astype(np.float64)
    except BackendError as error:
        return Probe(False, shape[1:], _no_batch(str(error)))
    single = np.concatenate(singles).astype(np.float64)
    if batch.shape != single.shape:
        return Probe(
            False, shape[1:], _no_batch(f"{n} samples make an output of shape {batch.shape}")
        )
    if _same(batch, single, noise.dtype):
        return Probe(True, shape[1:], "")
    scale = np.abs(single[np.isfinite(single)]).max(initial=0.0) or 1.0
    both = np.isfinite(batch) & np.isfinite(single)
    apart = np.abs(batch[both] - single[both]).max(initial=0.0) / scale
    place = _first_difference(sub, noise)
    return Probe(
        False,
        shape[1:],
        f"a batch of {n} differs from single runs by {apart:.2g} of the largest output{place}",
    )


def _no_batch(why: str) -> str:
    return f"does not run in a batch: {why}"


def _noise(sub: ir.Model, in_range: tuple[float, float]) -> NDArray[Any]:
    """Draw one sample of each reach, about the point of the range that is nearest to 0."""
    value = sub.graph.inputs[0]
    dims = list(value.shape or ())[1:]
    units = [int(d) for d in dims if isinstance(d, int)]
    rng = np.random.default_rng(0)
    noise = rng.uniform(*in_range, size=(len(_REACHES), *units))
    centre = min(max(0.0, in_range[0]), in_range[1])
    reach = np.array(_REACHES).reshape(-1, *(1 for _ in units))
    noise = centre + reach * (noise - centre)
    dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
    return np.asarray(noise.astype(dtype))


def _same(batch: NDArray[Any], single: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    # half precision cannot keep 1e-5: four units in its last place
    narrow = np.finfo(dtype).eps if np.issubdtype(dtype, np.floating) else 0.0
    tolerance = max(BATCH_TOLERANCE, 4 * float(narrow))
    scale = np.abs(single[np.isfinite(single)]).max(initial=0.0)
    return bool(np.allclose(batch, single, rtol=tolerance, atol=tolerance * scale, equal_nan=True))


def _first_difference(sub: ir.Model, noise: NDArray[Any]) -> str:
    """Name the first node whose output is another in a batch than in single runs."""
    inner = list(_inner(sub))
    if not inner:
        return ""
    kept = list(sub.graph.outputs)
    try:
        sub.graph.outputs.extend(value for _, value in inner)
        session = Session(sub)
    except BackendError:
        return ""  # an operator whose type is only known when it runs
    finally:
        sub.graph.outputs.clear()
        sub.graph.outputs.extend(kept)
    names = [str(value.name) for _, value in inner]
    batch = session.run({"x": noise}, names)
    singles = [session.run({"x": noise[i : i + 1]}, names) for i in range(len(noise))]
    for place, (node, _) in enumerate(inner):
        if not _holds(batch[place], [one[place] for one in singles]):
            return f", first at node {node.name or node.outputs[0].name!r} ({node.op_type})"
    return ""


def _inner(sub: ir.Model) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Yield the tensors of numbers between the ends that do not just count samples."""
    counts: set[int] = set()
    for node in sub.graph:
        read = [v for v in node.inputs if v is not None and v.const_value is None]
        if node.op_type == "Shape" or (read and all(id(v) in counts for v in read)):
            counts.update(id(v) for v in node.outputs)
            continue
        for value in node.outputs:
            numbers = value.dtype is not None and (
                value.dtype.is_floating_point() or value.dtype.is_integer()
            )
            if value.name and numbers and not value.is_graph_output():
                yield node, value


def _holds(batch: NDArray[Any], singles: list[NDArray[Any]]) -> bool:
    """Say whether a tensor of a batch is made of those of single runs, along any axis."""
    first = singles[0]
    if batch.shape == first.shape:
        return all(_close(batch, one) for one in singles)
    if batch.size != sum(one.size for one in singles):
        return prod(batch.shape) == first.size  # a count, or a shape: it holds no samples
    for axis in range(batch.ndim):
        if any(b != f for a, (b, f) in enumerate(zip(batch.shape, first.shape, strict=True))
               if a != axis):  # fmt: skip
            continue
        if _close(batch, np.concatenate(singles, axis=axis)):
            return True
        # samples merged with what is inner to them
        if first.shape[axis] > 1 and _close(batch, _interleaved(singles, axis)):
            return True
    return False


def _interleaved(singles: list[NDArray[Any]], axis: int) -> NDArray[Any]:
    stacked = np.stack(singles, axis=axis + 1)
    shape = list(singles[0].shape)
    shape[axis] *= len(singles)
    return stacked.reshape(shape)


def _close(a: NDArray[Any], b: NDArray[Any]) -> bool:
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    return _same(a.astype(np.float64), b.astype(np.float64), a.dtype)
