"""The learning rate at which a step of Adam is as large as the matrices that it changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from optimizers.directions import adam
from optimizers.group_update import GroupUpdate
from optimizers.relative_change import rate_of_even_change, rate_of_whole_change


def rate_of(*groups: Sequence[Tensor]) -> float:
    updates = []
    for tensors in groups:
        params = [torch.nn.Parameter(tensor) for tensor in tensors]
        for param in params:
            param.grad = torch.ones_like(param)
        updates.append(GroupUpdate({"params": params, "lr_factor": 1.0}, {p: {} for p in params}, adam))
    return rate_of_whole_change(updates)


@pytest.mark.parametrize("shape", [(200, 200), (50, 800), (800, 50)])
@pytest.mark.parametrize("scale", [0.02, 3.0])
def test_a_step_of_equal_entries_is_as_large_as_a_random_matrix(shape: tuple[int, int], scale: float) -> None:
    """Spectral norms by a singular value decomposition."""
    rng = np.random.default_rng(0)
    matrix = scale * rng.normal(size=shape)
    step = np.outer(rng.choice([-1, 1], shape[0]), rng.choice([-1, 1], shape[1]))  # signs, rank one
    expected = np.linalg.norm(matrix, 2) / np.linalg.norm(step, 2)
    assert rate_of([torch.tensor(matrix)]) == pytest.approx(expected, rel=0.05)


def test_the_typical_matrix_counts_whatever_its_group() -> None:
    small, middle, large = (torch.full((4, 9), value) for value in (0.1, 0.6, 50.0))
    zeros, vector = torch.zeros(4, 9), torch.full((7,), 9.0)
    assert rate_of([large, vector, small], [zeros, middle]) == pytest.approx(0.6 * (1 / 2 + 1 / 3))


def test_a_convolution_is_a_matrix_of_its_rows() -> None:
    assert rate_of([torch.full((4, 3, 1, 3), 0.5)]) == pytest.approx(rate_of([torch.full((4, 9), 0.5)]))


@pytest.mark.parametrize("tensors", [[], [torch.ones(5)], [torch.zeros(2, 2)]])
def test_without_a_matrix_there_is_no_rate(tensors: list[Tensor]) -> None:
    assert rate_of(tensors) == 0.0


def test_half_precision_does_not_overflow() -> None:
    assert rate_of([torch.full((300, 300), 200.0, dtype=torch.float16)]) == pytest.approx(400 / 300**0.5, rel=1e-3)


def test_any_direction_of_even_entries_has_a_rate_by_its_length() -> None:
    """Also where rows of a table of embeddings do not move, in more dimensions, and beside what is no such matrix."""
    table, moves = torch.full((8, 5), 0.5), torch.zeros(8, 5)
    moves[2] = torch.tensor([3.0, -3.0, 3.0, 3.0, -3.0])
    kernel, signs = torch.full((4, 3, 1, 3), 0.3), torch.ones(4, 3, 1, 3)
    uneven = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    rate = 0.5 * (8**0.5 + 5**0.5) / (3 * 5**0.5)
    assert rate_of_even_change([table], [moves]) == pytest.approx(rate)
    others = [torch.ones(7), torch.ones(6, 6), torch.ones(0, 3), torch.zeros(4, 9)]
    beside = [torch.ones(7), uneven, torch.ones(0, 3), torch.ones(4, 9)]
    assert rate_of_even_change([table, *others], [moves, *beside]) == pytest.approx(rate)
    assert rate_of_even_change([kernel], [signs]) == pytest.approx(0.3 * (1 / 2 + 1 / 3))
    assert rate_of_even_change(others, beside) == 0.0


def test_the_mean_of_different_rates_is_that_of_the_typical_matrix() -> None:
    sizes, weights = (0.1, 0.6, 50.0, 0.7, 3.0), (1.0, 0.1, 0.01, 0.001, 0.0)
    matrices = [torch.full((4, 9), size) for size in sizes] + [torch.zeros(4, 9)]
    direction = [torch.full((4, 9), weight) for weight in (1.0, 0.1, 0.01, 0.001, 7.0, 1.0)]
    highest = rate_of_even_change(matrices, direction, (*weights, 1.0))
    # What has no rate does not count, nor does a matrix of zeros.
    assert highest * 1.111 / 4 == pytest.approx((0.6 + 0.7) / 2 * (1 / 2 + 1 / 3))
