"""ModelExporter: the best checkpoint of a run becomes folders that transformers and peft read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import ChainDataset, DataLoader, IterableDataset
from transformers import AutoModelForSequenceClassification

from callbacks import GradualUnfreezing, ModelExporter
from callbacks.files.new_file import free_name
from callbacks.outputs.model_exporter import best_checkpoint
from callbacks.outputs.training_facts import described_data, facts_of
from datamodules import GLUEDataModule, TextDataModule
from lightning_modules import BottleneckConfig, SequenceClassifier
from optimizers import ParabolicAdam
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData, save_tiny_bert
from tests.tiny_texts import tiny_classifier, tiny_texts, tiny_tokenizer

ADAMW = partial(torch.optim.AdamW, lr=1e-2)
TEXTS = tiny_texts(6)


class Data(TinyData):
    """Tiny data whose datamodule brings the tokenizer."""

    max_length = 20
    tokenizer = tiny_tokenizer()

    def __init__(self) -> None:
        super().__init__(count=16, batch_size=8)
        self.save_hyperparameters({"train_file": "reviews.csv", "cache_dir": "/nowhere", "rows": 3})


def fit(module: LightningModule, root: Path, *callbacks: Callback, data: Any = None, **options: Any) -> Trainer:
    settings = {"max_epochs": 3, "enable_checkpointing": True} | options
    trainer = quiet_trainer(default_root_dir=root, callbacks=list(callbacks), **settings)
    trainer.fit(module, Data() if data is None else data)
    return trainer


class BestIsTheFirst(Callback):
    """Logs a score that falls from epoch to epoch, and keeps what the weights predicted then."""

    def __init__(self) -> None:
        self.predicted: list[list[dict]] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: SequenceClassifier) -> None:
        pl_module.log("val/score", -float(trainer.current_epoch))
        self.predicted.append(pl_module.predict_texts(TEXTS, tiny_tokenizer()))


def keep_best(root: Path) -> ModelCheckpoint:
    return ModelCheckpoint(root / "checkpoints", monitor="val/score", mode="max", filename="best")


def same(found: list[dict], wanted: list[dict]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert list(one["probabilities"].values()) == pytest.approx(list(other["probabilities"].values()), abs=1e-5)


@pytest.mark.parametrize("adapter", [None, peft.LoraConfig(r=2, target_modules="all-linear")])
def test_the_best_checkpoint_is_exported_not_the_last_step(tmp_path: Path, adapter: Any, capsys: Any) -> None:
    module = tiny_classifier(tmp_path / "start", adapter=adapter, optimizer=ADAMW)
    score = BestIsTheFirst()
    fit(module, tmp_path, score, keep_best(tmp_path), ModelExporter(), num_sanity_val_steps=0)
    restored = SequenceClassifier(str(tmp_path / "model"))
    same(restored.predict_texts(TEXTS), score.predicted[0])
    last = module.predict_texts(TEXTS, tiny_tokenizer())
    with pytest.raises(AssertionError):
        same(last, score.predicted[0])
    same(last, score.predicted[-1])
    printed = capsys.readouterr().out
    assert "(the best checkpoint, step 2, val/score 0.0000)" in printed
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert (tmp_path / "adapter").exists() == (adapter is not None)
    if adapter is not None:
        assert adapter.modules_to_save is None, "the configuration stays as it was written"
        with_adapter = SequenceClassifier(str(tmp_path / "start"), adapter=str(tmp_path / "adapter"))
        same(with_adapter.predict_texts(TEXTS), restored.predict_texts(TEXTS))
        peft.PeftModel.from_pretrained(
            AutoModelForSequenceClassification.from_pretrained(tmp_path / "start"), tmp_path / "adapter"
        )
    card = (tmp_path / "model" / "README.md").read_text()
    for line in (
        "- class: Data\n- train_file: reviews.csv\n- training rows: 16\n",
        "- val/score: 0\n",
        "Weights: the best checkpoint, step 2, val/score 0.0000.",
        "Optimizer: `AdamW`.",
        "Step sizes, set beforehand:",
        "| model | 0.01 | 0.01 |",
        "cut texts at 20 tokens",
    ):
        assert line in card


def test_the_card_has_the_step_sizes_that_were_found(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start", optimizer=ParabolicAdam)
    seen: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(module, tmp_path, ModelExporter(), Watch(), enable_checkpointing=False)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Step sizes, found by the optimizer:" in card
    assert f"| model | {max(seen):.3g} | {seen[-1]:.3g} |" in card
    assert max(seen) > seen[-1]
    assert "Weights: those of the last step, 6; no checkpoint was kept." in card


def test_a_resumed_run_remembers_its_largest_step_size(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start", optimizer=ADAMW)
    exporter = ModelExporter()
    fit(module, tmp_path, exporter, ModelCheckpoint(tmp_path, filename="one"), max_epochs=1)
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert checkpoint["training_facts"]["step_sizes"] == {"model": {"largest": 0.01, "last": 0.01}}
    checkpoint["callbacks"][exporter.state_key]["step_sizes"]["model"]["largest"] = 5.0
    torch.save(checkpoint, tmp_path / "one.ckpt")
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[ModelExporter()], max_epochs=2)
    trainer.fit(module, Data(), ckpt_path=str(tmp_path / "one.ckpt"))
    assert "| model | 5 | 0.01 |" in (tmp_path / "model-v1" / "README.md").read_text()


def test_an_exporter_of_another_fit_knows_nothing_of_the_one_before(tmp_path: Path) -> None:
    exporter = ModelExporter()
    for rate in (0.5, 0.25):
        module = tiny_classifier(tmp_path / "start", optimizer=partial(torch.optim.AdamW, lr=rate))
        fit(module, tmp_path, exporter, enable_checkpointing=False, max_epochs=1)
    assert "| model | 0.25 | 0.25 |" in (tmp_path / "model-v1" / "README.md").read_text()


def test_a_bottleneck_adapter_has_a_folder_of_its_own_format(tmp_path: Path) -> None:
    config = BottleneckConfig(size=4, init_std=0.5, train_norms=True)
    module = tiny_classifier(tmp_path / "start", adapter=config, optimizer=ADAMW)
    # Whole, though parts of it are frozen at the end.
    fit(module, tmp_path, ModelExporter(), GradualUnfreezing(at_epochs=[]), enable_checkpointing=False)
    restored = SequenceClassifier(str(tmp_path / "start"), adapter=str(tmp_path / "adapter"))
    same(restored.predict_texts(TEXTS), module.predict_texts(TEXTS))
    assert not (tmp_path / "model").exists()


def test_nothing_is_written_by_a_trial_run_or_for_other_modules(tmp_path: Path) -> None:
    module = tiny_classifier(tmp_path / "start", optimizer=ADAMW)
    fit(module, tmp_path, ModelExporter(), fast_dev_run=True)

    class Other(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.layer(batch["labels"][:, None].float()).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.warns(UserWarning, match="ModelExporter: Other has no method export; nothing will be written"):
        fit(Other(), tmp_path, ModelExporter(), enable_checkpointing=False)
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_a_fit_without_a_tokenizer_is_refused_before_it_trains(tmp_path: Path) -> None:
    module = SequenceClassifier(str(save_tiny_bert(tmp_path / "start")), optimizer=ADAMW)
    why = r"^ModelExporter: tokenizer: '.*start' has no tokenizer files; give tokenizer, as an attribute of the datam"
    with pytest.raises(MisconfigurationException, match=why):
        fit(module, tmp_path, ModelExporter(), data=TinyData())
    assert module.trainer.global_step == 0
    fit(module, tmp_path, ModelExporter(), data=TinyData(), fast_dev_run=True)
    fit(module, tmp_path, ModelExporter(), max_epochs=1)
    assert (tmp_path / "model" / "tokenizer.json").is_file()


class Stream(IterableDataset):
    """Rows of unknown number."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from TinyData(count=8, batch_size=4).examples


