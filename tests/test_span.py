"""Spans: which function lies between two layers, and what is said where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from brute import build, random
from graphs import node
from onnx import TensorProto

from onnx_ei.activations import ACTIVATIONS
from onnx_ei.errors import (
    ModelError,
    UnboundedSpanError,
    UnknownLayerError,
    UnsupportedModelError,
)
from onnx_ei.runtime import runner
from onnx_ei.span import Span, span_of
from onnx_ei.topology import topology_of

Array = Any
X = random(5, 3, seed=11)
W1, W2, W3 = random(3, 4), random(4, 4), random(4, 2)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def skip_model() -> onnx.ModelProto:
    """Three layers, the first one's units added to the second one's."""
    nodes = [
        node("Gemm", "x fc1", "h"),
        node("Sigmoid", "h", "hs"),
        node("Gemm", "hs fc2", "g"),
        node("Tanh", "g", "gt"),
        node("Add", "gt hs", "sum"),
        node("Gemm", "sum fc3", "z"),
        node("Relu", "z", "y"),
    ]
    return build(nodes, {"fc1": W1, "fc2": W2, "fc3": W3}, {"x": ("N", 3)})


def side_model() -> onnx.ModelProto:
    """Two layers, their hidden units multiplied by a gate and shifted by an offset."""
    nodes = [
        node("Gemm", "x fc1", "h"),
        node("Mul", "h gate", "g"),
        node("Add", "g offset", "s"),
        node("Gemm", "s fc2", "y"),
    ]
    return build(
        nodes, {"fc1": W1, "fc2": W3}, {"x": ("N", 3), "gate": ("N", 4), "offset": ("N", 4)}
    )


def run(span: Span, x: Array) -> Array:
    return runner(span)(np.asarray(x, np.float32).reshape(len(x), -1))


# --- ends ------------------------------------------------------------------------------------


def test_one_layer() -> None:
    topology = topology_of(skip_model())
    span = span_of(topology, "fc2")
    assert (span.layer, span.in_layer) == ("fc2", "fc2")
    assert (span.in_shape, span.out_shape) == ((4,), (4,))
    assert (span.n_inputs, span.n_outputs) == (4, 4)
    assert (span.in_range, span.out_range) == ((0, 1), (-1, 1))
    assert (span.in_window, span.out_window) == ((None, None), (None, None))
    h = random(3, 4)
    np.testing.assert_allclose(run(span, h), np.tanh(h @ W2), rtol=1e-5, atol=1e-6)


def test_ranges_of_bare_ends() -> None:
    span = span_of(topology_of(side_model()), "fc1")
    assert (span.in_range, span.out_range) == ((-10, 10), (-10, 10))


def test_composed_span_with_a_skip() -> None:
    topology = topology_of(skip_model())
    span = span_of(topology, "fc3", in_layer="fc1")
    hs = sigmoid(X @ W1)
    want = np.maximum((np.tanh(hs @ W2) + hs) @ W3, 0)
    np.testing.assert_allclose(run(span, X), want, rtol=1e-5, atol=1e-6)
    # from fc2 on, the skip begins where the span does: nothing else is needed
    span = span_of(topology, "fc3", in_layer="fc2")
    np.testing.assert_allclose(run(span, hs), want, rtol=1e-5, atol=1e-6)


def test_the_same_call_returns_the_same_span() -> None:
    topology = topology_of(skip_model())
    assert span_of(topology, "fc1") is span_of(topology, "fc1", in_layer="fc1")
    assert span_of(topology, "fc3", in_layer="fc1") is span_of(topology, "fc3", in_layer="fc1")
    assert span_of(topology, "fc1") is not span_of(topology, "fc1", positions="all")
    assert span_of(topology, "fc1", activation="tanh") is span_of(
        topology, "fc1", activation="Tanh"
    )
    assert span_of(topology, "fc1", activation="tanh") is not span_of(topology, "fc1")
    assert span_of(topology, "fc1", activation=np.tanh) is span_of(
        topology, "fc1", activation=np.tanh
    )


def test_unknown_layer() -> None:
    topology = topology_of(skip_model())
    with pytest.raises(UnknownLayerError, match=r"no layer 'fc9'.*did you mean 'fc"):
        span_of(topology, "fc9")
    with pytest.raises(UnknownLayerError, match=r"no layer 'fc_1'.*'fc1'"):
        span_of(topology, "fc3", in_layer="fc_1")


def test_layer_before_in_layer() -> None:
    topology = topology_of(skip_model())
    with pytest.raises(
        ValueError, match=r"'fc1' does not come after in_layer 'fc2'; what does: 'fc3'$"
    ):
        span_of(topology, "fc1", in_layer="fc2")
    with pytest.raises(ValueError, match="in_layer 'fc3'; what does: nothing"):
        span_of(topology, "fc1", in_layer="fc3")


def test_bad_options() -> None:
    topology = topology_of(skip_model())
    with pytest.raises(ValueError, match="positions must be 'one' or 'all', got 'some'"):
        span_of(topology, "fc1", positions="some")
    with pytest.raises(ValueError, match=r"background must be .*, got 'ones'"):
        span_of(topology, "fc1", background="ones")
    with pytest.raises(TypeError, match=r"background must be .*, got list"):
        span_of(topology, "fc1", background=[1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="topology must be what topology_of returns"):
        span_of({}, "fc1")  # type: ignore[arg-type]


# --- background ------------------------------------------------------------------------------

GATE, OFFSET = random(1, 4, seed=21), random(1, 4, seed=22)


def test_side_tensors_are_named() -> None:
    topology = topology_of(side_model())
    span_of(topology, "fc1")
    span_of(topology, "fc2")
    with pytest.raises(
        UnboundedSpanError, match=r"from 'fc1' to 'fc2' also needs 'gate', 'offset'; .*background"
    ):
        span_of(topology, "fc2", in_layer="fc1")


def test_background_of_zeros_and_arrays() -> None:
    topology = topology_of(side_model())
    span = span_of(topology, "fc2", in_layer="fc1", background="zeros")
    np.testing.assert_array_equal(run(span, X), np.zeros((5, 2)))
    given = {"gate": GATE, "offset": OFFSET.astype(np.float64)}
    span = span_of(topology, "fc2", in_layer="fc1", background=given)
    want = (X @ W1 * GATE + OFFSET) @ W3
    np.testing.assert_allclose(run(span, X), want, rtol=1e-4, atol=1e-5)
    assert span.batched


def test_background_of_the_example() -> None:
    example = {"x": X[:1], "gate": GATE, "offset": OFFSET}
    span = span_of(
        topology_of(side_model(), example), "fc2", in_layer="fc1", background="reference"
    )
    want = (X @ W1 * GATE + OFFSET) @ W3
    np.testing.assert_allclose(run(span, X), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="there is no example input"):
        span_of(topology_of(side_model()), "fc2", in_layer="fc1", background="reference")


def test_background_of_inner_tensors_of_the_example() -> None:
    """From fc3 back to fc2 with the skip cut open at fc2's own output."""
    nodes = [
        node("Gemm", "x fc1", "h"),
        node("Sigmoid", "h", "hs"),
        node("Gemm", "hs fc2", "g"),
        node("Gemm", "g fc3", "k"),
        node("Add", "k hs", "sum"),
        node("Gemm", "sum fc4", "y"),
    ]
    weights = {"fc1": W1, "fc2": W2, "fc3": random(4, 4, seed=2), "fc4": W3}
    topology = topology_of(build(nodes, weights, {"x": ("N", 3)}), X)
    with pytest.raises(UnboundedSpanError, match="also needs 'hs'"):
        span_of(topology, "fc4", in_layer="fc3")
    span = span_of(topology, "fc4", in_layer="fc3", background="reference")
    g = random(6, 4, seed=3)
    want = (g @ weights["fc3"] + sigmoid(X[:1] @ W1)) @ W3
    np.testing.assert_allclose(run(span, g), want, rtol=1e-4, atol=1e-5)


