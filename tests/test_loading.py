"""From what a user hands over to a model of real shapes; what is refused, and the words for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import external, make, mlp, node, noise, scalar
from onnx import TensorProto, helper, numpy_helper

from onnx_ei.errors import ModelError
from onnx_ei.loading import Model, example_of_shape, load_model
from onnx_ei.topology import topology_of


def shapes(model: Model) -> dict[str, tuple[Any, ...]]:
    """Return the shape of every tensor that a node puts out."""
    return {
        str(v.name): tuple(d if isinstance(d, int) else None for d in v.shape)
        for n in model.ir.graph
        for v in n.outputs
        if v.shape is not None
    }


def ops(model: Model) -> list[str]:
    return [n.op_type for n in model.ir.graph]


def write(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


# --- what a model may come as ----------------------------------------------------------------


@pytest.mark.parametrize(
    "give",
    [
        lambda m, p: m,
        lambda m, p: m.SerializeToString(),
        lambda m, p: bytearray(m.SerializeToString()),
        lambda m, p: memoryview(m.SerializeToString()),
        lambda m, p: write(m, p),
        lambda m, p: str(write(m, p)),
        lambda m, p: os.path.relpath(write(m, p)),
    ],
    ids=["proto", "bytes", "bytearray", "memoryview", "Path", "str", "relative"],
)
def test_kinds_of_model(give: Callable[[onnx.ModelProto, Path], Any], tmp_path: Path) -> None:
    loaded = load_model(give(mlp(), tmp_path / "m.onnx"))
    assert ops(loaded) == ["Gemm", "Relu", "Gemm"]
    assert shapes(loaded) == {"h": (1, 5), "a": (1, 5), "y": (1, 3)}
    assert loaded.open_inputs == {}
    assert loaded.example is None
    assert loaded.ir.ir_version == 10


@pytest.mark.parametrize("model", [3, None, ["m.onnx"], {"m": 1}])
def test_other_kinds_are_refused(model: Any) -> None:
    with pytest.raises(TypeError, match=f"model must be a path.*got {type(model).__name__}"):
        load_model(model)


def test_a_proto_is_left_as_it_was() -> None:
    model = mlp()
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, (7,)))
    before = model.SerializeToString()
    load_model(model, noise(2, 4))
    assert model.SerializeToString() == before


def test_a_newer_ir_version_stays() -> None:
    model = mlp()
    model.ir_version = 11
    assert load_model(model).ir.ir_version == 11


# --- files that are no models ----------------------------------------------------------------


def test_a_missing_file_offers_its_neighbours(tmp_path: Path) -> None:
    write(mlp(), tmp_path / "resnet.onnx")
    with pytest.raises(ModelError, match=r"resnt\.onnx: no such file; did you mean 'resnet\.on"):
        load_model(tmp_path / "resnt.onnx")


@pytest.mark.parametrize("name", ["nowhere/m.onnx", "n" * 300, "nul\0"])
def test_a_missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such file$"):
        load_model(tmp_path / name)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a folder, not an \.onnx file"):
        load_model(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    with pytest.raises(ModelError, match=r"m\.onnx: an empty file, not an ONNX model"):
        load_model(path)


@pytest.mark.parametrize("text", ["hello, this is no model\n" * 30, "{}", "\n" * 100, "PK\3\4"])
def test_a_text_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"m\.onnx: (not an ONNX model|invalid ONNX)"):
        load_model(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.95, 0.999])
def test_a_truncated_file(share: float, tmp_path: Path) -> None:
    data = mlp().SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"truncated one .* bytes|invalid ONNX"):
        load_model(path)
    with pytest.raises(ModelError, match=r"not an ONNX model|invalid ONNX"):
        load_model(path.read_bytes())


def test_no_bytes() -> None:
    with pytest.raises(ModelError, match=r"model of 0 bytes .*: invalid ONNX"):
        load_model(b"")


def test_an_invalid_graph(tmp_path: Path) -> None:
    model = make([node("Gemm", "x nothing", "y")], {"x": ("N", 4)}, ["y"])
    for given in (model, model.SerializeToString(), write(model, tmp_path / "m.onnx")):
        with pytest.raises(ModelError, match=r"invalid ONNX: .*nothing"):
            load_model(given)


# --- external data ---------------------------------------------------------------------------


def test_external_data_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(tmp_path / "m.onnx", "m.data")
    weight = noise(4, 3)
    (tmp_path / "m.data").write_bytes(weight.tobytes())
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "m.onnx", Path("m.onnx")):
        held = load_model(path).ir.graph.initializers["w"].const_value
        np.testing.assert_array_equal(held.numpy(), weight)


def _in_a_node(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer.pop()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))


def _in_a_branch(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer.pop()
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, (4, 3))
    branch = helper.make_graph([node("Identity", "w", "b")], "branch", [], [out], [weight])
    model.graph.node[0].CopyFrom(node("If", "c", "y", then_branch=branch, else_branch=branch))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("c", TensorProto.BOOL, ()))


def _in_a_function(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer.pop()
    model.functions.append(
        helper.make_function(
            "local", "Dense", ["a"], ["b"],
            [helper.make_node("Constant", [], ["w"], value=weight), node("MatMul", "a w", "b")],
            [helper.make_opsetid("", 18)],
        )
    )  # fmt: skip
    model.graph.node[0].CopyFrom(helper.make_node("Dense", ["x"], ["y"], domain="local"))
    model.opset_import.append(helper.make_opsetid("local", 1))


PLACES = [lambda model: None, _in_a_node, _in_a_branch, _in_a_function]


@pytest.mark.parametrize("place", PLACES, ids=["weight", "node", "branch", "function"])
def test_external_data_of_bytes_and_protos_is_refused(
    place: Callable[[onnx.ModelProto], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    external(tmp_path / "m.onnx", "m.data")
    (tmp_path / "m.data").write_bytes(noise(4, 3).tobytes())
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    place(model)
    monkeypatch.chdir(tmp_path)  # where a relative path would find it
    for given in (model, model.SerializeToString()):
        with pytest.raises(ModelError, match=r"weight 'w' lies in an external file.*pass the path"):
            load_model(given)


@pytest.mark.parametrize("place", PLACES, ids=["weight", "node", "branch", "function"])
@pytest.mark.parametrize(
    "location", ["../secret", "/etc/hostname", "link", "hard", "sub/../../secret"]
)
def test_hostile_locations_are_refused(
    place: Callable[[onnx.ModelProto], None],
    location: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(noise(4, 3).tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "hard").hardlink_to(tmp_path / "secret")
    external(folder / "m.onnx", location)
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    place(model)
    write(model, folder / "m.onnx")
    monkeypatch.chdir(folder)
    for path in (folder / "m.onnx", Path("m.onnx")):
        with pytest.raises(ModelError, match=r"invalid ONNX: .*(outside|absolute|symbolic|hard)"):
            load_model(path)


@pytest.mark.parametrize("place", PLACES, ids=["weight", "node", "branch", "function"])
def test_a_data_file_cut_short(place: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    external(tmp_path / "m.onnx", "m.data")
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    place(model)
    write(model, tmp_path / "m.onnx")
    (tmp_path / "m.data").write_bytes(b"1234")
    with pytest.raises(
        ModelError, match=r"weight 'w' needs bytes 0 to 48 of 'm\.data', which holds 4;.*truncated"
    ):
        load_model(tmp_path / "m.onnx")


def test_a_missing_data_file(tmp_path: Path) -> None:
    external(tmp_path / "m.onnx", "m.data")
    with pytest.raises(ModelError, match=r"invalid ONNX: .*m\.data"):
        load_model(tmp_path / "m.onnx")


MEASURE = """
import resource, sys
import onnx, onnx_ir, onnxruntime, onnxscript.optimizer
from onnx_ei.topology import topology_of

