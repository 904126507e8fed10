"""deep_ei's own scripts with nothing but the import changed, beside deep_ei itself."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import deep_ei_shim
import networkx as nx
import numpy as np
import pytest
from conftest import require_peer
from deep_ei_shim import same_noise

torch: Any = require_peer("torch")
deep_ei: Any = require_peer("deep_ei")
nn: Any = torch.nn
F: Any = torch.nn.functional

import onnx_ei  # noqa: E402
from onnx_ei.errors import NotConvergedWarning, UndersampledWarning  # noqa: E402

FUNCTIONS = (
    "ei", "ei_parts", "ei_parts_matrix", "eis_between_groups", "sensitivity",
    "sensitivity_matrix", "topology_of", "vector_and_pairwise_ei",
)  # fmt: skip
N = 4096


@pytest.fixture(autouse=True)
def on_todays_networkx(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let deep_ei's scripts run, and let both be undersampled where deep_ei's README is."""
    stand_in = SimpleNamespace(
        DiGraph=deep_ei_shim._NoNoneEdges,
        set_node_attributes=nx.set_node_attributes,
        descendants=nx.descendants,
    )
    monkeypatch.setattr(deep_ei, "nx", stand_in)
    dtype = torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndersampledWarning)
        warnings.simplefilter("ignore", NotConvergedWarning)
        yield
    torch.set_default_dtype(dtype)


# --- the README ------------------------------------------------------------------------------


def blocks() -> list[str]:
    """The Python in deep_ei's README, its one misspelt argument put right."""
    described = importlib.metadata.metadata("deep-ei")
    # Where the backport of importlib.metadata was imported, as distributed does, it is a field.
    text = described.get_payload() or described["Description"]
    found = re.findall(r"```python\n(.*?)```", str(text), re.S)
    return [block.replace("samles=", "samples=") for block in found]


def play(block: str, package: str, seed: int) -> dict[str, Any]:
    """Run a block of the README under a package and return its variables."""
    names: dict[str, Any] = {}
    # later blocks use what earlier ones imported, and one what none did
    exec(f"import torch, torch.nn as nn\nfrom {package} import {', '.join(FUNCTIONS)}", names)
    exec("device = torch.device('cpu')", names)
    torch.manual_seed(seed)  # the first draws are the weights
    exec(block.replace("from deep_ei import", f"from {package} import"), names)
    return names


# Each block's result, then the bits that two runs of the plug-in may differ by. Vectors: deep_ei
# stretches the range by 1e-4, and the singletons' share has a standard error of 1 / (2 sqrt N),
# log2 N bits each; four of them, for two runs. Pairs: 2 N ln 2 I scatters like a chi-squared of
# (bins - 1)^2 degrees of freedom; four of its standard deviations, for two runs and all pairs.
def vector_error(n: int) -> float:
    return float(0.025 + 4 * np.sqrt(2) * np.log2(n) / (2 * np.sqrt(n)))


def pairs_error(pairs: int, bins: int, n: int) -> float:
    scatter = np.sqrt(2 * pairs * (bins - 1) ** 2) / (2 * n * np.log(2))
    linear = np.sqrt(pairs / n)  # an information density of a bit or so
    return float(4 * np.sqrt(2) * np.hypot(scatter, linear))


README = [
    (0, "EI", vector_error(100_000)),
    (1, "EI_layer1", vector_error(100_000)),
    (1, "EI_layer2", vector_error(100_000)),
    (2, "EI_parts", pairs_error(25, 8, 100_000)),
    (4, "sensitivity", pairs_error(100, 64, 1000)),
    (5, "EI", pairs_error(200, 64, 50_000)),
]


