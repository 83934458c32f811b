"""Warm-up and decay of a learning rate, as factors of its peak."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["linear", "cosine", "constant"]


def warmup_factor(done: float, warmup: float) -> float:
    """Return the factor of a linear warm-up from 0: `done / warmup`, and 1 from the end of the warm-up on.

    Args:
        done: How much of the run is done, in any unit: steps, seconds, or the share of the run.
        warmup: How long the warm-up is, in the same unit; 0 is none.
    """
    return done / warmup if done < warmup else 1.0


def decay_factor(done: float, total: float = 1.0, shape: Shape = "linear", num_cycles: float = 0.5) -> float:
    r"""Return the factor of a decay from 1.

    With :math:`q` = `done / total`,

    .. math:: \max(0, 1 - q), \qquad \tfrac{1}{2}(1 + \cos 2 \pi n q), \qquad \text{or } 1

    for the shapes "linear", "cosine" and "constant".

    Args:
        done: How much of the decay is done, in any unit.
        total: How long the decay is, in the same unit.
        shape: What the factor does.
        num_cycles: Waves of the cosine, :math:`n`; 0.5 falls once, from 1 to 0.
    """
    if shape == "linear":
        return max(0.0, (total - done) / total)
    if shape == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * (done / total))))
    return 1.0


def warmup_and_decay(
    done: float, total: float = 1.0, warmup: float = 0.1, shape: Shape = "linear", num_cycles: float = 0.5
) -> float:
    """Return the factor of a warm-up that is followed by a decay over the rest of the run.

    Args:
        done: How much of the run is done, in any unit: steps, seconds, or the share of the run.
        total: How long the run is, in the same unit.
        warmup: How long the warm-up is, in the same unit.
        shape: How the factor falls after the warm-up: "linear", "cosine", or not at all ("constant").
        num_cycles: Waves of the cosine.

    Example:
        >>> [warmup_and_decay(step, total=10, warmup=2) for step in (0, 1, 2, 6, 10)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if done < warmup:
        return warmup_factor(done, warmup)
    # A warm-up that takes up the whole run leaves nothing to decay over.
    return decay_factor(done - warmup, total - warmup if total > warmup else 1.0, shape, num_cycles)
