"""The paper's Iris experiment: three training runs, measured every 50 epochs.

    python examples/iris/experiment.py

Writes results.jsonl (EI, EI_parts, sensitivity, degeneracy and phi of each layer along training)
and final.jsonl (the trained networks again, with twenty times the samples, which shows the bias of
the first). Interrupted, it goes on with the run that it had not ended. About seven minutes.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import train
from torch import nn

from onnx_ei import Recorder, Recording, read_records, topology_of
from onnx_ei.errors import UndersampledWarning

RUNS, EVERY = 3, 50
MEASURES = ("ei", "ei_parts", "sensitivity", "degeneracy", "phi")
# A fixed number of samples, so that phi is EI - EI_parts of the same row.
SAMPLES, FINAL_SAMPLES = 100_000, 2_000_000
FEATURES = (0.0, 1.0)
"""Range of the noise on the first layer: the features, divided by 8, lie within it."""


def recorder(path: Path, net: nn.Module, flowers: train.Flowers, samples: int) -> Recorder:
    """Record a network at the paper's 8 bins."""
    return Recorder(
        path,
        topology_of(net, flowers.x[:1]),
        MEASURES,
        input_range=FEATURES,
        in_bins=8,
        out_bins=8,
        samples=samples,
    )


def one_run(
    run: int,
    folder: Path,
    epochs: int = train.EPOCHS,
    every: int = EVERY,
    samples: int = SAMPLES,
    final_samples: int = FINAL_SAMPLES,
) -> None:
    """Train one network, seeded by the number of the run; record along the way and at the end."""
    net, flowers = train.start(run)

    def note(recording: Recorder, epoch: int) -> None:
        training, test = flowers.losses(net)
        recording.record(epoch, run=run, loss=training, test_loss=test)

    with warnings.catch_warnings():
        # 100,000 samples do not cover the joint states of layers 2 and 3: final.jsonl says what
        # that is worth
        warnings.simplefilter("ignore", UndersampledWarning)
        with recorder(folder / "results.jsonl", net, flowers, samples) as along:
            train.train(net, flowers, epochs, lambda e: note(along, e) if e % every == 0 else None)
        with recorder(folder / "final.jsonl", net, flowers, final_samples) as final:
            note(final, epochs)


def done(path: Path) -> set[object]:
    """Return the runs that a file holds."""
    if not path.exists():
        return set()
    return {row.labels["run"] for row in read_records(path).rows}


def summary(recording: Recording) -> str:
    """Return a table of the last step of each run: loss, EI and phi of each layer."""
    runs = sorted({row.labels["run"] for row in recording.rows}, key=str)
    samples = recording.parameters["samples"]
    lines = [f"{samples} samples; EI | phi, bits, and coverage of EI"]
    for run in runs:
        rows = [row for row in recording.rows if row.labels["run"] == run]
        last = max(row.step for row in rows)
        rows = [row for row in rows if row.step == last]
        noted = rows[0].labels
        lines.append(
            f"run {run}, epoch {last}: loss {noted['loss']:.4f}, on test {noted['test_loss']:.4f}"
        )
        for row in rows:
            ei, phi = row.points["ei"], row.points["phi"]
            lines.append(
                f"  {row.layer:<8} EI {ei.value:.3f} ± {ei.stderr:.3f} | phi {phi.value:6.3f} "
                f"± {phi.stderr:.3f} | {ei.coverage:.3f}"
            )
    return "\n".join(lines)


def main(folder: Path) -> None:
    """Do the runs that are not done, and print how they ended."""
    finished = done(folder / "final.jsonl")
    for run in range(RUNS):
        if run not in finished:
            print(f"run {run}", file=sys.stderr)
            one_run(run, folder)
    for name in ("results.jsonl", "final.jsonl"):
        print(f"{name}: {summary(read_records(folder / name))}")


if __name__ == "__main__":
    main(Path(__file__).parent)
