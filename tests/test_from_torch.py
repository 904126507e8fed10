"""The PyTorch exporter: what the file says, what it leaves out, and how it refuses."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import require_peer

from onnx_ei import calibrate, ei_parts, topology_of
from onnx_ei.errors import (
    MissingDependencyError,
    ModelError,
    OnnxEiWarning,
    UnsupportedModelError,
)
from onnx_ei.exporters import export_torch

torch = require_peer("torch")
nn = torch.nn


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 5)
        self.drop = nn.Dropout(0.5)
        self.output = nn.Linear(5, 3)

    def forward(self, x):
        return self.output(self.drop(torch.sigmoid(self.hidden(x))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(x + self.bn1(self.conv1(x)))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.block = Residual()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(36, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                # Statistics that a fold has to get right: the defaults are nearly the identity.
                nn.init.uniform_(module.running_mean, -1, 1)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.uniform_(module.bias, -1, 1)

    def forward(self, x):
        return self.fc(self.pool(self.block(self.stem(x))).flatten(1))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.right = nn.Linear(5, 4)

    def forward(self, x, y):
        return {"sum": self.left(x) + self.right(y), "left": self.left(x)}


class Calls(nn.Module):
    """A linear layer with a forward of the test's own."""

    def __init__(self, call, n_inputs: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(n_inputs, 4)
        self.call = call

    def forward(self, x):
        return self.call(self.linear, x)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shapes(path: Path) -> dict[str, list[int | str]]:
    graph = onnx.load(path, load_external_data=False).graph
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }


def weights(path: Path) -> set[str]:
    return {tensor.name for tensor in onnx.load(path, load_external_data=False).graph.initializer}


def run(path: Path, **inputs):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


