"""Parameter groups hold every trainable parameter once, in the right unit, with the right decay and rate."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForSequenceClassification

from optimizers import ParamGroups, named_parts, scale_learning_rates
from optimizers.param_groups import attention_projection
from tests.architectures import ARCHITECTURES, tiny_model

BERT = tiny_model("bert", num_layers=3)


def by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {group["name"]: group for group in groups}
    assert len(found) == len(groups), "two groups of one name"
    return found


def assert_all_once(model: nn.Module, groups: list[dict[str, Any]]) -> None:
    found = sorted(id(parameter) for group in groups for parameter in group["params"])
    assert found == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)


@settings(max_examples=40)
@given(
    units=st.one_of(st.sampled_from(["model", "layer", "qkv", "tensor"]), st.integers(1, 5)),
    weight_decay=st.one_of(st.none(), st.floats(0, 1)),
    decay_norm_and_bias=st.booleans(),
    lr_decay=st.floats(0.1, 2),
    new_lr_factor=st.one_of(st.none(), st.floats(0.1, 10)),
)
def test_every_setting_gives_each_parameter_one_group(
    units: Any,
    weight_decay: float | None,
    decay_norm_and_bias: bool,
    lr_decay: float,
    new_lr_factor: float | None,
) -> None:
    division = ParamGroups(units, weight_decay, None, decay_norm_and_bias, lr_decay, new_lr_factor=new_lr_factor)
    groups = division(BERT, {"classifier.weight"})
    assert_all_once(BERT, groups)
    by_name(groups)
    assert all(len(group["new"]) == len(group["params"]) for group in groups)
    torch.optim.AdamW(groups)  # torch itself refuses a parameter in two groups


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layer_units_are_the_named_parts(architecture: str) -> None:
    model = tiny_model(architecture)
    groups = ParamGroups(units="layer")(model)
    assert_all_once(model, groups)
    parts = named_parts(model)
    assert list(dict.fromkeys(group["unit"] for group in groups)) == [part.name for part in parts]
    for part in parts:
        members = {id(p) for group in groups if group["unit"] == part.name for p in group["params"]}
        assert members == {id(parameter) for _, parameter in part.parameters}


def test_without_settings_one_group_holds_the_model() -> None:
    (group,) = ParamGroups(decay_norm_and_bias=True)(BERT, ["classifier.bias"])
    assert group["name"] == group["unit"] == "model"
    assert "weight_decay" not in group
    names = [name for name, _ in BERT.named_parameters()]
    assert [name for name, new in zip(names, group["new"], strict=True) if new] == ["classifier.bias"]


def test_biases_and_norms_do_not_decay() -> None:
    model = tiny_model("roberta")
    groups = by_name(ParamGroups(weight_decay=0.1)(model))
    assert list(groups) == ["model", "model.no_decay"]
    assert groups["model"]["weight_decay"] == 0.1
    assert groups["model.no_decay"]["weight_decay"] == 0
    assert groups["model.no_decay"]["unit"] == "model"
    without = {id(parameter) for parameter in groups["model.no_decay"]["params"]}
    expected = {name for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name}
    assert {name for name, parameter in model.named_parameters() if id(parameter) in without} == expected


def test_a_norm_over_two_dimensions_does_not_decay_either() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Unflatten(1, (2, 2)), nn.LayerNorm((2, 2), bias=False))
    groups = by_name(ParamGroups(weight_decay=0.1)(model))
    assert [parameter is model[2].weight for parameter in groups["model.no_decay"]["params"]] == [True]
    assert [parameter is model[0].weight for parameter in groups["model"]["params"]] == [True]


@pytest.mark.parametrize(
    "config",
    [
        peft.IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"]),
        peft.BOFTConfig(target_modules=["query"], boft_block_size=4),
        peft.LoraConfig(target_modules=["query"]),
        peft.LoraConfig(target_modules=["query", "word_embeddings"], r=1),
        peft.LoraConfig(target_modules=["query"], use_dora=True),
        peft.VeraConfig(target_modules=["query"], r=4),
        peft.OFTConfig(target_modules=["query"], oft_block_size=4, r=0),
        peft.LoHaConfig(target_modules=["query"]),
        peft.HRAConfig(target_modules=["query"], r=2),
        peft.LNTuningConfig(target_modules=["LayerNorm"]),
    ],
    ids=lambda config: f"{type(config).__name__}{'-dora' * getattr(config, 'use_dora', False)}",
)
def test_a_decay_leaves_a_fresh_adapter_at_the_pretrained_model(config: peft.PeftConfig) -> None:
    torch.manual_seed(0)
    model = peft.get_peft_model(tiny_model("bert").bert, config).eval()
    inputs = torch.arange(1, 9)[None]
    before = model(inputs).last_hidden_state.detach()
    groups = ParamGroups(weight_decay=1.0)(model)
    for parameter in [each for group in groups if group["weight_decay"] for each in group["params"]]:
        parameter.data.mul_(0.5)
    torch.testing.assert_close(model(inputs).last_hidden_state, before)


def test_a_lora_of_rank_one_decays() -> None:
    """Its matrices are one row or column, as IA3's factors are."""
    config = peft.LoraConfig(target_modules=["query", "word_embeddings"], r=1)
    groups = by_name(ParamGroups(weight_decay=0.1)(peft.get_peft_model(tiny_model("bert").bert, config)))
    assert list(groups) == ["model"]


