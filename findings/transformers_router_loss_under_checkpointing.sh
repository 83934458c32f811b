#!/usr/bin/env bash
# transformers 5.24.0: with gradient checkpointing by `use_reentrant=True`, which many recipes set, the load-balancing loss of a mixture of
# experts (`output_router_logits=True`) trains nothing. The loss is the same, with the balancing loss in it; its gradient is missing,
# since the router's logits are caught in the first pass, which is made without gradients, and the second pass does not hand
# them over. Routers may send all tokens to few experts while the logged loss says what that costs. Nothing is said.
# `use_reentrant=False`, the default, is right.
# Seen, Mixtral, Qwen2-MoE and OLMoE with two layers, the gradient of the balancing loss alone in the first router: 0 with
# `use_reentrant=True`, the same as without checkpointing with False; the value of that loss is the same with all three.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoeConfig, Qwen2MoeConfig

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "output_router_logits": True,
}
FAMILIES = {
    "Mixtral": MixtralConfig(num_local_experts=4, **SIZES),
    "Qwen2-MoE": Qwen2MoeConfig(num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16, **SIZES),
    "OLMoE": OlmoeConfig(num_experts=4, **SIZES),
}
TEXTS = torch.randint(0, 64, (4, 10), generator=torch.Generator().manual_seed(0))


def router_gradient(config, weight, use_reentrant):
    config.router_aux_loss_coef = weight
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).train()
    if use_reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
    output = model(input_ids=TEXTS, labels=TEXTS, use_cache=False)
    output.loss.backward()
    gradient = next(parameter.grad for name, parameter in model.named_parameters() if name.endswith("mlp.gate.weight"))
    return output.loss.item(), output.aux_loss.item(), gradient.clone()


for name, config in FAMILIES.items():
    found = {}
    for use_reentrant in (None, False, True):
        total, balancing, with_it = router_gradient(config, 1.0, use_reentrant)
        found[use_reentrant] = total, balancing, (with_it - router_gradient(config, 0.0, use_reentrant)[2]).norm().item()
        total, balancing, gradient = found[use_reentrant]
        print(f"{name}, use_reentrant={use_reentrant}: loss {total:.3f}, balancing loss {balancing:.3f}, its gradient {gradient:.3f}")
    assert found[None][:2] == found[False][:2] == found[True][:2], "the behaviour has changed"
    assert found[None][2] > 0.01 and abs(found[False][2] - found[None][2]) < 1e-3 and found[True][2] == 0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
