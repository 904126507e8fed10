"""deep_ei 0.7.0 and onnx_ei on one layer, as calls to be timed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

BATCH_SIZES = (1000, 10_000, 100_000)


class Layer:
    """A dense sigmoid layer of the paper's weights, in both packages."""

    def __init__(self, n_inputs: int, n_outputs: int, seed: int = 0) -> None:
        import deep_ei
        import deep_ei_shim
        import torch

        import onnx_ei

        self.ours, self.theirs = onnx_ei, deep_ei
        rng = np.random.default_rng(seed)
        weight = rng.uniform(-1, 1, (n_outputs, n_inputs)) / n_inputs**0.5
        self.linear = torch.nn.Linear(n_inputs, n_outputs, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor(weight, dtype=torch.float32))
        self.net = torch.nn.Sequential(self.linear, torch.nn.Sigmoid())
        example = torch.zeros(1, n_inputs)
        # A file and no module: the peer has no weights to follow either.
        self.model = _onnx(weight.T)
        self.topology = onnx_ei.topology_of(self.model)
        self.peer_topology = deep_ei_shim.topology(deep_ei, self.net, example)

    def call(self, name: str, **options: Any) -> Any:
        """Measure with onnx_ei."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(self.ours, name)("fc", self.topology, in_range=(0, 1), **options)

    def peer(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Measure with deep_ei."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(self.theirs, name)(
                self.linear, self.peer_topology, *arguments, in_range=(0, 1), **options
            )

    def best_batch(self, name: str, sizes: Sequence[int] = BATCH_SIZES, **options: Any) -> int:
        """Return the batch size at which deep_ei is fastest; of one size, that one untried."""
        from figures import timed

        if len(sizes) == 1:
            return sizes[0]

        def at(size: int) -> Callable[[], Any]:
            return lambda: self.peer(name, batch_size=size, **options)

        times = {size: timed(at(size))[0] for size in sizes}
        return min(times, key=lambda size: times[size])


def _onnx(weight: Any) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    n_inputs, n_outputs = weight.shape
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", units])
        for name, units in (("x", n_inputs), ("y", n_outputs))
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "fc"], ["h"]), helper.make_node("Sigmoid", ["h"], ["y"])],
        "layer",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(weight.astype(np.float32), "fc")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    return bytes(model.SerializeToString())
