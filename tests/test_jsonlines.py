"""Files of JSON lines: what a crash leaves is left out, what is written is whole."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from onnx_ei import OutputError, read_records
from onnx_ei.jsonlines import Appender, JsonLines, line_of
from onnx_ei.records import RECORDING
from onnx_ei.resultfile import RESULTS, read_results

NOTES = JsonLines(noun="notes file", done="noted", version=2)
HEADER = {"format": NOTES.format, "of": "x"}


def noted(_: Mapping[str, Any], line: Any) -> tuple[str, int]:
    return line["name"], line["value"]


def read(path: Path) -> tuple[list[tuple[str, int]], bool]:
    header, entries, incomplete = NOTES.read(path, noted, lambda note: note[0])
    assert header == HEADER
    assert path.read_bytes().startswith(line_of(header) + b"".join(of.line for of in entries))
    return [entry.content for entry in entries], incomplete


def written(path: Path, *lines: Mapping[str, Any]) -> None:
    file = Appender(path, NOTES.begun(path)[1], "go on")
    for line in lines:
        file.write(line)
    file.close()


A, B = {"name": "a", "value": 1}, {"name": "b", "value": 2}


class TestReading:
    def test_a_later_line_replaces_an_earlier_one(self, tmp_path: Path) -> None:
        path = tmp_path / "n.jsonl"
        written(path, HEADER, A, B)
        assert read(path) == ([("a", 1), ("b", 2)], False)
        mask = os.umask(0o022)
        os.umask(mask)
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
        written(path, {"name": "a", "value": 3})
        header, entries, _ = NOTES.read(path, noted, lambda note: note[0])
        assert [entry.content for entry in entries] == [("b", 2), ("a", 3)]
        assert header == HEADER

    def test_of_every_cut_the_whole_lines_are_left(self, tmp_path: Path) -> None:
        path = tmp_path / "n.jsonl"
        written(path, HEADER, A, B)
        whole = path.read_bytes()
        for cut in range(len(whole) + 1):
            path.write_bytes(whole[:cut])
            lines, rest = whole[:cut].count(b"\n"), not whole[:cut].endswith(b"\n")
            length = whole[:cut].rfind(b"\n") + 1
            if lines:
                assert NOTES.begun(path) == (HEADER, length)
                assert read(path) == ([("a", 1), ("b", 2)][: lines - 1], rest)
            else:
                assert NOTES.begun(path) == (None, 0)
                with pytest.raises(ValueError, match="no whole line: nothing was noted yet"):
                    read(path)
            written(path, *[HEADER, A, B][lines:])
            assert path.read_bytes() == whole

    @pytest.mark.parametrize(
        "text", ["other", "{}\n", '{"format":"onnx_ei recording 1"}\n', "[]\n"]
    )
    def test_what_is_of_another_kind_is_refused(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "n.jsonl"
        path.write_text(text)
        for call in (lambda: NOTES.begun(path), lambda: read(path)):
            with pytest.raises(
                ValueError, match=r"is no notes file \('onnx_ei notes 2'\); choose another"
            ):
                call()
        assert path.read_text() == text

    def test_another_version_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "n.jsonl"
        path.write_bytes(line_of({"format": "onnx_ei notes 1"}))
        with pytest.raises(ValueError, match="of the format 'onnx_ei notes 1', this onnx_ei reads"):
            read(path)

    def test_a_damaged_line_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "n.jsonl"
        for damage in (b"{broken\n", b"\n", b"{}\n", b"3\n"):
            path.write_bytes(line_of(HEADER) + line_of(A) + damage + line_of(B))
            with pytest.raises(ValueError, match=r"n\.jsonl, line 3 is damaged \(.*\); remove it"):
                read(path)

    def test_recordings_and_results_are_read_alike(self, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        assert (RESULTS.format, RECORDING.format) == ("onnx_ei results 1", "onnx_ei recording 1")
        path.write_bytes(line_of({"format": RECORDING.format}))
        with pytest.raises(ValueError, match=r"is no results file \('onnx_ei results 1'\)"):
            read_results(path)
        path.write_bytes(line_of({"format": RESULTS.format}))
        with pytest.raises(ValueError, match=r"is no recording \('onnx_ei recording 1'\)"):
            read_records(path)
        path.write_bytes(line_of({"format": "onnx_ei recording 9"}))
        with pytest.raises(ValueError, match="of the format 'onnx_ei recording 9', this onnx_ei"):
            read_records(path)


class TestWriting:
    def test_a_line_that_does_not_fit_is_taken_back(self, tmp_path: Path) -> None:
        path, before = tmp_path / "n.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
        written(path, HEADER, A)
        whole = path.read_bytes()
        file = Appender(path, len(whole), "go on")
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, before[1]))
        try:
            with pytest.raises(OutputError, match=r"File too large; every row before .* and go on"):
                file.write({"name": "x" * 100, "value": 0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_bytes() == whole
        file.write(B)
        file.close()
        assert read(path) == ([("a", 1), ("b", 2)], False)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
    def test_a_disk_that_is_always_full(self, tmp_path: Path) -> None:
        link = tmp_path / "n.jsonl"
        link.symlink_to("/dev/full")
        with pytest.raises(OSError, match="Invalid argument"):  # no device can be cut
            Appender(link, 0, "go on")

    def test_two_writers_do_not_undo_each_other(self, tmp_path: Path) -> None:
        path = tmp_path / "n.jsonl"
        written(path, HEADER)
        files = [Appender(path, path.stat().st_size, "go on") for _ in range(2)]
        files[0].write(A)
        files[1].write(B)
        assert read(path) == ([("a", 1), ("b", 2)], False)
        with pytest.raises(ValueError, match="not JSON compliant"):
            files[0].write({"name": "c", "value": float("nan")})
        for file in files:
            file.close()
            assert file.closed
        with pytest.raises(ValueError, match=r"n\.jsonl is closed"):
            files[0].write(A)
        assert read(path) == ([("a", 1), ("b", 2)], False)

    def test_what_a_crash_left_is_cut_off(self, tmp_path: Path) -> None:
        path = tmp_path / "n.jsonl"
        written(path, HEADER, A)
        with open(path, "ab") as file:
            file.write(b'{"name":"b"')
        written(path, B)
        assert read(path) == ([("a", 1), ("b", 2)], False)

    def test_each_line_is_synced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []
        monkeypatch.setattr("os.fsync", lambda file: sizes.append(os.fstat(file).st_size))
        written(tmp_path / "n.jsonl", HEADER, A)
        assert sizes == [len(line_of(HEADER)), len(line_of(HEADER) + line_of(A))]
