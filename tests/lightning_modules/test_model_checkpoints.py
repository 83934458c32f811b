"""Lightning's ModelCheckpoint under manual optimization, and after a resume into another folder."""

from __future__ import annotations

import math
import time
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers, sampled_from
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules import ClosureModule
from lightning_modules.checkpoints import model_checkpoints as tested
from tests.quiet_trainer import quiet_trainer

BATCHES = 5


class Small(ClosureModule):
    """A linear regression whose validation losses may be given."""

    def __init__(self, losses: list[float] | None = None) -> None:
        super().__init__()
        self.layer, self.losses = nn.Linear(4, 1), losses or []
        # Names that ModelCheckpoint takes for its own under manual optimization.
        self.saved_models = {0: {name: torch.zeros_like(value) for name, value in self.layer.state_dict().items()}}

    def compute_loss(self, batch: Tensor) -> Tensor:
        return (self.layer(batch) - batch.sum(1, keepdim=True)).square().mean()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        if self.losses:
            self.log("val/given", self.losses[self.current_epoch])


class Slow(Callback):
    """A tenth of a second per batch."""

    def on_train_batch_start(self, *_: object) -> None:
        time.sleep(0.1)


def rows(batches: int = BATCHES) -> DataLoader:
    return DataLoader(torch.randn(8 * batches, 4, generator=torch.Generator().manual_seed(1)), batch_size=8)


def fit(
    folder: Path, *callbacks: Callback, module: ClosureModule | None = None, epochs: int = 2, resume: str | None = None
) -> Trainer:
    trainer = quiet_trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_checkpointing=True,
    )
    trainer.fit(module or Small(), rows(), rows(1), ckpt_path=resume)
    return trainer


def steps(folder: Path) -> list[int]:
    return sorted(torch.load(file, weights_only=True)["global_step"] for file in folder.rglob("*.ckpt"))


def test_checkpoints_by_time(tmp_path: Path) -> None:
    saver = ModelCheckpoint(train_time_interval=timedelta(seconds=0.25), save_top_k=-1)
    fit(tmp_path, saver, Slow())
    assert len(steps(tmp_path)) >= 2


def test_checkpoints_by_time_wait_for_their_monitor(tmp_path: Path) -> None:
    saver = ModelCheckpoint(train_time_interval=timedelta(seconds=0.15), save_top_k=-1, monitor="val/loss")
    fit(tmp_path, saver, Slow())
    assert steps(tmp_path)[0] == BATCHES
    assert len(steps(tmp_path)) >= 3


def test_a_save_by_step_that_waits_for_its_monitor_is_made_at_the_first_validation(tmp_path: Path) -> None:
    fit(tmp_path, ModelCheckpoint(every_n_train_steps=3, save_top_k=-1, monitor="val/loss"))
    assert steps(tmp_path) == [5, 6, 9, 10]


def test_a_save_in_an_epochs_last_step_has_the_score_of_its_own_validation(tmp_path: Path) -> None:
    saver = ModelCheckpoint(every_n_train_steps=5, save_top_k=-1, monitor="val/given")
    fit(tmp_path, saver, module=Small([3.0, 2.0, 1.0]), epochs=3)
    assert sorted(map(float, saver.best_k_models.values())) == [1.0, 2.0, 3.0]


class Scored(Small):
    """Small, with a given score at each step."""

    def __init__(self, scores: dict[int, float]) -> None:
        super().__init__()
        self.scores = scores

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/given", self.scores[self.global_step])


@pytest.mark.parametrize("by_steps_of_the_run", [True, False])
def test_a_save_right_before_a_validation_within_an_epoch_has_its_score(
    tmp_path: Path, by_steps_of_the_run: bool
) -> None:
    scores = {2: 0.5, 4: 0.1, 6: 0.6, 8: 0.7}
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, monitor="val/given", filename="{step}")
    trainer = quiet_trainer(
        max_epochs=2,
        callbacks=[saver],
        num_sanity_val_steps=0,
        enable_checkpointing=True,
        val_check_interval=2,
        check_val_every_n_epoch=None if by_steps_of_the_run else 1,
    )
    trainer.fit(Scored(scores), rows(4), rows(1))
    assert {Path(path).stem: float(score) for path, score in saver.best_k_models.items()} == {
        f"step={step}": pytest.approx(score) for step, score in scores.items()
    }
    assert Path(saver.best_model_path).stem == "step=4"


