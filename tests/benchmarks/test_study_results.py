"""The results file: rows survive whatever happens to the process that writes them."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks.study.results import FAILED, FINISHED, Result, ResultsFile

ROOT = Path(__file__).resolve().parents[2]


def a_result(id: str = "a", **changes: object) -> Result:
    values = {
        "id": id,
        "status": FINISHED,
        "reason": "",
        "labels": {"task": "sst2", "optimizer": "AdamW"},
        "seed": 3,
        "final": {"val/accuracy": 0.5, "val/loss": 0.25},
        "best": {"val/accuracy": 0.75},
        "majority": 0.5,
        "steps": 10,
        "train_seconds": 1.5,
        "machine": {"host": "here"},
    }
    return Result(**{**values, **changes})  # type: ignore[arg-type]


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    result = a_result()
    with ResultsFile(tmp_path / "deep" / "results.sqlite") as store:
        store.record(result)
    with ResultsFile(tmp_path / "deep" / "results.sqlite") as store:
        assert store.results() == {"a": result}
    assert Result.from_json(result.to_json()) == result


def test_scores_that_are_not_numbers_survive(tmp_path: Path) -> None:
    with ResultsFile(tmp_path / "r.sqlite") as store:
        store.record(a_result(final={"val/accuracy": math.nan}))
        assert math.isnan(store.results()["a"].final["val/accuracy"])


def test_a_retry_replaces_the_row_of_the_failure(tmp_path: Path) -> None:
    with ResultsFile(tmp_path / "r.sqlite") as store:
        store.record(a_result(status=FAILED, reason="out of memory"))
        store.record(a_result(attempts=2))
        store.record(a_result("b"))
        assert store.results(["a", "c"]) == {"a": a_result(attempts=2)}


def test_a_writer_killed_at_work_leaves_a_readable_file_without_holes(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    program = f"""
        import dataclasses
        from benchmarks.study.results import Result, ResultsFile
        store = ResultsFile({str(path)!r})
        for i in range(10**6):
            store.record(Result(str(i), "finished", "", {{"i": "x" * 2000}}, i))
            print(i, flush=True)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < 50:
        pass
    writer.send_signal(signal.SIGKILL)
    announced = [int(line) for line in writer.stdout.read().split()]
    assert writer.wait() == -signal.SIGKILL
    with ResultsFile(path) as store:
        rows = store.results()
        assert sorted(map(int, rows)) == list(range(len(rows)))
        assert len(rows) > max(announced, default=50)
        assert all(row.labels["i"] == "x" * 2000 for row in rows.values())
        store.record(a_result())
        assert "a" in store.results()


def test_another_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    path.write_text("not a database " * 100)
    with pytest.raises(ValueError, match=r"r.sqlite: not a results file"):
        ResultsFile(path)


def test_a_file_of_a_version_that_measured_less_is_read_and_goes_on(tmp_path: Path) -> None:
    import sqlite3

    path, later = tmp_path / "r.sqlite", ("fit_seconds", "processor_seconds", "interpolation")
    with ResultsFile(path) as store:
        store.record(a_result())
    with sqlite3.connect(path) as connection:
        for name in later:
            connection.execute(f"ALTER TABLE runs DROP COLUMN {name}")
    more = a_result("b", fit_seconds=2.0, interpolation={"alpha": 0.5})
    with ResultsFile(path) as store:
        store.record(more)
        assert store.results() == {"a": a_result(), "b": more}


def test_the_columns_of_another_version_are_refused(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, score)")
    with pytest.raises(ValueError, match="another version"):
        ResultsFile(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_in_memory_has_the_rows_of_the_file_and_leaves_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "a folder?" / "r.sqlite"
    with ResultsFile(path, in_memory=True) as store:
        store.record(a_result())
    assert not path.parent.exists()
    with ResultsFile(path) as store:
        store.record(a_result())
        with ResultsFile(path, in_memory=True) as copy:  # while a study writes, whose rows are in the log
            assert copy.results() == store.results()
    before = contents(tmp_path)
    with ResultsFile(path, in_memory=True) as copy:
        assert copy.results() == {"a": a_result()}
        copy.record(a_result("b"))
        copy.forget("a")
    assert contents(tmp_path) == before
    path.write_text("not a database " * 100)
    with pytest.raises(ValueError, match=r"r.sqlite: not a results file"):
        ResultsFile(path, in_memory=True)
