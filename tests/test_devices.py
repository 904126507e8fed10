"""Devices: their names, their turns, what a GPU leaves to the CPU, processors that may be used."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pretended
import pytest
from graphs import mlp, two_layer_model

from onnx_ei import (
    Analysis,
    BackendError,
    CpuNodesWarning,
    Recorder,
    analyze,
    batch,
    devices,
    measure,
    providers,
)
from onnx_ei import sessions as sessions_module
from onnx_ei._batch.backends import Workers, threads_each
from onnx_ei._batch.running import run
from onnx_ei._batch.supervising import Limits, Supervisor
from onnx_ei._batch.turns import check_devices, device_in_turn
from onnx_ei.batching import plan_batch
from onnx_ei.devices import (
    Device,
    _quota,
    device_name,
    driver_version,
    gpu_names,
    parse_device,
    parse_devices,
    processors,
)
from onnx_ei.doctor import examine, problems
from onnx_ei.sessions import Session
from onnx_ei.tables import remarks
from onnx_ei.topology import topology_of

QUICK: dict[str, Any] = {"samples": 1000, "in_bins": 4, "out_bins": 4}
GPUS = (Device("cuda", 0), Device("cuda", 1))


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", ["cuda:0, cuda:1", ["cuda", "cuda:1"], (Device("cuda", 0), "cuda:1"), iter(GPUS)]
)
def test_several_devices(given: object) -> None:
    assert parse_devices(given) == GPUS
    assert [str(device) for device in GPUS] == ["cuda:0", "cuda:1"]


def test_one_device_is_a_list_of_one() -> None:
    assert parse_devices("cpu") == (Device("cpu", 0),) == parse_devices(Device("cpu", 0))
    assert parse_devices("cuda:3", tf32=True) == (Device("cuda", 3, True),)
    assert parse_device(Device("cuda", 3, True)).tf32  # what it was made with stays


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "device names no device"),
        ("", "device must be 'cpu'"),
        ("cuda:0,cuda:0", "device names 'cuda:0' twice; jobs says how many share one"),
        ("cpu,cuda", "devices must be of one kind, got cpu, cuda:0"),
        ("cuda:0;cuda:1", "device must be"),
        ([None], "device must be"),
    ],
)
def test_lists_that_make_no_sense(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_devices(given)


def test_several_devices_are_not_for_one_measure() -> None:
    for call in (
        lambda device: measure("ei", "fc1", topology_of(two_layer_model()), device=device),
        lambda device: analyze(two_layer_model(), ["ei"], device=device),
        lambda device: Recorder(
            "never.jsonl", topology_of(two_layer_model()), ["ei"], device=device
        ),
    ):
        for given in ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]):
            with pytest.raises(ValueError, match=r"several are for batch \(onnx-ei run -o\)"):
                call(given)


def test_tf32_is_for_gpus_and_is_a_yes_or_no() -> None:
    with pytest.raises(ValueError, match=r"tf32=True is for CUDA devices, and device is 'cpu'"):
        measure("ei", "fc1", topology_of(two_layer_model()), tf32=True, **QUICK)
    with pytest.raises(TypeError, match="tf32 must be True or False, got '1'"):
        analyze(two_layer_model(), ["ei"], tf32="1", **QUICK)
    for caller in (analyze, partial(batch, output="never.jsonl")):
        with pytest.raises(ValueError, match="tf32=True is for CUDA devices"):
            caller("model.onnx", tf32=True)


# --- the driver --------------------------------------------------------------------------------


class _Driver:
    """NVIDIA's driver library, with two GPUs; the second does not tell its name."""

    def __init__(self, failing: str = "") -> None:
        self._failing = failing

    def cuInit(self, flags: int) -> int:
        return 100 if self._failing == "cuInit" else 0

    def cuDeviceGetCount(self, number: Any) -> int:
        number._obj.value = 2
        return 100 if self._failing == "cuDeviceGetCount" else 0

    def cuDeviceGet(self, handle: Any, index: int) -> int:
        handle._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, handle: Any) -> int:
        name.value = b"NVIDIA H100 80GB HBM3"
        return handle.value

    def cuDriverGetVersion(self, number: Any) -> int:
        number._obj.value = 12080
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(found: _Driver | None) -> None:
        def load(name: str) -> _Driver:
            if found is None:
                raise OSError(f"{name}: cannot open shared object file")
            return found

        monkeypatch.setattr(ctypes, "CDLL", load)
        forget()

    def forget() -> None:
        devices._driver.cache_clear()
        devices.device_name.cache_clear()

    yield install
    monkeypatch.undo()
    forget()


