"""Inputs on the command line: shapes, examples and calibration data, from files and in words."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_ei.cli_errors import say

if TYPE_CHECKING:
    import networkx as nx
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["calibrated", "open_model", "pair", "parsed_shape", "read_arrays", "topology_for"]

ARRAY_FILES = (".npz", ".npy")


def open_model(
    path: str,
    shapes: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    background: str | None = None,
    calibrate: Path | None = None,
    percentiles: str | None = None,
) -> nx.DiGraph[Any]:
    """Read a model as the options of a command say.

    Parameters
    ----------
    path, shapes, inputs, background
        As for :func:`topology_for`.
    calibrate : pathlib.Path, optional
        Data, or a saved calibration.
    percentiles : str, optional
        ``LO,HI``, of the data.

    Raises
    ------
    ValueError, ModelError
        As :func:`topology_for`.
    """
    chosen = None if percentiles is None else pair("--percentiles", percentiles)
    if chosen is not None and (calibrate is None or calibrate.suffix == ".json"):
        raise ValueError("--percentiles: goes with --calibrate and data (.npz, .npy)")
    data = None
    if calibrate is not None and calibrate.suffix != ".json":
        data = read_arrays("--calibrate", calibrate)
    topology = topology_for(path, shapes, inputs, background, data)
    if calibrate is not None:
        calibrated(topology, calibrate, data, chosen)
    return topology


def pair(option: str, given: str) -> tuple[float, float]:
    """Return the two numbers that ``LO,HI`` says.

    Examples
    --------
    >>> pair("--input-range", "0,1")
    (0.0, 1.0)
    """
    try:
        low, high = (float(part) for part in given.split(","))
    except ValueError:
        raise ValueError(f"{option}: two numbers LO,HI are needed, got {given!r}") from None
    return low, high


def topology_for(
    path: str,
    shapes: Sequence[str] | None,
    inputs: Sequence[str] | None,
    background: str | None,
    data: Any = None,
) -> nx.DiGraph[Any]:
    """Read a model, with the example input that the options describe.

    Parameters
    ----------
    path : str
        The model.
    shapes : sequence of str, optional
        ``NAME=D,D,...`` each.
    inputs : sequence of str, optional
        A file of arrays, or ``NAME=VALUE``, each.
    background : str, optional
        ``"reference"`` needs an example.
    data : array or dict of arrays, optional
        Calibration data: their first sample is the example where nothing else says what it is.

    Raises
    ------
    ValueError
        If an option makes no sense, or does not fit the model.
    ModelError
        If the model cannot be read, or an input stays open.
    """
    from onnx_ei.loading import example_of_shape
    from onnx_ei.topology import topology_of

    declared = dict(parsed_shape(given) for given in shapes or ())
    if inputs:
        return topology_of(path, _example(path, declared, inputs))
    if declared:
        return topology_of(path, example_of_shape(path, declared))
    first = None if data is None else _first_sample(path, data)
    if first is None and background == "reference":
        first = example_of_shape(path, {})
    return topology_of(path, first)


def parsed_shape(given: str) -> tuple[str, tuple[int, ...]]:
    """Return the name and the dimensions that ``NAME=D,D,...`` says.

    Examples
    --------
    >>> parsed_shape("x=1,3,48,48")
    ('x', (1, 3, 48, 48))
    """
    name, separator, dims = given.rpartition("=")
    try:
        shape = tuple(int(d) for d in dims.split(","))
    except ValueError:
        shape = ()
    if not separator or not shape or min(shape) < 1:
        raise ValueError(f"--input-shape: NAME=D,D,... is needed, got {given!r}")
    return name, shape


def read_arrays(option: str, file: Path) -> Any:
    """Read an .npy file as an array, an .npz file as a dict of them; nothing is unpickled.

    Parameters
    ----------
    option : str
        What the messages begin with.
    file : pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If it is missing, or holds no plain arrays.
    """
    import zipfile

    import numpy as np

    try:
        # opened here: of a damaged archive numpy leaves the file open
        with open(file, "rb") as handle:
            if handle.read(2) == b"PK":
                handle.seek(0)
                with np.load(handle, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files}
            else:  # not an archive: read as far as it is used
                return np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ValueError(f"{option}: {error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        line = f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0]
        raise ValueError(f"{option}: {file} holds no plain arrays: {line}") from error
    if not arrays:
        raise ValueError(f"{option}: {file} holds no arrays")
    return arrays


def _inputs_of(path: str) -> dict[str, ir.Value]:
    from onnx_ei._graph.reading import read_path

    loaded, _ = read_path(Path(path))
    weights = loaded.graph.initializers
    return {str(v.name): v for v in loaded.graph.inputs if v.name not in weights}


def _example(
    path: str, shapes: Mapping[str, tuple[int, ...]], given: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Make an example of arrays, of numbers by name, and of noise for what is not given."""
    from onnx_ei.loading import example_of_shape

    values = _inputs_of(path)
    arrays: dict[str, NDArray[Any]] = {}
    fills: dict[str, str] = {}
    for item in given:
        name, separator, number = item.rpartition("=")
        if Path(item).suffix in ARRAY_FILES:
            arrays |= _checked(item, read_arrays("--input", Path(item)), values)
        elif separator:
            fills[_known("--input", name, values)] = number
        else:
            raise ValueError(f"--input: a file (.npz, .npy) or NAME=VALUE is needed, got {item!r}")
    twice = sorted({*arrays} & {*fills} | {*arrays} & {*shapes})
    if twice:
        raise ValueError(f"input {twice[0]!r} is given twice: by a file, and by name")
    example = example_of_shape(path, {**shapes, **{n: a.shape for n, a in arrays.items()}})
    left = [name for name in values if name not in {*arrays, *fills}]
    if left:
        say(f"note: inputs not given are noise, or 0 where they are whole: {', '.join(left)}")
    filled = {n: _filled(n, text, example[n]) for n, text in fills.items()}
    return {**example, **arrays, **filled}


