"""topology_of a PyTorch module: what its nodes say, and weights that move between two measures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import deep_ei_shim
import networkx as nx
import numpy as np
import pytest
from conftest import require_peer

torch: Any = require_peer("torch")
nn: Any = torch.nn
F: Any = torch.nn.functional

import onnx_ei  # noqa: E402
from onnx_ei.errors import ModelError, UnknownLayerError, UnsupportedModelError  # noqa: E402
from onnx_ei.exporters import export_torch  # noqa: E402
from onnx_ei.runtime import runner  # noqa: E402
from onnx_ei.span import span_of  # noqa: E402
from onnx_ei.topology import layer_of, model_of, topology_of  # noqa: E402

UNIT: dict[str, Any] = {"samples": 2000, "in_range": (0, 1), "in_bins": 4, "out_bins": 4}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def run(topology: Any, layer: Any, x: Any, **options: Any) -> Any:
    """The span's outputs now, one sample a row."""
    return runner(span_of(topology, layer, **options))(x.reshape(len(x), -1))


def noise(n: int, *shape: int) -> Any:
    return np.random.default_rng(0).uniform(0, 1, (n, *shape)).astype(np.float32)


def torch_run(function: Callable[[Any], Any], x: Any, dtype: Any = None) -> Any:
    with torch.no_grad():
        result = function(torch.from_numpy(x).to(dtype or torch.float32))
    return result.to(torch.float32).reshape(len(x), -1).numpy()


def near(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


# --- what the nodes say ----------------------------------------------------------------------


class Nested(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5))
        self.body = nn.ModuleList([nn.Sequential(nn.Linear(5, 5), nn.ReLU()) for _ in range(2)])
        self.head = nn.Sequential(nn.Sequential(nn.Linear(5, 3)), nn.Sigmoid())

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for part in self.body:
            x = part(x)
        return self.head(x)


def sequential() -> Any:
    layers = [nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(3, 2))


def convolutional() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3), nn.Sigmoid(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), nn.Tanh(),
    )  # fmt: skip


LIKE_DEEP_EI = {
    "sequential": (sequential, (1, 4)),
    "nested": (Nested, (1, 6)),
    "one layer": (lambda: nn.Linear(3, 2), (1, 3)),
    "layers only": (lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), (1, 3)),
    "convolutional": (convolutional, (1, 1, 14, 14)),
    "tokens": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (1, 5, 4)),
}


