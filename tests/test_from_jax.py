"""The JAX exporter, with JAX, Flax and jax2onnx; `tox -e jax` brings them."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from typer.testing import CliRunner

from onnx_ei import topology_of
from onnx_ei.cli import app
from onnx_ei.errors import ModelError, OnnxEiWarning, UnsupportedModelError
from onnx_ei.exporters import export_jax

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    jax = pytest.importorskip("jax")
    pytest.importorskip("jax2onnx")
    pytest.importorskip("flax")

import jax.numpy as jnp
from flax import linen, nnx

# jax2onnx and JAX warn of their own deprecations while a function is traced.
pytestmark = pytest.mark.filterwarnings("default", "error::onnx_ei.errors.OnnxEiWarning")

ZOO = Path(__file__).parent / "zoo"


class Mlp(nnx.Module):
    def __init__(self, activation=nnx.tanh):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(4, 5, rngs=rngs)
        self.stack = nnx.List([nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)])
        self.activation = activation

    def __call__(self, x):
        return self.stack[1](self.activation(self.stack[0](self.activation(self.hidden(x)))))


class LinenMlp(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3, name="last")(linen.sigmoid(linen.Dense(5, name="first")(x)))


def example(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def run(path, x):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def shapes(path):
    graph = onnx.load(path).graph
    return [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    ]


def found(path):
    topology = topology_of(str(path))
    return {key: data["output"]["activation"] for key, data in topology.nodes(data=True)}


@pytest.mark.parametrize(
    ("activation", "name"), [(nnx.relu, "Relu"), (nnx.tanh, "Tanh"), (nnx.sigmoid, "Sigmoid")]
)
def test_layers_are_called_as_in_the_module(tmp_path, activation, name):
    model = Mlp(activation)
    path = export_jax(model, example(2, 4), tmp_path / "m.onnx")
    assert path == tmp_path / "m.onnx"
    assert found(path) == {"hidden": name, "stack.0": name, "stack.1": None}
    assert shapes(path) == [["batch", 4], ["batch", 3]]
    onnx.checker.check_model(path, full_check=True)
    x = example(7, 4)
    np.testing.assert_allclose(run(path, x), np.asarray(model(x)), rtol=1e-4, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_function_of_a_linen_module(tmp_path):
    net = LinenMlp()
    variables = net.init(jax.random.PRNGKey(0), example(1, 4))

    def apply(x):
        return net.apply(variables, x)

    path = export_jax(apply, example(2, 4), tmp_path / "m.onnx", params=variables)
    assert found(path) == {"first": "Sigmoid", "last": None}
    path = export_jax(apply, example(2, 4), tmp_path / "m.onnx")
    assert found(path) == {"layer0": "Sigmoid", "layer1": None}


def test_dense_layers_keep_samples_and_positions_apart(tmp_path):
    path = export_jax(nnx.Linear(4, 6, rngs=nnx.Rngs(0)), example(2, 5, 4), tmp_path / "m.onnx")
    (node,) = (data for _, data in topology_of(str(path)).nodes(data=True))
    assert (node["input"]["shape"], node["output"]["shape"]) == ((1, 5, 4), (1, 5, 6))


def test_two_inputs_and_two_outputs(tmp_path):
    weight = jnp.asarray(example(3, 4))

    def both(x, y):
        z = x @ weight + y
        return z, jnp.tanh(z)

    path = export_jax(both, (example(2, 3), example(2, 4)), tmp_path / "m.onnx")
    assert shapes(path) == [["batch", 3], ["batch", 4], ["batch", 4], ["batch", 4]]


def test_indices_stay_indices(tmp_path):
    table = jnp.asarray(example(9, 4))
    path = export_jax(
        lambda i: jnp.tanh(table[i].sum(1)), np.array([[0, 8, 3]], np.int32), tmp_path / "m.onnx"
    )
    assert shapes(path)[0] == ["batch", 3]


def test_a_batch_that_cannot_be_free_is_said(tmp_path):
    def mixing(x):
        return jnp.tanh(x.reshape(4, -1))

    with pytest.warns(OnnxEiWarning, match=r"mixing: .*cannot be free.*\(2, 6\)"):
        path = export_jax(mixing, example(2, 6), tmp_path / "m.onnx")
    assert shapes(path)[0] == [2, 6]
    with pytest.warns(OnnxEiWarning, match="leading dimensions differ"):
        export_jax(lambda x, y: x * y, (example(1, 3), example(2, 3)), tmp_path / "m.onnx")


def test_no_path_of_this_machine_and_the_same_bytes(tmp_path):
    files = [export_jax(Mlp(), example(1, 4), tmp_path / n).read_bytes() for n in "ab"]
    assert files[0] == files[1]
    for leak in (Path(__file__), Path(jax.__file__), Path.cwd(), Path(sys.prefix), tmp_path):
        assert str(leak).encode() not in files[0]
    assert re.search(rb"[\w-]+\.py\b", files[0]) is None


def test_what_onnx_cannot_say(tmp_path):
    def svd(x):
        return jnp.linalg.svd(x)[1]

    with pytest.raises(UnsupportedModelError, match=r"svd.* cannot be exported to ONNX"):
        export_jax(svd, example(2, 4, 4), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_something_else_is_not_written(tmp_path):
    calls = []

    def changing(x):
        calls.append(None)  # traced functions must be pure; this one is not
        return x * float(len(calls))

    (tmp_path / "m.onnx").write_text("an earlier file")
    with pytest.raises(ModelError, match=r"output 0 of changing.*no file was written"):
        export_jax(changing, example(2, 4), tmp_path / "m.onnx")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["an earlier file"]
    export_jax(changing, example(2, 4), tmp_path / "m.onnx", check=False)


def test_wrong_arguments(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(TypeError, match="a function of arrays, got int"):
        export_jax(3, example(1, 4), path)
    with pytest.raises(TypeError, match="an array of numbers"):
        export_jax(Mlp(), "x", path)
    with pytest.raises(ValueError, match=r"Mlp fails on the example input \(\(1, 9\) float32"):
        export_jax(Mlp(), example(1, 9), path)
    with pytest.raises(FileNotFoundError, match="does not exist; create it"):
        export_jax(Mlp(), example(1, 4), tmp_path / "none" / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("jaxnets.py").write_text(
        "import jax.numpy as jnp\n"
        "import numpy as np\n"
        "WEIGHT = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)\n"
        "def net(x):\n    return jnp.tanh(x @ WEIGHT)\n"
        "def build():\n    return net\n"
    )
    for arguments in (["jaxnets:net"], ["jaxnets:build", "--factory"]):
        done = CliRunner().invoke(
            app, ["export", "jax", *arguments, "--input-shape", "1,4", "-o", "m.onnx"]
        )
        assert done.exit_code == 0, done.output
        assert found("m.onnx") == {"layer0": "Tanh"}
    done = CliRunner().invoke(app, ["export", "jax", "jaxnets:net", "-o", "n.onnx"])
    assert (done.exit_code, "an example input is needed" in done.output) == (2, True)


@pytest.mark.parametrize("net", ["mlp", "cnn", "encoder"])
def test_the_zoo_is_what_its_script_writes(tmp_path, monkeypatch, net):
    monkeypatch.syspath_prepend(str(ZOO))
    import make_jax
    import weights

    shape = {"mlp": weights.MLP_INPUT, "cnn": weights.CNN_INPUT, "encoder": weights.ENCODER_INPUT}
    x = weights.example(shape[net])
    path = export_jax(getattr(make_jax, net)(), x, tmp_path / "m.onnx")
    assert found(path) == found(ZOO / f"{net}_jax.onnx")
    np.testing.assert_allclose(run(path, x), run(ZOO / f"{net}_jax.onnx", x), rtol=1e-4, atol=1e-5)
