"""What a measure will cost: seconds and bytes, predicted from constants of the machine at hand.

Each step of a measure repeats one small thing: a value drawn, a sample run, a pair counted. How
often is a formula of the layer's sizes; how long it takes is measured once, in under a second, for
each pair of numbers of bins. How many samples automatic sampling will want is not known before it
has sampled: a prediction is for a number of samples, and all but its exact parts grow with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_ei._exact.pairs import exact_totals
from onnx_ei._exact.pieces import Pieces
from onnx_ei._exact.sweeps import exact_sweep_totals
from onnx_ei._kernels.sweep import _sweep
from onnx_ei._sampling.parameters import DEFAULT_MEMORY
from onnx_ei._sampling.source import KEY_BYTES, STATE_BYTES
from onnx_ei._sampling.swept import LARGE
from onnx_ei.binning import Binning, bin_values
from onnx_ei.estimators import DEFAULT_ESTIMATOR, estimator_rule
from onnx_ei.histogram import pack_keys
from onnx_ei.information import pairwise_information, vector_information
from onnx_ei.noise import CHUNK, uniform_chunk

if TYPE_CHECKING:
    from onnx_ei.runtime import SpanRunner
    from onnx_ei.span import Span

__all__ = [
    "MEASURED",
    "Cost",
    "Machine",
    "Work",
    "cost_of",
    "machine_at_hand",
    "predicted",
    "work_of",
]

MEASURED = ("ei", "ei_parts", "sensitivity")
"""The measures that cost anything: degeneracy and phi are differences of these."""
AFFINE_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Seconds that the smallest steps take, on all threads together.

    Attributes
    ----------
    threads : int
        How many worked.
    draw, bin : float
        A value of noise; a value to a code.
    multiply : float
        A multiplication and an addition of a dense layer, in onnxruntime.
    count, cell : float
        A sample of a pair, all inputs random; a cell of a pair's histogram to bits.
    sweep, sweep_pair : float
        A sample of a pair, one input random; what each such pair takes besides.
    state : float
        A unit's code into the key of a sample's vector.
    key : float
        A sample's keys into counts.
    exact, exact_sweep : float
        A pair of EI_parts, and one of sensitivity, computed.
    start, start_exact : float
        What any measure takes besides, sampled or computed.
    chunk, run : float
        What a chunk of samples takes besides, and one of sensitivity's runs of the model.
    """

    threads: int
    draw: float
    bin: float
    multiply: float
    count: float
    cell: float
    sweep: float
    sweep_pair: float
    state: float
    key: float
    exact: float
    exact_sweep: float
    start: float
    start_exact: float
    chunk: float
    run: float

    def __post_init__(self) -> None:
        """Refuse what no clock measures."""
        for entry in fields(self):
            if not getattr(self, entry.name) > 0:
                raise ValueError(f"{entry.name} must be above 0, got {getattr(self, entry.name)!r}")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a layer asks for.

    Attributes
    ----------
    n_inputs, n_outputs : int
        Units of its span.
    run : float
        Seconds that the model takes for one sample, on one thread.
    n_strands : int
        Inputs that sensitivity drives in one run.
    affine : bool
        Whether the pairwise measures are computed, not sampled.
    """

    n_inputs: int
    n_outputs: int
    run: float
    n_strands: int = 1
    affine: bool = False


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A prediction.

    Attributes
    ----------
    seconds : float
        Of the whole.
    bytes : int
        Held at most at once, besides the model.
    parts : dict of str to float
        Seconds by what they are spent on.
    """

    seconds: float
    bytes: int
    parts: Mapping[str, float]