def test_a_chain_of_streams_has_no_number_of_rows(tmp_path: Path) -> None:
    class Streams(Data):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(ChainDataset([Stream(), Stream()]), batch_size=4)

    module = tiny_classifier(tmp_path / "start", optimizer=ADAMW)
    trainer = fit(module, tmp_path, ModelExporter(), data=Streams(), max_epochs=1, enable_checkpointing=False)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    facts = torch.load(tmp_path / "one.ckpt", weights_only=True)["training_facts"]
    assert "training rows" not in facts["data"]
    assert facts["data"]["class"] == "Streams"


def test_a_checkpoint_in_parts_is_said(tmp_path: Path) -> None:
    class InParts(Callback):
        def on_train_end(self, trainer: Trainer, *_: Any) -> None:
            (tmp_path / "parts").mkdir()
            trainer.checkpoint_callback.best_model_path = str(tmp_path / "parts")

    module = tiny_classifier(tmp_path / "start", optimizer=ADAMW)
    with pytest.warns(UserWarning, match=r"parts is sharded, nothing is exported; on one device linetune export"):
        fit(module, tmp_path, ModelExporter(), InParts(), ModelCheckpoint(tmp_path, save_top_k=0), max_epochs=1)
    assert not (tmp_path / "model").exists()


def test_a_folder_is_never_replaced(tmp_path: Path) -> None:
    assert free_name(str(tmp_path / "model")) == str(tmp_path / "model")
    for name in ("model-v1", "model-v2"):
        (tmp_path / "model").mkdir(exist_ok=True)
        assert free_name(str(tmp_path / "model")) == str(tmp_path / name)
        (tmp_path / name).mkdir()


