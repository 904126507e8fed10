"""A batch: a row for every layer, kept whatever happens, the same however it is computed."""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import bad_work
import numpy as np
import onnx
import pytest
from corpus import FILES, locate
from graphs import mixed_model, mlp, two_layer_model
from origins import missing

from onnx_ei import Analysis, OutputError, UnknownLayerError, analyze, batch
from onnx_ei._batch.appending import ResultsWriter
from onnx_ei._batch.backends import Workers
from onnx_ei._batch.running import model_files, run
from onnx_ei.analysis import describe
from onnx_ei.batching import plan_batch
from onnx_ei.resultfile import header_line, row_line
from onnx_ei.rows import model_row
from onnx_ei.topology import topology_of

QUICK: dict[str, Any] = {"samples": 1000, "in_bins": 4, "out_bins": 4}
TIMES = ("seconds", "peak_memory")
"""What differs between two runs of the same."""

pytestmark = pytest.mark.filterwarnings("ignore::onnx_ei.errors.OnnxEiWarning")


def bare(content: Any) -> Any:
    """The same without times and memory."""
    if isinstance(content, dict):
        return {name: bare(of) for name, of in content.items() if name not in TIMES}
    return [bare(of) for of in content] if isinstance(content, list) else content


def table(path: Path) -> list[Any]:
    """All that a results file says, but for times and memory."""
    return [bare(row.to_dict()) for row in Analysis.load(path).rows]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx.save(two_layer_model(), folder / "a.onnx")
    (folder / "deeper").mkdir()
    onnx.save(mixed_model(), folder / "deeper" / "b.onnx")
    onnx.save(mlp(), folder / "c.onnx")
    return folder


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process."""
    path = tmp_path_factory.mktemp("whole") / "results.jsonl"
    batch(models, path, ["ei", "phi"], **QUICK)
    return path


class TestRows:
    def test_are_the_layers_that_describe_lists(self, whole: Path, models: Path) -> None:
        listed = [
            (path, row.layer)
            for path in sorted(model_files([models]))
            for row in describe(topology_of(path)).rows
        ]
        found = Analysis.load(whole)
        assert [(row.model, row.layer) for row in found.rows] == listed
        assert {row.status for row in found.rows} == {"measured", "unmeasurable"}

    def test_are_what_analyze_gives(self, whole: Path, models: Path) -> None:
        here = analyze(model_files([models]), ["ei", "phi"], **QUICK)
        there = {(row.model, row.layer): row for row in Analysis.load(whole).rows}
        for row in here.rows:
            other = there[row.model, row.layer]
            assert bare(row.to_dict()["measurements"]) == bare(other.to_dict()["measurements"])
            assert (row.reason, row.status) == (other.reason, other.status)

    def test_two_jobs_give_the_same_to_the_bit(
        self, whole: Path, models: Path, tmp_path: Path
    ) -> None:
        batch(models, tmp_path / "r.jsonl", ["ei", "phi"], jobs=2, **QUICK)
        assert table(tmp_path / "r.jsonl") == table(whole)

    def test_say_where_they_come_from(self, whole: Path) -> None:
        for row in Analysis.load(whole).rows:
            assert missing(row) == []
            assert row.provenance["peak_memory"] > 10_000_000

    def test_each_is_told_as_it_is_written(self, models: Path, tmp_path: Path) -> None:
        told: list[tuple[str, int, int]] = []
        path = tmp_path / "r.jsonl"

        def note(row: Any, count: int, total: int) -> None:
            told.append((row.layer, count, total))
            assert path.read_bytes().count(b"\n") == count + 1

        batch(models / "a.onnx", path, ["ei"], on_row=note, **QUICK)
        assert told == [("fc1", 1, 2), ("fc2", 2, 2)]


def test_ten_models_of_other_peoples_packages(tmp_path: Path) -> None:
    files = [f for f in FILES if f.layers <= 16 and not (f.shapes or f.fixed or f.hidden)]
    paths = sorted({locate(file) for file in files}, key=lambda path: path.stat().st_size)[:10]
    assert len(paths) == 10
    found = batch(paths, tmp_path / "r.jsonl", ["ei"], samples=50, in_bins=2, out_bins=2)
    for path in paths:
        listed = describe(topology_of(path)).rows
        rows = found.of(str(path)).rows
        assert [(row.layer, row.reason) for row in rows] == [
            (row.layer, row.reason) for row in listed
        ]
    assert {row.status for row in found.rows} == {"measured", "unmeasurable"}


class TestModels:
    def test_what_they_may_be(self, models: Path, tmp_path: Path) -> None:
        inside = [str(models / name) for name in ("a.onnx", "c.onnx", "deeper/b.onnx")]
        assert model_files([models]) == model_files([models, inside[0]]) == inside
        with pytest.raises(TypeError, match="a batch is of files, got ModelProto; save the model"):
            batch([mlp()], tmp_path / "r.jsonl")  # type: ignore[list-item]
        with pytest.raises(ValueError, match=r"holds no \.onnx file"):
            batch(tmp_path, tmp_path / "r.jsonl")
        with pytest.raises(ValueError, match="no models are named"):
            batch([], tmp_path / "r.jsonl")

    def test_files_in_folders_by_a_pattern(self, models: Path, tmp_path: Path) -> None:
        def names(*given: Any) -> list[str]:
            return [str(Path(file).relative_to(models)) for file in model_files(*given)]

        assert names([models], "*.onnx") == ["a.onnx", "c.onnx"]
        assert names([models], "**/[bc].onnx") == ["c.onnx", "deeper/b.onnx"]
        assert names([models, models / "a.onnx"], "deeper/*") == ["deeper/b.onnx", "a.onnx"]
        path = tmp_path / "r.jsonl"
        for message, glob in {
            r"holds no file that '\*.pt' matches": "*.pt",
            r"glob: '/\*' is no pattern of files in a folder: Non-relative": "/*",
            "glob: '' is no pattern of files in a folder": "",
        }.items():
            with pytest.raises(ValueError, match=message):
                batch(models, path, glob=glob)
        with pytest.raises(
            ValueError, match=r"glob: '\*' is of files in folders, and no folder is named"
        ):
            batch(models / "a.onnx", path, glob="*")
        found = batch(models, path, ["ei"], glob="a*", **QUICK)
        assert {Path(row.model).name for row in found.rows} == {"a.onnx"}

    def test_one_that_cannot_be_read_is_a_row_and_is_tried_again(
        self, models: Path, tmp_path: Path
    ) -> None:
        late = tmp_path / "late.onnx"
        path = tmp_path / "r.jsonl"
        found = batch([late, models / "a.onnx"], path, ["ei"], **QUICK)
        assert [(r.layer, r.status) for r in found.rows if r.model == str(late)] == [("", "failed")]
        shutil.copy(models / "c.onnx", late)
        found = batch([late, models / "a.onnx"], path, ["ei"], resume=True, **QUICK)
        assert [r.status for r in found.rows] == ["measured"] * 4

    def test_one_that_hangs_or_dies_costs_its_own_rows(self, models: Path, tmp_path: Path) -> None:
        for name in ("hang.onnx", "die.onnx", "sound.onnx"):
            shutil.copy(models / "a.onnx", tmp_path / name)
        run(self.plan(tmp_path, opener=partial(bad_work.opened), timeout=12.0))
        rows = Analysis.load(tmp_path / "r.jsonl").rows
        assert [(Path(r.model).name, r.layer, r.status) for r in rows] == [
            ("die.onnx", "", "crashed"),
            ("hang.onnx", "", "timeout"),
            ("sound.onnx", "fc1", "measured"),
            ("sound.onnx", "fc2", "measured"),
        ]
        for row in rows:  # who opens a model knows its opset
            assert missing(row) == ([] if row.layer else ["opset"])
        assert rows[1].seconds == pytest.approx(12.0, abs=2.0)

    def test_a_layer_that_hangs_costs_its_own_row(self, models: Path, tmp_path: Path) -> None:
        shutil.copy(models / "a.onnx", tmp_path)
        hanging = {"activation": bad_work.hanging_activation}
        run(self.plan(tmp_path, opener=partial(topology_of), timeout=12.0, **hanging))
        first, second = Analysis.load(tmp_path / "r.jsonl").rows
        assert (first.layer, first.status) == ("fc1", "measured")
        assert (second.layer, second.status) == ("fc2", "timeout")
        assert second.reason == "not done after 12 s (--timeout), and ended"
        assert (second.op_type, second.n_inputs) == ("MatMul", 4)
        assert missing(first) == missing(second) == []
        assert second.seconds == pytest.approx(12.0, abs=2.0)
        assert second.provenance["peak_memory"] > 10_000_000

    @staticmethod
    def plan(folder: Path, *, opener: Any, timeout: float, **options: Any) -> Any:
        return plan_batch(
            folder, folder / "r.jsonl", ["ei"], None, exclude=None, opener=opener,
            identity={"input": None}, input_range=None, resume=False, workers=Workers(),
            timeout=timeout, max_memory=None,
            matrices=None, options={**QUICK, **options},
        )  # fmt: skip


class TestResuming:
    def test_from_every_line_and_every_half_line(
        self, whole: Path, models: Path, tmp_path: Path
    ) -> None:
        content = whole.read_bytes()
        ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
        path = tmp_path / "r.jsonl"
        # within the header, within a row, a row's end but one byte
        for cut in (7, ends[2] + 100, ends[5] - 1):
            path.write_bytes(content[:cut])
            batch(models, path, ["ei", "phi"], resume=True, **QUICK)
            assert table(path) == table(whole)
            assert path.read_bytes().count(b"\n") == len(ends)

    def test_what_is_done_is_not_measured_again(
        self, whole: Path, models: Path, tmp_path: Path
    ) -> None:
        shutil.copy(whole, tmp_path / "r.jsonl")
        told: list[Any] = []
        batch(
            models, tmp_path / "r.jsonl", ["ei", "phi"], resume=True,
            on_row=lambda *of: told.append(of), **QUICK,
        )  # fmt: skip
        assert told == []
        assert (tmp_path / "r.jsonl").read_bytes() == whole.read_bytes()

    def test_a_model_is_known_by_its_content(self, models: Path, tmp_path: Path) -> None:
        path, told = tmp_path / "r.jsonl", []
        first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
        shutil.copy(models / "a.onnx", first)
        batch(first, path, ["ei"], **QUICK)
        # moved: the rows there are its rows
        first.rename(second)
        batch(second, path, ["ei"], resume=True, on_row=lambda *of: told.append(of), **QUICK)
        assert told == []
        # copied: its own rows, the same values
        shutil.copy(second, first)
        found = batch([first, second], path, ["ei"], resume=True, **QUICK)
        assert [(Path(r.model).name, r.layer) for r in found.rows] == [
            ("first.onnx", "fc1"), ("first.onnx", "fc2"),
            ("second.onnx", "fc1"), ("second.onnx", "fc2"),
        ]  # fmt: skip
        # written anew: another model
        shutil.copy(models / "c.onnx", first)
        found = batch([first, second], path, ["ei"], resume=True, **QUICK)
        assert len(found.rows) == 4
        fresh = analyze(first, ["ei"], **QUICK)
        assert [r.measurements["ei"].value for r in found.of(str(first)).rows] == [
            r.measurements["ei"].value for r in fresh.rows
        ]

    def test_spans_are_rows_with_keys_of_their_own(self, models: Path, tmp_path: Path) -> None:
        path, told = tmp_path / "r.jsonl", []
        given: dict[str, Any] = {"resume": True, "on_row": lambda *of: told.append(of[0].name)}
        batch(models, path, ["ei"], **QUICK)
        # the layers are there already
        batch(models, path, ["ei"], spans=["net=fc1:fc2"], **given, **QUICK)
        assert told == ["net", "net"]
        # the same span by another name: not measured again
        found = batch(models, path, ["ei"], spans=["all=fc1:fc2", "net=fc1:fc2"], **given, **QUICK)
        assert told == ["net", "net", "all", "all"]
        whole = analyze(
            model_files([models]), ["ei"], spans=["all=fc1:fc2", "net=fc1:fc2"], **QUICK
        )
        assert [bare(row.to_dict()["measurements"]) for row in found.rows] == [
            bare(row.to_dict()["measurements"]) for row in whole.rows
        ]
        assert [(row.model, row.place) for row in found.rows] == [
            (row.model, row.place) for row in whole.rows
        ]
        rows = [row for row in found.rows if row.model == str(models / "a.onnx")]
        assert rows[2].seconds == rows[3].seconds
        keys = [row_line(row, header_line(["ei"], found.parameters))["key"] for row in rows]
        assert len(set(keys)) == 3
        assert keys[2] == keys[3]
        # the same name for another span: it takes the place of the first
        found = batch(models, path, ["ei"], spans="net=fc2:fc2", **given, **QUICK)
        spans = [(row.name, row.in_layer) for row in found.rows if row.span is not None]
        assert spans == [("all", "fc1"), ("net", "fc2")] * 2
        assert path.read_bytes().count(b"\n") == len(found.rows) + 1

    def test_a_row_that_failed_and_was_measured_is_there_once(
        self, models: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "r.jsonl"
        shutil.copy(models / "a.onnx", tmp_path / "a.onnx")
        batch(tmp_path / "a.onnx", path, ["ei"], **QUICK)
        found = Analysis.load(path)
        failed = replace(found.rows[0], reason="too long", failure="timeout", measurements={})
        replace(found, rows=(failed, found.rows[1])).to_jsonl(path)
        (summed,) = Analysis.load(path).summary()
        assert (summed["measured"], summed["failed"]) == (1, 1)
        done = batch(tmp_path / "a.onnx", path, ["ei"], resume=True, **QUICK)
        assert [bare(row.to_dict()) for row in done.rows] == [bare(r.to_dict()) for r in found.rows]
        assert path.read_bytes().count(b"\n") == 3

    def test_another_run_is_refused_and_left_alone(
        self, whole: Path, models: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "r.jsonl"
        shutil.copy(whole, path)
        for message, options in {
            "is there already; resume it": {},
            "was measured with seed=0, not 1; continue": {"resume": True, "seed": 1},
            "was measured with in_bins=4, not 8": {"resume": True, "in_bins": 8},
            "was measured with matrices=": {"resume": True, "matrices": tmp_path / "m"},
        }.items():
            with pytest.raises(ValueError, match=message):
                batch(models, path, ["ei", "phi"], **{**QUICK, **options})
        with pytest.raises(ValueError, match="was measured with measures="):
            batch(models, path, ["ei"], resume=True, **QUICK)
        other = whole.read_bytes().replace(b'"definitions":1', b'"definitions":0')
        path.write_bytes(other)
        with pytest.raises(
            ValueError, match="holds values of version 0 of the measures' definitions"
        ):
            batch(models, path, ["ei", "phi"], resume=True, **QUICK)
        assert path.read_bytes() == other
        path.write_text("notes\n")
        with pytest.raises(ValueError, match="is no results file"):
            batch(models, path, ["ei", "phi"], resume=True, **QUICK)
        assert path.read_text() == "notes\n"


class TestArguments:
    def test_bad_ones_leave_no_file(self, models: Path, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        for message, options in {
            "batch has no option 'in_bin'; did you mean 'in_bins'": {"in_bin": 4},
            "timeout must be above 0 seconds, got 0": {"timeout": 0},
            "jobs must be at least 1, got 0": {"jobs": 0},
            "max_memory must be at least 1, got 0": {"max_memory": 0},
            "in_range must be finite with lower < upper": {"input_range": (1, 0)},
            "no layer of any model matches 'fc9'; did you mean 'fc": {"layers": "fc9"},
            "no layer of any model matches 'convolution'": {"exclude": ["convolution"]},
            "span 'fc1:fc9': no layer matches 'fc9'": {"spans": "fc1:fc9"},
            "span 'fc1:conv': no model has both of its ends": {"spans": "fc1:conv"},
            "a span is a pair of layers": {"spans": "fc1"},
        }.items():
            with pytest.raises((TypeError, ValueError, UnknownLayerError), match=message):
                batch(models, path, **options)
        assert not path.exists()

    def test_a_place_that_cannot_be_written(self, models: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot be written: there is no folder"):
            batch(models, tmp_path / "no" / "r.jsonl")
        with pytest.raises(ValueError, match="cannot be written: it is a folder"):
            batch(models, tmp_path)
        if Path("/proc/self").exists():  # even root makes no files there
            with pytest.raises(ValueError, match="cannot be written: it is no ordinary file"):
                batch(models, "/dev/full")
            with pytest.raises(ValueError, match=r"/proc/r\.jsonl cannot be (written|locked)"):
                batch(models, "/proc/r.jsonl")

    def test_matrices(self, models: Path, tmp_path: Path) -> None:
        found = batch(
            models / "a.onnx", tmp_path / "r.jsonl", ["ei_parts"], "fc1",
            matrices=tmp_path / "matrices", **QUICK,
        )  # fmt: skip
        (row,) = found.rows
        assert list(row.measurements) == ["ei_parts"]
        with np.load(tmp_path / "matrices" / row.provenance["matrices"]) as saved:
            matrix, errors = saved["ei_parts_matrix"], saved["ei_parts_matrix_stderr"]
            assert saved["sensitivity_matrix"].shape == matrix.shape == errors.shape == (3, 4)
        batch(
            models / "a.onnx", tmp_path / "r.jsonl", ["ei_parts"], "fc1", spans="a/b=fc1:fc2",
            matrices=tmp_path / "matrices", resume=True, **QUICK,
        )  # fmt: skip
        assert [file.name for file in sorted((tmp_path / "matrices").rglob("*.npz"))] == [
            "0000-fc1.npz", "span-a%2Fb.npz",
        ]  # fmt: skip
        alone = analyze(models / "a.onnx", ["ei_parts_matrix"], "fc1", **QUICK)
        assert np.array_equal(matrix, alone.rows[0].measurements["ei_parts_matrix"].value)  # type: ignore[arg-type]


class TestWriter:
    header = header_line(["ei"], {"seed": 0})
    row = model_row("m.onnx", "it is a test")
    other = model_row("n.onnx", "it is one more")

    def test_a_second_one_is_refused_until_the_first_is_closed(self, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        with ResultsWriter(path, self.header) as writer:
            writer.append(self.row)
            with pytest.raises(
                ValueError, match="is being written by another process; wait for it"
            ):
                ResultsWriter(path, self.header, resume=True)
        with ResultsWriter(path, self.header, resume=True) as writer:
            writer.append(self.other)
        assert path.read_bytes().count(b"\n") == 3

    def test_a_full_disk_is_an_error_and_the_file_resumes(self, tmp_path: Path) -> None:
        path, before = tmp_path / "r.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
        long = model_row("m.onnx", "x" * 3000)
        with ResultsWriter(path, self.header) as writer:
            writer.append(self.row)
            whole = path.read_bytes()
            # the system itself cuts the line off, in the middle
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 1000, before[1]))
            try:
                with pytest.raises(
                    OutputError, match="every row before this one is safe: make room"
                ):
                    writer.append(long)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_bytes() == whole
        with ResultsWriter(path, self.header, resume=True) as writer:
            writer.append(long)
        assert path.read_bytes().count(b"\n") == 2  # the row of the same model was replaced
        assert [row.reason for row in Analysis.load(path).rows] == ["x" * 3000]

    def test_a_line_is_on_the_disk_before_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes = []
        real = os.fsync

        def noted(file: int) -> None:
            real(file)
            sizes.append(os.fstat(file).st_size)

        monkeypatch.setattr("os.fsync", noted)
        with ResultsWriter(tmp_path / "r.jsonl", self.header) as writer:
            writer.append(self.row)
            writer.append(self.other)
        lines = (tmp_path / "r.jsonl").read_bytes().splitlines(keepends=True)
        assert sizes == [len(b"".join(lines[:n])) for n in (1, 2, 3)]

    def test_a_line_that_was_interrupted_is_taken_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(_: int) -> None:
            raise KeyboardInterrupt

        path = tmp_path / "r.jsonl"
        with ResultsWriter(path, self.header) as writer:
            writer.append(self.row)
            whole = path.read_bytes()
            with monkeypatch.context() as patched:
                patched.setattr("os.fsync", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    writer.append(self.row)
            assert path.read_bytes() == whole
            writer.append(self.row)

    def test_rows_that_were_measured_again_are_there_once(self, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        again = model_row("m.onnx", "it failed in another way")
        with ResultsWriter(path, self.header) as writer:
            writer.append(self.row)
            writer.append(self.other)
        first = path.read_bytes().splitlines(keepends=True)
        with pytest.raises(KeyboardInterrupt):
            self.interrupted(path, again)
        # a run that did not come to its end leaves both, and every reader takes the later one
        lines = path.read_bytes().splitlines(keepends=True)
        assert lines[:3] == first
        assert len(lines) == 4
        found = Analysis.load(path)
        assert [row.reason for row in found.rows] == [again.reason, self.other.reason]
        assert [record["failed"] for record in found.summary()] == [1, 1]
        assert len(found.to_records()) == len(found.merge(found).rows) == 2
        with ResultsWriter(path, self.header, resume=True) as writer:
            assert path.read_bytes().splitlines(keepends=True) == lines  # nothing was written
            writer.append(model_row("o.onnx", "it is the last"))
        assert path.read_bytes().splitlines(keepends=True)[:-1] == [lines[0], lines[2], lines[3]]
        assert len(Analysis.load(path).rows) == 3

    def interrupted(self, path: Path, row: Any) -> None:
        with ResultsWriter(path, self.header, resume=True) as writer:
            writer.append(row)
            raise KeyboardInterrupt

    def test_a_file_that_cannot_be_made_shorter_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        path = tmp_path / "r.jsonl"
        monkeypatch.setattr("os.replace", full)
        with ResultsWriter(path, self.header) as writer:
            writer.append(self.row)
            writer.append(self.row)
        assert path.read_bytes().count(b"\n") == 3
        assert len(Analysis.load(path).rows) == 1
        assert sorted(file.name for file in tmp_path.iterdir()) == ["r.jsonl", "r.jsonl.lock"]

    def test_keys_say_what_decides_a_value(self) -> None:
        other = header_line(["ei"], {"seed": 1})
        keys = {row_line(self.row, header)["key"] for header in (self.header, other)}
        assert len(keys) == 2
