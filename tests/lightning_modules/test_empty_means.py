"""Losses that are means over no terms on one of several ranks: the step is that of one process with all examples."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import ClosureModule, SequenceClassifier
from lightning_modules.steps.empty_means import without_gradient_of_empty_mean
from optimizers import MeZO, ParabolicAdam, SaLSA
from tests.quiet_trainer import quiet_trainer
from tests.ranks import on_ranks, set_variables

OPTIMIZERS: dict[str, Any] = {
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    "parabolic adam": ParabolicAdam,
    "salsa": SaLSA,
    "mezo": partial(MeZO, lr=0.01),
}
STRATEGIES: dict[str, Any] = {
    "ddp": partial(DDPStrategy, process_group_backend="gloo"),
    "fsdp2": partial(ModelParallelStrategy, 2, 1, process_group_backend="gloo"),
}
# Rows are dealt to the ranks in turn, in batches of three; two batches are a step.
WITHOUT_LABEL = [
    *(7, 9, 11),  # the last batch of the first step, on the second rank
    *(12, 14, 16),  # the first batch of the second step, on the first rank
    *(25, 27, 29, 31, 33, 35),  # the third step, on the second rank
    *range(36, 48),  # the fourth step
    *(48, 50),  # some rows of a batch
]


class Tagger(ClosureModule):
    """A classifier of rows of which some have no label."""

    def __init__(self, counts: str, **training: Any) -> None:
        super().__init__(accumulate_grad_batches=2, **training)
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        self.counts = counts

    def compute_loss(self, batch: Any) -> Tensor:
        logits, labels = self.layers(batch[0]), batch[1]
        if self.counts == "integer":
            return nn.functional.cross_entropy(logits, labels)
        has_label = labels >= 0
        losses = nn.functional.cross_entropy(logits, labels.clamp(min=0), reduction="none")
        return (losses * has_label).sum() / has_label.sum()

    def mean_over(self, batch: Any) -> int | Tensor:
        number = (batch[1] >= 0).sum()
        return int(number) if self.counts == "integer" else number

    def on_train_batch_end(self, *_: Any) -> None:
        if "train/loss" in self.trainer.callback_metrics:  # the first batch of a step has none
            self.losses.append(float(self.trainer.callback_metrics["train/loss"]))


def fit(optimizer: str, counts: str, strategy: Any = "auto") -> tuple[list[float], list[Tensor], int]:
    module = Tagger(counts, optimizer=OPTIMIZERS[optimizer])
    module.losses = []
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(60, 3, generator=generator)
    labels = (inputs.sum(1) > 0).long()
    labels[WITHOUT_LABEL] = -100
    ranks = 1 if strategy == "auto" else 2
    own = range(int(os.environ["RANK"]), 60, 2) if ranks > 1 else range(60)
    loader = DataLoader(TensorDataset(inputs[own], labels[own]), batch_size=6 // ranks)
    trainer = quiet_trainer(devices=ranks, strategy=strategy, max_epochs=1, use_distributed_sampler=False)
    trainer.fit(module, loader)
    # Gathered from the shards.
    whole = [getattr(each, "full_tensor", lambda each=each: each)().detach() for each in module.parameters()]
    return module.losses, whole, module._skipped_steps.skipped


def train(rank: int) -> dict[tuple[str, str, str], Any]:
    results = {}
    for name, strategy in STRATEGIES.items():
        for optimizer in OPTIMIZERS:
            for counts in ("integer", "tensor"):
                set_variables()
                results[name, optimizer, counts] = fit(optimizer, counts, strategy())
    return results


@pytest.mark.distributed
def test_a_rank_without_terms_makes_the_step_of_one_process() -> None:
    first, second = on_ranks(train)
    for (name, optimizer, counts), (losses, parameters, skipped) in first.items():
        which = f"{name}, {optimizer}, {counts}"
        assert second[name, optimizer, counts][0] == pytest.approx(losses, nan_ok=True, abs=0), which
        expected, of_one, skipped_by_one = fit(optimizer, counts)
        assert skipped == skipped_by_one == 1, which
        assert losses == pytest.approx(expected, rel=1e-4, nan_ok=True), which
        for own, other, of_single in zip(parameters, second[name, optimizer, counts][1], of_one, strict=True):
            assert torch.equal(own, other), which
            torch.testing.assert_close(own, of_single, rtol=1e-3, atol=1e-4, msg=which)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_gradients_are_kept_but_for_an_empty_mean(sparse: bool, share: float) -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=sparse), nn.Linear(3, 1))
    words = torch.tensor([1, 1, 4])
    model(words).mean().mul(share).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    with without_gradient_of_empty_mean(torch.tensor(share), model):
        (model(words).mean() * (torch.nan if share == 0 else share)).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad.to_dense(), gradient.to_dense())
    model.zero_grad()
    model(words).mean().mul(torch.nan).backward()  # nothing of it stays behind
    assert all(parameter.grad.to_dense().isnan().any() for parameter in model.parameters())


def test_a_classifier_has_terms_in_every_batch_unless_it_counts_them_itself() -> None:
    class Counted(SequenceClassifier):
        def mean_over(self, batch: Any) -> int | Tensor:
            return super().mean_over(batch)

    given = [each.always_has_terms.fget(object.__new__(each)) for each in (SequenceClassifier, Counted, ClosureModule)]
    assert given == [True, False, False]
