"""The values of a cut as its sub-model has them: whole, in part, or given from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from onnx_ei._graph.cut import Cut, NotLocalError, Plan
from onnx_ei._graph.lanes import Lane, LaneLostError, Operand
from onnx_ei._graph.pieces import Pieces
from onnx_ei._graph.windows import Dims, Window, dims_of, full
from onnx_ei.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["INPUT", "Values", "inner_name"]

#: What the sub-model calls its input.
INPUT = "x"


class Values(ABC):
    """Where each value of a cut stands in the model that is written, and how large it is there.

    Parameters
    ----------
    cut : Cut
        What is written.
    plan : Plan
        The windows of its tensors.
    """

    def __init__(self, cut: Cut, plan: Plan) -> None:
        self._cut = cut
        self._plan = plan
        self._pieces = Pieces(cut.opsets.get("", 1))
        self._copies: dict[int, ir.Value] = {}
        self._slices: dict[tuple[int, Window], ir.Value] = {}
        self._lanes: dict[int, Lane] = {}
        self._wide: dict[int, Lane] = {}
        self._batch = 1

    @abstractmethod
    def _copy(self, node: ir.Node) -> None:
        """Write a node."""

    # --- sizes ---------------------------------------------------------------------------------

    def _open(self, value: ir.Value) -> UnsupportedModelError:
        shown = tuple("?" if d is None else d for d in dims_of(value) or ("?",))
        return UnsupportedModelError(
            f"the shape of tensor {value.name!r} is open ({', '.join(map(str, shown))}); pass an "
            "example input that settles it (input= of topology_of, --input-shape on the command "
            "line)"
        )

    def _sizes(self, value: ir.Value, window: Window) -> list[int | None]:
        dims = dims_of(value)
        if dims is None:
            raise self._open(value)
        return [
            d if w is None else w[1] - w[0]
            for d, w in zip(dims, window or full(len(dims)), strict=True)
        ]

    def _operand(self, node: ir.Node, index: int) -> Operand:
        value = node.inputs[index]
        if value is None:
            return Operand(None, ())
        lane, made = self._lanes.get(id(value)), self._made_sizes(value)
        window = self._plan.read.get((id(node), index))
        if made is None or window is None:
            return Operand(lane, made, made)
        sizes = tuple(self._sizes(value, window))
        if lane is not None and sizes[lane.axis] != made[lane.axis]:
            raise LaneLostError("reads some of the samples, or of what is merged with them")
        return Operand(lane, sizes, dims_of(value))

    def _made_sizes(self, value: ir.Value) -> Dims | None:
        if value.name in self._cut.sides:
            return self._side(value).shape
        dims = dims_of(value)
        if dims is None:
            return None
        return tuple(self._sizes(value, self._plan.made.get(id(value), full(len(dims)))))

    # --- values --------------------------------------------------------------------------------

    def _part(self, value: ir.Value, window: Window | None) -> ir.Value:
        """Return a copy of a value, cut to a window."""
        if id(value) not in self._copies:
            self._fix(value)
        copy = self._copies[id(value)]
        made = self._plan.made.get(id(value))
        if window is None:
            return copy
        if made is None:  # a weight or a side tensor: all of it is there
            made = full(len(window))
        if made == window:
            return copy
        if (id(value), window) not in self._slices:
            self._slices[id(value), window] = self._slice(value, copy, made, window)
        return self._slices[id(value), window]

    def _slice(self, value: ir.Value, copy: ir.Value, made: Window, window: Window) -> ir.Value:
        dims = dims_of(value) or ()
        lane = self._lanes.get(id(value))
        bounds = []
        for axis, (have, want) in enumerate(zip(made, window, strict=True)):
            if want is None or have == want:
                continue
            if have is None and (dims[axis] is None or want[0] < 0 or want[1] > (dims[axis] or 0)):
                raise NotLocalError(str(value.name))
            if lane is not None and lane == (axis, 1, 1) and want == (0, self._batch):
                continue  # all of the one sample: of any number
            offset = 0 if have is None else have[0]
            bounds.append((axis, want[0] - offset, want[1] - offset))
        if not bounds:
            return copy
        return self._pieces.sliced(copy, bounds, f"{value.name}/part{len(self._slices)}")

    def _fix(self, value: ir.Value) -> None:
        """Copy a weight, what computes it, or a side tensor's given value."""
        import onnx_ir as ir_module

        name = inner_name(value)
        if value.name in self._cut.sides:
            self._copies[id(value)] = self._pieces.constant(name, self._side(value))
        elif value.const_value is not None:
            copy = ir_module.Value(
                name=name, shape=value.shape, type=value.type, const_value=value.const_value
            )
            if copy.type is None:
                copy.type = ir_module.TensorType(value.const_value.dtype)
            self._pieces.initializers[name] = copy
            self._copies[id(value)] = copy
        elif value.name in self._cut.open_sizes:
            raise UnsupportedModelError(
                f"the span needs {name!r}, a size that follows from the shape of a tensor outside "
                "of it, and that shape is open; pass an example input that settles it (input= of "
                "topology_of, --input-shape on the command line)"
            )
        elif value.producer() is None:
            raise UnsupportedModelError(f"tensor {name!r} has no source")
        else:
            self._copy(value.producer())  # type: ignore[arg-type]

    def _side(self, value: ir.Value) -> NDArray[Any]:
        """Return what a side tensor is said to be, for one sample, in the tensor's own type."""
        array = self._cut.sides[str(value.name)]
        if value.dtype is not None:
            array = array.astype(value.dtype.numpy(), copy=False)
        dims = dims_of(value)
        if dims is not None and (
            len(dims) != array.ndim
            or any(d not in (None, s) for d, s in zip(dims, array.shape, strict=True))
        ):
            raise ValueError(
                f"background for {value.name!r} has shape {array.shape}, the tensor "
                f"({', '.join('?' if d is None else str(d) for d in dims)})"
            )
        # a file with a fixed batch brings as many samples; the span has one. A list of whole
        # numbers is a shape, or indices, of whatever length
        counted = array.ndim > 1 or array.dtype.kind == "f"
        return array[:1] if counted and array.shape[:1] == (self._cut.batch,) else array


def inner_name(value: ir.Value) -> str:
    """Return a tensor's name in the sub-model, where the input's is taken."""
    return f"{value.name}/inner" if value.name == INPUT else str(value.name)
