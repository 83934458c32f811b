"""The bound on the gradient of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch.optim import Optimizer

from lightning_modules.errors import ModelError


@dataclass(frozen=True)
class GradientClip:
    """A bound on the gradient, applied before the optimizer sees it.

    Args:
        value: The bound, above 0.
        algorithm: Clip the gradients' joint ``norm`` or each ``value``.

    Raises:
        ModelError: if the bound is not above 0.
    """

    value: float
    algorithm: Literal["norm", "value"] = "norm"

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise ModelError(
                f"gradient_clip: value: {self.value} is not allowed; a positive number, or no gradient_clip"
            )

    def apply(self, module: LightningModule, optimizer: Optimizer) -> None:
        """Clip the gradients of a step.

        Lightning 2.6.6 refuses it to fused optimizers under either mixed precision, since they unscale gradients by
        themselves: in bf16-mixed, where nothing scales them, that is left out.

        Args:
            module: The module that trains.
            optimizer: Its optimizer.
        """
        precision = module.trainer.precision_plugin
        if type(precision) is MixedPrecision and precision.scaler is None:
            Precision.clip_gradients(precision, optimizer, self.value, GradClipAlgorithmType(self.algorithm))
        else:
            module.clip_gradients(optimizer, self.value, self.algorithm)
