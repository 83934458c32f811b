#!/usr/bin/env bash
# lightning 2.6.6: where checkpoints are saved as often as validations are made, within an epoch (`every_n_train_steps` equal to
# `val_check_interval`), the best checkpoint holds weights of one interval after the best validation, under the score of that
# validation. ModelCheckpoint saves before the validation of the same step, with the value of the one before. The first save
# alone waits, and so does one in an epoch's last batch: a score that comes right before that is given to no checkpoint at all.
# Without `every_n_train_steps` all is right. Known: Lightning-AI/pytorch-lightning issue 20185, open since 2024.
# Seen, validations at steps 10 to 60 with the losses 0.9, 0.5, 0.1, 0.6, 0.8, 0.95: the best checkpoint is that of step 40, as
# "val_loss=0.10"; with epochs of 20 steps that of step 20, at 0.50; without `every_n_train_steps` that of step 30, at 0.10.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
LOSSES = {10: 0.9, 20: 0.5, 30: 0.1, 40: 0.6, 50: 0.8, 60: 0.95}


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", LOSSES[self.global_step])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def best(batches_of_an_epoch, **when):
    folder = tempfile.mkdtemp()
    saver = ModelCheckpoint(folder, monitor="val_loss", filename="{step}-{val_loss:.2f}", **when)
    trainer = Trainer(
        max_steps=60,
        accelerator="cpu",
        callbacks=[saver],
        val_check_interval=10,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(), DataLoader(torch.ones(batches_of_an_epoch, 1)), DataLoader(torch.ones(1, 1)))
    return Path(saver.best_model_path).stem


by_step, by_step_short, by_validation = best(60, every_n_train_steps=10), best(20, every_n_train_steps=10), best(60)
print(f"by step: {by_step}; by step, epochs of 20: {by_step_short}; after each validation: {by_validation}")
assert by_step == "step=40-val_loss=0.10", "the behaviour has changed"
assert by_step_short == "step=20-val_loss=0.50", "the behaviour has changed"
assert by_validation == "step=30-val_loss=0.10", "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
