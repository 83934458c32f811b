"""Random selection of rows of a split, reproducible by a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sample(size: int, limit: int | None, seed: int) -> np.ndarray:
    """Return ``limit`` of ``size`` row numbers, chosen at random, in ascending order.

    Args:
        size: Number of rows.
        limit: Number of rows to keep; ``None``, or ``size`` and more, keeps all.
        seed: Seed of the choice.
    """
    if limit is None or limit >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).permutation(size)[:limit])


def thin_out_minority(labels: Sequence[int], fraction: float, seed: int) -> np.ndarray:
    """Return the row numbers that remain when only a fraction of the rarest class is kept, at least one row of it.

    Among equally rare classes the last one is thinned out.

    Args:
        labels: The class of each row.
        fraction: Part of the rarest class to keep, above 0 and up to 1.
        seed: Seed of the choice.
    """
    classes = np.asarray(labels)
    present, counts = np.unique(classes, return_counts=True)
    minority = present[counts == counts.min()][-1]
    rows = np.flatnonzero(classes == minority)
    kept = rows[sample(len(rows), max(1, round(fraction * len(rows))), seed)]
    return np.sort(np.concatenate([np.flatnonzero(classes != minority), kept]))