def cost_of(
    measure: str,
    work: Work,
    machine: Machine,
    samples: int,
    *,
    bins: tuple[int, int] = (64, 64),
    memory: int = DEFAULT_MEMORY,
) -> Cost:
    r"""Predict what one measure of one layer costs.

    Parameters
    ----------
    measure : str
        One of ``MEASURED``.
    work : Work
        The layer.
    machine : Machine
        From :func:`machine_at_hand`, with the same bins.
    samples : int
        Where it is sampled.
    bins : (int, int)
        Of an input and an output.
    memory : int
        The memory limit.

    Returns
    -------
    Cost

    Raises
    ------
    ValueError
        If the measure is not one of ``MEASURED``.

    Notes
    -----
    With :math:`n` inputs, :math:`m` outputs, :math:`N` samples, :math:`B_x B_y` cells and :math:`k`
    strands: EI takes :math:`N (n\,draw + (n + m)(bin + state) + run + key)`; EI_parts takes
    :math:`N (n\,draw + (n + m)\,bin + run) + n m (N\,count + B_x B_y\,cell)`; sensitivity takes
    :math:`N n (draw + bin) + \frac{n}{k} N (run + m\,bin) + \frac{n m}{k} (N\,sweep +
    sweep\_pair)`. Computed, they take :math:`n m\,exact` and :math:`2 n` runs to find the weights.
    Each has a start besides, and each chunk of 1024 samples, or run of it, an overhead.

    Examples
    --------
    >>> one = dict.fromkeys("draw bin multiply count cell sweep sweep_pair state key".split(), 1.0)
    >>> rest = dict.fromkeys("exact exact_sweep start start_exact chunk run".split(), 1.0)
    >>> machine = Machine(threads=1, **one, **rest)
    >>> work = Work(n_inputs=3, n_outputs=2, run=1.0)
    >>> cost_of("ei_parts", work, machine, 10, bins=(2, 2)).parts
    {'start': 2.0, 'noise': 30.0, 'model': 10.0, 'binning': 50.0, 'counting': 60.0, 'bits': 24.0}
    """
    if measure not in MEASURED:
        raise ValueError(f"no cost is known of {measure!r}: give one of {', '.join(MEASURED)}")
    n, m, one = work.n_inputs, work.n_outputs, work.run / machine.threads
    item = 1 if max(bins) <= 255 else 2
    result = 24 * n * m
    if work.affine and measure != "ei":
        pair = machine.exact if measure == "ei_parts" else machine.exact_sweep
        computing = {"model": 2 * n * one, "computing": n * m * pair}
        return _sum({"start": machine.start_exact, **computing}, min(memory, 8 * n * m) + 24 * m)
    chunks = -(-samples // CHUNK)
    parts = {"start": machine.start + chunks * machine.chunk}
    parts |= {"noise": samples * n * machine.draw, "model": samples * one}
    parts["binning"] = samples * (n + m) * machine.bin
    if measure == "ei":
        parts["keys"] = samples * (n + m) * machine.state
        parts["counting"] = samples * machine.key
        return _sum(parts, (KEY_BYTES + STATE_BYTES) * samples)
    held = min(memory, samples * (n + m) * item)
    if measure == "ei_parts":
        parts["counting"] = n * m * samples * machine.count
        parts["bits"] = n * m * bins[0] * bins[1] * machine.cell
        if n * m > LARGE:  # tiles of pairs, summed one after another
            result = min(result, memory - held)
        return _sum(parts, held + result + 512 * m)
    result = result if n * m <= LARGE else 8 * n
    passes = n / work.n_strands
    parts["start"] = machine.start + passes * chunks * machine.run
    parts["model"] = passes * samples * one
    parts["binning"] = samples * (n + passes * m) * machine.bin
    parts["counting"] = passes * m * samples * machine.sweep
    parts["bits"] = n * m / work.n_strands * machine.sweep_pair
    return _sum(parts, min(memory, samples * (5 * n + m * item)) + result)


def _sum(parts: Mapping[str, float], held: int) -> Cost:
    return Cost(seconds=sum(parts.values()), bytes=held, parts=parts)


def work_of(runner: SpanRunner, *, affine: bool) -> Work:
    """Return what a span asks for; its model is run once or twice to see how long it takes.

    Parameters
    ----------
    runner : SpanRunner
        Of the span.
    affine : bool
        Whether its pairwise measures are computed.

    Returns
    -------
    Work

    Examples
    --------
    Called by :func:`onnx_ei.analysis.describe`.
    """
    span = runner.span
    low, high = span.in_range
    x = np.full((runner.rows, span.n_inputs), (low + high) / 2, np.float32)
    strands = runner.strands
    return Work(
        n_inputs=span.n_inputs,
        n_outputs=span.n_outputs,
        run=_seconds(lambda: runner(x), 2) / runner.rows,
        n_strands=1 if strands is None else int(strands[0].max()) + 1,
        affine=affine,
    )


def predicted(
    kind: str, op_type: str, span: Span, samples: int, *, bins: tuple[int, int] = (64, 64)
) -> dict[str, Cost]:
    """Return what each measure of a layer will take.

    Parameters
    ----------
    kind, op_type : str
        As in a ``Row``: they tell, as far as an operator can, whether pairs are computed.
    span : Span
        The layer's; it is run twice.
    samples : int
        Samples of what is sampled.
    bins : (int, int)
        Of an input and an output.

    Returns
    -------
    dict of str to Cost
        By the name of the measure, ``MEASURED``.

    Examples
    --------
    See :func:`onnx_ei.analysis.describe`.
    """
    from onnx_ei.runtime import runner

    affine = kind in ("dense", "conv") or op_type in AFFINE_POOLS
    work = work_of(runner(span), affine=affine)
    machine = machine_at_hand(*bins)
    return {name: cost_of(name, work, machine, samples, bins=bins) for name in MEASURED}


@lru_cache(maxsize=16)
def machine_at_hand(in_bins: int = 64, out_bins: int = 64) -> Machine:
    """Measure the machine's constants, once a process and pair of numbers of bins.

    Parameters
    ----------
    in_bins, out_bins : int
        Bins of an input and of an output.

    Returns
    -------
    Machine

    Examples
    --------
    >>> machine_at_hand(8, 8).threads >= 1
    True
    """
    from numba import get_num_threads

    threads, rng, units = get_num_threads(), np.random.default_rng(0), 64
    found: dict[str, Any] = {"threads": threads}
    noise = uniform_chunk(0, 0, units, 0.0, 1.0)
    values = noise.size * threads
    found["draw"] = _seconds(lambda: uniform_chunk(0, 0, units, 0.0, 1.0)) / values
    binning = Binning.uniform(units, (0.0, 1.0), in_bins)
    codes, dropped = np.empty(noise.shape[::-1], binning.code_dtype), np.zeros(units, np.int64)
    found["bin"] = _seconds(lambda: bin_values(noise, binning, codes, dropped)) / values
    found["multiply"] = _multiply(rng) / threads
    found |= _counting(rng, in_bins, out_bins)
    found |= _sweeping(rng, in_bins, out_bins, threads)
    found |= _keys(rng, in_bins, threads)
    found |= _computing(rng, in_bins, out_bins)
    found |= _starting(in_bins, out_bins)
    return Machine(**found)


def _seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Return the least time of a call, after one that compiles and warms up."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return max(min(times), 1e-9)


def _slope(call: Callable[[int], object], few: int, many: int) -> tuple[float, float]:
    """Return what a call takes a sample, and what it takes without any."""
    # a difference of two times needs the least of many: other programs take their share of some
    short, long = _seconds(lambda: call(few), 7), _seconds(lambda: call(many), 7)
    each = max(long - short, 1e-3 * long) / (many - few)
    return each, max(short - few * each, 1e-3 * short)


def _multiply(rng: np.random.Generator) -> float:
    """Run a product of matrices."""
    import onnx_ir as ir

    from onnx_ei.sessions import Session

    side = 512
    x, y, w = (ir.Value(name=name) for name in ("x", "y", "w"))
    x.type = y.type = ir.TensorType(ir.DataType.FLOAT)
    x.shape = y.shape = ir.Shape([None, side])
    w.const_value = ir.tensor(rng.uniform(-1, 1, (side, side)).astype(np.float32))
    node = ir.Node("", "MatMul", [x, w], outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], initializers=[w], opset_imports={"": 18})
    session = Session(ir.Model(graph, ir_version=10), "cpu")
    rows = rng.uniform(0, 1, (CHUNK, side)).astype(np.float32)
    return _seconds(lambda: session.run({"x": rows}, ["y"])) / (CHUNK * side * side)


