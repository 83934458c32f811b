"""Counters of a checkpoint's loops: whatever the installed Lightning writes there is refused if absent or damaged."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from lightning.pytorch import Trainer

from lightning_modules import ModelError
from lightning_modules.checkpoints.loop_counters import check_counters


def places(entries: Any, *above: str) -> Iterator[tuple[str, ...]]:
    """Yield the keys on the way to each entry of nested dicts, dicts that hold something among them."""
    for key, value in entries.items():
        if value != {}:
            yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, *above, key)


def whole() -> dict[str, Any]:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    return {"loops": {"fit_loop": trainer.fit_loop.state_dict()}, "pytorch-lightning_version": "2.6.6"}


WHOLE = whole()
PLACES = list(places(WHOLE["loops"], "loops"))
every_place = pytest.mark.parametrize("path", PLACES, ids=".".join)


def parent_and_key(path: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """A copy of the checkpoint, the dict in it that holds the entry, and the entry's key."""
    checkpoint = copy.deepcopy(WHOLE)
    parent = checkpoint
    for key in path[:-1]:
        parent = parent[key]
    return checkpoint, parent, path[-1]


def refused(checkpoint: dict[str, Any]) -> str:
    with pytest.raises(ModelError) as error:
        check_counters(checkpoint)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_fresh_trainers_counters_are_taken() -> None:
    check_counters(WHOLE)
    assert ("loops", "fit_loop", "epoch_loop.val_loop.batch_progress", "total", "ready") in PLACES


@every_place
def test_an_absent_counter_is_named(path: tuple[str, ...]) -> None:
    checkpoint, parent, key = parent_and_key(path)
    del parent[key]
    assert refused(checkpoint) == f"ckpt_path: the checkpoint has no {'.'.join(path)}: fit cannot go on from it"


@every_place
@pytest.mark.parametrize("value", [None, "1", -1, 0.5, [1], "True or 0"])
def test_a_counter_of_another_kind_is_named(path: tuple[str, ...], value: Any) -> None:
    checkpoint, parent, key = parent_and_key(path)
    if value == "True or 0":  # Python takes each for the other
        value = 0 if isinstance(parent[key], bool) else True
    parent[key] = value
    assert refused(checkpoint).startswith(f"ckpt_path: {'.'.join(path)} of the checkpoint is ")


@pytest.mark.parametrize("value", [None, [], 3])
def test_what_loops_hold_beside_counters_has_to_be_a_dict(value: Any) -> None:
    checkpoint, parent, key = parent_and_key(("loops", "fit_loop", "state_dict"))
    parent[key] = value
    assert refused(checkpoint).startswith("ckpt_path: loops.fit_loop.state_dict of the checkpoint is a ")
    parent[key] = {"combined_loader": [{"position": 3}]}
    check_counters(checkpoint)


def test_counters_of_lightning_1_are_left_to_its_migration() -> None:
    old: dict[str, Any] = {"loops": {"fit_loop": {}}, "pytorch-lightning_version": "1.9.5"}
    assert "epoch_progress" in refused(old | {"pytorch-lightning_version": "2.6.6"})
    check_counters(old)
