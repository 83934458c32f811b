"""Studies on a real Ray cluster of this machine: a node that is killed, and what is left to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.study.grid import expand_runs
from benchmarks.study.results import FINISHED, ResultsFile
from benchmarks.study.run_folder import is_locked, read_history, run_folder
from benchmarks.study.study_file import load_study
from tests.benchmarks.tiny_study import save_model_config, wait_until, write_study

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed (pip install -e '.[ray]')")

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
  model.model: HERE/model
  model.optimizer: noted.Noted
axes: {only: {one: {}}}
seeds: 3
budget: {seconds: 10}
"""
# Notes which runs make an optimizer: their output goes to a file in their folder.
NOTED = """
import os
from optimizers import SaLSA


class Noted(SaLSA):
    def __init__(self, params):
        super().__init__(params)
        with open("HERE/starts", "a") as file:
            file.write(os.path.basename(os.path.dirname(os.readlink("/proc/self/fd/1"))) + "\\n")
"""


@pytest.fixture
def cluster(monkeypatch):
    # By default Ray (2.60) runs tasks with the lowest priorities: beside other programs they would hardly begin.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_is_killed_and_its_runs_alone_are_made_again(tmp_path, cluster):
    write_study(tmp_path, STUDY)
    (tmp_path / "noted.py").write_text(NOTED.replace("HERE", str(tmp_path)))
    save_model_config(tmp_path / "model")
    output = tmp_path / "out"
    runs = expand_runs(load_study(tmp_path / "tiny.yaml"))
    doomed = cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)

    def starts():
        noted = tmp_path / "starts"
        return Counter(noted.read_text().split()) if noted.exists() else Counter()

    command = [sys.executable, "-m", "benchmarks.study", str(tmp_path / "tiny.yaml"), "--output", str(output)]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(tmp_path)}

    def study():
        with (tmp_path / "log").open("a") as log:
            return subprocess.Popen([*command, "--launcher", "ray"], cwd=ROOT, stderr=log, stdout=log, env=environment)

    started = study()
    wait_until(lambda: started.poll() is not None or len(starts()) == 2, seconds=300)
    assert started.poll() is None, (tmp_path / "log").read_text()
    running = starts()
    cluster.remove_node(doomed, allow_graceful=False)
    assert started.wait(300) == 0, (tmp_path / "log").read_text()

    with ResultsFile(output / "results.sqlite") as store:
        results = store.results()
    assert {result.status for result in results.values()} == {FINISHED}
    assert results.keys() == {run.id for run in runs}
    assert sorted(starts()[run.id] for run in runs) == [1, 1, 2]
    assert all(number == 1 or run in running for run, number in starts().items())
    for run in runs:
        steps = [step for step, _, _ in read_history(run_folder(output, run) / "history.csv")["train/loss"]]
        assert steps == sorted(set(steps))
        assert not is_locked(run_folder(output, run))
    again = study()
    assert again.wait(120) == 0
    assert sum(starts().values()) == 4
