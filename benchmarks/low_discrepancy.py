"""Whether low-discrepancy noise measures better than plain noise, for the same number of samples.

    python benchmarks/low_discrepancy.py [--repeats 20] [--out FILE.json] [--table]

Sigmoid layers with the paper's weights, and the Iris network's, inputs on (0, 1). Each noise is
drawn ``--repeats`` times, independently scrambled, and counted by the package's own kernels; from
the values and the truth come the root of the mean squared error and the bias of each estimator, in
the file also the scatter and the mean standard error that the estimator ``claimed``. Truths: the
exact engine for pairs, quadrature for two inputs, 2**27 samples for more (their error is shown). A
quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from figures import RESULTS
from onnx import numpy_helper
from scipy.special import expit, logit
from scipy.stats import qmc

from onnx_ei._exact.pairs import exact_pairs
from onnx_ei._exact.pieces import Pieces
from onnx_ei.estimators import entropy_of_counts, log2_table
from onnx_ei.histogram import Keys, pack_keys
from onnx_ei.information import pairwise_information, vector_information

COUNTED = ("jackknife", "plugin")
GROUPED = "jackknife of 16"
"""Leaves out a sixteenth of the samples at a time, and not one: assumes no multinomial counts, only
that the sixteenths are independent, as those of plain noise and of 16 scramblings are."""
ESTIMATORS = (*COUNTED, GROUPED)
POWERS = {"pair": (12, 15, 18), "sum": (12, 15, 18), "vector": (12, 15, 18, 20)}
LONG = 27
GROUPS = 16


def plain(n: int, d: int, seed: int) -> Any:
    return np.random.default_rng(seed).random((n, d))


def stratified(n: int, d: int, seed: int) -> Any:
    """Each input alone has one sample in each of ``n`` strata (a Latin hypercube)."""
    rng = np.random.default_rng(seed)
    strata = np.stack([rng.permutation(n) for _ in range(d)], axis=1)
    return (strata + rng.random((n, d))) / n


def sobol(n: int, d: int, seed: int) -> Any:
    return qmc.Sobol(d, scramble=True, rng=np.random.default_rng(seed)).random(n)


def scramblings(n: int, d: int, seed: int) -> Any:
    """Independent scramblings one after the other: what an honest standard error needs."""
    return np.concatenate([sobol(n // GROUPS, d, 1_000_000 + seed * GROUPS + g)
                           for g in range(GROUPS)])  # fmt: skip


NOISES: dict[str, Callable[[int, int, int], Any]] = {
    "plain": plain, "stratified": stratified, "sobol": sobol, "16 x sobol": scramblings,
}  # fmt: skip
INDEPENDENT = ("plain", "16 x sobol")
IRIS = Path(__file__).resolve().parent.parent / "examples" / "iris" / "iris.onnx"


@dataclass(frozen=True)
class Layer:
    """A dense sigmoid layer: what is measured of it, and its truth."""

    what: str
    n_inputs: int
    n_outputs: int
    bins: int
    measure: str
    iris: str = ""

    @cached_property
    def weights(self) -> Any:
        if self.iris:
            tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(IRIS).graph.initializer}
            return tensors[self.iris].astype(np.float64).T
        if self.n_inputs == 1:
            return np.array([[2.7]])  # a draw from (-1, 1) fills a few of the 64 bins
        rng = np.random.default_rng(self.n_inputs)
        return rng.uniform(-1, 1, (self.n_inputs, self.n_outputs)) / self.n_inputs**0.5

    def codes(self, x: Any) -> tuple[Any, Any]:
        """Bin noise, and what the layer makes of it."""
        top = self.bins - 1
        y = expit(x @ self.weights)
        return tuple(
            np.ascontiguousarray(np.minimum(v * self.bins, top).astype(np.uint8).T) for v in (x, y)
        )

    def estimates(self, x: Any, independent: bool) -> dict[str, tuple[float, float]]:
        """Measure with each estimator: bits, and the standard error that goes with them."""
        codes = self.codes(x)
        found = {name: self._estimate(*codes, name) for name in COUNTED}
        if independent:
            found[GROUPED] = self._left_out(*codes)
        return found

    def _left_out(self, p: Any, q: Any) -> tuple[float, float]:
        if self.measure == "vector":
            x, y = ((b.astype(np.int64).T @ self.bins ** np.arange(b.shape[0])) for b in (p, q))
            found = _without_each(*_dense(x), *_dense(y))
        else:
            pairs = np.ndindex(len(p), len(q)) if self.measure == "sum" else [(0, 0)]
            found = np.sum([_without_each(p[a], self.bins, q[b], self.bins) for a, b in pairs], 0)
        whole, parts = found[-1], found[:-1]
        spread = (GROUPS - 1) / GROUPS * ((parts - parts.mean()) ** 2).sum()
        return float(GROUPS * whole - (GROUPS - 1) * parts.mean()), float(np.sqrt(spread))

    def _estimate(self, p: Any, q: Any, estimator: str) -> tuple[float, float]:
        bins = (np.full(self.n_inputs, self.bins), np.full(self.n_outputs, self.bins))
        if self.measure == "vector":
            keys, kept = (Keys.empty(p.shape[1]), Keys.empty(p.shape[1])), np.ones(p.shape[1], bool)
            for codes, n_bins, key in zip((p, q), bins, keys, strict=True):
                pack_keys(codes, n_bins, *key, kept)
            vector = vector_information(*keys, kept, estimator)
            return vector.bits, vector.stderr
        pairs = pairwise_information(p, q, *bins, estimator)
        if self.measure == "pair":
            return float(pairs.bits[0, 0]), float(pairs.stderr[0, 0])
        return pairs.total, pairs.total_stderr

    def truth(self) -> tuple[float, float]:
        """Return bits, and how far off they may be."""
        if self.measure != "vector":
            return self._exact()
        return self._quadrature() if self.n_inputs == 2 else self._long_run()

    def _exact(self) -> tuple[float, float]:
        edges = logit(np.arange(1, self.bins) / self.bins)
        pieces = [Pieces(edges=edges, codes=np.arange(self.bins), n_bins=self.bins)]
        found = exact_pairs(
            self.weights, np.zeros(self.n_outputs), (0.0, 1.0), self.bins, pieces * self.n_outputs
        )
        some = slice(None) if self.measure == "sum" else (0, 0)
        return float(found.bits[some].sum()), float(found.bound[some].sum())

    def _quadrature(self) -> tuple[float, float]:
        """Cut lines of constant x1 exactly; the error of their sum falls like their number**-2."""
        found = [_bits(self._lines(n)) for n in (2**13, 2**15)]
        return found[1], abs(found[1] - found[0])

    def _lines(self, n: int) -> Any:
        x1, w = (np.arange(n) + 0.5) / n, self.weights
        inner = np.arange(1, self.bins) / self.bins
        cuts = [np.broadcast_to(inner, (n, inner.size))]
        cuts += [(logit(inner) - w[0, b] * x1[:, None]) / w[1, b] for b in range(2)]
        ends = np.concatenate([np.zeros((n, 1)), *cuts, np.ones((n, 1))], axis=1)
        ends = np.sort(np.clip(ends, 0, 1), axis=1)
        middles = (ends[:, 1:] + ends[:, :-1]) / 2
        x = np.stack(np.broadcast_arrays(x1[:, None], middles), axis=-1).reshape(-1, 2)
        p, q = (codes.astype(np.int64) for codes in self.codes(x))
        states = ((p[0] * self.bins + p[1]) * self.bins + q[0]) * self.bins + q[1]
        mass = np.bincount(states, np.diff(ends, axis=1).ravel() / n, self.bins**4)
        return mass.reshape(self.bins**2, self.bins**2)

    def _long_run(self) -> tuple[float, float]:
        """Estimate from many samples, in two halves that say how well they agree."""
        found = []
        for half in range(2):
            seeds = range(10_000 + half * 1000, 10_000 + half * 1000 + 2 ** (LONG - 23))
            states = np.concatenate([self._states(2**22, seed) for seed in seeds])
            states.sort()
            joint = np.diff(np.flatnonzero(np.r_[True, states[1:] != states[:-1], True]))
            first = states[np.r_[0, np.cumsum(joint)[:-1]]]
            side = self.bins**self.n_outputs
            outer = [np.bincount(s, joint).astype(np.int64) for s in (first // side, first % side)]
            entropies = [entropy_of_counts(c[c > 0], "jackknife") for c in (*outer, joint)]
            found.append(entropies[0] + entropies[1] - entropies[2])
        return sum(found) / 2, abs(found[1] - found[0])

    def _states(self, n: int, seed: int) -> Any:
        p, q = self.codes(plain(n, self.n_inputs, seed))
        states = np.zeros(n, np.uint32)
        for row in (*p, *q):
            states = states * np.uint32(self.bins) + row
        return states


LAYERS = (
    Layer("one pair of 1 -> 1, 64 bins", 1, 1, 64, "pair"),
    Layer("one pair of 2 -> 1, 64 bins", 2, 1, 64, "pair"),
    Layer("one pair of 10 -> 1, 64 bins", 10, 1, 64, "pair"),
    Layer("EI_parts of 10 -> 10, 64 bins", 10, 10, 64, "sum"),
    Layer("EI of 2 -> 2, 16 bins", 2, 2, 16, "vector"),
    Layer("EI of 5 -> 5, 8 bins", 5, 5, 8, "vector"),
    Layer("EI of Iris hidden1, 4 -> 5, 8 bins", 4, 5, 8, "vector", "hidden1.weight"),
    Layer("EI of Iris output, 5 -> 3, 8 bins", 5, 3, 8, "vector", "output.weight"),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Errors of one estimator on one noise, in bits; ``claimed`` is the mean standard error."""

    what: str
    samples: int
    noise: str
    estimator: str
    bias: float
    scatter: float
    rmse: float
    claimed: float


