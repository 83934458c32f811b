"""The bound on the gradient of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
