#!/usr/bin/env bash
# transformers 5.24.0 with peft 0.21.2: Trainer decays whatever is not a bias and not part of a norm. The factors of IA3, which leave the
# pretrained model as it is where they are 1, and the magnitudes of DoRA, which do so where they are the norms of the pretrained
# weights, are pulled towards zero. Weight decay, meant to hold an adapter near the pretrained model, takes the model apart, and
# more so at the high rates that IA3 is trained at. LoRA's matrices decay towards the pretrained model, as one expects.
# Seen, 500 steps at a constant 8e-3 with a decay of 0.1, on a loss that depends on no adapter: IA3's factors are 0.67 in place of 1, DoRA's
# magnitudes 0.67 of what they were; the outputs of a small BERT move by 0.74 of their size with both, and with LoRA not at all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "peft==0.21.2" "accelerate==1.15.0" "datasets==5.2.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import tempfile

import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "initializer_range": 0.2}
TEXTS = torch.arange(40).reshape(5, 8)
STEPS, RATE, DECAY = 500, 8e-3, 0.1


def after_decay(config, part):
    """Return the size of an adapter's parameters as a share of their start, and the relative change of the outputs."""
    torch.manual_seed(0)
    model = get_peft_model(BertModel(BertConfig(vocab_size=100, **SIZES)), config).eval()
    watched = [each for name, each in model.named_parameters() if part in name]
    start, before = sum(each.detach().abs().sum() for each in watched), model(input_ids=TEXTS).last_hidden_state.detach()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, learning_rate=RATE, weight_decay=DECAY, report_to="none", use_cpu=True)
        optimizer = Trainer(model, arguments).create_optimizer()
    for each in model.parameters():
        each.grad = torch.zeros_like(each) if each.requires_grad else None
    for _ in range(STEPS):
        optimizer.step()
    after = model(input_ids=TEXTS).last_hidden_state.detach()
    share = sum(each.detach().abs().sum() for each in watched) / start
    return share.item(), ((after - before).norm() / before.norm()).item()


attention = ["query", "key", "value", "intermediate.dense", "output.dense"]
configs = {
    "IA3": (IA3Config(target_modules=attention, feedforward_modules=["intermediate.dense", "output.dense"]), "ia3_l"),
    "DoRA": (LoraConfig(target_modules=attention, use_dora=True), "lora_magnitude_vector"),
    "LoRA": (LoraConfig(target_modules=attention), "lora_A"),
}
found = {name: after_decay(*config) for name, config in configs.items()}
for name, (share, change) in found.items():
    print(f"{name}: {share:.2f} of its parameters left, outputs changed by {change:.2f} of their size")
expected = (1 - RATE * DECAY) ** STEPS
assert all(abs(found[name][0] - expected) < 0.01 and found[name][1] > 0.1 for name in ("IA3", "DoRA")), "the behaviour has changed"
assert found["LoRA"][1] < 1e-6, "the behaviour has changed"
PYTHON
HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/try.py"
