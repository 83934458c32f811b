"""AdamW whose pretrained parameters decay towards their pretrained values."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optimizers.anchored_decay import anchors_of, decay_towards, new_flags, require_kept_anchors
from optimizers.anchored_optimizer import AnchoredOptimizer
from optimizers.checks import require, require_one_of
from optimizers.directions import adamw_step


class AdamWL2SP(AnchoredOptimizer):
    r"""AdamW with decoupled decay of pretrained parameters towards their pretrained values (L2-SP).

    .. math::
        θ_{t-1} &← θ_{t-1} - η λ_a (θ_{t-1} - θ^0)  &&\text{pretrained parameters} \\
        θ_{t-1} &← θ_{t-1} - η λ_w θ_{t-1}          &&\text{new parameters} \\
        m_t &= β_1 m_{t-1} + (1 - β_1) g_t, \qquad v_t = β_2 v_{t-1} + (1 - β_2) g_t^2 \\
        θ_t &= θ_{t-1} - η \frac{m_t / (1 - β_1^t)}{\sqrt{v_t / (1 - β_2^t)} + ε}

    The penalty of Li et al. (arXiv 1802.01483), decoupled from the gradient as in AdamW (arXiv 1711.05101). The update
    after the decay is torch's own: parameters without an anchor move exactly as under :class:`torch.optim.AdamW`.

    The pretrained values are taken when the optimizer is made, and saved in its state: a resumed run continues towards
    the same values. Biases and norms decay as well, unless they are in a group of their own, as
    :class:`~optimizers.ParamGroups` makes them by default. Memory: AdamW's, and one copy of the parameters that have an
    anchor, in the checkpoint as well.

    Args:
        params: Parameters or groups. A group says with `new` which of its parameters did not come from the checkpoint:
            one flag, or one per parameter (:class:`~optimizers.ParamGroups` fills it in). Default: none is new.
        lr: :math:`η`, the learning rate.
        betas: :math:`β_1, β_2`, the decay rates of the averages of gradients and of their squares.
        eps: :math:`ε`, for numerical stability.
        anchor_decay: :math:`λ_a`, the decay of pretrained parameters towards :math:`θ^0`; 0 keeps no anchors.
        weight_decay: :math:`λ_w`, the decay of new parameters towards zero.
        amsgrad: Whether to divide by the largest average of squared gradients so far.
        maximize: Whether to maximize instead of to minimize.
        foreach: Whether to work on all tensors at once. None: torch decides.
        anchor_device: Where anchors are kept: with the `parameter`, or on the `cpu`, copied over in each step.

    Raises:
        ValueError: A setting is out of range, or a loaded state has no anchors.

    Example::

        groups = [{"params": model.bert.parameters()}, {"params": model.classifier.parameters(), "new": True}]
        optimizer = AdamWL2SP(groups, lr=2e-5, anchor_decay=0.1, weight_decay=0.01)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        anchor_decay: float = 1e-2,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        anchor_device: Literal["parameter", "cpu"] = "parameter",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "anchor_decay": anchor_decay,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "anchor_device": anchor_device,
            "new": False,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; the present values of its pretrained parameters become their anchors."""
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Make one step.

        Args:
            closure: Clears the gradients, computes the loss, runs backward and returns the loss. None: the gradients
                are in `.grad` already.

        Returns:
            The closure's loss; None without a closure.
        """
        require_kept_anchors(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._refuse_sparse_gradients()
        for group in self.param_groups:
            decays_to_zero = dict(zip(group["params"], new_flags(group), strict=True))
            params = [param for param in group["params"] if param.grad is not None]
            pretrained = [param for param in params if not decays_to_zero[param]]
            if group["anchor_decay"]:
                anchors = anchors_of(pretrained, [self.state[param] for param in pretrained], group)
                decay_towards(pretrained, anchors, group["lr"] * group["anchor_decay"])
            self._adamw(group, pretrained, weight_decay=0.0)
            self._adamw(group, [param for param in params if decays_to_zero[param]], group["weight_decay"])
        return loss

    def _adamw(self, group: dict[str, Any], params: list[Tensor], weight_decay: float) -> None:
        if not params:
            return
        adamw_step(
            params,
            [param.grad for param in params if param.grad is not None],
            [self.state[param] for param in params],
            group,
            group["lr"],
            weight_decay,
            foreach=group["foreach"],
            has_complex=any(torch.is_complex(param) for param in params),
            maximize=group["maximize"],
        )

    def _refuse_sparse_gradients(self) -> None:
        """Raise a ValueError for a sparse gradient, before anything moves."""
        for param in (param for group in self.param_groups for param in group["params"]):
            if param.grad is not None and param.grad.is_sparse:
                shape = tuple(param.shape)
                raise ValueError(f"AdamWL2SP does not take sparse gradients (nn.Embedding, sparse=False): {shape}")


def _check(group: dict[str, Any]) -> None:
    for name in ("lr", "eps", "anchor_decay", "weight_decay"):
        is_number = 0 <= group[name] <= torch.finfo(torch.float32).max
        require(is_number, name, group[name], "at least 0, and a number of float32")
    for name, beta in zip(("beta1", "beta2"), group["betas"], strict=True):
        require(0 <= beta < 1, f"betas: {name}", beta, "at least 0 and less than 1")
    require_one_of("anchor_device", group["anchor_device"], ("parameter", "cpu"))