def held(what):
    for line in open("/proc/self/status"):
        if line.startswith(what):
            return int(line.split()[1]) << 10

limit = held("VmData") + (64 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
topology = topology_of(sys.argv[1])
print(list(topology), topology.nodes["w"]["output"]["shape"])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's accounts")
def test_a_large_model_is_mapped_not_held(tmp_path: Path) -> None:
    # RLIMIT_DATA counts anonymous private memory, so that the peak is bounded and not one sample
    external(tmp_path / "m.onnx", "m.data", shape=(8192, 8192))
    with open(tmp_path / "m.data", "wb") as file:
        file.truncate(256 << 20)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "m.onnx")],
        capture_output=True, text=True, check=False,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "['w'] (1, 8192)\n"


# --- made ready ------------------------------------------------------------------------------


def test_local_functions_are_inlined() -> None:
    dense = helper.make_function(
        "local", "Dense", ["a", "w"], ["b"], [node("MatMul", "a w", "t"), node("Relu", "t", "b")],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Dense", ["x", "w1"], ["h"], domain="local"),
        helper.make_node("Dense", ["h", "w2"], ["y"], domain="local"),
    ]
    weights = {"w1": noise(4, 5), "w2": noise(5, 2)}
    model = make(nodes, {"x": ("N", 4)}, ["y"], weights, functions=[dense], domains={"local": 1})
    loaded = load_model(model)
    assert ops(loaded) == ["MatMul", "Relu", "MatMul", "Relu"]
    assert list(shapes(loaded).values()) == [(1, 5), (1, 5), (1, 2), (1, 2)]
    assert not loaded.ir.functions