class TestReadme:
    played: dict[tuple[int, str, str], dict[str, Any]] = {}  # noqa: RUF012

    def played_block(self, index: int, package: str, estimator: str = "") -> dict[str, Any]:
        key = (index, package, estimator)
        if key not in self.played:
            block = blocks()[index]
            if estimator:
                block = block.replace("device=device)", f"device=device, estimator='{estimator}')")
            self.played[key] = play(block, package, seed=index)
        return self.played[key]

    def test_it_holds_what_is_tested(self) -> None:
        assert len(blocks()) == 6

    @pytest.mark.parametrize(("index", "name", "error"), README, ids=lambda v: str(v)[:9])
    def test_values(self, index: int, name: str, error: float) -> None:
        theirs = self.played_block(index, "deep_ei")[name]
        ours = self.played_block(index, "onnx_ei")[name]
        plugin = self.played_block(index, "onnx_ei", "plugin")[name]
        assert np.shape(ours) == np.shape(theirs)
        assert np.sum(plugin) == pytest.approx(np.sum(theirs), abs=error)
        # without the option the bias is taken off: below deep_ei's, by what the plug-in shows
        bias = abs(np.sum(plugin) - np.sum(ours))
        assert np.sum(theirs) - bias - error <= np.sum(ours) <= np.sum(theirs) + error

    def test_a_threshold(self) -> None:
        # Each stops where a doubling changes the value by 5 % or less, not at the same samples.
        theirs = self.played_block(3, "deep_ei")["EI"]
        ours = self.played_block(3, "onnx_ei")["EI"]
        assert ours == pytest.approx(theirs, rel=2 * 0.05)

    def test_what_the_graph_says(self) -> None:
        for package in ("deep_ei", "onnx_ei"):
            names = self.played_block(1, package)
            top, network = names["top"], names["network"]
            assert top.nodes[names["layer1"]]["output"]["activation"] is network[1]
            assert top.nodes[names["layer2"]]["output"]["activation"] is network[3]

    def test_the_misspelt_argument_is_refused_by_both(self) -> None:
        block = blocks()[5].replace("samples=", "samles=")
        for package in ("deep_ei", "onnx_ei"):
            with pytest.raises(TypeError, match="samles"):
                play(block, package, seed=5)

    def test_the_docstring_of_topology_of(self) -> None:
        network = nn.Sequential(nn.Linear(42, 20), nn.Sigmoid(), nn.Linear(20, 10))
        top = onnx_ei.topology_of(network, input=torch.zeros((1, 42)))
        layer1, sigmoid, layer2 = network
        assert top.nodes[layer1]["output"]["activation"] is sigmoid
        assert top.nodes[layer1]["input"]["shape"] == (1, 42)
        assert top.nodes[layer2]["input"]["activation"] is sigmoid


