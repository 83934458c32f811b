"""The error for data that cannot be used; the first line of any error."""

from __future__ import annotations


class DataError(ValueError):
    """Error about data, or an option for data, that cannot be used.

    The message is one line that says what is wrong, where (with file and line, if any) and what is allowed; the command
    line shows it without a traceback.
    """


def first_line(error: object) -> str:
    """Return the first line of an error's text; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
