"""The page of optimizers of other packages: a part of its rows, made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.compatibility.optimizers import AS_PLAIN, PACKAGES, candidates, outcome, row, torchzero_candidates

PAGE = Path(__file__).parents[2] / "docs" / "compatibility_optimizers.md"
# Each needs something of its own of a step.
SPECIAL = {
    "AdaHessian",
    "AdamMini",
    "AliG",
    "BSAM",
    "GSAM",
    "LBFGS",
    "Lookahead",
    "Momo",
    "PCGrad",
    "SAM",
    "SafeFP16Optimizer",
    "ScheduleFreeSGD",
    "WSAM",
}
ALL = [each for package in PACKAGES if package != "torchzero" for each in candidates(package)]
CHOSEN = [each for index, each in enumerate(ALL) if index % 8 == 0 or each.name in SPECIAL]


@pytest.mark.parametrize("candidate", CHOSEN, ids=lambda candidate: f"{candidate.package}.{candidate.name}")
def test_a_row_of_the_page_is_what_is_found(candidate):
    found = outcome(candidate)
    assert found.trains == AS_PLAIN or found.trains.startswith("refused: ")
    assert row(candidate, found) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_has_every_optimizer():
    text = PAGE.read_text(encoding="utf-8")
    assert [each.name for each in ALL if f"| {each.name} |" not in text] == []


@pytest.mark.parametrize("name", ["Adam", "Backtracking", "StrongWolfe", "SPSA", "Newton", "NewtonCG"])
def test_torchzero_calls_its_closure_without_backward(name):
    import torchzero

    (candidate,) = [each for each in torchzero_candidates(torchzero) if each.name == name]
    assert outcome(candidate).trains == AS_PLAIN
