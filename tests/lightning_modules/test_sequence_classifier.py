"""SequenceClassifier in a real Trainer: what a step, a schedule, an evaluation and a checkpoint do."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, OneCycleLR, ReduceLROnPlateau
from transformers import LlamaConfig

from lightning_modules import GradientClip, LinearWithWarmup, ModelError, Schedule, SequenceClassifier
from optimizers import AdamSLS, AdamWL2SP
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_bert(tmp_path_factory.mktemp("tiny"), dropout=0.0))


def trainer(tmp_path: Path, **settings: Any) -> Trainer:
    return quiet_trainer(**{"max_epochs": 1, "default_root_dir": tmp_path} | settings)


def weights(module: SequenceClassifier) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.model.parameters()])


def test_training_lowers_the_loss_and_logs_what_it_says(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, metrics=["accuracy", "matthews"], optimizer=partial(AdamW, lr=3e-3))
    run = trainer(tmp_path, max_epochs=8)
    run.fit(module, TinyData(64))
    logged = run.callback_metrics
    assert logged["val/loss"] < 0.3
    assert logged["val/accuracy"] > 0.9
    assert logged["train/step_size"] == pytest.approx(3e-3)
    assert {"train/loss", "train/step_time", "train/examples_per_second", "val/matthews"} <= set(logged)
    assert run.global_step == 64


def test_accumulated_batches_move_the_weights_as_one_large_batch_does(tiny: str, tmp_path: Path) -> None:
    moved = []
    for batch_size, accumulated in ((24, 1), (6, 4)):
        module = SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.1), accumulate_grad_batches=accumulated)
        run = trainer(tmp_path)
        # 60 examples: the last step has only 12, two batches of 6.
        run.fit(module, TinyData(60, batch_size))
        moved.append(weights(module))
        assert run.global_step == 3
    torch.testing.assert_close(moved[0], moved[1], atol=1e-6, rtol=1e-5)


def test_batches_of_an_interrupted_step_are_not_in_the_next_run(tiny: str, tmp_path: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise RuntimeError("interrupted")

    fresh, interrupted = (SequenceClassifier(tiny, optimizer=SGD, accumulate_grad_batches=2) for _ in range(2))
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer(tmp_path, callbacks=[LambdaCallback(on_train_batch_end=interrupt)]).fit(interrupted, TinyData())
    for module in (fresh, interrupted):
        trainer(tmp_path, max_steps=1).fit(module, TinyData())
    assert torch.equal(weights(fresh), weights(interrupted))


def test_gradients_are_clipped_before_the_optimizer_sees_them(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, optimizer=partial(SGD, lr=1.0), gradient_clip=GradientClip(0.01))
    before = weights(module)
    trainer(tmp_path, max_steps=1).fit(module, TinyData())
    assert (weights(module) - before).norm() == pytest.approx(0.01, rel=1e-3)


def test_a_schedule_is_told_the_length_of_the_run(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(
        tiny,
        optimizer=partial(SGD, lr=0.1),
        lr_scheduler=Schedule(partial(OneCycleLR, max_lr=0.1)),
        accumulate_grad_batches=2,
    )
    run = trainer(tmp_path, max_epochs=3)
    run.fit(module, TinyData(40, 8))
    # 5 batches an epoch, two to a step: 3 steps an epoch.
    assert run.lr_scheduler_configs[0].scheduler.total_steps == 9
    assert run.lr_scheduler_configs[0].scheduler.last_epoch == 9


def test_max_steps_bounds_the_length_of_the_run(tiny: str, tmp_path: Path) -> None:
    schedule = Schedule(partial(OneCycleLR, max_lr=0.1))
    module = SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.1), lr_scheduler=schedule)
    run = trainer(tmp_path, max_epochs=-1, max_steps=6)
    run.fit(module, TinyData(32, 8))
    assert run.lr_scheduler_configs[0].scheduler.total_steps == 6
    assert run.global_step == 6


@pytest.mark.parametrize(
    "length", [{"max_steps": 3}, {"max_epochs": -1, "max_time": {"seconds": 1}}, {"max_epochs": 1}]
)
def test_an_optimizer_is_told_how_many_steps_make_an_epoch(length: Any, tiny: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, **length)
    run.fit(SequenceClassifier(tiny, optimizer=AdamSLS, accumulate_grad_batches=2), TinyData(40, 8))
    # 5 batches an epoch, two to a step.
    assert run.optimizers[0].steps_per_epoch == 3


def test_a_schedule_per_epoch_advances_once_an_epoch(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(
        tiny,
        optimizer=partial(SGD, lr=0.1),
        lr_scheduler=Schedule(partial(ExponentialLR, gamma=0.5), interval="epoch"),
    )
    run = trainer(tmp_path, max_epochs=3)
    run.fit(module, TinyData())
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


@pytest.mark.parametrize(
    ("length", "epochs"),
    [({"max_steps": 6, "max_epochs": -1}, 2), ({"max_steps": 6, "max_epochs": 5}, 2), ({"max_epochs": 3}, 3)],
)
def test_a_schedule_per_epoch_is_told_the_number_of_epochs(length: Any, epochs: int, tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(
        tiny,
        optimizer=partial(SGD, lr=0.1),
        lr_scheduler=Schedule(CosineAnnealingLR, interval="epoch"),
    )
    run = trainer(tmp_path, **length)
    run.fit(module, TinyData(32, 8))
    assert run.lr_scheduler_configs[0].scheduler.T_max == epochs


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_schedule_over_a_run_of_unknown_length_is_one_line(interval: Any, tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, lr_scheduler=Schedule(CosineAnnealingLR, interval), optimizer=SGD)
    endless = {"max_epochs": -1, "max_time": {"seconds": 20}}
    with pytest.raises(ModelError, match=f"T_max is the run's number of {interval}s, which is unknown here"):
        trainer(tmp_path, **endless).fit(module, TinyData())


def test_reduce_on_plateau_watches_the_validation_loss(tiny: str, tmp_path: Path) -> None:
    plateau = partial(ReduceLROnPlateau, patience=0, threshold=1e9, threshold_mode="abs")
    module = SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.1), lr_scheduler=Schedule(plateau))
    run = trainer(tmp_path, max_epochs=3)
    run.fit(module, TinyData())
    # No epoch improves by 1e9: every epoch after the first reduces.
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.1**2)

    module = SequenceClassifier(tiny, optimizer=SGD, lr_scheduler=Schedule(plateau, monitor="val/nothing"))
    with pytest.raises(ModelError, match=r"'val/nothing' is not logged; logged: .*val/loss"):
        trainer(tmp_path).fit(module, TinyData())


@pytest.mark.parametrize(("monitor", "reductions"), [("val/loss", 2), ("train/loss", 5)])
def test_reduce_on_plateau_waits_for_a_validation(monitor: str, reductions: int, tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(
        tiny,
        optimizer=partial(SGD, lr=0.1),
        lr_scheduler=Schedule(
            partial(ReduceLROnPlateau, patience=0, threshold=1e9, threshold_mode="abs"), monitor=monitor
        ),
    )
    run = trainer(tmp_path, max_epochs=6, check_val_every_n_epoch=2)
    run.fit(module, TinyData())
    # Three of the six epochs validate; the first value is the best one yet.
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.1**reductions)


class BelowZero(SequenceClassifier):
    """Has a validation loss below zero, as a density has."""

    def validation_step(self, *batch: Any) -> None:
        self.log("val/loss", -0.8, batch_size=1)


@pytest.mark.parametrize(
    ("kind", "mode", "rate", "says"),
    [(BelowZero, "rel", 1e-9, True), (BelowZero, "abs", 2.5e-10, False), (SequenceClassifier, "rel", 2.5e-10, False)],
)
def test_a_plateau_below_zero_is_said_to_be_none(
    kind: type[SequenceClassifier], mode: str, rate: float, says: bool, tiny: str, tmp_path: Path
) -> None:
    """torch 2.13 takes an equal value below zero for a better one, so that the rate stays as it is."""
    schedule = Schedule(partial(ReduceLROnPlateau, patience=0, factor=0.5, eps=0.0, threshold_mode=mode))
    module = kind(tiny, optimizer=partial(SGD, lr=1e-9), lr_scheduler=schedule)
    run = trainer(tmp_path, max_epochs=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(module, TinyData())
    said = [str(each.message) for each in caught if str(each.message).startswith("lr_scheduler: val/loss is below 0")]
    assert bool(said) == says
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(rate)


class TwoSets(SGD):
    """Keeps its mode in its groups, and so in a checkpoint, as schedule-free optimizers do."""

    def train(self) -> None:
        self.param_groups[0]["mode"] = "train"

    def eval(self) -> None:
        self.param_groups[0]["mode"] = "eval"

    def step(self, closure: Any = None) -> Any:
        assert self.param_groups[0]["mode"] == "train"
        return super().step(closure)


def test_an_optimizer_with_two_sets_of_weights_is_told_which_one_is_wanted(tiny: str, tmp_path: Path) -> None:
    validations = []

    class Watched(SequenceClassifier):
        def validation_step(self, *args: Any) -> None:
            validations.append(self.trainer.optimizers[0].param_groups[0]["mode"])
            super().validation_step(*args)

    module = Watched(tiny, optimizer=partial(TwoSets, lr=0.1))
    trainer(tmp_path, max_epochs=2, val_check_interval=2, num_sanity_val_steps=0).fit(module, TinyData())
    assert validations == ["eval"] * 4 * 4
    assert module.trainer.optimizers[0].param_groups[0]["mode"] == "eval"


def test_a_run_resumed_within_an_epoch_trains_on_the_weights_of_training(tiny: str, tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, filename="{step}", save_top_k=-1, monitor="val/loss")
    first = trainer(tmp_path, val_check_interval=2, enable_checkpointing=True, callbacks=[saver])
    first.fit(SequenceClassifier(tiny, optimizer=partial(TwoSets, lr=0.1)), TinyData())
    checkpoint = tmp_path / "step=2.ckpt"
    stored = torch.load(checkpoint, weights_only=False)["optimizer_states"][0]["param_groups"][0]
    assert stored["mode"] == "eval"
    second = trainer(tmp_path)
    second.fit(SequenceClassifier(tiny, optimizer=partial(TwoSets, lr=0.1)), TinyData(), ckpt_path=checkpoint)
    assert second.global_step == 4


def test_regression_predicts_scores(tmp_path: Path) -> None:
    module = SequenceClassifier(str(save_tiny_bert(tmp_path / "m", num_labels=1)), num_labels=1)
    data = TinyData(num_labels=1)
    (result,) = trainer(tmp_path).validate(module, data, verbose=False)
    assert set(result) == {"val/loss", "val/pearson", "val/spearman"}
    predictions = trainer(tmp_path).predict(module, data)
    assert predictions is not None
    assert [prediction["scores"].shape for prediction in predictions] == [(8,)] * 4
    assert torch.equal(torch.cat([prediction["idx"] for prediction in predictions]), torch.arange(32))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("own", [None, -1, 3])
def test_a_decoder_reads_the_last_token_whatever_the_tokenizer_pads_with(
    own: int | None, side: str, tmp_path: Path
) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaConfig(**sizes, **heads, eos_token_id=[2, 4], pad_token_id=own).save_pretrained(tmp_path)
    module = SequenceClassifier(str(tmp_path), pretrained=False).eval()
    alone = torch.tensor([[9, 8, 7]])
    padding = torch.full((1, 2), 60)  # neither the model's padding nor its end token
    padded = torch.cat([padding, alone] if side == "left" else [alone, padding], dim=1)
    mask = (padded != 60).long()
    both = torch.cat([padded, torch.arange(10, 15)[None]]), torch.cat([mask, torch.ones_like(mask)])
    expected = module({"input_ids": alone, "attention_mask": torch.ones_like(alone)})
    found = module({"input_ids": both[0], "attention_mask": both[1]})
    # Rotary positions are relative: on the left padding shifts them in the last bits alone.
    torch.testing.assert_close(found[:1], expected, atol=1e-5, rtol=1e-4)


def test_evaluation_is_about_all_examples_whatever_the_batch_size(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny)
    results = [trainer(tmp_path).validate(module, TinyData(30, size), verbose=False)[0]["val/loss"] for size in (30, 7)]
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_losses_are_single_precision_where_the_model_is_half(precision: str, tiny: str, tmp_path: Path) -> None:
    losses = []

    class Recorded(SequenceClassifier):
        def loss_from_outputs(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            losses.append(super().loss_from_outputs(outputs, labels))
            return losses[-1]

    module, data = Recorded(tiny, optimizer=partial(AdamWL2SP, eps=1e-4)), TinyData(600, 6)
    run = trainer(tmp_path, max_steps=2, precision=precision)
    run.fit(module, data)
    assert float(run.callback_metrics["train/loss"]) == losses[-1].item()
    # A count in half precision would end at 256 or 2048.
    assert {state["step"].dtype for state in run.optimizers[0].state.values()} == {torch.float32}

    losses.clear()
    run.validate(module, data, verbose=False)
    assert run.callback_metrics["val/loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_evaluations_before_training_and_interrupted_ones_leave_no_trace(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny)
    (before,) = trainer(tmp_path).validate(module, TinyData(), verbose=False)
    with torch.inference_mode():
        module.val_metrics[0].update(torch.tensor(9.0), torch.zeros(4, 2), torch.ones(4, dtype=torch.long))
    assert trainer(tmp_path).validate(module, TinyData(), verbose=False) == [before]
    trainer(tmp_path).test(module, TinyData(), verbose=False)
    # What inference mode has touched, a fit cannot change in place.
    trainer(tmp_path).fit(module, TinyData())


def test_several_evaluation_sets_are_named(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, eval_set_names=("matched", "mismatched"))
    run = trainer(tmp_path)
    run.validate(module, TinyData(eval_sets=2), verbose=False)
    assert {"val/accuracy", "val_mismatched/accuracy", "val_mismatched/loss"} <= set(run.callback_metrics)
    with pytest.raises(ModelError, match="eval_set_names: 1 names"):
        trainer(tmp_path).validate(SequenceClassifier(tiny), TinyData(eval_sets=2), verbose=False)


def test_rows_without_a_number_are_predicted_too(tiny: str, tmp_path: Path) -> None:
    data = TinyData()
    data.examples = [{key: value for key, value in row.items() if key != "idx"} for row in data.examples]
    predictions = trainer(tmp_path).predict(SequenceClassifier(tiny), data)
    assert [set(batch) for batch in predictions] == [{"probabilities"}] * 4


@pytest.mark.parametrize("settings", [{"max_epochs": 0}, {"max_steps": 0}])
def test_a_run_of_no_steps_does_nothing(settings: dict[str, int], tiny: str, tmp_path: Path) -> None:
    for chosen in ({}, {"optimizer": partial(AdamW, lr=1e-3), "lr_scheduler": Schedule(LinearWithWarmup)}):
        run = trainer(tmp_path, **settings)
        run.fit(SequenceClassifier(tiny, **chosen), TinyData())
        assert run.global_step == 0


def test_probabilities_sum_to_one(tiny: str, tmp_path: Path) -> None:
    predictions = trainer(tmp_path).predict(SequenceClassifier(tiny), TinyData())
    assert predictions is not None
    probabilities = torch.cat([prediction["probabilities"] for prediction in predictions])
    assert probabilities.shape == (32, 2)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(32))


def test_unlabelled_data_cannot_be_scored(tiny: str, tmp_path: Path) -> None:
    data = TinyData()
    data.examples = [{key: value for key, value in row.items() if key != "labels"} for row in data.examples]
    with pytest.raises(ModelError, match=r"^labels: the batches have none, only input_ids, .*; use predict for unla"):
        trainer(tmp_path).test(SequenceClassifier(tiny), data, verbose=False)
    data.examples = [row | {"label": torch.tensor(0)} for row in data.examples]
    with pytest.raises(ModelError, match=r"; name them labels, not label$"):
        trainer(tmp_path).fit(SequenceClassifier(tiny), data)


def test_an_optimizer_that_refuses_its_arguments_is_one_line(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, optimizer=partial(SGD, lr=-1.0))
    with pytest.raises(ModelError, match=r"optimizer: SGD: Invalid learning rate: -1.0"):
        trainer(tmp_path).fit(module, TinyData())


def test_a_model_that_is_loaded_already_is_one_line() -> None:
    with pytest.raises(ModelError, match=r"^model: a Linear is given; its name on the hub is needed, or the folder "):
        SequenceClassifier(torch.nn.Linear(1, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"optimizer": AdamSLS}, "optimizer is AdamW, the run's is AdamSLS"),
        ({"trainable": "head"}, r"groups of \[\d+, \d+\] tensors, the run's of \[2, 2\]"),
    ],
)
def test_a_checkpoint_of_another_optimizer_is_one_line(other: Any, message: str, tiny: str, tmp_path: Path) -> None:
    chosen = {"optimizer": partial(AdamW, lr=1e-3)}
    first = trainer(tmp_path)
    first.fit(SequenceClassifier(tiny, **chosen), TinyData())
    first.save_checkpoint(tmp_path / "first.ckpt")
    module = SequenceClassifier(tiny, **(chosen | other))
    with pytest.raises(ModelError, match=message):
        trainer(tmp_path, max_epochs=2).fit(module, TinyData(), ckpt_path=tmp_path / "first.ckpt")
    # The weights alone are of use to any optimizer, and a run of its own is none of the checkpoint's business.
    trainer(tmp_path).validate(module, TinyData(), ckpt_path=tmp_path / "first.ckpt", verbose=False)
    trainer(tmp_path).fit(module, TinyData())


def test_a_checkpoint_rebuilds_the_module(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.1))
    run = trainer(tmp_path)
    run.fit(module, TinyData())
    run.save_checkpoint(tmp_path / "a.ckpt")
    rebuilt = SequenceClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(weights(module), weights(rebuilt))


def test_a_checkpoint_of_another_architecture_is_one_line(tiny: str, tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.1)), TinyData())
    run.save_checkpoint(tmp_path / "a.ckpt")
    wider = SequenceClassifier(str(save_tiny_bert(tmp_path / "wide", hidden_size=32)))
    with pytest.raises(ModelError, match=r"another architecture.* is \(16.*\) in the checkpoint and \(32") as raised:
        trainer(tmp_path).validate(wider, TinyData(), ckpt_path=str(tmp_path / "a.ckpt"), verbose=False)
    assert "\n" not in str(raised.value)


class LogsLoss(Callback):
    """Logs the validation loss under a name of its own."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.log("val_loss", trainer.callback_metrics["val/loss"])


@pytest.mark.parametrize(
    "logs",
    [LogsLoss(), LambdaCallback(on_validation_epoch_end=lambda *given: LogsLoss().on_validation_epoch_end(*given))],
)
def test_a_callback_of_the_users_may_log_what_is_monitored(logs: Callback, tiny: str, tmp_path: Path) -> None:
    stops = EarlyStopping("val_loss")
    run = trainer(tmp_path, callbacks=[logs, stops], num_sanity_val_steps=0)
    run.fit(SequenceClassifier(tiny), TinyData())
    assert stops.best_score == run.callback_metrics["val/loss"]


class Counts(torch.nn.Module):
    """Counts the calls of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.wrapped, self.config, self.calls = model, model.config, 0

    def forward(self, **inputs: Any) -> Any:
        self.calls += 1
        return self.wrapped(**inputs)


def test_a_model_that_is_wrapped_later_is_the_one_that_runs(tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny)
    module.model = Counts(module.model)
    run = trainer(tmp_path, num_sanity_val_steps=0)
    run.fit(module, TinyData(count=32, batch_size=8))
    assert module.model.calls >= run.global_step + 4  # of the validation
