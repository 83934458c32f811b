"""A real study of a tiny model through the real command line: killed half-way, started again, reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from benchmarks.study.__main__ import main
from benchmarks.study.bookkeeping import collect
from benchmarks.study.execution import execute_run
from benchmarks.study.grid import expand_runs
from benchmarks.study.results import FAILED, FINISHED, ResultsFile
from benchmarks.study.run_folder import is_locked, read_history, run_folder
from benchmarks.study.study_file import load_study
from tests.benchmarks.tiny_study import save_model_config, wait_until, write_study

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
axes:
  task: {sst2: {}}
  optimizer:
    AdamW:
      settings: {model.model: HERE/model, model.optimizer: torch.optim.AdamW, model.optimizer.lr: 1e-3}
    later:
      settings: {model.model: HERE/later, model.optimizer: torch.optim.SGD, model.optimizer.lr: 0.1}
    search:
      settings: {model.model: HERE/model, model.optimizer: optimizers.AdamSLS}
      budget: {seconds: 0.3}
seeds: 1
budget: {steps: 6}
"""


def start(here: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.study", str(here / "tiny.yaml"), "--output", str(here / "out")]
    command += ["--jobs", "1", *arguments]
    log = (here / "log").open("a")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, text=True, env=environment)


@pytest.mark.slow
def test_a_study_killed_half_way_goes_on_where_it_stopped(tmp_path: Path) -> None:
    write_study(tmp_path, STUDY)
    save_model_config(tmp_path / "model")
    output = tmp_path / "out"
    adamw, later, search = expand_runs(load_study(tmp_path / "tiny.yaml"))

    # The first start is killed while its second run is under way; that run cannot find its model.
    study = start(tmp_path)
    with ResultsFile(output / "results.sqlite") as store:
        wait_until(lambda: is_locked(run_folder(output, later)) or study.poll() is not None)
        study.send_signal(signal.SIGKILL)
        study.wait()
        first = store.results()
    assert list(first) == [adamw.id]
    assert first[adamw.id].status == FINISHED
    wait_until(
        lambda: (run_folder(output, later) / "result.json").exists() and not is_locked(run_folder(output, later))
    )

    # The second start takes over what the orphan left, retries it now that it can work, and does what is missing.
    save_model_config(tmp_path / "later")
    assert start(tmp_path).wait() == 0, (tmp_path / "log").read_text()
    with ResultsFile(output / "results.sqlite") as store:
        rows = store.results()
    assert {id: row.status for id, row in rows.items()} == dict.fromkeys((adamw.id, later.id, search.id), FINISHED)
    assert rows[adamw.id] == first[adamw.id]
    assert rows[later.id].attempts == 2

    # What a run records.
    row = rows[adamw.id]
    assert row.steps == 6
    assert set(row.final) == {"val/loss", "val/accuracy"}
    assert row.majority is not None
    assert 0.5 <= row.majority < 1
    assert row.train_seconds is not None
    assert row.seconds_per_step is not None
    assert row.peak_memory_mib is not None
    assert row.peak_memory_mib > 0
    assert 0 < row.seconds_per_step < row.train_seconds
    assert (row.machine["threads"], row.machine["runs_at_a_time"]) == (1, 1)
    assert all(row.machine[key] for key in ("cpu", "cores", "ram_gib", "torch"))
    history = read_history(run_folder(output, search) / "history.csv")
    assert [step for step, _, _ in history["train/loss"]] == list(range(1, rows[search.id].steps + 1))
    assert len(history["train/step_size/model"]) == len(history["train/evaluations"]) == rows[search.id].steps

    # A budget in seconds stops with the first step that reaches it.
    seconds = [second for _, second, _ in history["train/loss"]]
    assert seconds[-1] >= 0.3
    assert all(second < 0.3 for second in seconds[:-1])

    # The same runs in TensorBoard, with the place in the study as hyperparameters.
    (events,) = (output / "tensorboard" / "sst2" / "AdamW").iterdir()
    accumulator = EventAccumulator(str(events)).Reload()
    assert {"train/loss", "val/accuracy", "train/seconds"} <= set(accumulator.Tags()["scalars"])
    (written,) = [m for tag, m in accumulator.summary_metadata.items() if tag == "_hparams_/session_start_info"]
    hyperparameters = parse_session_start_info_plugin_data(written.plugin_data.content).hparams
    assert hyperparameters["axis/optimizer"].string_value == "AdamW"
    assert hyperparameters["axis/seed"].number_value == 0
    assert not [name for name in hyperparameters if name.startswith("_")]
    assert "class_path: torch.optim.AdamW" in (events / "config.yaml").read_text()

    report = (output / "report" / "report.md").read_text()
    assert "3 runs finished, 0 failed, 0 missing" in report
    assert (output / "report" / "curves_sst2.png").stat().st_size > 0


