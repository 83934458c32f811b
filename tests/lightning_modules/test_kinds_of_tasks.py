"""SequenceClassifier on tasks of one's own: several labels per text, weighted classes, targets in any units."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Trainer
from torch.optim import SGD, AdamW

from lightning_modules import BottleneckConfig, LossOptions, ModelError, SequenceClassifier, StepClosures
from optimizers import AdamSLS, ParabolicAdam
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert

SEVERAL = {"num_labels": 3, "problem_type": "multi_label_classification"}


class OwnData(TinyData):
    """The tiny examples with statistics of their labels, as a data module for one's own texts has them."""

    def __init__(self, count: int = 32, batch_size: int = 8, kind: str = "single", scale: tuple = (0.0, 1.0)) -> None:
        super().__init__(count, batch_size, num_labels={"single": 2, "several": 3, "regression": 1}[kind])
        for row in self.examples:
            if kind == "several":
                label = int(row["labels"])
                row["labels"] = torch.tensor([label == 0, label >= 1, label == 2]).float()
            elif kind == "regression":
                row["labels"] = row["labels"] * scale[1] + scale[0]
        labels = torch.stack([row["labels"] for row in self.examples])
        counts = labels.sum(0).tolist() if kind == "several" else labels.long().bincount().tolist()
        self.label_statistics = SimpleNamespace(
            counts=[] if kind == "regression" else counts,
            rows=count,
            mean=float(labels.float().mean()),
            std=float(labels.float().std(correction=0)),
        )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_bert(tmp_path_factory.mktemp("tiny"), dropout=0.0))


def trainer(tmp_path: Path, **settings: Any) -> Trainer:
    return quiet_trainer(**{"max_epochs": 1, "default_root_dir": tmp_path} | settings)


def weights(module: SequenceClassifier) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.model.parameters()])


# Several labels per text


def test_several_labels_per_text_are_learned_and_predicted(tiny: str, tmp_path: Path) -> None:
    metrics = ["micro_f1", "macro_f1", "accuracy", "auroc", "average_precision"]
    module = SequenceClassifier(tiny, metrics=metrics, optimizer=partial(AdamW, lr=3e-3), **SEVERAL)
    assert module.model.config.problem_type == "multi_label_classification"
    run, data = trainer(tmp_path, max_epochs=20), OwnData(60, kind="several")
    run.fit(module, data)
    assert run.callback_metrics["val/micro_f1"] > 0.9
    assert run.callback_metrics["val/auroc"] > 0.9
    predictions = run.predict(module, data)
    assert predictions is not None
    probabilities = torch.cat([batch["probabilities"] for batch in predictions])
    batch = {name: torch.stack([row[name] for row in data.examples]) for name in ("input_ids", "attention_mask")}
    expected = module.model(**batch).logits.sigmoid()
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("optimizer", [AdamSLS, ParabolicAdam])
def test_a_search_trains_several_labels(optimizer: Any, tiny: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=6)
    loss = LossOptions("balanced", label_smoothing=0.05)
    run.fit(SequenceClassifier(tiny, optimizer=optimizer, loss=loss, **SEVERAL), OwnData(60, kind="several"))
    assert run.callback_metrics["val/micro_f1"] > 0.5


# The first predictions


def first_bias(module: SequenceClassifier) -> torch.Tensor:
    return module.model.get_submodule("classifier").bias.detach().clone()


def fit_one_step(module: SequenceClassifier, data: OwnData, tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=-1, max_steps=1, limit_val_batches=0).fit(module, data)


@pytest.mark.parametrize("adapter", [None, peft.LoraConfig(r=2, target_modules=["query"]), BottleneckConfig(size=4)])
def test_a_new_head_of_several_labels_starts_at_their_frequencies(adapter: Any, tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.0), adapter=adapter, **SEVERAL)
    data = OwnData(60, kind="several")
    data.label_statistics = SimpleNamespace(counts=[11, 0, 5], rows=98)
    fit_one_step(module, data, tmp_path)
    biases = [each for name, each in module.model.named_parameters() if name.endswith("bias") and each.shape == (3,)]
    torch.testing.assert_close(biases[-1].sigmoid(), torch.tensor([0.12, 0.01, 0.06]))


def test_a_head_that_was_trained_is_left_as_it_is(tiny: str, tmp_path: Path) -> None:
    module, data = SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.0), **SEVERAL), OwnData(60, kind="several")
    fit_one_step(module, data, tmp_path)
    started = first_bias(module)
    data.label_statistics.counts = [1, 2, 3]
    fit_one_step(module, data, tmp_path)
    assert torch.equal(first_bias(module), started)
    module.model.save_pretrained(tmp_path / "trained")
    again = SequenceClassifier(str(tmp_path / "trained"), optimizer=partial(SGD, lr=0.0), **SEVERAL)
    fit_one_step(again, data, tmp_path)
    assert torch.equal(first_bias(again), started)


# Weighted classes


