"""The paper's Iris network (4-5-5-3, sigmoid, no biases): build it, train it, write iris.onnx.

Marrow, Michaud, Hoel, "Examining the Causal Structures of Deep Neural Networks Using Information
Theory", Entropy 2020, 22(12), 1429. Needs the extra "torch", and scikit-learn for the data.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.datasets import load_iris
from torch import nn

from onnx_ei.exporters import export_torch

EPOCHS, BATCH, N_TRAIN = 4000, 10, 100
SEED = 3
LOSS = nn.MSELoss(reduction="sum")


class Flowers(NamedTuple):
    """Features divided by 8, within 0 and 1, and one-hot classes, of 150 flowers."""

    x: torch.Tensor
    y: torch.Tensor
    train: torch.Tensor
    test: torch.Tensor

    def losses(self, net: nn.Module) -> tuple[float, float]:
        """Return the squared error per flower, on the training flowers and on the others."""
        with torch.no_grad():
            train, test = (
                LOSS(net(self.x[rows]), self.y[rows]).item() / len(rows)
                for rows in (self.train, self.test)
            )
        return train, test


def network() -> nn.Sequential:
    """Build the untrained network, its weights from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, n_inputs, n_outputs in (("hidden1", 4, 5), ("hidden2", 5, 5), ("output", 5, 3)):
        layers[name] = nn.Linear(n_inputs, n_outputs, bias=False)
        nn.init.uniform_(layers[name].weight, -(n_inputs**-0.5), n_inputs**-0.5)
        layers[f"{name}_sigmoid"] = nn.Sigmoid()
    return nn.Sequential(layers)


def start(seed: int) -> tuple[nn.Sequential, Flowers]:
    """Seed torch, split the flowers, build the network."""
    torch.manual_seed(seed)
    features, classes = load_iris(return_X_y=True)
    x = torch.tensor(features / 8, dtype=torch.float32)
    y = nn.functional.one_hot(torch.tensor(classes)).float()
    order = torch.randperm(len(x))
    return network(), Flowers(x, y, order[:N_TRAIN], order[N_TRAIN:])


def train(
    net: nn.Module,
    flowers: Flowers,
    epochs: int = EPOCHS,
    each: Callable[[int], object] = lambda epoch: None,
) -> None:
    """Train with plain SGD; ``each(epoch)`` is called before the first epoch and after each."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    each(0)
    for epoch in range(1, epochs + 1):
        for rows in flowers.train[torch.randperm(N_TRAIN)].split(BATCH):
            optimizer.zero_grad()
            LOSS(net(flowers.x[rows]), flowers.y[rows]).backward()
            optimizer.step()
        each(epoch)


def main() -> None:
    """Train, print the losses per flower, export."""
    net, flowers = start(SEED)
    train(net, flowers)
    for name, loss in zip(("training", "test"), flowers.losses(net), strict=True):
        print(f"{name} loss {loss:.4f}")
    print(export_torch(net, flowers.x[:1], Path(__file__).with_name("iris.onnx")).name)


if __name__ == "__main__":
    main()
