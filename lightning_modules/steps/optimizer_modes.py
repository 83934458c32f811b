"""Optimizers that keep one set of weights to train and another one to evaluate, as schedule-free ones do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.errors import ModelError
from lightning_modules.trainer.trainer_callbacks import callbacks_of


class OptimizerModes:
    """Switches optimizers that have ``train()`` and ``eval()`` between their weights; others it leaves alone.

    A schedule-free optimizer (arXiv 2405.15682) computes either set from the other one in place, which costs the last
    bits each way. The training weights are kept while the evaluation weights are in place, so that neither a
    validation nor a checkpoint has an effect on training. It costs a copy of the parameters for that time.

    Example::

        modes = OptimizerModes()
        modes.train([optimizer])
        modes.evaluate([optimizer])  # the weights to validate, save and export
        modes.train([optimizer])  # bit-equal to what they were
    """

    def __init__(self) -> None:
        self.is_training = False
        self._kept: dict[Tensor, Tensor] = {}

    def train(self, optimizers: Sequence[Optimizer]) -> None:
        """Put the training weights in place."""
        for optimizer in _with_modes(optimizers):
            optimizer.train()
        with torch.no_grad():
            for parameter, weights in self._kept.items():
                parameter.copy_(weights)
        self._kept, self.is_training = {}, True

    def evaluate(self, optimizers: Sequence[Optimizer]) -> None:
        """Put the evaluation weights in place."""
        for optimizer in _with_modes(optimizers):
            if self.is_training:
                self._kept |= {each: each.detach().clone() for each in _parameters(optimizer)}
            optimizer.eval()
        self.is_training = False

    def save(self, checkpoint: dict[str, Any], trainer: Trainer) -> None:
        """Make a checkpoint that is being written one of the evaluation weights, with the training weights beside them.

        Args:
            checkpoint: The checkpoint, as Lightning has filled it in.
            trainer: The trainer that writes it.
        """
        if not _with_modes(trainer.optimizers):
            return
        was_training = self.is_training
        if was_training:
            self.evaluate(trainer.optimizers)
            weights = checkpoint["state_dict"] = trainer.strategy.lightning_module_state_dict()
            weights.update({name: value.clone() for name, value in weights.items() if isinstance(value, Tensor)})
        if "optimizer_states" in checkpoint:
            checkpoint["optimizer_states"] = [trainer.strategy.optimizer_state(each) for each in trainer.optimizers]
            checkpoint["training_weights"] = [
                [self._kept.get(weight, weight.detach()) for weight in _parameters(each)] for each in trainer.optimizers
            ]
        if was_training:
            self.train(trainer.optimizers)

    def begin(self, trainer: Trainer, training_weights: Sequence[Sequence[Tensor]]) -> None:
        """Begin with a trainer's freshly made optimizers, perhaps with the training weights of a checkpoint.

        Raises:
            ModelError: if a callback averages the weights that such an optimizer averages already.
        """
        averaging = callbacks_of(trainer, WeightAveraging)
        for optimizer in _with_modes(trainer.optimizers) if averaging else []:
            # Of the weights that a checkpoint is to hold either would replace the other's.
            raise ModelError(
                f"trainer.callbacks: {type(averaging[0]).__name__}: {type(optimizer).__name__} averages the weights "
                "itself; leave the callback out"
            )
        self._kept, self.is_training = {}, False
        for optimizer, weights in zip(trainer.optimizers, training_weights, strict=False):
            self._kept |= dict(zip(_parameters(optimizer), weights, strict=False))


def _with_modes(optimizers: Sequence[Optimizer]) -> list[Any]:
    return [
        each for each in optimizers if callable(getattr(each, "train", None)) and callable(getattr(each, "eval", None))
    ]


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
