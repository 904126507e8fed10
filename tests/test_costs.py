"""Predicted costs: they grow as the formulas say, and tell what is dear from what is cheap."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from graphs import make, mixed_model, node, noise
from typer.testing import CliRunner

import onnx_ei
from onnx_ei.analysis import describe
from onnx_ei.cli import app
from onnx_ei.costs import MEASURED, Machine, Work, cost_of, machine_at_hand, work_of
from onnx_ei.runtime import runner
from onnx_ei.span import span_of
from onnx_ei.tables import shown_seconds

MACHINE = Machine(
    threads=2, draw=2e-9, bin=1e-9, multiply=1e-11, count=5e-10, cell=2e-9, sweep=6e-10,
    sweep_pair=5e-7, state=2e-10, key=5e-7, exact=4e-5, exact_sweep=1e-5,
    start=1e-3, start_exact=5e-3, chunk=1e-4, run=2e-4,
)  # fmt: skip
WORK = Work(n_inputs=300, n_outputs=200, run=1e-6)


def seconds(measure: str, work: Work = WORK, samples: int = 10**6, **options: Any) -> float:
    return cost_of(measure, work, MACHINE, samples, **options).seconds


@pytest.mark.parametrize("measure", MEASURED)
def test_sampling_grows_with_samples(measure: str) -> None:
    fixed = seconds(measure, samples=0)
    doubled = seconds(measure, samples=2 * 1024 * 500) - fixed
    assert doubled == pytest.approx(2 * (seconds(measure, samples=1024 * 500) - fixed), rel=1e-12)


def test_pairs_grow_with_both_ends_and_vectors_with_their_sum() -> None:
    wide = replace(WORK, n_inputs=3000, n_outputs=2000)
    assert 95 < seconds("ei_parts", wide) / seconds("ei_parts") < 100
    assert 2 < seconds("ei", wide) / seconds("ei") < 10


def test_the_formulas() -> None:
    n, m, samples, one = 300, 200, 1000, 1e-6 / 2
    ei = 1e-3 + 1e-4 + samples * (n * 2e-9 + (n + m) * (1e-9 + 2e-10) + one + 5e-7)
    assert seconds("ei", samples=samples) == pytest.approx(ei)
    parts = (
        1e-3
        + 1e-4
        + samples * (n * 2e-9 + (n + m) * 1e-9 + one)
        + n * m * (samples * 5e-10 + 64 * 2e-9)
    )
    assert seconds("ei_parts", samples=samples, bins=(8, 8)) == pytest.approx(parts)
    passes = n / 10
    sweeps = 1e-3 + passes * 2e-4 + samples * n * 3e-9 + passes * samples * (one + m * 1e-9)
    sweeps += passes * m * (samples * 6e-10 + 5e-7)
    strands = replace(WORK, n_strands=10)
    assert seconds("sensitivity", strands, samples) == pytest.approx(sweeps)
    exact = replace(WORK, affine=True)
    assert seconds("ei_parts", exact) == pytest.approx(5e-3 + n * m * 4e-5 + 2 * n * one)
    assert seconds("ei", exact) == seconds("ei")


def test_bytes() -> None:
    held = cost_of("ei_parts", WORK, MACHINE, 1000).bytes
    assert held == 1000 * 500 + 24 * 300 * 200 + 512 * 200
    assert cost_of("ei_parts", WORK, MACHINE, 1000, bins=(300, 8)).bytes == held + 1000 * 500
    limited = cost_of("ei_parts", WORK, MACHINE, 10**9, memory=1 << 20).bytes
    assert limited == (1 << 20) + 24 * 300 * 200 + 512 * 200
    assert cost_of("ei", WORK, MACHINE, 1000).bytes == 1000 * 161
    large = replace(WORK, n_inputs=100_000)
    # a sum over so many pairs holds tiles of them, within the limit
    limited = cost_of("ei_parts", large, MACHINE, 1000, memory=1 << 28).bytes
    assert limited == (1 << 28) + 512 * 200
    assert cost_of("sensitivity", large, MACHINE, 10).bytes < 10**7


def test_refuses() -> None:
    with pytest.raises(ValueError, match="no cost is known of 'phi': give one of ei, ei_parts"):
        seconds("phi")
    with pytest.raises(ValueError, match="count must be above 0, got 0"):
        replace(MACHINE, count=0.0)


@pytest.mark.jit
def test_the_machine_at_hand_ranks_what_differs_a_hundredfold() -> None:
    machine = machine_at_hand(8, 8)
    assert machine is machine_at_hand(8, 8)
    small, large = (replace(WORK, n_inputs=k, n_outputs=k) for k in (5, 500))
    for measure in ("ei_parts", "sensitivity"):
        costs = [cost_of(measure, w, machine, 10**5, bins=(8, 8)) for w in (small, large)]
        assert 10 * (costs[0].seconds - costs[0].parts["start"]) < costs[1].seconds
        assert sum(costs[1].parts.values()) == pytest.approx(costs[1].seconds)


def test_a_span_is_timed_and_its_strands_are_known() -> None:
    topology = onnx_ei.topology_of(
        make([node("GlobalMaxPool", "x", "y")], {"x": ("N", 6, 4, 5)}, ["y"], ranks={"y": 4})
    )
    work = work_of(runner(span_of(topology, "y")), affine=False)
    assert (work.n_inputs, work.n_outputs, work.n_strands) == (120, 6, 6)
    assert work.run > 0


@pytest.mark.jit
def test_describe_predicts() -> None:
    nodes = [
        node("Conv", "x a", "h"), node("Sigmoid", "h", "s"),
        node("MaxPool", "s", "y", kernel_shape=[2, 2]),
    ]  # fmt: skip
    model = make(nodes, {"x": ("N", 4, 6, 6)}, ["y"], {"a": noise(3, 4, 3, 3)}, ranks={"y": 4})
    first, last = describe(onnx_ei.topology_of(model), samples=50_000).rows
    assert set(first.costs) == set(last.costs) == set(MEASURED)
    assert "computing" in first.costs["ei_parts"].parts
    assert "counting" in last.costs["ei_parts"].parts
    assert describe(onnx_ei.topology_of(model)).rows[0].costs == {}


@pytest.mark.jit
def test_the_command_line_shows_a_column_and_its_sum(tmp_path: Any) -> None:
    path = tmp_path / "mixed.onnx"
    path.write_bytes(mixed_model().SerializeToString())
    shown = CliRunner().invoke(app, ["describe", str(path)]).stdout
    assert "run" in shown
    assert "in all" in shown
    rows = json.loads(CliRunner().invoke(app, ["describe", str(path), "--json"]).stdout)["rows"]
    estimate = rows[0]["estimate"]["ei_parts"]
    assert estimate["seconds"] == pytest.approx(sum(estimate["parts"].values()))
    assert estimate["bytes"] > 0


@pytest.mark.parametrize(
    ("given", "shown"),
    [(0.0123, "12.3 ms"), (1.5, "1.5 s"), (90, "1.5 min"), (7200, "2 h"), (2e6, "23.1 d")],
)
def test_shown_seconds(given: float, shown: str) -> None:
    assert shown_seconds(given) == shown
