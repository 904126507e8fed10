"""bfloat16: weights keep the values that it gave them, and are computed with in float32."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import make, node, noise
from onnx import TensorProto, helper

from onnx_ei import measure, topology_of
from onnx_ei._graph.widening import is_narrow, widened
from onnx_ei.loading import load_model
from onnx_ei.runtime import runner
from onnx_ei.span import span_of
from onnx_ei.topology import model_of

BF16 = ml_dtypes.bfloat16


def narrow_weight(name: str, array: Any) -> onnx.TensorProto:
    data = array.astype(BF16)
    return helper.make_tensor(name, TensorProto.BFLOAT16, data.shape, data.tobytes(), raw=True)


def narrow_model() -> onnx.ModelProto:
    """x (N, 4), bfloat16 -> MatMul -> Tanh -> MatMul, a Cast to bfloat16 on the way."""
    nodes = [
        node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("Cast", "t", "f", to=1),
        node("Cast", "f", "b", to=TensorProto.BFLOAT16), node("MatMul", "b v", "y"),
    ]  # fmt: skip
    weights = {"w": narrow_weight("w", noise(4, 3)), "v": narrow_weight("v", noise(3, 2, seed=1))}
    return make(nodes, {"x": ("N", 4)}, ["y"], weights, dtype=TensorProto.BFLOAT16)


def wide(array: Any) -> Any:
    return array.astype(BF16).astype(np.float32)


def test_spans_run_in_float32_on_the_weights_as_they_are() -> None:
    topology = topology_of(narrow_model())
    span = span_of(topology, "w")
    assert span.notes == (
        "runs in float32: onnxruntime has no kernels for it in bfloat16, the weights' own type",
    )
    assert span.batched
    x = noise(5, 4, seed=2)
    want = np.tanh(x.astype(np.float64) @ wide(noise(4, 3)))
    np.testing.assert_allclose(runner(span)(x), want, rtol=1e-5)
    # the weights were rounded once, and nothing else: full precision is further off
    assert np.abs(want - np.tanh(x @ noise(4, 3))).max() > 1e-4
    assert measure("ei_parts", "v", topology, samples=200, in_bins=4, out_bins=4).value > 0


def test_the_whole_model_runs_in_float32_too() -> None:
    topology = topology_of(narrow_model(), noise(1, 4))
    (h,) = model_of(topology).tensors(["h"]).values()
    assert h.dtype == np.float32
    np.testing.assert_allclose(h, wide(noise(1, 4)) @ wide(noise(4, 3)), rtol=1e-5)
    span = span_of(topology, "v", in_layer="w")
    got, x = runner(span)(noise(5, 4)), noise(5, 4)
    want = np.tanh(x @ wide(noise(4, 3))) @ wide(noise(3, 2, seed=1))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_model_itself_stays_narrow() -> None:
    model = load_model(narrow_model()).ir
    assert is_narrow(model)
    copy = widened(model)
    assert copy is not None
    assert not is_narrow(copy)
    assert is_narrow(model)
    casts = [n.attributes["to"].as_int() for n in copy.graph if n.op_type == "Cast"]
    assert casts == [TensorProto.FLOAT] * 2


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_other_types_are_left_alone(dtype: int) -> None:
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    nodes = [node("MatMul", "x w", "y")]
    model = make(nodes, {"x": ("N", 4)}, ["y"], {"w": noise(4, 3).astype(kind)}, dtype=dtype)
    assert widened(load_model(model).ir) is None
    assert span_of(topology_of(model), "w").notes == ()
