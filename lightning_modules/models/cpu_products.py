"""Products of float32 matrices by the faster of two libraries, on a CPU for which torch takes the slow one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_modules.trainer.trainer_callbacks import move_to_front

Attend = Callable[..., tuple[Tensor, Any]]

# The precisions of oneDNN and of CUDA that "medium" sets, and "highest".
_SWITCHED, _SMALL = ("bf16", "tf32"), ("ieee", "ieee")


class CpuProducts(Callback):
    """Switches products of float32 matrices to oneDNN for the length of a run; :class:`ClosureModule` adds it.

    torch 2.13 takes MKL for them, which leaves AVX-512 unused on AMD's processors: oneDNN is about twice as fast there.
    torch's one switch between the two, ``set_float32_matmul_precision("medium")``, also lets oneDNN round to bfloat16
    where the processor has instructions for such products (AMX). There nothing is changed, and nothing on other
    devices: results are float32's. A precision that the user has set stays, whether before the run or in it, and
    torch's own comes back after the last of the runs that go on at the same time.

    The many small products of attention take longer by oneDNN, several times as long in torch's kernel for attention
    without dropout: transformers' attention stays with MKL, see :func:`by_small_products`.
    """

    runs_switched = 0  # in this process, whose threads share the setting
    _lock = threading.Lock()
    _is_small = False  # within the backward pass of attention, which an interrupt may end
    # transformers' function for attention, and what stands in its place in a run.
    _attention: ClassVar[tuple[Attend, Attend] | None] = None

    def __init__(self) -> None:
        self._is_on = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        move_to_front(self, trainer)
        if trainer.strategy.root_device.type == "cpu":
            self._switch()

    def _switch(self) -> None:
        with self._lock:
            if self._is_on or not (_is_switched() or (_is_torchs_own() and onednn_is_faster())):
                return
            self._is_on = True
            CpuProducts.runs_switched += 1
            if CpuProducts.runs_switched > 1:
                return
            torch.set_float32_matmul_precision("medium")
            functions = _attention_functions()
            if "sdpa" in functions:
                CpuProducts._attention = functions["sdpa"], by_small_products(functions["sdpa"])
                functions["sdpa"] = CpuProducts._attention[1]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._put_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._put_back()

    def _put_back(self) -> None:
        with self._lock:
            if self._is_on and CpuProducts.runs_switched == 1:
                if _is_switched() or (CpuProducts._is_small and _precisions() == _SMALL):
                    put_torchs_own_back()
                CpuProducts._is_small = False
                own, CpuProducts._attention = CpuProducts._attention, None
                functions = _attention_functions()
                if own is not None and functions["sdpa"] is own[1]:
                    functions["sdpa"] = own[0]
            CpuProducts.runs_switched -= self._is_on
            self._is_on = False


@contextmanager
def products_of_a_run() -> Iterator[None]:
    """Context in which a program without a Trainer multiplies matrices on a CPU as a run does there."""
    products = CpuProducts()
    products._switch()
    try:
        yield
    finally:
        products._put_back()


@contextmanager
def small_products() -> Iterator[None]:
    """Context for many small products, which take longer by oneDNN: as torch would compute them without the switch."""
    if not _is_switched():
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("medium")


def by_small_products(attend: Attend) -> Attend:
    """Return an attention function of transformers whose products, and those of its gradients, are small ones."""

    def run(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling() or not _is_switched():
            return attend(module, query, key, value, mask, **options)
        has_backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
        if has_backward:
            query, key, value = _BackwardWith.apply("medium", query, key, value)
        with small_products():
            output, weights = attend(module, query, key, value, mask, **options)
        # Which a backward pass comes to first.
        return (_BackwardWith.apply("highest", output)[0] if has_backward else output), weights

    return run


class _BackwardWith(torch.autograd.Function):
    """Returns tensors as they are; a backward pass goes on from here with a precision of products."""

    @staticmethod
    def forward(ctx: Any, precision: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.precision = precision
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Unless the user has set another one since.
        if CpuProducts.runs_switched and _precisions() in (_SWITCHED, _SMALL):
            torch.set_float32_matmul_precision(ctx.precision)
            CpuProducts._is_small = ctx.precision == "highest"
        return (None, *gradients)


@cache
def onednn_is_faster() -> bool:
    """Return whether oneDNN multiplies float32 matrices faster than MKL on this processor, and as exactly.

    By what the processor is, and not by the clock: a run that goes on has to go on with the same library. Nobody may
    have set a precision before.
    """
    processor = _processor()
    is_known = "AuthenticAMD" in processor and "amx_" not in processor
    if not is_known or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    return _onednn_is_exact()


def _onednn_is_exact() -> bool:
    """Return whether products of oneDNN are as exact as MKL's, rather than rounded to bfloat16."""
    generator = torch.Generator().manual_seed(0)
    rows, weights = (torch.randn(128, 512, generator=generator) for _ in range(2))
    exact = rows.double() @ weights.double().T
    usual = nn.functional.linear(rows, weights) - exact
    torch.set_float32_matmul_precision("medium")
    try:
        switched = nn.functional.linear(rows, weights) - exact
    finally:
        put_torchs_own_back()
    return bool(switched.abs().max() <= 4 * usual.abs().max())


def _attention_functions() -> MutableMapping[str, Any]:
    """Return transformers' attention functions by name; an empty dict where no model of it is imported."""
    return getattr(sys.modules.get("transformers.modeling_utils"), "ALL_ATTENTION_FUNCTIONS", {})


def _is_torchs_own() -> bool:
    """Return whether no precision has been set, in torch's older way (of all libraries) or its newer one (of each)."""
    return _precisions() == ("none", "none")


def _is_switched() -> bool:
    """Return whether the present setting is that of a run, and no other has been set since."""
    return CpuProducts.runs_switched > 0 and _precisions() == _SWITCHED


def _precisions() -> tuple[str, str]:
    """Return the precisions of oneDNN and of CUDA.

    The older way sets both; to ask in the older way is an error once one was set in the newer way (torch 2.13).
    """
    libraries: tuple[Any, Any] = torch.backends.mkldnn, torch.backends.cuda
    onednn, cuda = (str(library.matmul.fp32_precision) for library in libraries)
    return onednn, cuda


def put_torchs_own_back() -> None:
    """Set the precision of products back to what it is before anybody sets one."""
    torch.set_float32_matmul_precision("highest")
    library: Any
    for library in (torch.backends.mkldnn, torch.backends.cuda):
        library.matmul.fp32_precision = "none"


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
