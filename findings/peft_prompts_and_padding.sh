#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24.0: with a prompt (PromptTuningConfig, PromptEncoderConfig) the logits of a text under a
# decoder's classifier depend on the padding beside it, and so on the batch that it is in, although the mask is right. peft
# hands over embeddings in place of token ids; the classifier reads its logits at the last token that is not padding, which it
# finds among token ids alone, and takes the last position instead, with one line in the log. Without an adapter, and with LoRA,
# it is the text's last token.
# Seen, Llama, Qwen2 and GPT-2 with random weights: with three tokens of padding on the right the logits of a text move by 0.97,
# 0.39 and 0.84 of the largest of them with prompt tuning, by 1.1, 0.94 and 0.84 with p-tuning, and by 0 with LoRA and without
# an adapter.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
import transformers
from peft import LoraConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "Llama": (SIZES, ["q_proj"]),
    "Qwen2": ({**SIZES, "num_key_value_heads": 4}, ["q_proj"]),
    "GPT2": ({"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, **ENDS}, ["c_attn"]),
}


def moved(family, make_config):
    """Return by how much padding moves a text's logits, relative to the largest of them."""
    sizes, attention = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes, num_labels=2, pad_token_id=0)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    if make_config is not None:
        model = get_peft_model(model, make_config(attention))
    text, padding = torch.tensor([[7, 21, 33, 4, 18, 9]]), torch.zeros(1, 3, dtype=torch.long)
    ids = torch.cat((text, padding), dim=1)
    with torch.no_grad():
        alone = model.eval()(input_ids=text, attention_mask=torch.ones_like(text)).logits
        padded = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
    return ((alone - padded).abs().max() / alone.abs().max()).item()


adapters = {
    "no adapter": None,
    "LoRA": lambda attention: LoraConfig(task_type="SEQ_CLS", target_modules=attention),
    "prompt tuning": lambda _: PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
    "p-tuning": lambda _: PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=4),
}
for family in FAMILIES:
    found = {name: moved(family, make_config) for name, make_config in adapters.items()}
    print(f"{family}: {', '.join(f'{name} {by:.1e}' for name, by in found.items())}")
    assert max(found["no adapter"], found["LoRA"]) < 1e-4, "the behaviour has changed"
    assert min(found["prompt tuning"], found["p-tuning"]) > 0.03, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
