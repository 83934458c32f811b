"""Statistics of the labels of the training rows."""

from dataclasses import dataclass

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.sources.arrow_columns import column_of, is_list


@dataclass(frozen=True)
class LabelStatistics:
    """Statistics of the labels of the training rows.

    Args:
        counts: Rows per label; of several labels per text, the rows that have it. Empty for regression.
        rows: Number of rows.
        mean: Mean of the scores, for regression.
        std: Their standard deviation over all rows; 1 if they are all equal.
    """

    counts: list[int]
    rows: int
    mean: float = 0.0
    std: float = 1.0


def label_statistics(rows: datasets.Dataset, num_labels: int, is_regression: bool) -> LabelStatistics:
    """Return the statistics of tokenized rows, whose labels are class ids, lists of label ids, or scores."""
    labels = column_of(rows, "label")
    if is_regression:
        # A constant score is standardised by 1.
        return LabelStatistics([], len(rows), pc.mean(labels).as_py(), pc.stddev(labels).as_py() or 1.0)
    return LabelStatistics(count_labels(labels, num_labels), len(rows))


def count_labels(labels: pa.ChunkedArray, num_labels: int) -> list[int]:
    """Return how many rows have each label, from class ids or lists of label ids; nothing is copied."""
    counts = [0] * num_labels
    for found in pc.value_counts(pc.list_flatten(labels) if is_list(labels.type) else labels).to_pylist():
        counts[found["values"]] = found["counts"]
    return counts
