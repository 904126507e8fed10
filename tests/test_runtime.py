"""Runners: fixed batches, one code path for every device, the same bits from every thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from brute import build, random
from graphs import node
from onnx import TensorProto

from onnx_ei import runtime, sessions
from onnx_ei.errors import BackendError
from onnx_ei.noise import CHUNK
from onnx_ei.runtime import SpanRunner, runner
from onnx_ei.sessions import BoundRun, Session
from onnx_ei.span import Span, span_of
from onnx_ei.topology import topology_of

Array = Any


def dense(n: int, m: int, *, dtype: Any = np.float32, activation: str = "Tanh") -> onnx.ModelProto:
    """One dense layer with an activation."""
    kinds = {np.float16: TensorProto.FLOAT16, np.float64: TensorProto.DOUBLE}
    weights = {"w": random(n, m, dtype=dtype) / dtype(n**0.5), "b": random(m, dtype=dtype)}
    nodes = [node("Gemm", "x w b", "h"), node(activation, "h", "y")]
    kind = kinds.get(dtype, TensorProto.FLOAT)
    return build(nodes, weights, {"x": ("N", n)}, dtype=kind)


def dense_span(n: int, m: int, **arguments: Any) -> Span:
    return span_of(topology_of(dense(n, m)), "w", **arguments)


def coupled_span() -> Span:
    """Its samples may not share a batch: an inner tensor is centred over all of it."""
    nodes = [
        node("Gemm", "x w1", "h"),
        node("ReduceMean", "h", "m"),
        node("Sub", "h m", "d"),
        node("Gemm", "d w2", "y"),
    ]
    proto = build(nodes, {"w1": random(3, 4), "w2": random(4, 2)}, {"x": ("N", 3)})
    return span_of(topology_of(proto), "w2", in_layer="w1")


# --- rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "rows"),
    [(3, 2, CHUNK), (4000, 96, CHUNK), (6000, 144, 682), (1 << 16, 8, 63)],
)
def test_rows_depend_on_the_span_alone(n: int, m: int, rows: int) -> None:
    """2**22 floats at the two ends, and never more than a chunk."""
    assert rows == min(CHUNK, (1 << 22) // (n + m))
    made = runner(dense_span(n, m))
    assert made.rows == rows
    for count in (1, 5, rows):
        made(np.zeros((count, n), np.float32))
        assert made.rows == rows


def test_no_samples() -> None:
    assert runner(dense_span(3, 2))(np.zeros((0, 3), np.float32)).shape == (0, 2)
    assert runner(coupled_span())(np.zeros((0, 3), np.float32)).shape == (0, 2)


@pytest.mark.parametrize("n_samples", [1, 681, 682, 683, 1500])
def test_a_row_is_the_same_whatever_follows_it(n_samples: int) -> None:
    """The last batch is filled up: a sample has the same bits alone and among others."""
    made = runner(dense_span(6000, 144))
    x = random(1500, 6000)
    y = made(x[:n_samples])
    assert (y.dtype, y.shape) == (np.float32, (n_samples, 144))
    assert y.flags.c_contiguous
    np.testing.assert_array_equal(y, made(x)[:n_samples])
    w = random(6000, 144) / np.float32(6000**0.5)
    np.testing.assert_allclose(y[-1], np.tanh(x[n_samples - 1] @ w + random(144)), atol=1e-4)


def test_the_runtime_sees_one_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = SpanRunner(dense_span(6000, 144)), []
    run, call = Session.run, BoundRun.__call__

    def first(self: Session, feeds: dict[str, Array], outputs: list[str]) -> list[Array]:
        seen.append(feeds["x"].shape)
        return run(self, feeds, outputs)

    def later(self: BoundRun, feed: Array) -> Array:
        seen.append(feed.shape)
        return call(self, feed)

    monkeypatch.setattr(Session, "run", first)
    monkeypatch.setattr(BoundRun, "__call__", later)
    made(np.zeros((1400, 6000), np.float32))
    assert seen == [(682, 6000)] * 3


def test_one_at_a_time() -> None:
    span = coupled_span()
    made = runner(span)
    assert not span.batched
    assert made.rows == 1
    x = random(5, 3)
    h = x @ random(3, 4)
    want = (h - h.mean(axis=1, keepdims=True)) @ random(4, 2)
    np.testing.assert_allclose(made(x), want, rtol=1e-4, atol=1e-5)


def test_input_is_left_alone() -> None:
    x = random(5, 3)
    kept = x.copy()
    runner(dense_span(3, 2))(x)
    np.testing.assert_array_equal(x, kept)


def test_strided_input() -> None:
    x = random(10, 6)
    made = runner(dense_span(3, 2))
    np.testing.assert_array_equal(made(x[::2, ::2]), made(np.ascontiguousarray(x[::2, ::2])))


def test_a_result_of_another_size() -> None:
    """A span whose output grows with its data says so."""
    nodes = [node("Conv", "x w", "c"), node("NonZero", "c", "i"),
             node("Cast", "i", "f", to=TensorProto.FLOAT), node("Unsqueeze", "f axes", "u"),
             node("MaxPool", "u", "y", kernel_shape=[1])]  # fmt: skip
    weights = {"w": np.eye(2, dtype=np.float32)[:, :, None], "axes": np.array([0])}
    proto = build(nodes, weights, {"x": (1, 2, 3)})
    span = span_of(topology_of(proto, np.ones((1, 2, 3))), "y", in_layer="w", positions="all")
    with pytest.raises(BackendError, match=r"span 'w' -> 'y': expected 18 outputs a sample, got"):
        runner(span)(np.eye(1, 6, dtype=np.float32))


# --- element types ---------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 1e-2), (np.float64, 1e-6)])
def test_other_element_types(dtype: Any, tolerance: float) -> None:
    span = span_of(topology_of(dense(20, 7, dtype=dtype)), "w")
    assert span.batched
    x = random(9, 20)
    y = runner(span)(x)
    w = (random(20, 7, dtype=dtype) / dtype(20**0.5)).astype(np.float64)
    want = np.tanh(x @ w + random(7, dtype=dtype))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, want, atol=tolerance)
    changed = span_of(topology_of(dense(20, 7, dtype=dtype)), "w", activation="relu")
    want = np.maximum(x @ w + random(7, dtype=dtype), 0)
    np.testing.assert_allclose(runner(changed)(x), want, atol=5 * tolerance)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_background_takes_the_models_type(dtype: Any) -> None:
    kind = {np.float16: TensorProto.FLOAT16, np.float64: TensorProto.DOUBLE}[dtype]
    nodes = [node("Gemm", "x w", "h"), node("Add", "h s", "a"), node("Gemm", "a v", "y")]
    weights = {"w": np.eye(3, dtype=dtype), "v": np.eye(3, dtype=dtype)}
    proto = build(nodes, weights, {"x": ("N", 3), "s": ("N", 3)}, dtype=kind)
    given = {"s": np.array([[1, 2, 3]])}
    span = span_of(topology_of(proto), "v", in_layer="w", background=given)
    np.testing.assert_array_equal(runner(span)(np.ones((2, 3), np.float32)), [[2, 3, 4]] * 2)


# --- functions -------------------------------------------------------------------------------


def test_a_function_sees_float32_and_only_samples() -> None:
    """What fills a batch up are samples too: a logarithm is not asked for that of zeros."""
    seen = []

    def logarithm(z: Array) -> Array:
        seen.append((z.dtype, z.shape))
        return np.log(z)

    nodes = [node("Gemm", "x w", "y")]
    weights = {"w": np.ones((3, 2))}
    proto = build(nodes, weights, {"x": ("N", 3)}, dtype=TensorProto.DOUBLE)
    span = span_of(topology_of(proto), "w", activation=logarithm)
    x = np.abs(random(5, 3)) + 1
    np.testing.assert_allclose(runner(span)(x), np.log(x.sum(1, keepdims=True)) * [1, 1], rtol=1e-5)
    assert seen == [(np.float32, (CHUNK, 2))]


# --- sessions and threads --------------------------------------------------------------------


def test_runners_are_kept() -> None:
    span = dense_span(3, 2)
    assert runner(span) is runner(span, "cpu")
    assert runner(span).provider == "CPUExecutionProvider"
    assert span.session("cpu") is span.session()


def test_devices() -> None:
    span = dense_span(3, 2)
    with pytest.raises(ValueError, match="device must be 'cpu', 'cuda'"):
        runner(span, "tpu")
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        with pytest.raises(BackendError, match="CUDA was asked for"):
            runner(span, "cuda")


@pytest.mark.parametrize("coupled", [False, True])
def test_eight_threads_on_one_runner(coupled: bool) -> None:
    span = coupled_span() if coupled else dense_span(300, 200)
    made = runner(span)
    chunks = [random(40, span.n_inputs, seed=s) for s in range(24)]
    alone = [made(c) for c in chunks]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(made, chunks))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_topologies_give_the_same_bits() -> None:
    x = random(100, 300)
    np.testing.assert_array_equal(runner(dense_span(300, 200))(x), runner(dense_span(300, 200))(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_large_weights_are_handed_over_as_they_are(dtype: Any) -> None:
    """Weights past the limit do not go into the serialised model; they stay as they were."""
    n, m = 200, 180
    proto = dense(n, m, dtype=dtype)
    topology = topology_of(proto)
    span = span_of(topology, "w")
    weight = span.model.graph.initializers["w"].const_value
    assert weight is not None
    assert weight.nbytes > sessions.EMBED_LIMIT
    data, large = sessions._serialise(sessions.onnxruntime_module(), span.model)
    assert list(large) == ["w"]
    assert len(data) < 10_000
    w = (random(n, m, dtype=dtype) / dtype(n**0.5)).astype(np.float64)
    np.testing.assert_array_equal(weight.numpy(), w)
    x = random(3, n)
    want = np.tanh(x @ w + random(m, dtype=dtype))
    tolerance = 1e-2 if dtype is np.float16 else 1e-5
    np.testing.assert_allclose(runner(span)(x), want, atol=tolerance)


def test_external_weights_beside_the_file(tmp_path: Any) -> None:
    """The small bias lies in the same file as the large weight, and is not handed over."""
    path = tmp_path / "model.onnx"
    external = {"save_as_external_data": True, "location": "data", "size_threshold": 0}
    onnx.save(dense(200, 180), path, **external)
    assert path.stat().st_size < 10_000
    x = random(3, 200)
    span = span_of(topology_of(path), "w")
    np.testing.assert_array_equal(runner(span)(x), runner(dense_span(200, 180))(x))


def test_a_large_background_is_handed_over_too() -> None:
    nodes = [node("Gemm", "x w", "h"), node("Mul", "h s", "a"), node("Gemm", "a v", "y")]
    n = 40_000
    weights = {"w": random(1, n), "v": random(n, 2)}
    topology = topology_of(build(nodes, weights, {"x": ("N", 1), "s": ("N", n)}))
    side = random(1, n, seed=3)
    span = span_of(topology, "v", in_layer="w", background={"s": side})
    x = random(3, 1)
    want = (x @ weights["w"] * side).astype(np.float64) @ weights["v"]
    np.testing.assert_allclose(runner(span)(x), want, rtol=1e-3, atol=1e-2)


# --- what is bound --------------------------------------------------------------------------


def test_bound_buffers_give_what_a_plain_run_gives_to_the_bit() -> None:
    span = dense_span(37, 5)
    made, x = runner(span), random(3 * CHUNK, 37)
    first, again = made(x), made(x[::-1].copy())
    plain = span.session()._session
    name = [plain.get_outputs()[0].name]
    parts = [plain.run(name, {"x": part})[0] for part in np.split(x, 3)]
    np.testing.assert_array_equal(first, np.concatenate(parts))
    np.testing.assert_array_equal(again[::-1], first)


def test_the_buffers_of_one_span_only_are_kept() -> None:
    one, other = runner(dense_span(4, 3)), runner(dense_span(3, 2))
    x = random(5, 4)
    before = one(x)
    assert len(one._idle) == 1
    other(random(5, 3))
    assert not one._idle
    assert len(other._idle) == 1
    np.testing.assert_array_equal(one(x), before)


def test_buffers_go_from_thread_to_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    made = runner(dense_span(4, 3))
    x = random(5, 4)
    before, kept = made(x), made._idle[0]
    with ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(made, x).result(), before)
    assert made._idle == [kept]
    # As many as fit: of two that run at once, each makes its own, and the second is let go.
    monkeypatch.setattr(runtime, "_KEPT_FLOATS", CHUNK * 3)
    taken = made._take_buffers()
    np.testing.assert_array_equal(made(x), before)
    assert len(made._idle) == 1
    assert taken is kept is not made._idle[0]
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(made, [np.repeat(x, 20_000, axis=0)] * 2):
            np.testing.assert_array_equal(found[::20_000], before)
    assert len(made._idle) == 1


# --- CUDA ------------------------------------------------------------------------------------

ZOO = Path(__file__).parent / "zoo"


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["dense", "conv", "half", "coupled", "cpu first"])
def test_cuda_agrees_with_the_cpu(kind: str) -> None:
    """With TF32 off, sums differ in their order only."""
    if kind == "conv":
        nodes = [node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Tanh", "c", "y")]
        proto = build(nodes, {"w": random(8, 6, 3, 3) / 7}, {"x": ("N", 6, 12, 12)})
        span = span_of(topology_of(proto), "w", positions="all")
    elif kind == "coupled":
        span = coupled_span()
    elif kind == "cpu first":
        # CUDA has no kernel for the first node, which quantises what enters the layer
        span = span_of(topology_of(ZOO / "quantised" / "mlp_dynamic.onnx"), "output")
        assert "DynamicQuantizeLinear" in (runner(span, "cuda").cpu_nodes or {})
    else:
        dtype = np.float16 if kind == "half" else np.float32
        span = span_of(topology_of(dense(500, 300, dtype=dtype)), "w")
    cpu, cuda = runner(span), runner(span, "cuda")
    assert cuda.provider == "CUDAExecutionProvider"
    assert cuda.rows == cpu.rows
    x = random(100, span.n_inputs)
    tolerance = 1e-2 if kind == "half" else 1e-5
    np.testing.assert_allclose(cuda(x), cpu(x), atol=tolerance, rtol=tolerance)
    np.testing.assert_array_equal(cuda(x), cuda(x))
