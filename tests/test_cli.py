"""The command line: what it prints, where, and with which exit code."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import no_cuda
from graphs import make, mixed_model, node, noise, open_model, two_layer_model
from typer.testing import CliRunner

from onnx_ei import measure, topology_of
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
    assert re.search(r"! fc1 ei: unreliable: 300 samples cover 0\.\d\d", result.stderr)


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
    """Read ``value ± stderr`` by layer from the lines of a table."""
    found = {}
    for line in text.splitlines():
        pairs = re.findall(r"(-?[\d.]+) ± ([\d.]+)", line)
        if pairs:
            found[line.split("│")[1].strip()] = [(float(v), float(e)) for v, e in pairs]
    return found
