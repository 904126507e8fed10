"""`onnx-ei export`: import paths, examples, exit codes; nothing is unpickled."""

from __future__ import annotations

import pickle
import re
import sys

import numpy as np
import onnx
import pytest
from conftest import require_peer
from typer.testing import CliRunner

from onnx_ei import topology_of
from onnx_ei.cli import app

require_peer("torch")
require_peer("skl2onnx")

SOURCE = """
import numpy as np
import torch
from torch import nn
from sklearn.neural_network import MLPRegressor


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 2)

    def forward(self, ids, x):
        return self.out(self.table(ids).mean(1) + x)


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(2, 2, 2)


class Distances(nn.Module):
    # PyTorch's dynamo exporter has no translation of it

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return torch.cdist(self.out(x), torch.ones(2, 3))


def build():
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


net = build()


def regressor():
    x = np.random.default_rng(0).normal(size=(30, 3))
    net = MLPRegressor(hidden_layer_sizes=4, solver="lbfgs", max_iter=2000, tol=1)
    return net.fit(x, x[:, 0])


def broken():
    raise RuntimeError("no weights\\nhere")


number = 3
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A module of the user's own, in the current folder."""
    monkeypatch.chdir(tmp_path)
    # undone at the end: what the command prepends goes with it
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    (tmp_path / "mynets.py").write_text(SOURCE)
    yield "mynets"
    sys.modules.pop("mynets", None)


def call(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.mark.parametrize("name", ["build", "net"])
def test_torch_by_a_factory_or_by_the_module_itself(nets, name):
    done = call("torch", f"{nets}:{name}", "--input-shape", "1,4", "-o", "m.onnx")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "m.onnx\n", "")
    assert list(topology_of("m.onnx")) == ["0", "2"]


def test_inputs_by_name_and_dtype(nets, tmp_path):
    shapes = ["--input-shape", "ids=1,4:int64", "--input-shape", "x=1,3"]
    done = call("torch", f"{nets}:Named", *shapes, "-o", "m.onnx")
    assert done.exit_code == 0, done.stderr
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.load("m.onnx").graph.input}
    assert types == {"ids": onnx.TensorProto.INT64, "x": onnx.TensorProto.FLOAT}
    np.savez(tmp_path / "x.npz", ids=np.array([[1, 4]]), x=np.ones((1, 3), np.float32))
    done = call("torch", f"{nets}:Named", "--input", "x.npz", "-o", "n.onnx", "--opset", "20")
    assert done.exit_code == 0, done.stderr
    assert onnx.load("n.onnx").opset_import[0].version == 20


def test_a_fixed_batch_is_a_line_on_standard_error(nets):
    done = call("torch", f"{nets}:Fixed", "--input-shape", "2,4", "-o", "m.onnx")
    assert done.exit_code == 0
    assert done.stdout == "m.onnx\n"
    assert done.stderr.startswith("warning: Fixed: the leading dimension cannot be free")


def test_torchs_other_exporter(nets):
    given = ["--input-shape", "1,4", "-o", "m.onnx"]
    done = call("torch", f"{nets}:Distances", *given)
    assert (done.exit_code, done.stdout) == (0, "m.onnx\n"), done.stderr
    assert done.stderr.startswith("warning: Distances: exported by PyTorch's legacy exporter")
    assert done.stderr.count("\n") == 1
    assert next(iter(topology_of("m.onnx"))) == "out"
    done = call("torch", f"{nets}:Distances", *given, "--exporter", "dynamo")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "cannot be exported to ONNX: by the dynamo exporter: " in done.stderr
    done = call("torch", f"{nets}:build", *given, "--exporter", "legacy")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "m.onnx\n", "")
    done = call("torch", f"{nets}:build", *given, "--exporter", "old")
    assert (done.exit_code, "unknown exporter 'old'" in done.stderr) == (2, True)


def test_sklearn_needs_no_input(nets, tmp_path):
    done = call("sklearn", f"{nets}:regressor", "-o", "m.onnx")
    assert (done.exit_code, done.stdout) == (0, "m.onnx\n"), done.stderr
    assert list(topology_of("m.onnx")) == ["hidden1", "output"]
    np.save(tmp_path / "x.npy", np.zeros((5, 3)))
    assert call("sklearn", f"{nets}:regressor", "--input", "x.npy", "-o", "m.onnx").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torch", "model.pkl"], "MODULE:NAME is needed.*a pickled model is not loaded"),
        (["torch", "mynets:"], "MODULE:NAME is needed"),
        (["torch", "nowhere:net"], "cannot import 'nowhere'.*No module named"),
        (["torch", "mynets:buil"], "'mynets' has no 'buil'; did you mean 'build'"),
        (["torch", "mynets:number"], "mynets:number is a int: neither a module nor a function"),
        (["torch", "mynets:regressor"], r"mynets:regressor\(\) returned a MLPRegressor, not a mod"),
        (["torch", "mynets:broken"], r"mynets:broken\(\) failed \(RuntimeError: no weights\)"),
        (["torch", "mynets:net"], "an example input is needed"),
        (["torch", "mynets:net", "--input-shape", "1,x"], "--input-shape: .*DTYPE"),
        (["torch", "mynets:net", "--input-shape", "0,4"], "--input-shape: .*got '0,4'"),
        (["torch", "mynets:net", "--input-shape", "1,4:text"], "--input-shape: .*DTYPE"),
        (["torch", "mynets:net", "--input-shape", "1,4", "--input", "x"], "exclude each other"),
        (["torch", "mynets:net", "--input", "none.npy"], "No such file"),
        (["torch", "mynets:net", "--input-shape", "1,9"], "fails on the example input"),
        (["torch", "mynets:Named", "--input-shape", "a=1", "--input-shape", "2"], "all inputs or"),
        (["sklearn", "mynets:build"], "returned a Sequential, not an estimator"),
        (["sklearn", "mynets:regressor", "--input-shape", "a=1,3"], "takes one table"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(nets, arguments, message):
    done = call(*arguments, "-o", "m.onnx")
    assert done.exit_code == 2, done.output
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_missing_folder_is_usage_and_a_missing_package_the_installation(nets, monkeypatch):
    done = call("sklearn", f"{nets}:regressor", "-o", "none/m.onnx")
    assert (done.exit_code, "does not exist; create it" in done.stderr) == (2, True)
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    done = call("sklearn", f"{nets}:regressor", "-o", "m.onnx")
    assert (done.exit_code, 'pip install "onnx-ei[sklearn]"' in done.stderr) == (4, True)
    for name, needed in (("torch", "torch"), ("keras", "keras"), ("jax", "jax")):
        monkeypatch.setitem(sys.modules, needed, None)
        done = call(name, f"{nets}:net", "--input-shape", "1,4", "-o", "m.onnx")
        assert (done.exit_code, f'pip install "onnx-ei[{name}]"' in done.stderr) == (4, True)


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_an_example_of_objects_is_refused_and_not_unpickled(nets, tmp_path):
    np.save("x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    (tmp_path / "y.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("x.npy", "y.npy"):
        done = call("torch", f"{nets}:net", "--input", name, "-o", "m.onnx")
        assert (done.exit_code, "holds no plain arrays" in done.stderr) == (2, True)
    assert not (tmp_path / "exploded").exists()


def test_debug_shows_the_traceback(nets):
    done = call("torch", f"{nets}:broken", "--input-shape", "1,4", "-o", "m.onnx", "--debug")
    assert isinstance(done.exception, ValueError)
    assert isinstance(done.exception.__cause__, RuntimeError)
