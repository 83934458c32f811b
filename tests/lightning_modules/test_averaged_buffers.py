"""Averages of the weights by Lightning's callbacks: which buffers they average."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_modules import SequenceClassifier
from tests.tiny_models import TinyData, save_tiny_bert

AVERAGES = {
    "one at a time": partial(EMAWeightAveraging, decay=0.9),
    "all at once": partial(WeightAveraging, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_bert(tmp_path_factory.mktemp("tiny")))


def count(model: nn.Module, _: Any) -> None:
    model.get_buffer("moving").add_(model.training)


def fit(folder: str, rate: float, *callbacks: Callback, root: Path) -> tuple[SequenceClassifier, Trainer]:
    torch.manual_seed(0)
    module = SequenceClassifier(folder, optimizer=partial(torch.optim.SGD, lr=rate))
    with torch.no_grad():  # so that the loss depends on the positions
        module.model.bert.embeddings.position_embeddings.weight.mul_(100)
        module.model.classifier.weight.mul_(100)
    module.model.register_buffer("counts", torch.arange(5))
    module.model.register_buffer("moving", torch.zeros(()))
    module.model.register_buffer("computed", torch.full((100,), 0.3) ** torch.arange(100), persistent=False)
    module.model.register_forward_pre_hook(count)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
        callbacks=list(callbacks),
    )
    trainer.fit(module, TinyData())
    return module, trainer


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_constants_are_taken_over_and_statistics_averaged(average: Any, tiny: str, tmp_path: Path) -> None:
    plain, _ = fit(tiny, 0.1, root=tmp_path)
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=7, save_top_k=-1)
    module, _ = fit(tiny, 0.1, average(), saves, root=tmp_path)
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
    _, plain = fit(tiny, 0.0, root=tmp_path)
    _, averaged = fit(tiny, 0.0, average(), root=tmp_path)
    assert float(averaged.callback_metrics["val/loss"]) == pytest.approx(
        float(plain.callback_metrics["val/loss"]), rel=1e-5
    )


def test_an_average_that_lightning_keeps_elsewhere_is_told(tiny: str, tmp_path: Path) -> None:
    class Elsewhere(EMAWeightAveraging):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            pass

    with pytest.raises(RuntimeError, match="Elsewhere of this Lightning has no AveragedModel in _average_model"):
        fit(tiny, 0.1, Elsewhere(), root=tmp_path)
