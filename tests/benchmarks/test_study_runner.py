"""The runner with real processes that stand in for training: how each of them may end, and what is left of it."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import benchmarks.study.ray_runner
import benchmarks.study.runner
from benchmarks.study.__main__ import main
from benchmarks.study.bookkeeping import collect, missing_runs
from benchmarks.study.definition import Study
from benchmarks.study.estimate import duration, estimate_run_seconds, estimate_study_seconds
from benchmarks.study.grid import Run, expand_runs
from benchmarks.study.progress import Watcher
from benchmarks.study.ray_runner import execute_on_node
from benchmarks.study.results import FAILED, FINISHED, Result, ResultsFile
from benchmarks.study.run_arguments import cli_arguments, command_line_value, tensorboard_folder
from benchmarks.study.run_folder import is_locked, read_result, run_folder, write_result
from benchmarks.study.runner import StudyRunner
from benchmarks.study.slots import find_slots
from benchmarks.study.study_file import load_study

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
axes: {way: {settings: null}}
seeds: 1
budget: {steps: 1}
"""

# What a run's process does, by the label of its cell.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from benchmarks.study.run_folder import write_result
from benchmarks.study.results import Result
way, folder, id = sys.argv[1:]
if way == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if way == "stuck":
    time.sleep(600)
if way == "broken":
    print("Traceback"); print("RuntimeError: out of paper"); print("bye"); sys.exit(3)
