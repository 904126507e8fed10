"""Activations found in graphs: built by hand as exporters write them, and as torch exports them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conftest import require_peer
from graphs import make, node, scalar
from onnx import TensorProto, helper

from onnx_ei._graph.patterns import Match, match_activation, producing_activation, readers
from onnx_ei._graph.patterns import scalar as scalar_of
from onnx_ei.activations import ACTIVATIONS, NO_RANGE
from onnx_ei.loading import load_model
from onnx_ei.sessions import Session

ROOT_2 = math.sqrt(2)
TANH_SCALE = math.sqrt(2 / math.pi)
CONSTANTS = {
    "half": 0.5, "one": 1.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6, "three": 3.0, "root2": ROOT_2,
    "invroot2": 1 / ROOT_2, "cubic": 0.044715, "scale": TANH_SCALE, "twenty": 20.0, "two": 2.0,
    "slope": 0.2, "k": 1.702, "minus2": -2.0, "pow3": 3.0, "beta2": 2.0, "minusroot": -1 / ROOT_2,
    "minus1": -1.0, "twice": 2 * TANH_SCALE, "scale_selu": 1.05070099, "alpha_selu": 1.67326324,
    "fifth": 0.2,
}  # fmt: skip

Nodes = Sequence[onnx.NodeProto]

# name of the pattern, default range (None: the table's), how it is written; from h to y
PATTERNS: dict[str, tuple[str, tuple[float, float] | None, Nodes]] = {
    **{
        f"one operator: {op}": (op, None, [node(op, "h", "y")])
        for op in (
            "Sigmoid", "Tanh", "Relu", "LeakyRelu", "Elu", "Celu", "Softplus", "Softsign",
            "HardSigmoid", "Erf", "Sin", "Cos", "HardSwish", "Mish", "ThresholdedRelu", "Selu",
        )
    },
    "Elu, alpha": ("Elu", (-0.5, 10), [node("Elu", "h", "y", alpha=0.5)]),
    "Celu, alpha": ("Celu", (-2, 10), [node("Celu", "h", "y", alpha=2.0)]),
    "Selu, given": ("Selu", (-3, 10), [node("Selu", "h", "y", alpha=1.5, gamma=2.0)]),
    "PRelu": ("PRelu", None, [node("PRelu", "h slope", "y")]),
    "PRelu, channels": ("PRelu", None, [node("PRelu", "h slopes", "y")]),
    # SiLU
    "Silu": ("Silu", None, [node("Sigmoid", "h", "s"), node("Mul", "h s", "y")]),
    "Silu, other order": ("Silu", None, [node("Sigmoid", "h", "s"), node("Mul", "s h", "y")]),
    "Silu by a factor": (
        "QuickGelu", None,
        [node("Mul", "h k", "m"), node("Sigmoid", "m", "s"), node("Mul", "h s", "y")],
    ),
    "Silu by two": (
        "Silu", (-0.14, 10),
        [node("Mul", "two h", "m"), node("Sigmoid", "m", "s"), node("Mul", "h s", "y")],
    ),
    # GELU
    "Gelu by Erf, half last": (
        "Gelu", None,
        [
            node("Div", "h root2", "d"), node("Erf", "d", "e"), node("Add", "e one", "p"),
            node("Mul", "h p", "m"), node("Mul", "m half", "y"),
        ],
    ),
    "Gelu by Erf, half first": (
        "Gelu", None,
        [
            node("Mul", "half h", "x2"), node("Div", "h root2", "d"), node("Erf", "d", "e"),
            node("Add", "one e", "p"), node("Mul", "x2 p", "y"),
        ],
    ),
    "Gelu by Erf, half inside": (
        "Gelu", None,
        [
            node("Mul", "h invroot2", "d"), node("Erf", "d", "e"), node("Add", "e one", "p"),
            node("Mul", "p half", "m"), node("Mul", "m h", "y"),
        ],
    ),
    "Gelu by Tanh": (
        "Gelu", None,
        [
            node("Pow", "h pow3", "c"), node("Mul", "c cubic", "cc"), node("Add", "h cc", "i"),
            node("Mul", "i scale", "z"), node("Tanh", "z", "t"), node("Add", "t one", "p"),
            node("Mul", "h half", "x2"), node("Mul", "x2 p", "y"),
        ],
    ),
    "Gelu by Tanh, cube by products": (
        "Gelu", None,
        [
            node("Mul", "h h", "sq"), node("Mul", "sq h", "c"), node("Mul", "cubic c", "cc"),
            node("Add", "cc h", "i"), node("Mul", "scale i", "z"), node("Tanh", "z", "t"),
            node("Add", "one t", "p"), node("Mul", "h p", "m"), node("Mul", "half m", "y"),
        ],
    ),
    "Gelu by Tanh, factored": (
        "Gelu", None,
        [
            node("Mul", "h h", "sq"), node("Mul", "sq cubic", "cc"), node("Add", "cc one", "i"),
            node("Mul", "h scale", "hs"), node("Mul", "hs i", "z"), node("Tanh", "z", "t"),
            node("Add", "t one", "p"), node("Mul", "p half", "m"), node("Mul", "h m", "y"),
        ],
    ),
    # HardSwish
    "HardSwish by HardSigmoid": (
        "HardSwish", None,
        [node("HardSigmoid", "h", "g", alpha=1 / 6, beta=0.5), node("Mul", "h g", "y")],
    ),
    "HardSwish, product first": (
        "HardSwish", None,
        [
            node("Add", "h three", "a"), node("Clip", "a zero six", "c"), node("Mul", "h c", "m"),
            node("Div", "m six", "y"),
        ],
    ),
    "HardSwish, sixth first": (
        "HardSwish", None,
        [
            node("Add", "three h", "a"), node("Clip", "a zero six", "c"),
            node("Mul", "c sixth", "g"), node("Mul", "g h", "y"),
        ],
    ),
    "HardSwish by Max and Min": (
        "HardSwish", None,
        [
            node("Add", "h three", "a"), node("Relu", "a", "r"), node("Min", "r six", "c"),
            node("Div", "c six", "g"), node("Mul", "h g", "y"),
        ],
    ),
    "HardSigmoid": (
        "HardSigmoid", None,
        [
            node("Add", "h three", "a"), node("Clip", "a zero six", "c"), node("Div", "c six", "y"),
        ],
    ),
    # Mish, Softplus
    "Mish": (
        "Mish", None,
        [node("Softplus", "h", "s"), node("Tanh", "s", "t"), node("Mul", "h t", "y")],
    ),
    "Softplus with Where": (
        "Softplus", None,
        [
            node("Greater", "h twenty", "g"), node("Softplus", "h", "s"),
            node("Where", "g h s", "y"),
        ],
    ),
    "Softsign": (
        "Softsign", None,
        [node("Abs", "h", "b"), node("Add", "one b", "p"), node("Div", "h p", "y")],
    ),
    "Softplus by Exp": (
        "Softplus", None,
        [node("Exp", "h", "e"), node("Add", "e one", "p"), node("Log", "p", "y")],
    ),
    # Clip
    "Relu6": ("Relu6", None, [node("Clip", "h zero six", "y")]),
    "Relu by Clip": ("Relu", None, [node("Clip", "h zero", "y")]),
    "Clip": ("Clip", (-2, 2), [node("Clip", "h minus2 two", "y")]),
    "Clip from above": ("Clip", (-10, 2), [node("Clip", "h _ two", "y")]),
    "Relu6 by Max, Min": ("Relu6", None, [node("Max", "h zero", "m"), node("Min", "m six", "y")]),
    "Relu6 by Min, Max": ("Relu6", None, [node("Min", "six h", "m"), node("Max", "zero m", "y")]),
    "Relu6 by Relu, Min": ("Relu6", None, [node("Relu", "h", "m"), node("Min", "m six", "y")]),
    "Relu6 by Min, Relu": ("Relu6", None, [node("Min", "h six", "m"), node("Relu", "m", "y")]),
    "Relu by Max": ("Relu", None, [node("Max", "zero h", "y")]),
    # written out, as TensorFlow's and JAX's converters and hands do
    "Relu by Where": (
        "Relu", None, [node("Greater", "h zero", "g"), node("Where", "g h zero", "y")],
    ),
    "Relu by a mask": (
        "Relu", None,
        [
            node("Greater", "h zero", "g"), node("Cast", "g", "c", to=TensorProto.FLOAT),
            node("CastLike", "c h", "cl"), node("Mul", "h cl", "y"),
        ],
    ),
    "LeakyRelu by Max": (
        "LeakyRelu", None, [node("Mul", "h slope", "m"), node("Max", "h m", "y")],
    ),
    "LeakyRelu by Where": (
        "LeakyRelu", None,
        [
            node("GreaterOrEqual", "h zero", "g"), node("Mul", "slope h", "m"),
            node("Where", "g h m", "y"),
        ],
    ),
    "PRelu by two ReLUs": (
        "PRelu", None,
        [
            node("Relu", "h", "p"), node("Neg", "h", "n"), node("Relu", "n", "r"),
            node("Mul", "r slopes", "m"), node("Sub", "p m", "y"),
        ],
    ),
    "Elu by Where": (
        "Elu", None,
        [
            node("Greater", "h zero", "g"), node("Exp", "h", "e"), node("Sub", "e one", "m"),
            node("Where", "g h m", "y"),
        ],
    ),
    "Elu, alpha, by Where twice": (
        "Elu", (-0.5, 10),
        [
            node("Greater", "h zero", "g"), node("Where", "g zero h", "low"),
            node("Exp", "low", "e"), node("Sub", "e one", "m"), node("Mul", "half m", "a"),
            node("Where", "g h a", "y"),
        ],
    ),
    "Selu by Where": (
        "Selu", None,
        [
            node("Greater", "h zero", "g"), node("Exp", "h", "e"), node("Sub", "e one", "m"),
            node("Mul", "alpha_selu m", "a"), node("Where", "g h a", "v"),
            node("Mul", "v scale_selu", "y"),
        ],
    ),
    "Celu by Max and Min": (
        "Celu", (-2, 10),
        [
            node("Max", "h zero", "p"), node("Div", "h two", "d"), node("Exp", "d", "e"),
            node("Sub", "e one", "m"), node("Mul", "m two", "a"), node("Min", "a zero", "n"),
            node("Add", "p n", "y"),
        ],
    ),
    "ThresholdedRelu by Where": (
        "ThresholdedRelu", None, [node("Greater", "h two", "g"), node("Where", "g h zero", "y")],
    ),
    "Softplus, stable": (
        "Softplus", None,
        [
            node("Max", "h zero", "p"), node("Abs", "h", "a"), node("Neg", "a", "n"),
            node("Exp", "n", "e"), node("Add", "e one", "o"), node("Log", "o", "l"),
            node("Add", "p l", "y"),
        ],
    ),
    "Mish, Softplus by Exp": (
        "Mish", None,
        [
            node("Exp", "h", "e"), node("Add", "one e", "o"), node("Log", "o", "l"),
            node("Tanh", "l", "t"), node("Mul", "h t", "y"),
        ],
    ),
    "Sigmoid by Exp": (
        "Sigmoid", None,
        [
            node("Neg", "h", "n"), node("Exp", "n", "e"), node("Add", "e one", "o"),
            node("Reciprocal", "o", "y"),
        ],
    ),
    "Silu by Exp": (
        "Silu", None,
        [
            node("Neg", "h", "n"), node("Exp", "n", "e"), node("Add", "e one", "o"),
            node("Div", "h o", "y"),
        ],
    ),
    "Tanh by Sigmoid": (
        "Tanh", None,
        [
            node("Mul", "h two", "d"), node("Sigmoid", "d", "s"), node("Mul", "two s", "m"),
            node("Sub", "m one", "y"),
        ],
    ),
    "HardSigmoid, steeper": (
        "HardSigmoid", None,
        [node("Mul", "h fifth", "m"), node("Add", "m half", "a"), node("Clip", "a zero one", "y")],
    ),
    "HardSwish by a ramp": (
        "HardSwish", None,
        [
            node("Mul", "h sixth", "m"), node("Add", "half m", "a"),
            node("Clip", "a zero one", "c"), node("Mul", "c h", "y"),
        ],
    ),
    "Hardtanh by Where": (
        "Clip", (-1, 1),
        [
            node("Greater", "h one", "g"), node("Less", "h minus1", "l"),
            node("Where", "l minus1 h", "v"), node("Where", "g one v", "y"),
        ],
    ),
    "Clip by a ReLU of the negative": (
        "Clip", (-10, 0), [node("Neg", "h", "n"), node("Relu", "n", "r"), node("Neg", "r", "y")],
    ),
    "Gelu by the complement of Erf": (
        "Gelu", None,
        [
            node("Mul", "h minusroot", "d"), node("Erf", "d", "e"), node("Sub", "one e", "p"),
            node("Mul", "h p", "m"), node("Mul", "half m", "y"),
        ],
    ),
    "Gelu by Sigmoid": (
        "Gelu", None,
        [
            node("Mul", "h h", "sq"), node("Mul", "sq h", "c"), node("Mul", "c cubic", "cc"),
            node("Add", "h cc", "i"), node("Mul", "i twice", "z"), node("Sigmoid", "z", "s"),
            node("Mul", "h s", "y"),
        ],
    ),
    "Clip by Min": ("Clip", (-10, 2), [node("Min", "h two", "y")]),
}  # fmt: skip
CASES = pytest.mark.parametrize("case", PATTERNS)


def graph_of(nodes: Nodes, dtype: int = TensorProto.FLOAT, **options: Any) -> ir.Graph:
    """Put a layer x -> h before the nodes and load the model."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    used = {i for n in nodes for i in n.input}
    constants = {k: scalar(v, kind) for k, v in CONSTANTS.items() if k in used}
    if "slopes" in used:
        constants["slopes"] = np.full((1, 4), 0.1, kind)
    return load_model(
        make(
            [node("MatMul", "x w", "h"), *nodes], {"x": ("N", 4)},
            options.pop("outputs", [nodes[-1].output[0]]),
            {"w": np.eye(4, dtype=kind), **constants},
            dtype=dtype, opset=options.pop("opset", 20), **options,
        )
    ).ir.graph  # fmt: skip


