"""Spans made of NumPy, so that the engine is tested alone and every truth is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_ei._sampling.engine import sample
from onnx_ei._sampling.parameters import Parameters
from onnx_ei.results import Measurement

Function = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class FakeSpan:
    n_inputs: int
    n_outputs: int
    in_range: tuple[float, float] = (0.0, 1.0)
    out_range: tuple[float, float] = (0.0, 1.0)
    layer: str = "fake"
    in_layer: str = "fake"
    batched: bool = True
    positions: str = "one"


@dataclass(frozen=True)
class FakeRunner:
    function: Function
    provider: str = "numpy"

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.function(x.astype(np.float64)).astype(np.float32)


def identity(z: NDArray[Any]) -> NDArray[Any]:
    return z


def sigmoid(z: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1.0 / (1.0 + np.exp(-z)))


def layer(weights: Any, activation: Function = identity) -> Function:
    """A linear layer of weights (n_in, n_out); einsum sums each row alone, BLAS might not."""
    w = np.asarray(weights, np.float64)
    return lambda x: activation(np.einsum("ni,io->no", x, w))


def measured(
    name: str,
    function: Function,
    shape: tuple[int, int],
    *,
    in_range: tuple[float, float] = (0.0, 1.0),
    out_range: tuple[float, float] | str = (0.0, 1.0),
    groups: Iterable[Any] | None = None,
    against: str = "ei",
    **arguments: Any,
) -> Measurement:
    """Measure a function of ``shape`` (inputs, outputs) as if it were a span."""
    found = sample(
        [name],
        FakeSpan(n_inputs=shape[0], n_outputs=shape[1]),
        FakeRunner(function),
        Parameters(in_range=in_range, out_range=out_range, **arguments),
        groups=groups,
        against=against,
    )
    return found[name]


def plain(found: Measurement) -> dict[str, object]:
    """All of a measurement but the time it took, for bit-identical comparison."""
    fields = found.to_dict()
    del fields["seconds"]
    return fields
