"""deep_ei itself, run beside ours: on the same noise, and on noise of its own."""

from __future__ import annotations

import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import require_peer
from deep_ei_shim import same_noise, topology, unit_noise

torch: Any = require_peer("torch")
deep_ei = require_peer("deep_ei")

from onnx_ei import measures  # noqa: E402
from onnx_ei.errors import OutOfRangeWarning, UndersampledWarning  # noqa: E402
from onnx_ei.exporters import export_torch  # noqa: E402
from onnx_ei.runtime import runner  # noqa: E402
from onnx_ei.span import span_of  # noqa: E402
from onnx_ei.topology import topology_of  # noqa: E402

N = 8192
SWEEP = 2048
ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "ReLU", "identity": None}


@dataclass(frozen=True)
class Case:
    """A random network; ``units`` has one more entry than there are layers."""

    units: tuple[int, ...]
    activation: str
    bins: int

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.units))}-{self.activation}-{self.bins}"


CASES = [
    Case((1, 1), "sigmoid", 4),
    Case((1, 1), "tanh", 64),
    Case((2, 1), "relu", 8),
    Case((2, 3), "identity", 16),
    Case((3, 3), "sigmoid", 16),
    Case((4, 5), "tanh", 8),
    Case((5, 5), "sigmoid", 8),
    Case((6, 2), "relu", 32),
    Case((8, 8), "identity", 4),
    Case((10, 10), "sigmoid", 64),
    Case((16, 12), "tanh", 16),
    Case((25, 25), "sigmoid", 32),
    Case((25, 25), "relu", 4),
    Case((4, 5, 3), "sigmoid", 8),
    Case((3, 6, 2), "tanh", 32),
    Case((2, 4, 4, 2), "sigmoid", 16),
    Case((5, 4, 6, 3), "relu", 8),
]


@dataclass(frozen=True)
class Both:
    """One network, as deep_ei sees it and as we do."""

    case: Case
    theirs: Any
    ends: tuple[Any, Any]
    ours: Any
    keys: tuple[str, str]

    @property
    def n_inputs(self) -> int:
        return self.case.units[0]

    @property
    def n_outputs(self) -> int:
        return self.case.units[-1]

    def deep(self, name: str, *arguments: Any, **options: Any) -> Any:
        first, last = self.ends
        function = getattr(deep_ei, name)
        return function(last, self.theirs, *arguments, in_layer=first, **self.bins, **options)

    def our(self, name: str, *arguments: Any, **options: Any) -> Any:
        first, last = self.keys
        function = getattr(measures, name)
        return function(last, self.ours, *arguments, in_layer=first, **self.bins, **options)

    def measure(self, name: str, **options: Any) -> Any:
        first, last = self.keys
        return measures.measure(name, last, self.ours, in_layer=first, **self.bins, **options)

    @property
    def bins(self) -> dict[str, Any]:
        return {"in_bins": self.case.bins, "out_bins": self.case.bins}


@cache
def both(case: Case) -> Both:
    generator = np.random.default_rng([*case.units, case.bins])
    modules: list[tuple[str, Any]] = []
    activation = ACTIVATIONS[case.activation]
    for index, (n_in, n_out) in enumerate(zip(case.units[:-1], case.units[1:], strict=True)):
        linear = torch.nn.Linear(n_in, n_out, bias=False)
        # 0.9 / sum |w| for a linear layer, so that no output can leave (-10, 10): deep_ei's vector
        # functions keep what lies below the range as states of its own. Elsewhere the paper's
        # scale, three times over, so that outputs move through many bins.
        w = generator.uniform(-1, 1, (n_out, n_in))
        w *= 0.9 / np.abs(w).sum(axis=1, keepdims=True) if activation is None else 3 / n_in**0.5
        if activation == "ReLU":
            w *= 0.9 / np.maximum(np.abs(w).sum(axis=1, keepdims=True), 0.9)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w))
        modules.append((f"fc{index}", linear))
        if activation is not None:
            modules.append((f"act{index}", getattr(torch.nn, activation)()))
    model = torch.nn.Sequential(OrderedDict(modules))
    example = torch.zeros(1, case.units[0])
    with torch.no_grad():
        theirs = topology(deep_ei, model, example)
    with tempfile.TemporaryDirectory() as folder:
        ours = topology_of(export_torch(model, example, Path(folder) / "net.onnx"))
    last = len(case.units) - 2
    return Both(
        case=case,
        theirs=theirs,
        ends=(model.fc0, getattr(model, f"fc{last}")),
        ours=ours,
        keys=("fc0", f"fc{last}"),
    )


