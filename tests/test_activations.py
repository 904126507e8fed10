"""What ends a layer: written as ONNX nodes, called by name, as a module, as a function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from conftest import require_peer
from scipy import special

from onnx_ei.activations import ACTIVATIONS, NO_RANGE, Activation, Override, resolve_activation
from onnx_ei.sessions import Session

Function = Callable[[Any], Any]

X = np.linspace(-10, 10, 4001, dtype=np.float32)


def softplus(x: Any) -> Any:
    return np.logaddexp(0, x)


def elu(x: Any) -> Any:
    return np.where(x > 0, x, np.expm1(x))


CLOSED: dict[str, Function] = {
    "Sigmoid": special.expit,
    "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0),
    "LeakyRelu": lambda x: np.where(x > 0, x, 0.01 * x),
    "PRelu": lambda x: np.where(x > 0, x, 0.25 * x),
    "Elu": elu,
    "Selu": lambda x: 1.0507009873 * np.where(x > 0, x, 1.6732632423 * np.expm1(x)),
    "Celu": elu,
    "ThresholdedRelu": lambda x: np.where(x > 1, x, 0),
    "Softplus": softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "HardSigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "Erf": special.erf,
    "Sin": np.sin,
    "Cos": np.cos,
    "Identity": lambda x: x,
    "Relu6": lambda x: np.clip(x, 0, 6),
    "Clip": lambda x: np.clip(x, -1, 1),
    "Silu": lambda x: x * special.expit(x),
    "QuickGelu": lambda x: x * special.expit(1.702 * x),
    "HardSwish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Mish": lambda x: x * np.tanh(softplus(x)),
    "Gelu": lambda x: x * special.ndtr(x),
}


def applied(activation: Activation, x: Any, opset: int = 18) -> Any:
    """Run an activation's nodes in onnxruntime."""
    dtype = ir.DataType.from_numpy(x.dtype)
    source = ir.Value(name="x", shape=ir.Shape(x.shape), type=ir.TensorType(dtype))
    constants: list[ir.Value] = []

    def tensor(value: float) -> ir.Value:
        name = f"c{len(constants)}"
        made = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([]))
        made.const_value = ir.tensor(np.array(value, x.dtype), name=name)
        constants.append(made)
        return made

    nodes = activation.apply(source, tensor)
    nodes[-1].outputs[0].name = "y"
    graph = ir.Graph(
        [source], nodes[-1].outputs, nodes=nodes, initializers=constants,
        opset_imports={"": opset}, name="g",
    )  # fmt: skip
    return Session(ir.Model(graph, ir_version=8)).run({"x": x}, ["y"])[0]


def test_every_activation_has_a_closed_form_here() -> None:
    assert set(CLOSED) == set(ACTIVATIONS)
    assert all(a.name == name for name, a in ACTIVATIONS.items())


