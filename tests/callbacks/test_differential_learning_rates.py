"""DifferentialLearningRates: each part's rate, for any optimizer, before any schedule."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from callbacks import DifferentialLearningRates
from lightning_modules import ClosureModule, LinearWithWarmup, Schedule, SequenceClassifier
from optimizers import AdamSLS, ParamGroups, named_parts
from tests.architectures import save_pretrained_backbone
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData


class Rates(Callback):
    """Notes the rate of each part in each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        rate = {id(p): g["lr"] for g in trainer.optimizers[0].param_groups for p in g["params"]}
        found = {part.name: {rate[id(p)] for _, p in part.parameters} for part in named_parts(pl_module.model)}
        assert all(len(rates) == 1 for rates in found.values())
        self.seen.append({name: rates.pop() for name, rates in found.items()})


def fit(module: LightningModule, *callbacks: Callback, ckpt_path: Path | None = None, max_epochs: int = 2) -> Trainer:
    trainer = quiet_trainer(max_epochs=max_epochs, callbacks=list(callbacks), limit_val_batches=0)
    trainer.fit(module, TinyData(count=16, batch_size=8), ckpt_path=ckpt_path)
    return trainer


@pytest.fixture
def model(tmp_path: Path) -> str:
    return save_pretrained_backbone(tmp_path / "model", "distilbert")


def classifier(model: str, **options: Any) -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(model, **({"optimizer": partial(torch.optim.AdamW, lr=1.0e-3)} | options))


PARTS = ["embeddings", "layer.0", "layer.1", "head"]


@pytest.mark.parametrize("units", ["model", "layer", 2])
@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({}, [2.6**-3, 2.6**-2, 2.6**-1, 1]),
        ({"factor": 2.0, "rule": "linear"}, [1 / 6, 1 / 4, 1 / 2, 1]),
        ({"factor": 1.0, "rates": {"embeddings": 0.0, "head": 5e-3}}, [0.0, 1, 1, 5]),
    ],
)
def test_each_part_has_its_rate(model: str, units: Any, options: dict[str, Any], factors: list[float]) -> None:
    rates = Rates()
    fit(classifier(model, param_groups=ParamGroups(units)), DifferentialLearningRates(**options), rates)
    expected = {name: 1e-3 * factor for name, factor in zip(PARTS, factors, strict=True)}
    assert all(seen == pytest.approx(expected) for seen in rates.seen)


def test_a_schedule_scales_all_rates_alike(model: str) -> None:
    rates, plain = Rates(), Rates()
    schedule = Schedule(partial(LinearWithWarmup, warmup_steps=1))
    fit(classifier(model, lr_scheduler=schedule), DifferentialLearningRates(), rates)
    fit(classifier(model, lr_scheduler=schedule), plain)
    for seen, reference in zip(rates.seen, plain.seen, strict=True):
        expected = {name: reference["head"] / 2.6 ** (3 - depth) for depth, name in enumerate(PARTS)}
        assert seen == pytest.approx(expected)


def test_rates_decide_how_far_parts_move(model: str) -> None:
    moved = []
    for factor in (1.0, 10.0):
        module = classifier(model)
        before = {name: parameter.detach().clone() for name, parameter in module.model.named_parameters()}
        fit(module, DifferentialLearningRates(factor=factor), max_epochs=1)
        moved.append(
            {
                part.name: max((p - before[name]).abs().max().item() for name, p in part.parameters)
                for part in named_parts(module.model)
            }
        )
    ratios = [moved[1][part] / moved[0][part] for part in PARTS]
    assert ratios == pytest.approx([1e-3, 1e-2, 1e-1, 1], rel=0.3)


def test_a_resumed_run_is_the_uninterrupted_one(model: str, tmp_path: Path) -> None:
    schedule = Schedule(partial(LinearWithWarmup, warmup_steps=1, total_steps=8))
    straight = classifier(model, lr_scheduler=schedule)
    fit(straight, DifferentialLearningRates(), max_epochs=3)
    trainer = fit(classifier(model, lr_scheduler=schedule), DifferentialLearningRates(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "at.ckpt")
    resumed = classifier(model, lr_scheduler=schedule)
    fit(resumed, DifferentialLearningRates(), ckpt_path=tmp_path / "at.ckpt", max_epochs=3)
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_modules_own_groups_come_back_after_a_fit(model: str) -> None:
    groups = ParamGroups("layer", weight_decay=0.3)
    module = classifier(model, param_groups=groups)
    trainer = fit(module, DifferentialLearningRates())
    assert module.param_groups is groups
    assert {group["weight_decay"] for group in trainer.optimizers[0].param_groups} == {0.0, 0.3}


def test_under_a_line_search_factors_scale_the_direction(model: str) -> None:
    trainer = fit(classifier(model, optimizer=AdamSLS), DifferentialLearningRates(factor=2.0))
    step_sizes = {group["lr"] for group in trainer.optimizers[0].param_groups}
    assert len(step_sizes) == 1, "one search, one step size"
    factors = {
        group["name"].removesuffix(".no_decay"): group["lr_factor"] for group in trainer.optimizers[0].param_groups
    }
    assert factors == {"embeddings": 1 / 8, "layer.0": 1 / 4, "layer.1": 1 / 2, "head": 1}


def test_layers_may_be_made_in_configure_model() -> None:
    class Late(ClosureModule):
        def configure_model(self) -> None:
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
            self.head = nn.Linear(8, 1)

        def compute_loss(self, batch: Any) -> Any:
            states = batch["input_ids"].float()[:, :1].expand(-1, 8)
            for layer in self.layers:
                states = layer(states)
            return self.head(states).mean()

    trainer = fit(Late(optimizer=partial(torch.optim.AdamW, lr=1.0)), DifferentialLearningRates(factor=2.0))
    rates = {group["name"].removesuffix(".no_decay"): group["lr"] for group in trainer.optimizers[0].param_groups}
    assert rates == {"layer.0": 0.25, "layer.1": 0.5, "head": 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 0.0}, "factor: 0.0 is not allowed; above 0"),
        ({"rule": "cubic"}, "rule: 'cubic' is not allowed; power or linear"),
        ({"rates": {"layer.7": 1.0}}, "no part 'layer.7' .* embeddings, layer.0, layer.1, head"),
        ({"rates": {"head": -1.0}}, "lrs: head: -1.0 is not allowed"),
    ],
)
def test_settings_out_of_range_are_refused(model: str, options: dict[str, Any], message: str) -> None:
    module = classifier(model)
    with pytest.raises(MisconfigurationException, match=message):
        fit(module, DifferentialLearningRates(**options))
    assert module.param_groups is None


def test_a_module_without_groups_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="BoringModel has none"):
        Trainer(fast_dev_run=1, callbacks=[DifferentialLearningRates()], logger=False).fit(BoringModel())
