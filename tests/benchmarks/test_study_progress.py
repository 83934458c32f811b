"""What a person sees of a study that is under way."""

from __future__ import annotations

import io

import pytest

import benchmarks.study.progress
from benchmarks.study.definition import Budget
from benchmarks.study.grid import Cell, Run
from benchmarks.study.progress import Progress
from benchmarks.study.results import FAILED, FINISHED, Result

GOOD, BAD = (Run(way, Cell({"way": way}, (), {}, "val/accuracy", Budget(steps=1)), 0) for way in ("good", "bad"))
SCORED = Result("good", FINISHED, "", {}, 0, final={"val/accuracy": 0.75}, wall_seconds=30)
BROKEN = Result("bad", FAILED, "out of paper", {}, 0, wall_seconds=120)


class Terminal(io.StringIO):
    """A stream without an encoding: its bar is drawn with hash signs."""

    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO) -> list[str]:
    progress = Progress(total=5, done=2, stream=stream)
    for run in (GOOD, BAD):
        progress.start(run)
    progress.wait()
    progress.end(BAD, BROKEN)
    progress.end(GOOD, SCORED)
    progress.close()
    return [line.rstrip() for line in stream.getvalue().replace("\r", "\n").splitlines() if line.strip()]


def test_every_run_leaves_a_line() -> None:
    assert show(io.StringIO()) == [
        "[3/5] bad · seed 0: FAILED in 2 min: out of paper",
        "[4/5] good · seed 0: val/accuracy 0.75 in 30 s",
    ]


def test_a_terminal_has_a_bar_that_says_what_goes_on_and_ends_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.study.progress, "REFRESH_SECONDS", -1.0)
    lines = show(Terminal())
    assert "[4/5] good · seed 0: val/accuracy 0.75 in 30 s" in lines
    assert sum(line.endswith("now: good · seed 0 | bad · seed 0") for line in lines) >= 2
    assert any(line.endswith("1 failed, now: good · seed 0") for line in lines)
    assert lines[-1].startswith(" 80% |################    | 4/5 runs [")
    assert lines[-1].endswith("], 1 failed")
