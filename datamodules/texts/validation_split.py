"""Choice of the training rows that are held out for validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from datamodules.errors import DataError
from datamodules.labels.label_kind import LabelKind


def validation_rows(labels: pa.ChunkedArray, kind: LabelKind, fraction: float, seed: int) -> np.ndarray:
    """Return the numbers of the training rows to hold out, in ascending order.

    Classes keep their shares. With several labels per text the rarest label of each row does, and no label loses its
    last training row.

    Args:
        labels: Class ids, lists of label ids, or scores.
        kind: The kind of the labels.
        fraction: Share of all rows to hold out, between 0 and 1.
        seed: Seed of the choice.

    Raises:
        DataError: Not one row can be held out.
    """
    if kind.problem_type == "regression":
        return stratified_rows(np.zeros(len(labels), dtype=int), fraction, seed)
    if kind.problem_type == "single_label_classification":
        return stratified_rows(labels.to_numpy(), fraction, seed)
    label_sets = labels.to_pylist()
    chosen = stratified_rows(strata_of_label_sets(label_sets, kind.num_labels), fraction, seed)
    return keep_every_label(chosen, label_sets)


def stratified_rows(strata: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the numbers of rows to hold out, the same share of every stratum, in ascending order.

    Every stratum keeps at least one row. Each gives the whole part of its share; the rows that are then missing come
    from the strata with the largest remainders.

    Args:
        strata: The stratum of each row, such as its class.
        fraction: Share of all rows to hold out, between 0 and 1.
        seed: Seed of the choice.

    Raises:
        DataError: Not one row can be held out.
    """
    groups, counts = np.unique(strata, return_counts=True)
    shares = fraction * counts
    taken = np.floor(shares).astype(int)
    missing = max(1, round(fraction * len(strata))) - int(taken.sum())
    # The larger of equal remainders, and the larger of equal strata, gives first.
    for group in np.lexsort((-counts, -(shares - np.floor(shares)))):
        if missing > 0 and taken[group] < counts[group] - 1:
            taken[group] += 1
            missing -= 1
    if not taken.sum():
        raise DataError(
            f"none of the {len(strata)} training rows can be held out for validation without taking the last one of "
            "its class; give val_file, or more training rows"
        )
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(strata == group))[:count]
        for group, count in zip(groups, taken, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def strata_of_label_sets(label_sets: Sequence[Sequence[int]], num_labels: int) -> np.ndarray:
    """Return each row's rarest label, and one number for the rows without labels.

    Args:
        label_sets: The label ids of each row.
        num_labels: Number of labels.
    """
    counts = np.bincount(
        np.array([label for labels in label_sets for label in labels], dtype=int), minlength=num_labels
    )
    rarest = [min(labels, key=lambda label: (counts[label], label), default=num_labels) for labels in label_sets]
    return np.array(rarest)


def keep_every_label(held_out: np.ndarray, label_sets: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the held-out rows without those that a label needs to have one row left in training."""
    outside = set(held_out.tolist())
    present = {label for row, labels in enumerate(label_sets) if row not in outside for label in labels}
    kept = []
    for row in held_out.tolist():
        if present.issuperset(label_sets[row]):
            kept.append(row)
        present.update(label_sets[row])
    return np.array(kept, dtype=int)
