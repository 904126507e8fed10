"""Small ONNX models that several test files share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence["int | str | None"]


def noise(*shape: int, seed: int = 0) -> Any:
    """Seeded normal float32 values."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Dims],
    outputs: Sequence[str] | Mapping[str, Dims],
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = 18,
    ir_version: int = 8,
    dtype: int = TensorProto.FLOAT,
    ranks: Mapping[str, int] | None = None,
    value_info: Sequence[onnx.ValueInfoProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """Put nodes into a model; outputs are of rank 2 with open dimensions unless said otherwise."""
    declared = (
        outputs
        if isinstance(outputs, Mapping)
        else {n: [None] * (ranks or {}).get(n, 2) for n in outputs}
    )
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, dtype, list(dims)) for n, dims in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, list(dims)) for n, dims in declared.items()],
        [
            w if isinstance(w, onnx.TensorProto) else numpy_helper.from_array(w, n)
            for n, w in (weights or {}).items()
        ],
        value_info=list(value_info),
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(d, v) for d, v in (domains or {}).items()]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=ir_version, functions=list(functions)
    )


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node whose inputs and outputs are names in one string; ``_`` stands for one left out.

    It is named after its first output, unless a name is given.
    """
    names = ["" if n == "_" else n for n in inputs.split()]
    attributes.setdefault("name", outputs.split()[0])
    return helper.make_node(op, names, outputs.split(), **attributes)


def scalar(value: float, dtype: Any = np.float32) -> Any:
    """Make a constant of rank 0."""
    return np.array(value, dtype)


def mlp(activation: str = "Relu") -> onnx.ModelProto:
    """x (N, 4) -> fc1 (5) -> activation -> fc2 (3)."""
    return make(
        [
            node("Gemm", "x fc1.weight fc1.bias", "h", transB=1),
            node(activation, "h", "a"),
            node("Gemm", "a fc2.weight fc2.bias", "y", transB=1),
        ],
        {"x": ("N", 4)},
        ["y"],
        {
            "fc1.weight": noise(5, 4), "fc1.bias": noise(5, seed=1),
            "fc2.weight": noise(3, 5, seed=2), "fc2.bias": noise(3, seed=3),
        },
    )  # fmt: skip


def conv_bn_relu() -> onnx.ModelProto:
    """x (N, 3, 8, 8) -> Conv 3x3 pad 1, 4 channels -> BatchNormalization -> Relu."""
    return make(
        [
            node("Conv", "x conv.weight", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("BatchNormalization", "c scale shift mean var", "b"),
            node("Relu", "b", "y"),
        ],
        {"x": ("N", 3, 8, 8)},
        ["y"],
        {
            "conv.weight": noise(4, 3, 3, 3), "scale": np.abs(noise(4, seed=1)) + 0.5,
            "shift": noise(4, seed=2), "mean": noise(4, seed=3),
            "var": np.abs(noise(4, seed=4)) + 0.5,
        },
        ranks={"y": 4},
    )  # fmt: skip


def residual() -> onnx.ModelProto:
    """conv1 -> Relu -> conv2, plus what entered conv1, -> Relu -> pool -> fc."""
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    return make(
        [
            node("Conv", "x stem.weight", "s", **same),
            node("Relu", "s", "s1"),
            node("Conv", "s1 conv1.weight", "c1", **same),
            node("Relu", "c1", "r1"),
            node("Conv", "r1 conv2.weight", "c2", **same),
            node("Add", "c2 s1", "sum"),
            node("Relu", "sum", "r2"),
            node("GlobalAveragePool", "r2", "p"),
            node("Flatten", "p", "f"),
            node("Gemm", "f fc.weight", "y", transB=1),
        ],
        {"x": ("N", 3, 6, 6)},
        ["y"],
        {
            "stem.weight": noise(4, 3, 3, 3), "conv1.weight": noise(4, 4, 3, 3, seed=1),
            "conv2.weight": noise(4, 4, 3, 3, seed=2), "fc.weight": noise(2, 4, seed=3),
        },
    )  # fmt: skip


def external(path: Any, location: str, shape: tuple[int, int] = (4, 3)) -> None:
    """Write x (N, 4) -> MatMul with a float32 weight that lies at `location` beside the file."""
    model = make([node("MatMul", "x w", "y")], {"x": ("N", shape[0])}, ["y"])
    weight = model.graph.initializer.add()
    weight.name, weight.data_type = "w", TensorProto.FLOAT
    weight.dims.extend(shape)
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", location
    path.write_bytes(model.SerializeToString())


def two_layer_model(
    *, names: tuple[str, str] = ("fc1", "fc2"), second: Any = None
) -> onnx.ModelProto:
    """MatMul, Sigmoid, MatMul: 3 -> 4 -> 2."""
    weights = {
        names[0]: 2 * noise(3, 4, seed=1),
        names[1]: 2 * noise(4, 2, seed=2) if second is None else second,
    }
    nodes = [
        node("MatMul", f"x {names[0]}", "h"),
        node("Sigmoid", "h", "s"),
        node("MatMul", f"s {names[1]}", "y"),
    ]
    return make(nodes, {"x": ("N", 3)}, ["y"], weights)


def mixed_model() -> onnx.ModelProto:
    """A convolution with ReLU, a pool, a dense layer, and one of integers without a scale."""
    weights = {
        "conv.weight": noise(3, 2, 3, 3, seed=1),
        "fc": noise(12, 4, seed=2),
        "quantised": np.ones((4, 2), np.int8),
    }
    nodes = [
        node("Conv", "x conv.weight", "c"),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "pool", "f"),
        node("MatMul", "f fc", "h"),
        node("Cast", "h", "q", to=TensorProto.UINT8),
        node("MatMulInteger", "q quantised", "i"),
        node("Cast", "i", "y", to=TensorProto.FLOAT),
    ]
    return make(nodes, {"x": ("N", 2, 6, 6)}, ["y"], weights)


def open_model() -> onnx.ModelProto:
    """Flatten over an open axis: the file does not say how many units enter."""
    weights = {"fc": noise(15, 2, seed=1)}
    nodes = [node("Flatten", "x", "f"), node("MatMul", "f fc", "y")]
    return make(nodes, {"x": ("N", "T", 3)}, ["y"], weights)


def save_two_models(folder: Path) -> Path:
    """Write ``a.onnx`` and ``b.onnx`` into a folder, and return it."""
    onnx.save(two_layer_model(), folder / "a.onnx")
    onnx.save(mixed_model(), folder / "b.onnx")
    return folder