def _dense(states: Any) -> tuple[Any, int]:
    """Number the states that occur."""
    seen, numbers = np.unique(states, return_inverse=True)
    return numbers, seen.size


def _without_each(x: Any, x_states: int, y: Any, y_states: int) -> Any:
    """Return plug-in bits without each group of samples, and last with all of them."""
    n = x.size
    x, y = x.astype(np.int64), y.astype(np.int64)
    joint, joint_states = _dense(x * y_states + y)
    group = np.arange(n) * GROUPS // n
    bits = np.zeros(GROUPS + 1)
    log2 = log2_table(n)
    for ids, states, sign in ((x, x_states, 1), (y, y_states, 1), (joint, joint_states, -1)):
        counts = np.bincount(group * states + ids, minlength=GROUPS * states).reshape(GROUPS, -1)
        left = np.concatenate([counts.sum(0) - counts, counts.sum(0)[None]])
        total = left.sum(axis=1)
        bits += sign * (log2[total] - (left * log2[left]).sum(axis=1) / total)
    return bits


def measured(layer: Layer, truth: float, repeats: int) -> Iterator[Found]:
    for power in POWERS[layer.measure]:
        for noise, draw in NOISES.items():
            independent = noise in INDEPENDENT
            runs = [
                layer.estimates(draw(2**power, layer.n_inputs, s), independent)
                for s in range(repeats)
            ]
            for name in runs[0]:
                bits = np.array([run[name][0] for run in runs]) - truth
                yield Found(
                    what=layer.what, samples=2**power, noise=noise, estimator=name,
                    bias=float(bits.mean()), scatter=float(bits.std(ddof=1)),
                    rmse=float(np.sqrt((bits**2).mean())),
                    claimed=float(np.mean([run[name][1] for run in runs])),
                )  # fmt: skip


