"""torch's optimizers in their fused form: who gets it, and that a run in it is torch's own fused optimizer."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from benchmarks.compatibility.optimizers import SmallClassifier
from lightning_modules import GradientClip
from lightning_modules.steps.fused import fused_keywords
from tests.lightning_modules.test_optimizer_calls import fit

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_an_optimizer_that_has_a_fused_form_runs_in_it(name: str) -> None:
    module = SmallClassifier(optimizer=partial(getattr(torch.optim, name), lr=1e-3))
    groups = fit(module).optimizers[0].param_groups
    assert [group["fused"] for group in groups] == [True] * len(groups)


@pytest.mark.parametrize(
    "chosen",
    [{"fused": False}, {"foreach": True}, {"foreach": False}, {"capturable": True}, {"differentiable": True}],
)
def test_what_the_user_has_chosen_stays(chosen: dict[str, bool]) -> None:
    assert fused_keywords(partial(torch.optim.AdamW, **chosen), nn.Linear(2, 2), CPU, has_scaler=False) == {}


def test_null_in_a_configuration_is_no_choice() -> None:
    factory = partial(torch.optim.AdamW, fused=None, foreach=None, capturable=False)
    assert fused_keywords(factory, nn.Linear(2, 2), CPU, has_scaler=False) == {"fused": True}


def test_so_does_one_from_a_configuration() -> None:
    """jsonargparse 4.53 makes a partial of a function of its own, and fills in the defaults of the class."""
    parser = ArgumentParser()
    parser.add_argument("--optimizer", type=OptimizerCallable)
    for given, expected in (([], {"fused": True}), (["--optimizer.foreach=true"], {})):
        arguments = parser.parse_args(["--optimizer=torch.optim.AdamW", "--optimizer.lr=1e-3", *given])
        factory = parser.instantiate_classes(arguments).optimizer
        assert fused_keywords(factory, nn.Linear(2, 2), CPU, has_scaler=False) == expected


def test_it_is_left_where_it_would_fail() -> None:
    """torch 2.13: fused steps refuse sparse gradients, and parameters on other devices; RMSprop has none."""
    linear = nn.Linear(2, 2)
    assert not fused_keywords(torch.optim.RMSprop, linear, CPU, has_scaler=False)
    assert not fused_keywords(torch.optim.AdamW, linear, CPU, has_scaler=True)
    assert not fused_keywords(torch.optim.AdamW, linear.to("meta"), CPU, has_scaler=False)
    assert not fused_keywords(torch.optim.AdamW, linear, torch.device("meta"), has_scaler=False)
    assert not fused_keywords(torch.optim.SGD, nn.Embedding(4, 2, sparse=True), CPU, has_scaler=False)


class Narrowed(SmallClassifier):
    """The weights of its first layer are some columns of a wider matrix, in place or copied."""

    def __init__(self, copied: bool) -> None:
        super().__init__(optimizer=partial(torch.optim.AdamW, lr=1e-2))
        first = self.layers[0]
        columns = torch.randn(first.out_features, 2 * first.in_features)[:, : first.in_features]
        first.weight = nn.Parameter(columns.contiguous() if copied else columns)


def test_weights_with_gaps_in_memory_are_moved_like_others() -> None:
    """torch 2.13: a fused step on a CPU moves what lies in the gaps, and leaves some of the weights."""
    trained = []
    for copied in (True, False):
        torch.manual_seed(0)
        module = Narrowed(copied)
        fit(module)
        trained.append(module.layers[0].weight.detach().clone())
    torch.testing.assert_close(*trained)


def test_a_checkpoint_of_a_run_without_it_goes_on_without_it(tmp_path) -> None:
    factory = partial(torch.optim.AdamW, lr=1e-3)
    path = tmp_path / "old.ckpt"
    fit(SmallClassifier(optimizer=partial(factory, foreach=False))).save_checkpoint(path)
    resumed = fit(SmallClassifier(optimizer=factory), epochs=2, ckpt_path=path)
    assert [group["fused"] for group in resumed.optimizers[0].param_groups] == [None] * len(
        resumed.optimizers[0].param_groups
    )


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_in_bf16_mixed(algorithm: str) -> None:
    """Lightning 2.6.6 refuses fused optimizers its clipping there too, where no scaler is."""
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            seen.append(torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]))

    module = SmallClassifier(optimizer=partial(torch.optim.AdamW, lr=1e-3), gradient_clip=GradientClip(1e-4, algorithm))
    groups = fit(module, precision="bf16-mixed", callbacks=[Watch()]).optimizers[0].param_groups
    assert all(group["fused"] for group in groups)
    sizes = [float(gradient.norm() if algorithm == "norm" else gradient.abs().max()) for gradient in seen]
    assert sizes
    assert all(size == pytest.approx(1e-4, rel=1e-3) for size in sizes)
