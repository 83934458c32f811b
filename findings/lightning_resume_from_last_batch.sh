#!/usr/bin/env bash
# lightning 2.6.6: a fit that goes on from a checkpoint of an epoch's last batch (`every_n_train_steps`) leaves out that
# epoch's validation, and with it what hangs on it: the best checkpoint, early stopping, schedules that follow a metric.
# Training itself is whole.
# Seen, 3 epochs of 4 batches: 12 steps and 3 validations; resumed after step 4: 8 steps and 2 validations, where 3 were due.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.steps = self.validations = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.layer(batch).mean()

    def validation_step(self, batch, batch_idx):
        self.validations += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


train, val = DataLoader(torch.arange(4.0).reshape(4, 1)), DataLoader(torch.zeros(1, 1))
options = {"max_epochs": 3, "accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0}
options |= {"enable_progress_bar": False, "enable_model_summary": False}
whole = Line()
saving = ModelCheckpoint(sys.argv[1], every_n_train_steps=4, save_top_k=-1, filename="{step}")
Trainer(callbacks=[saving], **options).fit(whole, train, val)
resumed = Line()
trainer = Trainer(enable_checkpointing=False, **options)
trainer.fit(resumed, train, val, ckpt_path=f"{sys.argv[1]}/step=4.ckpt", weights_only=False)
print(f"whole: {whole.steps} steps, {whole.validations} validations; resumed after step 4, before its validation: "
      f"{resumed.steps} steps, {resumed.validations} validations")
assert (whole.steps, whole.validations) == (12, 3), "the behaviour has changed"
assert (resumed.steps, resumed.validations) == (8, 2), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
