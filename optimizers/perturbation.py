"""Random perturbations that are drawn again from a seed, and tensors that move along them and back, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from optimizers.shards import flat_part, is_sharded, largest_over_ranks

NoiseDevice = Literal["cpu", "parameter"]

# Numbers drawn at a time. Part of what a seed means: a normal's value depends on the chunk it is drawn in.
_CHUNK = 2**18
# No generator of PyTorch returns a larger normal: Box and Muller's transform of 53 random bits ends at 8.6.
_LARGEST_NORMAL = 9.0
_MASK = 2**64 - 1


def derive_seed(*integers: int) -> int:
    """Return a seed made of integers that identify a draw.

    SplitMix64's finaliser, applied after each integer is added, in Python integers and so the same on every machine.

    Args:
        integers: For example the run's seed, the step, the unit and the candidate.

    Returns:
        A non-negative integer below 2^63.
    """
    state = 0
    for integer in integers:
        state = (state + integer + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def flat_view(tensor: Tensor) -> Tensor:
    """Return a one-dimensional view of all entries of a dense tensor, in memory order.

    Raises:
        ValueError: The tensor has gaps or overlaps in memory.
    """
    if tensor.is_contiguous():
        return tensor.detach().view(-1)
    strides = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    expected = 1
    for stride, size in strides:
        if stride != expected:
            raise ValueError(f"a parameter of shape {tuple(tensor.shape)} and strides {tensor.stride()} is not dense")
        expected *= size
    return tensor.detach().as_strided((tensor.numel(),), (1,))


class Perturbation:
    r"""Tensors that move to :math:`p + r z`, for normal :math:`z` drawn from a seed, and back to :math:`p` exactly.

    The noise is drawn again whenever it is needed and never stored: a seed and the scale :math:`r` stand for it, and
    equal seeds give equal noise on every rank. The way back restores every bit, in one of two ways:

    - Up to `copy_limit` bytes, a copy of the entries that move is kept, and put back.
    - Beyond that, float32 and float64 tensors move in arithmetic without rounding, and no copy is kept: both the
      parameters and :math:`r z` are rounded to multiples of one power of two (docs/gradient_free.md says which). This
      changes a float32 parameter by at most :math:`2^{-24}` times the power of two above the tensor's largest entry,
      and only the first time.

    A copy of tensors of half precision, which have too few bits for that, is kept whatever their size.

    Of a sharded tensor a rank moves its own part. Noise is a function of the whole tensor: each rank draws all of it,
    in pieces, and takes what belongs to its part, so that any number of ranks moves as one does.

    Args:
        tensors: Dense tensors, moved in place.
        indices: For each tensor the positions that move, in memory order, or None for all. The rest is not touched.
        copy_limit: The largest number of bytes of which a copy is kept.
        largest_scale: A bound on :math:`|r|` in all moves to come. Needed without copies only.
        noise_device: Where noise is drawn: `cpu`, the same numbers for any device, or the device of the `parameter`,
            which is faster on accelerators.
        factors: For each tensor what its noise is multiplied by, besides the scale of a move. None: 1.

    Raises:
        ValueError: A tensor is complex or not dense, or is to move without a copy and holds values that are not finite.

    Example::

        perturbation = Perturbation([weight])
        perturbation.move(seed=17, scale=1e-3)
        loss = evaluate()
        perturbation.back()
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        indices: Sequence[Tensor | None] | None = None,
        *,
        copy_limit: int = 2**22,
        largest_scale: float = 0.0,
        noise_device: NoiseDevice = "cpu",
        factors: Sequence[float] | None = None,
    ) -> None:
        chosen = indices if indices is not None else [None] * len(tensors)
        size = sum(
            tensor.element_size() * (tensor.numel() if index is None else index.numel())
            for tensor, index in zip(tensors, chosen, strict=True)
        )
        self._noise_device = noise_device
        self._largest_scale = abs(largest_scale)
        self._position: tuple[int, float] | None = None
        self._movers = []
        for tensor, index, factor in zip(tensors, chosen, factors or [1.0] * len(tensors), strict=True):
            mover = _mover(tensor, index, factor)
            if mover.index is not None:
                mover.base = mover.view[mover.index]
            elif size <= copy_limit or tensor.dtype not in (torch.float32, torch.float64):
                mover.base = mover.view.clone()
            self._movers.append(mover)
        exact = [mover for mover in self._movers if mover.base is None]
        self._is_exact = bool(exact)
        _round_to_multiples(exact, _LARGEST_NORMAL * self._largest_scale, any(map(is_sharded, tensors)))

    def move(self, seed: int, scale: float) -> None:
        """Move the tensors to :math:`p + r z`, `scale` times the noise of `seed`, from wherever they are."""
        self._check_scale(scale)
        if self._is_exact and self._position is not None and self._position[0] != seed:
            self.back()
        before, self._position = self._position, (seed, scale)
        for mover, at, noise in self._noise(seed):
            if mover.base is None and before is not None:
                mover.view[at].sub_(_rounded(noise * before[1], mover.quantum))
            mover.put(mover.view, at, noise, scale)

    def back(self) -> None:
        """Move the tensors back to :math:`p`, bit for bit."""
        if self._position is None:
            return
        (seed, scale), self._position = self._position, None
        for mover in self._movers:
            if mover.base is None:
                continue
            if mover.index is None:
                mover.view.copy_(mover.base)
            else:
                mover.view.index_copy_(0, mover.index, mover.base)
        if self._is_exact:
            for mover, at, noise in self._noise(seed):
                if mover.base is None:
                    mover.view[at].sub_(_rounded(noise * scale, mover.quantum))

    def candidates(self, moves: Sequence[tuple[int, float]]) -> list[Tensor]:
        """Return what the tensors would be after each of several moves; the tensors themselves go back to :math:`p`.

        Args:
            moves: Pairs of seed and scale.

        Returns:
            For each tensor a new one of shape `(moves, entries)`, its entries in memory order.
        """
        self.back()
        stacks = {mover: mover.view.repeat(len(moves), 1) for mover in self._movers}
        for row, (seed, scale) in enumerate(moves):
            self._check_scale(scale)
            for mover, at, noise in self._noise(seed) if scale else ():
                mover.put(stacks[mover][row], at, noise, scale)
        return list(stacks.values())

    def descend(self, seed: int, scales: Sequence[float], decays: Sequence[float]) -> None:
        r"""Move for good, :math:`p ← (1 - λ) p + r z`, in ordinary arithmetic; all entries of the tensors move.

        Args:
            seed: The seed of the noise.
            scales: For each tensor :math:`r`.
            decays: For each tensor :math:`λ`.
        """
        assert all(mover.index is None for mover in self._movers), "some entries alone are to move"
        # Mostly the tensors are displaced along the very noise that they are to descend along: one draw does both.
        displaced = self._position if self._position is not None and self._position[0] == seed else None
        if displaced is None:
            self.back()
        self._position = None
        moves = {mover: pair for mover, *pair in zip(self._movers, scales, decays, strict=True)}
        for mover, at, noise in self._noise(seed):
            scale, decay = moves[mover]
            entries = mover.view[at]
            if mover.base is not None:
                entries.copy_(mover.base[at])
            elif displaced is not None:
                entries.sub_(_rounded(noise * displaced[1], mover.quantum))
            if decay != 0:
                entries.mul_(1 - decay)
            entries.add_(noise, alpha=scale)

    def _noise(self, seed: int) -> Iterator[tuple[_Mover, slice, Tensor]]:
        """Yield, over all entries of all tensors, a tensor, a range of the entries that move, and their noise."""
        generators: dict[torch.device, torch.Generator] = {}
        for mover in self._movers:
            view = mover.view
            device = torch.device("cpu") if self._noise_device == "cpu" else view.device
            if device not in generators:
                generators[device] = torch.Generator(device).manual_seed(seed)
            own = view.numel() if mover.index is None else mover.index.numel()
            for start in range(0, mover.total, _CHUNK):
                stop = min(start + _CHUNK, mover.total)
                # Not of torch's default type, which is bfloat16 while Lightning's bf16-true runs a step.
                noise = torch.empty(stop - start, dtype=torch.float32, device=device)
                noise.normal_(generator=generators[device])
                # What of it belongs to the rank's own part.
                low, high = max(start, mover.first), min(stop, mover.first + own)
                if low >= high:
                    continue
                noise = noise[low - start : high - start]
                if mover.factor != 1:
                    noise *= mover.factor
                yield mover, slice(low - mover.first, high - mover.first), noise.to(view.device, view.dtype)

    def _check_scale(self, scale: float) -> None:
        if self._is_exact and abs(scale) > self._largest_scale:
            raise ValueError(f"scale: {scale} is beyond largest_scale, {self._largest_scale}")


