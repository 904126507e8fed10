"""Models that something is wrong or missing with: said what, and what to do; never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import make, node, noise, open_model
from onnx import TensorProto, helper
from typer.testing import CliRunner

from onnx_ei import measure, topology_of
from onnx_ei.cli import app
from onnx_ei.errors import ModelError, UnsupportedModelError
from onnx_ei.loading import example_of_shape
from onnx_ei.span import span_of

QUICK = ["--samples=50", "--bins=4", "--measures=ei_parts"]


def between(middle: onnx.NodeProto, **options: Any) -> onnx.ModelProto:
    """x (N, 4) -> MatMul -> the node -> MatMul."""
    nodes = [node("MatMul", "x w", "h"), middle, node("MatMul", "g v", "y")]
    return make(nodes, {"x": ("N", 4)}, ["y"], {"w": noise(4, 5), "v": noise(5, 2)}, **options)


def custom(op: str, domain: str, **options: Any) -> onnx.ModelProto:
    middle = node(op, "h", "g")
    middle.domain = domain
    return between(middle, **options)


def without_imports() -> onnx.ModelProto:
    model = between(node("Relu", "h", "g"))
    del model.opset_import[:]
    return model


def run(model: onnx.ModelProto, folder: Path, *more: str, command: str = "run") -> Any:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    options = QUICK if command == "run" else []
    return CliRunner().invoke(app, [command, str(path), *options, *more])


# --- operator sets -----------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a domain without a version": (
        lambda: custom("Twist", "acme"),
        r"No opset import for domain 'acme' \(.*OpType: Twist\); .* add it to opset_import "
        r"\(onnx.helper.make_opsetid\('acme', 1\)\)",
    ),
    "no version at all": (
        without_imports,
        r"must specify opset_import; .* add opset_import \(onnx.helper.make_opsetid\('', version",
    ),
    "an operator that ONNX does not have": (
        lambda: between(node("Reluu", "h", "g")),
        r"ONNX has no operator 'Reluu' in opset 18: it is misspelt, .* export the model again",
    ),
    "an operator that comes later": (
        lambda: between(node("Gelu", "h", "g")),
        r"No Op registered for Gelu with domain_version of 18 .* an opset that has it",
    ),
    "a version that is not out yet": (
        lambda: between(node("Relu", "h", "g"), opset=999),
        r"opset 999 of domain 'ai.onnx' is newer than the \d+ that the installed onnx knows; "
        r"export the model with opset \d+, or upgrade onnx and onnxruntime",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_operator_sets(case: str, tmp_path: Path) -> None:
    made, said = REFUSED[case]
    with pytest.raises(ModelError, match=said):
        topology_of(made())
    for command in ("run", "describe"):
        result = run(made(), tmp_path, command=command)
        assert result.exit_code == 3
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.output


# --- operators that nobody knows -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        (
            "acme",
            r"operator Twist of domain 'acme' \(node 'g'\) is of neither ONNX nor onnxruntime, and "
            r"its custom-op library is not loaded; export the model with standard operators",
        ),
        (
            "com.microsoft",
            r"operator Twist of domain 'com.microsoft' is not one of the installed onnxruntime's; "
            r"upgrade it, or export the model with standard operators",
        ),
    ],
)
def test_a_missing_library(domain: str, said: str, tmp_path: Path) -> None:
    """What comes before the operator is measured, what comes behind it has a reason."""
    model = custom("Twist", domain, domains={domain: 1})
    topology = topology_of(model)
    options = {"samples": 50, "in_bins": 4, "out_bins": 4, "out_range": (-99, 99)}
    assert measure("ei_parts", "w", topology, **options).value > 0
    (note,) = topology.graph["notes"]
    with pytest.raises(UnsupportedModelError, match=f"shape of its input 'g' is not known: {said}"):
        span_of(topology, "v")
    result = run(model, tmp_path)
    assert result.exit_code == 0
    assert f"note: {note}" in result.stderr
    rows = json.loads(run(model, tmp_path, "--json").stdout)["rows"]
    assert [bool(row["measurements"]) for row in rows] == [True, False]


def test_a_missing_library_before_every_layer(tmp_path: Path) -> None:
    first = node("Twist", "x", "g")
    first.domain = "acme"
    nodes = [first, node("MatMul", "g v", "y")]
    model = make(nodes, {"x": ("N", 4)}, ["y"], {"v": noise(4, 2)}, domains={"acme": 1})
    result = run(model, tmp_path)
    assert result.exit_code == 3
    assert "error: no layer could be measured: operator Twist of domain 'acme'" in result.stderr
    assert "Traceback" not in result.output


def test_a_span_through_an_unknown_operator() -> None:
    """Its output picks an axis: the shape behind it is known, what it computes is not."""
    model = custom("Twist", "acme", domains={"acme": 1})
    model.graph.node.insert(2, node("CumSum", "h g", "sums"))
    model.graph.node[3].input[0] = "sums"
    topology = topology_of(model)
    assert span_of(topology, "v").n_inputs == 5
    with pytest.raises(
        UnsupportedModelError,
        match=r"inside the span: operator Twist of domain 'acme' \(node 'g'\) .* custom-op library",
    ):
        span_of(topology, "v", in_layer="w")


def test_a_known_shape_needs_no_run() -> None:
    """An operator that ends the model is nobody's trouble but its own."""
    nodes = [node("MatMul", "x w", "h"), node("Twist", "h", "y")]
    nodes[1].domain = "acme"
    topology = topology_of(
        make(nodes, {"x": ("N", 4)}, ["y"], {"w": noise(4, 5)}, domains={"acme": 1})
    )
    assert topology.nodes["w"]["reason"] is None
    assert "operator Twist of domain 'acme'" in topology.graph["notes"][0]


