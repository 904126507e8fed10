"""Weights that live outside the model, in a network that is being trained: read again when used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onnx_ei._graph.patterns import scalar
from onnx_ei.errors import ModelError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["LiveWeights", "Reading", "drop_neutral", "unfolded"]


class Reading(NamedTuple):
    """A weight as it is now.

    Attributes
    ----------
    data : ndarray of uint8
        Its bytes; may share memory with the weight itself.
    shape : tuple of int
        Its shape.
    dtype : str
        Its element type, as its owner names it.
    """

    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    dtype: str


class LiveWeights:
    """Copies of weights that somebody else owns and changes.

    A weight is compared byte for byte with the copy: that finds every way of changing it (in
    place, by an optimizer, behind autograd's back, by putting another in its place) at the speed
    of memory, and a hash or a version counter would not.

    Parameters
    ----------
    model : onnx_ir.Model
        Its initializers of these names hold the copies.
    names : iterable of str
        The weights.
    read : callable
        From a name to a :class:`Reading`.
    """

    def __init__(
        self, model: ir.Model, names: Iterable[str], read: Callable[[str], Reading]
    ) -> None:
        self._values = {name: model.graph.initializers[name] for name in names}
        self._read = read
        self._copies: dict[str, Reading] = {}
        self._versions = dict.fromkeys(self._values, 0)
        self.refresh()

    def refresh(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Look at weights again and copy those that changed.

        Parameters
        ----------
        names : iterable of str, optional
            Which; all by default. Names of other tensors are passed over.

        Returns
        -------
        dict of str to int
            A number for each weight that grows when it changes.

        Raises
        ------
        ModelError
            If a weight is gone, or has another shape or type than when the model was traced.
        """
        wanted = [n for n in (self._values if names is None else names) if n in self._values]
        for name in wanted:
            now, before = self._read(name), self._copies.get(name)
            if before is not None and (now.shape, now.dtype) != (before.shape, before.dtype):
                raise ModelError(
                    f"weight {name!r} was {before.dtype} {before.shape} when topology_of saw it "
                    f"and is {now.dtype} {now.shape} now; call topology_of again"
                )
            if before is None or not np.array_equal(now.data, before.data):
                self._copy(name, now)
        return {name: self._versions[name] for name in wanted}

    def put_into(self, sub: ir.Model) -> dict[str, int]:
        """Look at the weights that a part of the model holds, and put them in as they are now.

        Parameters
        ----------
        sub : onnx_ir.Model
            Its initializers of the weights' names are set.

        Returns
        -------
        dict of str to int
            As :meth:`refresh`.

        Raises
        ------
        ModelError
            As :meth:`refresh`.
        """
        versions = self.refresh(sub.graph.initializers)
        for name in versions:
            sub.graph.initializers[name].const_value = self.tensor(name)
        return versions

    def tensor(self, name: str) -> ir.TensorProtocol | None:
        """Return the copy of a weight, or None if it is none of these."""
        value = self._values.get(name)
        return None if value is None else value.const_value

    def _copy(self, name: str, now: Reading) -> None:
        import onnx_ir as ir_module

        value = self._values[name]
        dtype = value.dtype or ir_module.DataType.FLOAT
        data = now.data.copy()
        array: Any = data.view(dtype.numpy()).reshape(now.shape)
        value.const_value = ir_module.Tensor(array, dtype=dtype, name=name)
        self._copies[name] = Reading(data, now.shape, now.dtype)
        self._versions[name] += 1


@contextmanager
def unfolded(model: ir.Model, names: Sequence[str]) -> Iterator[None]:
    """Hide weights from what folds constants: for that time they are inputs.

    Parameters
    ----------
    model : onnx_ir.Model
        The model.
    names : sequence of str
        Initializers of it.
    """
    hidden = [model.graph.initializers[name] for name in names]
    tensors = [value.const_value for value in hidden]
    for value in hidden:
        del model.graph.initializers[str(value.name)]
        value.const_value = None
        model.graph.inputs.append(value)
    try:
        yield
    finally:
        for value, tensor in zip(hidden, tensors, strict=True):
            model.graph.inputs.remove(value)
            value.const_value = tensor
            model.graph.register_initializer(value)


def drop_neutral(model: ir.Model) -> None:
    """Take out factors of 1, which an exporter that does not optimize leaves in activations.

    Parameters
    ----------
    model : onnx_ir.Model
        Folded, its weights hidden: a weight that is 1 now may be another number tomorrow.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for node in model.graph:
        if node.op_type not in ("Mul", "Div") or node.outputs[0].is_graph_output():
            continue
        kept, factor = node.inputs
        if kept is not None and scalar(factor) == 1.0 and kept.shape == node.outputs[0].shape:
            node.outputs[0].replace_all_uses_with(kept)
    RemoveUnusedNodesPass()(model)
