"""The Keras exporter, with Keras and TensorFlow; `tox -e keras` brings them."""

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
from onnx_ei.errors import BackendError, ModelError, OnnxEiWarning, UnsupportedModelError
from onnx_ei.exporters import export_keras

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")

from keras import layers, ops

# TensorFlow and Keras warn of their own deprecations while a model is built and called.
pytestmark = pytest.mark.filterwarnings("default", "error::onnx_ei.errors.OnnxEiWarning")

ZOO = Path(__file__).parent / "zoo"


def sequential(*parts, shape=(4,), name="net"):
    return keras.Sequential([keras.Input(shape), *parts], name=name)


def mlp(activation="tanh"):
    return sequential(
        layers.Dense(5, activation=activation, name="hidden1"),
        layers.Dense(6, activation=activation, name="hidden2"),
        layers.Dense(3, activation="softmax", name="output"),
    )


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
    ("activation", "name"),
    [("relu", "Relu"), ("sigmoid", "Sigmoid"), ("silu", "Silu"), ("gelu", "Gelu"), ("elu", "Elu")],
)
def test_layers_are_called_as_in_keras_and_activations_are_found(tmp_path, activation, name):
    model = mlp(activation)
    path = export_keras(model, example(2, 4), tmp_path / "m.onnx")
    assert path == tmp_path / "m.onnx"
    assert found(path) == {"hidden1": name, "hidden2": name, "output": None}
    assert shapes(path) == [["batch", 4], ["batch", 3]]
    onnx.checker.check_model(path, full_check=True)
    x = example(7, 4)
    np.testing.assert_allclose(run(path, x), np.asarray(model(x)), rtol=1e-4, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_layers_whose_names_are_counted(tmp_path):
    model = sequential(*(layers.Dense(n) for n in (5, 6, 7)), name="sequential_1")
    names = [layer.name for layer in model.layers]
    path = export_keras(model, example(1, 4), tmp_path / "m.onnx")
    assert list(found(path)) == names


def test_a_network_inside_a_network(tmp_path):
    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(5, name="deep")], name="inner")
    model = keras.Model(x, layers.Dense(3, name="last")(inner(x)))
    path = export_keras(model, example(1, 4), tmp_path / "m.onnx")
    assert list(found(path)) == ["inner.deep", "last"]


def test_a_subclassed_model(tmp_path):
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="mine")
            self.first = layers.Dense(5, activation="relu", name="first")
            self.second = layers.Dense(2, name="second")

        def call(self, x):
            return self.second(self.first(x))

    path = export_keras(Net(), example(2, 4), tmp_path / "m.onnx")
    assert found(path) == {"first": "Relu", "second": None}
    assert shapes(path)[0] == ["batch", 4]


def test_dense_layers_keep_samples_and_positions_apart(tmp_path):
    model = sequential(layers.Dense(6, activation="gelu", name="ff"), shape=(5, 4))
    path = export_keras(model, example(2, 5, 4), tmp_path / "m.onnx")
    node = topology_of(str(path)).nodes["ff"]
    assert node["input"]["shape"] == (1, 5, 4)
    assert node["output"] | {"range": None} | {"tensor": None} == {
        "activation": "Gelu",
        "shape": (1, 5, 6),
        "range": None,
        "tensor": None,
    }


def test_a_layer_norm_brings_no_pooling_layer(tmp_path):
    model = sequential(
        layers.Dense(6, name="ff"), layers.LayerNormalization(name="norm"), shape=(5, 4)
    )
    path = export_keras(model, example(2, 5, 4), tmp_path / "m.onnx")
    assert list(found(path)) == ["ff"]


def test_exact_gelu_between_convolutions(tmp_path):
    model = sequential(
        layers.Conv2D(5, 3, activation="gelu", name="first"),
        layers.Conv2D(2, 3, name="second"),
        shape=(6, 6, 3),
    )
    path = export_keras(model, example(2, 6, 6, 3), tmp_path / "m.onnx")
    assert found(path) == {"first": "Gelu", "second": None}


def test_a_recurrent_layer(tmp_path):
    model = sequential(layers.LSTM(5, name="memory"), layers.Dense(2, name="last"), shape=(6, 4))
    path = export_keras(model, example(2, 6, 4), tmp_path / "m.onnx")
    assert list(found(path)) == ["memory", "last"]


def test_attention(tmp_path):
    x = keras.Input((5, 6))
    y = layers.MultiHeadAttention(2, 3, name="attend")(x, x)
    path = export_keras(keras.Model(x, y), example(2, 5, 6), tmp_path / "m.onnx")
    assert all(key.startswith("attend") for key in found(path))


def test_two_inputs(tmp_path):
    x, y = keras.Input((3,), name="x"), keras.Input((4,), name="y")
    model = keras.Model({"x": x, "y": y}, layers.Dense(2, name="d")(ops.concatenate([x, y], 1)))
    given = {"y": example(2, 4), "x": example(2, 3)}
    path = export_keras(model, given, tmp_path / "m.onnx")
    assert sorted(shapes(path)) == [["batch", 2], ["batch", 3], ["batch", 4]]
    model = keras.Model([x, y], layers.Dense(2, name="d")(ops.concatenate([x, y], 1)))
    export_keras(model, (given["x"], given["y"]), tmp_path / "n.onnx")


