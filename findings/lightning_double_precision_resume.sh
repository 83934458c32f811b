#!/usr/bin/env bash
# lightning 2.6.6: a fit in `64-true` that goes on from a checkpoint does not start from the saved weights but from these
# rounded to float32: they are loaded while the module is in float32, and the module is made double afterwards.
# Parameters are float64 before and after, and nothing is said.
# Seen, a layer of 3 weights after 4 steps: largest difference 1.4e-08, equal to the saved weights rounded to float32.
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
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 1)

    def on_train_start(self):
        self.at_start = self.layer.weight.detach().clone()

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


rows = DataLoader(torch.arange(12.0, dtype=torch.double).reshape(4, 3) / 10)
options = {"accelerator": "cpu", "precision": "64-true", "logger": False}
options |= {"enable_progress_bar": False, "enable_model_summary": False}
saving = ModelCheckpoint(sys.argv[1], filename="one")
Trainer(max_epochs=1, callbacks=[saving], **options).fit(Line(), rows)
saved = torch.load(f"{sys.argv[1]}/one.ckpt", weights_only=False)["state_dict"]["layer.weight"]
resumed = Line()
Trainer(max_epochs=2, enable_checkpointing=False, **options).fit(
    resumed, rows, ckpt_path=f"{sys.argv[1]}/one.ckpt", weights_only=False
)
start = resumed.at_start
print(f"saved as {saved.dtype}, trains as {start.dtype}; loaded: largest difference {(start - saved).abs().max():.1e}, "
      f"equal to the saved weights rounded to float32: {torch.equal(start, saved.float().double())}")
assert saved.dtype == start.dtype == torch.float64, "the behaviour has changed"
assert not torch.equal(start, saved) and torch.equal(start, saved.float().double()), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/checkpoints"
