"""Warnings in one line each, on the command line."""

from __future__ import annotations

import os
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linetune import HOME, PACKAGES
from optimizers.replaced_attribute import replaced_attribute

_OWN_FILES = (*PACKAGES, "linetune", "cli.py")


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Print, inside the context, warnings without the line of the source that raised them; :func:`warning_line`."""
    with replaced_attribute(warnings, "formatwarning", warning_line):
        yield


def warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning of this project as its text alone, any other with its short place and its category.

    Args:
        message: The warning.
        category: Its class.
        filename: The file that it is about.
        lineno: The line in this file.
        line: Not used; the source.
    """
    file = Path(filename)
    if any(file.is_relative_to(HOME / name) for name in _OWN_FILES):
        return f"linetune: warning: {message}\n"
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), os.getcwd()):
        if file.is_relative_to(folder):
            file = file.relative_to(folder)
    return f"{file}:{lineno}: {category.__name__}: {message}\n"
