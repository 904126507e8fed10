"""What the cost model predicts beside what is measured, as ratios, for three typical jobs.

    python benchmarks/costs.py [MODEL.onnx]

A dense layer, a convolution's position and a whole small model (or the one that is given). Each
line is one measure of one layer, or of all of them: measured seconds over predicted ones, and the
shares of the prediction. 1 is right; within a factor of 2 it tells minutes from hours, its use.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from figures import timed
from peer import _onnx

import onnx_ei
from onnx_ei.costs import MEASURED, cost_of, machine_at_hand, work_of
from onnx_ei.runtime import runner
from onnx_ei.span import span_of

SAMPLES = 100_000
IRIS = Path(__file__).resolve().parent.parent / "examples" / "iris" / "iris.onnx"


def jobs(model: str | None) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield a name, a topology and the layers of it that are measured."""
    rng = np.random.default_rng(0)
    dense = onnx_ei.topology_of(_onnx(rng.uniform(-1, 1, (64, 64)) / 8))
    yield "dense 64 -> 64", dense, list(dense)
    convolution = onnx_ei.topology_of(_convolution(rng))
    yield "conv 3x3, 32 -> 32", convolution, list(convolution)
    whole = onnx_ei.topology_of(str(model or IRIS))
    measurable = [k for k in whole if whole.nodes[k]["reason"] is None]
    yield Path(model or IRIS).name, whole, measurable


def _convolution(rng: np.random.Generator) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weight = rng.uniform(-1, 1, (32, 32, 3, 3)).astype(np.float32) / 17
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 32, side, side])
        for name, side in (("x", 8), ("y", 6))
    ]
    held = [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(nodes, "conv", ends[:1], ends[1:], held)
    opset = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, ir_version=10, opset_imports=opset).SerializeToString())


def main() -> None:
    machine = machine_at_hand()
    shown = [arguments for arguments in sys.argv[1:] if not arguments.startswith("-")]
    print(f"{'job':<22} {'measure':<12} {'method':<7} {'measured/predicted':>18}  shares")
    for name, topology, layers in jobs(shown[0] if shown else None):
        for measure in MEASURED:
            for method in ("sample",) if measure == "ei" else ("sample", "exact"):
                line(name, topology, layers, measure, method, machine)


def line(
    name: str, topology: Any, layers: list[Any], measure: str, method: str, machine: Any
) -> None:
    samples = SAMPLES if measure != "sensitivity" else SAMPLES // 10
    options = {"samples": samples} if method == "sample" else {}
    spent, predicted, parts = 0.0, 0.0, {}
    for layer in layers:
        work = work_of(runner(span_of(topology, layer)), affine=method == "exact")
        cost = cost_of(measure, work, machine, samples)

        def measured(layer: Any = layer) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                onnx_ei.measure(measure, layer, topology, method=method, **options)

        try:
            measured()
        except onnx_ei.OnnxEiError:
            continue  # no exact form
        spent += timed(measured)[0]
        predicted += cost.seconds
        for part, seconds in cost.parts.items():
            parts[part] = parts.get(part, 0.0) + seconds
    if predicted:
        shares = ", ".join(f"{part} {s / predicted:.0%}" for part, s in parts.items())
        print(f"{name:<22} {measure:<12} {method:<7} {spent / predicted:>18.2f}  {shares}")


if __name__ == "__main__":
    main()
