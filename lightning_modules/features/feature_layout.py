"""The place of the vector that a head reads in the outputs of a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_modules.batches.batch_rows import Batch, count_examples


@dataclass(frozen=True)
class Template:
    """The form of a module's output: its structure and each tensor's dtype and dimensions, without the numbers."""

    structure: Any
    leaves: tuple[tuple[torch.dtype, torch.Size] | None, ...]


@dataclass
class FeatureLayout:
    """The place of an example's vector in the outputs of the constant modules.

    Args:
        templates: The form of each module's output.
        owner: Number of the module that returns the vector.
        leaf: Number of the tensor among those that it returns.
        token: Which token's vector it is: ``first``, ``last``, or ``none`` where the tensor has no token dimension.
    """

    templates: dict[nn.Module, Template]
    owner: int
    leaf: int
    token: str

    @property
    def size(self) -> int:
        """Number of entries of a vector."""
        _, shape = list(self.templates.values())[self.owner].leaves[self.leaf]  # type: ignore[misc]
        return shape[-1]

    def __str__(self) -> str:
        return f"module {self.owner} tensor {self.leaf} token {self.token}"

    def vectors(self, outputs: dict[nn.Module, Any], batch: Batch) -> Tensor:
        """Return the examples' vectors, of shape ``(batch, size)``, from the modules' outputs."""
        tensor = tree_flatten(outputs[list(self.templates)[self.owner]])[0][self.leaf]
        if self.token == "none":
            return tensor
        if self.token == "first":
            return tensor[:, 0]
        return tensor[torch.arange(len(tensor), device=tensor.device), _last_tokens(batch)]

    def outputs(self, vectors: Tensor, batch: Batch) -> dict[nn.Module, Any]:
        """Return the modules' outputs as far as the head reads them; zeros, or nothing, elsewhere."""
        found = {}
        for number, (module, template) in enumerate(self.templates.items()):
            leaves: list[Tensor | None] = []
            for place, leaf in enumerate(template.leaves):
                if leaf is None:
                    leaves.append(None)
                elif number == self.owner and place == self.leaf:
                    leaves.append(self._placed(vectors.to(leaf[0]), batch))
                else:
                    shape = (count_examples(batch), *([batch["input_ids"].shape[1]] * (len(leaf[1]) - 2)), leaf[1][-1])
                    leaves.append(torch.zeros((), dtype=leaf[0], device=vectors.device).expand(shape))
            found[module] = tree_unflatten(leaves, template.structure)
        return found

    def _placed(self, vectors: Tensor, batch: Batch) -> Tensor:
        if self.token == "none":
            return vectors
        if self.token == "first":
            return vectors[:, None]
        placed = vectors.new_zeros(len(vectors), batch["input_ids"].shape[1], vectors.shape[1])
        placed[torch.arange(len(vectors), device=vectors.device), _last_tokens(batch)] = vectors
        return placed


def possible_layouts(outputs: dict[nn.Module, Any]) -> Iterator[FeatureLayout]:
    """Yield the place of every vector per example in the outputs, the latest module's and tensor's first."""
    templates = {}
    for module, output in outputs.items():
        leaves, structure = tree_flatten(output)
        shapes = tuple((leaf.dtype, leaf.shape) if _is_vectors(leaf) else None for leaf in leaves)
        templates[module] = Template(structure, shapes)
    for owner, template in reversed(list(enumerate(templates.values()))):
        for place, leaf in reversed(list(enumerate(template.leaves))):
            if leaf is not None:
                for token in ("none",) if len(leaf[1]) == 2 else ("first", "last"):
                    yield FeatureLayout(templates, owner, place, token)


def _is_vectors(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim in (2, 3)


def _last_tokens(batch: Batch) -> Tensor:
    mask = batch["attention_mask"]
    return (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
