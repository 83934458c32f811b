"""The loss of an optimizer step as callables: ``closure`` with gradients, ``evaluate`` without."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.batches.batch_rows import count_examples
from lightning_modules.batches.copied_batch import copied, tensor_versions
from lightning_modules.errors import ModelError
from lightning_modules.steps.empty_means import without_gradient_of_empty_mean
from optimizers import candidate_losses
from optimizers.finite_steps import all_finite
from optimizers.other_generators import GeneratorAccess
from optimizers.random_state import ReplayedDraws
from optimizers.replayed import BufferPlace, ReplayedBuffers


class _Part(NamedTuple):
    """A micro-batch of a step.

    Args:
        batch: The micro-batch.
        weight: Its share in the loss of the step.
        is_empty: Whether its loss is a mean over no terms; None where that is not known.
    """

    batch: Any
    weight: float | Tensor
    is_empty: bool | None


class StepClosures:
    r"""The loss of one optimizer step, with and without gradients, on the same batch with the same random numbers.

    A step is about micro-batches :math:`b_1 … b_m` with :math:`n_1 … n_m` examples (or whatever else the loss is a mean
    over) on each of the ranks. Its loss is the mean over all of them,

    .. math:: L(θ) = \sum_r \sum_i \frac{n_{r,i}}{\sum_{s,j} n_{s,j}} \, \ell(θ; b_{r,i})

    where :math:`\ell` is the mean over a micro-batch. :meth:`closure` leaves its gradient in ``.grad``;
    :meth:`evaluate` computes only the value, at the present parameters. Both have the same dropout masks, and a step
    advances the random generators and changes buffers (running statistics) exactly once, however often they are called.

    Args:
        compute_loss: Mean loss of one micro-batch, a float32 scalar, attached to the graph when gradients are enabled.
        batches: The micro-batches, as ``compute_loss`` takes them.
        zero_grad: Clears the gradients.
        backward: Accumulates the gradient of its argument; a gradient scaler may scale in here.
        device: Where the model is; its generator is replayed beside the CPU's.
        mean_over_ranks: Averages a tensor over the ranks of a distributed run. Default: one rank.
        without_gradient_sync: Context in which all backward passes but the last keep gradients local. Default: none.
        module: The module that ``compute_loss`` uses, for :meth:`evaluate_many`.
        mean_over: How many terms a micro-batch's loss is a mean over, :math:`n`, or the sum of their weights. Default:
            its examples. A micro-batch of no terms counts for nothing; a step of none has the loss NaN.
        always_has_terms: Whether ``mean_over`` is above 0 for any batch, which is not asked where it is on a device.
        sum_over_ranks: Sums a tensor over the ranks, whose :math:`n` may differ. Default: one rank.
        parameters: Those whose gradients :attr:`finite` is about.
        buffers: What forward passes may change in the module. Default: nothing.
        generators: Random number generators that the module holds. Default: none.
        after_evaluation: Called when the loss has been evaluated, before parameters may move. Default: nothing to do.
        computation: Context that each computation of the loss runs in, besides those of this class. Default: none.

    Attributes:
        batches: The micro-batches.
        num_examples: Number of examples in all micro-batches; of terms where a batch is an object that only
            ``mean_over`` knows.
        finite: 0-dim bool tensor, filled in by :meth:`closure`: whether loss and gradients are finite on all ranks.
        loss: 0-dim float32 tensor, filled in by :meth:`closure`. A gradient scaler runs the closure itself and calls
            ``optimizer.step`` without it; the optimizer then reads the loss that the gradients belong to from here.

    Example::

        step = StepClosures(loss_of, [batch], zero_grad=optimizer.zero_grad, backward=torch.Tensor.backward)
        optimizer.step(step.closure, evaluate=step.evaluate)
    """

    def __init__(
        self,
        compute_loss: Callable[[Any], Tensor],
        batches: Sequence[Any],
        *,
        zero_grad: Callable[[], None],
        backward: Callable[[Tensor], None],
        device: torch.device | str = "cpu",
        mean_over_ranks: Callable[[Tensor], Tensor] = lambda loss: loss,
        without_gradient_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
        module: nn.Module | None = None,
        mean_over: Callable[[Any], float | Tensor] | None = None,
        always_has_terms: bool = False,
        sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
        parameters: Sequence[Tensor] = (),
        buffers: Sequence[BufferPlace] = (),
        generators: Sequence[GeneratorAccess] = (),
        after_evaluation: Callable[[], None] = lambda: None,
        computation: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._compute_loss = compute_loss
        self.batches = batches
        self._device = torch.device(device)
        terms = [(mean_over or count_examples)(batch) for batch in batches]
        self.num_examples = _number_of_examples(batches, terms)
        # Weights on a device are not asked: that would stall it.
        if not all(isinstance(term, Tensor) or term >= 0 for term in terms):
            raise ModelError(f"mean_over: a loss is a mean over {min(terms):g} terms; at least 0 is needed")
        self._among_ranks = sum_over_ranks is not None
        weights = _shares(terms) if sum_over_ranks is None else self._shares_among_ranks(terms, sum_over_ranks)
        parts = [_Part(*each) for each in zip(batches, weights, map(_is_zero, terms), strict=True)]
        # The gradient of a mean over no terms is NaN, even times 0. A rank makes as many passes as the others.
        self._parts = parts if self._among_ranks else [part for part in parts if not _is_zero(part.weight)]
        self._watches_empty = not always_has_terms and (self._among_ranks or len(self._parts) > 1)
        self._zero_grad = zero_grad
        self._backward = backward
        self._mean_over_ranks = mean_over_ranks
        self._without_gradient_sync = without_gradient_sync
        self._after_evaluation = after_evaluation
        self._context = computation
        self._module = module
        self._losses_of_candidates: list[Callable[..., Tensor]] | None = None
        self._versions = tensor_versions(batches)
        self._draws = ReplayedDraws([self._device], generators)
        self._buffers = ReplayedBuffers(buffers)
        self._parameters = parameters
        self.finite = torch.ones((), dtype=torch.bool, device=self._device)
        self.loss = torch.zeros((), dtype=torch.float32, device=self._device)

    def _shares_among_ranks(
        self, terms: Sequence[float | Tensor], sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Return each micro-batch's share of the loss, times the number of ranks: losses and gradients are averaged."""
        own = torch.stack([torch.as_tensor(term, dtype=torch.float32, device=self._device) for term in terms])
        total, ranks = sum_over_ranks(torch.stack([own.sum(), torch.ones_like(own[0])])).unbind()
        return list((own * ranks / total).unbind())

    def closure(self) -> Tensor:
        """Clear the gradients, compute the loss, run backward and return the loss."""
        self._check_batches()
        with self._computation(), torch.enable_grad():
            self._zero_grad()
            total = torch.zeros((), dtype=torch.float32, device=self._device)
            for part in self._parts:
                is_last = part is self._parts[-1]
                with nullcontext() if is_last else self._without_gradient_sync(), self._checked_share(part):
                    loss = _share(_fresh_loss(self._compute_loss, part.batch), part.weight)
                    if not isinstance(loss, Tensor) or not loss.requires_grad:
                        raise ModelError(
                            "compute_loss returned a loss without a gradient: it is a number, was detached, or uses no "
                            "parameter that is trained"
                        )
                    self._backward(loss)
                total += loss.detach()
            self._take_in(total)
        return self.loss.clone()

    def _checked_share(self, part: _Part) -> AbstractContextManager[None]:
        """Return the context of a micro-batch's passes, which keeps the gradient of a mean over no terms out."""
        may_be_empty = self._watches_empty and part.is_empty is not False
        if not may_be_empty or not isinstance(part.weight, Tensor) or self._module is None:
            return nullcontext()
        return without_gradient_of_empty_mean(part.weight, self._module)

    def _take_in(self, own_loss: Tensor) -> None:
        """Fill in the loss, and whether it and the gradients are finite, for all ranks by one collective."""
        finite = all_finite(own_loss, [p.grad for p in self._parameters if p.grad is not None])
        if not self._among_ranks:
            self.loss.copy_(self._mean_over_ranks(own_loss))
            self.finite.copy_(finite)
            return
        loss, not_finite = self._mean_over_ranks(torch.stack([own_loss, (~finite).to(own_loss)])).unbind()
        self.loss.copy_(loss)
        self.finite.copy_(not_finite == 0)

    def evaluate(self) -> Tensor:
        """Return the loss at the present parameters, under ``no_grad``."""
        with torch.no_grad():
            return self.loss_alone()

    def loss_alone(self) -> Tensor:
        """Return the loss at the present parameters, attached to the graph where gradients are enabled."""
        self._check_batches()
        with self._computation():
            total = torch.zeros((), dtype=torch.float32, device=self._device)
            for part in self._parts:
                total += _share(_fresh_loss(self._compute_loss, part.batch), part.weight)
            self._after_evaluation()
            return self._mean_over_ranks(total)

    def evaluate_many(self, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
        """Return the losses of several candidates, under ``no_grad``.

        Args:
            parameters: Parameters of the module.
            values: For each of them a tensor with the candidates' values, the candidates in the first dimension.

        Returns:
            One loss per candidate, as :meth:`evaluate` would compute it with that candidate in place.
        """
        assert self._module is not None
        self._check_batches()
        if self._losses_of_candidates is None:
            self._losses_of_candidates = [
                # Not a method of this object: the two would hold one another, and the batches with them.
                candidate_losses(self._module, partial(_fresh_loss, self._compute_loss, part.batch))
                for part in self._parts
            ]
        with self._computation():
            totals = torch.zeros(len(values[0]), dtype=torch.float32, device=self._device)
            for losses, part in zip(self._losses_of_candidates, self._parts, strict=True):
                totals += _share(losses(parameters, values), part.weight)
            return self._mean_over_ranks(totals)

    @contextmanager
    def _computation(self) -> Iterator[None]:
        with self._draws.replayed(), self._buffers.replayed(), self._context():
            yield

    def _check_batches(self) -> None:
        """Check that no computation of the loss has changed the batches that the next one is about."""
        if tensor_versions(self.batches) != self._versions:
            raise ModelError(
                "compute_loss changes its batch in place, which it may get again in the same step; let it work on a "
                "copy, or change the batch in prepare_batch, which runs once per step"
            )


def _number_of_examples(batches: Sequence[Any], terms: Sequence[float | Tensor]) -> float | Tensor:
    try:
        return sum(map(count_examples, batches))
    except ModelError:
        return sum(terms)


def _shares(terms: Sequence[float | Tensor]) -> list[float | Tensor]:
    total = sum(terms)
    return [math.nan if isinstance(total, Real) and total == 0 else term / total for term in terms]


def _is_zero(number: float | Tensor) -> bool | None:
    """Return whether a number is 0; None for one on a device, which would have to be waited for."""
    return None if isinstance(number, Tensor) and number.device.type != "cpu" else bool(number == 0)


def _share(loss: Tensor, weight: float | Tensor) -> Tensor:
    """Return what a loss adds to that of the step: 0 without a weight, since a mean over no terms is NaN."""
    share = loss * weight
    if isinstance(weight, Tensor):
        return torch.where((weight == 0).to(share.device), 0.0, share)
    return share


def _fresh_loss(compute_loss: Callable[[Any], Tensor], batch: Any) -> Tensor:
    # Inside one autocast context PyTorch keeps low-precision copies of the weights; between trials those are stale.
    torch.clear_autocast_cache()
    try:
        return checked_loss(compute_loss(copied(batch)))
    except RuntimeError as error:
        if torch.is_grad_enabled() or "does not require grad" not in str(error):
            raise
        raise ModelError(
            "compute_loss takes a gradient itself, and trials and evaluations are computed without gradients; let it "
            "take its gradient within torch.enable_grad()"
        ) from error


def checked_loss(loss: Any) -> Tensor:
    """Return what a module's ``compute_loss`` has returned.

    Args:
        loss: A tensor without dimensions; a number is enough for an optimizer without gradients.

    Raises:
        ModelError: if it is something else.
    """
    if isinstance(loss, Real) or (isinstance(loss, Tensor) and not loss.ndim and not loss.is_complex()):
        return loss  # type: ignore[return-value]
    given = type(loss).__name__
    if isinstance(loss, Tensor):
        given = "complex numbers" if loss.is_complex() else f"a tensor of shape {tuple(loss.shape)}"
    raise ModelError(f"compute_loss has to return the mean loss, a real tensor without dimensions; got {given}")
