"""Batches over workers that joblib reaches: the same rows to the bit, whoever measures them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import bad_work
import onnx
import pytest
from conftest import no_cuda, require_peer
from graphs import make, node, noise, save_two_models
from joblib import Parallel, delayed
from joblib.externals.loky import reusable_executor
from test_batching import table
from test_cli_batch import alive, below, call, ended, start, wait_for_lines

from onnx_ei import Analysis, BackendError, MissingDependencyError, batch
from onnx_ei._batch import supervising
from onnx_ei._batch.backends import Workers
from onnx_ei._batch.running import run
from onnx_ei._batch.spreading import Pool
from onnx_ei._batch.supervising import Limits
from onnx_ei.batching import plan_batch
from onnx_ei.devices import processors
from onnx_ei.topology import topology_of

distributed = require_peer("distributed")

pytestmark = pytest.mark.filterwarnings("ignore::onnx_ei.errors.OnnxEiWarning")

MEASURES = ["ei", "ei_parts", "sensitivity"]
SPANS = ["net=fc1:fc2"]
QUICK: dict[str, Any] = {"samples": 5000, "in_bins": 4, "out_bins": 4}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A scheduler and two processes that work."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as made:
        yield made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_two_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process."""
    path = tmp_path_factory.mktemp("whole") / "r.jsonl"
    batch(models, path, MEASURES, jobs=1, spans=SPANS, **QUICK)
    return path


@pytest.mark.parametrize("split", ["layers", "samples"])
class TestTheSameRows:
    def test_of_two_processes(self, models: Path, whole: Path, tmp_path: Path, split: str) -> None:
        batch(models, tmp_path / "r.jsonl", MEASURES, jobs=2, split=split, spans=SPANS, **QUICK)
        assert table(tmp_path / "r.jsonl") == table(whole)

    def test_of_a_dask_cluster(
        self, models: Path, whole: Path, tmp_path: Path, cluster: Any, split: str
    ) -> None:
        at: dict[str, Any] = {"backend": "dask", "scheduler": cluster.scheduler_address}
        batch(models, tmp_path / "r.jsonl", MEASURES, split=split, spans=SPANS, **at, **QUICK)
        assert table(tmp_path / "r.jsonl") == table(whole)


