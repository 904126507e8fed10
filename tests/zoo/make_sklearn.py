"""Write the one network that scikit-learn can express; needs the extra "sklearn"."""

from __future__ import annotations

import warnings

import numpy as np
import weights
from sklearn.neural_network import MLPRegressor

from onnx_ei.exporters import export_sklearn


def mlp():
    layers = weights.mlp()
    hidden = [shape[1] for shape in weights.MLP.values()][:-1]
    model = MLPRegressor(hidden_layer_sizes=hidden, activation="tanh", max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one step of training makes the shapes
        model.fit(np.zeros((4, *weights.MLP_INPUT)), np.zeros((4, weights.MLP["output"][1])))
    model.coefs_ = [kernel for kernel, _ in layers.values()]
    model.intercepts_ = [bias for _, bias in layers.values()]
    return model


if __name__ == "__main__":
    export_sklearn(mlp(), weights.example(weights.MLP_INPUT), weights.HERE / "mlp_sklearn.onnx")
