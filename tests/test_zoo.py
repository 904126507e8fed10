"""The same networks, written by four frameworks: the same layers and the same measures.

The files and the scripts that wrote them are in zoo/: this runs without the frameworks.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import require_peer

from onnx_ei import ei_parts_matrix, measure, topology_of
from onnx_ei.analysis import describe

ZOO = Path(__file__).parent / "zoo"
FILES = sorted(path.stem for path in ZOO.glob("*.onnx"))
NETS = {
    "mlp": ("jax", "keras", "sklearn", "torch"),
    "cnn": ("jax", "keras", "torch"),
    "encoder": ("jax", "keras", "torch"),
}
OTHERS = [f"{net}_{name}" for net, names in NETS.items() for name in names if name != "torch"]
RENAMED = {"maxpool0": "pool"}
"""JAX has no name for a function's pooling."""

CHANNELS_LAST = ("jax", "keras")
FLATTENED = np.arange(36).reshape(3, 3, 4).transpose(2, 0, 1).ravel()
"""Of each unit that enters torch's fc, channels first, the place where others have it."""

EXPECTED = {
    "mlp": {"hidden1": ("Tanh", 4, 6), "hidden2": ("Tanh", 6, 5), "output": (None, 5, 3)},
    "cnn": {
        "conv1": ("Relu", 27, 4),
        "conv2": (None, 36, 4),
        "pool": (None, 16, 4),
        "fc": (None, 36, 3),
    },
    "encoder": {name: (None, 6, 6) for name in ("query", "key", "value", "out")}
    | {"ff1": ("Gelu", 6, 8), "ff2": (None, 8, 6)},
}


@cache
def topology(name):
    return topology_of(str(ZOO / f"{name}.onnx"))


@cache
def rows(name):
    return {RENAMED.get(row.layer, row.layer): row for row in describe(topology(name)).rows}


def key(name, layer):
    return rows(name)[layer].layer


def run(name, x):
    session = ort.InferenceSession(ZOO / f"{name}.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_every_network_is_there_from_every_framework_that_can_express_it():
    assert sorted(f"{net}_{name}" for net, names in NETS.items() for name in names) == FILES
    for framework in {name for names in NETS.values() for name in names}:
        assert (ZOO / f"make_{framework}.py").is_file()


@pytest.mark.parametrize("name", FILES)
def test_files_are_small_valid_and_from_nowhere(name):
    path = ZOO / f"{name}.onnx"
    data = path.read_bytes()
    assert len(data) < 100_000
    onnx.checker.check_model(path, full_check=True)
    for leak in (b"/opt/", b"/home/", b"/root/", b"/tmp/", b"/usr/", b".py"):
        assert leak not in data


@pytest.mark.parametrize("name", FILES)
def test_layers_activations_units_and_the_free_batch(name):
    found = {
        layer: (row.out_activation, row.n_inputs, row.n_outputs)
        for layer, row in rows(name).items()
    }
    assert found == EXPECTED[name.split("_")[0]]
    assert all(row.batched for row in rows(name).values())


@pytest.mark.parametrize("name", OTHERS)
def test_shapes_and_activations_are_those_of_torch(name):
    torch = f"{name.split('_')[0]}_torch"
    for layer, row in rows(name).items():
        other = rows(torch)[layer]
        assert (row.in_shape, row.out_shape) == (other.in_shape, other.out_shape), layer
        assert row.out_activation == other.out_activation, layer


@pytest.mark.parametrize("name", OTHERS)
def test_they_compute_the_same_function(name):
    net, framework = name.split("_")
    shape = {"mlp": (4,), "cnn": (3, 6, 6), "encoder": (5, 6)}[net]
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    last = net == "cnn" and framework in CHANNELS_LAST
    got = run(name, x.transpose(0, 2, 3, 1) if last else x)
    np.testing.assert_allclose(got, run(f"{net}_torch", x), rtol=1e-4, atol=1e-5)


@cache
def measured(name, layer, quantity):
    # a seed for each file: equal numbers must come from equal layers, not from equal noise
    samples = 200 if quantity == "sensitivity" else 4000
    options = {"samples": samples, "in_bins": 16, "out_bins": 16, "seed": FILES.index(name)}
    return measure(quantity, key(name, layer), topology(name), **options)


@pytest.mark.filterwarnings("ignore::onnx_ei.errors.OutOfRangeWarning")
@pytest.mark.parametrize("quantity", ["ei_parts", "sensitivity"])
@pytest.mark.parametrize("name", OTHERS)
def test_measures_agree_within_their_standard_errors(name, quantity):
    torch = f"{name.split('_')[0]}_torch"
    for layer in rows(name):
        one, other = measured(name, layer, quantity), measured(torch, layer, quantity)
        error = math.hypot(one.stderr, other.stderr)
        assert abs(one.value - other.value) <= 4 * error + 1e-6, layer


@pytest.mark.parametrize("name", [name for name in OTHERS if name.startswith("mlp")])
@pytest.mark.parametrize("layer", ["hidden1", "output"])
def test_the_vector_measure_agrees(name, layer):
    def ei(file):
        options = {"samples": 20_000, "in_bins": 2, "out_bins": 4, "seed": FILES.index(file)}
        return measure("ei", key(file, layer), topology(file), **options)

    one, other = ei(name), ei("mlp_torch")
    assert abs(one.value - other.value) <= 4 * math.hypot(one.stderr, other.stderr)


@pytest.mark.filterwarnings("ignore::onnx_ei.errors.OutOfRangeWarning")
@pytest.mark.parametrize("name", [name for name in OTHERS if name.startswith("cnn")])
def test_pairs_agree_after_the_permutation_of_the_layout(name):
    def matrix(file):
        options = {"samples": 10_000, "in_bins": 8, "out_bins": 8, "seed": FILES.index(file)}
        return np.asarray(ei_parts_matrix(key(file, "fc"), topology(file), **options))

    ours, torch = matrix(name), matrix("cnn_torch")
    np.testing.assert_allclose(ours[FLATTENED], torch, atol=0.02)
    assert np.abs(ours - torch).max() > 0.05  # without it they do not


@pytest.mark.parametrize("framework", ["sklearn", "torch"])
def test_the_files_are_what_their_scripts_say(monkeypatch, framework):
    """Of Keras and JAX their own tests do it: here they are not installed."""
    monkeypatch.syspath_prepend(str(ZOO))
    require_peer("sklearn" if framework == "sklearn" else "torch")
    script, weights = import_module(f"make_{framework}"), import_module("weights")
    for net in (net for net, names in NETS.items() if framework in names):
        shape = {"mlp": weights.MLP_INPUT, "cnn": (3, 6, 6), "encoder": weights.ENCODER_INPUT}[net]
        x = weights.example(shape)
        if framework == "torch":
            torch = import_module("torch")
            expected = getattr(script, net)()(torch.from_numpy(x)).detach().numpy()
        else:
            expected = getattr(script, net)().predict(x)
        np.testing.assert_allclose(run(f"{net}_{framework}", x), expected, rtol=1e-4, atol=1e-5)