def test_constant_nodes_become_initializers() -> None:
    nodes = [
        node("Constant", "", "w", value=numpy_helper.from_array(noise(4, 3))),
        node("Constant", "", "two", value_float=2.0),
        node("MatMul", "x w", "h"),
        node("Mul", "h two", "y"),
    ]
    loaded = load_model(make(nodes, {"x": ("N", 4)}, ["y"]))
    assert ops(loaded) == ["MatMul", "Mul"]
    np.testing.assert_array_equal(
        loaded.ir.graph.initializers["w"].const_value.numpy(), noise(4, 3)
    )
    assert loaded.ir.graph.initializers["two"].const_value.numpy() == 2


def test_shape_chains_fold_at_batch_one() -> None:
    nodes = [
        node("Conv", "x k", "c"),
        node("Shape", "c", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 minus", "target", axis=0),
        node("Reshape", "c target", "f"),
        node("MatMul", "f w", "y"),
    ]
    weights = {
        "k": noise(2, 3, 3, 3), "zero": np.int64(0)[()] * np.ones((), np.int64),
        "axes": np.zeros(1, np.int64), "minus": np.full(1, -1, np.int64), "w": noise(32, 5),
    }  # fmt: skip
    loaded = load_model(make(nodes, {"x": ("N", 3, 6, 6)}, ["y"], weights))
    assert ops(loaded) == ["Conv", "Reshape", "MatMul"]
    assert loaded.ir.graph.initializers["target"].const_value.numpy().tolist() == [1, -1]
    assert shapes(loaded) == {"c": (1, 2, 4, 4), "f": (1, 32), "y": (1, 5)}


@pytest.mark.parametrize(("kind", "dims"), [(TensorProto.FLOAT, (7, 7)), (TensorProto.INT64, (3,))])
def test_stale_value_info_is_dropped(kind: int, dims: tuple[int, ...]) -> None:
    model = mlp()
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, kind, dims) for name in ("h", "a")
    )
    loaded = load_model(model)
    assert shapes(loaded) == {"h": (1, 5), "a": (1, 5), "y": (1, 3)}
    assert {str(v.dtype) for n in loaded.ir.graph for v in n.outputs} == {"FLOAT"}


def test_operators_without_a_rule_get_their_shape_from_one_run() -> None:
    nodes = [
        node("MatMul", "x w", "h"),
        helper.make_node("QuickGelu", ["h"], ["g"], domain="com.microsoft"),
        node("MatMul", "g v", "y"),
    ]
    weights = {"w": noise(4, 5), "v": noise(5, 2)}
    model = make(nodes, {"x": ("N", 4)}, ["y"], weights, domains={"com.microsoft": 1})
    loaded = load_model(model)
    assert shapes(loaded) == {"h": (1, 5), "g": (1, 5), "y": (1, 2)}
    assert {str(v.dtype) for n in loaded.ir.graph for v in n.outputs} == {"FLOAT"}


