"""AdapterSaver writes what peft and transformers read back."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import peft
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from transformers import AutoModelForSequenceClassification

from callbacks import AdapterSaver, GradualUnfreezing
from lightning_modules import BottleneckConfig, ModelError, SequenceClassifier
from tests.architectures import save_pretrained_backbone
from tests.tiny_models import TinyData

INPUTS = {"input_ids": torch.arange(3, 15).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}


def fit(module: SequenceClassifier, *callbacks: Callback) -> torch.Tensor:
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=list(callbacks),
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, TinyData(count=16, batch_size=8))
    return module.eval()(INPUTS)


def test_adapter_and_merged_model_give_the_trained_predictions(tmp_path: Path) -> None:
    model = save_pretrained_backbone(tmp_path / "model", "bert")
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    lora = peft.LoraConfig(r=2, target_modules="all-linear")
    module = SequenceClassifier(model, adapter=lora, optimizer=optimizer)
    expected = fit(module, AdapterSaver(str(tmp_path / "run"), merge=True))

    restored = SequenceClassifier(model, adapter=str(tmp_path / "run" / "adapter"))
    torch.testing.assert_close(restored.eval()(INPUTS), expected)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "merged").eval()
    torch.testing.assert_close(merged(**INPUTS).logits, expected)
    assert lora.modules_to_save is None, "the configuration stays as it was written"
    assert type(module.model).__name__.startswith("Peft"), "the module keeps its adapter"


def test_a_bottleneck_adapter_is_saved_too(tmp_path: Path) -> None:
    model = save_pretrained_backbone(tmp_path / "model", "gpt2")
    module = SequenceClassifier(model, adapter=BottleneckConfig(size=4), optimizer=partial(torch.optim.AdamW, lr=1e-2))
    expected = fit(module, AdapterSaver(str(tmp_path / "run")))
    restored = SequenceClassifier(model, adapter=str(tmp_path / "run" / "adapter"))
    torch.testing.assert_close(restored.eval()(INPUTS), expected)


def test_a_bottleneck_adapter_is_saved_whole_while_parts_of_it_are_frozen(tmp_path: Path) -> None:
    model = save_pretrained_backbone(tmp_path / "model", "bert")
    config = BottleneckConfig(size=4, init_std=0.5, train_norms=True)
    module = SequenceClassifier(model, adapter=config, optimizer=partial(torch.optim.AdamW, lr=1e-2))
    expected = fit(module, AdapterSaver(str(tmp_path / "run")), GradualUnfreezing(at_epochs=[]))
    restored = SequenceClassifier(model, adapter=str(tmp_path / "run" / "adapter"))
    torch.testing.assert_close(restored.eval()(INPUTS), expected)


def test_a_module_without_adapter_is_refused(tmp_path: Path) -> None:
    module = SequenceClassifier(save_pretrained_backbone(tmp_path / "model", "bert"))
    with pytest.raises(MisconfigurationException, match="the module has no adapter"):
        fit(module, AdapterSaver())
    with pytest.raises(ModelError, match="made without one"):
        module.save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