@pytest.mark.parametrize("split", [1, 3])
def test_accumulated_weighted_batches_are_one_large_batch(split: int, tiny: str, tmp_path: Path) -> None:
    moved, losses = [], []
    for batch_size, accumulated in ((24, 1), (6, 4)):
        module = SequenceClassifier(
            tiny,
            loss=LossOptions({"LABEL_1": 7.0}, label_smoothing=0.1),
            optimizer=partial(SGD, lr=0.1),
            accumulate_grad_batches=accumulated,
            split_by_length=split,
        )
        data = OwnData(60, batch_size)
        # Batches of unlike weight: the first half is almost all of one class.
        data.examples.sort(key=lambda row: (int(row["labels"]), int(row["idx"])))
        run = trainer(tmp_path)
        run.fit(module, data)
        moved.append(weights(module))
        losses.append(float(run.callback_metrics["val/loss"]))
    torch.testing.assert_close(moved[0], moved[1], atol=1e-6, rtol=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("single", {"loss": LossOptions({"LABEL_0": 3.0}, label_smoothing=0.2)}),
        ("several", SEVERAL | {"loss": LossOptions({"LABEL_0": 3.0}, label_smoothing=0.2)}),
        ("regression", {"num_labels": 1}),
    ],
)
def test_trials_see_the_weighted_loss_of_the_step(kind: str, arguments: Any, tiny: str) -> None:
    module, data = SequenceClassifier(tiny, **arguments), OwnData(24, 8, kind)
    batches = list(data.train_dataloader())
    step = StepClosures(
        module.compute_loss,
        batches,
        zero_grad=module.zero_grad,
        backward=torch.Tensor.backward,
        module=module,
        mean_over=module.mean_over,
    )
    loss = step.closure()
    assert torch.equal(step.evaluate(), loss)
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    assert float(loss.detach()) == pytest.approx(float(module.compute_loss(whole).detach()), rel=1e-5)
    parameters = list(module.model.parameters())
    candidates = step.evaluate_many(parameters, [torch.stack([p.detach(), p.detach() + 0.01]) for p in parameters])
    assert float(candidates[0]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert candidates[1] != candidates[0]


def test_balanced_weights_come_from_the_training_split(tiny: str, tmp_path: Path) -> None:
    data = OwnData(40)
    data.label_statistics = SimpleNamespace(counts=[30, 10], rows=40)
    module = SequenceClassifier(tiny, loss=LossOptions("balanced"), optimizer=partial(SGD, lr=0.1))
    run = trainer(tmp_path)
    run.fit(module, data)
    assert module.task_loss.class_weights is not None
    assert module.task_loss.class_weights.tolist() == pytest.approx([40 / 60, 40 / 20])
    run.save_checkpoint(tmp_path / "a.ckpt")
    rebuilt = SequenceClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert rebuilt.loss_options == LossOptions("balanced")
    assert rebuilt.task_loss.class_weights is not None
    assert rebuilt.task_loss.class_weights.tolist() == module.task_loss.class_weights.tolist()
    # Validation scores the same loss from the checkpoint alone.
    (result,) = trainer(tmp_path).validate(rebuilt, TinyData(40), verbose=False)
    assert result["val/loss"] == pytest.approx(float(run.callback_metrics["val/loss"]), rel=1e-6)


def test_balanced_weights_without_counts_are_one_line(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="balanced needs a datamodule that counts its labels"):
        trainer(tmp_path).fit(SequenceClassifier(tiny, loss=LossOptions("balanced")), TinyData())


def test_statistics_change_nothing_of_a_classification_without_options(tiny: str, tmp_path: Path) -> None:
    modules = [SequenceClassifier(tiny, optimizer=AdamSLS) for _ in range(2)]
    for module, data in zip(modules, (TinyData(), OwnData()), strict=True):
        trainer(tmp_path).fit(module, data)
    assert torch.equal(weights(modules[0]), weights(modules[1]))


# Regression in the user's units


def regression(tiny: str, data: OwnData, tmp_path: Path, **settings: Any) -> tuple[SequenceClassifier, Trainer]:
    arguments = {"metrics": ["rmse", "mae", "pearson"], "optimizer": partial(AdamW, lr=2e-3)} | settings
    torch.manual_seed(1)  # for the head, which is new
    module = SequenceClassifier(tiny, num_labels=1, **arguments)
    run = trainer(tmp_path, max_epochs=10)
    run.fit(module, data)
    return module, run


@pytest.mark.parametrize("scale", [(5.0, 1.0), (1e4, 3e3)])
@pytest.mark.parametrize("optimizer", [partial(AdamW, lr=2e-3), ParabolicAdam])
def test_targets_far_from_zero_are_learned_as_fast_as_others(
    optimizer: Any, scale: tuple, tiny: str, tmp_path: Path
) -> None:
    """With targets of 1 to 10.5 as they are, 78 steps left the error at the targets' spread."""
    data = OwnData(64, 8, "regression", scale)
    module, run = regression(tiny, data, tmp_path, optimizer=optimizer)
    std = data.label_statistics.std
    assert module.target_mean == pytest.approx(data.label_statistics.mean)
    assert module.target_std == pytest.approx(std)
    # Half of the spread in 80 steps; errors in the targets' units.
    assert run.callback_metrics["val/rmse"] < std / 2
    assert run.callback_metrics["val/loss"] == pytest.approx(
        float(run.callback_metrics["val/rmse"] / std) ** 2, rel=1e-2
    )
    rmse = float(run.callback_metrics["val/rmse"])
    predictions = run.predict(module, data)
    assert predictions is not None
    scores = torch.cat([batch["scores"] for batch in predictions])
    targets = torch.stack([row["labels"] for row in data.examples])
    found = float((scores - targets).square().mean().sqrt())
    assert found == pytest.approx(rmse, rel=1e-3)


def test_the_scale_of_the_targets_does_not_matter(tiny: str, tmp_path: Path) -> None:
    modules = [
        regression(tiny, OwnData(32, 8, "regression", scale), tmp_path)[0] for scale in ((0.0, 1.0), (64.0, 8.0))
    ]
    torch.testing.assert_close(weights(modules[0]), weights(modules[1]), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_statistics_of_targets_travel_with_the_checkpoint(precision: Any, tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, num_labels=1, optimizer=partial(SGD, lr=0.01))
    run, data = trainer(tmp_path, precision=precision), OwnData(32, 8, "regression", (1000.0, 0.3))
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    rebuilt = SequenceClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert (rebuilt.target_mean, rebuilt.target_std) == (data.label_statistics.mean, data.label_statistics.std)
    fresh = SequenceClassifier(tiny, num_labels=1)
    trainer(tmp_path, precision=precision).predict(fresh, data, ckpt_path=tmp_path / "a.ckpt")
    assert fresh.target_mean == data.label_statistics.mean


def test_regression_without_statistics_is_as_it_was(tiny: str, tmp_path: Path) -> None:
    module, data = SequenceClassifier(tiny, num_labels=1), TinyData(8, num_labels=1)
    (batch,) = data.train_dataloader()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(module(batch), module.model(**inputs).logits.squeeze(-1))
    assert torch.equal(module.compute_loss(batch), torch.nn.functional.mse_loss(module(batch), batch["labels"]))


# Checkpoints, main metric, calibration


def test_a_checkpoint_holds_the_kind_of_task(tiny: str, tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.1), **SEVERAL), OwnData(kind="several"))
    run.save_checkpoint(tmp_path / "a.ckpt")
    assert SequenceClassifier.load_from_checkpoint(tmp_path / "a.ckpt").problem_type == "multi_label_classification"
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    with pytest.raises(ModelError, match=r"another task, 3 labels per text, several, than this run's, 3 labels;"):
        trainer(tmp_path).predict(SequenceClassifier(tiny, num_labels=3), TinyData(), ckpt_path=tmp_path / "a.ckpt")


