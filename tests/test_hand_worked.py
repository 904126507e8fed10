"""Whole measures of small networks whose answers can be worked out by hand.

``h(p)`` below is the entropy of a bit. Inputs are uniform on (0, 1) unless said otherwise.
"""

from __future__ import annotations

from math import log2, sqrt
from typing import Any

import networkx as nx
import numpy as np
import pytest
from graphs import make, node

from onnx_ei import measure, sensitivity_matrix, topology_of
from onnx_ei.errors import (
    NotConvergedWarning,
    OutOfRangeWarning,
    UnboundedSpanError,
    UndersampledWarning,
)
from onnx_ei.span import span_of

UNIT = {"in_range": (0, 1), "out_range": (0, 1)}
SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
# 4 standard errors, and what 20,000 samples leave of an entropy of few bins
FEW = 2e-3


def bins(n: int) -> dict[str, Any]:
    return {**UNIT, "in_bins": n, "out_bins": n, "samples": 20_000}


def h(p: float) -> float:
    return -p * log2(p) - (1 - p) * log2(1 - p)


def centre(channels: int, scale: float = 1.0) -> Any:
    """Kernels that pass each channel's own centre pixel on."""
    kernel = np.zeros((channels, channels, 3, 3), np.float32)
    for channel in range(channels):
        kernel[channel, channel, 1, 1] = scale
    return kernel


def close(found: Any, truth: float) -> bool:
    return abs(found.value - truth) <= 4 * found.stderr + FEW


@pytest.fixture(scope="module")
def folded() -> nx.DiGraph[Any]:
    """Convolution, batch-norm that doubles, ReLU: y = relu(2 x) of each centre pixel."""
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    weights = {
        "conv.weight": centre(2), "scale": 2 * ones, "shift": zeros, "mean": zeros, "var": ones,
    }  # fmt: skip
    nodes = [
        node("Conv", "x conv.weight", "c", **SAME),
        node("BatchNormalization", "c scale shift mean var", "b", epsilon=0.0),
        node("Relu", "b", "y"),
    ]
    return topology_of(make(nodes, {"x": ("N", 2, 7, 7)}, ["y"], weights, ranks={"y": 4}))


