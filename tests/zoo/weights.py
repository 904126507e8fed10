"""The weights of three small networks: each framework's script writes the same networks from them.

Dense kernels are (inputs, outputs), convolution kernels (height, width, inputs, outputs).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent

MLP = {"hidden1": (4, 6), "hidden2": (6, 5), "output": (5, 3)}
MLP_INPUT = (4,)
ENCODER = {name: (6, 6) for name in ("query", "key", "value", "out")} | {
    "ff1": (6, 8),
    "ff2": (8, 6),
}
ENCODER_INPUT = (5, 6)
HEADS = 2
EPSILON = 1e-3
CNN_INPUT = (6, 6, 3)  # channels last


def dense(rng, n_inputs, n_outputs):
    kernel = rng.normal(size=(n_inputs, n_outputs)) / np.sqrt(n_inputs)
    return kernel.astype(np.float32), rng.normal(size=n_outputs).astype(np.float32) / 4


def norm(rng, n):
    return [
        rng.uniform(0.5, 1.5, n).astype(np.float32),  # gamma
        rng.normal(size=n).astype(np.float32) / 4,  # beta
    ]


def batch_norm(rng, n):
    mean, variance = rng.normal(size=n) / 4, rng.uniform(0.5, 2, n)
    return [*norm(rng, n), mean.astype(np.float32), variance.astype(np.float32)]


def conv(rng, n_inputs, n_outputs):
    kernel, bias = dense(rng, 9 * n_inputs, n_outputs)
    return kernel.reshape(3, 3, n_inputs, n_outputs), bias


def mlp():
    """Tanh, tanh, linear."""
    rng = np.random.default_rng(1)
    return {name: dense(rng, *shape) for name, shape in MLP.items()}


def cnn():
    """a = relu(bn1(conv1 x)); pool(relu(a + bn2(conv2 a))); fc of it, flattened channels last."""
    rng = np.random.default_rng(2)
    return {
        "conv1": conv(rng, 3, 4),
        "bn1": batch_norm(rng, 4),
        "conv2": conv(rng, 4, 4),
        "bn2": batch_norm(rng, 4),
        "fc": dense(rng, 36, 3),
    }


def encoder():
    """y = norm1(x + out(attention x)); norm2(y + ff2(gelu(ff1 y))), the GELU exact."""
    rng = np.random.default_rng(3)
    made = {name: dense(rng, *shape) for name, shape in ENCODER.items()}
    return made | {"norm1": norm(rng, 6), "norm2": norm(rng, 6)}


def example(shape):
    return np.random.default_rng(4).uniform(-2, 2, (3, *shape)).astype(np.float32)
