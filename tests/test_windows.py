"""Receptive fields: every operator's rule against brute force, and by hand."""

from __future__ import annotations

from collections.abc import Callable

import brute
import numpy as np
import onnx
import onnx_ir
import pytest
from brute import build, random
from graphs import node

from onnx_ei._graph.receptive import demand
from onnx_ei._graph.windows import axis_groups, dims_of, full, is_full, union
from onnx_ei.span import span_of
from onnx_ei.topology import topology_of

Groups = list[tuple[list[int], list[int]]]


# --- axes of a reshape -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "groups"),
    [
        ((2, 3), (2, 3), [([0], [0]), ([1], [1])]),
        ((1, 12, 5), (1, 3, 4, 5), [([0], [0]), ([1], [1, 2]), ([2], [3])]),
        ((1, 3, 4, 5), (1, 12, 5), [([0], [0]), ([1, 2], [1]), ([3], [2])]),
        ((1, 2, 3), (1, 3, 2), [([0], [0]), ([1, 2], [1, 2])]),
        ((1, 4, 6), (1, 6, 4), [([0], [0]), ([1, 2], [1, 2])]),
        ((1, 6, 1), (1, 2, 3), [([0], [0]), ([1], [1, 2]), ([2], [])]),
        # axes of size 1 that go ...
        ((1, 4, 1, 5), (1, 4, 5), [([0], [0]), ([1], [1]), ([2], []), ([3], [2])]),
        ((1, 1, 5), (1, 5), [([0], [0]), ([1], []), ([2], [1])]),
        ((1, 5, 1, 1), (1, 5), [([0], [0]), ([1], [1]), ([2], []), ([3], [])]),
        # ... and come
        ((1, 5), (1, 1, 5), [([0], [0]), ([], [1]), ([1], [2])]),
        ((1, 5), (1, 5, 1), [([0], [0]), ([1], [1]), ([], [2])]),
        ((1, 7, 3), (1, 7, 1, 3), [([0], [0]), ([1], [1]), ([], [2]), ([2], [3])]),
        ((1, 1, 7, 3), (1, 7, 1, 3), [([0], [0]), ([1], []), ([2], [1]), ([], [2]), ([3], [3])]),
        # the batch itself goes or comes: the other axes still match one to one
        ((1, 7, 3), (7, 3), [([0], []), ([1], [0]), ([2], [1])]),
        ((7, 3), (1, 7, 3), [([], [0]), ([0], [1]), ([1], [2])]),
        ((5,), (1, 5), [([], [0]), ([0], [1])]),
        # the batch merged with tokens
        ((2, 7, 3), (14, 3), [([0, 1], [0]), ([2], [1])]),
        ((14, 3), (2, 7, 3), [([0], [0, 1]), ([1], [2])]),
        # open dimensions
        ((None, 4), (None, 2, 2), [([0], [0]), ([1], [1, 2])]),
        ((None, 4, None), (None, 4, None), [([0], [0]), ([1], [1]), ([2], [2])]),
        ((None, None, 8), (None, 8), None),
        ((None, 5, 8), (None, 8), None),
        ((None, 8, 8), (None, 8), None),
        ((None, 6), (None, 3), None),
        ((1, None), (1, 4), None),
        ((1, 4), (1, None, 2), None),
        # not the same number of elements
        ((1, 4), (1, 5), None),
        ((1, 4), (1, 4, 2), None),
        # empty tensors and scalars
        ((0, 4), (0, 2, 2), [([0], [0]), ([1], [1, 2])]),
        ((), (), []),
        ((1,), (), [([0], [])]),
        ((), (1, 1), [([], [0]), ([], [1])]),
    ],
)
def test_axis_groups(
    before: tuple[int | None, ...], after: tuple[int | None, ...], groups: Groups | None
) -> None:
    assert axis_groups(before, after) == groups


def test_axis_groups_hold_the_same_elements() -> None:
    """Every way of cutting 24 elements into axes, against every other."""
    shapes = [(24,), (4, 6), (2, 3, 4), (1, 24), (2, 1, 12), (3, 8, 1), (1, 2, 2, 6), (12, 2)]
    for before in shapes:
        for after in shapes:
            groups = axis_groups(before, after)
            assert groups is not None
            assert [i for left, _ in groups for i in left] == list(range(len(before)))
            assert [j for _, right in groups for j in right] == list(range(len(after)))
            for left, right in groups:
                assert np.prod([before[i] for i in left]) == np.prod([after[j] for j in right])


# --- windows ---------------------------------------------------------------------------------


def test_union_and_full() -> None:
    assert full(3) == (None, None, None)
    assert is_full(full(3))
    assert not is_full((None, (0, 1)))
    assert union((None, (2, 4)), (None, (-1, 3))) == (None, (-1, 4))
    assert union((None, (2, 4)), (None, None)) == (None, None)


