"""An analysis as flat records, a data frame and a table: every value with what judges it."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest
from conftest import require_peer
from graphs import two_layer_model
from rich.console import Console

from onnx_ei import MissingDependencyError, analyze
from onnx_ei.analysis import Analysis, Row
from onnx_ei.results import Measurement
from onnx_ei.tables import remarks, run_table

# the ranges here are the defaults, which drop samples, and few samples are what it is about
pytestmark = pytest.mark.filterwarnings("ignore::onnx_ei.errors.OnnxEiWarning")

LAYER = ["model", "layer_id", "layer", "span", "in_layer", "op_type", "kind", "in_activation",
         "out_activation", "n_inputs", "n_outputs", "batched", "status", "reason"]  # fmt: skip
ORIGIN = ["provider", "device", "tf32", "cpu_nodes", "cpu_node_types", "seed", "seconds",
          "peak_memory", "model_sha256", "opset", "producer", "definitions", "onnx_ei_version",
          "onnx_version", "onnxruntime_version", "numba_version", "numpy_version"]  # fmt: skip
EI = ["ei", "ei_stderr", "ei_low", "ei_high", "ei_method", "ei_estimator", "ei_n_samples",
      "ei_out_of_range", "ei_converged", "ei_coverage", "ei_adequacy", "ei_reliable",
      "ei_singletons", "ei_saturation", "ei_upper_bound", "ei_in_states", "ei_out_states",
      "ei_joint_states", "ei_notes"]  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Analysis:
    return analyze(two_layer_model(), ["ei", "ei_parts"], samples=3000, in_bins=16, out_bins=16)


def with_gap(found: Analysis) -> Analysis:
    """The same with a layer before it that could not be measured."""
    gap = Row(
        layer="gap", op_type="Loop", kind="other", in_activation=None, out_activation=None,
        in_shape=(), out_shape=(), reason="no span",
    )  # fmt: skip
    return Analysis(model="m", rows=(gap, *found.rows))


class TestRecords:
    def test_the_columns(self, found: Analysis) -> None:
        parts = [re.sub("^ei", "ei_parts", name) for name in EI]
        assert [list(record) for record in found.to_records()] == [
            [*LAYER, *EI, *parts, *ORIGIN]
        ] * 2

    def test_the_values_are_the_measurements(self, found: Analysis) -> None:
        for record, row in zip(found.to_records(), found.rows, strict=True):
            assert record["layer"] == row.layer
            for name, measured in row.measurements.items():
                assert record[name] == measured.value
                assert (record[f"{name}_low"], record[f"{name}_high"]) == measured.interval()
                for field in ("stderr", "method", "coverage", "adequacy", "reliable", "singletons"):
                    assert record[f"{name}_{field}"] == getattr(measured, field)
            assert record["ei_joint_states"] == row.measurements["ei"].n_states[2]  # type: ignore[index]
            assert record["ei_notes"] == "; ".join(row.measurements["ei"].notes)
            assert record["ei_parts_notes"] is None

    def test_are_plain(self, found: Analysis) -> None:
        kinds = {type(value) for record in found.to_records() for value in record.values()}
        assert kinds <= {str, int, float, bool, type(None)}

    def test_an_unreliable_value_is_marked(self) -> None:
        coarse = {"samples": 200, "in_bins": 64, "out_bins": 64}
        records = analyze(two_layer_model(), ["ei"], **coarse).to_records()
        assert [record["ei_reliable"] for record in records] == [False, False]
        assert [record["ei_adequacy"] for record in records] == ["unreliable"] * 2

    def test_a_layer_without_values_has_the_same_columns(self, found: Analysis) -> None:
        records = with_gap(found).to_records()
        assert [record["reason"] for record in records] == ["no span", None, None]
        assert records[0]["ei"] is records[0]["ei_parts_stderr"] is None
        assert len({tuple(record) for record in records}) == 1

    def test_tuples_and_groups_have_their_index_in_the_name(self) -> None:
        groups = [((0,), (0,)), ((0, 1), (1,))]
        names = ["vector_and_pairwise_ei", "eis_between_groups"]
        analysis = analyze(two_layer_model(), names, "fc1", samples=500, groups=groups)
        (record,) = analysis.to_records()
        of_groups = analysis.rows[0].measurements["eis_between_groups"]
        assert [record[f"eis_between_groups[{i}]"] for i in range(2)] == of_groups.value
        assert [record[f"eis_between_groups[{i}]_reliable"] for i in range(2)] == of_groups.reliable
        assert [record[f"eis_between_groups[{i}]_joint_states"] for i in range(2)] == [
            states[2]  # type: ignore[index]
            for states in of_groups.n_states  # type: ignore[union-attr]
        ]
        assert record["vector_and_pairwise_ei[1]_stderr"] is not None
        assert record["vector_and_pairwise_ei_coverage"] is not None

    def test_chosen_measures(self, found: Analysis) -> None:
        assert "ei" not in found.to_records(["ei_parts"])[0]
        assert "ei_parts" not in found.to_records("ei")[0]
        with pytest.raises(ValueError, match="measure 'ei_part' was not taken; did you mean 'ei_p"):
            found.to_records(["ei_part"])

    def test_a_matrix_is_no_scalar(self) -> None:
        names = ["ei", "ei_parts_matrix"]
        analysis = analyze(two_layer_model(), names, "fc1", samples=200)
        message = (
            r"ei_parts_matrix of layer 'fc1' is a matrix, and a record holds single numbers; name "
            r"the other measures, or read row.measurements\['ei_parts_matrix'\].value"
        )
        with pytest.raises(ValueError, match=message):
            analysis.to_records()
        with pytest.raises(ValueError, match="single numbers; or read row"):
            analysis.to_records(["ei_parts_matrix"])
        assert analysis.to_records(["ei"])[0]["ei"] is not None

    def test_nothing_measured(self) -> None:
        assert Analysis(model="m", rows=()).to_records() == []


class TestPandas:
    def test_numbers_are_numbers(self, found: Analysis) -> None:
        require_peer("pandas")
        frame = found.to_pandas()
        kinds = frame.dtypes.astype(str).to_dict()
        for column, kind in {
            "ei": "float64",
            "ei_low": "float64",
            "ei_n_samples": "int64",
            "ei_singletons": "int64",
            "ei_reliable": "bool",
            "batched": "bool",
            "n_inputs": "int64",
            "ei_parts_coverage": "float64",
        }.items():
            assert kinds[column] == kind, column
        assert frame.layer.tolist() == ["fc1", "fc2"]
        assert frame.ei.tolist() == [row.measurements["ei"].value for row in found.rows]
        assert frame.ei_parts_adequacy.isna().all()

    def test_gaps(self, found: Analysis) -> None:
        require_peer("pandas")
        frame = with_gap(found).to_pandas()
        assert frame.ei.isna().tolist() == [True, False, False]
        assert frame.ei.dtype == "float64"
        assert frame.ei_n_samples.dtype == "Int64"
        assert frame.ei_reliable.dtype == "boolean"
        assert frame.ei_reliable.isna().tolist() == [True, False, False]

    def test_no_rows(self) -> None:
        require_peer("pandas")
        assert len(Analysis(model="m", rows=()).to_pandas()) == 0

    def test_without_pandas(self, found: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        message = r'pandas is not installed: pip install "onnx-ei\[pandas\]", or use to_records'
        with pytest.raises(MissingDependencyError, match=message):
            found.to_pandas()


def measurement(name: str, **changes: Any) -> Measurement:
    fields: dict[str, Any] = {
        "name": name, "value": 2.0, "stderr": 0.01, "n_samples": 1000, "estimator": "jackknife",
        "method": "sample", "out_of_range": 0.0, "coverage": None, "converged": None,
        "provider": "CPU", "seconds": 0.1, "seed": 0, "layer": "fc", "in_layer": "fc",
        "n_inputs": 3, "n_outputs": 2, "in_range": (0.0, 1.0), "out_range": (0.0, 1.0),
        "in_bins": 8, "out_bins": 8, "positions": "one", "batched": True,
    }  # fmt: skip
    return Measurement(**fields | changes)


def printed(*measurements: Measurement) -> tuple[str, list[str]]:
    """What the table shows, and the remarks."""
    row = Row(
        layer="fc", op_type="Gemm", kind="dense", in_activation=None, out_activation=None,
        in_shape=(1, 3), out_shape=(1, 2), n_inputs=3, n_outputs=2,
        measurements={m.name: m for m in measurements},
    )  # fmt: skip
    analysis = Analysis(model="m", rows=(row,))
    console = Console(width=200)
    with console.capture() as capture:
        console.print(run_table(analysis, [m.name for m in measurements]))
    return capture.get(), list(remarks(analysis))


class TestTable:
    @pytest.mark.parametrize(
        ("changes", "mark", "legend", "remark"),
        [
            ({"coverage": 0.94}, "~", "biased: coverage below 0.95",
             "biased: 1000 samples cover 0.94 of the joint states"),
            ({"coverage": 0.2}, "!", "unreliable: coverage below 0.5",
             "unreliable: 1000 samples cover 0.20 of the joint states"),
            ({"out_of_range": 1.0}, "!*", "unreliable: coverage below 0.5",
             "unreliable: no sample was in range"),
            ({"out_of_range": 0.2}, "*", "over 1% of the samples out of range",
             r"20.0% of the samples out of range \(0.0, 1.0\), dropped"),
            ({"converged": False}, "?", "not converged", "not converged after 1000 samples"),
        ],
    )  # fmt: skip
    def test_marks_and_what_they_mean(
        self, changes: dict[str, Any], mark: str, legend: str, remark: str
    ) -> None:
        shown, said = printed(measurement("ei", **changes))
        assert f"2.0000 ± 0.0100{mark} │" in shown
        assert f"{mark[0]} {legend}" in shown
        assert re.match(rf"{re.escape(mark[0])} fc ei: {remark}$", said[0])

    def test_nothing_to_mark(self) -> None:
        shown, said = printed(measurement("ei", coverage=1.0, converged=True))
        assert "2.0000 ± 0.0100 │" in shown
        assert not said
        assert not any(word in shown for word in ("biased", "unreliable", "converged", "exact"))

    def test_exact_values(self) -> None:
        exact = {"method": "exact", "n_samples": 0}
        shown, said = printed(
            measurement("ei_parts", stderr=1e-6, **exact),
            measurement("sensitivity", stderr=0.01, **exact),
        )
        assert "2.0000    exact │" in shown
        assert "2.0000 ± 0.0100 │" in shown
        assert "exact: right to the digits shown" in shown
        assert not said

    def test_what_can_be_said_instead_is_said_once(self) -> None:
        both = ("about 9,000 samples", "fewer bins")
        _, said = printed(
            measurement("ei", coverage=0.2, notes=("EI is at most 3 bits", *both)),
            measurement("phi", coverage=0.2, notes=("phi is at most 1 bits", *both)),
        )
        assert said == [
            "! fc ei, phi: unreliable: 1000 samples cover 0.20 of the joint states; EI is at most "
            "3 bits; phi is at most 1 bits; about 9,000 samples; fewer bins"
        ]

    def test_a_whole_analysis(self, found: Analysis) -> None:
        console = Console(width=200)
        with console.capture() as capture:
            console.print(run_table(found, ["ei", "ei_parts"]))
        marks = [row.measurements["ei"].adequacy for row in found.rows]
        assert set(marks) <= {"undersampled", "unreliable"}
        assert np.all([("~" in capture.get()) == ("undersampled" in marks)])
        assert ("!" in capture.get()) == ("unreliable" in marks)
