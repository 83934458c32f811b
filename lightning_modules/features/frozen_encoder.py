"""The output of a frozen encoder, computed once per batch however often the batch is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from lightning_modules.batches.batch_rows import Batch
from lightning_modules.batches.copied_batch import tensor_versions
from lightning_modules.models.trainable_parts import frozen_modules
from optimizers.perturbation import Perturbation
from optimizers.replaced_attribute import replaced_attribute

# Rows of a batch that are enough to see which modules' outputs depend on trainable parameters.
_PROBE_ROWS = 2


class Features:
    """The outputs of a model's constant modules for one batch.

    The first forward pass inside :meth:`reused` computes them, every later one gets them as they are.

    Args:
        modules: The constant modules.
        outputs: Their outputs, where they are known already.

    Example::

        features = encoder.features(batch)
        with features.reused():
            model(**batch)  # runs the encoder
        with features.reused():
            model(**batch)  # runs the head alone
    """

    def __init__(self, modules: list[nn.Module], outputs: dict[nn.Module, Any] | None = None) -> None:
        self._modules = modules
        # With the versions of the tensors in them: an operation in place further up would change what is kept.
        self._outputs = {module: (output, tensor_versions(output)) for module, output in (outputs or {}).items()}

    @contextmanager
    def reused(self) -> Iterator[None]:
        """Context in which the constant modules return their known outputs in place of computing them."""
        # torch has no hook that can stand in for a forward pass, so the instances' own `forward` does for a while.
        with ExitStack() as replaced:
            for module in self._modules:
                forward = self._stored_or_computed(module, module.forward)
                replaced.enter_context(replaced_attribute(module, "forward", forward))
            yield

    def _stored_or_computed(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def stored_or_computed(*args: Any, **kwargs: Any) -> Any:
            if module in self._outputs:
                output, versions = self._outputs[module]
                if tensor_versions(output) == versions:
                    return output
            output = forward(*args, **kwargs)
            self._outputs[module] = (output, tensor_versions(output))
            return output

        # A compiled model would be compiled anew for what is stored; the forward passes in it stay compiled.
        return torch.compiler.disable(stored_or_computed, recursive=False)


class FrozenEncoder:
    """The frozen part of a model, below all trainable parameters.

    A constant module is one without trainable parameters, in eval mode throughout, that runs once per forward pass and
    whose output no trainable parameter influences: a frozen encoder under a head that trains. Its output is exactly the
    same whenever a batch is evaluated again, in a closure or in a trial. Which modules these are is found out by
    running a few rows twice, before and after a shift of all trainable parameters, and found out anew whenever the
    trainable parameters or the modules in eval mode have changed.

    Args:
        model: The model.
        forward: Runs it on a batch.

    Example::

        encoder = FrozenEncoder(model, lambda batch: model(**batch))
        features = encoder.features(batch)
        with features.reused():
            loss_of(model(**batch))
    """

    def __init__(self, model: nn.Module, forward: Callable[[Batch], Any]) -> None:
        self._model = model
        self._forward = forward
        # By which parameters train and which modules are in eval mode: validation changes the latter to and fro.
        self._constant: dict[tuple[bool, ...], list[nn.Module]] = {}

    def constant_modules(self, batch: Batch) -> list[nn.Module]:
        """Return the largest modules whose outputs no trainable parameter influences.

        Args:
            batch: Any batch; a few of its rows are run where the answer is not known yet.
        """
        trains = [parameter.requires_grad for parameter in self._model.parameters()]
        if all(trains):  # as in most runs; every step asks
            return []
        signature = (*trains, *(module.training for module in self._model.modules()))
        if signature not in self._constant:
            self._constant[signature] = _find_constant_modules(self._model, self._forward, batch)
        return self._constant[signature]

    def features(self, batch: Batch) -> Features:
        """Return the features of a batch, which the next forward pass computes."""
        return Features(self.constant_modules(batch))


@torch.no_grad()
def _find_constant_modules(model: nn.Module, forward: Callable[[Batch], Any], batch: Batch) -> list[nn.Module]:
    candidates = [
        module
        for frozen in frozen_modules(model)
        for module in _called(frozen)
        if not any(each.training for each in module.modules())
    ]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not candidates or not trainable:
        return []
    rows = {name: tensor[:_PROBE_ROWS] for name, tensor in batch.items()}
    # The first forward pass of all may try what the model allows (packing.py), and calls modules more than once.
    outputs_of(candidates, forward, rows)
    before = outputs_of(candidates, forward, rows)
    perturbation = Perturbation(trainable, copy_limit=2**62)
    try:
        perturbation.move(seed=0, scale=0.1)
        after = outputs_of(candidates, forward, rows)
    finally:
        perturbation.back()
    return [module for module in candidates if _equal(before.get(module, []), after.get(module, []))]


def _called(module: nn.Module) -> list[nn.Module]:
    """Return the module, or its children where it is a container that is never called itself."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return [called for child in module.children() for called in _called(child)]
    return [module]


@torch.no_grad()
def outputs_of(modules: list[nn.Module], forward: Callable[[Batch], Any], batch: Batch) -> dict[nn.Module, list[Any]]:
    """Return copies of what modules return in a forward pass, one per call, in the order in which calls end.

    Args:
        modules: The modules; one that is not called has no entry.
        forward: Runs the model that they are in.
        batch: What it runs on.
    """
    outputs: dict[nn.Module, list[Any]] = {}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        outputs.setdefault(module, []).append(tree_map_only(Tensor, Tensor.clone, output))

    device = next(modules[0].parameters()).device
    # Dropout in the head draws from the global generators; looking is not to change what training draws.
    with torch.random.fork_rng([device] if device.type == "cuda" else []), ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(record))
        forward(batch)
    return outputs


def _equal(one: list[Any], other: list[Any]) -> bool:
    """Return whether a module was called once in each of two forward passes, and returned the same tensors."""
    if not len(one) == len(other) == 1:
        return False
    first, second = (
        [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)] for output in (one[0], other[0])
    )
    return len(first) == len(second) > 0 and all(map(torch.equal, first, second))
