#!/usr/bin/env bash
# transformers 5.24.0: `resize_token_embeddings` says that new embeddings are drawn with the old ones' mean and covariance, and draws
# them with a billionth of that covariance. All new tokens begin as one point, near the mean of all, which is near zero. As
# long as the embeddings are frozen, as under LoRA, texts that differ in new tokens alone stay the same text to the model,
# whatever is trained; where they train, the new tokens have to come apart first.
# Seen, 8 new tokens in a small BERT whose embeddings have a spread of 2e-2: the new ones have one of 6e-7 and cosines of 1.0000. Of 8
# texts that differ in the new token alone, with its parity as the label, 4 are right after 100 steps of LoRA; all 8 are
# with `mean_resizing=False`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

torch.set_num_threads(1)
OLD, NEW = 1000, 8
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def model_with_new_tokens(**options):
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=OLD, **SIZES))
    model.resize_token_embeddings(OLD + NEW, **options)
    return model


def score(model):
    """Return the share of training rows that are right after training LoRA to tell new tokens apart."""
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value", "dense"], r=16, lora_alpha=64))
    token = torch.arange(NEW)
    texts = torch.tensor([[1, 2, OLD + new, 3, 4] for new in token])
    labels = token % 2
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model(input_ids=texts, labels=labels).loss.backward()
        optimizer.step()
    model.eval()
    return (model(input_ids=texts).logits.argmax(1) == labels).float().mean().item()


model = model_with_new_tokens().eval()
weights = model.get_input_embeddings().weight.detach()
old, new = weights[:OLD], weights[OLD:]
cosines = torch.nn.functional.cosine_similarity(new[0], new[1:])
print(f"spread {old.std(0).mean():.0e} of old embeddings, {new.std(0).mean():.0e} of new ones, cosines from {cosines.min():.4f}")
scores = {str(options): score(model_with_new_tokens(**options)) for options in ({}, {"mean_resizing": False})}
print("right after training:", ", ".join(f"{found:.2f} with {options}" for options, found in scores.items()))
assert new.std(0).mean() < 1e-4 * old.std(0).mean() and cosines.min() > 0.999, "the behaviour has changed"
assert scores["{}"] <= 0.75 and scores["{'mean_resizing': False}"] == 1.0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