def value(graph: ir.Graph, name: str) -> ir.Value:
    return next(v for n in graph for v in n.outputs if v.name == name)


def found(match: Match | None) -> tuple[Any, ...] | None:
    return None if match is None else (match.name, match.source.name, match.output.name)


@CASES
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_patterns_are_found_from_both_ends(case: str, dtype: int) -> None:
    name, limits, nodes = PATTERNS[case]
    graph = graph_of(nodes, dtype)
    match = match_activation(value(graph, "h"))
    assert found(match) == (name, "h", "y")
    assert match is not None
    assert match.range == pytest.approx(ACTIVATIONS[name].range if limits is None else limits)
    assert producing_activation(value(graph, "y")) == match


@CASES
def test_the_range_holds_what_comes_out(case: str) -> None:
    graph = graph_of(PATTERNS[case][2])
    match = match_activation(value(graph, "h"))
    assert match is not None
    x = np.linspace(-10, 9.5, 4000, dtype=np.float32).reshape(-1, 4)
    model = ir.Model(graph, ir_version=10)
    graph.inputs[0].shape = ir.Shape(["N", 4])
    for n in graph:
        for v in n.outputs:
            v.shape = None
    y = Session(model).run({"x": x}, ["y"])[0]
    low, high = match.range
    # onnxruntime's Tanh reaches 1 + 2**-22 on the CPU
    assert low - 3e-7 <= y.min()
    # two SELU slopes of the table above are steeper than 1
    assert y.max() <= 3e-7 + (high if "Selu" not in case else 20)


