"""PretrainedInterpolation: the weights that it keeps lie on the line, are the best of it, and are what a run leaves."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from callbacks import PretrainedInterpolation
from lightning_modules import ClosureModule, ModelError, SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert

ADAMW = partial(torch.optim.AdamW, lr=2e-2)


class Noisy(TinyData):
    """Tiny data whose training labels are partly wrong, so that training goes too far."""

    def train_dataloader(self) -> DataLoader:
        wrong = [
            row | {"labels": 1 - row["labels"] if i % 3 == 0 else row["labels"]} for i, row in enumerate(self.examples)
        ]
        return DataLoader(wrong, batch_size=8)


def fit(
    module: Any, root: Path, *callbacks: Callback, data: Any = None, resume: str | None = None, **options: Any
) -> Trainer:
    settings = {"default_root_dir": root, "callbacks": list(callbacks), "enable_checkpointing": True, "max_epochs": 6}
    trainer = quiet_trainer(**settings | options)
    trainer.fit(module, Noisy() if data is None else data, ckpt_path=resume)
    return trainer


def test_the_kept_weights_lie_on_the_line_and_are_the_best_checkpoint(tmp_path: Path) -> None:
    start = str(save_tiny_bert(tmp_path / "start"))
    module = SequenceClassifier(start, optimizer=ADAMW)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    saver, search = ModelCheckpoint(tmp_path / "ck", monitor="val/loss", filename="best"), PretrainedInterpolation()
    trainer = fit(module, tmp_path, search, saver)
    trained = torch.load(tmp_path / "ck" / "best.ckpt", weights_only=True)["state_dict"]
    assert search.kept
    alpha = search.alphas["model"]
    assert 0 <= alpha < 1
    kept = torch.load(saver.best_model_path, weights_only=True)
    assert saver.best_model_path.endswith("best-interpolated.ckpt")
    for name, value in kept["state_dict"].items():
        assert torch.allclose(value, before[name] + alpha * (trained[name] - before[name]), atol=1e-6)
    assert float(trainer.callback_metrics["interpolation/alpha"]) == pytest.approx(alpha)
    tested = trainer.validate(module, Noisy(), ckpt_path="best", verbose=False)[0]
    assert tested["val/loss"] == pytest.approx(search.figures["loss"], abs=1e-5)
    assert search.figures["loss"] < search.figures["loss_as_trained"]
    with pytest.raises(ModelError, match="fit cannot go on from it"):
        fit(SequenceClassifier(start, optimizer=ADAMW), tmp_path, resume=saver.best_model_path)


class AsTrained(Callback):
    """Keeps the weights at the end of training."""

    def __init__(self) -> None:
        self.weights: dict[str, Any] = {}

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}


def test_a_lora_is_scaled(tmp_path: Path) -> None:
    start = str(save_tiny_bert(tmp_path / "start"))
    lora = peft.LoraConfig(r=2, target_modules="all-linear")
    module, search, watch = (
        SequenceClassifier(start, adapter=lora, optimizer=ADAMW),
        PretrainedInterpolation(),
        AsTrained(),
    )
    fit(module, tmp_path, search, watch, enable_checkpointing=False)
    assert search.kept
    before = SequenceClassifier(start, adapter=lora).state_dict()  # the head has come with the model
    alpha = search.alphas["model"]
    for name, value in module.state_dict().items():
        first = watch.weights[name] if ".lora_A." in name else before[name]
        assert torch.allclose(value, first + alpha * (watch.weights[name] - first), atol=1e-6)


class Plain(ClosureModule):
    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        self.layer = nn.Linear(6, 2)

    def compute_loss(self, batch: Any) -> Any:
        return nn.functional.cross_entropy(self.layer(batch["input_ids"] / 32 - 1), batch["labels"])


def test_start_weights_that_do_not_fit_on_the_disk_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_half(weights: Any, file: Path) -> None:
        file.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(OSError, match="No space left"):
        fit(Plain(optimizer=torch.optim.AdamW), tmp_path, PretrainedInterpolation(), enable_checkpointing=False)
    assert not list(tmp_path.iterdir())


def test_a_module_of_ones_own_goes_back_towards_the_start_of_the_fit(tmp_path: Path) -> None:
    module, search = Plain(optimizer=partial(torch.optim.AdamW, lr=1.0)), PretrainedInterpolation()
    fit(module, tmp_path, search, enable_checkpointing=False)
    first = (tmp_path / "start_weights.pt").read_bytes()
    assert search.figures["loss"] <= search.figures["loss_as_trained"]
    # Without a logger another run has the same folder; this one can still be gone on with.
    other = PretrainedInterpolation()
    fit(Plain(optimizer=partial(torch.optim.AdamW, lr=1.0)), tmp_path, other, enable_checkpointing=False)
    assert (tmp_path / "start_weights.pt").read_bytes() == first
    assert other.state_dict()["start_file"] == str(tmp_path / "start_weights-v1.pt")


def test_a_run_that_goes_on_does_not_go_back_to_where_another_one_started(tmp_path: Path) -> None:
    search, saver = PretrainedInterpolation(), ModelCheckpoint(tmp_path / "second", filename="one")
    fit(Plain(optimizer=ADAMW), tmp_path / "first", search, enable_checkpointing=False, max_epochs=1)
    fit(Plain(optimizer=ADAMW), tmp_path / "second", saver, max_epochs=1)
    with pytest.raises(MisconfigurationException, match=r"goes on has no start_weights\.pt with the weights that it"):
        fit(Plain(optimizer=ADAMW), tmp_path, search, resume=saver.best_model_path, enable_checkpointing=False)


class WithState(Plain):
    """Keeps something beside tensors in its `state_dict`."""

    def get_extra_state(self) -> Any:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 1}


def test_what_is_no_tensor_in_a_state_stays_out_of_the_line(tmp_path: Path) -> None:
    search, saver = PretrainedInterpolation(), ModelCheckpoint(tmp_path, monitor="val/loss")
    fit(WithState(optimizer=ADAMW), tmp_path, search, saver)
    assert search.alphas
    assert torch.load(saver.best_model_path, weights_only=True)["state_dict"]["_extra_state"] == {"version": 1}


class Sized(Plain):
    """Logs the size of its weights, which falls on the way back to the start."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("val/size", self.layer.weight.norm())


