"""How the command line ends, each way in a process of its own: what a shell script sees."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from graphs import mlp, two_layer_model

from onnx_ei import Analysis

QUICK = ["--samples", "500", "--bins", "4", "--measures", "ei"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx.save(two_layer_model(), folder / "a.onnx")
    onnx.save(mlp(), folder / "b.onnx")
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A model that is none."""
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    return path


def ended(*arguments: object, file_size: int | None = None) -> tuple[int, str]:
    """Run the command line; return its exit code and standard error."""

    def limited() -> None:
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    done = subprocess.run(
        [sys.executable, "-m", "onnx_ei", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=300, preexec_fn=limited,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_0_is_a_value_or_a_reason_for_every_layer(models: Path, tmp_path: Path) -> None:
    assert ended("run", models / "a.onnx", *QUICK)[0] == 0
    code, said = ended("run", models, "-o", tmp_path / "r.jsonl", "--quiet", *QUICK)
    assert (code, said) == (0, "")
    assert len(Analysis.load(tmp_path / "r.jsonl").rows) == 4


def test_1_is_some_rows_that_failed(models: Path, text: Path, tmp_path: Path) -> None:
    code, said = ended("run", models, text, "-o", tmp_path / "r.jsonl", *QUICK)
    assert (code, "text.onnx: failed: " in said) == (1, True)
    assert len(Analysis.load(tmp_path / "r.jsonl").rows) == 5


def test_2_is_usage(models: Path, tmp_path: Path) -> None:
    for message, arguments in {
        "No such option": ["--sample", "3"],
        "no layer of any model matches 'fc9'": ["--layers", "fc9"],
    }.items():
        code, said = ended("run", models, "-o", tmp_path / "r.jsonl", *arguments)
        assert (code, message in said) == (2, True), said
    code, said = ended("run", models, "-o", tmp_path / "no" / "r.jsonl")
    assert (code, "cannot be written: there is no folder" in said) == (2, True)
    assert not (tmp_path / "r.jsonl").exists()


def test_3_is_the_model(text: Path, tmp_path: Path) -> None:
    assert ended("describe", text)[0] == 3
    assert ended("run", text, *QUICK)[0] == 3
    assert ended("run", text, "-o", tmp_path / "r.jsonl", *QUICK)[0] == 3


def test_4_is_the_device(models: Path, tmp_path: Path) -> None:
    for more in ([], ["-o", tmp_path / "r.jsonl"]):
        code, said = ended("run", models / "a.onnx", "--device", "cuda:99", *more, *QUICK)
        assert (code, said.startswith("error: ")) == (4, True), said
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_130_is_interrupted(models: Path, tmp_path: Path, number: int) -> None:
    path = tmp_path / "r.jsonl"
    slow = ["--samples", "2000000", "--bins", "4", "--measures", "ei"]
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_ei", "run", str(models), "-o", str(path), *slow],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and not (path.exists() and b"\n" in path.read_bytes()):
        time.sleep(0.005)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in said) == (130, False), said
    assert "--resume goes on from there" in said


def test_a_full_disk_is_1_and_the_file_resumes_to_the_same(models: Path, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "r.jsonl"
    assert ended("run", models, "-o", whole, "--quiet", *QUICK)[0] == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    room = len(b"".join(lines[:3])) + 100  # the system stops the fourth line in its middle
    code, said = ended("run", models, "-o", path, *QUICK, file_size=room)
    assert code == 1
    assert "every row before this one is safe: make room, and resume (--resume)" in said
    assert path.read_bytes().endswith(b"\n")
    assert len(Analysis.load(path).rows) == 2
    assert ended("run", models, "-o", path, "--resume", *QUICK)[0] == 0
    found = [Analysis.load(file).to_records() for file in (path, whole)]
    for records in found:
        for record in records:
            del record["seconds"], record["peak_memory"]
    assert found[0] == found[1]
    assert path.read_bytes().count(b"\n") == len(lines)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_an_output_that_is_always_full_is_named(models: Path, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").symlink_to("/dev/full")
    code, said = ended("run", models, "-o", tmp_path / "r.jsonl", *QUICK)
    assert (code, "r.jsonl cannot be written: it is no ordinary file" in said) == (2, True), said
