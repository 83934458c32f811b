"""Learning rates that decrease from the head down to the embeddings."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from callbacks.trainer.trainer_callbacks import move_to_front
from optimizers import ParamGroups, named_parts


class DifferentialLearningRates(Callback):
    r"""Sets a learning rate per part of the model: the optimizer's for the head, smaller ones for lower parts.

    With :math:`η` the optimizer's learning rate and :math:`d` the number of parts above a part (0 for the head, 1 for
    the last layer, …), the part's rate is

    .. math:: η_d = η / f^d \quad \text{(power)}, \qquad η_d = η / (f \, d), \; η_0 = η \quad \text{(linear)}

    ``power`` with f = 2.6 is ULMFiT's discriminative fine-tuning (Howard and Ruder, arXiv 1801.06146). The rates become
    the groups' ``lr`` before a schedule is made, so that a schedule scales all of them alike. For gradient-free
    optimizers, whose ``lr`` is the radius of their candidates, this scales the radius.

    For optimizers that search for their step size η, the factor of a part multiplies its direction instead: parts that
    share a step size move by η_d times their direction, and the search is along the joint direction so scaled. Where a
    part has a step size of its own, the factor scales the start and the bounds of its searches.

    During a fit the rates replace ``lr_decay``, ``lr_factors`` and ``lrs`` of the module's ``param_groups``; its units
    and weight decay are kept.

    Args:
        factor: :math:`f`, above 0. Default: 2.6, ULMFiT's.
        rule: ``power`` or ``linear`` in the depth.
        rates: Learning rates of single parts (``embeddings``, ``layer.0``, …, ``head``), for optimizers that have a
            learning rate; all other parts follow the rule.

    Raises:
        MisconfigurationException: for a setting out of range, an unknown part, or a module without ``param_groups``.

    Example::

        Trainer(callbacks=[DifferentialLearningRates(factor=2.6)])
    """

    def __init__(
        self, factor: float = 2.6, rule: Literal["power", "linear"] = "power", rates: dict[str, float] | None = None
    ) -> None:
        if not factor > 0:
            raise MisconfigurationException(f"DifferentialLearningRates: factor: {factor} is not allowed; above 0")
        if rule not in ("power", "linear"):
            raise MisconfigurationException(
                f"DifferentialLearningRates: rule: {rule!r} is not allowed; power or linear"
            )
        self.factor = factor
        self.rule = rule
        self.rates = rates
        self._before: tuple[ParamGroups | None] | None = None

    def factor_at(self, depth: int) -> float:
        """Return the factor on the optimizer's rate for a part with ``depth`` parts above it."""
        if self.rule == "power":
            return self.factor**-depth
        return 1.0 if depth == 0 else 1 / (self.factor * depth)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        move_to_front(self, trainer)
        if not hasattr(pl_module, "param_groups"):
            raise MisconfigurationException(
                f"DifferentialLearningRates needs a module with param_groups, such as any ClosureModule; "
                f"{type(pl_module).__name__} has none"
            )
        groups: ParamGroups | None = pl_module.param_groups  # type: ignore[assignment]
        division = groups or ParamGroups()
        try:
            scaled = _RatesByDepth(
                lrs=self.rates, anchor_decay=division.anchor_decay, division=division, factor_at=self.factor_at
            )
        except ValueError as error:
            raise MisconfigurationException(f"DifferentialLearningRates: {error}") from error
        self._before = (groups,)
        pl_module.param_groups = scaled  # type: ignore[assignment]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore(pl_module)

    def _restore(self, pl_module: LightningModule) -> None:
        if self._before is not None:
            pl_module.param_groups = self._before[0]  # type: ignore[assignment]
            self._before = None


@dataclass(frozen=True, kw_only=True)
class _RatesByDepth(ParamGroups):
    """A division by whose rates parts learn, which are known once the model is built.

    Args:
        division: The division; its own rates are left out.
        factor_at: Returns the factor on the optimizer's rate for a part with so many parts above it.
    """

    division: ParamGroups
    factor_at: Callable[[int], float]

    @property
    def sets_rates(self) -> bool:
        return True

    def __call__(
        self, model: nn.Module, new_parameter_names: Collection[str] = (), order: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        try:
            parts = [part.name for part in named_parts(model, order)][::-1]
            factors = {name: self.factor_at(n) for n, name in enumerate(parts) if name not in (self.lrs or {})}
            scaled = replace(self.division, lr_decay=1.0, lr_factors=factors, lrs=self.lrs)
            return scaled(model, new_parameter_names, order)
        except ValueError as error:
            raise MisconfigurationException(f"DifferentialLearningRates: {error}") from error