def test_dims_of() -> None:
    value = onnx_ir.Value(name="v")
    assert dims_of(value) is None
    value.shape = onnx_ir.Shape(["batch", 3, None])
    assert dims_of(value) == (None, 3, None)


# --- one operator, or a few, against brute force ---------------------------------------------

CONV = random(4, 3, 3, 3)


def conv(
    shape: tuple[int, ...], weight: tuple[int, ...], opset: int = 18, **attributes: object
) -> onnx.ModelProto:
    weights = {"w": random(*weight), "b": random(weight[0], seed=1)}
    made = node("Conv", "x w b", "y", **attributes)
    return build([made], weights, {"x": shape}, opset=opset)


def pool(op: str, shape: tuple[int, ...], opset: int = 18, **attributes: object) -> onnx.ModelProto:
    return build([node(op, "x", "y", **attributes)], {}, {"x": shape}, opset=opset)


def deconv(
    shape: tuple[int, ...], weight: tuple[int, ...], **attributes: object
) -> onnx.ModelProto:
    made = node("ConvTranspose", "x w", "y", **attributes)
    return build([made], {"w": random(*weight)}, {"x": shape})


IMAGE = (1, 3, 13, 12)
LOCAL: dict[str, Callable[[], onnx.ModelProto]] = {
    "conv": lambda: conv(IMAGE, (4, 3, 3, 3)),
    "conv padded": lambda: conv(IMAGE, (4, 3, 3, 3), pads=[1, 1, 1, 1]),
    "conv strided": lambda: conv(IMAGE, (4, 3, 3, 3), strides=[2, 3]),
    "conv dilated": lambda: conv(IMAGE, (4, 3, 3, 2), dilations=[2, 3]),
    "conv 1x1": lambda: conv(IMAGE, (4, 3, 1, 1)),
    "conv 1x1 strided": lambda: conv(IMAGE, (4, 3, 1, 1), strides=[2, 2]),
    "conv of uneven pads": lambda: conv(IMAGE, (4, 3, 5, 3), strides=[2, 2], pads=[0, 1, 3, 2]),
    "conv of groups": lambda: conv((1, 6, 9, 9), (4, 3, 3, 3), group=2),
    "conv depthwise": lambda: conv((1, 5, 9, 9), (5, 1, 3, 3), group=5, pads=[1, 1, 1, 1]),
    "conv 1-d": lambda: conv((1, 3, 20), (4, 3, 5), strides=[2], dilations=[2], pads=[3, 1]),
    "conv 3-d": lambda: conv((1, 2, 7, 6, 8), (3, 2, 3, 2, 3), pads=[1, 0, 1, 1, 1, 1]),
    "conv same upper": lambda: conv(IMAGE, (4, 3, 4, 4), auto_pad="SAME_UPPER"),
    "conv same lower": lambda: conv(IMAGE, (4, 3, 4, 4), auto_pad="SAME_LOWER"),
    "conv same upper, strided": lambda: conv(
        IMAGE, (4, 3, 4, 3), auto_pad="SAME_UPPER", strides=[2, 2]
    ),
    "conv same lower, strided": lambda: conv(
        IMAGE, (4, 3, 4, 3), auto_pad="SAME_LOWER", strides=[2, 2]
    ),
    "conv same, stride above kernel": lambda: conv(
        IMAGE, (4, 3, 2, 2), auto_pad="SAME_UPPER", strides=[3, 3]
    ),
    "conv valid": lambda: conv(IMAGE, (4, 3, 3, 3), auto_pad="VALID", strides=[2, 2]),
    "conv notset": lambda: conv(IMAGE, (4, 3, 3, 3), auto_pad="NOTSET", pads=[1, 1, 1, 1]),
    "max pool": lambda: pool("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "max pool, ceil": lambda: pool(
        "MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1
    ),
    "max pool, padded, dilated": lambda: pool(
        "MaxPool", IMAGE, kernel_shape=[3, 2], pads=[1, 0, 1, 1], dilations=[2, 2]
    ),
    "max pool same": lambda: pool(
        "MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "max pool 1-d": lambda: pool("MaxPool", (1, 3, 15), kernel_shape=[4], strides=[3]),
    "average pool": lambda: pool("AveragePool", IMAGE, kernel_shape=[3, 2], strides=[2, 1]),
    "average pool, ceil": lambda: pool(
        "AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, opset=19
    ),
    "average pool counts pads": lambda: pool(
        "AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "average pool leaves pads out": lambda: pool(
        "AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0
    ),
    "average pool dilated": lambda: pool(
        "AveragePool", IMAGE, kernel_shape=[3, 3], dilations=[2, 1], opset=19
    ),
    "average pool 3-d": lambda: pool("AveragePool", (1, 2, 6, 7, 8), kernel_shape=[2, 3, 2]),
    "lp pool": lambda: pool("LpPool", IMAGE, kernel_shape=[2, 3], strides=[1, 2], p=2),
    "global max pool": lambda: pool("GlobalMaxPool", (1, 3, 5, 4)),
    "global average pool": lambda: pool("GlobalAveragePool", (1, 3, 5, 4)),
    "global lp pool": lambda: pool("GlobalLpPool", (1, 3, 5), p=2),
    "deconv": lambda: deconv((1, 3, 8, 9), (3, 4, 3, 3)),
    "deconv strided": lambda: deconv((1, 3, 8, 9), (3, 4, 3, 3), strides=[2, 2]),
    "deconv strided, kernel 4": lambda: deconv(
        (1, 3, 8, 9), (3, 4, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "deconv, all of it": lambda: deconv(
        (1, 3, 8, 9), (3, 4, 3, 5), strides=[3, 2], pads=[1, 2, 0, 1], output_padding=[1, 1]
    ),
    "deconv of groups": lambda: deconv((1, 4, 8, 9), (4, 2, 3, 3), group=2, strides=[2, 2]),
    "deconv notset": lambda: deconv(
        (1, 3, 8, 9), (3, 4, 3, 3), strides=[2, 2], auto_pad="NOTSET", pads=[1, 1, 1, 1]
    ),
    "deconv valid": lambda: deconv((1, 3, 8), (3, 4, 3), strides=[2], auto_pad="VALID"),
    "deconv 1-d": lambda: deconv((1, 3, 9), (3, 4, 4), strides=[2], pads=[1, 1]),
}


@pytest.mark.parametrize("name", LOCAL)
def test_one_operator(name: str) -> None:
    proto = LOCAL[name]()
    _, span = brute.check(proto)
    local = "Global" not in proto.graph.node[0].op_type
    assert all((w is not None) is local for w in span.in_window[2:])


def test_dilated_deconv_reaches_inputs_between_its_taps() -> None:
    """Between the taps of a dilated kernel the window holds inputs that this output skips."""
    brute.check(deconv((1, 3, 9), (3, 4, 3), dilations=[2]), corners=False)
    brute.check(deconv((1, 2, 9, 9), (2, 3, 3, 2), dilations=[2, 3], strides=[2, 2]), corners=False)


def test_deconv_gap_is_computed_whole() -> None:
    """A stride above the kernel leaves outputs that no input reaches: only the bias is there."""
    made = node("ConvTranspose", "x w b", "y", strides=[4])
    proto = build([made], {"w": random(2, 3, 2), "b": random(3, seed=2)}, {"x": (1, 2, 7)})
    # 26 outputs; the middle one, 13, is tap 1 of input 3; of 27, 13 too; 4 inputs have 14: 7
    _, span = brute.check(proto)
    assert span.in_window == (None, None, (3, 4))
    short = build([made], {"w": random(2, 3, 2), "b": random(3, seed=2)}, {"x": (1, 2, 4)})
    _, span = brute.check(short, corners=False)  # 14 outputs, 7 = 4 + 3: no tap
    assert span.in_window == (None, None, None)


@pytest.mark.parametrize("attributes", [{"auto_pad": "SAME_UPPER"}, {"output_shape": [16]}])
def test_deconv_of_a_given_output_shape(attributes: dict[str, object]) -> None:
    brute.check(deconv((1, 3, 8), (3, 4, 3), strides=[2], **attributes), corners=False)


def test_max_pool_with_indices_in_use_is_computed_whole() -> None:
    nodes = [
        node("MaxPool", "x", "p i", kernel_shape=[2, 2], strides=[2, 2]),
        node("Cast", "i", "f", to=1),
        node("Add", "p f", "y"),
    ]
    topology = topology_of(build(nodes, {}, {"x": (1, 2, 8, 8)}))
    span = span_of(topology, "p")
    assert span.in_window[2:] == ((4, 6), (4, 6))  # the layer ends before the indices are used


def test_window_past_the_border_counts_from_it() -> None:
    """A 5x5 kernel on a 2x2 map, padded by 2: the middle output, 1, reads -1 to 3."""
    proto = conv((1, 1, 2, 2), (1, 1, 5, 5), pads=[2, 2, 2, 2])
    span = span_of(topology_of(proto), "w")
    assert span.in_window == (None, None, (-1, 4), (-1, 4))
    assert span.in_shape == (1, 5, 5)
    x = random(25)
    want = (x.reshape(1, 5, 5) * random(1, 1, 5, 5)[0]).sum() + random(1, seed=1)[0]
    got = brute.runner(span)(x.reshape(1, 25))
    np.testing.assert_allclose(got, [[want]], rtol=1e-5)


# --- several operators -----------------------------------------------------------------------


def inception() -> onnx.ModelProto:
    """Branches of 1x1, 3x3, 5x5 and a pool, joined along channels."""
    nodes = [
        node("Conv", "x w0", "stem", pads=[1, 1, 1, 1]),
        node("Tanh", "stem", "s"),
        node("Conv", "s w1", "a"),
        node("Conv", "s w3", "b", pads=[1, 1, 1, 1]),
        node("Conv", "s w5", "c", pads=[2, 2, 2, 2]),
        node("MaxPool", "s", "d", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Concat", "a b c d", "joined", axis=1),
        node("Conv", "joined w6", "y", pads=[1, 1, 1, 1]),
    ]
    weights = {
        "w0": random(4, 3, 3, 3),
        "w1": random(2, 4, 1, 1),
        "w3": random(2, 4, 3, 3),
        "w5": random(2, 4, 5, 5),
        "w6": random(5, 10, 3, 3),
    }
    return build(nodes, weights, {"x": (1, 3, 15, 16)})


def residual() -> onnx.ModelProto:
    """A stem and a block of two 3x3 convolutions beside its input."""
    nodes = [
        node("Conv", "x w0", "a", pads=[1, 1, 1, 1]),
        node("Conv", "a w1", "b", pads=[1, 1, 1, 1]),
        node("Tanh", "b", "bt"),
        node("Conv", "bt w2", "c", pads=[1, 1, 1, 1]),
        node("Add", "c a", "sum"),
        node("Tanh", "sum", "st"),
        node("Conv", "st w3", "y"),
    ]
    weights = {f"w{i}": random(4, 3 if i == 0 else 4, 3, 3, seed=i) / 4 for i in range(4)}
    return build(nodes, weights, {"x": (1, 3, 16, 17)})


def channels_last() -> onnx.ModelProto:
    """Convolutions between Transposes, as TensorFlow's converters write them."""
    nodes = [
        node("MatMul", "x w0", "mixed"),
        node("Transpose", "mixed", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w1", "c", strides=[2, 2]),
        node("Transpose", "c", "back", perm=[0, 2, 3, 1]),
        node("Add", "back b", "shifted"),
        node("MatMul", "shifted w2", "y"),
    ]
    weights = {
        "w0": random(3, 4),
        "w1": random(5, 4, 3, 3),
        "b": random(5),
        "w2": random(5, 2),
    }
    return build(nodes, weights, {"x": (1, 11, 12, 3)})


def conv_through_2d(opset: int) -> onnx.ModelProto:
    """A 1-d convolution written as a 2-d one between Unsqueeze and Squeeze."""
    weights = {"w0": random(3, 3, 1), "w": random(4, 3, 1, 5), "w2": random(2, 4, 3)}
    if opset < 13:
        ends = [
            node("Unsqueeze", "x0", "u", axes=[2]),
            node("Squeeze", "c", "s", axes=[2]),
        ]
    else:
        weights["axes"] = np.array([2])
        ends = [node("Unsqueeze", "x0 axes", "u"), node("Squeeze", "c axes", "s")]
    nodes = [
        node("Conv", "x w0", "x0"),
        ends[0],
        node("Conv", "u w", "c", strides=[1, 2]),
        ends[1],
        node("Conv", "s w2", "y"),
    ]
    return build(nodes, weights, {"x": (1, 3, 24)}, opset=opset)


def bare_squeeze() -> onnx.ModelProto:
    """Squeeze without axes takes the batch of one away too, and would take a cut axis."""
    nodes = [
        node("Conv", "x w", "c"),
        node("Squeeze", "c", "s"),
        node("Reshape", "s shape", "r"),
        node("Conv", "r w2", "y"),
    ]
    weights = {"w": random(4, 3, 1, 3), "shape": np.array([1, 4, 14]), "w2": random(2, 4, 3)}
    return build(nodes, weights, {"x": (1, 3, 1, 16)})


def tokens(*, width: int = 6) -> onnx.ModelProto:
    """Token-wise layers: MatMul, layer norm, a table of positions, MatMul, softmax over units."""
    nodes = [
        node("MatMul", "x w1", "m"),
        node("Add", "m b", "mb"),
        node("LayerNormalization", "mb scale shift", "n", axis=-1),
        node("Add", "n table", "p"),
        node("MatMul", "p w2", "q"),
        node("Softmax", "q", "s", axis=-1),
        node("MatMul", "s w3", "y"),
    ]
    weights = {
        "w1": random(4, width),
        "b": random(width),
        "scale": random(width, seed=1),
        "shift": random(width, seed=2),
        "table": random(1, 9, width),
        "w2": random(width, 5),
        "w3": random(5, 3),
    }
    return build(nodes, weights, {"x": (1, 9, 4)})


def merged_tokens(*, gemm: bool) -> onnx.ModelProto:
    """Tokens merged with the batch around a layer, as 2-D-only exporters write it."""
    middle = node("Gemm", "flat w2 b2", "g", transB=1) if gemm else node("MatMul", "flat w2", "g")
    nodes = [
        node("MatMul", "x w1", "m"),
        node("Reshape", "m to2", "flat"),
        middle,
        node("Tanh", "g", "gt"),
        node("Reshape", "gt to3", "r"),
        node("MatMul", "r w3", "y"),
    ]
    weights = {
        "w1": random(4, 6),
        "to2": np.array([-1, 6]),
        "w2": random(5, 6) if gemm else random(6, 5),
        "b2": random(5),
        "to3": np.array([1, 9, 5]),
        "w3": random(5, 3),
    }
    if not gemm:
        del weights["b2"]
    return build(nodes, weights, {"x": (1, 9, 4)})


def split_heads() -> onnx.ModelProto:
    """Units split into heads, moved about and merged again: tokens stay apart."""
    nodes = [
        node("MatMul", "x w1", "m"),
        node("Reshape", "m heads", "h"),
        node("Transpose", "h", "ht", perm=[0, 2, 1, 3]),
        node("Mul", "ht scale", "hs"),
        node("Transpose", "hs", "hb", perm=[0, 2, 1, 3]),
        node("Reshape", "hb units", "u"),
        node("MatMul", "u w2", "y"),
    ]
    weights = {
        "w1": random(4, 6),
        "heads": np.array([0, 0, 2, 3]),
        "scale": random(1, 2, 1, 3),
        "units": np.array([0, 0, 6]),
        "w2": random(6, 3),
    }
    return build(nodes, weights, {"x": (1, 9, 4)})


def columns() -> onnx.ModelProto:
    """Weights on the left: each column is a token."""
    nodes = [node("MatMul", "w1 x", "m"), node("Tanh", "m", "t"), node("MatMul", "w2 t", "y")]
    return build(nodes, {"w1": random(5, 4), "w2": random(3, 5)}, {"x": (1, 4, 9)})


def reduced(opset: int, **attributes: int) -> onnx.ModelProto:
    """The mean over units beside a convolution."""
    weights = {"w": random(4, 3, 3), "w2": random(2, 4, 3)}
    if opset < 18:
        mean = node("ReduceMean", "c", "m", axes=[1], **attributes)
    else:
        weights["axes"] = np.array([-2])
        mean = node("ReduceMean", "c axes", "m", **attributes)
    nodes = [node("Conv", "x w", "c"), mean]
    if attributes.get("keepdims", 1) == 0:
        weights["back"] = np.array([1])
        nodes.append(node("Unsqueeze", "m back", "mu"))
    centred = node("Sub", f"c {nodes[-1].output[0]}", "d")
    nodes += [centred, node("Conv", "d w2", "y")]
    return build(nodes, weights, {"x": (1, 3, 16)}, opset=opset)


def normed() -> onnx.ModelProto:
    """Batch-norm, a slope for each channel and a table of positions, between convolutions."""
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1]),
        node("BatchNormalization", "c g b m v", "n"),
        node("PRelu", "n slope", "p"),
        node("Mul", "p table", "q"),
        node("Conv", "q w2", "y"),
    ]
    weights = {
        "w": random(4, 3, 3),
        "g": random(4),
        "b": random(4, seed=1),
        "m": random(4, seed=2),
        "v": np.abs(random(4, seed=3)),
        "slope": random(4, 1, seed=4),
        "table": random(1, 1, 16),
        "w2": random(2, 4, 3),
    }
    return build(nodes, weights, {"x": (1, 3, 16)})


def quantised() -> onnx.ModelProto:
    """Quantise and dequantise between convolutions: elementwise, for all its parameters."""
    nodes = [
        node("Conv", "x w", "c"),
        node("QuantizeLinear", "c scale zero", "q"),
        node("DequantizeLinear", "q scale zero", "d"),
        node("Conv", "d w2", "y"),
    ]
    weights = {
        "w": random(4, 3, 3),
        "scale": np.float32(0.05),
        "zero": np.uint8(128),
        "w2": random(2, 4, 3),
    }
    return build(nodes, weights, {"x": (1, 3, 16)})


def cropped(opset: int) -> onnx.ModelProto:
    """Padding and cropping by nodes of their own, as TensorFlow's converters write them."""
    weights = {"w": random(4, 3, 3), "w2": random(2, 4, 3), "w3": random(2, 2, 3)}
    if opset < 10:
        pad = node("Pad", "c", "p", pads=[0, 0, 2, 0, 0, 3])
        crop = node("Slice", "d", "s", axes=[2, 1], starts=[-12, 0], ends=[100, 2])
    else:
        weights |= {
            "pads": np.array([2, 3]),
            "at": np.array([-1]),
            "starts": np.array([-12, 0]),
            "ends": np.array([100, 2]),
            "axes": np.array([2, -2]),
        }
        pad = node("Pad", "c pads _ at", "p", mode="reflect")
        crop = node("Slice", "d starts ends axes", "s")
    nodes = [
        node("Conv", "x w", "c"),
        pad,
        node("Conv", "p w2", "d"),
        crop,
        node("Conv", "s w3", "y"),
    ]
    return build(nodes, weights, {"x": (1, 3, 16)}, opset=opset)


def gated() -> onnx.ModelProto:
    """Squeeze and excite: a gate that needs the whole map multiplies each position."""
    nodes = [
        node("Conv", "x w", "c"),
        node("GlobalAveragePool", "c", "g"),
        node("Conv", "g w1", "e"),
        node("Sigmoid", "e", "s"),
        node("Mul", "c s", "m"),
        node("Conv", "m w2", "y"),
    ]
    weights = {"w": random(4, 3, 3), "w1": random(4, 4, 1), "w2": random(2, 4, 3)}
    return build(nodes, weights, {"x": (1, 3, 10)})


# name -> model, the window of its input along the axes that are cut, worked out by hand
CHAINS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[tuple[int, int] | None, ...]]] = {
    # 3 (stem) + 5 (widest branch) + 3 (last): reach 1 + 2 + 1 either side of (7, 8)
    "inception": (inception, (None, None, (3, 12), (4, 13))),
    # three 3x3 after the stem's: reach 4 either side of what the last, unpadded one reads:
    # output 7 of 14 reads 7 to 10, so 7 - 3 to 10 + 3
    "residual": (residual, (None, None, (4, 13), (4, 13))),
    # outputs (5, 5): (11 - 3) // 2 + 1; the middle, 2, reads 4 to 7
    "channels last": (channels_last, (None, (4, 7), (4, 7), None)),
    # c: (24 - 5) // 2 + 1 = 10 long, y: 8; y[4] reads s[4..7), c[i] reads x[2i..2i+5)
    "1-d through 2-d": (lambda: conv_through_2d(13), (None, None, (8, 17))),
    "1-d through 2-d, opset 11": (lambda: conv_through_2d(11), (None, None, (8, 17))),
    # c: 14 long, y: 12; y[6] reads c[6..9) reads x[6..11)
    "bare squeeze": (bare_squeeze, (None, None, None, (6, 11))),
    "tokens": (tokens, (None, (4, 5), None)),
    "merged tokens, Gemm": (lambda: merged_tokens(gemm=True), (None, (4, 5), None)),
    "merged tokens, MatMul": (lambda: merged_tokens(gemm=False), (None, (4, 5), None)),
    "split heads": (split_heads, (None, (4, 5), None)),
    "columns": (columns, (None, None, (4, 5))),
    # y: 12 long, y[6] reads c[6..9) reads x[6..11)
    "mean over units": (lambda: reduced(18), (None, None, (6, 11))),
    "mean over units, opset 13": (lambda: reduced(13), (None, None, (6, 11))),
    "mean over units, axis gone": (lambda: reduced(18, keepdims=0), (None, None, (6, 11))),
    # c: 16, y: 14; y[7] reads c[7..10) reads x[6..11)
    "normed": (normed, (None, None, (6, 11))),
    "quantised": (quantised, (None, None, (6, 11))),
    # c: 14 long, p: 19, d: 17, s: its last 12, y: 10; y[5] reads s[5..8) = d[10..13), p[10..15),
    # c[8..13), x[8..15)
    "padded and cropped": (lambda: cropped(18), (None, None, (8, 15))),
    "padded and cropped, opset 9": (lambda: cropped(9), (None, None, (8, 15))),
    "gated": (gated, (None, None, None)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name: str) -> None:
    make, window = CHAINS[name]
    _, span = brute.check(make(), corners=name != "quantised")
    assert span.in_window == window


def mixer(op: str, *, every_axis: bool = False) -> onnx.ModelProto:
    """A convolution, then a layer that each channel (or each number) has to itself."""
    weights = {"w": random(4, 3, 3), "w2": random(8, 5)}
    nodes = [node(op, "x w", "c")]
    if op == "ConvTranspose":
        weights["w"] = random(3, 4, 3)
        nodes = [node(op, "x w", "c", pads=[2, 2])]
    if every_axis:
        weights |= {"last": np.array([3]), "w2": random(1, 5)}
        nodes.append(node("Unsqueeze", "c last", "u"))
    return build([*nodes, node("MatMul", f"{'u' if every_axis else 'c'} w2", "y")], weights,
                 {"x": (1, 3, 10)})  # fmt: skip


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_cut_along_channels_takes_the_whole_convolution(op: str) -> None:
    """Positions of the second layer are channels of the first: nothing of the input can go."""
    _, span = brute.check(mixer(op))
    assert span.in_window == (None, None, None)
    assert span.out_window == (None, (2, 3), None)
    assert (span.n_inputs, span.n_outputs) == (30, 5)
    _, span = brute.check(mixer(op, every_axis=True), corners=False)
    assert span.in_window == (None, None, None)
    assert span.out_window == (None, (2, 3), (4, 5), None)


def test_batch_norm_along_a_cut_axis() -> None:
    """Batch-norm has its parameters along axis 1; where that axis counts tokens they are cut."""
    nodes = [
        node("MatMul", "x w1", "m"),
        node("BatchNormalization", "m g b mean v", "n"),
        node("MatMul", "n w2", "y"),
    ]
    weights = {
        "w1": random(4, 6),
        "g": random(9),
        "b": random(9, seed=1),
        "mean": random(9, seed=2),
        "v": np.abs(random(9, seed=3)),
        "w2": random(6, 3),
    }
    proto = build(nodes, weights, {"x": (1, 9, 4)})
    brute.check(proto, corners=False)


@pytest.mark.parametrize(("opset", "axis"), [(11, None), (12, 1), (13, None), (11, 2), (13, 1)])
def test_softmax_of_every_opset(opset: int, axis: int | None) -> None:
    """Before opset 13 the default axis is 1 and everything after it is normalised together."""
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        node("MatMul", "x w1", "m"),
        node("Softmax", "m", "s", **attributes),
        node("MatMul", "s w2", "y"),
    ]
    weights = {"w1": random(4, 6) / 4, "w2": random(6, 3)}
    proto = build(nodes, weights, {"x": (1, 5, 4)}, opset=opset)
    _, span = brute.check(proto, corners=False)
    alone = (opset < 13 and axis == 2) or (opset >= 13 and axis is None)
    assert span.in_window == (None, (2, 3) if alone else None, None)


