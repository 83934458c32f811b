"""Expansion of a study into its runs: all combinations of levels, each with an id computed from its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.study.definition import Axis, Budget, Level, Study
from benchmarks.study.yaml_file import read_yaml

ID_LENGTH = 12


@dataclass(frozen=True)
class Cell:
    """One combination of levels; its runs differ only in the seed.

    Args:
        labels: The level's label on each axis, in the order of the axes.
        configs: Config files, in the order of the command line.
        settings: Dotted keys and values that override the configs.
        metric: Name of the logged metric that this cell is judged by.
        budget: Length of its runs.
    """

    labels: Mapping[str, str]
    configs: tuple[str, ...]
    settings: Mapping[str, Any]
    metric: str
    budget: Budget

    @property
    def name(self) -> str:
        """All labels in one line."""
        return " · ".join(self.labels.values())


@dataclass(frozen=True)
class Run:
    """One training run: a cell and a seed, with an id computed from the resolved settings alone."""

    id: str
    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        """The cell's labels and the seed in one line."""
        return f"{self.cell.name} · seed {self.seed}"


def expand_cells(study: Study) -> list[Cell]:
    """Return all cells of the grid, the first axis varying slowest.

    Raises:
        ValueError: Two axes of a cell have one name, two of its levels append to the same list, or one table of the
            report would mix metrics.
    """
    cells = []
    for levels in _combinations(study.axes):
        configs = list(study.configs)
        settings = dict(study.settings)
        metric, budget = study.metric, study.budget
        for axis, level in levels:
            configs += level.configs
            for key in level.settings:
                if key.endswith("+") and key in settings:
                    raise ValueError(
                        f"{study.path}: {key} is set more than once for the cell with {axis.name} '{level.label}'; "
                        "settings replace one another: append in a config of the level's own"
                    )
            settings |= level.settings
            metric = level.metric or metric
            budget = level.budget or budget
        labels = {axis.name: level.label for axis, level in levels}
        if len(labels) < len(levels):
            names = [axis.name for axis, _ in levels]
            cell = " · ".join(level.label for _, level in levels)
            raise ValueError(f"{study.path}: two axes of the cell '{cell}' are called {max(names, key=names.count)!r}")
        cells.append(Cell(labels, tuple(configs), settings, metric, budget))
    _check_metrics(study, cells)
    return cells


def expand_runs(study: Study) -> list[Run]:
    """Return all runs, seed by seed, so that a study stopped early has equally many seeds of every cell.

    Raises:
        ValueError: Two cells have the same settings: they would be the same run under two names.
    """
    cells = expand_cells(study)
    runs: dict[str, Run] = {}
    for seed in study.seeds:
        for cell in cells:
            run = Run(run_id(cell, seed), cell, seed)
            if run.id in runs:
                twin = runs[run.id].cell.name
                raise ValueError(f"{study.path}: the cells '{twin}' and '{cell.name}' have the same settings")
            runs[run.id] = run
    return list(runs.values())


def run_id(cell: Cell, seed: int) -> str:
    """Return a short hash of the configs' content, the settings, the budget and the seed.

    File names, comments, labels and the order of keys are not part of it: a renamed level keeps its runs, while a
    changed value in a config makes new ones.
    """
    resolved = {
        "configs": [read_yaml(Path(file)) for file in cell.configs],
        "settings": dict(cell.settings),
        "budget": vars(cell.budget),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(resolved, sort_keys=True, default=str).encode()).hexdigest()[:ID_LENGTH]


def _check_metrics(study: Study, cells: Sequence[Cell]) -> None:
    metrics: dict[str, str] = {}
    for cell in cells:
        table = cell.labels.get(study.report.tables_by or "", "")
        metric = metrics.setdefault(table, cell.metric)
        if cell.metric != metric:
            raise ValueError(
                f"{study.path}: one table would mix {metric} and {cell.metric}: "
                "set report.tables_by to the axis whose levels set a metric"
            )


def _combinations(axes: Sequence[Axis]) -> Iterator[list[tuple[Axis, Level]]]:
    if not axes:
        yield []
        return
    first, rest = axes[0], axes[1:]
    for level in first.levels:
        for chosen in _combinations([*level.axes, *rest]):
            yield [(first, level), *chosen]