@dataclass(eq=False)
class _Mover:
    """A tensor in motion, or the rank's own part of one.

    Args:
        view: All its entries, flat.
        factor: What its noise is multiplied by.
        total: How many entries of the whole tensor move.
        first: The place of the part's first entry among these.
        index: The positions of the entries that move; None where all do.
        base: A copy of the entries that move; None where no copy is kept.
        quantum: The power of two that all entries are multiples of, where no copy is kept.
    """

    view: Tensor
    factor: float
    total: int
    first: int = 0
    index: Tensor | None = None
    base: Tensor | None = None
    quantum: float = 0.0

    def put(self, target: Tensor, at: slice, noise: Tensor, scale: float) -> None:
        """Put some of the entries that move where scaled noise takes them.

        Args:
            target: What is written to: the tensor, or another one that holds the same where no copy is kept.
            at: A range of the entries that move.
            noise: Their noise.
            scale: What it is multiplied by.
        """
        if self.base is None:
            target[at].add_(_rounded(noise * scale, self.quantum))
        elif self.index is None:
            torch.add(self.base[at], noise, alpha=scale, out=target[at])
        else:
            target.index_copy_(0, self.index[at], torch.add(self.base[at], noise, alpha=scale))


def _mover(tensor: Tensor, index: Tensor | None, factor: float) -> _Mover:
    """Return a mover of a tensor, or of the rank's own part of it; `index` counts in the whole tensor."""
    if tensor.is_complex():
        # Noise is real: only the real part would ever move.
        raise ValueError(f"gradient-free optimizers do not take complex parameters: {tuple(tensor.shape)} in a group")
    if not is_sharded(tensor):
        return _Mover(flat_view(tensor), factor, tensor.numel() if index is None else index.numel(), 0, index)
    part, begin, total = flat_part(tensor)
    if index is None:
        return _Mover(part, factor, total, begin)
    first, stop = torch.searchsorted(index, torch.tensor([begin, begin + part.numel()], device=index.device)).tolist()
    return _Mover(part, factor, index.numel(), first, index[first:stop] - begin)