@pytest.fixture(scope="module", params=LIKE_DEEP_EI, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """A network, its topology by deep_ei, and by us."""
    deep_ei = require_peer("deep_ei")
    torch.manual_seed(0)
    make, shape = LIKE_DEEP_EI[request.param]
    network = make().eval()
    with torch.no_grad():
        theirs = deep_ei_shim.topology(deep_ei, network, torch.zeros(shape))
    return network, theirs, topology_of(network, torch.zeros(shape))


def kept(theirs: Any) -> list[Any]:
    """deep_ei's layers but for Flatten, which changes no value and mixes none."""
    return [m for m in theirs if not isinstance(m, nn.Flatten)]


class TestLikeDeepEi:
    def test_layers_in_order(self, pair: tuple[Any, Any, Any]) -> None:
        _, theirs, ours = pair
        assert [id(m) for m in ours] == [id(m) for m in kept(theirs)]

    def test_membership(self, pair: tuple[Any, Any, Any]) -> None:
        network, theirs, ours = pair
        for module in network.modules():
            assert (module in ours) == (module in theirs and not isinstance(module, nn.Flatten))

    def test_activations_are_the_modules(self, pair: tuple[Any, Any, Any]) -> None:
        _, theirs, ours = pair
        for module in kept(theirs):
            for end in ("input", "output"):
                expected = theirs.nodes[module][end]["activation"]
                assert ours.nodes[module][end]["activation"] is expected

    def test_shapes(self, pair: tuple[Any, Any, Any]) -> None:
        _, theirs, ours = pair
        for module in kept(theirs):
            if isinstance(module, nn.Conv2d):
                continue  # deep_ei puts the kernel's shape there, and () for the output
            for end in ("input", "output"):
                assert ours.nodes[module][end]["shape"] == theirs.nodes[module][end]["shape"]

    def test_descendants(self, pair: tuple[Any, Any, Any]) -> None:
        _, theirs, ours = pair
        for module in kept(theirs):
            expected = {m for m in nx.descendants(theirs, module) if not isinstance(m, nn.Flatten)}
            assert nx.descendants(ours, module) == expected

    def test_convolutions_have_the_shapes_of_their_tensors(self) -> None:
        network = convolutional()
        top = topology_of(network, torch.zeros(1, 1, 14, 14))
        first, second = network[0], network[3]
        assert top.nodes[first]["input"]["shape"] == (1, 1, 14, 14)
        assert top.nodes[first]["output"]["shape"] == (1, 2, 12, 12)
        assert top.nodes[second]["input"]["shape"] == (1, 2, 6, 6)
        assert top.nodes[second]["output"]["shape"] == (1, 3, 4, 4)
        x = noise(4, 1, 3, 3)
        near(run(top, first, x), torch_run(lambda v: torch.relu(first(v)), x))


class Residual(nn.Module):  # type: ignore[misc,name-defined]
    """Linear, then a branch of two with a skip past it, one ReLU module in both places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)
        self.act = nn.ReLU()

    def forward(self, x: Any) -> Any:
        x = self.act(self.stem(x))
        return self.out(self.act(x + self.second(self.act(self.first(x)))))


@pytest.fixture(scope="module")
def residual() -> tuple[Any, Any]:
    torch.manual_seed(3)
    net = Residual()
    return net, topology_of(net, torch.zeros(1, 4))


class TestResidual:
    @pytest.fixture
    def net(self, residual: tuple[Any, Any]) -> Any:
        return residual[0]

    @pytest.fixture
    def top(self, residual: tuple[Any, Any]) -> Any:
        return residual[1]

    def test_edges_past_the_branch(self, net: Any, top: Any) -> None:
        assert set(top.edges) == {
            (net.stem, net.first), (net.first, net.second), (net.stem, net.out),
            (net.second, net.out),
        }  # fmt: skip
        assert nx.descendants(top, net.stem) == {net.first, net.second, net.out}

    def test_an_activation_after_the_sum_belongs_to_no_layer(self, net: Any, top: Any) -> None:
        # deep_ei gives it to the last layer that ran
        deep_ei = require_peer("deep_ei")
        theirs = deep_ei_shim.topology(deep_ei, net, torch.zeros(1, 4))
        assert theirs.nodes[net.second]["output"]["activation"] is net.act
        assert top.nodes[net.second]["output"]["activation"] is None
        assert top.nodes[net.out]["input"]["activation"] is net.act

    def test_one_activation_module_in_many_places(self, net: Any, top: Any) -> None:
        assert top.nodes[net.stem]["output"]["activation"] is net.act
        assert top.nodes[net.first]["output"]["activation"] is net.act
        assert top.nodes[net.second]["input"]["activation"] is net.act

    def test_the_whole_is_computed_right(self, net: Any, top: Any) -> None:
        x = noise(16, 4)
        near(run(top, net.out, x, in_layer=net.stem), torch_run(net, x))

    def test_side_tensors_follow_every_weight(self) -> None:
        """What ``background="reference"`` holds fixed is computed by weights outside the span."""
        net = Residual()
        example = torch.ones(1, 4)
        top = topology_of(net, example)
        x = noise(8, 4)

        def expected(v: Any) -> Any:
            side = torch.relu(net.stem(example))
            return net.out(torch.relu(side + net.second(v)))

        span = {"in_layer": net.second, "background": "reference"}
        before = run(top, net.out, x, **span)
        near(before, torch_run(expected, x))
        assert span_of(top, net.out, **span) is span_of(top, net.out, **span)
        with torch.no_grad():
            net.stem.weight.add_(0.5)
        after = run(top, net.out, x, **span)
        near(after, torch_run(expected, x))
        assert np.abs(after - before).max() > 0.01
        with torch.no_grad():
            net.out.bias.add_(1)
        near(run(top, net.out, x, **span), after + 1)


class Twice(nn.Module):  # type: ignore[misc,name-defined]
    """One layer called twice, one of two names, functions for activations."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.act = nn.Tanh()
        self.left = nn.Linear(4, 4)
        self.right = self.left
        self.out = nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.inner(self.act(self.inner(x))))
        return torch.sigmoid(self.out(self.right(torch.tanh(self.left(x)))))


@pytest.fixture(scope="module")
def twice() -> tuple[Any, Any]:
    torch.manual_seed(0)
    net = Twice()
    return net, topology_of(net, torch.zeros(1, 4))


class TestCalledTwice:
    @pytest.fixture
    def net(self, twice: tuple[Any, Any]) -> Any:
        return twice[0]

    @pytest.fixture
    def top(self, twice: tuple[Any, Any]) -> Any:
        return twice[1]

    def test_keys(self, net: Any, top: Any) -> None:
        expected = [net.inner, (net.inner, 2), net.left, (net.left, 2), net.out]
        assert list(top) == expected
        assert list(top.edges) == list(pairwise(expected))

    def test_functions_have_names(self, net: Any, top: Any) -> None:
        assert top.nodes[net.inner]["output"]["activation"] is net.act
        assert top.nodes[net.inner, 2]["input"]["activation"] is net.act
        assert top.nodes[net.inner, 2]["output"]["activation"] == "Relu"
        assert top.nodes[net.left]["output"]["activation"] == "Tanh"
        assert top.nodes[net.out]["output"]["activation"] == "Sigmoid"
        assert top.nodes[net.out]["output"]["range"] == (0, 1)

    def test_spans(self, net: Any, top: Any) -> None:
        x = noise(8, 4)
        near(
            run(top, (net.inner, 2), x, in_layer=net.inner),
            torch_run(lambda v: torch.relu(net.inner(torch.tanh(net.inner(v)))), x),
        )
        near(
            run(top, (net.left, 2), x, in_layer=net.left),
            torch_run(lambda v: net.left(torch.tanh(net.left(v))), x),
        )

    def test_a_change_reaches_both_calls(self, net: Any, top: Any) -> None:
        x = noise(8, 4)
        before = run(top, (net.left, 2), x), run(top, (net.inner, 2), x)
        with torch.no_grad():
            net.left.weight.mul_(-2)
            net.inner.bias.add_(1)
        after = run(top, (net.left, 2), x), run(top, (net.inner, 2), x)
        near(after[0], torch_run(net.left, x))
        near(after[1], torch_run(lambda v: torch.relu(net.inner(v)), x))
        assert all(np.abs(a - b).max() > 0.1 for a, b in zip(after, before, strict=True))