# --- the arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_stand_in_deep_eis_order(name: str) -> None:
    theirs = list(inspect.signature(getattr(deep_ei, name)).parameters.values())
    ours = list(inspect.signature(getattr(onnx_ei, name)).parameters.values())
    positional = [p for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == [p.name for p in theirs]
    if name != "topology_of":  # a file needs no example
        assert [p.default for p in positional] == [p.default for p in theirs]


def test_arguments_of_MI_stand_in_deep_eis_order() -> None:
    theirs = list(inspect.signature(deep_ei.MI).parameters.values())
    ours = list(inspect.signature(onnx_ei.mutual_information).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [
        (p.name, p.default) for p in theirs
    ]


class Both:
    """One network and its topology in either package."""

    def __init__(self, network: Any, example: Any) -> None:
        self.network = network
        with torch.no_grad():
            self.theirs = deep_ei_shim.topology(deep_ei, network, example)
        self.ours = onnx_ei.topology_of(network, example)


@pytest.fixture(scope="module")
def three() -> Both:
    """Three layers, 3-4-4-2."""
    torch.manual_seed(1)
    layers = [nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)]
    network = nn.Sequential(*layers, nn.Sigmoid())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
    return Both(network, torch.zeros(1, 3))


POSITIONAL: dict[str, tuple[Any, ...]] = {
    "ei": (0.05, N, N),
    "ei_parts": (0.05, N, False, N),
    "ei_parts_matrix": (N, N),
    "sensitivity": (N, N),
    "sensitivity_matrix": (N, N),
    "vector_and_pairwise_ei": (N, N),
    "eis_between_groups": ([((0, 1), (0,)), ((2,), (0, 1))], N, N),
}


class TestOnTheSameNoise:
    """All arguments by position; with the plug-in the two differ by the rule at bin edges only."""

    @pytest.mark.parametrize("name", POSITIONAL)
    @pytest.mark.parametrize("first", [0, 2, 4])
    def test_every_function_and_span(self, three: Both, name: str, first: int) -> None:
        start, end = three.network[first], three.network[4]
        activation = nn.Sigmoid()
        arguments = (*POSITIONAL[name], start, (0, 1), 8, (0, 1), 8, activation)
        n_inputs = start.in_features
        with same_noise(torch, N, n_inputs, int(name.startswith("sensitivity"))):
            theirs = getattr(deep_ei, name)(end, three.theirs, *arguments, torch.device("cpu"))
        function = getattr(onnx_ei, name)
        ours = function(end, three.ours, *arguments, torch.device("cpu"), estimator="plugin")
        # a few samples change cells by the two rules; the vector rule moves edges by 1e-4
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.025)
        plain = function(end, three.ours, *arguments, torch.device("cpu"))
        assert np.shape(plain) == np.shape(theirs)
        # deep_ei's floats are numpy's or Python's, as it happens; numpy's are Python's too
        kinds = [k for k in (float, tuple, list, np.ndarray) if isinstance(theirs, k)]
        assert isinstance(plain, kinds[0])
        if isinstance(theirs, list | tuple):
            assert all(isinstance(v, float) for v in plain)

    @pytest.mark.parametrize("first", [0, 2])
    def test_ranges_come_from_the_activations(self, three: Both, first: int) -> None:
        start, end = three.network[first], three.network[first + 2]
        with same_noise(torch, N, start.in_features, 0):
            theirs = deep_ei.ei_parts(
                end, three.theirs, samples=N, batch_size=N, in_layer=start, in_bins=16, out_bins=16
            )
        ours = onnx_ei.ei_parts(
            end, three.ours, samples=N, in_layer=start, in_bins=16, out_bins=16, estimator="plugin"
        )
        assert ours == pytest.approx(theirs, abs=0.025)

    @pytest.mark.parametrize("name", ["ei_parts", "ei_parts_matrix"])
    @pytest.mark.parametrize("out_range", [(-1, 1), "dynamic"])
    @pytest.mark.parametrize("out_bins", [16, "dynamic"])
    def test_dynamic(self, three: Both, name: str, out_range: Any, out_bins: Any) -> None:
        layer = three.network[2]
        options = {"in_bins": 16, "out_range": out_range, "out_bins": out_bins, "samples": N}
        with same_noise(torch, N, layer.in_features, 0):
            theirs = getattr(deep_ei, name)(layer, three.theirs, batch_size=N, **options)
        ours = getattr(onnx_ei, name)(layer, three.ours, **options, estimator="plugin")
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.025)

    def test_a_dynamic_in_range_is_refused_alike(self, three: Both) -> None:
        for package, top in ((deep_ei, three.theirs), (onnx_ei, three.ours)):
            with pytest.raises(ValueError, match="dynamic"):
                package.ei_parts(three.network[0], top, samples=N, in_range="dynamic")

    def test_a_layer_that_does_not_follow_is_refused(self, three: Both) -> None:
        with pytest.raises(AssertionError):
            deep_ei._eval_model(None, three.network[2], three.network[0], three.theirs, None)
        with pytest.raises(ValueError, match="'0' does not come after in_layer '2'"):
            onnx_ei.ei(three.network[0], three.ours, samples=N, in_layer=three.network[2])


# --- activation=, device= --------------------------------------------------------------------


