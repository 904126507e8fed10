"""JAX and Flax to ONNX: weights by their names in the module, free batch, checked.

The file is written by ``jax2onnx``, which forgets names: a weight is found again by its values.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_ei.errors import OnnxEiWarning, UnsupportedModelError
from onnx_ei.exporters._dense import merge_positions
from onnx_ei.exporters._jax_names import name_layers
from onnx_ei.exporters._parity import Array, Case, check_parity, first_line
from onnx_ei.exporters._writing import (
    array_like,
    check_folder,
    clean,
    drawn,
    name_batch,
    need,
    replacing,
    unique_names,
)

__all__ = ["export_jax"]

EXTRA = "onnx-ei[jax]"


def export_jax(
    model: Callable[..., Any],
    input: Any,
    path: str | os.PathLike[str],
    *,
    params: Any = None,
    opset: int | None = None,
    check: bool = True,
) -> Path:
    """Write a JAX function as an ONNX file that onnx_ei can measure.

    Parameters
    ----------
    model : callable
        A function of arrays that holds its weights: a ``flax.nnx.Module`` in eval mode, or a
        function that closes over them, such as ``lambda x: net.apply(variables, x)``.
    input : array-like or tuple
        An example input, batch first: one array, or a tuple of them, one for each argument. Floats
        become float32.
    path : str or os.PathLike
        Where the file goes. Its folder must exist; a file of that name is replaced, and only once
        the new one is complete.
    params : pytree of arrays, optional
        The weights by name, such as the ``variables`` of a Linen module: what the file's weights
        are called. Default: an ``nnx.Module``'s own state, else none.
    opset : int, optional
        Version of the default operator set. Default: jax2onnx's own choice.
    check : bool, default True
        Compare the file's outputs in onnxruntime with the function's before returning, on random
        input within the example's range, at the example's batch size and at another.

    Returns
    -------
    pathlib.Path
        The file written. A weight that is found in ``params`` has its path for a name
        (``block.dense.kernel``); layers without such a weight are ``layer0``, ``layer1`` ... in
        the order of the graph.

    Raises
    ------
    TypeError
        If ``model`` is not callable, or ``input`` holds something else than numbers.
    ValueError
        If the function fails on the example input.
    FileNotFoundError
        If the folder of ``path`` does not exist.
    MissingDependencyError
        If jax, jax2onnx, or for the check onnxruntime, is not installed.
    UnsupportedModelError
        If jax2onnx cannot express the function in ONNX.
    ModelError
        If the file's outputs differ from the function's. No file is left then.

    Warns
    -----
    OnnxEiWarning
        If the leading dimension cannot be free: the file then takes the example's batch only.

    Notes
    -----
    Outputs agree when ``|onnx - jax| <= 1e-6 + 1e-4 * max|jax|``, NaN equal to NaN. A weight is
    known by its values, in the order of its axes or another; weights that are equal to each other
    stay without a name.
    """
    need("export_jax", dict.fromkeys(("jax", "jax2onnx"), EXTRA))
    if check:
        otherwise = "or pass check=False to skip the comparison"
        need("export_jax", {"onnxruntime": "onnx-ei[cpu]"}, otherwise)
    path = check_folder(path)
    if not callable(model):
        raise TypeError(f"model must be a function of arrays, got {type(model).__name__}")
    name = type(model).__name__ if _is_module(model) else getattr(model, "__name__", "function")
    given = input if isinstance(input, tuple) else (input,)
    example = tuple(array_like(value) for value in given)
    _run(model, name, example, "the example input")
    program, reason = _convert(model, name, example, opset)
    if reason is not None:
        _warn_of_fixed_batch(name, example, reason)
    name_layers(program, _weights(model, params))
    clean(program)
    name_batch(program)
    # jax2onnx declares shapes that do not always hold
    del program.graph.value_info[:]
    merge_positions(program)
    unique_names(program.graph)
    with replacing(path) as file:
        onnx.save(program, file)
        if check:
            check_parity(file, name, _cases(model, name, example, reason is None))
    return path


def _is_module(model: Any) -> bool:
    try:
        from flax import nnx
    except ImportError:
        return False
    return isinstance(model, nnx.Module)


def _run(model: Callable[..., Any], name: str, example: tuple[Array, ...], which: str) -> Any:
    import jax

    try:
        return jax.tree_util.tree_leaves(model(*(jax.numpy.asarray(a) for a in example)))
    # The function is the user's code: it can raise anything.
    except Exception as error:
        shapes = ", ".join(f"{a.shape} {a.dtype}" for a in example)
        raise ValueError(
            f"{name} fails on {which} ({shapes}): {first_line(error)}; pass an example that it "
            "accepts"
        ) from error


def _convert(
    model: Callable[..., Any], name: str, example: tuple[Array, ...], opset: int | None
) -> tuple[onnx.ModelProto, str | None]:
    """Convert with a free batch where it can be, else say why it cannot."""
    reason = "the inputs' leading dimensions differ"
    if len({len(array) for array in example}) == 1:
        try:
            return _to_onnx(model, example, opset, free=True), None
        # jax2onnx's plugins raise exceptions of every kind.
        except Exception as error:
            reason = first_line(error)
    try:
        return _to_onnx(model, example, opset, free=False), reason
    except Exception as error:
        raise UnsupportedModelError(
            f"{name} cannot be exported to ONNX: {first_line(error)}; jax2onnx follows Flax's "
            "layers and most of jax.numpy, with window shapes and the like given by keyword"
        ) from error


def _to_onnx(
    model: Callable[..., Any], example: tuple[Array, ...], opset: int | None, *, free: bool
) -> onnx.ModelProto:
    import jax
    import jax2onnx

    batch = jax.export.symbolic_shape("B")[0] if free else None
    specs = [
        jax.ShapeDtypeStruct((batch if free else len(a), *a.shape[1:]), a.dtype) for a in example
    ]
    options = {} if opset is None else {"opset": opset}
    with _quiet():
        made: onnx.ModelProto = jax2onnx.to_onnx(model, specs, **options)
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what jax2onnx and onnx_ir say to their own developers; what they raise speaks."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir", "jax")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _warn_of_fixed_batch(name: str, example: tuple[Array, ...], reason: str) -> None:
    shapes = ", ".join(str(array.shape) for array in example)
    warnings.warn(
        f"{name}: the leading dimension cannot be free ({reason}); the file takes inputs of "
        f"exactly the example's shape: {shapes}",
        OnnxEiWarning,
        stacklevel=3,
    )


def _weights(model: Any, params: Any) -> dict[str, Array]:
    """Give the weights by their dotted paths."""
    if params is None and _is_module(model):
        from flax import nnx

        params = nnx.to_pure_dict(nnx.state(model, nnx.filterlib.Any(nnx.Param, nnx.BatchStat)))
    return dict(_flat("", params)) if params is not None else {}


def _flat(path: str, tree: Any) -> Iterator[tuple[str, Array]]:
    if isinstance(tree, Mapping):
        # Linen keeps its weights under "params"
        named = [("" if k == "params" and not path else str(k), v) for k, v in tree.items()]
    elif isinstance(tree, list | tuple):
        named = [(str(index), value) for index, value in enumerate(tree)]
    else:
        yield path, np.asarray(tree)
        return
    for name, value in named:
        yield from _flat(f"{path}.{name}" if path and name else path or name, value)


def _cases(
    model: Callable[..., Any], name: str, example: tuple[Array, ...], free: bool
) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for more in (0, 1) if free else (0,):
        inputs = tuple(drawn(rng, array, len(array) + more) for array in example)
        outputs = _run(model, name, inputs, "random input")
        yield list(inputs), [np.asarray(output) for output in outputs]
