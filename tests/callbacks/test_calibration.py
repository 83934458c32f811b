"""Calibration: errors and temperatures against SciPy and torchmetrics, and what a run keeps of them."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from scipy.optimize import minimize_scalar
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim import AdamW
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from callbacks import Calibration
from callbacks.scores.temperature import best_temperature, calibration, expected_calibration_error
from lightning_modules import SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData


def mislabelled(count: int = 32) -> TinyData:
    """The tiny examples, every fifth with another label: no temperature is without an end."""
    data = TinyData(count)
    for row in data.examples[::5]:
        row["labels"] = 1 - row["labels"]
    return data


def trainer(tmp_path: Path, **settings: Any) -> Trainer:
    return quiet_trainer(**{"max_epochs": 3, "default_root_dir": tmp_path} | settings)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 1.0, 5.0, 30.0]), several=st.booleans())
def test_the_temperature_is_the_likeliest(seed: int, scale: float, several: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(60, 4, generator=generator).double()
    if several:
        labels = (torch.rand(60, 4, generator=generator) < logits.sigmoid()).double()
    else:
        labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    loss_of = binary_cross_entropy_with_logits if several else cross_entropy

    def loss(log_temperature: float) -> float:
        return float(loss_of(logits * scale / np.exp(log_temperature), labels))

    found = best_temperature(logits * scale, labels)
    expected = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-9})
    assert 0.05 <= found <= 20.0
    assert loss(np.log(found)) <= expected.fun + 1e-7


def test_temperatures_without_an_end_are_bounded() -> None:
    logits, right = torch.eye(4).double(), torch.arange(4)
    assert best_temperature(logits, right) == pytest.approx(0.05, rel=1e-3)  # all right: ever more confident
    assert best_temperature(logits, (right + 1) % 4) == pytest.approx(20.0, rel=1e-3)  # all wrong: ever less
    assert best_temperature(torch.zeros(4, 4).double(), right) == 1.0  # a constant prediction has none
    assert np.isfinite(calibration(torch.full((4, 4), float("nan")), right)).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_the_error_is_torchmetrics(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(80, 3, generator=generator)
    labels = torch.randint(3, (80,), generator=generator)
    expected = multiclass_calibration_error(logits.softmax(1), labels, num_classes=3, n_bins=15)
    assert calibration(logits, labels).before == pytest.approx(float(expected), abs=1e-5)
    confidence, is_label = logits[:, 0].sigmoid(), labels == 0
    places = np.clip(np.ceil(confidence.double().numpy() * 15).astype(int) - 1, 0, 14)
    gaps = [abs((confidence.double() - is_label.double()).numpy()[places == bin_].sum()) for bin_ in range(15)]
    assert expected_calibration_error(confidence.double(), is_label) == pytest.approx(sum(gaps) / 80)


def test_confident_errors_are_calibrated_away() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4000, 5)
    labels = torch.multinomial(logits.softmax(1), 1).squeeze(1)
    result = calibration(4 * logits, labels)
    assert result.temperature == pytest.approx(4.0, rel=0.1)
    assert result.before > 0.2
    assert result.after < 0.03
    assert result.texts == 4000
    assert binary_calibration_error(logits.softmax(1)[:, 0], (labels == 0).long()) < 0.05


def test_every_checkpoint_has_the_temperature_of_its_weights(tiny: str, tmp_path: Path) -> None:
    found: dict[int, float] = {}

    class Watched(SequenceClassifier):
        def on_validation_end(self) -> None:
            super().on_validation_end()
            found[self.trainer.global_step] = self.temperature

    module = Watched(tiny, optimizer=partial(AdamW, lr=1e-3))
    saver = ModelCheckpoint(dirpath=tmp_path, filename="{step}", monitor="val/loss", save_top_k=-1)
    run = trainer(tmp_path, enable_checkpointing=True, callbacks=[Calibration(), saver], num_sanity_val_steps=0)
    run.fit(module, mislabelled())
    assert len(set(found.values())) == 3
    assert {"val/ece", "val/ece_calibrated"} <= set(run.callback_metrics)
    for step, temperature in found.items():
        assert torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)["task"]["temperature"] == temperature
        rebuilt = Watched.load_from_checkpoint(tmp_path / f"step={step}.ckpt", calibrated_predictions=True)
        assert rebuilt.temperature == temperature


class Own(SequenceClassifier):
    """A module of one's own, of whose loss nobody knows that the least is the best."""


