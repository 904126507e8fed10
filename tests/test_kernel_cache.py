"""Compiled kernels on disk: eight processes at once, old and broken files, no folder to write in.

Everything runs in new processes on a copy of the package, so that its sources can be edited and
nothing but the test's own folder holds compiled code.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import onnx_ei

pytestmark = pytest.mark.jit

KERNELS = Path(onnx_ei.__file__).parent / "_kernels"

INNER = """
from onnx_ei._kernels._jit import kernel

@kernel()
def _inner(x, out):
    out[0] = {value} * x[0]
"""
OUTER = """
from onnx_ei._kernels._jit import kernel
from onnx_ei._kernels.inner import _inner

@kernel()
def _outer(x, out):
    _inner(x, out)
"""
CALL = """
import json, sys
import numpy as np
from onnx_ei._kernels.outer import _outer

def call(dtype):
    out = np.zeros(1)
    _outer(np.ones(1, dtype), out)
    return out[0]

{before}
found = [call(name) for name in sys.argv[1:] or ["float64"]]
print(json.dumps({{"found": found, "hits": sum(_outer._cache_hits.values())}}))
"""
COUNT = """
import sys, time
from pathlib import Path
import numpy as np
from onnx_ei.estimators import entropy_of_counts, information_of_counts
from onnx_ei.histogram import joint_counts, state_ids

folder, number = Path(sys.argv[1]), int(sys.argv[2])
x, y = np.random.default_rng(0).integers(0, 4, (2, 999))
(folder / f"ready{number}").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
found = {}
# half of them begin with the other signature
for dtype in ("uint8", "uint16")[:: 1 if number % 2 else -1]:
    found[dtype] = information_of_counts(joint_counts(x.astype(dtype), y.astype(dtype), 4, 4))
_, counts = state_ids(x.astype(np.uint64), y.astype(np.uint64), np.ones(999, bool))
print(repr((sorted(found.items()), entropy_of_counts(counts), counts.tolist())))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A package of that name which holds the kernels' decorator and two small kernels."""
    kernels = tmp_path / "package" / "onnx_ei" / "_kernels"
    kernels.mkdir(parents=True)
    (kernels.parent / "__init__.py").touch()
    (kernels / "__init__.py").touch()
    for name in ("_jit.py", "_cache.py"):
        shutil.copy(KERNELS / name, kernels)
    shutil.copy(KERNELS.parent / "importing.py", kernels.parent)
    (kernels / "inner.py").write_text(INNER.format(value=2))
    (kernels / "outer.py").write_text(OUTER)
    return kernels


def environment(package: Path | None, **more: object) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    # Python's own cache takes an edit of the same second and size for none.
    known["PYTHONDONTWRITEBYTECODE"] = "1"
    if package is not None:
        known["PYTHONPATH"] = str(package)
    return known | {name: str(value) for name, value in more.items()}