class Swish(nn.Module):  # type: ignore[misc,name-defined]
    def forward(self, x: Any) -> Any:
        return x * torch.sigmoid(x)


class Doubled(nn.Module):  # type: ignore[misc,name-defined]
    """Goes on after its ReLU: it is not the activation."""

    def forward(self, x: Any) -> Any:
        return torch.relu(x) * 2


class Own(nn.Module):  # type: ignore[misc,name-defined]
    """A layer that is no nn.Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Any) -> Any:
        return torch.tanh(x @ self.matrix)


class Two(nn.Module):  # type: ignore[misc,name-defined]
    """Two layers in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(4, 4))
        self.w = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Any) -> Any:
        return torch.tanh(x @ self.v) @ self.w


ELEMENTWISE = [
    "CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "Mish", "PReLU",
    "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softsign", "Tanh",
]  # fmt: skip


class TestActivations:
    def test_every_activation_module_is_found_at_both_ends(self) -> None:
        activations = [getattr(nn, name)() for name in ELEMENTWISE] + [
            nn.ELU(alpha=0.5), nn.LeakyReLU(0.3), nn.PReLU(3), nn.GELU(approximate="tanh"),
        ]  # fmt: skip
        layers = [nn.Linear(3, 3) for _ in activations]
        chain = [m for both in zip(layers, activations, strict=True) for m in both]
        last = nn.Linear(3, 3)
        top = topology_of(nn.Sequential(*chain, last), torch.zeros(1, 3))
        x = noise(8, 3) * 4 - 2
        for layer, after, activation in zip(layers, [*layers[1:], last], activations, strict=True):
            assert top.nodes[layer]["output"]["activation"] is activation
            assert top.nodes[after]["input"]["activation"] is activation
            near(run(top, layer, x), torch_run(nn.Sequential(layer, activation), x))

    def test_modules_of_ones_own(self) -> None:
        own, two, swish, doubled = Own(), Two(), Swish(), Doubled()
        net = nn.Sequential(nn.Linear(4, 4), swish, own, nn.Linear(4, 4), doubled, two)
        top = topology_of(net, torch.zeros(1, 4))
        first, _, _, second, _, _ = net
        assert top.nodes[first]["output"]["activation"] is swish
        assert top.nodes[own]["output"]["activation"] == "Tanh"  # part of the layer's own module
        assert top.nodes[second]["input"]["activation"] == "Tanh"
        assert top.nodes[second]["output"]["activation"] == "Relu"
        inside = [key for key in top if isinstance(key, str)]
        assert len(inside) == 2
        assert two not in top
        assert top.nodes[inside[0]]["input"]["activation"] is None
        assert layer_of(top, "3").key is second  # a module's path names it too

    def test_dropout_and_batch_norm_do_not_hide_one(self) -> None:
        act = nn.ReLU()
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), act, nn.Linear(4, 2))
        top = topology_of(net, torch.zeros(1, 3))
        assert top.nodes[net[0]]["output"]["activation"] is act
        assert top.nodes[net[4]]["input"]["activation"] is act


