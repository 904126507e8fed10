"""Quantised networks: layers of real numbers, true spans, measures near the float net's."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import make, node, noise
from inner import check_spans, everything, precise_session
from typer.testing import CliRunner

from onnx_ei import measure, topology_of
from onnx_ei._graph.probing import probe
from onnx_ei._graph.quantised import real_range, swallows_relu
from onnx_ei.analysis import describe
from onnx_ei.cli import app
from onnx_ei.runtime import runner
from onnx_ei.sessions import Session
from onnx_ei.span import span_of
from onnx_ei.topology import layer_of, model_of

Array = Any
ZOO = Path(__file__).parent / "zoo"
FILES = sorted(path.stem for path in (ZOO / "quantised").glob("*.onnx"))
SHAPES = {"mlp": (4,), "cnn": (3, 6, 6), "encoder": (5, 6)}
LAYERS = {
    "mlp": {"hidden1": "Tanh", "hidden2": "Tanh", "output": None},
    "cnn": {"conv1": "Relu", "conv2": None, "pool": None, "fc": None},
    "encoder": {"query": None, "key": None, "value": None, "out": None, "ff1": "Gelu", "ff2": None},
}
UNITS = {
    "mlp": [(4, 6), (6, 5), (5, 3)],
    "cnn": [(27, 4), (36, 4), (16, 4), (36, 3)],
    "encoder": [(6, 6)] * 4 + [(6, 8), (8, 6)],
}
MS = "com.microsoft"


def path_of(name: str) -> Path:
    return ZOO / "quantised" / f"{name}.onnx"


def example(name: str) -> Array:
    shape = SHAPES[name.split("_")[0]]
    return np.random.default_rng(3).uniform(-4, 4, (1, *shape)).astype(np.float32)


@cache
def topology(name: str) -> nx.DiGraph:
    return topology_of(path_of(name), example(name))


def dynamic(name: str) -> bool:
    return name.endswith("_dynamic")


# --- the files ---------------------------------------------------------------------------------


def test_every_way_of_quantising_is_there() -> None:
    ways = {name.split("_", 1)[1] for name in FILES}
    assert ways == {"qoperator", "qdq", "dynamic", "qdq_channels", "qoperator_channels", "nbits"}
    assert {name.split("_")[0] for name in FILES} == set(SHAPES)


@pytest.mark.parametrize("name", FILES)
def test_files_are_small_valid_and_from_nowhere(name: str) -> None:
    data = path_of(name).read_bytes()
    assert len(data) < 100_000
    onnx.checker.check_model(path_of(name))
    for leak in (b"/opt/", b"/home/", b"/root/", b"/tmp/", b"/usr/", b".py"):
        assert leak not in data


# --- what they are read as ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_layers_activations_and_units_are_those_of_the_float_network(name: str) -> None:
    net = name.split("_")[0]
    rows = describe(topology(name)).rows
    assert [row.reason for row in rows] == [None] * len(rows)
    assert {row.layer: row.out_activation for row in rows} == LAYERS[net]
    units = [(row.n_inputs, row.n_outputs) for row in rows]
    if not dynamic(name) or net == "mlp":
        assert units == UNITS[net]
    else:  # the scale is taken from the whole tensor: all of it goes in
        whole = {"cnn": [108, 144, 16, 36], "encoder": [30, 30, 30, 30, 30, 40]}[net]
        assert units == [(n, out) for n, (_, out) in zip(whole, UNITS[net], strict=True)]


@pytest.mark.parametrize("name", FILES)
def test_edges_are_those_of_the_float_network(name: str) -> None:
    plain = topology_of(ZOO / f"{name.split('_')[0]}_torch.onnx")
    assert list(topology(name)) == list(plain)
    assert set(topology(name).edges) == set(plain.edges)


@pytest.mark.parametrize("name", FILES)
def test_keys_are_stable(name: str) -> None:
    again = topology_of(path_of(name).read_bytes(), example(name))
    assert dict(again.nodes(data=True)) == dict(topology(name).nodes(data=True))


@pytest.mark.parametrize("name", FILES)
def test_real_twins_change_no_value(name: str) -> None:
    """To the bit: an integer made real and quantised again is the same integer."""
    proto, x = onnx.load(path_of(name)), example(name)
    session = precise_session(Path(path_of(name)).read_bytes())
    (output,) = (value.name for value in session.get_outputs())
    (want,) = session.run([output], {proto.graph.input[0].name: x})
    ours = model_of(topology(name)).tensors([output])[output]
    # products of 4 bits are sums of real numbers, fused with their bias or not
    np.testing.assert_allclose(ours, want, rtol=0, atol=1e-6 if name.endswith("nbits") else 0)


@pytest.mark.parametrize("name", FILES)
def test_spans_of_true_inner_tensors_give_true_inner_tensors(name: str) -> None:
    proto = onnx.load(path_of(name))
    truth = everything(proto, {proto.graph.input[0].name: example(name)})
    assert check_spans(topology(name), truth) == list(LAYERS[name.split("_")[0]])


@pytest.mark.parametrize(
    ("name", "layer", "ranges"),
    [
        ("cnn_qdq", "conv1", ((-4.02, 3.98), (0, 10))),  # the ReLU that was taken in
        ("cnn_qoperator", "conv1", ((-4.02, 3.98), (0, 10))),
        ("cnn_qdq_channels", "conv2", ((0, 10), (-6.45, 2.84))),
        ("cnn_qdq", "pool", ((0, 10), (0, 9.47))),  # behind a skip connection's ReLU
        ("cnn_qoperator", "pool", ((0, 10), (-10, 10))),  # in real numbers
        ("cnn_qoperator", "fc", ((0, 9.47), (-3.67, 5.5))),
        ("mlp_qoperator", "hidden1", ((-4.01, 3.98), (-1, 1))),
        ("mlp_qdq", "output", ((-1, 1), (-0.74, 0.75))),
        ("mlp_dynamic", "hidden1", ((-10, 10), (-1, 1))),
    ],
)
def test_ranges_are_the_activations_or_what_the_integers_can_stand_for(
    name: str, layer: str, ranges: tuple[tuple[float, float], ...]
) -> None:
    found = topology(name).nodes[layer]
    assert found["input"]["range"] == pytest.approx(ranges[0], abs=0.01)
    assert found["output"]["range"] == pytest.approx(ranges[1], abs=0.01)
    span = span_of(topology(name), layer)
    assert (span.in_range, span.out_range) == (found["input"]["range"], found["output"]["range"])


def test_a_skip_connection_ends_in_the_relu_that_quantisation_took_in() -> None:
    for name in ("cnn_qdq", "cnn_qoperator", "cnn_qdq_channels"):
        assert topology(name).nodes["pool"]["input"]["activation"] == "Relu"


# --- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_coupled_samples_are_found_and_said(name: str) -> None:
    for row in describe(topology(name)).rows:
        if dynamic(name) and row.kind != "pool":
            assert row.batched is False
            (note,) = row.notes
            assert note.startswith("couples samples: DynamicQuantizeLinear '")
        else:
            assert (row.batched, row.notes) == (True, ())


@pytest.mark.parametrize("layer", LAYERS["mlp"])
def test_the_batch_check_finds_the_coupling_by_itself(layer: str) -> None:
    span = span_of(topology("mlp_dynamic"), layer)
    found = probe(Session(span.model), span.model, span.in_range)
    assert (found.batched, found.out_shape) == (False, span.out_shape)


def test_the_command_line_says_the_coupling() -> None:
    arguments = ["describe", str(path_of("mlp_dynamic"))]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0
    assert "one by one; couples samples: DynamicQuantizeLinear 'input_Quanti" in table.stdout
    rows = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["rows"]
    assert all(row["notes"] and row["batched"] is False for row in rows)


def test_a_measurement_keeps_that_samples_ran_one_by_one() -> None:
    options = {"samples": 50, "in_bins": 4, "out_bins": 4, "out_range": (-2, 2)}
    found = measure("ei_parts", "output", topology("mlp_dynamic"), **options)
    assert found.batched is False


# --- numbers -----------------------------------------------------------------------------------


def near_ranges(name: str, layer: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Noise that keeps the float layer within what the quantised one was calibrated to."""
    plain = topology_of(ZOO / f"{name.split('_')[0]}_torch.onnx")
    quantised, span = topology(name).nodes[layer], span_of(plain, layer)
    limits = quantised["output"]["range"]
    if quantised["output"]["activation"] == "Gelu":
        limits = (-0.2, 1.5)
    x = np.random.default_rng(0).random((4000, span.n_inputs)).astype(np.float32)
    low, high = (max(-4.0, limits_in) if limits_in < 0 else min(limits_in, 4.0)
                 for limits_in in quantised["input"]["range"])  # fmt: skip
    for share in 0.8 ** np.arange(16):
        y = runner(span)((share * (low + (high - low) * x)).astype(np.float32))
        if limits[0] <= y.min() and y.max() <= limits[1]:
            return (share * low, share * high), (float(y.min()), float(y.max()))
    raise AssertionError(f"{layer}: no noise stays within {limits}")


