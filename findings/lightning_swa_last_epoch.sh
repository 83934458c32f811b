#!/usr/bin/env bash
# lightning 2.6.6: what StochasticWeightAveraging averages are the weights at the starts of epochs, so that the whole last epoch
# of a run is trained and then thrown away; with `swa_epoch_start=0.5` and three epochs, the weights before training are in the
# average. The average is put into the module after training, when the last checkpoint has been written: no checkpoint and no
# validation has it, and `trainer.test()`, which takes the best checkpoint, tests a model without it. That validations do not
# use it was asked in 2023 (Lightning-AI/pytorch-lightning pull request 9938).
# Seen, three epochs, a weight that begins at 0 and ends them at 2.0, 3.8 and 5.2: after training it is 1.9, the mean of 0, 2.0
# and 3.8; the checkpoint of the end has 5.2, and `test()` sees 5.2. With the default start it ends at 2.0, 4.0 and 5.8, and is
# then 3.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import logging
import tempfile
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch.utils.data import DataLoader

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.at_starts, self.tested = [], None

    def on_train_epoch_start(self):
        self.at_starts.append(self.weight.item())

    def training_step(self, batch, batch_idx):
        return -self.weight

    def test_step(self, batch, batch_idx):
        self.tested = self.weight.item()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def run(**start):
    model, batches = Model(), DataLoader(torch.ones(2, 1))
    saver = ModelCheckpoint(tempfile.mkdtemp())
    averaging = StochasticWeightAveraging(swa_lrs=0.1, annealing_epochs=5, **start)
    shown = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=3, accelerator="cpu", callbacks=[saver, averaging], **shown)
    trainer.fit(model, batches)
    after = model.weight.item()
    saved = torch.load(saver.best_model_path, weights_only=True)["state_dict"]["weight"].item()
    trainer.test(dataloaders=batches, verbose=False)
    print(
        f"{start or 'default start'}: at the starts of epochs {[round(value, 2) for value in model.at_starts]}, after training "
        f"{after:.2f}, in the checkpoint {saved:.2f}, tested {model.tested:.2f}"
    )
    return model.at_starts, after, saved, model.tested


starts, after, saved, tested = run(swa_epoch_start=0.5)
assert abs(after - sum(starts) / 3) < 1e-5, "the behaviour has changed"
assert saved > max(starts) and tested == saved, "the behaviour has changed"
starts, after, saved, tested = run()
assert abs(after - sum(starts[1:]) / 2) < 1e-5, "the behaviour has changed"
assert saved > max(starts) and tested == saved, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