@CASES
def test_a_skip_from_the_pre_activation_leaves_no_activation(case: str) -> None:
    nodes = PATTERNS[case][2]
    graph = graph_of([*nodes, node("Add", "h y", "out")])
    assert match_activation(value(graph, "h")) is None
    # what enters a layer behind it is activated all the same
    assert found(producing_activation(value(graph, "y"))) == (PATTERNS[case][0], "h", "y")


@CASES
def test_a_reader_that_only_asks_for_the_shape_does_not_matter(case: str) -> None:
    nodes = [
        *PATTERNS[case][2],
        node("Shape", "h", "shape"), node("Cast", "shape", "sizes", to=TensorProto.FLOAT),
    ]  # fmt: skip
    graph = graph_of(nodes, outputs=["y", "sizes"], ranks={"sizes": 1})
    assert found(match_activation(value(graph, "h"))) == (PATTERNS[case][0], "h", "y")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 6.0, ("Relu6", (0, 6))),
        (-1.0, 1.0, ("Clip", (-1, 1))),
        (0.0, 3.4028234663852886e38, ("Clip", (0, 10))),
        (20.0, 40.0, ("Clip", NO_RANGE)),
        (1.0, -1.0, ("Clip", NO_RANGE)),
    ],
)
def test_clip_by_attributes(low: float, high: float, expected: tuple[Any, ...]) -> None:
    graph = graph_of([node("Clip", "h", "y", min=low, max=high)], opset=10)
    match = match_activation(value(graph, "h"))
    assert match is not None
    assert (match.name, match.range) == expected


