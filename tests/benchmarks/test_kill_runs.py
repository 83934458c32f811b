"""Runs that are killed with SIGKILL go on from their newest whole checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import kill_runs


def test_runs_that_are_killed_go_on_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    kills = kill_runs.kill_runs(tmp_path, kills=3, hidden_size=32, seconds=2, seed=1)
    assert len(kills) == 3
    assert all(kill.torn == 0 for kill in kills)
    assert [kill.resumed_at for kill in kills] == [kill.newest_step for kill in kills]
    assert kills[-1].newest_step > 0
    assert "| torn checkpoints under a proper name | 0 |" in kill_runs.table(kills)


def test_a_run_that_ends_by_itself_is_told_with_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(folder: Path, log: Path) -> int:
        log.write_text("no such model")
        return os.posix_spawnp("true", ["true"], os.environ)

    monkeypatch.setattr(kill_runs, "start", start)
    with pytest.raises(RuntimeError, match="the run did not begin: no such model"):
        kill_runs.kill_runs(tmp_path, kills=1, hidden_size=32)


def test_a_torn_checkpoint_is_counted(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.ckpt").write_bytes(b"PK torn")
    assert kill_runs.look(tmp_path, while_saving=False) == kill_runs.Kill(False, torn=1, leftovers=0, newest_step=0)