@pytest.mark.parametrize(
    ("model", "shape", "keys"),
    [
        (Mlp, (4,), {"hidden.weight", "output.weight"}),
        (Cnn, (3, 8, 8), {"stem.0.weight", "block.conv1.weight", "fc.weight"}),
        # Tokens: the exporter transposes the weight of a MatMul, and renames it.
        (Mlp, (7, 4), {"hidden.weight", "output.weight"}),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_free_batch_and_weights_by_their_names(tmp_path, model, shape, keys, batch):
    module = model()
    path = export_torch(module, torch.randn(batch, *shape), tmp_path / "m.onnx")

    assert path == tmp_path / "m.onnx"
    assert next(iter(shapes(path).values())) == ["batch", *shape]
    assert all(dims[0] == "batch" for dims in shapes(path).values())
    assert keys <= weights(path)
    onnx.checker.check_model(path, full_check=True)
    assert onnx.load(path).ir_version == 10
    x = torch.randn(5, *shape)
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    np.testing.assert_allclose(run(path, x=x.numpy())[0], expected, rtol=1e-4, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_each_node_tells_the_path_of_its_module(tmp_path):
    path = export_torch(Cnn(), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx")
    scopes = {
        prop.value
        for node in onnx.load(path).graph.node
        for prop in node.metadata_props
        if prop.key == "pkg.torch.onnx.name_scopes"
    }
    assert any("'pool'" in scope for scope in scopes)
    assert any("'fc'" in scope for scope in scopes)


@pytest.mark.parametrize("model", [Mlp, Cnn])
def test_no_source_path_is_left_in_the_file(tmp_path, model):
    shape = (3, 8, 8) if model is Cnn else (4,)
    data = export_torch(model(), torch.randn(2, *shape), tmp_path / "m.onnx").read_bytes()

    assert b"stack_trace" not in data
    assert b'File "' not in data
    for leak in (Path(__file__), Path(torch.__file__), Path.cwd(), Path(sys.prefix), tmp_path):
        assert str(leak).encode() not in data
    assert re.search(rb"[\w-]+\.py\b", data) is None


def test_an_export_without_cleaning_would_leak(tmp_path):
    """The test above is worth something only while the exporter leaves stack traces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Mlp().eval(), (torch.randn(2, 4),), dynamo=True, verbose=False)
    program.save(tmp_path / "m.onnx")
    assert Path(__file__).name.encode() in (tmp_path / "m.onnx").read_bytes()


def test_train_mode_is_left_for_the_export_and_put_back(tmp_path):
    module = Mlp().train()
    module.output.eval()
    x = torch.randn(2, 4)
    path = export_torch(module, x, tmp_path / "m.onnx")

    assert [m.training for m in (module, module.hidden, module.drop, module.output)] == [
        True,
        True,
        True,
        False,
    ]
    assert all(node.op_type != "Dropout" for node in onnx.load(path).graph.node)
    assert all(parameter.grad is None for parameter in module.parameters())
    with pytest.raises(ValueError, match="fails on the example input"):
        export_torch(module, torch.randn(2, 9), tmp_path / "n.onnx")
    assert module.training
    assert not module.output.training


@pytest.mark.parametrize("how", ["tuple", "dict", "list"])
def test_two_inputs(tmp_path, how):
    x, y = torch.randn(1, 3), np.random.default_rng(0).normal(size=(1, 5))
    given = {"tuple": (x, y), "dict": {"y": y, "x": x}, "list": [x, y]}[how]
    module = TwoInputs()
    path = export_torch(module, given, tmp_path / "m.onnx")

    assert {name: shapes(path)[name] for name in ("x", "y")} == {
        "x": ["batch", 3],
        "y": ["batch", 5],
    }
    x, y = torch.randn(4, 3), torch.randn(4, 5)
    with torch.no_grad():
        expected = module(x, y)
    for got, name in zip(run(path, x=x.numpy(), y=y.numpy()), ("sum", "left"), strict=True):
        np.testing.assert_allclose(got, expected[name].numpy(), rtol=1e-4, atol=1e-5)


def test_arrays_take_the_dtype_of_the_module(tmp_path):
    path = export_torch(Mlp(), np.zeros((1, 4)), tmp_path / "m.onnx")
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    path = export_torch(Mlp().double(), np.zeros((1, 4), np.float32), tmp_path / "m.onnx")
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE


def test_indices_are_drawn_within_the_example(tmp_path):
    module = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
    path = export_torch(module, torch.tensor([[0, 9, 3]]), tmp_path / "m.onnx")
    assert shapes(path)["input"] == ["batch", 3]


def test_recurrent(tmp_path):
    module = Calls(lambda linear, x: torch.sigmoid(linear(x)))
    module.linear = nn.LSTM(3, 4, batch_first=True)
    module.call = lambda lstm, x: lstm(x)[0]
    path = export_torch(module, torch.randn(1, 6, 3), tmp_path / "m.onnx")
    assert {"linear.weight_ih_l0", "linear.weight_hh_l0"} <= weights(path)
    assert shapes(path)["x"] == ["batch", 6, 3]


def test_weights_too_large_for_one_file_go_beside_it(tmp_path):
    module = nn.Sequential(nn.Linear(40, 30), nn.ReLU())
    path = export_torch(module, torch.randn(1, 40), tmp_path / "m.onnx", max_inline_bytes=4919)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx.data").stat().st_size >= 4 * 40 * 30
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(
            next(t for t in onnx.load(path).graph.initializer if t.name == "0.weight")
        ),
        module[0].weight.detach().numpy(),
    )
    export_torch(module, torch.randn(1, 40), tmp_path / "n.onnx", max_inline_bytes=4920)
    assert not (tmp_path / "n.onnx.data").exists()


@pytest.mark.parametrize("opset", [18, 23])
def test_opset(tmp_path, opset):
    path = export_torch(Mlp(), torch.randn(1, 4), tmp_path / "m.onnx", opset=opset)
    assert [o.version for o in onnx.load(path).opset_import if o.domain == ""] == [opset]


@pytest.mark.parametrize(
    ("call", "example", "reason"),
    [
        (lambda linear, x: linear(x.reshape(2, -1)), (2, 2, 2), "own shapes fix it"),
        (lambda linear, x: linear(x.reshape(1, -1)), (1, 2, 2), "inconsisten"),
    ],
)
def test_a_batch_that_cannot_be_free_is_said(tmp_path, call, example, reason):
    with pytest.warns(OnnxEiWarning, match=f"(?s)Calls: .*cannot be free.*{reason}"):
        path = export_torch(Calls(call), torch.randn(*example), tmp_path / "m.onnx")
    assert shapes(path)["x"] == list(example)


def test_inputs_of_different_batches_are_exported_as_they_are(tmp_path):
    with pytest.warns(OnnxEiWarning, match=r"leading dimensions differ.*\(1, 3\), \(2, 5\)"):
        path = export_torch(
            TwoInputs(), (torch.randn(1, 3), torch.randn(2, 5)), tmp_path / "m.onnx"
        )
    assert shapes(path)["y"] == [2, 5]


def test_what_onnx_cannot_say(tmp_path, capfd):
    by_value = Calls(lambda linear, x: linear(x) if x.sum() > 0 else x)
    with pytest.raises(UnsupportedModelError, match=r"Calls cannot be exported.*traceable"):
        export_torch(by_value, torch.randn(2, 4), tmp_path / "m.onnx")
    no_operator = Calls(lambda linear, x: torch.linalg.svd(linear(x))[1])
    with pytest.raises(UnsupportedModelError, match=r"svd.*pass its path"):
        export_torch(no_operator, torch.randn(2, 4, 4), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


class Prototypes(nn.Module):
    """Distances to learned points: torch has no ONNX translation of them for dynamo."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Sigmoid())
        self.head = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
        self.points = nn.Parameter(torch.randn(6, 3))

    def forward(self, x):
        return torch.cdist(self.head(self.embed(x)), self.points)


class Tokens(nn.Module):
    """The same for each token, by one layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)
        self.points = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        return torch.cdist(self.mix(torch.relu(self.mix(x))).mean(1), self.points)


def scripted():
    return torch.jit.script(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))


LEGACY = "legacy exporter .dynamo=False.*the dynamo exporter fails: "


@pytest.mark.parametrize(
    ("build", "shape", "names", "keys"),
    [
        (
            Prototypes,
            (4,),
            {"embed.0.weight", "head.1.running_mean", "head.1.running_var", "points"},
            ["embed.0", "head.0", "points"],
        ),
        # a product on three axes: the exporter transposes the weight and renames it
        (Tokens, (7, 4), {"mix.weight", "points"}, ["mix", "mix#2"]),
        (scripted, (4,), {"0.weight", "2.bias"}, ["0", "2"]),
    ],
)
def test_where_dynamo_fails_the_legacy_exporter_steps_in(
    tmp_path, capfd, build, shape, names, keys
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = build()
    with pytest.warns(OnnxEiWarning, match=LEGACY):
        path = export_torch(module, torch.randn(1, *shape), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    assert names <= weights(path)
    assert next(iter(shapes(path).values())) == ["batch", *shape]
    onnx.checker.check_model(path, full_check=True)
    x = torch.randn(5, *shape)
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    np.testing.assert_allclose(next(iter(run_any(path, x.numpy()))), expected, rtol=1e-4, atol=1e-5)
    assert list(topology_of(str(path)))[: len(keys)] == keys
    assert re.search(rb"[\w-]+\.py\b", path.read_bytes()) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def run_any(path, x):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def test_the_legacy_exporter_by_name(tmp_path):
    module = Cnn().train()
    path = export_torch(module, torch.randn(2, 3, 8, 8), tmp_path / "m.onnx", exporter="legacy")
    assert module.training
    assert {"stem.0.weight", "block.bn1.running_var", "fc.weight"} <= weights(path)
    proven = export_torch(module, torch.randn(2, 3, 8, 8), tmp_path / "n.onnx")
    assert list(topology_of(str(path))) == list(topology_of(str(proven)))
    older = export_torch(Mlp(), torch.randn(1, 4), path, exporter="legacy", opset=20)
    assert [o.version for o in onnx.load(older).opset_import if o.domain == ""] == [20]
    with pytest.raises(ValueError, match="unknown exporter 'legasy': did you mean 'legacy'"):
        export_torch(Mlp(), torch.randn(1, 4), path, exporter="legasy")


@pytest.mark.parametrize("how", ["tuple", "dict"])
def test_the_legacy_exporter_names_inputs_by_their_arguments(tmp_path, how):
    x, y = torch.randn(1, 3), torch.randn(1, 5)
    given = {"tuple": (x, y), "dict": {"y": y, "x": x}}[how]
    module = TwoInputs()
    path = export_torch(module, given, tmp_path / "m.onnx", exporter="legacy")
    assert {name: shapes(path)[name] for name in ("x", "y")} == {
        "x": ["batch", 3],
        "y": ["batch", 5],
    }


def test_when_both_exporters_fail_both_causes_are_named(tmp_path, capfd):
    no_operator = Calls(lambda linear, x: torch.linalg.svd(linear(x))[1])
    with pytest.raises(
        UnsupportedModelError,
        match=r"Calls cannot .*by the dynamo exporter: .*svd.*; by the legacy exporter: .*svd.*"
        r"Make its forward traceable .*or write the file by other means",
    ):
        export_torch(no_operator, torch.randn(2, 4, 4), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")


def test_a_recorded_decision_is_refused_unless_it_is_asked_for(tmp_path):
    by_value = Calls(lambda linear, x: linear(x) if x.sum() > -1e9 else x)
    x = torch.randn(2, 4)
    with pytest.raises(UnsupportedModelError, match=r"forward takes 1 decisions.*for good"):
        export_torch(by_value, x, tmp_path / "m.onnx")
    with pytest.warns(OnnxEiWarning, match=r"Calls: the module takes 1 decisions .*no proof"):
        export_torch(by_value, x, tmp_path / "m.onnx", exporter="legacy")
    # one that random input takes both ways is found out
    turns = Calls(lambda linear, x: linear(x) if x[0, 0] > 0.9 else -linear(x))
    with pytest.warns(OnnxEiWarning) as said, pytest.raises(ModelError, match="output 0 of Calls"):
        export_torch(turns, torch.tensor([[1.0] * 4, [-1.0] * 4]), path_of(tmp_path), **ASKED)
    assert "decisions" in str(said[0].message)


ASKED = {"exporter": "legacy"}


def path_of(folder):
    return folder / "n.onnx"


def test_a_batch_that_a_recorded_run_fixes_is_said(tmp_path):
    module = Calls(lambda linear, x: torch.cdist(linear(x.reshape(2, -1)), torch.ones(3, 4)))
    with pytest.warns(OnnxEiWarning) as caught:
        path = export_torch(module, torch.randn(2, 2, 2), tmp_path / "m.onnx")
    said = " ".join(str(w.message) for w in caught)
    assert re.search(LEGACY, said)
    assert "the leading dimension cannot be free (the recorded program fixes it" in said
    assert shapes(path)["x"] == [2, 2, 2]


def test_a_module_that_only_the_legacy_exporter_takes_has_live_weights():
    """Batch norms are equal at first: the exporter keeps one of them for all."""
    module, x = Prototypes(), torch.randn(200, 4)
    with pytest.warns(OnnxEiWarning, match=LEGACY):
        topology = topology_of(module, x[:1])
    assert [key for key in topology if not isinstance(key, str)] == [
        module.embed[0],
        module.head[0],
    ]
    assert topology.nodes[module.embed[0]]["output"]["activation"] is module.embed[2]
    for step in range(2):
        if step:
            with torch.no_grad():
                for count, tensor in enumerate([*module.parameters(), *module.buffers()]):
                    if tensor.is_floating_point():
                        tensor.add_(torch.rand_like(tensor) * (1 + count / 4))
        found = calibrate(topology, x, keep_bounds=False)
        with torch.no_grad():
            embedded = module.eval().embed(x)
            headed = module.head(embedded)
        for extent, values in (
            (found.extents["embed.0"][1], embedded),
            (found.extents["head.0"][1], headed),
        ):
            ends = (float(values.min()), float(values.max()))
            assert (extent.low, extent.high) == pytest.approx(ends, rel=1e-4, abs=1e-6)


def test_a_scripted_module_is_measured_by_its_modules():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = scripted()
    first, last = getattr(module, "0"), getattr(module, "2")
    with pytest.warns(OnnxEiWarning, match=LEGACY):
        topology = topology_of(module, torch.zeros(1, 4))
    assert list(topology) == [first, last]
    assert topology.nodes[first]["output"]["activation"] == "Relu"
    options = {"samples": 500, "in_bins": 4, "out_bins": 4, "out_range": "dynamic"}
    before = ei_parts(last, topology, **options)
    with torch.no_grad():
        last.weight[:, 1:] = 0
    assert ei_parts(last, topology, **options) > before


def test_a_file_that_does_something_else_is_not_written(tmp_path):
    (tmp_path / "m.onnx").write_text("an earlier file")
    noisy = Calls(lambda linear, x: linear(x) + torch.rand_like(x))
    with pytest.raises(ModelError, match=r"output 0 of Calls.*differs.*no file was written"):
        export_torch(noisy, torch.randn(2, 4), tmp_path / "m.onnx")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["an earlier file"]
    export_torch(noisy, torch.randn(2, 4), tmp_path / "m.onnx", check=False)
    assert shapes(tmp_path / "m.onnx")["x"] == ["batch", 4]


def test_a_file_that_onnxruntime_refuses_is_not_written(tmp_path):
    with pytest.raises(ModelError, match="onnxruntime cannot run what Linear"):
        export_torch(nn.Linear(4, 4).bfloat16(), torch.randn(2, 4).bfloat16(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments(tmp_path):
    x, path = torch.randn(1, 4), tmp_path / "m.onnx"
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got builtin_function"):
        export_torch(torch.relu, x, path)
    with pytest.raises(TypeError, match=r"a tensor, an array of numbers.*got str"):
        export_torch(Mlp(), "x", path)
    with pytest.raises(TypeError, match="input is empty"):
        export_torch(Mlp(), (), path)
    with pytest.raises(ValueError, match=r"Mlp fails on the example input \(\(1, 9\) torch.float"):
        export_torch(Mlp(), torch.randn(1, 9), path)
    with pytest.raises(ValueError, match=r"fails on the example input .*unexpected keyword"):
        export_torch(Mlp(), {"z": x}, path)
    with pytest.raises(ValueError, match=r"from 18 to 23.*got 9"):
        export_torch(Mlp(), x, path, opset=9)
    with pytest.raises(ValueError, match="max_inline_bytes must be 0 or more, got -1"):
        export_torch(Mlp(), x, path, max_inline_bytes=-1)
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist; create it"):
        export_torch(Mlp(), x, tmp_path / "none" / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "extra"), [("torch", "onnx-ei[torch]"), ("onnxruntime", "onnx-ei[cpu]")]
)
def test_missing_packages_are_named_with_their_extra(tmp_path, monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=re.escape(f'pip install "{extra}"')):
        export_torch(None, None, tmp_path / "m.onnx")


@pytest.mark.parametrize("name", ["from_torch", "_parity"])
def test_docstrings_run(name):
    """They are not below onnx_ei/ in the checkout, so --doctest-modules passes them by."""
    results = doctest.testmod(importlib.import_module(f"onnx_ei.exporters.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
