"""StepClosures: one loss for the whole step, the same random numbers each time it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import BatchEncoding

from lightning_modules import ClosureModule, ModelError, StepClosures
from optimizers import GLD, SGDSLS, SaLSA
from tests.quiet_trainer import quiet_trainer


def regression_step(model: nn.Module, sizes: list[int]) -> StepClosures:
    batches = [{"x": torch.randn(size, 3), "y": torch.randn(size, 1)} for size in sizes]
    return StepClosures(
        lambda batch: nn.functional.mse_loss(model(batch["x"]), batch["y"]),
        batches,
        zero_grad=model.zero_grad,
        backward=Tensor.backward,
    )


def test_micro_batches_give_the_loss_and_gradient_of_their_union() -> None:
    model = nn.Linear(3, 1)
    step = regression_step(model, [8, 8, 3])
    union = {key: torch.cat([batch[key] for batch in step.batches]) for key in ("x", "y")}
    expected = nn.functional.mse_loss(model(union["x"]), union["y"])
    (gradient,) = torch.autograd.grad(expected, model.weight)

    loss = step.closure()

    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(step.loss, expected.detach())
    torch.testing.assert_close(step.evaluate(), expected.detach())
    torch.testing.assert_close(model.weight.grad, gradient)


def test_trials_see_the_masks_of_the_closure_and_the_stream_advances_once() -> None:
    model = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.Linear(16, 1))
    step = regression_step(model, [8, 4])
    torch.manual_seed(1)
    loss = step.closure()
    trials = [step.evaluate() for _ in range(3)]
    after_step = torch.rand(3)

    torch.manual_seed(1)
    for batch in step.batches:
        model(batch["x"])
    assert torch.equal(after_step, torch.rand(3))
    assert all(torch.equal(loss, trial) for trial in trials)


@pytest.mark.parametrize("kind", [dict, BatchEncoding])
def test_a_loss_may_take_entries_out_of_its_batch(kind: Any) -> None:
    model = nn.Linear(3, 1)

    def loss_of(batch: Any) -> Tensor:
        targets = batch.pop("y")
        return nn.functional.mse_loss(model(**batch), targets)

    batch = kind({"input": torch.randn(8, 3), "y": torch.randn(8, 1)})
    step = StepClosures(loss_of, [batch], zero_grad=model.zero_grad, backward=Tensor.backward)
    assert torch.equal(step.closure(), step.evaluate())
    assert set(batch) == {"input", "y"}


@dataclass
class Graphs:
    """A batch that is an object, as those of libraries for graphs."""

    x: Tensor
    y: Tensor


@pytest.mark.parametrize("wrapped", [lambda inner: {"loader": inner}, lambda inner: (inner, 1), lambda inner: [inner]])
def test_a_loss_may_take_entries_out_of_batches_within_its_batch(wrapped: Any) -> None:
    """A batch of several loaders is a dict or a list of their batches."""
    model = nn.Linear(3, 1)

    def loss_of(batch: Any) -> Tensor:
        inner = batch[0 if isinstance(batch, tuple | list) else "loader"]
        return nn.functional.mse_loss(model(inner["x"]), inner.pop("y"))

    batch = {"x": torch.randn(8, 3), "y": torch.randn(8, 1)}
    step = StepClosures(loss_of, [wrapped(batch)], zero_grad=model.zero_grad, backward=Tensor.backward)
    assert torch.equal(step.closure(), step.evaluate())
    assert set(batch) == {"x", "y"}


@dataclass(slots=True)
class SmallGraphs:
    """The same in an object without a dict of its attributes."""

    x: Tensor
    y: Tensor


@pytest.mark.parametrize("kind", [Graphs, SmallGraphs])
def test_a_loss_may_replace_attributes_of_its_batch(kind: Any) -> None:
    model = nn.Linear(3, 3)

    def loss_of(graphs: Any) -> Tensor:
        graphs.x = model(graphs.x)
        return nn.functional.mse_loss(graphs.x, graphs.y)

    batch = kind(torch.randn(8, 3), torch.randn(8, 3))
    step = StepClosures(loss_of, [batch], zero_grad=model.zero_grad, backward=Tensor.backward)
    assert torch.equal(step.closure(), step.evaluate())
    assert not batch.x.requires_grad


def mean_of_labelled(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the rows with a label, whose gradient is NaN where there is none."""
    losses, has_label = nn.functional.cross_entropy(logits, labels.clamp(min=0), reduction="none"), labels >= 0
    return (losses * has_label).sum() / has_label.sum()