def test_types_of_operators_without_a_rule_are_the_file_s() -> None:
    nodes = [
        node("MatMul", "x w", "h"),
        helper.make_node("QuickGelu", ["h"], ["g"], domain="com.microsoft"),
        node("MatMul", "g v", "y"),
    ]
    model = make(
        nodes, {"x": ("N", "T", 4)}, {"y": ("N", "T", 2)}, {"w": noise(4, 5), "v": noise(5, 2)},
        value_info=[helper.make_tensor_value_info("g", TensorProto.FLOAT, (9,))],
        domains={"com.microsoft": 1},
    )  # fmt: skip
    loaded = load_model(model)  # T stays open, so that nothing can be run
    gate = next(n for n in loaded.ir.graph if n.op_type == "QuickGelu").outputs[0]
    assert str(gate.dtype) == "FLOAT"
    assert gate.shape is None


def test_sequences_have_no_shape() -> None:
    nodes = [
        node("SplitToSequence", "x", "s", axis=1, keepdims=1),
        node("ConcatFromSequence", "s", "c", axis=1),
        node("MatMul", "c w", "y"),
    ]
    loaded = load_model(make(nodes, {"x": ("N", 4)}, ["y"], {"w": noise(4, 5)}))
    assert shapes(loaded) == {"c": (1, 4), "y": (1, 5)}


def test_initializers_listed_as_inputs_are_no_inputs() -> None:
    model = mlp()
    model.ir_version = 3
    for weight in reversed(model.graph.initializer):
        info = helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
        model.graph.input.insert(0, info)
    x = noise(2, 4)
    loaded = load_model(model, x)
    assert [v.name for v in loaded.ir.graph.inputs] == ["x"]
    assert loaded.example is not None
    np.testing.assert_array_equal(loaded.example["x"], x[:1])
    assert shapes(loaded)["y"] == (1, 3)


def test_nameless_nodes_are_named_after_their_output() -> None:
    model = make([helper.make_node("Relu", ["x"], ["y"])], {"x": ("N", 4)}, ["y"])
    assert [n.name for n in load_model(model).ir.graph] == ["y"]


def test_origins_lead_from_a_folded_weight_to_its_name() -> None:
    nodes = [
        node("Transpose", "w", "t"),
        node("Mul", "half t", "scaled"),
        node("Cast", "scaled", "c", to=TensorProto.FLOAT),
        node("MatMul", "x c", "y"),
    ]
    weights = {"w": noise(3, 4), "half": scalar(0.5)}
    loaded = load_model(make(nodes, {"x": ("N", 4)}, ["y"], weights))
    assert ops(loaded) == ["MatMul"]
    assert loaded.origins == {"t": "w", "scaled": "w", "c": "w"}


# --- open dimensions and examples ------------------------------------------------------------


def sequence() -> onnx.ModelProto:
    """tokens (N, T, 4) and state (1, N, 4), both read."""
    nodes = [
        node("MatMul", "tokens w", "h"),
        node("Transpose", "state", "s", perm=[1, 0, 2]),
        node("Add", "h s", "y"),
    ]
    return make(
        nodes, {"tokens": ("N", "T", 4), "state": (1, "N", 4)}, {"y": ("N", "T", 4)},
        {"w": noise(4, 4)},
    )  # fmt: skip


def test_open_dimensions_without_an_example() -> None:
    loaded = load_model(sequence())
    assert loaded.open_inputs == {"tokens": (1, None, 4)}  # N is the batch wherever it stands
    assert shapes(loaded) == {"h": (1, None, 4), "s": (1, 1, 4), "y": (1, None, 4)}


