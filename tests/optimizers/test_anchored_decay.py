"""Decay towards anchors, for any optimizer."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import SGDSLS, AdamSLS, AdamWL2SP, LineSearchOptimizer, ParabolicAdam, ParamGroups, SaLSA
from optimizers.anchored_decay import apply_decay, decay_towards, keep_anchors
from tests.architectures import tiny_model


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("moved", [False, True])
def test_decay_moves_the_stated_share_of_the_way(strength: float, moved: bool) -> None:
    params = [torch.tensor([4.0, -2.0]), torch.tensor(3.0), torch.zeros(0)]
    anchors = [torch.tensor([0.0, 2.0]), torch.tensor(3.0), torch.zeros(0)]
    start = [param.clone() for param in params] if moved else None
    decay_towards(params, anchors, strength, start)
    assert torch.equal(params[0], torch.tensor([4.0 * (1 - strength), -2.0 + 4 * strength]))
    assert torch.equal(params[1], torch.tensor(3.0)), "a parameter at its anchor does not move"
    decay_towards(params, None, strength, [torch.ones(2), torch.tensor(1.0), torch.zeros(0)] if moved else None)
    assert torch.equal(params[1], torch.tensor(3.0 - strength if moved else 3.0 * (1 - strength)))


def test_any_optimizer_can_decay_its_groups_towards_anchors() -> None:
    pretrained, new, idle = (nn.Parameter(torch.full((2,), value)) for value in (1.0, 2.0, 3.0))
    group = {"params": [pretrained, new, idle], "new": (False, True, False), "anchor_decay": 0.5, "weight_decay": 0.25}
    optimizer = torch.optim.SGD([group], lr=1.0)
    keep_anchors(optimizer, optimizer.param_groups[0])
    with torch.no_grad():
        for param in (pretrained, new, idle):
            param.add_(2.0)
        apply_decay([pretrained, new], [optimizer.state[pretrained], optimizer.state[new]], group, step_size=0.5)
    assert pretrained.tolist() == [2.5, 2.5]  # 3 - 0.5 · 0.5 · (3 - 1)
    assert new.tolist() == [3.5, 3.5]  # 4 - 0.5 · 0.25 · 4
    assert idle.tolist() == [5.0, 5.0]


def flat(optimizer: LineSearchOptimizer, params: list[Tensor]) -> None:
    """A step on a loss without slope along it would be skipped; this one falls by a little in every direction."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 1e-3 * sum(param.sum() for param in params)
        assert isinstance(loss, Tensor)
        if torch.is_grad_enabled():
            loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("make", [AdamSLS, SGDSLS, SaLSA])
def test_line_searches_decay_pretrained_parameters_towards_their_anchors(make: Any) -> None:
    """Beside the same run without decay, and after a restart."""
    lr, decay = 0.05, 0.8

    def run(anchor_decay: float, restart: bool = False) -> list[Tensor]:
        params = [nn.Parameter(torch.full((3,), value, dtype=torch.float64)) for value in (1.0, 2.0)]
        group = {"params": params, "new": (False, True), "anchor_decay": anchor_decay, "weight_decay": anchor_decay}
        options = {"initial_step_size": lr, "max_step_size": lr, "min_step_size": lr, "bracket": None}
        optimizer = make([copy.copy(group)], **options)
        for step in range(6):
            if restart and step == 3:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = make([copy.copy(group)], **options)
                optimizer.load_state_dict(state)
            flat(optimizer, params)
            assert optimizer.last_step.accepted
            assert optimizer.param_groups[0]["lr"] == lr
        return [param.detach() for param in params]

    plain = run(0.0)
    expected = [torch.full((3,), value, dtype=torch.float64) for value in (1.0, 2.0)]
    moves = [(after - value) / 6 for after, value in zip(plain, expected, strict=True)]  # the same in every step
    for _ in range(6):
        expected[0] = expected[0] - lr * decay * (expected[0] - 1.0) + moves[0]
        expected[1] = expected[1] - lr * decay * expected[1] + moves[1]
    for found in (run(decay), run(decay, restart=True)):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_groups_of_a_model_bring_anchors_to_a_line_search() -> None:
    model = tiny_model("bert")
    new = {"classifier.weight", "classifier.bias"}
    optimizer = AdamSLS(ParamGroups(anchor_decay=0.1)(model, new))
    anchored = {name for name, param in model.named_parameters() if "anchor" in optimizer.state[param]}
    assert anchored == {name for name, param in model.named_parameters() if name not in new and param.ndim > 1}
    assert "anchor" not in partial(AdamSLS)(ParamGroups()(model, new)).state_dict()["state"].get(0, {})


@pytest.mark.parametrize("make", [AdamSLS, SGDSLS, SaLSA])
def test_a_state_that_lacks_an_anchor_is_not_loaded(make: Any) -> None:
    optimizer = make([{"params": [nn.Parameter(torch.ones(3))], "anchor_decay": 0.1}])
    state = copy.deepcopy(optimizer.state_dict())
    del state["state"][0]["anchor"]
    with pytest.raises(ValueError, match="holds no anchor for parameter 0"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("make", [AdamWL2SP, SaLSA, partial(ParabolicAdam, total_steps=10)])
def test_anchors_that_were_not_kept_are_refused_before_anything_moves(make: Any) -> None:
    pretrained, new = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    groups: list[dict[str, Any]] = [{"params": [pretrained]}, {"params": [new], "new": True}]
    optimizer = make([{**group, "anchor_decay": 0.0} for group in groups])
    flat(optimizer, [pretrained, new])
    optimizer.param_groups[1]["anchor_decay"] = 0.1  # of new parameters alone: none has an anchor
    flat(optimizer, [pretrained, new])
    before = pretrained.clone()
    optimizer.param_groups[0]["anchor_decay"] = 0.1
    with pytest.raises(ValueError, match=r"anchor_decay: 0\.1 needs the pretrained values, which were not kept"):
        flat(optimizer, [pretrained, new])
    assert torch.equal(pretrained, before)