@pytest.mark.filterwarnings("ignore::onnx_ei.errors.OutOfRangeWarning")
@pytest.mark.parametrize("name", FILES)
def test_ei_parts_is_near_the_float_network_s(name: str) -> None:
    plain = topology_of(ZOO / f"{name.split('_')[0]}_torch.onnx")
    # one by one, many samples take long; 4 bits keep less than 8
    samples, near = (2000, 0.08) if dynamic(name) else (6000, 0.05)
    near = 0.25 if name.endswith("nbits") else near
    for layer in LAYERS[name.split("_")[0]]:
        if span_of(topology(name), layer).n_inputs != span_of(plain, layer).n_inputs:
            continue  # the whole tensor enters: the float layer has a window
        in_range, out_range = near_ranges(name, layer)
        options = {"samples": samples, "in_bins": 4, "out_bins": 4, "in_range": in_range}
        one, other = (
            measure("ei_parts", layer, graph, out_range=out_range, **options)
            for graph in (topology(name), plain)
        )
        assert other.value > 0.3
        assert abs(one.value - other.value) <= near * other.value + 3 * one.stderr, layer


def round_half_even(x: Array) -> Array:
    return np.rint(x.astype(np.float64))


def constants(topology: nx.DiGraph, layer: str, *names: int) -> list[Array]:
    found = layer_of(topology, layer).node.inputs
    return [None if found[i] is None else np.asarray(found[i].const_value.numpy()) for i in names]


