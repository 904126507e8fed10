"""Train the paper's Iris network (4-5-5-3, sigmoid, no biases) and write it to iris.onnx.

Marrow, Michaud, Hoel, "Examining the Causal Structures of Deep Neural Networks Using Information
Theory", Entropy 2020, 22(12), 1429. Needs the extra "torch", and scikit-learn for the data.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from sklearn.datasets import load_iris
from torch import nn

from onnx_ei.exporters import export_torch

EPOCHS, BATCH, N_TRAIN = 4000, 10, 100


def network() -> nn.Sequential:
    """Build the untrained network, its weights from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, n_inputs, n_outputs in (("hidden1", 4, 5), ("hidden2", 5, 5), ("output", 5, 3)):
        layers[name] = nn.Linear(n_inputs, n_outputs, bias=False)
        nn.init.uniform_(layers[name].weight, -(n_inputs**-0.5), n_inputs**-0.5)
        layers[f"{name}_sigmoid"] = nn.Sigmoid()
    return nn.Sequential(layers)


def main() -> None:
    """Train with plain SGD, print the losses per flower, export."""
    torch.manual_seed(3)
    features, classes = load_iris(return_X_y=True)
    x = torch.tensor(features / 8, dtype=torch.float32)
    y = nn.functional.one_hot(torch.tensor(classes)).float()
    order = torch.randperm(len(x))
    train, test = order[:N_TRAIN], order[N_TRAIN:]

    net, loss = network(), nn.MSELoss(reduction="sum")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(EPOCHS):
        for rows in train[torch.randperm(N_TRAIN)].split(BATCH):
            optimizer.zero_grad()
            loss(net(x[rows]), y[rows]).backward()
            optimizer.step()

    with torch.no_grad():
        for name, rows in (("training", train), ("test", test)):
            print(f"{name} loss {loss(net(x[rows]), y[rows]) / len(rows):.4f}")
    print(export_torch(net, x[:1], Path(__file__).with_name("iris.onnx")).name)


if __name__ == "__main__":
    main()