def test_the_driver_names_its_gpus(driver: Any) -> None:
    driver(_Driver())
    assert gpu_names() == ["NVIDIA H100 80GB HBM3", "cuda:1"]
    assert driver_version() == "12.8"
    assert device_name("cuda") == "NVIDIA H100 80GB HBM3"
    assert device_name("cuda:7") == "cuda:7"


@pytest.mark.parametrize("found", [None, _Driver("cuInit")])
def test_without_a_driver_there_are_no_gpus(driver: Any, found: _Driver | None) -> None:
    driver(found)
    assert (gpu_names(), driver_version(), device_name("cuda:0")) == ([], None, "cuda:0")


def test_a_driver_that_cannot_count_has_no_gpus(driver: Any) -> None:
    driver(_Driver("cuDeviceGetCount"))
    assert gpu_names() == []


class _Unlucky:
    """An onnxruntime-gpu whose libraries are not there: its sessions are on the CPU."""

    cuda_version = "13.0"

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def set_default_logger_severity(self, level: int) -> None:
        pass

    def preload_dlls(self) -> None:
        for name in ("libcublasLt.so.13", "libcublas.so.13"):
            sys.stdout.write(f"Failed to load {name}: {name}: cannot open shared object file\n")
        sys.stdout.write("Please follow a link\n")

    def SessionOptions(self) -> Any:
        return SimpleNamespace(add_session_config_entry=lambda *_: None)

    def InferenceSession(
        self, data: bytes, options: Any, providers: list[Any], enable_fallback: int
    ) -> Any:
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("version", "gpus", "why"),
    [
        (None, [], "there is no NVIDIA driver, or it sees no GPU"),
        ("13.0", ["A100"], "CUDA sees 1 GPUs, from cuda:0 on: A100"),
        ("12.8", ["A100"] * 2, r"the driver runs CUDA 12\.8, and this onnxruntime is built for "),
        ("13.1", ["A100"] * 2, r"this onnxruntime needs the libraries of CUDA 13\.0 and cuDNN 9"),
    ],
)
def test_why_there_is_no_cuda_is_said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str | None,
    gpus: list[str],
    why: str,
) -> None:
    runtime = _Unlucky()
    monkeypatch.setattr(sessions_module, "onnxruntime_module", lambda: runtime)
    monkeypatch.setattr(providers, "driver_version", lambda: version)
    monkeypatch.setattr(providers, "gpu_names", lambda: gpus)
    with pytest.raises(BackendError, match=why) as caught:
        Session(ir.from_proto(mlp()), "cuda:1")
    message = str(caught.value)
    assert message.startswith("device 'cuda:1' was asked for, but the session runs on CPUExec")
    assert "(cannot load libcublasLt.so.13, libcublas.so.13); see docs/servers.md" in message
    assert capsys.readouterr().out == ""  # onnxruntime prints there, in the midst of JSON


def test_doctor_tries_the_gpus_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx_ei import doctor

    def refuse(device: object) -> None:
        raise BackendError("no luck")

    monkeypatch.setattr(doctor, "gpu_names", lambda: ["A100"])
    monkeypatch.setattr(doctor, "check_device", refuse)
    monkeypatch.setattr(
        doctor, "onnxruntime_module", lambda: SimpleNamespace(
            get_available_providers=lambda: ["CUDAExecutionProvider"], cuda_version="13.0"
        )
    )  # fmt: skip
    facts = examine()
    assert (facts["GPUs"], facts["CUDA of onnxruntime"]) == (["A100"], "13.0")
    assert facts["processors"] == processors()
    assert problems(facts) == ["no luck"]


# --- what a GPU leaves to the CPU ------------------------------------------------------------


def test_a_session_counts_its_nodes_by_provider() -> None:
    session = Session(ir.from_proto(mlp()))
    assert session.nodes == {"CPUExecutionProvider": {"Gemm": 2, "Relu": 1}}
    assert session.cpu_nodes == {}  # there is no GPU that left them