def test_background_that_changes_between_calls() -> None:
    """The cache knows a background by its values: the caller's arrays are the caller's."""
    topology = topology_of(side_model())
    given = {"gate": GATE.copy(), "offset": OFFSET.copy()}
    before = span_of(topology, "fc2", in_layer="fc1", background=given)
    assert span_of(topology, "fc2", in_layer="fc1", background=dict(given)) is before
    given["gate"] *= 2
    after = span_of(topology, "fc2", in_layer="fc1", background=given)
    want = (X @ W1 * GATE * 2 + OFFSET) @ W3
    np.testing.assert_allclose(run(after, X), want, rtol=1e-4, atol=1e-5)
    want = (X @ W1 * GATE + OFFSET) @ W3
    np.testing.assert_allclose(run(before, X), want, rtol=1e-4, atol=1e-5)


def test_background_with_wrong_names() -> None:
    topology = topology_of(side_model())
    with pytest.raises(UnboundedSpanError, match="background lacks 'offset'"):
        span_of(topology, "fc2", in_layer="fc1", background={"gate": GATE})
    extra = {"gate": GATE, "offsett": OFFSET}
    with pytest.raises(ValueError, match=r"names 'offsett'.*did you mean 'offset'"):
        span_of(topology, "fc2", in_layer="fc1", background=extra)
    with pytest.raises(ValueError, match=r"names 'gate', which the span does not need; there are"):
        span_of(topology, "fc2", background={"gate": GATE})


