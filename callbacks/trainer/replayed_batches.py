"""The batches of an optimizer step under automatic optimization, whose loss can be computed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from callbacks.trainer.quiet_steps import quiet
from optimizers.other_generators import global_generators
from optimizers.random_state import generator_states, set_generator_states
from optimizers.replayed import BufferValues, moving_buffers


class _RandomStates:
    """The present states of torch's generators, and of those that augmentations draw from: Python's and numpy's."""

    def __init__(self, device: torch.device) -> None:
        self._of_torch = generator_states([device])
        self._others = [(generator, generator.read()) for generator in global_generators()]

    def put_back(self) -> None:
        set_generator_states(self._of_torch)
        for generator, state in self._others:
            generator.write(state)


class ReplayedBatches:
    r"""The batches that the gradients of an optimizer step are accumulated over.

    Their loss is what the gradients belong to, the sum of the batches' losses divided by the Trainer's
    ``accumulate_grad_batches``, averaged over ranks as DDP averages gradients. It is computed again by the module's
    ``training_step``, without gradients, with the random draws of the first time; nothing is logged, and buffers and
    metrics of the module stay as they are.

    Args:
        trainer: The trainer.
        module: Its module.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer, self._module = trainer, module
        self._kept: list[tuple[Any, int, _RandomStates]] = []
        self._losses: list[Tensor] = []

    def begin(self, batch: Any, batch_idx: int) -> None:
        """Keep a batch, right before the training step with it."""
        if batch_idx % self._trainer.accumulate_grad_batches == 0:
            self.clear()  # a gradient scaler may have left the step out that the batches before were for
        states = _RandomStates(self._trainer.strategy.root_device)
        self._kept.append((_copied(batch), batch_idx, states))

    def add_loss(self, loss: Tensor) -> None:
        """Take in the loss of the batch kept last, as its backward pass gets it."""
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        self._losses.append(_wide(loss) / (1.0 if scaler is None else scaler.get_scale()))

    def clear(self) -> None:
        """Forget the batches: the step has been made."""
        self._kept, self._losses = [], []

    @property
    def has_losses(self) -> bool:
        """Whether every batch has a loss; a training step may return none."""
        return bool(self._kept) and len(self._losses) == len(self._kept)

    def loss(self) -> Tensor:
        """Return the loss of the step, as it was computed for the gradients."""
        return self._mean_over_ranks(torch.stack(self._losses).sum())

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Return the loss of the step at the present parameters."""
        present = _RandomStates(self._trainer.strategy.root_device)
        total = []
        try:
            with _untouched(self._module), quiet(self._trainer, self._module):
                for batch, batch_idx, states in self._kept:
                    states.put_back()
                    torch.clear_autocast_cache()  # it may hold low-precision copies of weights that have moved
                    total.append(self._loss_of(_copied(batch), batch_idx))
        finally:
            present.put_back()
        return self._mean_over_ranks(torch.stack(total).sum())

    def _loss_of(self, batch: Any, batch_idx: int) -> Tensor:
        takes_index = is_param_in_hook_signature(self._module.training_step, "batch_idx", min_args=2)
        output = self._trainer.strategy.training_step(*((batch, batch_idx) if takes_index else (batch,)))
        loss = output["loss"] if isinstance(output, Mapping) else output
        assert isinstance(loss, Tensor), "a training step that returned a loss returns none for the same batch"
        return _wide(loss) / self._trainer.accumulate_grad_batches

    def _mean_over_ranks(self, loss: Tensor) -> Tensor:
        mean = self._trainer.strategy.reduce(loss, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean


def _copied(batch: Any) -> Any:
    """Return a copy of a batch: a training step may take entries out of its batch, or change them in place."""
    return apply_to_collection(batch, Tensor, torch.clone, allow_frozen=True)


def _wide(loss: Tensor) -> Tensor:
    loss = loss.detach().reshape(())
    return loss if loss.dtype == torch.float64 else loss.float()


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Context in which forward passes leave a module's buffers and metrics as they were."""
    buffers = BufferValues(moving_buffers(module))
    metrics = [each for each in module.modules() if isinstance(each, (Metric, MetricCollection))]
    attributes = [dict(vars(metric)) for metric in metrics]
    for metric in metrics:
        # Metrics add to their states in place, and states may hold a graph, so that the pass gets the copies.
        if isinstance(metric, Metric):
            copies = {name: v.clone() if isinstance(v, Tensor) else list(v) for name, v in metric.metric_state.items()}
            vars(metric).update(copies)
    try:
        yield
    finally:
        for metric, values in zip(metrics, attributes, strict=True):
            vars(metric).clear()
            vars(metric).update(values)
        buffers.put_back()