def test_a_model_that_fails_on_noise_keeps_its_layers() -> None:
    """Its shapes were asked of a run that its own data would not have failed."""
    nodes = [
        node("MatMul", "x w", "h"), node("Cast", "x", "i", to=TensorProto.INT64),
        node("Reshape", "i flat", "f"), node("NonZero", "f", "nz"),
        node("Squeeze", "nz", "s"), node("Gather", "h s", "g", axis=1), node("MatMul", "g v", "y"),
    ]  # fmt: skip
    weights = {"w": noise(4, 5), "v": noise(5, 2), "flat": np.array([-1])}
    topology = topology_of(make(nodes, {"x": ("N", 4)}, ["y"], weights))
    assert topology.nodes["w"]["reason"] is None
    assert set(topology) == {"w", "v"}


# --- shapes ------------------------------------------------------------------------------------


def test_an_input_that_nothing_settles(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"shape of tensor .* is open .*pass an example input"
    ):
        span_of(topology_of(open_model()), "fc")
    result = run(open_model(), tmp_path)
    assert result.exit_code == 3
    assert (
        "error: no layer could be measured: input 'x' is open (1, ?, 3), and no example settles "
        "it: pass one (input= of topology_of) or its shape (--input-shape x=..." in result.stderr
    )
    assert "Traceback" not in result.output
    assert run(open_model(), tmp_path, "--input-shape", "x=1,5,3").exit_code == 0


def shapeless(where: str, field: str) -> onnx.ModelProto:
    model = between(node("Relu", "h", "g"))
    value = getattr(model.graph, where)[0]
    if field == "type":
        value.ClearField("type")
    else:
        value.type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("field", ["shape", "type"])
@pytest.mark.parametrize("form", ["proto", "path"])
def test_an_output_of_no_shape_is_inferred(field: str, form: str, tmp_path: Path) -> None:
    model: Any = shapeless("output", field)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    if form == "path":
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        model = tmp_path / "m.onnx"
    topology = topology_of(model)
    assert [topology.nodes[k]["output"]["shape"] for k in "wv"] == [(1, 5), (1, 2)]
    assert span_of(topology, "v", in_layer="w").n_outputs == 2


def test_an_output_of_no_shape_beside_external_data(tmp_path: Path) -> None:
    model, path = shapeless("output", "shape"), tmp_path / "m.onnx"
    model.graph.output[0].type.tensor_type.shape.SetInParent()
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    saved = onnx.load(path, load_external_data=False)
    saved.graph.output[0].type.tensor_type.ClearField("shape")
    path.write_bytes(saved.SerializeToString())
    assert span_of(topology_of(path), "w").n_inputs == 4


