"""PretrainedInterpolation in whole runs: precisions, interruptions, loggers, and later commands."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import schedulefree
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

import cli
from callbacks import ModelExporter, PretrainedInterpolation, RunSummary
from callbacks.checkpoints.checkpoint_reading import read_checkpoint
from lightning_modules import ModelError, SequenceClassifier
from linetune.named_checkpoint import best_of_run
from tests.callbacks.test_pretrained_interpolation import ADAMW, AsTrained, Noisy, fit
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert
from tests.tiny_texts import tiny_tokenizer


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_bert(tmp_path_factory.mktemp("start")))


def saver_in(folder: Path, monitor: str | None = "val/loss") -> ModelCheckpoint:
    return ModelCheckpoint(folder / "ck", monitor=monitor, filename="best", save_last=True)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_what_is_reported_is_what_the_saved_weights_do(start: str, tmp_path: Path, precision: Any) -> None:
    module, search, saver = SequenceClassifier(start, optimizer=ADAMW), PretrainedInterpolation(), saver_in(tmp_path)
    trainer = fit(module, tmp_path, search, saver, precision=precision)
    assert search.kept
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    saved = read_checkpoint(saver.best_model_path)["state_dict"]
    assert {value.dtype for value in saved.values() if value.is_floating_point()} == {dtype}
    for found in (
        trainer.validate(module, Noisy(), verbose=False)[0],
        trainer.validate(SequenceClassifier(start), Noisy(), saver.best_model_path, verbose=False)[0],
    ):
        # Means over batches and over all rows at once differ in the last bit of float32.
        assert found["val/loss"] == pytest.approx(search.figures["loss"], rel=1e-6)
        assert found["val/accuracy"] == search.figures["accuracy"]
    assert trainer.test(ckpt_path="best", datamodule=Noisy(), verbose=False)[0]["test/loss"] == found["val/loss"]


class SeveralLabels(Noisy):
    def __init__(self) -> None:
        super().__init__()
        for index, row in enumerate(self.examples):
            row["labels"] = torch.tensor([1.0 - row["labels"], row["labels"], index % 3 == 0])


def test_several_labels_per_text(start: str, tmp_path: Path) -> None:
    module = SequenceClassifier(start, 3, problem_type="multi_label_classification", optimizer=ADAMW)
    search = PretrainedInterpolation(monitor="val/loss")
    trainer = fit(module, tmp_path, search, saver_in(tmp_path), data=SeveralLabels())
    assert search.kept
    found = trainer.validate(module, SeveralLabels(), verbose=False)[0]
    for name in ("loss", "micro_f1", "macro_f1"):
        assert found[f"val/{name}"] == pytest.approx(search.figures[name], rel=1e-6)
    assert {"loss_calibrated", "loss_interpolated_calibrated"} <= search.figures.keys()


@pytest.mark.parametrize("ends", [{}, {"max_steps": 18}, {"max_time": {"seconds": 1}, "max_epochs": 10**6}])
def test_schedule_free_weights_are_those_that_are_evaluated(start: str, tmp_path: Path, ends: dict[str, Any]) -> None:
    optimizer = partial(schedulefree.AdamWScheduleFree, lr=2e-2)
    module, search, watch = SequenceClassifier(start, optimizer=optimizer), PretrainedInterpolation(), AsTrained()
    trainer = fit(module, tmp_path, search, watch, enable_checkpointing=False, **ends)
    assert not trainer.optimizers[0].param_groups[0]["train_mode"]
    other = SequenceClassifier(start)
    other.load_state_dict(watch.weights)
    trainer = quiet_trainer()
    found = trainer.validate(other, Noisy(), verbose=False)[0]
    assert search.figures["loss_as_trained"] == pytest.approx(found["val/loss"], rel=1e-6)
    assert search.figures["loss"] <= search.figures["loss_as_trained"]


class Automatic(LightningModule):
    """A module that knows nothing of linetune."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def loss(self, batch: Any) -> Any:
        return nn.functional.cross_entropy(self.layer(batch["input_ids"] / 32 - 1), batch["labels"])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log_dict({"val_loss" if dataloader_idx == 0 else "other_loss": self.loss(batch)}, add_dataloader_idx=False)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1.0)


class TwoSets(Noisy):
    """The second validation set has other labels."""

    def val_dataloader(self) -> list[DataLoader]:
        return [
            DataLoader(self.examples, 8),
            DataLoader([row | {"labels": 1 - row["labels"]} for row in self.examples]),
        ]


