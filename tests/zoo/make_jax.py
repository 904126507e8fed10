"""Write the three networks with JAX and Flax; needs the extra "jax"."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import weights
from flax import nnx

from onnx_ei.exporters import export_jax

RNGS = nnx.Rngs(0)
FIELDS = {
    nnx.Linear: ("kernel", "bias"),
    nnx.Conv: ("kernel", "bias"),
    nnx.LayerNorm: ("scale", "bias"),
    nnx.BatchNorm: ("scale", "bias", "mean", "var"),
}


def filled(module, values):
    for name, arrays in values.items():
        part = getattr(module, name)
        for field, array in zip(FIELDS[type(part)], arrays, strict=True):
            getattr(part, field)[...] = jnp.asarray(array)
    module.eval()
    return module


class Mlp(nnx.Module):
    def __init__(self):
        for name, shape in weights.MLP.items():
            setattr(self, name, nnx.Linear(*shape, rngs=RNGS))

    def __call__(self, x):
        return self.output(jnp.tanh(self.hidden2(jnp.tanh(self.hidden1(x)))))


class Cnn(nnx.Module):
    def __init__(self):
        self.conv1 = nnx.Conv(3, 4, (3, 3), rngs=RNGS)
        self.bn1 = nnx.BatchNorm(4, epsilon=weights.EPSILON, rngs=RNGS)
        self.conv2 = nnx.Conv(4, 4, (3, 3), rngs=RNGS)
        self.bn2 = nnx.BatchNorm(4, epsilon=weights.EPSILON, rngs=RNGS)
        self.fc = nnx.Linear(36, 3, rngs=RNGS)

    def __call__(self, x):
        a = nnx.relu(self.bn1(self.conv1(x)))
        b = nnx.relu(a + self.bn2(self.conv2(a)))
        pooled = nnx.max_pool(b, window_shape=(2, 2), strides=(2, 2))
        return self.fc(pooled.reshape(pooled.shape[0], -1))


class Encoder(nnx.Module):
    def __init__(self):
        for name, shape in weights.ENCODER.items():
            setattr(self, name, nnx.Linear(*shape, rngs=RNGS))
        self.norm1 = nnx.LayerNorm(6, epsilon=weights.EPSILON, rngs=RNGS)
        self.norm2 = nnx.LayerNorm(6, epsilon=weights.EPSILON, rngs=RNGS)

    def __call__(self, x):
        length, width = weights.ENCODER_INPUT
        head = width // weights.HEADS
        q, k, v = (
            f(x).reshape(x.shape[0], length, weights.HEADS, head).transpose(0, 2, 1, 3)
            for f in (self.query, self.key, self.value)
        )
        scores = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) / head**0.5)
        mixed = (scores @ v).transpose(0, 2, 1, 3).reshape(x.shape[0], length, width)
        y = self.norm1(x + self.out(mixed))
        return self.norm2(y + self.ff2(nnx.gelu(self.ff1(y), approximate=False)))


def mlp():
    return filled(Mlp(), weights.mlp())


def cnn():
    return filled(Cnn(), weights.cnn())


def encoder():
    return filled(Encoder(), weights.encoder())


if __name__ == "__main__":
    for make, shape in (
        (mlp, weights.MLP_INPUT),
        (cnn, weights.CNN_INPUT),
        (encoder, weights.ENCODER_INPUT),
    ):
        export_jax(make(), weights.example(shape), weights.HERE / f"{make.__name__}_jax.onnx")