def test_an_onnxruntime_that_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(ir.from_proto(mlp()))
    session._session = SimpleNamespace()  # before 1.24
    assert session.nodes is None
    session.device = Device("cuda", 0)
    assert session.cpu_nodes is None


def test_nodes_on_two_providers() -> None:
    session = Session(ir.from_proto(mlp()))
    parts = [
        SimpleNamespace(ep_name=f"{ep}ExecutionProvider", get_nodes=lambda op=op: [op])
        for ep, op in [
            (ep, SimpleNamespace(op_type=op))
            for ep, op in [("CUDA", "Gemm"), ("CPU", "Shape"), ("CPU", "NonZero"), ("CPU", "Shape")]
        ]
    ]
    session._session = SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)
    session.device = Device("cuda", 0)
    assert session.cpu_nodes == {"NonZero": 1, "Shape": 2}
    assert session.nodes == {
        "CUDAExecutionProvider": {"Gemm": 1},
        "CPUExecutionProvider": {"NonZero": 1, "Shape": 2},
    }


def test_nodes_on_the_cpu_are_in_the_row_in_a_warning_and_in_a_remark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Session, "__init__", pretended.pretend)
    with pytest.warns(
        CpuNodesWarning, match=r"cuda:1: 2 of 2 nodes run on the CPU \(1 MatMul, 1 S"
    ):
        measure("ei_parts", "fc1", topology_of(two_layer_model()), device="cuda:1", **QUICK)
    with pytest.warns(CpuNodesWarning):
        found = analyze([two_layer_model()] * 2, ["ei_parts"], device="cuda:0,cuda:1", **QUICK)
    ids = [row.provenance["device_id"] for row in found.rows]
    assert ids == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    on_cpu = found.rows[0].provenance["cpu_nodes"]
    assert on_cpu["MatMul"] == 1
    assert "fc1: nodes that the GPU left to the CPU: 1 MatMul, 1 Sigmoid" in list(remarks(found))
    record = found.to_records()[0]
    assert record["provider"] == "CUDAExecutionProvider"
    assert (record["tf32"], record["cpu_nodes"]) == (False, sum(on_cpu.values()))
    assert "1 MatMul" in str(record["cpu_node_types"])


def test_tf32_is_a_parameter_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "__init__", pretended.pretend)
    with pytest.warns(CpuNodesWarning):
        found = analyze(two_layer_model(), ["ei_parts"], device="cuda:1", tf32=True, **QUICK)
    with pytest.warns(CpuNodesWarning):
        plain = analyze(two_layer_model(), ["ei_parts"], device="cuda:1", **QUICK)
    assert (found.parameters["device"], found.parameters["tf32"]) == ("cuda", True)
    assert found.rows[0].provenance["tf32"] is True
    assert found.rows[0].provenance["parameters"]["tf32"] is True
    assert "tf32" not in plain.parameters
    assert plain.rows[0].provenance["tf32"] is False
    with pytest.raises(ValueError, match="tf32"):
        found.merge(plain)


# --- turns -----------------------------------------------------------------------------------


def test_processes_take_their_devices_in_turn_and_a_new_one_the_place_of_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the places of a run are
    name = uuid.uuid4().hex
    beside = [Supervisor(Limits(seconds=60)) for _ in range(3)]
    try:
        ask = [partial(of.ask, device_in_turn, GPUS, name) for of in beside]
        assert [one() for one in ask] == [("done", GPUS[k]) for k in (0, 1, 0)]
        beside[1].close()
        assert ask[1]() == ("done", GPUS[1])
        assert ask[1]() == ("done", GPUS[1])
        # another run begins anew, with the same processes
        assert beside[1].ask(device_in_turn, GPUS, uuid.uuid4().hex) == ("done", GPUS[0])
    finally:
        for one in beside:
            one.close()