@pytest.fixture(params=CASES, ids=str)
def pair(request: pytest.FixtureRequest) -> Both:
    return both(request.param)


@pytest.fixture(autouse=True)
def undersampled() -> Iterator[None]:
    """Vectors of 25 units are undersampled on purpose here, in both packages alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndersampledWarning)
        yield


def _codes(values: Any, limits: Any, bins: Any, widened: float) -> Any:
    """Codes of (n, units) by either package's rule; ``bins`` where a sample is dropped."""
    lower, upper = (np.asarray(end, np.float64) for end in limits)
    if not widened:
        values = np.clip(values, lower - 5e-7, upper + 5e-7)  # what rounding put outside
        values = np.where(np.abs(values - lower) <= 5e-7, lower, values)
        values = np.where(np.abs(values - upper) <= 5e-7, upper, values)
    lower, upper = lower - widened, upper + widened
    codes = np.floor((values - lower) / (upper - lower) * bins)
    kept = (values >= lower) & (values <= upper)
    return np.where(kept, np.minimum(codes, bins - 1), bins)


def moved(pair: Both, n: int, *, out_range: Any = None, out_bins: Any = None) -> Any:
    """Bits by which the two rules for bin edges can change each pair's information, EI's noise.

    deep_ei widens the ranges by 1e-6, and torch and onnxruntime round their sums differently: a
    few samples fall in another bin. Both rules are applied here to what either runtime returns,
    and the samples counted that change cell. One that does changes four counts by one, and with
    each a term n log2 n by at most log2 N + 1.45, over N. Mostly none does, and what is left is
    the rounding of sums.
    """
    span = span_of(pair.ours, pair.keys[1], in_layer=pair.keys[0])
    low, high = span.in_range
    x = (high - low) * unit_noise(n, pair.n_inputs, 0) + np.float32(low)
    ours, theirs = runner(span)(x), _torch(pair, x)
    bins = pair.case.bins
    changed_in = _codes(x, span.in_range, bins, 0.0) != _codes(x, span.in_range, bins, 1e-6)
    ranges = [out_range or span.out_range] * 2
    if out_range == "dynamic":
        ranges = [(y.min(axis=0), y.max(axis=0)) for y in (ours, theirs)]
    out = [bins, bins]
    if out_bins == "dynamic":
        width = (high - low) / bins
        out = [np.floor((np.float64(upper) - lower) / width) + 1 for lower, upper in ranges]
        ranges = [(r[0], np.float64(r[0]) + k * width) for r, k in zip(ranges, out, strict=True)]
    changed_out = _codes(ours, ranges[0], out[0], 0.0) != _codes(theirs, ranges[1], out[1], 1e-6)
    couples = np.add.outer(changed_in.sum(axis=0), changed_out.sum(axis=0))
    return couples * 4 * (np.log2(n) + 1.45) / n + 1e-11


