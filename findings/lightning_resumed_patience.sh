#!/usr/bin/env bash
# lightning 2.6.6: a run that goes on with a greater patience of EarlyStopping stops by that of its checkpoint. `load_state_dict`
# overwrites the argument, without a word, so that a run that stopped too early stops again after one epoch. Other
# callbacks keep their arguments (ModelCheckpoint's `save_top_k`).
# Seen: stopped after 3 epochs with patience 2; with patience 6 from its last checkpoint after 4, from the start after 7.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.ones(8, 4)), batch_size=4)


class Constant(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, number):
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch, number):
        self.log("loss", 1.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def epochs(patience, path=None):
    stopping, saver = EarlyStopping("loss", patience=patience), ModelCheckpoint(sys.argv[1], save_last=True)
    trainer = Trainer(max_epochs=20, callbacks=[stopping, saver], accelerator="cpu", logger=False, enable_progress_bar=False,
                      enable_model_summary=False, num_sanity_val_steps=0)
    trainer.fit(Constant(), loader, loader, ckpt_path=path)
    return trainer.current_epoch, stopping.patience, saver.last_model_path


from_start, _, _ = epochs(6)
first, _, path = epochs(2)
resumed, patience, _ = epochs(6, path)
print(f"patience 2: {first} epochs; 6 from there: {resumed} epochs, patience {patience}; 6 from the start: {from_start} epochs")
assert (first, resumed, patience, from_start) == (3, 4, 2, 7), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/checkpoints"