@pytest.mark.parametrize("opset", [10, 13, 21])
@pytest.mark.parametrize("name", CLOSED)
def test_nodes_compute_the_closed_form(name: str, opset: int) -> None:
    expected = CLOSED[name](X.astype(np.float64))
    np.testing.assert_allclose(applied(ACTIVATIONS[name], X, opset), expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("name", CLOSED)
def test_the_default_range_holds_all_that_comes_out(name: str) -> None:
    low, high = ACTIVATIONS[name].range
    y = CLOSED[name](np.linspace(-10, 10, 200_001))
    assert low <= y.min()
    # 10 stands for unbounded: softplus(10) lies 5e-5 above, and SELU is steeper than 1
    assert y.max() <= high + (0.51 if name == "Selu" else 1e-4)
    far = CLOSED[name](np.linspace(-500, 0, 50_001)) if low > NO_RANGE[0] else y
    assert low <= far.min()


@pytest.mark.parametrize("name", ["Silu", "QuickGelu", "HardSwish", "Mish", "Gelu", "Selu"])
def test_minima_are_rounded_outwards_and_no_further(name: str) -> None:
    low = CLOSED[name](np.linspace(-30, 0, 300_001)).min()
    assert low - 1.1e-3 < ACTIVATIONS[name].range[0] <= low


@pytest.mark.parametrize("value", [-100.0, 100.0])
@pytest.mark.parametrize("name", CLOSED)
def test_far_values_stay_finite(name: str, value: float) -> None:
    x = np.array([value], np.float32)
    np.testing.assert_allclose(
        applied(ACTIVATIONS[name], x), CLOSED[name](x.astype(np.float64)), rtol=1e-5, atol=1e-5
    )


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        *((name, name) for name in CLOSED),
        *((name.lower(), name) for name in CLOSED),
        ("leaky_relu", "LeakyRelu"), ("Leaky ReLU", "LeakyRelu"), ("leaky-relu", "LeakyRelu"),
        ("RELU6", "Relu6"), ("none", "Identity"), ("linear", "Identity"), ("swish", "Silu"),
        ("hard_swish", "HardSwish"), ("h_swish", "HardSwish"), ("hardtanh", "Clip"),
        ("logistic", "Sigmoid"), ("quick_gelu", "QuickGelu"),
    ],
)  # fmt: skip
def test_names(given: str, name: str) -> None:
    override = resolve_activation(given)
    assert override.activation is ACTIVATIONS[name]
    assert override.range == ACTIVATIONS[name].range
    assert override.function is None
    assert override.key == resolve_activation(name).key


@pytest.mark.parametrize(
    ("given", "offered"),
    [("sigmod", "'Sigmoid'"), ("TANHH", "'Tanh'"), ("relu7", "'Relu'"), ("qqq", "known: 'Sig")],
)
def test_a_wrong_name_offers_the_closest(given: str, offered: str) -> None:
    with pytest.raises(ValueError, match=f"activation '{given}' is unknown; .*{offered}"):
        resolve_activation(given)


@pytest.mark.parametrize("given", [3, 0.5, ["relu"], None, np.zeros(3)])
def test_what_cannot_be_called_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match=f"activation must be None.*got {type(given).__name__}"):
        resolve_activation(given)


# --- callables on arrays ---------------------------------------------------------------------


def cube(x: Any) -> Any:
    return x**3


@pytest.mark.parametrize("function", [cube, lambda x: x**3, functools.partial(pow, exp=3)])
def test_callables_get_arrays(function: Function) -> None:
    override = resolve_activation(function)
    assert override.activation is None
    assert override.range is None
    assert override.function is not None
    np.testing.assert_allclose(override.function(X), X**3)


def test_ufuncs() -> None:
    override = resolve_activation(np.tanh)
    assert override.function is not None
    np.testing.assert_array_equal(override.function(X), np.tanh(X))


def test_callables_are_told_apart_and_kept_alive() -> None:
    first, again, other = (resolve_activation(f) for f in (cube, cube, np.tanh))
    assert first.key == again.key != other.key
    # the key is an id, which may not pass to another function while the override is in use
    keys = [resolve_activation(lambda x, k=k: k * x) for k in range(20)]
    assert len({o.key for o in keys}) == 20


@pytest.mark.parametrize("function", [np.sum, lambda x: x[:-1], lambda x: None, lambda x: x[None]])
def test_callables_have_to_be_elementwise(function: Function) -> None:
    override = resolve_activation(function)
    assert override.function is not None
    with pytest.raises(ValueError, match=r"turned shape \(4, 3\) into .*must be elementwise"):
        override.function(np.ones((4, 3), np.float32))


# --- torch -----------------------------------------------------------------------------------


