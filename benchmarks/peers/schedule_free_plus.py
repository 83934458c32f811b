"""ScheduleFree+ (Defazio, arXiv 2605.19095): schedule-free AdamW with Polyak's step, over the gradient's L1 norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class ScheduleFreePlus(Optimizer):
    r"""Schedule-free AdamW without a learning rate.

    .. math::

        \alpha_t = \gamma_t \frac{\max(0, f(y_{t-1}) + \beta \langle g_t, z_{t-1} - x_{t-1} \rangle)}
        {\sqrt{\pi / 2} \, \lVert g_t \rVert_1}, \quad
        z_t = z_{t-1} - \alpha_t \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}, \quad
        x_t = (1 - c_t) x_{t-1} + c_t z_t, \quad y_t = \beta x_t + (1 - \beta) z_t

    with the gradient :math:`g_t` at :math:`y_{t-1}`, :math:`c_t = w_t / \sum_{i \le t} w_i`,
    :math:`w_t = (\max_{i \le t} \alpha_i)^2`, and :math:`c_t = 1` in the warm-up. Training is at y, evaluation at x.

    Left out are what the author's reference implementation leaves off by default: the annealing of :math:`\beta`, the
    average of the norm over steps, and weight decay.

    Args:
        params: Parameters or groups of them.
        lr: :math:`\gamma`; a schedule over it is the warm-up.
        betas: Decay rates of the two moments.
        sf_beta: :math:`\beta`, how near to the average x the gradient is taken.
        eps: Added to the root of the second moment.
        warmup_ratio: The share of the run in which x is not averaged; that of the schedule's warm-up, or twice.
        total_steps: Optimizer steps of the run. Default: filled in by the module that trains.

    Raises:
        ValueError: the run's length is not known.

    Example::

        optimizer = ScheduleFreePlus(model.parameters(), total_steps=80)
        optimizer.train()
        optimizer.step(closure)
        optimizer.eval()  # the weights to evaluate and to save
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.95),
        sf_beta: float = 0.9,
        eps: float = 1e-8,
        warmup_ratio: float = 0.1,
        total_steps: int | None = None,
    ) -> None:
        if total_steps is None:
            raise ValueError("total_steps: the run's length is not known; give it")
        counters = {"step": 0, "weight_sum": 0.0, "largest": 0.0, "training": False}
        averaged_from = math.ceil(warmup_ratio * total_steps)
        constants = {"lr": lr, "betas": betas, "sf_beta": sf_beta, "eps": eps, "averaged_from": averaged_from}
        super().__init__(params, constants | counters)

    def train(self) -> None:
        """Put y, where gradients are taken, in place."""
        self._switch("y", True)

    def eval(self) -> None:
        """Put x, the average, in place."""
        self._switch("x", False)

    @torch.no_grad()
    def _switch(self, name: str, training: bool) -> None:
        for group in self.param_groups:
            for parameter in group["params"] if group["training"] != training else ():
                if parameter in self.state:
                    parameter.copy_(self.state[parameter][name])
            group["training"] = training

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None, *, loss: Tensor | None = None) -> Any:  # type: ignore[override]
        """Make a step and return the loss at its start.

        Args:
            closure: Computes loss and gradients.
            loss: The loss of the gradients that are there, in place of a closure.
        """
        if not all(group["training"] for group in self.param_groups):
            raise RuntimeError("ScheduleFreePlus: train() has to be called before a step")
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if loss is None:
            raise ValueError("ScheduleFreePlus: a step needs the loss")
        moving = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for _, parameter in moving:
            if parameter not in self.state:
                copies = {name: parameter.detach().clone() for name in ("x", "y", "z")}
                zeros = {name: torch.zeros_like(parameter) for name in ("first", "second")}
                self.state[parameter] = copies | zeros
        norm, ahead = 0.0, 0.0
        for group, parameter in moving:
            state = self.state[parameter]
            norm += float(parameter.grad.abs().sum())
            ahead += group["sf_beta"] * float((parameter.grad * (state["z"] - state["x"])).sum())
        polyak = max(0.0, float(loss) + ahead) / (norm * math.sqrt(math.pi / 2)) if norm > 0 else 0.0
        for group in self.param_groups:
            self._move(group, polyak)
        return loss

    def _move(self, group: dict[str, Any], polyak: float) -> None:
        group["step"] += 1
        step, (beta1, beta2), rate = group["step"], group["betas"], group["lr"] * polyak
        group["largest"] = max(rate, group["largest"])
        share = 1.0
        if step > group["averaged_from"]:
            weight = group["largest"] ** 2
            group["weight_sum"] += weight
            share = weight / group["weight_sum"] if group["weight_sum"] > 0 else 1.0
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            state["first"].lerp_(parameter.grad, 1 - beta1)
            state["second"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            scale = (state["second"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
            state["z"].addcdiv_(state["first"], scale, value=-rate / (1 - beta1**step))
            state["x"].lerp_(state["z"], share)
            torch.lerp(state["z"], state["x"], group["sf_beta"], out=state["y"])
            parameter.copy_(state["y"])
