"""A span's samples run elsewhere: the same bits, however the work is cut."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from graphs import mixed_model, mlp
from test_batching import bare

from onnx_ei import topology_of
from onnx_ei._batch import samples
from onnx_ei._batch.elsewhere import Task
from onnx_ei._batch.samples import Elsewhere, Portion, measured_in_parts
from onnx_ei._batch.work import Job, measured
from onnx_ei._sampling.parameters import Parameters
from onnx_ei.provenance import content_hash
from onnx_ei.targets import Target

pytestmark = pytest.mark.filterwarnings("ignore::onnx_ei.errors.OnnxEiWarning")

MEASURES = ("ei", "ei_parts_matrix", "sensitivity_matrix", "phi", "degeneracy")


class Here:
    """Does tasks in this process, the last first, each from a copy as it would go elsewhere."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        for index, (function, arguments) in reversed(list(enumerate(tasks))):
            self.done.append(function.__name__)
            copied = pickle.loads(pickle.dumps(arguments))
            yield index, pickle.loads(pickle.dumps(function(*copied)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(mlp(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def job_of(path: Path, measures: tuple[str, ...] = MEASURES, **options: Any) -> Job:
    return Job(path=str(path), opener=topology_of, measures=measures, options=options)


def spread(
    monkeypatch: pytest.MonkeyPatch, job: Job, layer: str | Target, slots: int
) -> tuple[Any, list[str]]:
    """What a layer's row holds, where every part of it was done elsewhere."""
    here = Here()
    monkeypatch.setattr(samples, "Elsewhere", lambda *given: Elsewhere(*given[:3], slots, here))
    row, _ = measured_in_parts(job, layer, slots)
    return bare(row.to_dict()["measurements"]), here.done


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 5000},
        # stages that begin and end within a chunk, and cut it again
        {"threshold": 0.2, "max_samples": 13_000, "method": "sample"},
        {"samples": 3000, "out_range": "dynamic", "method": "sample"},
        # codes of two bytes; bins that differ from unit to unit
        {"samples": 3000, "out_range": "dynamic", "out_bins": "dynamic", "in_bins": 300},
        # tiles of inputs and of outputs, drawn again for each
        {"samples": 3000, "memory_limit": 20_000, "method": "sample"},
        {"samples": 3000, "estimator": "plugin", "seed": 3},
    ],
)
def test_every_measure_is_the_same_to_the_bit(
    model: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    job = job_of(model, **{"in_bins": 8, "out_bins": 8, **options})
    row, _ = measured(job, "fc1")
    alone = bare(row.to_dict()["measurements"])
    monkeypatch.setattr(samples, "LEAST_INCREMENTS", 0)
    monkeypatch.setattr(samples, "LEAST_OUTPUTS", 1)
    for slots in (1, 3):
        found, done = spread(monkeypatch, job, "fc1", slots)
        assert found == alone
        wanted = {"chunk_codes", "pair_tile", "sweep_rows"}
        assert set(done) - {"chunk_ends"} == wanted
        assert ("chunk_ends" in done) == ("out_range" in options)
        assert done.count("chunk_codes") >= min(3 * slots, 3)


def test_strands_positions_and_pvalues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(mixed_model(), tmp_path / "m.onnx")
    monkeypatch.setattr(samples, "LEAST_INCREMENTS", 0)
    monkeypatch.setattr(samples, "LEAST_OUTPUTS", 1)
    topology = topology_of(tmp_path / "m.onnx")
    for layer in list(topology)[:2]:
        for measures, more in (
            (("ei", "sensitivity"), {"positions": "all"}),
            (("ei_parts_matrix",), {"pvalues": True}),
        ):
            job = job_of(tmp_path / "m.onnx", measures, samples=1500, in_bins=4, out_bins=4, **more)
            row, _ = measured(job, layer)
            found, _ = spread(monkeypatch, job, layer, 2)
            assert found == bare(row.to_dict()["measurements"])


def test_a_named_span_is_cut_too(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(model, ("ei", "sensitivity"), samples=3000, in_bins=4, out_bins=4)
    net = Target(layer="fc2", in_layer="fc1", span="net")
    row, _ = measured(job, net)
    found, done = spread(monkeypatch, job, net, 2)
    assert found == bare(row.to_dict()["measurements"]) != {}
    assert set(done) == {"chunk_codes", "sweep_rows"}


def test_what_is_too_little_is_counted_here(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(model, ("ei_parts",), samples=3000, method="sample")
    _, done = spread(monkeypatch, job, "fc1", 2)
    assert set(done) == {"chunk_codes"}


def test_a_worker_with_another_model_or_other_versions_says_so(model: Path) -> None:
    job = job_of(model)

    def portion(sha: str, **versions: str) -> Portion:
        return Portion(
            job=job, target="fc1", in_range=(0, 1), out_range=(0, 1),
            parameters=Parameters(), model_sha256=sha,
            versions={**samples._computing(), **versions},
        )  # fmt: skip

    sha = content_hash(model)
    assert portion(sha).source().n_inputs == 4
    with pytest.raises(
        ValueError, match=r"holds another model for this worker \(sha256 .*, not 00"
    ):
        portion("00").source()
    with pytest.raises(ValueError, match=r"this worker has numpy .*, and the run 1\.0: install"):
        portion(sha, numpy="1.0").source()


def test_a_layer_that_has_no_span_is_a_row(tmp_path: Path) -> None:
    onnx.save(mixed_model(), tmp_path / "m.onnx")
    job = job_of(tmp_path / "m.onnx", ("ei",), samples=100)
    reasons = {}
    for layer in topology_of(tmp_path / "m.onnx"):
        alone, _ = measured(job, layer)
        if alone.reason is not None:
            reasons[layer] = alone.reason
            row, _ = measured_in_parts(job, layer, 2)
            assert (row.reason, row.status) == (alone.reason, alone.status)
    assert reasons