def test_background_of_the_wrong_shape() -> None:
    topology = topology_of(side_model())
    wrong = {"gate": random(1, 5), "offset": OFFSET}
    with pytest.raises(ValueError, match=r"'gate' has shape \(1, 5\), the tensor \(1, 4\)"):
        span_of(topology, "fc2", in_layer="fc1", background=wrong)
    wrong = {"gate": random(4), "offset": OFFSET}
    with pytest.raises(ValueError, match=r"'gate' has shape \(4,\), the tensor \(1, 4\)"):
        span_of(topology, "fc2", in_layer="fc1", background=wrong)


def test_background_is_cut_to_the_window() -> None:
    """A side map as large as the convolution's: the position's part of it is taken."""
    nodes = [
        node("Conv", "x w1", "c", pads=[1, 1]),
        node("Add", "c side", "s"),
        node("Conv", "s w2", "y"),
    ]
    w1, w2, side = random(2, 2, 3), random(3, 2, 1), random(1, 2, 9, seed=4)
    proto = build(nodes, {"w1": w1, "w2": w2}, {"x": (1, 2, 9), "side": (1, 2, 9)})
    span = span_of(topology_of(proto), "w2", in_layer="w1", background={"side": side})
    assert (span.in_window[2], span.out_window[2]) == ((3, 6), (4, 5))
    x = random(2, 3, seed=5)
    c = np.einsum("ik,oik->o", x, w1) + side[0, :, 4]
    np.testing.assert_allclose(run(span, x[None])[0], w2[:, :, 0] @ c, rtol=1e-4, atol=1e-5)


# --- positions -------------------------------------------------------------------------------


def token_model() -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x q", "h"),
        node("Add", "h b", "hb"),
        node("Tanh", "hb", "ht"),
        node("MatMul", "ht r", "y"),
    ]
    return build(nodes, {"q": W1, "b": random(4), "r": W3}, {"x": ("N", 7, 3)})


@pytest.mark.parametrize("in_layer", ["q", "r"])
def test_token_wise_layers(in_layer: str) -> None:
    topology = topology_of(token_model())
    one = span_of(topology, "r", in_layer=in_layer)
    width = 3 if in_layer == "q" else 4
    assert (one.in_shape, one.out_shape, one.batched) == ((1, width), (1, 2), True)
    assert one.in_window == (None, (3, 4), None)
    whole = span_of(topology, "r", in_layer=in_layer, positions="all")
    assert (whole.in_shape, whole.out_shape, whole.batched) == ((7, width), (7, 2), True)
    assert whole.in_window == (None, None, None)
    x = random(2, 7, width)
    # a token is a token: seven samples of the one are a sample of the whole
    np.testing.assert_allclose(
        run(whole, x).reshape(14, 2), run(one, x.reshape(14, width)), rtol=1e-4, atol=1e-6
    )


