"""Every pair of layers of small networks as PyTorch exports them, against the networks themselves.

A span fed with the true inner tensor has to give the true inner tensor, however far apart its ends
are: past skips, parallel branches, gates, normalisations and attention. The other tensors that it
needs are those of the example.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from brute import inside, part
from conftest import require_peer

from onnx_ei.errors import UnboundedSpanError
from onnx_ei.runtime import runner
from onnx_ei.span import span_of
from onnx_ei.topology import layer_of, model_of, topology_of

torch = require_peer("torch")
nn = torch.nn
F = torch.nn.functional
Array = Any


class Encoder(nn.Module):
    """Two transformer blocks, the norm after and before, and a head on every token."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                8, 2, 12, dropout=0, activation="gelu", batch_first=True, norm_first=first
            )
            for first in (False, True)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Patches(nn.Module):
    """A vision transformer: patches, a class token, a table of positions, the class at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.table = nn.Parameter(torch.randn(1, 5, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.table
        return self.head(self.block(x)[:, 0])


class Residual(nn.Module):
    """Two residual blocks of convolutions with batch-norm, one of them strided; a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a1, self.a2 = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.b1 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.b2 = nn.Conv2d(6, 6, 3, padding=1)
        self.short = nn.Conv2d(4, 6, 1, stride=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (4, 4, 6, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        n = self.norms
        x = F.relu(self.stem(x))
        x = F.relu(n[1](self.a2(F.relu(n[0](self.a1(x))))) + x)
        x = F.relu(n[3](self.b2(F.relu(n[2](self.b1(x))))) + self.short(x))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.head(x.view(x.shape[0], -1))


class UNet(nn.Module):
    """Down twice and up twice, by a transposed convolution and by interpolation; two skips."""

    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.mid = nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.c1, self.c2 = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(10, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = F.relu(self.d1(x))
        b = F.relu(self.d2(F.max_pool2d(a, 2)))
        x = self.up(F.relu(self.mid(F.max_pool2d(b, 2))))
        x = F.relu(self.c1(torch.cat([x, b], 1)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(F.relu(self.c2(torch.cat([x, a], 1))))


class Gates(nn.Module):
    """Two steps of a GRU written out in linear layers: gates by other tensors."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("xr", "xz", "xn"):
            setattr(self, name, nn.Linear(4, 5))
        for name in ("hr", "hz", "hn"):
            setattr(self, name, nn.Linear(5, 5))
        self.out = nn.Linear(5, 2)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 5)
        for step in range(2):
            v = x[:, step]
            r = torch.sigmoid(self.xr(v) + self.hr(h))
            z = torch.sigmoid(self.xz(v) + self.hz(h))
            h = (1 - z) * torch.tanh(self.xn(v) + r * self.hn(h)) + z * h
        return self.out(h)


class Shuffled(nn.Module):
    """Split, shuffled and joined channels, group and instance norms, blocks into space."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.c, self.f, self.g = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(1, 2, 3)
        self.group, self.instance = nn.GroupNorm(2, 8), nn.InstanceNorm2d(4)

    def forward(self, x):
        left, right = self.group(self.a(x)).chunk(2, 1)
        right = self.instance(self.c(F.hardswish(self.b(right))))
        x = torch.cat([left, right], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.g(F.pixel_shuffle(torch.relu(self.f(x)), 2))


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "encoder": (Encoder, (1, 6, 8)),
    "patches": (Patches, (1, 3, 8, 8)),
    "residual": (Residual, (1, 3, 28, 28)),
    "u-net": (UNet, (1, 1, 64, 64)),
    "gates": (Gates, (1, 2, 4)),
    "shuffled": (Shuffled, (1, 3, 8, 8)),
}


@functools.cache
def exported(name: str) -> tuple[bytes, Array]:
    """Write a network as a file, once for all tests; batch-norms have statistics of their own."""
    import tempfile

    from onnx_ei.exporters import export_torch

    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    module = make().eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    x = torch.randn(shape)
    with tempfile.TemporaryDirectory() as folder:
        path = export_torch(module, x, Path(folder) / "m.onnx")
        return path.read_bytes(), x.numpy()


@functools.cache
def analysed(name: str) -> nx.DiGraph[Any]:
    return topology_of(*exported(name))


def joined(topology: nx.DiGraph[Any]) -> list[tuple[str, str]]:
    return [(a, b) for a in topology for b in [a, *sorted(nx.descendants(topology, a))]]


@pytest.mark.parametrize(
    ("name", "positions"),
    [*((name, "one") for name in NETWORKS), ("encoder", "all"), ("u-net", "all")],
)
def test_true_inner_tensors_in_true_inner_tensors_out(name: str, positions: str) -> None:
    topology = analysed(name)
    pairs = joined(topology)
    ends = [layer_of(topology, key) for key in topology]
    names = sorted({str(v.name) for end in ends for v in (end.entering, end.leaving)})
    true = model_of(topology).tensors(names)
    compared = 0
    for first, last in pairs:
        x = true[str(layer_of(topology, first).entering.name)]
        y = true[str(layer_of(topology, last).leaving.name)]
        where = {"in_layer": first, "background": "reference", "positions": positions}
        span = span_of(topology, last, **where)
        assert span.batched, (first, last, span.batch_note)
        if not inside(span.in_window, x.shape):
            continue
        got = runner(span)(x[part(span.in_window)].reshape(1, -1).astype(np.float32))
        want = y[part(span.out_window)].reshape(1, -1)
        scale = 1e-4 * max(float(np.abs(y).max()), 1e-6)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=scale, err_msg=f"{first} {last}")
        compared += 1
    assert len(pairs) > len(topology) > 4
    # a window past the border has the zeros of a padding for data, which the network never has
    assert compared >= 0.9 * len(pairs)
    assert positions == "one" or compared == len(pairs)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_span_needs_besides_is_named(name: str) -> None:
    """Where it needs other tensors, all of them are named, and they are enough."""
    topology = analysed(name)
    needing = 0
    for first, last in joined(topology)[:40]:
        try:
            span_of(topology, last, in_layer=first)
        except UnboundedSpanError as error:
            needing += 1
            names = str(error).partition("also needs ")[2].partition(";")[0].split(", ")
            named = [n.strip("'") for n in names]
            given = model_of(topology).tensors(named)
            span = span_of(topology, last, in_layer=first, background=given)
            same = span_of(topology, last, in_layer=first, background="reference")
            x = np.random.default_rng(0).normal(size=(3, span.n_inputs)).astype(np.float32)
            np.testing.assert_array_equal(runner(span)(x), runner(same)(x))
    assert needing > 0
