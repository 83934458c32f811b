"""Dividing a transformer into embeddings, layers and head by its module tree."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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


def named_parts(model: nn.Module, order: Sequence[str] = ()) -> list[Part]:
    """Return the parts of a transformer from the bottom to the top: embeddings, layers, head.

    The division follows the module tree and the order in which modules run, not the name of the architecture:

    - The layers are the entries of an `nn.ModuleList`, the outermost one where lists are nested. Lists of one length
      side by side are one stack (entry 0 of each is layer 0), lists of lists are flattened, and several stacks on the
      same backbone (encoder and decoder) follow one another. A stack that does not run (of images) is none.
    - The backbone is the smallest module that holds the stack and every `nn.Embedding` (the model itself where there
      is none). Each `nn.Embedding` in it belongs to the embeddings.
    - Modules that first run before the first layer belong to the embeddings, those after the last layer (a final norm,
      a pooler) to the head. One that runs between two layers belongs to the layer before it, or to the embeddings if
      all layers in the module around it run later (the norm on a decoder's embeddings).
    - A module that does not run belongs to the part around it, or to the embeddings: its parameters are read by others.
    - Without `order`, modules in the backbone registered before the stack belong to the embeddings, those after it to
      the head, except what follows an `nn.Embedding` there in the same module; modules outside the backbone are the
      head.

    Layers that share their weights are one part. A tied parameter belongs where the model names it first. Parameters
    with `requires_grad=False` are left out, and so are parts that have no other: in a model with adapters, the part
    of a layer holds its adapters alone.

    Args:
        model: A Hugging Face encoder or decoder with its head, perhaps wrapped by peft, or any module of that shape.
        order: The order in which its modules run, of :func:`~optimizers.call_order`. Default: that of registration.

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
    layer_of, backbone = _find_stack(model, order)
    if not layer_of:
        names = [name for name, _ in model.named_parameters()]
        raise ValueError(
            f"cannot divide a {type(model).__name__} into embeddings, layers and head: it has no nn.ModuleList of "
            f"layers; its {len(names)} parameters are {_shortened(names)}"
        )
    owners = _parts_by_registration(model, layer_of, backbone) | _parts_by_order(model, layer_of, backbone, order)

    members: dict[str, list[tuple[str, nn.Parameter]]] = {"embeddings": []}
    members.update({f"layer.{index}": [] for index in sorted(set(layer_of.values()))})
    members["head"] = []
    for name, parameter in trainable:
        path = _enclosing(name, layer_of)
        owner = name.rpartition(".")[0]
        members[owners[owner] if path is None else f"layer.{layer_of[path]}"].append((name, parameter))
    return [
        Part(name, "layer" if name.startswith("layer.") else name, tuple(parameters))  # type: ignore[arg-type]
        for name, parameters in members.items()
        if parameters
    ]


def layer_modules(model: nn.Module, order: Sequence[str] = ()) -> list[nn.Module]:
    """Return the modules that :func:`named_parts` takes for layers, from the bottom to the top; none without a stack.

    Args:
        model: A model as :func:`named_parts` takes it.
        order: As :func:`named_parts` takes it.
    """
    layer_of, _ = _find_stack(model, order)
    return [model.get_submodule(path) for path in layer_of]


def _find_stack(model: nn.Module, order: Sequence[str]) -> tuple[dict[str, int], str]:
    """Return the layer number of every entry of the stack, by the entry's path, and the path of the backbone."""
    called_first = list(dict.fromkeys(order))
    stacks = _stacks(model, called_first)
    if not stacks:
        return {}, ""

    def size(rows: list[list[str]]) -> int:
        return sum(
            parameter.numel() for row in rows for entry in row for parameter in model.get_submodule(entry).parameters()
        )

    # Only lists on the backbone of the largest one are layers: a list elsewhere may hold several heads.
    largest = max(stacks.values(), key=size)
    candidates = {entry for rows in stacks.values() for row in rows for entry in row}
    embeddings = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding) and _enclosing(path, candidates) is None
    ]
    backbone = _common_path([*(entry for row in largest for entry in row), *embeddings]) if embeddings else ""
    found = [path for path in stacks if _is_inside(path, backbone)]
    if order:
        found.sort(key=lambda stack: next(i for i, called in enumerate(called_first) if _is_inside(called, stack)))
    rows = [row for path in found for row in stacks[path]]
    return {entry: index for index, row in enumerate(rows) for entry in row}, backbone


def _stacks(model: nn.Module, called: Sequence[str]) -> dict[str, list[list[str]]]:
    """Return what may be stacks of layers: of each list its rows, the paths of the entries that are one layer.

    Lists of one length beside one another share a stack, under the path of the first. Lists of embeddings, and those
    of which nothing runs, are none.

    Args:
        model: The model.
        called: Names of the modules that run; empty if that is unknown.
    """
    stacks: dict[str, list[list[str]]] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{other}.") for other in stacks):
            continue
        entries = [entry for entry, layer in _flat_entries(path, module) if any(True for _ in layer.parameters())]
        if not entries or all(isinstance(layer, nn.Embedding) for layer in module):
            continue
        if called and not any(_is_inside(each, path) for each in called):
            continue
        parent = path.rpartition(".")[0]
        beside = [
            rows for other, rows in stacks.items() if other.rpartition(".")[0] == parent and len(rows) == len(entries)
        ]
        if beside:
            for row, entry in zip(beside[0], entries, strict=True):
                row.append(entry)
        else:
            stacks[path] = [[entry] for entry in entries]
    return stacks


def _flat_entries(path: str, modules: nn.ModuleList) -> Iterator[tuple[str, nn.Module]]:
    for index, module in enumerate(modules):
        if isinstance(module, nn.ModuleList):
            yield from _flat_entries(f"{path}.{index}", module)
        else:
            yield f"{path}.{index}", module


def _parts_by_registration(model: nn.Module, layers: Collection[str], backbone: str) -> dict[str, str]:
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


def _parts_by_order(
    model: nn.Module, layer_of: Mapping[str, int], backbone: str, order: Sequence[str]
) -> dict[str, str]:
    """Return the part of every module outside the layers that runs, by path."""
    first_call = {path: time for time, path in reversed(list(enumerate(order)))}
    runs = [(time, layer) for time, path in enumerate(order) if (layer := _enclosing(path, layer_of)) is not None]
    if not runs:
        return {}
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        around = path.rpartition(".")[0]
        if _enclosing(path, layer_of) is not None or any(_is_inside(layer, path) for layer in layer_of):
            continue
        if path not in first_call:
            # Another module reads its parameters (a table of relative positions), or none does.
            if around in found:
                found[path] = found[around]
            elif _is_inside(path, backbone):
                found[path] = "embeddings"
            continue
        before = [layer for time, layer in runs if time < first_call[path]]
        if not before or (isinstance(module, nn.Embedding) and _is_inside(path, backbone)):
            found[path] = "embeddings"
        elif len(before) == len(runs):
            found[path] = "head"
        else:
            while not any(_is_inside(layer, around) for layer in layer_of):
                around = around.rpartition(".")[0]
            is_above = any(_is_inside(layer, around) for layer in before)
            found[path] = f"layer.{layer_of[before[-1]]}" if is_above else "embeddings"
    return found


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


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f", … and {len(names) - 8} more" if len(names) > 8 else "")
