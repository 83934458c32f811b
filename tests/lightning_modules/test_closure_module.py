"""ClosureModule on models and losses that are not Hugging Face's."""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import schedulefree
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, Timer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_modules import (
    ClosureModule,
    GradientClip,
    ModelError,
    Schedule,
)
from lightning_modules.batches.batch_rows import count_examples, rows_of
from optimizers import GLD, ParabolicAdam, ParamGroups, SaLSA
from tests.lightning_modules.regression import Regression, data, fit
from tests.quiet_trainer import quiet_trainer


class Weighted(Regression):
    """The mean is over weights, as with class weights or tokens."""

    def compute_loss(self, batch: Any) -> Tensor:
        inputs, targets, weights = batch
        errors = (self.layer(inputs).squeeze(-1) - targets).square()
        return (weights * errors).sum() / weights.sum()

    def mean_over(self, batch: Any) -> float:
        return float(batch[2].sum())


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, lr=0.1), SaLSA])
def test_accumulated_batches_are_weighted_by_what_the_loss_is_a_mean_over(optimizer: Any, tmp_path: Path) -> None:
    def validate(module: Weighted) -> None:
        module.validation_step = lambda *_: None  # type: ignore[assignment,method-assign]

    whole, parts = (Weighted(optimizer=optimizer, accumulate_grad_batches=n).double() for n in (1, 4))
    for module, size in ((whole, 12), (parts, 3)):
        validate(module)
        loader = DataLoader(TensorDataset(*(t.double() for t in data(size, weighted=True).dataset.tensors)), size)
        trainer = fit(module, loader, tmp_path)
        assert trainer.global_step == 4
    # The losses that a search compares are float32.
    torch.testing.assert_close(whole.layer.weight, parts.layer.weight, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(whole.layer.bias, parts.layer.bias, rtol=1e-6, atol=1e-9)


def test_evaluation_is_the_mean_over_all_examples(tmp_path: Path) -> None:
    module = Regression()
    trainer = quiet_trainer(default_root_dir=tmp_path)
    (result,) = trainer.validate(module, data(7), verbose=False)
    inputs, targets = data(24).dataset.tensors
    with torch.no_grad():
        assert result["val/loss"] == pytest.approx(float(module.compute_loss((inputs, targets))), rel=1e-6)
    (result,) = trainer.test(module, data(5), verbose=False)
    assert set(result) == {"test/loss"}


class Halved(Regression):
    """Batches are dicts of text that `prepare_batch` reads, in two parts of unequal size."""

    def prepare_batch(self, batch: Any, split: str) -> list[Any]:
        rows = torch.tensor([[float(word) for word in text.split()] for text in batch["texts"]])
        parts = rows[:2], rows[2:]
        return [(part, part.sum(1)) for part in parts if len(part)]


def test_evaluation_prepares_batches_as_training_does(tmp_path: Path) -> None:
    texts = [" ".join(map(str, row.tolist())) for row in data(24).dataset.tensors[0]]
    loader = DataLoader(texts, batch_size=7, collate_fn=lambda rows: {"texts": rows})
    results = []
    for module, batches in ((Halved(), loader), (Regression(), data(7))):
        trainer = quiet_trainer(default_root_dir=tmp_path)
        (result,) = trainer.validate(module, batches, verbose=False)
        results.append(result["val/loss"])
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_a_module_without_a_loss_is_one_line(tmp_path: Path) -> None:
    class Nothing(ClosureModule):
        def __init__(self) -> None:
            super().__init__(optimizer=partial(torch.optim.SGD, lr=0.1))
            self.layer = nn.Linear(3, 1)

    with pytest.raises(TypeError, match="Nothing has to define compute_loss"):
        fit(Nothing(), data(8), tmp_path, num_sanity_val_steps=0)


class OwnStep(Regression):
    """A LightningModule that was made a ClosureModule and kept its training_step."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.compute_loss(batch)


class StepOfItsOwn(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.compute_loss(batch)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


class StepAndMore(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor | None:
        return super().training_step(batch, batch_idx)


def test_a_training_step_that_makes_no_step_is_one_line(tmp_path: Path) -> None:
    make = partial(torch.optim.SGD, lr=0.1)
    with pytest.raises(
        ModelError, match=r"^OwnStep\.training_step returns a loss, and nothing makes a step of it: .*loss"
    ):
        fit(OwnStep(optimizer=make), data(8), tmp_path)
    assert fit(StepOfItsOwn(optimizer=make), data(8), tmp_path).global_step == 6
    assert fit(StepAndMore(optimizer=make, accumulate_grad_batches=2), data(8), tmp_path).global_step == 4


class WithoutRate(torch.optim.Optimizer):
    """Keeps no `lr` in its groups, as some optimizers with a step size of their own."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(0.05 * parameter.grad)
        return loss


def test_an_optimizer_without_a_learning_rate_trains(tmp_path: Path) -> None:
    trainer = fit(Regression(optimizer=WithoutRate), data(8), tmp_path)
    assert "train/loss" in trainer.callback_metrics
    assert "train/step_size" not in trainer.callback_metrics


class Stranger(torch.optim.SGD):
    """Somebody's optimizer that says by attributes what it can do."""

    sets_step_size = True
    measures_slope = True
    seen: tuple[str, ...] = ()

    def step(self, closure: Any = None, *, evaluate: Any = None, loss: Any = None) -> Any:
        result = super().step(closure)
        with torch.no_grad():
            type(self).seen += ("evaluated",) if torch.isfinite(evaluate()) else ()
        return result


def test_a_strangers_optimizer_is_first_class(tmp_path: Path) -> None:
    fit(Regression(optimizer=partial(Stranger, lr=0.1)), data(8), tmp_path)
    assert Stranger.seen == ("evaluated",) * 6
    with pytest.raises(ModelError, match="gradient_clip: Stranger takes the slope"):
        fit(Regression(optimizer=partial(Stranger, lr=0.1), gradient_clip=GradientClip(1.0)), data(8), tmp_path)


class Stream(IterableDataset):
    """Rows that do not say how many they are."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([(torch.ones(3), torch.ones(()))] * 4)


class TellsProgress(Callback):
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        trainer.optimizers[0].progress = 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("optimizer", "options", "is_warned"),
    [
        (ParabolicAdam, {"max_epochs": 1}, True),
        (ParabolicAdam, {"max_epochs": -1, "max_time": {"seconds": 1}}, True),
        (ParabolicAdam, {"max_steps": 2}, False),
        (ParabolicAdam, {"max_epochs": 1, "callbacks": [TellsProgress()]}, False),
        (SaLSA, {"max_epochs": 1}, False),
    ],
)
def test_a_schedule_that_does_not_know_the_runs_length_is_said(
    optimizer: Any, options: dict[str, Any], is_warned: bool, tmp_path: Path
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Regression(optimizer=optimizer), DataLoader(Stream(), batch_size=1), tmp_path, **options)
    line = "the run's number of steps is unknown, so that it has neither warm-up nor decay; give the trainer max_steps,"
    said = [str(warning.message) for warning in caught if line in str(warning.message)]
    assert len(said) == is_warned
    assert all("for a run of so many seconds, callbacks.TrainingSeconds and callbacks.Sch" in each for each in said)


@pytest.mark.parametrize(
    ("optimizer", "options", "is_warned"),
    [
        (ParabolicAdam, {"max_epochs": 2, "max_time": {"minutes": 9}}, True),
        (ParabolicAdam, {"max_steps": 4, "callbacks": [Timer(duration={"minutes": 9})]}, True),
        (ParabolicAdam, {"max_epochs": 2, "callbacks": [Timer()]}, False),  # it measures the time alone
        (ParabolicAdam, {"max_epochs": 2, "max_time": {"minutes": 9}, "callbacks": [TellsProgress()]}, False),
        (SaLSA, {"max_epochs": 2, "max_time": {"minutes": 9}}, False),
        (ParabolicAdam, {"max_epochs": 2}, False),
    ],
)
def test_a_schedule_that_a_limit_of_time_may_cut_off_is_said_once(
    optimizer: Any, options: dict[str, Any], is_warned: bool, tmp_path: Path
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Regression(optimizer=optimizer), data(16), tmp_path, **options)
    line = (
        "the learning rate has not decayed; for a run of so many seconds, callbacks.TrainingSeconds and callbacks.Sch"
    )
    said = [str(warning.message) for warning in caught if line in str(warning.message)]
    assert len(said) == is_warned
    assert all(re.match(r"ParabolicAdam: its schedule is over the \d+ steps", each) for each in said)


def test_a_search_holds_no_gradients_unless_a_callback_reads_them(tmp_path: Path) -> None:
    class Watched(Regression):
        kept: tuple[bool, ...] = ()

        def compute_loss(self, batch: Any) -> Tensor:
            if self.training and not torch.is_grad_enabled():
                self.kept += (self.layer.weight.grad is not None,)
            return super().compute_loss(batch)

    class Reader(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.optimizers[0].keeps_gradients = True

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            assert all(parameter.grad is not None for parameter in pl_module.parameters())

    for callbacks, keeps in (([], False), ([Reader()], True)):
        module = Watched(optimizer=ParabolicAdam)
        fit(module, data(8), tmp_path, callbacks=callbacks)
        assert module.kept
        assert set(module.kept) == {keeps}


def test_a_bound_on_the_gradient_is_above_zero() -> None:
    with pytest.raises(ModelError, match=r"gradient_clip: value: 0 is not allowed"):
        GradientClip(0)


@pytest.mark.parametrize(
    ("batch", "count"),
    [(torch.zeros(3, 2), 3), ({"text": "abc", "x": torch.zeros(4)}, 4), ([torch.zeros(()), torch.zeros(5)], 5)],
)
def test_examples_are_counted_in_any_batch(batch: Any, count: int) -> None:
    assert count_examples(batch) == count


class Graphs:
    """Rows in an object in which nobody finds a tensor."""

    __slots__ = ("rows",)

    def __init__(self, rows: list[tuple[Tensor, ...]]) -> None:
        self.rows = [torch.stack(column) for column in zip(*rows, strict=True)]


class OnGraphs(Regression):
    """Least squares on such objects, of which a batch whose targets are NaN has none to count."""

    def compute_loss(self, batch: Graphs) -> Tensor:
        return super().compute_loss(batch.rows)

    def mean_over(self, batch: Graphs) -> Tensor:
        return batch.rows[1].isfinite().sum()


def test_examples_of_any_object_are_those_that_its_module_counts(tmp_path: Path) -> None:
    rows = data(8).dataset
    graphs = DataLoader(rows, batch_size=8, collate_fn=Graphs)
    module, twin = OnGraphs(optimizer=SaLSA), Regression(optimizer=SaLSA)
    assert float(fit(module, graphs, tmp_path, limit_val_batches=0).callback_metrics["train/examples_per_second"]) > 0
    fit(twin, data(8), tmp_path, limit_val_batches=0)
    assert torch.equal(module.layer.weight, twin.layer.weight)
    uncounted = type("Uncounted", (OnGraphs,), {"mean_over": ClosureModule.mean_over})
    with pytest.raises(ModelError, match=r"Graphs without a tensor that has rows; .* define mean_over"):
        fit(uncounted(), graphs, tmp_path, limit_val_batches=0)
    assert rows_of([Graphs(list(rows))]) == "of type Graphs, without row numbers (idx)"


def test_a_batch_without_terms_counts_for_nothing_in_an_evaluation(tmp_path: Path) -> None:
    inputs, targets = data(24).dataset.tensors
    nothing = TensorDataset(torch.cat([inputs, inputs]), torch.cat([targets, targets * math.nan]))
    trainer, module = quiet_trainer(default_root_dir=tmp_path), OnGraphs()
    (result,) = trainer.validate(module, DataLoader(nothing, batch_size=12, collate_fn=Graphs), verbose=False)
    with torch.no_grad():
        expected = float(Regression.compute_loss(module, (inputs, targets)))
    assert result["val/loss"] == pytest.approx(expected, rel=1e-6)


@dataclass
class Rows:
    inputs: Tensor
    targets: Tensor


def test_examples_are_counted_in_a_dataclass() -> None:
    assert count_examples(Rows(torch.zeros(3, 2), torch.zeros(3))) == 3


@pytest.mark.parametrize(
    ("loss", "given"),
    [
        (lambda loss: {"loss": loss}, "dict"),
        (lambda loss: loss.expand(2), r"shape \(2,\)"),
        (lambda loss: None, "None"),
        (lambda loss: loss + 0j, "complex numbers"),
    ],
)
@pytest.mark.parametrize("sanity_steps", [0, 2])
def test_a_loss_that_is_no_scalar_is_one_line(loss: Any, given: str, sanity_steps: int, tmp_path: Path) -> None:
    class Other(Regression):
        def compute_loss(self, batch: Any) -> Any:
            return loss(super().compute_loss(batch))

    with pytest.raises(ModelError, match=f"compute_loss has to return the mean loss.*{given}"):
        fit(Other(), data(8), tmp_path, num_sanity_val_steps=sanity_steps)


@pytest.mark.parametrize(
    ("terms", "line"),
    [
        (torch.tensor(8), None),
        (0, "^train/skipped_steps: .* not finite in any of the run's 2 steps"),
        (-1, "^mean_over: a loss is a mean over -1 terms; at least 0 is needed$"),
    ],
)
def test_the_terms_of_a_mean_are_a_positive_number(terms: Any, line: str | None, tmp_path: Path) -> None:
    class Counted(Regression):
        def mean_over(self, batch: Any) -> Any:
            return terms

    with pytest.raises(ModelError, match=line) if line else nullcontext():
        fit(Counted(), data(24), tmp_path, num_sanity_val_steps=0)


@pytest.mark.parametrize("number", [0, 2])
def test_another_number_of_optimizers_than_one_is_one_line(number: int, tmp_path: Path) -> None:
    class Other(Regression):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(number)] or None

    with pytest.raises(ModelError, match=f"one optimizer is expected, got {number}"):
        fit(Other(), data(8), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"accumulate_grad_batches": 2.5}, "accumulate_grad_batches: 2.5 is not allowed; a whole number, 1 or more"),
        ({"accumulate_grad_batches": "2"}, "accumulate_grad_batches: '2' is not allowed"),
        ({"gradient_clip": 1.0}, r"gradient_clip: 1.0 is not allowed; lightning_modules.GradientClip\(1.0\)"),
        ({"param_groups": [1]}, r"param_groups: \[1\] is not allowed; optimizers.ParamGroups"),
        ({"param_groups": ParamGroups}, "param_groups: ParamGroups is not allowed; optimizers.ParamGroups"),
    ],
)
def test_an_argument_of_another_kind_is_one_line(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError, match=f"^{line}"):
        Regression(**arguments)


def test_a_function_that_makes_no_optimizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^optimizer: .*has made a NoneType, which is no optimizer$"):
        fit(Regression(optimizer=lambda params: None), data(8), tmp_path)


def test_a_word_that_is_no_interval_is_one_line() -> None:
    with pytest.raises(ModelError, match=r"lr_scheduler\.interval: 'epochs' is not allowed; step or epoch"):
        Schedule(partial(torch.optim.lr_scheduler.StepLR, step_size=1), interval="epochs")  # type: ignore[arg-type]


def test_a_module_that_loads_loosely_may_have_other_parts(tmp_path: Path) -> None:
    fit(Regression(), data(8), tmp_path).save_checkpoint(tmp_path / "a.ckpt")

    class Extended(Regression):
        def __init__(self, **training: Any) -> None:
            super().__init__(**training)
            self.more = nn.Linear(1, 1)

    with pytest.raises(ModelError, match="another architecture"):
        Extended.load_from_checkpoint(tmp_path / "a.ckpt")

    class Loose(Extended):
        strict_loading = False

    Loose.load_from_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("batch", [{}, torch.zeros(0, 2), ["a", "b"]])
def test_a_batch_of_no_examples_is_one_line(batch: Any) -> None:
    with pytest.raises(ModelError, match="a batch of no examples"):
        count_examples(batch)


def test_a_rate_for_an_optimizer_without_one_is_refused_in_words_of_the_module(tmp_path: Path) -> None:
    for optimizer, why in (GLD, "GLD takes no lr"), (SaLSA, "SaLSA finds its own step size"):
        module = Regression(optimizer=optimizer)
        module.lr = 0.25
        with pytest.raises(ModelError, match=f"^lr: the module's attribute lr is 0.25, and {why}; do not set lr"):
            fit(module, data(8), tmp_path)


class Unfreezing(BaseFinetuning):
    """Trains the weight alone, and the bias too from the second epoch on, as a group of its own."""

    def freeze_before_training(self, module: Any) -> None:
        module.layer.bias.requires_grad_(False)

    def finetune_function(self, module: Any, epoch: int, optimizer: Any) -> None:
        module.layer.bias.requires_grad_(epoch >= 1)
        if epoch == 1:
            optimizer.add_param_group({"params": [module.layer.bias]})


@pytest.mark.parametrize("optimizer", [partial(torch.optim.AdamW, lr=0.1), SaLSA])
def test_a_run_resumes_with_the_groups_that_a_callback_added(optimizer: Any, tmp_path: Path) -> None:
    whole = Regression(optimizer=optimizer)
    fit(whole, data(8), tmp_path, callbacks=[Unfreezing()], max_epochs=4)
    first = fit(Regression(optimizer=optimizer), data(8), tmp_path, callbacks=[Unfreezing()], max_epochs=2)
    first.save_checkpoint(tmp_path / "a.ckpt")

    second = Regression(optimizer=optimizer)
    trainer = quiet_trainer(max_epochs=4, callbacks=[Unfreezing()])
    trainer.fit(second, data(8), data(7), ckpt_path=tmp_path / "a.ckpt")
    assert len(trainer.optimizers[0].param_groups) == 2
    assert torch.equal(second.layer.weight, whole.layer.weight)
    assert torch.equal(second.layer.bias, whole.layer.bias)


def test_the_state_of_an_older_version_is_one_line(tmp_path: Path) -> None:
    trainer = fit(Regression(optimizer=ParabolicAdam), data(8), tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    older = torch.load(tmp_path / "a.ckpt", weights_only=True)
    for group in older["optimizer_states"][0]["param_groups"]:
        del group["agreement"]
    torch.save(older, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match="ckpt_path: the state to load is of another optimizer or an older"):
        Trainer(accelerator="cpu", max_epochs=4, logger=False, default_root_dir=tmp_path).fit(
            Regression(optimizer=ParabolicAdam), data(8), ckpt_path=tmp_path / "a.ckpt"
        )


@pytest.mark.parametrize("batches_per_step", [1, 2])
def test_loggers_get_all_values_of_their_steps_and_other_steps_log_two(batches_per_step: int, tmp_path: Path) -> None:
    class Counting(Regression):
        def log(self, name: str, *others: Any, **options: Any) -> None:
            logged.append(name)
            super().log(name, *others, **options)

    logged: list[str] = []
    module = Counting(optimizer=partial(torch.optim.SGD, lr=0.01), accumulate_grad_batches=batches_per_step)
    logger = CSVLogger(str(tmp_path))
    fit(module, data(24 // 6 // batches_per_step), tmp_path, logger=logger, log_every_n_steps=4, max_epochs=2)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    assert [int(row["step"]) for row in rows] == [3, 7, 11]
    names = ("train/step_size", "train/step_time", "train/examples_per_second", "train/skipped_steps")
    assert all(row[name] for row in rows for name in names)
    # Of 12 steps the first logs them for whoever reads `callback_metrics`.
    assert [logged.count(name) for name in ("train/loss", *names)] == [12, 12, 4, 4, 4]


def test_a_test_after_a_fit_that_an_error_has_ended_scores_the_weights_to_evaluate(tmp_path: Path) -> None:
    """Schedule-free optimizers train others, which an error leaves in place."""

    class Broken(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 5:
                raise ValueError("broken")

    losses = []
    for callbacks in ([], [Broken()]):
        module = Regression(optimizer=partial(schedulefree.AdamWScheduleFree, lr=0.1))
        trainer = quiet_trainer(default_root_dir=tmp_path, max_steps=5, max_epochs=-1, callbacks=callbacks)
        with pytest.raises(ValueError, match="broken") if callbacks else nullcontext():
            trainer.fit(module, data(4))
        losses.append(trainer.test(module, data(24), verbose=False)[0]["test/loss"])
    assert losses[0] == losses[1]
