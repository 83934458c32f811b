"""What is printed about the splits: rows, classes, texts that are cut, texts that are in two splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from datamodules.labels.label_statistics import count_labels
from datamodules.sources.arrow_columns import column_of

MAX_CLASSES = 200


@rank_zero_only
def report_splits(
    splits: Mapping[str, datasets.Dataset], label_names: Sequence[str], limit: str, keeps_more: str, held_out: bool
) -> None:
    """Print the number of rows of each split and class and of the tokens that are cut; warn of equal texts.

    Args:
        splits: The tokenized rows of each split.
        label_names: Names of the labels; empty for regression.
        limit: The maximum length of a text, as it is printed ("128 tokens").
        keeps_more: Which options keep more of long texts, as it is printed where most is cut; empty for none.
        held_out: Whether the validation rows are held out of the training rows.
    """
    lines = [_rows_line(splits, held_out)]
    label_names = [" ".join(name.split()) for name in label_names]  # which may hold line breaks
    labelled = {name: column_of(rows, "label") for name, rows in splits.items() if "label" in rows.column_names}
    if label_names and labelled:
        counts = {name: count_labels(labels, len(label_names)) for name, labels in labelled.items()}
        lines += _class_table(counts, label_names)
        _warn_of_missing_labels(counts, label_names)
    lines += [_cut_line(name, rows, limit, keeps_more) for name, rows in splits.items()]
    rank_zero_info("\n".join(lines))
    names = list(splits)
    hashes = {name: column_of(rows, "text_hash") for name, rows in splits.items()}
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            found = _in_both(hashes[first], hashes[second])
            if found:
                rank_zero_warn(f"{found} of {len(hashes[second])} {second} rows have exactly the text of a {first} row")


def _rows_line(splits: Mapping[str, datasets.Dataset], held_out: bool) -> str:
    said = [
        f"{name} {len(rows)}{' (held out of the training rows)' if held_out and name == 'validation' else ''}"
        for name, rows in splits.items()
    ]
    return f"rows: {', '.join(said)}"


def _class_table(counts: Mapping[str, Sequence[int]], label_names: Sequence[str]) -> list[str]:
    shown = [name if len(name) <= 40 else f"{name[:37]}..." for name in label_names[:MAX_CLASSES]]
    width = max(len(name) for name in ["label", *shown])
    heads = [f"{name:>10}" for name in counts]
    lines = [f"{'label':<{width}}  {'  '.join(heads)}"]
    for label, name in enumerate(shown):
        cells = [f"{each[label]:>{len(head)}}" for each, head in zip(counts.values(), heads, strict=True)]
        lines.append(f"{name:<{width}}  {'  '.join(cells)}")
    more = len(label_names) - len(shown)
    return [*lines, *([f"... and {more} more"] if more else [])]


def _warn_of_missing_labels(counts: Mapping[str, Sequence[int]], label_names: Sequence[str]) -> None:
    for split, of_split in counts.items():
        missing = [name for name, count in zip(label_names, of_split, strict=True) if count == 0]
        if missing and split != "train":
            named = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
            which = f"{len(missing)} of {len(label_names)} labels are in no {split} row"
            rank_zero_warn(f"{which}, so that its scores do not cover them: {named}")


def _cut_line(name: str, rows: datasets.Dataset, limit: str, keeps_more: str) -> str:
    lost = column_of(rows, "lost_tokens")
    cut = pc.sum(pc.greater(lost, 0)).as_py()
    if not cut:
        return f"{name}: no text is longer than {limit}"
    tokens, kept = pc.sum(lost).as_py(), pc.sum(column_of(rows, "length")).as_py()
    return (
        f"{name}: {cut} of {len(rows)} texts are longer than {limit} and are cut; "
        f"{tokens} tokens ({100 * tokens / (tokens + kept):.1f} percent) are lost"
        + f"; {keeps_more} keeps more"
        * bool(keeps_more and tokens > kept)
    )


def _in_both(first: pa.ChunkedArray, second: pa.ChunkedArray) -> int:
    """Return how many of the second values are among the first; only the smaller column is held in memory."""
    if len(first) < len(second):
        return pc.sum(pc.is_in(second, value_set=first.combine_chunks())).as_py() or 0
    common = pc.unique(first.filter(pc.is_in(first, value_set=second.combine_chunks())))
    return pc.sum(pc.is_in(second, value_set=common)).as_py() or 0
