"""A recorder's file: what it says, that it goes on after a crash, that it refuses other ones."""

from __future__ import annotations

import importlib
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import require_peer
from graphs import mixed_model, two_layer_model

from onnx_ei import OutputError, Recorder, UnknownLayerError, measure, read_records, topology_of
from onnx_ei.errors import OutOfRangeWarning
from onnx_ei.records import FIELDS

OPTIONS: dict[str, Any] = {"samples": 2000, "in_bins": 4, "out_bins": 4}
MEASURES = ("ei", "phi")

# the ranges here are the defaults, which drop samples, and 2000 samples are few: not the subject
pytestmark = pytest.mark.filterwarnings("ignore::onnx_ei.errors.OnnxEiWarning")


@pytest.fixture(scope="module")
def topology() -> Any:
    return topology_of(two_layer_model())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def recorded(path: Path, topology: Any, *steps: int, **changes: Any) -> None:
    with Recorder(path, topology, MEASURES, **OPTIONS | changes) as recorder:
        for step in steps:
            recorder.record(step, run=0)


class TestWhatIsWritten:
    def test_a_header_and_a_line_for_each_layer(self, path: Path, topology: Any) -> None:
        with Recorder(path, topology, MEASURES, **OPTIONS) as recorder:
            found = recorder.record(50, run=0, loss=np.float32(0.5), note="a", best=True, lr=None)
            assert recorder.layers == ("fc1", "fc2")
        header, *rows = map(json.loads, path.read_text().splitlines())
        assert header["measures"] == ["ei", "phi"]
        assert header["parameters"]["samples"] == 2000
        assert header["parameters"]["seed"] == 0
        assert header["parameters"]["estimator"] == "coverage-jackknife"
        assert "onnx_ei" in header["versions"]
        assert [row["layer"] for row in rows] == ["fc1", "fc2"]
        labels = {"run": 0, "loss": 0.5, "note": "a", "best": True, "lr": None}
        assert all(row["labels"] == labels and row["step"] == 50 for row in rows)
        assert list(found) == ["fc1", "fc2"]

    def test_values_are_those_of_measure_to_the_bit(self, path: Path, topology: Any) -> None:
        recorded(path, topology, 0)
        for row in read_records(path).rows:
            for name, point in row.points.items():
                alone = measure(name, row.layer, topology, **OPTIONS)
                assert point.value == alone.value
                assert point.stderr == pytest.approx(alone.stderr, rel=1e-5)
                assert point.n_samples == alone.n_samples
                assert point.coverage == pytest.approx(alone.coverage, rel=1e-5)
                assert point.converged is alone.converged
                assert point.out_of_range == pytest.approx(alone.out_of_range, rel=1e-5)

    def test_whether_automatic_sampling_converged(self, path: Path, topology: Any) -> None:
        with Recorder(path, topology, "ei_parts", in_bins=4, out_bins=4) as recorder:
            recorder.record(0)
        assert [row.points["ei_parts"].converged for row in read_records(path).rows] == [True, True]

    def test_each_line_is_in_the_file_before_the_next_layer_is_measured(
        self, path: Path, topology: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recording: Any = importlib.import_module("onnx_ei.recording")
        measured, lines = recording.measure_many, []

        def counting(*args: Any, **options: Any) -> Any:
            lines.append(path.read_bytes().count(b"\n"))
            return measured(*args, **options)

        monkeypatch.setattr(recording, "measure_many", counting)
        recorded(path, topology, 0, 1)
        assert lines == [1, 2, 3, 4]

    def test_the_range_of_the_model_s_own_input(self, path: Path, topology: Any) -> None:
        recorded(path, topology, 0, input_range=(0, 1))
        first, second = read_records(path).rows
        alone = measure("ei", "fc1", topology, in_range=(0, 1), **OPTIONS)
        assert first.points["ei"].value == alone.value
        assert second.points["ei"].value == measure("ei", "fc2", topology, **OPTIONS).value

    def test_lists_and_matrices(self, path: Path, topology: Any) -> None:
        options = OPTIONS | {"groups": iter([((0,), (0,)), ((0, 1), (1,))])}
        names = ("ei_parts_matrix", "eis_between_groups")
        with Recorder(path, topology, names, "fc1", **options) as recorder:
            recorder.record(0)
            found = recorder.record(1)["fc1"]
        recording = read_records(path)
        _, values, stderrs = recording.series("ei_parts_matrix", "fc1")
        assert values.shape == stderrs.shape == (2, 3, 4)
        np.testing.assert_array_equal(values[1], found["ei_parts_matrix"].value)
        assert recording.series("eis_between_groups", "fc1")[1].shape == (2, 2)

    def test_numbers_that_are_not_finite_become_none(self, path: Path, topology: Any) -> None:
        with Recorder(path, topology, "ei", "fc1", **OPTIONS) as recorder:
            recorder.record(0, loss=float("inf"))
        assert read_records(path).rows[0].labels == {"loss": None}

    def test_warnings_point_here(self, path: Path, topology: Any) -> None:
        with (
            Recorder(path, topology, "ei_parts", "fc2", out_range=(0, 0.1), **OPTIONS) as recorder,
            pytest.warns(OutOfRangeWarning) as caught,
        ):
            recorder.record(0)
        assert caught[0].filename == __file__


class TestWhatJudges:
    def test_is_written_and_read(self, path: Path, topology: Any) -> None:
        groups = [((0,), (0,)), ((0, 1, 2), (0, 1, 2, 3))]
        options = OPTIONS | {"in_bins": 64, "groups": groups}
        with Recorder(path, topology, ("ei", "eis_between_groups"), "fc1", **options) as recorder:
            found = recorder.record(0)["fc1"]
        (row,) = read_records(path).rows
        for name, point in row.points.items():
            for field in ("method", "singletons", "adequacy", "reliable"):
                assert getattr(point, field) == getattr(found[name], field)
            assert point.saturation == pytest.approx(found[name].saturation, rel=1e-5)
            assert point.upper_bound == pytest.approx(found[name].upper_bound, rel=1e-5)
        assert row.points["ei"].adequacy == "unreliable"
        assert row.points["ei"].n_states == list(found["ei"].n_states)  # type: ignore[arg-type]
        assert row.points["eis_between_groups"].reliable == [True, False]

    def older(self, path: Path, fields: tuple[str, ...]) -> None:
        """Leave a file as a version that knew only these fields would have written it."""
        kept = [FIELDS.index(field) for field in fields]
        header, *rows = map(json.loads, path.read_text().splitlines())
        header["fields"] = list(fields)
        for row in rows:
            row["points"] = {n: [point[i] for i in kept] for n, point in row["points"].items()}
        lines = (json.dumps(line, separators=(",", ":")) for line in (header, *rows))
        path.write_text("".join(line + "\n" for line in lines))

    def test_a_file_of_an_earlier_version_is_read_judged_and_continued(
        self, path: Path, topology: Any
    ) -> None:
        recorded(path, topology, 0)
        whole = read_records(path).rows[0].points["ei"]
        self.older(path, FIELDS[:6])
        for row in read_records(path).rows:
            for point in row.points.values():
                assert point.method is point.singletons is None
                assert point.adequacy == ("adequate" if point.coverage >= 0.95 else "undersampled")
                assert point.reliable is True
        assert read_records(path).rows[0].points["ei"].adequacy == whole.adequacy
        recorded(path, topology, 50)
        read = read_records(path)
        assert read.series("ei", "fc1")[0].tolist() == [0, 50]
        assert [row.points["ei"].value for row in read.rows if row.layer == "fc1"] == 2 * [
            whole.value
        ]

    def test_groups_of_an_earlier_version(self, path: Path, topology: Any) -> None:
        groups = [((0,), (0,)), ((0, 1, 2), (0, 1, 2, 3))]
        options = OPTIONS | {"in_bins": 64, "groups": groups}
        with Recorder(path, topology, ("eis_between_groups",), "fc1", **options) as recorder:
            recorder.record(0)
        self.older(path, FIELDS[:6])
        point = read_records(path).rows[0].points["eis_between_groups"]
        assert (point.adequacy, point.reliable) == (["adequate", "unreliable"], [True, False])

    def test_a_file_of_a_later_version_is_not_continued(self, path: Path, topology: Any) -> None:
        recorded(path, topology, 0)
        path.write_text(path.read_text().replace('"reliable"]', '"reliable","later"]'))
        with pytest.raises(ValueError, match=r"was recorded with fields=\[.*'later'\], not \["):
            recorded(path, topology, 1)

    def test_the_stored_results_are_read(self) -> None:
        stored = Path(__file__).resolve().parent.parent / "examples" / "iris" / "results.jsonl"
        points = [row.points["ei"] for row in read_records(stored).rows]
        assert {point.adequacy for point in points} == {"adequate", "undersampled"}


class TestLayers:
    def test_all_that_can_be_measured(self, path: Path) -> None:
        topology = topology_of(mixed_model())
        able = [k for k in topology if topology.nodes[k]["reason"] is None]
        assert 0 < len(able) < len(topology)
        with Recorder(path, topology, "ei_parts", **OPTIONS) as recorder:
            assert list(recorder.layers) == able

    def test_names_and_patterns_in_graph_order(self, path: Path, topology: Any) -> None:
        for layers, expected in (
            ("fc2", ("fc2",)),
            (["fc2", "fc1"], ("fc1", "fc2")),
            ("fc*", ("fc1", "fc2")),
        ):
            path.unlink(missing_ok=True)
            with Recorder(path, topology, layers=layers, **OPTIONS) as recorder:
                assert recorder.layers == expected

    def test_modules_in_training(self, path: Path) -> None:
        torch = require_peer("torch")
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sigmoid(), torch.nn.Linear(2, 1))
        topology = topology_of(net, torch.zeros(1, 2))
        options = OPTIONS | {"activation": torch.nn.Sigmoid(), "device": torch.device("cpu")}
        for layers in (net[2], [net[2]], ["2", net[2]]):
            path.unlink(missing_ok=True)
            with Recorder(path, topology, "ei", layers, in_layer=net[2], **options) as recorder:
                before = recorder.record(0, loss=torch.tensor(0.5))["2"]["ei"].value
                with torch.no_grad():
                    net[2].weight.add_(0.5)
                after = recorder.record(1, loss=torch.tensor([0.25]).sum())["2"]["ei"].value
            recording = read_records(path)
            assert before != after
            assert recording.series("ei", "2")[1].tolist() == [before, after]
            assert [row.labels["loss"] for row in recording.rows] == [0.5, 0.25]
            assert recording.parameters["in_layer"] == "2"
            assert recording.parameters["activation"] == "Sigmoid()"


