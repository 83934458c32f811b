"""The choice of the rows that have a text and a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from datamodules.errors import DataError
from datamodules.labels.label_cells import missing_labels
from datamodules.sources.arrow_columns import first_true, is_text
from datamodules.sources.invisible_characters import is_blank
from datamodules.sources.text_source import Part


def usable_rows(
    part: Part, texts: Sequence[str], labels: Sequence[str], names_of_numbers: Sequence[str] | None, drop_empty: bool
) -> Part:
    """Return the rows that have a text and, in each label column, a label.

    Args:
        part: Rows as they were read.
        texts: The text columns.
        labels: The label columns; none where labels do not matter.
        names_of_numbers: Names of the numbers in the label column, if the data set names them; -1 is no label then.
        drop_empty: Whether other rows are left out. Without it, rows without a label are refused where labels are read.

    Raises:
        DataError: A text is empty and rows are not to be left out, or a column holds no texts.
    """
    table = part.table
    unusable = np.zeros(len(table), dtype=bool)
    for name in texts:
        cells = table[name]
        if not is_text(cells.type) and not pa.types.is_null(cells.type):
            raise DataError(f"{part.place}: the text column {name!r} holds {cells.type}, not texts")
        cells = cells.cast(pa.string())
        table = table.set_column(table.column_names.index(name), name, cells)
        blank = is_blank(cells)
        if not drop_empty and (row := first_true(blank)) is not None:
            raise DataError(f"{part.where(row)}: the text in column {name!r} is empty; drop_empty leaves such rows out")
        unusable |= blank.to_numpy()
    for name in labels if drop_empty else ():
        missing = missing_labels(table[name].combine_chunks(), names_of_numbers)
        unusable |= missing.to_numpy(zero_copy_only=False)
    rows = table.filter(pa.array(~unusable)) if unusable.any() else table
    return Part(rows, part.place, part.first_row, np.flatnonzero(~unusable))
