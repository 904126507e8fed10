"""Batches on the command line: options, files, signals, and what is left after a kill."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import pytest
import typer
from graphs import mixed_model, mlp, residual, two_layer_model
from test_batching import table
from typer.testing import CliRunner

from onnx_ei import Analysis
from onnx_ei.analysis import describe
from onnx_ei.cli import app
from onnx_ei.cli_run_options import BATCH_ONLY
from onnx_ei.topology import topology_of

CHECKOUT = Path(os.environ.get("ONNX_EI_CHECKOUT", Path(__file__).parent.parent))
QUICK = ["--samples", "1000", "--bins", "4", "--measures", "ei,phi"]
# What is to be caught in the middle: every layer takes a tenth of a second or more.
SLOW = ["--samples", "300000", "--bins", "4", "--measures", "ei,phi"]


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    made = {"a": two_layer_model(), "b": mixed_model(), "c": mlp(), "d": residual()}
    for name, model in made.items():
        onnx.save(model, folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "results.jsonl"
    result = call("run", models, "-o", path, *SLOW)
    assert result.exit_code == 0, result.stderr
    assert "[13/13] " in result.stderr
    assert "fc1: ei 2." in result.stderr
    assert "4 models (means over layers, bits)" in result.stdout
    return path


def start(models: Path, output: Path, *more: object) -> subprocess.Popen[bytes]:
    arguments = ["run", models, "-o", output, *SLOW, "--resume", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "onnx_ei", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_lines(process: subprocess.Popen[bytes], path: Path, count: int) -> None:
    """Wait until a file has so many lines, or the process has ended."""
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)


def ended(process: subprocess.Popen[bytes]) -> str:
    _, errors = process.communicate(timeout=120)
    return errors.decode()


def test_every_layer_that_describe_lists_is_a_row(models: Path, whole: Path) -> None:
    count = sum(len(describe(topology_of(path)).rows) for path in models.glob("*.onnx"))
    assert len(Analysis.load(whole).rows) == count == 13


def test_killed_at_random_moments_and_resumed(models: Path, whole: Path, tmp_path: Path) -> None:
    path, dice = tmp_path / "r.jsonl", random.Random(1)
    for _ in range(3):
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        process = start(models, path)
        wait_for_lines(process, path, lines + dice.randint(1, 3))
        time.sleep(dice.random() / 10)
        process.send_signal(signal.SIGKILL)
        ended(process)
    assert process.returncode == -signal.SIGKILL
    assert len(Analysis.load(path).rows) < 13
    result = call("run", models, "-o", path, *SLOW, "--resume")
    assert result.exit_code == 0, result.stderr
    assert table(path) == table(whole)
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 13


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(
    models: Path, whole: Path, tmp_path: Path, number: int, jobs: int
) -> None:
    path = tmp_path / "r.jsonl"
    process = start(models, path, "--jobs", jobs)
    wait_for_lines(process, path, 4)
    # as a terminal does it: to the whole group; SIGTERM comes to one alone
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    said = ended(process)
    assert process.returncode == 130, said
    assert f"interrupted; what {path} holds is whole: --resume goes on from there" in said
    assert "KeyboardInterrupt" not in said
    assert path.read_bytes().endswith(b"\n")
    assert len(table(path)) == path.read_bytes().count(b"\n") - 1 >= 2


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed by /proc")
@pytest.mark.parametrize("jobs", [1, 2])
def test_no_process_outlives_a_kill(models: Path, tmp_path: Path, jobs: int) -> None:
    path = tmp_path / "r.jsonl"
    process = start(models, path, "--jobs", jobs)
    wait_for_lines(process, path, 4)
    children = below(process.pid)
    assert len(children) >= jobs
    process.kill()
    ended(process)
    for _ in range(200):
        if not any(alive(child) for child in children):
            return
        time.sleep(0.05)
    pytest.fail(f"of the processes {children}, some go on")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed by /proc")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_to_all_its_processes_ends_it_as_cleanly(
    models: Path, tmp_path: Path, jobs: int
) -> None:
    """As SLURM does it: what works hears it first here, and must not make rows of it."""
    path = tmp_path / "r.jsonl"
    process = start(models, path, "--jobs", jobs)
    wait_for_lines(process, path, 4)
    for pid in [*reversed(below(process.pid)), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.05)
    said = ended(process)
    assert process.returncode == 130, said
    assert "interrupted; what" in said
    assert {row.status for row in Analysis.load(path).rows} <= {"measured", "unmeasurable"}


def below(pid: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [grand for child in found for grand in below(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_while_processes_start_is_quiet(models: Path, tmp_path: Path) -> None:
    process = start(models, tmp_path / "r.jsonl", "--jobs", 2)
    while process.poll() is None and len(below(process.pid)) < 3:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    said = ended(process)
    # One time in forty joblib's own thread stumbles over a task that was cancelled under it
    # (KeyError, in loky's add_call_item_to_queue), and says so; nothing comes of it.
    assert (process.returncode, "KeyboardInterrupt" in said) == (130, False), said


def test_a_second_writer_is_refused(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    process = start(models, path)
    wait_for_lines(process, path, 2)
    result = call("run", models, "-o", path, *SLOW, "--resume")
    process.kill()
    ended(process)
    assert result.exit_code == 2
    assert "is being written by another process; wait for it" in result.stderr


def test_failed_rows_exit_with_1_and_models_that_cannot_be_read_with_3(
    models: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    one = call("run", tmp_path / "text.onnx", models / "a.onnx", "-o", tmp_path / "1.jsonl", *QUICK)
    assert one.exit_code == 1
    assert "error: " in one.stderr
    assert "text.onnx: failed: " in one.stderr
    assert len(Analysis.load(tmp_path / "1.jsonl").rows) == 3
    none = call("run", tmp_path / "text.onnx", "-o", tmp_path / "2.jsonl", *QUICK)
    assert none.exit_code == 3


def test_quiet_and_json(models: Path, tmp_path: Path) -> None:
    result = call("run", models / "a.onnx", "-o", tmp_path / "1.jsonl", "--quiet", *QUICK)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    result = call("run", models / "a.onnx", "-o", tmp_path / "2.jsonl", "-q", "--json", *QUICK)
    (record,) = json.loads(result.stdout)
    assert (record["layers"], record["measured"]) == (2, 2)


def test_dry_run_writes_nothing(models: Path, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    result = call("run", models, "-o", path, "--dry-run", *SLOW)
    assert result.exit_code == 0
    assert f"12 of 13 rows to measure, to {path}" in result.stderr
    assert "18 -> 3" in result.stdout
    assert not path.exists()
    content = whole.read_bytes()
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:5]))
    before = path.read_bytes()
    states = json.loads(call("run", models, "-o", path, "--dry-run", "--json", *SLOW).stdout)
    assert [s["state"] for s in states].count("done") == 3
    assert [s["state"] for s in states].count("to do") == 9
    assert path.read_bytes() == before


def test_dry_run_predicts_what_describe_predicts(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    plan = ["run", models, "-o", path, "--dry-run", "--spans", "net=fc1:fc2"]
    lines = json.loads(call(*plan, "--json").stdout)
    listed = {
        (str(model), row["span"], row["layer"]): row
        for model in models.glob("*.onnx")
        for row in json.loads(call("describe", model, "--json").stdout)["rows"]
    }
    told = 0
    for line in lines:
        if line["span"] is None and line["state"] == "to do":
            costs = listed[line["model"], None, line["layer"]]["estimate"]
            assert line["estimate"].keys() == costs.keys() == {"ei", "ei_parts", "sensitivity"}
            for name, cost in costs.items():
                mine = line["estimate"][name]
                # the same sizes; the seconds are measured anew by each process
                assert (mine["bytes"], mine["parts"].keys()) == (
                    cost["bytes"],
                    cost["parts"].keys(),
                )
            assert line["bytes"] == max(cost["bytes"] for cost in costs.values())
            seconds = [cost["seconds"] for cost in line["estimate"].values()]
            assert line["seconds"] == pytest.approx(sum(seconds))
            told += 1
    assert told == 12
    assert [line["span"] for line in lines].count("net") == 2
    assert [(of["seconds"], of["bytes"], of["estimate"]) for of in lines if of["reason"]] == [
        (None, None, {})
    ]
    result = call(*plan, "--samples", 2000, "--bins", 8, "--jobs", 2, "-m", "phi")
    assert "in all on this machine, at most " in result.stderr
    assert "at 8 bins, what is sampled with 2,000 samples" in result.stderr
    (few,) = json.loads(
        call(*plan, "--json", "--samples", 2000, "--bins", 8, "-m", "phi", "-l", "pool").stdout
    )[:1]
    assert few["estimate"].keys() == {"ei", "ei_parts"}
    most = 161 * 2000  # keys, and what counting them takes
    assert few["estimate"]["ei"]["bytes"] == most
    assert not path.exists()


def test_what_is_done_or_cannot_be_done_takes_nothing(
    models: Path, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.jsonl").write_bytes(whole.read_bytes())
    result = call("run", models, "-o", tmp_path / "r.jsonl", "--dry-run", *SLOW)
    assert "0 of 13 rows to measure" in result.stderr
    assert "in all on this machine" not in result.stderr


def test_spans_and_a_glob(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    given = ["run", models, "-o", path, "--glob", "[ac].onnx", "--spans", "net=fc1:fc*2", *QUICK]
    result = call(*given)
    assert result.exit_code == 0, result.stderr
    assert "a.onnx net: ei " in result.stderr
    assert [(Path(row.model).name, row.name) for row in Analysis.load(path).rows] == [
        ("a.onnx", "fc1"), ("a.onnx", "fc2"), ("a.onnx", "net"),
        ("c.onnx", "fc1"), ("c.onnx", "fc2"), ("c.onnx", "net"),
    ]  # fmt: skip
    # another span is a row more
    result = call(*given, "--resume", "--spans", "fc2:fc2", "--exclude", "*")
    assert result.stderr.count("fc2:fc2: ei ") == 2
    assert len(Analysis.load(path).rows) == 8
    result = call("run", models / "a.onnx", "--spans", "fc1:fc2", "--exclude", "*", *QUICK)
    assert "fc1:fc2" in result.stdout
    result = call("describe", models / "a.onnx", "--spans", "fc1:fc2")
    assert "fc1:fc2" in result.stdout
    result = call("run", models / "a.onnx", "--spans", "fc1", *QUICK)
    assert (result.exit_code, "a span is a pair of layers: FIRST:LAST" in result.stderr) == (
        2,
        True,
    )
    result = call("run", models, "-o", tmp_path / "n.jsonl", "--glob", "*.pt")
    assert (result.exit_code, "holds no file that '*.pt' matches" in result.stderr) == (2, True)
    assert not (tmp_path / "n.jsonl").exists()


def test_a_results_file_of_another_run_is_left_alone(
    models: Path, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    for message, content, more in [
        ("is there already; resume it (--resume)", whole.read_bytes(), []),
        ("was measured with in_bins=4, not 8", whole.read_bytes(), ["--resume", "--bins", 8]),
        ("was measured with seed=0, not 1", whole.read_bytes(), ["--resume", "--seed", 1]),
        (
            "holds values of version 0 of the measures' definitions",
            whole.read_bytes().replace(b'"definitions":1', b'"definitions":0'),
            ["--resume"],
        ),
        (
            "is of the format 'onnx_ei results 9', this onnx_ei reads 'onnx_ei results 1'",
            whole.read_bytes().replace(b"onnx_ei results 1", b"onnx_ei results 9"),
            ["--resume"],
        ),
        ("is no results file", b"layer,ei\nfc1,2.0\n", ["--resume"]),
    ]:
        path.write_bytes(content)
        result = call("run", models, "-o", path, *SLOW, *more)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
        assert path.read_bytes() == content


def test_matrices_timeout_and_memory_limit(models: Path, tmp_path: Path) -> None:
    result = call(
        "run", models / "a.onnx", "-o", tmp_path / "r.jsonl", "--matrices", tmp_path / "m",
        "--timeout", 60, "--memory-limit", 4000, "--layers", "fc1", *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (row,) = Analysis.load(tmp_path / "r.jsonl").rows
    assert (tmp_path / "m" / row.provenance["matrices"]).is_file()


def test_an_option_of_a_batch_needs_an_output(models: Path) -> None:
    given = {"--resume": [], "--jobs": [2], "--timeout": [1], "--quiet": [], "--glob": ["*"],
             "--dry-run": [], "--matrices": ["m"], "--memory-limit": [9], "--backend": ["dask"],
             "--scheduler": ["tcp://h:1"], "--split": ["samples"]}  # fmt: skip
    assert {option[2:].replace("-", "_") for option in given} == set(BATCH_ONLY)
    for option, value in given.items():
        result = call("run", models / "a.onnx", option, *value)
        assert (result.exit_code, f"{option}: goes with -o FILE" in result.stderr) == (2, True)
    result = call("run", models / "a.onnx", models / "b.onnx")
    assert result.exit_code == 2
    assert "one MODEL is needed, got 2; several need -o FILE" in result.stderr
    assert call("run").exit_code == 2


def test_a_single_model_without_some_of_its_layers(models: Path) -> None:
    result = call("run", models / "a.onnx", "--json", "--exclude", "fc1", *QUICK)
    assert [row["layer"] for row in json.loads(result.stdout)["rows"]] == ["fc2"]


class TestConfig:
    def test_every_option_may_come_from_a_file(self, models: Path, tmp_path: Path) -> None:
        config = tmp_path / "run.toml"
        config.write_text(
            f"models = ['{models / 'a.onnx'}']\n"
            f"output = '{tmp_path / 'r.jsonl'}'\n"
            "measures = ['ei', 'phi']\nlayers = 'fc*'\nexclude = ['fc2']\n"
            "samples = 1000\nbins = 4\ninput-range = [0, 2]\nquiet = true\nseed = 3\ntimeout = 60\n"
        )
        result = call("run", "--config", config, "--seed", 5)
        assert (result.exit_code, result.stderr) == (0, "")
        (row,) = Analysis.load(tmp_path / "r.jsonl").rows
        found = row.measurements["phi"]
        assert (row.layer, found.seed, found.in_range, found.in_bins) == ("fc1", 5, (0.0, 2.0), 4)

    def test_every_option_is_known_to_it_and_described(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # "output" makes a file of what it is given
        command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
        page = (CHECKOUT / "docs" / "batch.md").read_text(encoding="utf-8")
        options = [p for p in command.params if p.name not in ("config", "debug")]
        assert len(options) > 30
        for option in options:
            assert f"`{option.opts[0]}" in page or option.name == "models", option.name
            assert getattr(option, "help", None), option.name
            name = option.name.replace("_", "-")
            (tmp_path / "run.toml").write_text(f"{name} = [{{}}]\n")
            result = call("run", models / "a.onnx", "--config", tmp_path / "run.toml", "--dry-run")
            assert "unknown option" not in result.stderr, name

    def test_tables_of_names(self, models: Path, tmp_path: Path) -> None:
        config = tmp_path / "run.toml"
        config.write_text(
            f"output = '{tmp_path / 'r.jsonl'}'\nsamples = 500\nbins = 4\nmeasures = 'ei'\n"
            "glob = 'a.onnx'\nexclude = '*'\nquiet = true\n"
            "[spans]\nnet = ['fc1', 'fc2']\nlast = 'fc2:fc2'\n"
        )
        result = call("run", models, "--config", config)
        assert (result.exit_code, result.stderr) == (0, "")
        rows = Analysis.load(tmp_path / "r.jsonl").rows
        assert [(row.name, row.in_layer) for row in rows] == [("last", "fc2"), ("net", "fc1")]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("span = 'a:b'", "unknown option 'span'; did you mean 'spans'"),
            ("globs = '*'", "unknown option 'globs'; did you mean 'glob'"),
            ("[bins]\nfc1 = 3", "bins must be a word or a number, got {'fc1': 3}"),
            ("sample = 3", "unknown option 'sample'; did you mean 'samples'"),
            ("max_sampels = 3", "unknown option 'max_sampels'; did you mean 'max-samples'"),
            ("config = 'x'", "unknown option 'config'"),
            ("resume = 1", "resume must be true or false, got 1"),
            ("samples = true", "samples must be a word or a number, got True"),
            ("samples = 'many'", "Invalid value for '--samples'"),
            ("jobs = 0", "Invalid value for '--jobs'"),
            ("[run]\nsamples = 3", "unknown option 'run'"),
            ("samples = ", "is no TOML"),
        ],
    )
    def test_what_makes_no_sense_is_named(
        self, models: Path, tmp_path: Path, text: str, message: str
    ) -> None:
        (tmp_path / "run.toml").write_text(text)
        result = call("run", models / "a.onnx", "--config", tmp_path / "run.toml")
        assert result.exit_code == 2
        said = " ".join(result.stderr.replace("│", " ").split())
        assert message in said

    def test_a_file_that_is_not_there(self, models: Path, tmp_path: Path) -> None:
        result = call("run", models / "a.onnx", "--config", tmp_path / "none.toml")
        assert result.exit_code == 2
        assert "cannot be read: No such file" in " ".join(result.stderr.replace("│", " ").split())


class TestResults:
    def test_summary(self, whole: Path, tmp_path: Path) -> None:
        result = call("summary", whole, "--table", tmp_path / "t.csv")
        assert result.exit_code == 0
        assert [line.split()[1] for line in result.stdout.splitlines() if ".onnx" in line]
        with open(tmp_path / "t.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 13
        records = json.loads(call("summary", whole, "--json").stdout)
        assert [record["layers"] for record in records] == [2, 4, 2, 5]
        result = call("summary", whole, "--table", tmp_path / "t.txt")
        assert (result.exit_code, "must end in .csv or .parquet" in result.stderr) == (2, True)
        result = call("summary", whole, "--table", tmp_path / "no" / "t.csv")
        assert (result.exit_code, "cannot be written: No such file" in result.stderr) == (2, True)
        assert call("summary", tmp_path / "none.jsonl").exit_code == 2

    def test_compare(self, whole: Path, models: Path, tmp_path: Path) -> None:
        chosen = ["--model-a", models / "a.onnx", "--model-b", models / "c.onnx"]
        result = call("compare", whole, whole, *chosen, "--table", tmp_path / "c.csv")
        assert result.exit_code == 0, result.stderr
        row = next(line for line in result.stdout.splitlines() if "fc1" in line)
        assert "measured with out_range (0, 1) against (0, 10)" in row
        records = json.loads(call("compare", whole, whole, *chosen, "--json").stdout)
        assert [record["layer"] for record in records] == ["fc1", "fc2"]
        assert records[0]["ei_difference"] == records[0]["ei_b"] - records[0]["ei_a"]
        assert len((tmp_path / "c.csv").read_text().splitlines()) == 3
        result = call("compare", whole, whole)
        assert result.exit_code == 2
        assert "holds 4 models; choose by --model-a: " in result.stderr
        result = call("compare", whole, whole, *chosen, "--table", tmp_path / "c.txt")
        assert (result.exit_code, "must end in .csv" in result.stderr) == (2, True)

    def test_merge(self, whole: Path, tmp_path: Path) -> None:
        lines = whole.read_bytes().splitlines(keepends=True)
        parts = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
        parts[0].write_bytes(b"".join(lines[:6]))
        parts[1].write_bytes(b"".join([lines[0], *lines[5:]]))
        result = call("merge", *parts, "-o", tmp_path / "all.jsonl")
        assert result.exit_code == 0
        assert f"13 rows of 2 files are in {tmp_path / 'all.jsonl'}" in result.stderr
        assert table(tmp_path / "all.jsonl") == table(whole)
        again = call("merge", *parts, "-o", tmp_path / "all.jsonl")
        assert (again.exit_code, "is there already; choose" in again.stderr) == (2, True)
        lost = call("merge", *parts, "-o", tmp_path / "no" / "all.jsonl")
        assert (lost.exit_code, "cannot be written" in lost.stderr) == (2, True)
