"""What lets deep_ei 0.7.0 run beside ours: on today's networkx, quietly, and on our noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np

from onnx_ei.noise import CHUNK, uniform_chunk


class _NoNoneEdges(nx.DiGraph):  # type: ignore[misc]
    """deep_ei adds an edge from None to the first layer, which networkx 3 refuses."""

    def add_edge(self, u: Any, v: Any, **attributes: Any) -> None:
        if u is not None:
            super().add_edge(u, v, **attributes)


def topology(deep_ei: Any, model: Any, example: Any) -> Any:
    """deep_ei's own ``topology_of``, but for the edge that today's networkx refuses."""
    networkx = deep_ei.nx
    deep_ei.nx = SimpleNamespace(DiGraph=_NoNoneEdges, set_node_attributes=nx.set_node_attributes)
    try:
        return deep_ei.topology_of(model, example)
    finally:
        deep_ei.nx = networkx


def unit_noise(n_samples: int, n_inputs: int, stream: int, seed: int = 0) -> Any:
    """Our noise on (0, 1), which both packages then stretch to the range in the same way."""
    chunks = range(-(-n_samples // CHUNK))
    drawn = [uniform_chunk(seed, c, n_inputs, 0.0, 1.0, stream=stream) for c in chunks]
    return np.concatenate(drawn)[:n_samples]


@contextmanager
def same_noise(torch: Any, n_samples: int, n_inputs: int, stream: int) -> Iterator[None]:
    """Make ``torch.rand`` give our noise, so that the two packages see the same samples.

    deep_ei asks for all inputs at once, or, for its sensitivities, for one input after another.
    """
    noise = unit_noise(n_samples, n_inputs, stream)
    given = 0

    def rand(shape: tuple[int, ...], **_: Any) -> Any:
        nonlocal given
        if len(shape) == 1:
            found = noise[:, given // n_samples]
        else:
            found = noise[given : given + shape[0]].reshape(shape)
        given += shape[0]
        return torch.from_numpy(np.ascontiguousarray(found))

    original = torch.rand
    torch.rand = rand
    try:
        yield
    finally:
        torch.rand = original
