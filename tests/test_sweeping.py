"""Sensitivity by sampling against its rule, spelled out: the same, however the work is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_spans import layer, measured, sigmoid
from graphs import make, node, noise
from numpy.typing import NDArray

import onnx_ei
from onnx_ei._sampling.codes import binned, binned_outputs
from onnx_ei.binning import Binning
from onnx_ei.information import pairwise_information
from onnx_ei.noise import CHUNK, uniform_chunk
from onnx_ei.runtime import runner
from onnx_ei.span import span_of

RNG = np.random.default_rng(0)


class Rule:
    """One input after another, each in runs of its own: noise of all inputs, one column used."""

    def __init__(
        self,
        run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        n_inputs: int,
        samples: int,
        bins: tuple[int, int],
        *,
        seed: int = 0,
        estimator: str = "coverage-jackknife",
    ) -> None:
        rows = []
        for a in range(n_inputs):
            x = np.zeros((samples, n_inputs), np.float32)
            for chunk in range(-(-samples // CHUNK)):
                at = slice(chunk * CHUNK, min(samples, (chunk + 1) * CHUNK))
                noise = uniform_chunk(seed, chunk, n_inputs, 0.0, 1.0, stream=1)
                x[at, a] = noise[: at.stop - at.start, a]
            y = np.concatenate([run(x[s : s + CHUNK]) for s in range(0, samples, CHUNK)])
            codes = (
                binned(x[:, [a]], Binning.uniform(1, (0, 1), bins[0])),
                binned_outputs(y, Binning.uniform(y.shape[1], (0, 1), bins[1])),
            )
            n_bins = [np.full(len(c), b) for c, b in zip(codes, bins, strict=True)]
            rows.append(pairwise_information(*codes, *n_bins, estimator))
        self.bits = np.concatenate([row.bits for row in rows])
        self.stderr = np.concatenate([row.stderr for row in rows])
        self.total_stderr = float(np.sqrt(sum(row.total_stderr**2 for row in rows)))
        self.dropped = 1 - float(np.mean([row.kept for row in rows])) / samples


def close(found: Any, expected: Any) -> None:
    """To what the order of summing cells changes."""
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


CASES: dict[str, tuple[tuple[int, int], int, dict[str, Any]]] = {
    "one sample": ((3, 2), 1, {}),
    "part of a chunk": ((20, 7), 500, {}),
    "a chunk": ((64, 9), 1024, {}),
    "some chunks": ((12, 5), 2500, {"seed": 3}),
    "many bins": ((5, 4), 900, {"in_bins": 300, "out_bins": 100}),
    "another estimator": ((6, 4), 1500, {"estimator": "grassberger"}),
    "more inputs than a block": ((150, 3), 300, {}),
}


class TestTheRule:
    @pytest.mark.parametrize("case", sorted(CASES))
    @pytest.mark.parametrize("memory_limit", [None, 1, 20_000])
    def test_holds(self, case: str, memory_limit: int | None) -> None:
        shape, samples, options = CASES[case]
        function = layer(RNG.normal(size=shape), sigmoid)
        bins = options.get("in_bins", 8), options.get("out_bins", 16)
        kept = {k: v for k, v in options.items() if k not in ("in_bins", "out_bins")}
        rule = Rule(lambda x: function(x).astype(np.float32), shape[0], samples, bins, **kept)
        arguments = {
            "samples": samples, "in_bins": bins[0], "out_bins": bins[1],
            "memory_limit": memory_limit, **kept,
        }  # fmt: skip
        matrix = measured("sensitivity_matrix", function, shape, **arguments)
        close(matrix.value, np.maximum(rule.bits, 0.0))
        close(matrix.stderr, rule.stderr)
        total = measured("sensitivity", function, shape, **arguments)
        close(total.value, max(float(rule.bits.sum()), 0.0))
        assert total.stderr == pytest.approx(rule.total_stderr, rel=1e-5, abs=1e-9)
        assert total.out_of_range == rule.dropped == matrix.out_of_range
        whole = measured(
            "sensitivity_matrix", function, shape, **arguments | {"memory_limit": None}
        )
        np.testing.assert_array_equal(whole.value, matrix.value)
        np.testing.assert_array_equal(whole.stderr, matrix.stderr)

    @pytest.mark.parametrize("kind", ["narrow", "wide"])
    def test_holds_through_onnxruntime(self, kind: str) -> None:
        # 1,000 samples do not fill a batch of the narrow layer, and take three of the wide one's
        shape, samples = ((20, 30), 1000) if kind == "narrow" else ((24, 9000), 1000)
        topology = onnx_ei.topology_of(
            make(
                [node("MatMul", "x fc", "h"), node("Sigmoid", "h", "y")],
                {"x": ("N", shape[0])}, ["y"], {"fc": noise(*shape)},
            )
        )  # fmt: skip
        run = runner(span_of(topology, "fc"))
        assert run.rows == 1024 if kind == "narrow" else 256 < run.rows < 1000
        rule = Rule(run, shape[0], samples, (8, 8))
        options: dict[str, Any] = {"samples": samples, "in_bins": 8, "out_bins": 8}
        found = onnx_ei.measure("sensitivity_matrix", "fc", topology, in_range=(0, 1), **options)
        close(found.value, np.maximum(rule.bits, 0.0))
        close(found.stderr, rule.stderr)