def test_the_figures_are_in_every_logger_and_of_the_first_validation_set(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, "csv", 0), TensorBoardLogger(tmp_path, "tb", 0)]
    module, search = Automatic(), PretrainedInterpolation(monitor="val_loss")
    trainer = fit(module, tmp_path, search, data=TwoSets(), logger=loggers)
    assert search.kept
    found = trainer.validate(module, TwoSets(), verbose=False)[0]  # which empties callback_metrics (lightning 2.6.6)
    assert found["val_loss"] == pytest.approx(search.figures["loss"], rel=1e-6)
    with (tmp_path / "csv/version_0/metrics.csv").open() as stream:
        (row,) = [row for row in csv.DictReader(stream) if row["interpolation/alpha"]]
    board = EventAccumulator(str(tmp_path / "tb/version_0")).Reload()
    for name, value in search.figures.items():
        assert float(row[f"interpolation/{name}"]) == pytest.approx(value)
        assert board.Scalars(f"interpolation/{name}")[0].value == pytest.approx(value)


class ByLoader(Automatic):
    """Leaves it to Lightning to tell the sets' losses apart."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch))


class WithoutIndex(Automatic):
    """Has a validation step without a number of the batch, as Lightning takes it."""

    def validation_step(self, batch: Any) -> None:  # type: ignore[override]
        self.log("val_loss", self.loss(batch))


class Collects(Automatic):
    """Collects the losses of a validation from its start on, and logs their mean at its end."""

    def on_validation_start(self) -> None:
        self.losses: list[Any] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.losses.append(self.loss(batch))

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", torch.stack(self.losses).mean())


@pytest.mark.parametrize(
    ("kind", "data", "monitor"),
    [
        (ByLoader, TwoSets(), "val_loss/dataloader_idx_0"),
        (WithoutIndex, Noisy(), "val_loss"),
        (Collects, Noisy(), "val_loss"),
    ],
)
def test_any_validation_step_that_lightning_takes(
    kind: type[Automatic], data: Any, monitor: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = kind()
    search, saver = PretrainedInterpolation(), ModelCheckpoint(tmp_path / "ck", monitor=monitor)
    trainer = fit(module, tmp_path, search, saver, data=data, max_epochs=1)
    assert search.kept
    found = trainer.validate(module, data, ckpt_path="best", verbose=False)[0]
    assert found[monitor] == pytest.approx(search.figures["loss"], rel=1e-6)
    assert float(saver.best_model_score) == pytest.approx(found[monitor], rel=1e-6)


class Raises(Callback):
    """Ends a run as Ctrl-C does, in training or in the search."""

    def __init__(self, error: type[BaseException], step: int = 0, validation_pass: int = 0) -> None:
        self.error, self.step, self.validation_pass = error, step, validation_pass

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.step and trainer.global_step >= self.step:
            raise self.error

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        passes, step = [0], pl_module.validation_step

        def counted(batch: Any, batch_idx: int) -> Any:
            passes[0] += batch_idx == 0
            if passes[0] == self.validation_pass:
                raise self.error
            return step(batch, batch_idx)

        pl_module.validation_step = counted


def test_an_interrupted_run_is_not_searched_and_the_one_that_goes_on_is(tmp_path: Path) -> None:
    search = PretrainedInterpolation(monitor="val_loss")
    saver = ModelCheckpoint(tmp_path / "ck", save_last=True)
    with pytest.raises(SystemExit):
        fit(Automatic(), tmp_path, search, saver, Raises(SystemExit, step=10))
    assert not search.summary
    assert not list(tmp_path.rglob("*interpolated*"))
    first = torch.load(tmp_path / "start_weights.pt", weights_only=True)
    module, search = Automatic(), PretrainedInterpolation(monitor="val_loss")
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    saver = ModelCheckpoint(moved / "ck", save_last=True)
    fit(module, moved, search, saver, resume=str(moved / "ck/last.ckpt"))
    trained = torch.load(str(saver.best_model_path).replace("-interpolated", ""), weights_only=True)["state_dict"]
    assert search.kept
    for name, value in module.state_dict().items():
        assert torch.allclose(value, torch.lerp(first[name], trained[name], search.alphas["model"]), atol=1e-6)


def test_an_interruption_of_the_search_leaves_the_weights_as_trained(start: str, tmp_path: Path) -> None:
    module, watch, saver = SequenceClassifier(start, optimizer=ADAMW), AsTrained(), saver_in(tmp_path)
    search = PretrainedInterpolation()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(module, tmp_path, watch, Raises(KeyboardInterrupt, validation_pass=3), search, saver)
    assert not search.kept
    assert all(torch.equal(value, watch.weights[name]) for name, value in module.state_dict().items())
    assert Path(saver.best_model_path).name == "best.ckpt"


def test_a_run_goes_on_from_its_own_weights(start: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = SequenceClassifier(start, optimizer=ADAMW)
    fit(whole, tmp_path / "whole", max_epochs=7, enable_checkpointing=False)
    torch.manual_seed(1)
    module, saver = SequenceClassifier(start, optimizer=ADAMW), saver_in(tmp_path, monitor=None)
    fit(module, tmp_path, PretrainedInterpolation(), saver, max_epochs=6)
    assert saver.best_model_path.endswith("best-interpolated.ckpt")
    with pytest.raises(ModelError, match="lie between the pretrained and the trained ones"):
        fit(
            SequenceClassifier(start),
            tmp_path,
            saver_in(tmp_path, monitor=None),
            resume=saver.best_model_path,
            max_epochs=7,
        )
    module, watch = SequenceClassifier(start, optimizer=ADAMW), AsTrained()
    fit(
        module,
        tmp_path,
        PretrainedInterpolation(),
        saver_in(tmp_path, monitor=None),
        watch,
        resume="last",
        max_epochs=7,
    )
    assert all(torch.equal(value, watch.weights[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("monitor", [None, "val/loss"])
def test_a_checkpoint_saved_by_hand_says_that_its_weights_are_interpolated(
    start: str, tmp_path: Path, monitor: str | None
) -> None:
    """`trainer.save_checkpoint` would pair them with the state that the optimizer has of the trained weights."""

    class Data(Noisy):
        tokenizer = tiny_tokenizer()

    module, search = SequenceClassifier(start, optimizer=ADAMW), PretrainedInterpolation()
    saver, exporter = saver_in(tmp_path, monitor), ModelExporter(str(tmp_path / "model"))
    trainer = fit(module, tmp_path, search, saver, exporter, data=Data())
    assert search.kept
    by_hand, theirs = tmp_path / "by_hand.ckpt", read_checkpoint(saver.best_model_path)
    trainer.save_checkpoint(by_hand)
    saved = read_checkpoint(by_hand)
    assert not {"optimizer_states", "lr_schedulers", "loops", "resumption"} & saved.keys()
    assert all(torch.equal(value, saved["state_dict"][name]) for name, value in module.state_dict().items())
    for name in ("interpolation", "epoch", "global_step", "task", "training_facts"):
        assert saved[name] == theirs[name], name
    with pytest.raises(ModelError, match="lie between the pretrained and the trained ones"):
        fit(SequenceClassifier(start, optimizer=ADAMW), tmp_path, resume=str(by_hand), max_epochs=7)
    # What is in place is what counts: the trained weights are put back, then the interpolated ones.
    trained = saver.best_model_path.replace("-interpolated", "")
    trainer.validate(module, Noisy(), ckpt_path=trained, verbose=False)
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    assert "optimizer_states" in read_checkpoint(tmp_path / "trained.ckpt")
    trainer.validate(module, Noisy(), ckpt_path=str(by_hand), verbose=False)
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    assert read_checkpoint(tmp_path / "again.ckpt")["interpolation"] == saved["interpolation"]


def test_a_checkpoint_saved_by_hand_of_weights_as_trained_can_be_resumed(start: str, tmp_path: Path) -> None:
    module = SequenceClassifier(start, optimizer=partial(torch.optim.AdamW, lr=1e-4))
    search = PretrainedInterpolation(monitor="val/loss")
    trainer = fit(module, tmp_path, search, data=TinyData(), enable_checkpointing=False, max_epochs=1)
    assert not search.kept
    trainer.save_checkpoint(tmp_path / "by_hand.ckpt")
    module = SequenceClassifier(start, optimizer=partial(torch.optim.AdamW, lr=1e-4))
    resume = str(tmp_path / "by_hand.ckpt")
    assert fit(module, tmp_path, data=TinyData(), resume=resume, max_epochs=2).global_step == 8


def test_summary_and_model_card_say_what_the_weights_are(
    start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Data(Noisy):
        tokenizer = tiny_tokenizer()

    for folder, callbacks in (("kept", [saver_in(tmp_path)]), ("none", [])):
        search = PretrainedInterpolation()
        module = SequenceClassifier(start, optimizer=ADAMW)
        others = [RunSummary(), ModelExporter(str(tmp_path / folder)), *callbacks]
        trainer = fit(module, tmp_path, search, *others, data=Data(), enable_checkpointing=bool(callbacks))
        before, after = (f"{search.figures[name]:.4f}" for name in ("loss_as_trained", "loss"))
        told = f"alpha {search.alphas['model']:.3f}: loss {before} -> {after}"
        output = capsys.readouterr().out
        assert f"interpolation     {told}" in output
        (row,) = [line.split() for line in output.splitlines() if line.startswith("val/loss")]
        assert row[1:3] == [after, before]
        card = (tmp_path / folder / "model/README.md").read_text()
        assert told in card
        assert ("Weights: the best checkpoint, interpolated, step " in card) == bool(callbacks)
        listed = float(card.split("- val/loss: ")[1].split()[0])
        assert listed == pytest.approx(trainer.validate(module, Data(), verbose=False)[0]["val/loss"], rel=1e-5)
        capsys.readouterr()


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy])
def test_sharded_parameters_are_refused(strategy: Any) -> None:
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer._accelerator_connector.strategy = strategy.__new__(strategy)  # nothing of it is started
    with pytest.raises(MisconfigurationException, match=f"{strategy.__name__} shards the parameters"):
        PretrainedInterpolation().setup(trainer, Automatic(), "fit")


def test_a_validation_without_a_loss_is_refused_before_training(tmp_path: Path) -> None:
    class WithoutLoss(Automatic):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_f1", 0.5)

    module = WithoutLoss()
    with pytest.raises(MisconfigurationException, match="logs neither val/loss nor val_loss"):
        fit(module, tmp_path, PretrainedInterpolation(), data=TinyData())
    assert module.trainer.global_step == 0
    with pytest.raises(MisconfigurationException, match="judge_fraction: Automatic has no method score_rows"):
        fit(Automatic(), tmp_path, PretrainedInterpolation(judge_fraction=0.5))


def test_later_commands_use_the_interpolated_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["linetune"])
    tiny = save_tiny_bert(tmp_path / "tiny", vocab_size=30522, max_position_embeddings=128)
    command = [
        *("--config", "linetune:quickstart", "--config=linetune:trainer/cpu"),
        *("--config", "linetune:callbacks/pretrained_interpolation", "--model.model", str(tiny)),
        *("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "3e-2"),
        *("--data.tokenizer", "offline:all-MiniLM-L6-v2", "--data.max_train_samples", "64"),
        *("--data.max_eval_samples", "32", "--trainer.enable_progress_bar", "false"),
    ]
    cli.main(["fit", *command, "--trainer.max_epochs", "2"])
    output = capsys.readouterr().out
    run = tmp_path / "runs/quickstart/version_0"
    best = run / "checkpoints/best-interpolated.ckpt"
    loss = next(line.split()[1] for line in output.splitlines() if line.startswith("val/loss"))
    assert f"best checkpoint   {best.relative_to(tmp_path)} (val/loss {loss})" in output
    later = ["--config", str(run / "config.yaml"), "--ckpt_path", "best", "--trainer.callbacks", "null"]
    cli.main(["validate", *later])
    (row,) = [line.replace("│", "").split() for line in capsys.readouterr().out.splitlines() if "val/loss" in line]
    assert float(row[1]) == pytest.approx(float(loss), abs=1e-4)
    cli.main(["export", "--config", str(run / "config.yaml"), "--ckpt_path", "best", "--to", "out"])
    assert (tmp_path / "out/README.md").read_text() == (run / "model/README.md").read_text()
    cli.main(["predict", *later])
    assert best_of_run(str(run / "config.yaml")) == best
    with next((tmp_path / "runs").rglob("*.tsv")).open() as stream:
        assert len(stream.readlines()) > 32
    # The run itself goes on from its own last weights.
    capsys.readouterr()
    cli.main(["fit", *command, "--trainer.max_epochs", "3", "--ckpt_path", "last"])
    said = capsys.readouterr().err
    assert "skipped runs/quickstart/version_0/checkpoints/best-interpolated.ckpt: the checkpoint's weights lie" in said
    assert "ckpt_path last: runs/quickstart/version_0/checkpoints/best.ckpt" in said


class Partial(Automatic):
    """Leaves a frozen weight out of its checkpoints."""

    strict_loading = False

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in weights.items() if not name.startswith("frozen")}


def test_checkpoints_without_the_frozen_weights(tmp_path: Path) -> None:
    module, search = Partial(), PretrainedInterpolation()
    frozen = module.frozen.weight.clone()
    saver = saver_in(tmp_path, "val_loss")
    fit(module, tmp_path, search, saver)
    assert search.alphas
    assert torch.equal(module.frozen.weight, frozen)


def test_a_checkpoint_that_cannot_be_written_leaves_the_best_one_named(start: str, tmp_path: Path) -> None:
    class Full(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            save = trainer.strategy.save_checkpoint

            def saved(checkpoint: Any, path: Any, *args: Any, **kwargs: Any) -> None:
                if "interpolated" in str(path):
                    raise OSError(28, "No space left on device")
                save(checkpoint, path, *args, **kwargs)

            trainer.strategy.save_checkpoint = saved  # type: ignore[method-assign]

    saver = saver_in(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        fit(SequenceClassifier(start, optimizer=ADAMW), tmp_path, PretrainedInterpolation(), saver, Full())
    assert Path(saver.best_model_path).name == "best.ckpt"
    scores = read_checkpoint(saver.best_model_path)["callbacks"][saver.state_key]
    assert float(saver.best_model_score) == float(scores["best_model_score"])