class TestLikeTheFile:
    """The plain export that lives says what the optimized one in a file says."""

    @pytest.mark.parametrize(
        ("make", "shape"),
        [
            (convolutional, (1, 1, 14, 14)),
            (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (1, 5, 8)),
            (Residual, (1, 4)),
        ],
    )
    def test_nodes_and_edges(self, make: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
        module = make().eval()
        example = torch.rand(shape)
        live = topology_of(module, example)
        file = topology_of(export_torch(module, example, tmp_path / "net.onnx"))
        labels = {key: layer_of(live, key).label for key in live}
        assert list(labels.values()) == list(file)
        assert {(labels[a], labels[b]) for a, b in live.edges} == set(file.edges)
        for key, label in labels.items():
            for end in ("input", "output"):
                ours, theirs = live.nodes[key][end], file.nodes[label][end]
                # what the batch is called, or whether it was folded into tokens, may differ
                assert ours["range"] == theirs["range"]
                assert len(ours["shape"]) == len(theirs["shape"])
                assert (ours["activation"] is None) == (theirs["activation"] is None)


# --- kinds of modules ------------------------------------------------------------------------


class TestModes:
    @pytest.fixture
    def net(self) -> Any:
        net = nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3)
        )
        net[1].running_mean.uniform_(-1, 1)
        net[1].running_var.uniform_(0.5, 2)
        net.train()
        net[3].eval()
        return net

    def test_eval_mode_is_measured_and_the_mode_restored(self, net: Any) -> None:
        modes = [m.training for m in net.modules()]
        mean, count = net[1].running_mean.clone(), int(net[1].num_batches_tracked)
        top = topology_of(net, torch.ones(1, 4))
        x = noise(8, 4)
        got = run(top, net[4], x, in_layer=net[0])
        assert [m.training for m in net.modules()] == modes
        assert torch.equal(net[1].running_mean, mean)
        assert int(net[1].num_batches_tracked) == count
        training = [m.training for m in net.modules()]
        near(got, torch_run(net.eval(), x))
        for module, mode in zip(net.modules(), training, strict=True):
            module.training = mode

    def test_the_mode_is_restored_after_an_error(self, net: Any) -> None:
        modes = [m.training for m in net.modules()]
        with pytest.raises(ValueError, match="Sequential fails"):
            topology_of(net, torch.ones(1, 7))
        assert [m.training for m in net.modules()] == modes

    def test_gradients_are_not_touched(self, net: Any) -> None:
        net(torch.rand(4, 4)).sum().backward()
        gradients = [p.grad.clone() for p in net.parameters()]
        topology_of(net, torch.ones(1, 4))
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            assert parameter.requires_grad
            assert torch.equal(parameter.grad, gradient)


class TestTypes:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
    def test_measured(self, dtype: Any) -> None:
        net = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2)).to(dtype)
        top = topology_of(net, torch.zeros(1, 4, dtype=dtype))
        x = noise(8, 4)
        tolerance = 2e-3 if dtype is torch.float16 else 1e-5
        for factor in (1, -3):
            with torch.no_grad():
                net[0].weight.mul_(factor)
            got = run(top, net[0], x)
            near(got, torch_run(lambda v: net[1](net[0](v)), x, dtype), tolerance)
        assert onnx_ei.ei_parts(net[0], top, **UNIT) > 0

    def test_bfloat16_runs_in_float32_and_says_so(self) -> None:
        net = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()).to(torch.bfloat16)
        top = topology_of(net, torch.zeros(1, 4, dtype=torch.bfloat16))
        assert top.nodes[net[0]]["output"]["activation"] is net[1]
        x = noise(5, 4)
        for factor in (1, -3):
            with torch.no_grad():
                net[0].weight.mul_(factor)
            (note,) = span_of(top, net[0]).notes
            assert note.startswith("runs in float32: onnxruntime has no kernels")
            wide = nn.Linear(4, 3)
            wide.load_state_dict({k: v.float() for k, v in net[0].state_dict().items()})
            near(run(top, net[0], x), torch_run(lambda v, wide=wide: torch.sigmoid(wide(v)), x))
        assert onnx_ei.ei_parts(net[0], top, **UNIT) > 0


