"""Options of ``onnx-ei run`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_ei.cli_config import read_config

__all__ = [
    "BATCH_ONLY",
    "Backend",
    "Bins",
    "Config",
    "Device",
    "DryRun",
    "Estimator",
    "Exclude",
    "Glob",
    "InputRange",
    "Jobs",
    "Matrices",
    "MaxSamples",
    "Measures",
    "MemoryLimit",
    "Method",
    "Models",
    "Output",
    "Quiet",
    "Resume",
    "Samples",
    "Scheduler",
    "Seed",
    "Split",
    "Tf32",
    "Threshold",
    "Timeout",
    "Tolerance",
]

BATCH_ONLY = {
    "glob": None,
    "resume": False,
    "dry_run": False,
    "matrices": None,
    "jobs": None,
    "timeout": None,
    "memory_limit": None,
    "quiet": False,
    "backend": "loky",
    "scheduler": None,
    "split": "layers",
}
"""Options that go with an output file, with their defaults."""

Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODELS...", help="An .onnx file; with -o several, or folders of them."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="A results file of JSON lines: each row is on the disk as soon as it is done.",
    ),
]
Glob = Annotated[
    str | None,
    typer.Option(
        "--glob",
        metavar="PATTERN",
        help="With -o: which files of the folders, e.g. '**/*epoch*.onnx'; all .onnx files at any "
        "depth by default.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an output that is there.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", "-x", metavar="GLOB", help="Layers to leave out; repeatable."),
]
Measures = Annotated[
    str, typer.Option("--measures", "-m", metavar="NAMES", help="Measures, comma-separated.")
]
Samples = Annotated[
    int | None,
    typer.Option(help="Samples of every measure; by default as many as --threshold needs."),
]
Threshold = Annotated[float, typer.Option(help="Relative error at which automatic sampling stops.")]
MaxSamples = Annotated[int, typer.Option(help="Where automatic sampling stops in any case.")]
Bins = Annotated[int, typer.Option(help="Bins of every unit.")]
InputRange = Annotated[
    str | None,
    typer.Option(metavar="LO,HI", help="Range of the layers that the model's input feeds."),
]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
Estimator = Annotated[
    str | None,
    typer.Option(help="From counts to bits: 'jackknife', 'plugin' ...; by default measure's."),
]
Method = Annotated[
    str,
    typer.Option(
        help="'sample', 'exact' (pairwise measures of layers that are affine up to their "
        "activation) or 'auto': exact where it applies and no --samples are given."
    ),
]
Tolerance = Annotated[float, typer.Option(help="Error bound of exact values, in bits a pair.")]
Device = Annotated[
    str,
    typer.Option(
        help="'cpu', 'cuda' or 'cuda:N'; with -o several: 'cuda:0,cuda:1'. No value depends on "
        "which GPU it is."
    ),
]
Tf32 = Annotated[
    bool, typer.Option("--tf32", help="On a GPU: round factors to 10 bits, which moves values.")
]
Matrices = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="With -o: a folder for the matrices of ei_parts and sensitivity, an .npz file a "
        "layer.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="With -o: layers at once, by default one a device, or as many as a cluster takes. No "
        "value depends on it.",
    ),
]
Backend = Annotated[
    str,
    typer.Option(help="With -o: 'loky', this machine; 'dask' or 'ray', a cluster's workers."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="With -o and --backend dask or ray: where the cluster is."
    ),
]
Split = Annotated[
    str,
    typer.Option(
        help="With -o: what is spread, 'layers', or the 'samples' of one layer after another."
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="With -o: for a layer; what takes longer is ended alone."),
]
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        metavar="MIB",
        min=1,
        help="With -o: for a process; what takes more is ended alone (Linux, or with psutil).",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="With -o: list what would be measured, and what it would take."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="With -o: no progress and no summary.")]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="TOML",
        callback=read_config,
        is_eager=True,
        help="A file of options, by their long names, and models; the command line goes first.",
    ),
]