def test_a_quantised_product_by_hand() -> None:
    """QGemm: round(x/s) + z, a sum of whole numbers, scaled, rounded, clipped."""
    graph = topology("mlp_qoperator")
    span = span_of(graph, "output")
    sx, zx, w, sw, zw, b, sy, zy = constants(graph, "output", *range(1, 9))
    x = np.random.default_rng(0).uniform(-1, 1, (500, 5)).astype(np.float32)
    q = np.clip(round_half_even(x / sx) + zx, 0, 255)
    trans = bool(layer_of(graph, "output").node.attributes["transB"].as_int())
    matrix = w.T if trans else w
    total = (q - zx) @ (matrix.astype(np.int64) - zw) + b
    y = np.clip(round_half_even(total * (sx * sw / sy)) + zy, 0, 255)
    want = (y - zy) * sy
    got = runner(span)(x)
    # where a sum ends half way between two steps, the last bit of the factor decides
    assert np.mean(np.abs(got - want) > 1e-6) < 0.01
    assert np.abs(got - want).max() < 1.01 * sy


def test_a_dynamically_quantised_product_by_hand() -> None:
    """The scale is (max - min) / 255 of each sample, 0 included."""
    graph = topology("mlp_dynamic")
    span = span_of(graph, "output")
    w, zw = constants(graph, "output", 1, 3)
    model = {n: np.asarray(v.const_value.numpy()) for n, v in span.model.graph.initializers.items()}
    sw, bias = model["output.weight_Transposed_scale"], model["output.bias"]
    for x in np.random.default_rng(0).uniform(-1, 1, (50, 1, 5)).astype(np.float32):
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = np.float32((high - low) / 255)
        zero = np.clip(round_half_even(np.array(-low / scale)), 0, 255)
        q = np.clip(round_half_even(x / scale) + zero, 0, 255)
        want = (q - zero) @ (w.astype(np.int64) - zw) * scale * sw + bias
        np.testing.assert_allclose(runner(span)(x), want, atol=1.01 * scale * np.abs(w).max() * sw)


# --- operator by operator ----------------------------------------------------------------------


