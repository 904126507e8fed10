"""The command line: what it prints, where, and with which exit code."""

import importlib.metadata
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import no_cuda, require_peer
from graphs import make, mixed_model, node, noise, open_model, two_layer_model
from typer.testing import CliRunner

from onnx_ei import calibrate, measure, topology_of
from onnx_ei.cli import app
from onnx_ei.errors import UndersampledWarning

QUICK = ["--samples", "1000", "--bins", "4"]


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def model(tmp_path):
    return saved(tmp_path, two_layer_model())


def saved(folder, proto, name="model.onnx"):
    path = folder / name
    onnx.save(proto, path)
    return path


def test_run_prints_one_row_a_layer_with_standard_errors(model):
    result = call("run", model, *QUICK)
    assert result.exit_code == 0
    assert result.stdout.count("fc1") == result.stdout.count("fc2") == 1
    for name in ("ei", "ei_parts", "sensitivity", "degeneracy", "phi"):
        assert name in result.stdout
    row = next(line for line in result.stdout.splitlines() if "fc1" in line)
    assert len(re.findall(r"-?\d+\.\d{4} ± \d+\.\d{4}", row)) == 5


def test_run_json_is_what_measure_returns(model):
    result = call("run", model, "--json", "--layers", "fc2", "--measures", "ei,phi", *QUICK)
    assert result.exit_code == 0
    (row,) = json.loads(result.stdout)["rows"]
    assert list(row["measurements"]) == ["ei", "phi"]
    options = {"samples": 1000, "in_bins": 4, "out_bins": 4}
    with pytest.warns(UndersampledWarning):
        expected = measure("ei", "fc2", topology_of(str(model)), **options)
    assert row["measurements"]["ei"]["value"] == expected.value
    assert row["measurements"]["ei"]["stderr"] == expected.stderr
    assert row["measurements"]["ei"]["seed"] == 0


def test_the_same_seed_gives_the_same_output_and_another_seed_another(model):
    first, again = (call("run", model, *QUICK).stdout for _ in range(2))
    assert first == again
    assert call("run", model, *QUICK, "--seed", "1").stdout != first


def test_input_range_is_for_the_layers_that_the_input_feeds(model):
    result = call("run", model, "--json", "--measures", "ei", "--input-range", "0,2", *QUICK)
    ranges = [row["measurements"]["ei"]["in_range"] for row in json.loads(result.stdout)["rows"]]
    assert ranges == [[0.0, 2.0], [0.0, 1.0]]


def test_a_layer_that_cannot_be_measured_is_a_row_with_its_reason(tmp_path):
    result = call("run", saved(tmp_path, mixed_model()), "--measures", "ei", *QUICK)
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if "quantised" in line)
    assert "quantised integer" in row


def test_undersampled_values_are_marked_and_explained(model):
    result = call("run", model, "--samples", "300", "--bins", "64", "--measures", "ei")
    assert "!" in next(line for line in result.stdout.splitlines() if "fc1" in line)
    assert "! unreliable: coverage below 0.5" in result.stdout
    assert re.search(r"! fc1 ei: unreliable: 300 samples cover 0\.\d\d", result.stderr)
    assert re.search(r"; EI is at most \d+\.\d\d bits by the entropy of the", result.stderr)
    assert "samples or more would cover 0.95 of the joint states; fewer bins" in result.stderr
    as_json = call("run", model, "--samples", "300", "--bins", "64", "--measures", "ei", "--json")
    for row in json.loads(as_json.stdout)["rows"]:
        found = row["measurements"]["ei"]
        assert (found["reliable"], found["adequacy"]) == (False, "unreliable")
        assert found["notes"]


def test_describe_lists_layers_without_measuring(tmp_path):
    result = call("describe", saved(tmp_path, mixed_model()))
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if "conv" in line)
    for part in ("Conv", "Relu", "1x2x6x6", "18 -> 3", "free"):
        assert part in row
    as_json = json.loads(call("describe", saved(tmp_path, mixed_model()), "--json").stdout)
    assert [row["layer"] for row in as_json["rows"]] == list(topology_of(mixed_model()))


def test_open_dimensions_are_settled_by_input_shape(tmp_path):
    path = saved(tmp_path, open_model())
    assert "is open" in call("describe", path).stdout
    result = call("describe", path, "--input-shape", "x=1,5,3")
    assert "is open" not in result.stdout
    assert "15 -> 2" in result.stdout