@pytest.mark.parametrize(("mode", "which"), [("max", "best checkpoint"), (None, "last validation")])
def test_the_end_of_a_fit_says_it_for_the_best_checkpoint(
    mode: str | None, which: str, tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callbacks: list[Any] = [Calibration()]
    saver = ModelCheckpoint(dirpath=tmp_path, monitor="val/loss", mode=mode or "min")
    run = trainer(tmp_path, callbacks=[*callbacks, *([saver] if mode else [])], enable_checkpointing=bool(mode))
    module = Own(tiny, optimizer=partial(AdamW, lr=3e-3))
    with caplog.at_level("INFO"):
        run.fit(module, mislabelled())
    (line,) = [record.message for record in caplog.records if record.message.startswith("calibration")]
    assert line.startswith(f"calibration ({which}): expected calibration error 0.")
    weights_of = torch.load(saver.best_model_path, weights_only=True)["task"]["temperature"] if mode else None
    assert f"temperature {weights_of or module.temperature:.3f}, on 32 validation texts" in line
    assert weights_of != module.temperature


def test_a_regression_has_no_probabilities(tiny: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, callbacks=[Calibration()])
    run.fit(SequenceClassifier(tiny, num_labels=1, optimizer=partial(AdamW, lr=1e-3)), TinyData(num_labels=1))
    assert "val/ece" not in run.callback_metrics


class Told(Calibration):
    """Writes what each rank found."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        found = {"result": self._validations.chosen(trainer), "temperature": pl_module.temperature}
        torch.save(found, Path(trainer.default_root_dir) / f"rank{trainer.global_rank}.pt")


@pytest.mark.distributed
def test_ranks_find_one_temperature_together(tiny: str, tmp_path: Path) -> None:
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    run = trainer(tmp_path, callbacks=[Told()], strategy=strategy, devices=2, max_epochs=1)
    # 31 rows: one rank gets 16 of them, the other 15.
    run.fit(SequenceClassifier(tiny, optimizer=partial(AdamW, lr=1e-3)), TinyData(31))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2))
    assert first == second
    assert first["result"][1].texts == 31


def test_a_temperature_that_raises_the_error_is_said_to(caplog: pytest.LogCaptureFixture) -> None:
    """The likeliest temperature need not lower the error of 15 bins: of 30 texts it raises it in a third of cases."""
    caplog.set_level("INFO")
    for seed, raises in ((12, True), (13, False)):
        generator = torch.Generator().manual_seed(seed)
        count = 30 if raises else 3000
        logits = 1.5 * torch.randn(count, 2, generator=generator)
        labels = torch.multinomial((logits / 1.3).softmax(1), 1, generator=generator).squeeze(1)
        callback, module = (
            Calibration(),
            SimpleNamespace(problem_type="single_label_classification", log=lambda *_, **__: None),
        )
        run: Any = SimpleNamespace(
            state=SimpleNamespace(fn="fit"),
            sanity_checking=False,
            global_step=1,
            checkpoint_callback=None,
            world_size=1,
        )
        batch: Any = {"outputs": logits, "labels": labels}
        callback.on_validation_batch_end(run, module, batch, None, 0)  # type: ignore[arg-type]
        callback.on_validation_epoch_end(run, module)  # type: ignore[arg-type]
        callback.on_train_end(run, module)  # type: ignore[arg-type]
        line = caplog.messages[-1]
        before, after = (float(number) for number in re.findall(r"(0\.\d{4})", line)[:2])
        assert (after > before) == raises == ("does not lower this error" in line)
