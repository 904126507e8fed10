"""Peak memory of ei_parts_matrix on a 1024 -> 1024 layer at 64 bins, beside what deep_ei holds.

    python benchmarks/peak_memory.py

Runs in a process of its own, so that the peak is the measure's and not this script's.
"""

from __future__ import annotations

import json
import subprocess
import sys

UNITS, BINS, SAMPLES = 1024, 64, 10_000

MEASURED = f"""
import json, re, sys
import numpy as np, onnx
from onnx import helper, numpy_helper
from onnx_ei import ei_parts_matrix, topology_of

units = {UNITS}
weight = np.random.default_rng(0).normal(size=(units, units)) / units**0.5
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "fc"], ["h"]), helper.make_node("Sigmoid", ["h"], ["y"])],
    "layer",
    [helper.make_tensor_value_info("x", 1, ["N", units])],
    [helper.make_tensor_value_info("y", 1, ["N", units])],
    [numpy_helper.from_array(weight.astype(np.float32), "fc")],
)
model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
topology = topology_of(model)

def peak():
    # not getrusage: ru_maxrss of a child begins at the size of the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

ei_parts_matrix("fc", topology, samples=1000, in_range=(0, 1), in_bins=8, out_bins=8)
before = peak()
found = ei_parts_matrix("fc", topology, samples={SAMPLES}, in_range=(0, 1), in_bins={BINS},
                        out_bins={BINS})
json.dump([before, peak(), list(found.shape)], sys.stdout)
"""


def main() -> None:
    """Print the peak, the part of it that is libraries, and deep_ei's histograms."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True
    )
    before, peak, shape = json.loads(done.stdout)
    histograms = UNITS * UNITS * BINS * BINS * 8
    print(f"ei_parts_matrix {shape[0]} -> {shape[1]}, {BINS} bins, {SAMPLES} samples")
    print(f"  peak of the process     {peak / 2**20:8.0f} MiB (libraries and a warm-up: "
          f"{before / 2**20:.0f})")  # fmt: skip
    print(f"  deep_ei's histograms    {histograms / 2**20:8.0f} MiB")
    print(f"  ratio                   {histograms / peak:8.0f}")


if __name__ == "__main__":
    main()
