"""Optimizers of others that are written from their papers, against the papers' equations in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from benchmarks.peers.gen import GeN
from benchmarks.peers.hidden_size_rate import hidden_size_rate
from benchmarks.peers.mechanic import MechanicAdamW
from benchmarks.peers.polynomial_averaging import PolynomialAveraging
from benchmarks.peers.schedule_free_plus import ScheduleFreePlus
from benchmarks.study.grid import expand_cells
from benchmarks.study.study_file import load_study
from lightning_modules import SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert

ROOT = Path(__file__).resolve().parents[2]
CURVATURE = np.array([1.0, 4.0, 0.25])
TARGETS = np.array([[1.0, -1.0, 2.0], [0.5, -2.0, 3.0], [2.0, 0.0, 1.0], [1.5, -1.5, 4.0]])  # of four batches in turn


def loss_of(weights: np.ndarray, step: int) -> float:
    return float(0.5 * (CURVATURE * (weights - TARGETS[step % 4]) ** 2).sum())


def gradient_of(weights: np.ndarray, step: int) -> np.ndarray:
    return CURVATURE * (weights - TARGETS[step % 4])


def parabolas(
    make: Callable[[list[Tensor]], Any], steps: int, with_evaluate: bool, start: np.ndarray | None = None
) -> tuple[Tensor, list[float], Any]:
    """Return the weights, the rates and the optimizer after so many steps on the four batches in turn."""
    weights = torch.tensor(np.zeros(3) if start is None else start, requires_grad=True)
    optimizer = make([weights])
    if hasattr(optimizer, "train"):
        optimizer.train()
    rates = []
    for step in range(steps):
        target = torch.tensor(TARGETS[step % 4])

        def evaluate(target: Tensor = target) -> Tensor:
            return 0.5 * (torch.tensor(CURVATURE) * (weights - target) ** 2).sum()

        def closure(evaluate: Callable[[], Tensor] = evaluate) -> Tensor:
            with torch.enable_grad():  # Mechanic's step calls it without
                optimizer.zero_grad()
                loss = evaluate()
                loss.backward()
            return loss

        optimizer.step(closure, **({"evaluate": evaluate} if with_evaluate else {}))
        rates.append(optimizer.param_groups[0]["lr"])
    return weights.detach(), rates, optimizer


@pytest.mark.parametrize("warmup", [0, 3])
def test_schedule_free_plus_follows_the_equations(warmup: int) -> None:
    """From a point near the first batch's minimiser, so that the step sizes, and with them the weights, grow."""
    steps, beta, (beta1, beta2), eps = 12, 0.9, (0.9, 0.95), 1e-8
    x = y = z = start = 0.9 * TARGETS[0]
    first = second = np.zeros(3)
    largest, weight_sum = 0.0, 0.0
    for t in range(1, steps + 1):
        gradient = gradient_of(y, t - 1)
        ahead = beta * float(gradient @ (z - x))
        rate = max(0.0, loss_of(y, t - 1) + ahead) / (math.sqrt(math.pi / 2) * float(np.abs(gradient).sum()))
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        z = z - rate * (first / (1 - beta1**t)) / (np.sqrt(second / (1 - beta2**t)) + eps)
        largest = max(largest, rate)
        share = 1.0
        if t > warmup:
            weight_sum += largest**2
            share = largest**2 / weight_sum
        x = (1 - share) * x + share * z
        y = beta * x + (1 - beta) * z
    weights, _, optimizer = parabolas(
        lambda params: ScheduleFreePlus(params, warmup_ratio=warmup / steps, total_steps=steps), steps, False, start
    )
    np.testing.assert_allclose(weights.numpy(), y, rtol=1e-10)
    parameter = optimizer.param_groups[0]["params"][0]
    optimizer.eval()
    np.testing.assert_allclose(parameter.detach().numpy(), x, rtol=1e-10)
    optimizer.train()
    np.testing.assert_allclose(parameter.detach().numpy(), y, rtol=1e-10)