def test_clip_by_computed_bounds_is_no_activation() -> None:
    nodes = [node("ReduceMax", "x", "top", keepdims=0), node("Clip", "h _ top", "y")]
    assert match_activation(value(graph_of(nodes), "h")) is None


@pytest.mark.parametrize(
    ("op", "attributes", "expected"),
    [
        ("Gelu", {}, ("Gelu", (-0.171, 10))),
        ("FastGelu", {}, ("Gelu", (-0.171, 10))),
        ("QuickGelu", {}, ("QuickGelu", (-0.164, 10))),
        ("QuickGelu", {"alpha": 1.0}, ("Silu", (-0.279, 10))),
    ],
)
def test_fused_operators(op: str, attributes: dict[str, Any], expected: tuple[Any, ...]) -> None:
    fused = helper.make_node(op, ["h"], ["y"], domain="com.microsoft", **attributes)
    graph = graph_of([fused], domains={"com.microsoft": 1})
    match = match_activation(value(graph, "h"))
    assert match is not None
    assert (match.name, match.range) == expected


def test_a_fused_operator_that_adds_a_bias_first_is_no_activation() -> None:
    fused = helper.make_node("FastGelu", ["h", "bias"], ["y"], domain="com.microsoft")
    bias = node("Reshape", "slopes flat", "bias")
    flat = node("Constant", "", "flat", value_ints=[4])
    graph = graph_of([flat, bias, fused], domains={"com.microsoft": 1})
    assert match_activation(value(graph, "h")) is None


