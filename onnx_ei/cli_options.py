"""Options that several commands of the command line have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Background",
    "Calibrate",
    "Debug",
    "InputShape",
    "Inputs",
    "Json",
    "Layers",
    "ModelPath",
    "Percentiles",
    "Positions",
    "Spans",
]

ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file.")]
Layers = Annotated[
    list[str] | None,
    typer.Option("--layers", "-l", metavar="GLOB", help="Layers by key or pattern; repeatable."),
]
Spans = Annotated[
    list[str] | None,
    typer.Option(
        "--spans",
        metavar="[NAME=]FIRST:LAST",
        help="From the input of one layer to the output of another, by keys or patterns that match "
        "one each: a row of its own; repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Positions = Annotated[
    str,
    typer.Option(
        help="'one': one output position and the inputs that reach it; 'all': whole tensors."
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="NAME=DIMS",
        help="Shape of an input whose dimensions the file leaves open, e.g. x=1,3,48,48; "
        "repeatable.",
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="FILE|NAME=VALUE",
        help="An example input: an .npz file of arrays by input name, an .npy file for a model of "
        "one input, or a number for one, e.g. sr=16000; repeatable. What is not given is noise.",
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        metavar="FILE",
        help="Data to take each layer's ranges from, instead of the defaults by its activation: "
        "arrays by input name (.npz) or one array (.npy), the first axis samples; or a saved "
        "calibration (.json).",
    ),
]
Percentiles = Annotated[
    str | None,
    typer.Option(
        metavar="LO,HI",
        help="With --calibrate: ranges between these percentiles of the data, e.g. 0.1,99.9, "
        "instead of its extremes.",
    ),
]
Background = Annotated[
    str | None,
    typer.Option(
        help="What other tensors a layer needs are: 'reference' (from a run on noise or zeros) "
        "or 'zeros'."
    ),
]
