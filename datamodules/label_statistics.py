"""Statistics of the labels of the training rows."""

from dataclasses import dataclass

import datasets
import pyarrow.compute as pc

from datamodules.label_kind import count_labels
from datamodules.tokenized_datamodule import column_of


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
