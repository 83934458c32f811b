"""Every adapter of peft that fits a text classifier, on the kinds of models that differ: trained, saved, merged.

    python -m benchmarks.compatibility.adapters > docs/compatibility_adapters.md

Takes a minute.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, NamedTuple

import peft
import torch
import transformers
from torch import Tensor, nn

from lightning_modules import ModelError
from lightning_modules.models.adapters import add_adapter

_SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class Family(NamedTuple):
    """A model type.

    Args:
        config: Its class in transformers, without ``Config``.
        sizes: Arguments of the configuration.
        attention: Projections of the attention, which adapters go to.
        feed_forward: Projections of the feed-forward part, which IA3 scales in front.
    """

    config: str
    sizes: dict[str, Any]
    attention: list[str]
    feed_forward: list[str]


FAMILIES = {
    "bert": Family("Bert", _SIZES, ["query", "value"], ["output.dense"]),
    "roberta": Family("Roberta", _SIZES, ["query", "value"], ["output.dense"]),
    "deberta-v2": Family(
        "DebertaV2",
        {**_SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        ["query_proj", "value_proj"],
        ["output.dense"],
    ),
    "modernbert": Family("ModernBert", {**_SIZES, "cls_token_id": 1, "sep_token_id": 2}, ["Wqkv"], ["Wo"]),
    "llama": Family("Llama", _SIZES, ["q_proj", "v_proj"], ["down_proj"]),
    "gpt2": Family(
        "GPT2", {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}, ["c_attn"], ["c_proj"]
    ),
    "t5": Family(
        "T5",
        {
            "vocab_size": 64,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
            "decoder_start_token_id": 0,
        },
        ["q", "v"],
        ["wo"],
    ),
}


def _lora(**options: Any) -> Callable[[Family], Any]:
    return lambda family: peft.LoraConfig(r=4, target_modules=family.attention, **options)


ADAPTERS: dict[str, Callable[[Family], Any]] = {
    "LoRA": _lora(),
    "DoRA": _lora(use_dora=True),
    "rsLoRA": _lora(use_rslora=True),
    "PiSSA": _lora(init_lora_weights="pissa"),
    "PiSSA, fast SVD": _lora(init_lora_weights="pissa_niter_4"),
    "OLoRA": _lora(init_lora_weights="olora"),
    "LoRA, orthogonal": _lora(init_lora_weights="orthogonal"),
    "LoRA, EVA": _lora(init_lora_weights="eva"),
    "LoRA, CorDA": _lora(init_lora_weights="corda"),
    "AdaLoRA": lambda family: peft.AdaLoraConfig(target_modules=family.attention, total_step=10),
    "IA3": lambda family: peft.IA3Config(
        target_modules=family.attention + family.feed_forward, feedforward_modules=family.feed_forward
    ),
    "LoHa": lambda family: peft.LoHaConfig(r=4, target_modules=family.attention),
    "LoKr": lambda family: peft.LoKrConfig(r=4, target_modules=family.attention),
    "OFT": lambda family: peft.OFTConfig(oft_block_size=4, target_modules=family.attention),
    "BOFT": lambda family: peft.BOFTConfig(boft_block_size=4, target_modules=family.attention),
    "HRA": lambda family: peft.HRAConfig(r=4, target_modules=family.attention),
    "VeRA": lambda family: peft.VeraConfig(r=4, target_modules=family.attention),
    "FourierFT": lambda family: peft.FourierFTConfig(n_frequency=10, target_modules=family.attention),
    "VB-LoRA": lambda family: peft.VBLoRAConfig(r=4, num_vectors=8, vector_length=4, target_modules=family.attention),
    "prompt tuning": lambda _: peft.PromptTuningConfig(num_virtual_tokens=3),
    "p-tuning": lambda _: peft.PromptEncoderConfig(num_virtual_tokens=3),
    "prefix tuning": lambda _: peft.PrefixTuningConfig(num_virtual_tokens=3),
}


def small_model(family: Family) -> nn.Module:
    """Return a classifier of a family with random weights."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family.config}Config")(**family.sizes, **_TOKENS)
    return transformers.AutoModelForSequenceClassification.from_config(config)


def outcome(adapter: str, family_name: str) -> str:
    """Return ``works``, ``works, unmerged`` or the line that the adapter is refused with.

    It works if the logits of the trained model do not change with padding, nor when peft alone reads the saved folder
    into the original model, nor by merging.

    Raises:
        AssertionError: if one of these fails.
    """
    family = FAMILIES[family_name]
    original = small_model(family)
    model = copy.deepcopy(original)
    new = [name for name, _ in model.named_parameters() if name.startswith(("class", "score"))]
    try:
        adapted = add_adapter(model, ADAPTERS[adapter](family), new)
        adapted.check_trains()
    except ModelError as error:
        return f"refused: {' '.join(str(error).split()).removeprefix('adapter: ')}"
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    ids = torch.tensor([[9, 5, 7, 2, 0, 0], [4, 11, 23, 8, 6, 2]])
    expected = _logits(adapted.model, ids)
    assert _close(_logits(adapted.model, ids[:1, :4]), expected[:1]), "padding"
    with tempfile.TemporaryDirectory() as folder:
        adapted.save(folder)
        read = peft.PeftModel.from_pretrained(copy.deepcopy(original), folder)
        assert _close(_logits(read, ids), expected), "saved and read back"
    if not adapted.can_merge:
        return "works, unmerged"
    merged = adapted.merge()
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in original.named_parameters()]
    assert _close(_logits(merged, ids), expected), "merged"
    return "works"


def _logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=(ids != 0).long()).logits


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def row(adapter: str) -> str:
    """Return a line of the table."""
    found = [outcome(adapter, family) for family in FAMILIES]
    return f"| {adapter} | {' | '.join(cell.split(':')[0] for cell in found)} |"


def refusals() -> Iterator[str]:
    """Yield every refused pair with its line."""
    for adapter in ADAPTERS:
        lines: dict[str, list[str]] = {}
        for family in FAMILIES:
            found = outcome(adapter, family)
            if found.startswith("refused"):
                lines.setdefault(found.removeprefix("refused: "), []).append(family)
        for line, families in lines.items():
            yield f"- {adapter} on {', '.join(families) if len(families) < len(FAMILIES) else 'any'}: {line}"


HEAD = f"""# Adapters of peft

Every adapter of peft {metadata.version("peft")} that fits a text classifier, tried by
`python -m benchmarks.compatibility.adapters`, which writes this page. *Works*: the trained model's logits are the same
to 1e-6 with more padding, after peft alone has loaded the saved folder into the original model, and after merging.
*Unmerged*: a prompt cannot be merged into weights. Adapters that need their own part of the training loop are
refused when training begins, others when the adapter is made.

LoRA that starts from a part of the weights (PiSSA, OLoRA) is saved as ordinary LoRA of twice the rank, which adds
to the original weights, so that loading it needs no decomposition.
"""


def main() -> None:
    """Print the page."""
    warnings.simplefilter("ignore")
    print(HEAD)
    print(f"| adapter | {' | '.join(FAMILIES)} |\n|{' --- |' * (len(FAMILIES) + 1)}")
    for adapter in ADAPTERS:
        print(row(adapter), flush=True)
    print("\nWhat is refused, and the line that says so:\n")
    print("\n".join(refusals()))


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.compatibility.adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    main()