def test_reference_background_needs_no_shapes_where_the_file_settles_them(tmp_path):
    nodes = [node("LSTM", "x W R _ _ h0 c0", "y", hidden_size=2)]
    state = (1, "N", 2)
    inputs = {"x": (5, "N", 3), "h0": state, "c0": state}
    weights = {"W": noise(1, 8, 3), "R": noise(1, 8, 2)}
    path = saved(tmp_path, make(nodes, inputs, ["y"], weights, ranks={"y": 4}))
    (row,) = json.loads(call("describe", path, "--json").stdout)["rows"]
    assert "also needs 'c0', 'h0'" in row["reason"]
    result = call("describe", path, "--json", "--background", "reference")
    (row,) = json.loads(result.stdout)["rows"]
    assert (row["reason"], row["n_inputs"], row["n_outputs"]) == (None, 3, 2)


def inputs_model():
    """What x times rate is enters a layer; an If on which says by which of two weights."""
    same, other = (
        onnx.helper.make_graph(
            [node("MatMul", f"scaled {name}", f"out_{name}")],
            name,
            [],
            [onnx.helper.make_tensor_value_info(f"out_{name}", onnx.TensorProto.FLOAT, ["N", 2])],
        )
        for name in ("first", "second")
    )
    nodes = [
        node("Cast", "rate", "r", to=onnx.TensorProto.FLOAT),
        node("Mul", "x r", "scaled"),
        node("Equal", "rate eight", "is8"),
        node("If", "is8", "y", then_branch=same, else_branch=other),
    ]
    weights = {"first": noise(3, 2), "second": noise(3, 2, seed=1), "eight": np.int64(8)}
    model = make(nodes, {"x": ("N", 3), "rate": ()}, ["y"], weights)
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return model


def test_inputs_from_a_file_or_in_words_give_what_python_gives(tmp_path):
    path = saved(tmp_path, inputs_model())
    example = {"x": noise(1, 3), "rate": np.int64(8)}
    np.savez(tmp_path / "x.npz", **example)
    np.savez(tmp_path / "only_x.npz", x=example["x"])
    expected = list(topology_of(str(path), example))
    assert len(expected) == 1
    for given in (
        ["--input", tmp_path / "x.npz"],
        ["--input", "rate=8"],
        ["--input", "rate=8", "--input", tmp_path / "only_x.npz"],
        ["--input", "rate=8", "--input-shape", "x=1,3"],
        ["--calibrate", tmp_path / "x.npz"],
    ):
        result = call("describe", path, "--json", *given)
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        assert [row["layer"] for row in found["rows"]] == expected
        assert found["notes"] == ["input 'rate' is held at 8, its value in the example"]
    other = json.loads(call("describe", path, "--json", "--input", "rate=9").stdout)
    assert [row["layer"] for row in other["rows"]] != expected
    assert call("describe", path, "--json").stdout.count('"layer"') == 0