def ms(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    made = node(op, inputs, outputs, **attributes)
    made.domain = MS
    return made


def quantise(array: Array) -> tuple[Array, Array]:
    scale = np.float32(np.abs(array).max() / 127)
    return np.clip(np.rint(array / scale), -128, 127).astype(np.int8), scale


W, S_W = quantise(noise(6, 5))
KERNEL, S_K = quantise(noise(4, 3, 3, 3))
POINT, S_P = quantise(noise(2, 8, 1, 1))
PACKED, S_A = quantise(noise(8, 24))
SHARED = {
    "sw": S_W, "sk": S_K, "sp": S_P, "sa": S_A, "w": W, "wt": W.T.copy(),
    "wu": np.abs(W.T).astype(np.uint8), "k": KERNEL,
    "p": POINT, "a": PACKED, "zero": np.int8(0), "s1": np.float32(0.05), "s2": np.float32(0.1),
    "mid": np.uint8(120), "unit": np.float32(1 / 255), "low": np.uint8(0), "b": noise(5),
    "ba": noise(24), "g": np.array([[3, 5], [7, -9]], np.int8), "sg": np.float32(0.1),
    "target": np.array([1, 5, 6]), "back": np.array([1, 30]),
}  # fmt: skip
X = "x s1 mid"


def built(nodes: list[onnx.NodeProto], shape: tuple[int, ...], rank: int) -> onnx.ModelProto:
    used = {name for n in nodes for name in n.input}
    return make(
        nodes, {"x": shape}, ["y"], {k: v for k, v in SHARED.items() if k in used},
        ranks={"y": rank}, domains={MS: 1},
    )  # fmt: skip


QUANTISE_X = node("QuantizeLinear", X, "xq")
DYNAMIC_X = node("DynamicQuantizeLinear", "x", "xq xs xz")
REAL_Y = node("DequantizeLinear", "q s2 mid", "y")
# nodes, shape of x, rank of y; for each layer its operator, activations and units
OPERATORS: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...], int, list[Any]]] = {
    "QLinearMatMul, weight at the left": (
        [
            QUANTISE_X, node("QLinearMatMul", "wu sw low xq s1 mid s2 mid", "q"), REAL_Y,
        ],
        (1, 6, 3), 3, [("QLinearMatMul", None, None, 6, 5)],
    ),
    "tables of activations": (
        [
            QUANTISE_X, node("QLinearMatMul", "xq s1 mid w sw zero s2 mid", "h"),
            ms("QLinearSigmoid", "h s2 mid unit low", "v"),
            node("QLinearMatMul", "v unit low wt sw zero s2 mid", "i"),
            ms("QLinearLeakyRelu", "i s2 mid s2 mid", "q", alpha=0.1), REAL_Y,
        ],
        (1, 6), 2,
        [("QLinearMatMul", None, "Sigmoid", 6, 5), ("QLinearMatMul", "Sigmoid", "LeakyRelu", 5, 6)],
    ),
    "pools and a concatenation": (
        [
            QUANTISE_X,
            node("QLinearConv", "xq s1 mid k sk zero s2 mid", "c", pads=[1, 1, 1, 1]),
            node("MaxPool", "c", "m", kernel_shape=[2, 2], strides=[2, 2]),
            ms("QLinearAveragePool", "c s2 mid s1 mid", "v", kernel_shape=[2, 2], strides=[2, 2]),
            ms("QLinearConcat", "s2 mid m s2 mid v s1 mid", "cat", axis=1),
            node("QLinearConv", "cat s2 mid p sp zero s2 mid", "e"),
            ms("QLinearGlobalAveragePool", "e s2 mid s1 mid", "t", channels_last=0),
            node("Flatten", "t", "f"), ms("QGemm", "f s1 mid g sg zero", "y"),
        ],
        (1, 3, 6, 6), 2,
        [
            ("QLinearConv", None, None, 27, 4), ("MaxPool", None, None, 16, 4),
            ("QLinearAveragePool", None, None, 16, 4), ("QLinearConv", None, None, 8, 2),
            ("QLinearGlobalAveragePool", None, None, 18, 2), ("QGemm", None, None, 2, 2),
        ],
    ),
    "a bias of integers behind a reshape": (
        [
            QUANTISE_X, node("QLinearMatMul", "xq s1 mid w sw zero s2 mid", "h"),
            ms("QLinearAdd", "h s2 mid low s2 mid s1 mid", "i"),
            node("DequantizeLinear", "i s1 mid", "r"), node("Tanh", "r", "y"),
        ],
        (1, 4, 6), 3, [("QLinearMatMul", None, "Tanh", 6, 5)],
    ),
    "MatMulIntegerToFloat": (
        [
            DYNAMIC_X, ms("MatMulIntegerToFloat", "xq w xs sw xz _ b", "h"), node("Relu", "h", "y"),
        ],
        (1, 6), 2, [("MatMulIntegerToFloat", None, "Relu", 6, 5)],
    ),
    "MatMulInteger of one scale": (
        [
            QUANTISE_X, node("MatMulInteger", "xq w mid", "i"), node("Cast", "i", "c", to=1),
            node("Mul", "c s2", "m"), node("Sigmoid", "m", "y"),
        ],
        (1, 6), 2, [("MatMulInteger", None, "Sigmoid", 6, 5)],
    ),
    "DynamicQuantizeMatMul": (
        [ms("DynamicQuantizeMatMul", "x w sw _ b", "h"), node("Tanh", "h", "y")],
        (1, 6), 2, [("DynamicQuantizeMatMul", None, "Tanh", 6, 5)],
    ),
    "QAttention": (
        [DYNAMIC_X, ms("QAttention", "xq a ba xs sa _ xz", "y", num_heads=2)],
        (1, 3, 8), 3, [("QAttention", None, None, 24, 8)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OPERATORS)
def test_operators(case: str) -> None:
    nodes, shape, rank, layers = OPERATORS[case]
    proto = built(nodes, shape, rank)
    x = noise(*shape, seed=9)
    graph = topology_of(proto, x)
    found = [
        (row.op_type, row.in_activation, row.out_activation, row.n_inputs, row.n_outputs)
        for row in describe(graph).rows
    ]
    assert found == layers
    held = check_spans(graph, everything(proto, {"x": x}) | _active(graph, x))
    assert held == list(graph)
    coupled = any(n.op_type.startswith("Dynamic") for n in nodes)
    assert all(span_of(graph, key).batched is not coupled for key in graph)


def _active(graph: nx.DiGraph, x: Array) -> dict[str, Array]:
    """Return the tensors inside tables that were written out: the file has none of them."""
    names = [str(v.name) for n in model_of(graph).ir.graph for v in n.outputs]
    return model_of(graph).tensors([n for n in names if n.endswith("/active")])


def test_a_table_written_out_gives_what_the_table_gives() -> None:
    proto = built(*OPERATORS["tables of activations"][:3])
    x = noise(1, 6, seed=9)
    ours = model_of(topology_of(proto, x)).tensors(["y"])["y"]
    np.testing.assert_array_equal(ours, everything(proto, {"x": x})["y"])


def test_one_scale_is_taken_from_the_layer_s_own_input() -> None:
    """A factor that follows from another tensor's scale is a gate, no dequantisation."""
    nodes = [
        DYNAMIC_X, node("Abs", "x", "other"), node("DynamicQuantizeLinear", "other", "oq os oz"),
        node("MatMulInteger", "xq w xz", "i"), node("Cast", "i", "c", to=1),
        node("Mul", "c os", "m"), node("Relu", "m", "y"),
    ]  # fmt: skip
    (data,) = topology_of(built(nodes, (1, 6), 2)).nodes.values()
    assert (data["output"]["tensor"], data["output"]["activation"]) == ("c", None)


def test_a_step_of_a_dynamically_quantised_lstm() -> None:
    wq, sw = quantise(noise(1, 3, 8))
    rq, sr = quantise(noise(1, 2, 8, seed=1))
    weights = {
        "W": wq, "R": rq, "B": noise(1, 16), "sw": np.array([sw]), "sr": np.array([sr]),
        "zw": np.zeros(1, np.int8), "zr": np.zeros(1, np.int8),
    }  # fmt: skip
    made = ms("DynamicQuantizeLSTM", "x W R B _ _ _ _ sw zw sr zr", "y", hidden_size=2, name="lstm")
    proto = make([made], {"x": (5, 1, 3)}, ["y"], weights, ranks={"y": 4}, domains={MS: 1})
    graph = topology_of(proto)
    span = span_of(graph, "W")
    assert graph.nodes["W"]["kind"] == "recurrent"
    assert (span.n_inputs, span.n_outputs, span.batched) == (3, 2, False)
    assert span.notes == (
        "couples samples: DynamicQuantizeLSTM 'lstm' takes its scale from the whole batch",
    )
    session = precise_session(proto.SerializeToString())
    for sample in noise(20, 3, seed=2):
        # its input is quantised in one for all steps: alike ones keep the scale
        sequence = np.tile(sample, (5, 1, 1))
        want = session.run(None, {"x": sequence})[0][0].reshape(1, -1)
        np.testing.assert_allclose(runner(span)(sample[None]), want, rtol=1e-5, atol=1e-6)


# --- the range of the integers -----------------------------------------------------------------


def quantiser(scale: Any, zero: Any, op: str = "DequantizeLinear") -> ir.Node:
    whole = np.asarray(zero if zero is not None else np.uint8(0))
    values = [ir.Value(name="q", type=ir.TensorType(ir.DataType.from_numpy(whole.dtype)))]
    for name, given in (("s", scale), ("z", zero)):
        value = ir.Value(name=name)
        if given is not None:
            value.const_value = ir.tensor(np.asarray(given))
        values.append(value if given is not None or name == "s" else None)
    return ir.Node("", op, values)


@pytest.mark.parametrize(
    ("scale", "zero", "limits"),
    [
        (np.float32(0.1), np.uint8(0), (0, 25.5)),
        (np.float32(0.1), np.uint8(128), (-12.8, 12.7)),
        (np.float32(0.1), np.int8(-128), (0, 25.5)),
        (np.float32(0.5), np.int8(0), (-64, 63.5)),
        (np.float32(1e-3), np.uint16(1000), (-1, 64.535)),
        (np.array([0.1, 0.2], np.float32), np.array([0, 100], np.uint8), (-20, 31)),
        (np.float32(0.1), None, (0, 25.5)),
        (np.float32(0), np.uint8(3), None),
        (None, np.uint8(0), None),
    ],
)
def test_real_range(scale: Any, zero: Any, limits: Any) -> None:
    found = real_range(quantiser(scale, zero))
    assert found == (None if limits is None else pytest.approx(limits, rel=1e-6))


def test_real_range_of_other_operators() -> None:
    assert real_range(ir.Node("", "Relu", [ir.Value(name="x")])) is None


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ((0.0, 25.5), "Relu"), ((0.0, 6.0), "Relu6"), ((-0.1, 6.0), None), ((0.1, 1.0), None),
        (None, None),
    ],
)  # fmt: skip
def test_what_saturates_at_zero_is_a_relu(limits: Any, name: str | None) -> None:
    assert swallows_relu(limits) == name


