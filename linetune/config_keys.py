"""The keys of a configuration file, each of which may stand once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

_MERGE = "tag:yaml.org,2002:merge"
_KINDS = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value", type(None): "nothing"}


def check_keys(path: str | Path) -> None:
    """Refuse a configuration file that is no mapping, or has a key twice, of which YAML keeps the last without a word.

    Args:
        path: The file. What cannot be read, or is no YAML, is left to the parser.

    Raises:
        MisconfigurationException: The file is not as it has to be.
    """
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    if not isinstance(root, yaml.MappingNode):
        got = _KINDS[type(root)]
        raise MisconfigurationException(f"{path}: a configuration has keys, such as trainer and model; this is {got}")
    for mapping in _mappings(root, set()):
        seen: dict[str, yaml.Node] = {}
        for key, _ in mapping.value:
            is_named = isinstance(key, yaml.ScalarNode) and key.tag != _MERGE  # several mappings may be merged
            first = seen.setdefault(key.value, key) if is_named else key
            if first is not key:
                lines = f"{first.start_mark.line + 1} and {key.start_mark.line + 1}"
                raise MisconfigurationException(
                    f"{path}: the key {key.value} stands twice, in lines {lines}, and YAML keeps the last alone; write "
                    "it once"
                )


def _mappings(node: yaml.Node, seen: set[int]) -> Iterator[yaml.MappingNode]:
    """Yield the mappings in a node, each once, whatever the number of its aliases."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value, seen)
