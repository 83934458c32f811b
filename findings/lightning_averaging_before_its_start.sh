#!/usr/bin/env bash
# lightning 2.6.6: EMAWeightAveraging with a late start (`update_starting_at_step`) validates the weights that the fit began with
# until then, so that early stopping and the best checkpoint go by an untrained model (Lightning-AI/pytorch-lightning issue 21724).
# And a fit that ends before the start leaves these in the module: it has trained nothing, without a warning.
# Seen: validation losses of five epochs 28.3, 28.3, 28.3, 3.33, 2.22 beside 14.9, 7.93, 4.24, 2.28, 1.23 without the callback;
# after a fit of two epochs the weights are moved by 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6" numpy
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
inputs = torch.randn(64, 4)
loader = DataLoader(TensorDataset(inputs, inputs @ torch.tensor([1.0, 2.0, 3.0, 4.0])), batch_size=8)


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(4, 1)
        self.scores = []

    def training_step(self, batch, number):
        return (self.layer(batch[0])[:, 0] - batch[1]).square().mean()

    def validation_step(self, batch, number):
        self.log("loss", self.training_step(batch, number))

    def on_validation_epoch_end(self):
        self.scores.append(float(self.trainer.callback_metrics["loss"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02)


def fitted(epochs, callbacks):
    module = Line()
    Trainer(max_epochs=epochs, callbacks=callbacks, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            default_root_dir=sys.argv[1]).fit(module, loader, loader)
    return module


alone = fitted(5, []).scores
averaged = fitted(5, [EMAWeightAveraging(decay=0.9, update_starting_at_step=24)]).scores
short = fitted(2, [EMAWeightAveraging(decay=0.9, update_starting_at_step=24)])
moved = (short.layer.weight - Line().layer.weight).abs().max().item()
print(f"without {[round(x, 2) for x in alone]}, averaged {[round(x, 2) for x in averaged]}, a short fit moves {moved}")
assert averaged[0] == averaged[1] == averaged[2] > alone[0] > alone[2] and moved == 0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
