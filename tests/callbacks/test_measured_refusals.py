"""What MeasuredLearningRate is refused with, each in one line."""

from __future__ import annotations

from typing import Any

import dadaptation
import dog
import momo
import prodigyopt
import pytest
import schedulefree
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, LearningRateFinder, StochasticWeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim import lr_scheduler as schedules

from callbacks import GradualUnfreezing, MeasuredLearningRate
from optimizers import GLD, ParabolicAdam, SaLSA
from tests.callbacks.measured_regression import Manual, Regression, fit, with_rate


class ByHand(Regression):
    """Manual optimization of a module of one's own."""

    def __init__(self) -> None:
        super().__init__(with_rate(AdamW, lr=1.0))
        self.automatic_optimization = False


class FromIterator(Regression):
    def training_step(self, dataloader_iter: Any) -> Tensor:
        raise AssertionError


class OwnPlace(schedules.LRScheduler):
    """A schedule whose rates are not where torch keeps them."""

    def get_lr(self) -> list[Any]:
        return [3e-4 for _ in self.optimizer.param_groups]


def with_own_place(module: Any) -> Any:
    optimizer = AdamW(module.parameters(), lr=1.0)
    return [optimizer], [OwnPlace(optimizer)]


class Unable(SGD):
    """An optimizer whose step needs more than gradients."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.parameters(), lr=1.0)

    def step(self, closure: Any = None) -> Any:
        raise KeyError("graph")


class GrowsInStep(Regression):
    """Has a parameter group added within a step."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.trainer.global_step == 1:
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0})


def schedule_free(module: Any) -> Any:
    optimizer = schedulefree.AdamWScheduleFree(module.parameters())
    optimizer.train()
    return optimizer


def free(factory: Any) -> Regression:
    return Regression(with_rate(factory))


@pytest.mark.parametrize(
    ("module", "others", "message"),
    [
        (lambda: free(ParabolicAdam), (), "ParabolicAdam finds its own step size"),
        (lambda: free(SaLSA), (), "SaLSA finds its own step size"),
        (lambda: Manual(optimizer=GLD), (), "GLD finds its own step size"),
        (lambda: free(torch.optim.LBFGS), (), "LBFGS computes the loss several times in a step"),
        (lambda: free(torch.optim.Rprop), (), "Rprop does not move in proportion to its learning rate"),
        (lambda: free(torch.optim.ASGD), (), "ASGD does not move in proportion to its learning rate"),
        (lambda: Regression(Unable), (), "a copy of Unable makes no step by its gradients alone: KeyError: 'graph'"),
        (lambda: Regression(schedule_free), (), "AdamWScheduleFree does not move in proportion"),
        (lambda: Regression(with_rate(SGD, lr=1.0, maximize=True)), (), "SGD maximizes"),
        (lambda: Regression(with_rate(SGD, lr=0.0)), (), "the learning rate is 0 throughout the run"),
        (lambda: Regression(lambda _: None), (), "there is no optimizer with parameters"),
        (lambda: GrowsInStep(with_rate(SGD, lr=1.0)), (), "the optimizer got a parameter group during a step"),
        (lambda: free(prodigyopt.Prodigy), (), "Prodigy finds its own learning rate, of which lr is a factor"),
        (lambda: free(dadaptation.DAdaptSGD), (), "DAdaptSGD finds its own learning rate"),
        (lambda: free(dadaptation.DAdaptLion), (), "DAdaptLion finds its own learning rate"),
        (lambda: free(dog.LDoG), (), "LDoG finds its own learning rate"),
        (lambda: free(momo.Momo), (), "Momo finds its own learning rate"),
        (lambda: Manual(optimizer=momo.MomoAdam), (), "a copy of MomoAdam makes no step by its gradients alone"),
        (ByHand, (), "ByHand makes its steps itself"),
        (lambda: FromIterator(with_rate(AdamW)), (), "takes its batches from dataloader_iter"),
        (lambda: Regression(with_own_place), (), "OwnPlace keeps learning rates in a place of its own"),
        (lambda: free(AdamW), (LearningRateFinder(),), "LearningRateFinder sets the learning rate as well"),
        (lambda: free(AdamW), (StochasticWeightAveraging(0.1),), "StochasticWeightAveraging sets the learning rate"),
        (lambda: free(AdamW), (BackboneFinetuning(),), "BackboneFinetuning sets the learning rate as well"),
        (lambda: free(AdamW), (GradualUnfreezing(),), "GradualUnfreezing lets more of the model train later"),
    ],
)
def test_what_cannot_be_measured_is_one_line(module: Any, others: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"^MeasuredLearningRate: .*{message}") as raised:
        fit(module(), MeasuredLearningRate(), *others)
    assert "\n" not in str(raised.value)


def test_an_error_of_the_module_in_a_trial_stays_what_it_is() -> None:
    class Fails(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if not torch.is_grad_enabled():
                raise ValueError("of the module")
            return super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match=r"^of the module$"):
        fit(Fails(with_rate(SGD, lr=1.0)), MeasuredLearningRate())


def test_sharded_parameters_are_refused() -> None:
    trainer = Trainer(logger=False, accelerator="cpu")
    trainer.strategy.__class__ = FSDPStrategy  # which wants an accelerator
    with pytest.raises(MisconfigurationException, match="FSDPStrategy shards the parameters"):
        MeasuredLearningRate().setup(trainer, free(AdamW), "fit")


def test_a_fused_optimizer_under_a_scaler_is_refused() -> None:
    module = Regression(with_rate(AdamW, fused=True))
    with pytest.raises(MisconfigurationException, match="a fused AdamW unscales the gradients"):
        fit(module, MeasuredLearningRate(), plugins=[MixedPrecision("16-mixed", "cpu")])


@pytest.mark.parametrize(("name", "value"), [("peak_fraction", 0.0), ("peak_fraction", 2.0), ("measured_share", 1.5)])
def test_arguments_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(MisconfigurationException, match=f"MeasuredLearningRate: {name}: {value} is not allowed"):
        MeasuredLearningRate(**{name: value})