class TestGoingOn:
    def test_a_full_disk_is_an_error_and_the_file_goes_on(self, path: Path, topology: Any) -> None:
        recorded(path, topology, 0)
        whole, before = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, before[1]))
        try:
            with pytest.raises(OutputError, match=r"safe: make room, and make a recorder of the"):
                recorded(path, topology, 50)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_bytes() == whole
        recorded(path, topology, 50)
        assert read_records(path).series("ei", "fc2")[0].tolist() == [0, 50]

    def test_the_same_parameters_continue_a_file(self, path: Path, topology: Any) -> None:
        recorded(path, topology, 0, 50)
        begun = path.read_bytes()
        recorded(path, topology, 100, samples=np.int64(2000))
        assert path.read_bytes().startswith(begun)
        assert path.read_bytes().count(b'"format"') == 1
        assert read_records(path).series("ei", "fc1")[0].tolist() == [0, 50, 100]

    @pytest.mark.parametrize("options", [{"batch_size": 7}, {"memory_limit": 1 << 28}])
    def test_what_no_result_depends_on_may_change(
        self, path: Path, topology: Any, options: dict[str, Any]
    ) -> None:
        recorded(path, topology, 0)
        recorded(path, topology, 1, **options)
        assert read_records(path).series("phi", "fc2")[0].tolist() == [0, 1]

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"in_bins": 8}, "in_bins=4, not 8"),
            ({"seed": 1}, "seed=0, not 1"),
            ({"estimator": "plugin"}, "estimator='coverage-jackknife', not 'plugin'"),
            ({"layers": "fc1"}, r"layers=\['fc1', 'fc2'\], not \['fc1'\]"),
            ({"measures": ("ei",)}, r"measures=\['ei', 'phi'\], not \['ei'\]"),
            ({"input_range": (0, 1)}, r"input_range=None, not \[0, 1\]"),
        ],
    )
    def test_other_parameters_are_refused(
        self, path: Path, topology: Any, changes: dict[str, Any], said: str
    ) -> None:
        recorded(path, topology, 0)
        begun = path.read_bytes() + b'{"step":1,"la'
        path.write_bytes(begun)
        measures = changes.get("measures", MEASURES)
        options = OPTIONS | {k: v for k, v in changes.items() if k != "measures"}
        with pytest.raises(ValueError, match=f"was recorded with {said}; continue it with what"):
            Recorder(path, topology, measures, **options)
        assert path.read_bytes() == begun

    @pytest.mark.parametrize("kept", [1, 20, -1])
    def test_a_half_written_line_is_dropped_and_overwritten(
        self, path: Path, topology: Any, kept: int
    ) -> None:
        recorded(path, topology, 0, 50)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
        cut = read_records(path)
        assert cut.incomplete
        assert cut.series("ei", "fc1")[0].tolist() == [0, 50]
        assert cut.series("ei", "fc2")[0].tolist() == [0]
        recorded(path, topology, 50)
        whole = read_records(path)
        assert not whole.incomplete
        # the first layer's row, which had been written, is replaced by its like
        assert len(whole.rows) == 4
        assert whole.series("ei", "fc2")[0].tolist() == [0, 50]

    @pytest.mark.parametrize("kept", [0, 1, 20, 60])
    def test_a_half_written_first_line(self, path: Path, topology: Any, kept: int) -> None:
        recorded(path, topology, 0)
        whole = path.read_bytes()
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="holds no whole line: nothing was recorded yet"):
            read_records(path)
        recorded(path, topology, 0)
        assert path.read_bytes() == whole

    @pytest.mark.parametrize("text", ["other", "other\n", '{"format":"other"}\n', "{}"])
    def test_another_file_is_left_alone(self, path: Path, topology: Any, text: str) -> None:
        path.write_text(text)
        with pytest.raises(ValueError, match=r"is no recording .* choose another file"):
            Recorder(path, topology)
        assert path.read_text() == text

    def test_two_recorders_in_one_process(self, path: Path, topology: Any) -> None:
        with Recorder(path, topology, MEASURES, **OPTIONS) as recorder:
            recorder.record(0)
            recorded(path, topology, 1)
            recorder.record(2)
        assert read_records(path).series("ei", "fc1")[0].size == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "error", "said"),
        [
            ({"in_bin": 8}, TypeError, "Recorder has no option 'in_bin'; did you mean 'in_bins'"),
            ({"layer": "fc1"}, TypeError, "Recorder has no option 'layer'; did you mean"),
            ({"measures": ("eis",)}, ValueError, "unknown measure 'eis': did you mean"),
            ({"measures": ()}, ValueError, "no measures named"),
            ({"samples": 0}, ValueError, "samples must be at least 1"),
            ({"groups": [((0,), (0,))]}, TypeError, "groups are for 'eis_between_groups' only"),
            ({"layers": "fc9"}, UnknownLayerError, "no layer matches 'fc9'"),
            ({"layers": [3]}, UnknownLayerError, "no layer 3 in the topology"),
            ({"layers": []}, ValueError, "layers is empty; leave it out to record every layer"),
            ({"input_range": (1, 0)}, ValueError, "in_range must be finite with lower < upper"),
        ],
    )
    def test_before_a_file_is_made(
        self, path: Path, topology: Any, arguments: dict[str, Any], error: Any, said: str
    ) -> None:
        with pytest.raises(error, match=said):
            Recorder(path, topology, **arguments)
        assert not path.exists()

    def test_steps_and_labels(self, path: Path, topology: Any) -> None:
        with Recorder(path, topology, **OPTIONS) as recorder:
            begun = path.read_bytes()
            with pytest.raises(TypeError, match=r"step must be a whole number, got 0\.5"):
                recorder.record(0.5)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="step must be at least 0, got -1"):
                recorder.record(-1)
            with pytest.raises(TypeError, match=r"label run must be a str, a number.* got list"):
                recorder.record(0, run=[1])
            with pytest.raises(TypeError, match=r"label run must be a str, a number.* got ndarray"):
                recorder.record(0, run=np.zeros(2))
        assert path.read_bytes() == begun
        with pytest.raises(ValueError, match="is closed; make another to continue it"):
            recorder.record(0)

    def test_reading_what_is_not_there(self, path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_records(path)

    @pytest.mark.parametrize("line", ["", "{}", "[1]", '{"step":0,"layer":"fc1","points":{}}'])
    def test_a_damaged_line(self, path: Path, topology: Any, line: str) -> None:
        recorded(path, topology, 0)
        lines = path.read_text().splitlines()
        lines[1] = line
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=r"line 2 is damaged .*; remove it"):
            read_records(path)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, topology: Any) -> Any:
    path = tmp_path_factory.mktemp("series") / "results.jsonl"
    with Recorder(path, topology, MEASURES, **OPTIONS) as recorder:
        for run in (0, 1):
            for step in (50, 0):
                recorder.record(step, run=run, name="a" if run else "b")
    return read_records(path)