def test_a_bias_of_two_dimensions_does_not_decay_either() -> None:
    """XLNet's attention has one for each head."""
    model = nn.Linear(4, 4, bias=False)
    model.r_w_bias = nn.Parameter(torch.zeros(2, 4))
    groups = by_name(ParamGroups(weight_decay=0.1)(model))
    assert [parameter is model.r_w_bias for parameter in groups["model.no_decay"]["params"]] == [True]


@pytest.mark.parametrize(
    ("architecture", "units"),
    [
        ("bert", {"query", "key", "value", "rest"}),
        ("roberta", {"query", "key", "value", "rest"}),
        ("distilbert", {"query", "key", "value", "rest"}),
        ("albert", {"query", "key", "value", "rest"}),
        ("deberta-v2", {"query", "key", "value", "rest"}),
        ("modernbert", {"qkv", "rest"}),
        ("gpt2", {"qkv", "rest"}),
    ],
)
def test_qkv_units(architecture: str, units: set[str]) -> None:
    model = tiny_model(architecture)
    groups = ParamGroups(units="qkv", decay_norm_and_bias=True)(model)
    assert_all_once(model, groups)
    in_first_layer = {g["unit"]: g["params"] for g in groups if g["unit"].startswith("layer.0.")}
    assert {unit.removeprefix("layer.0.") for unit in in_first_layer} == units
    width = 48 if "qkv" in units else 16
    for unit, parameters in in_first_layer.items():
        if not unit.endswith("rest"):
            assert {tuple(p.shape) for p in parameters} <= {(width, 16), (16, width), (width,)}
            assert len(parameters) == (1 if architecture == "modernbert" else 2)
    assert {group["unit"] for group in groups} >= {"embeddings", "head"}


@pytest.mark.parametrize(
    ("name", "projection"),
    [
        ("layers.0.self_attn.q_proj.weight", "query"),
        ("layer.0.attention.key.bias", "key"),
        ("transformer.h.0.attn.v_lin.weight", "value"),
        ("attention.query_key_value.weight", "qkv"),
        ("attention.key_value.weight", "qkv"),
        ("attention.kv_proj.weight", "qkv"),
        ("attn.qkv_proj.weight", "qkv"),
        ("self_attn.in_proj_bias", "qkv"),
        ("deberta.encoder.layer.0.attention.self.in_proj.weight", "qkv"),
        ("model.layers.0.mamba.in_proj.weight", "rest"),
        ("h.0.multi_head_attention.Wk.weight", "key"),
        ("self_attn.out_proj.weight", "rest"),
    ],
)
def test_a_projection_is_known_by_its_name(name: str, projection: str) -> None:
    assert attention_projection(name) == projection


def test_bundles_are_neighbours_of_equal_size() -> None:
    groups = ParamGroups(units=2, decay_norm_and_bias=True)(BERT)
    assert [group["name"] for group in groups] == ["embeddings-layer.0", "layer.1-head"]
    assert [g["name"] for g in ParamGroups(units=5, decay_norm_and_bias=True)(BERT)] == [
        "embeddings",
        "layer.0",
        "layer.1",
        "layer.2",
        "head",
    ]
    with pytest.raises(ValueError, match="6 bundles are more than the 5 parts"):
        ParamGroups(units=6)(BERT)


@pytest.mark.parametrize("units", ["model", "layer", "qkv", "tensor", 2])
def test_learning_rates_fall_with_depth_for_any_units(units: Any) -> None:
    groups = ParamGroups(units=units, lr_decay=0.5)(BERT)
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scale_learning_rates(optimizer)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for part, expected in zip(named_parts(BERT), [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1], strict=True):
        assert {rate[id(parameter)] for _, parameter in part.parameters} == {expected}


def test_a_rate_that_is_a_tensor_is_reduced_once_for_each_group() -> None:
    """torch 2.13 gives all groups one tensor, and a schedule changes it in place, group after group."""
    optimizer = torch.optim.AdamW(ParamGroups()(BERT), lr=torch.tensor(0.1))
    scale_learning_rates(optimizer)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    for _ in range(2):
        plateau.step(1.0)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.01, 0.01])


