#!/usr/bin/env bash
# transformers 5.24.0: texts that DataCollatorWithFlattening puts into one row see each other, unless the model is called with
# `use_cache=False`. Its position numbers tell a decoder with eager or sdpa attention where a text begins, and the mask is made
# of them where there is no cache; by default a decoder makes a cache in every forward pass, in training too. So each text is
# trained on as if it went on from the ones before it, without a word. The Trainer sets `config.use_cache` to false; a loop of
# one's own, with accelerate or Lightning, has to.
# Seen, Llama with random weights, the logits of a text behind two different ones, relative to their standard deviation: they
# differ by 3.8 with eager and with sdpa attention, and by 0 with `use_cache=False`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
generator = torch.Generator().manual_seed(1)
one, other, text = (torch.randint(3, 50, (length,), generator=generator).tolist() for length in (7, 7, 6))
collate = DataCollatorWithFlattening()


def difference(attention, **options):
    """Return by how much the logits of `text` depend on the text before it in the row, and their standard deviation."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation=attention)).train()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    logits = []
    for first in (one, other):
        batch = collate([{"input_ids": first}, {"input_ids": text}])
        logits.append(model(**batch, **options).logits[0, len(first) :].detach())
    return ((logits[0] - logits[1]).abs().max() / logits[0].std()).item()


found = {}
for attention in ("eager", "sdpa"):
    found[attention] = difference(attention), difference(attention, use_cache=False)
    print(f"{attention}: {found[attention][0]:.2f} by default, {found[attention][1]:.1e} with use_cache=False")
    assert found[attention][0] > 1 and found[attention][1] < 1e-4, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
