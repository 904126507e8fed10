"""Peak memory of layers whose histograms, all held at once as deep_ei holds them, would not fit.

Each is measured in a process of its own, so that the peak is the measure's. The peak is the whole
process's: Python, libraries and the model included.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from figures import Figure

MEASURED = """
import json, re, sys, warnings

warnings.simplefilter("ignore")
import numpy as np
from onnx import helper, numpy_helper
import onnx_ei

name, units, bins, samples, limit = sys.argv[1], *map(int, sys.argv[2:])
weight = np.random.default_rng(0).normal(size=(units, units)) / units**0.5
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "fc"], ["h"]), helper.make_node("Sigmoid", ["h"], ["y"])],
    "layer",
    [helper.make_tensor_value_info("x", 1, ["N", units])],
    [helper.make_tensor_value_info("y", 1, ["N", units])],
    [numpy_helper.from_array(weight.astype(np.float32), "fc")],
)
model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
topology = onnx_ei.topology_of(model)

def peak():
    # not getrusage: ru_maxrss of a child begins at the size of the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

def run(n_bins, n_samples, **more):
    return getattr(onnx_ei, name)(
        "fc", topology, samples=n_samples, in_range=(0, 1), in_bins=n_bins, out_bins=n_bins, **more
    )

# the model in the runtime is not what memory_limit is about
onnx_ei.ei("fc", topology, samples=8, in_range=(0, 1), in_bins=2, out_bins=2)
before = peak()
run(bins, samples, memory_limit=limit)
json.dump([before, peak()], sys.stdout)
"""
MIB = 2**20


def figures(short: bool) -> Iterator[Figure]:
    """Yield peaks beside goals; a short run the share of what deep_ei's histograms would take."""
    samples = 5000 if short else 100_000
    before, peak = _peaks("ei_parts_matrix", 1024, 64, samples, 2**30)
    histograms = 1024 * 1024 * 64 * 64 * 8
    detail = {"samples": samples, "before": before, "peak": peak, "deep_ei": histograms}
    if short:
        yield Figure(
            what="peak memory, ei_parts_matrix, 1024 -> 1024, 64 bins, of deep_ei's histograms",
            value=peak / histograms, unit="x", floor=0.03, at_most=True, detail=detail,
        )  # fmt: skip
        return
    yield Figure(
        what="peak memory, ei_parts_matrix, 1024 -> 1024, 64 bins, 1e5 samples",
        value=peak / MIB, unit="MiB", goal=1000, at_most=True, detail=detail,
    )  # fmt: skip
    yield Figure(
        what="  deep_ei's histograms beside it", value=histograms / MIB, unit="MiB"
    )  # fmt: skip
    limit = 256 * MIB
    before, peak = _peaks("ei_parts", 4096, 8, 4096, limit)
    yield Figure(
        what="  beyond the model, ei_parts, 4096 -> 4096, 8 bins, memory_limit 256 MiB",
        value=(peak - before) / MIB, unit="MiB", goal=limit / MIB, at_most=True,
        detail={"samples": 4096, "before": before, "peak": peak, "memory_limit": limit},
    )  # fmt: skip


def _peaks(name: str, units: int, bins: int, samples: int, limit: int) -> list[int]:
    """Return the peak of a new process before and after a measure, in bytes."""
    numbers = map(str, (units, bins, samples, limit))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, name, *numbers],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return list(json.loads(done.stdout))
