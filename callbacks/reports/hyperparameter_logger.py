"""A row of hyperparameters and final metrics for each run in TensorBoard's HPARAMS tab."""

from __future__ import annotations

import inspect
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.trainer.curve_axis import curve_end


class HyperparameterLogger(Callback):
    """Writes a finished run's hyperparameters with its validation metrics, as one row of TensorBoard's HPARAMS tab.

    The row holds the model's and the data's hyperparameters, the kind of adapter and how many parameters train, the
    optimizer's class and the arguments it was built with.
    Beside them TensorBoard shows the last value of all that was logged, by name; the ``val`` metrics stand near the
    front a second time, as ``hp/…``. Other loggers are left alone.

    Example::

        Trainer(callbacks=[HyperparameterLogger()])
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not loggers or not trainer.is_global_zero:
            return
        from torch.utils.tensorboard.summary import hparams  # here: other loggers do without tensorboard

        # TensorBoardLogger.log_hyperparams also writes which columns there are. TensorBoard takes them from the first
        # such note that it meets, and of runs with other optimizers it hides the rest; without it, it collects the
        # columns of all runs and puts those that differ first.
        _, start, end = hparams(hyperparameters(trainer, pl_module), {})
        reached = {
            name.replace("val", "hp", 1): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val")
        }
        step = curve_end(trainer)
        for logger in loggers:
            logger.log_metrics(reached, step)
            for summary in (start, end):
                logger.experiment.file_writer.add_summary(summary, step)


def hyperparameters(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Flat hyperparameters of a run: plain values alone, the optimizer's class first, its own as ``optimizer/…``."""
    row = dict(pl_module.hparams)
    row |= dict(getattr(getattr(trainer, "datamodule", None), "hparams", {}))
    adapted = getattr(pl_module, "adapted", None)
    row["adapter"] = "none" if adapted is None else type(adapted.config).__name__
    row["trained_parameters"] = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
    for optimizer in trainer.optimizers:
        row["Optimizer"] = type(optimizer).__name__  # TensorBoard orders by name, capital letters first
        # Many optimizers keep state among their defaults, which is no argument.
        arguments = inspect.signature(type(optimizer)).parameters
        row |= {f"optimizer/{name}": value for name, value in optimizer.defaults.items() if name in arguments}
    # LightningCLI leaves notes of its own among the hyperparameters, under names with an underscore.
    plain = {name: value for name, value in row.items() if not name.startswith("_")}
    # TensorBoard would show True as 1.0000, and nothing for a pair of numbers.
    texts = {name: str(value) for name, value in plain.items() if isinstance(value, bool | tuple)}
    return {name: value for name, value in plain.items() if isinstance(value, int | float | str)} | texts
