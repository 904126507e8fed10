"""Whether an exported file does what the model that it came from does: numpy in, ModelError out."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onnx_ei.errors import ModelError

__all__ = ["Case", "check_parity", "first_line"]

Array = np.ndarray[Any, Any]
Case = tuple[Sequence[Array] | Mapping[str, Array], Sequence[Array]]
"""Inputs (in the graph's order, or by name) and the outputs that the model gives for them."""

REMEDY = "no file was written (check=False writes it all the same)"


def check_parity(
    file: Path | bytes, name: str, cases: Iterable[Case], remedy: str = REMEDY
) -> None:
    """Run a file in onnxruntime on the CPU and compare its outputs with the model's.

    Parameters
    ----------
    file : pathlib.Path or bytes
        The ONNX file, or what would be in it.
    name : str
        What the messages call the model.
    cases : iterable of (inputs, outputs)
        Arrays in the graph's order (inputs may also be a dict by name).
    remedy : str
        What the messages end with.

    Raises
    ------
    ModelError
        If onnxruntime refuses the file, or an output differs in number, shape or value by more
        than ``1e-6 + 1e-4 * max|output|`` (1e-2 for 16-bit floats). NaN equals NaN.
    """
    ort = importlib.import_module("onnxruntime")
    remedy = f"; {remedy}" if remedy else ""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with _refusals(name, remedy):
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    for inputs, expected in cases:
        with _refusals(name, remedy):
            got = session.run(None, _feeds(session, inputs))
        _compare(name, expected, got, remedy)


@contextmanager
def _refusals(name: str, remedy: str) -> Iterator[None]:
    try:
        yield
    # onnxruntime's exceptions share no public base class below Exception.
    except Exception as error:
        raise ModelError(
            f"onnxruntime cannot run what {name} was exported to: {first_line(error)}{remedy}"
        ) from error


def _feeds(session: Any, inputs: Sequence[Array] | Mapping[str, Array]) -> dict[str, Array]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    names = [tensor.name for tensor in session.get_inputs()]
    return dict(zip(names, inputs, strict=True))


def _compare(name: str, expected: Sequence[Array], got: Sequence[Array], remedy: str) -> None:
    if len(expected) != len(got):
        raise ModelError(f"{name} gives {len(expected)} tensors, its ONNX file {len(got)}{remedy}")
    for index, (want, have) in enumerate(zip(expected, got, strict=True)):
        if want.shape != have.shape:
            raise ModelError(
                f"output {index} of {name} has shape {want.shape}, in its ONNX file {have.shape}"
                f"{remedy}"
            )
        if want.dtype.kind not in "biufc":  # class labels may be text
            if not np.array_equal(want.astype(str), have.astype(str)):
                raise ModelError(
                    f"output {index} of {name} differs from its ONNX file's in "
                    f"{int(np.sum(want.astype(str) != have.astype(str)))} of {want.size} labels"
                    f"{remedy}"
                )
            continue
        relative = 1e-2 if have.dtype.kind == "f" and have.dtype.itemsize == 2 else 1e-4
        finite = np.abs(want[np.isfinite(want)])
        limit = 1e-6 + relative * float(finite.max(initial=0.0))
        if not np.allclose(have, want, rtol=0.0, atol=limit, equal_nan=True):
            gap = float(np.max(np.abs(have.astype(np.float64) - want)))
            raise ModelError(
                f"output {index} of {name}, of shape {want.shape}, differs from its ONNX file's by "
                f"{gap:.3g} on random input (allowed: {limit:.3g}){remedy}"
            )


def first_line(error: BaseException) -> str:
    r"""Give the kind of an exception and the part of its message that says something.

    Examples
    --------
    >>> first_line(ValueError("bad value\nand much more"))
    'ValueError: bad value'
    >>> first_line(ValueError("found these problems:\n  - dim 0 is fixed\nmore"))
    'ValueError: found these problems: - dim 0 is fixed'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    return f"{type(error).__name__}: {text or 'no message'}"
