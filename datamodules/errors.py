"""The error for data that cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """Error about data, or an option for data, that cannot be used.

    The message is one line that says what is wrong, where (with file and line, if any) and what is allowed; the command
    line shows it without a traceback.
    """