def moved_alone(pair: Both, n: int, *, out_range: Any = None) -> Any:
    """``moved`` for the sensitivities: one input at a time."""
    span = span_of(pair.ours, pair.keys[1], in_layer=pair.keys[0])
    low, high = span.in_range
    bins = pair.case.bins
    noise = (high - low) * unit_noise(n, pair.n_inputs, 1) + np.float32(low)
    ranges = [span.out_range] * 2
    if out_range == "dynamic":
        edges = np.linspace(low, high, bins + 1).astype(np.float32)
        swept = [_alone(pair, a, edges) for a in range(pair.n_inputs)]
        ranges = [(y.min(), y.max()) for y in np.stack(swept, axis=1)]
    rows = []
    for a in range(pair.n_inputs):
        ours, theirs = _alone(pair, a, noise[:, a])
        changed = _codes(ours, ranges[0], bins, 0.0) != _codes(theirs, ranges[1], bins, 1e-6)
        inputs = [_codes(noise[:, a], span.in_range, bins, widened) for widened in (0.0, 1e-6)]
        rows.append(changed.sum(axis=0) + (inputs[0] != inputs[1]).sum())
    return np.array(rows) * 4 * (np.log2(n) + 1.45) / n + 1e-11


def _alone(pair: Both, a: int, values: Any) -> tuple[Any, Any]:
    """Outputs of either runtime while one input takes some values and the others are 0."""
    x = np.zeros((values.size, pair.n_inputs), np.float32)
    x[:, a] = values
    return runner(span_of(pair.ours, pair.keys[1], in_layer=pair.keys[0]))(x), _torch(pair, x)


def _torch(pair: Both, x: Any) -> Any:
    """What deep_ei's own evaluation returns."""
    first, last = pair.ends
    activation = pair.theirs.nodes[last]["output"]["activation"]
    return deep_ei._eval_model(torch.from_numpy(x), first, last, pair.theirs, activation).numpy()


def agree(ours: Any, theirs: Any, tolerance: Any) -> bool:
    """Whether a matrix agrees entry by entry, or its sum within the sum of tolerances."""
    if np.ndim(ours) == 0:
        return bool(abs(ours - theirs) <= tolerance.sum())
    return bool(np.all(np.abs(ours - theirs) <= tolerance))


def vector_tolerance(case: Case) -> float:
    """The vector rules differ: theirs stretches the range by 1e-4, worth up to 0.025 bit at 64
    bins; fewer bins have fewer edges to move, in proportion."""
    return 0.025 * max(case.bins / 64, 1 / 4)


class TestOnTheSameNoise:
    """With the plug-in estimator, all that is left to differ is the rule at bin edges.

    Pairwise, the two agree to the rounding of sums, but for the few samples that ``moved`` counts.
    """

    def test_topology_of(self, pair: Both) -> None:
        names = {m: k for m, k in zip(pair.theirs, pair.ours, strict=True)}
        assert [k for k in pair.ours] == [f"fc{i}" for i in range(len(pair.case.units) - 1)]
        assert {(names[a], names[b]) for a, b in pair.theirs.edges} == set(pair.ours.edges)
        for module, key in names.items():
            for end in ("input", "output"):
                theirs, ours = pair.theirs.nodes[module][end], pair.ours.nodes[key][end]
                assert theirs["shape"] == ours["shape"]
                activation = theirs["activation"]
                expected = None if activation is None else type(activation).__name__.lower()
                assert (ours["activation"] or "none").lower() == (expected or "none")

    @pytest.mark.parametrize("name", ["ei_parts", "ei_parts_matrix"])
    def test_pairwise(self, pair: Both, name: str) -> None:
        with same_noise(torch, N, pair.n_inputs, 0):
            theirs = pair.deep(name, samples=N, batch_size=N)
        ours = pair.our(name, samples=N, estimator="plugin")
        assert agree(ours, theirs, moved(pair, N))

    @pytest.mark.parametrize("name", ["sensitivity", "sensitivity_matrix"])
    def test_sensitivity(self, pair: Both, name: str) -> None:
        with same_noise(torch, SWEEP, pair.n_inputs, 1):
            theirs = pair.deep(name, samples=SWEEP, batch_size=SWEEP)
        ours = pair.our(name, samples=SWEEP, estimator="plugin")
        assert agree(ours, theirs, moved_alone(pair, SWEEP))

    def test_ei(self, pair: Both) -> None:
        with same_noise(torch, N, pair.n_inputs, 0):
            theirs = pair.deep("ei", samples=N, batch_size=N)
        ours = pair.our("ei", samples=N, estimator="plugin")
        assert ours == pytest.approx(theirs, abs=vector_tolerance(pair.case))

    def test_vector_and_pairwise_ei(self, pair: Both) -> None:
        with same_noise(torch, N, pair.n_inputs, 0):
            theirs = pair.deep("vector_and_pairwise_ei", samples=N, batch_size=N)
        ours = pair.our("vector_and_pairwise_ei", samples=N, estimator="plugin")
        assert ours[0] == pytest.approx(theirs[0], abs=vector_tolerance(pair.case))
        assert agree(ours[1], theirs[1], moved(pair, N))

    def test_eis_between_groups(self, pair: Both) -> None:
        inputs, outputs = tuple(range(pair.n_inputs)), tuple(range(pair.n_outputs))
        groups = [(inputs, outputs), ((0,), (0,)), (inputs[:2], outputs[-1:])]
        with same_noise(torch, N, pair.n_inputs, 0):
            theirs = pair.deep("eis_between_groups", groups, samples=N, batch_size=N)
        ours = pair.our("eis_between_groups", groups, samples=N, estimator="plugin")
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=vector_tolerance(pair.case))


