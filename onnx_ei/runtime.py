"""A span as a function of arrays: fixed batches, one code path for every device."""

from __future__ import annotations

import weakref
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_ei._graph.strands import strand_axes
from onnx_ei.devices import parse_device
from onnx_ei.errors import BackendError
from onnx_ei.noise import CHUNK
from onnx_ei.rows import shown_nodes
from onnx_ei.sessions import BoundRun, Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnx_ei.span import Span

__all__ = ["SpanRunner", "runner"]

# Floats that one run may hold in its largest tensor, or at its two ends: 16 MB, so that a chunk's
# batch stays near the cache, and a narrow span through wide layers does not eat the memory.
_FLOATS_A_RUN = 1 << 22
_KEPT_FLOATS = 1 << 22
"""Floats of the outputs that a span keeps buffers for, between its runs: 16 MB."""
_latest: weakref.ref[SpanRunner] | None = None
"""The span that ran last, which alone keeps buffers."""


class SpanRunner:
    """A span on a device.

    Attributes
    ----------
    span : Span
        What it runs.
    provider : str
        The execution provider, as the session names it.
    rows : int
        Samples in every run. It depends on the span alone: a matrix product may sum in another
        order for another number of rows, and results must not depend on batch sizes.
    cpu_nodes : dict of str to int, or None
        Nodes that a GPU left to the CPU, by operator; None where onnxruntime does not tell.
    remark : str or None
        The same in words.
    """

    def __init__(self, span: Span, device: object = "cpu") -> None:
        self.span = span
        self._session = span.session(device)
        self.provider = self._session.provider
        width = max(span.n_inputs + span.n_outputs, span.widest)
        self.rows = max(1, min(CHUNK, _FLOATS_A_RUN // width)) if span.batched else 1
        self._output = str(span.model.graph.outputs[0].name)
        dtype = span.model.graph.inputs[0].dtype
        self._dtype = np.dtype(np.float32) if dtype is None else dtype.numpy()
        # Taken by a run and put back after it: a new thread need not make its own, which took it
        # 1 to 3 ms, as long as a small layer's whole share.
        self._idle: list[BoundRun] = []
        self.cpu_nodes = self._session.cpu_nodes
        self.remark = _remark(self._session, span) if self.cpu_nodes else None

    @cached_property
    def strands(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Which inputs reach which outputs, where that is known: a number of each that they share.

        Found in the graph, and tried: other strands' inputs must not change an output's bits.
        """
        span = self.span
        axes = None if span.function is not None else strand_axes(span.model)
        if axes is None:
            return None
        inputs, outputs = (
            np.indices(shape)[axis - 1].ravel().astype(np.int64)
            for shape, axis in zip((span.in_shape, span.out_shape), axes, strict=True)
        )
        noise = (
            np.random.default_rng(0).uniform(*span.in_range, (1, span.n_inputs)).repeat(2, axis=0)
        )
        noise[1, inputs % 2 == 1] = 0.0
        both, alone = self(noise.astype(np.float32))[:, outputs % 2 == 0]
        return (inputs, outputs) if np.array_equal(both, alone, equal_nan=True) else None

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run samples through the span.

        Parameters
        ----------
        x : ndarray of float32, shape (n, n_inputs)
            One sample a row.

        Returns
        -------
        ndarray of float32, shape (n, n_outputs)
            Each row depends on its own sample only.

        Raises
        ------
        BackendError
            If the runtime fails.
        """
        n = len(x)
        out = np.empty((n, self.span.n_outputs), np.float32)
        run = self._take_buffers()
        for start in range(0, n, self.rows):
            part = x[start : start + self.rows]
            count = len(part)
            if count < self.rows:
                # the runtime always sees the same batch; a sample of the batch itself fills it up,
                # since zeros may be outside what an activation is defined for
                part = np.concatenate([part, np.repeat(part[:1], self.rows - count, axis=0)])
            feed = part.reshape(len(part), *self.span.in_shape).astype(self._dtype, copy=False)
            if run is None:
                run, result = self._session.bound("x", feed, self._output)
            else:
                result = run(feed)
            out[start : start + count] = self._rows_of(result, len(part))[:count]
        if run is not None and (len(self._idle) + 1) * self.rows * out.shape[1] <= _KEPT_FLOATS:
            self._idle.append(run)
        return out

    def _take_buffers(self) -> BoundRun | None:
        """Return a run whose buffers are nobody else's, if one is idle; now this span keeps them.

        What fails is not put back.
        """
        global _latest
        before = None if _latest is None else _latest()
        if before is not self:
            _latest = weakref.ref(self)
            if before is not None:
                before._idle.clear()
        try:
            return self._idle.pop()
        except IndexError:  # asked for beforehand, another thread might take it in between
            return None

    def _rows_of(self, result: NDArray[Any], n: int) -> NDArray[Any]:
        """Return a run's result, a row a sample."""
        span = self.span
        if result.size != n * span.n_outputs:
            raise BackendError(
                f"span {span.in_layer!r} -> {span.layer!r}: expected {span.n_outputs} outputs a "
                f"sample, got shape {result.shape} for {n} samples"
            )
        if span.function is not None:
            result = span.function(result.astype(np.float32))  # it may keep what it is given
        return result.reshape(n, span.n_outputs)


def _remark(session: Session, span: Span) -> str | None:
    """Say what a GPU left to the CPU."""
    on_cpu, nodes = session.cpu_nodes, session.nodes
    if not on_cpu or nodes is None:
        return None
    total = sum(sum(kinds.values()) for kinds in nodes.values())
    return (
        f"span {span.in_layer!r} -> {span.layer!r} on {session.device}: {sum(on_cpu.values())} of "
        f"{total} nodes run on the CPU ({shown_nodes(on_cpu)}), for which onnxruntime has no CUDA "
        "kernel, or none that pays; no value depends on it, but tensors go to and fro"
    )


def runner(span: Span, device: object = "cpu") -> SpanRunner:
    """Return a span as a function of arrays on a device; made once a span and device.

    Raises
    ------
    BackendError
        If CUDA is asked for and not to be had.
    ValueError
        If ``device`` is not a device.
    """
    key = ("runner", *parse_device(device))
    made: SpanRunner | None = span.runners.get(key)
    if made is None:
        made = span.runners[key] = SpanRunner(span, device)
    return made
