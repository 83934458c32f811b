"""A checkpoint of another task than the run's: refused in one line, or its weights alone are taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import (
    ModelError,
    SequenceClassifier,
)
from optimizers import AdamSLS
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert


def checkpoint(folder: Path, **options: Any) -> tuple[str, str]:
    tiny = str(save_tiny_bert(folder / "m"))
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0, default_root_dir=folder)
    trainer.fit(SequenceClassifier(tiny, optimizer=AdamSLS, **options), TinyData())
    trainer.save_checkpoint(folder / "a.ckpt")
    return tiny, str(folder / "a.ckpt")


def test_a_checkpoint_with_labels_in_another_order_is_refused(tmp_path: Path) -> None:
    tiny, path = checkpoint(tmp_path, label_names=("entailment", "not_entailment"))
    trainer = quiet_trainer(default_root_dir=tmp_path)
    other = SequenceClassifier(tiny, label_names=("not_entailment", "entailment"))
    with pytest.raises(ModelError, match=r"labels in another order, entailment, not_entailment, than the task's"):
        trainer.validate(other, TinyData(), ckpt_path=path, verbose=False)


@pytest.mark.parametrize(
    ("task", "fn", "own"),
    [
        ({"num_labels": 1, "problem_type": "regression"}, "validate", "a regression"),
        ({"num_labels": 3, "label_names": ("low", "mid", "high")}, "validate", "3 labels (low, mid, high)"),
        ({"label_names": ("same", "other")}, "fit", "2 labels (same, other)"),
    ],
)
def test_a_checkpoint_of_another_task_names_both_and_the_way_out(
    tmp_path: Path, task: dict[str, Any], fn: str, own: str
) -> None:
    tiny, path = checkpoint(tmp_path, label_names=("bad", "good"))
    trainer = quiet_trainer(max_steps=2, default_root_dir=tmp_path)
    said = rf"of another task, 2 labels \(bad, good\), than this run's, {re.escape(own)}; keep .*logger.init_args.name"
    with pytest.raises(ModelError, match=said):
        getattr(trainer, fn)(SequenceClassifier(tiny, optimizer=AdamSLS, **task), TinyData(), ckpt_path=path)


def test_labels_of_other_names_may_take_a_checkpoints_weights_but_for_a_fit(tmp_path: Path) -> None:
    tiny, path = checkpoint(tmp_path, label_names=("bad", "good"))
    trainer = quiet_trainer(default_root_dir=tmp_path)
    other = SequenceClassifier(tiny, label_names=("no", "yes"))
    trainer.validate(other, TinyData(), ckpt_path=path, verbose=False)
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in other.state_dict().items())


def test_a_checkpoint_with_another_adapter_is_named(tmp_path: Path) -> None:
    from peft import LoraConfig

    _, path = checkpoint(tmp_path, adapter=LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ModelError, match=r"the checkpoint's adapter is LoraConfig, the model's none"):
        SequenceClassifier.load_from_checkpoint(path)
    rebuilt = SequenceClassifier.load_from_checkpoint(path, adapter=LoraConfig(r=2, target_modules=["query"]))
    assert any("lora" in name for name, _ in rebuilt.named_parameters())
