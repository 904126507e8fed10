"""Kill a batch at random moments, resume it each time, and compare with an uninterrupted run.

    python benchmarks/kills.py [--kills 50] [--jobs 1] [--seed 0] [MODELS...]

Without models it writes small ones. Exits with 1 where the tables differ.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_ei import Analysis

TIMES = ("seconds", "peak_memory")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = given.models or [written(folder / "models", given.kills)]
        options = ["--samples", "2000", "--bins", "4", "--jobs", str(given.jobs)]
        start(models, folder / "whole.jsonl", options).wait()
        whole = table(folder / "whole.jsonl")
        path, dice = folder / "killed.jsonl", random.Random(given.seed)
        cut, kills = 0, 0
        for _ in range(given.kills):
            kills += 1
            if not killed(models, path, options, dice):
                break  # it was done before the kill
            cut += bool(path.exists() and not path.read_bytes().endswith(b"\n"))
        start(models, path, [*options, "--resume"]).wait()
        lines = [json.loads(line) for line in path.read_bytes().splitlines()[1:]]
        twice = len(lines) - len({(line["model"], line["layer"]) for line in lines})
        same = table(path) == whole
    print(f"{kills} kills, {cut} of them within a line; {len(whole)} rows, {twice} written twice")
    print("the tables are the same to the bit" if same else "the tables DIFFER")
    return 0 if same and not twice else 1


def written(folder: Path, kills: int) -> Path:
    """Write enough small models that no run is done before its kills are."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(max(2, kills)):
        widths = noise.integers(2, 9, size=5)
        nodes, weights = [], []
        for index, shape in enumerate(pairwise(widths)):
            values = noise.normal(size=shape).astype(np.float32)
            weights.append(numpy_helper.from_array(values, f"fc{index}"))
            nodes.append(helper.make_node("MatMul", [f"x{index}", f"fc{index}"], [f"h{index}"]))
            nodes.append(helper.make_node("Sigmoid", [f"h{index}"], [f"x{index + 1}"]))
        ends = [
            helper.make_tensor_value_info(name, 1, ["N", int(width)])
            for name, width in (("x0", widths[0]), ("x4", widths[-1]))
        ]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
        opsets = [helper.make_opsetid("", 18)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.save(model, folder / f"{number:03}.onnx")
    return folder


def start(models: list[Any], path: Path, options: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onnx_ei", "run", *map(str, models), "-o", str(path), "-q"]
    return subprocess.Popen([*command, *options])


def killed(models: list[Any], path: Path, options: list[str], dice: random.Random) -> bool:
    """Run until a few more lines are there, then a moment longer, then kill."""
    lines = path.read_bytes().count(b"\n") if path.exists() else 0
    process = start(models, path, [*options, "--resume"])
    # 0: while it starts, or lists its layers
    target = lines + dice.randint(0, 4)
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= target:
            break
        time.sleep(0.001)
    time.sleep(dice.random() * (5 if target == lines else 0.2))
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def table(path: Path) -> list[Any]:
    return [bare(row.to_dict()) for row in Analysis.load(path).rows]


def bare(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: bare(of) for name, of in content.items() if name not in TIMES}
    return [bare(of) for of in content] if isinstance(content, list) else content


if __name__ == "__main__":
    raise SystemExit(main())
