"""SGDSLS: Armijo line search along the gradient."""

from __future__ import annotations

from torch.optim.optimizer import ParamsT

from optimizers.directions import sgd
from optimizers.line_search import LineSearchOptimizer, Reset, UpdateRule


class SGDSLS(LineSearchOptimizer):
    r"""Stochastic gradient descent whose step size is found by an Armijo line search on every batch.

    The method of "Painless Stochastic Gradient" (Vaswani et al., arXiv 1905.09997): with the gradient :math:`g_k` of
    the batch, the largest :math:`\eta \in \{\eta_0, \eta_0 \delta, \eta_0 \delta^2, \dots\}` that satisfies

    .. math:: f_k(x_k - \eta g_k) \le f_k(x_k) - c \, \eta \, \|g_k\|^2

    makes the step :math:`x_{k+1} = x_k + b_k - \eta \lambda x_k` with :math:`b_k = \mu b_{k-1} - \eta g_k`, the heavy
    ball; the search starts from :math:`\eta_0 = \eta_{k-1} \gamma^{1/n}` with :math:`n` steps per epoch. :math:`c` is
    `c`, :math:`\delta` is `shrink`, :math:`\gamma` is `growth`, :math:`\lambda` is `weight_decay` (decoupled: neither
    in the condition nor in the momentum) and :math:`\mu` is `momentum`, which takes no part in the condition either. No
    state but for the momentum, which a failed search sets to zero.

    Units, failed searches and the remaining arguments are those of `AdamSLS`. The authors' code reseeds the global
    generators with the second that the clock shows; this one replays the generators of the step.

    Args:
        params: Parameters, or groups of them (dicts with `params` and optionally `name`, `unit`, `weight_decay`, `lr`).
        initial_step_size: Where the first search starts; high rather than low, it only costs trials (1 in the paper).
        c: The share of the decrease that the slope promises which a step has to deliver, between 0 and 1 (0.1 in the
            paper).
        shrink: What a rejected step size is multiplied by, between 0 and 1 (0.9 in the paper).
        growth: By how much the step size may grow in an epoch, at least 1 (2 in the paper).
        steps_per_epoch: The number of optimizer steps that make an epoch; `SequenceClassifier` fills in the run's own.
            None in a plain loop: 20.
        momentum: Heavy-ball momentum: the share of the last step that is added to the next, below 1.
        weight_decay: Decoupled weight decay: the step size times this share of each weight is taken off.
        reset: Where a search starts: at the last step size ("keep"), grown by `growth` per epoch ("grow", the paper's)
            or at `initial_step_size` ("restart").
        bracket: The coarser factor that a search comes down by at first, and later after three rejections; it then
            closes in to within one `shrink`. None: by `shrink` alone.
        max_trials: The largest number of trials of one search.
        min_step_size: No smaller step size is tried.
        max_step_size: No larger step size is tried.
        relative_tolerance: Losses that differ by less than this share count as equal. 1e-6 suits losses computed in
            float32; under autocast to bfloat16, 1e-4 or more.
        update_rule: "joint" (one step size for the model), "cycle", "all" or "impact", see `AdamSLS`.
        joint_steps: How many searches all units do together before each has its own.
        merge_threshold: A unit whose step size falls below this joins its neighbour; None never merges.

    Raises:
        ValueError: An argument is out of its range; a step gets neither `closure` nor `evaluate`; gradients are sparse.

    Example:
        >>> optimizer = SGDSLS(model.parameters())
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
        initial_step_size: float = 1.0,
        c: float = 0.1,
        shrink: float = 0.9,
        growth: float = 2.0,
        steps_per_epoch: int | None = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
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
            sgd,
            initial_step_size=initial_step_size,
            c=c,
            shrink=shrink,
            growth=growth,
            steps_per_epoch=steps_per_epoch,
            weight_decay=weight_decay,
            heavy_ball=momentum,
            reset=reset,
            bracket=bracket,
            max_trials=max_trials,
            min_step_size=min_step_size,
            max_step_size=max_step_size,
            relative_tolerance=relative_tolerance,
            update_rule=update_rule,
            joint_steps=joint_steps,
            merge_threshold=merge_threshold,
        )