def test_an_input_of_no_shape_needs_an_example(tmp_path: Path) -> None:
    model = shapeless("input", "shape")
    topology = topology_of(model)
    with pytest.raises(UnsupportedModelError, match=r"tensor 'x' is open \(\?\); pass an example"):
        span_of(topology, "w")
    assert span_of(topology_of(model, noise(1, 4)), "v", in_layer="w").n_inputs == 4
    result = run(model, tmp_path)
    assert result.exit_code == 3
    assert "input 'x' is open (of any rank), and no example settles it" in result.stderr
    with pytest.raises(ModelError, match="the file does not say how many dimensions it has"):
        example_of_shape(tmp_path / "model.onnx", {})


def test_what_is_wrong_beside_a_missing_shape_is_said() -> None:
    model = shapeless("output", "shape")
    model.graph.node[1].op_type = "Reluu"
    with pytest.raises(ModelError, match="ONNX has no operator 'Reluu'"):
        topology_of(model)


# --- control flow --------------------------------------------------------------------------------


def branches(hidden: bool) -> onnx.ModelProto:
    """x -> MatMul -> If on the sum of x -> MatMul; with a layer in each branch, or none."""
    out = [helper.make_tensor_value_info("o", 1, (None, 5))]

    def branch(name: str, factor: str) -> onnx.GraphProto:
        op = "MatMul" if hidden else "Mul"
        return helper.make_graph([node(op, f"h {factor}", "o", name=f"{name}/o")], name, [], out)

    nodes = [
        node("MatMul", "x w", "h"), node("ReduceSum", "x", "sum", keepdims=0),
        node("Cast", "sum", "c", to=TensorProto.BOOL),
        node("If", "c", "g", then_branch=branch("then", "a"), else_branch=branch("else", "b")),
        node("MatMul", "g v", "y"),
    ]  # fmt: skip
    shape = (5, 5) if hidden else (5,)
    weights = {"w": noise(4, 5), "v": noise(5, 2), "a": noise(*shape), "b": noise(*shape, seed=1)}
    return make(nodes, {"x": ("N", 4)}, ["y"], weights)


def loop() -> onnx.ModelProto:
    """x -> MatMul -> Loop of three rounds that adds 1 -> MatMul."""
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Add", "carried one", "next")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", 1, [1, 5]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", 1, [1, 5]),
        ],
    )
    middle = node("Loop", "rounds start h", "g", body=body)
    model = between(middle)
    for name, value in (
        ("rounds", np.array(3)), ("start", np.array(True)), ("one", np.ones((), np.float32)),
    ):  # fmt: skip
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


@pytest.mark.parametrize("made", [lambda: branches(False), loop], ids=["If", "Loop"])
def test_control_flow_inside_a_span(made: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    topology = topology_of(made())
    with pytest.raises(
        UnsupportedModelError,
        match=r"control flow inside the span: node 'g' \((If|Loop)\), .*measure the layers before",
    ):
        span_of(topology, "v", in_layer="w", background="zeros")
    # either side of it is measured
    result = run(made(), tmp_path)
    assert result.exit_code == 0
    assert result.stdout.count("±") >= 3


def test_layers_in_branches_that_the_data_chooses(tmp_path: Path) -> None:
    topology = topology_of(branches(True))
    assert list(topology) == ["w", "v"]
    assert "control flow is not looked into" in topology.graph["notes"][0]
    assert run(branches(True), tmp_path).exit_code == 0


def test_every_layer_in_branches_that_the_data_chooses(tmp_path: Path) -> None:
    model = branches(True)
    del model.graph.node[-1]
    model.graph.output[0].name = "g"
    model.graph.node[0].op_type, model.graph.node[0].input[1] = "Add", "b4"
    model.graph.initializer.append(onnx.numpy_helper.from_array(noise(4), "b4"))
    for branch in model.graph.node[3].attribute:
        branch.g.node[0].input[1] = "w"
    assert not topology_of(model)
    result = run(model, tmp_path)
    assert result.exit_code == 3
    assert "no layer could be measured: If node 'g' holds 2 operators" in result.stderr
    assert "Traceback" not in result.output
