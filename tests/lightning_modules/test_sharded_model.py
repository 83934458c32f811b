"""FSDP2 through Lightning's ModelParallelStrategy on two ranks (gloo, CPU): training, evaluation, checkpoints."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from peft import LoraConfig
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from callbacks import AtomicCheckpointIO
from lightning_modules import ClosureModule, GradientClip, SequenceClassifier
from lightning_modules.models.sharded_model import sharded_modules
from optimizers import GLD, AdamWL2SP, MeZO, ParabolicAdam, ParamGroups, SaLSA
from optimizers.shards import is_sharded
from tests.quiet_trainer import quiet_trainer
from tests.ranks import on_ranks, set_variables
from tests.tiny_models import rows, save_tiny_bert

pytestmark = pytest.mark.distributed


class Recorded(SequenceClassifier):
    """Keeps the losses of its steps."""

    def on_train_start(self) -> None:
        super().on_train_start()
        self.losses: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        if "train/loss" in self.trainer.callback_metrics:  # the first batch of an accumulated step has none
            self.losses.append(float(self.trainer.callback_metrics["train/loss"]))


def trainer_on(ranks: int, folder: Path, **options: Any) -> Trainer:
    strategy = ModelParallelStrategy(data_parallel_size=ranks, tensor_parallel_size=1, process_group_backend="gloo")
    return quiet_trainer(
        devices=ranks,
        strategy=strategy if ranks > 1 else "auto",
        enable_checkpointing=bool(options.get("callbacks")),
        max_epochs=2,
        default_root_dir=folder,
        use_distributed_sampler=False,
        **options,
    )


def loader(count: int, batch_size: int, ranks: int) -> DataLoader:
    examples = rows(count)
    sampler = None
    if ranks > 1:
        sampler = DistributedSampler(examples, ranks, int(os.environ["RANK"]), shuffle=False)
    return DataLoader(examples, batch_size=batch_size // ranks, sampler=sampler)


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw, clipped": {"optimizer": partial(torch.optim.AdamW, lr=1e-3), "gradient_clip": GradientClip(0.1)},
    "parabolic adam": {"optimizer": ParabolicAdam, "accumulate_grad_batches": 2},
    "salsa per layer": {
        "optimizer": partial(SaLSA, update_rule="all", joint_steps=1),
        "param_groups": ParamGroups(units="layer"),
    },
    "l2-sp": {"optimizer": partial(AdamWL2SP, lr=1e-3, anchor_decay=0.1)},
    "gld of the head": {"optimizer": partial(GLD, radius=0.05, num_radii=2), "trainable": "head"},
    "mezo": {"optimizer": partial(MeZO, lr=1e-4)},
    "lora": {"optimizer": ParabolicAdam, "adapter": LoraConfig(r=2, target_modules=["query"])},
}
RESUMED = ("adamw, clipped", "parabolic adam", "salsa per layer", "l2-sp", "mezo", "lora")


def module_of(name: str, folder: Path) -> Recorded:
    torch.manual_seed(0)
    return Recorded(str(folder / "m"), **OPTIMIZERS[name])


def fit(name: str, folder: Path, ranks: int) -> tuple[list[float], dict[str, float]]:
    saved = (
        [ModelCheckpoint(folder / name, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)] if ranks > 1 else []
    )
    module, trainer = module_of(name, folder), trainer_on(ranks, folder, callbacks=saved)
    trainer.fit(module, loader(32, 8, ranks), loader(17, 4, ranks))
    assert ranks == 1 or all(is_sharded(parameter) for parameter in module.model.parameters())
    return module.losses, {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val")}


def train_sharded(rank: int, folder: Path) -> dict[str, Any]:
    results = {}
    for name in OPTIMIZERS:
        set_variables()
        losses, scores = fit(name, folder, 2)
        results[name] = losses, scores
        if name in RESUMED:
            set_variables()
            again = module_of(name, folder)
            trainer_on(2, folder).fit(again, loader(32, 8, 2), ckpt_path=str(folder / name / "epoch=0.ckpt"))
            assert len(again.losses) >= 3, name
            assert again.losses == losses[-len(again.losses) :], name
    return results


def test_two_ranks_with_sharded_parameters_train_as_one(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path / "m", dropout=0.0)
    first, second = on_ranks(train_sharded, tmp_path)
    assert first == second
    for name in OPTIMIZERS:
        losses, scores = fit(name, tmp_path, 1)
        assert first[name][0] == pytest.approx(losses, rel=1e-3), name
        # 17 examples on two ranks in batches of 2: the second has a batch less than the first.
        assert first[name][1] == pytest.approx(scores, rel=1e-3), name
        if name in RESUMED:
            again = module_of(name, tmp_path)
            one = trainer_on(1, tmp_path, plugins=[AtomicCheckpointIO()])
            one.fit(again, loader(32, 8, 1), ckpt_path=str(tmp_path / name / "epoch=0.ckpt"))
            assert len(again.losses) >= 3, name
            assert again.losses == pytest.approx(losses[-len(again.losses) :], rel=1e-3), name


class OwnModule(ClosureModule):
    """A user's own module, with no layers that could be named."""

    def __init__(self) -> None:
        super().__init__(optimizer=SaLSA)
        self.layers = nn.ModuleList([nn.Linear(6, 5), nn.Linear(5, 2)])

    def compute_loss(self, batch: Any) -> torch.Tensor:
        hidden = batch["input_ids"].float() / 64
        for layer in self.layers:
            hidden = layer(hidden)
        return nn.functional.cross_entropy(hidden, batch["labels"])


def train_own(rank: int, folder: Path) -> None:
    module = OwnModule()
    trainer_on(2, folder).fit(module, loader(32, 16, 2))
    assert len(sharded_modules(module)) == 2


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    on_ranks(train_own, tmp_path)
