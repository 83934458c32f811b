#!/usr/bin/env bash
# transformers 5.23.0: what `optim_args` gives to the Trainer's optimizer reaches it by luck. The default (`adamw_torch`) and `adafactor`
# take nothing of it; `sgd`, `rmsprop` and `adagrad` take some names and leave out the others, a misspelt one too. A
# `weight_decay` among those that are taken has no effect either: the groups of the parameters carry the one of TrainingArguments
# (0 unless set), which comes before it. Nothing is said in any of these cases.
# Seen, what the optimizers have then: AdamW eps 1e-8 and amsgrad False for "eps=1e-4,amsgrad=True"; Adafactor clip_threshold 1.0 for
# "clip_threshold=0.5"; SGD momentum 0.9 and weight decay 0 for "momentum=0.9,weight_decay=0.1", momentum 0 for
# "momentun=0.9"; RMSprop weight decay 0 for "weight_decay=0.1".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys
import warnings

import transformers
from torch import nn
from transformers import Trainer, TrainingArguments

transformers.logging.set_verbosity_warning()
warnings.simplefilter("error")


def groups(optim, optim_args):
    options = TrainingArguments(sys.argv[1], optim=optim, optim_args=optim_args, use_cpu=True, report_to=[])
    trainer = Trainer(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), options)
    return trainer.create_optimizer().param_groups


ASKED = [
    ("adamw_torch", {"eps": 1e-4, "amsgrad": True}, {"eps": 1e-8, "amsgrad": False}),
    ("adafactor", {"clip_threshold": 0.5}, {"clip_threshold": 1.0}),
    ("sgd", {"momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 0.0}),
    ("sgd", {"momentun": 0.9}, {"momentum": 0}),
    ("rmsprop", {"weight_decay": 0.1}, {"weight_decay": 0.0}),
]
for optim, asked, expected in ASKED:
    text = ",".join(f"{name}={value}" for name, value in asked.items())
    found = [{name: group[name] for name in expected} for group in groups(optim, text)]
    print(f"{optim} with {text}: {found}")
    assert found == [expected] * 2, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/run"