def test_concat_along_a_cut_axis_takes_the_piece_that_holds_the_window() -> None:
    """A class token before the others: token 4 of the result is token 3 of those that came."""
    nodes = [
        node("MatMul", "x w1", "m"),
        node("Concat", "token m", "c", axis=1),
        node("MatMul", "c w2", "y"),
    ]
    weights = {"w1": random(4, 6), "token": random(1, 1, 6), "w2": random(6, 3)}
    _, span = brute.check(build(nodes, weights, {"x": (1, 8, 4)}))
    assert span.in_window == (None, (3, 4), None)
    assert span.out_window == (None, (4, 5), None)


def test_concat_of_positions_with_themselves() -> None:
    """Position 8 of a map of 8 beside itself is position 0 of the second."""
    nodes = [
        node("MatMul", "x w1", "m"),
        node("Tanh", "m", "t"),
        node("Concat", "m t", "c", axis=1),
        node("MatMul", "c w2", "y"),
    ]
    weights = {"w1": random(4, 6), "w2": random(6, 3)}
    _, span = brute.check(build(nodes, weights, {"x": (1, 8, 4)}), corners=False)
    assert span.in_window == (None, (0, 1), None)
    assert span.out_window == (None, (8, 9), None)


def test_reduction_without_axes_keeps_all_or_nothing() -> None:
    """``noop_with_empty_axes`` turns the reduction over everything into none at all."""
    for noop in (0, 1):
        nodes = [
            node("Conv", "x w", "c"),
            node("ReduceMean", "c", "m", noop_with_empty_axes=noop),
            node("Add", "c m", "a"),
            node("Conv", "a w2", "y"),
        ]
        weights = {"w": random(4, 3, 3), "w2": random(2, 4, 3)}
        _, span = brute.check(
            build(nodes, weights, {"x": (1, 3, 12)}), corners=False, batched=noop == 1
        )
        assert span.in_window[2] == (None if noop == 0 else (4, 9))