def test_gen_follows_the_equations() -> None:
    """The parabola is measured along a whole step of AdamW, on the batch of the next one."""
    steps, every, rate, decay, (beta1, beta2), eps = 11, 3, 0.1, 0.01, (0.9, 0.999), 1e-8
    weights, first, second = np.zeros(3), np.zeros(3), np.zeros(3)
    before, expected = None, []
    for t in range(steps):
        if before is not None:
            after, start = loss_of(weights, t), loss_of(before, t)
            behind = loss_of(2 * before - weights, t)
            if after - 2 * start + behind > 0 and behind - after > 0:
                minimiser = rate / 2 * (behind - after) / (after - 2 * start + behind)
                rate = 0.9 * rate + 0.1 * (1 - t / steps) * min(2 * rate, max(rate / 2, minimiser))
            before = None
        gradient = gradient_of(weights, t)
        if (t + 1) % every == 0:
            before = weights
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        step = (first / (1 - beta1 ** (t + 1))) / (np.sqrt(second / (1 - beta2 ** (t + 1))) + eps)
        weights = weights - rate * decay * weights - rate * step
        expected.append(rate)
    found, rates, _ = parabolas(lambda params: GeN(params, lr=0.1, every=every, total_steps=steps), steps, True)
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
    np.testing.assert_allclose(found.numpy(), weights, rtol=1e-9)
    assert len(set(rates)) > 2  # it was measured


@pytest.mark.parametrize("optimizer", [GeN, ScheduleFreePlus])
def test_a_run_of_unknown_length_is_refused(optimizer: Any) -> None:
    with pytest.raises(ValueError, match="total_steps: the run's length is not known"):
        optimizer([torch.zeros(1, requires_grad=True)])


def test_mechanic_finds_a_scale_for_any_rate() -> None:
    """mechanic-pytorch 0.0.1 around AdamW of torch 2.13: steps of one size from rates a hundred times apart."""
    ends = [
        parabolas(lambda params, lr=lr: MechanicAdamW(params, lr=lr, weight_decay=0.0), 60, False)[0]
        for lr in (0.01, 1.0)
    ]
    assert ends[0].norm() > 1e-3
    assert 0.5 < ends[0].norm() / ends[1].norm() < 2


class Iterates(Callback):
    """Keeps a weight after every step, and what is validated."""

    def __init__(self) -> None:
        self.after_steps: list[Tensor] = []
        self.validated: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.after_steps.append(pl_module.model.classifier.weight.detach().clone())

    def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.validated.append(pl_module.model.classifier.weight.detach().clone())


def test_the_average_of_the_iterates_is_validated_and_kept(tmp_path: Path) -> None:
    kept, gamma = Iterates(), 8.0
    module = SequenceClassifier(str(save_tiny_bert(tmp_path)), optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    trainer = quiet_trainer(max_epochs=1, num_sanity_val_steps=0, callbacks=[PolynomialAveraging(gamma), kept])
    trainer.fit(module, TinyData(32, 8))
    average = torch.zeros_like(kept.after_steps[0])
    for t, iterate in enumerate(kept.after_steps, 1):
        share = (1 + gamma) / (t + gamma)
        average = (1 - share) * average + share * iterate
    assert len(kept.after_steps) > 2
    torch.testing.assert_close(kept.validated[-1], average)
    torch.testing.assert_close(module.model.classifier.weight.detach(), average)
    assert not torch.allclose(kept.after_steps[-1], average)


def test_the_study_has_the_rates_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """All models of the study but MPNet have 384 hidden units."""
    monkeypatch.chdir(ROOT)
    cells = [
        cell
        for cell in expand_cells(load_study(ROOT / "configs" / "studies" / "learning_rate_free.yaml"))
        if cell.labels["method"] == "tinker formula"
    ]
    assert {"LoRA" in cell.name for cell in cells} == {True, False}
    for cell in cells:
        few_weights = "LoRA" in cell.name or "head only" in cell.name
        expected = hidden_size_rate(768 if "MPNet" in cell.name else 384, lora=few_weights)
        assert cell.settings["model.optimizer.lr"] == pytest.approx(expected, rel=5e-3)
    assert hidden_size_rate(2000) == 5e-5
    assert hidden_size_rate(4096, lora=True) == pytest.approx(2.857e-4, rel=1e-3)
