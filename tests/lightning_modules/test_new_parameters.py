"""What a checkpoint does not hold trains, wherever in the model it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from lightning_modules import BottleneckConfig, SequenceClassifier
from tests.families import family_model


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