@pytest.mark.parametrize("op", ["GlobalAveragePool", "ReduceMax"])
def test_a_padded_convolution_after_a_global_pool(op: str) -> None:
    """The convolution sees one position and its padding: the window may not run past it."""
    weights = {"w": random(4, 3, 3), "w2": random(2, 4, 3), "axes": np.array([2])}
    pooled = node(op, "c" if op[0] == "G" else "c axes", "p")
    if op[0] == "G":
        del weights["axes"]
    nodes = [
        node("Conv", "x w", "c"),
        pooled,
        node("Add", "p bias", "pb"),
        node("Tanh", "pb", "t"),
        node("Conv", "t w2", "y", pads=[2, 2]),
    ]
    weights["bias"] = random(1, 4, 1)
    _, span = brute.check(build(nodes, weights, {"x": (1, 3, 9)}), corners=False)
    assert span.in_window == (None, None, None)
    assert span.out_window == (None, None, (1, 2))


def test_opset_9_slices_by_attributes() -> None:
    """Two readers of one tensor that need different parts of it, before Slice took tensors."""
    nodes = [
        node("Conv", "x w0", "a"),
        node("Conv", "a w1", "b", pads=[1, 1]),
        node("Add", "a b", "s"),
        node("Conv", "s w2", "y"),
    ]
    weights = {"w0": random(4, 3, 3), "w1": random(4, 4, 3), "w2": random(2, 4, 1)}
    for opset in (9, 10):
        proto = build(nodes, weights, {"x": (1, 3, 12)}, opset=opset)
        _, span = brute.check(proto)
        assert span.in_window == (None, None, (4, 9))
        slices = [n for n in span.model.graph if n.op_type == "Slice"]
        assert slices
        assert all(("starts" in n.attributes) is (opset == 9) for n in slices)


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_without_axes_spares_a_cut_axis(opset: int) -> None:
    """The one position that is left has size 1 too, and may not be squeezed away."""
    nodes = [
        node("Conv", "x w", "c"),
        node("Squeeze", "c", "s"),
        node("Transpose", "s", "st", perm=[1, 0]),
        node("Tanh", "st", "t"),  # else onnxruntime takes the Transpose into the product
        node("MatMul", "t w2", "y"),
    ]
    weights = {"w": random(4, 3, 1, 3), "w2": random(4, 2)}
    proto = build(nodes, weights, {"x": (1, 3, 1, 16)}, opset=opset)
    _, span = brute.check(proto, batched=False)
    # c is 14 long: its middle, 7, reads 7 to 10
    assert span.in_window == (None, None, None, (7, 10))
    assert span.out_window == ((7, 8), None)