Path(folder, "environment").write_text(repr(dict(os.environ)))
write_result(Path(folder), Result(id, "finished", "", {"way": way}, 0, final={"val/accuracy": 0.5}))
"""


def study_of(folder: Path, *ways: str) -> Study:
    path = folder / "study.yaml"
    levels = ", ".join(f"{way}: {{settings: {{way: {way}}}}}" for way in ways)
    path.write_text(STUDY.replace("settings: null", levels))
    return load_study(path)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(study: Study, run: Run, output: Path, variant: str | None, attempt: int) -> list[str]:
        return [sys.executable, "-c", PROGRAM, run.cell.labels["way"], str(run_folder(output, run)), run.id]

    monkeypatch.setattr(benchmarks.study.runner, "run_command", command)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


SLOTS = [{"OMP_NUM_THREADS": "3"}] * 2


class Witness(Watcher):
    """Keeps which runs have started and ended."""

    def __init__(self) -> None:
        self.started: list[Run] = []
        self.ended: list[Run] = []

    def start(self, run: Run) -> None:
        self.started.append(run)

    def end(self, run: Run, result: Result) -> None:
        self.ended.append(run)


@pytest.mark.usefixtures("stand_in")
def test_every_end_of_a_process_is_a_row_with_its_reason(tmp_path: Path) -> None:
    study = study_of(tmp_path, "killed", "broken", "fine")
    runs = expand_runs(study)
    with ResultsFile(tmp_path / "r.sqlite") as store:
        witness = Witness()
        assert StudyRunner(study, None, tmp_path, store, SLOTS, witness).execute(runs)
        rows = {row.labels["way"]: row for row in store.results().values()}
    assert {way: row.status for way, row in rows.items()} == {"killed": FAILED, "broken": FAILED, "fine": FINISHED}
    assert rows["killed"].reason == "killed by SIGKILL (out of memory?)"
    assert rows["broken"].reason == "exit status 3: RuntimeError: out of paper"
    assert sorted(run.id for run in witness.ended) == sorted(run.id for run in runs)
    environment = (run_folder(tmp_path, runs[2]) / "environment").read_text()
    assert "'OMP_NUM_THREADS': '3'" in environment


@pytest.mark.usefixtures("stand_in")
def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    study = dataclasses.replace(study_of(tmp_path, "stuck"), timeout_minutes=0.01)
    (run,) = expand_runs(study)
    with ResultsFile(tmp_path / "r.sqlite") as store:
        assert StudyRunner(study, None, tmp_path, store, SLOTS, Watcher()).execute([run])
        assert store.results()[run.id].reason == "stopped after timeout_minutes: 0.01"


@pytest.mark.usefixtures("stand_in")
def test_failed_runs_are_retried_and_counted_and_finished_ones_are_left(tmp_path: Path) -> None:
    study = study_of(tmp_path, "broken", "fine")
    runs = expand_runs(study)
    with ResultsFile(tmp_path / "r.sqlite") as store:
        for attempt in (1, 2):
            StudyRunner(study, None, tmp_path, store, SLOTS, Watcher()).execute(missing_runs(runs, store))
            rows = {row.labels["way"]: row for row in store.results().values()}
            assert (rows["broken"].attempts, rows["fine"].attempts) == (attempt, 1)
        assert [run.cell.name for run in missing_runs(runs, store)] == ["broken"]
        assert missing_runs(runs, store, retry=False) == []


@pytest.mark.usefixtures("stand_in")
def test_an_interrupt_ends_the_runs_and_leaves_no_row(tmp_path: Path) -> None:
    study = study_of(tmp_path, "stuck")
    (run,) = expand_runs(study)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with ResultsFile(tmp_path / "r.sqlite") as store:

        class Interrupting(Witness):
            def start(self, run: Run) -> None:
                super().start(run)
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

        witness = Interrupting()
        assert not StudyRunner(study, None, tmp_path, store, SLOTS, witness).execute([run])
        assert witness.started == [run]
        assert store.results() == {}
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.usefixtures("stand_in")
def test_studies_that_share_a_folder_make_what_they_have_in_common_once(tmp_path: Path) -> None:
    output = tmp_path / "shared"
    levels = {
        "first": "{common: {settings: {a: 1}}, own: {settings: {a: 2}}}",
        # Another label and a level below another axis: what decides is what the levels set.
        "second": "{renamed: {settings: {a: 1}}, broken: {settings: {a: 3}}}",
    }
    for name, way in levels.items():
        (tmp_path / f"{name}.yaml").write_text(f"axes: {{way: {way}}}\nseeds: 2\nbudget: {{steps: 1}}\n")

    def study(name: str, *arguments: str) -> int:
        report = str(tmp_path / f"report of {name}")
        return main([str(tmp_path / f"{name}.yaml"), "--output", str(output), "--report", report, *arguments])

    assert study("first") == 0
    with ResultsFile(output / "results.sqlite") as store:
        before = store.results()
    assert len(before) == 4
    assert study("second") == 1
    with ResultsFile(output / "results.sqlite") as store:
        after = store.results()
    assert len(after) == 6
    assert {id: after[id] for id in before} == before

    first, second = (pd.read_csv(tmp_path / f"report of {name}" / "runs.csv") for name in levels)
    assert list(first["way"]) == ["common", "own"] * 2
    assert list(second["way"]) == ["renamed", "broken"] * 2
    assert list(second["status"]) == [FINISHED, FAILED] * 2
    assert set(first["id"]) & set(second["id"]) == set(first[first["way"] == "common"]["id"])
    # The second study's rows are nothing to the first: its report is complete and without a failure.
    assert study("first", "--report-only") == 0
    report = (tmp_path / "report of first" / "report.md").read_text()
    assert "2 cells, 2 seeds each; 4 runs finished, 0 failed, 0 missing" in report
    assert "report.md" not in [path.name for path in output.rglob("*")]


@pytest.mark.usefixtures("stand_in")
def test_finished_runs_are_repeated_when_asked_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = expand_runs(study_of(tmp_path, "fine", "good"))
    fine, good = (run_folder(tmp_path, run) / "environment" for run in runs)
    study = [str(tmp_path / "study.yaml"), "--output", str(tmp_path), "--jobs", "1", "--device", "cpu"]
    assert main(study) == 0
    fine.unlink()
    good.unlink()
    assert main(study) == 0
    assert not fine.exists()
    assert main([*study, "--again", "fine * seed 0"]) == 0
    assert (fine.exists(), good.exists()) == (True, False)
    with ResultsFile(tmp_path / "results.sqlite") as store:
        assert {row.status for row in store.results().values()} == {FINISHED}
    capsys.readouterr()
    assert main([*study, "--again", "SaLSA*"]) == 2
    assert "--again 'SaLSA*' matches no finished run; names are such as 'fine · seed 0'" in capsys.readouterr().err


class DyingRay:
    """Stands in for a Ray cluster with a GPU, whose tasks all die."""

    class exceptions:
        class RayError(Exception):
            pass

    def init(self, **_: object) -> None:
        pass

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0, "GPU": 1.0}

    def remote(self, **_: object) -> Callable[..., SimpleNamespace]:
        return lambda function: SimpleNamespace(remote=lambda run, *others: run.id)

    def wait(self, references: list[str], timeout: float) -> tuple[list[str], list[str]]:
        return references, []

    def get(self, reference: str) -> str:
        raise self.exceptions.RayError("the worker died")

    def shutdown(self) -> None:
        pass


def test_a_machine_without_a_gpu_starts_runs_on_the_gpus_of_a_cluster_and_counts_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_of(tmp_path, "fine")
    monkeypatch.setitem(sys.modules, "ray", DyingRay())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    study = [str(tmp_path / "study.yaml"), "--output", str(tmp_path), "--launcher", "ray", "--device", "cuda"]
    for attempts in (1, 2, 3):
        assert main(study) == 1
        with ResultsFile(tmp_path / "results.sqlite") as store:
            (result,) = store.results().values()
        assert (result.status, result.reason, result.attempts) == (FAILED, "RayError: the worker died", attempts)


def test_a_run_on_a_node_that_had_to_wait_for_another_process_still_has_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = expand_runs(study_of(tmp_path, "fine"))
    calls: list[Run] = []

    def busy_then_stuck(run: Run, *_: object) -> None:
        calls.append(run)
        if len(calls) == 1:
            raise BlockingIOError
        time.sleep(600)

    monkeypatch.setattr(benchmarks.study.ray_runner, "execute_run", busy_then_stuck)
    arguments = (run, 2, str(tmp_path), [], tmp_path, {}, 0.02)
    process = multiprocessing.get_context("fork").Process(target=execute_on_node, args=arguments)
    process.start()
    process.join(120)
    try:
        assert process.exitcode == 1
    finally:
        process.kill()
    result = read_result(run_folder(tmp_path, run))
    assert result is not None
    assert (result.status, result.reason, result.attempts) == (FAILED, "stopped after timeout_minutes: 0.02", 2)


def test_a_class_stands_before_its_arguments_whichever_axis_each_is_of(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    own, classes = "{settings: {m.rate: 1, m.part.rate: 2}}", "{settings: {m.part: C, m: B}}"
    path.write_text(STUDY.replace("{way: {settings: null}}", f"{{a: {{x: {own}}}, b: {{y: {classes}}}}}"))
    (run,) = expand_runs(load_study(path))
    keys = [argument.partition("=")[0] for argument in cli_arguments(run, tmp_path) if argument.startswith("--m")]
    assert keys.index("--m") < keys.index("--m.rate")
    assert keys.index("--m.part") < keys.index("--m.part.rate")
    assert keys.index("--m") < keys.index("--m.part")


@pytest.mark.usefixtures("stand_in")
def test_results_of_other_data_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("settings: null", "fine: {settings: {data.data_dir: '${DATA:-null}'}}"))
    (run,) = expand_runs(load_study(path))
    config = tensorboard_folder(run, tmp_path) / "config.yaml"
    config.parent.mkdir(parents=True)
    study = [str(path), "--output", str(tmp_path), "--jobs", "1", "--device", "cpu"]

    def told(made_with: str, now: str | None, *arguments: str) -> str:
        config.write_text(f"data:\n  class_path: datamodules.GLUEDataModule\n  init_args: {{data_dir: {made_with}}}\n")
        monkeypatch.setenv("DATA", now) if now else monkeypatch.delenv("DATA", raising=False)
        assert main([*study, *arguments]) == 0
        return capsys.readouterr().err

    assert "warning" not in told("/b", "/a")  # nothing is kept: it is the first start
    assert "warning: 1 result kept from data_dir /b, which is now /a (--again" in told("/b", "/a")
    assert "kept from data_dir null, which is now /a" in told("null", "/a", "--dry-run")
    assert "kept from data_dir /b, which is now null" in told("/b", None, "--dry-run")
    assert "warning" not in told("/a", "/c/../a", "--dry-run")
    assert "warning" not in told("null", None, "--dry-run")
    assert "warning" not in told("/b", "/a", "--report-only")


@pytest.mark.usefixtures("stand_in")
def test_looking_at_a_study_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study_of(tmp_path, "fine")
    output = tmp_path / "out"
    study = [str(tmp_path / "study.yaml"), "--output", str(output), "--jobs", "1", "--device", "cpu"]

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    for look in ("--dry-run", "--emit-commands", "--print-cli"):
        assert main([*study, look]) == 0
    assert main([*study, "--report-only"]) == 1
    assert "no finished run, no report" in capsys.readouterr().err
    assert not output.exists()
    # What a run has left is collected where it is to be kept, and seen where it is not.
    (run,) = expand_runs(load_study(tmp_path / "study.yaml"))
    run_folder(output, run).mkdir(parents=True)
    write_result(run_folder(output, run), Result(run.id, FINISHED, "", dict(run.cell.labels), 0))
    before = contents()
    assert main([*study, "--dry-run"]) == 0
    assert "1 run, 0 to do" in capsys.readouterr().out
    assert contents() == before
    assert main([*study, "--report-only"]) == 0
    with ResultsFile(output / "results.sqlite") as store:
        assert list(store.results()) == [run.id]


def test_results_left_by_runs_without_a_runner_are_taken_over(tmp_path: Path) -> None:
    study = study_of(tmp_path, "fine", "broken", "absent")
    fine, broken, _ = runs = expand_runs(study)
    for run, status in ((fine, FINISHED), (broken, FAILED)):
        run_folder(tmp_path, run).mkdir(parents=True)
        write_result(run_folder(tmp_path, run), Result(run.id, status, "", dict(run.cell.labels), 0))
    with ResultsFile(tmp_path / "r.sqlite") as store:
        store.record(Result(fine.id, FAILED, "earlier", {}, 0, attempts=3))
        store.record(Result(broken.id, FINISHED, "", {}, 0, steps=7))
        collect(runs, tmp_path, store)
        rows = store.results()
    assert (rows[fine.id].status, rows[fine.id].attempts) == (FINISHED, 3)
    assert (rows[broken.id].status, rows[broken.id].steps) == (FINISHED, 7)
    assert len(rows) == 2


def test_a_run_that_another_process_executes_is_left_to_it(tmp_path: Path) -> None:
    study = study_of(tmp_path, "fine")
    (run,) = expand_runs(study)
    folder = run_folder(tmp_path, run)
    folder.mkdir(parents=True)
    program = f"""
        import fcntl, time
        file = open({str(folder / "lock")!r}, "a")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("locked", flush=True)
        time.sleep(600)
    """
    assert not is_locked(folder)
    other = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with ResultsFile(tmp_path / "r.sqlite") as store:
            runner = StudyRunner(study, None, tmp_path, store, SLOTS, Watcher())
            assert runner.execute([run])
            assert runner.skipped == [run]
            assert store.results() == {}
    finally:
        other.kill()
        other.wait()
    assert not is_locked(folder)


@pytest.mark.usefixtures("stand_in")
def test_a_run_that_another_process_finished_meanwhile_is_taken_over(tmp_path: Path) -> None:
    study = study_of(tmp_path, "fine", "good")
    first, second = expand_runs(study)

    class Overtaken(Witness):
        def start(self, run: Run) -> None:
            if run == first:
                folder = run_folder(tmp_path, second)
                folder.mkdir(parents=True)
                write_result(folder, Result(second.id, FINISHED, "", {"way": "good"}, 0, final={"val/accuracy": 0.7}))

    with ResultsFile(tmp_path / "r.sqlite") as store:
        witness = Overtaken()
        assert StudyRunner(study, None, tmp_path, store, SLOTS[:1], witness).execute([first, second])
        assert store.results()[second.id].final == {"val/accuracy": 0.7}
    assert witness.ended == [first, second]


def test_a_result_cut_off_in_writing_is_none(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    (tmp_path / "result.json").write_text('{"id": "a", "status"')
    assert read_result(tmp_path) is None


def test_cores_and_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert [slot["OMP_NUM_THREADS"] for slot in find_slots(device="cpu")] == ["1"] * 8
    slots = find_slots(threads=3, device="cpu")
    assert [slot["OMP_NUM_THREADS"] for slot in slots] == ["3", "3"]
    assert all(slot["CUDA_VISIBLE_DEVICES"] == "" for slot in slots)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    slots = find_slots()
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["2", "5"]
    assert [slot["OMP_NUM_THREADS"] for slot in slots] == ["4", "4"]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in find_slots(jobs=3)] == ["2", "5", "2"]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,-1,4")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in find_slots()] == ["3"]

    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert len(find_slots()) == 8
        with pytest.raises(ValueError, match="no CUDA device was found"):
            find_slots(device="cuda")


def test_time_is_estimated_from_the_closest_finished_runs(tmp_path: Path) -> None:
    study = study_of(tmp_path, "fine", "broken")
    fine, broken = expand_runs(study)
    assert estimate_run_seconds(study, fine, {}) is None
    assert estimate_study_seconds(study, [fine], {}, 1) is None

    def row(id: str, way: str, seconds: float, status: str = FINISHED) -> Result:
        return Result(id, status, "", {"way": way}, 0, wall_seconds=seconds)

    finished = {r.id: r for r in (row("a", "fine", 10), row("b", "fine", 20), row("c", "x", 3, FAILED))}
    assert estimate_run_seconds(study, fine, finished) == 15
    assert estimate_run_seconds(study, broken, finished) == 15
    finished["d"] = row("d", "broken", 100)
    assert estimate_run_seconds(study, broken, finished) == 100
    assert estimate_study_seconds(study, [fine, fine, broken], finished, 1) == 130
    assert estimate_study_seconds(study, [fine, fine, broken], finished, 2) == 100


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (6000, "1 h 40 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_settings_take_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLUE_DIR", "/data/glue")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert command_line_value("${GLUE_DIR}/SST-2") == "/data/glue/SST-2"
    assert command_line_value("${GLUE_DIR:-null}") == "/data/glue"
    assert command_line_value("${NOWHERE:-null}") == "null"
    with pytest.raises(ValueError, match=r"uses \$\{NOWHERE\}, but the environment variable NOWHERE is not set"):
        command_line_value("${NOWHERE}")
    values = [1e-4, True, None, [1, 2], {"a": 1}]
    assert [command_line_value(v) for v in values] == ["0.0001", "true", "null", "[1, 2]", '{"a": 1}']
