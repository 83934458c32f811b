#!/usr/bin/env bash
# lightning 2.6.6: a fit with `BaseFinetuning` that goes on from a checkpoint freezes again what was trained by then. The
# parameters are in the optimizer with their rate, but get no gradient, in all of the rest of the run, without a word.
# Known: https://github.com/Lightning-AI/pytorch-lightning/issues/21901
# Seen, 3 epochs of 4 batches, the body unfrozen in epoch 1 and a checkpoint at its end: the body moves in 8 of 12 steps at
# once; resumed, in 0 of the 4 steps that are left.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint
from torch.utils.data import DataLoader


class BodyAndHead(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        self.steps = self.moves = 0

    def training_step(self, batch, batch_idx):
        self.before = self.body.weight.item()
        return self.head(self.body(batch)).square().mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.steps += 1
        self.moves += self.body.weight.item() != self.before

    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), lr=0.1)


class BodyFromEpochOne(BaseFinetuning):
    def freeze_before_training(self, module):
        self.freeze(module.body)

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.body, optimizer, lr=0.1)


rows = DataLoader(torch.arange(1.0, 5.0).reshape(4, 1))
options = {"max_epochs": 3, "accelerator": "cpu", "logger": False}
options |= {"enable_progress_bar": False, "enable_model_summary": False}
whole, resumed = BodyAndHead(), BodyAndHead()
saving = ModelCheckpoint(sys.argv[1], save_top_k=-1, filename="{epoch}")
Trainer(callbacks=[BodyFromEpochOne(), saving], **options).fit(whole, rows)
trainer = Trainer(callbacks=[BodyFromEpochOne()], enable_checkpointing=False, **options)
trainer.fit(resumed, rows, ckpt_path=f"{sys.argv[1]}/epoch=1.ckpt", weights_only=False)
print(f"at once: the body moves in {whole.moves} of {whole.steps} steps; resumed: in {resumed.moves} of {resumed.steps}")
rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
assert (whole.moves, whole.steps) == (8, 12), "the behaviour has changed"
assert (resumed.moves, resumed.steps, rates) == (0, 4, [0.1, 0.1]), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
