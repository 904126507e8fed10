"""What EI_parts of every layer of a 7-billion-weight transformer costs, from the cost model.

    python benchmarks/at_scale.py

The layers are those of a decoder of 32 blocks, 4096 wide, 11008 in its gated feed-forward network,
with a vocabulary of 32,000: 6.7 billion weights. Constants are those of this machine; a server is
taken to have so many times its threads, and to be as fast on each.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx_ei.costs import Cost, Machine, Work, cost_of, machine_at_hand
from onnx_ei.tables import shown_seconds

WIDTH, HIDDEN, VOCABULARY, BLOCKS = 4096, 11008, 32000, 32
SAMPLES = 100_000
SERVER_THREADS = 64
SERVERS = 100
NETWORK = 1.25e9
"""Bytes a second into a server, at 10 Gbit/s."""


@dataclass(frozen=True)
class Kind:
    """Layers of one shape."""

    name: str
    n_inputs: int
    n_outputs: int
    number: int


KINDS = (
    Kind("attention q, k, v, out", WIDTH, WIDTH, 4 * BLOCKS),
    Kind("gate and up", WIDTH, HIDDEN, 2 * BLOCKS),
    Kind("down", HIDDEN, WIDTH, BLOCKS),
    Kind("vocabulary", WIDTH, VOCABULARY, 1),
)


def cost(kind: Kind, machine: Machine, bins: int, *, affine: bool) -> Cost:
    """Predict EI_parts of one layer; its run is its multiplications."""
    run = machine.multiply * machine.threads * kind.n_inputs * kind.n_outputs
    work = Work(n_inputs=kind.n_inputs, n_outputs=kind.n_outputs, run=run, affine=affine)
    return cost_of("ei_parts", work, machine, SAMPLES, bins=(bins, bins))


def main() -> None:
    weights = sum(k.number * k.n_inputs * k.n_outputs for k in KINDS)
    print(f"{weights / 1e9:.2f} billion weights, as many pairs\n")
    for bins in (8, 64):
        machine = machine_at_hand(bins, bins)
        speedup = SERVER_THREADS / machine.threads
        for affine in (False, True):
            parts: dict[str, float] = {}
            most = 0
            for kind in KINDS:
                found = cost(kind, machine, bins, affine=affine)
                most = max(most, found.bytes)
                for part, seconds in found.parts.items():
                    parts[part] = parts.get(part, 0.0) + kind.number * seconds
            total = sum(parts.values())
            how = "computed" if affine else f"{SAMPLES:,} samples"
            shares = ", ".join(f"{part} {s / total:.1%}" for part, s in parts.items())
            server = total / speedup
            # every server reads its own share of the layers once
            reading = 4 * weights / SERVERS / NETWORK
            print(f"{bins} bins, {how}: {shares}")
            print(f"  this machine ({machine.threads} threads): {shown_seconds(total)}")
            print(f"  one server ({SERVER_THREADS} threads): {shown_seconds(server)}")
            print(
                f"  {SERVERS} servers, a share of the layers each: "
                f"{shown_seconds(server / SERVERS + reading)}, of which weights over the network "
                f"{shown_seconds(reading)}"
            )
            print(f"  largest layer: {most / 1e9:.1f} GB at once, the model's weights besides\n")


if __name__ == "__main__":
    main()
