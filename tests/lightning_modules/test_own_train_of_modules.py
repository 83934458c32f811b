"""Modules that do something in a `train` of their own, as LeViT, which keeps attention biases while it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import LevitConfig, LevitForImageClassification

from callbacks import PretrainedInterpolation
from lightning_modules import ClosureModule
from optimizers.call_order import evaluating
from optimizers.training_modes import restore_modes, training_modes
from tests.quiet_trainer import quiet_trainer

ROWS = 16


def levit() -> LevitForImageClassification:
    stages = {"hidden_sizes": [8, 16, 16], "num_attention_heads": [1, 1, 1], "key_dim": [8, 8, 8], "depths": [1, 1, 1]}
    config = LevitConfig(image_size=64, **stages, attention_ratio=[2] * 3, mlp_ratio=[2] * 3, num_labels=2)
    config.down_ops = [["Subsample", 8, 1, 2, 2, 2], ["Subsample", 8, 2, 2, 2, 2]]
    return LevitForImageClassification(config)


class Images(ClosureModule):
    def __init__(self) -> None:
        super().__init__(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.3))
        torch.manual_seed(0)
        self.model = levit()
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.ones_(module.weight)  # zero where attention begins without an effect
                module.momentum = 1.0
        with torch.no_grad():
            self.model(next(iter(images()))[0])  # the averages of BatchNorm

    def compute_loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]).logits, batch[1])

    def predict_step(self, batch: Any) -> Tensor:
        return self.model(batch[0]).logits


class SeesOneEvaluation(Images):
    """Overrides one of two hooks without calling the other class's."""

    def on_validation_model_eval(self) -> None:
        self.eval()


def images() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(ROWS, 3, 64, 64, generator=generator)
    return DataLoader(TensorDataset(pixels, torch.arange(ROWS) % 2), batch_size=ROWS)


def fresh_logits(module: Images) -> Tensor:
    """Return the logits that a new model with the weights of a module has in evaluation."""
    model = levit().eval()
    model.load_state_dict(module.model.state_dict())
    with torch.no_grad():
        return model(next(iter(images()))[0]).logits


def fresh_loss(module: Images) -> float:
    return nn.functional.cross_entropy(fresh_logits(module), torch.arange(ROWS) % 2).item()


def change_biases(module: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "attention_biases" in name:
                parameter.add_(3.0 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("kind", [Images, SeesOneEvaluation])
def test_a_validation_has_the_weights_of_its_time(kind: type[Images]) -> None:
    module = kind()
    start = [each.attention_biases.detach().clone() for each in module.modules() if hasattr(each, "attention_biases")]
    trainer = quiet_trainer(max_epochs=8)
    trainer.fit(module, images(), images())
    moved = [each.attention_biases for each in module.modules() if hasattr(each, "attention_biases")]
    assert max((a - b).abs().max() for a, b in zip(start, moved, strict=True)) > 1e-3
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(fresh_loss(module), abs=1e-6)
    assert module.training
    assert all(each.training for each in module.modules())


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_second_evaluation_has_the_weights_that_are_there(stage: str) -> None:
    module = Images()

    def evaluate(trainer: Trainer) -> Any:
        if stage == "predict":
            return torch.cat(trainer.predict(module, images()) or [])
        return next(iter(getattr(trainer, stage)(module, images(), verbose=False)[0].values()))

    before = evaluate(quiet_trainer())
    change_biases(module)
    after = evaluate(quiet_trainer())
    expected = fresh_logits(module) if stage == "predict" else torch.tensor(fresh_loss(module))
    assert torch.allclose(torch.as_tensor(after), expected, atol=1e-6)
    assert not torch.allclose(torch.as_tensor(before), expected, atol=1e-4)


def test_frozen_parts_stay_in_evaluation() -> None:
    module = Images()
    frozen = module.model.levit.patch_embeddings.eval()
    averages = [each.running_mean.clone() for each in frozen.modules() if isinstance(each, nn.BatchNorm2d)]
    assert averages
    quiet_trainer(max_epochs=2).fit(module, images(), images())
    assert module.training
    assert not any(each.training for each in frozen.modules())
    found = [each.running_mean for each in frozen.modules() if isinstance(each, nn.BatchNorm2d)]
    assert all(torch.equal(*pair) for pair in zip(averages, found, strict=True))


def test_scores_of_interpolations_have_the_weights_of_their_time(tmp_path: Any) -> None:
    module, callback = Images(), PretrainedInterpolation()
    trainer = quiet_trainer(max_epochs=4, callbacks=[callback], default_root_dir=tmp_path)
    trainer.fit(module, images(), images())
    validated = trainer.validate(module, images(), verbose=False)[0]["val/loss"]
    assert validated == pytest.approx(fresh_loss(module), abs=1e-6)


def by_evaluating(model: nn.Module) -> Iterator[None]:
    with evaluating(model):
        yield


def by_hand(model: nn.Module) -> Iterator[None]:
    modes = training_modes(model)
    model.eval()
    yield
    restore_modes(modes)


@pytest.mark.parametrize("way", [by_evaluating, by_hand])
def test_what_an_evaluation_keeps_is_dropped_after_it(way: Callable[[nn.Module], Iterator[None]]) -> None:
    model = Images().model
    frozen = model.levit.encoder.stages[1].eval()
    pixels = next(iter(images()))[0]
    for _ in way(model):
        with torch.no_grad():
            model(pixels)
        assert not any(module.training for module in model.modules())
    inner = set(frozen.modules())
    assert all(module.training == (module not in inner) for module in model.modules())
    kept = [module for module in model.modules() if hasattr(module, "attention_bias_cache")]
    assert len(kept) > 2
    assert not any(module.attention_bias_cache for module in kept if module not in inner)
