"""What the exporters share: files that appear whole or not at all, clean, with a named batch."""

from __future__ import annotations

import re
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_ei.errors import MissingDependencyError
from onnx_ei.exporters import export_jax, export_keras
from onnx_ei.exporters._writing import (
    array_like,
    check_folder,
    clean,
    drawn,
    drop_unread,
    fix_batch,
    name_batch,
    name_node,
    need,
    replacing,
    unique_names,
)


def model(first="N"):
    node = helper.make_node("Relu", ["x"], ["y"], "relu", doc_string="File /home/me/net.py")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [first, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [first, 4])],
        doc_string="of /home/me",
    )
    made = helper.make_model(graph, doc_string="/home/me", ir_version=12)
    helper.set_model_props(made, {"source": "/home/me"})
    entry = made.graph.node[0].metadata_props.add()
    entry.key, entry.value = "stack_trace", "/home/me/net.py"
    return made


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path):
    target = tmp_path / "m.onnx"
    target.write_text("old")

    def fail():
        with replacing(target) as file:
            file.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]
    with replacing(target) as file:
        assert file.parent.parent == tmp_path
        file.write_text("new")
        assert target.read_text() == "old"
    assert [p.read_text() for p in tmp_path.iterdir()] == ["new"]


def test_nothing_of_the_machine_stays():
    made = model()
    assert b"/home/me" in made.SerializeToString()
    clean(made)
    assert b"/home/me" not in made.SerializeToString()
    assert made.ir_version == 10


@pytest.mark.parametrize(("first", "free"), [("N", True), (None, True), (2, False)])
def test_the_batch_gets_its_name(first, free):
    made = model(first)
    assert name_batch(made) is free
    dim = made.graph.input[0].type.tensor_type.shape.dim[0]
    assert (dim.dim_param or dim.dim_value) == ("batch" if free else 2)
    fix_batch(made, 3)
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_value == (3 if free else 2)
    onnx.checker.check_model(made)


def test_names_of_nodes_are_module_paths():
    node = helper.make_node("Relu", ["x"], ["y"])
    name_node(node, "block.ff")
    assert node.name == "/block/ff/Relu"


def test_no_two_nodes_have_one_name():
    nodes = [helper.make_node("Relu", ["x"], [name], "n") for name in "abc"]
    graph = helper.make_graph([*nodes, helper.make_node("Relu", ["x"], ["d"])] * 2, "g", [], [])
    unique_names(graph)
    names = [node.name for node in graph.node]
    assert names[:4] == ["n", "n_2", "n_3", ""]
    assert len(set(names)) == 7  # nameless ones stay nameless


def test_what_nobody_reads_goes():
    made = model()
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    made.graph.initializer.append(tensor)
    made.graph.node.append(helper.make_node("Add", ["x", "w"], ["z"]))
    made.graph.node.append(helper.make_node("Relu", ["z"], ["zz"]))
    drop_unread(made.graph)
    assert [node.name for node in made.graph.node] == ["relu"]
    assert not made.graph.initializer


def test_a_missing_folder_is_named(tmp_path):
    assert check_folder(tmp_path / "m.onnx") == tmp_path / "m.onnx"
    with pytest.raises(FileNotFoundError, match="none does not exist; create it first"):
        check_folder(tmp_path / "none" / "m.onnx")


def test_need(monkeypatch):
    need("f", {"json": "onnx-ei[x]"})
    monkeypatch.setitem(sys.modules, "json", None)
    message = 'f needs json, which is not installed: pip install "onnx-ei[x]" (or go home)'
    with pytest.raises(MissingDependencyError, match=re.escape(message)):
        need("f", {"json": "onnx-ei[x]"}, "or go home")


@pytest.mark.parametrize(
    ("export", "package", "extra"),
    [
        (export_keras, "keras", "onnx-ei[keras]"),
        (export_keras, "tensorflow", "onnx-ei[keras]"),
        (export_keras, "tf2onnx", "onnx-ei[keras]"),
        (export_jax, "jax", "onnx-ei[jax]"),
        (export_jax, "jax2onnx", "onnx-ei[jax]"),
    ],
)
def test_missing_frameworks_are_named_with_their_extra(tmp_path, monkeypatch, export, package,
                                                       extra):  # fmt: skip
    others = {"keras", "tensorflow", "tf2onnx", "jax", "jax2onnx"} - {package}
    for other in others:
        monkeypatch.setitem(sys.modules, other, onnx)  # anything that can be imported
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=re.escape(f"needs {package}, which")) as error:
        export(None, None, tmp_path / "m.onnx")
    assert f'pip install "{extra}"' in str(error.value)


def test_examples_become_arrays():
    assert array_like([[1.0, 2.0]]).dtype == np.float32
    assert array_like([[1, 2]]).dtype.kind == "i"
    for wrong in ("x", 3.0, [["a"]], None):
        with pytest.raises(TypeError, match="an array of numbers with a leading batch dimension"):
            array_like(wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_random_input_stays_in_the_range_of_the_example(dtype):
    example = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    made = drawn(np.random.default_rng(0), example, 50)
    assert (made.shape, made.dtype) == ((50, 3), example.dtype)
    assert 0 <= made.min() <= made.max() <= 1
    assert np.unique(made).size > 1


def test_an_example_of_one_value_tells_no_range():
    made = drawn(np.random.default_rng(0), np.zeros((1, 3), np.float32), 50)
    assert made.std() > 0.5