def _known(option: str, name: str, values: Mapping[str, ir.Value]) -> str:
    from onnx_ei.errors import closest

    if name not in values:
        raise ValueError(f"{option}: the model has no input {name!r}; {closest(name, values)}")
    return name


def _checked(file: str, found: Any, values: Mapping[str, ir.Value]) -> dict[str, NDArray[Any]]:
    """Return a file's arrays by input name, once they fit the model's inputs."""
    from onnx_ei._graph.example import declared, fits, shown
    from onnx_ei.data import as_numbers

    option = f"--input {file}"
    arrays = _named(option, found, values)
    for name, array in arrays.items():
        arrays[name] = array = as_numbers(option, name, array, values[name])
        dims = declared(values[name])
        if 0 in array.shape or not (dims is None or fits(dims, array.shape)):
            raise ValueError(
                f"{option}: input {name!r} has shape {shown(dims or ())}, the array {array.shape}"
            )
    return arrays


def _named(option: str, found: Any, values: Mapping[str, ir.Value]) -> dict[str, NDArray[Any]]:
    if isinstance(found, Mapping):
        return {_known(option, str(name), values): array for name, array in found.items()}
    if len(values) != 1:
        raise ValueError(
            f"{option}: one array for {len(values)} inputs ({', '.join(map(repr, values))}): "
            "an .npz file with an array for each by name is needed"
        )
    return {next(iter(values)): found}


def _filled(name: str, text: str, like: NDArray[Any]) -> NDArray[Any]:
    """Give an input the value that was written for it."""
    import numpy as np

    words = {"true": 1, "false": 0}
    try:
        number = words[text.lower()] if text.lower() in words else float(text)
        filled = np.full(like.shape, number, np.float64)
        with np.errstate(all="ignore"):
            cast = filled.astype(like.dtype)
        if like.dtype.kind in "iub" and not np.array_equal(cast, filled):
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(
            f"--input: {name!r} is of type {like.dtype}: {name}=NUMBER is needed, got {text!r}"
        ) from None
    return cast


def _first_sample(path: str, data: Any) -> dict[str, NDArray[Any]] | None:
    """Return one sample of calibration data, or None where they are not what the model takes."""
    import numpy as np

    from onnx_ei._graph.example import declared
    from onnx_ei.data import stack_length

    values = _inputs_of(path)
    if not isinstance(data, Mapping):
        data = {name: data for name in values} if len(values) == 1 else {}
    example = {}
    for name, value in values.items():
        if name not in data:
            return None
        array, dims = np.asarray(data[name]), declared(value)
        if dims == () and array.ndim == 0:
            example[name] = array
        elif array.dtype.kind not in "fiub" or stack_length(dims, array.shape) is None:
            return None
        elif dims is not None and array.ndim == len(dims) + 1:
            example[name] = array[0]
        else:
            example[name] = array[: (dims or (1,))[0] or 1]
    return example


def calibrated(
    topology: nx.DiGraph[Any], file: Path, data: Any, percentiles: tuple[float, float] | None
) -> None:
    """Put ranges into a topology: from data, or from a calibration that was saved.

    Parameters
    ----------
    topology : networkx.DiGraph
        Of the model.
    file : pathlib.Path
        Where the data come from; a .json file is a saved calibration.
    data : array, dict of arrays or None
        What is in it.
    percentiles : (float, float), optional
        What the ranges are; the extremes by default.
    """
    from onnx_ei.calibrating import calibrate
    from onnx_ei.calibration import Calibration
    from onnx_ei.errors import OnnxEiWarning

    if data is None:
        try:
            found = Calibration.load(file)
        except OSError as error:
            raise ValueError(f"--calibrate: {error}") from error
        found.use(topology)
    else:
        chosen: dict[str, Any] = {}
        if percentiles is not None:
            chosen = {"statistic": "percentiles", "percentiles": percentiles}
        with warnings.catch_warnings(record=True) as caught, _bar(_length(data)) as told:
            warnings.simplefilter("always", OnnxEiWarning)
            found = calibrate(topology, data, progress=told, **chosen)
        for warning in caught:
            say(f"warning: {warning.message}")
    low, high = found.percentiles
    what = (
        "the least to the greatest value"
        if found.statistic == "minmax"
        else f"the {low:g} % to the {high:g} % percentile"
    )
    say(
        f"calibrated on {found.n_samples} samples of {file}: ranges are {what} of each layer; "
        "bounded activations keep their bounds"
    )


def _length(data: Any) -> int:
    sizes = [array.shape[0] for array in (data.values() if isinstance(data, Mapping) else [data])
             if array.ndim]  # fmt: skip
    return max(sizes, default=0)


@contextmanager
def _bar(total: int) -> Iterator[Any]:
    """Show a bar on standard error where that is a terminal."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    with progress.Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("calibrating", total=total)
        yield lambda done, _: bar.update(task, completed=done)
