"""Every optimizer under DDP: ranks stay alike to the bit, and make the steps of one process on the same examples."""

from __future__ import annotations

import dataclasses
import math
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, DistributedSampler
from transformers import XLNetConfig, XLNetForSequenceClassification

from lightning_modules import ModelError, SequenceClassifier
from optimizers import GLD, ParamGroups
from tests.optimizers.all_optimizers import OPTIMIZERS
from tests.quiet_trainer import quiet_trainer
from tests.ranks import on_ranks, set_variables
from tests.tiny_models import rows, save_tiny_bert

pytestmark = pytest.mark.distributed

EVERY_OPTIMIZER = OPTIMIZERS | {"gld, at once": lambda groups: GLD(groups, radius=0.05, candidates="at_once")}
TRACED = ("sgd", "mezo", "gld, at once")
# Two batches of 32, and one of 7: 4 on one rank, 3 on the other.
EXAMPLES = 71
# On four ranks; all optimizers are alike after 50 as well, which takes two minutes.
STEPS = 10


class Dealt(DistributedSampler):
    """Deals the examples to the ranks in turn, without repeating any."""

    def __init__(self, count: int, ranks: int) -> None:
        super().__init__(range(count), ranks, int(os.environ["RANK"]), shuffle=False)  # type: ignore[arg-type]
        self.total_size, self.num_samples = count, len(range(self.rank, count, ranks))


class Noted(SequenceClassifier):
    """Notes the loss, the step size and what the optimizer recorded, in each step."""

    def on_train_batch_end(self, *args: Any) -> None:
        optimizer = self.trainer.optimizers[0]
        record = getattr(optimizer, "last_step", None)
        decided = () if record is None else tuple(dataclasses.asdict(record).values())
        loss = float(self.trainer.callback_metrics["train/loss"])
        notes = [loss, *decided, *(group["lr"] for group in optimizer.param_groups)]
        self.notes.append([None if isinstance(note, float) and math.isnan(note) else note for note in notes])


def fit(
    name: str, folder: Path, ranks: int, examples: int = EXAMPLES, of_all_ranks: int = 32
) -> tuple[list[Any], list[torch.Tensor]]:
    torch.manual_seed(0)
    # The head alone, for optimizers that evaluate one tensor after the other.
    module = Noted(
        str(folder / "m"),
        optimizer=EVERY_OPTIMIZER[name],
        param_groups=ParamGroups(units="layer"),
        trainable="head" if name.startswith("gld") else "all",
    )
    module.notes = []
    sampler = Dealt(examples, ranks) if ranks > 1 else None
    trainer_on(ranks).fit(module, DataLoader(rows(examples), batch_size=of_all_ranks // ranks, sampler=sampler))
    return module.notes, [parameter.detach().clone() for parameter in module.model.parameters()]


def trainer_on(ranks: int, **options: Any) -> Trainer:
    return quiet_trainer(
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo", **options) if ranks > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=1,
    )


def train_all(rank: int, folder: Path, ranks: int) -> tuple[dict[str, Any], dict[str, Any]]:
    results, sent = {}, {}
    for name in EVERY_OPTIMIZER:
        set_variables()
        traced = profile(activities=[ProfilerActivity.CPU], record_shapes=True) if name in TRACED else None
        with traced or nullcontext():
            results[name] = fit(name, folder, ranks)
        if traced is not None:
            events = [event for event in traced.events() if event.name.startswith("gloo:")]
            sums = [
                math.prod(shape) for each in events if each.name == "gloo:all_reduce" for shape in each.input_shapes
            ]
            # Rank 0 sends its parameters to all before the first step, and nothing in a step.
            sent[name] = max(sums), sum(event.name == "gloo:broadcast" for event in events)
    return results, sent


def test_two_ranks_are_alike_and_make_the_steps_of_one(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path / "m", dropout=0.0)
    (first, sent), (second, _) = on_ranks(train_all, tmp_path, 2)
    parameters = sum(weight.numel() for weight in first["sgd"][1])
    for name in EVERY_OPTIMIZER:
        assert first[name][0] == second[name][0], name
        for one, other in zip(first[name][1], second[name][1], strict=True):
            assert torch.equal(one, other), name
        notes, _ = fit(name, tmp_path, 1)
        assert [note[0] for note in first[name][0]] == pytest.approx([note[0] for note in notes], rel=2e-3), name
    # What needs no gradient sends losses (of a trial, of the start and five candidates), and two numbers.
    assert {name: largest for name, (largest, _) in sent.items()} == {"sgd": parameters, "mezo": 2, "gld, at once": 6}
    assert max(broadcasts for _, broadcasts in sent.values()) <= 10


def train_long(rank: int, folder: Path, ranks: int) -> dict[str, Any]:
    results = {}
    for name in EVERY_OPTIMIZER:
        set_variables()
        results[name] = fit(name, folder, ranks, examples=8 * STEPS, of_all_ranks=8)
    return results


def test_four_ranks_are_alike_to_the_bit(tmp_path: Path) -> None:
    # With dropout, whose masks are not those of another rank.
    save_tiny_bert(tmp_path / "m")
    first, *others = on_ranks(train_long, tmp_path, 4, ranks=4)
    for name, (notes, parameters) in first.items():
        assert len(notes) == STEPS, name
        for other_notes, other_parameters in (other[name] for other in others):
            assert notes == other_notes, name
            assert all(torch.equal(one, other) for one, other in zip(parameters, other_parameters, strict=True)), name


def train_with_unused_parameters(rank: int, folder: Path) -> None:
    loader = DataLoader(rows(16), batch_size=4, sampler=Dealt(16, 2))
    module = SequenceClassifier(str(folder / "xlnet"))
    trainer_on(2, find_unused_parameters=True).fit(module, loader)
    ours = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    theirs = ours.clone()
    torch.distributed.broadcast(theirs, 0)
    assert torch.equal(ours, theirs)
    set_variables()
    # By itself DDP would stop in the second step, with a traceback.
    with pytest.raises(ModelError, match=r"get no gradient .*; take ddp_find_unused_parameters_true"):
        trainer_on(2).fit(SequenceClassifier(str(folder / "xlnet")), loader)


def test_parameters_without_a_gradient_are_found(tmp_path: Path) -> None:
    # XLNet's mask embedding takes part in its language modelling alone (transformers 5.23).
    config = XLNetConfig(vocab_size=64, d_model=16, n_layer=2, n_head=2, d_inner=32, pad_token_id=0)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path / "xlnet")
    on_ranks(train_with_unused_parameters, tmp_path)


def test_the_shipped_configuration_finds_them() -> None:
    for name in ("ddp", "multi_node"):
        config = yaml.safe_load((Path(__file__).parents[2] / f"configs/trainer/{name}.yaml").read_text())
        strategy = Trainer(accelerator="cpu", devices=2, strategy=config["trainer"]["strategy"], logger=False).strategy
        assert isinstance(strategy, DDPStrategy)
        assert strategy._ddp_kwargs["find_unused_parameters"] is True
