"""The table of what a search between two sets of weights has tried."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.pytorch import Trainer

from callbacks.run_folder import run_folder
from callbacks.weight_line import WHOLE, Trial


def write_curve(trainer: Trainer, trials: list[Trial]) -> None:
    """Write ``interpolation.csv`` into the run's folder: a row per trial, with its places and its scores; on all ranks.

    Args:
        trainer: The trainer of the fit.
        trials: At least one.
    """
    folder = Path(run_folder(trainer))  # the ranks agree on it
    if not trainer.is_global_zero:
        return
    folder.mkdir(parents=True, exist_ok=True)
    parts, names = list(trials[-1].alphas), list(trials[0].scores.choosing)
    with (folder / "interpolation.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow([*(f"alpha {part}" for part in parts), *names])
        for alphas, scores in trials:
            places = [alphas.get(part, alphas[WHOLE]) for part in parts]
            table.writerow([*places, *(scores.choosing[name] for name in names)])