@pytest.mark.parametrize("kind", ["slice", "deconv", "steps", "negative pads"])
def test_a_window_does_not_reach_past_a_crop(kind: str) -> None:
    """What is cropped away is data, and the zeros that a convolution pads there are not."""
    weights = {"w": random(4, 3, 3), "w2": random(2, 4, 5)}
    middle = node("Identity", "c", "s")
    if kind in ("slice", "steps"):
        step = 2 if kind == "steps" else 1
        bounds = {"starts": [4], "ends": [4 + 2 * step], "axes": [2], "steps": [step]}
        weights |= {k: np.array(v) for k, v in bounds.items()}
        middle = node("Slice", "c starts ends axes steps", "s")
    elif kind == "negative pads":
        weights["pads"] = np.array([0, 0, -6, 0, 0, -6])
        middle = node("Pad", "c pads", "s")
    else:
        weights["v"] = random(4, 4, 4)
        middle = node("ConvTranspose", "c v", "s", strides=[2], pads=[13, 14])
    nodes = [node("Conv", "x w", "c"), middle, node("Conv", "s w2", "y", pads=[2, 2])]
    _, span = brute.check(build(nodes, weights, {"x": (1, 3, 16)}), corners=False)
    assert span.in_window == (None, None, None)
    assert span.out_window[2] is not None


