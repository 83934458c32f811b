"""GeN, the generalized Newton's method (Bu and Xu, arXiv 2407.02772), around AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW


class GeN(AdamW):
    r"""AdamW whose learning rate follows the minimiser of a parabola along its step, on a fresh batch.

    Every few steps the losses before, after and behind the step are compared on the next batch:

    .. math::

        \eta^* = \frac{\eta}{2} \cdot \frac{L(w + \eta d) - L(w - \eta d)}{L(w + \eta d) - 2 L(w) + L(w - \eta d)},
        \qquad \eta \leftarrow 0.9 \, \eta + 0.1 \, (1 - t / T) \min(2 \eta, \max(\eta / 2, \eta^*))

    where w is before the step and w - η d after it. A parabola that is not convex, or that rises along the step,
    changes nothing. The limits, the average and the horizon 1 - t/T are those of the authors' package (gen-optim
    0.1.1), whose function takes the batch from an iterator of its own, so that a training step here cannot call it.

    Args:
        params: Parameters or groups of them.
        lr: The first learning rate; 1e-4 in the authors' example.
        betas: Decay rates of AdamW's moments.
        eps: AdamW's constant.
        weight_decay: AdamW's weight decay.
        every: Steps from one measurement to the next; 4 or more, says the package.
        total_steps: T, optimizer steps of the run. Default: filled in by the module that trains.

    Raises:
        ValueError: the run's length is not known.

    Example::

        optimizer = GeN(model.parameters(), total_steps=80)
        optimizer.step(closure, evaluate=evaluate)
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        every: int = 4,
        total_steps: int | None = None,
    ) -> None:
        if total_steps is None:
            raise ValueError("total_steps: the run's length is not known; give it")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.every = every
        self.total_steps = total_steps
        self._steps = 0
        self._before: list[Tensor] = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor], *, evaluate: Callable[[], Tensor]) -> Any:  # type: ignore[override]
        """Make a step and return the loss at its start.

        Args:
            closure: Computes loss and gradients.
            evaluate: Computes the loss of the same batch alone.
        """
        with torch.enable_grad():
            loss = closure()
        if self._before:
            self._measure(float(loss), evaluate)
        self._steps += 1
        if self._steps % self.every == 0:
            self._before = [parameter.detach().clone() for parameter in self._parameters()]
        super().step()
        return loss

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _measure(self, after: float, evaluate: Callable[[], Tensor]) -> None:
        parameters = self._parameters()
        now = [parameter.detach().clone() for parameter in parameters]
        for parameter, before in zip(parameters, self._before, strict=True):
            parameter.copy_(before)
        start = float(evaluate())
        for parameter, before, last in zip(parameters, self._before, now, strict=True):
            parameter.copy_(2 * before - last)
        behind = float(evaluate())
        for parameter, last in zip(parameters, now, strict=True):
            parameter.copy_(last)
        self._before = []
        bend, fall = after - 2 * start + behind, behind - after
        if not (bend > 0 and fall > 0):
            return
        horizon = 1 - self._steps / self.total_steps
        for group in self.param_groups:
            rate = group["lr"]
            minimiser = min(2 * rate, max(rate / 2, rate / 2 * fall / bend))
            group["lr"] = 0.9 * rate + 0.1 * horizon * minimiser
