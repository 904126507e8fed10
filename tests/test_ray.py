"""Batches over Ray: what the tests of Dask show, by another cluster. ``tox -e ray`` runs this."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bad_work
import pytest
from graphs import save_two_models
from test_batching import table
from test_cli_batch import ended, start, wait_for_lines

from onnx_ei import Analysis, BackendError, batch
from onnx_ei._batch.backends import Workers
from onnx_ei._batch.running import run
from onnx_ei._batch.spreading import Pool
from onnx_ei._batch.supervising import Limits
from onnx_ei.batching import plan_batch
from onnx_ei.topology import topology_of

# Not require_peer: Ray is in the environment of its own alone, which refuses to begin without it.
ray = pytest.importorskip("ray", reason="Ray is not installed; tox -e ray brings it")

pytestmark = [
    pytest.mark.filterwarnings("ignore::onnx_ei.errors.OnnxEiWarning"),
    # Ray's own, of what it is about to change and of files that it leaves open
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

MEASURES = ["ei", "ei_parts", "sensitivity"]
QUICK: dict[str, Any] = {"samples": 5000, "in_bins": 4, "out_bins": 4}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two processors; the workers find what these tests import."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    found = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.getcwd()])}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=found)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_two_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process."""
    path = tmp_path_factory.mktemp("whole") / "r.jsonl"
    batch(models, path, MEASURES, jobs=1, **QUICK)
    return path


@pytest.mark.parametrize("split", ["layers", "samples"])
def test_the_same_rows(
    models: Path, whole: Path, tmp_path: Path, cluster: None, split: str
) -> None:
    batch(models, tmp_path / "r.jsonl", MEASURES, backend="ray", split=split, **QUICK)
    assert table(tmp_path / "r.jsonl") == table(whole)


def test_one_job_is_done_there_too(cluster: None) -> None:
    with Pool(Limits(seconds=60), Workers(backend="ray", jobs=1)) as pool:
        ((_, found),) = pool.outcomes([(bad_work.threads, ())])
    assert found == ("done", ("1", 1))


@pytest.mark.parametrize("split", ["layers", "samples"])
def test_a_layer_that_hangs_costs_its_own_row(
    models: Path, tmp_path: Path, cluster: None, split: str
) -> None:
    plan = plan_batch(
        models / "a.onnx", tmp_path / "r.jsonl", ["ei"], None, exclude=None,
        opener=partial(topology_of), identity={}, input_range=None, resume=False,
        workers=Workers(backend="ray", split=split), timeout=12.0, max_memory=None, matrices=None,
        options={**QUICK, "activation": bad_work.hanging_activation},
    )  # fmt: skip
    run(plan)
    rows = {row.layer: row for row in Analysis.load(tmp_path / "r.jsonl").rows}
    assert {layer: row.status for layer, row in rows.items()} == {
        "fc1": "measured",
        "fc2": "timeout",
    }


def test_a_model_that_the_workers_do_not_see(models: Path, tmp_path: Path, cluster: None) -> None:
    found = batch(
        [tmp_path / "far.onnx", models / "a.onnx"], tmp_path / "r.jsonl", ["ei"],
        backend="ray", **QUICK,
    )  # fmt: skip
    (failed,) = (row for row in found.rows if row.status == "failed")
    assert "far.onnx is not there for a worker on " in str(failed.reason)


def test_a_cluster_that_does_not_answer(models: Path, tmp_path: Path) -> None:
    ray.shutdown()
    with socket.socket() as free:  # taken, and nobody listens
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        for scheduler in (address, f"ray://{address}"):
            with pytest.raises(BackendError, match=r"of backend 'ray' does not answer: .*refused"):
                batch(models, tmp_path / "r.jsonl", backend="ray", scheduler=scheduler)
    with pytest.raises(BackendError, match="the scheduler 'auto' of backend 'ray' does not answer"):
        batch(models, tmp_path / "r.jsonl", backend="ray", scheduler="auto")
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(models: Path, tmp_path: Path, number: int) -> None:
    """On a cluster that the command begins by itself, and ends."""
    ray.shutdown()
    path = tmp_path / "r.jsonl"
    process = start(models, path, "--backend", "ray", "--samples", 3_000_000)
    wait_for_lines(process, path, 2)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    said = ended(process)
    assert (process.returncode, "KeyboardInterrupt" in said) == (130, False), said
    assert f"interrupted; what {path} holds is whole" in said
    assert path.read_bytes().endswith(b"\n")
    time.sleep(1)
    mine = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(path) in _read(p)]
    assert not mine


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""
