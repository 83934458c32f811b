#!/usr/bin/env bash
# skorch 1.4.0: with LoadInitState a run goes on at the checkpoint's weights, optimizer and epoch; whether its schedule goes on depends on
# the order of the callbacks. LRScheduler makes its schedule at the start of a fit, from the epochs that are there; listed before
# LoadInitState it sees none, and begins anew over the rates of the checkpoint: a warm-up comes again, an annealed run rises to
# high rates. Nothing is said. With LoadInitState first all is right, and so it is with `partial_fit` in one process.
# Seen, five of ten epochs and five more, from a rate of 0.1: CosineAnnealingLR ends at 0.0327 in place of 0.0024, LambdaLR that halves the
# rate goes on with 0.0031, 0.05 and 0.025 in place of 0.0031, 0.0016 and 0.0008, OneCycleLR with 0.1, 0.0132 and 0.0372 in place of 0.1,
# 0.0987 and 0.095.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "skorch==1.4.0" "scikit-learn==1.9.1" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, Checkpoint, LoadInitState, LRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

INPUTS = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
POLICIES = {
    "CosineAnnealingLR": (CosineAnnealingLR, {"T_max": 10}),
    "LambdaLR": (LambdaLR, {"lr_lambda": lambda epoch: 0.5**epoch}),
    "OneCycleLR": (OneCycleLR, {"max_lr": 0.1, "total_steps": 20}),
}


class Rates(Callback):
    def initialize(self):
        self.rates = []
        return self

    def on_epoch_begin(self, net, **kwargs):
        self.rates.append(round(net.optimizer_.param_groups[0]["lr"], 4))


def rates(epochs, callbacks):
    seen = Rates()
    net = NeuralNetRegressor(
        torch.nn.Linear,
        module__in_features=5,
        module__out_features=1,
        lr=0.1,
        max_epochs=epochs,
        train_split=None,
        verbose=0,
        callbacks=[*callbacks, ("rates", seen)],
    )
    net.fit(INPUTS, INPUTS.sum(1, keepdim=True))
    return seen.rates


for name, (policy, options) in POLICIES.items():
    folder = f"{sys.argv[1]}/{name}"

    def schedule():
        return ("schedule", LRScheduler(policy=policy, **options))

    def saver():
        return Checkpoint(dirname=folder, monitor=None)

    whole = rates(10, [schedule()])[5:]
    rates(5, [schedule(), ("checkpoint", saver())])
    loaded_first = rates(5, [("load", LoadInitState(saver())), schedule()])
    loaded_last = rates(5, [schedule(), ("load", LoadInitState(saver()))])
    print(f"{name}: without a break {whole}, LoadInitState first {loaded_first}, LRScheduler first {loaded_last}")
    assert loaded_first == whole and loaded_last[0] == whole[0] and loaded_last[1:] != whole[1:], "the behaviour has changed"
    assert name == "OneCycleLR" or loaded_last[-1] > 10 * whole[-1], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/out"
