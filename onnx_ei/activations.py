"""What can end a layer: its name, its default range, and how to apply it.

The ranges are what a bin range defaults to when the caller gives none. Sigmoid, Tanh, ReLU and
"none" are deep_ei's. The others follow the same rule: the exact bounds where the function has
them, 10 (or -10) where it is unbounded, a minimum rounded outwards to three decimals.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_ei.errors import closest

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "NO_RANGE", "Activation", "Override", "resolve_activation"]

#: The range of a layer that no activation ends (deep_ei's).
NO_RANGE = (-10.0, 10.0)

# A step of a decomposition: op type, inputs ("x" is the pre-activation, "#v" the constant v,
# "k" the result of step k), attributes.
Step = tuple[str, tuple[str, ...], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An elementwise function that can end a layer.

    Attributes
    ----------
    name : str
        The ONNX operator's name, or the field's where ONNX has none.
    range : tuple of float
        Default bin range (lower, upper) of what it puts out.
    steps : tuple
        How to write it with operators that every opset has.
    """

    name: str
    range: tuple[float, float]
    steps: tuple[Step, ...]

    def apply(self, x: ir.Value, tensor: Callable[[float], ir.Value]) -> list[ir.Node]:
        """Write the function as ONNX nodes.

        Parameters
        ----------
        x : onnx_ir.Value
            The pre-activation.
        tensor : callable
            Makes a scalar constant of the pre-activation's element type.

        Returns
        -------
        list of onnx_ir.Node
            In order; the last one's output is the activated tensor.
        """
        import onnx_ir as ir_module

        nodes: list[ir.Node] = []
        for op_type, inputs, attributes in self.steps:
            values = [
                x if i == "x" else tensor(float(i[1:])) if i[0] == "#" else nodes[int(i)].outputs[0]
                for i in inputs
            ]
            node = ir_module.node(op_type, values, attributes=attributes)
            node.outputs[0].type = x.type
            nodes.append(node)
        return nodes


def _op(name: str, low: float, high: float, **attributes: float) -> Activation:
    return Activation(name=name, range=(low, high), steps=((name, ("x",), attributes),))


def _made(name: str, low: float, high: float, *steps: Step) -> Activation:
    return Activation(name=name, range=(low, high), steps=steps)


_KNOWN = (
    _op("Sigmoid", 0, 1),
    _op("Tanh", -1, 1),
    _op("Relu", 0, 10),
    _op("LeakyRelu", -10, 10, alpha=0.01),
    _made("PRelu", -10, 10, ("PRelu", ("x", "#0.25"), {})),  # the slope that torch begins with
    _op("Elu", -1, 10, alpha=1.0),
    _op("Selu", -1.759, 10),
    _made("Celu", -1, 10, ("Elu", ("x",), {"alpha": 1.0})),  # the same at alpha 1; Celu is opset 12
    _op("ThresholdedRelu", 0, 10, alpha=1.0),
    _op("Softplus", 0, 10),
    _op("Softsign", -1, 1),
    _op("HardSigmoid", 0, 1, alpha=0.2, beta=0.5),
    _op("Erf", -1, 1),
    _op("Sin", -1, 1),
    _op("Cos", -1, 1),
    _made("Identity", *NO_RANGE, ("Identity", ("x",), {})),
    _made("Relu6", 0, 6, ("Max", ("x", "#0"), {}), ("Min", ("0", "#6"), {})),
    _made("Clip", -1, 1, ("Max", ("x", "#-1"), {}), ("Min", ("0", "#1"), {})),
    _made("Silu", -0.279, 10, ("Sigmoid", ("x",), {}), ("Mul", ("x", "0"), {})),
    _made(
        "QuickGelu",
        -0.164,
        10,
        ("Mul", ("x", "#1.702"), {}),
        ("Sigmoid", ("0",), {}),
        ("Mul", ("x", "1"), {}),
    ),
    _made(
        "HardSwish",
        -0.375,
        10,
        ("HardSigmoid", ("x",), {"alpha": 1 / 6, "beta": 0.5}),
        ("Mul", ("x", "0"), {}),
    ),
    _made(
        "Mish",
        -0.309,
        10,
        ("Softplus", ("x",), {}),
        ("Tanh", ("0",), {}),
        ("Mul", ("x", "1"), {}),
    ),
    _made(
        "Gelu",
        -0.171,
        10,
        ("Mul", ("x", f"#{2**-0.5!r}"), {}),
        ("Erf", ("0",), {}),
        ("Add", ("1", "#1"), {}),
        ("Mul", ("x", "#0.5"), {}),
        ("Mul", ("3", "2"), {}),
    ),
)

#: Every activation that is known by name, in the field's spelling.
ACTIVATIONS: dict[str, Activation] = {a.name: a for a in _KNOWN}

_ALIASES = {
    "none": "Identity", "linear": "Identity", "logistic": "Sigmoid", "swish": "Silu",
    "hardtanh": "Clip", "hswish": "HardSwish",
}  # fmt: skip
_BY_FOLDED = {a.name.lower(): a.name for a in _KNOWN} | _ALIASES


