#!/usr/bin/env bash
# transformers 5.23.0: the logits of a text under ConvBERT depend on how far it is padded, although the attention mask is
# right: its convolutions run over the padding. Scores then depend on the batch that a text is in. BERT, beside it, does not
# care.
# Seen (random weights, standard deviation 0.5): ConvBERT'''s logits move by 2.5, BERT'''s by 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0"
cat > "$folder/try.py" <<'PYTHON'
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, ConvBertConfig

tokens = torch.tensor([[5, 6, 7, 8]])
padded = torch.nn.functional.pad(tokens, (0, 6))
moves = {}
for config in (ConvBertConfig, BertConfig):
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    model = AutoModelForSequenceClassification.from_config(config(vocab_size=100, initializer_range=0.5, **small)).eval()
    with torch.no_grad():
        alone = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        beside = model(input_ids=padded, attention_mask=(padded > 0).long()).logits
    moves[config.model_type] = (alone - beside).abs().max().item()
print(", ".join(f"{name}: logits move by {move:.2g}" for name, move in moves.items()))
assert moves["convbert"] > 0.1 and moves["bert"] < 1e-3, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
