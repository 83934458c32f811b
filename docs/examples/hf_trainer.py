"""Train with ParabolicAdam or SaLSA under transformers' Trainer: accumulation, checkpoints and resuming included.

    model, info = AutoModelForSequenceClassification.from_pretrained(name, output_loading_info=True)
    make = lambda model: ParabolicAdam(ParamGroups(new_lr_factor=10)(model, info["missing_keys"]), total_steps=80)
    SearchTrainer(make, model=model, args=TrainingArguments("out", max_grad_norm=0), train_dataset=rows).train()

The Trainer calls `step` without a closure: a hook hands over the loss of the step and a function that computes it."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import transformers
from torch.optim.lr_scheduler import LRScheduler

from optimizers import traits
from optimizers.random_state import ReplayedDraws


class NoSchedule(LRScheduler):
    """A schedule that leaves the step sizes to the optimizer."""

    def get_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]


class SearchTrainer(transformers.Trainer):
    """A Trainer for optimizers that evaluate the loss of a step at several points; others work as ever.

    Args:
        make_optimizer: Makes it from a model: `lambda model: SaLSA(ParamGroups()(model))`.
        arguments: Those of transformers.Trainer; `max_grad_norm=0` for an optimizer that measures slopes.
    """

    def __init__(self, make_optimizer: Callable[[Any], torch.optim.Optimizer], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.make_optimizer = make_optimizer
        self.micro_batches: list[tuple[Any, Any, ReplayedDraws, torch.Tensor]] = []

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self.optimizer = self.make_optimizer(self.model)
        if traits(self.optimizer).measures_slope and self.args.max_grad_norm:
            raise ValueError("max_grad_norm: clipping falsifies the slope of the loss; give max_grad_norm=0")
        self.optimizer.register_step_pre_hook(self.hand_over_losses)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if traits(made := getattr(self.optimizer, "optimizer", self.optimizer)).sets_step_size:  # accelerate wraps it
            self.lr_scheduler = NoSchedule(made)
        return super().create_scheduler(num_training_steps, optimizer)  # which keeps one that is there

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        draws = ReplayedDraws([self.args.device])
        with draws.replayed():  # every later evaluation drops out the same units
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.micro_batches.append((inputs, num_items_in_batch, draws, loss))
        return loss

    def hand_over_losses(self, optimizer: Any, args: Any, kwargs: Any) -> tuple[tuple[Any], dict[str, Any]] | None:
        parts, self.micro_batches = self.micro_batches, []
        start = self.accelerator.reduce(torch.stack([loss for *_, loss in parts]).sum(), "mean")
        handed = (optimizer,), {"evaluate": lambda: self.loss_of_step(parts), "loss": start}
        return handed if "evaluate" in inspect.signature(type(optimizer).step).parameters else None

    @torch.no_grad()
    def loss_of_step(self, micro_batches: list[tuple[Any, Any, ReplayedDraws, Any]]) -> torch.Tensor:
        backward, self.accelerator.backward = self.accelerator.backward, lambda *_, **__: None
        try:
            losses = []
            for inputs, num_items, draws, _ in micro_batches:
                with draws.replayed():
                    losses.append(super().training_step(self.model_wrapped, inputs, num_items))
            return self.accelerator.reduce(torch.stack(losses).sum(), "mean")
        finally:
            self.accelerator.backward = backward