def test_a_batch_on_two_devices_has_the_values_of_one(tmp_path: Path) -> None:
    for name in "abc":
        onnx.save(
            two_layer_model(),
            tmp_path / f"{name}.onnx",
        )
    found = {}
    for given in (["cuda:1"], "cuda:0,cuda:1"):
        path = tmp_path / f"{len(given)}.jsonl"
        plan = plan_batch(
            tmp_path, path, ["ei", "ei_parts"], None, exclude=None,
            opener=partial(pretended.opened), identity={}, input_range=None, resume=False,
            workers=Workers(), timeout=None, max_memory=None, matrices=None,
            options={**QUICK, "device": given},
        )  # fmt: skip
        assert plan.workers.jobs == len(parse_devices(given))
        run(plan)
        found[len(given)] = Analysis.load(path)
    one, two = found.values()
    assert one.parameters == two.parameters  # each goes on where the other ended
    assert {row.provenance["device_id"] for row in one.rows} == {"cuda:1"}
    assert {row.provenance["device_id"] for row in two.rows} <= {"cuda:0", "cuda:1"}
    for row, other in zip(one.rows, two.rows, strict=True):
        assert row.status == other.status == "measured"
        for name, value in row.measurements.items():
            assert other.measurements[name].value == value.value


def test_a_device_that_is_not_there_is_an_error_before_anything_is_written(
    tmp_path: Path,
) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    with pytest.raises(BackendError, match="CUDA"):
        batch(tmp_path, tmp_path / "r.jsonl", ["ei"], device="cuda:97,cuda:98", **QUICK)
    assert not (tmp_path / "r.jsonl").exists()
    check_devices([Device("cpu", 0)])


# --- processors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/job\n", {"job/cpu.max": "150000 100000"}, 1.5),
        ("0::/job\n", {"job/cpu.max": "max 100000"}, None),
        # the group above has less
        ("0::/a/b\n", {"a/b/cpu.max": "800000 100000", "a/cpu.max": "400000 100000"}, 4.0),
        # a container names its group as the machine does, and sees it as the root
        ("0::/host/name\n", {"cpu.max": "200000 100000"}, 2.0),
        (
            "7:memory:/x\n5:cpu,cpuacct:/x\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000", "cpu,cpuacct/x/cpu.cfs_period_us": "1e5"},
            None,
        ),
        (
            "5:cpu,cpuacct:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        ("5:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("nonsense", {}, None),
    ],
)
def test_quotas(tmp_path: Path, own: str, files: dict[str, str], quota: float | None) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    assert _quota(tmp_path / "own", tmp_path / "root") == quota


def test_no_groups_no_quota(tmp_path: Path) -> None:
    assert _quota(tmp_path / "none", tmp_path) is None


def test_processors_heed_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_quota", lambda *_: 2.5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert processors() == 3
    assert threads_each(2) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert processors() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1


@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("2", 2)])
def test_numba_heeds_a_quota_unless_told(said: str | None, threads: int) -> None:
    code = (
        "from onnx_ei import devices; devices._quota = lambda *_: 1.0\n"
        "import onnx_ei._kernels.binning, numba; print(numba.get_num_threads())"
    )
    known = {n: v for n, v in os.environ.items() if n != "NUMBA_NUM_THREADS"}
    known |= {} if said is None else {"NUMBA_NUM_THREADS": said}
    done = subprocess.run(
        [sys.executable, "-c", code], env=known, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == threads


@pytest.mark.cuda
def test_a_real_gpu_has_a_name_and_runs_most_nodes(tmp_path: Path) -> None:
    assert driver_version() is not None
    assert device_name("cuda") == gpu_names()[0] != "cuda:0"
    session = Session(ir.from_proto(mlp()), "cuda")
    assert session.cpu_nodes == {}
    onnx.save(mlp(), tmp_path / "m.onnx")
    every = [f"cuda:{number}" for number in range(len(gpu_names()))]
    found = batch(tmp_path, tmp_path / "r.jsonl", ["ei"], device=every, **QUICK)
    for row in found.rows:
        assert row.provenance["device"] in gpu_names()
        assert row.measurements["ei"].provider == "CUDAExecutionProvider"


@pytest.mark.cuda
def test_tf32_is_off_unless_asked_for() -> None:
    """On Ampere and later a product of 1 + 2**-12 and 1 is 1 in TF32."""
    x = np.full((64, 64), 1 + 2.0**-12, np.float32)
    from graphs import make, node

    weights = {"w": np.eye(64, dtype=np.float32)}
    model = ir.from_proto(make([node("MatMul", "x w", "y")], {"x": (64, 64)}, ["y"], weights))
    (exact,) = Session(model, "cuda").run({"x": x}, ["y"])
    np.testing.assert_array_equal(exact, x)
    (rounded,) = Session(model, Device("cuda", 0, True)).run({"x": x}, ["y"])
    assert (rounded != x).all()