@pytest.mark.slow
def test_a_run_ended_by_sigterm_has_failed_and_is_repeated(tmp_path: Path) -> None:
    write_study(tmp_path, STUDY.split("    later:")[0] + "seeds: 1\nbudget: {seconds: 2}\n")
    save_model_config(tmp_path / "model")
    output = tmp_path / "out"
    (run,) = expand_runs(load_study(tmp_path / "tiny.yaml"))
    history = run_folder(output, run) / "history.csv"

    process = start(tmp_path, "--run", run.id)
    wait_until(lambda: read_history(history).get("train/loss") or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 1
    with ResultsFile(output / "results.sqlite") as store:
        collect([run], output, store)
        result = store.results()[run.id]
    assert result.status == FAILED
    assert result.reason.startswith("interrupted by SIGTERM in epoch ")

    assert start(tmp_path).wait() == 0, (tmp_path / "log").read_text()
    with ResultsFile(output / "results.sqlite") as store:
        result = store.results()[run.id]
    assert (result.status, result.attempts) == (FINISHED, 2)
    assert result.train_seconds is not None
    assert result.train_seconds >= 2


@pytest.mark.slow
def test_the_command_line_says_what_it_would_do_and_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "tiny.yaml"
    write_study(tmp_path, STUDY.replace("0.1}", "0.1, model.optimizr: 1}"))

    def study(*arguments: str) -> tuple[int, str, str]:
        status = main([str(path), "--output", str(tmp_path / "out"), *arguments])
        return status, *capsys.readouterr()

    status, printed, _ = study("--dry-run")
    assert status == 0
    assert "3 cells, 1 seed each: 3 runs, 3 to do" in printed

    _, printed, _ = study("--emit-commands")
    ids = [run.id for run in expand_runs(load_study(path))]
    assert [line.split("--run ")[1].split()[0] for line in printed.splitlines()] == ids

    status, printed, complained = study("--check")
    assert status == 2
    assert "sst2 · later: " in complained
    assert "optimizr" in complained
    assert "2 of 3 cells can be run" in printed

    assert not (tmp_path / "out").exists()
    status, _, complained = study("--run", "nothing")
    assert status == 2
    assert "no run nothing" in complained
    status, _, complained = study("--dry-run", "--output", str(path))
    assert (status, complained.count("\n")) == (2, 1)
    assert str(path) in complained
    path.write_text("axes: {}\n")
    assert study("--dry-run") == (2, "", f"study: error: {path}: the key 'seeds' is missing\n")


@pytest.mark.slow
def test_emitted_commands_run_from_the_shell_of_an_array_job(tmp_path: Path) -> None:
    here = tmp_path / "a folder"
    here.mkdir()
    write_study(here, STUDY.split("    later:")[0] + "seeds: [4]\nbudget: {steps: 6}\n")
    save_model_config(here / "model")
    study = f"{sys.executable} -m benchmarks.study '{here}/tiny.yaml' --output '{here}/out'"
    # As docs/studies.md says; the shell stands in for sbatch, which runs the text once per line.
    script = f"""
        {study} --emit-commands > '{here}/commands.txt' || exit 1
        for SLURM_ARRAY_TASK_ID in $(seq 1 $(wc -l < '{here}/commands.txt')); do
            (eval "$(sed -n ${{SLURM_ARRAY_TASK_ID}}p '{here}/commands.txt')") || exit 1
        done
        {study} --report-only
    """
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len((here / "commands.txt").read_text().splitlines()) == 1
    with ResultsFile(here / "out" / "results.sqlite") as store:
        assert [(row.status, row.seed) for row in store.results().values()] == [(FINISHED, 4)]
    assert (here / "out" / "report" / "report.md").exists()


def test_a_study_starts_from_the_configs_that_a_run_starts_from(tmp_path: Path) -> None:
    """configs/own_data.yaml keeps the best checkpoint, which the runs of a study do without."""
    save_model_config(tmp_path / "model")
    rows = "".join(f"a {'good' if i % 2 else 'bad'} film {i},{i % 2}\n" for i in range(40))
    (tmp_path / "films.csv").write_text("text,label\n" + rows)
    study = {
        "configs": [str(ROOT / "configs/own_data.yaml")],
        "settings": {
            "model.model": str(tmp_path / "model"),
            "model.pretrained": False,
            "data.train_file": str(tmp_path / "films.csv"),
            "data.tokenizer": "offline:all-MiniLM-L6-v2",
            "data.max_length": 16,
            "data.cache_dir": str(tmp_path / "cache"),
            "trainer.accelerator": "cpu",
        },
        "axes": {"optimizer": {"ParabolicAdam": {}}},
        "seeds": 1,
        "budget": {"steps": 2},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    (run,) = expand_runs(load_study(tmp_path / "study.yaml"))
    result = execute_run(run, tmp_path / "out")
    assert (result.status, result.reason) == (FINISHED, "")
    assert result.steps == 2
    assert not list(tmp_path.rglob("*.ckpt"))
    assert execute_run(run, tmp_path / "out", attempt=2) == result  # as a second job does, of commands written before
