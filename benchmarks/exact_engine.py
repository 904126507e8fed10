"""Time of a pair and memory of a layer in the exact engine.

    OPENBLAS_NUM_THREADS=1 python benchmarks/exact_engine.py

Times are medians of processor time on one thread (a busy machine doubles them, where it makes ten
times of the clock's), beside the plain way of the same sum in the same run: 256 frequencies over
the whole support, a matrix product and a call of log2 in NumPy.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from scipy.special import logit

from onnx_ei._exact.pairs import exact_pairs
from onnx_ei._exact.pieces import Pieces
from onnx_ei._exact.sweeps import exact_sweeps

REPEATS = 7
GOALS = {64: 30.0, 8: 8.0}

MEMORY = """
import re, sys
import numpy as np
from scipy.special import logit
from onnx_ei._exact.pairs import exact_totals
from onnx_ei._exact.pieces import Pieces

def peak():
    # not getrusage: ru_maxrss of a child begins at the size of the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

def run(n_in, n_out):
    weights = np.random.default_rng(0).normal(size=(n_in, n_out)) / n_in**0.5
    pieces = Pieces(edges=logit(np.arange(1, 8) / 8), codes=np.arange(8), n_bins=8)
    before = peak()
    exact_totals(weights, np.zeros(n_out), (0.0, 1.0), 8, [pieces] * n_out, workers=2)
    return peak() - before

run(256, 4)
print(run(int(sys.argv[1]), int(sys.argv[2])))
"""


def sigmoid(n_bins: int) -> Pieces:
    edges = logit(np.arange(1, n_bins) / n_bins)
    return Pieces(edges=edges, codes=np.arange(n_bins), n_bins=n_bins)


def median_time(task: Callable[[], object]) -> float:
    task()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        task()
        times.append(time.process_time() - start)
    return statistics.median(times)


def plain(weights: np.ndarray, pieces: Pieces, n_bins: int, n_pairs: int) -> list[float]:
    """The same bits, the plain way."""
    half = 0.5 * np.abs(weights)
    reach = half.sum()
    omega = np.pi / reach * np.arange(1, 257)
    cuts = np.clip(np.r_[-reach, pieces.edges - 0.5 * weights.sum(), reach], -reach, reach)
    product = np.prod(np.sinc(half[:, None] * omega / np.pi), axis=0)
    rows = np.exp(1j * omega * cuts[:, None])
    middles = np.arange(1 - n_bins, n_bins, 2) / n_bins
    found = []
    for a in range(n_pairs):
        factors = product / np.sinc(half[a] * omega / np.pi) / omega
        factors = factors * np.sinc(half[a] * omega / n_bins / np.pi)
        columns = factors[:, None] * np.exp(-1j * omega[:, None] * half[a] * middles)
        below = 0.5 * (1.0 + cuts[:, None] / reach) + (rows @ columns).imag / reach
        p = np.maximum(np.diff(below, axis=0), 1e-15) / n_bins
        p /= p.sum()
        found.append(float((p * np.log2(p / np.outer(p.sum(1), p.sum(0)))).sum()))
    return found


def main() -> None:
    print(f"one thread, medians of {REPEATS}; sigmoid, inputs on (0, 1), tolerance 1e-6 bit a pair")
    print("fan-in  bins  us/pair  plain us/pair  ratio  goal  largest bound  largest difference")
    for fan_in in (1, 2, 3, 4, 6, 10, 32, 256, 784, 4096):
        for n_bins in (64, 8):
            n_out = max(1, 512 // fan_in)
            rng = np.random.default_rng(fan_in)
            weights = rng.uniform(-1, 1, (fan_in, n_out)) * (3.0 / fan_in) ** 0.5
            pieces = sigmoid(n_bins)
            arguments = weights, np.zeros(n_out), (0.0, 1.0), n_bins, [pieces] * n_out

            def ours(arguments: tuple = arguments) -> object:
                return exact_pairs(*arguments, workers=1)

            pair = median_time(ours) / weights.size * 1e6
            line = f"{fan_in:6}  {n_bins:4}  {pair:7.1f}"
            found = exact_pairs(*arguments, workers=1)
            if fan_in >= 10:
                some = min(fan_in, 32)
                column = weights[:, 0]

                def theirs(column: np.ndarray = column, some: int = some, p: Pieces = pieces):
                    return plain(column, p, p.n_bins, some)

                other = median_time(theirs) / some * 1e6
                difference = np.abs(found.bits[:some, 0] - theirs()).max()
                goal = f"{GOALS[n_bins]:4.0f}" if fan_in >= 256 else "    "
                line += f"  {other:13.0f}  {other / pair:5.0f}  {goal}  {found.bound.max():13.1e}"
                line += f"  {difference:18.1e}"
            else:
                line += f"{'':28}  {found.bound.max():13.1e}"
            print(line, flush=True)
    for n_bins in (64, 8):
        weights = np.random.default_rng(0).normal(size=(256, 8))
        arguments = weights, np.zeros(8), (0.0, 1.0), n_bins, [sigmoid(n_bins)] * 8

        def swept(arguments: tuple = arguments) -> object:
            return exact_sweeps(*arguments, workers=1)

        print(f"sensitivity at {n_bins:2} bins: {median_time(swept) / 2048 * 1e6:.1f} us a pair")
    print("peak of exact_totals at 8 bins beyond libraries and weights, two threads")
    for n_in, n_out in ((256, 16), (4096, 16), (65536, 16), (16, 256), (16, 4096)):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(n_in), str(n_out)],
            capture_output=True,
            text=True,
            check=True,
        )
        size = int(re.findall(r"\d+", done.stdout)[-1])
        print(f"  {n_in:6} -> {n_out:5}: {size / 1024:6.1f} MiB")


if __name__ == "__main__":
    main()
