"""What does not go together is refused in one sentence."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from lightning_modules import GradientClip, LinearWithWarmup, ModelError, Schedule, SequenceClassifier, Triangular
from optimizers import GLD, AdamSLS, LineSearchMeZO, MeZO, ParamGroups, SaLSA
from tests.architectures import save_pretrained_backbone
from tests.lightning_modules.regression import Regression, data, fit
from tests.tiny_models import TinyData


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_pretrained_backbone(tmp_path_factory.mktemp("model"), "bert")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"optimizer": AdamSLS, "lr_scheduler": Schedule(LinearWithWarmup)},
            "lr_scheduler: AdamSLS finds its own step size",
        ),
        (
            {"optimizer": LineSearchMeZO, "lr_scheduler": Schedule(LinearWithWarmup)},
            "lr_scheduler: LineSearchMeZO finds",
        ),
        *(
            (
                {
                    "optimizer": partial(torch.optim.AdamW, lr=rate),
                    "param_groups": ParamGroups(lr_decay=0.9),
                    "lr_scheduler": Schedule(schedule),
                },
                f"lr_scheduler: {schedule.func.__name__} gives all parameters one learning rate",
            )
            for schedule in (partial(OneCycleLR, max_lr=1e-3), partial(CyclicLR, base_lr=1e-4, max_lr=1e-3))
            for rate in (1e-3, torch.tensor(1e-3))
        ),
        ({"optimizer": AdamSLS, "param_groups": ParamGroups(lrs={"head": 1e-3})}, "cannot be given learning rates"),
        ({"optimizer": LineSearchMeZO, "param_groups": ParamGroups(lr_decay=0.5)}, "moves all parameters alike"),
        (
            {"optimizer": partial(torch.optim.AdamW, lr=1e-3), "param_groups": ParamGroups(anchor_decay=0.1)},
            "AdamW has no anchor_decay; choose optimizers.AdamWL2SP",
        ),
        (
            {"optimizer": AdamSLS, "gradient_clip": GradientClip(1.0)},
            "gradient_clip: AdamSLS takes the slope of the loss",
        ),
        ({"optimizer": MeZO, "gradient_clip": GradientClip(1.0)}, "gradient_clip: MeZO computes no gradient to clip"),
        ({"optimizer": AdamSLS, "param_groups": ParamGroups(lrs={"neck": 1e-3})}, "param_groups: no part 'neck'"),
        (
            {"optimizer": GLD, "lr_scheduler": Schedule(partial(LinearWithWarmup, warmup_ratio=3.0))},
            "lr_scheduler: warmup_ratio: 3.0 is not allowed",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        Trainer(fast_dev_run=1, logger=False, accelerator="cpu").fit(SequenceClassifier(model, **options), TinyData())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (SaLSA, "gradient_clip: SaLSA takes the slope of the loss"),
        (MeZO, "gradient_clip: MeZO computes no gradient to clip"),
    ],
)
def test_an_optimizer_that_a_module_makes_itself_is_not_clipped_either(
    optimizer: Any, message: str, tmp_path: Path
) -> None:
    class Own(Regression):
        def configure_optimizers(self) -> Any:
            return optimizer(self.parameters())

    with pytest.raises(ModelError, match=message):
        fit(Own(gradient_clip=GradientClip(1.0)), data(8), tmp_path)


@pytest.mark.parametrize("schedule", [LinearWithWarmup, Triangular, ReduceLROnPlateau])
def test_a_schedule_that_begins_from_the_groups_rates_goes_with_rates_by_part(model: str, schedule: Any) -> None:
    module = SequenceClassifier(
        model,
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        param_groups=ParamGroups(lr_decay=0.9),
        lr_scheduler=Schedule(schedule),
    )
    trainer = Trainer(fast_dev_run=1, logger=False, accelerator="cpu")
    trainer.fit(module, TinyData())
    assert trainer.global_step == 1


@pytest.mark.parametrize("resumes", [False, True])
def test_a_fused_optimizer_under_a_gradient_scaler_is_not_clipped(model: str, resumes: bool, tmp_path: Path) -> None:
    """Lightning 2.6.6 ends in its own words there, in the first step; without ``fused`` the run goes on."""
    quiet: dict[str, Any] = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False}
    path = None
    if resumes:
        first = Trainer(max_epochs=1, **quiet, enable_checkpointing=False)
        first.fit(SequenceClassifier(model, optimizer=partial(torch.optim.AdamW, lr=1e-3, fused=True)), TinyData(8))
        path = tmp_path / "a.ckpt"
        first.save_checkpoint(path)
    for options, message in (({"fused": True}, "gradient_clip: AdamW in its fused form"), ({}, None)):
        plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
        trainer = Trainer(max_epochs=2, **quiet, enable_checkpointing=False, plugins=[plugin])
        optimizer = partial(torch.optim.AdamW, lr=1e-3, **options)
        module = SequenceClassifier(model, optimizer=optimizer, gradient_clip=GradientClip(1.0))
        with pytest.raises(ModelError, match=message) if message else nullcontext():
            trainer.fit(module, TinyData(8), ckpt_path=path)
        assert trainer.global_step == (0 if message else 2)


@pytest.mark.parametrize("optimizer", [GLD, MeZO, LineSearchMeZO])
def test_a_gradient_scaler_needs_gradients(model: str, optimizer: type[torch.optim.Optimizer]) -> None:
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    trainer = Trainer(fast_dev_run=1, logger=False, accelerator="cpu", plugins=[plugin])
    with pytest.raises(ModelError, match=f"precision: {optimizer.__name__} computes no gradient") as error:
        trainer.fit(SequenceClassifier(model, optimizer=optimizer), TinyData())
    assert "\n" not in str(error.value)
