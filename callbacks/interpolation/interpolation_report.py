"""What a search between two sets of weights has found: as figures in the loggers, as a table, in a line."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping

import torch
from lightning.pytorch import Trainer

from callbacks.files.file_systems import make_folder
from callbacks.files.new_file import new_file
from callbacks.files.run_folder import run_folder
from callbacks.interpolation.weight_line import WHOLE, Trial
from callbacks.scores.validation_scorer import ValidationScorer
from callbacks.trainer.curve_axis import curve_end


def found_figures(scorer: ValidationScorer, as_trained: Trial, chosen: Trial, seconds: float) -> dict[str, float]:
    """Return what is logged, by name: places on the line, scores before and after, and what the search has cost.

    Args:
        scorer: What has scored the trials.
        as_trained: The trial of the trained weights.
        chosen: The trial that is kept.
        seconds: What the search has taken.
    """
    found = {
        "alpha": chosen.alphas[WHOLE],
        **{f"alpha/{name}": alpha for name, alpha in chosen.alphas.items() if name != WHOLE},
        **chosen.scores.judging,
        **{f"{name}_as_trained": value for name, value in as_trained.scores.judging.items()},
        "validation_passes": float(scorer.passes),
        "seconds": seconds,
    }
    for name, trial in (("loss_calibrated", as_trained), ("loss_interpolated_calibrated", chosen)):
        fitted = scorer.calibrated_loss(trial.scores)
        if fitted is not None:
            found[name] = fitted[1]
    return found


def log_figures(trainer: Trainer, figures: Mapping[str, float]) -> None:
    """Write figures into all loggers and the trainer's ``callback_metrics``, as ``interpolation/<name>``."""
    logged = {f"interpolation/{name}": value for name, value in figures.items()}
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in logged.items()})
    for logger in trainer.loggers:
        logger.log_metrics(logged, curve_end(trainer))


def described(as_trained: Trial, chosen: Trial) -> str:
    """Return in a line where on the line a trial is, and the figures of the trained weights and of its own."""
    parts = [f"{name} {alpha:.3f}" for name, alpha in chosen.alphas.items() if name != WHOLE]
    by_part = f" ({', '.join(parts)})" if parts else ""
    after = chosen.scores.judging
    changes = ", ".join(f"{name} {value:.4f} -> {after[name]:.4f}" for name, value in as_trained.scores.judging.items())
    return f"alpha {chosen.alphas[WHOLE]:.3f}{by_part}: {changes}"


def write_curve(trainer: Trainer, trials: list[Trial]) -> None:
    """Write ``interpolation.csv`` into the run's folder: a row per trial, with its places and its scores; on all ranks.

    Args:
        trainer: The trainer of the fit.
        trials: At least one.
    """
    folder = run_folder(trainer)  # the ranks agree on it
    if not trainer.is_global_zero:
        return
    make_folder(folder)
    parts, names = list(trials[-1].alphas), list(trials[0].scores.choosing)
    with new_file(os.path.join(folder, "interpolation.csv")) as stream:
        table = csv.writer(stream)
        table.writerow([*(f"alpha {part}" for part in parts), *names])
        for alphas, scores in trials:
            places = [alphas.get(part, alphas[WHOLE]) for part in parts]
            table.writerow([*places, *(scores.choosing[name] for name in names)])
