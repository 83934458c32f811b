"""The classes of model and data that arguments name, by themselves or by a configuration, before they are parsed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pydoc import ErrorDuringImport, locate

import yaml

from linetune.arguments import configs_among, value_of


def given_class(arguments: Sequence[str], section: str) -> tuple[str, type] | None:
    """Return the class that is given for a section, under the name by which it is; None if none is, or it is not found.

    Args:
        arguments: The command line's.
        section: ``model`` or ``data``.
    """
    name = value_of(arguments, f"--{section}") or value_of(arguments, f"--{section}.class_path")
    name = name or _named_in(configs_among(arguments), section)
    try:
        found = None if name is None else locate(name)
    except ErrorDuringImport:
        return None
    return (name, found) if name is not None and isinstance(found, type) else None


def _named_in(configs: Sequence[str], section: str) -> str | None:
    """Return the class that the last of several configurations names for a section; None if none does."""
    for config in reversed(configs):
        try:
            content = yaml.safe_load(Path(config).expanduser().read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        of_section = content.get(section) if isinstance(content, dict) else None
        name = of_section.get("class_path") if isinstance(of_section, dict) else of_section
        if isinstance(name, str):
            return name
    return None
