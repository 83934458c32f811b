"""Averages of the weights by Lightning's callbacks: their buffers, their precision, and which no checkpoint has."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lightning_modules import ClosureModule, SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData

AVERAGES = {
    "one at a time": partial(EMAWeightAveraging, decay=0.9),
    "all at once": partial(WeightAveraging, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
}


def count(model: nn.Module, _: Any) -> None:
    model.get_buffer("moving").add_(model.training)


def fit_classifier(folder: str, rate: float, *callbacks: Callback, root: Path) -> tuple[SequenceClassifier, Trainer]:
    torch.manual_seed(0)
    module = SequenceClassifier(folder, optimizer=partial(torch.optim.SGD, lr=rate))
    with torch.no_grad():  # so that the loss depends on the positions
        module.model.bert.embeddings.position_embeddings.weight.mul_(100)
        module.model.classifier.weight.mul_(100)
    module.model.register_buffer("counts", torch.arange(5))
    module.model.register_buffer("moving", torch.zeros(()))
    module.model.register_buffer("computed", torch.full((100,), 0.3) ** torch.arange(100), persistent=False)
    module.model.register_forward_pre_hook(count)
    trainer = quiet_trainer(max_epochs=2, enable_checkpointing=True, default_root_dir=root, callbacks=list(callbacks))
    trainer.fit(module, TinyData())
    return module, trainer


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_constants_are_taken_over_and_statistics_averaged(average: Any, tiny: str, tmp_path: Path) -> None:
    plain, _ = fit_classifier(tiny, 0.1, root=tmp_path)
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=7, save_top_k=-1)
    module, _ = fit_classifier(tiny, 0.1, average(), saves, root=tmp_path)
    assert not torch.equal(module.model.classifier.weight, plain.model.classifier.weight)
    for name, buffer in plain.model.named_buffers():
        same = torch.equal(module.model.get_buffer(name), buffer)
        assert same == (name != "moving"), name
    assert 0 < float(module.model.moving) < float(plain.model.moving)
    saved = torch.load(saves.best_model_path, weights_only=True)["state_dict"]
    assert saved["model.counts"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_an_average_of_weights_that_stand_still_is_validated_as_they_are(
    average: Any, tiny: str, tmp_path: Path
) -> None:
    _, plain = fit_classifier(tiny, 0.0, root=tmp_path)
    _, averaged = fit_classifier(tiny, 0.0, average(), root=tmp_path)
    assert float(averaged.callback_metrics["val/loss"]) == pytest.approx(
        float(plain.callback_metrics["val/loss"]), rel=1e-5
    )


def test_an_average_that_lightning_keeps_elsewhere_is_told(tiny: str, tmp_path: Path) -> None:
    class Elsewhere(EMAWeightAveraging):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            pass

    with pytest.raises(RuntimeError, match="Elsewhere of this Lightning has no AveragedModel in _average_model"):
        fit_classifier(tiny, 0.1, Elsewhere(), root=tmp_path)


class Larger(ClosureModule):
    """Trains half of its weights towards larger ones."""

    def __init__(self, trained: torch.dtype, frozen: torch.dtype) -> None:
        super().__init__(optimizer=partial(torch.optim.SGD, lr=0.1))
        self.trained = nn.Parameter(torch.ones(4, dtype=trained))
        self.frozen = nn.Parameter(torch.ones(4, dtype=frozen), requires_grad=False)

    def compute_loss(self, batch: Any) -> Tensor:
        return ((self.trained.float() - 1.3 * self.frozen.float()) ** 2).sum()


@pytest.mark.parametrize(
    ("trained", "frozen", "precision", "says"),
    [
        (torch.float32, torch.float32, "32-true", False),
        (torch.float32, torch.bfloat16, "32-true", False),
        (torch.bfloat16, torch.bfloat16, "32-true", True),
        (torch.float32, torch.float32, "bf16-true", True),
        (torch.float32, torch.float32, "bf16-mixed", False),
    ],
)
def test_an_average_of_weights_in_a_lower_precision_is_warned_of(
    trained: torch.dtype, frozen: torch.dtype, precision: Any, says: bool, tmp_path: Path
) -> None:
    fits = quiet_trainer(max_steps=2, precision=precision, callbacks=[EMAWeightAveraging()], default_root_dir=tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fits.fit(Larger(trained, frozen), DataLoader(range(4)))
    said = [each for each in map(str, (each.message for each in caught)) if "their average is rounded" in each]
    assert [each.startswith("trainer.callbacks: EMAWeightAveraging: the weights are in torch.bf") for each in said] == [
        True
    ] * says


class Rising(ClosureModule):
    """One weight, which the rate is added to in every step."""

    def __init__(self) -> None:
        super().__init__(optimizer=partial(torch.optim.SGD, lr=1.0))
        self.weight = nn.Parameter(torch.zeros(()))
        self.at_starts: list[float] = []

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.at_starts.append(float(self.weight.detach()))

    def compute_loss(self, batch: Any) -> Tensor:
        return -self.weight


def fit_rising(folder: Path, *callbacks: Callback) -> tuple[Rising, float, list[str]]:
    """Return a fitted module, the weight in its last checkpoint, and what was said of averages."""
    module, saver = Rising(), ModelCheckpoint(folder)
    trainer = quiet_trainer(max_epochs=3, callbacks=[saver, *callbacks], enable_checkpointing=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, DataLoader(torch.ones(2, 1)))
    saved = torch.load(saver.best_model_path, weights_only=True)["state_dict"]["weight"]
    said = [str(each.message) for each in caught if "no checkpoint has its average" in str(each.message)]
    return module, float(saved), said


def test_an_average_that_no_checkpoint_has_is_warned_of(tmp_path: Path) -> None:
    module, saved, said = fit_rising(tmp_path, StochasticWeightAveraging(0.1))
    assert [each.startswith("trainer.callbacks: StochasticWeightAveraging: no checkpoint has") for each in said] == [
        True
    ]
    # What the warning says: where this fails, Lightning has mended it.
    assert float(module.weight.detach()) == pytest.approx(sum(module.at_starts[1:]) / 2)
    assert saved > module.at_starts[-1]


def test_an_average_in_each_checkpoint_is_not(tmp_path: Path) -> None:
    module, saved, said = fit_rising(tmp_path, EMAWeightAveraging(decay=0.5))
    assert not said
    assert saved == pytest.approx(float(module.weight.detach())) != pytest.approx(6.0)