class Recurrent(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        return self.out(self.lstm(x)[0][:, -1])


class TestOtherModules:
    def test_lstm(self) -> None:
        net = Recurrent()
        top = topology_of(net, torch.zeros(1, 6, 4))
        assert list(top) == [net.lstm, net.out]
        cell = run(top, net.lstm, noise(8, 4))
        with torch.no_grad():
            step, _ = net.lstm(torch.tensor(noise(8, 4))[:, None])
        near(cell, step.reshape(8, -1).numpy())
        x = noise(8, 5)
        before = run(top, net.out, x)
        with torch.no_grad():
            net.out.weight.add_(1)
        after = run(top, net.out, x)
        near(after, torch_run(net.out, x))
        assert np.abs(after - before).max() > 0.1

    def test_attention(self) -> None:
        net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, activation="gelu", batch_first=True)
        top = topology_of(net, torch.rand(1, 5, 8))
        assert [k if isinstance(k, str) else id(k) for k in top] == [
            "self_attn", "self_attn.out_proj", id(net.linear1), id(net.linear2),
        ]  # fmt: skip
        assert top.nodes[net.linear1]["output"]["activation"] == "Gelu"
        x = noise(4, 8)
        for _ in range(2):
            near(run(top, net.linear1, x), torch_run(lambda v: F.gelu(net.linear1(v)), x))
            near(
                run(top, net.linear2, x, in_layer=net.linear1),
                torch_run(lambda v: net.linear2(F.gelu(net.linear1(v))), x),
            )
            near(run(top, "self_attn.out_proj", x), torch_run(net.self_attn.out_proj, x))
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.mul_(-1.5)

    @pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
    def test_parametrized_weights(self, name: str) -> None:
        net = nn.Sequential(getattr(nn.utils.parametrizations, name)(nn.Linear(4, 3)), nn.Tanh())
        net.eval()
        top = topology_of(net, torch.zeros(1, 4))
        assert list(top) == [net[0]]
        assert top.nodes[net[0]]["output"]["activation"] is net[1]
        x = noise(8, 4)
        before = run(top, net[0], x)
        near(before, torch_run(net, x))
        with torch.no_grad():
            for parameter in net[0].parametrizations.weight.parameters():
                parameter.copy_(torch.randn_like(parameter))
        after = run(top, net[0], x)
        near(after, torch_run(net, x), 1e-4)
        assert np.abs(after - before).max() > 0.01
        nn.utils.parametrize.remove_parametrizations(net[0], "weight")
        with pytest.raises(ModelError, match="is gone from Sequential; call topology_of again"):
            run(top, net[0], x)

    def test_weight_norm_of_the_old_kind(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)), nn.Tanh())
        top = topology_of(net, torch.zeros(1, 4))
        assert list(top) == [net[0]]
        with torch.no_grad():
            net[0].weight_g.mul_(3)
        x = noise(8, 4)
        near(run(top, net[0], x), torch_run(net, x), 1e-4)

    def test_a_weight_that_becomes_parametrized(self) -> None:
        net = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
        top = topology_of(net, torch.zeros(1, 4))
        nn.utils.parametrizations.weight_norm(net[0])
        with torch.no_grad():
            net[0].parametrizations.weight.original0.mul_(2)
        x = noise(8, 4)
        near(run(top, net[0], x), torch_run(net, x))

    def test_tied_weights(self) -> None:
        net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        net[2].weight = net[0].weight
        top = topology_of(net, torch.zeros(1, 4))
        assert list(top) == [net[0], net[2]]
        x = noise(8, 4)
        for _ in range(2):
            near(run(top, net[2], x, in_layer=net[0]), torch_run(net, x))
            with torch.no_grad():
                net[2].weight.mul_(-2)
        net[2].weight = nn.Parameter(torch.randn(4, 4))
        with pytest.raises(ModelError, match="are two now; call topology_of again"):
            run(top, net[0], x)

    def test_weights_that_share_memory_and_buffers_that_are_views(self) -> None:
        net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        net[2].weight.data = net[0].weight.data
        top = topology_of(net, torch.zeros(1, 4))
        with torch.no_grad():
            net[0].weight.mul_(-2)
        x = noise(8, 4)
        near(run(top, net[2], x), torch_run(net[2], x))

    def test_weights_of_equal_values_are_not_one(self) -> None:
        net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        for parameter in net.parameters():
            nn.init.constant_(parameter, 0.25)
        top = topology_of(net, torch.zeros(1, 4))
        with torch.no_grad():
            net[2].weight.copy_(torch.randn(4, 4))
            net[2].bias.copy_(torch.randn(4))
        x = noise(8, 4)
        near(run(top, net[2], x, in_layer=net[0]), torch_run(net, x))

    def test_inputs_as_a_tuple_or_by_name(self) -> None:
        bilinear = nn.ModuleDict({"left": nn.Linear(3, 4), "right": nn.Linear(2, 4)})

        class Sum(nn.Module):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.parts = bilinear

            def forward(self, x: Any, y: Any) -> Any:
                return torch.sigmoid(self.parts["left"](x) + self.parts["right"](y))

        net = Sum()
        x, y = torch.zeros(1, 3), torch.zeros(1, 2)
        for example in ((x, y), {"x": x, "y": y}, [x.numpy(), y.numpy()]):
            assert list(topology_of(net, example)) == [bilinear["left"], bilinear["right"]]


# --- live weights ----------------------------------------------------------------------------


def network() -> Any:
    return nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3), nn.Sigmoid()
    )


@pytest.fixture(scope="module")
def exported() -> tuple[Any, Any]:
    torch.manual_seed(0)
    net = network()
    return net, topology_of(net, torch.zeros(1, 4))


@pytest.fixture
def net(exported: tuple[Any, Any]) -> Iterator[Any]:
    """One network for all tests, as it was before each: the same Parameters, the same values."""
    net, _ = exported
    tensors = [(m, dict(m._parameters), dict(m._buffers)) for m in net.modules()]
    values = [
        (t, t.data, t.detach().clone())
        for _, *held in tensors
        for group in held
        for t in group.values()
        if t is not None
    ]
    yield net
    for tensor, data, value in values:
        tensor.data = data
        tensor.data.copy_(value)
        tensor.grad = None
    for module, parameters, buffers in tensors:
        module._parameters.clear()
        module._parameters.update(parameters)
        module._buffers.clear()
        module._buffers.update(buffers)
    net.eval()


@pytest.fixture
def top(exported: tuple[Any, Any]) -> Any:
    return exported[1]


def step(net: Any, optimizer: Any) -> None:
    net.train()
    net(torch.rand(16, 4)).square().sum().backward()
    optimizer.step()
    net.eval()


def other_state() -> Any:
    torch.manual_seed(5)
    state = network().state_dict()
    state["1.running_mean"].uniform_(-1, 1)
    return state


def in_place(net: Any) -> None:
    with torch.no_grad():
        net[0].weight.mul_(-2)
        net[3].weight[0, 0] = 5


def initialised(net: Any) -> None:
    nn.init.orthogonal_(net[0].weight)
    nn.init.uniform_(net[3].weight)


