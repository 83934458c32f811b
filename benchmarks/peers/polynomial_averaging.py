"""Average of the iterates with polynomial weights (Shamir and Zhang, arXiv 1212.1824), which DoG is to be used with."""

from __future__ import annotations

from functools import partial

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class PolynomialAveraging(WeightAveraging):
    r"""Validates and keeps the average of the iterates, :math:`\bar x_t = (1 - \frac{1 + \gamma}{t + \gamma})
    \bar x_{t-1} + \frac{1 + \gamma}{t + \gamma} x_t`.

    Args:
        gamma: How much later iterates count; 8 in the paper of DoG (arXiv 2302.12022).

    Example::

        Trainer(callbacks=[PolynomialAveraging()])
    """

    def __init__(self, gamma: float = 8.0) -> None:
        super().__init__(use_buffers=False, avg_fn=partial(polynomial_average, gamma=gamma))


def polynomial_average(average: Tensor, current: Tensor, averaged: Tensor | int, gamma: float) -> Tensor:
    """Return the average with one more iterate.

    Args:
        average: The average so far.
        current: The iterate.
        averaged: How many iterates the average is of; torch copies the first one itself.
        gamma: How much later iterates count.
    """
    share = (1 + gamma) / (float(averaged) + 1 + gamma)
    return average + share * (current - average)
