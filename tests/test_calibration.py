"""Ranges from data: what is recorded, against other ways to find it, and what it is used for."""

import itertools
import json

import numpy as np
import onnx
import pytest
from conftest import require_peer
from graphs import conv_bn_relu, make, mixed_model, mlp, node, noise, open_model, residual
from graphs import two_layer_model as two_layers

from onnx_ei import (
    Calibration,
    ConstantLayerWarning,
    ModelError,
    UnknownLayerError,
    analyze,
    calibrate,
    ei_parts_matrix,
    measure,
    topology_of,
)
from onnx_ei.calibration import STATISTICS, Extent, calibration_of, resolve_ranges
from onnx_ei.runtime import runner
from onnx_ei.span import span_of
from onnx_ei.topology import layer_of

UNIT = {"samples": 500, "in_bins": 4, "out_bins": 4}


def whole_run(model, feeds, names):
    """Run the file itself in onnxruntime, all samples in one batch, its inner tensors put out."""
    import onnxruntime as ort

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        onnx.ValueInfoProto(name=n) for n in names if n not in taken | {*feeds}
    )
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    inner = [n for n in names if n not in feeds]
    # asked for no outputs, onnxruntime gives them all
    values = session.run(inner, feeds) if inner else []
    return dict(feeds) | dict(zip(inner, values, strict=True))


@pytest.mark.parametrize(
    ("make_model", "shape"),
    [(mlp, (4,)), (conv_bn_relu, (3, 8, 8)), (residual, (3, 6, 6)), (two_layers, (3,))],
)
def test_ranges_are_those_of_a_run_of_the_whole_file(make_model, shape):
    model = make_model()
    data = 3 * noise(37, *shape, seed=7)
    topology = topology_of(model)
    found = calibrate(topology, data, percentiles=(1, 99))
    ends = {n: extent for pair in found.extents.values() for n, extent in _named(pair)}
    truth = whole_run(model, {"x": data}, list(ends))
    assert list(found.extents) == list(topology)
    assert found.n_samples == 37
    for name, extent in ends.items():
        values = truth[name]
        # a batch sums in another order than single samples do
        near = {"rel": 1e-5, "abs": 1e-5 * float(np.abs(values).max())}
        assert extent.low == pytest.approx(float(values.min()), **near)
        assert extent.high == pytest.approx(float(values.max()), **near)
        for got, share in zip(extent.percentiles, (1, 99), strict=True):
            assert got == pytest.approx(np.percentile(values, share), rel=2e-3, abs=1e-6)


def _named(pair):
    return [(extent.tensor, extent) for extent in pair]


def test_extremes_are_those_of_onnxruntimes_own_calibrator(tmp_path):
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    path, data = tmp_path / "m.onnx", noise(30, 3, 6, 6, seed=3)
    onnx.save(residual(), path)

    class Reader:
        samples = iter([{"x": data[i : i + 1]} for i in range(len(data))])

        def get_next(self):
            return next(self.samples, None)

    peer = MinMaxCalibrater(path, augmented_model_path=str(tmp_path / "augmented.onnx"))
    peer.augment_graph()
    peer.create_inference_session()
    peer.collect_data(Reader())
    theirs = {name: tensor.range_value for name, tensor in peer.compute_data().items()}
    found = calibrate(topology_of(str(path)), data)
    compared = 0
    for extents in found.extents.values():
        for extent in extents:
            low, high = (float(end.item()) for end in theirs[extent.tensor])
            assert (extent.low, extent.high) == pytest.approx((low, high), rel=1e-5)
            compared += 1
    assert compared == 2 * len(found.extents) == 10


def test_no_value_of_the_data_is_out_of_its_calibrated_range():
    model, data = residual(), noise(25, 3, 6, 6, seed=5)
    topology = topology_of(model)
    ranges = calibrate(topology, data).ranges
    for key in topology:
        layer = layer_of(topology, key)
        values = whole_run(model, {"x": data}, [layer.entering.name])[layer.entering.name]
        (in_low, in_high), (low, high) = ranges[key]
        assert in_low - 1e-5 <= values.min()
        assert values.max() <= in_high + 1e-5
        span = span_of(topology, key, positions="all")
        out = runner(span)(values.reshape(len(data), -1))
        slack = 1e-5 * max(abs(low), abs(high))
        assert low - slack <= out.min()
        assert out.max() <= high + slack


