#!/usr/bin/env bash
# torch 2.13.0 with lightning 2.6.6: an exponential average of bfloat16 weights (AveragedModel, Lightning's EMAWeightAveraging under
# `bf16-true`) is kept in bfloat16 and stands still. With the usual decay of 0.999 an update is a thousandth of the distance,
# which rounds to nothing as long as it is less than half of the last of eight binary digits: a weight has to be two to four
# times as far away as it is large. Fine-tuning moves weights by far less, so that the average is that of the first step:
# Lightning validates, saves and returns a model that has not been trained, without a warning. Averages over a late part
# (equal weights) lose small changes in the same way.
# Seen, weights that move by a fifth: 3000 updates take the average 0.95 of the way in float32, and 0 of it in bfloat16.
# Not yet run in this form: the numbers are to be filled in from its output.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset


def way(dtype):
    """Return the share of the way to weights a fifth larger that the average has gone after 3000 updates."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64, bias=False).to(dtype)
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    average.update_parameters(layer)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.mul_(1.2)
        for _ in range(3000):
            average.update_parameters(layer)
        return float(((average.module.weight - start).float() / (layer.weight - start).float()).mean())


class Regression(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1, bias=False)
        torch.nn.init.ones_(self.layer.weight)

    def training_step(self, batch, number):
        return (self.layer(batch[0]) - 8).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def moved(precision, callbacks):
    module = Regression()
    loader = DataLoader(TensorDataset(torch.ones(400, 4)), batch_size=1)
    trainer = Trainer(max_epochs=1, precision=precision, callbacks=callbacks, accelerator="cpu", logger=False,
                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                      default_root_dir=sys.argv[1])
    trainer.fit(module, loader)
    return float((module.layer.weight.float() - 1).abs().mean())


ways = {dtype: way(dtype) for dtype in (torch.float32, torch.bfloat16)}
print("share of the way:", ways)
fits = {(precision, averaged): moved(precision, [EMAWeightAveraging()] if averaged else [])
        for precision in ("32-true", "bf16-true") for averaged in (False, True)}
print("moved in a fit:", fits)
assert ways[torch.float32] > 0.9 and ways[torch.bfloat16] == 0, "the behaviour has changed"
first = fits["bf16-true", True]
assert first < 0.2 * fits["32-true", True] and fits["bf16-true", False] > 0.9, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