def saves_by_step(
    folder: Path, every: int, validated_every: int, steps: int, top: int = 1, resume: str | None = None, **options: Any
) -> ModelCheckpoint:
    """Fit steps with validations, the score of step N being N tenths, or less by one where N is odd."""
    saver = ModelCheckpoint(
        folder,
        every_n_train_steps=every,
        save_top_k=top,
        monitor="val/given",
        filename="{step}-{val/given:.1f}",
        auto_insert_metric_name=False,
        **options,
    )
    trainer = quiet_trainer(
        max_steps=steps,
        callbacks=[saver],
        num_sanity_val_steps=0,
        enable_checkpointing=True,
        val_check_interval=validated_every,
        check_val_every_n_epoch=None,
    )
    trainer.fit(Scored({step: step / 10 for step in range(steps + 1)}), rows(5), rows(1), ckpt_path=resume)
    return saver


def saved_scores(saver: ModelCheckpoint) -> dict[int, float]:
    """The scores that a ModelCheckpoint has, by the steps of the weights in its files."""
    loaded = {path: torch.load(path, weights_only=True)["global_step"] for path in saver.best_k_models}
    return {loaded[path]: round(float(score), 4) for path, score in saver.best_k_models.items()}


@given(
    every=integers(1, 7),
    validated_every=integers(1, 7),
    steps=integers(8, 20),
    top=sampled_from([-1, 1, 2, 3]),
    mode=sampled_from(["min", "max"]),
)
@settings(max_examples=30)
def test_a_score_is_that_of_the_weights_that_are_saved(
    every: int, validated_every: int, steps: int, top: int, mode: str
) -> None:
    with TemporaryDirectory() as folder:
        saver = saves_by_step(Path(folder), every, validated_every, steps, top, mode=mode, save_last=True)
        found = saved_scores(saver)
        measured = {step: score for step, score in found.items() if math.isfinite(score)}
        assert measured == {step: step / 10 for step in measured}
        names = {path: Path(path).stem for path in saver.best_k_models}
        expected = {path: f"{step}-{measured.get(step, math.nan):.1f}" for path, step in zip(names, found, strict=True)}
        assert names == expected
        # Each validation after a save was due is kept, as far as there is room.
        due = [
            at
            for at in range(validated_every, steps + 1, validated_every)
            if at // every > (at - validated_every) // every
        ]
        best = sorted(due, reverse=mode == "max")[: None if top == -1 else top]
        assert sorted(measured) == sorted(best)
        if best:
            assert float(saver.best_model_score) == pytest.approx(best[0] / 10)
            assert torch.load(saver.best_model_path, weights_only=True)["global_step"] == best[0]


def test_every_checkpoint_is_kept_and_those_between_validations_have_no_score(tmp_path: Path) -> None:
    saver = saves_by_step(tmp_path, every=3, validated_every=4, steps=13, top=-1)
    assert sorted(file.stem for file in tmp_path.glob("*.ckpt")) == sorted(
        ["4-0.4", "6-nan", "8-0.8", "9-nan", "12-1.2"]
    )
    assert Path(saver.best_model_path).stem == "4-0.4"


def test_the_last_checkpoint_does_not_wait_for_a_validation(tmp_path: Path) -> None:
    saver = saves_by_step(tmp_path, every=3, validated_every=5, steps=9, save_last=True)
    assert {file.stem for file in tmp_path.glob("*.ckpt")} == {"5-0.5", "last"}
    assert torch.load(saver.last_model_path, weights_only=True)["global_step"] == 9


def test_a_save_that_waits_is_made_in_a_run_that_goes_on(tmp_path: Path) -> None:
    """The values of a validation before the interruption are of no weights of the run that goes on."""
    saves_by_step(tmp_path, every=3, validated_every=5, steps=9, top=2, save_last=True)
    saver = saves_by_step(
        tmp_path, every=3, validated_every=5, steps=11, top=2, save_last=True, resume=str(tmp_path / "last.ckpt")
    )
    assert saved_scores(saver) == {5: 0.5, 10: 1.0}


