"""What a checkpoint does not hold trains, wherever in the model it is, and as fast as the optimizer says."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_modules import BottleneckConfig, SequenceClassifier
from optimizers import ParabolicAdam, ParamGroups, SaLSA
from tests.families import family_model
from tests.lightning_modules.regression import Regression, data, fit
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert


@pytest.fixture(params=["nomic_bert", "gte"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A checkpoint without its pooler, and without one norm below the head."""
    family_model(request.param).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = [
        name
        for name in weights
        if ".pooler." in name or name.endswith(("embeddings.LayerNorm.weight", "emb_ln.weight"))
    ]
    assert len(missing) == 3, list(weights)
    for name in missing:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return str(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"trainable": "head"},
        {"trainable": "new"},
        {"adapter": BottleneckConfig(size=2)},
        {"adapter": LoraConfig(r=2, target_modules=["q_proj"])},
    ],
    ids=["head", "new", "bottleneck", "lora"],
)
def test_new_parameters_train(folder: str, settings: dict) -> None:
    module = SequenceClassifier(folder, num_labels=3, **settings)
    trains = [name for name, parameter in module.model.named_parameters() if parameter.requires_grad]
    assert any(".pooler." in name for name in trains), trains
    assert any("embeddings.LayerNorm." in name for name in trains), trains
    assert not any("layers.0.mlp.up_proj.weight" in name for name in trains)


def test_a_model_without_a_checkpoint_is_new_as_a_whole_and_its_head_alone_trains(tmp_path: Path) -> None:
    family_model("bert").config.save_pretrained(tmp_path)
    module = SequenceClassifier(str(tmp_path), num_labels=3, pretrained=False, trainable="head")
    trains = {name.split(".")[0] for name, parameter in module.model.named_parameters() if parameter.requires_grad}
    assert trains == {"bert", "classifier"}
    assert all(
        not parameter.requires_grad
        for name, parameter in module.model.named_parameters()
        if name.startswith(("bert.embeddings", "bert.encoder"))
    )


def test_a_saved_bottleneck_adapter_brings_them_back(folder: str, tmp_path: Path) -> None:
    module = SequenceClassifier(folder, num_labels=3, adapter=BottleneckConfig(size=2))
    saved = module.save_adapter(tmp_path / "adapter")
    again = SequenceClassifier(folder, num_labels=3, adapter=str(saved))
    first, second = dict(module.model.named_parameters()), dict(again.model.named_parameters())
    pooler = [name for name in first if ".pooler." in name]
    assert all(first[name].equal(second[name]) for name in pooler)


class WithNewLayer(Regression):
    """Two layers, one of which no checkpoint has held."""

    def __init__(self, **training: Any) -> None:
        super().__init__(**training)
        self.old = nn.Linear(3, 3)
        self.new_parameter_names = ["layer.weight", "layer.bias"]

    def compute_loss(self, batch: Any) -> Tensor:
        return super().compute_loss((self.old(batch[0]), batch[1]))


@pytest.mark.parametrize(
    ("optimizer", "groups", "factor"),
    [
        (ParabolicAdam, None, ParabolicAdam.new_lr_factor),
        (partial(ParabolicAdam, weight_decay=0.0), ParamGroups(weight_decay=0.0), ParabolicAdam.new_lr_factor),
        (ParabolicAdam, ParamGroups(new_lr_factor=3.0), 3.0),
        (ParabolicAdam, ParamGroups(new_lr_factor=1.0), 1.0),
        (SaLSA, None, 1.0),
        (partial(torch.optim.AdamW, lr=0.01), None, 1.0),
    ],
)
def test_new_parameters_learn_as_much_faster_as_the_optimizer_says(
    optimizer: Any, groups: ParamGroups | None, factor: float, tmp_path: Path
) -> None:
    module = WithNewLayer(optimizer=optimizer, param_groups=groups)
    made = fit(module, data(8), tmp_path, max_epochs=1).optimizers[0]
    factors = {id(p): group.get("lr_factor", 1.0) for group in made.param_groups for p in group["params"]}
    assert [factors[id(p)] for p in module.layer.parameters()] == [factor] * 2
    assert [factors[id(p)] for p in module.old.parameters()] == [1.0] * 2


def test_rates_by_part_leave_new_parameters_without_a_factor(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path / "bert")
    module = SequenceClassifier(str(tmp_path / "bert"), num_labels=2, param_groups=ParamGroups(lr_decay=0.5))
    module.new_parameter_names = ("classifier.weight", "classifier.bias")
    trainer = quiet_trainer(default_root_dir=tmp_path, max_steps=1)
    trainer.fit(module, TinyData())
    factors = {
        group["name"].removesuffix(".no_decay"): group["lr_factor"] for group in trainer.optimizers[0].param_groups
    }
    assert factors["head"] == 1.0
    assert not any(name.endswith(".new") for name in factors)
