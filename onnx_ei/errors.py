"""What can go wrong, by kind: exceptions that are also the builtin a user would catch; warnings.

Every message says what failed, the value that was given, what is allowed and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BackendError",
    "ConstantLayerWarning",
    "CpuNodesWarning",
    "MissingDependencyError",
    "ModelError",
    "NotConvergedWarning",
    "OnnxEiError",
    "OnnxEiWarning",
    "OutOfRangeWarning",
    "OutputError",
    "UnboundedSpanError",
    "UndersampledWarning",
    "UnknownLayerError",
    "UnsupportedModelError",
    "closest",
]


class OnnxEiError(Exception):
    """Base of every error that onnx_ei raises on purpose."""


class ModelError(OnnxEiError, ValueError):
    """The model cannot be read, is not valid ONNX, or holds values that make no sense."""


class UnknownLayerError(OnnxEiError, KeyError):
    """A layer was named that the topology does not have."""

    def __str__(self) -> str:
        """Return the message itself: ``KeyError`` would show its ``repr``."""
        return str(self.args[0]) if self.args else ""


class UnboundedSpanError(OnnxEiError, ValueError):
    """A span needs tensors from outside it, and nothing says what they are."""


class UnsupportedModelError(OnnxEiError, ValueError):
    """The model is valid, but this part of it cannot be measured; the message says why."""


class BackendError(OnnxEiError, RuntimeError):
    """onnxruntime, its provider or the device cannot do what was asked."""


class MissingDependencyError(OnnxEiError, ImportError):
    """An optional package is needed and absent; the message names the extra that brings it."""


class OutputError(OnnxEiError, OSError):
    """Results cannot be kept: the disk is full, or fails."""


class OnnxEiWarning(UserWarning):
    """Base of every warning that onnx_ei gives."""


class OutOfRangeWarning(OnnxEiWarning):
    """A stated share of the samples fell outside the binning range and was dropped."""


class UndersampledWarning(OnnxEiWarning):
    """A vector measure saw too few samples for its number of states: its value is biased."""


class NotConvergedWarning(OnnxEiWarning):
    """Sampling stopped at ``max_samples`` before the threshold was met."""


class ConstantLayerWarning(OnnxEiWarning):
    """A layer's input or output was one value on all calibration data: its range is made up."""


class CpuNodesWarning(OnnxEiWarning):
    """Nodes of a span that was to run on a GPU run on the CPU: the same values, later."""


def closest(name: str, known: Iterable[object], n: int = 3) -> str:
    """Say which known names are nearest to a wrong one, for the end of an error message.

    Parameters
    ----------
    name : str
        What was given.
    known : iterable
        What is allowed.
    n : int
        How many names to offer at most.

    Returns
    -------
    str
        ``"did you mean 'a', 'b'?"``, or the known names where none is near.

    Examples
    --------
    >>> closest("sigmod", ["sigmoid", "tanh"])
    "did you mean 'sigmoid'?"
    >>> closest("x", ["sigmoid", "tanh"])
    "known: 'sigmoid', 'tanh'"
    """
    names = [str(k) for k in known]
    lowered = {k.lower(): k for k in reversed(names)}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=n, cutoff=0.5)
    if near:
        return "did you mean " + ", ".join(repr(lowered[k]) for k in near) + "?"
    shown = ", ".join(repr(k) for k in names[:12])
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"known: {shown}{more}" if names else "there are none"