def test_a_checkpoint_of_an_earlier_version_loads(tiny: str, tmp_path: Path) -> None:
    run = trainer(tmp_path)
    module = SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.1))
    run.fit(module, TinyData())
    run.save_checkpoint(tmp_path / "new.ckpt")
    checkpoint = torch.load(tmp_path / "new.ckpt", weights_only=False)
    del checkpoint["task"]
    for name in ("problem_type", "loss"):
        del checkpoint["hyper_parameters"][name]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    rebuilt = SequenceClassifier.load_from_checkpoint(tmp_path / "old.ckpt")
    assert torch.equal(weights(rebuilt), weights(module))
    trainer(tmp_path, max_epochs=2).fit(
        SequenceClassifier(tiny, optimizer=partial(SGD, lr=0.1)), TinyData(), ckpt_path=tmp_path / "old.ckpt"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ("val/accuracy", "max")),
        ({"metrics": ["macro_f1", "accuracy"]}, ("val/macro_f1", "max")),
        ({"num_labels": 1, "metrics": ["rmse", "pearson"]}, ("val/rmse", "min")),
        ({"num_labels": 1}, ("val/pearson", "max")),
        (SEVERAL, ("val/micro_f1", "max")),
        ({"metrics": []}, ("val/loss", "min")),
    ],
)
def test_the_main_metric_is_the_first(arguments: Any, expected: tuple[str, str], tiny: str) -> None:
    module = SequenceClassifier(tiny, **arguments)
    assert (module.main_metric, module.main_metric_mode) == expected


@pytest.mark.parametrize("arguments", [{}, SEVERAL])
def test_a_temperature_is_used_where_it_is_wanted(arguments: Any, tiny: str, tmp_path: Path) -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    for wanted in (False, True):
        module = SequenceClassifier(tiny, calibrated_predictions=wanted, **arguments)
        module.temperature = 2.0
        scaled = logits / 2 if wanted else logits
        expected = scaled.sigmoid() if arguments else scaled.softmax(-1)
        assert torch.equal(module.probabilities(logits), expected)