def test_flatten_reaches_the_whole_map() -> None:
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("Flatten", "r", "f"),
        node("Gemm", "f fc", "y"),
    ]
    w, fc = random(2, 3, 3, 3), random(2 * 5 * 6, 4)
    topology = topology_of(build(nodes, {"w": w, "fc": fc}, {"x": ("N", 3, 5, 6)}))
    span = span_of(topology, "fc", in_layer="w")
    assert (span.in_shape, span.out_shape, span.batched) == ((3, 5, 6), (4,), True)
    assert span.in_window == (None, None, None, None)
    alone = span_of(topology, "fc")
    assert (alone.in_shape, alone.n_inputs) == ((60,), 60)
    x = random(2, 60)
    np.testing.assert_allclose(run(alone, x), x @ fc, rtol=1e-4, atol=1e-4)
    conv = span_of(topology, "w")
    assert (conv.in_shape, conv.out_shape) == ((3, 3, 3), (2, 1, 1))


def test_open_map_needs_no_example_for_one_position() -> None:
    nodes = [node("Conv", "x w", "c", pads=[1, 1]), node("MaxPool", "c", "y", kernel_shape=[2])]
    w = random(2, 3, 3)
    topology = topology_of(build(nodes, {"w": w}, {"x": ("N", 3, "T")}))
    span = span_of(topology, "y", in_layer="w")
    assert (span.in_shape, span.out_shape) == ((3, 4), (2, 1))
    x = random(3, 4)
    c = [np.einsum("ik,oik->o", x[:, i : i + 3], w) for i in (0, 1)]
    np.testing.assert_allclose(run(span, x[None])[0], np.maximum(*c), rtol=1e-4, atol=1e-5)


def test_open_shapes_name_the_remedy() -> None:
    nodes = [node("Conv", "x w", "c"), node("Conv", "c v", "y")]
    proto = build(nodes, {"w": random(2, 3, 3), "v": random(2, 2, 3)}, {"x": ("N", 3, "T")})
    remedy = r"shape of tensor 'x' is open \(1, 3, \?\); pass an example input"
    with pytest.raises(UnsupportedModelError, match=remedy):
        span_of(topology_of(proto), "w", positions="all")
    span = span_of(topology_of(proto, random(1, 3, 9)), "w", positions="all")
    assert span.in_shape == (3, 9)


def test_open_shapes_inside_a_span_that_is_computed_whole() -> None:
    """A running sum needs the whole map before the position, and the map's length is open."""
    nodes = [
        node("Conv", "x w", "c"),
        node("CumSum", "c axis", "s"),
        node("Conv", "s v", "y"),
    ]
    weights = {"w": random(2, 3, 3), "axis": np.array(2), "v": random(2, 2, 3)}
    proto = build(nodes, weights, {"x": ("N", 3, "T")})
    with pytest.raises(UnsupportedModelError, match=r"open.*pass an example input"):
        span_of(topology_of(proto), "v", in_layer="w")
    assert span_of(topology_of(proto, random(1, 3, 9)), "v", in_layer="w").n_outputs == 2


def test_background_of_an_open_shape() -> None:
    nodes = [node("Conv", "x w", "c"), node("Add", "c s", "a"), node("Conv", "a v", "y")]
    weights = {"w": random(2, 3, 3), "v": random(2, 2, 1)}
    proto = build(nodes, weights, {"x": ("N", 3, "T"), "s": ("N", 2, "U")})
    with pytest.raises(UnsupportedModelError, match=r"'s' is open.*input="):
        span_of(topology_of(proto), "v", in_layer="w", background="zeros")


# --- activations -----------------------------------------------------------------------------


def test_activation_takes_the_place_of_the_last_one() -> None:
    topology = topology_of(skip_model())
    h = random(3, 4)
    span = span_of(topology, "fc2", activation="sigmoid")
    assert span.out_range == (0, 1)
    np.testing.assert_allclose(run(span, h), sigmoid(h @ W2), rtol=1e-5)
    span = span_of(topology, "fc2", activation="none")
    assert span.out_range == (-10, 10)
    np.testing.assert_allclose(run(span, h), h @ W2, rtol=1e-4, atol=1e-6)
    # only the last one: the sigmoid of fc1 stays
    span = span_of(topology, "fc2", in_layer="fc1", activation="relu")
    want = np.maximum(sigmoid(X @ W1) @ W2, 0)
    np.testing.assert_allclose(run(span, X), want, rtol=1e-4, atol=1e-6)


