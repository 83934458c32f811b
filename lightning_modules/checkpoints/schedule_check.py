"""Refusing to resume a run without the schedule that it had, or with another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.types import LRSchedulerConfig

from lightning_modules.errors import ModelError

ENTRY = "schedule_names"
_WAY_OUT = "or start a new run from the checkpoint's weights"


def names_of(configs: Sequence[LRSchedulerConfig]) -> list[str]:
    """Return the names of schedules' classes, which a checkpoint holds as its entry ``schedule_names``."""
    return [type(config.scheduler).__name__ for config in configs]


def check_schedule(checkpoint: Mapping[str, Any], configs: Sequence[LRSchedulerConfig], is_own: bool) -> None:
    """Check that the schedule of a run goes on where the one in its checkpoint has stopped.

    Lightning hands the states of schedules to whatever schedules there are, and none where there are none.

    Args:
        checkpoint: A Lightning checkpoint that a fit resumes from.
        configs: The schedules of the run.
        is_own: Whether the schedule is one of the module's, and not of other code.

    Raises:
        ModelError: if the checkpoint's run had a schedule and this one has none, the other way round, or one of another
            kind.
    """
    states = checkpoint.get("lr_schedulers")
    if states is None:
        return
    if not configs and "run_length" in checkpoint:
        raise ModelError(
            "ckpt_path: the checkpoint's run has a learning-rate schedule and this one has none: its learning rate "
            f"would stay where the schedule has left it; give lr_scheduler as it was, {_WAY_OUT}"
        )
    if is_own and not states:
        raise ModelError(
            "ckpt_path: the checkpoint's run has no learning-rate schedule, and that of this run would begin at its "
            f"start; leave lr_scheduler out, {_WAY_OUT}"
        )
    # The states of some kinds are alike: that of every LambdaLR, without what its factor is computed by.
    for stored, name in zip(checkpoint.get(ENTRY, ()), names_of(configs), strict=False):
        if stored != name:
            raise ModelError(
                f"ckpt_path: the checkpoint's learning-rate schedule is {stored}, the run's is {name}; give "
                f"lr_scheduler as it was, {_WAY_OUT}"
            )
    for config, state in zip(configs, states, strict=False):  # an earlier version has saved no names
        absent = [name for name in config.scheduler.state_dict() if name[0] != "_" and name not in state]
        if absent:
            name = type(config.scheduler).__name__
            raise ModelError(
                f"ckpt_path: the checkpoint's learning-rate schedule is no {name}: it has no {absent[0]}; give "
                f"lr_scheduler as it was, {_WAY_OUT}"
            )
