"""The choice of the rows that have a text and a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from datamodules.labels.label_cells import missing_labels
from datamodules.sources.text_source import Part, with_texts


def usable_rows(
    part: Part, texts: Sequence[str], labels: Sequence[str], names_of_numbers: Sequence[str] | None, drop_empty: bool
) -> Part:
    """Return the rows that have a text and, in each label column, a label.

    Args:
        part: Rows.
        texts: The text columns.
        labels: The label columns; none where labels do not matter.
        names_of_numbers: Names of the numbers in the label column, if the data set names them; -1 is no label then.
        drop_empty: Whether other rows are left out. Without it, rows without a label are refused where labels are read.

    Raises:
        DataError: A text is empty and rows are not to be left out, or a column holds no texts.
    """
    part = with_texts(part, texts, drop_empty)
    if not drop_empty or not labels:
        return part
    unlabelled = np.zeros(len(part.table), dtype=bool)
    for column in labels:
        cells = part.table[column].combine_chunks()
        unlabelled |= missing_labels(cells, names_of_numbers).to_numpy(zero_copy_only=False)
    kept = np.flatnonzero(~unlabelled)
    rows = kept if part.kept is None else np.asarray(part.kept)[kept]
    return Part(part.table.take(pa.array(kept)), part.place, part.first_row, rows)
