"""Interface of the sources of a GLUE task's rows: the hub, a folder of files, or generated sentences."""

from __future__ import annotations

from typing import Protocol

import datasets


class GLUESource(Protocol):
    """Source of the rows of a GLUE task, one split at a time.

    A split has the task's text columns (str) and ``label`` (int64 class in the hub's order, or float32 score); a split
    whose labels are not published has no ``label`` column. Rows keep the source's order.
    """

    def fingerprint(self, split: str) -> str:
        """Return a text that changes with the rows of the split, fast enough to look up cached data by it."""
        ...

    def read(self, split: str) -> datasets.Dataset:
        """Return the rows of a split.

        Raises:
            DataError: The split cannot be read.
        """
        ...