def test_batches_of_any_cut_and_kind_give_the_same_to_the_bit():
    data = noise(20, 4, seed=2)
    forms = {
        "array": data,
        "doubles": data.astype(np.float64),
        "tuple": (data,),
        "dict": {"x": data},
        "list of arrays": [data[:3], data[3:]],
        "generator of tuples": ((part,) for part in np.array_split(data, 4)),
        "dicts, another order": [{"x": data[10:]}, {"x": data[:10]}],
        "lists of arrays": [[data[:7]], [data[7:]]],
        "whole inputs": data[:, None],
    }
    torch = pytest.importorskip("torch")
    forms["tensor"] = torch.from_numpy(data)
    forms["loader"] = torch.utils.data.DataLoader(torch.from_numpy(data), batch_size=6)
    found = {name: calibrate(topology_of(mlp()), batches) for name, batches in forms.items()}
    for name, calibration in found.items():
        assert calibration.extents == found["array"].extents, name


def test_any_number_of_batches_and_progress_in_samples():
    told = []
    batches = (noise(8, 4, seed=seed) for seed in range(100))
    found = calibrate(topology_of(mlp()), batches, progress=lambda *both: told.append(both))
    assert found.n_samples == 800
    assert told[-1] == (800, 800)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_two_inputs_a_pinned_one_and_a_state():
    nodes = [
        node("Mul", "x rate", "scaled"),
        node("MatMul", "scaled w", "h"),
        node("ReduceSum", "s axes", "t", keepdims=0),
        node("Add", "h t", "z"),
        node("Relu", "z", "r"),
        node("MatMul", "r v", "y"),
    ]
    model = make(
        nodes,
        {"x": ("N", 3), "s": (2, "N", 4), "rate": ()},
        ["y"],
        {"w": noise(3, 4), "v": noise(4, 2, seed=1), "axes": np.array([0])},
    )
    example = {"x": noise(1, 3), "s": noise(2, 1, 4), "rate": np.float32(2)}
    topology = topology_of(model, example)
    x, s = noise(9, 3, seed=4), noise(9, 2, 1, 4, seed=5)
    found = calibrate(topology, {"x": x, "s": s, "rate": 2})
    assert found.ranges["w"][0] == (float((2 * x).min()), float((2 * x).max()))
    assert found.extents == calibrate(topology, (x, s)).extents
    with pytest.raises(ValueError, match=r"input 'rate' is held at 2\.0 in this topology"):
        calibrate(topology, {"x": x, "s": s, "rate": 3})
    with pytest.raises(ValueError, match="differ in their number of samples: 9 of 'x', 4 of 's'"):
        calibrate(topology, {"x": x, "s": s[:4]})


def test_a_fixed_batch_takes_so_many_at_once():
    nodes = [node("MatMul", "x w", "h"), node("Relu", "h", "y")]
    topology = topology_of(make(nodes, {"x": (4, 3)}, ["y"], {"w": noise(3, 2)}))
    data = noise(8, 3, seed=1)
    assert calibrate(topology, data).ranges["w"][0] == (data.min(), data.max())
    with pytest.raises(ValueError, match=r"shape \(6, 3\); \(4 N, 3\) or \(N, 4, 3\) is needed"):
        calibrate(topology, data[:6])


def test_open_dimensions_may_differ_between_samples():
    topology = topology_of(
        make([node("MatMul", "x w", "y")], {"x": ("N", "T", 3)}, {"y": ("N", "T", 2)},
             {"w": noise(3, 2)})
    )  # fmt: skip
    parts = [noise(2, 5, 3), noise(3, 9, 3, seed=1)]
    found = calibrate(topology, parts)
    assert found.n_samples == 5
    assert found.ranges["w"][0] == (
        min(float(p.min()) for p in parts),
        max(float(p.max()) for p in parts),
    )