def new_parameters(net: Any) -> None:
    net[0].weight = nn.Parameter(torch.randn(5, 4))
    net[3].bias = nn.Parameter(torch.randn(3))


def data_in_place(net: Any) -> None:
    net[0].weight.data.neg_()
    net[3].weight.data.zero_()


def data_assigned(net: Any) -> None:
    net[0].weight.data = torch.randn(5, 4)
    net[3].weight.data = torch.randn(5, 3).t()


def through_numpy(net: Any) -> None:
    net[0].weight.detach().numpy()[1] += 3
    net[3].weight.detach().numpy()[:] *= -1


def one_element(net: Any) -> None:
    net[0].weight.data[4, 3] += 1
    net[3].weight.data[2, 4] += 1


def bias_only(net: Any) -> None:
    net[0].bias.data.add_(1)
    net[3].bias.data.sub_(1)


def running_statistics(net: Any) -> None:
    net.train()
    net(torch.rand(32, 4) * 5)
    net.eval()
    net[3].bias.data.add_(1)


def buffer_replaced(net: Any) -> None:
    net[1].running_mean = torch.randn(5)
    net[3].bias.data.add_(1)


def batch_norm_scale(net: Any) -> None:
    net[1].weight.data.mul_(3)
    net[3].bias.data.add_(1)


def vector(net: Any) -> None:
    size = sum(p.numel() for p in net.parameters())
    nn.utils.vector_to_parameters(torch.randn(size), net.parameters())


WAYS: dict[str, Callable[[Any], object]] = {
    "in place": in_place,
    "nn.init": initialised,
    "SGD": lambda net: step(net, torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)),
    "Adam, one by one": lambda net: step(
        net, torch.optim.Adam(net.parameters(), lr=0.3, foreach=False)
    ),
    "Adam, foreach": lambda net: step(
        net, torch.optim.Adam(net.parameters(), lr=0.3, foreach=True)
    ),
    "Adam, fused": lambda net: step(net, torch.optim.Adam(net.parameters(), lr=0.3, fused=True)),
    "load_state_dict": lambda net: net.load_state_dict(other_state()),
    "load_state_dict, assigned": lambda net: net.load_state_dict(other_state(), assign=True),
    "new Parameters": new_parameters,
    "data in place": data_in_place,
    "data assigned": data_assigned,
    "a numpy view": through_numpy,
    "one element": one_element,
    "bias only": bias_only,
    "running statistics": running_statistics,
    "buffer replaced": buffer_replaced,
    "batch-norm's scale": batch_norm_scale,
    "vector_to_parameters": vector,
}


@pytest.fixture(scope="module")
def fresh() -> dict[str, Any]:
    """Another network, exported with weights that the first one takes over."""
    torch.manual_seed(7)
    net = network()
    nn.init.normal_(net[3].weight, std=3)
    return {"net": net, "state": net.state_dict(), "top": topology_of(net, torch.zeros(1, 4))}


class TestLiveWeights:
    @pytest.mark.parametrize("way", WAYS)
    def test_a_change_is_seen(self, net: Any, top: Any, way: str) -> None:
        first, last = net[0], net[3]
        inputs = {first: noise(8, 4), last: noise(8, 5)}

        def truth() -> list[Any]:
            return [
                torch_run(net[:3], inputs[first]),
                torch_run(net[3:], inputs[last]),
                torch_run(net, inputs[first]),
            ]

        def ours() -> list[Any]:
            return [
                run(top, first, inputs[first]),
                run(top, last, inputs[last]),
                run(top, last, inputs[first], in_layer=first),
            ]

        net.eval()
        before = ours()
        WAYS[way](net)
        after = ours()
        for old, new, expected in zip(before, after, truth(), strict=True):
            near(new, expected)
            assert np.abs(new - old).max() > 0.01

    @pytest.mark.parametrize("where", [0, 3])
    def test_either_layer_of_a_span_of_two(self, net: Any, top: Any, where: int) -> None:
        x = noise(8, 4)
        before = run(top, net[3], x, in_layer=net[0])
        net[where].weight.data.mul_(-3)
        after = run(top, net[3], x, in_layer=net[0])
        near(after, torch_run(net, x))
        assert np.abs(after - before).max() > 0.01

    @pytest.mark.filterwarnings("ignore::onnx_ei.errors.UndersampledWarning")
    @pytest.mark.parametrize(
        "name", ["ei", "ei_parts", "sensitivity", "vector_and_pairwise_ei", "ei_parts_matrix"]
    )
    def test_measures_are_those_of_a_fresh_export(
        self, net: Any, top: Any, fresh: dict[str, Any], name: str
    ) -> None:
        function = getattr(onnx_ei, name)
        before = function(net[3], top, **UNIT)
        net.load_state_dict(fresh["state"])
        after = function(net[3], top, **UNIT)
        expected = function(fresh["net"][3], fresh["top"], **UNIT)
        np.testing.assert_array_equal(after, expected)
        assert not np.array_equal(before, after)

    def test_changed_back(self, net: Any, top: Any) -> None:
        first = onnx_ei.ei_parts(net[0], top, **UNIT)
        kept = net[0].weight.detach().clone()
        net[0].weight.data.mul_(4)
        second = onnx_ei.ei_parts(net[0], top, **UNIT)
        net[0].weight.data.copy_(kept)
        assert onnx_ei.ei_parts(net[0], top, **UNIT) == first
        assert second != first

    def test_with_an_activation_of_the_callers(self, net: Any, top: Any) -> None:
        x = noise(8, 5)

        def half(v: Any) -> Any:
            return v / 2

        for activation in ("tanh", half):
            function = torch.tanh if activation == "tanh" else half
            run(top, net[3], x, activation=activation)
            net[3].weight.data.mul_(-2)
            near(
                run(top, net[3], x, activation=activation),
                torch_run(lambda v, f=function: f(net[3](v)), x),
            )

    def test_spans_of_two_topologies_follow_one_network(self, net: Any, top: Any) -> None:
        again = topology_of(net, torch.zeros(1, 4))
        x = noise(8, 5)
        for _ in range(2):
            net[3].weight.data.mul_(-2)
            near(run(again, net[3], x), torch_run(net[3:], x))
            near(run(top, net[3], x), torch_run(net[3:], x))


