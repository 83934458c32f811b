#!/usr/bin/env bash
# sentence-transformers 6.2.0: a CrossEncoder that is trained with its MSELoss predicts other numbers than it was trained to.
# The loss compares its output with the targets; `predict` and `rank` put a sigmoid upon it, which is the default with one
# label. Targets from 0 to 5 are learned, and predictions lie between 0.5 and 1: errors and thresholds are wrong, and so are the
# logits of a teacher, which the example of the loss distils. Correlations by rank do not show it. The folder that is saved
# keeps the sigmoid. `activation_fn=torch.nn.Identity()` for the CrossEncoder is right.
# Seen, targets 0, 1, 2, 3, 4 and 5: predictions 0.49, 0.73, 0.89, 0.96, 0.98 and 0.99, also after a reload; without the sigmoid
# -0.03, 1.00, 2.04, 3.16, 3.94 and 4.81.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0" "sentence-transformers==6.2.0" "transformers==5.24.0" "datasets==5.2.0" "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import random
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import MSELoss
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast


def tiny_bert(folder, words, kind, **options):
    """Save a BERT with random weights and a tokenizer of a few words."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(words))]
    Path(folder, "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    kind(BertConfig(vocab_size=len(tokens), **sizes, **options)).save_pretrained(folder)
    BertTokenizerFast(str(Path(folder, "vocab.txt"))).save_pretrained(folder)


folder, trained = tempfile.mkdtemp(), tempfile.mkdtemp()
tiny_bert(folder, 6, BertForSequenceClassification, num_labels=1)
draw = random.Random(0)
targets = [draw.randrange(6) for _ in range(200)]
rows = Dataset.from_dict(
    {"first": [f"w{target}" for target in targets], "second": ["w0"] * 200, "label": [float(target) for target in targets]}
)
model = CrossEncoder(folder)
arguments = CrossEncoderTrainingArguments(
    tempfile.mkdtemp(),
    num_train_epochs=15,
    per_device_train_batch_size=20,
    learning_rate=5e-3,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
)
CrossEncoderTrainer(model=model, args=arguments, train_dataset=rows, loss=MSELoss(model)).train()
model.save_pretrained(trained)
pairs = [(f"w{target}", "w0") for target in range(6)]
predicted = model.predict(pairs)
plain = model.predict(pairs, activation_fn=torch.nn.Identity())
reloaded = CrossEncoder(trained).predict(pairs)
for name, scores in (("predict", predicted), ("without the sigmoid", plain), ("predict after a reload", reloaded)):
    print(f"{name}: {[round(float(score), 2) for score in scores]}")
assert all(abs(score - target) < 0.5 for target, score in enumerate(plain)), "the model has not learned"
assert max(predicted) < 1 and max(reloaded) < 1, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
