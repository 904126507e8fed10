"""Windows against brute force: run the whole model, change what a window says does not matter."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_ei._graph.windows import Window
from onnx_ei.runtime import runner
from onnx_ei.span import Span, span_of
from onnx_ei.topology import layer_of, topology_of

Array = NDArray[Any]


def random(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Seeded normal weights, others for every shape."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def build(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any],
    inputs: Mapping[str, Sequence[int | str]],
    *,
    opset: int = 18,
    dtype: int = TensorProto.FLOAT,
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model whose output is the last node's, its shape inferred, or else a matrix."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(n, dtype, list(d)) for n, d in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], dtype, None)],
        [numpy_helper.from_array(np.array(v, order="C"), k) for k, v in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(k, v) for k, v in (domains or {}).items()]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(made, data_prop=True)
    output = inferred.graph.output[0]
    if not output.type.tensor_type.HasField("shape"):  # an operator that onnx does not know
        output = helper.make_tensor_value_info(output.name, dtype, [None, None])
    made.graph.output[0].CopyFrom(output)
    return made


class Whole:
    """The whole model in onnxruntime, straight from its proto: one input, one output."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        value = self._session.get_inputs()[0]
        self.name = value.name
        self.shape = tuple(d if isinstance(d, int) else 1 for d in value.shape)
        kinds = {"tensor(float16)": np.float16, "tensor(double)": np.float64}
        self.dtype = kinds.get(value.type, np.float32)

    def __call__(self, x: Array) -> Array:
        return np.asarray(self._session.run(None, {self.name: x.astype(self.dtype)})[0])


def part(window: Window) -> tuple[slice, ...]:
    """A window as an index."""
    return tuple(slice(None) if w is None else slice(*w) for w in window)


def inside(window: Window, shape: tuple[int, ...]) -> bool:
    """Say whether a window stays within the tensor's border."""
    return all(w is None or (w[0] >= 0 and w[1] <= n) for w, n in zip(window, shape, strict=True))


def through(span: Span, x: Array) -> Array:
    """Run one sample, given as the whole tensor that enters, through a span."""
    feed = x[part(span.in_window)].reshape(1, span.n_inputs).astype(np.float32)
    return runner(span)(feed)[0]


def check(
    proto: onnx.ModelProto,
    *,
    in_layer: str | None = None,
    layer: str | None = None,
    corners: bool = True,
    batched: bool = True,
    tolerance: float = 1e-5,
    positions: str = "one",
) -> tuple[nx.DiGraph, Span]:
    """Hold a span that starts at the model's input and ends at its output against brute force."""
    whole = Whole(proto)
    x = np.random.default_rng(7).normal(size=whole.shape)
    topology = topology_of(proto, x.astype(whole.dtype))
    keys = list(topology)
    first, last = in_layer or keys[0], layer or keys[-1]
    assert layer_of(topology, first).entering.name == whole.name
    assert layer_of(topology, last).leaving.name == proto.graph.output[0].name
    span = span_of(topology, last, in_layer=first, positions=positions)
    there = part(span.out_window)
    y = whole(x)[there]
    scale = tolerance * max(float(np.abs(y).max()), 1e-3)
    assert inside(span.in_window, whole.shape)
    assert y.size == span.n_outputs
    np.testing.assert_allclose(through(span, x), y.reshape(-1), atol=scale)
    rng = np.random.default_rng(8)
    outside = np.ones(whole.shape, bool)
    outside[part(span.in_window)] = False
    if outside.any():
        changed = np.where(outside, rng.normal(size=x.shape, scale=3), x)
        np.testing.assert_allclose(whole(changed)[there], y, atol=scale)
    if corners:
        for corner in _corners(span.in_window):
            changed = x.copy()
            changed[corner] += 50 + rng.random(changed[corner].shape)
            assert np.abs(whole(changed)[there] - y).max() > 10 * scale, corner
    assert span.batched is batched
    rows = np.stack([x, *rng.normal(size=(4, *x.shape))])
    many = runner(span)(
        rows[(slice(None), *part(span.in_window))].reshape(len(rows), -1).astype(np.float32)
    )
    for row, got in zip(rows, many, strict=True):
        want = whole(row)[there].reshape(-1)
        np.testing.assert_allclose(got, want, atol=tolerance * max(np.abs(want).max(), 1e-3))
    return topology, span


def _corners(window: Window) -> list[tuple[Any, ...]]:
    """The extreme corners of a window, one element wide along each axis that is cut."""
    ends = [
        [slice(None)] if w is None else [slice(i, i + 1) for i in sorted({w[0], w[1] - 1})]
        for w in window
    ]
    return list(itertools.product(*ends))
