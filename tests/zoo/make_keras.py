"""Write the three networks with Keras 3 on TensorFlow; needs the extra "keras"."""

from __future__ import annotations

import keras
import weights
from keras import layers, ops

from onnx_ei.exporters import export_keras


def filled(model, values):
    for name, arrays in values.items():
        model.get_layer(name).set_weights(list(arrays))
    return model


def mlp():
    net = [keras.Input(weights.MLP_INPUT)]
    for name, (_, n_outputs) in weights.MLP.items():
        activation = None if name == "output" else "tanh"
        net.append(layers.Dense(n_outputs, activation=activation, name=name))
    return filled(keras.Sequential(net, name="mlp"), weights.mlp())


def cnn():
    x = keras.Input(weights.CNN_INPUT)
    norm = {"epsilon": weights.EPSILON}
    a = layers.Conv2D(4, 3, padding="same", name="conv1")(x)
    a = ops.relu(layers.BatchNormalization(name="bn1", **norm)(a))
    b = layers.Conv2D(4, 3, padding="same", name="conv2")(a)
    b = ops.relu(a + layers.BatchNormalization(name="bn2", **norm)(b))
    pooled = layers.Flatten()(layers.MaxPooling2D(2, name="pool")(b))
    return filled(keras.Model(x, layers.Dense(3, name="fc")(pooled), name="cnn"), weights.cnn())


def encoder():
    length, width = weights.ENCODER_INPUT
    head = width // weights.HEADS

    def heads(t):
        return ops.transpose(ops.reshape(t, (-1, length, weights.HEADS, head)), (0, 2, 1, 3))

    x = keras.Input(weights.ENCODER_INPUT)
    q, k, v = (heads(layers.Dense(width, name=n)(x)) for n in ("query", "key", "value"))
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / head**0.5)
    mixed = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, length, width))
    norm = {"epsilon": weights.EPSILON}
    y = layers.LayerNormalization(name="norm1", **norm)(x + layers.Dense(width, name="out")(mixed))
    inner = layers.Dense(8, activation="gelu", name="ff1")(y)
    z = y + layers.Dense(width, name="ff2")(inner)
    z = layers.LayerNormalization(name="norm2", **norm)(z)
    return filled(keras.Model(x, z, name="encoder"), weights.encoder())


if __name__ == "__main__":
    for make, shape in (
        (mlp, weights.MLP_INPUT),
        (cnn, weights.CNN_INPUT),
        (encoder, weights.ENCODER_INPUT),
    ):
        target = weights.HERE / f"{make.__name__}_keras.onnx"
        export_keras(make(), weights.example(shape), target)
