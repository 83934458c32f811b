"""What a run of ``fit`` ended with, in a few lines."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from callbacks.files.config_saver import ConfigSaver
from callbacks.files.run_folder import shown_path
from callbacks.interpolation.pretrained_interpolation import PretrainedInterpolation
from callbacks.reports.best_validation import BestValidation
from callbacks.schedules.main_metric_stopping import MainMetricStopping
from callbacks.trainer.trainer_callbacks import callbacks_of


class RunSummary(Callback):
    """Prints the validation metrics of a finished ``fit``, its best checkpoint and where to look further.

    Metrics are those of the last validation and, beside them, those of the validation that the best checkpoint was
    saved at, or those of interpolated weights and of the trained ones between which they are (PretrainedInterpolation).
    A run that resumes says so in its first line, one that left out steps or stopped early in its last ones.

    Example::

        Trainer(callbacks=[RunSummary()])
    """

    def __init__(self) -> None:
        self._validations: BestValidation[dict[str, float]] = BestValidation()
        self._trained = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # of an earlier fit nothing is said
            self._validations, self._trained = BestValidation(), False

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = True
        if trainer.ckpt_path:
            print(f"resumed from {trainer.ckpt_path}: epoch {trainer.current_epoch}, step {trainer.global_step}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            metrics = trainer.callback_metrics
            measured = {name: float(value) for name, value in metrics.items() if name.startswith("val")}
            self._validations.add(trainer, measured)

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        was_validated = self._validations.last() is not None
        print("\n" + "\n".join([*self._validation_lines(trainer), *checkpoint_lines(trainer, was_validated)]))
        if skipped := int(trainer.callback_metrics.get("train/skipped_steps", 0)):
            print(f"skipped steps     {skipped} of {trainer.global_step}: loss, gradients or trials were not finite")
        for callback in callbacks_of(trainer, Callback):
            says_so_itself = isinstance(callback, MainMetricStopping)
            if isinstance(callback, EarlyStopping) and not says_so_itself and callback.stopping_reason_message:
                print(f"stopped early     {callback.stopping_reason_message}")
            if isinstance(callback, PretrainedInterpolation) and callback.summary:
                print(f"interpolation     {callback.summary}")
            if isinstance(callback, ConfigSaver) and callback.saved_as:
                print(f"configuration     {shown_path(callback.saved_as)}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                print(f"look at the run   tensorboard --logdir {shown_path(str(logger.save_dir or '.'))}")

    def _validation_lines(self, trainer: Trainer) -> list[str]:
        if not self._trained and trainer.ckpt_path:
            return [f"nothing to train  the run of {shown_path(str(trainer.ckpt_path))} has reached its end"]
        last = self._validations.last()
        if last is None:
            why = "the run ended before its first one" if trainer.enable_validation else "the run has none"
            return [f"no validation     {why}"]
        best = self._validations.best(trainer)
        shown = {f"last, step {last[0]}": last[1]}
        if best is not None and best[0] != last[0]:
            shown = {f"best, step {best[0]}": best[1]} | shown
        for callback in callbacks_of(trainer, PretrainedInterpolation):
            if callback.kept:
                pair = {"interpolated": callback.scores, "as trained": callback.scores_as_trained}
                shown = {
                    title: {f"val/{name}": value for name, value in scores.items()} for title, scores in pair.items()
                } | {f"last, step {last[0]}": last[1]}
        names = sorted({name for values in shown.values() for name in values})
        width = max(16, *map(len, names)) if names else 16
        heading = f"{'validation':<{width}}" + "".join(f"  {title:<16}" for title in shown)
        rows = [
            f"{name:<{width}}" + "".join(f"  {_shown(values.get(name)):<16}" for values in shown.values())
            for name in names
        ]
        return [line.rstrip() for line in (heading, *rows)]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def checkpoint_lines(trainer: Trainer, was_validated: bool) -> list[str]:
    """Return the line about the checkpoint that the run leaves, or why there is none; empty without a callback."""
    checkpoint = trainer.checkpoint_callback
    if not isinstance(checkpoint, ModelCheckpoint):
        return []
    path, monitor, score = checkpoint.best_model_path, checkpoint.monitor, checkpoint.best_model_score
    if not path:
        reason = f"the run ended before {f'{monitor} was logged' if monitor else 'one was due'}"
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            reason = "fast_dev_run keeps nothing"
        elif checkpoint.save_top_k == 0:
            reason = "ModelCheckpoint has save_top_k: 0"
        return [f"best checkpoint   none: {reason}"]
    if monitor is None or score is None:
        why = "nothing tells which is the best: ModelCheckpoint has no monitor" if was_validated else "not validated"
        return [f"last checkpoint   {shown_path(path)} ({why})"]
    return [f"best checkpoint   {shown_path(path)} ({monitor} {float(score):.4f})"]