def _counting(rng: np.random.Generator, in_bins: int, out_bins: int) -> dict[str, float]:
    units, most = 32, 20_000
    x, y = (_codes(rng, b, units, most) for b in (in_bins, out_bins))
    wide, high = np.full(units, in_bins), np.full(units, out_bins)
    each, rest = _slope(lambda n: pairwise_information(x[:, :n], y[:, :n], wide, high), 2000, most)
    pairs = units * units
    return {"count": each / pairs, "cell": rest / (pairs * in_bins * out_bins)}


def _sweeping(
    rng: np.random.Generator, in_bins: int, out_bins: int, threads: int
) -> dict[str, float]:
    outputs, most = 64, 8000
    u = rng.random(most)
    dtype = np.uint8 if max(in_bins, out_bins) <= 255 else np.uint16
    x = (u * in_bins).astype(dtype)
    y = (np.linspace(0.1, 1, outputs)[:, None] * u * out_bins).astype(dtype)
    bins, rule = (in_bins, np.full(outputs, out_bins)), estimator_rule(DEFAULT_ESTIMATOR, most)
    results = np.empty((2, outputs)), np.empty(outputs, np.int64), np.zeros(1000), np.zeros(3)
    each, rest = _slope(
        lambda n: _sweep(x[:n], np.ascontiguousarray(y[:, :n]), bins, rule, *results), 1000, most
    )
    return {"sweep": each / outputs / threads, "sweep_pair": rest / outputs / threads}