def test_an_example_settles_them_and_is_cut_to_one_sample() -> None:
    tokens, state = noise(3, 7, 4), noise(1, 3, 4, seed=1)
    for example in (
        (tokens, state),
        [tokens, state],
        {"state": state, "tokens": tokens},
        (Tensorlike(tokens), Tensorlike(state)),
        (tokens.tolist(), state.astype(np.float64)),
    ):
        loaded = load_model(sequence(), example)
        assert loaded.open_inputs == {}
        assert shapes(loaded) == {"h": (1, 7, 4), "s": (1, 1, 4), "y": (1, 7, 4)}
        assert loaded.example is not None
        assert {k: v.dtype for k, v in loaded.example.items()} == {
            "tokens": np.float32, "state": np.float32,
        }  # fmt: skip
        np.testing.assert_array_equal(loaded.example["tokens"], tokens[:1])
        np.testing.assert_array_equal(loaded.example["state"], state[:, :1])


class Tensorlike:
    """What a tensor on a device offers."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def detach(self) -> Tensorlike:
        return self

    cpu = detach

    def numpy(self) -> Any:
        return self.array


def test_one_array_is_the_one_input() -> None:
    loaded = load_model(mlp(), noise(9, 4))
    assert loaded.example is not None
    assert loaded.example["x"].shape == (1, 4)


def test_a_fixed_batch_takes_the_first_samples_of_a_larger_example() -> None:
    model = make([node("MatMul", "x w", "y")], {"x": (2, 4)}, ["y"], {"w": noise(4, 3)})
    assert shapes(load_model(model)) == {"y": (2, 3)}
    assert shapes(load_model(model, noise(5, 4))) == {"y": (2, 3)}
    with pytest.raises(ModelError, match=r"'x' has shape \(2, 4\), the example given has \(1, 4\)"):
        load_model(model, noise(1, 4))


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ({"x_1": noise(1, 4)}, r"no input 'x_1'; did you mean 'x'\?|no input 'x_1'; known: 'x'"),
        ({3: noise(1, 4)}, "no input 3; known: 'x'"),
        ({}, r"the example lacks input 'x'; inputs: \['x'\]"),
        ((), "the example lacks input 'x'"),
        ((noise(1, 4), noise(1, 4)), "2 example inputs for 1 inputs"),
        (noise(4), r"'x' has shape \(\?, 4\), the example given has \(4,\)"),
        (noise(2, 5), r"'x' has shape \(\?, 4\), the example given has \(2, 5\)"),
        (noise(0, 4), r"the example for input 'x' is empty: \(0, 4\)"),
        ("text", "the example for input 'x' is no array of FLOAT"),
        (([[1.0], [1.0, 2.0]],), "the example for input 'x' is no array of FLOAT"),
        (object(), "the example for input 'x' is no array of FLOAT"),
    ],
)
def test_examples_that_do_not_fit(example: object, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(mlp(), example)


def test_the_closest_input_is_offered() -> None:
    with pytest.raises(ModelError, match=r"no input 'token'; did you mean 'tokens'\?"):
        load_model(sequence(), {"token": 1})


def test_one_dimension_has_one_size() -> None:
    with pytest.raises(
        ModelError, match="dimension 'N' is 3 in one example input and 2 in 'state'"
    ):
        load_model(sequence(), (noise(3, 7, 4), noise(1, 2, 4)))


def test_inner_tensors_come_from_the_example() -> None:
    x = noise(2, 4)
    loaded = load_model(mlp(), x)
    outputs = [v.name for v in loaded.ir.graph.outputs]
    values = loaded.tensors(["a", "x", "h"])
    hidden = x[:1] @ noise(5, 4).T + noise(5, seed=1)
    np.testing.assert_array_equal(values["x"], x[:1])
    np.testing.assert_allclose(values["h"], hidden, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values["a"], np.maximum(hidden, 0), rtol=1e-5, atol=1e-5)
    assert [v.name for v in loaded.ir.graph.outputs] == outputs
    with pytest.raises(KeyError):
        loaded.tensors(["nothing"])
    assert [v.name for v in loaded.ir.graph.outputs] == outputs


def test_without_an_example_there_are_no_inner_tensors() -> None:
    with pytest.raises(ModelError, match=r"no example input; pass input= .* to topology_of"):
        load_model(mlp()).tensors(["a"])


# --- example_of_shape ------------------------------------------------------------------------


def test_example_of_shape(tmp_path: Path) -> None:
    path = write(sequence(), tmp_path / "m.onnx")
    example = example_of_shape(path, {"tokens": (2, 7, 4)})
    assert {k: (v.shape, v.dtype) for k, v in example.items()} == {
        "tokens": ((2, 7, 4), np.float32),
        "state": ((1, 2, 4), np.float32),  # N is 2 there too
    }
    again = example_of_shape(str(path), {"tokens": (2, 7, 4)})
    np.testing.assert_array_equal(example["tokens"], again["tokens"])
    assert example["tokens"].std() > 0.1


def test_example_of_shape_loads(tmp_path: Path) -> None:
    path = write(sequence(), tmp_path / "m.onnx")
    example = example_of_shape(path, {"tokens": (1, 7, 4)})
    assert load_model(path, example).open_inputs == {}


def test_indices_are_zeros(tmp_path: Path) -> None:
    nodes = [node("Gather", "table ids", "e"), node("MatMul", "e w", "y")]
    model = make(
        nodes, {"ids": ("N", "T")}, {"y": ("N", "T", 2)}, {"table": noise(5, 3), "w": noise(3, 2)}
    )
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    example = example_of_shape(write(model, tmp_path / "m.onnx"), {"ids": (1, 6)})
    assert example["ids"].dtype == np.int64
    assert not example["ids"].any()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokns": (1, 7, 4)}, "no input 'tokns'; did you mean 'tokens'"),
        ({}, r"input 'tokens' is still open: \(1, \?, 4\)"),
        ({"tokens": (1, 7)}, r"'tokens' has shape \(\?, \?, 4\), the shape given is \(1, 7\)"),
        ({"tokens": (1, 7, 5)}, r"the shape given is \(1, 7, 5\)"),
        ({"tokens": (1, 0, 4)}, r"the shape given is \(1, 0, 4\)"),
        ({"tokens": (1, -7, 4)}, r"the shape given is \(1, -7, 4\)"),
    ],
)
def test_shapes_that_do_not_fit(given: Any, said: str, tmp_path: Path) -> None:
    path = write(sequence(), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=said):
        example_of_shape(path, given)


def test_example_of_shape_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        example_of_shape(tmp_path / "m.onnx", {})


def switch() -> onnx.ModelProto:
    """An If on a scalar input: one layer in either branch, 3 units or 2 out."""

    def branch(name: str, width: int) -> onnx.GraphProto:
        weight = numpy_helper.from_array(noise(4, width, seed=width), f"{name}.weight")
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph(
            [node("MatMul", f"x {name}.weight", name)], name, [], [out], [weight]
        )

    nodes = [
        node("Equal", "rate wide", "test"),
        node("If", "test", "y", then_branch=branch("a", 3), else_branch=branch("b", 2)),
    ]
    model = make(nodes, {"x": ("N", 4)}, ["y"], {"wide": np.array(16, np.int64)})
    model.graph.input.append(helper.make_tensor_value_info("rate", TensorProto.INT64, []))
    return model


@pytest.mark.parametrize(("rate", "layer", "units"), [(16, "a", 3), (8, "b", 2)])
def test_a_scalar_input_is_pinned_and_its_branch_opened(rate: int, layer: str, units: int) -> None:
    example = {"x": noise(1, 4), "rate": rate}
    topology = topology_of(switch(), example)
    assert [str(key).rpartition("_")[2] for key in topology] == [layer]
    (data,) = (data for _, data in topology.nodes(data=True))
    assert data["output"]["shape"] == (1, units)
    assert topology.graph["notes"] == [f"input 'rate' is held at {rate}, its value in the example"]
    values = topology.graph["model"].tensors([data["output"]["tensor"]])
    np.testing.assert_allclose(*values.values(), example["x"] @ noise(4, units, seed=units), 1e-5)


def test_a_scalar_input_without_an_example_leaves_the_branches_shut() -> None:
    topology = topology_of(switch())
    assert len(topology) == 0
    assert "control flow is not looked into" in topology.graph["notes"][0]