# --- what only looks like one ----------------------------------------------------------------


def test_a_gate_by_another_tensor_is_a_sigmoid() -> None:
    graph = graph_of([node("Sigmoid", "h", "s"), node("Mul", "x s", "y")])
    assert found(match_activation(value(graph, "h"))) == ("Sigmoid", "h", "s")
    assert producing_activation(value(graph, "y")) is None


def test_a_decomposed_hard_sigmoid_gates_another_tensor() -> None:
    nodes = [
        node("Add", "h three", "a"), node("Clip", "a zero six", "c"), node("Div", "c six", "g"),
        node("Mul", "x g", "y"),
    ]  # fmt: skip
    graph = graph_of(nodes)
    assert found(match_activation(value(graph, "h"))) == ("HardSigmoid", "h", "g")
    assert producing_activation(value(graph, "y")) is None


def test_a_gate_that_is_read_elsewhere_too() -> None:
    nodes = [node("Sigmoid", "h", "s"), node("Mul", "h s", "m"), node("Add", "m s", "y")]
    assert match_activation(value(graph_of(nodes), "h")) is None


@pytest.mark.parametrize(
    "nodes",
    [
        # a constant added or scaled, and nothing after it
        [node("Add", "h three", "y")],
        [node("Mul", "h half", "y")],
        [node("Div", "h root2", "y")],
        [node("Pow", "h pow3", "y")],
        [node("Exp", "h", "y")],
        [node("Max", "h x", "y")],
        [node("PRelu", "h x", "y")],
        [node("Softmax", "h", "y")],
        # gates by another tensor, and by what depends on one
        [node("Greater", "x zero", "g"), node("Where", "g h zero", "y")],
        [
            node("Exp", "x", "e"), node("Add", "e one", "o"), node("Log", "o", "l"),
            node("Mul", "h l", "y"),
        ],
        # known functions of something else than the pre-activation
        [node("Add", "h three", "a"), node("Abs", "a", "b"), node("Log", "b", "y")],
        [node("Abs", "h", "y")],
        [node("Mul", "h h", "y")],
        [node("Mul", "h slopes", "y")],
        [node("Mul", "h two", "m"), node("Max", "h m", "y")],
        # almost HardSwish, GELU, SiLU
        [node("Add", "h three", "a"), node("Clip", "a zero six", "c"), node("Mul", "h c", "y")],
        [
            node("Div", "h two", "d"), node("Erf", "d", "e"), node("Add", "e one", "p"),
            node("Mul", "h p", "m"), node("Mul", "m half", "y"),
        ],
        [
            node("Div", "h root2", "d"), node("Erf", "d", "e"), node("Add", "e one", "p"),
            node("Mul", "h p", "m"), node("Mul", "m h", "y"),
        ],
        [node("Mul", "h minus2", "m"), node("Sigmoid", "m", "s"), node("Mul", "h s", "y")],
        [node("Exp", "h", "e"), node("Add", "e three", "p"), node("Log", "p", "y")],
    ],
)  # fmt: skip
def test_what_is_no_activation(nodes: Nodes) -> None:
    graph = graph_of(nodes)
    assert match_activation(value(graph, "h")) is None
    assert producing_activation(value(graph, "y")) is None