class TestSeries:
    def test_a_run_is_told_by_its_label(self, recording: Any) -> None:
        steps, values, stderrs = recording.series("phi", "fc1", run=1)
        assert steps.tolist() == [0, 50]
        assert steps.dtype == np.int64
        assert values.dtype == stderrs.dtype == np.float64
        assert values.shape == stderrs.shape == (2,)
        assert recording.series("phi", "fc1", run=1, name="a")[0].tolist() == [0, 50]

    def test_refusals(self, recording: Any) -> None:
        with pytest.raises(ValueError, match=r"step 0 occurs more than once, with {'run': 0"):
            recording.series("phi", "fc1")
        with pytest.raises(ValueError, match="measure 'ph' was not recorded; did you mean 'phi'"):
            recording.series("ph", "fc1")
        with pytest.raises(UnknownLayerError, match="layer 'fc3' was not recorded; did you mean"):
            recording.series("phi", "fc3")
        with pytest.raises(ValueError, match="no row has run=2; known: '0', '1'"):
            recording.series("phi", "fc1", run=2)
        with pytest.raises(ValueError, match="no row has name='a'; known: 'b'"):
            recording.series("phi", "fc1", run=0, name="a")
        with pytest.raises(ValueError, match="no row has seed=2; there are none"):
            recording.series("phi", "fc1", seed=2)

    def test_nothing_recorded_yet(self, path: Path, topology: Any) -> None:
        Recorder(path, topology, MEASURES, **OPTIONS).close()
        recording = read_records(path)
        assert recording.rows == ()
        assert [part.size for part in recording.series("ei", "fc1")] == [0, 0, 0]

    def test_every_field_of_a_measurement_that_judges_it(self, recording: Any) -> None:
        assert FIELDS == (
            "value", "stderr", "n_samples", "coverage", "converged", "out_of_range", "method",
            "singletons", "n_states", "saturation", "upper_bound", "adequacy", "reliable",
        )  # fmt: skip
