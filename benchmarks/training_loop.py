"""What following the weights of a network in training costs, and the same loop under deep_ei.

    python benchmarks/training_loop.py [measurements]

Trains the Iris network of examples/iris for 4000 epochs and measures its three layers 80 times
(EI, EI_parts, sensitivity; 8 bins; 100,000 samples). Syncing is all the time in LiveWeights.refresh
and in the renewal of a span (span_of), sessions all the time in Session.__init__; both are timed
from outside, each moment once. At 3 of the 80 points deep_ei measures the same network with as
many samples; its time for all 80 is scaled from those.

Exits with 1 where syncing and sessions take more than 20 % of the time spent on measuring.
"""

from __future__ import annotations

import functools
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "examples" / "iris"), str(ROOT / "tests")]

import train  # noqa: E402

import onnx_ei.span  # noqa: E402
from onnx_ei import topology_of  # noqa: E402
from onnx_ei._graph.live import LiveWeights  # noqa: E402
from onnx_ei.errors import OnnxEiWarning  # noqa: E402
from onnx_ei.measuring import measure_many  # noqa: E402
from onnx_ei.sessions import Session  # noqa: E402

MEASUREMENTS, SAMPLES, BINS = 80, 100_000, 8
MEASURES = ("ei", "ei_parts", "sensitivity")
FEATURES = (0.0, 1.0)
MOST = 0.20
BATCH_SIZES = (1000, 10_000, 100_000)


class Clock:
    """Adds up the time spent in functions; what one of them calls is counted as its own only."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)
        self._inside: list[float] = []

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Wrap ``owner.name`` from outside."""
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: Any, **options: Any) -> Any:
            self._inside.append(0.0)
            started = time.perf_counter()
            try:
                return original(*args, **options)
            finally:
                whole = time.perf_counter() - started
                self.spent[label] += whole - self._inside.pop()
                self.calls[label] += 1
                if self._inside:
                    self._inside[-1] += whole

        setattr(owner, name, timed)


def ours(topology: Any) -> dict[Any, dict[str, float]]:
    """Measure every layer with onnx_ei."""
    found = {}
    for layer in topology:
        limits = FEATURES if topology.in_degree(layer) == 0 else None
        measured = measure_many(
            MEASURES, layer, topology,
            samples=SAMPLES, in_range=limits, in_bins=BINS, out_bins=BINS,
        )  # fmt: skip
        found[layer] = {name: float(m.value) for name, m in measured.items()}  # type: ignore[arg-type]
    return found


def theirs(deep_ei: Any, topology: Any, batch_size: int) -> dict[Any, dict[str, float]]:
    """Measure every layer with deep_ei."""
    found: dict[Any, dict[str, float]] = {}
    for layer in topology:
        limits = FEATURES if topology.in_degree(layer) == 0 else None
        found[layer] = {
            name: getattr(deep_ei, name)(
                layer, topology,
                samples=SAMPLES, batch_size=batch_size, in_range=limits,
                in_bins=BINS, out_bins=BINS,
            )
            for name in MEASURES
        }  # fmt: skip
    return found


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


class Peer:
    """deep_ei on the same network, at the batch size at which it is fastest here."""

    def __init__(self, net: Any, example: Any) -> None:
        import deep_ei
        import deep_ei_shim

        self._deep_ei = deep_ei
        self._topology = deep_ei_shim.topology(deep_ei, net, example)
        # noise beside the dictionaries of tuples, but its best is what is compared
        tried = {size: seconds(lambda s=size: self.measure(s))[0] for size in BATCH_SIZES}
        self.batch_size = min(tried, key=lambda size: tried[size])
        self.times: list[float] = []
        self.above: dict[str, list[float]] = {name: [] for name in MEASURES}

    def measure(self, batch_size: int) -> Any:
        return theirs(self._deep_ei, self._topology, batch_size)

    def beside(self, mine: dict[Any, dict[str, float]]) -> None:
        spent, found = seconds(lambda: self.measure(self.batch_size))
        self.times.append(spent)
        for layer, values in found.items():
            for name, value in values.items():
                self.above[name].append(value - mine[layer][name])


def main(measurements: int) -> int:
    warnings.simplefilter("ignore", OnnxEiWarning)
    clock = Clock()
    clock.watch(LiveWeights, "refresh", "weights read and compared")
    clock.watch(onnx_ei.span, "_renew", "new weights put into spans")
    clock.watch(Session, "__init__", "sessions built")

    net, flowers = train.start(0)
    exporting, topology = seconds(lambda: topology_of(net, flowers.x[:1]))
    cutting, _ = seconds(lambda: ours(topology))  # the kernels are compiled, the spans cut
    try:
        peer = Peer(net, flowers.x[:1])
    except ImportError as error:
        peer = None
        print(f"without deep_ei: {error}")
    clock.spent.clear()
    clock.calls.clear()

    every = train.EPOCHS // measurements
    compared = {1, measurements // 2, measurements}
    measuring = 0.0

    def each(epoch: int) -> None:
        nonlocal measuring
        if epoch == 0 or epoch % every:
            return
        spent, found = seconds(lambda: ours(topology))
        measuring += spent
        if peer is not None and epoch // every in compared:
            peer.beside(found)

    looping, _ = seconds(lambda: train.train(net, flowers, every * measurements, each))
    training = looping - measuring - (sum(peer.times) if peer else 0.0)

    syncing = sum(clock.spent.values())
    share = syncing / measuring
    print(f"Iris 4-5-5-3, {every * measurements} epochs, {measurements} measurements of 3 layers, "
          f"{', '.join(MEASURES)}, {BINS} bins, {SAMPLES} samples")  # fmt: skip
    print(f"  export, once                  {exporting:9.3f} s")
    print(f"  first measurement, untimed    {cutting:9.3f} s")
    print(f"  training                      {training:9.3f} s")
    print(f"  measuring                     {measuring:9.3f} s"
          f"   {1000 * measuring / measurements:.1f} ms a measurement")  # fmt: skip
    for label, spent in clock.spent.items():
        print(f"    {label:<27} {spent:9.3f} s   {clock.calls[label]} calls")
    print(f"  syncing and sessions          {share:9.1%} of measuring, "
          f"{syncing / (measuring + training):.1%} of the loop (at most {MOST:.0%})")  # fmt: skip
    print(f"  with the export               {(syncing + exporting) / (measuring + exporting):9.1%}")
    if peer is not None:
        mean = sum(peer.times) / len(peer.times)
        print(f"deep_ei, batch_size={peer.batch_size} (its best of {BATCH_SIZES}): "
              f"{len(peer.times)} of {measurements} measurements run, the rest scaled")  # fmt: skip
        print(f"  a measurement                 {mean:9.3f} s   "
              f"({', '.join(f'{t:.2f}' for t in peer.times)})")  # fmt: skip
        print(f"  {measurements} measurements               {measurements * mean:9.1f} s")
        print(f"  measuring, ratio              {measurements * mean / measuring:9.1f}")
        loops = (training + measurements * mean) / (training + measuring)
        print(f"  whole loop, ratio             {loops:9.1f}")
        for name, above in peer.above.items():
            print(f"  {name:<12} deep_ei - onnx_ei  {min(above):+.3f} to {max(above):+.3f} bit")
    return 0 if share <= MOST else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else MEASUREMENTS))