class TestOnItsOwnNoise:
    """Two runs of the plug-in have one bias; the jackknife lies below them, by no more than it."""

    cases = (CASES[3], CASES[4], CASES[6], CASES[9], CASES[13], CASES[15])

    @pytest.mark.parametrize("case", cases, ids=str)
    @pytest.mark.parametrize("name", ["ei_parts", "sensitivity"])
    def test_sums_over_pairs(self, case: Case, name: str) -> None:
        torch.manual_seed(0)
        pair = both(case)
        theirs = pair.deep(name, samples=N, batch_size=N)
        plugin = pair.measure(name, samples=N, estimator="plugin")
        jackknife = pair.our(name, samples=N)
        pairs = pair.n_inputs * pair.n_outputs
        # Either run has the standard error, and the chi-squared scatter of independent pairs,
        # whose linear error is 0: 2 N ln 2 I has (B - 1)^2 degrees of freedom.
        scatter = np.sqrt(2 * pairs * (case.bins - 1) ** 2) / (2 * N * np.log(2))
        error = np.sqrt(2) * np.hypot(plugin.stderr, scatter)
        assert plugin.value == pytest.approx(theirs, abs=4 * error)
        # Paninski (2003), proposition 1: an entropy of K states is at most log2(1 + (K - 1) / N)
        # too low, so an information is at most that too high.
        bias = pairs * np.log2(1 + (case.bins**2 - 1) / N)
        assert theirs - bias - 4 * error <= jackknife <= theirs + 4 * error

    @pytest.mark.parametrize("case", cases[:2], ids=str)
    def test_vectors(self, case: Case) -> None:
        torch.manual_seed(0)
        pair = both(case)
        theirs = pair.deep("ei", samples=N, batch_size=N)
        plugin = pair.measure("ei", samples=N, estimator="plugin")
        # Undersampled, the plug-in scatters with its entropy rather than its information:
        # the singletons' share has a standard error of at most 1 / (2 sqrt(N)), log2 N bits each.
        error = np.sqrt(2) * np.hypot(plugin.stderr, np.log2(N) / (2 * np.sqrt(N)))
        assert plugin.value == pytest.approx(theirs, abs=vector_tolerance(case) + 4 * error)
        assert pair.our("ei", samples=N) <= theirs + vector_tolerance(case) + 4 * error

    @pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=str)
    @pytest.mark.parametrize("name", ["ei_parts", "ei"])
    def test_automatic_sampling(self, case: Case, name: str) -> None:
        torch.manual_seed(0)
        pair = both(case)
        theirs = pair.deep(name, batch_size=10_000)
        found = pair.measure(name, method="sample")
        # Both take 20,000 samples or more. Theirs carries the plug-in's bias, at most that of
        # all joint cells at 20,000 (Paninski's bound again).
        cells = case.bins ** (2 if name == "ei_parts" else pair.n_inputs + pair.n_outputs)
        pairs = pair.n_inputs * pair.n_outputs if name == "ei_parts" else 1
        bias = pairs * np.log2(1 + (cells - 1) / 20_000) + vector_tolerance(case)
        error = 4 * np.sqrt(2) * found.stderr
        assert theirs - bias - error <= found.value <= theirs + vector_tolerance(case) + error

    def test_extrapolation(self) -> None:
        pair = both(CASES[2])
        with same_noise(torch, 2_000_000, pair.n_inputs, 0):
            theirs = pair.deep("ei_parts", extrapolate=True, batch_size=100_000)
        found = pair.measure("ei_parts", extrapolate=True, estimator="plugin")
        # The same 20 points. Least squares leaves them nothing to differ by where deep_ei's
        # exponent stays within our bounds, and the fit's own error where it does not.
        assert found.value == pytest.approx(theirs, abs=4 * found.stderr)
        assert pair.our("ei_parts", extrapolate=True) == pytest.approx(theirs, abs=4 * found.stderr)


