"""The page of optimizers of other packages: a part of its rows, made again."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest
import torchzero

from benchmarks.compatibility.optimizers import AS_PLAIN, PACKAGES, candidates, outcome, row, torchzero_candidates

PAGE = (Path(__file__).parents[2] / "docs" / "compatibility_optimizers.md").read_text(encoding="utf-8")
TABLES, TORCHZERO = PAGE.split("## torchzero ")
ROWS = set(TABLES.splitlines())
REFUSED = {line.split(" | ")[0].removeprefix("| ") for line in ROWS if " refused: " in line}
# Each needs something of its own of a step or a checkpoint.
SPECIAL = {
    "AdaHessian",
    "AdamMini",
    "AliG",
    "BSAM",
    "GSAM",
    "LBFGS",
    "Lookahead",
    "Momo",
    "OrthoGrad",
    "PCGrad",
    "SAM",
    "SafeFP16Optimizer",
    "ScheduleFreeSGD",
    "TRAC",
    "WSAM",
}
ALL = [each for package in PACKAGES if package != "torchzero" for each in candidates(package)]
TORCHZERO_ROWS = dict(line[2:-2].split(" | ") for line in TORCHZERO.splitlines() if line.startswith("| "))
PLAIN = TORCHZERO.partition("As a plain loop: ")[2].strip().removesuffix(".").replace("\n", " ").split(", ")
MODULES = {candidate.name: candidate for candidate in torchzero_candidates(torchzero)}
LINE_SEARCHES = {"Adam", "Backtracking", "StrongWolfe", "SPSA", "Newton", "NewtonCG"}


def sampled(name: str) -> bool:
    return crc32(name.encode()) % 8 == 0


@pytest.mark.parametrize(
    "candidate",
    [each for each in ALL if sampled(each.name) or each.name in SPECIAL | REFUSED],
    ids=lambda candidate: f"{candidate.package}.{candidate.name}",
)
def test_a_row_of_the_page_is_what_is_found(candidate):
    found = outcome(candidate)
    assert found.trains == AS_PLAIN or found.trains.startswith("refused: ")
    assert row(candidate, found) in ROWS


def test_the_page_has_every_optimizer():
    assert [each.name for each in ALL if f"| {each.name} |" not in TABLES] == []
    assert {*PLAIN, *TORCHZERO_ROWS} >= set(MODULES)


@pytest.mark.parametrize("name", sorted(filter(lambda name: sampled(name) or name in LINE_SEARCHES, PLAIN)))
def test_a_module_of_torchzero_trains_as_in_a_plain_loop(name):
    """torchzero 0.4.4's line searches and second-order methods call their closure with ``backward=False``."""
    assert outcome(MODULES[name]).trains == AS_PLAIN


@pytest.mark.parametrize("name", sorted(TORCHZERO_ROWS.keys() - {"module", "---"}))
def test_another_module_of_torchzero_is_refused_or_diverges(name):
    assert outcome(MODULES[name]).trains.replace("|", "/") == TORCHZERO_ROWS[name]
