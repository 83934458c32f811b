"""DeBERTa-v2 computed with the relative positions of a batch alone: the same scores, gradients and dropout masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, DebertaV2Config

from lightning_modules.batches.packing import Packing
from lightning_modules.batches.relative_positions import positions_within, relative_attentions
from tests.architectures import tiny_model

EXACT = 12  # distances with an embedding of their own


def deberta(buckets: int) -> nn.Module:
    """A model that scores tokens by their distances, with or without common embeddings of large ones."""
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
        relative_attention=True,
        position_buckets=buckets,
        max_relative_positions=EXACT if buckets < 0 else 48,
        pos_att_type=["p2c", "c2p"],
    )
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model.train()


def batch_of(width: int) -> dict[str, Tensor]:
    torch.manual_seed(width)
    mask = torch.ones(3, width, dtype=torch.long)
    mask[1, width // 2 :] = 0
    return {"input_ids": torch.randint(1, 64, (3, width)), "attention_mask": mask, "labels": torch.tensor([0, 1, 0])}


@pytest.mark.parametrize("buckets", [-1, 2 * EXACT])
@pytest.mark.parametrize(("width", "is_narrowed"), [(2, True), (EXACT, True), (EXACT + 1, False), (40, False)])
def test_loss_gradients_and_dropout_are_those_of_all_positions(buckets: int, width: int, is_narrowed: bool) -> None:
    model, batch = deberta(buckets), batch_of(width)
    attentions = relative_attentions(model)
    assert len(attentions) == 2, "transformers' attention is not the one that this was written for"
    counted: list[int] = []
    for attention in attentions:
        # Keys of positions are made by the projection of keys, of one row for each.
        attention.pos_key_proj.register_forward_hook(lambda _, args, __: counted.append(args[0].shape[1]))

    found = []
    for narrowed in (attentions, []):
        model.zero_grad()
        torch.manual_seed(1)
        with positions_within(narrowed, width):
            loss = model(**batch).loss
            loss.backward()
        found.append(
            [loss.detach(), torch.rand(1), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        )

    spans = 2 * (EXACT if buckets < 0 else buckets)
    assert counted == [2 * width if is_narrowed else spans] * 2 + [spans] * 2
    for narrow, whole in zip(*found, strict=True):
        torch.testing.assert_close(narrow, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()) + 1e-7)


def test_packing_narrows_positions_unless_layers_run_again() -> None:
    model, batch = deberta(2 * EXACT).eval(), batch_of(EXACT - 1)
    layers = list(model.deberta.encoder.layer)
    packing = Packing(model, layers)
    counted: list[int] = []
    relative_attentions(model)[0].pos_key_proj.register_forward_hook(
        lambda _, args, __: counted.append(args[0].shape[1])
    )
    with packing.of(batch["attention_mask"]):
        model(**batch)
    model.train().gradient_checkpointing_enable()
    with packing.of(batch["attention_mask"]):
        model(**batch).loss.backward()
    assert counted[-3:] == [2 * (EXACT - 1), 4 * EXACT, 4 * EXACT]


def test_an_attention_is_as_it_was_after_an_error() -> None:
    attention = relative_attentions(deberta(2 * EXACT))[0]
    before = dict(vars(attention))
    with pytest.raises(TypeError), positions_within([attention], 3):
        attention(torch.zeros(1, 3, 16), None)
    assert vars(attention) == before


def test_other_models_have_none() -> None:
    assert relative_attentions(tiny_model("bert")) == []