def _rounded(values: Tensor, quantum: float) -> Tensor:
    # Powers of two: dividing and multiplying by them does not round.
    return values.div_(quantum).round_().mul_(quantum)


def _round_to_multiples(movers: Sequence[_Mover], reach: float, sharded: bool) -> None:
    """Round each tensor to multiples of the smallest power of two that makes sums with numbers up to `reach` exact."""
    if not movers:
        return
    # A part may have no entries.
    norms = [
        torch.linalg.vector_norm(mover.view, math.inf) if mover.view.numel() else mover.view.new_zeros(())
        for mover in movers
    ]
    largest_of = torch.stack([norm.double().cpu() for norm in norms])
    if sharded:
        largest_of = largest_over_ranks(largest_of.to(movers[0].view.device)).cpu()
    for mover, largest in zip(movers, largest_of.tolist(), strict=True):
        view, bound = mover.view, largest + reach * abs(mover.factor)
        if not math.isfinite(bound):
            raise ValueError(f"a parameter of shape {tuple(mover.view.shape)} holds values that are not finite")
        digits = 24 if view.dtype == torch.float32 else 53
        mover.quantum = max(2.0 ** (math.frexp(bound)[1] - digits), torch.finfo(view.dtype).tiny)
        for start in range(0, view.numel(), _CHUNK):
            # Adding zero makes a positive zero of a negative one, which would not survive going there and back.
            _rounded(view[start : start + _CHUNK], mover.quantum).add_(0.0)
