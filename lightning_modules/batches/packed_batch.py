"""The tokens of a batch laid side by side, without the padding between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

# Tokens of a block of texts for attention: fewer products for more blocks, each of which takes a few calls of torch.
_BLOCK = 48


class PackedBatch:
    """Where the tokens of a padded batch lie once its padding is left out, the longest texts first.

    ``(texts, width, …)`` tensors become ``(1, tokens, …)``. What treats tokens one by one gives the same in both forms;
    attention runs on blocks of a few texts each, in which a mask keeps the texts apart.

    Args:
        mask: ``(texts, width)``, 1 for a token and 0 for padding, on either side.

    Example::

        >>> packed = PackedBatch(torch.tensor([[1, 0, 0], [1, 1, 1]]))
        >>> packed.pack(torch.tensor([[7, 0, 0], [4, 5, 6]]))
        tensor([[4, 5, 6, 7]])
    """

    def __init__(self, mask: Tensor) -> None:
        self.texts, self.width = mask.shape
        is_token = mask.bool()
        lengths = is_token.sum(dim=1)
        order = lengths.argsort(descending=True, stable=True)
        columns = torch.arange(self.width, device=mask.device)
        # Of each token in the packed form, its place among all the places of the padded one.
        self._places = (order[:, None] * self.width + columns)[is_token[order]]
        self._lengths: list[int] = [length for length in lengths[order].tolist() if length]
        self._blocks = _blocks(self._lengths)
        # What was cut out of each mask of pairs of tokens.
        self._cut: list[tuple[Tensor, list[Tensor | bool]]] = []
        # The last input of a linear layer, and what it is without padding.
        self._packed: tuple[Tensor, Tensor] | None = None
        self._inside: set[nn.Module] = set()
        self.is_used = False

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self._places)

    @property
    def blocks(self) -> int:
        """Number of blocks in which attention runs."""
        return len(self._blocks)

    def pack(self, tensor: Tensor) -> Tensor:
        """Return ``(texts, width, …)``, or ``(1, width, …)`` for all texts alike, as ``(1, tokens, …)``."""
        self.is_used = True
        if tensor.shape[0] == 1:
            return tensor.index_select(1, self._places % self.width)
        return tensor.flatten(0, 1).index_select(0, self._places)[None]

    def unpack(self, tensor: Tensor) -> Tensor:
        """Return ``(1, tokens, …)`` as ``(texts, width, …)`` with zeros for padding."""
        places = tensor.new_zeros(self.texts * self.width, *tensor.shape[2:])
        return places.index_copy(0, self._places, tensor[0]).unflatten(0, (self.texts, self.width))

    # Hooks of modules

    def enter_layer(self, layer: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Pack all of a layer's inputs that have an entry per token; a hook before its forward pass."""

        def packed(value: Any) -> Any:
            # What has more dimensions is a mask of pairs of tokens, or a bias.
            has_tokens = isinstance(value, Tensor) and value.ndim in (2, 3) and value.shape[1] == self.width
            return self.pack(value) if has_tokens and value.shape[0] in (1, self.texts) else value

        self._inside.add(layer)
        return tree_map(packed, args), tree_map(packed, kwargs)

    def enter_states(self, layer: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Pack a layer's states alone, for a layer whose attention runs padded; a hook before its forward pass."""
        self._inside.add(layer)
        return self._packed_states((args, kwargs))

    def enter_padded(self, attention: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Unpack what a module within a packed layer gets; a hook before its forward pass."""
        return self._unpacked((args, kwargs))

    def leave_padded(self, attention: nn.Module, _: Any, output: Any) -> Any:
        """Pack the states that a module within a packed layer returns; a hook after its forward pass."""
        return self._packed_states(output)

    def enter_linear(self, linear: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Pack the input of a linear layer if it is one of tokens; a hook before its forward pass."""
        if not args or not is_states(args[0], (self.texts, self.width)):
            return None
        self._inside.add(linear)
        # Queries, keys and values are made of one tensor.
        if self._packed is None or self._packed[0] is not args[0]:
            self._packed = (args[0], self.pack(args[0]))
        return (self._packed[1], *args[1:]), kwargs

    def leave(self, module: nn.Module, _: Any, output: Any) -> Any:
        """Unpack the outputs of a module whose inputs were packed; a hook after its forward pass."""
        if module not in self._inside:
            return output
        self._inside.remove(module)
        return self._unpacked(output)

    def _packed_states(self, values: Any) -> Any:
        shape = (self.texts, self.width)
        return tree_map(lambda value: self.pack(value) if is_states(value, shape) else value, values)

    def _unpacked(self, values: Any) -> Any:
        return tree_map(lambda value: self.unpack(value) if is_states(value, (1, self.tokens)) else value, values)

    # Attention

    def attention(
        self,
        attend: Callable[..., tuple[Tensor, Any]],
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Any]:
        """Run attention within each text.

        Args:
            attend: transformers' attention function, with the arguments that follow.
            module: The attention module.
            query: ``(1, heads, tokens, size)``; other shapes are left to ``attend``.
            key: The same, perhaps with fewer heads.
            value: The same.
            attention_mask: ``(texts or 1, heads or 1, width, width)`` of the padded batch.
            options: Others of ``attend``.

        Returns:
            ``(1, tokens, heads, size)``, and None in place of attention weights.
        """
        if any(tensor.shape[0] != 1 or tensor.shape[2] != self.tokens for tensor in (query, key)):
            return attend(module, query, key, value, attention_mask, **options)
        sizes = self._lengths if attention_mask is None else self._blocks
        masks = [None] * len(sizes) if attention_mask is None else self._masks_of_blocks(attention_mask)
        # One split and one cat: each slice of its own would have a gradient as large as the whole.
        split = [tensor.split(sizes, dim=2) for tensor in (query, key, value)]
        outputs = []
        for mask, *inputs in zip(masks, *split, strict=True):
            alone = {"is_causal": mask} if isinstance(mask, bool) else {}
            outputs.append(attend(module, *inputs, None if alone else mask, **(options | alone))[0])
        return torch.cat(outputs, dim=1), None

    def _masks_of_blocks(self, mask: Tensor) -> list[Tensor | bool]:
        """Return what a mask says within each block, or no more than whether it is causal."""
        for known, found in self._cut:
            if known is mask:
                return found
        pairs = mask.expand(self.texts, -1, self.width, self.width)
        found = []
        for places in self._places.split(self._blocks):
            texts, columns = places // self.width, places % self.width
            own = pairs[texts[:, None], :, columns[:, None], columns].permute(2, 0, 1)[None]
            is_same_text = texts[:, None] == texts
            own = own & is_same_text if own.dtype == torch.bool else own.where(is_same_text, torch.finfo(own.dtype).min)
            allowed = own if own.dtype == torch.bool else own == 0
            if bool(allowed.all()):
                found.append(False)
            elif own.dtype == torch.bool and torch.equal(own, torch.ones_like(own).tril()):
                found.append(True)
            else:
                found.append(own)
        self._cut.append((mask, found))
        return found


def is_states(value: Any, shape: tuple[int, ...]) -> bool:
    """Return whether a value is a tensor of a vector for each token: ``(texts, width, size)``."""
    return isinstance(value, Tensor) and value.ndim == 3 and value.shape[:2] == shape and value.is_floating_point()


def _blocks(lengths: list[int]) -> list[int]:
    """Return the numbers of tokens of blocks of consecutive texts."""
    blocks: list[int] = []
    for length in lengths:
        if blocks and blocks[-1] + length <= _BLOCK:
            blocks[-1] += length
        else:
            blocks.append(length)
    return blocks
