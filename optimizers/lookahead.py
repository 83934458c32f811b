"""Delayed decisions: a tree of possible updates, of which the first level is decided on after looking further ahead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# A node, as the places of its ancestors and itself among their siblings, from the first level on.
Path = tuple[int, ...]


@dataclass(slots=True)
class Option:
    """A possible update of some tensors, with the options that may follow it.

    Args:
        selection: The number of the selection of entries that it moves.
        seed: The seed of its noise.
        scale: What the noise is multiplied by; 0 stays in place.
        children: The options that may follow.
    """

    selection: int
    seed: int = 0
    scale: float = 0.0
    children: list[Option] = field(default_factory=list)


@dataclass
class OptionTree:
    """Options several levels deep, and the leaf at which the tensors are at present.

    A step adds a level below the leaves (`grow`) and decides on one option of the first level (`commit`), so that the
    depth stays the same. The options start from the tensors' values after the last decision, which the tree's user
    keeps.

    Args:
        options: The options of the first level.
        current: The path of the leaf at which the tensors are.

    Example:
        >>> tree = OptionTree.of_staying(levels=1)
        >>> tree.grow({(0,): [Option(0, seed=5, scale=0.1), Option(0)]})
        >>> tree.commit((0,))
        Option(selection=0, seed=0, scale=0.0, children=[])
        >>> [tree.along(path)[-1].seed for path in tree.leaves()]
        [5, 0]
    """

    options: list[Option]
    current: Path

    @classmethod
    def of_staying(cls, levels: int) -> OptionTree:
        """Return a tree of some levels with one leaf, which stays in place."""
        options: list[Option] = []
        for _ in range(levels):
            options = [Option(selection=0, children=options)]
        return cls(options, (0,) * levels)

    def leaves(self) -> list[Path]:
        """Return the paths of the leaves, from left to right."""
        return list(_leaves(self.options))

    def along(self, path: Path) -> list[Option]:
        """Return the options on the way to a node, the node's own last."""
        found: list[Option] = []
        for place in path:
            found.append((found[-1].children if found else self.options)[place])
        return found

    def selections(self) -> set[int]:
        """Return the numbers of the selections that some option moves."""
        return {option.selection for option in _nodes(self.options)}

    def grow(self, children: Mapping[Path, list[Option]]) -> None:
        """Add a level: options by the path of the leaf that they follow, the best first."""
        for path, options in children.items():
            self.along(path)[-1].children = options

    def commit(self, path: Path) -> Option:
        """Decide on the first option of a path and return it, without its children.

        Args:
            path: A leaf before the tree has grown; its first child is where the tensors are from now on.
        """
        first = self.options[path[0]]
        self.options, self.current = first.children, (*path[1:], 0)
        return Option(first.selection, first.seed, first.scale)

    def to_state(self) -> dict[str, Any]:
        """Return the tree as lists and numbers, which `torch.load(weights_only=True)` takes."""
        return {"tree": _as_lists(self.options), "path": list(self.current)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> OptionTree:
        """Return the tree that `to_state` wrote into a state, which may hold other keys as well."""
        return cls(_from_lists(state["tree"]), tuple(state["path"]))


def _nodes(options: Sequence[Option]) -> Iterator[Option]:
    for option in options:
        yield option
        yield from _nodes(option.children)


def _leaves(options: Sequence[Option]) -> Iterator[Path]:
    for place, option in enumerate(options):
        if option.children:
            yield from ((place, *path) for path in _leaves(option.children))
        else:
            yield (place,)


def _as_lists(options: Sequence[Option]) -> list[list[Any]]:
    return [[option.selection, option.seed, option.scale, _as_lists(option.children)] for option in options]


def _from_lists(nodes: Sequence[Sequence[Any]]) -> list[Option]:
    return [Option(selection, seed, scale, _from_lists(children)) for selection, seed, scale, children in nodes]