def test_what_the_input_leaves_out_is_said_and_a_reference_is_its_values(tmp_path):
    nodes = [node("Add", "x s", "z"), node("MatMul", "z w", "y"), node("MatMul", "y v", "o")]
    shapes = {"x": ("N", 3), "s": ("N", 3)}
    weights = {"w": noise(3, 2), "v": noise(2, 2)}
    path = saved(tmp_path, make(nodes, shapes, ["o"], weights))
    np.save(tmp_path / "x.npy", noise(1, 3))
    np.savez(tmp_path / "s.npz", s=noise(1, 3))
    result = call("describe", path, "--input", tmp_path / "s.npz")
    assert result.exit_code == 0
    assert "note: inputs not given are noise, or 0 where they are whole: x" in result.stderr
    result = call("describe", path, "--input", tmp_path / "x.npy")
    assert result.exit_code == 2
    assert "one array for 2 inputs ('x', 's')" in result.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("rate", "a file (.npz, .npy) or NAME=VALUE is needed, got 'rate'"),
        ("rat=8", "the model has no input 'rat'; did you mean 'rate'"),
        ("rate=8.5", "'rate' is of type int64: rate=NUMBER is needed, got '8.5'"),
        ("rate=fast", "rate=NUMBER is needed, got 'fast'"),
        ("none.npz", "No such file"),
        ("names.npz", "the model has no input 'X'; did you mean 'x'"),
        ("wide.npz", "input 'x' has shape (?, 3), the array (1, 4)"),
        ("kind.npz", "input 'rate' is of type INT64, the data are of type float64: give whole"),
        ("objects.npz", "holds no plain arrays"),
        ("text.npz", "holds no plain arrays"),
        ("empty.npz", "holds no arrays"),
    ],
)
def test_inputs_that_do_not_fit_exit_with_2(tmp_path, monkeypatch, given, message):
    path = saved(tmp_path, inputs_model())
    monkeypatch.chdir(tmp_path)
    np.savez("names.npz", X=noise(1, 3))
    np.savez("wide.npz", x=noise(1, 4))
    np.savez("kind.npz", rate=np.float64(8))
    np.savez("objects.npz", x=np.array([[None, 1, 2]]))
    np.savez("empty.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    result = call("describe", path, "--input", given)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_an_input_given_twice_exits_with_2(tmp_path):
    path = saved(tmp_path, inputs_model())
    np.savez(tmp_path / "x.npz", x=noise(1, 3), rate=8)
    for more in (["--input", "rate=9"], ["--input-shape", "x=1,3"]):
        result = call("describe", path, "--input", tmp_path / "x.npz", *more)
        assert (result.exit_code, "is given twice" in result.stderr) == (2, True)


def test_calibrated_ranges_are_used_where_none_is_given(model, tmp_path):
    proto = two_layer_model()
    proto.graph.node[1].op_type = "Relu"
    path, data = saved(tmp_path, proto, "relu.onnx"), noise(40, 3, seed=3)
    np.save(tmp_path / "x.npy", data)
    np.savez(tmp_path / "x.npz", x=data)
    ranges = calibrate(topology_of(str(path)), data).ranges
    expected = [[list(end) for end in ranges[layer]] for layer in ("fc1", "fc2")]
    measuring = ["run", path, "--json", "--measures", "ei_parts", *QUICK]
    for file in ("x.npy", "x.npz"):
        result = call(*measuring, "--calibrate", tmp_path / file)
        assert result.exit_code == 0, result.stderr
        assert f"calibrated on 40 samples of {tmp_path / file}: ranges are the" in result.stderr
        assert _ranges_of(result) == expected
    limited = call(*measuring, "--calibrate", tmp_path / "x.npy", "--input-range", "0,1")
    assert _ranges_of(limited) == [[[0.0, 1.0], expected[0][1]], expected[1]]
    cut = call(*measuring, "--calibrate", tmp_path / "x.npy", "--percentiles", "5,95")
    assert "the 5 % to the 95 % percentile" in cut.stderr
    assert _ranges_of(cut)[0][0] == pytest.approx(np.percentile(data, (5, 95)), rel=5e-3)
    calibration = calibrate(topology_of(str(path)), data)
    calibration.save(tmp_path / "ranges.json")
    assert _ranges_of(call(*measuring, "--calibrate", tmp_path / "ranges.json")) == expected
    shown = call("describe", path, "--calibrate", tmp_path / "x.npy")
    (low, high), _ = ranges["fc1"]
    row = next(line for line in shown.stdout.splitlines() if "fc1" in line)
    assert f"{low:.4g}, {high:.4g}" in row
    plain = call("describe", path)
    assert "in range" not in plain.stdout
    as_json = json.loads(call("describe", path, "--json").stdout)["rows"]
    assert [row["in_range"] for row in as_json] == [[-10.0, 10.0], [0.0, 10.0]]


def _ranges_of(result):
    rows = json.loads(result.stdout)["rows"]
    found = [row["measurements"]["ei_parts"] for row in rows]
    return [[m["in_range"], m["out_range"]] for m in found]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("none.npz", "--calibrate: [Errno 2] No such file"),
        ("names.npz", "batch 0: no input 'X'; did you mean 'x'"),
        ("wide.npy", "input 'x' has shape (5, 4); (N, 3) is needed"),
        ("flat.npy", "input 'x' has shape (3,)"),
        ("no_rows.npy", "input 'x' has shape (0, 3)"),
        ("text.npy", "the data are of type <U1: give numbers"),
        ("objects.npz", "holds no plain arrays"),
        ("pickle.npy", "holds no plain arrays"),
        ("nothing.npy", "holds no plain arrays"),
        ("cut.npz", "holds no plain arrays"),
        ("nan.npy", "the input of layer 'fc1' (tensor 'x') holds NaN on sample 1"),
        ("no.json", "No such file"),
        ("bad.json", "is not a calibration that"),
        ("other.json", "the calibration is of another model"),
    ],
)
def test_calibration_data_that_do_not_fit_exit_with_2(model, tmp_path, monkeypatch, file, message):
    monkeypatch.chdir(tmp_path)
    np.savez("names.npz", X=noise(5, 3))
    np.save("wide.npy", noise(5, 4))
    np.save("flat.npy", noise(3))
    np.save("no_rows.npy", noise(0, 3))
    np.save("text.npy", np.full((5, 3), "a"))
    np.savez("objects.npz", x=np.array([[None, 1, 2]]))
    np.save("nan.npy", np.where(np.arange(9).reshape(3, 3) == 4, np.nan, 1.0))
    Path("pickle.npy").write_bytes(pickle.dumps({"x": 1}))
    Path("nothing.npy").write_bytes(b"")
    np.savez("whole.npz", x=noise(500, 3))
    Path("cut.npz").write_bytes(Path("whole.npz").read_bytes()[:700])
    Path("bad.json").write_text("{}")
    calibrate(topology_of(mixed_model()), noise(4, 2, 6, 6)).save("other.json")
    for command in ("run", "describe"):
        result = call(command, model, "--calibrate", file)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert "Traceback" not in result.output


