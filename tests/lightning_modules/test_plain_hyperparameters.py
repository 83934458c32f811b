"""Modules that keep their arguments by save_hyperparameters(), as Lightning's users do."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import ClosureModule, GradientClip, ModelError
from optimizers import ParamGroups, SaLSA
from tests.quiet_trainer import quiet_trainer


class Line(ClosureModule):
    """A line through points, which keeps all of its arguments."""

    def __init__(self, width: int = 2, activation: Any = nn.Identity, names: tuple[str, ...] = (), **training: Any):
        super().__init__(**training)
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(width, 1), activation())

    def compute_loss(self, batch: Any) -> Tensor:
        inputs, targets = batch
        return ((self.layers(inputs) - targets) ** 2).mean()


class Points(LightningDataModule):
    """Points on a line, which keep the function that makes a batch."""

    def __init__(self, collate: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> DataLoader[Any]:
        inputs = torch.arange(16.0).view(8, 2) / 16
        return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), 4)


def trained(module: LightningModule, folder: Path, data: Any, epochs: int = 1, **options: Any) -> Path:
    trainer = quiet_trainer(default_root_dir=str(folder), max_epochs=epochs)
    trainer.fit(module, datamodule=data, **options)
    assert trainer.current_epoch == epochs
    path = folder / f"{epochs}.ckpt"
    trainer.save_checkpoint(path)
    return path


OPTIONS: dict[str, Any] = {
    "optimizer": partial(SGD, lr=0.1),
    "param_groups": ParamGroups(),
    "gradient_clip": GradientClip(1.0),
}


def test_a_run_goes_on_from_a_checkpoint_of_a_module_that_keeps_classes(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="checkpoints are saved without activation of hyper_parameters"):
        path = trained(Line(names=("a", "b"), **OPTIONS), tmp_path, Points())
    kept = torch.load(path, weights_only=True)["hyper_parameters"]
    assert kept["width"] == 2
    assert kept["names"] == ("a", "b")
    assert not OPTIONS.keys() & kept.keys()
    assert Line(**OPTIONS).hparams.keys() > OPTIONS.keys(), "in the module and for loggers they stay"
    trained(Line(**OPTIONS), tmp_path, Points(), epochs=2, ckpt_path=path)
    loaded = Line.load_from_checkpoint(path, optimizer=SaLSA)
    assert loaded.hparams["optimizer"] is SaLSA
    assert loaded.hparams["names"] == ("a", "b")


def test_arguments_that_no_checkpoint_holds_may_be_given_again(tmp_path: Path) -> None:
    path = trained(Line(activation=nn.Tanh), tmp_path, Points())
    assert isinstance(Line.load_from_checkpoint(path, activation=nn.Tanh).layers[1], nn.Tanh)


def test_a_datamodules_functions_do_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="without collate of datamodule_hyper_parameters"):
        path = trained(Line(), tmp_path, Points(collate=trained))
    trained(Line(), tmp_path, Points(), epochs=2, ckpt_path=path)


def test_a_class_in_a_file_of_another_program_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.6", "kept": Line}, path)
    with pytest.raises(
        ModelError, match=r"weights_only=True: it holds \S+\.Line; weights_only=False loads it"
    ) as refused:
        Line.load_from_checkpoint(path)
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value.__cause__, pickle.UnpicklingError)