def _keys(rng: np.random.Generator, in_bins: int, threads: int) -> dict[str, float]:
    units, most = 32, 20_000
    codes = _codes(rng, in_bins, units, most)
    bins = np.full(units, in_bins)
    words, kept = np.zeros((2, most), np.uint64), np.ones(most, np.bool_)
    state = _seconds(lambda: pack_keys(codes, bins, words[0], words[1], kept)) / (units * most)

    def counted(n: int) -> object:
        keys = words[0, :n], words[1, :n]
        return vector_information(keys, keys, kept[:n])

    return {"state": state / threads, "key": _slope(counted, 2000, most)[0]}


def _computing(rng: np.random.Generator, in_bins: int, out_bins: int) -> dict[str, float]:
    units = 32
    weights = rng.uniform(-1, 1, (units, units)) / units**0.5
    edges = np.linspace(-1, 1, out_bins + 1)[1:-1]
    pieces = [Pieces(edges=edges, codes=np.arange(out_bins), n_bins=out_bins)] * units
    arguments = (weights, np.zeros(units), (0.0, 1.0), in_bins, pieces)
    pairs = units * units
    return {
        "exact": _seconds(lambda: exact_totals(*arguments), 2) / pairs,
        "exact_sweep": _seconds(lambda: exact_sweep_totals(*arguments), 2) / pairs,
    }


def _starting(in_bins: int, out_bins: int) -> dict[str, float]:
    """Measure a layer of two units, which takes nothing but what every layer takes besides."""
    import onnx.parser

    from onnx_ei.measuring import measure
    from onnx_ei.topology import topology_of

    topology = topology_of(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 18]> g (float[N,2] x) => (float[N,2] y) '
            "<float[2,2] fc = {0.5,0.1,0.2,0.4}> { y = MatMul(x, fc) }"
        )
    )
    ends: dict[str, Any] = {"in_range": (0, 1), "out_range": (0, 1)}
    ends |= {"in_bins": in_bins, "out_bins": out_bins}

    def sampled(name: str, chunks: int) -> object:
        return measure(name, "fc", topology, samples=CHUNK * chunks, method="sample", **ends)

    chunk, start = _slope(lambda n: sampled("ei_parts", n), 1, 20)
    run = _slope(lambda n: sampled("sensitivity", n), 1, 20)[0] / 2
    exact = _seconds(lambda: measure("ei_parts", "fc", topology, method="exact", **ends))
    return {"start": start, "start_exact": exact, "chunk": chunk, "run": run}


def _codes(rng: np.random.Generator, bins: int, units: int, n: int) -> Any:
    codes = rng.integers(0, bins, (units, n))
    return codes.astype(np.uint8 if bins <= 255 else np.uint16)
