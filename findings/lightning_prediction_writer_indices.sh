#!/usr/bin/env bash
# lightning 2.6.6: with one data loader, `BasePredictionWriter.write_on_epoch_end` is given predictions as a list of batches, but
# the row numbers as a list of loaders that hold lists of batches. `zip(predictions, batch_indices)`, the pairs that the two
# arguments seem to be made for, ends after one pair, without an error: the first batch's predictions beside all row numbers.
# With two loaders both are lists of loaders.
# Seen: 5 batches of predictions; 1 entry of row numbers, with 5 batches in it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader


class Double(LightningModule):
    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return 2 * batch


class Writer(BasePredictionWriter):
    def write_on_epoch_end(self, trainer, module, predictions, batch_indices):
        self.shapes = len(predictions), [len(entry) for entry in batch_indices]
        self.pairs = list(zip(predictions, batch_indices))


def loader():
    return DataLoader(torch.arange(10.0), batch_size=2)


def written(loaders):
    writer = Writer("epoch")
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[writer],
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=sys.argv[1],
    )
    trainer.predict(Double(), loaders)
    return writer


one, two = written(loader()), written([loader(), loader()])
print(f"one loader: {one.shapes[0]} predictions, row numbers {one.shapes[1]}; pairs {len(one.pairs)}")
print(f"two loaders: {two.shapes[0]} predictions, row numbers {two.shapes[1]}")
assert one.shapes == (5, [5]) and len(one.pairs) == 1, "the behaviour has changed"
assert two.shapes == (2, [5, 5]), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
