"""Schedules that a module makes itself or that fit the run: when they advance, and from where in a resumed run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_modules import (
    LinearWithWarmup,
    ModelError,
    Schedule,
    Triangular,
)
from tests.lightning_modules.regression import Regression, data, fit
from tests.quiet_trainer import quiet_trainer


class OwnSchedule(Regression):
    """Makes its optimizer and its schedule itself, as any LightningModule may."""

    interval = "epoch"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}


@pytest.mark.parametrize(("interval", "rate"), [("epoch", 1e-2), ("step", 1e-6)])
def test_a_schedule_of_a_modules_own_advances_when_it_says(interval: str, rate: float, tmp_path: Path) -> None:
    module = OwnSchedule()
    module.interval = interval
    trainer = fit(module, data(8), tmp_path)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(rate)


class OwnFrequency(OwnSchedule):
    """Has a schedule that advances every so many steps or epochs."""

    frequency = 2

    def configure_optimizers(self) -> Any:
        made = OwnSchedule.configure_optimizers(self)
        made["lr_scheduler"]["frequency"] = self.frequency
        return made


class Automatic(LightningModule):
    """The same, trained by Lightning itself."""

    configure_optimizers = OwnFrequency.configure_optimizers

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.layer(batch[0]).squeeze(-1), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class Rates(Callback):
    """Keeps the learning rate before each batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("frequency", [2, 3])
def test_a_schedules_frequency_is_that_of_automatic_optimization(interval: str, frequency: int, tmp_path: Path) -> None:
    seen = []
    for module in (OwnFrequency(), Automatic()):
        rates = Rates()
        module.interval, module.frequency = interval, frequency
        fit(module, data(5), tmp_path, max_epochs=7, callbacks=[rates])  # 5 batches an epoch
        seen.append(rates.seen)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 2


def test_a_plateau_by_steps_is_refused(tmp_path: Path) -> None:
    class ByPlateau(OwnSchedule):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 3}}

    with pytest.raises(ModelError, match=r"ReduceLROnPlateau with interval step and frequency 3: it advances"):
        fit(ByPlateau(), data(8), tmp_path)


@pytest.mark.parametrize("place", ["in the schedule", "beside it", "in lists"])
@pytest.mark.parametrize(("mode", "rate"), [("max", 0.5), ("min", 1.0)])
def test_a_plateau_watches_what_configure_optimizers_names(
    place: str, mode: Any, rate: float, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Lightning drops it under manual optimization; `val/loss` falls meanwhile."""

    class OfScore(OwnSchedule):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, patience=1, factor=0.5)
            monitor = {"monitor": "val/own"}
            if place == "in lists":
                return [optimizer], [{"scheduler": schedule, **monitor}]
            if place == "in the schedule":
                return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, **monitor}}
            return {"optimizer": optimizer, "lr_scheduler": schedule, **monitor}

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx, dataloader_idx)
            self.log("val/own", 1.0 - 0.1 * self.current_epoch)

    trainer = fit(OfScore(), data(8), tmp_path, max_epochs=3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == rate
    assert not [each for each in recwarn if "keys will be ignored" in str(each.message)]


def test_a_plateau_of_a_score_without_a_monitor_is_refused(tmp_path: Path) -> None:
    class OfScore(OwnSchedule):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    with pytest.raises(ModelError, match=r"ReduceLROnPlateau with mode max watches val/loss, .* lr_scheduler"):
        fit(OfScore(), data(8), tmp_path)


class SavesInTheEnd(Callback):
    """Saves at the end of an epoch, before the module's own hook, by which a schedule advances."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def rates_of_epochs(epochs: int, folder: Path, *savers: Callback, ckpt_path: Path | None = None) -> list[float]:
    rates = Rates()
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    trainer = Trainer(default_root_dir=folder, max_epochs=epochs, callbacks=[rates, *savers], **options)
    trainer.fit(OwnFrequency(), data(8), data(7), ckpt_path=ckpt_path)
    return rates.seen


@pytest.fixture(scope="module")
def rates_without_a_break(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    torch.manual_seed(0)
    return rates_of_epochs(6, tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize("before_the_schedule", [False, True])
@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_a_schedules_frequency_counts_the_epochs_before_a_checkpoint(
    epochs: int, before_the_schedule: bool, tmp_path: Path, rates_without_a_break: list[float]
) -> None:
    saved = tmp_path / "saved.ckpt"
    saver = ModelCheckpoint(tmp_path, "saved", save_on_train_epoch_end=False)
    rates_of_epochs(epochs, tmp_path, SavesInTheEnd(saved) if before_the_schedule else saver)
    resumed = rates_of_epochs(6, tmp_path / "resumed", ckpt_path=saved)
    assert resumed == rates_without_a_break[3 * epochs :]


class Halving:
    """A schedule as other packages have them: no subclass of torch's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] /= 2

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class StepsOnItsOwn(Regression):
    """Advances its schedule by Lightning's hook, which modules with others' schedules define."""

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        for _ in range(2):
            scheduler.step()


@pytest.mark.parametrize(("kind", "factor"), [(Regression, 1 / 8), (StepsOnItsOwn, 1 / 64)])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_schedule_that_is_not_torchs_advances_as_its_module_says(
    kind: type[Regression], factor: float, epochs: int, tmp_path: Path
) -> None:
    schedule = Schedule(Halving, "epoch" if epochs == 3 else "step")  # type: ignore[arg-type]
    module = kind(optimizer=partial(torch.optim.SGD, lr=1.0), lr_scheduler=schedule)
    trainer = fit(module, data(8), tmp_path, max_epochs=epochs)  # 3 batches an epoch
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(factor)


class TwoSchedules(Regression):
    """Has two schedules for one optimizer, as any LightningModule may."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=gamma), "interval": interval}
            for gamma, interval in ((0.1, "step"), (0.5, "epoch"))
        ]


def test_several_schedules_of_a_modules_own_all_advance(tmp_path: Path) -> None:
    trainer = fit(TwoSchedules(), data(8), tmp_path, max_epochs=1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5e-3)


SCHEDULES: dict[str, Any] = {
    "triangular": Triangular,
    "cosine annealing": torch.optim.lr_scheduler.CosineAnnealingLR,
    "linear": partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.1, total_iters=None),
    "one cycle": partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.05),
    "warm-up": LinearWithWarmup,
}


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_that_is_resumed_for_longer_follows_its_own_length(name: str, interval: Any, tmp_path: Path) -> None:
    def module() -> Regression:
        sgd = partial(torch.optim.SGD, lr=0.05)
        return Regression(optimizer=sgd, lr_scheduler=Schedule(SCHEDULES[name], interval))

    straight, resumed = Rates(), Rates()
    fit(module(), data(8), tmp_path, max_epochs=4, callbacks=[straight])
    first = fit(module(), data(8), tmp_path, max_epochs=2)
    first.save_checkpoint(tmp_path / "half.ckpt")
    trainer = quiet_trainer(max_epochs=4, default_root_dir=tmp_path, callbacks=[resumed])
    trainer.fit(module(), data(8), data(7), ckpt_path=tmp_path / "half.ckpt")
    assert resumed.seen == pytest.approx(straight.seen[len(straight.seen) // 2 :])
