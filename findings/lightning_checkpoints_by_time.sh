#!/usr/bin/env bash
# lightning 2.6.6: `ModelCheckpoint(train_time_interval=…)` saves nothing, and says nothing, where a module optimizes
# manually: it looks at the progress of the automatic optimization, which stands still there. A long epoch of such a module
# leaves no checkpoint.
# Seen: 8 files from a run with automatic optimization, 0 from the same run with manual optimization.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6"
cat > "$folder/try.py" <<'PYTHON'
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader


class Line(LightningModule):
    def __init__(self, manual):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.automatic_optimization = not manual

    def training_step(self, batch, batch_idx):
        time.sleep(0.05)
        loss = self.layer(batch).mean()
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


counts = {}
for manual in (False, True):
    folder = Path(sys.argv[1]) / str(manual)
    by_time = ModelCheckpoint(folder, train_time_interval=timedelta(seconds=0.02), save_top_k=-1, filename="{step}")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(accelerator="cpu", max_epochs=1, callbacks=[by_time], **quiet).fit(
        Line(manual), DataLoader(torch.arange(8.0).reshape(8, 1))
    )
    counts[manual] = len(list(folder.glob("*.ckpt")))
print(f"{counts[False]} files with automatic optimization, {counts[True]} with manual optimization")
assert counts[False] > 4, "the behaviour has changed"
assert counts[True] == 0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
