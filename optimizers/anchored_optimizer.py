"""Base of the optimizers whose groups may decay towards their pretrained values."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from optimizers.anchored_decay import keep_anchors, place_anchors, require_anchors


class AnchoredOptimizer(Optimizer):
    """An optimizer that keeps the pretrained values of groups with `anchor_decay`, and saves and loads them."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; with `anchor_decay`, the present values of its pretrained parameters become their anchors."""
        super().add_param_group(param_group)
        try:
            keep_anchors(self, self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Raise a ValueError for a state that cannot be loaded: its groups decay towards anchors that it lacks."""
        require_anchors(state_dict)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; its anchors replace those taken when the optimizer was made."""
        self.check_state(state_dict)
        super().load_state_dict(state_dict)
        place_anchors(self)