def test_activation_as_a_callable() -> None:
    topology = topology_of(skip_model())
    span = span_of(topology, "fc2", activation=np.square)
    assert span.out_range == (-10, 10)
    h = random(3, 4)
    np.testing.assert_allclose(run(span, h), (h @ W2) ** 2, rtol=1e-4, atol=1e-6)
    wrong = span_of(topology, "fc2", activation=lambda z: z[:, :1])
    with pytest.raises(ValueError, match="must be elementwise"):
        run(wrong, h)


def test_activation_as_a_torch_module() -> None:
    torch = pytest.importorskip("torch")
    topology = topology_of(skip_model())
    h = random(3, 4)
    known = span_of(topology, "fc2", activation=torch.nn.Sigmoid())
    assert known is span_of(topology, "fc2", activation="Sigmoid")
    function = span_of(topology, "fc2", activation=torch.tanh)
    np.testing.assert_allclose(run(function, h), np.tanh(h @ W2), rtol=1e-4, atol=1e-6)
    module = torch.nn.LeakyReLU(0.3)
    odd = span_of(topology, "fc2", activation=module)
    z = h @ W2
    np.testing.assert_allclose(run(odd, h), np.where(z > 0, z, 0.3 * z), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_known_activation_runs(name: str) -> None:
    span = span_of(topology_of(skip_model()), "fc3", activation=name)
    y = run(span, random(50, 4))
    assert np.isfinite(y).all()
    assert span.batched


# --- what cannot be measured -----------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 300])
def test_nan_weights(size: int) -> None:
    """Small weights and those that are handed to the runtime as they lie in memory."""
    w = random(3, size)
    w[1, 2] = np.nan
    topology = topology_of(build([node("Gemm", "x bad", "y")], {"bad": w}, {"x": ("N", 3)}))
    with pytest.raises(ModelError, match="layer 'bad': weight 'bad' holds NaN"):
        span_of(topology, "bad")


def test_nan_elsewhere_does_no_harm() -> None:
    nodes = [node("Gemm", "x good", "h"), node("Gemm", "h bad", "y")]
    weights = {"good": W1, "bad": np.full((4, 2), np.nan, np.float32)}
    topology = topology_of(build(nodes, weights, {"x": ("N", 3)}))
    span_of(topology, "good")
    with pytest.raises(ModelError, match="'bad' holds NaN"):
        span_of(topology, "bad", in_layer="good")


def test_nan_values_from_sound_weights() -> None:
    """The logarithm of a negative number is data, not a broken model; infinities too."""
    nodes = [node("Gemm", "x w", "h"), node("Log", "h", "l"), node("Gemm", "l v", "y")]
    weights = {"w": np.eye(3, dtype=np.float32), "v": np.eye(3, dtype=np.float32)}
    span = span_of(topology_of(build(nodes, weights, {"x": ("N", 3)})), "v", in_layer="w")
    assert span.batched
    got = run(span, [[1.0, 1.0, 1.0], [-1.0, -2.0, -3.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(got[0], np.zeros(3))
    assert np.isnan(got[1]).all()
    assert not np.isfinite(got[2]).any()


def test_infinities_do_not_hide_a_coupled_batch() -> None:
    """One output overflows; the others still show that the samples of a batch mix."""
    nodes = [
        node("Gemm", "x w", "h"),
        node("ReduceMean", "h", "m"),
        node("Sub", "h m", "d"),
        node("Mul", "d huge", "e"),
        node("Mul", "e huge", "f"),
        node("Unsqueeze", "f axes", "g"),
        node("AveragePool", "g", "y", kernel_shape=[1]),
    ]
    weights = {
        "w": random(3, 3),
        "huge": np.array([[3e38, 1, 1]], np.float32),
        "axes": np.array([1]),
    }
    topology = topology_of(build(nodes, weights, {"x": ("N", 3)}))
    span = span_of(topology, "y", in_layer="w", positions="all")
    y = run(span, X)
    assert np.isinf(y[:, 0]).all()
    assert np.isfinite(y[:, 1:]).all()
    assert not span.batched


def lstm_model() -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x w", "h"),
        node("LSTM", "h lw lr", "l", hidden_size=2),
        node("Squeeze", "l axes", "s"),
        node("MatMul", "s v", "y"),
    ]
    weights = {
        "w": W1,
        "lw": random(1, 8, 4),
        "lr": random(1, 8, 2),
        "axes": np.array([1]),
        "v": random(2, 3),
    }
    return build(nodes, weights, {"x": (6, 1, 3)})


def test_integer_ends_have_a_reason() -> None:
    nodes = [
        node("Cast", "x", "i", to=TensorProto.INT32),
        node("MatMul", "i w", "m"),
        node("Cast", "m", "y", to=TensorProto.FLOAT),
    ]
    weights = {"w": np.ones((3, 2), np.int32)}
    topology = topology_of(build(nodes, weights, {"x": ("N", 3)}))
    with pytest.raises(UnsupportedModelError, match="of type INT32, not of real numbers"):
        span_of(topology, "w")


def test_integer_output_has_a_reason() -> None:
    """Whole numbers come in through a side door: the layer's input is real, its output is not."""
    nodes = [
        node("Gemm", "x w", "h"),
        node("Cast", "h", "i", to=TensorProto.INT32),
        node("MatMul", "i v", "m"),
        node("Cast", "m", "y", to=TensorProto.FLOAT),
    ]
    weights = {"w": W1, "v": np.ones((4, 2), np.int32)}
    topology = topology_of(build(nodes, weights, {"x": ("N", 3)}))
    with pytest.raises(UnsupportedModelError, match="not of real numbers"):
        span_of(topology, "v", in_layer="w")


def test_an_input_without_a_batch_axis() -> None:
    """A vector alone: no axis is left to put samples on."""
    nodes = [node("MatMul", "x w", "y")]
    topology = topology_of(build(nodes, {"w": W1}, {"x": (3,)}))
    with pytest.raises(UnsupportedModelError, match=r"'x', which enters the span, has no batch"):
        span_of(topology, "w")


def test_a_span_that_cannot_run_alone() -> None:
    """Indices that a background gives may point outside what they pick from."""
    nodes = [
        node("Gemm", "x w", "h"),
        node("Cast", "k", "ki", to=TensorProto.INT64),
        node("Gather", "h ki", "r", axis=1),
        node("MatMul", "r v", "y"),
    ]
    topology = topology_of(build(nodes, {"w": W1, "v": random(2, 3)}, {"x": (1, 3), "k": (2,)}))
    span = span_of(topology, "v", in_layer="w", background={"ki": np.array([3, 0])})
    want = (X @ W1)[:, [3, 0]] @ random(2, 3)
    np.testing.assert_allclose(run(span, X), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        UnsupportedModelError, match=r"from 'w' to 'v' does not run on its own: onnxruntime failed"
    ):
        span_of(topology, "v", in_layer="w", background={"ki": np.array([4, 0])})


def test_vector_weights_take_the_unit_axis_away() -> None:
    """A product with a vector: (tokens, units) becomes (tokens)."""
    proto = build([node("MatMul", "x w", "y")], {"w": random(3)}, {"x": (1, 5, 3)})
    topology = topology_of(proto)
    for positions in ("one", "all"):
        span = span_of(topology, "w", positions=positions)
        x = random(2, *span.in_shape)
        got = run(span, x)
        want = x @ random(3)
        np.testing.assert_allclose(got, want.reshape(got.shape), rtol=1e-4, atol=1e-6)


def test_a_span_that_cannot_run_alone_since_its_length_is_open() -> None:
    """Time first, and open: what counts samples there cannot be told from what counts steps."""
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("MatMul", "t w", "h"),
        node("Reshape", "h six", "r"),
        node("MatMul", "r v", "y"),
    ]
    weights = {"w": W1, "six": np.array([-1, 6, 4]), "v": W3}
    proto = build(nodes, weights, {"x": ("N", "T", 3)})
    with pytest.raises(
        UnsupportedModelError,
        match=r"does not run on its own: .*the shape of 't' is open: pass an example input",
    ):
        span_of(topology_of(proto), "v", in_layer="w")
    span = span_of(topology_of(proto, random(1, 6, 3)), "v", in_layer="w", positions="all")
    x = random(2, 6, 3)
    want = (x @ W1) @ W3
    np.testing.assert_allclose(run(span, x), want.reshape(2, -1), rtol=1e-4, atol=1e-5)
