"""Losses of several candidates at once, by vectorising a loss over values of a module's parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from optimizers.other_generators import generators_within
from optimizers.random_state import ReplayedDraws

# Rows with this label do not count: the default of torch's ignore_index.
_NO_LABEL = -100

# Modules that vmap has refused to run: their candidates are computed one at a time from then on.
_NOT_VECTORISED: WeakSet[nn.Module] = WeakSet()


class _StackedLinear(torch.autograd.Function):
    """`F.linear`, vectorised over weights by one product with all of them side by side.

    vmap's own rule repeats the input once per weight, at many times the cost of the product.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        x_dim, weight_dim, bias_dim = in_dims
        if weight_dim is None:
            y, dim = F.linear(x if x_dim is None else x.movedim(x_dim, 0), weight), 0
            if x_dim is None:
                y = y.unsqueeze(0)
        elif x_dim is None:
            weights = weight.movedim(weight_dim, 0)
            y = F.linear(x, weights.flatten(0, 1)).unflatten(-1, weights.shape[:2])
            dim = y.ndim - 2
        else:
            weights = weight.movedim(weight_dim, 0).mT
            y, dim = x.movedim(x_dim, 0), 0
            y = y @ weights.reshape(len(weights), *[1] * (y.ndim - 3), *weights.shape[1:])
        if bias is None:
            return y, dim
        if bias_dim is None:
            return y + bias, dim
        biases = bias.movedim(bias_dim, 0)
        return y + (biases if dim else biases.reshape(len(biases), *[1] * (y.ndim - 2), -1)), dim


class _StackedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits of shape `(rows, classes)`, vectorised with the candidates in the last dimension.

    vmap's own rule leaves the classes there, and where they are few, a softmax over the last dimension takes many times
    as long.
    """

    @staticmethod
    def forward(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], logits: Tensor, labels: Tensor
    ) -> tuple[Tensor, int | None]:
        logits_dim, labels_dim = in_dims
        shape = (-1, -1, info.batch_size)
        logits = logits.unsqueeze(-1).expand(shape) if logits_dim is None else logits.movedim(logits_dim, -1)
        labels = labels.unsqueeze(-1).expand(shape[1:]) if labels_dim is None else labels.movedim(labels_dim, -1)
        losses = F.cross_entropy(logits, labels, reduction="none")
        return losses.sum(0) / (labels != _NO_LABEL).sum(0), 0


class _Stacked(TorchFunctionMode):
    """A mode in which linear maps and cross-entropies are computed by the functions above."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear:
            return _StackedLinear.apply(*_linear_arguments(*args, **(kwargs or {})))
        if func is F.cross_entropy and _is_plain_cross_entropy(*args, **(kwargs or {})):
            return _StackedCrossEntropy.apply(*args[:2])
        if func is Tensor.requires_grad_:
            # Gradient checkpointing in transformers calls it on embeddings; vmap refuses it, and no gradient is taken.
            return args[0]
        return func(*args, **(kwargs or {}))


def _linear_arguments(
    input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


def _is_plain_cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = _NO_LABEL, **settings: Any
) -> bool:
    mean = settings == {"size_average": None, "reduce": None, "reduction": "mean", "label_smoothing": 0.0}
    return mean and weight is None and ignore_index == _NO_LABEL and logits.ndim == 2 and not labels.is_floating_point()


class _Loss(nn.Module):
    """A module whose forward pass computes a loss that uses another module; the parameters are that module's."""

    def __init__(self, module: nn.Module, loss: Callable[[], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.loss = loss

    def forward(self) -> Tensor:
        return self.loss()


def candidate_losses(
    module: nn.Module, loss: Callable[[], Tensor], chunk_size: int | None = None
) -> Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]:
    """Return the `evaluate_many` of :meth:`optimizers.GLD.step`, made from a loss.

    The loss is computed once, with `torch.func.vmap` over the candidates: what does not depend on the
    parameters that change is computed once for all of them. Random numbers (dropout masks) are the same for all
    candidates. A compiled module runs uncompiled here.

    Where vmap refuses the module (autograd functions without a rule for it, batch norm that trains, values read in
    Python), the candidates are computed one at a time, with the same random numbers; a warning says so once per module.

    Args:
        module: The module that the loss uses. Its training mode stays as it is.
        loss: Computes a scalar loss with `module`.
        chunk_size: How many candidates to compute at a time. None: all.

    Returns:
        A function of some of the module's parameters and of as many tensors that take their place, each with a
        dimension of candidates in front; it returns the candidates' losses, a vector.

    Raises:
        ValueError: From the returned function: a tensor is no parameter of the module.

    Example::

        losses = candidate_losses(model, lambda: loss_function(model(inputs), targets))
        optimizer.step(evaluate=evaluate, evaluate_many=losses)
    """
    wrapped = _Loss(module, loss)
    # All names of a tied parameter, so that functional_call need not look for ties in every call.
    names: dict[Tensor, list[str]] = {}
    for name, parameter in wrapped.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)

    def evaluate_many(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
        unknown = [tuple(parameter.shape) for parameter in parameters if parameter not in names]
        if unknown:
            raise ValueError(f"a tensor of shape {unknown[0]} is no parameter of the {type(module).__name__}")

        def loss_at(*candidate: Tensor) -> Tensor:
            placed = {name: value for p, value in zip(parameters, candidate, strict=True) for name in names[p]}
            return functional_call(wrapped, placed, (), tie_weights=False)

        draws = ReplayedDraws((value.device for value in values), generators_within(module.modules()))
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            if module not in _NOT_VECTORISED:
                try:
                    with draws.replayed(), _Stacked():
                        torch.clear_autocast_cache()
                        return torch.vmap(loss_at, randomness="same", chunk_size=chunk_size)(*values)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # one of the loss itself comes again below
                    refusal = str(error).strip().partition("\n")[0]
            losses = []
            for candidate in zip(*values, strict=True):
                with draws.replayed():
                    losses.append(torch.as_tensor(loss_at(*candidate), device=values[0].device))
        if module not in _NOT_VECTORISED:
            _NOT_VECTORISED.add(module)
            name = type(module).__name__
            warnings.warn(f"{name}: candidates are computed one at a time, as vmap refuses: {refusal}", stacklevel=2)
        return torch.stack(losses)

    return evaluate_many