class TestCost:
    def test_a_training_loop_pays_for_one_export(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = 0
        export = torch.onnx.export

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            return export(*arguments, **options)

        monkeypatch.setattr(torch.onnx, "export", counted)
        net = network()
        top = topology_of(net, torch.zeros(1, 4))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        found = []
        for _ in range(20):
            step(net, optimizer)
            found.append(onnx_ei.ei_parts(net[3], top, **UNIT))
            onnx_ei.sensitivity(net[3], top, in_layer=net[0], **UNIT)
        assert calls == 1
        assert len(set(found)) == 20

    def test_nothing_changed_nothing_made(
        self, net: Any, top: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spans = [
            (net[0], {}), (net[3], {}), (net[3], {"in_layer": net[0]}),
            (net[3], {"activation": "tanh"}),
        ]  # fmt: skip
        sessions = [span_of(top, layer, **options).session() for layer, options in spans]

        def refuse(*_: Any) -> None:
            raise ZeroDivisionError("a new session")

        monkeypatch.setattr("onnx_ei.span.Session", refuse)
        for (layer, options), session in zip(spans, sessions, strict=True):
            onnx_ei.ei_parts(layer, top, **options, **UNIT)
            assert span_of(top, layer, **options).session() is session

    def test_a_change_makes_only_what_it_touches(self, net: Any, top: Any) -> None:
        def sessions() -> list[Any]:
            return [
                span_of(top, net[0]).session(),
                span_of(top, net[3]).session(),
                span_of(top, net[3], in_layer=net[0]).session(),
            ]

        before = sessions()
        net[3].bias.data.add_(1)
        after = sessions()
        assert after[0] is before[0]
        assert after[1] is not before[1]
        assert after[2] is not before[2]
        assert all(a is b for a, b in zip(sessions(), after, strict=True))

    def test_functions_share_a_session(self, net: Any, top: Any) -> None:
        x = noise(8, 5)
        kept = len(model_of(top).cache)
        sessions = []
        for factor in (1.0, 2.0, 3.0, 1.0):
            activation = lambda v, k=factor: np.tanh(k * v)  # noqa: E731
            near(
                run(top, net[3], x, activation=activation),
                torch_run(lambda v, k=factor: torch.tanh(k * net[3](v)), x),
            )
            sessions.append(span_of(top, net[3], activation=activation).session())
        assert all(session is sessions[0] for session in sessions)
        assert len(model_of(top).cache) <= kept + 1

    def test_a_buffer_that_only_counts_makes_nothing(self, net: Any, top: Any) -> None:
        before = span_of(top, net[0]).session()
        net[1].num_batches_tracked += 1
        assert span_of(top, net[0]).session() is before


class TestBrokenWeights:
    def test_nan(self, net: Any, top: Any) -> None:
        first = onnx_ei.ei_parts(net[0], top, **UNIT)
        other = onnx_ei.ei_parts(net[3], top, **UNIT)
        kept = net[0].weight.detach().clone()
        net[0].weight.data[2, 1] = float("nan")
        for _ in range(2):
            with pytest.raises(ModelError, match=r"layer '0': weight '0.weight' holds NaN"):
                onnx_ei.ei_parts(net[0], top, **UNIT)
        with pytest.raises(ModelError, match="holds NaN"):
            onnx_ei.ei_parts(net[3], top, in_layer=net[0], **UNIT)
        assert onnx_ei.ei_parts(net[3], top, **UNIT) == other
        net[0].weight.data.copy_(kept)
        assert onnx_ei.ei_parts(net[0], top, **UNIT) == first

    def test_nan_before_the_first_measure(self, net: Any, top: Any) -> None:
        kept = net[3].bias.detach().clone()
        net[3].bias.data[0] = float("nan")
        with pytest.raises(ModelError, match=r"'3.bias' holds NaN"):
            run(top, net[3], noise(8, 5), activation="softsign")
        net[3].bias.data.copy_(kept)
        x = noise(8, 5)
        near(
            run(top, net[3], x, activation="softsign"),
            torch_run(lambda v: F.softsign(net[3](v)), x),
        )

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda net: setattr(net[0], "weight", nn.Parameter(torch.zeros(6, 4))), "(6, 4) now"),
            (lambda net: setattr(net[0].weight, "data", torch.ones(5, 5)), "(5, 5) now"),
            (lambda net: delattr(net[0], "weight"), "'0.weight' is gone from Sequential"),
            (lambda net: setattr(net[0], "bias", None), "'0.bias' is gone from Sequential"),
            (
                lambda net: setattr(net[0], "bias", nn.Parameter(torch.zeros(5).double())),
                "float64",
            ),
        ],
        ids=["shape", "data of another shape", "deleted", "none", "type"],
    )
    def test_another_shape_or_none(self, net: Any, top: Any, spoil: Any, message: str) -> None:
        spoil(net)
        with pytest.raises(ModelError) as caught:
            onnx_ei.ei_parts(net[0], top, **UNIT)
        assert message in str(caught.value)
        assert str(caught.value).endswith("call topology_of again")
        onnx_ei.ei_parts(net[3], top, **UNIT)  # another layer is none the worse

    def test_a_module_that_was_replaced(self) -> None:
        net = network()
        top = topology_of(net, torch.zeros(1, 4))
        old, net[0] = net[0], nn.Linear(4, 5)
        with pytest.raises(ModelError, match=r"another module at '0' .* call topology_of again"):
            onnx_ei.ei_parts(old, top, **UNIT)
        with pytest.raises(UnknownLayerError):
            onnx_ei.ei_parts(net[0], top, **UNIT)
        onnx_ei.ei_parts(net[3], top, **UNIT)
        net[0] = old
        onnx_ei.ei_parts(old, top, **UNIT)