def test_facts_of_a_checkpoint_without_exporter() -> None:
    assert facts_of({"optimizer_names": ["AdamW"], "global_step": 7}) == {
        "optimizer": {"class": "AdamW"},
        "checkpoint": "a checkpoint, step 7",
    }
    state = {"monitor": "val/loss", "current_score": torch.tensor(0.5), "best_model_score": torch.tensor(0.25)}
    facts = facts_of({"training_facts": {"data": {}}, "global_step": 9, "callbacks": {"ModelCheckpoint{}": state}})
    assert facts == {"data": {}, "checkpoint": "a checkpoint, step 9, val/loss 0.5000"}
    assert facts_of({"training_facts": {"data": {}}, "task": {"temperature": 1.5}})["temperature"] == 1.5
    assert "temperature" not in facts_of({"training_facts": {"data": {}}, "task": {"temperature": 1.0}})


def test_a_checkpoint_that_is_saved_between_validations_has_no_score(tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if not trainer.is_last_batch:
                trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    saver = ModelCheckpoint(tmp_path, monitor="val/loss", filename="best")
    module = tiny_classifier(tmp_path / "start", optimizer=ADAMW)
    fit(module, tmp_path, Saves(), saver, ModelExporter(str(tmp_path / "exported")), max_epochs=2)
    for step in (1, 3):  # before the first validation, and one step after it
        facts = facts_of(torch.load(tmp_path / f"{step}.ckpt", weights_only=True))
        assert facts["checkpoint"] == f"a checkpoint, step {step}"
        assert facts["metrics"] == {}
    best = facts_of(torch.load(saver.best_model_path, weights_only=True))
    assert best["checkpoint"].startswith("the best checkpoint, step ")
    assert f"val/loss {best['metrics']['val/loss']:.4f}" in best["checkpoint"]
    assert "the best checkpoint" in (tmp_path / "exported" / "model" / "README.md").read_text()


def test_data_is_described_without_folders() -> None:
    data = GLUEDataModule("sst2", data_dir="/home/me", tokenizer="offline:all-MiniLM-L6-v2")
    assert described_data(data) == {"class": "GLUEDataModule", "task_name": "sst2"}
    assert described_data(None) == {}
    assert best_checkpoint(Trainer(enable_checkpointing=False, logger=False, accelerator="cpu")) is None
    assert not os.path.exists("lightning_logs/nothing")


def test_a_model_card_names_files_without_where_they_lie(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\ngood,1\nbad,0\n")
    data = TextDataModule(train_file=str(rows), val_file=[str(rows)], text_columns="text", tokenizer="unused")
    described = described_data(data)
    assert described["train_file"] == "rows.csv"
    assert described["val_file"] == ["rows.csv"]
    assert str(tmp_path) not in str(described)


def test_a_run_on_a_remote_file_system_exports_its_best_checkpoint_there(tmp_path: Path, capsys: Any) -> None:
    folder = "memory://exporter"
    saver = ModelCheckpoint(f"{folder}/checkpoints", monitor="val/score", mode="max", filename="best")
    module, score = tiny_classifier(tmp_path / "start", optimizer=ADAMW), BestIsTheFirst()
    for name in ("model", "model-v1"):
        fit(module, folder, score, saver, ModelExporter(), num_sanity_val_steps=0)  # type: ignore[arg-type]
        assert f"exported          {folder}/{name} (the best checkpoint, step 2, val/score 0.0000)" in (
            capsys.readouterr().out
        )
        saver = ModelCheckpoint(f"{folder}/again", monitor="val/score", mode="max", filename="best")
        get_filesystem(folder).get(f"{folder}/{name}/", str(tmp_path / name), recursive=True)
    same(SequenceClassifier(str(tmp_path / "model")).predict_texts(TEXTS), score.predicted[0])
