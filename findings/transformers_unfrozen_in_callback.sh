#!/usr/bin/env bash
# transformers 5.24.0: layers that a callback of Trainer unfreezes are never trained. The optimizer is made before the first epoch, of the
# parameters that can be trained then, and what gets `requires_grad` later is not in it. All else looks right: the backward pass
# reaches those layers and takes its time, and `grad_norm`, by which the gradient is clipped, goes up with them. Nothing is said. Frozen when
# training begins, in `on_train_begin`, the layers are trained from the epoch in which they are unfrozen.
# Seen, a BERT whose encoder is unfrozen after two of four epochs by SGD at 0.1: it moves by 0, and the logged gradient norms are 0.07, 0.06, 0.22 and
# 0.26; frozen in `on_train_begin` it moves by 0.006.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXTS = torch.randint(0, 64, (64, 10), generator=torch.Generator().manual_seed(1))
ROWS = [{"input_ids": text, "labels": int(text[1] < 32)} for text in TEXTS]


class EncoderLater(TrainerCallback):
    def __init__(self, freeze_at_start):
        self.freeze_at_start = freeze_at_start

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if self.freeze_at_start:
            model.bert.requires_grad_(False)

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        if state.epoch == 2:
            model.bert.requires_grad_(True)


def train(freeze_at_start):
    """Return how far the encoder and the head have moved, and the norms of the gradient by epoch."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES))
    if not freeze_at_start:
        model.bert.requires_grad_(False)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=4,
            per_device_train_batch_size=16,
            learning_rate=0.1,
            optim="sgd",
            lr_scheduler_type="constant",
            logging_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model, arguments, train_dataset=ROWS, callbacks=[EncoderLater(freeze_at_start)])
        trainer.train()
    moved = {name: (weight - start[name]).abs().max().item() for name, weight in model.named_parameters()}
    encoder = max(move for name, move in moved.items() if name.startswith("bert."))
    norms = [float(entry["grad_norm"]) for entry in trainer.state.log_history if "grad_norm" in entry]
    return encoder, moved["classifier.weight"], norms


for freeze_at_start in (False, True):
    encoder, head, norms = train(freeze_at_start)
    when = "in on_train_begin" if freeze_at_start else "before the Trainer is made"
    print(f"frozen {when}: the encoder moves by {encoder:.4f}, the head by {head:.4f}; gradient norms {[round(norm, 2) for norm in norms]}")
    assert head > 0, "the setting has changed"
    assert max(norms[2:]) > 1.1 * max(norms[:2]), "the setting has changed"
    assert (encoder > 0) == freeze_at_start, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" | grep -v "^{'" || { cat "$folder/errors"; exit 1; }
