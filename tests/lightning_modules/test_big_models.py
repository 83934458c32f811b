"""Gradient checkpointing and compilation leave a search's losses what they are, dropout masks included."""

from __future__ import annotations

import shutil
import warnings
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import nn
from torch.utils.data import DataLoader, default_collate

from lightning_modules import BottleneckConfig, ClosureModule, ModelError, SequenceClassifier
from lightning_modules.closures import StepClosures
from optimizers import GLD, AdamSLS, MeZO, ParabolicAdam, SaLSA
from tests.architectures import save_pretrained_backbone
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, rows, save_tiny_bert

peft = pytest.importorskip("peft")


class Records(Callback):
    """The records of all steps, and how often the first layer ran in each."""

    def __init__(self):
        self.steps, self.runs = [], []

    def on_fit_start(self, trainer, pl_module):
        layers = [module for name, module in pl_module.named_modules() if name.endswith("layer.0.attention")]
        layers[0].register_forward_hook(lambda *_: self.runs.append(torch.is_grad_enabled()))

    def on_train_batch_end(self, trainer, *_):
        record = trainer.optimizers[0].last_step
        self.steps.append((record.loss_before, record.loss_after, record.evaluations, record.step_size))


def trained(module, data, steps=5, records=None):
    trainer = quiet_trainer(max_steps=steps, limit_val_batches=0, callbacks=[records] if records else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data)
    return trainer


def classified(folder, records, steps=5, **arguments):
    seed_everything(0, verbose=False)
    module = SequenceClassifier(str(folder), **arguments)
    trained(module, TinyData(40), steps, records)
    return [parameter.detach().clone() for parameter in module.parameters()]


@pytest.mark.parametrize(
    "adapter",
    [None, peft.LoraConfig(r=2, lora_dropout=0.2, target_modules=["query"]), BottleneckConfig()],
    ids=["full", "lora", "bottleneck"],
)
@pytest.mark.parametrize("optimizer", [AdamSLS, SaLSA, partial(ParabolicAdam, total_steps=5)], ids=str)
def test_gradient_checkpointing_replays_the_masks(tmp_path, optimizer, adapter):
    folder = save_tiny_bert(tmp_path)
    plain, again = Records(), Records()
    settings = {"optimizer": optimizer, "adapter": adapter}
    # Where padding may be skipped, the first forward pass tries the model without, in runs of the layer of its own.
    expected = classified(folder, plain, skip_padding=False, **settings)
    found = classified(folder, again, gradient_checkpointing=True, **settings)
    assert again.steps == plain.steps
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    # The layer runs once more in each backward pass, and not in trials.
    assert again.runs.count(False) == plain.runs.count(False)
    assert again.runs.count(True) == 2 * plain.runs.count(True) == 2 * len(plain.steps)


@pytest.mark.parametrize("optimizer", [partial(GLD, candidates="at_once"), MeZO], ids=["GLD", "MeZO"])
def test_gradient_checkpointing_without_gradients(tmp_path, optimizer):
    folder = save_tiny_bert(tmp_path)
    plain, again = Records(), Records()
    settings = {"optimizer": optimizer, "steps": 2, "trainable": "head"}
    classified(folder, plain, **settings)
    classified(folder, again, gradient_checkpointing=True, **settings)
    assert again.steps == plain.steps


def test_an_architecture_without_gradient_checkpointing_is_refused(tmp_path):
    folder = save_pretrained_backbone(tmp_path, "albert")
    with pytest.raises(ModelError, match=r"^gradient_checkpointing: AlbertForSequenceClassification does not support"):
        SequenceClassifier(folder, gradient_checkpointing=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_compiled_model_has_the_losses_of_the_uncompiled_one(tmp_path):
    """inductor (torch 2.13) draws other masks than eager, unless its option fallback_random is set."""
    folder = save_tiny_bert(tmp_path, num_hidden_layers=1)
    batch = default_collate(rows(8))
    found = []
    torch._dynamo.reset()
    for compiled in (False, True):
        seed_everything(0, verbose=False)
        module = SequenceClassifier(str(folder), compile=compiled)
        optimizer = AdamSLS(module.parameters(), initial_step_size=1.0)
        losses = []
        for _ in range(3):
            step = StepClosures(
                module.compute_loss, [batch], zero_grad=optimizer.zero_grad, backward=torch.Tensor.backward
            )
            losses += [step.closure(), step.evaluate()]
            assert losses[-1] == pytest.approx(losses[-2].item(), rel=1e-6)
            optimizer.step(step.closure, evaluate=step.evaluate)
            losses += [optimizer.last_step.loss_after, optimizer.last_step.evaluations]
        module.eval()
        losses.append(step.evaluate())
        found.append([float(loss) for loss in losses])
    assert max(found[0]) > 1  # the first step searches
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_features_of_a_frozen_encoder_are_not_compiled_anew_in_every_step(tmp_path):
    """A step's features stand in for forward; dynamo (torch 2.13) guards on what they hold if it traces them."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    folder = save_tiny_bert(tmp_path)
    plain = Records()
    settings = {"optimizer": AdamSLS, "trainable": "head", "skip_padding": False}
    expected = classified(folder, plain, **settings)
    torch._dynamo.reset()
    seed_everything(0, verbose=False)
    module = SequenceClassifier(str(folder), **settings)
    counts = []

    class Count(Callback):
        def on_train_batch_end(self, *_):
            counts.append(len(graphs))

    module.model.compile(backend=backend)
    trainer = trained(module, TinyData(40), 5, Count())
    assert counts[0] > 0
    assert counts[1] == counts[-1]
    assert len(counts) == 5
    assert trainer.callback_metrics["train/loss"] == pytest.approx(plain.steps[-1][0], rel=1e-5)
    for one, other in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(one.detach(), other)


class OwnModule(ClosureModule):
    """A module of a user's own, with dropout."""

    def __init__(self, **training):
        super().__init__(**training)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 2))

    def compute_loss(self, batch):
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])


@pytest.mark.parametrize("kind", ["own", "classifier"])
def test_a_module_that_torch_compile_has_wrapped_trains_with_a_compiled_loss(tmp_path, kind):
    """Lightning 2.6 compiles training_step then, and dynamo (torch 2.13) cannot trace an optimizer that runs it."""
    torch.manual_seed(0)
    inputs = torch.randn(40, 4)
    loader = DataLoader([(row, (row[0] > 0).long()) for row in inputs], batch_size=8)
    folder = save_tiny_bert(tmp_path)
    graphs, found = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    for compiled in (False, True):
        seed_everything(0, verbose=False)
        module = OwnModule(optimizer=AdamSLS) if kind == "own" else SequenceClassifier(str(folder), optimizer=AdamSLS)
        data = loader if kind == "own" else TinyData(40)
        trainer = trained(torch.compile(module, backend=backend) if compiled else module, data)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "_" not in name}
        found.append(metrics | {"size": trainer.optimizers[0].last_step.step_size})
        assert bool(graphs) == compiled
    assert len(graphs) == 2  # with gradients and without, whatever the lengths of a batch's texts
    assert found[1] == pytest.approx(found[0], rel=1e-5)
