"""A recurrent layer at the level of its cell: one step of a sequence, from a given state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_ei._graph.cut import Cut
from onnx_ei._graph.windows import dims_of
from onnx_ei.activations import ACTIVATIONS, Activation
from onnx_ei.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["cell_activation", "cell_cut", "cell_range", "states_of"]

_LENGTHS, _STATES = 4, (5, 6)
# Activations that their name says all of. The others have parameters in the model, which the table
# of activations does not know.
_PLAIN = frozenset(
    {
        "Cos", "Erf", "Gelu", "HardSwish", "Mish", "Relu", "Relu6", "Sigmoid", "Silu", "Sin",
        "Softplus", "Softsign", "Tanh",
    }
)  # fmt: skip


def states_of(node: ir.Node) -> list[ir.Value]:
    """Return the tensors that hold a cell's state before the first step."""
    return [v for v in node.inputs[_STATES[0] : _STATES[-1] + 1] if v is not None]


def cell_activation(name: str) -> Activation:
    """Return the activation that follows a recurrent layer, by its name.

    Raises
    ------
    UnsupportedModelError
        If it has parameters.
    """
    if name not in _PLAIN:
        raise UnsupportedModelError(
            f"{name}, which follows the recurrent layer, has parameters of its own; "
            "pass activation= to say what ends the step"
        )
    return ACTIVATIONS[name]


def cell_range(node: ir.Node) -> tuple[float, float]:
    """Return the default range of what a cell puts out: that of its last activation.

    A hidden state is a gated mixture of activations, Tanh where the operator names none.
    """
    found = node.attributes.get("activations")
    names = ["Tanh"] if found is None else list(found.as_strings())
    return ACTIVATIONS[names[-1] if names[-1] in ACTIVATIONS else "Tanh"].range


@contextmanager
def cell_cut(
    node: ir.Node,
    opsets: Mapping[str, int],
    states: Mapping[str, NDArray[Any]],
    activation: Activation | None,
) -> Iterator[Cut]:
    """Give one step of a recurrent layer as a cut of one input.

    Its nodes read the model's own weights; they are detached again at the end of the block.

    Parameters
    ----------
    node : onnx_ir.Node
        An RNN, LSTM, GRU or DynamicQuantizeLSTM.
    opsets : mapping of str to int
        The model's operator sets.
    states : mapping of str to ndarray
        Initial states by tensor name, of shape (directions, 1, hidden). Without, they are zero, as
        in ONNX.
    activation : Activation or None
        What is applied to the hidden state.

    Yields
    ------
    Cut
        From ``x`` of shape (batch, features) to the hidden state after the step, of shape
        (batch, 1, directions, hidden).

    Raises
    ------
    UnsupportedModelError
        If the number of features is open.
    """
    import onnx_ir as ir_module

    weight = dims_of(node.inputs[1]) if node.inputs[1] is not None else None
    # the quantised kin multiplies from the left: (directions, features, gates)
    axis = 1 if node.op_type == "DynamicQuantizeLSTM" else 2
    if weight is None or len(weight) != 3 or weight[axis] is None or node.inputs[0] is None:
        raise UnsupportedModelError(f"the number of features of {node.name!r} is open")
    kind = node.inputs[0].type or ir_module.TensorType(ir_module.DataType.FLOAT)
    x = ir_module.Value(name="features", shape=ir_module.Shape([1, weight[axis]]), type=kind)
    nodes: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value | None], domain: str = "", **given: Any) -> ir.Value:
        made = ir_module.node(op, inputs, domain=domain, attributes=given)
        made.outputs[0].name = f"cell/{op}{len(nodes)}"
        made.outputs[0].type = kind
        nodes.append(made)
        return made.outputs[0]

    inputs: list[ir.Value | None] = list(node.inputs)
    inputs[0] = _unsqueezed(add, x, opsets.get("", 1))
    inputs[_LENGTHS:] = [None for _ in inputs[_LENGTHS:]]
    for index, value in zip(_STATES, node.inputs[_STATES[0] :], strict=False):
        if value is None:
            continue
        given = states.get(str(value.name), _held(value))
        if given is None:
            inputs[index] = value  # computed from weights: of one sample, whatever it is
        elif np.any(given):
            inputs[index] = _state(add, x, str(value.name), np.asarray(given))
    # an LSTM's peepholes are weights, what follows them the scales of quantised ones
    inputs[7:] = node.inputs[7:]
    kept = {k: a for k, a in node.attributes.items() if k != "layout"}
    hidden = add(node.op_type, inputs, node.domain, **kept)
    nodes[-1].name = node.name
    # (steps, directions, batch, hidden): the batch goes first
    target = add("Transpose", [hidden], perm=[2, 0, 1, 3])
    try:
        yield Cut(
            source=x, target=target, nodes=nodes, sides={}, opsets=dict(opsets),
            activation=activation, batch=1,
        )  # fmt: skip
    finally:
        for made in nodes:
            for index in range(len(made.inputs)):
                made.replace_input_with(index, None)


def _held(value: ir.Value) -> NDArray[Any] | None:
    return None if value.const_value is None else np.asarray(value.const_value.numpy())


def _unsqueezed(add: Any, x: ir.Value, opset: int) -> ir.Value:
    if opset < 13:
        return add("Unsqueeze", [x], axes=[0])  # type: ignore[no-any-return]
    return add("Unsqueeze", [x, _constant("cell/axes", np.array([0]))])  # type: ignore[no-any-return]


def _state(add: Any, x: ir.Value, name: str, given: NDArray[Any]) -> ir.Value:
    """Repeat a state for a batch whose size is not known before."""
    if given.ndim != 3:
        raise ValueError(f"state {name!r} must be (directions, 1, hidden), got {given.shape}")
    state = _constant(f"{name}/state", given[:, :1].astype(x.dtype.numpy() if x.dtype else "f4"))
    rows = add("Shape", [x])
    batch = add("Gather", [rows, _constant(f"{name}/first", np.array([0]))])
    ends = [_constant(f"{name}/{k}", np.array([given.shape[k]])) for k in (0, 2)]
    shape = add("Concat", [ends[0], batch, ends[1]], axis=0)
    spread = add("Expand", [state, shape])
    for value in (rows, batch, shape):
        value.type = ends[0].type
    return spread  # type: ignore[no-any-return]


def _constant(name: str, array: NDArray[Any]) -> ir.Value:
    import onnx_ir as ir_module

    tensor = ir_module.tensor(np.ascontiguousarray(array), name=name)
    return ir_module.Value(
        name=name, shape=ir_module.Shape(array.shape),
        type=ir_module.TensorType(tensor.dtype), const_value=tensor,
    )  # fmt: skip