def test_quantisation_in_the_middle_is_looked_through() -> None:
    nodes = [
        node("Sigmoid", "h", "s"), node("QuantizeLinear", "s step low", "q"),
        node("DequantizeLinear", "q step low", "d"), node("Mul", "h d", "y"),
    ]  # fmt: skip
    extra = {"step": np.float32(1 / 255), "low": np.uint8(0)}
    model = make(
        [node("MatMul", "x w", "h"), *nodes], {"x": ("N", 4)}, ["y"], {"w": np.eye(4, dtype="f4")}
        | extra, opset=20,
    )  # fmt: skip
    assert found(match_activation(value(load_model(model).ir.graph, "h"))) == ("Silu", "h", "y")


def test_slopes_of_different_kinds_are_none_of_them() -> None:
    """One channel is left as it is: as a whole, no activation of the table."""
    nodes = [node("Mul", "h steep", "m"), node("Max", "h m", "y")]
    weights = {"w": np.eye(4, dtype="f4"), "steep": np.array([0.1, 0.1, 0.1, 2], np.float32)}
    model = make([node("MatMul", "x w", "h"), *nodes], {"x": ("N", 4)}, ["y"], weights)
    assert match_activation(value(load_model(model).ir.graph, "h")) is None


def test_a_relu_behind_a_relu_is_the_first_one() -> None:
    nodes = [
        node("Max", "h zero", "a"), node("Abs", "a", "b"), node("Identity", "b", "c"),
        node("Mul", "c x", "y"),
    ]  # fmt: skip
    assert found(match_activation(value(graph_of(nodes), "h"))) == ("Relu", "h", "a")