def test_a_checkpoint_at_the_end_of_an_epoch_without_a_validation_waits_for_one(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, monitor="val/given", save_top_k=2, save_on_train_epoch_end=True)
    trainer = quiet_trainer(
        max_epochs=4, callbacks=[saver], num_sanity_val_steps=0, enable_checkpointing=True, val_check_interval=3
    )
    trainer.fit(Scored({3: 0.3, 8: 0.8, 13: 0.1, 18: 0.9}), rows(5), rows(1))
    assert saved_scores(saver) == {8: 0.8, 13: 0.1}


def test_a_metric_of_the_training_is_that_of_its_step(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=3, monitor="train/loss", save_top_k=-1)
    fit(tmp_path, saver)
    assert set(saved_scores(saver)) == {3, 6, 9}
    assert all(map(math.isfinite, saved_scores(saver).values()))


@pytest.mark.parametrize("validated", [True, False])
def test_checkpoints_by_step_hold_the_weights_of_their_step(tmp_path: Path, validated: bool) -> None:
    module = Small()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*pre-optimization state.*")
        saver = ModelCheckpoint(every_n_train_steps=2, save_top_k=-1)
        options = {"enable_checkpointing": True, "limit_val_batches": 1.0 if validated else 0}
        trainer = quiet_trainer(max_epochs=2, callbacks=[saver], default_root_dir=tmp_path, **options)
        trainer.fit(module, rows(), rows(1))
    assert steps(tmp_path) == [2, 4, 6, 8, 10]
    last = torch.load(saver.best_model_path, weights_only=True)["state_dict"]
    assert torch.equal(last["layer.weight"], module.layer.weight)


# Faults of Lightning that are mended. Where one of these fails, Lightning has mended it itself.


def as_under_automatic_optimization(trainer: Trainer, *_: object) -> None:
    """Let Lightning's ModelCheckpoint save by step as it does by itself where a module does not step its optimizer."""
    module: Any = SimpleNamespace(automatic_optimization=True)

    def save(callback: Callback, trainer: Trainer, _: object, *rest: Any) -> None:
        type(callback).on_train_batch_end(callback, trainer, module, *rest)

    for callback in trainer.checkpoint_callbacks:
        callback.on_train_batch_end = partial(save, callback)  # type: ignore[method-assign]


def test_lightning_still_ignores_the_time_under_manual_optimization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.closure_module.save_with_own_scores", lambda *_: None)
    fit(tmp_path, ModelCheckpoint(train_time_interval=timedelta(seconds=0.25), save_top_k=-1), Slow())
    assert not steps(tmp_path), "lightning saves by time under manual optimization: see save_with_own_scores"


def test_lightning_still_loses_a_save_that_waits_for_its_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.closure_module.save_with_own_scores", lambda *_: None)
    module = Small()
    del module.saved_models
    fit(tmp_path, ModelCheckpoint(every_n_train_steps=3, save_top_k=-1, monitor="val/loss"), module=module)
    assert steps(tmp_path) == [6, 9], "lightning saves at the first validation: see save_with_own_scores"


def test_lightning_still_saves_with_the_score_of_an_earlier_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.closure_module.save_with_own_scores", as_under_automatic_optimization)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=2, monitor="val/given", filename="{step}")
    trainer = quiet_trainer(
        max_epochs=1, callbacks=[saver], num_sanity_val_steps=0, enable_checkpointing=True, val_check_interval=2
    )
    trainer.fit(Scored({2: 0.5, 4: 0.1, 6: 0.6, 8: 0.7}), rows(8), rows(1))
    assert Path(saver.best_model_path).stem == "step=6", "lightning waits for a validation: see save_with_own_scores"


def test_lightning_still_saves_between_validations_with_the_score_of_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.closure_module.save_with_own_scores", as_under_automatic_optimization)
    saver = saves_by_step(tmp_path, every=3, validated_every=4, steps=8, top=-1)
    assert saved_scores(saver) == {4: 0.4, 6: 0.4}, (
        "lightning gives no score of other weights: see save_with_own_scores"
    )


def test_another_lightning_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "_NOT_PUBLIC", ("_no_such_name",))
    with pytest.raises(RuntimeError, match=r"lightning 2\.\d+.*_no_such_name"):
        fit(tmp_path, ModelCheckpoint())


# Going on in another folder