def test_percentiles_go_with_data(model, tmp_path):
    np.save(tmp_path / "x.npy", noise(9, 3))
    for arguments, message in (
        (["--percentiles", "1,99"], "--percentiles: goes with --calibrate"),
        (["--percentiles", "1,99", "--calibrate", "a.json"], "--percentiles: goes with"),
        (["--percentiles", "1", "--calibrate", tmp_path / "x.npy"], "two numbers LO,HI"),
        (["--percentiles", "99,1", "--calibrate", tmp_path / "x.npy"], "0 <= lower < upper <= 100"),
    ):
        result = call("run", model, *arguments, *QUICK)
        assert (result.exit_code, message in result.stderr) == (2, True), result.output


def test_a_dead_layer_is_warned_of(tmp_path):
    path = saved(tmp_path, two_layer_model(second=np.zeros((4, 2), np.float32)))
    np.save(tmp_path / "x.npy", noise(9, 3))
    result = call("describe", path, "--calibrate", tmp_path / "x.npy")
    assert result.exit_code == 0
    assert "warning: calibrate: one value on all 9 samples: the output of 'fc2'" in result.stderr


def test_a_real_model_with_its_rate_in_words_has_the_layers_that_python_sees():
    folder = Path(require_peer("silero_vad").__file__).parent
    path = str(folder / "data" / "silero_vad.onnx")
    example = {
        "input": np.zeros((1, 512), np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.int64(16000),
    }
    shapes = ["--input-shape", "input=1,512", "--input-shape", "state=2,1,128"]
    result = call("describe", path, "--json", "--input", "sr=16000", *shapes)
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["layer"] for row in rows] == list(topology_of(path, example))
    assert len(rows) >= 6


