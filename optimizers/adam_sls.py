"""AdamSLS: Armijo line search along Adam's direction."""

from __future__ import annotations

from torch.optim.optimizer import ParamsT

from optimizers.directions import adam
from optimizers.line_search import Condition, LineSearchOptimizer, Momentum, Reset, UpdateRule, heavy_ball_momentum


class AdamSLS(LineSearchOptimizer):
    r"""Adam whose step size is found by an Armijo line search on every batch.

    The method of "Faster Convergence for Transformer Fine-tuning with Line Search Methods" (arXiv 2403.18506): with
    Adam's bias-corrected moments :math:`\hat m_k, \hat v_k` of the gradient :math:`g_k`, the largest
    :math:`\eta \in \{\eta_0, \eta_0 \delta, \eta_0 \delta^2, \dots\}` that satisfies

    .. math::
        f_k(x_k) - f_k\left(x_k - \eta \frac{g_k}{\sqrt{\hat v_k} + \epsilon}\right)
            \ge c \, \eta \sum_i \frac{g_{k,i}^2}{\sqrt{\hat v_{k,i}} + \epsilon}

    is the step size of the step :math:`x_{k+1} = x_k - \eta \, \hat m_k / (\sqrt{\hat v_k} + \epsilon) - \eta \lambda
    x_k`: the trials leave the momentum out, so that their line descends on the present batch, the step takes it in.
    The search starts from :math:`\eta_0 = \eta_{k-1} \gamma^{1/n}` with :math:`n` steps per epoch. :math:`c` is `c`,
    :math:`\delta` is `shrink`, :math:`\gamma` is `growth`, :math:`\lambda` is `weight_decay`, which is decoupled as in
    AdamW and takes no part in the condition.

    With `condition="momentum"` trials follow the step itself and the right-hand side is its true slope
    :math:`c \, \eta \, \langle g_k, \hat m_k / (\sqrt{\hat v_k} + \epsilon) \rangle`; where that is not positive
    the search fails. A failed search leaves the parameters as they were. With `momentum="heavy_ball"` the step is
    :math:`x_{k+1} = x_k + b_k - \eta \lambda x_k` with :math:`b_k = \beta_1 b_{k-1} - \eta \, g_k / (\sqrt{\hat v_k}
    + \epsilon)` (Vaswani et al., arXiv 2006.06835), at the price of one more buffer per parameter; a failed search
    sets :math:`b_k` to zero.

    **Units.** Under the update rule "joint" the whole model has one step size. Under the others every unit (the groups
    with the same `unit`, or `name`) has its own; after `joint_steps` searches for all of them together, "cycle" lets
    one unit search per step, in turn, "all" lets each of them search in every step, all from the same start, followed
    by a search for one factor for all that they found, and "impact" lets the unit search whose smoothed slope times
    the steps since its last search is largest. Units that do not search move by their last step size.

    **What differs from the published code** (SaLSa-Optimizer 0.1.0, `adam_sls.py`). There, an epoch counts 500 steps
    unless told otherwise, so that a step size grows by 0.14 % per step and never recovers from one hard batch of a
    short run; both sides of the condition are averaged with weight 0.999 from a start at zero; the search comes down
    from 0.1 by factors of 0.9 (65 forward passes to 1e-4); a unit's trials are compared with a loss at which the units
    before it had not moved yet, while they have; and "heavy_ball" leaves the momentum out altogether. Here the number
    of steps per epoch is the run's, nothing is averaged, searches bracket coarsely (`bracket`), a unit's trials
    differ from their start in that unit alone, and the heavy ball rolls. `bracket=None`, `max_trials=200` and
    `relative_tolerance=0` give the paper's search to the letter.

    Args:
        params: Parameters, or groups of them (dicts with `params` and optionally `name`, `unit`, `weight_decay`, `lr`).
        initial_step_size: Where the first search starts; high rather than low, it only costs trials (0.1 in the paper).
        c: The share of the decrease that the slope promises which a step has to deliver, between 0 and 1 (0.1 in the
            paper).
        shrink: What a rejected step size is multiplied by, between 0 and 1 (0.9 in the paper).
        growth: By how much the step size may grow in an epoch, at least 1 (2 in the paper).
        steps_per_epoch: The number of optimizer steps that make an epoch; `SequenceClassifier` fills in the run's own.
            None in a plain loop: 20.
        betas: Decay rates of Adam's two averages.
        eps: Added to the root of the second average.
        weight_decay: Decoupled weight decay, as in AdamW: the step size times this share of each weight is taken off.
        amsgrad: Whether to divide by the largest second average so far.
        momentum: "standard" (Adam's first average) or "heavy_ball" (`betas[0]` times the last step).
        condition: "gradient" (trials without momentum, as in the paper) or "momentum" (trials along the step itself).
        reset: Where a search starts: at the last step size ("keep"), grown by `growth` per epoch ("grow", the paper's)
            or at `initial_step_size` ("restart").
        bracket: The coarser factor that a search comes down by at first, and later after three rejections; it then
            closes in to within one `shrink`. None: by `shrink` alone.
        max_trials: The largest number of trials of one search.
        min_step_size: No smaller step size is tried.
        max_step_size: No larger step size is tried.
        relative_tolerance: Losses that differ by less than this share count as equal. 1e-6 suits losses computed in
            float32; under autocast to bfloat16, 1e-4 or more.
        update_rule: "joint", "cycle", "all" or "impact", see above.
        joint_steps: How many searches all units do together before each has its own.
        merge_threshold: A unit whose step size falls below this joins its neighbour; None never merges.

    Raises:
        ValueError: An argument is out of its range; a step gets neither `closure` nor `evaluate`; gradients are sparse.

    Example:
        >>> optimizer = AdamSLS(model.parameters())
        >>> for batch in loader:
        ...     def closure():
        ...         optimizer.zero_grad()
        ...         loss = model(**batch).loss
        ...         loss.backward()
        ...         return loss
        ...     optimizer.step(closure)
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
        reset: Reset = "grow",
        bracket: float | None = 0.2,
        max_trials: int = 30,
        min_step_size: float = 1e-10,
        max_step_size: float = 10.0,
        relative_tolerance: float = 1e-6,
        update_rule: UpdateRule = "joint",
        joint_steps: int = 5,
        merge_threshold: float | None = None,
    ) -> None:
        super().__init__(
            params,
            adam,
            initial_step_size=initial_step_size,
            c=c,
            shrink=shrink,
            growth=growth,
            steps_per_epoch=steps_per_epoch,
            weight_decay=weight_decay,
            heavy_ball=heavy_ball_momentum(momentum, betas),
            condition=condition,
            reset=reset,
            bracket=bracket,
            max_trials=max_trials,
            min_step_size=min_step_size,
            max_step_size=max_step_size,
            relative_tolerance=relative_tolerance,
            update_rule=update_rule,
            joint_steps=joint_steps,
            merge_threshold=merge_threshold,
            betas=tuple(betas),
            eps=eps,
            amsgrad=amsgrad,
        )
