"""Forward passes on a batch's tokens alone: the logits and gradients of the padded batch, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_modules import SequenceClassifier
from lightning_modules.batches import packed_batch
from lightning_modules.batches.packed_batch import PackedBatch
from lightning_modules.batches.packing import Packing
from lightning_modules.batches.padding import Padding
from lightning_modules.errors import ModelError
from lightning_modules.models.tiny_input import module_order, padded_texts
from optimizers import ParabolicAdam
from optimizers.named_parts import layer_modules
from tests.families import family_model
from tests.tiny_models import TinyData, save_tiny_bert

LAYERS = ("bert", "roberta", "distilbert", "modernbert", "gpt2", "llama", "albert", "bart", "mistral")
AROUND_ATTENTION = ("mpnet", "deberta-v2")
LINEAR = ("t5",)


def packing_of(family: str) -> tuple[nn.Module, Packing, str]:
    model = family_model(family)
    model.eval()
    side = "right" if Padding(model).is_free("right") else "left"
    return model, Packing(model, layer_modules(model, module_order(model)), side), side


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("block", [12, 48])
@pytest.mark.parametrize("family", [*LAYERS, *AROUND_ATTENTION, *LINEAR])
def test_logits_and_gradients_are_those_of_the_padded_batch(
    family: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In blocks of 12 tokens some texts are alone and some are not, in those of 48 none is.
    monkeypatch.setattr(packed_batch, "_BLOCK", block)
    model, packing, side = packing_of(family)
    form = "layers" if family in LAYERS else "around attention" if family in AROUND_ATTENTION else "linear"
    assert packing.form == form
    texts = padded_texts(model, (3, 11, 7, 7, 5), 11, side)
    widths = []
    hook = packing._linear[0].register_forward_hook(lambda _, args, __: widths.append(args[0].shape[:2].numel()))

    padded = model(**texts).logits
    with packing.of(texts["attention_mask"], always=True):
        packed = model(**texts).logits
    hook.remove()

    assert set(widths) == {55, 33}, "the layers have to see the tokens alone"
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-6)
    for found, expected in zip(
        gradients(model, packed.square().sum()), gradients(model, padded.square().sum()), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6 + 1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["convbert", "fnet", "canine", "xlnet"])
def test_a_model_that_cannot_run_packed_runs_as_it_is(family: str) -> None:
    model, packing, _ = packing_of(family)
    texts = padded_texts(model, (3, 9), 9, "right")
    assert packing.form is None
    with packing.of(texts["attention_mask"], always=True):
        found = model(**texts).logits
    assert torch.equal(found, model(**texts).logits)
    with pytest.raises(ModelError, match="skip_padding"):
        packing.check()


@settings(max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=7), st.booleans())
def test_what_is_packed_comes_back_where_it_was(lengths: list[int], left: bool) -> None:
    width = 6
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in zip(mask, lengths, strict=True):
        row[width - length :] = int(left)
        row[:length] = 1 if not left else row[:length]
    tensor = torch.randn(len(lengths), width, 3)
    packed = PackedBatch(mask)
    assert packed.tokens == sum(lengths)
    assert packed.blocks == (sum(lengths) > 0)
    assert packed.pack(tensor).shape == (1, sum(lengths), 3)
    assert torch.equal(packed.unpack(packed.pack(tensor)), tensor * mask[..., None])


def test_inputs_of_a_layer_that_have_no_entry_per_token_stay_as_they_are() -> None:
    packed = PackedBatch(torch.tensor([[1, 1, 1], [1, 0, 0]]))
    of_tokens = torch.randn(2, 3, 4), torch.arange(6).view(2, 3), torch.arange(3)[None]
    others = torch.randn(5, 3, 3), torch.arange(9).view(3, 3), torch.randn(2, 1, 3, 3), torch.randn(2, 4), None
    args, _ = packed.enter_layer(nn.Identity(), (*of_tokens, *others), {})
    assert [tuple(each.shape) for each in args[:3]] == [(1, 4, 4), (1, 4), (1, 4)]
    assert all(one is other for one, other in zip(args[3:], others, strict=True))


def test_padding_is_skipped_only_where_that_saves_time() -> None:
    model, packing, _ = packing_of("bert")
    texts = padded_texts(model, (3, 9), 9, "right")
    assert packing.form == "layers"
    seen: list[int] = []
    packing._linear[0].register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:2].numel()))
    with packing.of(texts["attention_mask"]):
        model(**texts)
    packing._parameters = 10**9
    with packing.of(texts["attention_mask"]):
        model(**texts)
    assert seen == [18, 12]


@pytest.mark.parametrize("lengths", [(4, 4), (4,), (4, 2)])
def test_a_model_is_tried_at_its_first_batch_whatever_that_is(lengths: tuple[int, ...]) -> None:
    """Its forward passes are collectives of a sharded model: ranks whose batches differ have to make the same ones."""
    model, packing, side = packing_of("bert")
    texts, runs = padded_texts(model, lengths, 4, side), []
    model.register_forward_pre_hook(lambda *_: runs.append(None))
    with packing.of(texts["attention_mask"]):
        tried = len(runs)
    with packing.of(texts["attention_mask"]):
        assert len(runs) == tried > 0


@pytest.mark.parametrize("padding", [0, 2])
def test_a_frozen_encoder_runs_once_per_step_from_the_first_batch_on(tmp_path: Path, padding: int) -> None:
    classifier = SequenceClassifier(str(save_tiny_bert(tmp_path / "model")), trainable="head", dropout=0.0)
    mask = torch.tensor([[1] * 4, [1] * (4 - padding) + [0] * padding])
    batch = {"input_ids": torch.full((2, 4), 5), "attention_mask": mask, "labels": torch.tensor([0, 1])}
    (part,) = classifier.prepare_batch(batch, "train")
    runs: list[None] = []
    model: Any = classifier.model
    model.bert.encoder.layer[0].register_forward_pre_hook(lambda *_: runs.append(None))
    losses = {float(classifier.compute_loss(part)) for _ in range(3)}
    assert len(runs) == 1
    assert len(losses) == 1


def test_trials_of_a_step_run_as_the_step_does() -> None:
    model, packing, _ = packing_of("bert")
    mask = padded_texts(model, (3, *[40] * 8), 40, "right")["attention_mask"]
    decisions = []
    for size in torch.logspace(6, 9, 13):
        packing._parameters = int(size)
        model.train()
        in_training = packing.pays(mask)
        with torch.no_grad():
            assert packing.pays(mask) == in_training
        model.eval()
        decisions.append((in_training, packing.pays(mask)))
    assert set(decisions) == {(False, False), (False, True), (True, True)}


def test_a_classifier_skips_padding_when_asked_to_and_refuses_what_does_not_go_with_it() -> None:
    torch.manual_seed(0)
    asked = SequenceClassifier(skip_padding=True).eval()
    never = SequenceClassifier(skip_padding=False).eval()
    never.load_state_dict(asked.state_dict())
    batch = padded_texts(asked.model, (3, 9, 30, 9), 30, "right")
    seen: list[int] = []
    assert asked.padding.only_free_side() == "right"
    first = next(each for each in layer_modules(asked.model)[0].modules() if isinstance(each, nn.Linear))
    first.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    torch.testing.assert_close(asked(batch), never(batch), rtol=1e-4, atol=1e-5)
    assert seen == [51]
    for other in ({"gradient_checkpointing": True}, {"trainable": "head", "cache_features": True}):
        with pytest.raises(ModelError, match="skip_padding: it does not go with"):
            SequenceClassifier(skip_padding=True, **other)


@pytest.mark.parametrize("change", ["attention", "checkpointing", "reentrant checkpointing"])
def test_a_model_that_is_changed_later_runs_padded(tmp_path: Path, change: str) -> None:
    losses, norms = [], []
    for is_changed in (True, False):
        torch.manual_seed(0)
        module = SequenceClassifier(str(save_tiny_bert(tmp_path / str(is_changed))), skip_padding=True, dropout=0.0)
        model: Any = module.model
        if is_changed and change == "attention":
            model.set_attn_implementation("eager")
        elif is_changed:
            model.gradient_checkpointing_enable({"use_reentrant": change.startswith("reentrant")})
        batch = padded_texts(model, (3, 9, 20, 9), 20, "right") | {"labels": torch.tensor([0, 1, 0, 1])}
        loss = module.compute_loss(batch)
        losses.append(float(loss))
        norms.append(float(nn.utils.get_total_norm(gradients(model.classifier, loss))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_training_skips_padding_and_has_the_losses_of_training_without(tmp_path: Path) -> None:
    losses = {}
    for skips in (True, False):
        torch.manual_seed(0)
        module = SequenceClassifier(
            str(save_tiny_bert(tmp_path / str(skips))), skip_padding=skips, dropout=0.0, optimizer=ParabolicAdam
        )
        trainer = Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        trainer.fit(module, TinyData())
        losses[skips] = float(trainer.callback_metrics["val/loss"])
    assert losses[True] == pytest.approx(losses[False], abs=1e-4)
