"""Differences of rounding are told from those of another computation, however much a model enlarges them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_modules.batches.padding import Padding
from lightning_modules.models.logits_rounding import equal_but_for_rounding
from lightning_modules.models.tiny_input import padded_texts, tiny_input
from tests.families import family_model


def enlarging(family: str, text: dict[str, Tensor]) -> PreTrainedModel:
    """Return a model in whose logits of a text large terms nearly cancel, so that rounding is a large share of them."""
    model = family_model(family).eval()
    head: nn.Linear = model.score if hasattr(model, "score") else model.classifier
    states: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, args: states.append(args[0]))
    with torch.no_grad():
        model(**text)
        hook.remove()
        state = states[0].reshape(-1, states[0].shape[-1])[-1]
        head.weight -= (1 - 1e-4) * torch.outer(head.weight @ state, state) / state.square().sum()
        if head.bias is not None:
            head.bias.zero_()
    return model


def logits_of(model: PreTrainedModel, text: dict[str, Tensor]) -> Callable[[], Tensor]:
    return lambda: model(**text).logits[:1]


def distance(model: PreTrainedModel, text: dict[str, Tensor], side: str) -> float:
    """Return how far logits of a text alone and beside a longer one are apart, as a share of the largest."""
    with torch.no_grad():
        alone, beside = model(**text).logits, model(**padded_texts(model, (5, 72), 72, side)).logits[:1]
    return float((alone - beside).abs().max() / alone.abs().max())


def test_a_model_that_enlarges_rounding_is_padded_freely() -> None:
    text = tiny_input(family_model("llama").config, 5)
    model = enlarging("llama", text)
    assert min(distance(model, text, side) for side in ("right", "left")) > 5e-4
    assert Padding(model).is_free("right")
    assert Padding(model).is_free("left")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_from_the_first_column_are_no_rounding(dtype: torch.dtype) -> None:
    model = family_model("bert").to(dtype)
    assert Padding(model).is_free("right")
    assert not Padding(model).is_free("left")


def test_another_text_is_no_rounding() -> None:
    model = family_model("llama").eval()
    one, other = tiny_input(model.config, 5), tiny_input(model.config, 6)
    with torch.no_grad():
        logits = logits_of(model, one)()
        assert equal_but_for_rounding(logits, logits.clone(), model, logits_of(model, one))
        assert not equal_but_for_rounding(logits, logits_of(model, other)(), model, logits_of(model, one))


def test_what_is_not_finite_is_not_equal() -> None:
    model = family_model("llama").eval()
    logits = torch.tensor([[1.0, float("nan")]])
    assert not equal_but_for_rounding(logits, logits, model, lambda: logits)


def test_nothing_stays_on_the_model() -> None:
    text = tiny_input(family_model("llama").config, 5)
    model = enlarging("llama", text)
    with torch.no_grad():
        before = model(**text).logits
        equal_but_for_rounding(before, before * (1 + 1e-3), model, logits_of(model, text))
        assert torch.equal(model(**text).logits, before)