def test_a_constant_added_is_no_part_of_an_activation() -> None:
    graph = graph_of([node("Add", "h three", "a"), node("Sin", "a", "y")])
    assert match_activation(value(graph, "h")) is None
    assert found(producing_activation(value(graph, "y"))) == ("Sin", "a", "y")


def test_another_reader_of_an_inner_tensor_breaks_a_pattern() -> None:
    # x + 3 goes elsewhere too: the pattern does not take in all that reads the pre-activation
    nodes = [
        node("Add", "h three", "a"), node("Clip", "a zero six", "c"), node("Mul", "h c", "m"),
        node("Div", "m six", "d"), node("Add", "d a", "y"),
    ]  # fmt: skip
    assert match_activation(value(graph_of(nodes), "h")) is None


def test_a_graph_input_has_no_activation() -> None:
    assert producing_activation(graph_of([node("Relu", "h", "y")]).inputs[0]) is None


def test_readers_come_once() -> None:
    graph = graph_of([node("Mul", "h h", "m"), node("Relu", "m", "y")])
    assert [n.op_type for n in readers(value(graph, "h"))] == ["Mul"]


def test_scalar() -> None:
    def constant(array: Any) -> ir.Value:
        made = ir.Value(name="c")
        made.const_value = ir.tensor(array)
        return made

    assert scalar_of(constant(np.array([[2.5]], np.float16))) == 2.5
    assert scalar_of(constant(np.array(3, np.int64))) == 3.0
    assert scalar_of(constant(np.zeros(2))) is None
    assert scalar_of(ir.Value(name="v")) is None
    assert scalar_of(None) is None
    text = ir.Value(name="c")
    text.const_value = ir.StringTensor(np.array([b"one"], object))
    assert scalar_of(text) is None


# --- as torch exports them -------------------------------------------------------------------

TORCH = {
    "nn.Sigmoid()": "Sigmoid", "nn.Tanh()": "Tanh", "nn.ReLU()": "Relu", "nn.SiLU()": "Silu",
    "nn.GELU()": "Gelu", "nn.GELU(approximate='tanh')": "Gelu", "nn.Hardswish()": "HardSwish",
    "nn.Hardsigmoid()": "HardSigmoid", "nn.Mish()": "Mish", "nn.Softplus()": "Softplus",
    "nn.ReLU6()": "Relu6", "nn.Hardtanh()": "Clip", "nn.PReLU()": "PRelu",
    "nn.LeakyReLU(0.2)": "LeakyRelu", "nn.ELU(0.5)": "Elu", "nn.SELU()": "Selu",
    "nn.Softsign()": "Softsign",
}  # fmt: skip


@pytest.fixture(scope="module", params=[18, 20])
def exported(request: pytest.FixtureRequest) -> ir.Graph:
    """One model of all activations side by side, each behind a linear layer of its own."""
    torch: Any = require_peer("torch")
    names = {"nn": torch.nn}

    class Heads(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in TORCH)
            self.ends = torch.nn.ModuleList(eval(text, names) for text in TORCH)

        def forward(self, x: Any) -> Any:
            return [end(layer(x)) for layer, end in zip(self.layers, self.ends, strict=True)]

    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: None)
        program = torch.onnx.export(
            Heads().eval(), (torch.zeros(1, 4),), dynamo=True, verbose=False,
            opset_version=request.param,
        )  # fmt: skip
    onnx.save(program.model_proto, file)
    return load_model(file.getvalue()).ir.graph


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", TORCH)
def test_torch_exports(text: str, exported: ir.Graph) -> None:
    place = list(TORCH).index(text)
    linear = [n for n in exported if n.op_type == "Gemm"][place]
    match = match_activation(linear.outputs[0])
    assert match is not None
    assert match.name == TORCH[text]
    assert match.output is exported.outputs[place]
