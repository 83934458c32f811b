#!/usr/bin/env bash
# lightning 2.6.6: the checkpoint that is saved when SLURM is about to requeue a job (SIGUSR1) is written by the signal's
# handler, in the middle of whatever runs: under torch's L-BFGS with a line search it holds the weights of a trial. Under
# SLURM it is then taken by every fit, validate, test and predict without `ckpt_path` in the same `default_root_dir`, of
# another run as well, in place of the weights of the module that is given.
# The variables of SLURM are set here, and `scontrol` is a program that does nothing.
# Seen: the saved weights are those of no step, and a module of zeros that is validated has them afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6"
mkdir "$folder/bin"
printf '#!/bin/sh\n' > "$folder/bin/scontrol"
chmod +x "$folder/bin/scontrol"
export SLURM_JOB_ID=17 SLURM_JOB_NAME=fit SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
unset SLURM_ARRAY_JOB_ID SLURM_NTASKS_PER_NODE SLURM_NNODES
cat > "$folder/try.py" <<'PYTHON'
import os
import signal
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader


class Line(LightningModule):
    def __init__(self, interrupted=False):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1, bias=False)
        torch.nn.init.zeros_(self.layer.weight)
        self.interrupted, self.losses, self.after_steps = interrupted, 0, []

    def training_step(self, batch, batch_idx):
        self.losses += 1
        if self.interrupted and self.losses == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return (self.layer(batch) - batch.sum(1, keepdim=True)).cosh().mean()

    def on_train_batch_end(self, *_):
        self.after_steps.append(self.layer.weight.detach().clone())

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), max_iter=4, line_search_fn="strong_wolfe")


def trainer(folder):
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(max_epochs=4, default_root_dir=folder, enable_checkpointing=False, **options)


def fit(folder, module):
    trainer(folder).fit(module, data, weights_only=False)
    return module


data = DataLoader(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), batch_size=16)
here = sys.argv[1]
whole = fit(f"{here}/whole", Line())
fit(f"{here}/job", Line(interrupted=True))
saved = torch.load(f"{here}/job/hpc_ckpt_1.ckpt", weights_only=False)["state_dict"]["layer.weight"]
of_a_step = any(torch.equal(saved, each) for each in (torch.zeros(1, 4), *whole.after_steps))
other = Line()
trainer(f"{here}/job").validate(other, data, verbose=False, weights_only=False)
taken = torch.equal(other.layer.weight, saved)
print(f"saved weights are those of a step: {of_a_step}; "
      f"a module of zeros has the saved weights after validate(module): {taken}")
assert not of_a_step, "the behaviour has changed"
assert taken, "the behaviour has changed"
PYTHON
PATH="$folder/bin:$PATH" "$folder/venv/bin/python" "$folder/try.py" "$folder"
