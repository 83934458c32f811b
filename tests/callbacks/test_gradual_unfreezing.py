"""GradualUnfreezing: the right parts train at the right time, after a restart and on two ranks as well."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks import GradualUnfreezing
from lightning_modules import BottleneckConfig, SequenceClassifier
from optimizers import AdamSLS, ParamGroups, named_parts
from tests.architectures import save_pretrained_backbone
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData


class TrainableParts(Callback):
    """Notes which parts train in each batch, and which parameters moved in it."""

    def __init__(self) -> None:
        self.trained: list[list[str]] = []
        self.moved: list[list[str]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.trained.append([part.name for part in named_parts(pl_module.model)])
        self.before = {name: p.detach().clone() for name, p in pl_module.model.named_parameters()}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        parameters = dict(pl_module.model.named_parameters())
        self.moved.append([name for name, value in self.before.items() if not torch.equal(parameters[name], value)])


def fit(module: LightningModule, *callbacks: Callback, ckpt_path: Path | None = None, **options: Any) -> Trainer:
    settings = {"max_epochs": 4, "limit_val_batches": 0} | options
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, TinyData(count=16, batch_size=8), ckpt_path=ckpt_path)
    return trainer


@pytest.fixture
def model(tmp_path: Path) -> str:
    return save_pretrained_backbone(tmp_path / "model", "bert")


def classifier(model: str, **options: Any) -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(model, **({"optimizer": partial(torch.optim.AdamW, lr=1e-2)} | options))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 2, 2, 3, 3, 4, 4]),
        ({"every_n_epochs": 2}, [1, 1, 1, 1, 2, 2, 2, 2]),
        ({"every_n_steps": 3}, [1, 1, 1, 2, 2, 2, 3, 3]),
        ({"at_steps": [1, 1, 5]}, [1, 3, 3, 3, 3, 4, 4, 4]),
        ({"at_epochs": [0, 3]}, [2, 2, 2, 2, 2, 2, 3, 3]),
        ({"at_epochs": []}, [1] * 8),
        ({"every_n_steps": 1, "embeddings": False}, [1, 2, 3, 3, 3, 3, 3, 3]),
    ],
)
def test_parts_join_from_the_top_down_and_frozen_ones_do_not_move(
    model: str, options: dict[str, Any], expected: list[int]
) -> None:
    seen = TrainableParts()
    module = classifier(model)
    fit(module, GradualUnfreezing(**options), seen)
    order = ["embeddings", "layer.0", "layer.1", "head"]
    assert seen.trained == [order[-number:] for number in expected]
    part_of = {name: part.name for part in named_parts(module.model) for name, _ in part.parameters}
    for trained, moved in zip(seen.trained, seen.moved, strict=True):
        assert {part_of[name] for name in moved} == set(trained)
    assert all(parameter.requires_grad for parameter in module.parameters())


@given(st.integers(0, 50), st.integers(0, 500), st.integers(1, 9))
def test_what_is_unfrozen_is_a_function_of_progress(epoch: int, step: int, n: int) -> None:
    points = [n * k for k in range(1, 60)]
    assert GradualUnfreezing(every_n_epochs=n).num_unfrozen(epoch, step) == GradualUnfreezing(
        at_epochs=points
    ).num_unfrozen(epoch, step)
    assert GradualUnfreezing(every_n_steps=n).num_unfrozen(epoch, min(step, 59 * n)) == GradualUnfreezing(
        at_steps=points
    ).num_unfrozen(epoch, min(step, 59 * n))


PER_LAYER = {"optimizer": partial(AdamSLS, update_rule="cycle"), "param_groups": ParamGroups("layer")}


@pytest.mark.parametrize(
    ("options", "settings"),
    [({"every_n_steps": 3}, {}), ({"every_n_epochs": 1}, {}), ({"every_n_steps": 1}, PER_LAYER)],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    model: str, tmp_path: Path, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    straight, seen = classifier(model, **settings), TrainableParts()
    fit(straight, GradualUnfreezing(**options), seen)

    saver = ModelCheckpoint(dirpath=tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    fit(classifier(model, **settings), GradualUnfreezing(**options), saver, max_epochs=2, enable_checkpointing=True)
    resumed, seen_again = classifier(model, **settings), TrainableParts()
    fit(resumed, GradualUnfreezing(**options), seen_again, ckpt_path=tmp_path / "ckpt" / "step=4.ckpt")

    assert seen_again.trained == seen.trained[4:]
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_accumulated_steps_count_once(model: str) -> None:
    seen = TrainableParts()
    fit(classifier(model, accumulate_grad_batches=2), GradualUnfreezing(every_n_steps=1), seen)
    assert [len(parts) for parts in seen.trained] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_with_an_adapter_layers_are_their_adapters_and_the_base_stays_frozen(model: str) -> None:
    seen = TrainableParts()
    module = classifier(model, adapter=BottleneckConfig(size=2))
    fit(module, GradualUnfreezing(every_n_steps=2), seen)
    assert seen.trained[0] == ["head"]
    assert seen.trained[-1] == ["layer.0", "layer.1", "head"]
    assert all(".adapter." in name or "classifier" in name for moved in seen.moved for name in moved)
    assert not module.model.bert.embeddings.word_embeddings.weight.requires_grad


def test_the_backward_pass_ends_above_frozen_parts(model: str) -> None:
    class Graph(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            batch = {key: value for key, value in args[1].items() if key not in ("labels", "idx")}
            states = pl_module.model.bert(**batch, output_hidden_states=True).hidden_states
            attached.append([state.requires_grad for state in states])

    attached: list[list[bool]] = []
    fit(classifier(model), GradualUnfreezing(), Graph())
    by_epoch = attached[::2]
    assert by_epoch == [[False, False, False], [False, False, True], [False, True, True], [True, True, True]]


def test_an_interrupted_fit_leaves_all_parts_trainable(model: str) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise RuntimeError("stop")

    module = classifier(model)
    with pytest.raises(RuntimeError, match="stop"):
        fit(module, GradualUnfreezing(), Stop())
    assert all(parameter.requires_grad for parameter in module.parameters())


class Recorded(SequenceClassifier):
    """Writes each rank's weights into a folder."""

    folder: Path

    def on_train_end(self) -> None:
        torch.save([p.detach() for p in self.model.parameters()], self.folder / f"rank{self.global_rank}.pt")