def test_unknown_operators_are_computed_whole() -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("CumSum", "c axis", "s"),
        node("Conv", "s w2", "y"),
    ]
    weights = {"w": random(4, 3, 3), "axis": np.array(2), "w2": random(2, 4, 3)}
    _, span = brute.check(build(nodes, weights, {"x": (1, 3, 12)}), corners=False)
    assert span.in_window == (None, None, None)
    assert span.out_window == (None, None, (4, 5))


def test_whole_tensors_keep_the_padding() -> None:
    proto = residual()
    _, span = brute.check(proto, positions="all")
    assert span.in_shape == (3, 16, 17)
    assert span.out_shape == (4, 14, 15)


def test_demand_without_shapes_is_whole() -> None:
    value = onnx_ir.Value(name="v")
    made = onnx_ir.node("Relu", [value])
    assert demand(made, (None, (0, 1))) is None


def test_same_padding_of_an_open_map() -> None:
    """At stride 1 the padding does not depend on the size; above it the alignment is open."""
    for stride, local in ((1, True), (2, False)):
        made = node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[stride])
        proto = build([made], {"w": random(4, 3, 4)}, {"x": ("batch", 3, "time")})
        graph = onnx_ir.from_proto(proto).graph
        need = demand(graph[0], (None, None, (10, 11)))
        # 3 to pad, 1 of them before: output 10 reads 9 to 13
        assert (need is not None) is local
        assert need is None or need.inputs[0] == (None, None, (9, 13))
