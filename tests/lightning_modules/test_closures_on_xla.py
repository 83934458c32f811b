"""The closures of a real model on an XLA device: the same masks in every trial of a step, and no graph per step.

Runs with `make test-xla`, beside `tests/optimizers/test_on_xla.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

from lightning_modules import SequenceClassifier, StepClosures
from optimizers import AdamSLS
from tests.tiny_models import rows, save_tiny_bert

torch_xla = pytest.importorskip("torch_xla", reason="torch_xla is not installed (make test-xla)")
from torch_xla.debug import metrics  # noqa: E402

pytestmark = [pytest.mark.xla, pytest.mark.timeout(1200)]

# Before any backward pass: autograd (torch 2.9) counts its devices once, and an XLA device made later fails in it.
DEVICE = torch_xla.device()


def test_trials_of_a_model_with_dropout_share_masks_and_graphs(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path, num_hidden_layers=1)
    torch.manual_seed(0)
    module = SequenceClassifier(str(tmp_path)).to(DEVICE)
    optimizer = AdamSLS(module.parameters(), condition="momentum")
    compiled, trials = [], []
    for number in range(6):
        batch = {name: value.to(DEVICE) for name, value in default_collate(rows(8, seed=number)).items()}
        step = StepClosures(
            module.compute_loss,
            [batch],
            zero_grad=optimizer.zero_grad,
            backward=torch.Tensor.backward,
            device=DEVICE,
            parameters=list(module.parameters()),
        )
        optimizer.step(step.closure, evaluate=step.evaluate)
        trials.append(optimizer.last_step.evaluations)
        assert float(step.evaluate()) == pytest.approx(optimizer.last_step.loss_after, rel=1e-5)
        assert bool(step.finite)
        torch_xla.sync()
        compiled.append(metrics.metric_data("CompileTime")[0])
    assert len(set(trials)) > 1  # some steps search
    assert compiled[2] == compiled[-1], compiled