@pytest.fixture(scope="module")
def pooled() -> nx.DiGraph[Any]:
    """1x1 convolution that changes nothing, ReLU, 2x2 max-pool: the maximum of four pixels."""
    nodes = [
        node("Conv", "x conv.weight", "c"),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "y", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    weights = {"conv.weight": np.ones((1, 1, 1, 1), np.float32)}
    return topology_of(make(nodes, {"x": ("N", 1, 6, 6)}, ["y"], weights, ranks={"y": 4}))


@pytest.fixture(scope="module")
def residual() -> nx.DiGraph[Any]:
    """first -> second, plus what entered first, -> head: y = 2 x of each centre pixel."""
    nodes = [
        node("Conv", "x first.weight", "f", **SAME),
        node("Relu", "f", "fr"),
        node("Conv", "fr second.weight", "s", **SAME),
        node("Add", "s x", "sum"),
        node("Relu", "sum", "sr"),
        node("Conv", "sr head.weight", "y"),
    ]
    weights = {
        "first.weight": centre(1), "second.weight": centre(1),
        "head.weight": np.ones((1, 1, 1, 1), np.float32),
    }  # fmt: skip
    return topology_of(make(nodes, {"x": ("N", 1, 9, 9)}, ["y"], weights, ranks={"y": 4}))


class TestConvolutionWithBatchNorm:
    def test_shapes_activations_receptive_field(self, folded: nx.DiGraph[Any]) -> None:
        data = folded.nodes["conv"]
        assert (data["input"]["shape"], data["output"]["shape"]) == ((1, 2, 7, 7), (1, 2, 7, 7))
        assert (data["input"]["activation"], data["output"]["activation"]) == (None, "Relu")
        span = span_of(folded, "conv")
        assert (span.in_shape, span.out_shape) == ((2, 3, 3), (2, 1, 1))
        assert span.in_window == (None, None, (2, 5), (2, 5))
        assert span.out_window == (None, None, (3, 4), (3, 4))

    def test_doubling_drops_the_upper_half(self, folded: nx.DiGraph[Any]) -> None:
        # half of the samples leave (0, 1); what stays is y = 2 x on 4 of 8 bins of x: 2 bits
        with pytest.warns(OutOfRangeWarning, match="were dropped"):
            found = measure("ei_parts_matrix", "conv", folded, **bins(8))
        matrix = np.array(found.value).reshape(2, 3, 3, 2)
        for channel in range(2):
            assert abs(matrix[channel, 1, 1, channel] - 2) < FEW
            matrix[channel, 1, 1, channel] = 0
        # the other pixels and the other channel say nothing
        assert matrix.max() < 0.01

    def test_sensitivity_sees_the_same(self, folded: nx.DiGraph[Any]) -> None:
        with pytest.warns(OutOfRangeWarning):
            matrix = sensitivity_matrix("conv", folded, **bins(8)).reshape(2, 3, 3, 2)
        assert abs(matrix[0, 1, 1, 0] - 2) < FEW
        assert matrix[0, 1, 1, 1] == matrix[0, 0, 0, 0] == 0


class TestConvolutionAndPool:
    def test_shapes_activations_receptive_field(self, pooled: nx.DiGraph[Any]) -> None:
        conv, pool = pooled
        assert list(pooled.edges) == [(conv, pool)]
        assert pooled.nodes[conv]["output"]["activation"] == "Relu"
        assert pooled.nodes[pool]["input"]["activation"] == "Relu"
        assert pooled.nodes[pool]["output"]["shape"] == (1, 1, 3, 3)
        span = span_of(pooled, pool, in_layer=conv)
        assert (span.in_shape, span.out_shape) == ((1, 2, 2), (1, 1, 1))
        assert span.in_window == (None, None, (2, 4), (2, 4))

    def test_the_maximum_of_four(self, pooled: nx.DiGraph[Any]) -> None:
        # with two bins the maximum is low when all four are: p = 1/16; when one input is known to
        # be low, 1/8; when it is known to be high, never
        conv, pool = pooled
        of_one = h(1 / 16) - h(1 / 8) / 2
        for name, truth in (
            ("ei", h(1 / 16)),
            ("ei_parts", 4 * of_one),
            ("sensitivity", 4.0),
            ("phi", h(1 / 16) - 4 * of_one),
            ("degeneracy", 4 - h(1 / 16)),
        ):
            found = measure(name, pool, pooled, in_layer=conv, **bins(2))
            assert close(found, truth), name


class TestResidualBlock:
    def test_shapes_edges_receptive_field(self, residual: nx.DiGraph[Any]) -> None:
        assert set(residual.edges) == {("first", "second"), ("second", "head")}
        assert residual.nodes["first"]["output"]["activation"] == "Relu"
        # the skip is added before the ReLU, which so belongs to neither
        assert residual.nodes["second"]["output"]["activation"] is None
        assert residual.nodes["head"]["input"]["activation"] == "Relu"
        span = span_of(residual, "head", in_layer="first")
        assert (span.in_shape, span.out_shape) == ((1, 5, 5), (1, 1, 1))
        assert span.in_window == (None, None, (2, 7), (2, 7))

    def test_the_whole_block_doubles(self, residual: nx.DiGraph[Any]) -> None:
        with pytest.warns(OutOfRangeWarning):
            found = measure("ei_parts_matrix", "head", residual, in_layer="first", **bins(8))
        matrix = np.array(found.value).reshape(5, 5)
        assert abs(matrix[2, 2] - 2) < FEW
        matrix[2, 2] = 0
        assert matrix.max() < 0.01

    def test_a_part_of_it_needs_the_skip(self, residual: nx.DiGraph[Any]) -> None:
        with pytest.raises(UnboundedSpanError, match="also needs 'x'"):
            measure("ei_parts", "head", residual, in_layer="second", **bins(8))


class TestSideInput:
    def topology(self) -> nx.DiGraph[Any]:
        """Two layers that change nothing, a second model input added between them."""
        nodes = [
            node("MatMul", "x fc1", "h"),
            node("Add", "h side", "s"),
            node("MatMul", "s fc2", "y"),
        ]
        eye = np.eye(2, dtype=np.float32)
        model = make(nodes, {"x": ("N", 2), "side": ("N", 2)}, ["y"], {"fc1": eye, "fc2": eye})
        example = {"x": np.zeros((1, 2)), "side": np.array([[0.5, 0.0]])}
        return topology_of(model, example)

    def test_it_has_to_be_given(self) -> None:
        with pytest.raises(UnboundedSpanError, match="from 'fc1' to 'fc2' also needs 'side'"):
            measure("ei", "fc2", self.topology(), in_layer="fc1", **bins(4))

    @pytest.mark.parametrize(
        ("background", "first", "dropped"),
        [
            ("zeros", 2.0, 0.0),
            # x + 1/2 stays in (0, 1) for the lower two of four bins: 1 bit
            ("reference", 1.0, 0.25),
            ({"side": np.array([[0.75, 0.0]])}, 0.0, 0.375),
        ],
    )
    def test_its_value_decides(self, background: Any, first: float, dropped: float) -> None:
        options = {"in_layer": "fc1", "background": background, **bins(4)}
        if dropped:
            with pytest.warns(OutOfRangeWarning):
                found = measure("ei_parts_matrix", "fc2", self.topology(), **options)
        else:
            found = measure("ei_parts_matrix", "fc2", self.topology(), **options)
        matrix = np.array(found.value)
        assert abs(matrix[0, 0] - first) < FEW
        assert abs(matrix[1, 1] - 2) < FEW
        assert max(matrix[0, 1], matrix[1, 0]) < FEW
        spread = 4 * sqrt(0.25 / 20_000)
        assert abs(found.out_of_range - dropped) < spread


def test_too_few_samples_are_said_to_be_too_few() -> None:
    eye = np.eye(6, dtype=np.float32)
    topology = topology_of(make([node("MatMul", "x fc", "y")], {"x": ("N", 6)}, ["y"], {"fc": eye}))
    with pytest.warns(UndersampledWarning, match="unreliable"):
        found = measure("ei", "fc", topology, **{**bins(64), "samples": 1000})
    # every state was seen once: the value follows the number of samples, not the layer's 36 bits
    assert found.coverage == 0
    assert found.value < 12


def test_sampling_that_cannot_converge_stops_and_says_what_it_would_take() -> None:
    eye = np.eye(6, dtype=np.float32)
    topology = topology_of(make([node("MatMul", "x fc", "y")], {"x": ("N", 6)}, ["y"], {"fc": eye}))
    options = {**UNIT, "in_bins": 64, "out_bins": 64}
    with (
        pytest.warns(UndersampledWarning, match="unreliable"),
        pytest.warns(NotConvergedWarning, match="stopped after 10000 .* 50,000,000 samples"),
    ):
        found = measure("ei", "fc", topology, **options)
    assert (found.n_samples, found.converged) == (10_000, False)
    # the pairs of the same layer converge
    assert measure("ei_parts", "fc", topology, **options).converged
