"""Scores on the validation set of a fit, divided into rows that choose weights and rows that judge them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from callbacks.scores.class_scores import has_classes
from callbacks.scores.gathered_predictions import gathered
from callbacks.scores.temperature import best_temperature
from callbacks.trainer.quiet_steps import moved_to_device, quiet
from optimizers.training_modes import restore_modes, training_modes

# Of the permutation that divides the rows: the same in every run and for every method.
_SEED = 20
# Of rows that are left out together for a standard error.
_GROUPS = 20


class ValidationScores(NamedTuple):
    """Loss and metrics of one set of weights, by name, without ``val/``.

    Args:
        choosing: On the rows that choose.
        judging: On the rows that judge.
        whole: On all rows.
        outputs: What the validation step returned of all rows; None where it returns no outputs.
        labels: Their labels.
    """

    choosing: dict[str, float]
    judging: dict[str, float]
    whole: dict[str, float]
    outputs: Tensor | None = None
    labels: Tensor | None = None


class ValidationScorer:
    """Scores a module's present weights on the first validation set, without logging anything.

    Args:
        trainer: The trainer of a running fit.
        module: Its module. With ``score_rows(outputs, labels)``, and a validation step that returns both, rows are
            scored; else the values that its validation step logs are taken.
        judge_fraction: The share of the rows that judges; with 0 all rows do both.

    Raises:
        MisconfigurationException: if the rows cannot be divided, or there is no loss.
    """

    def __init__(self, trainer: Trainer, module: Any, judge_fraction: float) -> None:
        self.trainer = trainer
        self.module = module
        self.judge_fraction = judge_fraction
        self.passes = 0

    def score(self) -> ValidationScores:
        """Return the scores of the present weights, alike on all ranks; one pass over the rows."""
        self.passes += 1
        rows, logged = self._pass()
        if not rows or not hasattr(self.module, "score_rows"):
            if self.judge_fraction:
                raise MisconfigurationException(
                    f"judge_fraction: {type(self.module).__name__} has no validation step that returns outputs and "
                    "labels, with a method score_rows; leave it at 0"
                )
            check_loss(short_name(name) for name in logged)
            values = self.trainer.strategy.broadcast({short_name(name): value for name, value in logged.items()})
            return ValidationScores(values, values, values)
        outputs, labels = (gathered(self.trainer, torch.cat([row[each] for row in rows])).cpu() for each in (0, 1))
        chooses, judges = self._divide(len(labels))
        parts = [self.module.score_rows(outputs[part], labels[part]) for part in (chooses, judges)]
        whole = self.module.score_rows(outputs, labels)
        choosing, judging, whole = self.trainer.strategy.broadcast([*parts, whole])
        return ValidationScores(choosing, judging, whole, outputs, labels)

    def calibrated_loss(self, scores: ValidationScores) -> tuple[float, float] | None:
        """Return a temperature fitted on the rows that choose, and the loss with it on those that judge.

        None for a regression, and where there are no outputs.
        """
        if scores.outputs is None or scores.labels is None or not has_classes(self.module):
            return None
        chooses, judges = self._divide(len(scores.labels))
        outputs = scores.outputs.double().nan_to_num()
        temperature = best_temperature(outputs[chooses], scores.labels[chooses])
        judged = self.module.score_rows((outputs[judges] / temperature).float(), scores.labels[judges])
        return temperature, judged["loss"]

    def paired_error(self, first: ValidationScores, other: ValidationScores, metric: str) -> float:
        """Return the standard error of a metric's difference between two sets of weights, on the rows that choose.

        By the jackknife with groups of rows, which serves any metric, a correlation too. 0 where rows are not scored,
        and of a single row.
        """
        outputs = [each for each in (first.outputs, other.outputs) if each is not None]
        labels = first.labels
        if len(outputs) < 2 or labels is None:
            return 0.0
        chooses, _ = self._divide(len(labels))
        if len(chooses) < 2:
            return 0.0
        groups = torch.arange(len(chooses)) % _GROUPS
        differences = []
        for group in groups.unique():
            left = chooses[groups != group]
            before, after = (self.module.score_rows(each[left], labels[left])[metric] for each in outputs)
            differences.append(after - before)
        found = torch.tensor(differences, dtype=torch.float64)
        variance = (len(found) - 1) * found.var(correction=0)
        return float(self.trainer.strategy.broadcast(float(variance.sqrt())))

    def _divide(self, rows: int) -> tuple[Tensor, Tensor]:
        if not self.judge_fraction:
            return torch.arange(rows), torch.arange(rows)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(_SEED))
        judges = round(self.judge_fraction * rows)
        if not 0 < judges < rows:
            raise MisconfigurationException(
                f"judge_fraction: {self.judge_fraction} of {rows} validation rows leaves none on one side"
            )
        return order[judges:].sort().values, order[:judges].sort().values

    @torch.no_grad()
    def _pass(self) -> tuple[list[tuple[Tensor, Tensor]], dict[str, float]]:
        trainer, module, rows = self.trainer, self.module, []
        loaders = trainer.val_dataloaders
        several = isinstance(loaders, list | tuple | dict) and len(loaders) > 1
        loader: Any = loaders
        if isinstance(loaders, list | tuple | dict):
            loader = next(iter(loaders.values() if isinstance(loaders, dict) else loaders))
        limit = trainer.num_val_batches[0]
        takes_index = is_param_in_hook_signature(module.validation_step, "batch_idx", min_args=2)
        modes = training_modes(module)
        module.eval()
        try:
            with quiet(trainer, module) as logged, trainer.precision_plugin.val_step_context():
                # Either may clear what its steps collect. on_validation_end would let a ClosureModule train on.
                module.on_validation_start()
                module.on_validation_epoch_start()
                for index, batch in enumerate(islice(loader, limit if isinstance(limit, int) else None)):
                    torch.clear_autocast_cache()  # it holds low-precision copies of weights that may have changed
                    logged.batch = batch = moved_to_device(trainer, module, batch)
                    numbers = [*([index] if takes_index else []), *([0] if several else [])]
                    found = module.validation_step(batch, *numbers)
                    if isinstance(found, dict) and {"outputs", "labels"} <= found.keys():
                        rows.append((found["outputs"].detach(), found["labels"]))
                module.on_validation_epoch_end()
                return rows, {} if rows and hasattr(module, "score_rows") else logged.values()
        finally:
            restore_modes(modes)


def short_name(name: str) -> str:
    """Return a metric's name without what it is logged with: the stage, the number of the first of several loaders."""
    return name.removeprefix("val/").removeprefix("val_").removesuffix("/dataloader_idx_0")


def check_loss(names: Iterable[str]) -> None:
    """Check that a loss is among what a validation step logs.

    Args:
        names: Short names of what it logs.

    Raises:
        MisconfigurationException: if it is not.
    """
    if "loss" not in names:
        raise MisconfigurationException(
            "PretrainedInterpolation: the validation step logs neither val/loss nor val_loss to search by"
        )
