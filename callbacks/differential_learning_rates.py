"""Learning rates that fall with depth, from the head to the embeddings."""

from dataclasses import replace
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from optimizers import ParamGroups, named_parts


class DifferentialLearningRates(Callback):
    r"""Gives each part of the model a learning rate of its own: the head's is the optimizer's, lower parts have less.

    With :math:`d` the number of parts above a part (0 for the head, 1 for the last layer, …), its rate is

    .. math:: η_d = η / f^d \quad \text{(power)}, \qquad η_d = η / (f \, d), \; η_0 = η \quad \text{(linear)}

    ``power`` with f = 2.6 is ULMFiT's discriminative fine-tuning (Howard and Ruder, arXiv 1801.06146). The rates become
    the groups' ``lr`` before a schedule is made: every schedule scales them all alike. Gradient-free optimizers have
    their radius in ``lr``.

    Under a line search a part's factor multiplies its direction, because the step size is the search's to find: where
    parts share a step size η, part d moves by η_d times its direction, and the search looks for η along the joint
    direction so scaled; where a unit searches on its own, its factor scales where its searches start and their bounds.

    The rates are set through the module's ``param_groups``, whose ``lr_decay``, ``lr_factors`` and ``lrs`` they replace
    for the duration of a fit; its units and weight decay stay.

    Args:
        factor: :math:`f`, above 0.
        rule: ``power`` or ``linear`` in the depth.
        rates: Explicit learning rates by part (``embeddings``, ``layer.0``, …, ``head``), for optimizers that have a
            learning rate; parts left out follow the rule.

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
        """The factor on the optimizer's rate of a part with ``depth`` parts above it."""
        if self.rule == "power":
            return self.factor**-depth
        return 1.0 if depth == 0 else 1 / (self.factor * depth)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not hasattr(pl_module, "param_groups"):
            raise MisconfigurationException(
                f"DifferentialLearningRates needs a module with param_groups, such as any ClosureModule; "
                f"{type(pl_module).__name__} has none"
            )
        groups: ParamGroups | None = pl_module.param_groups  # type: ignore[assignment]
        rates = self.rates or {}
        try:
            parts = [part.name for part in named_parts(getattr(pl_module, "trained_module", pl_module))][::-1]
            factors = {name: self.factor_at(depth) for depth, name in enumerate(parts) if name not in rates}
            scaled = replace(groups or ParamGroups(), lr_decay=1.0, lr_factors=factors, lrs=rates)
            unknown = sorted(set(rates) - set(parts))
            if unknown:
                raise ValueError(f"no part {unknown[0]!r} trains in this model; its parts are {', '.join(parts)}")
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