@pytest.mark.distributed
@pytest.mark.parametrize(
    # Adam's direction enlarges rounding where gradients are tiny.
    ("optimizer", "tolerance"),
    [(partial(torch.optim.SGD, lr=0.5), 1e-5), (AdamSLS, 1e-3)],
    ids=["SGD", "AdamSLS"],
)
def test_two_ranks_stay_equal_and_train_what_one_rank_trains(
    model: str, tmp_path: Path, optimizer: Any, tolerance: float
) -> None:
    def train(ranks: int) -> list[list[torch.Tensor]]:
        torch.manual_seed(0)
        module = Recorded(model, optimizer=optimizer)
        module.folder = tmp_path
        strategy = DDPStrategy(start_method="fork", process_group_backend="gloo") if ranks > 1 else "auto"
        trainer = quiet_trainer(
            devices=ranks, strategy=strategy, max_epochs=4, limit_val_batches=0, callbacks=[GradualUnfreezing()]
        )
        # All examples in one batch: whatever the order in which the ranks deal them, the gradient is the same.
        trainer.fit(module, TinyData(count=16, batch_size=16 // ranks))
        return [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(ranks)]

    (alone,) = train(1)
    first, second = train(2)
    for on_first, on_second, on_one in zip(first, second, alone, strict=True):
        assert torch.equal(on_first, on_second)
        torch.testing.assert_close(on_first, on_one, atol=tolerance, rtol=1e-3)
    start = next(SequenceClassifier(model).model.parameters())
    assert not torch.equal(first[0], start), "the embeddings, unfrozen last, have moved"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_epochs": 1, "at_steps": [3]}, "every_n_epochs and at_steps exclude each other"),
        ({"every_n_steps": 0}, "every_n_steps: 0 is not allowed"),
        ({"at_epochs": [3, 1]}, "at_epochs: .* is not allowed; a rising list"),
        ({"at_steps": [-1]}, "at_steps: .* is not allowed"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        GradualUnfreezing(**options)


@pytest.mark.parametrize(
    ("options", "max_epochs", "told"),
    [
        ({}, 2, "of 4 parts 2 stay frozen in 2 epochs (layer.0, embeddings); every_n_steps unfreezes sooner"),
        ({"embeddings": False}, 2, "of 3 parts 1 stay frozen in 2 epochs (layer.0); every_n_steps unfreezes sooner"),
        ({}, 4, None),
        ({"at_epochs": []}, 1, None),  # as it was asked for
    ],
)
def test_a_run_that_is_too_short_to_unfreeze_every_part_says_so(
    model: str, caplog: pytest.LogCaptureFixture, options: dict[str, Any], max_epochs: int, told: str | None
) -> None:
    with caplog.at_level("INFO"):
        fit(classifier(model), GradualUnfreezing(**options), max_epochs=max_epochs)
    lines = [record.getMessage() for record in caplog.records if "GradualUnfreezing" in record.getMessage()]
    assert lines == ([f"GradualUnfreezing: {told}"] if told else [])


def test_a_run_without_a_number_of_epochs_is_not_said_to_be_too_short(
    model: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        fit(classifier(model), GradualUnfreezing(), max_epochs=-1, max_steps=2)
    assert not [record for record in caplog.records if "GradualUnfreezing" in record.getMessage()]
