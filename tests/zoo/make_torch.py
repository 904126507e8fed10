"""Write the three networks with PyTorch; needs the extra "torch"."""

from __future__ import annotations

from collections import OrderedDict

import torch
import weights
from torch import nn
from torch.nn import functional

from onnx_ei.exporters import export_torch


def filled(module, values):
    """Copy weights: torch's dense kernels are (outputs, inputs), channels come first."""
    for name, arrays in values.items():
        part = getattr(module, name)
        tensors = [torch.from_numpy(array) for array in arrays]
        axes = {2: (1, 0), 4: (3, 2, 0, 1)}
        tensors[0] = tensors[0].permute(axes.get(tensors[0].dim(), (0,)))
        with torch.no_grad():
            part.weight.copy_(tensors[0])
            part.bias.copy_(tensors[1])
            if len(tensors) == 4:
                part.running_mean.copy_(tensors[2])
                part.running_var.copy_(tensors[3])
    return module.eval()


def mlp():
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, shape in weights.MLP.items():
        parts[name] = nn.Linear(*shape)
        if name != "output":
            parts[f"{name}_tanh"] = nn.Tanh()
    return filled(nn.Sequential(parts), weights.mlp())


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4, eps=weights.EPSILON)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4, eps=weights.EPSILON)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        a = torch.relu(self.bn1(self.conv1(x)))
        b = torch.relu(a + self.bn2(self.conv2(a)))
        return self.fc(self.pool(b).flatten(1))


def cnn():
    values = weights.cnn()
    kernel, bias = values["fc"]
    # the same function of the pooled map, flattened channels first
    values["fc"] = (kernel.reshape(3, 3, 4, 3).transpose(2, 0, 1, 3).reshape(36, 3), bias)
    return filled(Cnn(), values)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        for name, shape in weights.ENCODER.items():
            setattr(self, name, nn.Linear(*shape))
        self.norm1 = nn.LayerNorm(6, eps=weights.EPSILON)
        self.norm2 = nn.LayerNorm(6, eps=weights.EPSILON)

    def forward(self, x):
        length, width = weights.ENCODER_INPUT
        head = width // weights.HEADS
        q, k, v = (
            f(x).reshape(-1, length, weights.HEADS, head).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        scores = torch.softmax(q @ k.transpose(2, 3) / head**0.5, -1)
        mixed = (scores @ v).transpose(1, 2).reshape(-1, length, width)
        y = self.norm1(x + self.out(mixed))
        return self.norm2(y + self.ff2(functional.gelu(self.ff1(y))))


def encoder():
    return filled(Encoder(), weights.encoder())


if __name__ == "__main__":
    height, width, channels = weights.CNN_INPUT
    for make, shape in (
        (mlp, weights.MLP_INPUT),
        (cnn, (channels, height, width)),
        (encoder, weights.ENCODER_INPUT),
    ):
        target = weights.HERE / f"{make.__name__}_torch.onnx"
        export_torch(make(), weights.example(shape), target)