@pytest.mark.parametrize("number", [0.75, 3, np.float32(0.75), np.float64(0.75)])
def test_a_number_is_enough_where_no_gradient_is_taken(number: Any) -> None:
    step = StepClosures(
        lambda batch: number,
        [torch.ones(8, 1)],
        zero_grad=lambda: None,
        backward=Tensor.backward,
        module=nn.Linear(1, 1),
    )
    assert float(step.evaluate()) == float(number)
    with pytest.raises(ModelError, match="compute_loss returned a loss without a gradient: it is a number"):
        step.closure()


@pytest.mark.parametrize("mean", [nn.functional.cross_entropy, mean_of_labelled])
def test_a_micro_batch_without_terms_counts_for_nothing(mean: Any) -> None:
    """A mean over no terms is NaN: a language model's over a batch without any label."""
    model = nn.Linear(3, 2)
    inputs, labels = torch.randn(8, 3), torch.randint(2, (8,))

    def step_of(batches: Any, terms: Any) -> StepClosures:
        return StepClosures(
            lambda batch: mean(model(batch[0]), batch[1]),
            batches,
            zero_grad=model.zero_grad,
            backward=Tensor.backward,
            mean_over=terms,
            module=model,
        )

    expected = step_of([(inputs, labels)], None)
    loss, gradient = expected.closure(), model.weight.grad
    candidates = [torch.stack([p.detach(), p.detach() + 0.1]) for p in model.parameters()]
    losses = expected.evaluate_many(list(model.parameters()), candidates)
    batches = [(inputs, labels), (inputs, torch.full((8,), -100))]
    for terms in (lambda batch: int((batch[1] >= 0).sum()), lambda batch: (batch[1] >= 0).sum()):
        step = step_of(batches, terms)
        assert torch.equal(step.closure(), loss)
        assert torch.equal(model.weight.grad, gradient)
        assert torch.equal(step.evaluate(), loss)
        assert torch.equal(step.evaluate_many(list(model.parameters()), candidates), losses)


def test_a_loss_that_takes_a_gradient_without_enabling_it_is_one_line() -> None:
    """Gradient penalties, forces: they are computed in trials too, as in evaluations."""
    model = nn.Linear(3, 1)

    def penalty(inputs: Tensor) -> Tensor:
        inputs = inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs).square().sum(), inputs, create_graph=True)
        return gradient.square().mean()

    def enabled(inputs: Tensor) -> Tensor:
        with torch.enable_grad():
            return penalty(inputs)

    batches = [torch.randn(8, 3)]
    step = StepClosures(penalty, batches, zero_grad=model.zero_grad, backward=Tensor.backward)
    step.closure()
    with pytest.raises(ModelError, match=r"within torch\.enable_grad\(\)"):
        step.evaluate()
    step = StepClosures(enabled, batches, zero_grad=model.zero_grad, backward=Tensor.backward)
    assert torch.equal(step.closure(), step.evaluate())
    assert not step.evaluate().requires_grad


def test_a_loss_that_changes_its_batch_in_place_is_computed_once() -> None:
    """A second computation would be about another batch; an optimizer that needs none trains as ever."""
    model = nn.Linear(3, 1)
    batch = {"x": torch.randn(8, 3)}
    step = StepClosures(
        lambda batch: model(batch["x"].mul_(2)).mean(), [batch], zero_grad=model.zero_grad, backward=Tensor.backward
    )
    step.closure()
    for again in (step.closure, step.evaluate):
        with pytest.raises(ModelError, match="compute_loss changes its batch in place"):
            again()


