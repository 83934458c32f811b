#!/usr/bin/env bash
# transformers 5.23.0 with schedulefree 1.4.1: with `optim="schedule_free_adamw"` the model that `train()` leaves behind, and
# that `save_model` writes, has the weights at which gradients were computed, and not the averaged ones that the method is
# about, unless an evaluation came after the last step. The loss of the saved model is another one than `evaluate()` reports.
# Seen, without an evaluation in training: the saved model has a loss of 1.050, and `evaluate()` then says 0.967; with one after
# every epoch 0.890 both. With `adamw_torch` both are the same in either case.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" \
    "accelerate==1.15.0" "schedulefree==1.4.1" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
torch.manual_seed(0)
texts = torch.cat([1 + torch.arange(96)[:, None] % 2, torch.randint(3, 40, (96, 6))], dim=1)
labels = (torch.rand(96) < torch.where(texts[:, 0] == 2, 0.8, 0.2)).long()  # what the first token says, four times of five
rows = [{"input_ids": text, "labels": label} for text, label in zip(texts, labels, strict=True)]


def losses(optimizer, evaluates):
    torch.manual_seed(0)
    arguments = TrainingArguments(
        sys.argv[1],
        num_train_epochs=5,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        optim=optimizer,
        eval_strategy="epoch" if evaluates else "no",
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    model = BertForSequenceClassification(BertConfig(**SIZES))
    trainer = Trainer(model, arguments, train_dataset=rows[:64], eval_dataset=rows[64:])
    trainer.train()
    trainer.save_model(sys.argv[1])
    saved = BertForSequenceClassification.from_pretrained(sys.argv[1]).eval()
    with torch.no_grad():
        loss = float(saved(input_ids=texts[64:], labels=labels[64:]).loss)
    return loss, trainer.evaluate()["eval_loss"]


found = {}
for optimizer in ("schedule_free_adamw", "adamw_torch"):
    for evaluates in (False, True):
        saved, evaluated = losses(optimizer, evaluates)
        found[optimizer, evaluates] = abs(saved - evaluated)
        when = "with evaluations" if evaluates else "without"
        print(f"found: {optimizer}, {when}: saved {saved:.3f}, evaluate() {evaluated:.3f}")
differs = {case for case, difference in found.items() if difference > 1e-3}
assert differs == {("schedule_free_adamw", False)}, "found: the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/out" 2>&1 | grep "found: "
test "${PIPESTATUS[0]}" -eq 0
