"""The command line's ``onnx-ei export``: the user's own model, by its import path, to an ONNX file.

A model is code. It is imported from where the user says, and nothing is unpickled: a pickle runs
whatever its author wrote into it. Who keeps models in pickles loads them in a factory of their own.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_ei.cli_errors import errors
from onnx_ei.cli_inputs import read_arrays

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["export_app"]

export_app = typer.Typer(
    no_args_is_help=True,
    help="Write a framework's model as an ONNX file, and compare the two.",
)

Target = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:NAME",
        help="Import path of the model, or of a function without arguments that returns it; the "
        "current folder is searched first.",
    ),
]
KerasTarget = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:NAME|FILE.keras",
        help="Import path of the model, or of a function without arguments that returns it; or a "
        ".keras file, read in Keras's safe mode.",
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="[NAME=]DIMS[:DTYPE]",
        help="Shape of an example input, batch first, e.g. 1,3,32,32 or ids=1,16:int64; once for "
        "each input. Floats are drawn at random, integers are 0.",
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option(
        "--input", metavar="FILE", help="Example input instead: .npy, or .npz with an array each."
    ),
]
Opset = Annotated[int | None, typer.Option(help="Version of the default operator set.")]
Exporter = Annotated[
    str,
    typer.Option(
        help="PyTorch's exporter: 'dynamo' proves what it writes; 'legacy' records a run; 'auto' "
        "takes the second where the first fails."
    ),
]
NoCheck = Annotated[
    bool, typer.Option("--no-check", help="Do not compare the file's outputs with the model's.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@export_app.command("torch")
def torch_command(
    model: Target,
    output: Output,
    input_shape: Shapes = None,
    input: Inputs = None,
    opset: Opset = None,
    exporter: Exporter = "auto",
    no_check: NoCheck = False,
    debug: Debug = False,
) -> None:
    """Export a torch.nn.Module."""
    with _reported(debug):
        from onnx_ei.exporters import export_torch
        from onnx_ei.exporters._writing import need

        need("onnx-ei export torch", {"torch": "onnx-ei[torch]"})
        import torch

        found = _built(_resolve(model), model, lambda m: isinstance(m, torch.nn.Module), "a module")
        example = _example(input_shape, input)
        if example is None:
            raise ValueError("an example input is needed: --input-shape 1,3,32,32, or --input FILE")
        made = export_torch(
            found, example, output, opset=opset, exporter=exporter, check=not no_check
        )
        typer.echo(made)


@export_app.command("sklearn")
def sklearn_command(
    model: Target,
    output: Output,
    input_shape: Shapes = None,
    input: Inputs = None,
    opset: Opset = None,
    no_check: NoCheck = False,
    debug: Debug = False,
) -> None:
    """Export a fitted scikit-learn estimator; its number of columns is known without an input."""
    with _reported(debug):
        import numpy as np

        from onnx_ei.exporters import export_sklearn

        found = _built(_resolve(model), model, lambda m: hasattr(m, "get_params"), "an estimator")
        example = _example(input_shape, input)
        if isinstance(example, Mapping | tuple):
            raise ValueError("an estimator takes one table: one --input-shape, or an .npy file")
        if example is None:
            columns = int(getattr(found, "n_features_in_", 1))
            example = np.random.default_rng(0).standard_normal((20, columns))
        typer.echo(export_sklearn(found, example, output, opset=opset, check=not no_check))


@export_app.command("keras")
def keras_command(
    model: KerasTarget,
    output: Output,
    input_shape: Shapes = None,
    input: Inputs = None,
    opset: Opset = None,
    no_check: NoCheck = False,
    debug: Debug = False,
) -> None:
    """Export a Keras 3 model on TensorFlow; without an input, its own input shapes are taken."""
    with _reported(debug):
        from onnx_ei.exporters import export_keras
        from onnx_ei.exporters._writing import need

        need("onnx-ei export keras", dict.fromkeys(("keras", "tensorflow"), "onnx-ei[keras]"))
        import keras

        if model.endswith(".keras"):
            found = _loaded_keras(model)
        else:
            found = _built(_resolve(model), model, lambda m: isinstance(m, keras.Model), "a model")
        example = _example(input_shape, input)
        if example is None:
            example = _keras_example(found)
        typer.echo(export_keras(found, example, output, opset=opset, check=not no_check))


@export_app.command("jax")
def jax_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME",
            help="Import path of a function of arrays or a flax.nnx module; with --factory, of a "
            "function without arguments that returns one.",
        ),
    ],
    output: Output,
    factory: Annotated[
        bool, typer.Option("--factory", help="MODULE:NAME() makes the function.")
    ] = False,
    input_shape: Shapes = None,
    input: Inputs = None,
    opset: Opset = None,
    no_check: NoCheck = False,
    debug: Debug = False,
) -> None:
    """Export a JAX function or a Flax module."""
    with _reported(debug):
        from onnx_ei.exporters import export_jax
        from onnx_ei.exporters._writing import need

        need("onnx-ei export jax", dict.fromkeys(("jax", "jax2onnx"), "onnx-ei[jax]"))
        found = _resolve(model)
        if factory or isinstance(found, type):
            found = _called(found, model)
        example = _example(input_shape, input)
        if example is None:
            raise ValueError("an example input is needed: --input-shape 1,32,32,3, or --input FILE")
        if isinstance(example, Mapping):
            example = tuple(example.values())
        typer.echo(export_jax(found, example, output, opset=opset, check=not no_check))


def _loaded_keras(file: str) -> Any:
    """Read a .keras archive; what would run code from it (lambdas, pickles) is refused by Keras."""
    import keras

    if not Path(file).is_file():
        raise ValueError(f"no such file: {file}")
    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    # What Keras raises for a file that it refuses is of every kind.
    except Exception as error:
        raise ValueError(
            f"Keras refuses {file} ({_first_line(error)}); layers of your own: build the model in "
            "a function and name that"
        ) from error


def _keras_example(model: Any) -> Any:
    """Draw an example of the shapes that a built model declares, open dimensions as 1."""
    import numpy as np

    tensors = getattr(model, "inputs", None)
    if not tensors:
        raise ValueError("the model declares no input shapes: give --input-shape or --input")
    rng = np.random.default_rng(0)
    arrays = []
    for tensor in tensors:
        shape = [int(size or 1) for size in tensor.shape]
        drawn = rng.standard_normal(shape) if "float" in str(tensor.dtype) else np.zeros(shape)
        arrays.append(drawn.astype(str(tensor.dtype)))
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def _resolve(target: str) -> Any:
    """Import what the user named."""
    from onnx_ei.errors import closest

    name, separator, path = target.partition(":")
    if not name or not separator or not path:
        raise ValueError(
            f"MODULE:NAME is needed, e.g. mymodels:build, got {target!r}; a pickled model is not "
            "loaded, since that runs code of its author's: load it in a function of your own"
        )
    # python -m does so, the installed script does not; a factory may import on when it runs
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(name)
    # The user's own module: it can raise anything.
    except Exception as error:
        raise ValueError(
            f"cannot import {name!r} ({_first_line(error)}); --debug shows the traceback"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = [n for n in dir(found) if not n.startswith("_")]
            raise ValueError(f"{name!r} has no {path!r}; {closest(part, known)}")
        found = getattr(found, part)
    return found


def _built(thing: Any, target: str, is_model: Callable[[Any], bool], kind: str) -> Any:
    """Give the model itself: what a factory or a class makes where the name is one of those."""
    if not isinstance(thing, type) and is_model(thing):
        return thing
    if not callable(thing):
        raise TypeError(f"{target} is a {type(thing).__name__}: neither {kind} nor a function")
    made = _called(thing, target)
    if not is_model(made):
        raise TypeError(f"{target}() returned a {type(made).__name__}, not {kind}")
    return made


def _called(factory: Callable[[], Any], target: str) -> Any:
    try:
        return factory()
    # The user's own function: it can raise anything.
    except Exception as error:
        raise ValueError(
            f"{target}() failed ({_first_line(error)}); it is called without arguments; --debug "
            "shows the traceback"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0]


def _example(shapes: list[str] | None, file: Path | None) -> Any:
    """Give the example input: an array, a tuple of them, a dict of them by name, or None."""
    if shapes and file:
        raise ValueError("--input-shape and --input exclude each other")
    if file is not None:
        return read_arrays("--input", file)
    named = [_drawn(given) for given in shapes or ()]
    if len({bool(name) for name, _ in named}) > 1:
        raise ValueError("--input-shape: name all inputs or none")
    if named and named[0][0]:
        return dict(named)
    arrays = tuple(array for _, array in named)
    return arrays if len(arrays) > 1 else arrays[0] if arrays else None


def _drawn(given: str) -> tuple[str, NDArray[Any]]:
    import numpy as np

    name, _, rest = given.rpartition("=")
    dims, _, kind = rest.partition(":")
    try:
        shape = tuple(int(d) for d in dims.split(","))
        dtype: np.dtype[Any] = np.dtype(kind or "float32")
    except (ValueError, TypeError):
        shape, dtype = (), np.dtype("O")
    if not shape or min(shape) < 1 or dtype.kind not in "fiub":
        raise ValueError(f"--input-shape: [NAME=]D,D,...[:DTYPE] is needed, got {given!r}")
    if dtype.kind == "f":
        return name, np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return name, np.zeros(shape, dtype)


@contextmanager
def _reported(debug: bool) -> Iterator[None]:
    """Turn errors into one line and an exit code, warnings of ours into a line each."""
    # The sub-command is mounted by that module, which is complete by the time one runs.
    from onnx_ei.errors import OnnxEiWarning

    with errors(debug), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", OnnxEiWarning)
        try:
            yield
        except OSError as error:
            raise ValueError(str(error)) from error
        finally:
            for warning in caught:
                if issubclass(warning.category, OnnxEiWarning):
                    typer.echo(f"warning: {warning.message}", err=True)
