"""Analyses written, read back, merged, compared, summed up: nothing is lost or made up."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import require_peer
from graphs import external, mixed_model, mlp, two_layer_model
from origins import missing

import onnx_ei
from onnx_ei import (
    Analysis,
    BackendError,
    MissingDependencyError,
    ModelError,
    UnknownLayerError,
    analyze,
)
from onnx_ei.analysis import describe
from onnx_ei.provenance import DEFINITIONS, content_hash, file_digest, model_facts, plain
from onnx_ei.results import Measurement
from onnx_ei.rows import model_row
from onnx_ei.topology import topology_of

QUICK = {"samples": 2000, "in_bins": 4, "out_bins": 4}

pytestmark = pytest.mark.filterwarnings("ignore::onnx_ei.errors.OnnxEiWarning")


def saved(path: Path, model: onnx.ModelProto) -> str:
    onnx.save(model, path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    saved(made / "a.onnx", two_layer_model())
    saved(made / "b.onnx", mixed_model())
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> Analysis:
    return analyze([folder / "a.onnx", folder / "b.onnx"], ["ei", "phi"], **QUICK)


def _refuse_two(values: Any) -> Any:
    """Take the place of an activation, and fail for two units."""
    if values.shape[-1] == 2:
        raise BackendError("two are too few")
    return values


class TestAnalyze:
    def test_the_rows_of_several_models_are_those_that_describe_lists(
        self, found: Analysis, folder: Path
    ) -> None:
        listed = [
            (str(path), row.layer)
            for path in (folder / "a.onnx", folder / "b.onnx")
            for row in describe(topology_of(path)).rows
        ]
        assert [(row.model, row.layer) for row in found.rows] == listed
        assert [row.status for row in found.rows] == ["measured"] * 5 + ["unmeasurable"]
        assert [row.layer_id for row in found.rows] == [0, 1, 0, 1, 2, 3]
        assert found.model == "2 models"

    def test_a_model_that_cannot_be_read_is_a_row_among_several_and_an_error_alone(
        self, folder: Path
    ) -> None:
        lost = folder / "lost.onnx"
        several = analyze([lost, folder / "a.onnx"], ["ei"], **QUICK)
        assert [(r.layer, r.status) for r in several.rows] == [
            ("", "failed"), ("fc1", "measured"), ("fc2", "measured"),
        ]  # fmt: skip
        assert "lost.onnx" in str(several.rows[0].reason)
        assert several.to_records()[0]["layer"] is None
        with pytest.raises(ModelError, match=r"lost\.onnx"):
            analyze(lost, ["ei"], **QUICK)

    def test_excluded_layers(self, folder: Path) -> None:
        left = analyze(folder / "b.onnx", ["ei"], exclude=["conv*", "quantised"], **QUICK)
        assert [row.layer for row in left.rows] == ["pool", "fc"]
        assert [row.layer_id for row in left.rows] == [1, 2]

    def test_patterns_that_match_nothing(self, folder: Path) -> None:
        with pytest.raises(UnknownLayerError, match="no layer matches 'fc9'; did you mean 'fc"):
            analyze(folder / "a.onnx", exclude="fc9")
        both = [folder / "a.onnx", folder / "b.onnx"]
        assert [r.layer for r in analyze(both, ["ei"], "fc1", **QUICK).rows] == ["fc1"]
        with pytest.raises(UnknownLayerError, match="no layer of 2 models matches 'fc9'"):
            analyze(both, ["ei"], "fc9", **QUICK)

    def test_an_unknown_option_or_measure(self) -> None:
        with pytest.raises(
            TypeError, match="analyze has no option 'in_bin'; did you mean 'in_bins"
        ):
            analyze(mlp(), in_bin=3)
        with pytest.raises(ValueError, match="'eii'"):
            analyze(mlp(), ["eii"])

    def test_equal_names_are_told_apart(self) -> None:
        twice = analyze([mlp(), mlp()], ["ei"], **QUICK)
        assert list(dict.fromkeys(row.model for row in twice.rows)) == [
            "ModelProto", "ModelProto #2",
        ]  # fmt: skip

    def test_every_kind_of_row_is_complete(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "text.onnx").write_text("no model")
        broken = saved(tmp_path / "late.onnx", two_layer_model(second=np.zeros((4, 2), np.float32)))
        options = {"activation": _refuse_two, **QUICK}
        found = analyze([folder / "b.onnx", tmp_path / "text.onnx", broken], ["ei"], **options)
        kinds = {row.status for row in found.rows}
        assert kinds == {"measured", "unmeasurable", "failed"}
        for row in found.rows:
            assert missing(row) == ([] if row.layer else ["opset"])
            assert row.provenance["parameters"] == found.parameters
            assert row.provenance["parameters"]["activation"] == "_refuse_two"
        text = next(row for row in found.rows if row.model.endswith("text.onnx"))
        assert text.provenance["model_sha256"] == file_digest(text.model)

    def test_every_row_says_where_it_comes_from(self, found: Analysis, folder: Path) -> None:
        for row in found.rows:
            known = row.provenance
            assert known["model_sha256"] == hashlib.sha256(Path(row.model).read_bytes()).hexdigest()
            assert (known["opset"], known["seed"], known["definitions"]) == (18, 0, DEFINITIONS)
            assert known["versions"]["onnx_ei"] == onnx_ei.__version__
            assert known["versions"]["numpy"] == np.__version__
            assert known["device"]
            assert known["peak_memory"] > 10_000_000
            assert row.seconds is not None
        record = found.to_records()[0]
        assert record["onnxruntime_version"] == onnxruntime.__version__
        assert record["provider"] == "CPUExecutionProvider"
        assert record["status"] == "measured"


class TestProvenance:
    def test_weights_beside_the_file_are_part_of_its_hash(self, tmp_path: Path) -> None:
        path = tmp_path / "m.onnx"
        external(path, "w.bin")
        (tmp_path / "w.bin").write_bytes(np.ones(12, np.float32).tobytes())
        first = content_hash(path)
        (tmp_path / "w.bin").write_bytes(np.zeros(12, np.float32).tobytes())
        assert content_hash(path) != first != file_digest(path)
        (tmp_path / "w.bin").unlink()
        with pytest.raises(ModelError, match=r"m\.onnx cannot be read: .*w\.bin"):
            content_hash(path)

    def test_what_is_no_model_has_a_hash(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(b"nothing of the kind")
        assert content_hash(tmp_path / "m.onnx") == file_digest(tmp_path / "m.onnx")

    def test_a_model_in_memory(self) -> None:
        assert content_hash(mlp()) == content_hash(mlp()) != content_hash(mlp("Tanh"))
        proto = mlp()
        proto.producer_name, proto.producer_version = "maker", "1.2"
        facts = model_facts(topology_of(proto), None)
        assert facts == {"model_sha256": None, "opset": 18, "producer": "maker 1.2"}

    def test_parameters_become_plain(self) -> None:
        assert plain(np.arange(3)).startswith("int64 (3,) sha256 ")
        assert plain(np.tanh) == "tanh"
        assert plain({"a": (np.float32(0.5), True)}) == {"a": [0.5, True]}


class TestFiles:
    def test_everything_comes_back(self, found: Analysis, tmp_path: Path) -> None:
        found.to_jsonl(tmp_path / "r.jsonl")
        read = Analysis.load(tmp_path / "r.jsonl")
        assert [row.to_dict() for row in read.rows] == [row.to_dict() for row in found.rows]
        assert (read.measures, read.model) == (("ei", "phi"), "2 models")
        assert read.parameters == json.loads(json.dumps(found.parameters))
        assert read.to_records() == found.to_records()

    def test_measures_of_every_shape_come_back(self, tmp_path: Path) -> None:
        names = ["ei_parts_matrix", "vector_and_pairwise_ei", "eis_between_groups"]
        groups = [((0,), (0,)), ((0, 1), (1,))]
        found = analyze(mlp(), names, "fc1", groups=groups, **QUICK)
        found.to_jsonl(tmp_path / "r.jsonl")
        before, after = (
            a.rows[0].measurements for a in (found, Analysis.load(tmp_path / "r.jsonl"))
        )
        for name in names:
            assert type(after[name].value) is type(before[name].value)
            assert np.array_equal(after[name].value, before[name].value)  # type: ignore[arg-type]
            assert after[name].to_dict() == before[name].to_dict()
            assert after[name].n_states == before[name].n_states

    def test_a_value_that_is_no_number_comes_back_as_such(self, found: Analysis) -> None:
        known = found.rows[0].measurements["ei"].to_dict()
        assert math.isnan(Measurement.from_dict(known | {"value": None}).value)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="has unknown colour: written by another version"):
            Measurement.from_dict(known | {"colour": "red"})
        del known["seed"]
        with pytest.raises(ValueError, match="lacks seed: written by another version"):
            Measurement.from_dict(known)

    def test_csv(self, found: Analysis, tmp_path: Path) -> None:
        found.to_csv(tmp_path / "r.csv")
        with open(tmp_path / "r.csv", newline="") as file:
            read = list(csv.DictReader(file))
        for line, record in zip(read, found.to_records(), strict=True):
            assert list(line) == list(record)
            assert line["layer"] == record["layer"]
            if record["ei"] is not None:
                assert float(line["ei"]) == record["ei"]

    def test_parquet(self, found: Analysis, tmp_path: Path) -> None:
        parquet = require_parquet()
        found.to_parquet(tmp_path / "r.parquet")
        table = parquet.read_table(tmp_path / "r.parquet")
        assert table.to_pylist() == found.to_records()
        kinds = {name: str(table.schema.field(name).type) for name in table.column_names}
        assert (kinds["ei"], kinds["layer_id"], kinds["ei_reliable"]) == ("double", "int64", "bool")
        assert (kinds["layer"], kinds["reason"], kinds["producer"]) == ("string",) * 3

    def test_parquet_without_pyarrow(
        self, found: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(
            MissingDependencyError, match=r'pip install "onnx-ei\[parquet\]", or use'
        ):
            found.to_parquet(tmp_path / "r.parquet")
        assert not list(tmp_path.iterdir())

    def test_a_file_that_cannot_be_written_leaves_the_old_one(
        self, found: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "r.csv").write_text("before")
        monkeypatch.setattr("os.fsync", _full)
        with pytest.raises(OSError, match="No space left"):
            found.to_csv(tmp_path / "r.csv")
        assert [f.name for f in tmp_path.iterdir()] == ["r.csv"]
        assert (tmp_path / "r.csv").read_text() == "before"

    def test_other_files_are_refused(self, found: Analysis, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        for text, message in {
            "": "holds no whole line: nothing was measured yet",
            "half": "is no results file",
            "{}\n": "is no results file",
            '{"format":"onnx_ei recording 1"}\n': "is no results file",
            '{"format":"onnx_ei results 9"}\n': "is of the format 'onnx_ei results 9', this",
        }.items():
            path.write_text(text)
            with pytest.raises(ValueError, match=message):
                Analysis.load(path)
        found.to_jsonl(path)
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], "{broken", *lines[2:]]) + "\n")
        with pytest.raises(ValueError, match=r"line 2 is damaged .*; remove it"):
            Analysis.load(path)

    def test_a_last_line_that_was_cut_off_is_left_out(
        self, found: Analysis, tmp_path: Path
    ) -> None:
        found.to_jsonl(tmp_path / "r.jsonl")
        (tmp_path / "r.jsonl").write_bytes((tmp_path / "r.jsonl").read_bytes()[:-20])
        read = Analysis.load(tmp_path / "r.jsonl")
        assert len(read.rows) == len(found.rows) - 1
        assert read.notes == ("the last line was cut off in writing, and left out",)


def require_parquet() -> Any:
    require_peer("pyarrow")
    import pyarrow.parquet

    return pyarrow.parquet


def _full(_: int) -> None:
    raise OSError(28, "No space left on device")


class TestMerge:
    def test_parts_make_the_whole(self, found: Analysis) -> None:
        parts = [replace(found, rows=found.rows[:2]), replace(found, rows=found.rows[1:])]
        whole = parts[1].merge(parts[0])
        assert [row.to_dict() for row in whole.rows] == [row.to_dict() for row in found.rows]

    def test_what_failed_in_one_part_and_not_in_another(self, found: Analysis) -> None:
        failed = replace(found.rows[0], reason="too long", failure="timeout", measurements={})
        part = replace(found, rows=(failed,))
        for merged in (part.merge(found), found.merge(part)):
            assert [row.status for row in merged.rows] == [row.status for row in found.rows]
        unread = replace(found, rows=(model_row(found.rows[0].model, "no file"),))
        assert len(unread.merge(found).rows) == len(found.rows)

    def test_what_does_not_go_together_is_refused(self, found: Analysis) -> None:
        other = replace(found, parameters={**found.parameters, "in_bins": 8})
        with pytest.raises(ValueError, match="in_bins=4, not 8; merge parts of one run"):
            found.merge(other)
        row = found.rows[0]
        value = replace(row.measurements["ei"], value=1.5)
        changed = replace(row, measurements={**row.measurements, "ei": value})
        with pytest.raises(ValueError, match=r"layer 'fc1' of .* has two different values"):
            found.merge(replace(found, rows=(changed,)))
        namesake = replace(row, provenance={**row.provenance, "model_sha256": "0"})
        with pytest.raises(ValueError, match="two models have the name"):
            found.merge(replace(found, rows=(namesake,)))


class TestCompare:
    def test_differences_and_their_errors(self) -> None:
        first, second = (
            analyze(mlp(name), ["ei", "ei_parts"], **QUICK) for name in ("Tanh", "Sigmoid")
        )
        records = first.compare(second).to_records()
        assert [r["layer"] for r in records] == ["fc1", "fc2"]
        for record, a, b in zip(records, first.rows, second.rows, strict=True):
            for name in ("ei", "ei_parts"):
                one, two = a.measurements[name], b.measurements[name]
                assert record[f"{name}_difference"] == two.value - one.value  # type: ignore[operator]
                error = math.sqrt(one.stderr**2 + two.stderr**2)  # type: ignore[operator]
                assert record[f"{name}_difference_stderr"] == pytest.approx(error)
        assert records[0]["differs"] == "out_range (-1, 1) against (0, 1)"

    def test_exact_bounds_add(self) -> None:
        first, second = (
            analyze(mlp(n), ["ei_parts"], in_bins=4, out_bins=4) for n in ("Tanh", "Tanh")
        )
        (record, _) = first.compare(second).to_records()
        bound = first.rows[0].measurements["ei_parts"].stderr
        assert (record["ei_parts_difference"], record["differs"]) == (0.0, None)
        assert record["ei_parts_difference_stderr"] == 2 * bound  # type: ignore[operator]

    def test_layers_that_only_one_has_are_rows(self, found: Analysis, folder: Path) -> None:
        a, b = (found.of(str(folder / name)) for name in ("a.onnx", "b.onnx"))
        records = a.compare(b).to_records()
        assert len(records) == 6
        assert (records[0]["status_a"], records[0]["status_b"]) == ("measured", None)
        assert records[0]["ei_b"] is records[0]["ei_difference"] is None

    def test_several_models_are_refused(self, found: Analysis) -> None:
        with pytest.raises(ValueError, match=r"these are 2 .*; choose with Analysis\.of"):
            found.compare(found)
        with pytest.raises(ValueError, match="no model 'c' in the results; known: "):
            found.of("c")

    def test_to_files(self, tmp_path: Path) -> None:
        one = analyze(mlp(), ["ei"], **QUICK)
        compared = one.compare(one)
        compared.to_csv(tmp_path / "c.csv")
        assert len((tmp_path / "c.csv").read_text().splitlines()) == 3
        require_peer("pandas")
        assert str(compared.to_pandas().dtypes["ei_difference"]) == "float64"


def test_summary(found: Analysis) -> None:
    first, second = found.summary()
    assert (first["layers"], first["measured"], first["unmeasurable"]) == (2, 2, 0)
    assert (second["layers"], second["measured"], second["unmeasurable"]) == (4, 3, 1)
    values = [row.measurements["ei"].value for row in found.rows[:2]]
    assert first["ei"] == pytest.approx(np.mean(values))  # type: ignore[arg-type]
    assert (first["ei_layers"], first["failed"]) == (2, 0)


def test_a_data_frame_for_those_who_know_weightwatcher(found: Analysis) -> None:
    require_peer("pandas")
    frame = found.to_pandas()
    assert frame.columns[:3].tolist() == ["model", "layer_id", "layer"]
    kinds = frame.dtypes.astype(str)
    assert kinds[["layer_id", "ei", "ei_stderr", "seconds", "opset"]].tolist() == [
        "int64", "float64", "float64", "float64", "int64",
    ]  # fmt: skip
    assert len(frame) == len(found.rows)
    texts = ("model", "layer", "span", "type", "kind", "activation", "status", "reason",
             "provider", "device", "types", "sha256", "producer", "version", "method", "estimator",
             "adequacy", "notes")  # fmt: skip
    for name, kind in kinds.items():
        held = frame[name].dropna().map(type).unique().tolist()
        if str(name).endswith(texts):
            assert (kind, held in ([str], [])) == ("object", True), name
        else:  # a number or a truth value, whatever gaps there are
            assert kind in ("int64", "Int64", "float64", "bool", "boolean"), name
    assert kinds["ei_n_samples"] == "Int64"
    assert frame.groupby("model").ei.mean().notna().all()
    assert frame.set_index(["model", "layer"]).index.is_unique
    assert frame[frame.status == "measured"].ei.notna().all()
    assert frame[frame.status != "measured"].reason.notna().all()
