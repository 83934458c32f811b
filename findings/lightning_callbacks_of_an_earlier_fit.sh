#!/usr/bin/env bash
# lightning 2.6.6: callbacks that are made once and given to the Trainer of every fold of a cross-validation, or of every trial of a
# search, go on from the fit before, without a word. EarlyStopping compares with the best score of the earlier fold and
# stops after its patience; ModelCheckpoint keeps the earlier fold's best checkpoint, so that `ckpt_path="best"` tests another
# fold's model (on rows that it was trained on); EMAWeightAveraging waits until the new fit has made more steps than the
# old one, and returns the weights that the fit began with. One Trainer for all folds trains the first alone: `fit` of the
# next module sees that `max_epochs` is reached.
# Seen, the second of two fits with the same callbacks: 2 of 6 epochs, the best checkpoint is the first fit's, and with the average
# the weights have moved by 0 in place of 0.213; with the same Trainer 0 steps in place of 24.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.ones(8, 4)), batch_size=2)


class Regression(LightningModule):
    def __init__(self, target):
        super().__init__()
        self.target, self.steps = target, 0
        self.layer = torch.nn.Linear(4, 1, bias=False)
        torch.nn.init.zeros_(self.layer.weight)

    def training_step(self, batch, number):
        self.steps += 1
        return (self.layer(batch[0]) - self.target).square().mean()

    def validation_step(self, batch, number):
        self.log("loss", (self.layer(batch[0]) - self.target).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(callbacks):
    return Trainer(max_epochs=6, callbacks=callbacks, accelerator="cpu", logger=False, num_sanity_val_steps=0,
                   enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
                   enable_progress_bar=False, enable_model_summary=False, default_root_dir=sys.argv[1])


def fitted(target, callbacks):
    module, made = Regression(target), trainer(callbacks)
    made.fit(module, loader, loader)
    return module, made


stopping, saver = EarlyStopping("loss", patience=2), ModelCheckpoint(sys.argv[1], monitor="loss")
epochs, best = [], []
for target in (1.0, 2.0):  # the second loss is four times the first, and falls as fast
    _, made = fitted(target, [stopping, saver])
    epochs.append(made.current_epoch)
    best.append(saver.best_model_path)
average, moved = EMAWeightAveraging(decay=0.5), []
for target in (1.0, 2.0):
    module, _ = fitted(target, [average])
    moved.append(float(module.layer.weight.abs().mean()))
one, steps = trainer([]), []
for target in (1.0, 2.0):
    module = Regression(target)
    one.fit(module, loader, loader)
    steps.append(module.steps)
print(f"epochs {epochs}; best checkpoint the same: {best[0] == best[1]}; moved {moved}; steps of one Trainer {steps}")
assert epochs == [6, 2] and best[0] == best[1], "the behaviour has changed"
assert moved[0] > 0.1 and moved[1] == 0 and steps == [24, 0], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder"