def call(kernels: Path, *dtypes: str, before: str = "", **more: object) -> dict[str, Any]:
    """Call the outer kernel in a new process that must not say a word beside its result."""
    cache = {"NUMBA_CACHE_DIR": kernels.parents[2] / "cache"} | more
    done = subprocess.run(
        [sys.executable, "-c", CALL.format(before=before), *dtypes],
        capture_output=True, text=True, cwd=kernels.parents[2],
        env=environment(kernels.parents[1], **cache),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def compiled(kernels: Path) -> list[Path]:
    return sorted((kernels.parents[2] / "cache").rglob("*.nbc"))


def test_a_second_process_compiles_nothing_and_finds_the_same(copy: Path):
    assert call(copy) == {"found": [2.0], "hits": 0}
    assert len(compiled(copy)) == 2
    assert call(copy) == {"found": [2.0], "hits": 1}


def test_what_is_loaded_and_what_is_compiled_go_together(copy: Path):
    call(copy, "float64", "float32")
    # numba's registries are read for the second signature alone, and all three work
    names = ["float64", "int64", "float32"]
    assert call(copy, *names) == {"found": [2.0, 2.0, 2.0], "hits": 2}
    before = "import sys; call('float64'); assert 'numba.np.arraymath' not in sys.modules"
    assert call(copy, before=before)["hits"] == 1


def test_signatures_have_files_of_their_own(copy: Path):
    assert call(copy, "float64", "int64") == {"found": [2.0, 2.0], "hits": 0}
    assert len(compiled(copy)) == 4
    assert call(copy, "int64", "float32") == {"found": [2.0, 2.0], "hits": 1}


def test_a_kernel_that_another_calls_from_its_own_file_is_never_stale(copy: Path):
    assert call(copy)["found"] == [2.0]
    outer = (copy / "outer.py").stat().st_mtime_ns
    inner = (copy / "inner.py").stat()
    (copy / "inner.py").write_text(INNER.format(value=3))
    # at worst the edit shows in neither the time nor the size
    os.utime(copy / "inner.py", ns=(inner.st_atime_ns, inner.st_mtime_ns))
    assert (copy / "outer.py").stat().st_mtime_ns == outer
    assert call(copy) == {"found": [3.0], "hits": 0}
    assert call(copy) == {"found": [3.0], "hits": 1}
    # replaced, not kept beside the new ones
    assert len(compiled(copy)) == 2


def test_code_of_another_signature_is_not_taken(copy: Path):
    call(copy, "float64")
    [first] = [path for path in compiled(copy) if path.name.startswith("outer")]
    kept = first.read_bytes()
    call(copy, "float32")
    [second] = [p for p in compiled(copy) if p.name.startswith("outer") and p != first]
    second.write_bytes(kept)
    assert call(copy, "float32") == {"found": [2.0], "hits": 0}
    assert call(copy, "float32") == {"found": [2.0], "hits": 1}


DAMAGES = {
    "empty": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "one bit wrong": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_broken_file_is_compiled_again(copy: Path, damage: Any):
    call(copy)
    for path in compiled(copy):
        path.write_bytes(damage(path.read_bytes()))
    assert call(copy) == {"found": [2.0], "hits": 0}
    assert call(copy) == {"found": [2.0], "hits": 1}


def test_without_any_folder_to_write_in_kernels_are_compiled_each_time(copy: Path, tmp_path: Path):
    # Files where folders should be: unlike permissions, they stop root as well.
    for blocked in (copy / "__pycache__", tmp_path / "cache", tmp_path / "home"):
        blocked.touch()
    home = tmp_path / "home"
    for _ in range(2):
        found = call(copy, HOME=home, XDG_CACHE_HOME=home, LOCALAPPDATA=home)
        assert found == {"found": [2.0], "hits": 0}
    assert not list(tmp_path.rglob("*.nbc"))


BLOCK = """
import os, shutil
shutil.rmtree(os.environ["NUMBA_CACHE_DIR"])
open(os.environ["NUMBA_CACHE_DIR"], "w").close()
"""


def test_a_folder_that_goes_away_before_the_first_call_is_done_without(copy: Path):
    assert call(copy, before=BLOCK) == {"found": [2.0], "hits": 0}
    assert not compiled(copy)


def test_a_folder_in_place_of_a_file_is_done_without(copy: Path):
    call(copy)
    for path in compiled(copy):
        path.unlink()
        (path / "held").mkdir(parents=True)
    assert call(copy) == {"found": [2.0], "hits": 0}
    assert [path.suffix for path in (copy.parents[2] / "cache").rglob("*") if path.is_file()] == []


def test_recompiling_by_hand_flushes_and_writes_again(copy: Path):
    recompile = "call('float64'); _outer.recompile()"
    assert call(copy, before=recompile) == {"found": [2.0], "hits": 0}
    assert call(copy, before=recompile)["hits"] == 1
    assert len(compiled(copy)) == 2


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []
    yield running
    for child in running:
        child.kill()
        child.communicate()


@pytest.mark.slow
def test_eight_processes_at_once_on_an_empty_cache_find_the_same(
    tmp_path: Path, children: list[subprocess.Popen[str]]
):
    cache = tmp_path / "cache"
    package = Path(onnx_ei.__file__).parents[1]
    known = environment(package, NUMBA_CACHE_DIR=cache, NUMBA_NUM_THREADS=2)
    for number in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", COUNT, str(tmp_path), str(number)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=known,
        )  # fmt: skip
        children.append(child)
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("ready*"))) < 8 and time.monotonic() < end:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = [(*child.communicate(timeout=300), child.returncode) for child in children]
    assert [(error, code) for _, error, code in said] == [("", 0)] * 8
    assert len({found for found, _, _ in said}) == 1
    # every draft became a file, and a ninth process takes them all
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".nbc"}
    ninth = subprocess.run(
        [sys.executable, "-c", COUNT, str(tmp_path), "8"],
        capture_output=True, text=True, cwd=tmp_path, check=True, env=known,
    )  # fmt: skip
    assert ninth.stdout == said[0][0]
    assert sorted(path for path in cache.rglob("*") if path.is_file()) == sorted(files)