def resumable(folder: Path) -> tuple[str, str]:
    """The best and the newest checkpoint of a run whose second epoch was worse than its first."""
    best = ModelCheckpoint(monitor="val/given", filename="best")
    newest = ModelCheckpoint(filename="newest")
    fit(folder, best, newest, module=Small([0.1, 0.5]))
    return best.best_model_path, newest.best_model_path


@pytest.mark.parametrize("losses", [(0.3, "old"), (0.05, "new")])
def test_the_best_checkpoint_is_the_best_of_the_whole_run(tmp_path: Path, losses: tuple[float, str]) -> None:
    best, newest = resumable(tmp_path / "old")
    loss, which = losses
    saver = ModelCheckpoint(monitor="val/given", filename="best")
    fit(tmp_path / "new", saver, ModelCheckpoint(), module=Small([0, 0, loss]), epochs=3, resume=newest)
    assert Path(saver.best_model_path).parent == tmp_path / which / "checkpoints"
    assert float(saver.best_model_score) == pytest.approx(min(loss, 0.1))
    assert Path(best).is_file()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("third", [0.05, 0.3, 0.7])
def test_the_best_two_are_those_of_the_whole_run(tmp_path: Path, mode: Literal["min", "max"], third: float) -> None:
    first, second = (ModelCheckpoint(monitor="val/given", mode=mode, save_top_k=2) for _ in range(2))
    newest = ModelCheckpoint(filename="newest")
    fit(tmp_path / "old", first, newest, module=Small([0.1, 0.5]))
    module, resume = Small([0, 0, third]), newest.best_model_path
    fit(tmp_path / "new", second, ModelCheckpoint(), module=module, epochs=3, resume=resume)
    expected = sorted([0.1, 0.5, third], reverse=mode == "max")[:2]
    assert sorted(map(float, second.best_k_models.values()), reverse=mode == "max") == pytest.approx(expected)
    assert float(second.best_model_score) == pytest.approx(expected[0])
    assert torch.load(second.best_model_path, weights_only=True)["epoch"] == [0.1, 0.5, third].index(expected[0])


def test_a_best_checkpoint_that_was_moved_or_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, newest = resumable(tmp_path / "old")
    moved = (tmp_path / "old").rename(tmp_path / "moved") / "checkpoints"
    saver = ModelCheckpoint(monitor="val/given", filename="best")
    at_moved = str(moved / Path(newest).name)
    fit(tmp_path / "new", saver, ModelCheckpoint(), module=Small([0, 0, 0.3]), epochs=3, resume=at_moved)
    assert saver.best_model_path == str(moved / Path(best).name)
    monkeypatch.setenv("HOME", str(tmp_path))
    saver = ModelCheckpoint(monitor="val/given", filename="best")
    in_home = f"~/moved/checkpoints/{Path(newest).name}"
    fit(tmp_path / "third", saver, ModelCheckpoint(), module=Small([0, 0, 0.3]), epochs=3, resume=in_home)
    assert Path(saver.best_model_path).expanduser() == moved / Path(best).name
    (moved / Path(best).name).unlink()
    saver = ModelCheckpoint(monitor="val/given", filename="best")
    fit(tmp_path / "newer", saver, ModelCheckpoint(), module=Small([0, 0, 0.3]), epochs=3, resume=at_moved)
    assert Path(saver.best_model_path).parent == tmp_path / "newer" / "checkpoints"


class EpochEnds(Callback):
    """Notes the epochs whose validation and end a run has had."""

    def __init__(self) -> None:
        self.validations: list[int] = []
        self.ends: list[int] = []

    def on_validation_end(self, trainer: Trainer, *_: object) -> None:
        self.validations.append(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, *_: object) -> None:
        self.ends.append(trainer.current_epoch)


@pytest.mark.parametrize("step", [5, 10])
def test_a_resume_from_an_epochs_last_step_leaves_out_no_end(tmp_path: Path, step: int) -> None:
    fit(tmp_path, ModelCheckpoint(every_n_train_steps=5, save_top_k=-1, filename="{step}"))
    path = tmp_path / f"checkpoints/step={step}.ckpt"
    seen = EpochEnds()
    fit(tmp_path, seen, ModelCheckpoint(), epochs=3, resume=str(path))
    progress = torch.load(path, weights_only=True)["loops"]["fit_loop"]["epoch_progress"]
    before = list(range(progress["total"]["processed"]))
    assert before + seen.validations == before + seen.ends == [0, 1, 2]
