"""Lightning modules: for optimizers that compute the loss of a batch more than once, and for Hugging Face models."""

from lightning_modules.closure_module import ClosureModule
from lightning_modules.closures import StepClosures
from lightning_modules.errors import ModelError
from lightning_modules.losses import LossOptions
from lightning_modules.models.bottleneck_adapter import BottleneckConfig
from lightning_modules.schedules import ConstantWithWarmup, CosineWithWarmup, LinearWithWarmup, Schedule, Triangular
from lightning_modules.sequence_classifier import SequenceClassifier
from lightning_modules.steps.gradient_clip import GradientClip

__all__ = [
    "BottleneckConfig",
    "ClosureModule",
    "ConstantWithWarmup",
    "CosineWithWarmup",
    "GradientClip",
    "LinearWithWarmup",
    "LossOptions",
    "ModelError",
    "Schedule",
    "SequenceClassifier",
    "StepClosures",
    "Triangular",
]