def test_an_image_that_begins_at_zero_has_no_activation() -> None:
    nodes = [
        node("QuantizeLinear", "x unit low", "xq"),
        node("QLinearMatMul", "xq unit low w sw zero s2 mid", "q"), REAL_Y,
    ]  # fmt: skip
    (data,) = topology_of(built(nodes, (1, 6), 2)).nodes.values()
    assert data["input"]["activation"] is None
    assert data["input"]["range"] == pytest.approx((0, 1))


def test_a_pool_of_what_begins_at_zero_has_no_activation_of_its_own() -> None:
    nodes = [
        node("QuantizeLinear", "x unit low", "xq"),
        ms("QLinearAveragePool", "xq unit low unit low", "q", kernel_shape=[2, 2]),
        node("DequantizeLinear", "q unit low", "y"),
    ]  # fmt: skip
    (data,) = topology_of(built(nodes, (1, 3, 4, 4), 4)).nodes.values()
    assert data["output"]["activation"] is None


def test_an_activation_that_follows_comes_before_the_relu_of_a_quantisation() -> None:
    nodes = [
        QUANTISE_X, node("QLinearMatMul", "xq s1 mid w sw zero unit low", "q"),
        node("DequantizeLinear", "q unit low", "r"), node("Tanh", "r", "y"),
    ]  # fmt: skip
    (data,) = topology_of(built(nodes, (1, 6), 2)).nodes.values()
    assert data["output"]["activation"] == "Tanh"


def test_integers_that_enter_a_model_have_real_twins() -> None:
    """A model whose input is an image in bytes, which the first operator knows the scale of."""
    proto = built([node("QLinearMatMul", "x s1 mid w sw zero s2 mid", "q"), REAL_Y], (1, 6), 2)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    x = np.random.default_rng(0).integers(0, 256, (1, 6)).astype(np.uint8)
    graph = topology_of(proto, x)
    (data,) = graph.nodes.values()
    assert data["reason"] is None
    assert data["input"]["tensor"] == "x/real"
    assert data["input"]["range"] == pytest.approx((-6, 6.75))
    assert check_spans(graph, everything(proto, {"x": x})) == list(graph)
