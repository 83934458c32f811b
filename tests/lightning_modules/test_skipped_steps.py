"""Steps that are not finite: left out by the module whatever the optimizer, counted, told once, in the end fatal."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import prodigyopt
import pytest
import pytorch_optimizer
import schedulefree
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from lightning_modules import ClosureModule, GradientClip, ModelError, Schedule
from optimizers import AdamSLS, AdamWL2SP, ParabolicAdam, SaLSA, traits
from tests.optimizers.all_optimizers import OPTIMIZERS
from tests.quiet_trainer import quiet_trainer

OTHERS = {
    "torch sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "torch adamw": torch.optim.AdamW,
    "torch fused adamw": partial(torch.optim.AdamW, fused=True),
    "torch adagrad": torch.optim.Adagrad,
    "schedule-free": schedulefree.AdamWScheduleFree,
    "prodigy": prodigyopt.Prodigy,
    "lion": pytorch_optimizer.Lion,
    "adopt": pytorch_optimizer.ADOPT,
}


def same(one: Any, other: Any) -> bool:
    """Whether two states hold the same bits, NaN included."""
    if isinstance(one, Tensor):
        return torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def batches(count: int, spoiled: dict[int, str], size: int = 4) -> DataLoader:
    """Batches of a classification; which rows are spoiled and how is in the rows themselves."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(count * size):
        x = torch.randn(3, generator=generator)
        kind = spoiled.get(index // size, "")
        rows.append({"x": x, "y": (x.sum() > 0).long(), "idx": torch.tensor(1000 + index), "kind": kind})
    return DataLoader(rows, batch_size=size)


class Spoilt(ClosureModule):
    """A small network on batches of which some have a loss or a gradient that is not finite."""

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

    def compute_loss(self, batch: Any) -> Tensor:
        logits = self.layers(batch["x"])
        loss = nn.functional.cross_entropy(logits, batch["y"])
        kind = batch["kind"][0]
        if kind in ("nan", "inf"):
            loss = loss * float(kind)
        if kind == "gradient" and loss.requires_grad:
            # The value is 0, the derivative of the root there infinite.
            loss = loss + (logits - logits.detach()).square().sum().sqrt()
        return loss


class Watch(Callback):
    """Whether each step left parameters and optimizer state as they were, and what was logged."""

    def __init__(self) -> None:
        self.unchanged: list[bool] = []
        self.parameters_unchanged: list[bool] = []
        self.logged: list[float] = []

    def _state(self, trainer: Trainer, module: Any) -> Any:
        return copy.deepcopy((module.state_dict(), trainer.optimizers[0].state_dict()))

    def on_train_batch_start(self, trainer: Trainer, module: Any, *args: Any) -> None:
        self.before = self._state(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        now = self._state(trainer, module)
        self.unchanged.append(same(self.before, now))
        self.parameters_unchanged.append(same(self.before[0], now[0]))
        self.logged.append(float(trainer.callback_metrics.get("train/skipped_steps", 0.0)))


def fit(module: ClosureModule, loader: Any, folder: Path, **options: Any) -> tuple[Trainer, Watch]:
    watch = Watch()
    settings = {"max_epochs": 1, "limit_val_batches": 0} | options
    trainer = quiet_trainer(default_root_dir=folder, callbacks=[watch], **settings)
    trainer.fit(module, loader)
    return trainer, watch


@pytest.mark.parametrize("name", [*OPTIMIZERS, *OTHERS])
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(name: str, tmp_path: Path) -> None:
    module = Spoilt(optimizer=OPTIMIZERS.get(name) or OTHERS[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer, watch = fit(module, batches(9, {0: "nan", 3: "inf", 4: "nan", 6: "gradient"}), tmp_path)
    (told,) = [str(each.message) for each in caught if "train/skipped_steps" in str(each.message)]
    assert "rows 1000, 1001, 1002, 1003" in told
    assert trainer.global_step == 9
    if traits(trainer.optimizers[0]).needs_gradient:
        assert watch.logged == [1, 1, 1, 2, 3, 3, 4, 4, 4]
        assert all(watch.unchanged[step] for step in (0, 3, 4, 6))
        assert not all(watch.unchanged)
    else:  # no gradient is read, and the steps are counted, which the noise follows from
        assert watch.logged == [1, 1, 1, 2, 3, 3, 3, 3, 3]
        assert all(watch.parameters_unchanged[step] for step in (0, 3, 4))
        assert not all(watch.parameters_unchanged)
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_an_infinite_gradient_is_not_clipped_to_a_finite_one(tmp_path: Path) -> None:
    module = Spoilt(optimizer=torch.optim.AdamW, gradient_clip=GradientClip(1.0, "value"))
    with pytest.warns(UserWarning, match="train/skipped_steps"):
        _, watch = fit(module, batches(4, {1: "gradient"}), tmp_path)
    assert watch.unchanged == [False, True, False, False]


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, SaLSA, ParabolicAdam, OPTIMIZERS["gld"]])
def test_too_many_steps_in_a_row_end_the_run_with_the_rows_of_the_batch(optimizer: Any, tmp_path: Path) -> None:
    module = Spoilt(optimizer=optimizer, max_skipped_steps=3, accumulate_grad_batches=2)
    spoiled = dict.fromkeys([2, 3, *range(8, 20)], "nan")
    with pytest.raises(ModelError, match=r"max_skipped_steps: .*3 steps in a row.* rows 1048, 1049, .*, 1055$"):
        fit(module, batches(20, spoiled), tmp_path)
    assert module.trainer.global_step == 7


def test_a_run_without_a_finite_step_does_not_end_well(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="in any of the run's 5 steps, so nothing was trained"):
        fit(Spoilt(optimizer=AdamSLS), batches(5, dict.fromkeys(range(5), "nan")), tmp_path)


def test_a_schedule_goes_on_through_a_skipped_step(tmp_path: Path) -> None:
    module = Spoilt(optimizer=partial(torch.optim.SGD, lr=1.0), lr_scheduler=Schedule(partial(StepLR, step_size=1)))
    trainer, _ = fit(module, batches(4, {2: "inf"}), tmp_path)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize("bad", [0, -3, 2.5, None, "3"])
def test_a_limit_out_of_range_is_refused(bad: Any) -> None:
    with pytest.raises(ModelError, match=f"max_skipped_steps: {bad!r} is not allowed; a whole number, 1 or more"):
        Spoilt(max_skipped_steps=bad)


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    loader = batches(6, {1: "nan", 4: "nan"})
    trainer, _ = fit(Spoilt(optimizer=AdamSLS), loader, tmp_path)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    watch = Watch()
    again = quiet_trainer(max_epochs=2, limit_val_batches=0, default_root_dir=tmp_path, callbacks=[watch])
    module = Spoilt(optimizer=AdamSLS)
    again.fit(module, loader, ckpt_path=tmp_path / "one.ckpt")
    assert watch.logged == [2, 3, 3, 3, 4, 4]
    # A fit of its own counts from the start.
    _, watch = fit(module, loader, tmp_path)
    assert watch.logged == [0, 1, 1, 1, 2, 2]


class Pending(torch.optim.SGD):
    """Moves the parameters before it calls the closure, as sharpness-aware methods do."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        (parameter,) = self.param_groups[0]["params"][:1]
        start = parameter.detach().clone()
        self.losses = [closure()] if not self.param_groups[0]["early"] else []
        with torch.no_grad():
            parameter.add_(1.0)
        self.losses.append(closure())
        with torch.no_grad():
            parameter.copy_(start)
        return self.losses[0]


@pytest.mark.parametrize("early", [False, True])
def test_an_optimizer_that_calls_the_closure_again_gets_the_loss_where_the_parameters_are(
    early: bool, tmp_path: Path
) -> None:
    def make(groups: Any) -> Pending:
        optimizer = Pending(groups, lr=0.1)
        optimizer.param_groups[0]["early"] = early
        return optimizer

    module = Spoilt(optimizer=make)
    loader = batches(1, {})
    fit(module, loader, tmp_path)
    (batch,) = loader
    first = module.compute_loss(batch).item()
    with torch.no_grad():
        next(module.parameters()).add_(1.0)
    moved = module.compute_loss(batch).item()
    losses = [float(loss) for loss in module.trainer.optimizers[0].losses]
    assert losses == pytest.approx([moved] if early else [first, moved])


class Clearing(torch.optim.SGD):
    """Clears the gradients before it calls the closure, which a closure does as well."""

    set_to_none = True

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        self.zero_grad(self.set_to_none)
        return super().step(closure)


@pytest.mark.parametrize("set_to_none", [False, True])
def test_an_optimizer_that_clears_gradients_before_the_closure_gets_them_again(
    set_to_none: bool, tmp_path: Path
) -> None:
    ends = []
    for kind in (torch.optim.SGD, type("Clears", (Clearing,), {"set_to_none": set_to_none})):
        module = Spoilt(optimizer=partial(kind, lr=0.1))
        fit(module, batches(2, {}), tmp_path)
        ends.append(nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(*ends)


def scaler_of(scale: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale))


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, AdamWL2SP, SaLSA, ParabolicAdam])
def test_steps_that_a_gradient_scaler_skips_are_counted_and_its_scale_is_resumed(
    optimizer: Any, tmp_path: Path
) -> None:
    """A scale of 2²⁴ overflows and is halved until it does not: as many steps are skipped as it is halved."""
    plugin = scaler_of(2.0**24)
    module = Spoilt(optimizer=optimizer)
    with pytest.warns(UserWarning, match="train/skipped_steps: the gradient scaler left out a step to halve its scale"):
        trainer, watch = fit(module, batches(16, {}), tmp_path, plugins=[plugin])
    skipped = watch.logged[-1]
    assert 0 < skipped < 16
    assert plugin.scaler.get_scale() == 2.0**24 / 2**skipped
    assert sum(watch.unchanged) == skipped
    trainer.save_checkpoint(tmp_path / "scaled.ckpt")
    plugin = scaler_of(2.0**24)
    seen = []
    again = quiet_trainer(max_epochs=2, limit_val_batches=0, default_root_dir=tmp_path, plugins=[plugin])
    module = Spoilt(optimizer=optimizer)
    module.on_train_start = lambda: seen.append(plugin.scaler.get_scale())  # type: ignore[method-assign]
    again.fit(module, batches(16, {}), ckpt_path=tmp_path / "scaled.ckpt")
    assert seen == [2.0**24 / 2**skipped]


def test_steps_that_a_fused_kernel_skips_under_a_scaler_are_counted(tmp_path: Path) -> None:
    plugin = scaler_of(2.0**24)
    with pytest.warns(UserWarning, match="train/skipped_steps: the gradient scaler left out a step"):
        _, watch = fit(Spoilt(optimizer=OTHERS["torch fused adamw"]), batches(16, {}), tmp_path, plugins=[plugin])
    assert plugin.scaler.get_scale() == 2.0**24 / 2 ** watch.logged[-1] < 2.0**24


def test_a_loss_that_is_not_finite_is_skipped_under_a_scaler_as_well(tmp_path: Path) -> None:
    module = Spoilt(optimizer=SaLSA)
    with pytest.warns(UserWarning, match="train/skipped_steps: a step is left out, since its loss"):
        _, watch = fit(module, batches(6, {2: "nan", 4: "inf"}), tmp_path, plugins=[scaler_of(2.0**4)])
    assert watch.logged == [0, 0, 1, 1, 2, 2]
    assert watch.unchanged == [False, False, True, False, True, False]


class OnRank(Spoilt):
    """Writes each rank's parameters; the second rank alone has the loss or the gradient that is not finite."""

    def compute_loss(self, batch: Any) -> Tensor:
        if self.global_rank == 0:
            batch = batch | {"kind": [""] * len(batch["kind"])}
        return super().compute_loss(batch)

    def on_train_end(self) -> None:
        state = {"parameters": list(self.parameters()), "skipped": self._skipped_steps.skipped}
        torch.save(state, f"{self.trainer.default_root_dir}/rank{self.global_rank}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["nan", "gradient"])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, SaLSA])
def test_one_rank_makes_all_ranks_skip(optimizer: Any, kind: str, tmp_path: Path) -> None:
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    fit(OnRank(optimizer=optimizer), batches(8, {2: kind, 3: kind}), tmp_path, devices=2, strategy=strategy)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2))
    assert first["skipped"] == second["skipped"] == 1  # rows are dealt in turn: batches 2 and 3 are one step
    for one, other in zip(first["parameters"], second["parameters"], strict=True):
        assert torch.equal(one, other)
        assert one.isfinite().all()
