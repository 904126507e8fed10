"""What every row says of where it comes from, whatever became of it."""

from __future__ import annotations

import sys

from onnx_ei.rows import Row

FACTS = {
    "model_sha256", "opset", "producer", "provider", "device", "device_id", "tf32", "cpu_nodes",
    "seed", "parameters", "definitions", "versions", "peak_memory",
}  # fmt: skip
VERSIONS = {"onnx_ei", "python", "onnx", "numpy", "numba"}
PARAMETERS = {
    "threshold", "samples", "extrapolate", "in_layer", "in_range", "in_bins", "out_range",
    "out_bins", "activation", "device", "groups", "against", "pvalues", "seed", "estimator",
    "method", "tolerance", "positions", "background", "max_samples", "input_range", "input",
}  # fmt: skip


def missing(row: Row) -> list[str]:
    """Name what a row does not say. A model need not say who produced it."""
    known = row.provenance
    gone = [] if row.seconds is not None else ["seconds"]
    gone += [] if known.get("peak_memory") or sys.platform != "linux" else ["peak_memory"]
    gone += sorted(FACTS - set(known))
    names = FACTS - {"producer", "peak_memory"}
    gone += sorted(name for name in names & set(known) if known[name] is None)
    versions = known.get("versions", {})
    gone += sorted(VERSIONS - set(versions))
    gone += [] if any(name.startswith("onnxruntime") for name in versions) else ["onnxruntime"]
    gone += sorted(PARAMETERS - set(known.get("parameters", {})))
    return gone