def test_doctor_names_versions_providers_and_threads():
    result = call("doctor", "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 0
    assert facts["problems"] == []
    assert facts["numpy"] == np.__version__
    assert "CPUExecutionProvider" in facts["providers"]
    assert facts["threads"] >= 1
    plain = call("doctor").stdout
    assert "numba layer" in plain
    assert "GPUs" in plain
    assert "onnxruntime" in plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "fc9"], "no layer matches 'fc9'; did you mean"),
        (["--measures", "eii"], "unknown 'eii'; did you mean 'ei'"),
        (["--measures", ","], "no measure named"),
        (["--samples", "0"], "samples"),
        (["--bins", "0"], "bins"),
        (["--input-range", "1,0"], "lower"),
        (["--input-range", "1"], "two numbers LO,HI"),
        (["--input-shape", "x"], "NAME=D,D"),
        (["--estimator", "jacknife"], "did you mean 'jackknife'"),
        (["--positions", "some"], "positions must be 'one' or 'all'"),
        (["--device", "gpu"], "device must be 'cpu', 'cuda'"),
        (["--device", "cuda:0,cuda:1"], "several are for batch (onnx-ei run -o)"),
        (["--tf32"], "tf32=True is for CUDA devices, and device is 'cpu'"),
        (["--tf32", "-o", "never.jsonl"], "tf32=True is for CUDA devices"),
        (["--device", "cpu,cuda", "-o", "never.jsonl"], "devices must be of one kind"),
        (["--threshold", "-1"], "threshold"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_usage_errors_exit_with_2(model, arguments, message):
    result = call("run", model, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_model_errors_exit_with_3(tmp_path, model):
    text, cut = tmp_path / "text.onnx", tmp_path / "cut.onnx"
    text.write_text("this is not a model\n" * 20)
    cut.write_bytes(model.read_bytes()[:-40])
    broken = saved(
        tmp_path, two_layer_model(second=np.full((4, 2), np.nan, np.float32)), "nan.onnx"
    )
    for path, message in (
        (tmp_path / "modle.onnx", "no such file; did you mean 'model.onnx'"),
        (tmp_path, "a folder"),
        (text, "not an ONNX model"),
        (cut, "truncated"),
        (broken, "holds NaN"),
    ):
        result = call("run", path, *QUICK)
        assert result.exit_code == 3, path
        assert message in result.stderr
        assert "Traceback" not in result.output


def test_cuda_without_a_cuda_device_exits_with_4(model):
    if no_cuda() is None:
        pytest.skip("there is a CUDA device")
    result = call("run", model, "--device", "cuda", *QUICK)
    assert result.exit_code == 4
    assert "error: " in result.stderr
    assert "CUDA" in result.stderr
    assert "fc1" not in result.stdout
    output = model.parent / "r.jsonl"
    result = call("run", model, "-o", output, "--device", "cuda:0,cuda:1", *QUICK)
    assert (result.exit_code, output.exists()) == (4, False)
    assert "CUDA" in result.stderr
    # what would run can be listed without a GPU
    result = call("run", model, "-o", output, "--device", "cuda:0,cuda:1", "--dry-run", *QUICK)
    assert result.exit_code == 0, result.stderr


@pytest.mark.cuda
def test_cuda_gives_what_the_cpu_gives(model):
    cpu, cuda = (call("run", model, "--device", d, "--json", *QUICK) for d in ("cpu", "cuda"))
    assert cuda.exit_code == 0, cuda.stderr
    for one, other in zip(*(json.loads(r.stdout)["rows"] for r in (cpu, cuda)), strict=True):
        for name, measured in one["measurements"].items():
            twin = other["measurements"][name]
            assert twin["provider"] == "CUDAExecutionProvider"
            assert abs(measured["value"] - twin["value"]) <= 0.1 * measured["stderr"] + 1e-6


def test_a_missing_or_doubled_onnxruntime_exits_with_4(model, monkeypatch):
    def both(name):
        if name in ("onnxruntime", "onnxruntime-gpu"):
            return "1.30.0"
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", both)
        for command in (["run", model, *QUICK], ["doctor"]):
            result = call(*command)
            assert result.exit_code == 4
            assert "overwrite each other; keep one" in result.stderr
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        result = call("run", model, *QUICK)
        assert result.exit_code == 4
        assert 'pip install "onnx-ei[cpu]"' in result.stderr


def test_debug_shows_the_traceback(tmp_path):
    result = call("run", tmp_path / "none.onnx", "--debug")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "ModelError"


def test_the_module_runs_as_a_program(model):
    arguments = [sys.executable, "-m", "onnx_ei", "run", str(model), "--measures", "ei", *QUICK]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fc1" in done.stdout
    assert done.stdout.isprintable() or "\n" in done.stdout


def test_the_readme_shows_what_the_command_prints():
    root = Path(__file__).parents[1]
    readme = root / "README.md"
    if not readme.exists():
        pytest.skip("the README stays in the checkout; this suite runs from a copy")
    result = call("run", root / "examples/iris/iris.onnx", "--bins", "8", "--input-range", "0,1")
    printed, shown = (_values(t) for t in (result.stdout, readme.read_text(encoding="utf-8")))
    assert list(printed) == ["hidden1", "hidden2", "output"]
    assert list(shown) == list(printed)
    # another processor may round another way and move a sample across a bin's edge
    for layer, pairs in printed.items():
        for (value, stderr), (value_shown, _) in zip(pairs, shown[layer], strict=True):
            assert abs(value - value_shown) <= stderr


def _values(text):
    """Read ``value ± stderr`` by layer from the lines of a table; exact values to their digits."""
    found = {}
    for line in text.splitlines():
        pairs = re.findall(r"(-?[\d.]+) (?:± ([\d.]+)|   exact)", line)
        if pairs:
            found[line.split("│")[1].strip()] = [(float(v), float(e or 1e-4)) for v, e in pairs]
    return found