def test_half_and_double_precision_and_whole_numbers():
    half = make([node("MatMul", "x w", "y")], {"x": ("N", 3)}, ["y"],
                {"w": noise(3, 2).astype(np.float16)}, dtype=onnx.TensorProto.FLOAT16)  # fmt: skip
    data = noise(5, 3, seed=1)
    low, high = calibrate(topology_of(half), data).ranges["w"][0]
    assert (low, high) == (
        float(data.astype(np.float16).min()),
        float(data.astype(np.float16).max()),
    )
    double = make([node("MatMul", "x w", "y")], {"x": ("N", 3)}, ["y"],
                  {"w": noise(3, 2).astype(np.float64)}, dtype=onnx.TensorProto.DOUBLE)  # fmt: skip
    wide = np.random.default_rng(0).normal(size=(5, 3))
    assert calibrate(topology_of(double), wide).ranges["w"][0] == (wide.min(), wide.max())
    ids = make(
        [node("Gather", "table ids", "e"), node("MatMul", "e w", "y")],
        {"ids": ("N", 2)},
        {"y": ("N", 2, 2)},
        {"table": noise(5, 3), "w": noise(3, 2)},
        dtype=onnx.TensorProto.INT64,
    )
    ids.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    topology = topology_of(ids)
    used = noise(5, 3)[[0, 1, 4]]
    assert calibrate(topology, np.array([[0, 1], [4, 4]])).ranges["w"][0] == (
        used.min(),
        used.max(),
    )
    with pytest.raises(ValueError, match="data are of type float32: give whole numbers"):
        calibrate(topology, noise(4, 2))


@pytest.mark.parametrize(
    ("batches", "kind", "message"),
    [
        (noise(4, 5), ValueError, r"input 'x' has shape \(4, 5\); \(N, 4\) is needed"),
        (noise(4), ValueError, r"has shape \(4,\)"),
        (noise(0, 4), ValueError, r"has shape \(0, 4\)"),
        ([], ValueError, "there are no samples: batches is empty"),
        ((noise(4, 4), np.zeros(4)), ValueError, r"2 arrays for 1 inputs \('x'\); of a loader"),
        ({"X": noise(4, 4)}, ValueError, "batch 0: no input 'X'; did you mean 'x'"),
        ({}, ValueError, "input 'x' is missing"),
        ([noise(4, 4), noise(4, 3)], ValueError, "batch 1: input 'x' has shape"),
        (np.full((2, 4), "a"), ValueError, "the data are of type <U1: give numbers"),
        (np.full((2, 4), None), ValueError, "the data are of type object: give numbers"),
        ([[[1.0], [1.0, 2.0]]], ValueError, "is no array"),
        ("inputs.npz", TypeError, "or an iterable of these; got str"),
        (3, TypeError, "or an iterable of these; got int"),
    ],
)
def test_data_that_do_not_fit(batches, kind, message):
    topology = topology_of(mlp())
    with pytest.raises(kind, match=message):
        calibrate(topology, batches)
    assert calibration_of(topology) is None


def test_numbers_that_are_not_finite_name_the_layer_and_the_sample():
    data = noise(300, 4)
    data[270, 1] = np.nan
    for name, value in (("NaN", np.nan), ("infinity", -np.inf)):
        data[270, 1] = value
        message = rf"the input of layer 'fc1' \(tensor 'x'\) holds {name} on sample 270"
        with pytest.raises(ValueError, match=message):
            calibrate(topology_of(mlp()), data)
    overflow = topology_of(mlp("Exp"))
    with pytest.raises(ValueError, match=r"layer 'fc.'.* holds infinity on sample 0.*their scale"):
        calibrate(overflow, np.full((2, 4), 1e3) * np.array([1, -1])[:, None])


def test_one_value_has_a_range_of_width_one_around_it_and_is_warned_of():
    dead = mlp()
    for tensor in dead.graph.initializer:
        if tensor.name == "fc1.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(5, -1e3, np.float32), tensor.name))
    topology = topology_of(dead)
    message = r"one value on all 20 samples: the output of 'fc1' \(0\), the input of 'fc2' \(0\)"
    with pytest.warns(ConstantLayerWarning, match=message):
        found = calibrate(topology, noise(20, 4))
    assert found.ranges["fc1"][1] == found.ranges["fc2"][0] == (-0.5, 0.5)
    assert found.extents["fc1"][1].constant
    assert measure("ei_parts", "fc1", topology, in_range="calibrated", **UNIT).out_range is not None