def test_indices_stay_indices(tmp_path):
    x = keras.Input((3,), dtype="int32")
    model = keras.Model(x, layers.Dense(2, name="d")(layers.Embedding(9, 4)(x)))
    path = export_keras(model, np.array([[0, 8, 3]], np.int32), tmp_path / "m.onnx")
    assert "d" in found(path)


def test_a_batch_that_a_model_only_declares_is_freed(tmp_path):
    x = keras.Input(batch_shape=(2, 4))
    model = keras.Model(x, layers.Dense(3, name="d")(x))
    assert shapes(export_keras(model, example(2, 4), tmp_path / "m.onnx"))[0] == ["batch", 4]


def test_a_batch_that_cannot_be_free_is_said(tmp_path):
    x = keras.Input((4,))
    model = keras.Model(x, ops.matmul(ops.reshape(x, (2, 2, 2)), np.eye(2)), name="fixed")
    with pytest.warns(OnnxEiWarning, match=r"fixed: the leading dimension is fixed.*\(2, 4\)"):
        path = export_keras(model, example(2, 4), tmp_path / "m.onnx")
    assert shapes(path)[0] == [2, 4]


def test_no_path_of_this_machine(tmp_path):
    data = export_keras(mlp(), example(1, 4), tmp_path / "m.onnx").read_bytes()
    for leak in (Path(__file__), Path(keras.__file__), Path.cwd(), Path(sys.prefix), tmp_path):
        assert str(leak).encode() not in data
    assert re.search(rb"[\w-]+\.py\b", data) is None


def test_opset(tmp_path):
    path = export_keras(mlp(), example(1, 4), tmp_path / "m.onnx", opset=17)
    assert 17 in {o.version for o in onnx.load(path).opset_import if o.domain == ""}


def test_what_onnx_cannot_say(tmp_path):
    x = keras.Input((4, 4))
    model = keras.Model(x, ops.svd(x, compute_uv=False), name="svd")
    with pytest.raises(UnsupportedModelError, match="svd cannot be exported to ONNX"):
        export_keras(model, example(2, 4, 4), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_something_else_is_not_written(tmp_path):
    class Noisy(layers.Layer):
        def call(self, x):
            return x + keras.random.uniform(ops.shape(x))

    (tmp_path / "m.onnx").write_text("an earlier file")
    model = sequential(layers.Dense(3, name="d"), Noisy())
    with pytest.raises((ModelError, UnsupportedModelError)):
        export_keras(model, example(2, 4), tmp_path / "m.onnx")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["an earlier file"]


def test_wrong_arguments(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    with pytest.raises(TypeError, match=r"keras\.Model, got Dense"):
        export_keras(layers.Dense(2), example(1, 4), path)
    with pytest.raises(TypeError, match="an array of numbers"):
        export_keras(mlp(), "x", path)
    with pytest.raises(ValueError, match=r"net fails on the example input \(\(1, 9\) float32"):
        export_keras(mlp(), example(1, 9), path)
    with pytest.raises(FileNotFoundError, match="does not exist; create it"):
        export_keras(mlp(), example(1, 4), tmp_path / "none" / "m.onnx")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(BackendError, match="KERAS_BACKEND=tensorflow"):
        export_keras(mlp(), example(1, 4), path)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mlp().save("m.keras")
    done = CliRunner().invoke(app, ["export", "keras", "m.keras", "-o", "m.onnx"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == "m.onnx"
    assert list(found("m.onnx")) == ["hidden1", "hidden2", "output"]
    unsafe = sequential(layers.Dense(3), layers.Lambda(lambda x: x + 1))
    unsafe.save("unsafe.keras")
    done = CliRunner().invoke(app, ["export", "keras", "unsafe.keras", "-o", "n.onnx"])
    assert done.exit_code == 2
    assert "Keras refuses unsafe.keras" in done.output
    done = CliRunner().invoke(app, ["export", "keras", "none.keras", "-o", "n.onnx"])
    assert (done.exit_code, "no such file" in done.output) == (2, True)
    assert not Path("n.onnx").exists()


@pytest.mark.parametrize("net", ["mlp", "cnn", "encoder"])
def test_the_zoo_is_what_its_script_writes(tmp_path, monkeypatch, net):
    monkeypatch.syspath_prepend(str(ZOO))
    import make_keras
    import weights

    shape = {"mlp": weights.MLP_INPUT, "cnn": weights.CNN_INPUT, "encoder": weights.ENCODER_INPUT}
    x = weights.example(shape[net])
    path = export_keras(getattr(make_keras, net)(), x, tmp_path / "m.onnx")
    assert found(path) == found(ZOO / f"{net}_keras.onnx")
    np.testing.assert_allclose(
        run(path, x), run(ZOO / f"{net}_keras.onnx", x), rtol=1e-4, atol=1e-5
    )
