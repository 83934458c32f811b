"""Gradient-free optimizers through the module: no gradients, the loss logged, candidates at once."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from lightning.pytorch import Callback

from lightning_modules import ModelError, SequenceClassifier, StepClosures
from optimizers import GLD, LineSearchMeZO, MeZO, ParamGroups
from tests.lightning_modules.test_frozen_encoder import counted
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData

OPTIMIZERS = {
    "gld": lambda groups: GLD(groups, radius=0.1, num_radii=2, units="group"),
    "mezo": lambda groups: MeZO(groups, lr=1e-3),
    "line search": lambda groups: LineSearchMeZO(groups),
}


class Watch(Callback):
    """Losses of all steps, and whether any of them left a gradient."""

    def __init__(self):
        self.losses, self.gradients = [], 0

    def on_train_batch_end(self, trainer, module, *_):
        self.losses.append(trainer.callback_metrics["train/loss"].item())
        self.gradients += sum(p.grad is not None for p in module.parameters())


def fit(module, folder, data=None, callbacks=(), **settings):
    watch = Watch()
    trainer = quiet_trainer(
        **{"max_epochs": 2} | settings, num_sanity_val_steps=0, default_root_dir=folder, callbacks=[watch, *callbacks]
    )
    trainer.fit(module, data or TinyData())
    return trainer, watch


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_needs_no_gradient_and_logs_the_loss(name, tiny, tmp_path):
    torch.manual_seed(0)
    module = SequenceClassifier(tiny, optimizer=OPTIMIZERS[name], param_groups=ParamGroups(units="layer"))
    before = copy.deepcopy(module.model.state_dict())
    backward = []
    module.manual_backward = lambda loss: backward.append(loss)
    trainer, watch = fit(module, tmp_path)
    assert not backward
    assert watch.gradients == 0
    assert trainer.global_step == len(watch.losses) == 8
    assert all(0.1 < loss < 5 for loss in watch.losses)
    assert len(set(watch.losses)) == 8
    assert any(not torch.equal(before[key], value) for key, value in module.model.state_dict().items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_mixed_precision_with_bfloat16_trains(name, tiny, tmp_path):
    torch.manual_seed(0)
    module = SequenceClassifier(tiny, optimizer=OPTIMIZERS[name], trainable="head", dropout=0.0)
    before = [p.detach().clone() for p in module.parameters() if p.requires_grad]
    _, watch = fit(module, tmp_path, precision="bf16-mixed", max_epochs=1)
    assert watch.gradients == 0
    assert all(p.dtype == torch.float32 for p in module.parameters())
    after = [p for p in module.parameters() if p.requires_grad]
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_loss_falls(tiny, tmp_path):
    torch.manual_seed(0)
    module = SequenceClassifier(
        tiny, optimizer=lambda groups: GLD(groups, radius=0.3, num_radii=3, rounds=3), trainable="head"
    )
    _, watch = fit(module, tmp_path, TinyData(batch_size=32), max_epochs=12)
    assert watch.losses[-1] < 0.75 * watch.losses[0]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("trainable", ["all", "head"])
def test_candidates_at_once_have_the_losses_of_one_at_a_time(tiny, accumulate, trainable):
    torch.manual_seed(0)
    module = SequenceClassifier(tiny, trainable=trainable).train()
    loader = iter(TinyData().train_dataloader())
    batches = [part for _ in range(accumulate) for part in module.prepare_batch(next(loader), "train")]
    step = StepClosures(
        module.compute_loss, batches, zero_grad=module.zero_grad, backward=torch.Tensor.backward, module=module
    )
    parameters = [p for p in module.model.parameters() if p.requires_grad][-4:]
    values = [torch.stack([p.detach() + 0.1 * torch.randn_like(p) for _ in range(3)]) for p in parameters]
    step.evaluate()
    encoder = counted([module.model.bert.encoder])
    state = torch.get_rng_state()
    together = step.evaluate_many(parameters, values)
    assert encoder[0] == (0 if trainable == "head" else accumulate)
    assert torch.equal(torch.get_rng_state(), state)
    assert not together.requires_grad
    for row, loss in enumerate(together):
        before = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value[row])
        # Dropout is on: the masks are the same, too.
        torch.testing.assert_close(loss, step.evaluate())
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def test_candidates_at_once_train_the_same_model(tiny, tmp_path):
    models = []
    for candidates in ("one_at_a_time", "at_once"):
        torch.manual_seed(0)
        module = SequenceClassifier(
            tiny, optimizer=lambda groups, c=candidates: GLD(groups, radius=0.3, candidates=c), trainable="head"
        )
        fit(module, tmp_path)
        models.append(module.model.state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


@pytest.mark.parametrize("candidates", ["one_at_a_time", "at_once"])
def test_a_batch_is_freed_when_its_step_is_over(tiny, tmp_path, candidates):
    batches, alive = [], []

    class Count(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            alive.append(sum(each() is not None for each in batches))
            batches.append(weakref.ref(batch["input_ids"]))

    torch.manual_seed(0)
    module = SequenceClassifier(
        tiny, optimizer=lambda groups: GLD(groups, radius=0.3, candidates=candidates), trainable="head"
    )
    # The collector of reference cycles comes rarely where there are as many objects as in a training program.
    gc.disable()
    try:
        fit(module, tmp_path, callbacks=[Count()])
    finally:
        gc.enable()
    assert len(alive) == 8
    assert max(alive) <= 1


def test_nothing_to_train_is_one_clear_line(tiny):
    with pytest.raises(ModelError, match=r"trainable: new leaves nothing to train .*: its checkpoint holds"):
        SequenceClassifier(tiny, trainable="new")
