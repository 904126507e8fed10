"""Keras 3 on TensorFlow to ONNX: layers by their Keras names, free batch, no invalid operators.

The file is written by ``model.export(format="onnx")``, that is by tf2onnx. What this module adds:
layers' names, a named free batch, exact GELU (which comes out as an operator that ONNX does not
have), a refusal of whatever else is not ONNX, and outputs compared with the model's own.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_ei.errors import BackendError, OnnxEiWarning, UnsupportedModelError
from onnx_ei.exporters._dense import merge_positions
from onnx_ei.exporters._keras_graph import (
    Scopes,
    mend_erfc,
    mend_means,
    name_layers,
    unknown_operators,
)
from onnx_ei.exporters._parity import Array, Case, check_parity, first_line
from onnx_ei.exporters._writing import (
    array_like,
    check_folder,
    clean,
    drawn,
    fix_batch,
    name_batch,
    need,
    replacing,
    unique_names,
)

__all__ = ["export_keras"]

EXTRA = "onnx-ei[keras]"


def export_keras(
    model: Any,
    input: Any,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    check: bool = True,
) -> Path:
    """Write a Keras model as an ONNX file that onnx_ei can measure.

    Parameters
    ----------
    model : keras.Model
        The model, on Keras's TensorFlow backend. It is called in inference mode.
    input : array-like, tuple or dict
        An example input, batch first: one array, a tuple of them, or a dict of them by input name,
        as the model takes it. Floats become float32.
    path : str or os.PathLike
        Where the file goes. Its folder must exist; a file of that name is replaced, and only once
        the new one is complete.
    opset : int, optional
        Version of the default operator set. Default: tf2onnx's own choice.
    check : bool, default True
        Compare the file's outputs in onnxruntime with the model's before returning, on random
        input within the example's range, at the example's batch size and at another.

    Returns
    -------
    pathlib.Path
        The file written. A layer's kernel is ``<layer>.kernel`` and its operators are named after
        it; the layer is called as in Keras, a layer within a layer by both (``attention.query``).

    Raises
    ------
    TypeError
        If ``model`` is no Keras model, or ``input`` holds something else than numbers.
    ValueError
        If the model fails on the example input.
    FileNotFoundError
        If the folder of ``path`` does not exist.
    MissingDependencyError
        If keras, tensorflow, tf2onnx, or for the check onnxruntime, is not installed.
    BackendError
        If Keras runs on another backend than TensorFlow.
    UnsupportedModelError
        If tf2onnx cannot express the model in ONNX.
    ModelError
        If the file's outputs differ from the model's. No file is left then.

    Warns
    -----
    OnnxEiWarning
        If the leading dimension is fixed by the model.

    Notes
    -----
    Outputs agree when ``|onnx - keras| <= 1e-6 + 1e-4 * max|keras|``, NaN equal to NaN. Images are
    channels last in Keras and channels first in ONNX: the file holds a Transpose at each end, and
    the units of a layer are in ONNX's order.
    """
    need("export_keras", dict.fromkeys(("keras", "tensorflow", "tf2onnx"), EXTRA))
    if check:
        otherwise = "or pass check=False to skip the comparison"
        need("export_keras", {"onnxruntime": "onnx-ei[cpu]"}, otherwise)
    path = check_folder(path)
    _validate(model)
    example = _example(input)
    # A subclassed model has no shapes before its first call.
    _run(model, example, "the example input")
    with replacing(path) as file:
        program = _convert(model, file, opset)
        mend_erfc(program)
        mend_means(program)
        name_layers(program, Scopes(model))
        _refuse_unknown(model, program)
        clean(program)
        free = name_batch(program) and _takes_any_batch(model, example)
        if not free:
            _warn_of_fixed_batch(model, example)
            fix_batch(program, len(_leaves(example)[0]))
        merge_positions(program)
        unique_names(program.graph)
        onnx.save(program, file)
        if check:
            check_parity(file, str(model.name), _cases(model, example, free, program))
    return path


def _validate(model: Any) -> None:
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise BackendError(
            f"export_keras goes through TensorFlow, and Keras runs on {backend}: set "
            "KERAS_BACKEND=tensorflow before keras is imported"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, got {type(model).__name__}")


def _example(given: Any) -> Any:
    """Give the example with each leaf an array, in the structure that it came in."""
    if isinstance(given, Mapping):
        return {str(name): array_like(value) for name, value in given.items()}
    if isinstance(given, tuple):
        return [array_like(value) for value in given]
    return array_like(given)


def _leaves(structure: Any) -> list[Array]:
    import keras

    return [np.asarray(leaf) for leaf in keras.tree.flatten(structure)]


def _map(change: Callable[[Array], Array], structure: Any) -> Any:
    import keras

    return keras.tree.map_structure(change, structure)


def _run(model: Any, example: Any, which: str) -> Any:
    try:
        return model(example, training=False)
    # A model may be the user's own class: it can raise anything.
    except Exception as error:
        shapes = ", ".join(f"{a.shape} {a.dtype}" for a in _leaves(example))
        raise ValueError(
            f"{model.name} fails on {which} ({shapes}): {first_line(error)}; pass an example that "
            "it accepts"
        ) from error


def _convert(model: Any, file: Path, opset: int | None) -> onnx.ModelProto:
    with _quiet():
        try:
            model.export(str(file), format="onnx", verbose=False, opset_version=opset)
            return onnx.load(file)
        # Keras, TensorFlow and tf2onnx each have exceptions of their own.
        except Exception as error:
            raise UnsupportedModelError(
                f"{model.name} cannot be exported to ONNX: {first_line(error)}; write it by other "
                "means and pass the file's path"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the three say to their own developers; what they raise still speaks."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx", "absl")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _refuse_unknown(model: Any, program: onnx.ModelProto) -> None:
    unknown = unknown_operators(program)
    if unknown:
        raise UnsupportedModelError(
            f"{model.name} cannot be exported to ONNX: tf2onnx leaves TensorFlow's own operators "
            f"in the file: {', '.join(unknown[:5])}; replace them in the model"
        )


def _takes_any_batch(model: Any, example: Any) -> bool:
    """Tell whether the model runs on one sample more: what it declares, Keras frees in any case."""
    more = _map(lambda array: np.concatenate([array, array[:1]]), example)
    try:
        model(more, training=False)
    # TensorFlow's, Keras's or the user's own
    except Exception:
        return False
    return True


def _warn_of_fixed_batch(model: Any, example: Any) -> None:
    shapes = ", ".join(str(array.shape) for array in _leaves(example))
    warnings.warn(
        f"{model.name}: the leading dimension is fixed by the model; the file takes inputs of "
        f"exactly that shape ({shapes})",
        OnnxEiWarning,
        stacklevel=3,
    )


def _sized(rng: np.random.Generator, size: int, array: Array) -> Array:
    return drawn(rng, array, size)


def _cases(model: Any, example: Any, free: bool, program: onnx.ModelProto) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    names = [value.name for value in program.graph.input]
    batch = len(_leaves(example)[0])
    for size in (batch, batch + 1) if free else (batch,):
        sized = _map(partial(_sized, rng, size), example)
        outputs = _leaves(_map(np.asarray, _run(model, sized, "random input")))
        by_name = isinstance(sized, dict) and set(sized) == set(names)
        yield (sized if by_name else _leaves(sized)), outputs
