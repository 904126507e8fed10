"""What other tools write and onnx_ir does not read: dictionaries, open dimensions of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import make, node, noise
from onnx import TensorProto, helper

from onnx_ei import topology_of


def scores_by_name(*, also: bool = False) -> onnx.ModelProto:
    """x -> MatMul -> ZipMap: a dictionary a sample, as skl2onnx writes classifiers by default."""
    zipped = helper.make_node(
        "ZipMap", ["s"], ["p"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]
    )
    entries = helper.make_sequence_type_proto(
        helper.make_map_type_proto(
            TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        )
    )
    outputs = [helper.make_value_info("p", entries)]
    if also:
        outputs.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, ["N", 2]))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["s"]), zipped], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])], outputs,
        [onnx.numpy_helper.from_array(noise(3, 2).astype(np.float32), "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("also", [False, True])
@pytest.mark.parametrize("how", ["path", "bytes", "proto"])
def test_a_dictionary_ends_the_model_at_its_scores(how: str, also: bool, tmp_path: Path) -> None:
    proto = scores_by_name(also=also)
    before = proto.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(before)
    model: Any = {"path": tmp_path / "m.onnx", "bytes": before, "proto": proto}[how]
    topology = topology_of(model)
    assert list(topology) == ["w"]
    assert topology.nodes["w"]["reason"] is None
    assert [v.name for v in topology.graph["model"].ir.graph.outputs] == ["s"]
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("mark", ["?", -1])
def test_marks_for_open_dimensions_are_no_sizes_and_no_names(mark: str | int) -> None:
    weights = {"w": noise(2, 3, 3, 3)}
    model = make([node("Conv", "x w", "y")], {"x": (1, 3, 8, 8)}, ["y"], weights, ranks={"y": 4})
    for axis in (0, 2, 3):
        dim = model.graph.input[0].type.tensor_type.shape.dim[axis]
        if isinstance(mark, str):
            dim.dim_param = mark
        else:
            dim.dim_value = mark
    example = np.ones((2, 3, 8, 16), np.float32)
    topology = topology_of(model, example)
    assert topology.nodes["w"]["input"]["shape"] == (1, 3, 8, 16)
    assert topology.nodes["w"]["output"]["shape"] == (1, 2, 6, 14)