class Shifted(nn.Module):  # type: ignore[misc,name-defined]
    """An activation of the user's own, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Any) -> Any:
        return torch.sigmoid(x + self.shift)


SCALE = nn.Parameter(torch.tensor(1.0))
SIGMOIDS = {
    "module": nn.Sigmoid(),
    "own module": Shifted(),
    "torch": torch.sigmoid,
    "functional": F.sigmoid,
    "special": torch.special.expit,
    "method": torch.Tensor.sigmoid,
    "tensors": lambda x: torch.sigmoid(x),
    "tensors, by method": lambda x: x.sigmoid(),
    "tensors, by module": lambda x: nn.Sigmoid()(x),
    "tensors, with a weight": lambda x: torch.sigmoid(x * SCALE),
    "arithmetic with a weight": lambda x: 1 / (1 + torch.exp(-(SCALE * x))),
    "either": lambda x: 1 / (1 + 2.718281828459045 ** (-x)),
    "arrays": lambda x: 1 / (1 + np.exp(-x)),
    "name": "sigmoid",
}


class TestActivations:
    options: dict[str, Any] = {  # noqa: RUF012
        "samples": N, "in_range": (0, 1), "in_bins": 8, "out_range": (0, 1), "out_bins": 8,
    }  # fmt: skip

    @pytest.mark.parametrize("kind", SIGMOIDS)
    def test_sigmoids(self, three: Both, kind: str) -> None:
        layer = three.network[2]
        expected = onnx_ei.ei_parts_matrix(layer, three.ours, activation="Sigmoid", **self.options)
        got = onnx_ei.ei_parts_matrix(layer, three.ours, activation=SIGMOIDS[kind], **self.options)
        # exp is rounded otherwise: a sample at an edge may fall in the other bin
        np.testing.assert_allclose(got, expected, rtol=0, atol=0.01)

    @pytest.mark.parametrize("activation", [F.relu, nn.ReLU(), "relu", lambda x: x.clamp(min=0)])
    def test_relu(self, three: Both, activation: Any) -> None:
        layer = three.network[0]
        options = self.options | {"out_range": (0, 10)}
        theirs = activation if callable(activation) else F.relu
        with same_noise(torch, N, 3, 0):
            expected = deep_ei.ei_parts_matrix(
                layer, three.theirs, batch_size=N, activation=theirs, **options
            )
        got = onnx_ei.ei_parts_matrix(
            layer, three.ours, activation=activation, estimator="plugin", **options
        )
        np.testing.assert_allclose(got, expected, rtol=0, atol=0.01)

    def test_the_activation_that_the_graph_names(self, three: Both) -> None:
        layer = three.network[2]
        found = three.ours.nodes[layer]["output"]["activation"]
        options = self.options | {"out_range": (-1, 1)}
        assert onnx_ei.ei(layer, three.ours, activation=found, **options) == onnx_ei.ei(
            layer, three.ours, **options
        )

    def test_a_weight_of_the_activation_is_read_again(self, three: Both) -> None:
        own = Shifted()
        before = onnx_ei.ei_parts(three.network[2], three.ours, activation=own, **self.options)
        with torch.no_grad():
            own.shift.fill_(6)
        after = onnx_ei.ei_parts(three.network[2], three.ours, activation=own, **self.options)
        assert after < before / 2

    @pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), torch.device("cpu", 0)])
    def test_device(self, three: Both, device: Any) -> None:
        layer = three.network[0]
        assert onnx_ei.ei(layer, three.ours, device=device, **self.options) == onnx_ei.ei(
            layer, three.ours, **self.options
        )


# --- MI --------------------------------------------------------------------------------------


class TestMI:
    def test_tensors_and_defaults(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(N, generator=generator, requires_grad=True)
        y = (x + torch.rand(N, generator=generator)) / 2
        theirs = deep_ei.MI(x, y)
        assert onnx_ei.mutual_information(x, y, estimator="plugin") == pytest.approx(
            theirs, abs=0.01
        )
        found = onnx_ei.mutual_information(x, y)
        assert type(found) is float
        # 32 x 32 bins, and the bias of the independent: (31 x 31) / (2 N ln 2)
        assert theirs - 31**2 / (2 * N * np.log(2)) - 0.05 < found < theirs

    def test_by_position(self) -> None:
        generator = torch.Generator().manual_seed(1)
        x = torch.rand(N, generator=generator) * 4 - 2
        y = torch.tanh(x)
        arguments = (x, y, 8, ((-2, 2), (-1, 1)))
        assert onnx_ei.mutual_information(*arguments, estimator="plugin") == pytest.approx(
            deep_ei.MI(*arguments), abs=0.01
        )