@pytest.mark.parametrize(
    ("numbers", "minmax", "percentiles"),
    [
        ((0, 1, 2, 3), (0, 3), (1, 2)),
        ((0, 0, 0, 8), (0, 8), (0, 8)),
        ((-3, -3, -3, -3), (-4.5, -1.5), (-4.5, -1.5)),
        ((0, 0, 0, 0), (-0.5, 0.5), (-0.5, 0.5)),
        ((1e9, 1e9, 1e9, 1e9 + 64), (5e8, 1.5e9), (5e8, 1.5e9)),
        ((-1e-30, 0, 0, 1e-30), (-1e-30, 1e-30), (-1e-30, 1e-30)),
    ],
)
def test_the_rule_for_a_range(numbers, minmax, percentiles):
    low, left, right, high = numbers
    extent = Extent(tensor="t", low=low, high=high, percentiles=(left, right))
    assert extent.range("minmax") == pytest.approx(minmax, rel=1e-6)
    assert extent.range("percentiles") == pytest.approx(percentiles, rel=1e-6)


def test_bounded_activations_keep_their_bounds():
    topology = topology_of(two_layers())
    data = noise(30, 3, seed=4)
    found = calibrate(topology, data)
    assert found.ranges["fc1"] == ((data.min(), data.max()), (0.0, 1.0))
    assert found.ranges["fc2"][0] == (0.0, 1.0)
    seen = found.extents["fc1"][1]
    assert 0 < seen.low < seen.percentiles[0] < seen.percentiles[1] < seen.high < 1
    said = measure("ei_parts", "fc1", topology, out_range="calibrated", **UNIT)
    assert said.out_range == (0.0, 1.0)
    free = calibrate(topology, data, keep_bounds=False)
    assert free.ranges["fc1"][1] == free.ranges["fc2"][0] == (seen.low, seen.high)
    assert measure(
        "ei_parts", "fc2", topology, in_range="calibrated", **UNIT
    ).in_range == (seen.low, seen.high)  # fmt: skip
    # a constant output within bounds has a range all the same
    dead = topology_of(two_layers(second=np.zeros((4, 2), np.float32)))
    with pytest.warns(ConstantLayerWarning, match="the output of 'fc2'"):
        calibrate(dead, data)
    lstm = make(
        [node("LSTM", "x W R", "y h", hidden_size=2)],
        {"x": (5, "N", 3)}, ["h"], {"W": noise(1, 8, 3), "R": noise(1, 8, 2)}, ranks={"h": 3},
    )  # fmt: skip
    cell = calibrate(topology_of(lstm), noise(4, 5, 1, 3))
    ((_, out_range),) = cell.ranges.values()
    assert out_range == (-1.0, 1.0)


def test_percentiles_are_not_moved_by_an_outlier():
    data = noise(2000, 4)
    data[17, 2] = 1e6
    topology = topology_of(mlp())
    low, high = calibrate(topology, data, statistic="percentiles").ranges["fc1"][0]
    assert (low, high) == pytest.approx(tuple(np.percentile(data, (0.1, 99.9))), rel=1e-2)
    assert calibrate(topology, data).ranges["fc1"][0][1] == 1e6


