"""A GPU beside the processor: the same values, and where it pays.

    python benchmarks/cuda.py [--out FILE.json] [--repeats N]

Needs ``onnx-ei[gpu]`` and a GPU. One measure of one span at a time on both devices, from the same
noise, in turn: the ratio of the times, that of the runs alone (a chunk of samples from one thread),
the values' difference in standard errors, and how many outputs change their bin. A layer of few
operations gains nothing, since noise, bins and counts stay on the processor; wide layers do, and
many of them in one span.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from figures import RESULTS, Figure, Pair, pairs_of, show, write
from peer import _onnx

import onnx_ei
from onnx_ei.devices import device_name, driver_version, processors
from onnx_ei.noise import CHUNK
from onnx_ei.runtime import runner
from onnx_ei.span import span_of

DEVICES = ("cpu", "cuda")


def cases() -> Iterator[tuple[str, Any, tuple[Any, ...], str, dict[str, Any]]]:
    """Yield what is measured: its name, a topology, the layers, a measure and its options."""
    rng = np.random.default_rng(0)
    for width, samples, bins in ((64, 100_000, 64), (1024, 20_000, 8), (4096, 20_000, 8)):
        topology = onnx_ei.topology_of(_onnx(rng.uniform(-1, 1, (width, width)) / width**0.5))
        options: dict[str, Any] = {"samples": samples, "in_bins": bins, "out_bins": bins}
        name = f"dense {width} -> {width}"
        if width > 1024:  # the run beside what vectors cost: 16 million pairs would hide it
            yield name, topology, ("fc",), "ei", options
        else:
            yield name, topology, ("fc",), "ei_parts", options
    for depth, channels, samples in ((1, 256, 10_000), (8, 64, 4000), (16, 128, 1000)):
        side = 32
        topology = onnx_ei.topology_of(convolutions(rng, depth, channels, side))
        options = {"samples": samples, "in_bins": 8, "out_bins": 8}
        name = f"{depth} conv 3x3, {channels} channels, {side} x {side}, pooled"
        yield name, topology, ("w0", "y"), "ei_parts", options


def convolutions(rng: np.random.Generator, depth: int, channels: int, side: int) -> bytes:
    """Convolutions with ReLU over 3 input channels, and their mean over all positions."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, held, last, n_in = [], [], "x", 3
    for i in range(depth):
        weight = rng.normal(0, (2 / (9 * n_in)) ** 0.5, (channels, n_in, 3, 3))
        held.append(numpy_helper.from_array(weight.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last, n_in = f"r{i}", channels
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
        for name, shape in (("x", (3, side, side)), ("y", (channels, 1, 1)))
    ]
    graph = helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], held)
    opset = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, ir_version=10, opset_imports=opset).SerializeToString())


def figures(repeats: int) -> Iterator[Figure]:
    """Yield every figure, case by case."""
    for name, topology, layers, measure, options in cases():
        yield from beside(name, topology, layers, measure, options, repeats)


def beside(
    name: str,
    topology: Any,
    layers: tuple[Any, ...],
    measure: str,
    options: dict[str, Any],
    repeats: int,
) -> Iterator[Figure]:
    """Measure one case on both devices."""
    first, last = layers[0], layers[-1]
    span = span_of(topology, last, in_layer=first, positions="all")

    def call(device: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return onnx_ei.measure(
                measure, last, topology, in_layer=first, in_range=(0, 1), positions="all",
                method="sample", device=device, **options,
            )  # fmt: skip

    pair = pairs_of(lambda: call("cuda"), lambda: call("cpu"), repeats)
    alone = runs(span, repeats)
    scale = 1e6 / runner(span).rows
    found = [call(device) for device in DEVICES]
    yield Figure(
        what=f"{measure}, {name}", value=pair.ratio, unit="x",
        detail=options | {
            "seconds": pair.ours, "cpu_seconds": pair.theirs, "n_inputs": span.n_inputs,
            "n_outputs": span.n_outputs, "cpu_nodes": runner(span, "cuda").cpu_nodes,
        },
    )  # fmt: skip
    yield Figure(
        what="  its runs alone, from one thread", value=alone.ratio, unit="x",
        detail={
            "microseconds_a_sample": scale * alone.ours,
            "cpu_microseconds_a_sample": scale * alone.theirs,
        },
    )  # fmt: skip
    yield Figure(
        what="  the values' difference, in standard errors",
        value=abs(found[0].value - found[1].value) / max(found[0].stderr, 1e-300), unit="",
        goal=0.1, at_most=True, detail={"bits": [r.value for r in found]},
    )  # fmt: skip
    yield Figure(
        what="  outputs in another bin, of a million", value=1e6 * moved(span, options["out_bins"]),
        unit="",
    )  # fmt: skip


def noise(span: Any) -> Any:
    """One chunk of it."""
    uniform = np.random.default_rng(1).uniform(0, 1, (CHUNK, span.n_inputs))
    return uniform.astype(np.float32)


def runs(span: Any, repeats: int) -> Pair:
    """Time one run of the model on the GPU, and on the CPU."""
    x = noise(span)[: runner(span).rows]
    cpu, cuda = (partial(runner(span, device), x) for device in DEVICES)
    return pairs_of(cuda, cpu, repeats)


def moved(span: Any, bins: int) -> float:
    """Return the share of outputs that fall into another bin on the other device."""
    x = noise(span)[: runner(span).rows]
    both = [runner(span, device)(x) for device in DEVICES]
    low, high = min(y.min() for y in both), max(y.max() for y in both)
    one, other = (np.floor((y - low) / (high - low) * bins) for y in both)
    return float(np.mean(one != other))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=RESULTS / "cuda.json")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    found = []
    for figure in figures(chosen.repeats):
        print(f"{figure.what}: {figure.value:.4g} {figure.unit}", file=sys.stderr, flush=True)
        found.append(figure)
    fine = show(found, short=False)
    write(
        found, chosen.out, gpu=device_name("cuda"), cuda=driver_version(), processors=processors(),
        cpu=device_name("cpu"),
    )  # fmt: skip
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