@pytest.mark.parametrize(("mode", "kept"), [("max", False), ("min", True)])
def test_weights_with_a_worse_monitored_metric_are_not_kept(tmp_path: Path, mode: Any, kept: bool) -> None:
    module = Sized(optimizer=partial(torch.optim.AdamW, lr=1.0))
    watch = AsTrained()
    search = PretrainedInterpolation(monitor="val/size", mode=mode)
    fit(module, tmp_path, search, watch, enable_checkpointing=False)
    assert search.kept == kept
    assert all(torch.equal(value, watch.weights[name]) for name, value in module.state_dict().items()) != kept
    assert search.figures["validation_passes"] > 1


class OneWeight(LightningModule):
    """Trains its weight from 0 to 1; its loss is lowest halfway, where it gets `lost` rows of 250 wrong."""

    main_metric, main_metric_mode = "val/accuracy", "max"

    def __init__(self, lost: int, gained: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.lost, self.gained = lost, gained

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return -self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        rows, is_trained = torch.arange(250), float(self.weight) > 0.9
        wrong = (rows >= 250 - self.gained) if is_trained else rows < self.lost
        return {"outputs": torch.stack([wrong.float(), self.weight.expand(250)], dim=1), "labels": torch.zeros(250)}

    def score_rows(self, outputs: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        return {
            "loss": float((outputs[:, 1].mean() - 0.5) ** 2),
            "accuracy": float((outputs[:, 0] == labels).double().mean()),
        }


@pytest.mark.parametrize(
    ("lost", "gained", "monitor", "alpha"),
    [
        (1, 0, None, 0.5),  # a difference of one standard error
        (2, 0, None, 1),  # 2 texts, with a standard error of 1.4
        (3, 1, None, 0.5),  # 2 texts, with a standard error of 2
        (25, 1, None, 1),
        (25, 0, "val/loss", 0.5),
    ],
)
def test_a_metric_may_be_worse_by_one_standard_error(
    tmp_path: Path, lost: int, gained: int, monitor: str | None, alpha: float
) -> None:
    search = PretrainedInterpolation(monitor=monitor)
    rows = DataLoader(torch.zeros(1, 1))
    trainer = quiet_trainer(max_epochs=1, callbacks=[search], default_root_dir=tmp_path)
    module = OneWeight(lost, gained)
    trainer.fit(module, rows, rows)
    assert float(module.weight.detach()) == pytest.approx(alpha, abs=0.02)
    assert search.figures["accuracy_as_trained"] == 1 - gained / 250


def test_what_does_not_go_is_one_line(tmp_path: Path) -> None:
    start = str(save_tiny_bert(tmp_path / "start"))
    with pytest.raises(MisconfigurationException, match="no validation data"):
        fit(SequenceClassifier(start, optimizer=ADAMW), tmp_path, PretrainedInterpolation(), limit_val_batches=0)
    with pytest.raises(MisconfigurationException, match="pretrained value to go back to"):
        fit(SequenceClassifier(start, pretrained=False, optimizer=ADAMW), tmp_path, PretrainedInterpolation())
    with pytest.raises(MisconfigurationException, match="judge_fraction: 1 is not allowed"):
        PretrainedInterpolation(judge_fraction=1)


@pytest.mark.parametrize("num_labels", [1, 2])
def test_half_of_the_rows_judges(tmp_path: Path, num_labels: int) -> None:
    start = str(save_tiny_bert(tmp_path / "start", num_labels))
    search = PretrainedInterpolation(judge_fraction=0.5, per_layer=True)
    data = TinyData(num_labels=num_labels, eval_sets=2)
    module = SequenceClassifier(start, num_labels, eval_set_names=("", "other"), optimizer=ADAMW)
    fit(module, tmp_path, search, data=data, enable_checkpointing=False)
    assert ("loss_calibrated" in search.figures) == (num_labels == 2)
    assert "alpha/layer.0" in search.figures or not search.kept


class Told(PretrainedInterpolation):
    """Writes what each rank found."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        weights = pl_module.state_dict()
        torch.save((self.alphas, weights), Path(trainer.default_root_dir) / f"rank{trainer.global_rank}.pt")


@pytest.mark.distributed
def test_ranks_keep_the_same_weights(tmp_path: Path) -> None:
    start = str(save_tiny_bert(tmp_path / "start"))
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    saver = ModelCheckpoint(tmp_path / "ck", monitor="val/loss", filename="best")
    module = SequenceClassifier(start, optimizer=ADAMW)
    fit(module, tmp_path, Told(), saver, data=Noisy(31), strategy=strategy, devices=2)
    (alphas, one), (others, two) = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert alphas == others
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (tmp_path / "ck" / "best-interpolated.ckpt").is_file() == (alphas["model"] < 1)
