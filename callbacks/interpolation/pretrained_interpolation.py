"""A line search over a whole run: between the pretrained weights and the trained ones, at the end of a fit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from callbacks.checkpoints.checkpoint_reading import read_checkpoint
from callbacks.files.file_systems import exists
from callbacks.interpolation.interpolated_checkpoint import INTERPOLATION, mark_interpolated, save_interpolated
from callbacks.interpolation.interpolation_report import described, found_figures, log_figures, write_curve
from callbacks.interpolation.start_file import read_start, start_of_resumed, write_start
from callbacks.interpolation.weight_line import Trial, WeightLine, choose
from callbacks.scores.validation_scorer import ValidationScorer, check_loss, short_name
from callbacks.trainer.trainer_callbacks import callbacks_of
from optimizers import named_parts
from optimizers.random_state import generator_states, set_generator_states

# Entries of a checkpoint that say when its weights were trained.
_MOMENT = ("epoch", "global_step")


class PretrainedInterpolation(Callback):
    r"""Searches the line from the pretrained weights to the trained ones for the best weights, at the end of a fit.

    .. math:: \theta(\alpha) = \theta_{pretrained} + \alpha \, (\theta_{trained} - \theta_{pretrained}), \qquad
        0 \le \alpha \le 1 .

    The trained weights are those of the best checkpoint where ModelCheckpoint has a monitor, else the last ones. Of the
    values of :math:`\alpha` tried, the one with the lowest validation loss is taken among those with which the metric
    for model selection is not worse than with the weights as trained, by more than the standard error of the
    difference. If it is below 1, a checkpoint with these weights is written beside the best one and becomes the best
    one, and the module holds them. It cannot be resumed from: the run's own checkpoints stay. Weights that began as
    random ones (a new head) stay as trained; of an adapter :math:`\alpha` scales what it adds. An idea of WiSE-FT
    (arXiv 2109.01903); see docs/last_line_search.md.

    A module without ``start_weights()`` has the weights from the start of the fit written to ``start_weights.pt`` in
    the run's folder. The first validation set alone counts. Nothing happens where Ctrl-C or a signal ends a run, or
    with ``fast_dev_run``. The run's folder gets the curve, ``interpolation.csv``; loggers and ``figures`` the rest.

    Args:
        per_layer: Whether embeddings, layers and head get an :math:`\alpha` each, after the common one.
        judge_fraction: The share of the validation rows that chooses nothing, and on which what is logged as
            ``interpolation/…`` is computed. 0: all rows do both.
        monitor: The metric that must not get worse. Default: that of ModelCheckpoint, else the module's
            ``main_metric``, else the loss.
        mode: Whether more of ``monitor`` is better.

    Raises:
        MisconfigurationException: there is no validation loss or no pretrained weight, or parameters are sharded.

    Example::

        Trainer(callbacks=[PretrainedInterpolation(), ModelCheckpoint(monitor="val/loss")])
    """

    def __init__(
        self,
        per_layer: bool = False,
        judge_fraction: float = 0.0,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        if not 0 <= judge_fraction < 1:
            raise MisconfigurationException(f"judge_fraction: {judge_fraction} is not allowed; from 0 to below 1")
        self.per_layer = per_layer
        self.judge_fraction = judge_fraction
        self.monitor = monitor
        self.mode = mode
        self._start_file: str | None = None
        self._forget()

    def _forget(self) -> None:
        self.kept = False
        self.alphas: dict[str, float] = {}
        self.figures: dict[str, float] = {}
        self.scores: dict[str, float] = {}  # of the kept weights, on all rows
        self.scores_as_trained: dict[str, float] = {}
        self.found = ""  # where the kept weights are and what it changed, in a line; empty where the trained ones stay
        self.summary = ""
        self._in_place: dict[str, Any] = {}  # of interpolated weights in the module: entries of their checkpoint

    # Before training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._start_file = None  # of an earlier fit; that of a checkpoint is loaded after this
        if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
            raise MisconfigurationException(
                f"PretrainedInterpolation: {type(trainer.strategy).__name__} shards the parameters, which the search "
                "does not go with; train with ddp, or leave the callback out"
            )
        # After all others: their last checkpoint is saved, and what they report is of the weights as trained.
        others = [callback for callback in callbacks_of(trainer, Callback) if callback is not self]
        trainer.callbacks = [*others, self]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forget()
        if not trainer.enable_validation:
            raise MisconfigurationException(
                "PretrainedInterpolation: there is no validation data to search on; give some, or leave it out"
            )
        if self.judge_fraction and not hasattr(pl_module, "score_rows"):
            raise MisconfigurationException(
                f"judge_fraction: {type(pl_module).__name__} has no method score_rows(outputs, labels) to score a part "
                "of the rows by; leave it at 0"
            )
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self.per_layer:
            _parts(pl_module)
        if hasattr(pl_module, "start_weights"):
            self._check_start(pl_module)
        elif trainer.ckpt_path:
            self._start_file = start_of_resumed(self._start_file, str(trainer.ckpt_path))
        else:
            self._start_file = write_start(trainer, pl_module)

    @staticmethod
    def _check_start(module: Any) -> None:
        adapted = getattr(module, "adapted", None)
        if module.hparams.get("pretrained") is False or (adapted is not None and not adapted.identity):
            raise MisconfigurationException(
                "PretrainedInterpolation: none of the weights that train has a pretrained value to go back to; leave "
                "it out"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Said before the training that a search without a loss would come after. A check before it has at hand what is
        # logged of the last validation set alone (lightning 2.6.6).
        if trainer.sanity_checking and len(trainer.num_val_batches) > 1:
            return
        names = {short_name(name) for name in trainer.callback_metrics if name.startswith("val")}
        if trainer.state.fn == "fit" and not hasattr(pl_module, "score_rows"):
            check_loss(names)

    def state_dict(self) -> dict[str, Any]:
        return {"start_file": self._start_file}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start_file = state_dict["start_file"]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        names = (INTERPOLATION, *_MOMENT)
        self._in_place = {name: checkpoint[name] for name in names} if INTERPOLATION in checkpoint else {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # By hand, after the fit: the optimizer's state belongs to the trained weights.
        if self._in_place:
            marked = mark_interpolated(checkpoint, self._in_place[INTERPOLATION], self.scores)
            checkpoint.clear()
            checkpoint.update(marked | self._in_place)

    # After training

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        started, generators = time.perf_counter(), generator_states([pl_module.device])
        if trainer.val_dataloaders is None:
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
        try:
            self._search(trainer, pl_module, started)
        finally:
            set_generator_states(generators)

    def _search(self, trainer: Trainer, module: Any, started: float) -> None:
        saver, monitor, mode = self._selected_by(trainer, module)
        # A module may have a state of its own beside tensors (get_extra_state), which no line goes through.
        live = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        base = read_checkpoint(saver.best_model_path) if saver is not None and saver.best_model_path else None
        is_monitored = saver is not None and saver.monitor is not None
        # A module may leave frozen weights out of its checkpoints.
        trained = live | base["state_dict"] if base is not None and is_monitored else live
        start = module.start_weights() if hasattr(module, "start_weights") else read_start(str(self._start_file))
        line = WeightLine(live, start, trained, _parts(module) if self.per_layer else None)
        if not line.has_length:
            self.summary = "nothing to search: no pretrained weight has moved"
            return
        last = {name: value.detach().cpu().clone() for name, value in live.items()}
        _put(live, trained)
        scorer = ValidationScorer(trainer, module, self.judge_fraction)
        try:
            trials = line.search(scorer.score)
            as_trained, chosen = trials[0], choose(trials, short_name(monitor), mode, scorer.paired_error)
            self.kept = chosen is not as_trained
        finally:
            if not self.kept:
                _put(live, last)
        if self.kept:
            line.put(chosen.alphas)
        self._tell(trainer, scorer, trials, chosen, monitor, time.perf_counter() - started)
        if self.kept:
            moment: Any = base if is_monitored else {"epoch": trainer.current_epoch, "global_step": trainer.global_step}
            self._take_over(module, scorer, as_trained, chosen, moment)
            if saver is not None and base is not None:
                save_interpolated(trainer, module, saver, base, self._in_place[INTERPOLATION], self.scores)

    def _tell(
        self,
        trainer: Trainer,
        scorer: ValidationScorer,
        trials: list[Trial],
        chosen: Trial,
        monitor: str,
        seconds: float,
    ) -> None:
        """Report what was found: figures for loggers, the curve in the run's folder, a line for the summary."""
        as_trained = trials[0]
        self.alphas, self.figures = chosen.alphas, found_figures(scorer, as_trained, chosen, seconds)
        self.found = described(as_trained, chosen) if self.kept else ""
        passes = f"{scorer.passes} passes, {seconds:.1f} s; not worse by {monitor}"
        self.summary = f"{self.found or 'alpha 1, the weights stay as trained'} ({passes})"
        log_figures(trainer, self.figures)
        write_curve(trainer, trials)

    def _take_over(
        self, module: Any, scorer: ValidationScorer, as_trained: Trial, chosen: Trial, moment: Mapping[str, Any]
    ) -> None:
        """Note what the interpolated weights, which the module holds, score, and what their checkpoints are to say."""
        self.scores, self.scores_as_trained = chosen.scores.whole, as_trained.scores.whole
        temperature = getattr(module, "temperature", 1.0)
        fitted = scorer.calibrated_loss(chosen.scores)
        if temperature != 1.0 and fitted is not None:
            module.temperature = fitted[0]
        facts = {"alphas": self.alphas, "text": self.found}
        self._in_place = {INTERPOLATION: facts} | {name: moment[name] for name in _MOMENT}

    def _selected_by(self, trainer: Trainer, module: Any) -> tuple[ModelCheckpoint | None, str, str]:
        """Return the ModelCheckpoint with a file on all ranks, and the metric that must not get worse."""
        callback = trainer.checkpoint_callback
        saver = callback if isinstance(callback, ModelCheckpoint) else None
        monitor, mode = self.monitor, str(self.mode)
        if monitor is None and saver is not None and saver.monitor is not None:
            monitor, mode = saver.monitor, saver.mode
        if monitor is None:
            monitor, mode = getattr(module, "main_metric", "val/loss"), getattr(module, "main_metric_mode", "min")
        has_file = saver is not None and exists(saver.best_model_path)
        if trainer.world_size > 1:
            has_file = trainer.strategy.reduce_boolean_decision(has_file, all=True)
        return saver if has_file else None, monitor, mode


def _put(live: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in live.items():
            value.copy_(values[name])


def _parts(module: Any) -> dict[str, str]:
    """Return the part of each weight, by its name in ``state_dict``."""
    model = getattr(module, "trained_module", module)
    prefix = next((f"{name}." for name, each in module.named_modules() if each is model and name), "")
    try:
        parts = named_parts(model, getattr(module, "module_order", ()))
    except ValueError as error:
        raise MisconfigurationException(f"PretrainedInterpolation: per_layer: {error}") from error
    return {f"{prefix}{name}": part.name for part in parts for name, _ in part.parameters}
