"""Dividing a transformer into embeddings, layers and head by its module tree."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class Part:
    """A part of a model and its trainable parameters.

    Args:
        name: `embeddings`, `layer.0` (the layer next to the embeddings), `layer.1`, …, or `head`.
        kind: `embeddings`, `layer` or `head`.
        parameters: Pairs of a parameter's name in the model and the parameter, in the model's order.
    """

    name: str
    kind: Literal["embeddings", "layer", "head"]
    parameters: tuple[tuple[str, nn.Parameter], ...]


def named_parts(model: nn.Module) -> list[Part]:
    """Return the parts of a transformer from the bottom to the top: embeddings, layers, head.

    The division follows the module tree, not the name of the architecture:

    - The layers are the entries of an `nn.ModuleList`, the outermost one where lists are nested. Lists of one length
      side by side are one stack (entry 0 of each is layer 0), lists of lists are flattened, and several stacks on the
      same backbone (encoder and decoder) follow one another.
    - The backbone is the smallest module that holds the stack and every `nn.Embedding` (the model itself where there
      is none). Modules outside it are the head.
    - In the backbone, modules registered before the stack belong to the embeddings, those after it (a final norm, a
      pooler) to the head, except an `nn.Embedding` there (relative positions) and what follows it in the same module:
      they belong to the embeddings.

    Layers that share their weights are one part. A tied parameter belongs where the model names it first. Parameters
    with `requires_grad=False` are left out, and so are parts that have no other: in a model with adapters, the part
    of a layer holds its adapters alone.

    Args:
        model: A Hugging Face encoder or decoder with its head, perhaps wrapped by peft, or any module of that shape.

    Returns:
        The parts that hold trainable parameters; every trainable parameter is in exactly one of them.

    Raises:
        ValueError: The model has no stack of layers or no trainable parameter.

    Example::

        [part.name for part in named_parts(bert)]  # ["embeddings", "layer.0", …, "layer.11", "head"]
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(f"no parameter trains in a {type(model).__name__}: all have requires_grad=False")
    layer_of, backbone = _find_stack(model)
    if not layer_of:
        names = [name for name, _ in model.named_parameters()]
        raise ValueError(
            f"cannot divide a {type(model).__name__} into embeddings, layers and head: it has no nn.ModuleList of "
            f"layers; its {len(names)} parameters are {_shortened(names)}"
        )
    kinds = _kinds_by_owner(model, layer_of, backbone)

    members: dict[str, list[tuple[str, nn.Parameter]]] = {"embeddings": []}
    members.update({f"layer.{index}": [] for index in sorted(set(layer_of.values()))})
    members["head"] = []
    for name, parameter in trainable:
        path = _enclosing(name, layer_of)
        owner = name.rpartition(".")[0]
        members[kinds[owner] if path is None else f"layer.{layer_of[path]}"].append((name, parameter))
    return [
        Part(name, "layer" if name.startswith("layer.") else name, tuple(parameters))  # type: ignore[arg-type]
        for name, parameters in members.items()
        if parameters
    ]


def layer_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules that :func:`named_parts` takes for layers, from the bottom to the top; none without a stack.

    Args:
        model: A model as :func:`named_parts` takes it.
    """
    layer_of, _ = _find_stack(model)
    return [model.get_submodule(path) for path in layer_of]


def _find_stack(model: nn.Module) -> tuple[dict[str, int], str]:
    """Return the layer number of every entry of the stack, by the entry's path, and the path of the backbone."""
    stacks: list[tuple[str, list[list[str]]]] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{other}.") for other, _ in stacks):
            continue
        entries = [entry for entry, layer in _flat_entries(path, module) if any(True for _ in layer.parameters())]
        if not entries or all(isinstance(layer, nn.Embedding) for layer in module):
            continue
        parent = path.rpartition(".")[0]
        beside = [rows for other, rows in stacks if other.rpartition(".")[0] == parent and len(rows) == len(entries)]
        if beside:
            for row, entry in zip(beside[0], entries, strict=True):
                row.append(entry)
        else:
            stacks.append((path, [[entry] for entry in entries]))
    if not stacks:
        return {}, ""

    def size(rows: list[list[str]]) -> int:
        return sum(
            parameter.numel() for row in rows for entry in row for parameter in model.get_submodule(entry).parameters()
        )

    # Only lists on the backbone of the largest one are layers: a list elsewhere may hold several heads.
    largest = max((rows for _, rows in stacks), key=size)
    candidates = {entry for _, rows in stacks for row in rows for entry in row}
    embeddings = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding) and _enclosing(path, candidates) is None
    ]
    backbone = _common_path([*(entry for row in largest for entry in row), *embeddings]) if embeddings else ""
    rows = [row for path, rows in stacks if _is_inside(path, backbone) for row in rows]
    return {entry: index for index, row in enumerate(rows) for entry in row}, backbone


def _flat_entries(path: str, modules: nn.ModuleList) -> Iterator[tuple[str, nn.Module]]:
    for index, module in enumerate(modules):
        if isinstance(module, nn.ModuleList):
            yield from _flat_entries(f"{path}.{index}", module)
        else:
            yield f"{path}.{index}", module


def _kinds_by_owner(model: nn.Module, layers: Collection[str], backbone: str) -> dict[str, str]:
    """Return `embeddings` or `head` for every module outside the layers, by path."""
    kinds: dict[str, str] = {}

    def holds_layers(path: str) -> bool:
        return any(_is_inside(layer, path) for layer in layers)

    def visit(module: nn.Module, path: str, kind: str) -> str:
        """Assign a kind to a module and those below it; return the kind of the modules that follow it."""
        if path in layers:
            return "head"
        if isinstance(module, nn.Embedding) and _is_inside(path, backbone):
            kind = "embeddings"
        kinds[path] = kind
        current = kind
        for name, child in module.named_children():
            child_path = f"{path}.{name}" if path else name
            if not _is_inside(child_path, backbone) and not _is_inside(backbone, child_path):
                visit(child, child_path, "head")
            else:
                current = visit(child, child_path, current)
        # Modules after a relative embedding belong to the embeddings in its own module, not beyond that.
        return "head" if holds_layers(path) else kind

    visit(model, "", "embeddings")
    return kinds


def _is_inside(path: str, ancestor: str) -> bool:
    return not ancestor or path == ancestor or path.startswith(f"{ancestor}.")


def _enclosing(path: str, layers: Collection[str]) -> str | None:
    """Return the one of `layers` that holds `path`; None if there is none."""
    while path:
        if path in layers:
            return path
        path = path.rpartition(".")[0]
    return None


def _common_path(paths: list[str]) -> str:
    """Return the path of the smallest module that holds all of `paths` below it."""
    parents = [path.split(".")[:-1] for path in paths]
    common = parents[0]
    for other in parents[1:]:
        length = next(
            (i for i, (a, b) in enumerate(zip(common, other, strict=False)) if a != b), min(len(common), len(other))
        )
        common = common[:length]
    return ".".join(common)


def _shortened(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f", … and {len(names) - limit} more" if len(names) > limit else "")