# --- errors ----------------------------------------------------------------------------------


class Branching(nn.Module):  # type: ignore[misc,name-defined]
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        y = self.layer(x)
        return torch.relu(y) if y.sum() > 0 else y


class WithoutForm(nn.Module):  # type: ignore[misc,name-defined]
    """An operator that ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 9)

    def forward(self, x: Any) -> Any:
        return torch.linalg.matrix_exp(self.layer(x).reshape(-1, 3, 3))


class Idle(nn.Module):  # type: ignore[misc,name-defined]
    """A layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3, 3)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return self.used(x)


class TestErrors:
    @pytest.mark.parametrize("kind", [Branching, WithoutForm])
    def test_a_module_that_cannot_be_exported(self, kind: Any) -> None:
        module = kind().train()
        with pytest.raises(UnsupportedModelError) as caught:
            topology_of(module, torch.zeros(1, 3))
        text = str(caught.value)
        assert text.startswith(f"{kind.__name__} cannot be exported to ONNX: ")
        assert "Make its forward traceable" in text
        assert "pass its path" in text
        assert "\n" not in text
        assert module.training

    def test_an_input_of_the_wrong_shape(self) -> None:
        with pytest.raises(ValueError, match=r"Linear fails on the example input \(\(1, 4\) torch"):
            topology_of(nn.Linear(3, 3), torch.zeros(1, 4))

    @pytest.mark.parametrize(
        ("given", "message"),
        [((), r"topology_of\(Linear\(...\)\) needs input="), (("text",), "got str")],
    )
    def test_no_input(self, given: tuple[object, ...], message: str) -> None:
        with pytest.raises(TypeError, match=message):
            topology_of(nn.Linear(3, 3), *given)

    def test_layers_that_are_not_there(self) -> None:
        module = Idle()
        top = topology_of(module, torch.zeros(1, 3))
        assert module.used in top
        for key in (module.idle, nn.Linear(3, 3), nn.ReLU(), None):
            assert key not in top
            for where in ({"layer": key}, {"layer": module.used, "in_layer": key}):
                if where.get("in_layer", key) is None and "in_layer" in where:
                    continue  # that is the default
                with pytest.raises(UnknownLayerError) as caught:
                    onnx_ei.ei(topology=top, samples=10, **where)
                text = str(caught.value)
                assert "did not run on the example input" in text
                assert "part of another model" in text
                assert "'used'" in text
        with pytest.raises(UnknownLayerError, match=r"'usde'.*'used'"):
            onnx_ei.ei("usde", top, samples=10)

    def test_an_input_without_a_batch(self) -> None:
        net = nn.Linear(3, 2)
        top = topology_of(net, torch.zeros(3))
        with pytest.raises(UnsupportedModelError, match="batch"):
            onnx_ei.ei(net, top, samples=10)

    def test_a_graph_that_is_no_topology(self) -> None:
        with pytest.raises(TypeError, match="must be what topology_of returns"):
            onnx_ei.ei(nn.Linear(3, 2), nx.DiGraph(), samples=10)