class TestDask:
    def test_pairs_are_counted_there(self, tmp_path: Path, cluster: Any) -> None:
        """64 -> 64 units: enough that both the samples and the pairs go to the workers."""
        graph = make(
            [node("MatMul", "x w", "y")], {"x": [None, 64]}, {"y": [None, 64]}, {"w": noise(64, 64)}
        )
        onnx.save(graph, tmp_path / "m.onnx")
        given: dict[str, Any] = {"samples": 70_000, "in_bins": 4, "out_bins": 4}
        given |= {"method": "sample", "in_range": (-1, 1), "out_range": (-20, 20)}
        batch(tmp_path / "m.onnx", tmp_path / "1.jsonl", ["ei_parts"], **given)
        with distributed.Client(cluster):  # an open client needs no address
            batch(
                tmp_path / "m.onnx", tmp_path / "2.jsonl", ["ei_parts"], backend="dask",
                split="samples", jobs=1, **given,
            )  # fmt: skip
        assert table(tmp_path / "2.jsonl") == table(tmp_path / "1.jsonl")

    @pytest.mark.parametrize("split", ["layers", "samples"])
    def test_a_layer_that_hangs_costs_its_own_row(
        self, models: Path, tmp_path: Path, cluster: Any, split: str
    ) -> None:
        plan = plan_batch(
            models / "a.onnx", tmp_path / "r.jsonl", ["ei"], None, exclude=None,
            opener=partial(topology_of), identity={}, input_range=None, resume=False,
            workers=Workers(backend="dask", scheduler=cluster.scheduler_address, split=split),
            timeout=8.0, max_memory=None, matrices=None,
            options={**QUICK, "activation": bad_work.hanging_activation},
        )  # fmt: skip
        run(plan)
        rows = {row.layer: row for row in Analysis.load(tmp_path / "r.jsonl").rows}
        assert {layer: row.status for layer, row in rows.items()} == {
            "fc1": "measured", "fc2": "timeout",
        }  # fmt: skip
        assert rows["fc2"].reason == "not done after 8 s (--timeout), and ended"

    def test_a_model_that_the_workers_do_not_see(
        self, models: Path, tmp_path: Path, cluster: Any
    ) -> None:
        found = batch(
            [tmp_path / "far.onnx", models / "a.onnx"], tmp_path / "r.jsonl", ["ei"],
            backend="dask", scheduler=cluster.scheduler_address, **QUICK,
        )  # fmt: skip
        assert sorted(row.status for row in found.rows) == ["failed", "measured", "measured"]
        (failed,) = (row for row in found.rows if row.status == "failed")
        assert str(failed.reason).startswith(
            f"{tmp_path / 'far.onnx'} is not there for a worker on "
        )

    @pytest.mark.skipif(no_cuda() is None, reason="there is a GPU")
    def test_devices_are_the_workers(self, models: Path, tmp_path: Path, cluster: Any) -> None:
        """A GPU that this machine has not is asked for: there, or here where it is needed here."""
        at: dict[str, Any] = {"backend": "dask", "scheduler": cluster.scheduler_address}
        at |= {"device": "cuda"}
        found = batch(models / "a.onnx", tmp_path / "r.jsonl", ["ei"], **at, **QUICK)
        assert [row.status for row in found.rows] == ["failed", "failed"]
        assert all("CUDA" in str(row.reason) for row in found.rows)
        with pytest.raises(BackendError, match="CUDA"):
            batch(models / "a.onnx", tmp_path / "s.jsonl", split="samples", **at)

    def test_threads_are_the_workers_share(self, cluster: Any) -> None:
        workers = Workers(backend="dask", scheduler=cluster.scheduler_address)
        with Pool(Limits(seconds=60), workers) as pool:
            (found,) = dict(pool.outcomes([(bad_work.threads, ())])).values()
        share = max(1, processors() // 2)
        assert found == ("done", (str(share), share))

    def test_a_task_that_no_worker_can_read_is_said(
        self, cluster: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = ModuleType("only_here")
        monkeypatch.setitem(sys.modules, "only_here", here)
        exec("def f(): pass", vars(here))
        workers = Workers(backend="dask", scheduler=cluster.scheduler_address)
        with Pool(Limits(seconds=60), workers) as pool:
            ((_, outcome),) = pool.outcomes([(here.f, ())])
        assert outcome == ("failed", "ModuleNotFoundError: No module named 'only_here'")

    def test_a_worker_that_dies_again_and_again_is_said(self, tmp_path: Path) -> None:
        """What the worker itself does not survive: not the process that measures, but its own."""
        with (
            distributed.LocalCluster(
                n_workers=1, threads_per_worker=1, dashboard_address=":0"
            ) as frail,
            distributed.Client(frail) as client,
        ):
            client.register_worker_callbacks(bad_work.end_tasks_badly)
            workers = Workers(backend="dask")
            with (
                Pool(Limits(seconds=60), workers) as pool,
                pytest.raises(BackendError, match="Dask gave a task up: KilledWorker: "),
            ):
                list(pool.outcomes([(bad_work.say_much, ())]))

    def test_workers_of_another_version_are_refused(
        self, models: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("onnx_ei.__version__", "9.9")
        with pytest.raises(BackendError, match=r"the Dask worker tcp://.* has not onnx_ei 9\.9"):
            batch(models, tmp_path / "r.jsonl", backend="dask", scheduler=cluster.scheduler_address)
        assert not (tmp_path / "r.jsonl").exists()

    @pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are in /proc")
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_what_ends_the_run_ends_what_the_workers_do_for_it(
        self, models: Path, tmp_path: Path, cluster: Any, number: int
    ) -> None:
        path, address = tmp_path / "r.jsonl", cluster.scheduler_address
        process = start(
            models, path, "--backend", "dask", "--scheduler", address, "--samples", 3_000_000
        )
        wait_for_lines(process, path, 2)
        measuring = [
            child
            for worker in below(os.getpid())
            for child in below(worker)
            if b"onnx_ei._batch.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        assert measuring
        os.killpg(process.pid, number)
        said = ended(process)
        if number != signal.SIGKILL:
            assert (process.returncode, "KeyboardInterrupt" in said) == (130, False), said
            assert f"interrupted; what {path} holds is whole" in said
        for _ in range(900):
            if not any(alive(child) for child in measuring):
                break
            time.sleep(0.05)
        else:
            pytest.fail("processes that measure go on")
        assert path.read_bytes().endswith(b"\n")


class TestErrors:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"backend": "dusk"}, "unknown backend 'dusk': did you mean 'dask'"),
            ({"split": "sample"}, "unknown split 'sample': did you mean 'samples'"),
            ({"scheduler": "tcp://h:1"}, "scheduler 'tcp://h:1' is for backend 'dask' or 'ray'"),
            ({"split": "samples"}, "split 'samples' needs more than one job, or backend 'dask'"),
            ({"backend": "dask"}, r"backend 'dask' needs the address of a scheduler \(--scheduler"),
        ],
    )
    def test_what_makes_no_sense(
        self, models: Path, tmp_path: Path, given: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            batch(models, tmp_path / "r.jsonl", **given)
        assert not (tmp_path / "r.jsonl").exists()

    @pytest.mark.parametrize("backend", ["dask", "ray"])
    def test_a_package_that_is_missing(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
    ) -> None:
        package = {"dask": "distributed", "ray": "ray"}[backend]
        found = util.find_spec
        monkeypatch.setattr(
            "onnx_ei._batch.backends.find_spec",
            lambda name: None if name == package else found(name),
        )
        message = rf'needs {package}, which is not installed: pip install "onnx-ei\[{backend}\]"'
        with pytest.raises(MissingDependencyError, match=message):
            batch(models, tmp_path / "r.jsonl", backend=backend)

    def test_a_scheduler_that_does_not_answer(self, models: Path, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        command = ("run", models / "a.onnx", "-o", path, "-m", "ei", "--samples", 500, "--quiet")
        assert call(*command, "--layers", "fc1").exit_code == 0
        before = path.read_bytes()
        with socket.socket() as free:  # taken, and nobody listens
            free.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
            result = call(*command, "--resume", "--backend", "dask", "--scheduler", address)
        assert result.exit_code == 4
        said = " ".join(result.stderr.split())
        assert f"the scheduler '{address}' of backend 'dask' does not answer: " in said
        assert path.read_bytes() == before

    def test_a_scheduler_without_workers(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("onnx_ei._batch.backends._ANSWER", 0.5)
        with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty:
            address = empty.scheduler_address
            with pytest.raises(BackendError, match=f"at {address} has no workers: start some with"):
                batch(models, tmp_path / "r.jsonl", backend="dask", scheduler=address)

    def test_a_memory_limit_where_nothing_tells(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert supervising.memory_of(os.getpid())
        monkeypatch.setattr(supervising, "Path", lambda _: Path("/nowhere/at/all"))
        held = supervising.memory_of(os.getpid())  # by psutil, which distributed brings
        assert held is not None
        assert held > 1 << 20
        monkeypatch.setitem(sys.modules, "psutil", None)
        with pytest.raises(MissingDependencyError, match="memory limit is watched by /proc, as on"):
            batch(models, tmp_path / "r.jsonl", max_memory=1 << 30)


class TestLoky:
    def test_its_processes_end_with_the_call(self, models: Path, tmp_path: Path) -> None:
        reusable_executor._executor = None
        batch(models, tmp_path / "r.jsonl", ["ei"], jobs=2, **QUICK)
        executor = reusable_executor._executor
        assert executor is None or executor._flags.shutdown

    def test_the_callers_own_stay(self, models: Path, tmp_path: Path) -> None:
        before = set(Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(8)))
        batch(models, tmp_path / "r.jsonl", ["ei"], jobs=2, **QUICK)
        assert all(os.kill(pid, 0) is None for pid in before)
        executor = reusable_executor._executor
        assert not executor._flags.shutdown
        executor.shutdown(kill_workers=True)
