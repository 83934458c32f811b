"""Train with ParabolicAdam or SaLSA in your own loop with accelerate: accumulation, checkpoints, resuming.

accelerate's wrapper of an optimizer takes no `evaluate`. A hook of torch, run in front of every step of the optimizer
itself, hands over the loss of the step and a function that computes it again. For the groups of the optimizer, and a
new head that learns faster, see `hf_trainer.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from optimizers.random_state import ReplayedDraws


class Losses:
    """The loss of a step, over all its micro-batches, handed to an optimizer's `step`.

    Args:
        accelerator: The accelerator, which knows how many micro-batches a step has.
        optimizer: The optimizer, before `accelerator.prepare`.
    """

    def __init__(self, accelerator: Accelerator, optimizer: torch.optim.Optimizer) -> None:
        self.accelerator = accelerator
        self.parts: list[tuple[Callable[[], Tensor], ReplayedDraws, Tensor]] = []
        optimizer.register_step_pre_hook(self.hand_over)

    def loss(self, compute: Callable[[], Tensor]) -> Tensor:
        """Return the loss of a micro-batch, and remember how to compute it again with the same dropout masks."""
        draws = ReplayedDraws([self.accelerator.device])
        with draws.replayed():
            loss = compute()
        self.parts.append((compute, draws, loss.detach()))
        return loss

    def hand_over(self, optimizer: Any, args: Any, kwargs: Any) -> tuple[tuple[Any], dict[str, Any]]:
        parts, self.parts = self.parts, []

        @torch.no_grad()
        def evaluate() -> Tensor:
            losses = []
            for compute, draws, _ in parts:
                with draws.replayed():
                    losses.append(compute())
            return self.mean(losses)

        return (optimizer,), {"evaluate": evaluate, "loss": self.mean([loss for _, _, loss in parts])}

    def mean(self, losses: list[Tensor]) -> Tensor:
        total = torch.stack(losses).sum() / self.accelerator.gradient_accumulation_steps
        return self.accelerator.reduce(total, "mean")


def train(accelerator: Accelerator, model: nn.Module, optimizer: Any, batches: Iterable[Any], losses: Losses) -> None:
    """Train for an epoch; the three come from `accelerator.prepare`. `accelerator.save_state` may follow."""
    model.train()
    for batch in batches:
        with accelerator.accumulate(model):
            accelerator.backward(losses.loss(lambda batch=batch: model(**batch).loss))
            optimizer.step()
            optimizer.zero_grad()
