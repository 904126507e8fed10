"""A model's true inner tensors, from the file itself; spans are held against them."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import onnx
import onnxruntime as ort
from brute import inside, part

from onnx_ei.runtime import runner
from onnx_ei.span import span_of
from onnx_ei.topology import layer_of, model_of

Array = Any


def precise_session(model: bytes) -> ort.InferenceSession:
    """Return a session whose sums of bytes do not saturate, as those of spans do not."""
    for precise in ("1", "0"):  # some models onnxruntime cannot optimise so
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.x64quantprecision", precise)
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception:
            if precise == "0":
                raise
    raise AssertionError("never here")


def everything(proto: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    """Run a model with every tensor as an output; integers are as they are."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    names = [name for node in model.graph.node for name in node.output if name]
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in given)
    session = precise_session(model.SerializeToString())
    return dict(zip(names, session.run(names, feeds), strict=True)) | feeds


def real(topology: nx.DiGraph, name: str, truth: dict[str, Array]) -> Array:
    """Return a tensor of the truth; the twin of an integer one is made by hand."""
    if name in truth:
        return truth[name]
    node = next(n for n in model_of(topology).ir.graph if n.outputs[0].name == name)
    assert node.op_type == "DequantizeLinear"
    scale, zero = (v.const_value for v in node.inputs[1:])
    number = truth[name.removesuffix("/real")].astype(np.int64) - int(zero.numpy().reshape(()))
    return (number * np.float64(scale.numpy().reshape(()))).astype(np.float32)


def check_spans(
    topology: nx.DiGraph, truth: dict[str, Array], *, tolerance: float = 1e-5
) -> list[str]:
    """Hold the span of every measurable layer against the truth, one position and all.

    Returns the layers that were held.
    """
    held = []
    for key in topology:
        if topology.nodes[key]["reason"] or topology.nodes[key]["kind"] == "recurrent":
            continue
        layer = layer_of(topology, key)
        x, y = (real(topology, str(v.name), truth) for v in (layer.entering, layer.leaving))
        for positions in ("one", "all"):
            span = span_of(topology, key, positions=positions, background="reference")
            assert inside(span.in_window, x.shape), key
            fed = x[part(span.in_window)].reshape(1, -1).astype(np.float32)
            got, want = runner(span)(fed), y[part(span.out_window)].reshape(1, -1)
            scale = tolerance * float(np.abs(y).max())
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=scale, err_msg=key)
            assert want.any(), key
        held.append(key)
    return held