def test_a_model_whose_name_has_a_norm_in_it_is_decayed() -> None:
    """transformers' Trainer decays next to nothing of it: it goes by the names of parameters."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = RobertaPreLayerNormForSequenceClassification(RobertaPreLayerNormConfig(vocab_size=64, **sizes))
    groups = ParamGroups(weight_decay=0.1)(model)
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}
    assert decayed == {id(p) for p in model.parameters() if p.ndim == 2}


def test_explicit_factors_and_rates() -> None:
    division = ParamGroups(decay_norm_and_bias=True, lr_factors={"head": 3.0}, lrs={"embeddings": 1e-6}, lr_decay=0.5)
    optimizer = torch.optim.AdamW(division(BERT), lr=1e-3)
    scale_learning_rates(optimizer)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx(
        {"embeddings": 1e-6, "layer.0": 1.25e-4, "layer.1": 2.5e-4, "layer.2": 5e-4, "head": 3e-3}
    )


def test_new_parameters_have_a_factor_of_their_own() -> None:
    new = {"classifier.weight", "classifier.bias"}
    division = ParamGroups(lr_factors={"head": 3.0}, lrs={"layer.0": 1e-6}, new_lr_factor=10.0)
    optimizer = torch.optim.AdamW(division(BERT, new), lr=1e-3)
    scale_learning_rates(optimizer)
    rates = {name: group["lr"] for name, group in by_name(optimizer.param_groups).items() if "no_decay" not in name}
    assert rates == pytest.approx(
        {"embeddings": 1e-3, "layer.0": 1e-6, "layer.1": 1e-3, "layer.2": 1e-3, "head": 3e-3, "head.new": 3e-2}
    )
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rate[id(p)] for p in BERT.classifier.parameters()] == pytest.approx([3e-2, 3e-2])
    assert_all_once(BERT, optimizer.param_groups)


def test_a_rate_of_none_stays_and_a_factor_on_it_is_refused() -> None:
    optimizer = torch.optim.SGD(ParamGroups()(BERT), lr=1.0)
    for group in optimizer.param_groups:
        group["lr"] = None
    scale_learning_rates(optimizer)
    assert {group["lr"] for group in optimizer.param_groups} == {None}
    optimizer.param_groups[0]["lr_factor"] = 0.5
    with pytest.raises(ValueError, match="SGD has no learning rate to scale by part"):
        scale_learning_rates(optimizer)


@pytest.mark.parametrize("new", [[], [name for name, _ in BERT.named_parameters()]], ids=["none", "all"])
def test_where_nothing_or_everything_is_new_there_is_no_factor(new: list[str]) -> None:
    assert ParamGroups(new_lr_factor=10.0)(BERT, new) == ParamGroups()(BERT, new)


def test_names_of_new_parameters_that_are_none_are_refused() -> None:
    message = r"^new_parameter_names: a Sequential has no parameter 'classifier.bias'; its \d+ parameters are 0.bert."
    with pytest.raises(ValueError, match=message):
        ParamGroups()(nn.Sequential(BERT), ["classifier.weight", "classifier.bias"])
    # What a model has lost since, or keeps as a buffer, may be among them.
    assert ParamGroups()(BERT, ["classifier.weight", "lost"]) == ParamGroups()(BERT, ["classifier.weight"])


def test_an_optimizer_that_knows_factors_keeps_its_rates() -> None:
    class Knowing(torch.optim.SGD):
        def __init__(self, params: Any) -> None:
            super().__init__(params, lr=1.0)
            self.defaults["lr_factor"] = 1.0

    optimizer = Knowing(ParamGroups(lr_decay=0.5)(BERT))
    scale_learning_rates(optimizer)
    assert {group["lr"] for group in optimizer.param_groups} == {1.0}


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"units": "layers"}, "units: 'layers' is not allowed; model, layer, qkv, tensor or a number"),
        ({"units": 0}, "units: 0 is not allowed"),
        ({"units": True}, "units: True is not allowed"),
        ({"weight_decay": -1.0}, "weight_decay: -1.0 is not allowed; at least 0"),
        ({"anchor_decay": -1.0}, "anchor_decay: -1.0 is not allowed; at least 0"),
        ({"lr_decay": 0.0}, "lr_decay: 0.0 is not allowed; above 0"),
        ({"new_lr_factor": 0.0}, "new_lr_factor: 0.0 is not allowed; above 0, or None"),
        ({"lr_factors": {"head": -1.0}}, "lr_factors: head: -1.0 is not allowed"),
        ({"lrs": {"head": float("nan")}}, "lrs: head: nan is not allowed"),
        ({"lrs": {"head": 1.0}, "lr_factors": {"head": 1.0}}, "both have an entry for head"),
    ],
)
def test_settings_out_of_range_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParamGroups(**settings_)


def test_an_unknown_part_is_refused_with_the_parts_there_are() -> None:
    with pytest.raises(ValueError, match=r"no part 'layer\.9' .* embeddings, layer\.0, layer\.1, layer\.2, head"):
        ParamGroups(lrs={"layer.9": 1e-3})(BERT)


def test_a_model_without_attention_has_no_qkv_units() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(4, 2)
            self.layers = nn.ModuleList([nn.Linear(2, 2)])

    with pytest.raises(ValueError, match=r"qkv is not possible.*layers\.0\.weight, layers\.0\.bias"):
        ParamGroups(units="qkv")(Mixer())
