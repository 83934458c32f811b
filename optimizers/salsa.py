"""SaLSA: a smoothed Armijo line search that searches less often while the step size is stable."""

from __future__ import annotations

from typing import Literal, Unpack

from torch.optim.optimizer import ParamsT

from optimizers.cadence import Cadence, Drift, EveryStep, Ratio
from optimizers.checks import require_one_of
from optimizers.directions import DirectionFunction, adam, adam_options
from optimizers.line_search import Condition, LineSearchOptimizer
from optimizers.options import CommonOptions
from optimizers.searches import ArmijoSearch
from optimizers.sls import Momentum, heavy_ball_momentum

_CADENCES: dict[str, Cadence] = {"drift": Drift(), "ratio": Ratio(), "always": EveryStep()}


class SaLSA(LineSearchOptimizer):
    r"""Stable Armijo line search adaptation: a smoothed condition, checked less often while the step size is stable.

    The method of arXiv 2407.20650. With Adam's bias-corrected moments :math:`\hat m_k, \hat v_k` of the gradient
    :math:`g_k` and :math:`p_k = g_k / (\sqrt{\hat v_k} + \epsilon)`, a search finds a step size within one factor
    :math:`\delta` of the largest :math:`\eta \le \eta_0` with (`bracket=None`: the largest
    :math:`\eta_0 \delta^i`)

    .. math::
        h_k &= \beta h_{k-1} + (1 - \beta) \, (f_k(x_k) - f_k(x_k - \eta p_k)) \ge c \, \eta \, s_k \\
        s_k &= \beta s_{k-1} + (1 - \beta) \, \langle g_k, p_k \rangle

    and every step, searched or not, is :math:`x_{k+1} = x_k - \eta \, \hat m_k / (\sqrt{\hat v_k} + \epsilon) - \eta
    \lambda x_k`. A search starts from :math:`\eta_0 = \gamma \eta`. A step without a search costs what a step of AdamW
    costs. `docs/line_searches.md` says what differs from the paper and from the published package.

    Args:
        params: Parameters, or groups of them (dicts with `params` and optionally `name`, `unit`, `weight_decay`, `lr`).
        initial_step_size: Where the first search starts; too high only costs trials (1 in the package).
        c: :math:`c`, the share of the predicted decrease that a step has to reach, in (0, 1) (0.5 in the paper).
        shrink: :math:`\delta`, what a rejected step size is multiplied by, in (0, 1) (0.8 in the package).
        growth: :math:`\gamma`, by how much the step size may grow from search to search, at least 1 (1.1 there).
        smoothing: :math:`\beta`, the weight of the past in both sides of the condition, in [0, 1) (0.9 in the paper).
        betas: Decay rates of Adam's (or Lion's) two averages.
        eps: :math:`\epsilon`, added to the root of Adam's second average.
        weight_decay: :math:`\lambda`, decoupled as in AdamW; takes no part in the condition.
        amsgrad: Whether to divide by the largest second average so far.
        direction: `optimizers.adam`, `sgd`, `lion`, or a function of your own with their signature.
        momentum: "standard" (the direction's own) or "heavy_ball" (`betas[0]` times the last step).
        condition: "gradient" (trials without momentum, as above) or "momentum" (trials along the step itself).
        cadence: Search as the "drift" of the step size asks for (`Drift`), by the paper's "ratio", or "always".
        options: `reset`, `update_rule` and the others of `CommonOptions`.

    Raises:
        TypeError: An option is not known.
        ValueError: An argument is out of its range; a step gets neither `closure` nor `evaluate`; gradients are sparse.
    """

    def __init__(
        self,
        params: ParamsT,
        initial_step_size: float = 1.0,
        c: float = 0.5,
        shrink: float = 0.8,
        growth: float = 1.1,
        smoothing: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        direction: DirectionFunction = adam,
        momentum: Momentum = "standard",
        condition: Condition = "gradient",
        cadence: Literal["drift", "ratio", "always"] = "drift",
        **options: Unpack[CommonOptions],
    ) -> None:
        require_one_of("cadence", cadence, tuple(_CADENCES))
        super().__init__(
            params,
            direction,
            ArmijoSearch(c, shrink, smoothing=smoothing),
            _CADENCES[cadence],
            initial_step_size=initial_step_size,
            growth=growth,
            growth_per="search",
            weight_decay=weight_decay,
            heavy_ball=heavy_ball_momentum(momentum, betas),
            condition=condition,
            direction_options=adam_options(betas, eps, amsgrad),
            **options,
        )
