"""From a study to its runs: every combination of levels, each under an id that follows from its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.study.definition import Axis, Budget, Level, Study, read_yaml

ID_LENGTH = 12


@dataclass(frozen=True)
class Cell:
    """One combination of levels; its runs differ by seed alone.

    Args:
        labels: The level's label on each axis, in the order of the axes.
        configs: Config files, in the order in which the command line takes them.
        settings: Dotted keys and values laid over the configs.
        metric: What this cell is judged by, as it is logged.
        budget: How long its runs train.
    """

    labels: Mapping[str, str]
    configs: tuple[str, ...]
    settings: Mapping[str, Any]
    metric: str
    budget: Budget

    @property
    def name(self) -> str:
        """The labels in one line, for people."""
        return " · ".join(self.labels.values())


@dataclass(frozen=True)
class Run:
    """One training run: a cell and a seed, with an id that depends on nothing but the resolved settings."""

    id: str
    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        """The cell and the seed in one line, for people."""
        return f"{self.cell.name} · seed {self.seed}"


def expand_cells(study: Study) -> list[Cell]:
    """All cells of the grid, the first axis varying slowest.

    Raises:
        ValueError: Two levels of a cell append to the same list, or one table of the report would mix metrics.
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
        cells.append(Cell(labels, tuple(configs), settings, metric, budget))
    _check_metrics(study, cells)
    return cells


def expand_runs(study: Study) -> list[Run]:
    """All runs, seed by seed, so that a study stopped early has every cell with the same number of seeds.

    Raises:
        ValueError: Two cells come out with the same settings: they would be the same run under two names.
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
    """A short hash of what decides a run: the configs' content, the settings, the budget and the seed.

    File names, comments, labels and the order of keys do not enter: renaming a level does not repeat its runs, while a
    changed value in a config does.
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
