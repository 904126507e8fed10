"""Units that have nothing to do with each other: found in the graph, and driven in one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from fake_spans import plain
from graphs import make, node, noise
from numpy.typing import NDArray

import onnx_ei
from onnx_ei._graph.strands import strand_axes
from onnx_ei._sampling import swept
from onnx_ei._sampling.engine import sample
from onnx_ei._sampling.parameters import Parameters
from onnx_ei.runtime import SpanRunner, runner
from onnx_ei.span import Span, span_of

MAP = {"x": ("N", 6, 4, 5)}


def pools(*nodes: onnx.NodeProto, rank: int = 4, **weights: Any) -> onnx.ModelProto:
    return make(nodes, MAP, [nodes[-1].output[0]], weights, ranks={nodes[-1].output[0]: rank})


DEPTHWISE = {"kernel_shape": [3, 3], "group": 6}
SOLE: dict[str, tuple[onnx.ModelProto, tuple[int, int] | None]] = {
    "global pool": (pools(node("GlobalMaxPool", "x", "y")), (1, 1)),
    "pool and activation": (
        pools(node("MaxPool", "x", "p", kernel_shape=[4, 5]), node("Tanh", "p", "y")), (1, 1),
    ),
    "reduction": (pools(node("ReduceMax", "x", "y", axes=[2, 3], keepdims=0), rank=2), (1, 1)),
    "depthwise": (pools(node("Conv", "x w", "y", **DEPTHWISE), w=noise(6, 1, 3, 3)), (1, 1)),
    "scaled": (
        pools(node("GlobalMaxPool", "x", "p"), node("Mul", "p s", "y"), s=noise(6, 1, 1)), (1, 1),
    ),
    "convolution": (pools(node("Conv", "x w", "y"), w=noise(3, 6, 1, 1)), None),
    "two by two": (pools(node("Conv", "x w", "y", group=3), w=noise(6, 2, 1, 1)), None),
    "flattened": (
        pools(node("MaxPool", "x", "p", kernel_shape=[3, 4]), node("Flatten", "p", "y"), rank=2),
        None,
    ),
    "softmax": (
        pools(node("GlobalMaxPool", "x", "p"), node("Softmax", "p", "y", axis=1)), None,
    ),
    "all channels": (pools(node("ReduceMax", "x", "y", keepdims=1)), None),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(SOLE))
def test_which_axis_stays_apart(case: str) -> None:
    import onnx_ir as ir

    model, axes = SOLE[case]
    assert strand_axes(ir.serde.deserialize_model(model)) == axes


def test_channels_last() -> None:
    import onnx_ir as ir

    turned = node("Transpose", "x", "t", perm=[0, 2, 3, 1])
    reduced = node("ReduceMax", "t", "y", axes=[1, 2], keepdims=0)
    model = ir.serde.deserialize_model(pools(turned, reduced, rank=2))
    assert strand_axes(model) == (1, 1)


def global_pool() -> Span:
    topology = onnx_ei.topology_of(
        pools(node("GlobalMaxPool", "x", "p"), node("LeakyRelu", "p", "y", alpha=0.2))
    )
    return span_of(topology, next(iter(topology)))


@dataclass(frozen=True)
class Unaware:
    """A runner of which it is not known that it has strands."""

    own: SpanRunner

    @property
    def provider(self) -> str:
        return self.own.provider

    @property
    def rows(self) -> int:
        return self.own.rows

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.own(x)


@pytest.mark.parametrize("memory_limit", [None, 20_000])
@pytest.mark.parametrize("out_range", [(-1.0, 0.7), (0.5, 0.7), "dynamic"])
@pytest.mark.filterwarnings("ignore::onnx_ei.errors.OutOfRangeWarning")
def test_driven_together_to_the_bit(memory_limit: int | None, out_range: Any) -> None:
    # the second range drops the outputs of all other strands, which stay at 0
    span = global_pool()
    parameters = Parameters(
        samples=1500, in_bins=8, out_bins=12, in_range=(-1, 1), out_range=out_range,
        memory_limit=memory_limit,
    )  # fmt: skip
    own = runner(span)
    assert own.strands is not None
    names = ["sensitivity", "sensitivity_matrix"]
    together = sample(names, span, own, parameters)
    alone = sample(names, span, Unaware(own), parameters)
    for name in names:
        got, expected = plain(together[name]), plain(alone[name])
        assert {k: np.asarray(v).tolist() for k, v in got.items()} == {
            k: np.asarray(v).tolist() for k, v in expected.items()
        }


def test_fewer_rows_are_run() -> None:
    rows: list[int] = []
    topology = onnx_ei.topology_of(pools(node("GlobalMaxPool", "x", "y")))
    onnx_ei.measure(
        "sensitivity", "y", topology,
        samples=100, in_range=(-1, 1), out_range=(-1, 1),
        progress=lambda done, total: rows.append(total),
    )  # fmt: skip
    # 120 inputs, 6 of them at a time
    assert rows[-1] == 20 * 100


def test_what_is_called_on_the_output_may_mix() -> None:
    topology = onnx_ei.topology_of(pools(node("GlobalMaxPool", "x", "y")))
    span = span_of(topology, next(iter(topology)), activation=lambda y: y - y.mean(axis=1))
    assert runner(span).strands is None


def test_the_sum_alone_of_a_large_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    span = global_pool()
    parameters = Parameters(samples=200, in_range=(-1, 1), out_range=(-1, 1), in_bins=8)
    whole = sample(["sensitivity"], span, runner(span), parameters)["sensitivity"]
    monkeypatch.setattr(swept, "LARGE", 0)
    found = sample(["sensitivity"], span, runner(span), parameters)["sensitivity"]
    assert found.value == pytest.approx(whole.value, rel=1e-13)
    assert (found.stderr, found.out_of_range) == (whole.stderr, whole.out_of_range)
