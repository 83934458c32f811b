#!/usr/bin/env bash
# lightning 2.6.6: a checkpoint that ModelCheckpoint saves by steps is saved before the module's own `on_train_batch_end`
# of that batch. What the module does there (an average of its weights, a teacher) is missing in a run that goes on.
# Seen, 6 batches counted in a buffer: 6; resumed after step 3: 5. Counted in `on_before_zero_grad`: 6 and 6.
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


class Counting(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.register_buffer("at_batch_end", torch.tensor(0))
        self.register_buffer("before_zero_grad", torch.tensor(0))

    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.at_batch_end += 1

    def on_before_zero_grad(self, optimizer):
        self.before_zero_grad += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


options = {"max_epochs": 1, "accelerator": "cpu", "logger": False}
options |= {"enable_progress_bar": False, "enable_model_summary": False}
whole, resumed = Counting(), Counting()
saving = ModelCheckpoint(sys.argv[1], every_n_train_steps=3, save_top_k=-1, filename="{step}")
Trainer(callbacks=[saving], **options).fit(whole, DataLoader(torch.zeros(6, 1)))
trainer = Trainer(enable_checkpointing=False, **options)
trainer.fit(resumed, DataLoader(torch.zeros(6, 1)), ckpt_path=f"{sys.argv[1]}/step=3.ckpt", weights_only=False)
counts = [(int(each.at_batch_end), int(each.before_zero_grad)) for each in (whole, resumed)]
print(f"at a batch's end and before zero_grad: {counts[0]}; resumed after step 3: {counts[1]}")
assert counts == [(6, 6), (5, 6)], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
