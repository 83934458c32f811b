"""What `ParabolicAdam` measured in every search of a study's runs, beside AdamW's best rate, as one Parquet table.

    python -m benchmarks.rate_traces configs/studies/learning_rate_free.yaml

For research on better estimates: which of these numbers, early in a run, predict the best learning rate?
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.study.grid import Run, expand_runs
from benchmarks.study.regret import best_rate, regret_frame
from benchmarks.study.results import ResultsFile
from benchmarks.study.run_folder import run_folder
from benchmarks.study.statistics import runs_frame
from benchmarks.study.study_file import load_study
from optimizers import ParabolicAdam

FILE = "rate_trace.csv"


class RateTrace(Callback):
    r"""Writes a row per search of `ParabolicAdam` to a file in the run's folder.

    Columns: ``step``; ``loss`` of the batch, ``slope`` and ``curvature`` along the step, at its start; ``agreement``
    :math:`r`, the mean ``distance`` :math:`\mu` and the ``minimiser`` :math:`\max r \mu` as they were after the search
    (docs/parabolic_adam.md); ``gradient_l1``, the sum of the gradient's absolute values; ``peak_rate``, the learning
    rate without its schedule.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._before: tuple[float, float] = (0.0, 0.0)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows, self._before = [], (0.0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.optimizers[0].keeps_gradients = True  # type: ignore[attr-defined]  # which are read after the step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        optimizer = trainer.optimizers[0]
        assert isinstance(optimizer, ParabolicAdam)
        record, group = optimizer.last_step, optimizer.param_groups[0]
        if record is None or record.evaluations == 0:
            return
        now = (group["distance_weight"], group["log_distance"])
        row = {
            "step": trainer.global_step,
            "loss": record.loss_before,
            "slope": record.slope,
            "curvature": _curvature(record.loss_before, self._before, now),
            "agreement": group["agreement"],
            "distance": math.exp(group["log_distance"]),
            "minimiser": group["minimiser"],
            "gradient_l1": sum(float(p.grad.abs().sum()) for p in pl_module.parameters() if p.grad is not None),
            "peak_rate": group["lr"] / optimizer.schedule(group["steps"]),
        }
        self._before = now
        self._rows.append(row)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._rows and trainer.is_global_zero:
            with Path(trainer.default_root_dir, FILE).open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(self._rows[0]))
                writer.writeheader()
                writer.writerows(self._rows)


def _curvature(loss: float, before: tuple[float, float], now: tuple[float, float]) -> float:
    """Return the curvature that moved the mean of the logarithm of the distance, each a pair of weight and mean."""
    weight = now[0] - before[0]
    if weight <= 0 or loss <= 0:
        return math.nan  # nothing was measured
    log_distance = before[1] + (now[1] - before[1]) * now[0] / weight
    return 2 * loss / math.exp(2 * log_distance)


def table_of_traces(runs: Sequence[Run], output: Path, best: Mapping[str, float], axis: str) -> pd.DataFrame:
    """Return the traces of all runs that have one, each row with what is known of its run.

    Args:
        runs: A study's runs.
        output: The study's folder.
        best: The grid's best learning rate by setting, where it is known.
        axis: The name of the axis of settings.
    """
    tables = []
    for run in runs:
        file = run_folder(output, run) / FILE
        if not file.exists():
            continue
        settings = run.cell.settings
        table = pd.read_csv(file)
        facts = {
            "setting": run.cell.labels[axis],
            "seed": run.seed,
            "model": Path(str(settings["model.model"])).name,
            "batch_size": settings["data.train_batch_size"],
            "best_rate": best.get(run.cell.labels[axis], math.nan),
        }
        for place, (name, value) in enumerate(facts.items()):
            table.insert(place, name, value)
        tables.append(table)
    if not tables:
        raise SystemExit(f"linetune: error: {output}: no run has a {FILE}")
    return pd.concat(tables, ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rate_traces", description=__doc__)
    parser.add_argument(
        "study", type=Path, help="the study's YAML file; its runs must have benchmarks.rate_traces.RateTrace"
    )
    parser.add_argument("--output", type=Path, help="the study's folder (default: runs/studies/NAME)")
    options = parser.parse_args(arguments)
    try:
        study = load_study(options.study, None)
    except ValueError as error:
        parser.error(str(error))
    if study.report.regret is None:
        parser.error(f"{options.study}: report.regret says which runs are the grid; this study has none")
    output = options.output or Path("runs/studies", options.study.stem)
    if not (output / "results.sqlite").is_file():
        parser.error(f"{output}: there is no results.sqlite, which the study writes; run it, or give --output")
    runs = expand_runs(study)
    with ResultsFile(output / "results.sqlite") as store:
        results = store.results([run.id for run in runs])
    frame = regret_frame(runs_frame(study, runs, results), results, study.report.regret, study.axis_names())
    rates = {run.id: float(run.cell.settings.get("model.optimizer.lr", math.nan)) for run in runs}
    best = {}
    for setting, grid in frame[frame["is_grid"]].groupby("setting", sort=False):
        method = best_rate(grid, "loss")
        best[str(setting)] = rates[grid.loc[grid["method"] == method, "id"].iloc[0]]
    table = output / "rate_traces.parquet"
    traces = table_of_traces(runs, output, best, study.report.regret.settings)
    traces.to_parquet(table, index=False)
    print(f"{table}: {len(traces)} searches in {traces.groupby(['setting', 'seed']).ngroups} runs")


if __name__ == "__main__":
    main()
