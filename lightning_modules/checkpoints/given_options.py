"""The options that an optimizer was made with, and a warning where a run resumes with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

ENTRY = "given_options"
# How a step is computed, which follows the device, and what no run has an option for.
_NOT_GIVEN = {"params", "param_names", "name", "unit", "new", "fused", "foreach", "capturable", "differentiable"}


class GivenOptions:
    """The options of an optimizer's groups as the run has given them, which its checkpoints hold.

    torch takes the options of a resumed optimizer from its state, so that a changed learning rate or weight decay has
    no effect, without a word.
    """

    def __init__(self) -> None:
        self._groups: list[dict[str, Any]] = []

    def take(self, optimizer: Optimizer) -> None:
        """Take the options of an optimizer that has just been made."""
        self._groups = [
            {name: _plain(value) for name, value in group.items() if name not in _NOT_GIVEN and _is_plain(value)}
            for group in optimizer.param_groups
        ]

    def take_rates(self, rates: Sequence[float]) -> None:
        """Take learning rates, without a schedule, that a search has found in place of those that were given."""
        for group, rate in zip(self._groups, rates, strict=False):
            group["lr"] = _plain(rate)

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the options in force to a checkpoint."""
        checkpoint[ENTRY] = self._groups

    def resume(self, checkpoint: Mapping[str, Any], takes_rates: bool) -> None:
        """Warn of options that differ from those of the checkpoint, which stay in force.

        Args:
            checkpoint: What a fit goes on from; one of an earlier version has no such entry.
            takes_rates: Whether the learning rates are this run's, as where a schedule of another length is made.
        """
        given, stored = self._groups, checkpoint.get(ENTRY, [])
        if len(stored) != len(given):
            return
        lasting = [{n: v for n, v in group.items() if not (takes_rates and n == "lr")} for group in stored]
        self._groups = [now | before for now, before in zip(given, lasting, strict=True)]
        changed = {
            name: f"{name} {before[name]} in place of {now[name]}"
            for now, before in zip(given, lasting, strict=True)
            for name in now
            if name in before and before[name] != now[name]
        }
        if changed:
            rank_zero_warn(
                f"ckpt_path: the optimizer goes on with what the checkpoint holds, {', '.join(changed.values())}; "
                "what is changed takes effect in a new run, which may start from the checkpoint's weights"
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    is_number = isinstance(value, float) or (isinstance(value, Tensor) and value.numel() == 1)
    return is_number or value is None or type(value) in (bool, int, str)


def _plain(value: Any) -> Any:
    """Return an option as a checkpoint can hold it and as two are compared, without classes such as NumPy's numbers."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Tensor):
        return value.item()
    return float(value) if isinstance(value, float) else value