def test_masks_differ_from_step_to_step() -> None:
    model = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.Linear(16, 1))
    first = regression_step(model, [8])
    second = StepClosures(first._compute_loss, first.batches, zero_grad=model.zero_grad, backward=Tensor.backward)
    assert not torch.equal(first.closure(), second.closure())


def test_a_gradient_free_step_replays_its_first_evaluation() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1))
    step = regression_step(model, [16])
    losses = [step.evaluate() for _ in range(3)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_evaluate_leaves_gradients_alone() -> None:
    model = nn.Linear(3, 1)
    step = regression_step(model, [4])
    step.closure()
    before = model.weight.grad.clone()
    step.evaluate()
    assert torch.equal(model.weight.grad, before)
    assert not step.evaluate().requires_grad


@pytest.mark.parametrize("cache_enabled", [True, False])
def test_a_trial_under_autocast_never_sees_stale_weights(cache_enabled: bool) -> None:
    model = nn.Linear(3, 1)
    step = regression_step(model, [8])
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache_enabled):
        step.closure()
        with torch.no_grad():
            model.weight.add_(1.0)
        inside = step.evaluate()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fresh = step.evaluate()
    assert torch.equal(inside, fresh)


def test_only_the_last_backward_synchronises_gradients() -> None:
    model = nn.Linear(3, 1)
    entered = []

    class Blocked:
        def __enter__(self) -> None:
            entered.append(True)

        def __exit__(self, *error: object) -> None:
            return None

    step = regression_step(model, [4, 4, 4])
    step._without_gradient_sync = Blocked
    step.closure()
    assert len(entered) == 2


class Convolutional(ClosureModule):
    """A small network with batch normalisation, on images."""

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))

    def compute_loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])


@pytest.mark.parametrize("optimizer", [SGDSLS, SaLSA, GLD])
def test_trials_do_not_move_running_statistics(optimizer: Any, tmp_path: Path) -> None:
    """However many trials a step makes, buffers are those of one forward pass per step over its micro-batches."""
    images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(images, torch.arange(32) % 2), batch_size=4)
    module = Convolutional(optimizer=optimizer, accumulate_grad_batches=2)
    trials = []
    before = module.layers[1].num_batches_tracked.item()
    module.on_train_batch_end = lambda *_: trials.append(  # type: ignore[method-assign]
        getattr(module.trainer.optimizers[0].last_step, "evaluations", 0)
    )
    quiet_trainer(max_epochs=1, default_root_dir=tmp_path).fit(module, loader)
    assert max(trials) > 1
    assert module.layers[1].num_batches_tracked.item() == before + 8


class Counted(nn.Module):
    """Counts its calls in whole numbers, and puts a new tensor in place of its running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(3, dtype=torch.long))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls[1] += 1
        self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(0)
        return x - self.mean


class Counting(ClosureModule):
    """A network that begins with such a part."""

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        torch.manual_seed(0)
        self.layers = nn.Sequential(Counted(), nn.Linear(4, 2))

    def compute_loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])


@pytest.mark.parametrize("optimizer", [SGDSLS, SaLSA, GLD])
def test_trials_do_not_move_counts_nor_buffers_that_are_replaced(optimizer: Any, tmp_path: Path) -> None:
    inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(inputs, torch.arange(16) % 2), batch_size=4)
    module, once = Counting(optimizer=optimizer), Counted()
    quiet_trainer(max_epochs=1, default_root_dir=tmp_path).fit(module, loader)
    for batch in inputs.split(4):
        once(batch)
    assert module.layers[0].calls.tolist() == [0, 4, 0]
    torch.testing.assert_close(module.layers[0].mean, once.mean, rtol=0, atol=0)


@pytest.mark.parametrize("loss", [1.0, torch.tensor(1.0)])
def test_a_loss_without_a_gradient_is_one_line(loss: Any) -> None:
    model = nn.Linear(3, 1)
    step = StepClosures(lambda _: loss, [torch.ones(2, 3)], zero_grad=model.zero_grad, backward=Tensor.backward)
    with pytest.raises(ModelError, match=r"^compute_loss returned a loss without a gradient"):
        step.closure()
