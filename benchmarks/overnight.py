"""One command over real models and checkpoints of a training run: a row for every layer of each.

    python benchmarks/overnight.py [--models 17] [--checkpoints 20] [--samples 500] [--bins 8]
                                   [--jobs 1] [--write]

The models are the files that the packages of tests/models-requirements.txt ship and that need no
word about their inputs, those with the fewest pairs of units first: 23, of which the last six have
layers of up to 170 million pairs, and take hours. The checkpoints are of examples/iris, trained and
exported here. Counts the rows against what describe lists of each file, and exits with 1 where they
differ or a layer failed.
--write puts the table and where it comes from into benchmarks/results/overnight.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "overnight.json"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "examples" / "iris")]

from corpus import FILES, File, locate  # noqa: E402

from onnx_ei import Analysis, topology_of  # noqa: E402
from onnx_ei.analysis import describe  # noqa: E402
from onnx_ei.doctor import examine  # noqa: E402
from onnx_ei.rows import FAILURES, Row  # noqa: E402

EPOCHS = 4000
COLUMNS = ("models", "layers", "rows", "spans", "measured", "unmeasurable", "failed", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--models", type=int, default=17)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--bins", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints(folder / "iris", given.checkpoints)
        options = ["--samples", given.samples, "--bins", given.bins, "--jobs", given.jobs]
        found = night(third_party()[: given.models], folder, list(map(str, options)))
    print(shown(found["table"]))
    print(f"{found['wall_seconds']:.0f} s in all")
    if given.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    faults = problems(found)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def third_party() -> list[File]:
    """The files that settle their inputs themselves, those with the fewest pairs first."""
    files = [file for file in FILES if not (file.shapes or file.fixed or file.hidden)]
    return sorted(files, key=lambda file: (pairs(str(locate(file))), file.path))


@cache
def listed(path: str) -> tuple[Row, ...]:
    """The layers of a file, as ``onnx-ei describe`` lists them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return describe(topology_of(path)).rows


def pairs(path: str) -> int:
    return sum((row.n_inputs or 0) * (row.n_outputs or 0) for row in listed(path))


def checkpoints(folder: Path, count: int, epochs: int = EPOCHS) -> None:
    """Train the Iris network, and export it ``count`` times on the way."""
    import train

    from onnx_ei.exporters import export_torch

    folder.mkdir()
    net, flowers = train.start(train.SEED)
    at = {round(epochs * (index + 1) / count) for index in range(count)}

    def each(epoch: int) -> None:
        if epoch in at:
            export_torch(net, flowers.x[:1], folder / f"epoch{epoch:04}.onnx")

    train.train(net, flowers, epochs, each)


def night(files: Sequence[File], folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Run the one command, and count what it wrote."""
    paths = {str(locate(file)): file.package for file in files}
    output = folder / "results.jsonl"
    command = [
        *("run", *paths, str(folder / "iris"), "--glob", "*epoch*.onnx", "-o", str(output)),
        *("--spans", "network=hidden1:output", "--quiet", *options),
    ]
    started = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", "onnx_ei", *command], check=False).returncode
    seconds = time.perf_counter() - started
    groups = paths | {str(path): "iris" for path in sorted((folder / "iris").glob("*.onnx"))}
    shown = ["run", f"({len(paths)} files)", "iris", *command[2 + len(paths) :]]
    shown[shown.index(str(output))] = output.name
    return {
        "command": " ".join(["onnx-ei", *shown]),
        "exit_code": code,
        "wall_seconds": round(seconds, 1),
        "machine": {
            "processors": os.cpu_count(),
            **{name: fact for name, fact in examine().items() if name != "platform"},
        },
        "lines": len(output.read_bytes().splitlines()) - 1,
        "table": table(groups, Analysis.load(output)),
    }


def table(groups: dict[str, str], found: Analysis) -> list[dict[str, Any]]:
    """A row a package, and one of all: what describe lists, and what the file has."""
    of_model: dict[str, list[Row]] = {path: [] for path in groups}
    for row in found.rows:
        of_model[row.model].append(row)
    lines: dict[str, dict[str, Any]] = {}
    for path, group in groups.items():
        rows = of_model[path]
        layers = [row.layer for row in listed(path)]
        counted = {
            "models": 1,
            "layers": len(layers),
            "rows": sum(row.span is None for row in rows),
            "spans": sum(row.span is not None for row in rows),
            "measured": sum(row.status == "measured" for row in rows),
            "unmeasurable": sum(row.status == "unmeasurable" for row in rows),
            "failed": sum(row.status in FAILURES for row in rows),
            "seconds": sum(row.seconds or 0.0 for row in rows),
            "names_differ": [row.layer for row in rows if row.span is None] != layers,
        }
        for name in (group, "all"):
            line = lines.setdefault(name, {"group": name} | dict.fromkeys(counted, 0))
            for column, value in counted.items():
                line[column] += value
    lines["all"] = lines.pop("all")
    return [{**line, "seconds": round(line["seconds"], 2)} for line in lines.values()]


def problems(found: dict[str, Any]) -> list[str]:
    """Say where rows are not the layers that describe lists, failed, or are there twice."""
    lines = found["table"]
    rows = lines[-1]["rows"] + lines[-1]["spans"]
    twice = [] if found["lines"] == rows else [f"{found['lines']} lines hold {rows} rows"]
    return twice + [
        f"{line['group']}: {line['layers']} layers, {line['rows']} rows, {line['failed']} failed"
        for line in lines
        if line["layers"] != line["rows"] or line["failed"] or line["names_differ"]
    ]


def shown(lines: Sequence[dict[str, Any]]) -> str:
    widths = {name: max(len(name), *(len(str(of[name])) for of in lines)) for name in COLUMNS}
    first = max(len(line["group"]) for line in lines)
    texts = [" " * first + "".join(f"  {name:>{width}}" for name, width in widths.items())]
    for line in lines:
        cells = (f"  {line[name]:>{width}}" for name, width in widths.items())
        texts.append(f"{line['group']:<{first}}" + "".join(cells))
    return "\n".join(texts)


if __name__ == "__main__":
    raise SystemExit(main())
