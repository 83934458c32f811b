"""Line searches under Lightning: manual and automatic optimization, precision, accumulation, checkpoints, two ranks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler

from lightning_modules import SequenceClassifier
from optimizers import SGDSLS, AdamSLS, ParabolicAdam, ParamGroups, SaLSA
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert

METHODS = {
    "sgd": SGDSLS,
    "adam": AdamSLS,
    "adam by layer": partial(AdamSLS, update_rule="cycle", joint_steps=2),
    "salsa": SaLSA,
    "parabolic": partial(ParabolicAdam, total_steps=24),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny_bert(tmp_path_factory.mktemp("tiny"), hidden_dropout_prob=0.2))


class Watched(SequenceClassifier):
    """Writes down every record, and the parameters and loss of every trial; recomputes these losses after the step."""

    def on_train_start(self):
        self.records, self.trials, self.seen, self.recomputed = [], [], [], 0

    def step_closures(self, batches, optimizer):
        step = super().step_closures(batches, optimizer)
        evaluate = step.evaluate
        self.seen = []

        def watched():
            loss = evaluate()
            self.seen.append(([p.detach().clone() for p in self.model.parameters()], loss.item()))
            return loss

        step.evaluate = watched
        self.again = evaluate
        return step

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if not self.seen:
            return
        self.records.append(self.trainer.optimizers[0].last_step)
        self.trials.append(len(self.seen))
        now = [p.detach().clone() for p in self.model.parameters()]
        with torch.no_grad():
            for values, loss in self.seen:
                for p, value in zip(self.model.parameters(), values, strict=True):
                    p.copy_(value)
                with self.trainer.precision_plugin.train_step_context():
                    assert self.again().item() == loss
                    self.recomputed += 1
            for p, value in zip(self.model.parameters(), now, strict=True):
                p.copy_(value)
        self.seen = []


def trainer_for(folder, **options):
    return quiet_trainer(default_root_dir=folder, **({"max_epochs": 1, "limit_val_batches": 0} | options))


def assert_consistent(module, steps):
    assert module.recomputed > 0
    assert len(module.records) <= steps
    for record, trials in zip(module.records, module.trials, strict=True):
        assert record.evaluations == trials
        # A loss of nearly 0 is below its own resolution in float32: there a search may find nothing to go by.
        assert record.accepted or record.loss_before < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_manual_optimization_learns_and_measures_what_it_says(method, tiny, tmp_path):
    module = Watched(tiny, optimizer=METHODS[method], param_groups=ParamGroups(units="layer"))
    trainer = trainer_for(tmp_path, max_epochs=6)
    trainer.fit(module, TinyData(32, 8))
    assert trainer.global_step == 24
    assert_consistent(module, 24)
    losses = [record.loss_before for record in module.records]
    # ParabolicAdam warms up, anneals and makes small steps: 24 from random weights do not get it far.
    assert min(losses) < (1.0 if method in ("sgd", "parabolic") else 0.5) * losses[0]


def half_precision():
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**8))


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("method", ["adam", "salsa", "parabolic"])
def test_mixed_precision_measures_fresh_weights(precision, method, tiny, tmp_path):
    module = Watched(tiny, optimizer=partial(METHODS[method], relative_tolerance=1e-4))
    options = {"plugins": [half_precision()]} if precision == "16-mixed" else {"precision": precision}
    trainer = trainer_for(tmp_path, max_epochs=2, **options)
    trainer.fit(module, TinyData(32, 8))
    assert trainer.global_step == 8
    assert_consistent(module, 8)
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_a_scaled_step_starts_from_the_unscaled_loss_and_slope(tmp_path):
    tiny = str(save_tiny_bert(tmp_path / "m", dropout=0.0))

    def first_step(**options):
        module = Watched(tiny, optimizer=AdamSLS)
        trainer_for(tmp_path, max_steps=1, **options).fit(module, TinyData(32, 8))
        return module.records[0]

    scaled, plain = first_step(plugins=[half_precision()]), first_step()
    assert scaled.loss_before == pytest.approx(plain.loss_before, rel=1e-2)
    assert scaled.slope == pytest.approx(plain.slope, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_over_four_micro_batches_is_the_step_over_their_union(method, tmp_path):
    tiny = str(save_tiny_bert(tmp_path / "m", dropout=0.0))

    def train(accumulate):
        torch.manual_seed(0)
        module = Watched(tiny, optimizer=METHODS[method], accumulate_grad_batches=accumulate)
        module.double()
        trainer_for(tmp_path, max_epochs=3).fit(module, TinyData(32, 16 // accumulate))
        return module

    whole, parts = train(1), train(4)
    assert whole.trials == parts.trials
    for one, other in zip(whole.records, parts.records, strict=True):
        # Losses are float32, and a parabola's curvature is a small difference of them.
        loss_tolerance, tolerance = (1e-5, 1e-4) if method == "parabolic" else (1e-6, 1e-9)
        assert one.loss_before == pytest.approx(other.loss_before, rel=loss_tolerance)
        assert one.step_size == pytest.approx(other.step_size, rel=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(method, tmp_path):
    tiny = str(save_tiny_bert(tmp_path / "m", dropout=0.0))

    def module():
        return SequenceClassifier(tiny, optimizer=METHODS[method], param_groups=ParamGroups(units="layer"))

    through = module()
    trainer_for(tmp_path, max_epochs=4).fit(through, TinyData(32, 8))
    first = trainer_for(tmp_path, max_epochs=2)
    first.fit(module(), TinyData(32, 8))
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module()
    # The growth of a step size per epoch does not depend on how long the run is.
    trainer_for(tmp_path, max_epochs=4).fit(resumed, TinyData(32, 8), ckpt_path=tmp_path / "half.ckpt")
    for a, b in zip(through.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


class Automatic(LightningModule):
    """Lightning's own loop, which knows closures alone."""

    def __init__(self, optimizer):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 2))
        self.make, self.losses = optimizer, []

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        return F.cross_entropy(self.layers(inputs), labels)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

    def configure_optimizers(self):
        return self.make(self.parameters())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_automatic_optimization_with_the_closure_alone(method, precision, tmp_path):
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    data = DataLoader(list(zip(inputs, (inputs[:, 0] > 0).long(), strict=True)), batch_size=16)
    module = Automatic(METHODS[method])
    trainer = trainer_for(tmp_path, max_epochs=10, precision=precision)
    trainer.fit(module, data)
    assert trainer.global_step == 40
    assert trainer.optimizers[0].last_step is not None
    assert sum(module.losses[-4:]) < (0.85 if method == "parabolic" else 0.5) * sum(module.losses[:4])


class Dealt(TinyData):
    """Deals the examples to the ranks in turn."""

    def train_dataloader(self):
        ranks = torch.distributed.is_initialized()
        sampler = DistributedSampler(self.examples, shuffle=False) if ranks else None
        return DataLoader(self.examples, batch_size=self.batch_size, sampler=sampler)


class OnRank(Watched):
    def on_train_end(self):
        state = {"weights": [p.detach() for p in self.model.parameters()], "records": list(map(repr, self.records))}
        torch.save(state, f"{self.trainer.default_root_dir}/rank{self.global_rank}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize("method", ["adam by layer", "salsa"])
def test_two_ranks_take_the_same_decisions(method, tiny, tmp_path):
    trainer = trainer_for(
        tmp_path,
        max_epochs=2,
        devices=2,
        strategy=DDPStrategy(start_method="fork", process_group_backend="gloo", find_unused_parameters=True),
        use_distributed_sampler=False,
    )
    module = OnRank(tiny, optimizer=METHODS[method], param_groups=ParamGroups(units="layer"), accumulate_grad_batches=2)
    trainer.fit(module, Dealt(32, 4))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert first["records"] == second["records"]
    assert len(first["records"]) == 4
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
