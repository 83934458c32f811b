"""Adapters that a forward pass goes around are refused before training."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from lightning_modules import ModelError
from lightning_modules.models.adapters import add_adapter
from lightning_modules.models.tiny_input import module_order
from tests.families import family_batch, family_model


def adapted(family: str, targets: list[str]) -> torch.nn.Module:
    model = family_model(family)
    return add_adapter(model, LoraConfig(r=2, target_modules=targets), (), module_order(model)).model


@pytest.mark.parametrize(("family", "layer"), [("jamba", "dt_proj"), ("layoutlmv3", "rel_pos_bias")])
def test_a_layer_whose_weight_is_read_without_a_call_takes_no_adapter(family: str, layer: str) -> None:
    """With peft 0.21.2 and transformers 5.23.0 such an adapter acts only once it is merged."""
    with pytest.raises(ModelError, match=rf"^adapter: .* reads the weights of {layer} without calling these layers"):
        adapted(family, [layer])


@pytest.mark.parametrize(("family", "targets"), [("jamba", ["in_proj", "q_proj"]), ("bert", ["query", "value"])])
def test_other_layers_do_and_merged_is_adapted(family: str, targets: list[str]) -> None:
    model = adapted(family, targets).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
        expected = model(**family_batch()).logits
        torch.testing.assert_close(model.merge_and_unload()(**family_batch()).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_layer_that_neither_runs_nor_is_read_may_have_one() -> None:
    """Of Gemma 3's tower of images a text sees nothing."""
    names = [name for name, _ in adapted("gemma3", ["q_proj", "fc1"]).named_parameters() if "lora_A" in name]
    assert any("fc1" in name for name in names)
    assert any("q_proj" in name for name in names)


def test_looking_leaves_the_weights_as_they_are() -> None:
    model = family_model("jamba")
    before = model.model.layers[0].mamba.dt_proj.weight.clone()
    with pytest.raises(ModelError):
        add_adapter(model, LoraConfig(r=2, target_modules=["dt_proj"]), (), module_order(model))
    assert torch.equal(model.model.layers[0].mamba.dt_proj.base_layer.weight, before)


def test_a_model_that_does_not_run_with_the_adapter_is_refused() -> None:
    """PhiMoE's router is a linear module that returns two tensors; peft 0.21.2's layer expects one."""
    with pytest.raises(ModelError, match=r"^adapter: the model does not run with it: 'tuple' object"):
        adapted("phimoe", ["router"])
