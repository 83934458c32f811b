#!/usr/bin/env bash
# lightning 2.6.6: a data loader with `state_dict` goes on where a checkpoint was written, unless `configure_optimizers` reads
# `trainer.estimated_stepping_batches`, the documented way to tell a schedule its length. Reading it sets the loader up
# before the loops are restored; setting it up is what hands a loader its state, and that happens once.
# Seen: resumed after 3 of 8 batches, the rest of the epoch is 3 4 5 6 7; with the property read, 0 1 2 3 4: three batches
# come twice, three never.
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


class Counter:
    """A loader that goes on from its state."""

    def __init__(self):
        self.position = 0

    def __len__(self):
        return 8

    def __iter__(self):
        while self.position < len(self):
            self.position += 1
            yield torch.tensor([[float(self.position - 1)]])
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Line(LightningModule):
    def __init__(self, reads_length):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.reads_length = reads_length
        self.batches = []

    def training_step(self, batch, batch_idx):
        self.batches.append(int(batch))
        return self.layer(batch).mean()

    def configure_optimizers(self):
        if self.reads_length:
            assert self.trainer.estimated_stepping_batches == 8
        return torch.optim.SGD(self.parameters(), lr=0.1)


resumed = {}
for reads_length in (False, True):
    folder = f"{sys.argv[1]}/{reads_length}"
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saving = ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    Trainer(max_epochs=1, callbacks=[saving], **quiet).fit(Line(reads_length), Counter())
    module = Line(reads_length)
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, **quiet)
    trainer.fit(module, Counter(), ckpt_path=f"{folder}/step=3.ckpt", weights_only=False)
    resumed[reads_length] = module.batches
print(f"batches after the resume: {resumed[False]}; with the property read: {resumed[True]}")
assert resumed[False] == [3, 4, 5, 6, 7], "the behaviour has changed"
assert resumed[True] == [0, 1, 2, 3, 4], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
