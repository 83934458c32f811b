#!/usr/bin/env bash
# peft 0.21.2: a LoRA adapter made with `init_lora_weights="pissa_niter_4"` (PiSSA by fast SVD), saved and loaded again, is
# another model. Making it takes its principal part out of the base weights, and loading it does that anew with a random
# SVD, whose part is not the one that was saved. With "pissa" (the exact SVD) the two agree.
# Seen: logits after loading differ by 0.73; by 0 with "pissa".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" "peft==0.21.2"
cat > "$folder/try.py" <<'PYTHON'
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig

torch.manual_seed(0)
small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
config = BertConfig(vocab_size=100, initializer_range=0.3, **small)
AutoModelForSequenceClassification.from_config(config).save_pretrained(f"{sys.argv[1]}/base")
tokens = torch.randint(1, 100, (2, 8))
moves = {}
for start in ("pissa", "pissa_niter_4"):
    base, again = (AutoModelForSequenceClassification.from_pretrained(f"{sys.argv[1]}/base") for _ in range(2))
    options = LoraConfig(task_type="SEQ_CLS", init_lora_weights=start, target_modules=["query", "value"])
    torch.manual_seed(1)
    adapted = get_peft_model(base, options).eval()
    adapted.save_pretrained(f"{sys.argv[1]}/{start}")
    torch.manual_seed(2)
    loaded = PeftModel.from_pretrained(again, f"{sys.argv[1]}/{start}").eval()
    moves[start] = (loaded(input_ids=tokens).logits - adapted(input_ids=tokens).logits).abs().max().item()
print(", ".join(f"{start}: logits differ by {move:.2g} after loading" for start, move in moves.items()))
assert moves["pissa"] < 1e-5 and moves["pissa_niter_4"] > 0.05, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
