"""Optimizers of other packages: what their steps are handed, and what is refused before training."""

from __future__ import annotations

from functools import partial

import prodigyopt
import pytest
import pytorch_optimizer
import torch
import torchzero
from torch.nn.utils import parameters_to_vector
from torch.optim.lr_scheduler import LinearLR
from transformers import Adafactor

from benchmarks.compatibility.optimizers import SmallClassifier, loader
from lightning_modules import GradientClip, ModelError, Schedule, SequenceClassifier
from lightning_modules.steps.optimizer_calls import check_step
from optimizers import GLD, SGDSLS, AdamWL2SP, LineSearchMeZO, MeZO, ParabolicAdam, ParamGroups, SaLSA
from optimizers.random_state import ReplayedDraws
from tests.optimizers.test_under_lightning import half_precision
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData

SAM = partial(pytorch_optimizer.SAM, base_optimizer=torch.optim.SGD, lr=0.1)


def fit(module, data=None, epochs=1, ckpt_path=None, **options):
    trainer = quiet_trainer(**({"max_epochs": epochs, "limit_val_batches": 0} | options))
    trainer.fit(module, data or loader(), ckpt_path=ckpt_path, weights_only=False)
    return trainer


def test_what_is_drawn_between_two_losses_of_a_step_is_not_drawn_again():
    """SPSA and BSAM draw their noise from torch's generator between two losses; it must differ from draw to draw."""
    draws = ReplayedDraws()
    with draws.replayed():
        first = torch.rand(2)
    one = torch.rand(2)
    with draws.replayed():
        assert torch.equal(torch.rand(2), first)
    assert not torch.equal(torch.rand(2), one)


def test_the_first_half_of_a_sam_step_follows_the_gradient_of_its_own_batch():
    """pytorch_optimizer 4.1.0: SAM.step perturbs by the gradient in ``.grad``, before it calls the closure."""
    module = SmallClassifier(optimizer=SAM)
    module.layers[2].p = 0.0
    seen = []

    class Recorded(pytorch_optimizer.SAM):
        def first_step(self, zero_grad=False):
            seen.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
            super().first_step(zero_grad)

    module.optimizer = partial(Recorded, base_optimizer=torch.optim.SGD, lr=0.0)
    fit(module)
    for batch, gradient in zip(loader(), seen, strict=True):
        expected = torch.autograd.grad(module.compute_loss(batch), module.parameters())
        torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in expected]))


def test_the_logged_loss_is_that_at_the_start_of_the_step():
    """SAM and LBFGS call the closure several times; the first call is the loss of the batch."""
    module = SmallClassifier(optimizer=SAM)
    module.layers[2].p = 0.0
    expected = module.compute_loss(next(iter(loader()))).item()
    trainer = fit(module, max_steps=1)
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(expected, rel=1e-6)


def test_an_optimizer_that_differentiates_the_gradient_trains_a_transformer(tiny):
    """torch 2.13.0: fused attention has no second derivative, the plain one has."""
    module = SequenceClassifier(tiny, optimizer=pytorch_optimizer.AdaHessian)
    before = [p.detach().clone() for p in module.model.parameters()]
    fit(module, TinyData(16, 8))
    assert any(not torch.equal(a, b) for a, b in zip(before, module.model.parameters(), strict=True))
    assert all(p.grad is None for p in module.parameters()), "a gradient with its graph holds the activations"
    with pytest.raises(ModelError, match="AdaHessian differentiates the gradient"):
        fit(SmallClassifier(optimizer=pytorch_optimizer.AdaHessian, gradient_clip=GradientClip(1.0)))


@pytest.mark.parametrize(
    ("treated", "line"),
    [
        ({"scales_gradients": True}, "precision: AdaHessian needs the gradient more than once in a step"),
        ({"ranks": 2}, "AdaHessian differentiates the gradient, .* train on one device"),
    ],
)
def test_an_optimizer_that_differentiates_the_gradient_gets_it_as_it_is(treated, line):
    optimizer = pytorch_optimizer.AdaHessian([torch.nn.Parameter(torch.ones(2))])
    usual = {"scales_gradients": False, "ranks": 1, "clips_gradients": False}
    check_step(optimizer, **usual)
    with pytest.raises(ModelError, match=line):
        check_step(optimizer, **(usual | treated))


def test_an_optimizer_of_a_single_group_gets_one_unless_a_division_is_asked_for():
    module = SmallClassifier(optimizer=partial(torch.optim.LBFGS, max_iter=2))
    (group,) = fit(module, max_steps=1).optimizers[0].param_groups
    assert set(group["params"]) == set(module.parameters())
    module = SmallClassifier(optimizer=torch.optim.LBFGS, param_groups=ParamGroups())
    with pytest.raises(ModelError, match="LBFGS doesn't support per-parameter options"):
        fit(module)