@pytest.mark.filterwarnings("ignore::onnx_ei.OnnxEiWarning")
def test_calibrated_is_the_same_as_the_numbers_in_every_measure():
    topology = topology_of(mlp())
    found = calibrate(topology, noise(50, 4, seed=9))
    (in_range, out_range), (_, last) = found.ranges["fc1"], found.ranges["fc2"]
    both = {"in_range": "calibrated", "out_range": "calibrated"}
    for name in ("ei", "ei_parts", "sensitivity", "phi", "degeneracy", "vector_and_pairwise_ei"):
        said = measure(name, "fc1", topology, in_range=in_range, out_range=out_range, **UNIT)
        again = measure(name, "fc1", topology, **both, **UNIT)
        assert np.array_equal(again.value, said.value)
        assert (again.in_range, again.out_range) == (in_range, out_range)
    # a span takes its beginning's input and its end's output
    span = {"in_layer": "fc1"}
    found_span = measure("ei_parts", "fc2", topology, **span, **both, **UNIT)
    assert (found_span.in_range, found_span.out_range) == (in_range, last)
    matrix = ei_parts_matrix("fc2", topology, **span, **both, **UNIT)
    said = ei_parts_matrix("fc2", topology, **span, in_range=in_range, out_range=last, **UNIT)
    assert np.array_equal(matrix, said)
    rows = analyze(topology, ("ei_parts",), input_range=(0.0, 1.0), **both, **UNIT).rows
    ranges = [(r.measurements["ei_parts"].in_range, r.measurements["ei_parts"].out_range)
              for r in rows]  # fmt: skip
    assert ranges == [((0.0, 1.0), out_range), found.ranges["fc2"]]


def test_without_a_calibration_it_says_what_to_call():
    topology = topology_of(mlp())
    for name in ("in_range", "out_range"):
        with pytest.raises(ValueError, match=rf"{name}='calibrated' needs .*calibrate\(topology"):
            measure("ei", "fc1", topology, **{name: "calibrated"}, **UNIT)
    calibrate(topology, noise(5, 4))
    with pytest.raises(UnknownLayerError, match="did you mean"):
        measure("ei", "fc9", topology, in_range="calibrated", **UNIT)
    with pytest.raises(
        ValueError, match=r"in_range must be a pair .*or 'calibrated', got 'dynamic'"
    ):
        measure("ei", "fc1", topology, in_range="dynamic", **UNIT)
    with pytest.raises(ValueError, match="'calibrated' or 'dynamic', got 'calibratet'"):
        measure("ei", "fc1", topology, out_range="calibratet", **UNIT)


def test_another_activation_has_no_calibrated_output():
    topology = topology_of(mlp())
    ranges = calibrate(topology, noise(5, 4)).ranges
    own = resolve_ranges(topology, "fc1", None, None, "calibrated", "relu")
    assert own == (None, ranges["fc1"][1])
    assert resolve_ranges(topology, "fc2", None, None, "calibrated", "identity")[1]
    for layer, activation in (("fc1", "sigmoid"), ("fc2", "relu"), ("fc1", lambda x: x)):
        with pytest.raises(ValueError, match=r"with its own activation .*which activation= replac"):
            resolve_ranges(topology, layer, None, None, "calibrated", activation)
    # the input is the same whatever ends the layer
    assert resolve_ranges(topology, "fc1", None, "calibrated", None, "sigmoid")[0]


@pytest.mark.parametrize("statistic", STATISTICS)
def test_saved_and_loaded_it_is_the_same(tmp_path, statistic):
    topology = topology_of(mlp())
    found = calibrate(topology, noise(50, 4), statistic=statistic, percentiles=(5, 95))
    found.save(tmp_path / "ranges.json")
    assert [p.name for p in tmp_path.iterdir()] == ["ranges.json"]
    again = Calibration.load(tmp_path / "ranges.json")
    assert again == found
    assert again.ranges == found.ranges
    written = json.loads((tmp_path / "ranges.json").read_text())["layers"]["fc1"]["input"]
    assert tuple(written["range"]) == found.ranges["fc1"][0]
    other = topology_of(mlp())
    again.use(other)
    assert calibration_of(other) == found
    with pytest.raises(ValueError, match=r"is of another model .*layer 'fc1' is not the same"):
        again.use(topology_of(conv_bn_relu()))


def test_a_file_that_is_no_calibration(tmp_path):
    path = tmp_path / "ranges.json"
    calibrate(topology_of(mlp()), noise(5, 4)).save(path)
    good = json.loads(path.read_text())
    for change, message in (
        ({"format": "onnx_ei recording 1"}, "its format is 'onnx_ei recording 1'"),
        ({"statistic": "minmix"}, "unknown statistic 'minmix': did you mean 'minmax'"),
        ({"percentiles": [99, 1]}, "0 <= lower < upper <= 100"),
        ({"layers": {"fc1": {"input": good["layers"]["fc1"]["input"]}}}, "KeyError: 'output'"),
        ({"layers": []}, "AttributeError"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=f"is not a calibration .*{message}"):
            Calibration.load(path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"is not a calibration that .*JSONDecodeError"):
        Calibration.load(path)
    with pytest.raises(FileNotFoundError):
        Calibration.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="tensor 't': low, the two percentiles and high"):
        Extent(tensor="t", low=0, high=1, percentiles=(0.5, 2))


