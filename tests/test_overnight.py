"""A night's run, small: one command over real models and checkpoints, a row for every layer."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import require_peer

CHECKOUT = Path(os.environ.get("ONNX_EI_CHECKOUT", Path(__file__).parent.parent))


@pytest.fixture(scope="module")
def overnight() -> Any:
    path = CHECKOUT / "benchmarks" / "overnight.py"
    spec = importlib.util.spec_from_file_location("overnight", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::onnx_ei.errors.OnnxEiWarning")
def test_a_row_for_every_layer_of_every_model(overnight: Any, tmp_path: Path) -> None:
    require_peer("torch")
    require_peer("sklearn")
    overnight.checkpoints(tmp_path / "iris", 2, epochs=2)
    quick = ("surfaces-onnx-files", "onnxruntime", "atspm-detector", "surfaces-surrogates")
    files = [f for f in overnight.FILES if f.package in quick and not f.shapes]
    found = overnight.night(files, tmp_path, ["--samples", "100", "--bins", "4"])
    assert (found["exit_code"], overnight.problems(found)) == (0, [])
    lines = {line["group"]: line for line in found["table"]}
    assert (lines["iris"]["models"], lines["iris"]["rows"], lines["iris"]["spans"]) == (2, 6, 2)
    layers = sum(file.layers for file in files)
    assert lines["all"]["layers"] == lines["all"]["rows"] == layers + 6
    assert lines["all"]["measured"] + lines["all"]["unmeasurable"] == found["lines"] == layers + 8
    assert "surfaces-onnx-files" in overnight.shown(found["table"])
    # what it would say of a row too few, of a failure, and of a line too many
    lines["iris"]["rows"] = 5
    found["lines"] += 1
    assert overnight.problems(found) == [
        f"{layers + 9} lines hold {layers + 8} rows", "iris: 6 layers, 5 rows, 0 failed",
    ]  # fmt: skip


def test_the_result_that_is_committed_is_whole(overnight: Any) -> None:
    found = json.loads(overnight.RESULTS.read_text(encoding="utf-8"))
    assert (found["exit_code"], overnight.problems(found)) == (0, [])
    lines = {line["group"]: line for line in found["table"]}
    assert lines["iris"]["models"] == 20
    assert lines["all"]["models"] - 20 >= 10
    known = {(file.package, file.path): file for file in overnight.third_party()[:17]}
    assert sum(file.layers for file in known.values()) == lines["all"]["layers"] - 60