def test_an_optimizer_whose_rate_is_none_trains():
    """transformers' Adafactor finds its learning rate itself by default."""
    trainer = fit(SmallClassifier(optimizer=Adafactor), max_steps=2)
    assert trainer.global_step == 2
    assert "train/step_size" not in trainer.callback_metrics
    assert {group["lr"] for group in trainer.optimizers[0].param_groups} == {None}


def test_adafactor_moves_by_its_rate_where_it_does_not_find_its_own():
    moves = []
    for options in ({"lr": 1e-3, "relative_step": False}, {"lr": 1e-5, "relative_step": False}, {"lr": None}):
        module = SmallClassifier(optimizer=partial(pytorch_optimizer.AdaFactor, **options))
        before = parameters_to_vector(module.parameters()).detach()
        fit(module, max_steps=1)
        moves.append(float((parameters_to_vector(module.parameters()).detach() - before).norm()))
    assert moves[0] == pytest.approx(100 * moves[1], rel=0.01)
    assert moves[2] > 2 * moves[0]


REFUSED = {
    "no rate to schedule": (
        {"optimizer": pytorch_optimizer.AliG, "lr_scheduler": Schedule(partial(LinearLR, total_iters=4))},
        "lr_scheduler: AliG keeps no learning rate",
    ),
    "a rate of None to schedule": (
        {"optimizer": Adafactor, "lr_scheduler": Schedule(partial(LinearLR, total_iters=4))},
        "lr_scheduler: Adafactor keeps no learning rate",
    ),
    "a rate without use": (
        {"optimizer": partial(pytorch_optimizer.AdaFactor, lr=5e-5)},
        "optimizer: AdaFactor takes no notice of lr while relative_step is true",
    ),
    "groups of its own": (
        {"optimizer": pytorch_optimizer.AdamMini, "param_groups": ParamGroups()},
        "param_groups: AdamMini makes its own groups",
    ),
    "a loop of its own": ({"optimizer": partial(pytorch_optimizer.LOMO, lr=0.1)}, "LOMO moves the parameters inside"),
    "dense gradients": ({"optimizer": torch.optim.SparseAdam}, r"SparseAdam .* does not support dense gradients"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_one_line(case):
    options, line = REFUSED[case]
    with pytest.raises(ModelError, match=line):
        fit(SmallClassifier(**options))


def test_the_scaler_of_half_precision_calls_no_closure_in_the_middle_of_a_step():
    with pytest.raises(ModelError, match="precision: SAM needs the gradient more than once"):
        fit(SmallClassifier(optimizer=SAM), plugins=[half_precision()])


def test_prodigy_with_rates_by_layer_is_one_line(tiny):
    """prodigyopt 1.1.2 says in its first step that it takes one rate for all groups."""
    module = SequenceClassifier(tiny, optimizer=prodigyopt.Prodigy, param_groups=ParamGroups(lr_decay=0.5))
    with pytest.raises(ModelError, match=r"optimizer: Prodigy .*Setting different lr values"):
        fit(module, TinyData(16, 8))


def test_a_sparse_gradient_that_no_module_tells_of_names_the_way_out():
    """torch 2.13: a fused SGD takes no sparse gradients, and the others do."""

    class Table(SmallClassifier):
        def __init__(self, **options):
            super().__init__(**options)
            self.table = torch.nn.Parameter(torch.zeros(2, 1))

        def compute_loss(self, batch):
            rows = torch.zeros(1, dtype=torch.long)
            return super().compute_loss(batch) + torch.nn.functional.embedding(rows, self.table, sparse=True).sum()

    with pytest.raises(ModelError, match=r"does not support sparse gradients; try fused: false$"):
        fit(Table(optimizer=partial(torch.optim.SGD, lr=0.1)))
    fit(Table(optimizer=partial(torch.optim.SGD, lr=0.1, fused=False)))


class SparseTable(SmallClassifier):
    def __init__(self, **options):
        super().__init__(**options)
        self.table = torch.nn.Embedding(2, 1, sparse=True)

    def compute_loss(self, batch):
        return super().compute_loss(batch) + self.table(torch.zeros(1, dtype=torch.long)).sum()


class ComplexOffset(SmallClassifier):
    def __init__(self, **options):
        super().__init__(**options)
        self.offset = torch.nn.Parameter(torch.ones(2, dtype=torch.cfloat))

    def compute_loss(self, batch):
        return super().compute_loss(batch) + self.offset.abs().sum()


@pytest.mark.parametrize("method", [ParabolicAdam, SaLSA, SGDSLS, AdamWL2SP])
def test_a_sparse_gradient_that_our_optimizers_refuse_is_one_line(method):
    line = rf"optimizer: {method.__name__} .*sparse gradients \(.*sparse=False.*\(2, 1\)"
    with pytest.raises(ModelError, match=line):
        fit(SparseTable(optimizer=method))


def test_what_the_first_step_of_a_trainers_second_fit_tells_is_one_line_too(caplog):
    trainer = fit(SmallClassifier(optimizer=partial(torch.optim.SGD, lr=0.1)), loader())
    trainer.fit_loop.max_epochs = 2
    with pytest.raises(ModelError, match=r"optimizer: ParabolicAdam does not go with this model .* first step"):
        trainer.fit(SparseTable(optimizer=ParabolicAdam), loader())
    assert "override" not in caplog.text  # a callback of the first module by one of the second


@pytest.mark.parametrize("method", [ParabolicAdam, SaLSA, SGDSLS, GLD, MeZO, LineSearchMeZO])
def test_complex_parameters_that_our_optimizers_refuse_are_one_line(method):
    with pytest.raises(ModelError, match=rf"optimizer: {method.__name__} .*complex parameters: \(2,\)"):
        fit(ComplexOffset(optimizer=method))


def test_an_error_of_the_loss_or_of_ones_own_optimizer_keeps_its_traceback():
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            raise KeyError("mine")

    class Wrong(SmallClassifier):
        def compute_loss(self, batch):
            raise KeyError("mine")

    for module in (SmallClassifier(optimizer=Own), Wrong(optimizer=torch.optim.SGD)):
        with pytest.raises(KeyError, match="mine"):
            fit(module)


def test_a_torchzero_optimizer_is_not_resumed(tmp_path):
    """torchzero 0.4.4 keeps the parameters in its state and would train the checkpoint's in place of the model's."""
    make = lambda params: torchzero.Optimizer(params, torchzero.m.Adam(), torchzero.m.LR(1e-2))  # noqa: E731
    fit(SmallClassifier(optimizer=make)).save_checkpoint(tmp_path / "half.ckpt")
    with pytest.raises(ModelError, match="ckpt_path: Optimizer cannot be resumed"):
        fit(SmallClassifier(optimizer=make), epochs=2, ckpt_path=str(tmp_path / "half.ckpt"))


class Forwarding(torch.optim.SGD):
    """Hands on whatever its step is given, as wrappers of optimizers do."""

    def step(self, *args, **kwargs):
        return super().step(*args, **kwargs)


class Demanding(torch.optim.SGD):
    """Needs more than a closure."""

    def step(self, closure, *, temperature):
        return super().step(closure)


def test_a_step_that_hands_on_its_arguments_is_that_of_its_base():
    moved = []
    for kind in (torch.optim.SGD, Forwarding):
        torch.manual_seed(0)
        module = SmallClassifier(optimizer=partial(kind, lr=0.1))
        fit(module)
        moved.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
    assert torch.equal(*moved)


def test_a_step_that_needs_something_else_is_refused_before_training():
    with pytest.raises(
        ModelError, match=r"Demanding\.step needs temperature, which a training step here does not give"
    ):
        fit(SmallClassifier(optimizer=partial(Demanding, lr=0.1)))


@pytest.mark.parametrize(
    ("optimizer", "named"),
    [("adamw", "adamw"), (torch.optim.SGD([torch.zeros(1)], lr=0.1), "one SGD that is made already")],
)
def test_what_makes_no_optimizer_is_refused(optimizer, named):
    with pytest.raises(ModelError, match=rf"^optimizer: {named} is not allowed; a class, or functools.partial"):
        SmallClassifier(optimizer=optimizer)


@pytest.mark.parametrize("schedule", [False, True])
def test_an_argument_that_a_class_does_not_take_is_one_line(schedule):
    adamw = partial(torch.optim.AdamW, **({} if schedule else {"learning_rate": 1e-3}))
    linear = Schedule(partial(LinearLR, start=0.1)) if schedule else None
    named = "lr_scheduler: .*'start'" if schedule else "optimizer: AdamW.*'learning_rate'"
    with pytest.raises(ModelError, match=rf"^{named}$"):
        fit(SmallClassifier(optimizer=adamw, lr_scheduler=linear))


def test_a_module_with_an_attribute_lr_names_it_where_a_step_size_is_searched():
    module = SmallClassifier(optimizer=SaLSA)
    module.lr = 0.1
    with pytest.raises(ModelError, match=r"^lr: the module's attribute lr is 0\.1, and SaLSA finds its own step size"):
        fit(module)