def torch_of(path: str) -> Any:
    torch = require_peer("torch")
    found: Any = torch
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("nn.Sigmoid", "Sigmoid"), ("nn.Tanh", "Tanh"), ("nn.ReLU", "Relu"), ("nn.ReLU6", "Relu6"),
        ("nn.SiLU", "Silu"), ("nn.Identity", "Identity"), ("nn.Mish", "Mish"),
        ("nn.Hardswish", "HardSwish"), ("nn.SELU", "Selu"), ("nn.Softsign", "Softsign"),
        ("nn.GELU", "Gelu"),
    ],
)  # fmt: skip
def test_modules_that_the_table_knows(path: str, name: str) -> None:
    module = torch_of(path)()
    override = resolve_activation(module)
    assert override.activation is ACTIVATIONS[name]
    tensor = torch_of("from_numpy")(X.copy())
    np.testing.assert_allclose(
        applied(ACTIVATIONS[name], X), module(tensor).numpy(), rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("sigmoid", "Sigmoid"), ("nn.functional.sigmoid", "Sigmoid"), ("tanh", "Tanh"),
        ("relu", "Relu"), ("nn.functional.relu", "Relu"), ("erf", "Erf"), ("sin", "Sin"),
        ("nn.functional.silu", "Silu"), ("nn.functional.mish", "Mish"),
        ("nn.functional.gelu", "Gelu"), ("nn.functional.hardswish", "HardSwish"),
        ("nn.functional.relu6", "Relu6"), ("nn.functional.selu", "Selu"), ("selu", "Selu"),
    ],
)  # fmt: skip
def test_functions_that_the_table_knows(path: str, name: str) -> None:
    function = torch_of(path)
    assert resolve_activation(function).activation is ACTIVATIONS[name]
    tensor = torch_of("from_numpy")(X.copy())
    np.testing.assert_allclose(
        applied(ACTIVATIONS[name], X), function(tensor).numpy(), rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize(
    ("path", "arguments", "closed"),
    [
        ("nn.GELU", {"approximate": "tanh"},
         lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
        ("nn.LeakyReLU", {"negative_slope": 0.2}, lambda x: np.where(x > 0, x, 0.2 * x)),
        ("nn.LeakyReLU", {"negative_slope": 0.2, "inplace": True},
         lambda x: np.where(x > 0, x, 0.2 * x)),
        ("nn.Softplus", {}, softplus),
        ("nn.PReLU", {}, lambda x: np.where(x > 0, x, 0.25 * x)),
        ("nn.Hardtanh", {"min_val": -2.0, "max_val": 3.0}, lambda x: np.clip(x, -2, 3)),
    ],
)  # fmt: skip
def test_other_modules_run_as_themselves(
    path: str, arguments: dict[str, Any], closed: Function
) -> None:
    _runs_as_itself(torch_of(path)(**arguments), closed)


@pytest.mark.parametrize(
    ("path", "closed"),
    [("exp", np.exp), ("nn.functional.softplus", softplus), ("special.expit", special.expit)],
)
def test_other_functions_run_as_themselves(path: str, closed: Function) -> None:
    _runs_as_itself(torch_of(path), closed)


def test_partial_torch_functions_run_on_tensors() -> None:
    leaky = functools.partial(torch_of("nn.functional.leaky_relu"), negative_slope=0.3)
    _runs_as_itself(leaky, lambda x: np.where(x > 0, x, 0.3 * x))


def test_a_subclass_of_a_known_module_runs_as_itself() -> None:
    require_peer("torch")
    import torch

    class ReLU(torch.nn.ReLU):
        def forward(self, x: Any) -> Any:
            return x + 1

    _runs_as_itself(ReLU(), lambda x: x + 1)


def _runs_as_itself(given: object, closed: Function) -> None:
    override: Override = resolve_activation(given)
    assert override.activation is None
    assert override.function is not None
    x = X.copy()
    x.flags.writeable = False
    result = override.function(x)
    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, closed(X.astype(np.float64)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(x, X)


def test_a_module_class_is_not_a_module() -> None:
    with pytest.raises(TypeError, match=r"is a class; pass an instance of it: Sigmoid\(\)"):
        resolve_activation(torch_of("nn.Sigmoid"))


def test_a_module_that_changes_shape_is_refused() -> None:
    override = resolve_activation(torch_of("nn.Flatten")(0))
    assert override.function is not None
    with pytest.raises(ValueError, match="must be elementwise"):
        override.function(np.ones((4, 3), np.float32))
