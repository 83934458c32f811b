"""AdamSLS and SGDSLS: an Armijo line search on every batch, along Adam's direction or along the gradient."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

from torch.optim.optimizer import ParamsT

from optimizers.cadence import EveryStep
from optimizers.checks import require_one_of
from optimizers.directions import adam, adam_options, sgd
from optimizers.line_search import Condition, LineSearchOptimizer
from optimizers.options import CommonOptions
from optimizers.searches import ArmijoSearch

Momentum = Literal["standard", "heavy_ball"]


class AdamSLS(LineSearchOptimizer):
    r"""Adam whose step size is found by an Armijo line search on every batch (arXiv 2403.18506).

    With Adam's bias-corrected moments :math:`\hat m_k, \hat v_k` of the gradient :math:`g_k`, a step size within one
    factor :math:`\delta` of the largest :math:`\eta \le \eta_0` (`bracket=None`: the largest :math:`\eta_0 \delta^i`)
    that satisfies

    .. math::
        f_k(x_k) - f_k\left(x_k - \eta \frac{g_k}{\sqrt{\hat v_k} + \epsilon}\right)
            \ge c \, \eta \sum_i \frac{g_{k,i}^2}{\sqrt{\hat v_{k,i}} + \epsilon}

    makes the step :math:`x_{k+1} = x_k - \eta \, \hat m_k / (\sqrt{\hat v_k} + \epsilon) - \eta \lambda x_k`. The
    search starts from :math:`\eta_0 = \eta_{k-1} \gamma^{1/n}` with :math:`n` steps per epoch. A failed search leaves
    the parameters as they were. `docs/line_searches.md` says what differs from the published code.

    Args:
        params: Parameters, or groups of them (dicts with `params` and optionally `name`, `unit`, `weight_decay`, `lr`).
        initial_step_size: Where the first search starts; too high only costs trials (0.1 in the paper).
        c: :math:`c`, the share of the predicted decrease that a step has to reach, in (0, 1) (0.1 in the paper).
        shrink: :math:`\delta`, what a rejected step size is multiplied by, in (0, 1) (0.9 in the paper).
        growth: :math:`\gamma`, by how much the step size may grow in an epoch, at least 1 (2 in the paper).
        steps_per_epoch: :math:`n`; `ClosureModule` fills in the run's own. None in a plain loop: 20.
        betas: Decay rates of Adam's two averages.
        eps: :math:`\epsilon`, added to the root of the second average.
        weight_decay: :math:`\lambda`, decoupled as in AdamW; takes no part in the condition.
        amsgrad: Whether to divide by the largest second average so far.
        momentum: "standard" (Adam's first average) or "heavy_ball" (`betas[0]` times the last step).
        condition: "gradient" (trials without momentum, as above and in the paper) or "momentum" (trials along the step
            itself).
        options: `reset`, `update_rule` and the others of `CommonOptions`.

    Raises:
        TypeError: An option is not known.
        ValueError: An argument is out of its range; a step gets neither `closure` nor `evaluate`; gradients are sparse.

    Example::

        optimizer = AdamSLS(model.parameters())
        loss = optimizer.step(closure, evaluate=evaluate)
    """

    def __init__(
        self,
        params: ParamsT,
        initial_step_size: float = 0.1,
        c: float = 0.1,
        shrink: float = 0.9,
        growth: float = 2.0,
        steps_per_epoch: int | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        momentum: Momentum = "standard",
        condition: Condition = "gradient",
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            adam,
            ArmijoSearch(c, shrink),
            EveryStep(),
            initial_step_size=initial_step_size,
            growth=growth,
            steps_per_epoch=steps_per_epoch,
            weight_decay=weight_decay,
            heavy_ball=heavy_ball_momentum(momentum, betas),
            condition=condition,
            direction_options=adam_options(betas, eps, amsgrad),
            **options,
        )


class SGDSLS(LineSearchOptimizer):
    r"""Stochastic gradient descent whose step size is found by an Armijo line search on every batch (arXiv 1905.09997).

    With the gradient :math:`g_k` of the batch, a step size within one factor :math:`\delta` of the largest
    :math:`\eta \le \eta_0` (`bracket=None`: the largest :math:`\eta_0 \delta^i`) that satisfies

    .. math:: f_k(x_k - \eta g_k) \le f_k(x_k) - c \, \eta \, \|g_k\|^2

    makes the step :math:`x_{k+1} = x_k + b_k - \eta \lambda x_k` with the heavy ball's
    :math:`b_k = \mu b_{k-1} - \eta g_k`; the search starts from :math:`\eta_0 = \eta_{k-1} \gamma^{1/n}` with :math:`n`
    steps per epoch. A failed search leaves the parameters as they were and sets :math:`b_k` to zero. Only momentum
    needs a state per parameter.

    Args:
        params: Parameters, or groups of them (dicts with `params` and optionally `name`, `unit`, `weight_decay`, `lr`).
        initial_step_size: Where the first search starts; too high only costs trials (1 in the paper).
        c: :math:`c`, the share of the predicted decrease that a step has to reach, in (0, 1) (0.1 in the paper).
        shrink: :math:`\delta`, what a rejected step size is multiplied by, in (0, 1) (0.9 in the paper).
        growth: :math:`\gamma`, by how much the step size may grow in an epoch, at least 1 (2 in the paper).
        steps_per_epoch: :math:`n`; `ClosureModule` fills in the run's own. None in a plain loop: 20.
        momentum: :math:`\mu`, below 1; takes no part in the condition.
        weight_decay: :math:`\lambda`, decoupled: neither in the condition nor in the momentum.
        options: `reset`, `update_rule` and the others of `CommonOptions`.

    Raises:
        TypeError: An option is not known.
        ValueError: An argument is out of its range; a step gets neither `closure` nor `evaluate`; gradients are sparse.

    Example::

        optimizer = SGDSLS(model.parameters())
        loss = optimizer.step(closure, evaluate=evaluate)
    """

    def __init__(
        self,
        params: ParamsT,
        initial_step_size: float = 1.0,
        c: float = 0.1,
        shrink: float = 0.9,
        growth: float = 2.0,
        steps_per_epoch: int | None = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        **options: Unpack[CommonOptions],
    ) -> None:
        super().__init__(
            params,
            sgd,
            ArmijoSearch(c, shrink),
            EveryStep(),
            initial_step_size=initial_step_size,
            growth=growth,
            steps_per_epoch=steps_per_epoch,
            weight_decay=weight_decay,
            heavy_ball=momentum,
            **options,
        )


def heavy_ball_momentum(momentum: Momentum, betas: tuple[float, float]) -> float:
    """Return the weight of the last step: `betas[0]` for a heavy ball, else none."""
    require_one_of("momentum", momentum, get_args(Momentum))
    return betas[0] if momentum == "heavy_ball" else 0.0