def _bits(p: Any) -> float:
    outer = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    some = p > 0
    return float((p[some] * np.log2(p[some] / outer[some])).sum())


SHOWN = (
    ("plain", "jackknife"), ("stratified", "jackknife"), ("sobol", "jackknife"),
    ("sobol", "plugin"), ("16 x sobol", GROUPED),
)  # fmt: skip


def show(found: list[Found]) -> None:
    """Print a Markdown table of RMSE and bias: a row for each measure and number of samples."""
    print("| measure | N |" + "".join(f" {noise}, {name} |" for noise, name in SHOWN))
    print("|---|---:|" + "---:|" * len(SHOWN))
    cells = {(f.what, f.samples, f.noise, f.estimator): f for f in found}
    for layer in LAYERS:
        for power in POWERS[layer.measure]:
            row = [cells[layer.what, 2**power, *column] for column in SHOWN]
            texts = [f"{_short(f.rmse)} ({_short(f.bias, '+')})" for f in row]
            print(f"| {layer.what} | 2^{power} | {' | '.join(texts)} |")


def _short(bits: float, sign: str = "") -> str:
    bits = round(bits, 5) + 0.0  # no -0
    return f"{bits:{sign}.{max(0, min(5, 1 - int(np.floor(np.log10(abs(bits) + 1e-9)))))}f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--repeats", type=int, default=20, help="independent scramblings of each")
    parser.add_argument("--out", type=Path, default=RESULTS / "low_discrepancy.json")
    parser.add_argument("--table", action="store_true", help="only print what the file holds")
    chosen = parser.parse_args()
    if chosen.table:
        held = json.loads(chosen.out.read_text(encoding="utf-8"))["found"]
        show([Found(**each) for each in held])
        return 0
    found: list[Found] = []
    truths = {}
    for layer in LAYERS:
        truths[layer.what] = truth, error = layer.truth()
        print(f"{layer.what}: {truth:.6f} bits, within {error:.1e}", file=sys.stderr, flush=True)
        found += measured(layer, truth, chosen.repeats)
    show(found)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    kept = {"repeats": chosen.repeats, "truths": truths, "found": [asdict(f) for f in found]}
    chosen.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