def test_wrong_arguments():
    topology, data = topology_of(mlp()), noise(3, 4)
    with pytest.raises(ValueError, match="unknown statistic 'max'"):
        calibrate(topology, data, statistic="max")
    for bad in ((5, 5), (-1, 50), (0, 101), (1,), None):
        with pytest.raises(ValueError, match="percentiles must be a pair with 0 <= lower < upper"):
            calibrate(topology, data, percentiles=bad)
    with pytest.raises(ModelError, match="there is no layer to calibrate"):
        calibrate(topology_of(make([node("Relu", "x", "y")], {"x": ("N", 3)}, ["y"])), noise(3, 3))
    with pytest.raises(ValueError, match="device must be 'cpu'"):
        calibrate(topology, data, device="gpu")
    with pytest.raises(TypeError, match="topology must be what topology_of returns"):
        calibrate(mlp(), data)


def test_the_table_has_a_line_for_each_end():
    lines = calibrate(topology_of(mlp()), noise(5, 4)).table().splitlines()
    assert lines[0].split() == ["layer", "end", "min", "0.1", "%", "99.9", "%", "max", "range"]
    assert [line.split()[:2] for line in lines[1:]] == [
        list(both) for both in itertools.product(("fc1", "fc2"), ("input", "output"))
    ]


def test_layers_that_cannot_be_measured_are_calibrated_where_they_have_numbers():
    found = calibrate(topology_of(mixed_model()), noise(4, 2, 6, 6))
    assert "conv" in found.ranges
    open_topology = topology_of(open_model(), noise(1, 5, 3))
    assert calibrate(open_topology, noise(4, 5, 3)).n_samples == 4


def test_a_module_is_calibrated_with_its_weights_as_they_are_now():
    torch = require_peer("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    topology = topology_of(module, torch.zeros(1, 3))
    x = torch.randn(40, 3)
    first = calibrate(topology, x)
    with torch.no_grad():
        module[0].weight.mul_(3)
        second = calibrate(topology, x)
        hidden = module[:2](x)
    low, high = second.ranges["0"][1]
    assert (low, high) == pytest.approx((float(hidden.min()), float(hidden.max())), rel=1e-5)
    assert first.ranges["0"][1] != second.ranges["0"][1]
    assert first.ranges["0"][0] == second.ranges["0"][0] == (float(x.min()), float(x.max()))
    found = measure("ei_parts", module[2], topology, in_range="calibrated", **UNIT)
    assert found.in_range == second.ranges["2"][0]


@pytest.mark.filterwarnings("ignore::onnx_ei.OnnxEiWarning")
def test_a_recorder_keeps_the_ranges_that_it_began_with(tmp_path):
    from onnx_ei import Recorder, read_records

    topology = topology_of(mlp())
    found = calibrate(topology, noise(50, 4))
    options = UNIT | {"in_range": "calibrated", "out_range": "calibrated"}
    with Recorder(tmp_path / "r.jsonl", topology, ("ei_parts",), **options) as recorder:
        before = recorder.record(0)
        calibrate(topology, 2 * noise(50, 4))
        after = recorder.record(1)
    assert before["fc1"]["ei_parts"].in_range == after["fc1"]["ei_parts"].in_range
    kept = read_records(tmp_path / "r.jsonl").parameters
    assert tuple(kept["in_range"]["fc2"]) == found.ranges["fc2"][0]
    with pytest.raises(ValueError, match="was recorded with in_range="):
        Recorder(tmp_path / "r.jsonl", topology, ("ei_parts",), **options)
    found.use(topology)
    Recorder(tmp_path / "r.jsonl", topology, ("ei_parts",), **options).close()