@dataclass(frozen=True, kw_only=True)
class Override:
    """What a caller put in place of a layer's own activation.

    Attributes
    ----------
    activation : Activation or None
        Where it is known by name: it becomes part of the span.
    function : callable or None
        Else: called on the pre-activation, ndarray in, ndarray of the same shape out.
    range : tuple of float or None
        Default range; None where the function says nothing about it.
    key : object
        Equal for equal overrides, so that spans can be kept.
    """

    activation: Activation | None = None
    function: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    range: tuple[float, float] | None = None
    key: object = None


def resolve_activation(given: object) -> Override:
    """Turn what a caller may pass as ``activation=`` into an :class:`Override`.

    Parameters
    ----------
    given : str, torch.nn.Module, or callable
        A name (``"sigmoid"``), an ONNX op type, a module (``nn.Sigmoid()``), a ``torch`` function,
        or a callable on arrays or tensors.

    Returns
    -------
    Override

    Raises
    ------
    ValueError
        If a name is unknown; the closest are offered.
    TypeError
        If it is neither a name nor callable.

    Examples
    --------
    >>> resolve_activation("sigmoid").activation.name
    'Sigmoid'
    """
    if isinstance(given, str):
        folded = re.sub(r"[\s_-]", "", given.lower())
        if folded not in _BY_FOLDED:
            raise ValueError(f"activation {given!r} is unknown; {closest(given, ACTIVATIONS)}")
        return _known(_BY_FOLDED[folded])
    if not callable(given):
        raise TypeError(
            "activation must be None, a name, an ONNX op type, a torch.nn.Module or a callable on "
            f"arrays, got {type(given).__name__}"
        )
    if isinstance(given, type):
        raise TypeError(f"activation is a class; pass an instance of it: {given.__name__}()")
    if _is_torch_module(given):
        name = _module_name(given)
        if name is not None:
            return _known(name)
        return Override(function=_on_tensors(given), key=id(given))
    name = _torch_function_name(given)
    if name is not None:
        return _known(name)
    inner: Any = given
    while isinstance(inner, functools.partial):
        inner = inner.func
    if (getattr(inner, "__module__", None) or "").split(".")[0] == "torch":
        return Override(function=_on_tensors(given), key=id(given))
    return Override(function=_on_arrays_or_tensors(given), key=id(given))


def _known(name: str) -> Override:
    found = ACTIVATIONS[name]
    return Override(activation=found, range=found.range, key=name)


def _is_torch_module(given: object) -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(given, torch.nn.Module)


# Modules whose default parameters are those of the table; others run as themselves.
_MODULES = {
    "Sigmoid": "Sigmoid", "Tanh": "Tanh", "ReLU": "Relu", "ReLU6": "Relu6", "SiLU": "Silu",
    "Identity": "Identity", "Mish": "Mish", "Hardswish": "HardSwish", "SELU": "Selu",
    "Softsign": "Softsign",
}  # fmt: skip
_FUNCTIONS = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "erf": "Erf", "relu6": "Relu6",
    "silu": "Silu", "mish": "Mish", "hardswish": "HardSwish", "selu": "Selu", "gelu": "Gelu",
    "softsign": "Softsign", "sin": "Sin", "cos": "Cos",
}  # fmt: skip


def _module_name(module: Any) -> str | None:
    torch: Any = sys.modules["torch"]
    kind = type(module)
    known = _MODULES.get(kind.__name__)
    if known is not None and getattr(torch.nn, kind.__name__, None) is kind:
        return known
    if kind is torch.nn.GELU and module.approximate == "none":
        return "Gelu"
    return None


def _torch_function_name(given: object) -> str | None:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    for name, known in _FUNCTIONS.items():
        if any(given is getattr(home, name, None) for home in (torch, torch.nn.functional)):
            return known
    return None


def _on_arrays_or_tensors(
    function: Callable[[Any], Any],
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Call a function on arrays; where that fails and torch is in use, on tensors."""
    on_tensors = _on_tensors(function)

    def call(x: NDArray[Any]) -> NDArray[Any]:
        try:
            result = np.asarray(function(x))
        except (TypeError, AttributeError, RuntimeError):
            # lambda x: torch.sigmoid(x), lambda x: x.clamp(0, 1), lambda x: x * weight: nothing
            # tells them apart before
            if "torch" not in sys.modules:
                raise
            return on_tensors(x)
        return _same_shape(result, x, function)

    return call


def _on_tensors(function: Callable[[Any], Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def call(x: NDArray[Any]) -> NDArray[Any]:
        torch: Any = sys.modules["torch"]
        with torch.no_grad():
            result = function(torch.tensor(x))  # a copy: some work in place
        return _same_shape(result.detach().cpu().numpy(), x, function)

    return call


def _same_shape(result: NDArray[Any], x: NDArray[Any], function: object) -> NDArray[Any]:
    if result.shape != x.shape:
        raise ValueError(
            f"activation {function!r} turned shape {x.shape} into {result.shape}; "
            "it must be elementwise"
        )
    return result
