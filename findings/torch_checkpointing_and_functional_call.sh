#!/usr/bin/env bash
# torch 2.13.0: the gradient through `torch.func.functional_call` belongs to other weights than the loss where the module checkpoints
# activations, without reentrance too. The weights that the call is given are in the module during the forward pass; the backward
# pass comes later, computes activations again with the module's own weights, and goes back through these. Shapes agree, so that
# nothing is said. A step of meta-learning, or a gradient at masked or perturbed weights, is wrong so for any model of transformers
# after `gradient_checkpointing_enable()`. A copy of the module that holds the other weights is right.
# Seen, a BERT of two layers, weights moved by 0.1 of a standard normal: the same loss of 0.781 with and without checkpointing, gradients that
# differ by 0.38 of their norm; with checkpointing and a copy no difference.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from torch.func import functional_call
from transformers import BertConfig, BertForSequenceClassification

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIG = BertConfig(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
BATCH = {"input_ids": torch.randint(0, 64, (8, 10), generator=torch.Generator().manual_seed(1)), "labels": torch.arange(8) % 2}


def gradient(loss, weights):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(weights))])


def through_call(model, weights):
    """Return the loss of the model with other weights, and its gradient with respect to these."""
    weights = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    loss = functional_call(model, weights, kwargs=BATCH).loss
    return loss.item(), gradient(loss, weights.values())


torch.manual_seed(0)
model = BertForSequenceClassification(CONFIG).train()
other = {name: weight.detach() + 0.1 * torch.randn_like(weight) for name, weight in model.named_parameters()}
plain_loss, plain = through_call(model, other)
model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
checkpointed_loss, checkpointed = through_call(model, other)
copy = BertForSequenceClassification(CONFIG).train()
copy.load_state_dict(other)
copy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
copied = gradient(copy(**BATCH).loss, copy.parameters())
difference, of_copy = [((found - plain).norm() / plain.norm()).item() for found in (checkpointed, copied)]
print(f"losses {plain_loss:.3f} and {checkpointed_loss:.3f}; gradients differ by {difference:.2f}, those of a copy by {of_copy:.1e}")
assert abs(plain_loss - checkpointed_loss) < 1e-6 and of_copy < 1e-4, "the setting has changed"
assert difference > 0.1, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