class TestDynamic:
    """What only some of the functions take, on the same noise."""

    def test_ranges(self) -> None:
        pair = both(CASES[5])
        for name in ("ei_parts", "ei_parts_matrix"):
            with same_noise(torch, N, pair.n_inputs, 0):
                theirs = pair.deep(name, samples=N, batch_size=N, out_range="dynamic")
            ours = pair.our(name, samples=N, out_range="dynamic", estimator="plugin")
            assert agree(ours, theirs, moved(pair, N, out_range="dynamic"))

    @pytest.mark.parametrize("out_range", [None, "dynamic"])
    def test_bins(self, out_range: str | None) -> None:
        case = CASES[5]
        pair = both(case)
        options: dict[str, Any] = {
            "in_bins": case.bins,
            "out_range": out_range,
            "out_bins": "dynamic",
            "samples": N,
        }
        with same_noise(torch, N, pair.n_inputs, 0):
            theirs = deep_ei.ei_parts(pair.ends[1], pair.theirs, batch_size=N, **options)
        ours = measures.ei_parts("fc0", pair.ours, estimator="plugin", **options)
        assert agree(ours, theirs, moved(pair, N, out_range=out_range, out_bins="dynamic"))

    def test_sensitivity(self) -> None:
        # A monotone span: the bin edges, where we look, reach as far as deep_ei's two ends.
        pair = both(CASES[5])
        with same_noise(torch, SWEEP, pair.n_inputs, 1):
            theirs = pair.deep("sensitivity", samples=SWEEP, batch_size=SWEEP, out_range="dynamic")
        ours = pair.our("sensitivity", samples=SWEEP, out_range="dynamic", estimator="plugin")
        assert agree(ours, theirs, moved_alone(pair, SWEEP, out_range="dynamic"))

    def test_what_leaves_the_range_is_dropped_alike(self) -> None:
        pair = both(CASES[8])
        with same_noise(torch, N, pair.n_inputs, 0):
            theirs = pair.deep("ei_parts_matrix", samples=N, batch_size=N, out_range=(-1, 2))
        with pytest.warns(OutOfRangeWarning):
            ours = pair.our("ei_parts_matrix", samples=N, out_range=(-1, 2), estimator="plugin")
        # over the samples kept, at least a tenth
        assert agree(ours, theirs, 10 * moved(pair, N, out_range=(-1, 2)))


def test_mutual_information() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(N, generator=generator)
    y = (x + torch.rand(N, generator=generator)) / 2
    theirs = deep_ei.MI(x, y, bins=16)
    ours = measures.mutual_information(x, y, bins=16, estimator="plugin")
    changed = sum(
        int((_codes(v, (0, 1), 16, 0.0) != _codes(v, (0, 1), 16, 1e-6)).sum())
        for v in (x.numpy(), y.numpy())
    )
    assert ours == pytest.approx(theirs, abs=changed * 4 * (np.log2(N) + 1.45) / N + 1e-11)
