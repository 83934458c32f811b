"""Forward passes that leave out a batch's padding, where the model allows it and it saves time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from lightning_modules.batches.packed_batch import PackedBatch, is_states
from lightning_modules.batches.relative_positions import positions_within, relative_attentions
from lightning_modules.errors import ModelError, first_line
from lightning_modules.models.cpu_products import by_small_products
from lightning_modules.models.logits_rounding import equal_but_for_rounding
from lightning_modules.models.tiny_input import padded_texts
from optimizers.call_order import evaluating

Form = Literal["layers", "around attention", "linear"]

# Lengths of the texts that are tried: several, one of them twice.
_TEXTS = (9, 4, 12, 4, 2)

# What packing costs on a CPU, rounded up from what `python -m benchmarks.packing --costs` prints: seconds per layer,
# seconds per layer and block of texts, and the share by which the arithmetic on what is left takes longer. What it
# saves is counted as products alone, 6 operations per parameter and place, at the speed of one thread of a fast
# processor: less than it is. For forward and backward; forward alone, blocks cost nothing and all else is a third.
_COSTS = {"layers": (1e-3, 2.5e-4, 0.02), "around attention": (2e-3, 0.0, 0.12), "linear": (2e-3, 0.0, 0.12)}
_OPERATIONS_PER_SECOND = 2.4e11


class Packing:
    """What a model can compute on the tokens of a batch alone, and on the distances between them alone.

    Whole layers, if their attention goes through transformers' interface for it; else layers but for what their own
    attention does between linear layers; else each linear layer. A model is tried before: it has to give a few texts of
    different lengths the logits that they have with padding.
    Layers run packed only where that takes less time by a model of its cost, which is that of a CPU.

    Args:
        model: A Hugging Face classifier.
        layers: The modules that its tokens run through one after the other.
        side: The side on which its texts are padded.
        forms: What may run packed, the preferred one first.

    Example::

        packing = Packing(bert, layer_modules(bert))
        with packing.of(batch["attention_mask"]):
            logits = bert(**batch).logits
    """

    def __init__(
        self,
        model: nn.Module,
        layers: list[nn.Module],
        side: Literal["right", "left"] = "right",
        forms: Sequence[Form] = ("layers", "around attention", "linear"),
    ) -> None:
        self._model: Any = model
        self.layers = layers
        self._linear = _linear_within(layers)
        self._attention: list[nn.Module] = []
        self._relative = relative_attentions(model)
        self._side = side
        self._parameters = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
        self._forms = forms
        self._form: Form | None = None
        self._is_tried = False

    @property
    def form(self) -> Form | None:
        """What can run packed: one of the forms, or nothing; found out at first access."""
        if not self._is_tried:
            self._form = next((form for form in self._forms if self._gives_the_same(form)), None)
            self._is_tried = True
        return self._form

    def check(self) -> None:
        """Refuse a model that cannot run packed.

        Raises:
            ModelError: if it is one.
        """
        if self.form is None:
            raise ModelError(
                f"skip_padding: the logits of a {type(self._model).__name__} are others without padding; leave it out"
            )

    @contextmanager
    def of(self, mask: Tensor, always: bool = False) -> Iterator[None]:
        """Context in which the model computes the tokens of a batch alone, or all of it where that is faster.

        Args:
            mask: The batch's attention mask, ``(texts, width)``.
            always: Whether to do so wherever there is padding, whatever it takes.
        """
        batch = self._batch_to_pack(mask, always)
        with ExitStack() as hooks:
            if self._relative and not self._runs_layers_again:
                hooks.enter_context(positions_within(self._relative, mask.shape[1]))
            if batch is not None:
                self._put_hooks(batch, self.form, hooks)
            yield

    def pays(self, mask: Tensor) -> bool:
        """Return whether :meth:`of` leaves out a batch's padding by itself."""
        return self._batch_to_pack(mask, always=False) is not None

    @property
    def _can_run(self) -> bool:
        """Whether the model can run packed as it is now: what it was tried with may have been changed since."""
        if self.form is None or (self.form == "layers" and not self._uses_sdpa):
            return False
        return not self._runs_layers_again

    @property
    def _runs_layers_again(self) -> bool:
        """Whether layers run again in the backward pass, out of the context of the forward pass."""
        return any(getattr(each, "gradient_checkpointing", False) for each in self._model.modules())

    @property
    def _uses_sdpa(self) -> bool:
        return getattr(self._model.config, "_attn_implementation", None) == "sdpa"

    def _batch_to_pack(self, mask: Tensor, always: bool) -> PackedBatch | None:
        # Asked first: whether the model is tried now must not depend on a rank's own batch, since the forward passes of
        # a sharded model wait for all ranks.
        if not self._can_run:
            return None
        tokens = int(mask.count_nonzero())
        if mask.shape[0] == 1 or tokens in (0, mask.numel()):
            return None
        if always:
            return PackedBatch(mask)
        per_layer, per_block, share = _COSTS[self.form or "layers"]
        per_token = 6 * self._parameters / len(self.layers) / _OPERATIONS_PER_SECOND / torch.get_num_threads()
        saved = per_token * (mask.numel() - tokens - share * tokens) - per_layer
        if saved <= 0:
            return None
        batch = PackedBatch(mask)
        # Of forward passes alone, blocks take no longer than attention on the padded batch. Those of a search's trials
        # have to run as that of their step did, for the same dropout masks.
        return batch if saved > per_block * batch.blocks or not self._model.training else None

    def _put_hooks(self, batch: PackedBatch, form: Form | None, hooks: ExitStack) -> None:
        def around(modules: list[nn.Module], enter: Callable[..., Any], leave: Callable[..., Any]) -> None:
            # Inside of all other hooks, which see padded tensors.
            for module in modules:
                hooks.enter_context(module.register_forward_pre_hook(enter, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(leave, prepend=True))

        if form == "layers":
            around(self.layers, batch.enter_layer, batch.leave)
            attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
            ALL_ATTENTION_FUNCTIONS["sdpa"] = by_small_products(partial(batch.attention, attend))
            hooks.callback(ALL_ATTENTION_FUNCTIONS.__setitem__, "sdpa", attend)
        elif form == "around attention":
            around(self.layers, batch.enter_states, batch.leave)
            around(self._attention, batch.enter_padded, batch.leave_padded)
            around(_linear_within(self._attention), batch.enter_linear, batch.leave)
        else:
            around(self._linear, batch.enter_linear, batch.leave)

    def _gives_the_same(self, form: Form) -> bool:
        if not self._linear or (form == "layers" and not self._uses_sdpa):
            return False
        try:
            texts = padded_texts(self._model, _TEXTS, max(_TEXTS), self._side)
            with evaluating(self._model):
                if form == "around attention":
                    self._attention = self._given_masks(texts)
                padded = self._model(**texts).logits
                with ExitStack() as hooks:
                    batch = PackedBatch(texts["attention_mask"])
                    self._put_hooks(batch, form, hooks)
                    found = self._model(**texts).logits
                if not batch.is_used:
                    return False
                return equal_but_for_rounding(padded, found, self._model, lambda: self._model(**texts).logits)
        except Exception as error:
            # What runs padded and not packed has layers of another kind.
            rank_zero_info(f"{type(self._model).__name__}: its {form} do not run without padding: {first_line(error)}")
            return False

    def _given_masks(self, texts: dict[str, Tensor]) -> list[nn.Module]:
        """Return the innermost modules of the layers that get both states and a mask or bias of pairs of tokens."""
        found: set[nn.Module] = set()
        shape = texts["attention_mask"].shape

        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            if any(each.ndim == 4 for each in tensors) and any(is_states(each, shape) for each in tensors):
                found.add(module)

        within = [each for layer in self.layers for each in layer.modules()]
        with ExitStack() as hooks:
            for each in within:
                hooks.enter_context(each.register_forward_pre_hook(note, with_kwargs=True))
            self._model(**texts)
        return [each for each in within if each in found and not found & set(list(each.modules())[1:])]


def _linear_within(modules: list[nn.Module]) -> list[nn.Module]:
    return [each for module in modules for each in module.modules() if isinstance(each, nn.Linear | Conv1D)]
