"""The paper's Iris experiment: what its stored results say, and that its code still does that."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import require_peer

from onnx_ei import Recording, read_records

require_peer("torch")
require_peer("sklearn")

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "iris"
LAYERS = ("hidden1", "hidden2", "output")
RUNS = (0, 1, 2)


@pytest.fixture(scope="module")
def results() -> Recording:
    return read_records(FOLDER / "results.jsonl")


@pytest.fixture(scope="module")
def final() -> Recording:
    return read_records(FOLDER / "final.jsonl")


@pytest.fixture(scope="module")
def experiment() -> Iterator[ModuleType]:
    """The script, with its neighbour importable, as when it is run."""
    sys.path.insert(0, os.fspath(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("experiment", FOLDER / "experiment.py")
        if spec is None or spec.loader is None:
            pytest.fail("examples/iris/experiment.py is not there")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(os.fspath(FOLDER))


def ends(recording: Recording, measure: str, layer: str) -> Any:
    return np.array([recording.series(measure, layer, run=run)[1][-1] for run in RUNS])


def test_the_whole_experiment_is_there(results: Recording, final: Recording) -> None:
    assert results.layers == final.layers == LAYERS
    assert set(results.measures) == {"ei", "ei_parts", "sensitivity", "degeneracy", "phi"}
    assert results.parameters["in_bins"] == results.parameters["out_bins"] == 8
    assert results.parameters["input_range"] == [0, 1]
    for run in RUNS:
        for layer in LAYERS:
            steps = results.series("ei", layer, run=run)[0]
            assert steps.tolist() == list(range(0, 4001, 50))
            assert final.series("ei", layer, run=run)[0].tolist() == [4000]
    assert not results.incomplete
    assert sum((FOLDER / f"{name}.jsonl").stat().st_size for name in ("results", "final")) < 600_000


def test_rows_add_up(results: Recording) -> None:
    for row in results.rows:
        value = {name: point.value for name, point in row.points.items()}
        assert value["phi"] == pytest.approx(value["ei"] - value["ei_parts"], abs=1e-9)
        assert value["degeneracy"] == pytest.approx(value["sensitivity"] - value["ei"], abs=1e-9)


@pytest.mark.parametrize("name", ["results", "final"])
class TestItEndsWhereThePaperDoes:
    def test_loss(self, name: str, request: pytest.FixtureRequest) -> None:
        recording: Any = request.getfixturevalue(name)
        rows = [row for row in recording.rows if row.step == 4000]
        assert all(0.01 < row.labels["loss"] < 0.05 for row in rows)
        assert all(0.005 < row.labels["test_loss"] < 0.08 for row in rows)

    def test_ei(self, name: str, request: pytest.FixtureRequest) -> None:
        recording = request.getfixturevalue(name)
        for layer in LAYERS:
            values = ends(recording, "ei", layer)
            assert np.all((values > 2.5) & (values < 5))

    def test_phi_of_the_last_layer(self, name: str, request: pytest.FixtureRequest) -> None:
        values = ends(request.getfixturevalue(name), "phi", "output")
        assert np.all((values > 1.5) & (values < 2.5))

    def test_phi_of_the_first_layer(self, name: str, request: pytest.FixtureRequest) -> None:
        # Over 16 seeds its mean is 0.08 and its standard deviation 0.5: near 0, not below it.
        first = ends(request.getfixturevalue(name), "phi", "hidden1")
        last = ends(request.getfixturevalue(name), "phi", "output")
        assert np.all(first < 0.5)
        assert np.all(last - first > 1)


def test_the_results_are_as_far_off_as_the_readme_says(
    results: Recording, final: Recording
) -> None:
    for layer, most in (("hidden1", 0.02), ("hidden2", 0.3), ("output", 0.2)):
        away = ends(results, "ei", layer) - ends(final, "ei", layer)
        assert np.all(np.abs(away) < most)
        errors = [results.series("ei", layer, run=run)[2][-1] for run in RUNS]
        assert np.all(np.abs(away) < 3 * np.array(errors))
    coverage: list[Any] = [row.points["ei"].coverage for row in final.rows]
    assert min(coverage) > 0.98
    for measure in ("ei_parts", "sensitivity"):
        for layer in LAYERS:
            difference = ends(results, measure, layer) - ends(final, measure, layer)
            assert np.all(np.abs(difference) < 0.06)


def test_a_short_run_of_the_same_code(experiment: Any, tmp_path: Path, results: Recording) -> None:
    experiment.one_run(0, tmp_path, epochs=40, every=20, samples=5000, final_samples=10_000)
    along = read_records(tmp_path / "results.jsonl")
    last = read_records(tmp_path / "final.jsonl")
    assert along.layers == LAYERS
    assert along.parameters == {**results.parameters, "samples": 5000}
    for layer in LAYERS:
        steps, values, _ = along.series("ei_parts", layer, run=0)
        assert steps.tolist() == [0, 20, 40]
        assert last.series("ei_parts", layer, run=0)[0].tolist() == [40]
        # the same seed, so the same untrained network
        stored = results.series("ei_parts", layer, run=0)
        assert values[0] == pytest.approx(stored[1][0], abs=0.2)
    losses: list[Any] = [row.labels["loss"] for row in along.rows if row.layer == "output"]
    assert losses[-1] < losses[0]
    # begun again after a crash, it writes the same rows, which replace the first
    experiment.one_run(0, tmp_path, epochs=20, every=20, samples=5000, final_samples=10_000)
    assert sorted(map(str, read_records(tmp_path / "results.jsonl").rows)) == sorted(
        map(str, along.rows)
    )
    text = experiment.summary(along)
    assert "run 0, epoch 40: loss 0.6" in text
    assert all(f"  {layer:<8} EI " in text for layer in LAYERS)


def test_only_what_is_missing_is_run(
    experiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("results.jsonl", "final.jsonl"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    monkeypatch.setattr(experiment, "one_run", lambda *_: pytest.fail("it was done"))
    experiment.main(tmp_path)
    assert capsys.readouterr().out.count("run 2, epoch 4000: loss") == 2
    assert experiment.done(tmp_path / "none.jsonl") == set()
